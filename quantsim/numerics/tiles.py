"""Sums over tiles of 4096 numbers in one fixed order, so that they have the same bits however an array is cut.

On CPU a tile is summed in float32 in the three steps of ``STEPS``. A step ``(rows, lanes)`` sees what is left of the
tile as tables of ``rows`` rows of ``lanes`` numbers and adds the rows, first to last, lane by lane, each sum rounded
once: 4096 numbers become 512, 64 and 1. The first step is the one that the compiler unrolls into a single pass of
vector instructions, with what accumulates in registers; more rows than 8 no longer are. On GPU tiles are summed as XLA
reduces rows, in an order of its own.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from quantsim.numerics.fusion import STAGE, over_stages
from quantsim.numerics.ieee import on_cpu

#: Numbers of a tile.
TILE = 4096
#: Rows and lanes of each step in which a tile is summed.
STEPS = ((8, 16), (8, 64), (64, 1))


def tiled(x: Shaped[Any, "..."]) -> Shaped[Any, "tiles 4096"]:
    """The flat array in rows of one tile, filled up with zeros.

    >>> tiled(jnp.ones((3, 2048))).sum(axis=1).tolist()
    [4096.0, 2048.0]
    """
    flat = x.reshape(-1)
    return jnp.pad(flat, (0, -flat.size % TILE)).reshape(-1, TILE)


def with_whole_tiles(x: Shaped[jax.Array, "..."]) -> Shaped[jax.Array, "..."]:
    """The same array, none of whose tiles is cut by the edge between two devices, where it would be summed in parts.

    An array that is cut so is copied to all devices of its mesh.
    """
    sharding = x.sharding
    if not isinstance(sharding, NamedSharding) or not prod(sharding.shard_shape(x.shape)) % TILE:
        return x
    return jax.device_put(x, NamedSharding(sharding.mesh, PartitionSpec()))


def over_tiles(f: Callable[..., tuple[Array, ...]], *arrays: Float[Array, "..."]) -> tuple[Array, ...]:
    """Of each tile the sum of every float array that ``f`` gives, and the largest of every integer array.

    Args:
        f: from tiles of the arrays, (tiles, 4096) each, to values of that shape; it works on one element at a time.
        arrays: of equal size and any shape.

    >>> x = jnp.arange(5000.0)
    >>> squares, largest = over_tiles(lambda x: (x * x, x.astype(jnp.int32)), x)
    >>> squares.shape, largest.tolist()
    ((2,), [4095, 4999])
    """
    return over_stages(lambda *tiles: _reduced(f(*tiles)), tuple(tiled(a) for a in arrays), STAGE // TILE)


def tile_sums(values: Float[Array, "tiles 4096"]) -> Float[Array, " tiles"]:
    """Sum of each tile.

    >>> tile_sums(jnp.ones((2, TILE))).tolist()
    [4096.0, 4096.0]
    """
    return _reduced((values,))[0]


def _reduced(values: tuple[Array, ...]) -> tuple[Array, ...]:
    if not on_cpu():
        return tuple(v.sum(axis=1) if _is_float(v) else v.max(axis=1) for v in values)
    for rows, lanes in STEPS:
        tables = tuple(v.reshape(-1, rows, lanes) for v in values)
        values = lax.reduce(tables, tuple(t.dtype.type(0) for t in tables), _joined, (1,))
    return tuple(v.reshape(-1) for v in values)


def _joined(a: tuple, b: tuple) -> tuple:
    """Sums of floats, the larger of integers."""
    return tuple(x + y if _is_float(x) else jnp.maximum(x, y) for x, y in zip(a, b, strict=True))


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
