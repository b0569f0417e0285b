"""GGUF's K-quants: super-blocks of 256 weights; the scales (and minimums) of their sub-blocks are quantized again.

=====  =========  ====  ==================  ==================================  ==================
name   sub-block  code  scale, minimum      search                              weight of an error
=====  =========  ====  ==================  ==================================  ==================
q2_k   16         2     4 bits, 4 bits      scale and minimum, absolute errors  abs(w)
q3_k   16         3     6 bits signed       scale, codes refined five times     w^2
q4_k   32         4     6 bits, 6 bits      scale and minimum                   rms + abs(w)
q5_k   32         5     6 bits, 6 bits      scale and minimum                   rms + abs(w)
q6_k   16         6     8 bits signed       scale                               w^2
=====  =========  ====  ==================  ==================================  ==================

One float16 scale (and one float16 minimum) for a super-block. After the search the codes are made anew with the scales
as stored, except where a stored scale is 0. With importances the searches are finer and the scales are searched too.
Source: llama.cpp, ggml-quants.c, functions ``quantize_row_q*_K_ref`` and ``quantize_row_q*_K_impl``.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from quantsim._types import Blocks, PerBlock
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.base import BlockFormat, Importance, Stored, extreme
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_planes, stored_f16, unpack_planes
from quantsim.quantizer.blockformats.refine import refined_scale_search, scales_search
from quantsim.quantizer.blockformats.search import TINY, Grid, Weigh, scale_and_min_search, scale_search, sum_of_squares
from quantsim.rounding import round_integer

SUPER = 256
_FINE = (-0.9, 0.05, 36)  # trials of every search with importances


def _sub(blocks: Float[Array, "supers 256"], size: int) -> Blocks:
    return blocks.reshape(-1, size)


def _spread(sub: Float[Array, "..."], count: int, size: int) -> Blocks:
    """One number for each sub-block, repeated for its weights."""
    return jnp.repeat(sub.reshape(-1, count), size, axis=-1)


def _importance(blocks: Blocks, importance: Importance, factor: float) -> Blocks:
    power = factor * ieee.divide(sum_of_squares(blocks), float(SUPER))
    return ieee.unfused(importance.weights * jnp.sqrt(power + ieee.square(blocks)), blocks)


# --- q2_k, q4_k, q5_k: scale and minimum ----------------------------------------------------------------------------


def _own_weights(bits: int, sub: Blocks) -> Weigh:
    if bits == 2:
        return jnp.abs
    return jnp.sqrt(ieee.divide(sum_of_squares(sub), float(sub.shape[-1]))) + jnp.abs(sub)


def _levels(found: Float[Array, "blocks subs"], top: int) -> tuple[PerBlock, Float[Array, "blocks subs"]]:
    """Float16 unit and integers 0 … top of nonnegative scales, their largest being the last level."""
    largest = jnp.maximum(found.max(axis=-1, keepdims=True), 0.0)
    inverse = jnp.where(largest > 0, ieee.divide(top + (largest - largest), jnp.where(largest > 0, largest, 1.0)), 0.0)
    return stored_f16(ieee.divide(largest, float(top))), jnp.minimum(round_integer(inverse * found), top)


def _affine_search(bits: int, grid: Grid, blocks: Blocks, importance: Importance | None) -> Stored:
    size, top = (16, 15) if bits == 2 else (32, 63)
    count = SUPER // size
    sub = _sub(blocks, size)
    if importance is None:
        scale, low, codes = scale_and_min_search(sub, _own_weights(bits, sub), grid)
        (d, scales), (d_min, mins) = (_levels(v.reshape(-1, count), top) for v in (scale, -low))
    else:
        weights = _sub(_importance(blocks, importance, 1.0 if bits == 2 else 2.0), size)
        scale, low, codes = scale_and_min_search(sub, weights, Grid(grid.top, *_FINE))
        total = _totals(weights, count)
        (d, scales), (d_min, mins) = (scales_search(v.reshape(-1, count), total, top) for v in (scale, -low))
        d, d_min = stored_f16(d), stored_f16(d_min)
    step, base = _spread(d * scales, count, size), _spread(d_min * mins, count, size)
    units = ieee.divide(blocks + base, jnp.where(step == 0, 1.0, step))  # d_min * m is exact: fusing it is no harm
    again = jnp.clip(round_integer(units), 0, grid.top)
    codes = jnp.where(step == 0, codes.reshape(blocks.shape), again)
    return Stored(codes.astype(jnp.uint8), (d, scales.astype(jnp.uint8), d_min, mins.astype(jnp.uint8)))


def _affine_values(size: int, stored: Stored) -> Blocks:
    d, scales, d_min, mins = stored.scales
    step, base = (
        _spread(unit * level.astype(jnp.float32), SUPER // size, size) for unit, level in ((d, scales), (d_min, mins))
    )
    return step * stored.codes.astype(jnp.float32) - base  # the product is exact, so fusing it is no harm


def _q2_bytes(stored: Stored) -> UInt8[Array, "blocks 84"]:
    d, scales, d_min, mins = stored.scales
    return jnp.concatenate([scales | (mins << 4), pack_planes(stored.codes, 32, 2), f16_bytes(d), f16_bytes(d_min)], -1)


def _q2_stored(data: UInt8[Array, "blocks 84"]) -> Stored:
    scales = (bytes_f16(data[:, 80:82]), data[:, :16] & 15, bytes_f16(data[:, 82:84]), data[:, :16] >> 4)
    return Stored(unpack_planes(data[:, 16:80], 32, 2), scales)


def _q45_bytes(bits: int, stored: Stored) -> UInt8[Array, "blocks nbytes"]:
    """Six-bit scales and minimums: four whole ones in bytes 0-3 and 4-7, the low halves of the others in 8-11."""
    d, s, d_min, m = stored.scales
    packed = [s[:, :4] | (s[:, 4:] >> 4 << 6), m[:, :4] | (m[:, 4:] >> 4 << 6), (s[:, 4:] & 15) | (m[:, 4:] << 4)]
    fifth = [pack_planes(stored.codes >> 4, 32, 1)] if bits == 5 else []
    return jnp.concatenate([f16_bytes(d), f16_bytes(d_min), *packed, *fifth, pack_planes(stored.codes, 32, 4)], -1)


def _q45_stored(bits: int, data: UInt8[Array, "blocks nbytes"]) -> Stored:
    a, b, c = data[:, 4:8], data[:, 8:12], data[:, 12:16]
    scales = jnp.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], -1)
    mins = jnp.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], -1)
    codes = unpack_planes(data[:, -128:], 32, 4)
    if bits == 5:
        codes = codes | (unpack_planes(data[:, 16:48], 32, 1) << 4)
    return Stored(codes, (bytes_f16(data[:, :2]), scales, bytes_f16(data[:, 2:4]), mins))


# --- q3_k, q6_k: signed scales --------------------------------------------------------------------------------------


def _extreme_levels(found: Float[Array, "blocks 16"], half: int) -> tuple[PerBlock, Float[Array, "blocks 16"]]:
    """Float16 unit and integers -half … half - 1 of signed scales, the one of largest magnitude being -half."""
    top = extreme(found)
    factor = ieee.divide(-float(half) + (top - top), jnp.where(top == 0, 1.0, top))
    unit = jnp.where(top == 0, 0.0, ieee.divide(1.0 + (top - top), factor))
    levels = jnp.clip(round_integer(factor * found), -half, half - 1)
    return stored_f16(unit), jnp.where(top == 0, -half, levels)


def _signed_search(half: int, blocks: Blocks, importance: Importance | None) -> Stored:
    sub = _sub(blocks, 16)
    if importance is None:
        scale, codes = scale_search(sub, ieee.square, half)
    else:
        scale, codes = scale_search(sub, _sub(importance.weights, 16), half)
    scale = scale.reshape(-1, 16)
    d, levels = _extreme_levels(scale, 128)
    nothing = jnp.abs(scale).max(axis=-1, keepdims=True) < TINY
    found = _codes_again(blocks, d * levels, half, codes.reshape(blocks.shape))
    return Stored(
        jnp.where(nothing, 0, found), (jnp.where(nothing, 0.0, d), jnp.where(nothing, 0, levels).astype(jnp.int8))
    )


def _refined_search(half: int, blocks: Blocks, importance: Importance | None) -> Stored:
    sub = _sub(blocks, 16)
    if importance is None:
        refined = refined_scale_search(sub, half)
        d, levels = _extreme_levels(refined.scale.reshape(-1, 16), 32)
        codes = refined.codes(jnp.any(d * levels == 0))
    else:
        weights = _sub(_importance(blocks, importance, 2.0), 16)
        scale, codes = scale_search(sub, weights, half)
        d, levels = scale_search(scale.reshape(-1, 16), _totals(weights, 16), 32)
        d, levels = stored_f16(d), levels - 32
    found = _codes_again(blocks, d * levels, half, codes.reshape(blocks.shape))
    return Stored(found, (d, levels.astype(jnp.int8)))


def _totals(weights: Blocks, count: int) -> Float[Array, "supers subs"]:
    """Sum of the weights of each sub-block, in order."""
    rows = weights.T.reshape(weights.shape[-1], -1, count)
    return lax.scan(lambda total, row: (total + row, None), jnp.zeros_like(rows[0]), rows)[0]


def _codes_again(blocks: Blocks, step: Float[Array, "blocks subs"], half: int, codes: Blocks) -> UInt8[Array, "..."]:
    """Codes for the scales as stored; those of the search where a stored scale is 0."""
    step = _spread(step, 16, 16)
    again = jnp.clip(round_integer(ieee.divide(blocks, jnp.where(step == 0, 1.0, step))), -half, half - 1) + half
    return jnp.where(step == 0, codes, again).astype(jnp.uint8)


def _signed_values(half: int, stored: Stored) -> Blocks:
    d, levels = stored.scales
    step = _spread(d * levels.astype(jnp.float32), 16, 16)
    return step * (stored.codes.astype(jnp.float32) - half)


def _q3_bytes(stored: Stored) -> UInt8[Array, "blocks 110"]:
    d, levels = stored.scales
    s = (levels + 32).astype(jnp.uint8)
    low = (s[:, :8] & 15) | (s[:, 8:] << 4)
    high = pack_planes(s >> 4, 4, 2)
    third, two = pack_planes(stored.codes >> 2, 32, 1), pack_planes(stored.codes, 32, 2)
    return jnp.concatenate([third, two, low, high, f16_bytes(d)], -1)


def _q3_stored(data: UInt8[Array, "blocks 110"]) -> Stored:
    low = data[:, 96:104]
    s = jnp.concatenate([low & 15, low >> 4], -1) | (unpack_planes(data[:, 104:108], 4, 2) << 4)
    codes = unpack_planes(data[:, 32:96], 32, 2) | (unpack_planes(data[:, :32], 32, 1) << 2)
    return Stored(codes, (bytes_f16(data[:, 108:110]), s.astype(jnp.int8) - 32))


def _q6_bytes(stored: Stored) -> UInt8[Array, "blocks 210"]:
    d, levels = stored.scales
    parts = pack_planes(stored.codes, 64, 4), pack_planes(stored.codes >> 4, 32, 2)
    return jnp.concatenate([*parts, lax.bitcast_convert_type(levels, jnp.uint8), f16_bytes(d)], -1)


def _q6_stored(data: UInt8[Array, "blocks 210"]) -> Stored:
    codes = unpack_planes(data[:, :128], 64, 4) | (unpack_planes(data[:, 128:192], 32, 2) << 4)
    return Stored(codes, (bytes_f16(data[:, 208:210]), lax.bitcast_convert_type(data[:, 192:208], jnp.int8)))


_row = partial(BlockFormat, size=SUPER, takes_imatrix=True)
_q2_search = partial(_affine_search, 2, Grid(3, -0.5, 0.1, 15, absolute=True))
_q4_search = partial(_affine_search, 4, Grid(15, -1.0, 0.1, 20))
_q5_search = partial(_affine_search, 5, Grid(31, -0.5, 0.1, 15))
KQUANTS = (
    _row(
        name="q2_k", nbytes=84, ends=(0, 1, 2, 3), search=_q2_search, values=partial(_affine_values, 16),
        to_bytes=_q2_bytes, from_bytes=_q2_stored,
    ),
    _row(
        name="q3_k", nbytes=110, ends=(0, 1, 6, 7), search=partial(_refined_search, 4),
        values=partial(_signed_values, 4), to_bytes=_q3_bytes, from_bytes=_q3_stored,
    ),
    _row(
        name="q4_k", nbytes=144, ends=(0, 1, 14, 15), search=_q4_search, values=partial(_affine_values, 32),
        to_bytes=partial(_q45_bytes, 4), from_bytes=partial(_q45_stored, 4),
    ),
    _row(
        name="q5_k", nbytes=176, ends=(0, 1, 30, 31), search=_q5_search, values=partial(_affine_values, 32),
        to_bytes=partial(_q45_bytes, 5), from_bytes=partial(_q45_stored, 5),
    ),
    _row(
        name="q6_k", nbytes=210, ends=(0, 1, 62, 63), search=partial(_signed_search, 32),
        values=partial(_signed_values, 32), to_bytes=_q6_bytes, from_bytes=_q6_stored,
    ),
)  # fmt: skip
