"""How little error a number of bits allows: Shannon's lower bound, and the best codebook of a number of levels."""

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike
from quantsim.populations import Population

F64: TypeAlias = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@lru_cache
def _panels(pop: Population) -> F64:
    """Quarter octaves on either side of zero, as far as the population reaches with probability 1e-280."""
    reach = pop._reach()
    outer = reach * 2.0 ** -np.arange(0.0, 20 + np.log2(reach / pop.std_dev()), 0.25)
    inside = np.atleast_1d(pop._breaks())
    inside = inside[inside < reach]
    return np.unique(np.concatenate([outer, -outer, inside, -inside, [0.0]]))


def _quadrature(a: F64, b: F64) -> tuple[F64, F64]:
    """Nodes and weights of the intervals from ``a`` to ``b``, one row each."""
    half = ((b - a) / 2)[:, None]
    return ((b + a) / 2)[:, None] + half * _NODES, half * _WEIGHTS


def entropy(pop: Population) -> float:
    """Differential entropy in bits, minus the integral of pdf log2 pdf.

    Raises:
        ValueError: if the population has point masses, such as outliers of one exact size.

    >>> from quantsim.populations import Normal, Uniform
    >>> round(entropy(Normal()), 9), round(entropy(Uniform(3**-0.5)), 9)  # log2(2 pi e) / 2, log2(2)
    (2.047095585, 1.0)
    """
    _tails(pop)
    edges = _panels(pop)
    x, weights = _quadrature(edges[:-1], edges[1:])
    density = pop.pdf(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(-(np.where(density > 0, density * np.log2(density), 0.0) * weights).sum())


def shannon_lower_bound(pop: Population, bits: ArrayLike) -> np.float64 | F64:
    """Shannon's lower bound on the mean squared error of any code of ``bits`` bits a weight, however long its blocks.

    ``2^(2 (h - bits)) / (2 pi e)`` with the entropy h: for a normal population exactly its rate-distortion function,
    ``variance / 4^bits``; for others a bound that is approached at many bits and lies below the attainable at few.
    Source: Cover and Thomas, Elements of Information Theory, 2nd ed., chapter 10.

    >>> from quantsim.populations import Normal, Laplace
    >>> round(float(shannon_lower_bound(Normal(), 1)), 9), round(float(shannon_lower_bound(Laplace(), 0)), 9)  # e / pi
    (0.25, 0.865255979)
    """
    return 2.0 ** (2 * (entropy(pop) - np.asarray(bits, np.float64))) / (2 * np.pi * np.e)


@lru_cache
def _tails(pop: Population) -> tuple[F64, F64]:
    """Mass and first moment below each edge of the panels, and above it: (2, edges) each."""
    edges = _panels(pop)
    x, weights = _quadrature(edges[:-1], edges[1:])
    mass = pop.pdf(x) * weights
    if abs(mass.sum() - 1) > 1e-6:
        raise ValueError(f"the density of {pop} holds only {mass.sum():.6f}: it has point masses, and no entropy")
    each = np.stack([mass.sum(axis=1), (x * mass).sum(axis=1)])
    none = np.zeros((2, 1))
    return np.hstack([none, each.cumsum(axis=1)]), np.hstack([each[:, ::-1].cumsum(axis=1)[:, ::-1], none])


def _cells(pop: Population, thresholds: F64) -> tuple[F64, F64]:
    """Mass of each of the cells between the thresholds, and its mean; counted from the tails, where masses are tiny."""
    edges, (lower, upper) = _panels(pop), _tails(pop)
    ends = np.concatenate([edges[:1], thresholds, edges[-1:]])
    at = np.clip(np.searchsorted(edges, ends, side="right") - 1, 0, len(edges) - 2)
    negative = ends <= 0
    x, weights = _quadrature(np.where(negative, edges[at], ends), np.where(negative, ends, edges[at + 1]))
    mass = pop.pdf(x) * weights
    part = np.stack([mass.sum(axis=1), (x * mass).sum(axis=1)])
    cells = np.diff(np.where(negative, lower[:, at] + part, -upper[:, at + 1] - part), axis=1)
    cells[:, np.sum(negative) - 1] += lower[:, -1]  # the cell around zero
    return cells[0], cells[1] / cells[0]


def lloyd_max(pop: Population, levels: int) -> F64:
    """Levels of least mean squared error: each the mean of the weights that lie nearest to it.

    Newton's method on these equations, from the density of levels that is best for many of them, the cube root of the
    pdf. Its error is ``levels_mse(pop, lloyd_max(pop, levels))``. Sources: Lloyd, 1957; Max, 1960.

    Args:
        pop: population with a density.
        levels: number of levels.

    Raises:
        ValueError: for fewer than one level, or for a population with point masses.

    >>> from quantsim.populations import Normal
    >>> lloyd_max(Normal(), 4).round(4).tolist()  # Max's table
    [-1.5104, -0.4528, 0.4528, 1.5104]
    """
    if levels < 1:
        raise ValueError(f"a codebook has at least one level, got {levels}")
    edges = _panels(pop)
    x = np.unique(np.concatenate([edges, np.linspace(-10, 10, 4001) * pop.std_dev()]))
    share = np.concatenate([[0.0], np.cumsum(np.diff(x) * pop.pdf((x[1:] + x[:-1]) / 2) ** (1 / 3))])
    y = np.interp((np.arange(levels) + 0.5) / levels * share[-1], share, x)
    for _ in range(100):
        y, last = _newton(pop, y), y
        if np.all(np.abs(y - last) <= 1e-12 * (np.abs(y) + pop.std_dev())):
            break
    return y


def _newton(pop: Population, y: F64) -> F64:
    """One step towards levels that are the means of their cells, or the means themselves where it would disorder."""
    from scipy.linalg import solve_banded

    t = (y[1:] + y[:-1]) / 2
    mass, mean = _cells(pop, t)
    right, left = pop.pdf(t) * (t - mean[:-1]) / mass[:-1] / 2, pop.pdf(t) * (mean[1:] - t) / mass[1:] / 2
    bands = np.zeros((3, len(y)))
    bands[1] = 1.0
    bands[1, :-1] -= right
    bands[1, 1:] -= left
    bands[0, 1:], bands[2, :-1] = -right, -left
    step = y + solve_banded((1, 1), bands, mean - y)
    return step if np.all(np.diff(step) > 0) else mean
