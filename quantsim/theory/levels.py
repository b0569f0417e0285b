"""Exact error of a fixed set of levels on an infinite population."""

import numpy as np

from quantsim._types import ArrayLike
from quantsim.populations import Population

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def levels_mse(pop: Population, levels: ArrayLike) -> float:
    """Mean squared error of rounding a population to the nearest of ``levels``, saturating.

    Sum over cells of the integral of (x - level)^2 pdf(x), Gauss-Legendre with 24 nodes a panel; the outer cells are
    cut in octaves as far as the population reaches with probability 1e-18.

    Args:
        pop: population with a density.
        levels: increasing levels, in units of the weights.

    >>> from quantsim.populations import Uniform
    >>> round(levels_mse(Uniform(3**-0.5), np.linspace(-0.75, 0.75, 4)) * 48, 9)  # step^2 / 12
    1.0
    """
    v = np.unique(np.asarray(levels, np.float64))
    reach = max(-float(pop.quantile(1e-18)), v[-1] * 1.001, -v[0] * 1.001, 1e-300)
    middle = (v[1:] + v[:-1]) / 2
    outer = reach * 2.0 ** -np.arange(0, 40, 0.25)
    edges = np.unique(np.concatenate([middle, outer, -outer, [0.0], v]))
    a, b = edges[:-1, None], edges[1:, None]
    x = (a + b) / 2 + (b - a) / 2 * _NODES
    nearest = v[np.searchsorted(middle, x)]
    return float((((x - nearest) ** 2 * pop.pdf(x)) * _WEIGHTS * (b - a) / 2).sum())
