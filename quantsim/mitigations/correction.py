"""Bias correction: what quantization adds to the mean of each output is taken off again."""

import jax.numpy as jnp

from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.mitigations.stored import BITS_OF_A_SINGLE
from quantsim.outputs.products import product
from quantsim.quantizer.face import AbstractQuantizer


@mitigation()
def bias_correction(layer: Layer, q: AbstractQuantizer) -> Mitigated:
    """Outputs x Ŵᵀ - E[x] (Ŵ - W)ᵀ: the mean error over the calibration inputs is zero for each output.

    It cannot help where inputs have mean zero. The bias is charged 32 bits an output, though many layers have one
    that it can be added to.

    Args:
        layer: weights (out, in) and calibration inputs (tokens, in), whose mean is E[x].
        q: quantizer of the weights.

    Source: Nagel et al., arXiv:1906.04721, section 4.2.
    """
    weights = q.roundtrip(layer.weights)
    mean = jnp.mean(layer.inputs, axis=0, keepdims=True)
    bias = product(mean, layer.weights - weights)[0]
    return Mitigated(weights, jnp.float32(BITS_OF_A_SINGLE * bias.size), bias=bias)
