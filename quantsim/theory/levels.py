"""Exact error of a fixed set of levels on an infinite population."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike
from quantsim.populations import Population
from quantsim.theory.blocks import block_mean

F64: TypeAlias = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def levels_mean(pop: Population, levels: ArrayLike, cost: Callable[[F64, F64], F64]) -> float:
    """Mean of ``cost(weight, level)`` when a population is rounded to the nearest of ``levels``, saturating.

    Sum over cells of the integral of cost pdf(x), Gauss-Legendre with 24 nodes a panel; panels end at the levels, the
    thresholds between them, at zero and where the density jumps, and are cut in quarter octaves as far as the
    population reaches with probability 1e-280.

    Args:
        pop: population with a density.
        levels: increasing levels, in units of the weights.
        cost: smooth between its kinks at the level and at weight zero.

    Raises:
        ValueError: if the population has point masses, such as outliers of one exact size.

    >>> from quantsim.populations import Uniform
    >>> float(round(levels_mean(Uniform(3**-0.5), [-1, 0, 1], lambda x, v: abs(x - v)), 9))  # a quarter step
    0.25
    """
    v = np.unique(np.asarray(levels, np.float64))
    breaks = pop._breaks()
    reach = max(pop._reach(), v[-1] * 1.001, -v[0] * 1.001, breaks.max(initial=0.0))
    middle = (v[1:] + v[:-1]) / 2
    octaves = 40 + float(np.log2(max(reach / pop.std_dev(), 1.0)))
    outer = reach * 2.0 ** -np.arange(0, octaves, 0.25)
    edges = np.unique(np.concatenate([middle, outer, -outer, breaks, -breaks, [0.0], v]))
    a, b = edges[:-1, None], edges[1:, None]
    x = (a + b) / 2 + (b - a) / 2 * _NODES
    nearest = v[np.searchsorted(middle, x)]
    probability = pop.pdf(x) * _WEIGHTS * (b - a) / 2
    if abs(probability.sum() - 1) > 1e-6:
        raise ValueError(
            f"the density of {pop} holds only {probability.sum():.6f}: it has point masses, and no cell integrals"
        )
    return float((cost(x, nearest) * probability).sum())


def levels_mse(pop: Population, levels: ArrayLike) -> float:
    """Mean squared error of rounding a population to the nearest of ``levels``: ``levels_mean`` of (x - level)^2.

    >>> from quantsim.populations import Uniform
    >>> round(levels_mse(Uniform(3**-0.5), np.linspace(-0.75, 0.75, 4)) * 48, 9)  # step^2 / 12
    1.0
    """
    return levels_mean(pop, levels, lambda x, level: (x - level) ** 2)


def int_mse(pop: Population, reach: float, bits: int) -> float:
    """Mean squared error of symmetric integers whose last code falls on ``reach``; what lies beyond saturates.

    >>> from quantsim.populations import Uniform
    >>> round(int_mse(Uniform(3**-0.5), 1.0, 8) * 12 * 127**2, 9)
    1.0
    """
    top = 2 ** (bits - 1) - 1
    return levels_mse(pop, np.arange(-top, top + 1) * (reach / top))


def extreme_mse(pop: Population, levels: ArrayLike, n: int) -> float:
    """Mean squared error of levels that scale with the signed extreme of their block of n weights.

    ``block_mean`` over 75,025 points: to about 1e-3 of itself, or the part of the variance in tails beyond 1e-5.

    Args:
        pop: symmetric population.
        levels: in units of the extreme, for example the levels of a format over its ``reach``.
        n: weights that share a scale.

    >>> from quantsim.populations import Uniform
    >>> round(extreme_mse(Uniform(3**-0.5), [-1, 0, 1], 2) * 72, 2)  # t^2/12 for one of two weights, E[t^2] = 1/2
    1.5
    """
    v = np.unique(np.asarray(levels, np.float64))
    middle = (v[1:] + v[:-1]) / 2

    def cost(x: Any, extreme: Any) -> Any:
        return (v[np.searchsorted(middle, x / extreme)] * extreme - x) ** 2

    return block_mean(pop, n, cost, points=75025)
