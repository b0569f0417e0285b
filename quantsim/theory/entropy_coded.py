"""Entropy-coded scalar quantization: cells of one width, a rare cell in more bits than a frequent one."""

from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from quantsim.populations import Population
from quantsim.theory.quadrature import cells, nodes
from quantsim.theory.rate_distortion import entropy

_CELLS = 512  # on a side that are counted one by one; the density hardly changes across those beyond


class EntropyCoded(NamedTuple):
    """Entropy of the cells in bits a weight, and the mean squared error with either kind of level.

    Attributes:
        bits: entropy, which an arithmetic code reaches up to a fraction of a bit for the whole array.
        mse: with the mean of each cell as its level.
        midpoint_mse: with the middle of each cell as its level.
    """

    bits: float
    mse: float
    midpoint_mse: float


def uniform_threshold(pop: Population, step: float | int, *, dead_zone: float | int = 1.0) -> EntropyCoded:
    """The uniform threshold quantizer of infinitely many cells of width ``step``, about one of ``dead_zone * step``.

    With ``dead_zone`` 1 it rounds to multiples of the step (mid-tread); with 0 a threshold lies at zero (mid-rise).
    For small steps ``bits = h - log2 step`` with the differential entropy h, ``mse = step^2 / 12``.
    Cells beyond 512 a side count by their density, which hardly changes across them.

    Args:
        pop: population, symmetric, with a density.
        step: width of the cells, in the unit of the weights.
        dead_zone: width of the cell about zero, in steps.

    Raises:
        ValueError: for a step that is not positive, a negative dead zone, a population with point masses, or an
            unsymmetric one.

    >>> from quantsim.populations import Uniform, Laplace
    >>> round(uniform_threshold(Uniform(3**-0.5), 0.25, dead_zone=0.0).bits, 9)  # eight cells
    3.0
    >>> round(uniform_threshold(Uniform(3**-0.5), 0.25, dead_zone=0.0).mse * 192, 9)  # step^2 / 12
    1.0
    >>> found = uniform_threshold(Laplace(2**0.5), 2 * np.log(2), dead_zone=0.0)  # probabilities 3/8 4^-k a side
    >>> round(found.bits, 9)  # a sign, and a geometric number: 1 + H(1/4) / (3/4)
    2.081704166
    """
    from scipy.special import xlogy

    if not step > 0 or not dead_zone >= 0:
        raise ValueError(f"needs a positive step and a dead zone of at least 0, got {step} and {dead_zone}")
    if pop._mirrored() != pop or np.size(pop._atoms()[0]):
        raise ValueError(f"cells about zero need a symmetric population without point masses, not {pop}")
    low = np.arange(dead_zone / 2, _CELLS + dead_zone / 2 + 0.5) * step
    low = low[: max(2, np.searchsorted(-pop.upper_moment(low, 0), -1e-280))]
    mass, mean = (v[1:-1] for v in cells(pop, low))
    mean = np.where(mass > 0, mean, low[:-1])
    centre = 1 - 2 * float(pop.upper_moment(low[0], 0))
    within = _second(pop, low[0]) - _second(pop, low[-1]) - float((mass * mean**2).sum())
    surprise = -xlogy(mass, mass).sum() - xlogy(centre, centre) / 2 + _surprise_beyond(pop, low[-1], step)
    mse = pop.moment(2) - 2 * _second(pop, low[0]) + 2 * (within + step**2 / 12 * float(pop.upper_moment(low[-1], 0)))
    off = (mass * (mean - low[:-1] - step / 2) ** 2).sum()
    return EntropyCoded(float(2 * surprise / np.log(2)), float(mse), float(mse + 2 * off))


def ecsq(pop: Population, bits: float | int) -> float:
    """Mean squared error of entropy-coded scalar quantization at a rate, with the cells of ``ecsq_cells``.

    At many bits it is ``pi e / 6`` times Shannon's bound, whatever the population: 1.53 dB or 0.2546 bits.
    Source: Gish and Pierce, IEEE Trans. Inform. Theory 14 (1968).

    >>> from quantsim.populations import Normal, Uniform
    >>> round(ecsq(Normal(), 8) * 4**8 / (np.pi * np.e / 6), 6), round(ecsq(Uniform(3**-0.5), 2) * 48, 9)
    (1.0, 1.0)
    """
    step, dead_zone = ecsq_cells(pop, bits)
    return uniform_threshold(pop, step, dead_zone=dead_zone).mse


def ecsq_cells(pop: Population, bits: float | int) -> tuple[float, float]:
    """Step and dead zone of the uniform threshold quantizer of least error whose cells have an entropy of ``bits``.

    For a Laplace population no other cells are better: Sullivan, IEEE Trans. Inform. Theory 42 (1996).

    Args:
        pop: population, symmetric, with a density.
        bits: rate in bits a weight, above 0.

    Raises:
        ValueError: for a rate that is not positive, and as ``uniform_threshold`` does.

    >>> from quantsim.populations import Uniform
    >>> [round(v, 9) for v in ecsq_cells(Uniform(3**-0.5), 2)]  # four cells, a threshold at zero
    [0.5, 0.0]
    """
    from scipy.optimize import minimize_scalar

    if not bits > 0:
        raise ValueError(f"a rate is above 0 bits a weight, got {bits}; at 0 bits the error is the variance")
    start = entropy(pop) - float(bits)

    error = partial(_error, pop, bits, start)
    found: Any = minimize_scalar(error, bounds=(0.5, 3.0), method="bounded", options={"xatol": 1e-3})
    dead_zone = 0.0 if bits >= 1 and error(0.0) <= found.fun else float(found.x)
    return _step(pop, bits, start, dead_zone), dead_zone


def _error(pop: Population, bits: float | int, start: float, dead_zone: float) -> float:
    """Mean squared error of cells with this entropy."""
    return uniform_threshold(pop, _step(pop, bits, start, dead_zone), dead_zone=dead_zone).mse


def _step(pop: Population, bits: float | int, start: float, dead_zone: float) -> float:
    """Step at which the cells have this entropy; ``start`` is near its binary logarithm."""
    from scipy.optimize import brentq

    excess = partial(_excess_bits, pop, bits, dead_zone)
    low = high = start
    while excess(low) <= 0:
        low -= 0.5
    while excess(high) > 1e-13 and high < start + 64:  # one bit is reached in the limit only
        high += 0.5
    return float(np.exp2(cast(float, brentq(excess, low, high, xtol=1e-13)) if excess(high) < 0 else high))


def _excess_bits(pop: Population, bits: float | int, dead_zone: float, log_step: float) -> float:
    return uniform_threshold(pop, np.exp2(log_step), dead_zone=dead_zone).bits - bits


def _second(pop: Population, x: float) -> float:
    """E[X^2; X > x]."""
    return float(pop.upper_moment(x, 2) + 2 * x * pop.upper_moment(x, 1) + x * x * pop.upper_moment(x, 0))


def _surprise_beyond(pop: Population, x: float, step: float) -> float:
    """Minus the integral of pdf log(pdf step) beyond ``x``, in nats."""
    from scipy.special import xlogy

    octaves = x * 2.0 ** np.arange(max(np.log2(pop._reach() / x), 0.0) + 1)
    edges = np.unique(np.append(octaves, pop._breaks()))
    edges = edges[edges >= x]
    edges = edges[: 1 + np.sum(pop.upper_moment(edges, 0) > 1e-20)]
    at, weights = nodes(edges[:-1], edges[1:])
    density = pop.pdf(at)
    return -float(((xlogy(density, density) + density * np.log(step)) * weights).sum())
