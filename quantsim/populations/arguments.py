"""Arguments of a draw, checked: seeds and keys, shapes, the index of the first element."""

from operator import index
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from quantsim._types import PRNGKey, Shape
from quantsim.populations.draws import Index


def key(seed: SupportsIndex) -> PRNGKey:
    """A typed threefry2x32 key, whatever implementation JAX defaults to.

    Args:
        seed: whole number from 0 to 2^32 - 1, all that tells the keys of JAX apart.

    Raises:
        TypeError: if the seed is no whole number.
        ValueError: if it is negative, or too large.

    >>> key(42)
    Array((), dtype=key<fry>) overlaying:
    [ 0 42]
    """
    try:
        number = index(seed)
    except TypeError:
        raise TypeError(f"a seed is a whole number, got {seed!r}") from None
    if not 0 <= number < 2**32:
        raise ValueError(f"a seed lies between 0 and 2^32 - 1, got {number}")
    return jax.random.key(number, impl="threefry2x32")


def checked_shape(shape: Any) -> Shape:
    """The shape as a tuple of whole numbers, at least 0 each.

    Raises:
        TypeError: if it is none.
        ValueError: for a negative size.

    >>> import numpy as np
    >>> checked_shape([np.int64(2), 3])
    (2, 3)
    """
    try:
        sizes = tuple(index(n) for n in shape)
    except TypeError:
        raise TypeError(f"a shape is a tuple of whole numbers, for example (1024, 4096), got {shape!r}") from None
    if any(n < 0 for n in sizes):
        raise ValueError(f"the sizes of a shape are at least 0, got {sizes}")
    return sizes


def check_key(key: Any) -> None:
    """Raise unless ``key`` is a typed key.

    Raises:
        TypeError: for a seed, an untyped key of two numbers, and whatever else is none.
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"draws need a typed key, for example populations.key(0), got {key!r}")


def checked_start(start: Any) -> int | Index:
    """The index of the first element as a whole number, or as two words.

    Raises:
        TypeError: if it is none.
        ValueError: if it is negative, or does not fit into 64 bits.
    """
    if isinstance(start, Index):
        return start
    try:
        first = index(start)
    except TypeError:
        raise TypeError(f"the start of a chunk is a whole number, got {start!r}") from None
    if not 0 <= first < 2**64:
        raise ValueError(f"the start of a chunk lies between 0 and 2^64 - 1, got {first}")
    return first


def words_of(first: int | Index) -> Index:
    """Two 32-bit words; NumPy numbers, so that eager calls compile nothing for them."""
    if isinstance(first, Index):
        return first
    high, low = divmod(first, 2**32)
    return Index(np.uint32(high), np.uint32(low))  # pyright: ignore[reportArgumentType]
