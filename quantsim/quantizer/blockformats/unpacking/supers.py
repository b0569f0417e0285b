"""Weights of GGUF's super-blocks: 256 weights, one float16 scale, and small scales of 16 or of 32 weights each.

Where each field lies in a block, first to last:

=====  ========================================================================================  ====================
name   bytes                                                                                     weight
=====  ========================================================================================  ====================
Q2_K   scales and minimums 16, codes 64, scale of scales 2, of minimums 2                        code scale - minimum
Q3_K   third bits 32, codes 64, scales 12, scale of scales 2                                     (code - 4) scale
Q4_K   scale of scales 2, of minimums 2, scales and minimums 12, codes 128                       code scale - minimum
Q5_K   scale of scales 2, of minimums 2, scales and minimums 12, fifth bits 32, codes 128        code scale - minimum
Q6_K   low four bits 128, high two bits 64, scales 16, scale of scales 2                         (code - 32) scale
Q8_K   float32 scale 4, codes 256, sums of codes 32                                              code scale
=====  ========================================================================================  ====================

Products of a code, a small scale and a float16 scale take at most 22 bits, so they are exact, and a difference that is
fused with one is no other.
Source: ggml, ggml-common.h for the fields, ggml-quants.c, ``dequantize_row_q*_K`` for what they mean.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from quantsim._types import Weights
from quantsim.quantizer.blockformats.unpacking.pieces import (
    apart,
    half,
    little_endian,
    number,
    planes,
    signed,
    wide,
)


def q2_k(data: UInt8[Array, "blocks 84"]) -> Weights:
    """Weights of Q2_K."""
    both = wide(data[:, :16])
    steps, lows = apart(
        half(data[:, 80:82]) * number(both & np.uint32(15)), half(data[:, 82:84]) * number(both >> np.uint32(4))
    )
    codes = planes(data[:, 16:80], 32, 2).reshape(-1, 2, 4, 2, 16)
    return number(codes) * _by_16(steps) - _by_16(lows)


def q3_k(data: UInt8[Array, "blocks 110"]) -> Weights:
    """Weights of Q3_K; 4 is taken off the code where its third bit is 0."""
    low, high = planes(data[:, 96:104], 8, 4), planes(data[:, 104:108], 4, 2)
    six = low.reshape(-1, 16) | (high.reshape(-1, 16) << 4)
    steps = apart(half(data[:, 108:]) * number(six, zero=32))
    third = planes(data[:, :32], 32, 1).reshape(-1, 2, 4, 32)
    codes = (planes(data[:, 32:96], 32, 2) | (third << 2)).reshape(-1, 2, 4, 2, 16)
    return number(codes, zero=4) * _by_16(steps)


def q4_k(data: UInt8[Array, "blocks 144"]) -> Weights:
    """Weights of Q4_K."""
    steps, lows = _steps_and_lows(data)
    return number(planes(data[:, 16:], 32, 4)) * steps - lows


def q5_k(data: UInt8[Array, "blocks 176"]) -> Weights:
    """Weights of Q5_K."""
    steps, lows = _steps_and_lows(data)
    fifth = planes(data[:, 16:48], 32, 1).reshape(-1, 4, 2, 32)
    return number(planes(data[:, 48:], 32, 4) | (fifth << 4)) * steps - lows


def q6_k(data: UInt8[Array, "blocks 210"]) -> Weights:
    """Weights of Q6_K: in each half the low bits are planes of 64 weights, the high ones of 32."""
    steps = apart(half(data[:, 208:]) * signed(data[:, 192:208]))
    low = planes(data[:, :128], 64, 4).reshape(-1, 2, 4, 2, 16)
    high = planes(data[:, 128:192], 32, 2).reshape(-1, 2, 4, 2, 16)
    return number(low | (high << 4), zero=32) * _by_16(steps)


def q8_k(data: UInt8[Array, "blocks 292"]) -> Weights:
    """Weights of Q8_K; a float32 scale that is subnormal counts as zero."""
    d = apart(lax.bitcast_convert_type(little_endian(data[:, :4], 4), jnp.float32))
    return signed(data[:, 4:260]) * d


def _steps_and_lows(data: UInt8[Array, "blocks nbytes"]) -> tuple[Float[Array, "blocks 4 2 1"], ...]:
    """Scales and minimums of each 32 weights of Q4_K and Q5_K.

    Four scales lie in the low six bits of the first four bytes, four minimums in those of the next four; the low four
    bits of the others in the last four bytes, and their high two above the first ones.
    """
    first, second, third = (wide(data[:, i : i + 4]) for i in (4, 8, 12))
    upper = [(x >> 2) & np.uint32(0x30) for x in (first, second)]
    scales = jnp.concatenate([first & np.uint32(63), (third & np.uint32(15)) | upper[0]], -1)
    lows = jnp.concatenate([second & np.uint32(63), (third >> 4) | upper[1]], -1)
    both = apart(half(data[:, :2]) * number(scales), half(data[:, 2:4]) * number(lows))
    return tuple(x.reshape(-1, 4, 2, 1) for x in both)


def _by_16(scales: Float[Array, "blocks 16"]) -> Float[Array, "blocks 2 4 2 1"]:
    """A scale for each 16 weights, which are half of a plane."""
    return scales.reshape(-1, 2, 4, 2, 1)
