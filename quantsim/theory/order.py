"""Blocks whose scale follows from an interpolated percentile of the magnitudes, and what order statistics share.

Integrals run over the probabilities u beyond the order statistics, whose joint density is a polynomial whatever the
population is. A point mass spreads over an interval of u; its part on the near side of an order statistic is taken out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quantsim.populations import Population
from quantsim.populations.extremes import magnitudes
from quantsim.theory.magnitudes import Sides
from quantsim.theory.pieces import Cost, mean_above, value_at
from quantsim.theory.scheme import F64, AbsmaxScale, PercentileScale

#: Few enough: weights in a block whose minimum may well exceed the median, levels to follow one by one, point masses.
FEW, COARSE, FEW_ATOMS = 12, 32, 64
#: Probabilities far out, where the square of a heavy tail still counts.
FAR = 10.0 ** np.array([-280, -220, -170, -130, -100, -80, -60, -48, -36, -27, -20, -16, -13, -11, -9, -7.5])
_TAILS = 10.0 ** np.array([-280, -120, -60, -30, -20, -14, -10, -7.5, -5.5, -4, -3, -2, -1.3, -0.8])
_TAILS = np.concatenate([_TAILS, [0.35, 0.65, 0.9, 0.99]])
_TAILS = np.append(_TAILS, 1 - np.array([1e-4, 1e-7, 1e-10]))
_LOG_RATIOS = np.array([-640.0, -150.0, -60.0, -30.0, -15.0, -8.0, -4.0, -1.5, -0.4, 0.0])
_LOG_RATIOS_OF_MANY = np.array([-30.0, -14.0, -6.0, -2.0, 0.0])
_MANY = 64  # weights above a percentile, from which the next one lies close to it
_EXPECTED = np.array([1e-6, 1e-4, 1e-2, 0.1, 0.5, 2.0, 5.0, 10.0, 20.0, 45.0])


def panel_nodes(edges: F64, count: int) -> tuple[F64, F64]:
    """Gauss-Legendre nodes and weights on the panels between edges, which run along the last axis."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    a, b = edges[..., :-1, None], edges[..., 1:, None]
    shape = (*edges.shape[:-1], -1)
    return ((a + b) / 2 + (b - a) / 2 * nodes).reshape(shape), ((b - a) / 2 * weights).reshape(shape)


def percentile_mean(pop: Population, n: int, sides: Sides, law: PercentileScale, cost: Cost) -> float:
    """Mean cost in blocks of n whose scale is an interpolated percentile of the magnitudes over ``law.reach``.

    It lies a fraction f between the magnitudes a < b of ranks j + 1 and j + 2, where ``j + f = (n - 1) p / 100``: j
    weights are below a, N = n - j - 1 above. ``P(|X| > a)`` has the distribution Beta(N + 1, j + 1), and
    ``(P(|X| > b) / P(|X| > a))^N`` is uniform.
    """
    place = (n - 1) * law.p / 100
    j = int(place)
    f, above = place - j, n - j - 1
    jumps, ratios = jumps_of(pop.tail, pop._breaks()), _turns(f, above, sides, law)
    at = np.outer(pop._breaks(), 1 / ratios).ravel() if pop._breaks().size <= FEW else np.zeros(0)
    u, weight = _beta_nodes(above + 1, j + 1, np.append(jumps, pop.tail(at)))
    a = magnitudes_of(pop, u)
    y, y_weight = np.zeros((u.size, 1)), np.ones((u.size, 1))
    if f:
        edges = _LOG_RATIOS if above < _MANY else _LOG_RATIOS_OF_MANY
        passed = np.concatenate([jumps + 0 * u[:, None], pop.tail(a[:, None] * ratios)], axis=1) / u[:, None]
        passed = np.maximum(above * np.log(np.clip(passed, 1e-300, 1.0)), edges[0])
        edges = np.broadcast_to(edges, (u.size, edges.size))
        y, y_weight = panel_nodes(np.sort(np.concatenate([edges, passed], axis=1), axis=1), 5)
    ua, ub = u.repeat(y.shape[1]), np.maximum(u[:, None] * np.exp(y / max(above, 1)), 1e-300).ravel()
    weight, a = (weight[:, None] * y_weight * np.exp(y)).ravel(), a.repeat(y.shape[1])
    b = magnitudes_of(pop, ub) if f else a
    known = on_atom(pop, a) & on_atom(pop, b)
    scale = AbsmaxScale(law.reach, law.stored).scales((1 - f) * a + f * b, known)
    inner, outer, at_a, at_b = _around(pop, (a, b), (ua, ub), sides, scale, cost)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(j > 0, j * inner / (1 - ua), 0.0)
        beyond = np.where(above > (f > 0), (above - (f > 0)) * outer / ub, 0.0)
    return float((weight * (below + at_a + (at_b if f else 0.0) + beyond)).sum() / n)


def _turns(f: float, above: int, sides: Sides, law: PercentileScale) -> F64:
    """Ratios b / a at which the percentile (1 - f) a + f b puts a on a threshold, where these are few."""
    thresholds = np.union1d(sides.positive.thresholds, sides.negative.thresholds)
    if not f or above >= _MANY or thresholds.size >= COARSE:
        return np.zeros(0)
    return (law.reach / thresholds[thresholds < law.reach] - (1 - f)) / f


def jumps_of(tail: Callable[[Any], Any], at: F64) -> F64:
    """Probabilities at which a quantile jumps or turns: those on either side of the places ``at``."""
    return tail((at[:, None] * (1 + np.array([-1e-12, 1e-12])) + np.array([-1e-300, 1e-300])).ravel())


def _beta_nodes(above: int, below: int, jumps: F64) -> tuple[F64, F64]:
    """Nodes of Beta(above, below), with their probabilities."""
    from scipy.special import betaincinv, betaln

    edges = betaincinv(above, below, _TAILS if above < 8 else _TAILS[_TAILS > 1e-15])
    edges = edges[np.isfinite(edges)]
    u, width = panel_nodes(np.union1d(edges, jumps[(jumps > edges[0]) & (jumps < edges[-1])]), 6)
    return u, width * np.exp((above - 1) * np.log(u) + (below - 1) * np.log1p(-u) - betaln(above, below))


def magnitudes_of(pop: Population, u: F64) -> F64:
    """What a weight exceeds with probability u."""
    return np.asarray(-pop.quantile(u / 2)) if pop._mirrored() is pop else magnitudes(pop, u)


def _positive_share(pop: Population, magnitude: F64) -> F64:
    """Probability that a weight of this magnitude is positive."""
    if pop._mirrored() is pop:
        return np.full(magnitude.shape, 0.5)
    low = magnitude * (1 - 1e-7)
    up, down = (p.upper_moment(low, 0) - p.upper_moment(magnitude, 0) for p in (pop, pop._mirrored()))
    return np.asarray(np.where(up > 0, up / np.maximum(up + down, 1e-300), 0.0))


def _around(
    pop: Population, ends: tuple[F64, F64], tails: tuple[F64, F64], sides: Sides, scale: tuple, cost: Cost
) -> Sequence[F64]:
    """E[cost] of weights below a and beyond b, and the cost of a and b, averaged over their signs."""
    code, value, weights = scale
    mirrored = pop._mirrored()
    inner, outer, at_a, at_b = (np.zeros(ends[0].shape) for _ in range(4))
    up = [_positive_share(pop, x) for x in ends]
    for one, side, share in ((pop, sides.positive, up), (mirrored, sides.negative, [1 - x for x in up])):
        pieces = cost(side.times(value, code))
        a, b = (x[:, None] + 0 * value for x in ends)
        to_a, to_b = (mean_above(one, pieces, upto) @ weights for upto in (a, b))
        inner, outer = inner + to_a, outer + mean_above(one, pieces) @ weights - to_b
        at_a = at_a + share[0] * (value_at(pieces, a) @ weights)
        at_b = at_b + share[1] * (value_at(pieces, b) @ weights)
    inner = inner - (tails[0] - pop.tail(ends[0])) * at_a
    outer = outer + (tails[1] - pop.tail(ends[1])) * at_b
    return inner, outer, at_a, at_b


def log_edges(pop: Population, n: int) -> F64:
    """Ends of panels in log P(|X| > max) of n weights."""
    heavy = magnitudes_of(pop, FAR) ** 2 * FAR > 1e-9 * pop.moment(2)
    return edges_between(n, heavy, jumps_of(pop.tail, pop._breaks()), 1.0)


def edges_between(n: int, heavy: np.ndarray, jumps: F64, last: float) -> F64:
    """Logarithms of probabilities between which the extreme of n weights lies, up to ``last``."""
    edges = np.append(FAR[heavy] / n, np.minimum(_EXPECTED / n, last))
    return np.log(np.union1d(edges, jumps[(jumps > edges.min()) & (jumps < min(edges.max(), last))]))


def on_atom(pop: Population, x: F64) -> np.ndarray:
    """Which values are point masses, of few, in magnitude."""
    at, _ = pop._atoms()
    few = np.abs(at if at.size <= FEW_ATOMS else at[:0])
    return np.any(np.abs(np.abs(x[:, None]) - few) <= 1e-9 * few, axis=1)
