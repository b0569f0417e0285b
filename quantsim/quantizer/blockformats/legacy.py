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

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt8

from quantsim import formats
from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.base import BlockFormat, Importance, Stored, ends, extreme, reciprocal
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


def _weights(blocks: Blocks, importance: Importance) -> Blocks:
    return ieee.unfused(importance.weights * jnp.sqrt(importance.row_power + ieee.square(blocks)), blocks)


def _symmetric(half: int, blocks: Blocks, importance: Importance | None) -> Stored:
    if importance is not None:
        d, codes = scale_search(blocks, _weights(blocks, importance), half)
        return Stored(codes, (stored_f16(d),))
    d = ieee.divide(extreme(blocks), -float(half))
    units = ieee.unfused(blocks * reciprocal(d), blocks) + (half + 0.5)
    return Stored(jnp.minimum(units, 2.0 * half - 1).astype(jnp.uint8), (stored_f16(d),))


def _affine(top: int, blocks: Blocks, importance: Importance | None) -> Stored:
    if importance is not None:
        d, low, codes = scale_and_min_search(blocks, _weights(blocks, importance), Grid(top, -0.9, 0.05, 36))
        return Stored(codes, (stored_f16(d), stored_f16(low)))
    low, high = ends(blocks)
    d = ieee.divide(jnp.minimum(high - low, np.finfo(np.float32).max), float(top))
    units = ieee.unfused((blocks - low) * reciprocal(d), blocks) + 0.5
    return Stored(jnp.minimum(units, top).astype(jnp.uint8), (stored_f16(d), stored_f16(low)))


def _signed(blocks: Blocks, importance: Importance | None) -> Stored:
    assert importance is None
    d = ieee.divide(ieee.absmax(blocks), 127.0)
    return Stored(round_integer(blocks * reciprocal(d), "away").astype(jnp.int8), (stored_f16(d),))


def _symmetric_values(half: int, stored: Stored) -> Blocks:
    return (stored.codes.astype(jnp.float32) - half) * stored.scales[0]


def _affine_values(stored: Stored) -> Blocks:
    d, low = stored.scales
    return ieee.unfused(stored.codes.astype(jnp.float32) * d, d) + low


def _bytes(bits: int, stored: Stored) -> UInt8[Array, "blocks nbytes"]:
    """Scales, the fifth bits where there are some, low four bits; or whole bytes."""
    scales = [f16_bytes(s) for s in stored.scales]
    if bits == 8:
        return jnp.concatenate([*scales, lax.bitcast_convert_type(stored.codes.astype(jnp.int8), jnp.uint8)], axis=-1)
    fifth = [pack_bits(stored.codes.astype(jnp.uint8) >> 4)] if bits == 5 else []
    return jnp.concatenate([*scales, *fifth, pack_planes(stored.codes, 16, 4)], axis=-1)


def _stored(bits: int, scales: int, data: UInt8[Array, "blocks nbytes"]) -> Stored:
    fields = tuple(bytes_f16(data[:, 2 * i : 2 * i + 2]) for i in range(scales))
    if bits == 8:
        return Stored(lax.bitcast_convert_type(data[:, 2 * scales :], jnp.int8), fields)
    codes = unpack_planes(data[:, -16:], 16, 4)
    if bits == 5:
        codes = codes | (unpack_bits(data[:, 2 * scales : 2 * scales + 4]) << 4)
    return Stored(codes, fields)


_F16 = formats.FORMATS["f16"]


def _facts(bits: int, scales: int) -> Scheme:
    """Codes come from the scale before it is stored."""
    assert isinstance(_F16, formats.Float)
    half = 2.0 ** (bits - 1)
    law: ScaleLaw = AbsmaxScale(half, _F16, signed=True, codes_exact=True)
    if scales == 2:
        law = MinMaxScale(_F16, zero_point=False)
    elif bits == 8:
        law = AbsmaxScale(half - 1, _F16, codes_exact=True)
    return Scheme(formats.Integer(f"int{bits}", bits, "narrow" if bits == 8 else "signed"), law, ((32, 1.0),))


def _legacy(name: str, bits: int, scales: int, search: Callable, values: Callable) -> BlockFormat:
    top = 2**bits - 1
    return BlockFormat(
        name=name,
        size=32,
        nbytes=2 * scales + 4 * bits,
        ends=(0, 1, top - 1, top) if bits < 8 else (-127, -126, 126, 127),
        search=search,
        values=values,
        to_bytes=partial(_bytes, bits),
        from_bytes=partial(_stored, bits, scales),
        takes_imatrix=bits < 8,
        facts=_facts(bits, scales),
    )


LEGACY = (
    _legacy("q4_0", 4, 1, partial(_symmetric, 8), partial(_symmetric_values, 8)),
    _legacy("q5_0", 5, 1, partial(_symmetric, 16), partial(_symmetric_values, 16)),
    _legacy("q4_1", 4, 2, partial(_affine, 15), _affine_values),
    _legacy("q5_1", 5, 2, partial(_affine, 31), _affine_values),
    _legacy("q8_0", 8, 1, _signed, partial(_symmetric_values, 0)),
)
