"""Models as pure functions of flat dictionaries of arrays, named as checkpoints name them; no word of quantization."""
