"""Blocks whose scale follows from two order statistics: a percentile of the magnitudes, or minimum and maximum.

Integrals run over the probabilities u beyond the order statistics, whose joint density is a polynomial whatever the
population is. A point mass spreads over an interval of u; its part on the near side of an order statistic is what
``excess`` terms below correct.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quantsim.populations import Population
from quantsim.populations.base import magnitudes
from quantsim.theory.absmax import Cost, Sides
from quantsim.theory.pieces import Pieces, Stairs, mean_above, squared, value_at
from quantsim.theory.scheme import F64, AbsmaxScale, MinMaxScale, PercentileScale

_TAILS = 10.0 ** np.array([-280, -120, -60, -30, -20, -14, -10, -7.5, -5.5, -4, -3, -2, -1.3, -0.8])
_TAILS = np.concatenate([_TAILS, [0.35, 0.65, 0.9, 0.99]])
_TAILS = np.append(_TAILS, 1 - np.array([1e-4, 1e-7, 1e-10]))
_LOG_RATIOS = np.array([-640.0, -150.0, -60.0, -30.0, -15.0, -8.0, -4.0, -1.5, -0.4, 0.0])
_MANY = 64  # weights above a percentile, from which the next one lies close to it
_COARSE = 32  # levels, up to which panels end where the percentile passes a threshold
_FAR = 10.0 ** np.array([-280, -220, -170, -130, -100, -80, -60, -48, -36, -27, -20, -16, -13, -11, -9, -7.5])
_EXPECTED = np.array([1e-6, 1e-4, 1e-2, 0.1, 0.5, 2.0, 5.0, 10.0, 20.0, 45.0])
_NEAR_ZERO = np.array([0.3, 0.1, 0.03, 0.01, 0.003])  # std: where the zero point of few weights turns fast
_FEW = 12  # weights in a block, below which its minimum may well exceed the median
_FINE = 6  # bits from which the phase of the zero point is spread evenly,
_CYCLES = 6.0  # if zero points of blocks spread over as many codes
_PHASES = np.array([-0.5, 0.5]) / 3**0.5  # two nodes, exact for the square of a phase


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
    jumps, ratios = _jumps(pop.tail, pop._breaks()), _turns(f, above, sides, law)
    at = np.outer(pop._breaks(), 1 / ratios).ravel() if pop._breaks().size <= _FEW else np.zeros(0)
    u, weight = _beta_nodes(above + 1, j + 1, np.append(jumps, pop.tail(at)))
    a = magnitudes_of(pop, u)
    y, y_weight = np.zeros((u.size, 1)), np.ones((u.size, 1))
    if f:
        edges = _LOG_RATIOS[(-700 if above < _MANY else -40) < _LOG_RATIOS]
        passed = np.concatenate([jumps + 0 * u[:, None], pop.tail(a[:, None] * ratios)], axis=1) / u[:, None]
        passed = np.maximum(above * np.log(np.clip(passed, 1e-300, 1.0)), edges[0])
        edges = np.broadcast_to(edges, (u.size, edges.size))
        y, y_weight = panel_nodes(np.sort(np.concatenate([edges, passed], axis=1), axis=1), 5)
    ua, ub = u.repeat(y.shape[1]), np.maximum(u[:, None] * np.exp(y / max(above, 1)), 1e-300).ravel()
    weight, a = (weight[:, None] * y_weight * np.exp(y)).ravel(), a.repeat(y.shape[1])
    b = magnitudes_of(pop, ub) if f else a
    known = _on_atom(pop, a) & _on_atom(pop, b)
    scale = AbsmaxScale(law.reach, law.stored).scales((1 - f) * a + f * b, known)
    inner, outer, at_a, at_b = _around(pop, (a, b), (ua, ub), sides, scale, cost)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(j > 0, j * inner / (1 - ua), 0.0)
        beyond = np.where(above > (f > 0), (above - (f > 0)) * outer / ub, 0.0)
    return float((weight * (below + at_a + (at_b if f else 0.0) + beyond)).sum() / n)


def _turns(f: float, above: int, sides: Sides, law: PercentileScale) -> F64:
    """Ratios b / a at which the percentile (1 - f) a + f b puts a on a threshold, where these are few."""
    thresholds = np.union1d(sides.positive.thresholds, sides.negative.thresholds)
    if not f or above >= _MANY or thresholds.size >= _COARSE:
        return np.zeros(0)
    return (law.reach / thresholds[thresholds < law.reach] - (1 - f)) / f


def _jumps(tail: Callable[[Any], Any], at: F64) -> F64:
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


def minmax_mean(pop: Population, n: int, bits: int, law: MinMaxScale) -> float:
    """Mean squared error in blocks of n whose scale spans minimum a and maximum b with ``2^bits`` levels.

    With ``ua = P(X < a)``, ``ub = P(X > b)`` and ``D = 1 - ua - ub``, the mean is the integral of
    ``(n - 1) [(n - 2) D^(n - 3) E[e^2; a < X < b] + D^(n - 2) (e(a)^2 + e(b)^2)]``. Where the range must hold zero,
    blocks of weights of one sign are counted apart.
    """
    mirrored, one_sided = pop._mirrored(), 0.0
    if law.zero_point:
        one_sided = _one_sided(pop, n, bits, law) + _one_sided(mirrored, n, bits, law)
    if n == 1 or (law.zero_point and min(pop.cdf(0.0), mirrored.cdf(0.0)) <= 0):
        return one_sided
    nodes, turns = _both_extremes(pop, n, bits, law.zero_point, None), None
    if law.zero_point:  # how many zero points occur
        a, b, ua, ub, weight = nodes
        phase = -a / (b - a) * (2.0**bits - 1)
        mean, spread = _moments(phase, weight * (1 - ua - ub) ** (n - 2))
        if bits < _FINE or spread < _CYCLES:
            turns = np.arange(max(np.floor(mean - 8 * spread), 0), min(np.ceil(mean + 8 * spread) + 1, 2**bits - 1))
            nodes = _both_extremes(pop, n, bits, True, turns)
    a, b, ua, ub, weight = nodes
    portions = zip(*(np.array_split(x, -(-a.size * 2**bits // 100_000)) for x in (a, b)), strict=True)
    random = law.zero_point and turns is None
    inside, at_a, at_b = np.hstack([_span(pop, ends, bits, law, random) for ends in portions])
    inside = inside + (pop.cdf(a) - ua) * at_a - (ub - pop.upper_moment(b, 0)) * at_b
    within = 1 - ua - ub
    each = (n - 2) * within ** max(n - 3, 0) * inside + within ** (n - 2) * (at_a + at_b)
    return float((weight * each).sum()) + one_sided


def _both_extremes(pop: Population, n: int, bits: int, negative: bool, turns: F64 | None) -> tuple[F64, ...]:
    """Nodes a < b with their probabilities ua and ub, and weights; panels end where ``turns`` of the zero point are."""
    mirrored, count = pop._mirrored(), 5 if bits >= _FINE else 7
    outer, breaks = _extreme_edges(mirrored, n, negative), pop._breaks()
    if turns is not None and turns.size * breaks.size <= 4 * _COARSE:  # and where one meets the end of the weights
        at = mirrored.cdf(-np.outer(breaks, (2.0**bits - 1.5 - turns) / (turns + 0.5)).ravel())
        outer = np.union1d(outer, np.log(np.clip(at, np.exp(outer[0]), np.exp(outer[-1]))))
    ub, wb = panel_nodes(outer, count)
    edges = np.exp(_extreme_edges(pop, n, negative))
    edges = np.broadcast_to(edges, (ub.size, edges.size))
    b = np.asarray(-mirrored.quantile(np.exp(ub)))
    if turns is not None:  # -a / scale = k + 1/2
        at = pop.cdf(-b[:, None] * (turns + 0.5) / (2.0**bits - 1.5 - turns))
        edges = np.sort(np.concatenate([edges, np.clip(at, edges[:, :1], edges[:, -1:])], axis=1), axis=1)
    ua, wa = panel_nodes(np.log(edges), count)
    alike = turns is None and not (n < _FEW and not negative)
    a = np.broadcast_to(pop.quantile(np.exp(ua[0])), ua.shape).ravel() if alike else None
    b, ub, weight = (np.broadcast_to(x[:, None], ua.shape).ravel() for x in (b, np.exp(ub), wb * np.exp(ub) * (n - 1)))
    ua, weight = np.exp(ua).ravel(), weight * (wa * np.exp(ua)).ravel()
    if n < _FEW and not negative:
        ua, weight = ua * (1 - ub), weight * (1 - ub)
    a = np.asarray(pop.quantile(ua)) if a is None else a
    kept = (1 - ua - ub > 1e-12) & (a < b) & (weight > 0)
    return a[kept], b[kept], ua[kept], ub[kept], weight[kept]


def _one_sided(pop: Population, n: int, bits: int, law: MinMaxScale) -> float:
    """The part of blocks without a negative weight, whose range is from zero to the maximum."""
    positive = float(pop.upper_moment(0.0, 0))
    if positive == 0.0:
        return 0.0
    edges = _extreme_edges(pop._mirrored(), n, True)
    y, weight = panel_nodes(np.union1d(edges[edges < np.log(positive)], np.log(positive)), 12)
    u, weight = np.exp(y), weight * np.exp(y)
    b = np.asarray(-pop._mirrored().quantile(u))
    inside, _, at_b = _span(pop, (np.zeros(b.shape), b), bits, law, False)
    inside, share = inside - (u - pop.upper_moment(b, 0)) * at_b, positive - u
    return float((weight * ((n - 1) * share ** max(n - 2, 0) * inside + share ** (n - 1) * at_b)).sum())


def _extreme_edges(pop: Population, n: int, negative: bool) -> F64:
    """Ends of panels in log P(X < min); of ``negative`` minima only."""
    last = float(pop.cdf(0.0)) if negative else 1.0
    places = np.concatenate([pop._breaks(), -pop._breaks(), [0.0]])
    jumps = _jumps(pop.cdf, np.append(places, -_NEAR_ZERO * pop.std_dev()) if negative else places)
    heavy = pop.quantile(_FAR) ** 2 * _FAR > 1e-9 * pop.moment(2)
    return _log_edges(n, heavy, jumps, last)


def log_edges(pop: Population, n: int) -> F64:
    """Ends of panels in log P(|X| > max) of n weights."""
    heavy = magnitudes_of(pop, _FAR) ** 2 * _FAR > 1e-9 * pop.moment(2)
    return _log_edges(n, heavy, _jumps(pop.tail, pop._breaks()), 1.0)


def _log_edges(n: int, heavy: np.ndarray, jumps: F64, last: float) -> F64:
    edges = np.append(_FAR[heavy] / n, np.minimum(_EXPECTED / n, last))
    return np.log(np.union1d(edges, jumps[(jumps > edges.min()) & (jumps < min(edges.max(), last))]))


def _on_atom(pop: Population, x: F64) -> np.ndarray:
    """Which values are point masses, of few, in magnitude."""
    at, _ = pop._atoms()
    few = np.abs(at if at.size <= 64 else at[:0])
    return np.any(np.abs(np.abs(x[:, None]) - few) <= 1e-9 * few, axis=1)


def _moments(x: F64, weight: F64) -> tuple[float, float]:
    """Weighted mean and standard deviation."""
    mean = (x * weight).sum() / weight.sum()
    return float(mean), float(((x - mean) ** 2 * weight).sum() / weight.sum()) ** 0.5


def _span(pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale, random: bool) -> tuple[F64, F64, F64]:
    """E[e^2; a < X <= b], and the squared errors of a and of b; with random phases of the zero point or true ones."""
    a, b = ends
    if law.zero_point:
        levels, thresholds, weights = _of_zero_point(pop, ends, bits, law, random)
    else:
        levels, thresholds, weights = _of_minimum(pop, ends, bits, law)
    pieces = squared(Stairs(levels, thresholds))
    pieces = Pieces(pieces.at + a[:, None, None], *pieces[1:])
    upto = b[:, None] + np.zeros(len(weights))
    at_a = np.where(pieces.at == a[:, None, None], pieces.c0, 0.0).sum(axis=-1) @ weights
    return mean_above(pop, pieces, upto) @ weights, at_a, value_at(pieces, upto) @ weights


def _of_zero_point(
    pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale, random: bool
) -> tuple[F64, F64, F64]:
    """Levels (code - zero point) * scale and thresholds between them, both less a: (blocks, cases, codes)."""
    a, b = ends
    top, low = 2.0**bits - 1, np.minimum(a, 0.0)
    known = (_on_atom(pop, a) | (a == 0)) & _on_atom(pop, b)
    _, scale, weights = AbsmaxScale(1.0, law.stored).scales((np.maximum(b, 0.0) - low) / top, known)
    zero = -low[:, None] / scale
    if not random:
        zero = np.clip(np.rint(zero), 0, top)
    else:
        zero = np.where(known[:, None], np.rint(zero), zero)[..., None] + ~known[:, None, None] * _PHASES
        zero = zero.reshape(len(a), -1)
        scale, weights = np.repeat(scale, 2, axis=1), np.repeat(weights / 2, 2)
    levels = (np.arange(2**bits) - zero[..., None]) * scale[..., None] - a[:, None, None]
    return levels, np.maximum((levels[..., 1:] + levels[..., :-1]) / 2, 0.0), weights


def _of_minimum(pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale) -> tuple[F64, F64, F64]:
    """Levels code * scale + minimum, both as they are stored, less a; codes come from scale and minimum themselves."""
    a, b = ends
    exact = (b - a) / (2.0**bits - 1)
    stored = AbsmaxScale(1.0, law.stored)
    at_a, at_b = _on_atom(pop, a), _on_atom(pop, b)
    (_, scale, of_scale), (_, size, of_low) = stored.scales(exact, at_a & at_b), stored.scales(np.abs(a), at_a)
    k, offset = np.arange(2**bits), np.sign(a)[:, None] * size - a[:, None]
    levels = k * scale[:, :, None, None] + offset[:, None, :, None]
    thresholds = np.tile((k[:-1] + 0.5) * exact[:, None, None], (1, scale.shape[1] * size.shape[1], 1))
    return levels.reshape(a.size, -1, k.size), thresholds, np.outer(of_scale, of_low).ravel()
