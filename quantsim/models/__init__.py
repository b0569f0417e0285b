"""Language models as pure functions over flat dicts of parameters, with no word of quantization in them."""
