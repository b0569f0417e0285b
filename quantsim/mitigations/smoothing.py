"""SmoothQuant: outliers of the activations are moved into the weights, channel by channel."""

import jax.numpy as jnp

from quantsim._types import Number
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.quantizer.face import AbstractQuantizer

BITS_OF_A_SCALE = 16


@mitigation(alpha=(0, 1))
def smoothquant(layer: Layer, q: AbstractQuantizer, *, alpha: Number = 0.5) -> Mitigated:
    """Inputs over s, weights times s, with ``s_j = max |x_j|^alpha / max |w_j|^(1 - alpha)`` for each input channel j.

    Without quantization nothing changes, as (x / s) (w s)ᵀ = x wᵀ. At alpha = 1/2 both sides have the same maximum
    in each channel, sqrt(max |x_j| max |w_j|). A channel without inputs or without weights keeps s = 1. The scales are
    charged 16 bits each, though a layer in front can often absorb them.

    Args:
        layer: weights (out, in) and calibration inputs (tokens, in).
        q: quantizer of the weights.
        alpha: how much of the range moves from the inputs to the weights, within [0, 1].

    Raises:
        ValueError: for an alpha outside [0, 1].

    Source: Xiao et al., arXiv:2211.10438, equation 4.
    """
    of_x, of_w = (jnp.max(jnp.abs(a), axis=0) for a in (layer.inputs, layer.weights))
    dead = (of_x == 0) | (of_w == 0)
    scale = jnp.where(dead, 1.0, jnp.where(dead, 1.0, of_x) ** alpha / jnp.where(dead, 1.0, of_w) ** (1 - alpha))
    weights = q.roundtrip(layer.weights * scale[None])
    return Mitigated(weights, jnp.float32(BITS_OF_A_SCALE * scale.size), divided_by=scale)
