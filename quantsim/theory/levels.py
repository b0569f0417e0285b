"""Exact error of a fixed set of levels on an infinite population."""

import numpy as np

from quantsim._types import ArrayLike
from quantsim.populations import Population

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def levels_mse(pop: Population, levels: ArrayLike) -> float:
    """Mean squared error of rounding a population to the nearest of ``levels``, saturating.

    Sum over cells of the integral of (x - level)^2 pdf(x), Gauss-Legendre with 24 nodes a panel; they are cut
    in quarter octaves as far as the population reaches with probability 1e-280, and where its density jumps.

    Args:
        pop: population with a density.
        levels: increasing levels, in units of the weights.

    Raises:
        ValueError: if the population has point masses, such as outliers of one exact size.

    >>> from quantsim.populations import Uniform
    >>> round(levels_mse(Uniform(3**-0.5), np.linspace(-0.75, 0.75, 4)) * 48, 9)  # step^2 / 12
    1.0
    """
    v = np.unique(np.asarray(levels, np.float64))
    breaks = pop._breaks()
    reach = max(pop._reach(), v[-1] * 1.001, -v[0] * 1.001, breaks.max(initial=0.0))
    middle = (v[1:] + v[:-1]) / 2
    outer = reach * 2.0 ** -np.arange(0, 40 + np.log2(max(reach / pop.std_dev(), 1.0)), 0.25)
    edges = np.unique(np.concatenate([middle, outer, -outer, breaks, -breaks, [0.0], v]))
    a, b = edges[:-1, None], edges[1:, None]
    x = (a + b) / 2 + (b - a) / 2 * _NODES
    nearest = v[np.searchsorted(middle, x)]
    probability = pop.pdf(x) * _WEIGHTS * (b - a) / 2
    if abs(probability.sum() - 1) > 1e-6:
        raise ValueError(f"the density of {pop} holds only {probability.sum():.6f}: it has point masses, and no cell integrals")
    return float(((x - nearest) ** 2 * probability).sum())
