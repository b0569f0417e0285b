"""What the layers of several models are made of."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

#: Of a linear layer: (name, inputs (..., in), weights (out, in)) -> outputs (..., out).
Product: TypeAlias = Callable[[str, Array, Array], Array]
#: Of a norm: (name, inputs (..., width), gains (width,), epsilon) -> outputs (..., width).
Norm: TypeAlias = Callable[[str, Array, Array, float], Array]
Heads: TypeAlias = Float[Array, "batch time heads head"]


def linear(name: str, x: Array, w: Array) -> Array:
    """``x wᵀ`` in the type of its arguments, at the highest precision on every device."""
    del name
    return lax.dot_general(x, w, (((x.ndim - 1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)


def rms_norm(h: Float[Array, "*batch width"], gain: Float[Array, " width"], epsilon: float) -> Array:
    """``gain h / sqrt(mean h² + epsilon)`` along the last axis.

    Source: Zhang and Sennrich, arXiv:1910.07467.
    """
    scale = lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + epsilon)
    return h * scale * jnp.broadcast_to(gain, h.shape)


def named_rms_norm(name: str, h: Array, gain: Array, epsilon: float) -> Array:
    """``rms_norm`` as a model calls it, with the name of the norm."""
    del name
    return rms_norm(h, gain, epsilon)


def rope(x: Heads, base: float) -> Heads:
    """Turns the pair (i, i + d/2) of a head of width d at time t by the angle ``t base^(-2i/d)``.

    Source: Su et al., arXiv:2104.09864; pairs in halves, as in GPT-NeoX.
    """
    return turned(x, jnp.asarray(rotation(x.shape[1], x.shape[3], base), x.dtype))


def rotation(time: int, head: int, base: float) -> Float[np.ndarray, "2 time half"]:
    """Cosines and sines of the angles of RoPE, computed in float64."""
    half = head // 2
    angles = np.arange(time)[:, None] * base ** (-np.arange(half) / half)[None]
    return np.stack([np.cos(angles), np.sin(angles)])


def turned(x: Heads, table: Float[Array, "2 time half"]) -> Heads:
    """Each head with its pairs turned by the angles of ``rotation``: for who has a table as an argument."""
    cos, sin = table[:, None, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
