"""Weights of GGUF's blocks with one scale, and one minimum: 32 weights, or 128 of one bit.

Where each field lies in a block, first to last:

=====  ======================================================================  =================
name   bytes                                                                   weight
=====  ======================================================================  =================
Q4_0   scale 2, codes 16                                                       (code - 8) scale
Q4_1   scale 2, minimum 2, codes 16                                            code scale + min
Q5_0   scale 2, fifth bits 4, codes 16                                         (code - 16) scale
Q5_1   scale 2, minimum 2, fifth bits 4, codes 16                              code scale + min
Q8_0   scale 2, codes 32                                                       code scale
Q8_1   scale 2, scale times the sum of the codes 2, codes 32                   code scale
Q1_0   scale 2, signs 16                                                       ± scale
=====  ======================================================================  =================

Products of codes and float16 scales are exact, so a sum that is fused with one is no other.
Source: ggml, ggml-common.h for the fields, ggml-quants.c, ``dequantize_row_q*`` for what they mean.
"""

import numpy as np
from jaxtyping import Array, UInt8, UInt32

from quantsim._types import Weights
from quantsim.quantizer.blockformats.unpacking.pieces import (
    apart,
    bits_of,
    half,
    little_endian,
    negated,
    number,
    planes,
    signed,
)


def q4_0(data: UInt8[Array, "blocks 18"]) -> Weights:
    """Weights of Q4_0."""
    d = apart(half(data[:, :2]))[:, :, None, None]
    return number(planes(data[:, 2:], 16, 4), zero=8) * d


def q4_1(data: UInt8[Array, "blocks 20"]) -> Weights:
    """Weights of Q4_1."""
    d, low = (x[:, :, None, None] for x in apart(half(data[:, :2]), half(data[:, 2:4])))
    return number(planes(data[:, 4:], 16, 4)) * d + low


def q5_0(data: UInt8[Array, "blocks 22"]) -> Weights:
    """Weights of Q5_0."""
    d, fifth = apart(half(data[:, :2]), little_endian(data[:, 2:6], 4))
    return number(_five_bits(data[:, 6:], fifth), zero=16) * d[:, :, None, None]


def q5_1(data: UInt8[Array, "blocks 24"]) -> Weights:
    """Weights of Q5_1."""
    d, low, fifth = apart(half(data[:, :2]), half(data[:, 2:4]), little_endian(data[:, 4:8], 4))
    return number(_five_bits(data[:, 8:], fifth)) * d[:, :, None, None] + low[:, :, None, None]


def q8_0(data: UInt8[Array, "blocks 34"]) -> Weights:
    """Weights of Q8_0."""
    return signed(data[:, 2:]) * apart(half(data[:, :2]))


def q8_1(data: UInt8[Array, "blocks 36"]) -> Weights:
    """Weights of Q8_1, whose second field only serves sums."""
    return signed(data[:, 4:]) * apart(half(data[:, :2]))


def q1_0(data: UInt8[Array, "blocks 18"]) -> Weights:
    """Weights of Q1_0: the scale where a bit is 1, else its negative."""
    d = apart(half(data[:, :2]))[:, :, None]
    return negated(d, bits_of(data[:, 2:]) ^ np.uint32(1))


def _five_bits(low: UInt8[Array, "blocks 16"], fifth: UInt32[Array, "blocks 1"]) -> UInt32[Array, "blocks 1 2 16"]:
    """Codes of 32 weights, of which a word holds the highest bits."""
    weight = np.arange(32, dtype=np.uint32).reshape(1, 1, 2, 16)
    return planes(low, 16, 4) | (((fifth[:, :, None, None] >> weight) & np.uint32(1)) << 4)
