"""Blocks whose scale follows from their root mean square, in which the weight itself has its part."""

import numpy as np

from quantsim.populations import Population
from quantsim.theory.magnitudes import Sides
from quantsim.theory.order import panel_nodes
from quantsim.theory.pieces import Stairs
from quantsim.theory.quadrature import panels
from quantsim.theory.scheme import F64, AbsmaxScale, RmsScale

_TAILS = np.array([1e-16, 1e-11, 1e-7, 1e-4, 1e-2, 0.15, 0.5, 0.85, 0.99, 0.9999, 1 - 1e-7, 1 - 1e-11])


def rms_mse(pop: Population, n: int, sides: Sides, law: RmsScale) -> float:
    """Mean squared error of levels in units of ``ratio rms / reach``, with the rms of the block of n.

    Averaged over the sum S of the squares of the n - 1 others, for normal weights variance times a chi-square, else a
    gamma distribution of the same mean and variance; under it the weight x sees ``rms = sqrt((x^2 + S) / n)``.
    Blocks are long enough to know their rms by these two moments.
    """
    spread = pop.kurtosis() - 1
    s, weight = _sums_of_squares(n, pop.moment(2), spread)
    value = 0.0
    for one, side in ((pop, sides.positive), (pop._mirrored(), sides.negative)):
        value += float(weight @ [_of_side(one, n, side, law, float(total)) for total in s])
    return value


def _sums_of_squares(n: int, power: float, spread: float) -> tuple[F64, F64]:
    """Nodes of the sum of n - 1 squares, and their probabilities."""
    from scipy.special import gammaincinv, gammaln

    if n == 1:
        return np.zeros(1), np.ones(1)
    shape, unit = (n - 1) / spread, power * spread
    root, width = panel_nodes(np.sqrt(gammaincinv(shape, _TAILS)), 6)  # smooth also for one square
    return root**2 * unit, 2 * width * np.exp((2 * shape - 1) * np.log(root) - root**2 - gammaln(shape))


def _of_side(pop: Population, n: int, side: Stairs, law: RmsScale, others: float) -> float:
    """E[e^2; X > 0] where the squares of the others add up to ``others``."""
    unit = law.ratio / law.reach / n**0.5
    share = (side.thresholds * unit) ** 2
    turns = side.thresholds[share < 1] * unit * (others / (1 - share[share < 1])) ** 0.5
    edges = panels(pop)
    x, width = panel_nodes(np.union1d(edges[edges >= 0], turns), 8)
    at, mass = pop._atoms()
    x, probability = np.append(x, at[at > 0]), np.append(width * pop.pdf(x), mass[at > 0])
    code, stored, weights = AbsmaxScale(1.0, law.stored).scales(unit * (x * x + others) ** 0.5)
    index = np.sum(x[:, None, None] > side.thresholds * code[..., None], axis=-1)
    return float(probability @ (((side.levels[index] * stored - x[:, None]) ** 2) @ weights))
