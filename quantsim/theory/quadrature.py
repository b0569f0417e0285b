"""Gauss-Legendre quadrature over a whole population, its far tails and jumps included."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim.populations import Population

F64: TypeAlias = NDArray[np.float64]
Density: TypeAlias = Callable[[F64], F64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@lru_cache
def panels(pop: Population) -> F64:
    """Quarter octaves on either side of zero, as far as the population reaches with probability 1e-280.

    >>> from quantsim.populations import Uniform
    >>> panels(Uniform(3**-0.5))[[0, -2, -1]].round(4).tolist()  # 2^(-1/4) below the edge
    [-1.0, 0.8409, 1.0]
    """
    reach = pop._reach()
    finest = min(part.std_dev() for part in pop._parts())
    outer = reach * 2.0 ** -np.arange(0.0, 20 + np.log2(reach / finest), 0.25)
    inside = np.atleast_1d(pop._breaks())
    inside = inside[inside < reach]
    return np.unique(np.concatenate([outer, -outer, inside, -inside, [0.0]]))


def nodes(a: F64, b: F64) -> tuple[F64, F64]:
    """Nodes and weights of the intervals from ``a`` to ``b``, one row each.

    >>> x, weights = nodes(np.array([0.0, 1.0]), np.array([1.0, 3.0]))
    >>> (x**2 * weights).sum(axis=1).round(9).tolist()  # 1/3, (27 - 1) / 3
    [0.333333333, 8.666666667]
    """
    half = ((b - a) / 2)[:, None]
    return ((b + a) / 2)[:, None] + half * _NODES, half * _WEIGHTS


def shares(density: Density, edges: F64) -> F64:
    """Integral of a density over each of the intervals between ``edges``.

    >>> shares(np.square, np.array([0.0, 1.0, 3.0])).round(9).tolist()
    [0.333333333, 8.666666667]
    """
    x, weights = nodes(edges[:-1], edges[1:])
    return (density(x) * weights).sum(axis=1)


def quantiles(density: Density, edges: F64, p: F64) -> F64:
    """Where the integral of a density, which need not be normalized, reaches the shares ``p`` of its whole.

    Newton's method inside the interval that holds the quantile, kept inside it by bisection.

    Args:
        density: positive inside some of the intervals; smooth inside each.
        edges: increasing ends of the intervals.
        p: shares strictly between 0 and 1.

    >>> quantiles(lambda x: 3 * x**2, np.array([0.0, 0.5, 1.0]), np.array([0.001, 0.729])).round(9).tolist()
    [0.1, 0.9]
    """
    each = shares(density, edges)
    below = np.concatenate([[0.0], np.cumsum(each)])
    at = np.clip(np.searchsorted(below, p * below[-1], side="right") - 1, 0, len(each) - 1)
    low, high, wanted = edges[at], edges[at + 1], p * below[-1] - below[at]
    x, start = low + (high - low) * wanted / each[at], low
    for _ in range(60):
        y, weights = nodes(start, x)
        excess = (density(y) * weights).sum(axis=1) - wanted
        low, high = np.where(excess <= 0, x, low), np.where(excess >= 0, x, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = x - excess / density(x)
        last, x = x, np.where((low <= step) & (step <= high), step, (low + high) / 2)
        if np.all(np.abs(x - last) <= 1e-14 * (edges[at + 1] - edges[at])):
            break
    return x


def cells(pop: Population, edges: F64) -> tuple[F64, F64]:
    """Mass and mean of the cells before, between and behind finite edges, counted from the nearer tail.

    >>> from quantsim.populations import Uniform
    >>> [v.round(9).tolist() for v in cells(Uniform(3**-0.5), np.array([-0.5, 0.0]))]
    [[0.25, 0.25, 0.5], [-0.75, -0.25, 0.5]]
    """
    negative, mirrored = edges <= 0, pop._mirrored()
    sign = np.where(negative, 1.0, -1.0)
    mass, beyond = (np.where(negative, mirrored.upper_moment(-edges, k), pop.upper_moment(edges, k)) for k in (0, 1))
    cells = np.diff(np.pad([sign * mass, sign * edges * mass - beyond], ((0, 0), (1, 1))), axis=1)
    cells[:, np.sum(negative)] += (1.0, pop.moment(1))  # the cell that holds zero
    with np.errstate(invalid="ignore", divide="ignore"):
        return cells[0], cells[1] / cells[0]


def fewer(x: F64, weights: F64, count: int) -> tuple[F64, F64]:
    """At most ``count`` nodes with the moments of many up to the power 2 count - 1, Gauss's rule, increasing.

    The nodes are the eigenvalues of the Jacobi matrix that Lanczos's recurrence gives (Golub & Welsch, 1969).

    >>> x, weights = fewer(np.arange(5.0), np.full(5, 0.2), 2)
    >>> x.round(9).tolist(), weights.round(9).tolist()  # 2 -+ sqrt(2), as the variance of 0 … 4 is 2
    ([0.585786438, 3.414213562], [0.5, 0.5])
    """
    basis, steps = [np.sqrt(weights / weights.sum())], []
    middle = np.zeros((count, count))
    for k in range(min(count, x.size)):
        rest = x * basis[k]
        middle[k, k] = rest @ basis[k]
        for _ in range(2):  # once more, against rounding
            rest = rest - np.array(basis).T @ (np.array(basis) @ rest)
        steps.append(np.sqrt(rest @ rest))
        if steps[k] <= 1e-9 * (np.ptp(x) + np.abs(x).max() * 1e-3):
            break
        basis.append(rest / steps[k])
    size = len(steps)
    middle = middle[:size, :size] + np.diag(steps[: size - 1], 1) + np.diag(steps[: size - 1], -1)
    found, vectors = np.linalg.eigh(middle)
    return found, weights.sum() * vectors[0] ** 2
