"""Upper partial moments of symmetric populations, far out, and of slow ones at many places."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike
from quantsim.populations.law import Law
from quantsim.populations.parameters import F64, is_static

_NODES, _WEIGHTS = np.polynomial.laguerre.laggauss(24)


def mirrored(x: ArrayLike, variance: Any, k: int, positive: Callable[[F64], F64]) -> F64:
    """Upper moment of a symmetric population at any x from that at x >= 0."""
    x = np.asarray(x, np.float64)
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


class Excess:
    """E[max(X - x, 0)] at many x >= 0: Hermite interpolation of closed forms that take long.

    ``accurate`` says in which cells it is true to 1e-14 of the std and to 1e-11 of itself, judged halfway between the
    places of the table.
    """

    def __init__(self, pop: Law) -> None:
        """Tabulate it and its slope, minus P(X > x)."""
        self.step = float(pop.std_dev()) / 1024
        self.end = 8 * float(pop.std_dev())
        x = np.arange(1024 * 8 + 2) * self.step
        self.value = np.asarray(pop.upper_moment(x, 1))
        self.slope = np.asarray(-self.step * pop.upper_moment(x, 0))
        middle = (x[1:] + x[:-1]) / 2
        exact = pop.upper_moment(middle, 1)
        self.accurate = np.abs(self(middle) - exact) <= np.minimum(1e-14 * float(pop.std_dev()), 1e-11 * exact)

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


def interpolated(pop: Law, x: F64, exact: Callable[[F64], F64]) -> F64:
    """``exact(x)``, the first upper moment at x >= 0; at many places from a table where that is accurate."""
    if np.size(x) < _MANY or not is_static(pop):
        return exact(x)
    table, x = _excess(pop), np.asarray(x, np.float64)
    cell = (np.minimum(x, table.end) / table.step).astype(np.intp)
    near = (x < table.end) & table.accurate[cell]
    out = np.empty(x.shape)
    out[near], out[~near] = table(x[near]), exact(x[~near])
    return out
