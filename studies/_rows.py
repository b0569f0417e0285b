"""Matrices quantized row by row, all of a network in one compiled program."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim.quantizer import parse

_WHOLE = 32  # columns of a block


def roundtrip(spec: str, matrices: dict[str, Array]) -> dict[str, Array]:
    """What becomes of matrices (out, in) whose rows, or blocks of 32 along them, have scales of their own.

    Rows of all are stacked and filled up with zeros, which no absmax scale sees: the same as one by one.

    >>> found = roundtrip("int8:channel", {"a": jnp.ones((2, 3)), "b": jnp.ones((1, 40))})
    >>> found["a"].shape, found["b"].shape
    ((2, 3), (1, 40))
    """
    return parted(parse(spec).roundtrip(stacked(matrices)), matrices)


def stacked(matrices: dict[str, Array]) -> Float[Array, "rows widest"]:
    """Rows of all matrices, filled up with zeros to whole blocks."""
    width = -(-max(w.shape[1] for w in matrices.values()) // _WHOLE) * _WHOLE
    return jnp.concatenate([jnp.pad(w, ((0, 0), (0, width - w.shape[1]))) for w in matrices.values()])


def parted(rows: Float[Array, "rows widest"], matrices: dict[str, Array]) -> dict[str, Array]:
    """The matrices that ``stacked`` made rows of."""
    parts = jnp.split(rows, np.cumsum([len(w) for w in matrices.values()])[:-1])
    return {name: part[:, : w.shape[1]] for (name, w), part in zip(matrices.items(), parts, strict=True)}


def bits(spec: str, matrices: dict[str, Array]) -> float:
    """Stored bits for each weight, scales included.

    >>> bits("int4:block32", {"a": jnp.ones((2, 64))})
    5.0
    """
    stored = [parse(spec).bits_per_weight(w.shape) * w.size for w in matrices.values()]
    return sum(stored) / sum(w.size for w in matrices.values())
