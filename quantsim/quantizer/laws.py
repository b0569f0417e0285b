"""The law of the scale of a quantizer of scaled elements, as theory takes it."""

from math import floor, log2
from typing import Any

from quantsim import formats
from quantsim.calibration import RMS, Absmax, Clip, FourOverSix, MinMax, Percentile, normal_reach
from quantsim.formats import PowerOfTwo
from quantsim.granularity import ShapeNeededError
from quantsim.theory.scheme import (
    AbsmaxScale,
    FourOverSixScale,
    MinMaxScale,
    PercentileScale,
    PowerOfTwoScale,
    RmsScale,
    ScaleLaw,
    TwoLevelScale,
)

_DIGITS = 23  # of the mantissa of float32


def law_of(q: Any, total: int | None) -> ScaleLaw | None:
    """The law of the scales of a quantizer with a granularity, in a tensor of ``total`` weights; None if it has none.

    Of powers of two and of two levels it is known where the scale follows from the largest weight: absmax and clip. A
    scale that is chosen by the error it leaves follows from no single weight; known is the choice between two,
    fouroversix, where the error that chooses is that of rounding to nearest as well.

    Raises:
        ShapeNeededError: if the scale of the tensor needs to know how many weights there are.
    """
    rule, reach = q.calibration, formats.reach(q.format)
    part = float(rule.ratio) if isinstance(rule, Clip) else 1.0
    stored = None if q.scale_format.name == "f32" else q.scale_format
    if isinstance(rule, FourOverSix):
        return _four_over_six(q, stored, total) if q.rounding in ("even", "away") else None
    if isinstance(stored, PowerOfTwo):
        return power_law(stored, q.format, part) if isinstance(rule, Absmax | Clip) else None
    if q.two_level:
        return _two_levels(q, reach / part, total) if isinstance(rule, Absmax | Clip) else None
    if isinstance(rule, RMS):
        return RmsScale(normal_reach(q.format), reach, stored)
    if isinstance(rule, MinMax):
        return MinMaxScale(stored)
    if isinstance(rule, Percentile):
        return PercentileScale(rule.p, reach, stored)
    if not isinstance(rule, Absmax | Clip):
        return None
    signed = formats.bounds(q.format) == "signed"
    return AbsmaxScale(reach / part, stored, signed, positive_first=signed)


def power_law(scale: PowerOfTwo, fmt: formats.Format, part: float = 1.0) -> PowerOfTwoScale:
    """Powers of two: the next one where ``part`` of the largest magnitude passes an edge.

    >>> power_law(PowerOfTwo("even"), formats.FORMATS["e2m1"])
    PowerOfTwoScale(edge=0.875, shift=-2, signed=False, positive_first=False)
    """
    added, last, implied = formats.carry(scale, fmt)
    top = last + implied
    if scale.rule in ("ceil", "rceil"):  # beyond the edge, not at it
        edge = 1 + ((1 << _DIGITS) - 1 - added) * 2.0**-_DIGITS
        return PowerOfTwoScale(edge * (1 + 2.0**-40) / part, 1 - top)
    return PowerOfTwoScale((1 - added * 2.0 ** -(_DIGITS + 1)) / part, -top)


def _two_levels(q: Any, reach: float, total: int | None) -> TwoLevelScale:
    return TwoLevelScale(reach, q.scale_format, _known(total))


def _four_over_six(q: Any, stored: formats.Float | None, total: int | None) -> FourOverSixScale:
    """A scale of the tensor leaves room for scales one and a half times as large."""
    if not q.two_level:
        return FourOverSixScale(stored)
    top = 2.0 ** floor(log2(formats.grid(q.scale_format).high / 1.5))
    return FourOverSixScale(stored, _known(total), top)


def _known(total: int | None) -> int:
    if total is None:
        raise ShapeNeededError("the scale of the tensor needs the shape of the array: pass shape=(out, in)")
    return total
