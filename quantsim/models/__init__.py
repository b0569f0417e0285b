"""Networks as pure functions over parameters: a language model that is trained here, its text, its training.

A module is imported by its own name; nothing here knows of quantization.
"""
