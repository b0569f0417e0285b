"""Upper partial moments of symmetric populations, and of slow ones at many places."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike
from quantsim.populations.base import F64, Population


def mirrored(x: ArrayLike, variance: Any, k: int, positive: Callable[[F64], F64]) -> F64:
    """Upper moment of a symmetric population at any x from that at x >= 0."""
    x = np.asarray(x, np.float64)
    above = positive(np.abs(x))
    return np.where(x >= 0, above, [1 - above, above - x, variance + x * x - above][k])


class Excess:
    """E[max(X - x, 0)] at many x >= 0: Hermite interpolation of closed forms that take long, to 1e-14 of the std."""

    def __init__(self, pop: Population) -> None:
        """Tabulate it and its slope, minus P(X > x)."""
        self.step = float(pop.std_dev()) / 1024
        self.end = 8 * float(pop.std_dev())
        x = np.arange(1024 * 8 + 2) * self.step
        self.value = np.asarray(pop.upper_moment(x, 1))
        self.slope = np.asarray(-self.step * pop.upper_moment(x, 0))

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate at 0 <= x < ``end``."""
        place = x / self.step
        i = place.astype(np.intp)
        u = place - i
        a, b, da, db = self.value[i], self.value[i + 1], self.slope[i], self.slope[i + 1]
        rise = b - a
        return a + u * (da + u * ((3 * rise - 2 * da - db) + u * (da + db - 2 * rise)))


_MANY = 1 << 14
_excess = lru_cache(32)(Excess)


def interpolated(pop: Population, x: F64, exact: Callable[[F64], F64]) -> F64:
    """``exact(x)``, the first upper moment at x >= 0; at many places from a table."""
    if np.size(x) < _MANY:
        return exact(x)
    table, x = _excess(pop), np.asarray(x, np.float64)
    out, near = np.empty(x.shape), x < table.end
    out[near], out[~near] = table(x[near]), exact(x[~near])
    return out
