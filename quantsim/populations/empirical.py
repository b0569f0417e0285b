"""Populations made of real weights."""

import hashlib
from functools import cached_property

import numpy as np

from quantsim._types import ArrayLike
from quantsim.populations.parameters import F64, Vector
from quantsim.populations.population import Population
from quantsim.populations.samplers import Chosen, Sampler

_FAR, _MOST_FAR = 1000, 64  # root mean squares of the other values, and how many such values are told apart
_MAX_BREAKS = 1 << 14  # enough for quadrature: what lies between two of them holds less than 10^-4 of the values


class Empirical(Population):
    """Weights drawn with replacement from given values, for example those of a checkpoint; equal by content.

    An element is ``values[bits % n]``: the bias of the modulus is below n / 2^32.

    Raises:
        TypeError: for values that are no real numbers.
        ValueError: for no values, or values that are not finite.

    >>> Empirical([3.0, -1.0]).quantile([0.25, 0.75]).tolist()
    [-1.0, 3.0]
    """

    def __init__(self, values: ArrayLike) -> None:
        """Keep the sorted values as float32."""
        given = np.asarray(values)
        if given.size and not (np.issubdtype(given.dtype, np.integer) or given.dtype.kind in "fV"):
            raise TypeError(f"an empirical population is made of numbers, got an array of {given.dtype}")
        self.values: np.ndarray = np.sort(given.astype(np.float32).ravel())
        if not self.values.size or not np.isfinite(self.values).all():
            raise ValueError("an empirical population needs at least one value, all of them finite")
        self.values.setflags(write=False)

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.values.tobytes()).hexdigest()[:12]

    def __eq__(self, other: object) -> bool:
        """Equal values."""
        return isinstance(other, Empirical) and self._digest == other._digest

    def __hash__(self) -> int:
        """Hash of the values."""
        return hash(self._digest)

    def _sampler(self) -> Sampler:
        return Chosen(self.values)

    def _support(self) -> tuple[float, float]:
        return float(self.values[0]), float(self.values[-1])

    def _breaks(self) -> Vector:
        steps = np.unique(np.abs(self.values)).astype(np.float64)
        return steps[:: -(-steps.size // _MAX_BREAKS)]

    def pdf(self, x: ArrayLike) -> F64:
        """Zero: every value is a point mass."""
        return np.zeros(np.shape(x))

    def cdf(self, x: ArrayLike) -> F64:
        return np.searchsorted(self.values, np.asarray(x, np.float64), side="right") / self.values.size

    def tail(self, x: ArrayLike) -> F64:
        above = 1 - self.cdf(x)
        below = np.searchsorted(self.values, -np.asarray(x, np.float64), side="left") / self.values.size
        return above + below

    def _quantile(self, p: Vector) -> Vector:
        # the same quotients as cdf's: p * size could round past the value it came from
        reached = np.arange(1, self.values.size) / self.values.size
        return self.values[np.searchsorted(reached, p)].astype(np.float64)

    @cached_property
    def _above(self) -> np.ndarray:
        """Of the values from each one to the last: share, mean, and sum of squares about it over the number of all.

        Nothing cancels, as it would in a difference of sums. Source of the update: Welford, Technometrics 4 (1962).
        """
        v, n = self.values.astype(np.float64), np.arange(self.values.size, 0, -1)
        mean = np.cumsum(v[::-1])[::-1] / n
        gained = (v - np.append(mean[1:], 0.0)) ** 2 * (n - 1) / n
        return np.pad([n / v.size, mean, np.cumsum(gained[::-1])[::-1] / v.size], ((0, 0), (0, 1)))

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        x = np.asarray(x, np.float64)
        above, mean, squares = self._above[:, np.searchsorted(self.values, x, side="right")]
        return [above, above * (mean - x), squares + above * (mean - x) ** 2][k]

    def _mirrored(self) -> Population:
        return Empirical(0 - self.values)  # of 0 it makes 0, not the -0 that has other bytes

    def _atoms(self) -> tuple[Vector, Vector]:
        return self._distinct

    @cached_property
    def _distinct(self) -> tuple[Vector, Vector]:
        at, counts = np.unique(self.values.astype(np.float64), return_counts=True)
        return at, counts / self.values.size

    @cached_property
    def _far(self) -> float:
        """Magnitude from which on values lie 1000 times as far out as the root mean square of the others."""
        at, mass = self._distinct
        order = np.argsort(np.abs(at))
        at, mass = np.abs(at[order]), mass[order]
        others, power = np.cumsum(mass)[:-1], np.cumsum(mass * at**2)[:-1]
        apart = np.flatnonzero(at[1:] ** 2 * others > _FAR**2 * power)
        apart = apart[apart >= at.size - 1 - _MOST_FAR]
        return float(at[1 + apart[0]]) if apart.size else np.inf

    def _points(self) -> tuple[Vector, Vector]:
        at, mass = self._distinct
        far = np.abs(at) >= self._far
        return at[far], mass[far]

    @cached_property
    def _near(self) -> "Empirical":
        return Empirical(self.values[np.abs(self.values) < self._far])

    def _upper_moment_beside_points(self, x: ArrayLike, k: int) -> F64:
        if self._far == np.inf:
            return self.upper_moment(x, k)
        return self._near.upper_moment(x, k) * (self._near.values.size / self.values.size)

    def moment(self, k: int) -> float:
        return float(np.mean(self.values.astype(np.float64) ** k))

    def __str__(self) -> str:
        """A name with a digest of the values."""
        return f"empirical({self._digest})"

    __repr__ = __str__
