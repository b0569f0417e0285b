"""Outliers as a first-class part of a population: how many, where, how large, of which sign, and their law."""

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, get_args

import jax
import numpy as np

from quantsim._types import Number
from quantsim.populations.parameters import F64, Vector, check_number, spell
from quantsim.populations.placement import Layout, Places, Sign, Values

_LARGEST = float(np.finfo(np.float32).max)
_LIMITS = {"rate": 1, "count": 2**31 - 1, "magnitude": _LARGEST, "value": _LARGEST}
_CHOICES = {"layout": get_args(Layout), "sign": get_args(Sign), "values": get_args(Values)}
_DEFAULTS = {"layout": "element", "sign": "random", "values": "exact", "block": 32}
_SIGNS: dict[Sign, tuple[tuple[int, float], ...]] = {
    "random": ((1, 0.5), (-1, 0.5)),
    "positive": ((1, 1.0),),
    "negative": ((-1, 1.0),),
}
_FLIPPED: dict[Sign, Sign] = {"random": "random", "positive": "negative", "negative": "positive"}


@dataclass(frozen=True)
class Outliers:
    """Which weights are replaced, and by what.

    Attributes:
        rate: probability that a unit (an element, row, column or block) is an outlier; or
        count: exact number of outlier units in the array.
        magnitude: size in standard deviations of the bulk; or
        value: absolute size.
        layout: the unit: "element", "row" (an output row), "column" (an input), "block" (``block`` inputs of a row).
        sign: "random", "positive" or "negative".
        values: "exact" (all of one magnitude, which may fall on a level and so flatter a quantizer) or "spread"
            (uniform from half to three halves of it).
        block: length of a block.

    Raises:
        TypeError: if a number is none.
        ValueError: if rate and count, or magnitude and value, are both or neither given, or out of range.

    >>> Outliers(count=1, value=100.0).size(bulk_std=0.02)
    100.0
    """

    rate: Number | None = None
    count: int | None = None
    magnitude: Number | None = None
    value: Number | None = None
    layout: Layout = "element"
    sign: Sign = "random"
    values: Values = "exact"
    block: int = 32

    def __post_init__(self) -> None:
        """Reject what cannot be placed."""
        if (self.rate is None) == (self.count is None):
            raise ValueError("outliers need either a rate or a count, for example rate=0.01")
        if (self.magnitude is None) == (self.value is None):
            raise ValueError("outliers need either a magnitude (in std of the bulk) or an absolute value")
        for name, high in _LIMITS.items():
            _check_range(name, getattr(self, name), high)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"outlier {name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.count is not None and int(self.count) != self.count:
            raise ValueError(f"the count of outliers is a whole number, got {self.count}")
        if not isinstance(self.block, Integral):
            raise TypeError(f"the length of an outlier block is a whole number, got {self.block!r}")
        if self.block < 1:
            raise ValueError(f"an outlier block needs at least 1 weight, got {self.block}")

    def size(self, bulk_std: Number) -> Any:
        """Absolute magnitude, given the standard deviation of the bulk."""
        if self.value is not None:
            return self.value
        assert self.magnitude is not None
        return self.magnitude * bulk_std

    @property
    def placed(self) -> bool:
        """Whether they depend on the shape of the array: all but those by rate and element."""
        return self.layout != "element" or self.count is not None

    def places(self, level: int) -> Places:
        """Where they fall, in a bulk that has outliers of ``level`` kinds already."""
        count = None if self.count is None else int(self.count)
        return Places(self.layout, int(self.block), count, self.rate, level)

    def mirrored(self, size: Any) -> "Outliers":
        """The outliers of -X, which have the absolute ``size``."""
        return replace(self, sign=_FLIPPED[self.sign], magnitude=None, value=size)

    def signs(self) -> tuple[tuple[int, float], ...]:
        """Each sign with its probability."""
        return _SIGNS[self.sign]

    def edges(self, size: Any) -> Vector:
        """Magnitudes at which the density or the tail of outliers of this ``size`` jumps."""
        return size * np.array([1.0] if self.values == "exact" else [0.5, 1.5])

    def ends(self, size: Any) -> tuple[float, float]:
        """The smallest and the largest outlier."""
        farthest, nearest = self.edges(size)[[-1, 0]]
        return (
            float(nearest if self.sign == "positive" else -farthest),
            float(-nearest if self.sign == "negative" else farthest),
        )

    def pdf(self, x: F64, size: Any) -> F64:
        """Probability density of an outlier; point masses are left out."""
        if self.values == "exact":
            return np.zeros(np.shape(x))
        within = (np.abs(x) >= size / 2) & (np.abs(x) <= 1.5 * size)
        share = np.sum([p * (np.sign(x) == sign) for sign, p in self.signs()], axis=0)
        return np.where(within, share / size, 0.0)

    def cdf(self, x: F64, size: Any) -> F64:
        """P(outlier <= x)."""
        total: Any = 0.0
        for sign, probability in self.signs():
            total = total + probability * self._cdf_of_sign(x, sign, size)
        return total

    def _cdf_of_sign(self, x: F64, sign: int, size: Any) -> Any:
        if self.values == "exact":
            return 1.0 * (x >= sign * size)
        from_half = np.clip(sign * x / size - 0.5, 0.0, 1.0)
        return from_half if sign > 0 else 1 - from_half

    def tail(self, x: F64, size: Any) -> F64:
        """P(|outlier| > x)."""
        if self.values == "exact":
            return 1.0 * (x < size)
        return 1 - np.clip(x / size - 0.5, 0.0, 1.0)

    def moment(self, k: int, size: Any) -> Any:
        """E[outlier^k]."""
        unit = 1.0 if self.values == "exact" else (1.5 ** (k + 1) - 0.5 ** (k + 1)) / (k + 1)
        return sum(p * sign**k for sign, p in self.signs()) * unit * size**k

    def upper_moment(self, x: F64, k: int, size: Any) -> F64:
        """E[max(outlier - x, 0)^k]; P(outlier > x) for k = 0."""
        above = self._point_above if self.values == "exact" else self._uniform_above
        total: Any = 0.0
        for sign, probability in self.signs():
            total = total + probability * above(x, k, sign * size)
        return total

    @staticmethod
    def _point_above(x: F64, k: int, at: Any) -> Any:
        return (at > x) * np.maximum(at - x, 0.0) ** k

    @staticmethod
    def _uniform_above(x: F64, k: int, middle: Any) -> Any:
        """Of outliers uniform from half to three halves of ``middle``: the integral of (y - x)^k over those above x."""
        low, high = sorted((middle / 2, middle * 1.5))
        a, b = np.maximum(high - x, 0.0), np.maximum(low - x, 0.0)
        powers = sum(a**j * b ** (k - j) for j in range(k + 1))  # (a^(k+1) - b^(k+1)) / (a - b)
        return np.clip(high - x, 0.0, high - low) * powers / ((k + 1) * (high - low))

    def atoms(self, size: Any) -> tuple[Vector, Vector]:
        """Point masses: where they are, and their probabilities."""
        if self.values != "exact":
            return np.zeros(0), np.zeros(0)
        signs, probabilities = np.array(self.signs()).T
        return signs * size, probabilities

    def __str__(self) -> str:
        """Spec of the outliers: defaults are left out."""
        given = {name: v for name, v in vars(self).items() if v is not None and _DEFAULTS.get(name) != v}
        return f"outliers({','.join(f'{name}={_shown(v)}' for name, v in given.items())})"


def _check_range(name: str, value: Any, high: float | int) -> None:
    if value is None:
        return
    check_number(f"outlier {name}", value)
    if not isinstance(value, jax.Array) and not 0 <= value <= high:
        raise ValueError(f"outlier {name} must lie between 0 and {high}, got {value}")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else spell(value)
