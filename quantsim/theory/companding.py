"""Many levels: Bennett's integral for any density of levels, and the best of them, the cube root of the pdf."""

from math import gamma

import numpy as np

from quantsim.populations import GeneralizedNormal, Laplace, Normal, Population, StudentT, Uniform
from quantsim.theory.quadrature import F64, Density, panels, shares

_SMALLEST = 1e-92  # the cube root of densities that lose digits, then vanish


def cube_root(pop: Population) -> Density:
    """The density of levels that is best for many of them, pdf^(1/3), not normalized.

    Source: Panter and Dite, Proc. IRE 39 (1951).

    >>> from quantsim.populations import Normal
    >>> density = cube_root(Normal())
    >>> round(float(density(3**0.5) / density(0.0)), 9)  # exp(-1/2): a normal density of variance 3
    0.60653066
    """
    return lambda x: np.cbrt(pop.pdf(x))


def bennett(pop: Population, density: Density, levels: int) -> float:
    """Mean squared error of many levels whose density is given: ``1 / (12 levels^2)`` times ``E[1 / density^2]``.

    The density is normalized first, over the range of the weights if that is bounded.
    Source: Bennett, Bell Syst. Tech. J. 27 (1948).

    Args:
        pop: population with a density.
        density: of levels per unit of weight, not necessarily normalized; positive wherever there are weights.
        levels: their number, large.

    Raises:
        ValueError: for fewer than one level, or a density with an infinite integral or one that falls too fast.

    >>> from quantsim.populations import Uniform
    >>> round(bennett(Uniform(3**-0.5), np.ones_like, 10) * 300, 9)  # step^2 / 12 with a step of 1/5
    1.0
    >>> from quantsim.populations import Normal  # levels as dense as the weights: the error is infinite
    >>> bennett(Normal(), Normal().pdf, 256)
    Traceback (most recent call last):
    ...
    ValueError: the density of levels must have an integral, and E[1 / density^2] of normal must be finite
    """
    _check(levels)
    edges = panels(pop)
    if pop.tail(edges[-1] * 1.001) > 0:  # levels may lie where hardly any weights do
        octaves = edges[-1] * 2.0 ** np.arange(60)
        whole = _integral(density, np.unique(np.concatenate([-octaves, edges, octaves])))
    else:
        whole = float(shares(density, edges).sum())
    spread = _integral(lambda x: pop.pdf(x) / density(x) ** 2, edges)
    if not np.isfinite(whole * spread):
        raise ValueError(f"the density of levels must have an integral, and E[1 / density^2] of {pop} must be finite")
    return whole**2 * spread / (12 * levels**2)


def panter_dite(pop: Population, levels: int) -> float:
    """Mean squared error of the best levels when they are many, ``1 / (12 levels^2) (integral of pdf^(1/3))^3``.

    In closed form, over ``std^2 / levels^2``: ``sqrt(3) pi / 2`` for a normal, ``9/2`` for a Laplace and 1 for a
    uniform population; also for Student's t and generalized normals. By quadrature for others. The error of few levels,
    ``levels_mse`` of ``lloyd_max``, is below it for all but the uniform. Source: Panter and Dite, Proc. IRE 39 (1951).

    Args:
        pop: population with a density.
        levels: their number.

    Raises:
        ValueError: for fewer than one level.

    >>> from quantsim.populations import Laplace, Normal
    >>> round(panter_dite(Normal(), 1), 9), round(panter_dite(Laplace(2.0), 3), 9)  # sqrt(3) pi / 2, 4 * 9 / 2 / 9
    (2.720699046, 2.0)
    """
    _check(levels)
    return _cube_root_mass(pop) ** 3 / (12 * levels**2)


def _check(levels: int) -> None:
    if levels < 1:
        raise ValueError(f"a codebook has at least one level, got {levels}")


def _cube_root_mass(pop: Population) -> float:
    """Integral of pdf^(1/3)."""
    if isinstance(pop, Normal):
        return float(6 * 3**0.5 * np.pi * pop.std**2) ** (1 / 3)
    if isinstance(pop, Laplace):
        return float(54 * pop.std**2) ** (1 / 3)
    if isinstance(pop, Uniform):
        return float(12 * pop.std**2) ** (1 / 3)
    if isinstance(pop, GeneralizedNormal):
        whole = gamma(1 / pop.beta) / pop.beta
        return float(2 * pop._scale * whole) ** (2 / 3) * float(3 ** (1 / pop.beta))
    if isinstance(pop, StudentT):
        return _student_t(pop)
    return _integral(cube_root(pop), panels(pop))


def _student_t(pop: StudentT) -> float:
    """Its cube root is a t density of (df - 2) / 3 degrees of freedom, up to scale."""
    from scipy.special import betaln

    df, scale = pop.df, pop.std * ((pop.df - 2) / pop.df) ** 0.5
    log = betaln(0.5, (df - 2) / 6) - betaln(0.5, df / 2) / 3
    return float((df * scale**2) ** (1 / 3) * np.exp(log))


def _integral(function: Density, edges: F64) -> float:
    """Integral of a function between the edges, and beyond them if it is positive there; infinite where it diverges."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        counted = np.flatnonzero(function(edges) > _SMALLEST)
        edges = edges[counted[0] : counted[-1] + 1]
        return float(shares(function, edges).sum() + sum(_beyond(function, x) for x in edges[[0, -1]]))


def _beyond(function: Density, x: float) -> float:
    """Integral beyond ``x``, far out, where the function is a power of x or falls faster."""
    outside, here, before = function(x * np.array([1.001, 1.0, 0.999]))
    if not outside > 0:
        return 0.0
    power = np.log(here / before) / np.log(0.999)
    return float(abs(x) * here / (power - 1)) if power > 1 else np.inf
