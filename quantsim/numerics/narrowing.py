"""From wider types to float32, so that a second rounding cannot see that there was a first.

A float64 just below the middle of two float8 numbers becomes that middle in float32, and a tie then rounds it up.
Rounded to odd, the last bit of float32 says instead that something was cut off. Rounding once more, to at most 21
mantissa bits, gives what one rounding would have given (Boldo and Melquiond, IEEE Trans. Comput. 57, 2008).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

#: Mantissa bits up to which a rounding after one to odd is that of the wider number.
ODD_ENOUGH_FOR = 21
_EXACT_IN_FLOAT64 = 53


def to_nearest(w: Shaped[Array | np.ndarray, "..."]) -> Float[Array | np.ndarray, "..."]:
    """Float32 nearest to each number, ties to even; infinite beyond its range."""
    if isinstance(w, jax.Array):
        return w.astype(jnp.float32)
    with np.errstate(over="ignore"):
        return w.astype(np.float32)


def to_odd(w: Shaped[Array | np.ndarray, "..."]) -> Float[Array | np.ndarray, "..."]:
    """Float32 equal to each number, or, where there is none, the neighbour whose last bit is 1.

    >>> w = np.array([432.0, 431.99999999999994])
    >>> to_nearest(w).tolist(), to_odd(w).tolist()
    ([432.0, 432.0], [432.0, 431.9999694824219])
    """
    if not _wider_than_float32(w.dtype):
        return to_nearest(w)
    if not isinstance(w, jax.Array):
        return _odd(w, np)
    return _odd_with_gradient(w) if jnp.issubdtype(w.dtype, jnp.floating) else _odd(w, jnp)


def _wider_than_float32(dtype: Any) -> bool:
    return dtype.itemsize > 4 or (dtype.itemsize == 4 and not jnp.issubdtype(dtype, jnp.floating))


@jax.custom_jvp
def _odd_with_gradient(w: Float[Array, "..."]) -> Float[Array, "..."]:
    return _odd(w, jnp)


@_odd_with_gradient.defjvp
def _odd_jvp(primals: tuple, tangents: tuple) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    return _odd_with_gradient(*primals), tangents[0].astype(jnp.float32)


def _odd(w: Any, xp: Any) -> Any:
    """The nearest number, moved to its odd neighbour on the side of ``w`` where it is even and inexact."""
    near = to_nearest(w)
    excess = _excess(near, w, xp)
    bits = near.view(np.int32)
    outward = (excess < 0) == (bits >= 0)  # bits of magnitudes grow away from zero
    moved = bits + xp.where(outward, 1, -1).astype(np.int32)
    inexact = (excess != 0) & xp.isfinite(near)
    return xp.where(inexact & (bits % 2 == 0), moved, bits).view(np.float32)


def _excess(near: Any, w: Any, xp: Any) -> Any:
    """A number with the sign of ``near - w``, which is 0 only where they are equal."""
    if jnp.issubdtype(w.dtype, jnp.floating):
        return near.astype(w.dtype) - w
    if w.dtype.itemsize > 4:
        return near.astype(np.float64) - _integers_in_float64(w, xp)
    # 16 bits at a time: each difference is a float32
    high, low = (w >> 16).astype(np.float32), (w & 0xFFFF).astype(np.float32)
    return (near - high * np.float32(65536)) - low


def _integers_in_float64(w: Any, xp: Any) -> Any:
    """64-bit integers as float64, rounded to odd where they have more than 53 bits."""
    cut = 64 - _EXACT_IN_FLOAT64
    odd = (w >> cut) | ((w & (2**cut - 1)) != 0).astype(w.dtype)
    wide = w.astype(np.float64)
    return xp.where(abs(wide) < 2.0**_EXACT_IN_FLOAT64, wide, odd.astype(np.float64) * 2.0**cut)
