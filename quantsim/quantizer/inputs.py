"""What a quantizer is given: any real numbers as float32 weights, and shapes; what is neither is refused in words."""

from operator import index
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from quantsim._types import ArrayLike, Shape, Weights
from quantsim.numerics.narrowing import to_nearest, to_odd


def as_weights(
    w: ArrayLike,
    nonfinite: str | None = None,
    what: str = "weights",
    *,
    remedy: str | None = None,
    odd: bool = False,
) -> Weights:
    """``w`` as a float32 array, checked where its values are known (not under a transformation).

    Args:
        w: numbers.
        nonfinite: "raise", "propagate", or None, which raises, too, where the caller has no such parameter.
        what: their name in messages.
        remedy: what the caller of the public function can do about a NaN or infinity; known from ``nonfinite``.
        odd: round to odd, for what is rounded again to far fewer bits, instead of to nearest.

    Raises:
        TypeError: if it is not numeric.
        ValueError: for a NaN or infinity, unless ``nonfinite="propagate"``.
    """
    if nonfinite not in ("raise", "propagate", None):
        raise ValueError(f"nonfinite is 'raise' or 'propagate', not {nonfinite!r}")
    given = type(w)
    if not isinstance(w, jax.Array):
        w = np.asarray(w)
    if not (jnp.issubdtype(w.dtype, jnp.floating) or jnp.issubdtype(w.dtype, jnp.integer)):
        raise TypeError(f"{what} must be real numbers, not {w.dtype if given is np.ndarray else given.__name__}")
    w32 = (to_odd if odd else to_nearest)(w)
    if nonfinite != "propagate" and not _is_finite(w32):
        known = "mend the input" if nonfinite is None else 'mend the input, or pass nonfinite="propagate"'
        raise ValueError(f"{_first_not_finite(w, w32, what)}; {remedy or known}")
    return jnp.asarray(w32)


def _is_finite(w: jax.Array | np.ndarray | np.generic) -> bool:
    """Whether all is finite, as far as it is known."""
    if isinstance(w, jax.Array):
        return not known_true(_any_not_finite(w))
    with np.errstate(all="ignore"):
        if np.isfinite(w.sum()):  # much faster than to ask each
            return True
    return bool(np.isfinite(w).all())


@jax.jit
def _any_not_finite(w: Weights) -> Bool[Array, ""]:
    return jnp.isnan(jnp.sum(w - w))  # of zeros, if all are finite: two to four times as fast as to ask each


def _first_not_finite(w: Any, w32: Any, what: str) -> str:
    w, w32 = (lax.stop_gradient(v) if isinstance(v, jax.Array) else v for v in (w, w32))
    bad = np.argwhere(~np.isfinite(np.asarray(w32)))
    at = tuple(int(i) for i in bad[0])
    return f"{len(bad)} of {w32.size} {what} are not finite in float32, the first is {w[at]} at index {at}"


def as_importance(imatrix: Any, shape: Shape) -> Weights:
    """What a squared error of each input counts, (in,), as llama.cpp's imatrix has it: at least 0.

    Raises:
        TypeError: if it is not numeric.
        ValueError: for another shape than the last axis of ``shape``, a negative importance, a NaN or infinity.
    """
    importance = as_weights(imatrix, what="importances", remedy="mend them")
    if importance.shape != shape[-1:]:
        raise ValueError(f"an imatrix holds one importance for each input, {shape[-1:]}, not {importance.shape}")
    if known_true((importance < 0).any()):
        raise ValueError(f"an importance is at least 0, and the smallest here is {importance.min()}")
    return importance


def known_true(fact: Bool[Array, ""]) -> bool:
    """Whether ``fact`` is true and its value is known, not traced by a transformation."""
    try:
        return bool(fact)
    except jax.errors.TracerBoolConversionError:
        return False


def as_key(key: Any) -> Any:
    """``key``, if it is None or a key of JAX.

    >>> as_key(jax.random.key(0)).shape
    ()
    """
    if key is not None and not isinstance(key, jax.Array):
        raise TypeError(f"a key is made by jax.random.key(seed), not {key!r}")
    return key


def as_shape(shape: Any) -> Shape:
    """``shape`` as a tuple of whole numbers that are not negative.

    >>> as_shape([np.int64(64), 32])
    (64, 32)
    """
    try:
        known = tuple(index(n) for n in shape)
    except TypeError:
        raise TypeError(f"a shape is a tuple of whole numbers such as (out, in), not {shape!r}") from None
    if any(n < 0 for n in known):
        raise ValueError(f"a shape has no negative numbers: {known}")
    return known
