"""GGUF's non-linear formats: 4-bit codes into a fixed table of 16 integers, found by a search over scales.

iq4_nl has a float16 scale for each block of 32; iq4_xs has one for 256 weights and a 6-bit scale for each 32. The
search tries ``(t - 127) / extreme`` for t = -7 … 7 after ``1 / (extreme / 127)``; errors are weighed by w^2, or by
importance.
Source: llama.cpp, ggml-quants.c, ``quantize_row_iq4_nl_impl`` with 7 tries.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.base import BlockFormat, Importance, Stored, extreme, reciprocal
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_planes, stored_f16, unpack_planes
from quantsim.quantizer.blockformats.search import slope_search, sum_of_squares
from quantsim.rounding import round_integer

TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_MIDDLES = (TABLE[1:] + TABLE[:-1]) / 2
_DIVISORS = np.array([127.0, *(t - 127.0 for t in range(-7, 8))], np.float32)


def _steps(x: Float[Array, "..."], levels: np.ndarray) -> Float[Array, "..."]:
    """The level next to ``x``; in the middle the upper one."""
    out = jnp.full_like(x, levels[0])
    for middle, level in zip(_MIDDLES, levels[1:], strict=True):
        out = jnp.where(x >= middle, jnp.float32(level), out)
    return out


_nearest = partial(_steps, levels=TABLE)
_index = partial(_steps, levels=np.arange(16, dtype=np.float32))


def _weights(blocks: Blocks, importance: Importance | None) -> Blocks:
    """``blocks`` are those that share a float16 scale: 32 or 256 weights."""
    if importance is None:
        return ieee.square(blocks)
    power = sum_of_squares(blocks) * np.float32(2.0 / blocks.shape[-1])
    return ieee.unfused(importance.weights * jnp.sqrt(power + ieee.square(blocks)), blocks)


def _search(blocks: Blocks, importance: Importance | None) -> Stored:
    sub = blocks.reshape(-1, 32)
    weights = _weights(blocks, importance).reshape(-1, 32)
    scale, _ = slope_search(sub, weights, _DIVISORS, _nearest, table=True)
    if blocks.shape[-1] == 32:
        return Stored(_index(reciprocal(scale) * sub).astype(jnp.uint8), (stored_f16(scale),))
    scale = scale.reshape(-1, 8)
    d = ieee.divide(extreme(scale), -32.0)
    levels = jnp.clip(round_integer(reciprocal(d) * scale), -32, 31)
    codes = _index(reciprocal((d * levels).reshape(-1, 1)) * sub).astype(jnp.uint8)
    return Stored(codes.reshape(blocks.shape), (stored_f16(d), levels.astype(jnp.int8)))


def _values(stored: Stored) -> Blocks:
    d, *levels = stored.scales
    step = jnp.repeat(d * levels[0].astype(jnp.float32), 32, axis=-1) if levels else d
    return step * _level(stored.codes)


def _level(codes: UInt8[Array, "..."]) -> Float[Array, "..."]:
    out = jnp.full(codes.shape, TABLE[0])
    for i in range(1, 16):
        out = jnp.where(codes >= i, TABLE[i], out)
    return out


def _nl_bytes(stored: Stored) -> UInt8[Array, "blocks 18"]:
    return jnp.concatenate([f16_bytes(stored.scales[0]), pack_planes(stored.codes, 16, 4)], -1)


def _nl_stored(data: UInt8[Array, "blocks 18"]) -> Stored:
    return Stored(unpack_planes(data[:, 2:], 16, 4), (bytes_f16(data[:, :2]),))


def _xs_bytes(stored: Stored) -> UInt8[Array, "blocks 136"]:
    d, levels = stored.scales
    six = (levels + 32).astype(jnp.uint8)
    high, low = pack_planes(six >> 4, 1, 2), pack_planes(six, 1, 4)
    return jnp.concatenate([f16_bytes(d), high, low, pack_planes(stored.codes, 16, 4)], -1)


def _xs_stored(data: UInt8[Array, "blocks 136"]) -> Stored:
    six = unpack_planes(data[:, 4:8], 1, 4) | (unpack_planes(data[:, 2:4], 1, 2) << 4)
    return Stored(unpack_planes(data[:, 8:], 16, 4), (bytes_f16(data[:, :2]), six.astype(jnp.int8) - 32))


NONLINEAR = (
    BlockFormat("iq4_nl", 32, 18, (0, 1, 14, 15), _search, _values, _nl_bytes, _nl_stored, takes_imatrix=True),
    BlockFormat("iq4_xs", 256, 136, (0, 1, 14, 15), _search, _values, _xs_bytes, _xs_stored, takes_imatrix=True),
)
