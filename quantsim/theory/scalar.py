"""The best scalar quantizers of a number of levels: of any levels (Lloyd-Max), and of evenly spaced ones."""

from functools import partial
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np

from quantsim.populations import Population
from quantsim.theory.companding import cube_root, panter_dite
from quantsim.theory.levels import levels_mse
from quantsim.theory.quadrature import F64, cells, panels, quantiles

_SEARCHED = 64  # levels up to which a dynamic programme is fast


def lloyd_max(pop: Population, levels: int) -> F64:
    """Levels of least mean squared error: each the mean of the weights that lie nearest to it.

    Newton's method on these equations, from the density of levels that is best for many of them, the cube root of the
    pdf. Where log pdf is concave no other levels solve them (Fleischer, 1964; Kieffer, 1983). Elsewhere there is a
    second start, up to 64 levels from a dynamic programme over cells (Bruce, 1965), and the better end is kept: for a
    peak on a wide base it need not be symmetric. Its error is ``levels_mse(pop, lloyd_max(pop, levels))``.
    Sources: Lloyd, 1957; Max, IRE Trans. Inform. Theory 6 (1960).

    Args:
        pop: population with a density.
        levels: number of levels.

    Raises:
        ValueError: for fewer than one level, a population with point masses, or levels so far out that float64 has no
            probabilities there.

    >>> from quantsim.populations import Normal
    >>> lloyd_max(Normal(), 4).round(4).tolist()  # Max's table
    [-1.5104, -0.4528, 0.4528, 1.5104]
    """
    _check(pop, levels, 1)
    found = [_solved(pop, _spread(pop, (np.arange(levels) + 0.5) / levels), symmetric=pop._mirrored() == pop)]
    if levels > 1 and not _log_concave(pop):
        moved = np.append(np.arange(1, levels) / levels, 1 - 0.25 / levels)  # by half a level
        start = _programmed(pop, levels) if levels <= _SEARCHED else _spread(pop, moved)
        found.append(_solved(pop, start, symmetric=False))
    if not (solved := [y for y in found if y is not None]):
        raise ValueError(f"the best {levels} levels for {pop} lie where float64 has no probabilities: ask for fewer")
    gained = _explained(pop, solved[-1]) - _explained(pop, solved[0])
    return solved[-1 if gained > 1e-14 * pop.moment(2) else 0]


def uniform_levels(levels: int, step: float) -> F64:
    """Evenly spaced levels about zero: mid-rise for an even number, mid-tread, with a level at zero, for an odd one.

    Raises:
        ValueError: for fewer than one level or a step that is not positive.

    >>> uniform_levels(4, 1.0).tolist(), uniform_levels(3, 0.5).tolist()
    ([-1.5, -0.5, 0.5, 1.5], [-0.5, 0.0, 0.5])
    """
    if levels < 1 or not step > 0:
        raise ValueError(f"needs at least one level and a positive step, got {levels} levels of step {step}")
    return np.asarray((np.arange(levels) - (levels - 1) / 2) * step, np.float64)


def optimal_step(pop: Population, levels: int) -> float:
    """Step of least mean squared error among ``uniform_levels``, in the unit of the weights.

    Root of the derivative of the error by the step, ``sum_i c_i E[c_i step - X; cell i]`` for levels ``c_i step``,
    in the best of the brackets of a scan: the error of a mixture can have several minima.
    Source: Max, IRE Trans. Inform. Theory 6 (1960), table II.

    Args:
        pop: population, symmetric.
        levels: their number, at least two.

    Raises:
        ValueError: for fewer than two levels, or an unsymmetric population.

    >>> from quantsim.populations import Normal, Uniform
    >>> [round(optimal_step(Normal(), n), 4) for n in (2, 4, 8, 16)]  # Max's table II
    [1.5958, 0.9957, 0.586, 0.3352]
    >>> round(optimal_step(Uniform(3**-0.5), 10), 9)  # 2 / levels
    0.2
    """
    from scipy.optimize import brentq

    _check(pop, levels, 2)
    if pop._mirrored() != pop:
        raise ValueError(f"levels about zero do not fit {pop}, which is not symmetric")
    widest = -float(pop.quantile(1e-20)) * 2
    scan = np.geomspace(2e-3 * pop.std_dev(), 2 * widest, 96) / levels
    slope = [_slope(pop, levels, step) for step in scan]
    brackets = [pair for pair, ends in zip(pairwise(scan), pairwise(slope), strict=True) if ends[0] < 0 <= ends[1]]
    minima = [cast(float, brentq(partial(_slope, pop, levels), *pair, xtol=1e-300)) for pair in brackets]
    return float(min(minima, key=lambda step: levels_mse(pop, uniform_levels(levels, step))))


def _slope(pop: Population, levels: int, step: float) -> float:
    """A quarter of the derivative of the squared error by the step of ``uniform_levels``."""
    first = 1.0 if levels % 2 else 0.5
    c = first + np.arange(levels // 2)
    low = (c - 0.5) * step
    above = pop.upper_moment(low, 0)
    upper = pop.upper_moment(low, 1) + low * above  # E[X; X > low]
    weight = np.diff(c**2, prepend=0.0)
    return float(step * (weight * above).sum() - (np.diff(c, prepend=0.0) * upper).sum())


def _check(pop: Population, levels: int, least: int) -> None:
    if levels < least:
        raise ValueError(f"needs at least {least} level{'s' * (least > 1)}, got {levels}")
    if np.size(pop._atoms()[0]):
        raise ValueError(f"{pop} has point masses; give its outliers values=spread, or leave them out")


def _spread(pop: Population, p: F64) -> F64:
    """Levels as dense as the cube root of the pdf, as far out as the error beyond is one level's share of the whole."""
    share = min(panter_dite(pop, 1) / len(p) ** 3, 0.05 * pop.moment(2))
    edges = panels(pop)
    for side, sign in ((pop, 1), (pop._mirrored(), -1)):
        out = edges[edges * sign > 0] * sign
        edges = edges[edges * sign <= out[side.upper_moment(out, 2) <= share].min()]
    return quantiles(cube_root(pop), edges, p)


def _log_concave(pop: Population) -> bool:
    x = _spread(pop, (np.arange(200) + 0.5) / 200)
    slope = np.diff(np.log(pop.pdf(x))) / np.diff(x)
    return bool(np.all(np.diff(slope) <= 1e-6 / pop.std_dev()))


def _solved(pop: Population, start: F64, *, symmetric: bool) -> F64 | None:
    """Levels that are the means of their cells; symmetric ones from their positive half, mirrored."""
    if not symmetric:
        return _fixed_point(pop, start, None)
    odd = len(start) % 2
    y = _fixed_point(pop, start[(len(start) + 1) // 2 :], odd / 2) if len(start) > 1 else start[:0]
    return None if y is None else np.concatenate([-y[::-1], np.zeros(odd), y])


class _Cells(NamedTuple):
    """Levels, the mass and the mean of the cell of each, where the cells begin and end, and how far off they are."""

    y: F64
    mass: F64
    mean: F64
    edges: F64
    off: float  # largest relative distance of a level from the mean of its cell
    kept: float  # second moment of the means


def _cells(pop: Population, y: F64, pull: float | None) -> _Cells:
    edges = np.append([] if pull is None else pull * y[0], (y[1:] + y[:-1]) / 2)
    begun = int(pull is not None)
    mass, mean = (v[begun:] for v in cells(pop, edges))
    off = np.max(np.abs(mean - y) / (np.abs(y) + pop.std_dev()))
    edges = np.concatenate([[-np.inf] * (1 - begun), edges, [np.inf]])
    return _Cells(y, mass, mean, edges, float(off), float((mass * mean**2).sum()))


def _fixed_point(pop: Population, y: F64, pull: float | None) -> F64 | None:
    """Levels that are the means of their cells, or None if 150 steps do not get there.

    The first cell begins at ``pull`` times the first level: at zero, or half way to a level at zero; without ``pull``
    it has no beginning.
    """
    now = _cells(pop, y, pull)
    for _ in range(150):
        new = _improved(pop, now, pull)
        if now.off < 1e-15 or (now.off < 1e-10 and new.off >= now.off / 2):
            return now.y
        now = new
    return None


def _improved(pop: Population, now: _Cells, pull: float | None) -> _Cells:
    """After Newton's step, or the part of it that does not disorder the levels and helps; else after Lloyd's step."""
    step, slack = _newton(pop, now, pull), 1e-13 * now.kept
    for part in (1.0, 0.5, 0.25, 1 / 16):
        y = now.y + part * step
        if np.all(np.diff(y) > 0) and (pull is None or y[0] > 0):
            new = _cells(pop, y, pull)
            if new.kept > now.kept + slack or (new.kept > now.kept - slack and new.off < now.off / 2):
                return new
    return _cells(pop, now.mean, pull)


def _newton(pop: Population, now: _Cells, pull: float | None) -> F64:
    """Newton's step towards levels that are the means of their cells."""
    from scipy.linalg import solve_banded

    ends = np.where(np.isinf(now.edges), 0.0, now.edges)
    density = np.where(np.isinf(now.edges), 0.0, pop.pdf(ends)) / 2
    left, right = density[:-1] * (now.mean - ends[:-1]) / now.mass, density[1:] * (ends[1:] - now.mean) / now.mass
    bands = np.stack([np.roll(-right, 1), 1.0 - left - right, np.roll(-left, -1)])
    bands[1, 0] += left[0] - 2 * left[0] * (pull or 0.0)
    return solve_banded((1, 1), bands, now.mean - now.y)


def _programmed(pop: Population, levels: int) -> F64:
    """Means of the cells that a dynamic programme makes of a fine grid: the best of all, up to the grid."""
    p = (np.arange(384) + 0.5) / 384
    grid = np.unique(np.concatenate([_spread(pop, p), pop.quantile(p[1::3])]))
    mass, mean = cells(pop, grid)
    sums = np.pad(np.cumsum([mass, mass * mean], axis=1), ((0, 0), (1, 0)))
    mass, first = (
        sums[:, :, None] - sums[:, None, :]
    )  # of a cell that ends at the row's edge and begins at the column's
    gain = np.where(mass > 0, first**2 / np.where(mass > 0, mass, 1.0), -np.inf)
    best, cuts = gain[:, 0], []
    for _ in range(levels - 1):
        through = best + gain
        cuts.append(through.argmax(axis=1))
        best = through.max(axis=1)
    ends = [len(best) - 1]
    for cut in cuts[::-1]:
        ends.append(cut[ends[-1]])
    ends = np.array([*ends, 0])[::-1]
    return np.diff(sums[1, ends]) / np.diff(sums[0, ends])


def _explained(pop: Population, y: F64) -> float:
    """The part of the second moment that levels which are means of their cells keep."""
    mass, mean = cells(pop, (y[1:] + y[:-1]) / 2)
    return float((mass * mean**2).sum())
