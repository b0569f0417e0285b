"""What the layers of several models are made of."""

from collections.abc import Callable
from typing import TypeAlias

from jax import lax
from jaxtyping import Array

#: Of a linear layer: (name, inputs (..., in), weights (out, in)) -> outputs (..., out).
Product: TypeAlias = Callable[[str, Array, Array], Array]


def linear(name: str, x: Array, w: Array) -> Array:
    """``x wᵀ`` in the type of its arguments, at the highest precision on every device."""
    del name
    return lax.dot_general(x, w, (((x.ndim - 1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
