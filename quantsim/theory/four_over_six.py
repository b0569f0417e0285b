"""Error of blocks whose largest weight lies on 6 or on 4 of e2m1, whichever leaves the smaller squared error.

With the sums S and S' of squared errors under both scales ``min(S, S') = (S + S' - |D|) / 2``, ``D = S - S'``. Given
the largest magnitude t of a block of n the others are independent, so ``D = d(t) + d(x_2) + … + d(x_n)`` with the
difference d(x) of the squared errors of one weight, and on -L … L, where D lies, |D| is a Fourier series:

    E|D| = L/2 - 4 L / pi^2  sum over odd k of  Re[exp(iu d(t)) Phi(u)^(n-1)] / k^2,   u = k pi / L

with ``Phi(u) = E[exp(iu d(x)); |x| <= t]``. Blocks whose others all become the same under both scales, so that
D = d(t), are taken out of the series first: without them its terms fall fast. Left of quadrature are t, x and, where
scales are stored in units of a scale of the tensor, the largest weight of the tensor. d is linear between thresholds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from quantsim.formats import FORMATS, levels
from quantsim.populations import Population
from quantsim.theory.magnitudes import Panels, edges_of_maximum
from quantsim.theory.pieces import F64
from quantsim.theory.quadrature import fewer
from quantsim.theory.scheme import AbsmaxScale, FourOverSixScale

_LEVELS = levels(FORMATS["e2m1"])[7:]  # 0 … 6
_THRESHOLDS = (_LEVELS[1:] + _LEVELS[:-1]) / 2
_SMALL, _SMALLEST = 16, 8  # weights in a block, below which the series falls more slowly, and slowly
_OWN, _OWN_WEIGHTS = np.polynomial.legendre.leggauss(4)  # places between the start of a panel and the largest weight
_NODES = 3  # of the largest weight in panels within which both scales stand
_EXPECTED = np.array([np.inf, 30.0, 8.0, 2.0, 0.0])  # of weights as large as a point mass, at which its share is cut
_TOPS = 9  # nodes of the largest weight of a tensor
_ALIKE = 1e-12  # squared scales: a difference that is none but for rounding
_FAR = 8.0  # standard deviations of the sum of the others that D lies within
_FEW_LARGE = 3  # or as many of the largest differences of one weight
_NEVER = 1e-9  # part of the variance, and a probability, below which a panel is left out
_PORTION = 20_000  # nodes of weights, few enough for the cache


class _Rule(NamedTuple):
    """How weights up to the largest are integrated, and the terms of the series.

    Attributes:
        places: between two thresholds, in -1 … 1.
        weights: of these.
        terms: of the series.
        cells: whether a place stands for a cell around it, in which exp(iu d) turns too often for single points.
    """

    places: F64
    weights: F64
    terms: int
    cells: bool = False


_MANY = _Rule(*np.polynomial.legendre.leggauss(6), 18)
_SOME = _Rule(*np.polynomial.legendre.leggauss(8), 24)
_FEW = _Rule((np.arange(16) + 0.5) / 8 - 1, np.full(16, 1 / 8), 40, cells=True)


def _rule(n: int) -> _Rule:
    """The more weights a block has, the faster the terms of the series fall."""
    return _FEW if n < _SMALLEST else _SOME if n < _SMALL else _MANY


@dataclass(frozen=True)
class Both:
    """Scales that put the largest magnitude on 6 and on 4, stored in the unit of each row of magnitudes."""

    laws: tuple[AbsmaxScale, AbsmaxScale]
    units: F64
    signed: bool = False
    positive_first: bool = False

    def take(self, rows: np.ndarray) -> "Both":
        """The laws of these rows."""
        return replace(self, units=self.units[rows])

    def breaks(self, low: float, high: float) -> F64:
        """Magnitudes at which either scale jumps, (rows, breaks)."""
        if not self.units.size:
            return np.zeros((0, 0))
        ends = low / self.units.max(), high / self.units.min()
        return np.outer(self.units, np.concatenate([law.breaks(*ends) for law in self.laws]))

    def scales(self, t: F64) -> tuple[F64, F64, F64]:
        """Both scales, (rows, m, 2); where the rounding of a scale is spread, its middle."""
        cases = [law.scales(t / self.units[:, None]) for law in self.laws]
        both = np.stack([(value * weights).sum(axis=-1) for _, value, weights in cases], axis=-1)
        both = both * self.units[:, None, None]
        return both, both, np.ones(2)


class _Rows(NamedTuple):
    """Largest magnitudes t of blocks, (rows, m), of which each row has the same pair of scales.

    Attributes:
        low: up to where other weights are the same for all of a row.
        t: nodes, at least ``low``.
        share: density of one weight at t times the share of the blocks.
        scales: on 6 and on 4, (rows, 2).
        own: other weights between ``low`` and t, (rows, m, k).
        mass: of these.
    """

    low: F64
    t: F64
    share: F64
    scales: F64
    own: F64
    mass: F64

    def portions(self, count: int) -> Iterator["_Rows"]:
        """Some rows at a time, whose arrays stay in the cache with ``count`` nodes between two thresholds."""
        nodes = self.low.size * (2 * _THRESHOLDS.size * count + self.own[:1].size)
        for rows in np.array_split(np.arange(self.low.size), -(-nodes // _PORTION)) if nodes else []:
            yield _Rows(*(part[rows] for part in self))


def four_over_six_mse(pop: Population, n: int, law: FourOverSixScale, tops: F64, share: F64) -> float:
    """Mean squared error of a weight in blocks of n.

    Args:
        pop: population.
        n: weights in a block.
        law: of the scale.
        tops: largest magnitudes of the other blocks of a tensor, increasing; without a scale of the tensor inf alone.
        share: their probabilities.
    """
    if tops.size > _TOPS:
        middle, share = fewer(np.log(tops), share, _TOPS)
        tops = np.exp(middle)
    exact, stored = (
        (AbsmaxScale(6.0, f, alike=law.alike), AbsmaxScale(4.0, f, alike=law.alike)) for f in (None, law.stored)
    )
    units = np.ones(1) if law.total is None else tops / (6.0 * law.top)
    # the block with the largest weight of its tensor has both scales exactly
    beyond = Panels(tops, np.append(tops[1:], np.inf), Both(exact, np.ones(tops.size)), np.cumsum(share))
    groups = [Panels(np.zeros(tops.size), tops, Both(stored, units), share), beyond]
    total = 0.0
    for panels in groups:
        kept = panels.take(panels.low < panels.high)
        if kept.low.size:
            parts = (_at_atoms(pop, n, kept), *_between(pop, n, kept))
            total += sum(_cost(pop, n, rows) for part in parts for rows in part.portions(_rule(n).places.size))
    return total


def _between(pop: Population, n: int, panels: Panels) -> tuple[_Rows, _Rows]:
    """Nodes where both scales stand, and where they grow with the largest magnitude."""
    edges = edges_of_maximum(pop, n)
    edges = edges if edges.size > 1 else np.zeros(2)  # none beside point masses
    first = edges[edges > 0].min(initial=edges[-1]) * (2.0**-12 if edges[0] == 0 else 1.0)
    panels = panels._replace(low=np.maximum(panels.low, edges[0]), high=np.minimum(panels.high, edges[-1]))
    panels = panels.take(panels.low < panels.high)
    inside = np.broadcast_to(edges, (panels.low.size, edges.size))
    panels = panels.cut(np.concatenate([inside, panels.law.breaks(first, edges[-1])], axis=1))
    chance = panels.share * np.minimum(n * np.asarray(pop.tail(panels.low)), 1.0)
    counts = chance * panels.high**2 > _NEVER * min(part.moment(2) for part in pop._parts())
    panels = panels.take(counts & (n * np.log1p(-np.minimum(pop.tail(panels.high), 1 - 1e-16)) > np.log(_NEVER)))
    ends = (panels.low * (1 + 1e-12) + 1e-300)[:, None], (panels.high * (1 - 1e-12))[:, None]
    begin, end = (panels.law.scales(t)[0][:, 0] for t in ends)
    stands = np.all(begin == end, axis=1)
    kinks = (begin[stands][:, :, None] * _THRESHOLDS).reshape(-1, 2 * _THRESHOLDS.size)
    return _standing(pop, panels.take(stands).cut(kinks)._replace(nodes=_NODES)), _moving(pop, panels.take(~stands))


def _standing(pop: Population, panels: Panels) -> _Rows:
    t, width = panels.rule()
    half = (t - panels.low[:, None])[..., None] / 2
    own = panels.low[:, None, None] + half * (1 + _OWN)
    scales = panels.law.scales(t[:, :1])[0][:, 0]
    return _Rows(panels.low, t, width * _density(pop, t), scales, own, half * _OWN_WEIGHTS * _density(pop, own))


def _moving(pop: Population, panels: Panels) -> _Rows:
    t, width = panels.rule()
    scales, share = panels.law.scales(t)[0].reshape(-1, 2), (width * _density(pop, t)).reshape(-1, 1)
    t, none = t.reshape(-1, 1), np.zeros((t.size, 1, 0))
    return _Rows(t[:, 0], t, share, scales, none, none)


def _at_atoms(pop: Population, n: int, panels: Panels) -> _Rows:
    """A point mass of p: the integral over the part s of it of ``n p (P(|X| < a) + s p)^(n-1)``."""
    size, mass = _atoms(pop)
    row, atom = np.nonzero((panels.low[:, None] < size) & (size <= panels.high[:, None]))
    panels, a, p = panels.take(row), size[atom], mass[atom]
    ends = np.clip(1 - _EXPECTED / (n * p[:, None]), 0.0, 1.0)
    half, middle = np.diff(ends)[..., None] / 2, (ends[:, 1:] + ends[:, :-1])[..., None] / 2
    shape = (a.size, half.shape[1] * _MANY.places.size)
    part, width = (middle + half * _MANY.places).reshape(shape), (half * _MANY.weights).reshape(shape)
    t = np.broadcast_to(a[:, None], part.shape)
    scales = panels.law.scales(a[:, None])[0][:, 0]
    share = (panels.share * p)[:, None] * width
    return _Rows(a * (1 - 1e-12), t, share, scales, t[..., None], (part * p[:, None])[..., None])


def _atoms(pop: Population) -> tuple[F64, F64]:
    """Magnitudes of point masses but zero, and their probabilities."""
    at, mass = pop._atoms()
    size, place = np.unique(np.abs(at), return_inverse=True)
    both = np.bincount(place, mass, size.size).astype(np.float64)
    return size[size > 0], both[size > 0]


def _density(pop: Population, x: F64) -> F64:
    """Of the magnitude of a weight, without point masses."""
    return np.asarray(2 * pop.pdf(x) if pop._mirrored() is pop else pop.pdf(x) + pop.pdf(-x))


def _cost(pop: Population, n: int, rows: _Rows) -> float:
    """What blocks of these nodes have of the mean squared error of a weight."""
    others = _others(pop, rows, _rule(n))
    both = (_errors(rows.t, rows.scales), _errors(rows.own, rows.scales))
    of_largest, of_own = (np.sum(e, axis=0) for e in both)
    power = others.power[:, None] + (of_own * rows.mass).sum(axis=-1)
    mass = others.mass.sum(axis=1)[:, None] + others.at_zero[:, None] + rows.mass.sum(axis=-1)
    sums = of_largest * mass ** (n - 1) + (n - 1) * power * mass ** max(n - 2, 0)
    difference, own = (a - b for a, b in both)
    return float((rows.share * (sums - _mean_difference(n, others, difference, own, rows.mass))).sum() / 2)


class _Others(NamedTuple):
    """Weights up to the ``low`` of each row: (rows, nodes) but for sums over them.

    Attributes:
        d: difference of their squared errors.
        mass: of each node.
        at_zero: probability of those that become the same under both scales: 0, or half of the largest.
        power: mean of the sum of both squared errors.
        turn: how far d goes in the cell of a node, to either side; 0 of a single point.
    """

    d: F64
    mass: F64
    at_zero: F64
    power: F64
    turn: F64


def _others(pop: Population, rows: _Rows, rule: _Rule) -> _Others:
    thresholds = (rows.scales[:, :, None] * _THRESHOLDS).reshape(rows.low.size, -1)
    least = np.where(thresholds > 0, thresholds, np.inf).min(axis=1)
    start = np.minimum(least, rows.low)
    breaks = np.broadcast_to(pop._breaks(), (rows.low.size, pop._breaks().size))
    ends = np.concatenate([thresholds, breaks, start[:, None], rows.low[:, None]], axis=1)
    ends = np.sort(np.clip(ends, start[:, None], rows.low[:, None]), axis=1)
    half = np.diff(ends)[..., None] / 2
    x = ((ends[:, 1:] + ends[:, :-1])[..., None] / 2 + half * rule.places).reshape(rows.low.size, -1)
    mass = (half * rule.weights).reshape(x.shape) * _density(pop, x)
    size, share = _atoms(pop)
    passed = (size > start[:, None]) & (size <= rows.low[:, None])
    x = np.concatenate([x, np.broadcast_to(size, passed.shape)], axis=1)
    mass = np.concatenate([mass, share * passed], axis=1)
    on_six, on_four = _errors(x, rows.scales)
    power = ((on_six + on_four) * mass).sum(axis=1) + 2 * _power_within(pop, start)
    d = on_six - on_four
    turn = np.zeros(d.shape if rule.cells else (len(d), 1))
    if rule.cells:  # of a parabola and of a straight line, each in a cell of its own level
        count = rule.places.size
        whole = d[:, : half.size // len(d) * count].reshape(*half.shape[:2], count)
        turn[:, : whole[0].size] = np.repeat((whole[..., 1] - whole[..., 0]) / 2, count, axis=1)
        power += 2 / 3 * (mass[:, : whole[0].size] * np.repeat(half[..., 0] / count, count, axis=1) ** 2).sum(axis=1)
    alike = np.abs(d) <= _ALIKE * np.max(rows.scales, axis=1, keepdims=True) ** 2
    at_zero = 1 - np.asarray(pop.tail(start)) + (mass * alike).sum(axis=1)
    return _Others(d, np.where(alike, 0.0, mass), at_zero, power, turn)


def _power_within(pop: Population, x: F64) -> F64:
    """E[X^2; |X| <= x]; outliers of one size one by one, beside which nothing would be left in float64."""
    at, mass = pop._points()
    total = (mass * at**2 * (np.abs(at) <= x[:, None])).sum(axis=1)
    for one in (pop, pop._mirrored()):
        beyond = sum(c * one._upper_moment_beside_points(x, k) for k, c in enumerate((x**2, 2 * x, 1.0)))
        total = total + one._upper_moment_beside_points(np.zeros(1), 2) - beyond
    return total


def _errors(x: F64, scales: F64) -> tuple[F64, F64]:
    """Squared errors of magnitudes under both scales of each row."""
    found = []
    for scale in scales.T.reshape(2, -1, *(1,) * (x.ndim - 1)):
        units = np.divide(x, scale, out=np.zeros(x.shape), where=np.broadcast_to(scale > 0, x.shape))
        found.append((_LEVELS[np.searchsorted(_THRESHOLDS, units)] * scale - x) ** 2)
    return found[0], found[1]


def _mean_difference(n: int, others: _Others, largest: F64, own: F64, own_mass: F64) -> F64:
    """E[|D|; no other weight exceeds t], (rows, m)."""
    mass = others.at_zero[:, None] + others.mass.sum(axis=1)[:, None] + own_mass.sum(axis=-1)
    first, second = (
        ((others.mass * others.d**k).sum(axis=1)[:, None] + (own_mass * own**k).sum(axis=-1)) / mass for k in (1, 2)
    )
    middle = largest + (n - 1) * first
    most = np.where(others.mass > 0, np.abs(others.d), 0.0).max(axis=1, initial=0.0)[:, None]
    most = np.maximum(most, np.abs(own).max(axis=-1, initial=0.0))
    spread = np.maximum(_FAR * np.sqrt((n - 1) * np.maximum(second - first**2, 0.0)), _FEW_LARGE * most)
    spread = np.minimum(spread, 2 * (n - 1) * most)
    found = np.abs(middle) * mass ** (n - 1)
    rows = np.any(np.abs(middle) < spread, axis=1)
    if not np.any(rows):
        return found
    reach = np.max(np.abs(middle) + spread, axis=1, keepdims=True)[rows]
    some = _Others(*(part[rows] for part in others))
    series = _series(n, some, (largest[rows], own[rows], own_mass[rows]), mass[rows], reach)
    found[rows] = np.where(np.abs(middle[rows]) < spread[rows], series, found[rows])
    return found


def _series(n: int, others: _Others, at: tuple[F64, F64, F64], mass: F64, reach: F64) -> F64:
    largest, own, own_mass = at
    alone = others.at_zero[:, None] ** (n - 1)
    turns = [np.exp(1j * np.pi / reach.reshape(-1, *(1,) * (d.ndim - 1)) * d) for d in (others.d, own, largest)]
    steps = [z * z for z in turns]
    total = np.zeros(largest.shape)
    for k in range(1, 2 * _rule(n).terms, 2):
        common, of_own, of_largest = turns
        mass_of_turn = others.mass * np.sinc(k * others.turn / reach)  # mean of exp(iu d) over a cell
        phi = others.at_zero + np.einsum("rx,rx->r", common, mass_of_turn)
        phi = phi[:, None] + (of_own * own_mass).sum(axis=-1)
        total += (of_largest * (_power(phi, n - 1) - alone)).real / k**2
        turns = [z * step for z, step in zip(turns, steps, strict=True)]
    return alone * np.abs(largest) + (mass ** (n - 1) - alone) * reach / 2 - 4 * reach / np.pi**2 * total


def _power(z: np.ndarray, n: int) -> np.ndarray:
    """``z^n`` by squaring, which is faster than complex logarithms."""
    result = np.ones_like(z)
    while n:
        result, z, n = (result * z if n & 1 else result), z * z, n >> 1
    return result
