"""Exact error of a fixed set of levels on an infinite population, and of levels that scale with a block's extreme."""

from collections.abc import Callable

import numpy as np

from quantsim._types import ArrayLike
from quantsim.formats import Float, Format, grid, largest, levels
from quantsim.populations import Population
from quantsim.theory.absmax import absmax_mean, mean_of_both
from quantsim.theory.magnitudes import Sides
from quantsim.theory.pieces import Cost, Stairs, noise, squared, stairs, stochastic
from quantsim.theory.scheme import F64, AbsmaxScale

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
SMOOTH = 8  # mantissa bits from which the error within a binade is step^2 / 12, to 1e-6 of itself
_OCTAVES = 30  # below the largest magnitude that matters; smaller ones have no share in the error


def levels_mean(pop: Population, levels: ArrayLike, cost: Callable[[F64, F64], F64]) -> float:
    """Mean of ``cost(weight, level)`` when a population is rounded to the nearest of ``levels``, saturating.

    Sum over cells of the integral of cost pdf(x), Gauss-Legendre with 24 nodes a panel; panels end at the levels, the
    thresholds between them, at zero and where the density jumps, and are cut in quarter octaves as far as the
    population reaches with probability 1e-280. Point masses are added one by one.

    Args:
        pop: population.
        levels: increasing levels, in units of the weights.
        cost: smooth between its kinks at the level and at weight zero.

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
    at, mass = pop._atoms()
    probability = pop.pdf(x) * _WEIGHTS * (b - a) / 2
    of_atoms = (cost(at, v[np.searchsorted(middle, at)]) * mass).sum() if at.size else 0.0
    return float((cost(x, v[np.searchsorted(middle, x)]) * probability).sum() + of_atoms)


def levels_mse(pop: Population, levels: ArrayLike) -> float:
    """Mean squared error of rounding a population to the nearest of ``levels``, in closed form.

    With thresholds t_i halfway between levels, on either side of the level v nearest to zero,
    ``E[(X - v)^2] - 2 sum_i (v_{i+1} - v_i) E[max(X - t_i, 0)]``: the error of one level, less what each further one
    saves. Accurate to about 1e-15 of the variance.

    Args:
        pop: population.
        levels: increasing levels, in units of the weights.

    >>> from quantsim.populations import Normal, Uniform
    >>> round(levels_mse(Uniform(3**-0.5), np.linspace(-0.75, 0.75, 4)) * 48, 9)  # step^2 / 12
    1.0
    >>> a = (2 / np.pi) ** 0.5
    >>> round(levels_mse(Normal(), [-a, a]), 9), round(1 - 2 / np.pi, 9)  # Max, 1960, N = 2
    (0.363380228, 0.363380228)
    """
    v = np.unique(np.asarray(levels, np.float64))
    return mean_of_both(pop, Sides(*stairs(v)), squared)


def int_mse(pop: Population, reach: float, bits: int) -> float:
    """Mean squared error of symmetric integers whose last code falls on ``reach``; what lies beyond saturates.

    Args:
        pop: population.
        reach: magnitude of the last level, in units of the weights.
        bits: of a code; there are ``2^bits - 1`` levels.

    Raises:
        ValueError: if ``reach`` is not positive or there are fewer than 2 bits.

    >>> from quantsim.populations import Uniform
    >>> round(int_mse(Uniform(3**-0.5), 1.0, 8) * 12 * 127**2, 9)
    1.0
    """
    if reach <= 0 or bits < 2:
        raise ValueError(f"integers need a positive reach and at least 2 bits, got reach = {reach} and bits = {bits}")
    top = 2 ** (bits - 1) - 1
    return levels_mse(pop, np.arange(-top, top + 1) * (reach / top))


def extreme_mse(pop: Population, levels: ArrayLike, n: int, *, signed: bool = True) -> float:
    """Mean squared error of levels that scale with the extreme of their block of n weights, exact.

    Args:
        pop: population.
        levels: in units of the extreme, for example the levels of a format over its ``reach``.
        n: weights that share a scale.
        signed: the scale has the sign of the extreme weight, so that level 1 falls on it; else it is its magnitude.

    Raises:
        ValueError: if n < 1.

    >>> from quantsim.populations import Uniform
    >>> round(extreme_mse(Uniform(3**-0.5), [-1, 0, 1], 2) * 48, 9)  # t^2 / 12 for one of two weights, E[t^2] = 1/2
    1.0
    """
    if n < 1:
        raise ValueError(f"a block has at least one weight, got n = {n}")
    v = np.unique(np.asarray(levels, np.float64))
    return absmax_mean(pop, n, Sides(*stairs(v)), AbsmaxScale(1.0, signed=signed), squared)


def rounding_of(fmt: Format, rounding: str, low: float, high: float) -> tuple[Sides, Cost]:
    """What weights become in a format, in its own units, and their squared error.

    Floats of 8 and more mantissa bits have too many levels to follow: the error in a binade is taken as that of uniform
    noise, step^2 / 12, step^2 / 3 for truncation and step^2 / 6 for stochastic rounding.

    Args:
        fmt: element format.
        rounding: rule.
        low: magnitude below which floats need not be told apart.
        high: magnitude beyond which there are no weights.
    """
    cost = stochastic if rounding == "stochastic" else squared
    if not isinstance(fmt, Float):
        return Sides(*stairs(levels(fmt), "truncate" if rounding == "truncate" else "even")), cost
    g = grid(fmt)
    first = max(np.floor(np.log2(low)), g.min_exponent)
    octaves = 2.0 ** np.arange(first, max(first, np.floor(np.log2(min(high, largest(fmt))))) + 2)
    if fmt.mantissa_bits < SMOOTH:
        fraction = 1 + np.arange(2**fmt.mantissa_bits) * 2.0**-fmt.mantissa_bits
        below = np.arange(2**fmt.mantissa_bits) * 2.0 ** (g.min_exponent - fmt.mantissa_bits)
        above = np.outer(octaves, fraction).ravel()
        positive = np.concatenate([below[:1] if first > g.min_exponent else below, above])
        positive = positive[positive <= largest(fmt)]
        one = stairs(np.concatenate([-positive[:0:-1], positive]), rounding)
        return Sides(*one), cost
    edges = np.append(octaves[octaves < largest(fmt)], largest(fmt))
    steps = 2.0 ** (np.maximum(np.log2(np.append(octaves[0] / 2, edges[:-1])), g.min_exponent) - fmt.mantissa_bits)
    parts = {"truncate": 3.0, "stochastic": 6.0}.get(rounding, 12.0)
    side = Stairs(steps, edges)
    return Sides(side, side), noise(parts)
