"""Error of a block whose scale follows from its largest weight: exact, conditioned on the true block maximum.

A weight x of a block of n, whose others have the largest magnitude m, sees the maximum max(|x|, m). So

    mean cost = integral over t of  (n - 1) p(t) G(t)^(n-2) H(t)  +  p(t) G(t)^(n-1) c(t)

with the density p of the magnitude of one weight, G(t) = P(|X| <= t), the cost c(t) of the largest weight, and
H(t) = E[c(x); |x| <= t] under the scale of t, which the upper partial moments of the population give exactly. One
integral over t is left: Gauss-Legendre between the magnitudes at which the scale or a code of the extreme jumps.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from quantsim.populations import Population
from quantsim.populations.extremes import magnitudes
from quantsim.theory.pieces import F64, Pieces, Stairs, mean_above, value_at

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_MOST = 2048  # point masses that are followed one by one
_FOLLOWED = 512  # thresholds that outliers of one size are followed over
_NONE = 1e-14  # part of the result that is left out

Cost = Callable[[Stairs], Pieces]


@runtime_checkable
class Law(Protocol):
    """A scale that follows from the largest magnitude t of its block."""

    @property
    def signed(self) -> bool:
        """Whether the scale has the sign of the extreme."""
        ...

    @property
    def positive_first(self) -> bool:
        """Whether of equal magnitudes a positive one is the extreme; else a random one is."""
        ...

    def breaks(self, low: float, high: float) -> F64:
        """Magnitudes t at which the scale jumps."""
        ...

    def scales(self, t: F64) -> tuple[F64, F64, F64]:
        """Scale of the codes and of the weights, (t, k) each, and the probabilities of the k cases, (t, k) or (k,)."""
        ...


class Sides(NamedTuple):
    """Stairs of positive and of negative weights, in units of the scale."""

    positive: Stairs
    negative: Stairs

    def flipped(self) -> "Sides":
        """Under a negative scale."""
        return Sides(self.negative, self.positive)


@lru_cache(64)
def _scale_of(part: Population) -> F64:
    """Magnitudes of one family, dense where it has its weights, sparse as far as it reaches."""
    tails = 10.0 ** np.concatenate([np.arange(-0.25, -20, -0.5), np.arange(-20, -281, -4.0)])
    edges = magnitudes(part, tails)
    return np.concatenate([edges[0] * np.array([0.0, 0.25, 0.5, 0.75]), edges])


def _edges(pop: Population, n: int) -> F64:
    """Ends of the panels: where the maximum of n weights, or of n - 1, can be, as far as its square counts."""
    edges = np.unique(np.concatenate([*(_scale_of(part) for part in pop._parts()), pop._breaks()]))
    tails = np.asarray(n * pop.tail(edges))
    kept = np.ones(edges.size, bool)
    # behind the first edge at which the maximum is larger for certain, before the first that nothing exceeds
    kept[:-1] &= (tails[1:] < 60) | (n < 60)
    power = edges**2 * np.minimum(tails, 1.0)
    least = min(part.moment(2) for part in pop._parts())  # the error may be no more than that of the bulk alone
    kept[1:] &= power[:-1] > _NONE * min(power.max(initial=0.0), least)
    return edges[kept]


def _nodes(pop: Population, n: int, sides: Sides, law: Law) -> tuple[F64, F64]:
    """Magnitudes and their weights, on panels within which the integrand is smooth."""
    edges = _edges(pop, n)
    first = edges[edges > 0][0] * (2.0**-12 if edges[0] == 0 else 1.0)
    edges = np.union1d(edges, _inside(law.breaks(first, edges[-1]), edges))
    same = [law.scales(end)[0] for end in (edges[:-1] * (1 + 1e-12) + 1e-300, edges[1:] * (1 - 1e-12))]
    # the extreme passes thresholds only where the scale stands still; in far tails they are too many to follow
    fixed = np.all(same[0] == same[1], axis=1)
    fixed &= (n * pop.tail(edges[:-1]) > 1e-10) | (sides.positive.thresholds.size < 32)
    at = same[0][fixed, :1] * np.concatenate([side.thresholds for side in sides])
    passed = (edges[:-1][fixed, None] < at) & (at < edges[1:][fixed, None])
    edges = np.union1d(
        edges, np.concatenate([at[passed], _teeth(pop, edges, np.any(same[0] != same[1], axis=1), sides, law)])
    )
    a, b = edges[:-1, None], edges[1:, None]
    return ((a + b) / 2 + (b - a) / 2 * _NODES).ravel(), ((b - a) / 2 * _WEIGHTS).ravel()


def _teeth(pop: Population, edges: F64, moving: np.ndarray, sides: Sides, law: Law) -> F64:
    """Magnitudes of the extreme at which outliers of one size pass a threshold, where the scale grows with it.

    All of them then change their error at once, so that the integrand has the teeth of a saw, as many as there are
    codes between them and the last one.
    """
    size = np.unique(np.abs(pop._points()[0]))
    thresholds = np.unique(np.concatenate([side.thresholds for side in sides]))
    thresholds = thresholds[thresholds > 0]
    if not 0 < size.size <= _FOLLOWED // max(thresholds.size, 1) or not moving.any():
        return np.empty(0)
    a, b = edges[:-1][moving, None], edges[1:][moving, None]
    middle = (a + b)[:, 0] / 2
    units = np.unique(law.scales(middle)[0] / middle[:, None], axis=1)
    found = [
        at[(a < at) & (at < b) & (at > s)]
        for s in size
        for unit in units.T
        for at in [s / (unit[:, None] * thresholds)]
    ]
    return np.concatenate(found)


def mean_of_both(pop: Population, sides: Sides, cost: Cost) -> float:
    """Mean cost of a weight under fixed stairs, positive and negative weights and those at zero."""
    mirrored, above = pop._mirrored(), cost(sides.positive)
    alike = mirrored is pop and all(np.array_equal(a, b) for a, b in zip(*sides, strict=True))
    mean = mean_above(pop, above)
    mean = mean + (mean if alike else mean_above(mirrored, cost(sides.negative)))
    return float(mean + _mass_at_zero(pop) * above.c0[..., 0])


def _inside(x: F64, edges: F64) -> F64:
    return x[(x > edges[0]) & (x < edges[-1])]


def absmax_mean(pop: Population, n: int, sides: Sides, law: Law, cost: Cost) -> float:
    """Mean cost of a weight in blocks of n whose scale follows ``law``.

    Args:
        pop: population.
        n: weights in a block, at least 1.
        sides: what weights become, in units of the scale.
        law: scale of a block from its largest magnitude.
        cost: pieces of the cost, such as ``squared``.
    """
    total = _of_atoms(pop, n, sides, law, cost)
    if pop._atoms()[1].sum() > 1 - 1e-12:
        return total
    for t, width in _portions(*_nodes(pop, n, sides, law), sides):
        log_within = np.log1p(-np.minimum(pop.tail(t), 1 - 1e-16))
        others, alone = (n - 1) * np.exp(max(n - 2, 0) * log_within), np.exp((n - 1) * log_within)
        for case in _cases(pop, t, sides, law, cost):
            for sign in case.signs:
                each = others * case.within + alone * case.extreme[sign]
                total += float((width * pop.pdf(sign * t) * each).sum())
    return total


def _portions(t: F64, width: F64, sides: Sides) -> list[tuple[F64, F64]]:
    """The nodes in portions whose pieces stay in the cache."""
    count = -(-4 * t.size * (sides.positive.thresholds.size + 1) // 500_000)
    return list(zip(np.array_split(t, count), np.array_split(width, count), strict=True))


class _Case(NamedTuple):
    """Under the scales of extremes of these signs: E[cost; |X| <= t], and the cost of +t and of -t."""

    signs: tuple[int, ...]
    within: F64
    extreme: dict[int, F64]


def _cases(pop: Population, t: F64, sides: Sides, law: Law, cost: Cost, beyond: F64 | None = None) -> list[_Case]:
    beyond = np.zeros(t.shape) if beyond is None else beyond
    under = partial(_case, pop, (t, t + beyond), law.scales(t), cost)
    if not law.signed:
        return [under(sides, (1, -1))]
    one = under(sides, (1,))
    if pop._mirrored() is pop:
        return [one, _Case((-1,), one.within, {1: one.extreme[-1], -1: one.extreme[1]})]
    return [one, under(sides.flipped(), (-1,))]


def _case(
    pop: Population, ends: tuple[F64, F64], scales: tuple[F64, F64, F64], cost: Cost, sides: Sides, signs: tuple
) -> _Case:
    """Means up to the second of the ends under the scales of the first, averaged over the cases of the scale."""
    (code, value, weights), mirrored = scales, pop._mirrored()
    own, upto = (end[:, None] + 0 * value for end in ends)
    above = cost(sides.positive.times(value, code))
    alike = all(np.array_equal(a, b) for a, b in zip(*sides, strict=True))
    below = above if alike else cost(sides.negative.times(value, code))
    mean = mean_above(pop, above, upto)
    mean = mean + (mean if alike and mirrored is pop else mean_above(mirrored, below, upto))
    mean = mean + _mass_at_zero(pop) * above.c0[..., 0]
    extreme = {s: (value_at(p, own) * weights).sum(axis=1) for s, p in ((1, above), (-1, below))}
    return _Case(signs, (mean * weights).sum(axis=1), extreme)


def _mass_at_zero(pop: Population) -> float:
    at, mass = pop._atoms()
    return float(mass[at == 0].sum())


def _of_atoms(pop: Population, n: int, sides: Sides, law: Law, cost: Cost) -> float:
    """The part of blocks whose largest magnitude is a point mass."""
    at, mass = pop._atoms()
    size = np.unique(np.abs(at[at != 0]))
    if not size.size:
        return 0.0
    place = np.searchsorted(size, np.abs(at))
    share = np.stack([np.bincount(place[s * at > 0], mass[s * at > 0], size.size) for s in (1, -1)]).astype(np.float64)
    block, chances = _chances_of_ties(np.minimum(pop.tail(size), 1.0), share, n, law.positive_first)
    size = size.astype(np.float32).astype(np.float64)  # as they are drawn
    far = np.abs(pop._points()[0]).min(initial=np.inf)
    size, (_, *share), chances = _grouped((size, np.stack([block, *share]), chances), far)
    last_bit, total = np.spacing(size.astype(np.float32)).astype(np.float64) / 2, 0.0
    for case in _cases(pop, size, sides, law, cost, last_bit):
        below = case.within - share[0] * case.extreme[1] - share[1] * case.extreme[-1]
        for s in case.signs:
            smaller, plus, minus = chances[s]
            total += float((smaller * below + plus * case.extreme[1] + minus * case.extreme[-1]).sum())
    return total


def _chances_of_ties(beyond: F64, share: F64, n: int, positive_first: bool) -> tuple[F64, dict[int, F64]]:
    """Probability that the maximum of a block is a point mass of ``share`` (positive, negative), beyond it ``beyond``.

    And for each sign that its scale then takes: that a weight of the block is smaller (but for its own probability),
    is the positive and the negative point mass. Of equal magnitudes a random one gives the sign, or a positive one.
    """
    both = share[0] + share[1]
    within, without, no_plus = (np.log1p(-np.minimum(beyond + p, 1 - 1e-16)) for p in (0.0, both, share[0]))

    block = _gap(within, without, n)
    if positive_first:
        some, none = _gap(within, no_plus, n - 1), _gap(no_plus, without, n - 1)
        plus = [some, share[0] * np.exp((n - 1) * within), share[1] * some]
        return block, {1: np.stack(plus), -1: np.stack([none, 0 * none, share[1] * np.exp((n - 1) * no_plus)])}
    split = share / np.maximum(both, 1e-300)
    one, others = block / n, _gap(within, without, n - 1)
    ties = both * np.exp((n - 1) * within) - one
    return block, {
        s: split[i] * np.stack([others, (s > 0) * one + ties * split[0], (s < 0) * one + ties * split[1]])
        for i, s in enumerate((1, -1))
    }


def _gap(high: F64, low: F64, k: int) -> F64:
    """``exp(high)^k - exp(low)^k``."""
    return np.exp(k * high) * -np.expm1(k * (low - high))


def _grouped(atoms: tuple[F64, F64, dict[int, F64]], far: float) -> tuple[F64, F64, dict[int, F64]]:
    """Magnitudes with what happens at each; many are taken together, equally likely groups at their rms.

    Not those from ``far`` on, which are few and have nothing in common with the others.
    """
    size, columns, chances = atoms
    kept = columns[0] > 1e-18
    size, columns, chances = size[kept], columns[:, kept], {s: c[:, kept] for s, c in chances.items()}
    if size.size <= _MOST:
        return size, columns, chances
    block, near = columns[0], size < far
    share = np.cumsum(block * near) / block[near].sum()
    group = np.where(near, np.minimum((share * _MOST).astype(int), _MOST - 1), _MOST - 1 + np.cumsum(~near))
    some = np.bincount(group, block) > 0
    power = np.bincount(group, block * size**2)[some]
    columns = _summed(columns, group, some)
    return np.sqrt(power / columns[0]), columns, {s: _summed(c, group, some) for s, c in chances.items()}


def _summed(rows: F64, group: np.ndarray, some: np.ndarray) -> F64:
    """Sums of each row over the groups that hold something."""
    return np.asarray([np.bincount(group, row)[some] for row in rows], np.float64)
