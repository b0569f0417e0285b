"""What the device says of weights and their errors: sums over fixed tiles, extremes and counts, for ``errors`` to fold.

A tile is 4096 weights. On CPU its sums are float32 additions in the order of ``STEPS``, each rounded once, so they have
one bit pattern for any chunking and any number of devices.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from quantsim._types import Weights
from quantsim.numerics import ieee
from quantsim.numerics.fusion import STAGE, over_stages
from quantsim.numerics.ieee import on_cpu

TILE = 4096
#: Rows and lanes of each step in which a tile is summed.
STEPS = ((8, 16), (8, 16), (4, 16), (4, 4), (4, 1))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["sums", "max_abs", "max_signal", "nonzero", "zeroed", "clipped"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Tally:
    """What the device returns: sums of (1, e, |e|, e^2, w^2, e w) of each tile, extremes and counts."""

    sums: Float[Array | np.ndarray, "... tiles 6"]
    max_abs: Float[Array | np.ndarray, "..."]
    max_signal: Float[Array | np.ndarray, "..."]
    nonzero: Int32[Array | np.ndarray, "..."]
    zeroed: Int32[Array | np.ndarray, "..."]
    clipped: Int32[Array | np.ndarray, "..."]


@partial(jax.tree_util.register_dataclass, data_fields=["sums", "max_signal", "nonzero"], meta_fields=[])
@dataclass(frozen=True)
class Signal:
    """The part of a tally that the weights alone decide: sums of (1, w^2) of each tile, the extreme, a count."""

    sums: Float[Array | np.ndarray, "... tiles 2"]
    max_signal: Float[Array | np.ndarray, "..."]
    nonzero: Int32[Array | np.ndarray, "..."]


@partial(jax.tree_util.register_dataclass, data_fields=["sums", "max_abs", "zeroed", "clipped"], meta_fields=[])
@dataclass(frozen=True)
class Noise:
    """The part of a tally that the errors decide: sums of (e, |e|, e^2, e w) of each tile, the extreme, counts."""

    sums: Float[Array | np.ndarray, "... tiles 4"]
    max_abs: Float[Array | np.ndarray, "..."]
    zeroed: Int32[Array | np.ndarray, "..."]
    clipped: Int32[Array | np.ndarray, "..."]


def error(w: Weights, w_hat: Weights) -> Weights:
    """E = w_hat - w rounded once, bit for bit what NumPy computes, also inside a jitted function."""
    return ieee.unfused(w_hat, w) - w


def _add(a: tuple, b: tuple) -> tuple:
    """Sums of floats, the larger of integers."""
    pairs = zip(a, b, strict=True)
    return tuple(x + y if jnp.issubdtype(x.dtype, jnp.floating) else jnp.maximum(x, y) for x, y in pairs)


def _tile_reduced(found: tuple[Array, ...]) -> tuple[Array, ...]:
    """Sums of the floats and the largest of the integers of each tile.

    On CPU in steps of few rows of many lanes: the compiler unrolls the rows of a step into one pass of vector
    instructions, with what accumulates in registers. On GPU as XLA reduces rows, in an order of its own.
    """
    if not on_cpu():
        return tuple(v.sum(axis=1) if jnp.issubdtype(v.dtype, jnp.floating) else v.max(axis=1) for v in found)
    for rows, lanes in STEPS:
        shaped = tuple(v.reshape(-1, rows, lanes) for v in found)
        found = lax.reduce(shaped, tuple(v.dtype.type(0) for v in shaped), _add, (1,))
    return tuple(v.reshape(-1) for v in found)


def _magnitude(x: Float[Array, "..."]) -> Int32[Array, "..."]:
    return ieee.bits_of(x) & 0x7FFFFFFF


def _signal(w: Float[Array, "tiles 4096"]) -> tuple[Array, ...]:
    """Sum of w^2, number of nonzero weights and largest bits of |w| of each tile."""
    return _tile_reduced((ieee.square(w), jnp.where(w != 0, 1.0, 0.0), _magnitude(w)))


def _noise(w: Float[Array, "tiles 4096"], w_hat: Float[Array, "tiles 4096"]) -> tuple[Array, ...]:
    """Sums of e, |e|, e^2 and e w, number of zeroed weights and largest bits of |e| of each tile."""
    e, zeroed = error(w, w_hat), jnp.where((w_hat == 0) & (w != 0), 1.0, 0.0)
    squares, products = (ieee.unfused(e * x, w) for x in (e, w))
    return _tile_reduced((e, jnp.abs(e), squares, products, zeroed, _magnitude(e)))


def tiled(x: Any) -> Any:
    """The flat array in rows of one tile, filled up with zeros."""
    flat = x.reshape(-1)
    return jnp.pad(flat, (0, -flat.size % TILE)).reshape(-1, TILE)


@jax.jit
def signal(w: Weights) -> Signal:
    """What a tally says of the weights alone."""
    return _as_signal(over_stages(_signal, (tiled(w),), STAGE // TILE), w.size)


@jax.jit
def noise(w: Weights, w_hat: Weights) -> Noise:
    """What a tally says of the errors."""
    return _as_noise(over_stages(_noise, (tiled(w), tiled(w_hat)), STAGE // TILE), None)


def _as_signal(found: tuple[Array, ...], size: int) -> Signal:
    squares, some, top = found
    counts = np.full(len(squares), TILE, np.float32)
    if counts.size:
        counts[-1] = size - TILE * (counts.size - 1)
    return Signal(jnp.stack([jnp.asarray(counts), squares], axis=-1), _largest(top), _count(some))


def _as_noise(found: tuple[Array, ...], clipped: Bool[Array, "..."] | None) -> Noise:
    *sums, zeroed, top = found
    out = jnp.zeros((), jnp.int32) if clipped is None else jnp.sum(clipped, dtype=jnp.int32)
    return Noise(jnp.stack(sums, axis=-1), _largest(top), _count(zeroed), out)


def _largest(bits: Int32[Array, " tiles"]) -> Float[Array, ""]:
    return ieee.from_bits(jnp.max(bits, initial=0))


def _count(of_tiles: Float[Array, " tiles"]) -> Int32[Array, ""]:
    return jnp.sum(of_tiles.astype(jnp.int32))


def combined(s: Signal, n: Noise) -> Tally:
    """Tally of weights and of their errors; NumPy arrays stay NumPy arrays."""
    xp = np if isinstance(n.sums, np.ndarray) else jnp
    count, squares = s.sums[..., :1], s.sums[..., 1:]
    sums = xp.concatenate([count, n.sums[..., :3], squares, n.sums[..., 3:]], axis=-1)
    return Tally(sums, n.max_abs, s.max_signal, s.nonzero, n.zeroed, n.clipped)


@jax.jit
def tally(w: Weights, w_hat: Weights, clipped: Bool[Array, "..."] | None = None) -> Tally:
    """Sums over fixed tiles, extremes and counts of one array of weights; jit, vmap and shard_map friendly."""
    tiles = tiled(w), tiled(w_hat)
    of_w, of_e = over_stages(lambda a, b: (_signal(a), _noise(a, b)), tiles, STAGE // TILE)
    return combined(_as_signal(of_w, w.size), _as_noise(of_e, clipped))


Part = TypeVar("Part", Tally, Signal, Noise)


def joined(*parts: Part) -> Part:
    """Tally, signal or noise of consecutive parts of one array; a part may be a stack along a leading axis."""

    def join(name: str) -> Array:
        leaves = [getattr(p, name) for p in parts]
        if name == "sums":
            return jnp.concatenate([v.reshape(-1, v.shape[-1]) for v in leaves])
        flat = jnp.concatenate([v.reshape(-1) for v in leaves])
        return _largest(ieee.bits_of(flat)) if jnp.issubdtype(flat.dtype, jnp.floating) else jnp.sum(flat)

    return type(parts[0])(**{f.name: join(f.name) for f in fields(parts[0])})
