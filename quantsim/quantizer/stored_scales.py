"""Scales as they are stored: rounded to their format, in one level or two; and weights in units of them.

A *step* is the number that levels are multiplied with: the stored scale, times the scale of the tensor where there is
one. It is a float32 number, of ``e8m0`` a power of two that may be subnormal: what arithmetic would flush to zero is
taken from its bits.
"""

from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from quantsim import formats
from quantsim._types import Blocks, Number, PerBlock, TensorScale
from quantsim.formats import Carry, Elements, Format, PowerOfTwo
from quantsim.numerics import ieee
from quantsim.rounding import snap

_DIGITS = 23  # of the mantissa of float32
_INFINITY = 0x7F800000  # bit pattern of float32; that of any NaN is larger
_SMALLEST = 2.0**-126  # the smallest magnitude that arithmetic does not flush to zero
_LARGEST = float(np.finfo(np.float32).max)
_LAST_CODE = 254  # of e8m0; 255 is NaN
_OF_NAN = 128  # its exponent

#: A number for each block or weight; of powers of two it may be their exponents.
Step: TypeAlias = Float[Array, "..."] | Int32[Array, "..."]


class Scales(NamedTuple):
    """What is stored beside the elements: a scale for each block, and that of the tensor where there is one."""

    blocks: PerBlock
    tensor: TensorScale | None = None

    def step(self) -> PerBlock:
        """What levels are multiplied with; NaN where a block is not finite."""
        return self.blocks if self.tensor is None else self.blocks * self.tensor.reshape(1, 1)


def is_finite(top: PerBlock) -> Bool[Array, "blocks 1"]:
    """Whether all weights of a block are, from their largest magnitude."""
    return ieee.bits_of(top) < _INFINITY


# --- powers of two --------------------------------------------------------------------------------------------------


def carry_of(scale_format: Any, fmt: Elements) -> Carry:
    """The numbers of a power-of-two scale of elements."""
    if isinstance(scale_format, Carry):
        return scale_format
    assert isinstance(scale_format, PowerOfTwo)
    assert isinstance(fmt, Format)
    return formats.carry(scale_format, fmt)


def carry_numbers(scale_format: Any, fmt: Elements) -> tuple[Number, ...]:
    """The same as floats, exact in float32."""
    carry = carry_of(scale_format, fmt)
    return tuple(jnp.asarray(v, jnp.float32) if isinstance(v, Array) else float(v) for v in carry)


def has_powers(scale_format: Any) -> bool:
    """Whether scales are powers of two."""
    return isinstance(scale_format, PowerOfTwo | Carry)


def power_codes(reach: PerBlock, carry: Carry) -> Int32[Array, "blocks 1"]:
    """Bytes of the scales whose last level a magnitude falls on, 0 … 254."""
    bits = ieee.bits_of(reach)
    normal = jnp.where(bits < 1 << _DIGITS, 0, bits)
    return jnp.clip(((normal + carry.added) >> _DIGITS) - carry.last, 0, _LAST_CODE - carry.last)


def power(exponent: Int32[Array, "..."]) -> Float[Array, "..."]:
    """``2.0 ** exponent`` for exponents from -149 to 127, subnormal ones among them."""
    normal = (exponent + 127) << _DIGITS
    return ieee.from_bits(jnp.where(exponent < -126, 1 << jnp.clip(exponent + 149, 0, _DIGITS), normal))


def exponent_of_power(step: Float[Array, "..."]) -> Int32[Array, "..."]:
    """The exponent of a power of two; 128 of NaN.

    >>> exponent_of_power(power(jnp.array([[-127], [3]]))).tolist()
    [[-127], [3]]
    """
    bits = ieee.bits_of(step)
    of_subnormal = ieee.exponent_of((bits & ((1 << _DIGITS) - 1)).astype(jnp.float32)) - 149
    field = bits >> _DIGITS
    return jnp.where(field > 0, jnp.minimum(field, 255) - 127, of_subnormal)


def _two_factors(exponent: Int32[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Two normal factors of 2^exponent: as one number 2^-127 is subnormal, and flushed to zero."""
    half = exponent >> 1
    return ieee.power_of_two(half), ieee.power_of_two(exponent - half)


# --- two levels -----------------------------------------------------------------------------------------------------


def tensor_scale(reach: PerBlock, fmt: Elements, largest: Any) -> Float[Array, ""]:
    """Scale of a tensor: the largest reach of its blocks falls on the last level at the scale ``largest``.

    ``max reach / (last level * largest)`` in float32, at least 2^-126, so that it is no subnormal, and at most what
    keeps every weight finite. Of a tensor without weights it is 2^-126.
    """
    last = formats.reach(fmt)
    found = ieee.divide(jnp.max(reach, initial=0.0), last * largest)
    # one or two units in the last place below the largest float32, where the products would be rounded up to infinity
    for _ in range(2):
        infinite = ~jnp.isfinite(ieee.unfused(found * largest, found) * last)
        found = jnp.where(infinite, ieee.from_bits(ieee.bits_of(found) - 1), found)
    return jnp.maximum(found, _SMALLEST)


def stored(
    reach: PerBlock,
    fmt: Elements,
    scale_format: Any,
    *,
    tensor: TensorScale | None = None,
    last: float | None = None,
) -> PerBlock:
    """Scales as stored that put ``reach`` on the last level of the elements.

    Args:
        reach: of each block, finite.
        fmt: elements.
        scale_format: of the scales.
        tensor: scale of the tensor.
        last: another level than the last, for float scales.
    """
    if has_powers(scale_format):
        carry = carry_of(scale_format, fmt)
        return power(power_codes(reach, carry) - 127 - carry.implied)
    level = formats.reach(fmt) if last is None else last
    # one division: each more would round once more
    return snap(
        ieee.divide(reach, level if tensor is None else jnp.asarray(level * tensor).reshape(1, 1)), scale_format
    )


# --- applying them --------------------------------------------------------------------------------------------------


def in_units(blocks: Blocks, step: Step, scale_format: Any, *, two_level: bool = False) -> Blocks:
    """Weights over their step, rounded once; 0 where it is 0, and of two levels and powers of two where it is NaN."""
    if has_powers(scale_format):
        exponent = _exponents(step)
        first, second = _two_factors(-exponent)
        return jnp.where(exponent == _OF_NAN, 0.0, blocks) * first * second
    if two_level:
        return jnp.where(step > 0, ieee.divide(blocks, step), 0.0)
    return jnp.where(step == 0, 0.0, ieee.divide(blocks, jnp.where(step == 0, 1.0, step)))


def times(levels: Blocks, step: Step, scale_format: Any) -> Blocks:
    """Levels times their step."""
    if not has_powers(scale_format):
        return levels * step
    exponent = _exponents(step)
    first, second = _two_factors(exponent)
    return levels * jnp.where(exponent == _OF_NAN, jnp.nan, first) * second


def _exponents(step: Step) -> Int32[Array, "..."]:
    return step if jnp.issubdtype(step.dtype, jnp.integer) else exponent_of_power(step)
