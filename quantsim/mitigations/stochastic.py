"""Stochastic rounding of the weights: each error is larger, and none has a mean."""

from dataclasses import replace

import jax.numpy as jnp

from quantsim._types import PRNGKey
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.scaled import Quantizer


@mitigation()
def stochastic_rounding(layer: Layer, q: AbstractQuantizer, *, key: PRNGKey | None = None) -> Mitigated:
    """Each weight goes to one of the two levels around it, so that ``E[ŵ] = w``; nothing more is stored.

    Args:
        layer: weights (out, in); the inputs are not looked at.
        q: quantizer of the weights, of integers or floats.
        key: of the draws.

    Raises:
        ValueError: for codebooks and block formats, which have no such rounding, and for a missing key.

    Source: Gupta et al., arXiv:1502.02551.
    """
    if not isinstance(q, Quantizer):
        raise ValueError(f"stochastic rounding takes scaled elements, such as int4:block32, not the block format {q}")
    drawn = replace(q, rounding="stochastic")
    return Mitigated(drawn.roundtrip(layer.weights, key=key), jnp.float32(0))
