"""LLM.int8(): input channels with outliers take part in 16 bits, all others quantized."""

import jax.numpy as jnp

from quantsim._types import Number
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.mitigations.stored import BITS_OF_A_HALF, half, index_bits
from quantsim.quantizer.face import AbstractQuantizer

OUTLIER_WEIGHTS = ("float16", "dequantized")


@mitigation(weights=OUTLIER_WEIGHTS, threshold=(0, float("inf")))
def llm_int8(layer: Layer, q: AbstractQuantizer, *, threshold: Number = 6.0, weights: str = "float16") -> Mitigated:
    """Inputs j with ``max |x_j| >= threshold`` stay apart in float16: ``y = x_O w_Oᵀ + Q(x_rest) Q(w_rest)ᵀ``.

    With threshold 0 all is float16, with inf all is quantized. Which inputs are apart is found once, from the
    calibration inputs. Weights in float16 are charged 16 bits each, on top of the codes of the whole matrix, and
    either way the indices of the columns are.

    Args:
        layer: weights (out, in) and calibration inputs (tokens, in).
        q: quantizer of the weights.
        threshold: in units of the inputs.
        weights: of the inputs that are apart: "float16", quantized apart from the rest, which sees zeros in their
            place; or "dequantized", from codes of the whole matrix, as libraries do that keep no other weights.

    Raises:
        ValueError: for a negative threshold, or other words.

    Source: Dettmers et al., arXiv:2208.07339, equation 8.
    """
    apart = jnp.max(jnp.abs(layer.inputs), axis=0) >= threshold
    count = jnp.sum(apart, dtype=jnp.float32)
    bits = index_bits(apart)
    if weights == "dequantized":
        used = q.roundtrip(layer.weights)
    else:
        rest = q.roundtrip(jnp.where(apart[None], 0.0, layer.weights))
        used = jnp.where(apart[None], half(layer.weights), rest)
        bits = bits + BITS_OF_A_HALF * layer.weights.shape[0] * count
    return Mitigated(used, bits, apart=apart, found={"columns": count})
