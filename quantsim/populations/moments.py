"""Upper partial moments of symmetric populations, far out, and of slow ones at many places."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike
from quantsim.populations.parameters import F64, is_static

_NODES, _WEIGHTS = np.polynomial.laguerre.laggauss(24)


def mirrored(x: ArrayLike, variance: Any, k: int, positive: Callable[[F64], F64]) -> F64:
    """Upper moment of a symmetric population at any x from that at x >= 0."""
    x = np.asarray(x, np.float64)
    if np.all(x >= 0):
        return positive(x)
    above = positive(np.abs(x))
    return np.where(x >= 0, above, [1 - above, above - x, variance + x * x - above][k])


def far_moment(k: int, path: Callable[[float], tuple[F64, F64]]) -> F64:
    """E[max(X - x, 0)^k] / pdf(x) by Gauss-Laguerre, for x where closed forms are small differences of large numbers.

    With pdf(x + s(w)) = pdf(x) e^-w it is the integral of s^k s' e^-w over w > 0, all of it positive.

    Args:
        k: order.
        path: s and s' at w; smooth for w > -4 or so.

    >>> round(float(far_moment(2, lambda w: (np.float64(w), np.float64(1.0)))), 9)  # Laplace: k!
    2.0
    """
    parts = zip(_WEIGHTS, map(path, _NODES.tolist()), strict=True)
    return sum((weight * s**k * slope for weight, (s, slope) in parts), np.float64(0.0))


def with_far(near: F64, far: Any, x: F64, exact: Callable[[F64], F64]) -> F64:
    """``near``, but ``exact(x)`` where ``far`` holds; evaluated there alone."""
    out = np.array(near)
    if np.any(far):
        out[far] = exact(np.asarray(x)[far])
    return out


@runtime_checkable
class HasSlowMoments(Protocol):
    """A symmetric population whose upper moments take long."""

    def std_dev(self) -> Any:
        """Root of the second moment."""
        ...

    def pdf(self, x: ArrayLike) -> F64:
        """Probability density."""
        ...

    def _upper_moment_of_positive(self, x: F64, k: int) -> F64: ...


class Table:
    """E[max(X - x, 0)^k] at many x >= 0: Hermite interpolation of closed forms that take long.

    ``accurate`` says in which cells it is true to 1e-14 of the std^k and to 1e-11 of itself, judged halfway between
    the places of the table.
    """

    def __init__(self, pop: HasSlowMoments, k: int) -> None:
        """Tabulate it and its slope, minus k times the moment before, or minus the density."""
        std = float(pop.std_dev())
        self.step, self.end = std / 1024, 8 * std
        x = np.arange(1024 * 8 + 2, dtype=np.float64) * self.step
        self.value = np.asarray(pop._upper_moment_of_positive(x, k))
        self.slope = -self.step * np.asarray(k * pop._upper_moment_of_positive(x, k - 1) if k else pop.pdf(x))
        middle = (x[1:] + x[:-1]) / 2
        exact = pop._upper_moment_of_positive(middle, k)
        self.accurate = np.abs(self(middle) - exact) <= np.minimum(1e-14 * std**k, 1e-11 * exact)

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate at 0 <= x < ``end``."""
        place = x / self.step
        i = place.astype(np.intp)
        u = place - i
        a, b, da, db = self.value[i], self.value[i + 1], self.slope[i], self.slope[i + 1]
        rise = b - a
        return a + u * (da + u * ((3 * rise - 2 * da - db) + u * (da + db - 2 * rise)))


_MANY = 1 << 12  # places
_table = lru_cache(48)(Table)


def interpolated(pop: HasSlowMoments, x: F64, k: int) -> F64:
    """The upper moment of order k at x >= 0; at many places from a table where that is accurate."""
    if np.size(x) < _MANY or not is_static(pop):
        return pop._upper_moment_of_positive(x, k)
    table, x = _table(pop, k), np.asarray(x, np.float64)
    cell = (np.minimum(x, table.end) / table.step).astype(np.intp)
    near = (x < table.end) & table.accurate[cell]
    out = np.empty(x.shape)
    out[near], out[~near] = table(x[near]), pop._upper_moment_of_positive(x[~near], k)
    return out
