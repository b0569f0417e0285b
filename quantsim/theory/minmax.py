"""Blocks whose scale spans minimum and maximum, with a zero point or with the minimum as a level."""

import numpy as np

from quantsim.formats import grid
from quantsim.populations import Population
from quantsim.theory.known import FINE_BITS
from quantsim.theory.order import COARSE, FAR, FEW, FEW_ATOMS, edges_between, jumps_of, on_atom, panel_nodes
from quantsim.theory.pieces import Stairs, mean_above, squared, value_at
from quantsim.theory.scheme import F64, AbsmaxScale, MinMaxScale

_NEAR_ZERO = np.array([0.3, 0.1, 0.03, 0.01, 0.003])  # std: where the zero point of few weights turns fast
_CYCLES = 6.0  # codes that the zero points of blocks spread over, from which a and b lie anywhere in their steps


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
    nodes = _both_extremes(pop, n, bits, law.zero_point, None)
    few = _few_zero_points(nodes, n, bits) if law.zero_point else None
    coarse = law.zero_point and few is None and np.any(_far_apart(pop, nodes, bits))
    if few is not None or coarse:
        turns = few if few is not None else _zero_points_near_ends(bits)
        nodes = _both_extremes(pop, n, bits, True, turns)
    a, b, ua, ub, weight = nodes
    random = (law.zero_point and few is None) & ~(on_atom(pop, a) & on_atom(pop, b))
    if coarse:
        random &= ~_far_apart(pop, nodes, bits)
    if law.stored is not None:  # below, it may be zero
        random &= (b - a) / (2.0**bits - 1) >= 2.0 ** grid(law.stored).min_exponent
    inside, at_a, at_b = np.empty((3, a.size))
    inside[random], at_a[random], at_b[random] = _span_of_random(pop, (a[random], b[random]), bits, law)
    inside[~random], at_a[~random], at_b[~random] = _span(pop, (a[~random], b[~random]), bits, law)
    inside = inside + (pop.cdf(a) - ua) * at_a - (ub - pop.upper_moment(b, 0)) * at_b
    within = 1 - ua - ub
    each = (n - 2) * within ** max(n - 3, 0) * inside + within ** (n - 2) * (at_a + at_b)
    return float((weight * each).sum()) + one_sided


def _few_zero_points(nodes: tuple[F64, ...], n: int, bits: int) -> F64 | None:
    """Zero points between which that of a block moves, if they are few enough to follow one by one."""
    a, b, ua, ub, weight = nodes
    phase = -a / (b - a) * (2.0**bits - 1)
    mean, spread = _moments(phase, weight * (1 - ua - ub) ** (n - 2))
    if bits >= FINE_BITS and spread >= _CYCLES:
        return None
    last = min(np.ceil(mean + 8 * spread) + 1, 2.0**bits - 1)
    return np.arange(max(np.floor(mean - 8 * spread), 0.0), last)


def _far_apart(pop: Population, nodes: tuple[F64, ...], bits: int) -> np.ndarray:
    """Blocks in which a far outlier makes the step so wide that the other extreme lies within few steps of zero."""
    finest = min(part.std_dev() for part in pop._parts())
    a, b = nodes[:2]
    return ((b - a) / (2.0**bits - 1) > finest / 2) & ~(on_atom(pop, a) & on_atom(pop, b))


def _zero_points_near_ends(bits: int) -> F64:
    """Those of such blocks: extremes up to 8 standard deviations lie within 16 steps."""
    near = np.arange(16.0)
    return np.union1d(near, 2.0**bits - 2 - near)


def _both_extremes(pop: Population, n: int, bits: int, negative: bool, turns: F64 | None) -> tuple[F64, ...]:
    """Nodes a < b with their probabilities ua and ub, and weights; panels end where ``turns`` of the zero point are."""
    mirrored, count = pop._mirrored(), 5 if bits >= FINE_BITS else 7
    outer, breaks = _extreme_edges(mirrored, n, negative), pop._breaks()
    if turns is not None and turns.size * breaks.size <= 4 * COARSE:  # and where one meets the end of the weights
        at = mirrored.cdf(-np.outer(breaks, (2.0**bits - 1.5 - turns) / (turns + 0.5)).ravel())
        outer = np.union1d(outer, np.log(np.clip(at, np.exp(outer[0]), np.exp(outer[-1]))))
    ub, wb = panel_nodes(outer, count)
    edges = np.exp(_extreme_edges(pop, n, negative))
    edges = np.broadcast_to(edges, (ub.size, edges.size))
    b = np.asarray(-mirrored.quantile(np.exp(ub)))
    if turns is not None:  # -a / scale = k + 1/2
        at = pop.cdf(-b[:, None] * (turns + 0.5) / (2.0**bits - 1.5 - turns))
        edges = np.sort(np.concatenate([edges, np.clip(at, edges[:, :1], edges[:, -1:])], axis=1), axis=1)
    if n < FEW and not negative:  # the nodes below are shares of what ub leaves
        edges = np.sort(np.concatenate([edges, np.minimum(edges / (1 - np.exp(ub))[:, None], 1.0)], axis=1), axis=1)
    ua, wa = panel_nodes(np.log(edges), count)
    alike = turns is None and not (n < FEW and not negative)
    a = np.broadcast_to(pop.quantile(np.exp(ua[0])), ua.shape).ravel() if alike else None
    b, ub, weight = (np.broadcast_to(x[:, None], ua.shape).ravel() for x in (b, np.exp(ub), wb * np.exp(ub) * (n - 1)))
    ua, weight = np.exp(ua).ravel(), weight * (wa * np.exp(ua)).ravel()
    if n < FEW and not negative:
        ua, weight = ua * (1 - ub), weight * (1 - ub)
    a = np.asarray(pop.quantile(ua)) if a is None else a
    kept = (1 - ua - ub > 1e-12) & (a < b) & (weight > 0)
    return a[kept], b[kept], ua[kept], ub[kept], weight[kept]


def _one_sided(pop: Population, n: int, bits: int, law: MinMaxScale) -> float:
    """The part of blocks without a negative weight, whose range is from zero to the maximum."""
    positive = float(pop.upper_moment(0.0, 0))
    if positive == 0.0 or n * np.log(positive) < -40:
        return 0.0
    edges = _extreme_edges(pop._mirrored(), n, True)
    y, weight = panel_nodes(np.union1d(edges[edges < np.log(positive)], np.log(positive)), 12)
    u, weight = np.exp(y), weight * np.exp(y)
    b = np.asarray(-pop._mirrored().quantile(u))
    inside, _, at_b = _span(pop, (np.zeros(b.shape), b), bits, law)
    inside, share = inside - (u - pop.upper_moment(b, 0)) * at_b, positive - u
    return float((weight * ((n - 1) * share ** max(n - 2, 0) * inside + share ** (n - 1) * at_b)).sum())


def _extreme_edges(pop: Population, n: int, negative: bool) -> F64:
    """Ends of panels in log P(X < min); of ``negative`` minima only."""
    last = float(pop.cdf(0.0)) if negative else 1.0
    places = np.concatenate([pop._breaks(), -pop._breaks(), [0.0]])
    jumps = jumps_of(pop.cdf, np.append(places, -_NEAR_ZERO * pop.std_dev()) if negative else places)
    heavy = pop.quantile(FAR) ** 2 * FAR > 1e-9 * pop.moment(2)
    return edges_between(n, heavy, jumps, last)


def _moments(x: F64, weight: F64) -> tuple[float, float]:
    """Weighted mean and standard deviation."""
    mean = (x * weight).sum() / weight.sum()
    return float(mean), float(((x - mean) ** 2 * weight).sum() / weight.sum()) ** 0.5


def _span(pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale) -> F64:
    """E[e^2; a < X <= b], and the squared errors of a and of b, as rows; in portions that stay in the cache."""
    if not ends[0].size:
        return np.zeros((3, 0))
    a, b = ends
    if law.zero_point and np.any(turned := -a > b):
        out = np.empty((3, a.size))
        out[:, ~turned] = _span(pop, (a[~turned], b[~turned]), bits, law)
        out[:, turned] = _span_of_mirrored(pop, (a[turned], b[turned]), bits, law)
        return out
    portions = -(-(ends[0].size + 1) * 2**bits // 100_000)
    parts = zip(*(np.array_split(x, portions) for x in ends), strict=True)
    return np.hstack([_span_of_few(pop, (a, b), bits, law) for a, b in parts])


def _span_of_mirrored(pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale) -> F64:
    """The same from -X, which has the same levels mirrored: kinks far from a weight lose it in the rounding of float64.

    There the interval is closed at a and open at b.
    """
    (a, b), mirrored = ends, pop._mirrored()
    inside, at_b, at_a = _span(mirrored, (-b, -a), bits, law)
    mass_at_a = pop.cdf(a) - mirrored.upper_moment(-a, 0)
    mass_at_b = mirrored.cdf(-b) - pop.upper_moment(b, 0)
    return np.stack([inside - mass_at_a * at_a + mass_at_b * at_b, at_a, at_b])


def _span_of_few(pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale) -> F64:
    a, b = ends
    if law.zero_point:
        levels, thresholds, weights = _of_zero_point(pop, ends, bits, law)
    else:
        levels, thresholds, weights = _of_minimum(pop, ends, bits, law)
    pieces = squared(Stairs(levels, thresholds))
    value = pieces.value
    pieces = pieces._replace(at=pieces.at + a[:, None, None], value=lambda x: value(x - a[:, None]))
    upto = b[:, None] + np.zeros(len(weights))
    at_a = np.where(pieces.at == a[:, None, None], pieces.c0, 0.0).sum(axis=-1) @ weights
    return np.stack([mean_above(pop, pieces, upto) @ weights, at_a, value_at(pieces, upto) @ weights])


def _span_of_random(pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale) -> F64:
    """The same if a and b lie anywhere in their steps: step^2 / 12 at them.

    A scale stored too small leaves d steps of the range without a level: b, and weights so near to it, err more, by
    the square of their distance in steps from its beginning.
    """
    a, b = ends
    if not a.size:
        return np.zeros((3, 0))
    top, density = 2.0**bits - 1, np.asarray(pop.pdf(b))[:, None]
    stored = AbsmaxScale(1.0, law.stored, fine=True)
    _, step, weights = stored.scales((b - a) / top, np.zeros(a.shape, bool))
    d = np.maximum((b - a)[:, None] / step - top, 0.0)
    noise, outside = step**2 / 12, np.asarray(pop.upper_moment(b, 0) + pop.cdf(a))[:, None]
    inside = _lattice(pop, step) - outside * noise + density * step**3 * d**3 / 3
    return np.stack([inside @ weights, noise @ weights, (noise + step**2 * d**2) @ weights])


def _lattice(pop: Population, step: F64) -> F64:
    """Squared error of rounding to multiples of each step, by its ratio to step^2 / 12 at eight steps an octave.

    Only near zero, where densities have cusps and zero is a level, does the ratio differ from 1.
    """
    from scipy.interpolate import CubicSpline

    if pop._atoms()[0].size > FEW_ATOMS:
        return step**2 / 12
    first, last = np.log2(step.min()), np.log2(step.max())
    octave = np.linspace(first, last, max(int(8 * (last - first)) + 1, 4)) if last > first else np.array([first])
    ratio = np.array([_near_zero(pop, 2.0**s) for s in octave])
    each = CubicSpline(octave, ratio)(np.log2(step)) if octave.size > 1 else ratio
    return each * step**2 / 12


def _near_zero(pop: Population, step: float) -> float:
    """12 / step^2 times the squared error of rounding to multiples; 1 for point masses and weights far from zero."""
    # as far as the density is smooth: a cut where it has a slope would count as an error
    jumps = np.setdiff1d(pop._breaks(), np.abs(pop._atoms()[0]))
    end = min(8 * max(part.std_dev() for part in pop._parts()), jumps.min(initial=np.inf))
    cells = np.clip(np.floor(end / step - 0.5), 8, 512)
    k = np.arange(cells + 1)
    pieces, end = squared(Stairs(k * step, (k[:-1] + 0.5) * step)), (cells + 0.5) * step
    (at, mass), ratio = pop._atoms(), 1.0
    for one, sign in ((pop, 1), (pop._mirrored(), -1)):
        near = (sign * at > 0) & (np.abs(at) <= end)
        counted = [m * value_at(pieces, abs(x)) for x, m in zip(at[near], mass[near], strict=True)]
        within = one.upper_moment(0.0, 0) - one.upper_moment(end, 0) - mass[near].sum()
        ratio += float(12 / step**2 * (mean_above(one, pieces, end) - sum(counted)) - within)
    return ratio


def _of_zero_point(pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale) -> tuple[F64, F64, F64]:
    """Levels (code - zero point) * scale and thresholds between them, both less a: (blocks, cases, codes)."""
    a, b = ends
    top, low = 2.0**bits - 1, np.minimum(a, 0.0)
    known = (on_atom(pop, a) | (a == 0)) & on_atom(pop, b)
    _, scale, weights = AbsmaxScale(1.0, law.stored).scales((np.maximum(b, 0.0) - low) / top, known)
    zero = np.clip(np.rint(-low[:, None] / np.where(scale > 0, scale, 1.0)), 0, top)
    levels = (np.arange(2**bits) - zero[..., None]) * scale[..., None] - a[:, None, None]
    return levels, np.maximum((levels[..., 1:] + levels[..., :-1]) / 2, 0.0), weights


def _of_minimum(pop: Population, ends: tuple[F64, F64], bits: int, law: MinMaxScale) -> tuple[F64, F64, F64]:
    """Levels code * scale + minimum, both as they are stored, less a; codes come from scale and minimum themselves."""
    a, b = ends
    exact = (b - a) / (2.0**bits - 1)
    stored = AbsmaxScale(1.0, law.stored)
    at_a, at_b = on_atom(pop, a), on_atom(pop, b)
    (_, scale, of_scale), (_, size, of_low) = stored.scales(exact, at_a & at_b), stored.scales(np.abs(a), at_a)
    k, offset = np.arange(2**bits), np.sign(a)[:, None] * size - a[:, None]
    levels = k * scale[:, :, None, None] + offset[:, None, :, None]
    thresholds = np.tile((k[:-1] + 0.5) * exact[:, None, None], (1, scale.shape[1] * size.shape[1], 1))
    return levels.reshape(a.size, -1, k.size), thresholds, np.outer(of_scale, of_low).ravel()
