"""GGUF's first formats: blocks of 32 with a float16 scale, and a float16 minimum in q4_1 and q5_1.

=====  =======================  ============================  =====================
name   scale                    code                          weight
=====  =======================  ============================  =====================
q4_0   extreme / -8             min(15, trunc(w / d + 8.5))   (code - 8) d
q5_0   extreme / -16            min(31, trunc(w / d + 16.5))  (code - 16) d
q8_0   absmax / 127             w / d, half away from zero    code d
q4_1   (max - min) / 15         trunc((w - min) / d + 0.5)    code d + min
q5_1   (max - min) / 31         the same                      code d + min
=====  =======================  ============================  =====================

Codes come from the float32 scale and its reciprocal; the scale is stored in float16 afterwards. The extreme is the
weight of largest magnitude, with its sign, the first of equals. With importances the scale (and minimum) is searched.
Source: llama.cpp, ggml-quants.c, functions ``quantize_row_q*_ref`` and ``quantize_row_q*_impl``.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt8

from quantsim import formats
from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.blocks import ends, extreme, reciprocal
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.blockformats.packing import (
    bytes_f16,
    f16_bytes,
    pack_bits,
    pack_planes,
    stored_f16,
    unpack_bits,
    unpack_planes,
)
from quantsim.quantizer.blockformats.search import Grid, scale_and_min_search, scale_search
from quantsim.rounding import round_integer
from quantsim.theory.scheme import AbsmaxScale, MinMaxScale, ScaleLaw, Scheme


@dataclass(frozen=True)
class Symmetric(Coding):
    """q4_0, q5_0: codes of ``bits`` bits around the middle one, ``half``, which means zero."""

    bits: int

    @property
    def half(self) -> int:
        """The code of zero; code 0 is the extreme."""
        return 2 ** (self.bits - 1)

    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Scale of the extreme, or with importances the best of a few around it."""
        if importance is not None:
            d, codes = scale_search(blocks, _weights(blocks, importance), self.half)
            return Stored(codes.astype(jnp.uint8), (stored_f16(d),))
        d = ieee.divide(extreme(blocks), -float(self.half))
        units = ieee.unfused(blocks * reciprocal(d), blocks) + (self.half + 0.5)
        return Stored(_whole(jnp.minimum(units, 2.0 * self.half - 1)), (stored_f16(d),))

    def values(self, stored: Stored) -> Blocks:
        """``(code - half) d``."""
        return (stored.codes.astype(jnp.float32) - self.half) * stored.scales[0]

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks nbytes"]:
        """Scale, codes."""
        return jnp.concatenate([f16_bytes(stored.scales[0]), _code_bytes(self.bits, stored)], axis=-1)

    def from_bytes(self, data: UInt8[Array, "blocks nbytes"]) -> Stored:
        """And back."""
        return Stored(_codes(self.bits, data[:, 2:]), (bytes_f16(data[:, :2]),))


@dataclass(frozen=True)
class Affine(Coding):
    """q4_1, q5_1: codes of ``bits`` bits from the minimum up."""

    bits: int

    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Scale and minimum of the whole range, or with importances the best of a few."""
        top = 2**self.bits - 1
        if importance is not None:
            d, low, codes = scale_and_min_search(blocks, _weights(blocks, importance), Grid(top, -0.9, 0.05, 36))
            return Stored(codes.astype(jnp.uint8), (stored_f16(d), stored_f16(low)))
        low, high = ends(blocks)
        d = ieee.divide(jnp.minimum(high - low, np.finfo(np.float32).max), float(top))
        units = ieee.unfused((blocks - low) * reciprocal(d), blocks) + 0.5
        return Stored(_whole(jnp.minimum(units, top)), (stored_f16(d), stored_f16(low)))

    def values(self, stored: Stored) -> Blocks:
        """``code d + min``."""
        d, low = stored.scales
        return ieee.unfused(stored.codes.astype(jnp.float32) * d, d) + low

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks nbytes"]:
        """Scale, minimum, codes."""
        d, low = stored.scales
        return jnp.concatenate([f16_bytes(d), f16_bytes(low), _code_bytes(self.bits, stored)], axis=-1)

    def from_bytes(self, data: UInt8[Array, "blocks nbytes"]) -> Stored:
        """And back."""
        return Stored(_codes(self.bits, data[:, 4:]), (bytes_f16(data[:, :2]), bytes_f16(data[:, 2:4])))


@dataclass(frozen=True)
class Absmax(Coding):
    """q8_0: a byte a code, -127 … 127."""

    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Scale of the largest magnitude."""
        assert importance is None
        d = ieee.divide(ieee.absmax(blocks), 127.0)
        return Stored(round_integer(blocks * reciprocal(d), "away").astype(jnp.int8), (stored_f16(d),))

    def values(self, stored: Stored) -> Blocks:
        """``code d``."""
        return stored.codes.astype(jnp.float32) * stored.scales[0]

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 34"]:
        """Scale, codes."""
        codes = lax.bitcast_convert_type(stored.codes, jnp.uint8)
        return jnp.concatenate([f16_bytes(stored.scales[0]), codes], axis=-1)

    def from_bytes(self, data: UInt8[Array, "blocks 34"]) -> Stored:
        """And back."""
        return Stored(lax.bitcast_convert_type(data[:, 2:], jnp.int8), (bytes_f16(data[:, :2]),))


def _whole(units: Blocks) -> UInt8[Array, "blocks size"]:
    """Codes below. XLA drops a cast to integers and back where it fuses both, so the cast may not be what truncates."""
    return jnp.trunc(units).astype(jnp.uint8)


def _weights(blocks: Blocks, importance: Importance) -> Blocks:
    """Weight of an error: importance times sqrt(mean square of the row + w^2)."""
    return ieee.unfused(importance.weights * jnp.sqrt(importance.row_power + ieee.square(blocks)), blocks)


def _code_bytes(bits: int, stored: Stored) -> UInt8[Array, "blocks nbytes"]:
    """The fifth bits, where there are some, and the low four bits."""
    fifth = [pack_bits(stored.codes.astype(jnp.uint8) >> 4)] if bits == 5 else []
    return jnp.concatenate([*fifth, pack_planes(stored.codes, 16, 4)], axis=-1)


def _codes(bits: int, data: UInt8[Array, "blocks nbytes"]) -> UInt8[Array, "blocks 32"]:
    codes = unpack_planes(data[:, -16:], 16, 4)
    return codes | (unpack_bits(data[:, :4]) << 4) if bits == 5 else codes


def _float16() -> formats.Float:
    f16 = formats.FORMATS["f16"]
    assert isinstance(f16, formats.Float)
    return f16


def _facts(bits: int, bounds: formats.Bounds, law: ScaleLaw) -> Scheme:
    """What theory must know: integers, of which 32 share a scale."""
    return Scheme(formats.Integer(f"int{bits}", bits, bounds), law, ((32, 1.0),))


def _symmetric(bits: int) -> BlockFormat:
    top = 2**bits - 1
    law = AbsmaxScale(2.0 ** (bits - 1), _float16(), signed=True, codes_exact=True)
    return BlockFormat(
        name=f"q{bits}_0",
        size=32,
        nbytes=2 + 4 * bits,
        coding=Symmetric(bits),
        ends=(0, 1, top - 1, top),
        takes_imatrix=True,
        facts=_facts(bits, "signed", law),
    )


def _affine(bits: int) -> BlockFormat:
    top = 2**bits - 1
    return BlockFormat(
        name=f"q{bits}_1",
        size=32,
        nbytes=4 + 4 * bits,
        coding=Affine(bits),
        ends=(0, 1, top - 1, top),
        takes_imatrix=True,
        facts=_facts(bits, "signed", MinMaxScale(_float16(), zero_point=False)),
    )


_Q8_0 = BlockFormat(
    name="q8_0",
    size=32,
    nbytes=34,
    coding=Absmax(),
    ends=(-127, -126, 126, 127),
    facts=_facts(8, "narrow", AbsmaxScale(127.0, _float16(), codes_exact=True)),
)

LEGACY = (_symmetric(4), _symmetric(5), _affine(4), _affine(5), _Q8_0)
