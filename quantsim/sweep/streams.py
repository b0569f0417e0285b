"""Which random numbers belong to which array: names, never places in a loop.

    seed, name of the population  ->  stream  ->  key of array k  ->  key of its stochastic rounding

A stream is two words, so that a compiled program takes it as an argument. Whoever draws array k of a stream, on any
device of any process, draws the same weights.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt32

from quantsim._types import PRNGKey

Stream = UInt32[Array | np.ndarray, "2"]

_ROUNDING = 0x5EED  # folded into the key of an array for what is rounded at random


def stream_of(seed: int, name: str) -> np.ndarray:
    """Two words that name the random numbers of a population: its seed and a checksum of its name.

    Raises:
        ValueError: for a seed that is no 32-bit number.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed lies between 0 and 2^32 - 1, got {seed}")
    return np.array([seed, zlib.crc32(name.encode()) & 0x7FFFFFFF], np.uint32)


def stream_key(stream: Stream) -> PRNGKey:
    """The key of a stream: that of its seed, folded with its name."""
    seed, name = jnp.asarray(stream)
    words = jnp.stack([0 * seed, seed])
    return jax.random.fold_in(jax.random.wrap_key_data(words, impl="threefry2x32"), name)


def array_key(stream: Stream, number: UInt32[Array, ""]) -> PRNGKey:
    """Key of array ``number`` of a stream."""
    return jax.random.fold_in(stream_key(stream), number)


def rounding_key(of_array: PRNGKey) -> PRNGKey:
    """Key of the stochastic rounding of an array, from the key that the array was drawn with."""
    return jax.random.fold_in(of_array, _ROUNDING)


def population_key(seed: int, name: str) -> PRNGKey:
    """Key of a grid point: a pure function of the seed and the point's name, never of its place in a loop.

    Raises:
        ValueError: for a seed that is no 32-bit number.

    >>> bool((jax.random.key_data(population_key(0, "normal")) == jax.random.key_data(population_key(0, "t5"))).all())
    False
    """
    return stream_key(stream_of(seed, name))


def array_keys(seed: int, name: str, arrays: int) -> Key[Array, " arrays"]:
    """Keys of the arrays 0, 1, … of a grid point, stacked: that of array k is a function of seed, name and k alone.

    >>> [bool(array_keys(0, "normal", n)[1] == array_keys(0, "normal", 2)[1]) for n in (2, 5)]
    [True, True]
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(population_key(seed, name), np.arange(arrays, dtype=np.uint32))
