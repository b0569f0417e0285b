"""Hadamard matrices, and products with them by additions in a fixed order, the same bits on every machine."""

from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from quantsim.numerics import ieee

#: Whose Hadamard matrix.
Kind: TypeAlias = Literal["sylvester", "regular"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CHUNK = 2**16  # numbers at a time on CPU, few enough for the caches
_PAIR = np.array([[1, 1], [1, -1]], np.float64)
_REGULAR = 1 - 2 * np.fliplr(np.eye(4))  # -1 on one diagonal: every row and every column sums to 2
#: Sizes are powers of these.
BASES = {"sylvester": 2, "regular": 4}


def sylvester(size: int) -> Float[np.ndarray, "size size"]:
    """Hadamard matrix over sqrt(size), by doubling: H -> [[H, H], [H, -H]].

    Its first column is constant, so the coordinates of a constant row are sqrt(size) and zeros: it is amplified.

    Raises:
        ValueError: if the size is no power of two.

    Source: Sylvester, Phil. Mag. 34 (1867).

    >>> sylvester(4)[1].tolist()
    [0.5, -0.5, 0.5, -0.5]
    """
    return _kronecker_power(_PAIR, size, "sylvester")


def regular(size: int) -> Float[np.ndarray, "size size"]:
    """Hadamard matrix over sqrt(size), whose rows and columns all sum to 1: a constant row stays as it is.

    Kronecker powers of the regular one of four rows.

    Raises:
        ValueError: if the size is no power of four.

    Source: Wallis, Street and Wallis, Combinatorics: Room Squares, Sum-Free Sets, Hadamard Matrices (1972).

    >>> regular(16).sum(axis=0).tolist() == [1.0] * 16
    True
    """
    return _kronecker_power(_REGULAR, size, "regular")


def _kronecker_power(one: Float[np.ndarray, "n n"], size: int, name: str) -> Float[np.ndarray, "size size"]:
    matrix = np.ones((1, 1))
    while matrix.shape[0] < size:
        matrix = np.kron(one, matrix)
    if matrix.shape[0] != size:
        raise ValueError(f"a {name} Hadamard matrix has a size that is a power of {len(one)}, not {size}")
    return matrix / np.sqrt(size)


def turned(x: Float[Array, "... n"], kind: Kind, size: int) -> Float[Array, "... n"]:
    """Each block of ``size`` numbers of the last axis times the Hadamard matrix, which is its own inverse.

    Additions in a fixed order in float32, log2(size) for a number, then one product with 1 / sqrt(size).

    Raises:
        ValueError: if there is no such matrix, or blocks do not divide the axis.

    >>> turned(jnp.array([4.0, 0.0, 0.0, 0.0]), "regular", 4).tolist()
    [2.0, 2.0, 2.0, -2.0]
    """
    require_size(kind, size, x.shape[-1])
    blocks = x.reshape(-1, size)
    chunk = max(1, _CHUNK // size) if ieee.on_cpu() else len(blocks)
    if len(blocks) <= chunk:
        return _turned(blocks, kind).reshape(x.shape)
    filled = jnp.pad(blocks, ((0, -len(blocks) % chunk), (0, 0))).reshape(-1, chunk, size)
    return lax.map(lambda part: _turned(part, kind), filled).reshape(-1, size)[: len(blocks)].reshape(x.shape)


def _turned(blocks: Float[Array, "blocks size"], kind: Kind) -> Float[Array, "blocks size"]:
    size, step = blocks.shape[1], {"sylvester": _doubled, "regular": _quadrupled}[kind]
    steps = round(np.log(size) / np.log(BASES[kind]))
    # Every step is the same: it takes the first digit of an index and puts it last. As steps of a loop none is fused
    # with the next, which would compute a number once for each of the sums that it enters. A block is a column, so that
    # the numbers that are added lie in rows.
    sums = lax.fori_loop(0, steps, lambda _, columns: step(columns), blocks.T).T
    return ieee.unfused(sums * np.float32(size**-0.5), sums)


def _doubled(columns: Float[Array, "size blocks"]) -> Float[Array, "size blocks"]:
    a, b = jnp.split(columns, 2)
    return jnp.stack([a + b, a - b], axis=1).reshape(columns.shape)


def _quadrupled(columns: Float[Array, "size blocks"]) -> Float[Array, "size blocks"]:
    a, b, c, d = jnp.split(columns, 4)
    sums = [(a + b) + (c - d), (a + b) - (c - d), (a - b) + (c + d), (c + d) - (a - b)]
    return jnp.stack(sums, axis=1).reshape(columns.shape)


def require_size(kind: str, size: int, fan_in: int) -> None:
    """Refuse blocks that do not divide the inputs, or have no such matrix; any kind but a Hadamard one has all sizes.

    Raises:
        ValueError: with the largest size that there is.
    """
    base = BASES.get(kind, size)
    power = base ** round(np.log(size) / np.log(base)) if size > 1 else 1
    if fan_in % size == 0 and power == size:
        return
    largest = 1
    while kind in BASES and fan_in % (largest * base) == 0:
        largest *= base
    want = f"a power of {base} that" if kind in BASES else "a number that"
    hint = f"; the largest is {largest}" if kind in BASES else ""
    raise ValueError(f"blocks of a {kind} rotation have {want} divides the {fan_in} inputs, not {size}{hint}")
