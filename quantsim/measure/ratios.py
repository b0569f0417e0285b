"""Ratios of sums with their standard errors: what a study makes of the sums over its independent units.

A unit is whatever varies independently: an array that was drawn, a row, an output. Every function takes one sum for
each unit, or several that are added on the host in float64, and gives an ``Estimate``, a value with its standard error.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike

#: Standard errors by which a number must lie off a limit to be clearly beyond it.
CLEARLY = 3.0


class Estimate(NamedTuple):
    """A measured number and its standard error.

    >>> Estimate(0.5, 0.01).times(100.0)
    Estimate(value=50.0, se=1.0)
    """

    value: float
    se: float = 0.0

    def times(self, factor: float) -> "Estimate":
        """The number in another unit.

        >>> Estimate(-1.0, 0.5).times(-2.0)
        Estimate(value=2.0, se=1.0)
        """
        return Estimate(self.value * factor, self.se * abs(factor))

    def plus(self, constant: float) -> "Estimate":
        """The number moved by a constant, which has no error.

        >>> Estimate(3.5, 0.5).plus(-1.0)
        Estimate(value=2.5, se=0.5)
        """
        return Estimate(self.value + constant, self.se)

    def clearly_above(self, limit: float) -> bool:
        """Whether it is larger than a limit by more than three standard errors.

        >>> Estimate(1.0, 0.1).clearly_above(0.6), Estimate(1.0, 0.1).clearly_above(0.8)
        (True, False)
        """
        return self.value > limit + CLEARLY * self.se


def per_unit(sums: ArrayLike) -> NDArray[np.float64]:
    """One sum for each unit: what a device has summed, row by row or tile by tile, added over all axes but the first.

    >>> per_unit([[1.0, 2.0], [3.0, 4.0]]).tolist(), per_unit([1.0, 2.0]).tolist(), per_unit(1.0).tolist()
    ([3.0, 7.0], [1.0, 2.0], 1.0)
    """
    wide = np.asarray(sums, np.float64)
    return np.asarray(wide.sum(axis=tuple(range(1, wide.ndim))))


def mean(values: ArrayLike) -> Estimate:
    """Mean over units and its standard error, s / sqrt(n); that of one unit is NaN.

    >>> mean([1.0, 3.0])
    Estimate(value=2.0, se=1.0)
    """
    return ratio(values, 1.0)


def ratio(of: ArrayLike, over: ArrayLike) -> Estimate:
    """Sum of ``of`` over sum of ``over``, NaN where undefined.

    With r = sum a / sum b of n units, the delta method gives se = sqrt(n / (n - 1) sum (a - r b)^2) / |sum b|: units
    whose a and b rise together add little to it.

    Args:
        of: sums of each unit, (units, ...).
        over: the same, or one number for all.

    >>> ratio([1.0, 3.0], [2.0, 2.0])
    Estimate(value=1.0, se=0.5)
    >>> ratio([1.0, 2.0], [2.0, 4.0])
    Estimate(value=0.5, se=0.0)
    """
    a, b = np.broadcast_arrays(per_unit(of), per_unit(over))
    n, total = a.size, b.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        r = a.sum() / total
        se = np.sqrt(((a - r * b) ** 2).sum() * n / (n - 1)) / abs(total) if n > 1 else np.nan
    return Estimate(float(r), float(se))


def root_ratio(of: ArrayLike, over: ArrayLike) -> Estimate:
    """Square root of a ratio of sums: the relative rms of errors, from the sums of their squares and of the signal's.

    sqrt(r), with the standard error se(r) / (2 sqrt(r)); where no unit errs both are 0.

    >>> root_ratio([1.0, 3.0], [8.0, 8.0])
    Estimate(value=0.5, se=0.125)
    """
    r, se = ratio(of, over)
    if not r > 0:
        return Estimate(r, se)
    return Estimate(float(np.sqrt(r)), float(se / (2 * np.sqrt(r))))


def decibels(of: ArrayLike, over: ArrayLike) -> Estimate:
    """Ratio of sums of squares in decibels, for example the SQNR from those of signal and errors.

    10 log10 r, with the standard error 10 / ln 10 · se(r) / r. Both sums over the same units are a paired comparison:
    what a quantizer gains over another on the same arrays is known far better than the SQNR of either.

    >>> decibels([10.0, 10.0], [1.0, 1.0])
    Estimate(value=10.0, se=0.0)
    """
    r, se = ratio(of, over)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate(float(10 * np.log10(np.float64(r))), float(10 / np.log(10) * np.float64(se) / r))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """What ``a`` is more than ``b``, if their errors are independent: sqrt(se_a^2 + se_b^2).

    >>> difference(Estimate(50.0, 0.3), Estimate(44.0, 0.4))
    Estimate(value=6.0, se=0.5)
    """
    return Estimate(a.value - b.value, float(np.hypot(a.se, b.se)))


def columns(**estimates: Estimate) -> dict[str, float]:
    """Estimates as columns of a row: ``name`` and ``name_se`` for each.

    >>> {"spec": "int8"} | columns(sqnr_db=Estimate(42.0, 0.1))
    {'spec': 'int8', 'sqnr_db': 42.0, 'sqnr_db_se': 0.1}
    """
    row: dict[str, float] = {}
    for name, (value, se) in estimates.items():
        row |= {name: value, f"{name}_se": se}
    return row
