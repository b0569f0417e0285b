"""Extremes of a population from its tail: where it reaches, and the largest of n weights."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np

from quantsim._types import ArrayLike, Shape
from quantsim.populations.parameters import F64, Vector

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(40)
_FARTHEST = 1e300  # where a search for a magnitude ends
_NEVER = 1e-280  # a probability below which nothing is followed


@runtime_checkable
class HasTail(Protocol):
    """A population, as far as its extremes are concerned."""

    def tail(self, x: ArrayLike) -> F64:
        """P(|X| > x)."""
        ...

    def _breaks(self) -> Vector: ...


def expected_absmax_power(pop: HasTail, n: int, power: int) -> float:
    """E[max(|x_1| … |x_n|)^power] = power times the integral of x^(power-1) (1 - (1 - tail(x))^n) over x > 0.

    Gauss-Legendre on panels between the magnitudes at which the integrand falls, split in decades of n tail(x). The
    last lie far out, because the second power of Student's t with few degrees of freedom converges slowly.
    """
    decades = 10.0 ** np.concatenate([np.arange(2, -17, -0.5), np.arange(-17, -281, -2.0)]) / n
    edges = magnitudes(pop, decades)
    edges = np.unique(np.concatenate([[0.0], edges[0] * np.linspace(0.25, 1, 4), edges, pop._breaks()]))
    a, b = edges[:-1, None], edges[1:, None]
    x = (a + b) / 2 + (b - a) / 2 * _NODES
    with np.errstate(divide="ignore"):
        some = -np.expm1(n * np.log1p(-np.minimum(pop.tail(x), 1.0)))
    return float(power * ((b - a) / 2 * _NODE_WEIGHTS * x ** (power - 1) * some).sum())


def magnitudes(pop: HasTail, probabilities: Vector) -> Vector:
    """Smallest magnitudes that are exceeded with at most these probabilities."""
    return smallest(lambda x: pop.tail(x) <= probabilities, probabilities.shape, low=0.0)


@lru_cache
def reach(pop: HasTail) -> float:
    """Magnitude that is exceeded with probability 1e-280 only: where quadrature may end."""
    return float(smallest(lambda x: pop.tail(x) <= _NEVER, (), low=0.0))


def smallest(reached: Callable[[Any], Any], shape: Shape, low: float | None = None) -> Vector:
    """Smallest x for which the monotone ``reached(x)`` holds, by bisection to the last bits of a float64.

    Args:
        reached: of an array of ``shape``, element by element.
        shape: of the result.
        low: a number below all results; without it one is looked for.
    """
    hi = np.ones(shape)
    while not np.all(done := reached(hi)) and hi.max(initial=1.0) < _FARTHEST:
        hi = np.where(done, hi, hi * 4)
    lo = np.full(shape, low) if low is not None else -np.ones(shape)
    while low is None and np.any(below := reached(lo)) and lo.min(initial=-1.0) > -_FARTHEST:
        lo = np.where(below, lo * 4, lo)
    for _ in range(200):
        mid = (lo + hi) / 2
        if np.all((mid == lo) | (mid == hi)):
            break
        done = reached(mid)
        lo, hi = np.where(done, lo, mid), np.where(done, mid, hi)
    return hi
