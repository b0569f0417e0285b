"""Networks as pure functions over parameters: a language model and a diffusion UNet that are trained here, and Gemma 3.

A module is imported by its own name; nothing here knows of quantization.
"""
