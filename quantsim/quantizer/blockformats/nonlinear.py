"""GGUF's non-linear formats: 4-bit codes into a fixed table of 16 integers, found by a search over scales.

iq4_nl has a float16 scale for each block of 32; iq4_xs has one for 256 weights and a 6-bit scale for each 32. The
search tries ``(t - 127) / extreme`` for t = -7 … 7 after ``1 / (extreme / 127)``; errors are weighed by w^2, or by
importance.
Source: llama.cpp, ggml-quants.c, ``quantize_row_iq4_nl_impl`` with 7 tries.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from quantsim._types import Blocks, PerBlock
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.blocks import extreme, reciprocal, sum_of_squares
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_planes, stored_f16, unpack_planes
from quantsim.quantizer.blockformats.search import slope_search
from quantsim.rounding import round_integer

TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_INDICES = np.arange(16, dtype=np.float32)
_MIDDLES = (TABLE[1:] + TABLE[:-1]) / 2
_DIVISORS = np.array([127.0, *(t - 127.0 for t in range(-7, 8))], np.float32)


@dataclass(frozen=True)
class IQ4NL(Coding):
    """A float16 scale for each block of 32."""

    tries = True

    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """The best of sixteen scales."""
        scale = _best_scale(blocks, _weights(blocks, importance))
        codes = _steps(reciprocal(scale) * blocks, _INDICES)
        return Stored(codes.astype(jnp.uint8), (stored_f16(scale),))

    def values(self, stored: Stored) -> Blocks:
        """``table[code] d``."""
        return stored.scales[0] * _level(stored.codes)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 18"]:
        """Scale, codes."""
        return jnp.concatenate([f16_bytes(stored.scales[0]), pack_planes(stored.codes, 16, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 18"]) -> Stored:
        """And back."""
        return Stored(unpack_planes(data[:, 2:], 16, 4), (bytes_f16(data[:, :2]),))


@dataclass(frozen=True)
class IQ4XS(Coding):
    """A float16 scale for 256 weights, and a signed 6-bit scale for each 32 of them."""

    tries = True

    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """The best of sixteen scales for each 32, quantized in units of the largest; codes for the result."""
        sub = blocks.reshape(-1, 32)
        scale = _best_scale(sub, _weights(blocks, importance).reshape(-1, 32)).reshape(-1, 8)
        d = ieee.divide(extreme(scale), -32.0)
        levels = jnp.clip(round_integer(reciprocal(d) * scale), -32, 31)
        codes = _steps(reciprocal((d * levels).reshape(-1, 1)) * sub, _INDICES)
        return Stored(codes.astype(jnp.uint8).reshape(blocks.shape), (stored_f16(d), levels.astype(jnp.int8)))

    def values(self, stored: Stored) -> Blocks:
        """``table[code] d level``."""
        d, levels = stored.scales
        return jnp.repeat(d * levels.astype(jnp.float32), 32, axis=-1) * _level(stored.codes)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 136"]:
        """Scale, high two and low four bits of the 6-bit scales, codes."""
        d, levels = stored.scales
        six = (levels + 32).astype(jnp.uint8)
        high, low = pack_planes(six >> 4, 1, 2), pack_planes(six, 1, 4)
        return jnp.concatenate([f16_bytes(d), high, low, pack_planes(stored.codes, 16, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 136"]) -> Stored:
        """And back."""
        six = unpack_planes(data[:, 4:8], 1, 4) | (unpack_planes(data[:, 2:4], 1, 2) << 4)
        return Stored(unpack_planes(data[:, 8:], 16, 4), (bytes_f16(data[:, :2]), six.astype(jnp.int8) - 32))


def _best_scale(sub: Blocks, weights: Blocks) -> PerBlock:
    return slope_search(sub, weights, _DIVISORS, _nearest, table=True)[0]


def _weights(blocks: Blocks, importance: Importance | None) -> Blocks:
    """``blocks`` are those that share a float16 scale: 32 or 256 weights."""
    if importance is None:
        return ieee.square(blocks)
    power = sum_of_squares(blocks) * np.float32(2.0 / blocks.shape[-1])
    return ieee.unfused(importance.weights * jnp.sqrt(power + ieee.square(blocks)), blocks)


def _nearest(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The level of the table next to ``x``."""
    return _steps(x, TABLE)


def _steps(x: Float[Array, "..."], levels: np.ndarray) -> Float[Array, "..."]:
    """``levels[i]``, where level i of the table is next to ``x``; in the middle of two the upper one."""
    out = jnp.full_like(x, levels[0])
    for middle, level in zip(_MIDDLES, levels[1:], strict=True):
        out = jnp.where(x >= middle, level, out)
    return out


def _level(codes: UInt8[Array, "..."]) -> Float[Array, "..."]:
    out = jnp.full(codes.shape, TABLE[0])
    for i in range(1, 16):
        out = jnp.where(codes >= i, TABLE[i], out)
    return out


NONLINEAR = (
    BlockFormat("iq4_nl", 32, 18, IQ4NL(), ends=(0, 1, 14, 15), takes_imatrix=True),
    BlockFormat("iq4_xs", 256, 136, IQ4XS(), ends=(0, 1, 14, 15), takes_imatrix=True),
)
