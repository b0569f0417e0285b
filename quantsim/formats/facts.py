"""What follows from the facts of a format: its arithmetic, levels and range."""

from functools import lru_cache
from math import frexp
from typing import Any

import jax.numpy as jnp
import numpy as np

from quantsim.formats.kinds import Carry, Codebook, Float, Format, Grid, Integer, PowerOfTwo, Traced, bounds
from quantsim.numerics import ieee

_LISTED = 16  # bits up to which levels are listed
_DIGITS = 23  # of the mantissa of float32


def grid(fmt: Integer | Float | Traced) -> Grid:
    """The arithmetic facts of an integer (quantum 1 everywhere) or a small float.

    >>> from quantsim.formats import parse
    >>> grid(parse("e4m3"))
    Grid(mantissa_bits=3, min_exponent=-6, low=-448.0, high=448.0)
    """
    if isinstance(fmt, Traced):
        return fmt.grid
    return _integer_grid(fmt) if isinstance(fmt, Integer) else _float_grid(fmt)


def _integer_grid(fmt: Integer) -> Grid:
    if not fmt.signed:
        return Grid(fmt.bits, fmt.bits, 0.0, 2.0**fmt.bits - 1)
    half = 2.0 ** (fmt.bits - 1)
    return Grid(fmt.bits, fmt.bits, 1 - half if fmt.bounds == "narrow" else -half, half - 1)


def _float_grid(fmt: Float) -> Grid:
    bias = 2 ** (fmt.exponent_bits - 1) - (fmt.specials != "fnuz")
    top_field = 2**fmt.exponent_bits - 1 - (fmt.specials == "ieee")
    if fmt.specials == "fn" and not fmt.mantissa_bits:  # the one code of the top exponent is NaN
        top_field -= 1
    last_digit = 2.0**-fmt.mantissa_bits
    fraction = 2.0 - last_digit - (last_digit if fmt.specials == "fn" and fmt.mantissa_bits else 0.0)
    high = fraction * 2.0 ** (top_field - bias)
    return Grid(fmt.mantissa_bits, 1 - bias, -high if fmt.signed else 0.0, high)


@lru_cache
def _levels(fmt: Format) -> tuple[float, ...]:
    if isinstance(fmt, Codebook):
        return fmt.values
    g = grid(fmt)
    if isinstance(fmt, Integer):
        return tuple(np.arange(g.low, g.high + 1).tolist())
    if fmt.bits > _LISTED:
        raise ValueError(f"{fmt.name} has too many levels to list")
    codes = np.arange(2 ** (fmt.exponent_bits + fmt.mantissa_bits), dtype=np.float64)
    field, mantissa = np.divmod(codes, 2**fmt.mantissa_bits)
    fraction = np.where(field == 0, mantissa, mantissa + 2**fmt.mantissa_bits)
    positive = fraction * 2.0 ** (np.maximum(field, 1) - 1 + g.min_exponent - fmt.mantissa_bits)
    positive = positive[positive <= g.high]
    negative = -positive[:0:-1] if fmt.signed else []
    return tuple(np.concatenate([negative, positive]).tolist())


def levels(fmt: Format) -> np.ndarray:
    """All values that a code can mean, float64, increasing; zero once.

    Raises:
        ValueError: for floats of more than 16 bits.

    >>> from quantsim.formats import parse
    >>> levels(parse("e2m1"))[7:].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    return np.array(_levels(fmt))


def ends(fmt: Format | Traced) -> Any:
    """The last two levels on either side, also of formats with too many levels to list; a tuple where they are traced.

    >>> from quantsim.formats import parse
    >>> ends(parse("e2m1")).tolist()
    [-6.0, -4.0, 4.0, 6.0]
    """
    if isinstance(fmt, Codebook):
        return levels(fmt)[[0, 1, -2, -1]]
    low, high = grid(fmt)[2:]
    gap = _last_gap(fmt)
    found = (low, low + gap, high - gap, high)
    return found if isinstance(fmt, Traced) else np.array(found)


def _last_gap(fmt: Integer | Float | Traced) -> Any:
    """Distance of the first and of the last level from the next: the quantum just below the last."""
    if bounds(fmt) is not None:
        return 1.0
    m, smallest, _, high = grid(fmt)  # pyright: ignore[reportArgumentType]
    if isinstance(fmt, Traced):
        below = ieee.from_bits(ieee.bits_of(jnp.asarray(high)) - 1)
        return ieee.power_of_two(jnp.maximum(ieee.exponent_of(below), smallest) - m)
    return 2.0 ** (max(frexp(np.nextafter(high, 0))[1] - 1, smallest) - m)


def largest(fmt: Format) -> float:
    """Largest magnitude that a code can mean."""
    return max(abs(v) for v in fmt.values) if isinstance(fmt, Codebook) else max(abs(v) for v in grid(fmt)[2:])


def reach(fmt: Format | Traced) -> Any:
    """What absmax is divided by to get the scale: the level, or the half step beyond it, that absmax falls on.

    >>> from quantsim.formats import Integer, parse
    >>> reach(parse("int8")), reach(Integer("int8", 8, "half")), reach(parse("nf4")), reach(parse("uint4"))
    (127.0, 127.5, 1.0, 15.0)
    """
    if isinstance(fmt, Traced):
        return fmt.reach
    if not isinstance(fmt, Integer) or not fmt.signed:
        return largest(fmt)
    return 2.0 ** (fmt.bits - 1) - {"narrow": 1.0, "half": 0.5, "full": 0.0, "signed": 0.0}[fmt.bounds]


def last_code(fmt: Integer | Traced) -> Any:
    """Largest code of a signed integer that has a zero point: 2^bits - 1.

    >>> from quantsim.formats import Integer
    >>> last_code(Integer("int4", 4))
    15.0
    """
    return 2.0 * fmt.grid.high + 1 if isinstance(fmt, Traced) else 2.0**fmt.bits - 1


def carry(scale: PowerOfTwo, fmt: Format) -> Carry:
    """What the rule of a power-of-two scale means for an element, in numbers.

    A carry out of the mantissa adds 1 to the exponent, so that no logarithm and no quotient is rounded.

    Raises:
        ValueError: for the rule "even" with a codebook, which has no digits.

    >>> from quantsim.formats import parse
    >>> carry(PowerOfTwo("ceil"), parse("e2m1")), carry(PowerOfTwo(), parse("int8"))
    (Carry(added=8388607, last=2, implied=0), Carry(added=0, last=0, implied=6))
    """
    significand, exponent = frexp(reach(fmt))
    digits, all_ones = _digits(fmt), (1 << _DIGITS) - 1
    if digits is None and scale.rule == "even":
        raise ValueError(f"codebook {fmt.name} has no digits that e8m0:even could round to: say another rule")
    added = {
        "floor": 0,
        "ceil": all_ones,
        "even": 1 << (_DIGITS - 1 - (digits or 0)),
        "rceil": all_ones - int(np.ldexp(np.float32(2 * significand - 1), _DIGITS)),
    }[scale.rule]
    implied = digits if digits is not None and isinstance(fmt, Integer) else 0
    return Carry(added, exponent - 1 - implied, implied)


def _digits(fmt: Format) -> int | None:
    """Binary digits after the leading one of the largest level; a codebook has none."""
    if isinstance(fmt, Codebook):
        return None
    return fmt.mantissa_bits if isinstance(fmt, Float) else fmt.bits - 1 - fmt.signed
