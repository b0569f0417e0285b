"""Weights of GGUF's formats whose codes are places in a table of sixteen levels, and of its ternary ones.

Where each field lies in a block, first to last:

======  =======  ====================================================================  ===========================
name    weights  bytes                                                                 weight
======  =======  ====================================================================  ===========================
IQ4_NL  32       scale 2, codes 16                                                     level scale
IQ4_XS  256      scale of scales 2, high two bits of scales 2, low four 4, codes 128   level (scale - 32) scale
MXFP4   32       e8m0 scale 1, codes 16                                                level 2^(scale - 128)
NVFP4   64       e4m3 scales 4, codes 32                                               level scale / 2
TQ1_0   256      five codes a byte 48, four a byte 4, scale 2                          (code - 1) scale
TQ2_0   256      codes 64, scale 2                                                     (code - 1) scale
======  =======  ====================================================================  ===========================

Levels of e2m1 are doubled. All products are exact, but for those that MXFP4 makes too large or too small.
Source: ggml, ggml-common.h for the fields, ggml-quants.c, ``dequantize_row_*`` for what they mean.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8, UInt32

from quantsim._types import Weights
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.nonlinear import TABLE
from quantsim.quantizer.blockformats.unpacking.pieces import apart, half, looked_up, number, planes, wide

_E2M1_MAGNITUDES = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float32)
#: Minus zero is read as zero.
_E2M1 = np.concatenate([_E2M1_MAGNITUDES, 0 - _E2M1_MAGNITUDES])


def iq4_nl(data: UInt8[Array, "blocks 18"]) -> Weights:
    """Weights of IQ4_NL."""
    d = apart(half(data[:, :2]))[:, :, None, None]
    return looked_up(TABLE, planes(data[:, 2:], 16, 4)) * d


def iq4_xs(data: UInt8[Array, "blocks 136"]) -> Weights:
    """Weights of IQ4_XS."""
    low, high = planes(data[:, 4:8], 1, 4), planes(data[:, 2:4], 1, 2)
    six = low.reshape(-1, 8) | (high.reshape(-1, 8) << 4)
    steps = apart(half(data[:, :2]) * number(six, zero=32)).reshape(-1, 8, 1, 1)
    return looked_up(TABLE, planes(data[:, 8:], 16, 4)) * steps


def mxfp4(data: UInt8[Array, "blocks 17"]) -> Weights:
    """Weights of MXFP4, by two products with powers of two, of which the first is exact.

    Where the result is subnormal, which arithmetic would make zero, its bits are the level itself, shifted.
    """
    e = lax.bitcast_convert_type(wide(data[:, :1]), jnp.int32)[:, :, None, None]
    level = looked_up(_E2M1, planes(data[:, 1:], 16, 4))
    value = level * ieee.power_of_two((e >> 1) - 64) * ieee.power_of_two(e - (e >> 1) - 64)
    whole = jnp.abs(level).astype(jnp.int32)
    subnormal = (whole << (21 + jnp.minimum(e, 1))) | (ieee.bits_of(level) & -(2**31))
    return jnp.where((e < 2) & (whole < (4 >> jnp.minimum(e, 2))), ieee.from_bits(subnormal), value)


def nvfp4(data: UInt8[Array, "blocks 36"]) -> Weights:
    """Weights of NVFP4."""
    d = apart(_half_e4m3(wide(data[:, :4])))[:, :, None, None]
    return looked_up(_E2M1, planes(data[:, 4:], 8, 4)) * d


def tq1_0(data: UInt8[Array, "blocks 54"]) -> Weights:
    """Weights of TQ1_0: a byte is a fraction of 256, whose digits in base 3 are the codes."""
    d = apart(half(data[:, 52:]))[:, :, None]
    runs = [_digits(data[:, :32], 5), _digits(data[:, 32:48], 5), _digits(data[:, 48:52], 4)]
    return jnp.concatenate([number(codes.reshape(len(d), -1, 16), zero=1) * d for codes in runs], 1)


def tq2_0(data: UInt8[Array, "blocks 66"]) -> Weights:
    """Weights of TQ2_0."""
    d = apart(half(data[:, 64:]))[:, :, None, None]
    return number(planes(data[:, :64], 32, 2), zero=1) * d


def _digits(data: UInt8[Array, "blocks bytes"], digits: int) -> UInt32[Array, "blocks digits bytes"]:
    """Digits of fractions: the fraction times a power of 3, without what is whole of it, times 3, and what is whole."""
    powers = 3 ** np.arange(digits, dtype=np.uint32)[None, :, None]
    return (((wide(data)[:, None] * powers) & np.uint32(255)) * np.uint32(3)) >> 8


def _half_e4m3(code: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Half the value of an e4m3 without sign, 0 for its NaN."""
    field, mantissa = lax.bitcast_convert_type((code >> 3) & np.uint32(15), jnp.int32), number(code & np.uint32(7))
    value = jnp.where(field == 0, mantissa, mantissa + 8) * ieee.power_of_two(jnp.maximum(field, 1) - 11)
    return jnp.where(code == 0x7F, 0.0, value)
