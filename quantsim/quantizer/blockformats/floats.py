"""MXFP4 and NVFP4 as GGUF stores them: e2m1 codes, one scale byte for 32 or for 16 weights, no scale for the tensor.

They differ from the formats of their specifications: the level with the least ``|level * d - w|`` wins, of equal ones
the one that comes first in ``0 .5 1 1.5 2 3 4 6 -0 -.5 …``; NVFP4's e4m3 scale is rounded half up and, without a scale
of the tensor, collapses for small weights.
Neither has a code for NaN.
Source: llama.cpp, ggml-quants.c, ``quantize_row_mxfp4_ref``, ``quantize_row_nvfp4_ref``; ggml-impl.h for the scales.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from quantsim import formats
from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.blockformats.packing import pack_planes, unpack_planes
from quantsim.theory.scheme import AbsmaxScale, PowerOfTwoScale, Scheme

#: Twice the magnitudes of e2m1, as GGUF keeps them; the scales are halved. All products with a scale are exact.
_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float32)
_MIDDLES = (_LEVELS[1:] + _LEVELS[:-1]) / 2


@dataclass(frozen=True)
class MXFP4(Coding):
    """A power of two for each block: the byte e means 2^(e - 128) for the doubled levels."""

    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Scale from the logarithm of the largest magnitude."""
        assert importance is None
        top = ieee.absmax(blocks)
        e = jnp.where(top > 0, jnp.maximum(_rounded_log2(top) + 125, 0), 0)
        return Stored(_codes(blocks, _half_power(e, jnp.ones_like(top))), (e.astype(jnp.uint8),))

    def values(self, stored: Stored) -> Blocks:
        """``level(code) 2^(e - 128)``."""
        return _half_power(stored.scales[0].astype(jnp.int32), _level(stored.codes))

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 17"]:
        """Scale, codes."""
        return jnp.concatenate([stored.scales[0], pack_planes(stored.codes, 16, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 17"]) -> Stored:
        """And back."""
        return Stored(unpack_planes(data[:, 1:], 16, 4), (data[:, :1],))


@dataclass(frozen=True)
class NVFP4(Coding):
    """An unsigned e4m3 for each 16 of 64 weights."""

    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Scales of the largest magnitudes over 6."""
        assert importance is None
        top = ieee.absmax(blocks.reshape(-1, 4, 16))[..., 0]
        code = _e4m3_code(ieee.divide(top, 6.0))
        return Stored(_codes(blocks, _spread(_half_e4m3(code))), (code,))

    def values(self, stored: Stored) -> Blocks:
        """``level(code) e4m3 / 2``."""
        return _spread(_half_e4m3(stored.scales[0])) * _level(stored.codes)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 36"]:
        """Scales, codes."""
        return jnp.concatenate([stored.scales[0], pack_planes(stored.codes, 8, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 36"]) -> Stored:
        """And back."""
        return Stored(unpack_planes(data[:, 4:], 8, 4), (data[:, :4],))


# --- elements: e2m1 -------------------------------------------------------------------------------------------------


def _codes(blocks: Blocks, d: Float[Array, "blocks #size"]) -> UInt8[Array, "blocks size"]:
    """Sign and index of the nearest level; ties go toward zero, and what becomes zero loses its sign."""
    magnitude, index = jnp.abs(blocks), jnp.zeros_like(blocks)
    for middle in _MIDDLES:
        index = index + (magnitude > middle * d).astype(jnp.float32)
    sign = 8.0 * (blocks < 0).astype(jnp.float32)
    return jnp.where((d == 0) | (index == 0), 0.0, index + sign).astype(jnp.uint8)


def _level(codes: UInt8[Array, "blocks size"]) -> Float[Array, "blocks size"]:
    index = codes & 7
    level = jnp.zeros(codes.shape, jnp.float32)
    for i, value in enumerate(_LEVELS):
        level = jnp.where(index == i, value, level)
    return jnp.where(codes > 8, -level, level)  # code 8, minus zero, is read as zero


# --- scales of MXFP4: powers of two ---------------------------------------------------------------------------------


def _rounded_log2(x: Float[Array, "..."]) -> Int32[Array, "..."]:
    """``floor(log2f(x))``: the float32 logarithm of the last few numbers below a power of two is rounded up to it.

    Of ``x = 2^n (1 - k 2^-24)`` the logarithm rounds to n if ``k < ln 2 * 2^p``, p the exponent of the float below n.
    """
    n = ieee.exponent_of(x) + 1
    whole_power = (n > 0) & (n & (n - 1) == 0)
    exponent = ieee.exponent_of(jnp.abs(n).astype(jnp.float32)) - whole_power.astype(jnp.int32)
    last = jnp.floor(np.float32(np.log(2)) * ieee.power_of_two(jnp.maximum(exponent, -1))).astype(jnp.int32)
    below = (1 << 23) - (ieee.bits_of(x) & 0x7FFFFF)
    return n - 1 + (below <= last).astype(jnp.int32)


def _half_power(exponent: Int32[Array, "blocks 1"], levels: Float[Array, "..."]) -> Blocks:
    """``levels * 2^(exponent - 128)``, also where that is subnormal."""
    first = exponent >> 1
    value = levels * ieee.power_of_two(first - 64) * ieee.power_of_two(exponent - first - 64)
    whole = jnp.abs(levels).astype(jnp.int32)
    bits = (whole << (21 + jnp.minimum(exponent, 1))) | (ieee.bits_of(levels) & -(2**31))
    return jnp.where((exponent < 2) & (whole < (4 >> exponent)), ieee.from_bits(bits), value)


# --- scales of NVFP4: e4m3 ------------------------------------------------------------------------------------------


def _e4m3_code(x: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Unsigned e4m3, half up, as the reference rounds: 256 and more becomes 448, below 2^-6 at most 7 * 2^-9."""
    bits, field = ieee.bits_of(x), ieee.exponent_of(x) + 7
    small = jnp.minimum(jnp.floor(x * 512.0 + 0.5), 7).astype(jnp.int32)
    rounded = (field << 3) + ((bits >> 20) & 7) + ((bits >> 19) & 1)
    normal = jnp.where((field >= 15) | (rounded >= 15 << 3), 0x7E, rounded)
    return jnp.where(field <= 0, small, normal).astype(jnp.uint8)


def _half_e4m3(code: UInt8[Array, "..."]) -> Float[Array, "..."]:
    field, mantissa = (code >> 3).astype(jnp.int32) & 15, (code & 7).astype(jnp.float32)
    value = jnp.where(field == 0, mantissa, mantissa + 8) * ieee.power_of_two(jnp.maximum(field, 1) - 11)
    return jnp.where(code == 0x7F, 0.0, value)


def _spread(d: Float[Array, "blocks 4"]) -> Float[Array, "blocks 64"]:
    return jnp.repeat(d, 16, axis=-1)


# --- the formats ----------------------------------------------------------------------------------------------------

_ENDS = (15, 14, 6, 7)  # -6, -4, 4, 6
_NO_LIMIT = float(np.finfo(np.float32).max)
_E2M1, _E4M3 = formats.FORMATS["e2m1"], formats.FORMATS["e4m3"]
assert isinstance(_E4M3, formats.Float)
FLOATS = (
    BlockFormat(
        name="mxfp4:gguf",
        size=32,
        nbytes=17,
        coding=MXFP4(),
        ends=_ENDS,
        has_nan=False,
        limit=_NO_LIMIT,
        facts=Scheme(_E2M1, PowerOfTwoScale(1.0, -2), ((32, 1.0),)),
    ),
    BlockFormat(
        name="nvfp4:gguf",
        size=64,
        nbytes=36,
        coding=NVFP4(),
        ends=_ENDS,
        has_nan=False,
        limit=_NO_LIMIT,
        facts=Scheme(_E2M1, AbsmaxScale(6.0, _E4M3, gguf_e4m3=True), ((16, 1.0),)),
    ),
)
