"""Networks as pure functions over parameters: a language model that is trained here, Gemma 3, their text and training.

A module is imported by its own name; nothing here knows of quantization.
"""
