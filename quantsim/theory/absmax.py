"""Error of a block whose scale follows from its largest weight: exact, conditioned on the true block maximum.

A weight x of a block of n, whose others have the largest magnitude m, sees the maximum max(|x|, m). So

    mean cost = integral over t of  (n - 1) p(t) G(t)^(n-2) H(t)  +  p(t) G(t)^(n-1) c(t)

with the density p of the magnitude of one weight, G(t) = P(|X| <= t), the cost c(t) of the largest weight, and
H(t) = E[c(x); |x| <= t] under the scale of t, which the upper partial moments of the population give exactly. One
integral over t is left: Gauss-Legendre between the magnitudes at which the scale or a code of the extreme jumps. The
part of outliers of one size in H has many more jumps than the others', and needs no moments: it is integrated apart.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from quantsim.populations import Population
from quantsim.theory.magnitudes import Law, Panels, Sides, followed
from quantsim.theory.pieces import F64, Cost, mean_above, mean_beside_points, mean_of_points, squared, value_at

_MOST = 2048  # point masses that are followed one by one
_PORTION = 125_000  # numbers of an array that stays in the cache


def mean_of_both(pop: Population, sides: Sides, cost: Cost) -> float:
    """Mean cost of a weight under fixed stairs, positive and negative weights and those at zero."""
    mirrored, above = pop._mirrored(), cost(sides.positive)
    mean = mean_above(pop, above)
    mean = mean + (mean if mirrored is pop and sides.alike() else mean_above(mirrored, cost(sides.negative)))
    return float(mean + _mass_at_zero(pop) * above.c0[..., 0])


def absmax_mean(pop: Population, n: int, sides: Sides, law: Law, cost: Cost, share: F64 | None = None) -> float:
    """Mean cost of a weight in blocks of n whose scale follows ``law``.

    Args:
        pop: population.
        n: weights in a block, at least 1.
        sides: what weights become, in units of the scale.
        law: scale of a block from its largest magnitude.
        cost: such as ``squared``.
        share: of the blocks that have each of several laws; by default there is one.
    """
    blocks, share = _Blocks(pop, n, sides, cost), np.ones(1) if share is None else share
    total = blocks.of_atoms(law, share)
    if pop._atoms()[1].sum() > 1 - 1e-12:
        return total
    panels = followed(pop, n, sides, law, share, smooth=cost is squared)
    points = (blocks.points,) if pop._points()[0].size else ()
    total += sum(blocks.over(some, blocks.beside_points, *points) for some in panels.standing)
    return total + blocks.over(panels.moving, blocks.beside_points) + blocks.over(panels.teeth, *points)


class _Case(NamedTuple):
    """Under the scales of extremes of these signs: E[cost; |X| <= t], and the cost of +t and of -t."""

    signs: tuple[int, ...]
    within: F64
    extreme: dict[int, F64]


class _Scales(NamedTuple):
    """Scale of the codes and of the weights, and the probabilities of its cases, which run along the last axis."""

    code: F64
    value: F64
    weights: F64

    def mean(self, x: F64) -> F64:
        """Over the cases."""
        return (x * self.weights).sum(axis=-1)

    def for_squares(self) -> "_Scales":
        """Two cases for many that share their codes: squared errors depend on two moments of the value alone."""
        if self.value.shape[-1] <= 2 or self.code.shape[-1] > 1:
            return self
        middle = self.mean(self.value)[..., None]
        spread = self.mean((self.value - middle) ** 2)[..., None] ** 0.5
        return self._replace(value=middle + spread * np.array([-1.0, 1.0]), weights=np.array([0.5, 0.5]))


#: What a kind of weights has of a case: of the extremes, of the magnitudes counted, of scales, stairs and signs.
_Part = Callable[[F64, F64, _Scales, Sides, tuple[int, ...]], _Case]


class _Blocks(NamedTuple):
    """Blocks of n weights that become ``sides`` in units of their scale, at a cost."""

    pop: Population
    n: int
    sides: Sides
    cost: Cost

    def over(self, panels: Panels, *parts: _Part) -> float:
        """What the parts have of blocks whose largest magnitude lies in these panels."""
        return sum((self._over(portion, parts) for portion in self._portions(panels) if parts), 0.0)

    def _portions(self, panels: Panels) -> list[Panels]:
        """The panels in portions whose pieces stay in the cache."""
        size = panels.low.size * panels.nodes * (self.sides.positive.thresholds.size + 1)
        if not size:
            return []
        return [panels.take(rows) for rows in np.array_split(np.arange(panels.low.size), -(-size // _PORTION))]

    def _over(self, panels: Panels, parts: tuple[_Part, ...]) -> float:
        t, width = panels.rule()
        scales, total = self._scales(panels.law, t[:, :1] if panels.standing else t), 0.0
        log_within = np.log1p(-np.minimum(self.pop.tail(t), 1 - 1e-16))
        others = (self.n - 1) * np.exp(max(self.n - 2, 0) * log_within)
        alone = np.exp((self.n - 1) * log_within)
        density = {1: width * self.pop.pdf(t)}
        density[-1] = density[1] if self.pop._mirrored() is self.pop else width * self.pop.pdf(-t)
        for part in parts:
            for case in self._cases(panels.law, t, t, scales, part):
                for sign in case.signs:
                    total += float((density[sign] * (others * case.within + alone * case.extreme[sign])).sum())
        return total

    def _scales(self, law: Law, t: F64) -> _Scales:
        scales = _Scales(*law.scales(t))
        return scales.for_squares() if self.cost is squared else scales

    def _cases(self, law: Law, t: F64, upto: F64, scales: _Scales, part: _Part) -> list[_Case]:
        under = partial(part, t, upto, scales)
        if not law.signed:
            return [under(self.sides, (1, -1))]
        one = under(self.sides, (1,))
        if self.pop._mirrored() is self.pop:
            return [one, _Case((-1,), one.within, {1: one.extreme[-1], -1: one.extreme[1]})]
        return [one, under(self.sides.flipped(), (-1,))]

    def beside_points(self, t: F64, upto: F64, scales: _Scales, sides: Sides, signs: tuple[int, ...]) -> _Case:
        """Of all weights but outliers of one size."""
        mirrored, symmetric = self.pop._mirrored(), sides.alike()
        own, upto = t[..., None], upto[..., None]
        above = self.cost(sides.positive.times(scales.value, scales.code))
        below = above if symmetric else self.cost(sides.negative.times(scales.value, scales.code))
        mean = mean_beside_points(self.pop, above, upto)
        alike = symmetric and mirrored is self.pop
        mean = mean + (mean if alike else mean_beside_points(mirrored, below, upto))
        mean = mean + _mass_at_zero(self.pop) * above.c0[..., 0]
        extreme = {1: scales.mean(value_at(above, own))}
        extreme[-1] = extreme[1] if symmetric else scales.mean(value_at(below, own))
        return _Case(signs, scales.mean(mean), extreme)

    def points(self, t: F64, upto: F64, scales: _Scales, sides: Sides, signs: tuple[int, ...]) -> _Case:
        """Of outliers of one size, which are no extremes here."""
        mirrored, upto = self.pop._mirrored(), upto[..., None]
        above, below = (partial(self.cost.value, side.times(scales.value, scales.code)) for side in sides)
        mean = mean_of_points(self.pop, above, 0.0, upto)
        alike = mirrored is self.pop and sides.alike()
        mean = mean + (mean if alike else mean_of_points(mirrored, below, 0.0, upto))
        none = np.zeros(t.shape)
        return _Case(signs, none + scales.mean(mean), {1: none, -1: none})

    def of_atoms(self, law: Law, share: F64) -> float:
        """The part of blocks whose largest magnitude is a point mass."""
        at, mass = self.pop._atoms()
        size = np.unique(np.abs(at[at != 0]))
        if not size.size:
            return 0.0
        place = np.searchsorted(size, np.abs(at))
        own = np.stack([np.bincount(place[s * at > 0], mass[s * at > 0], size.size) for s in (1, -1)]).astype(
            np.float64
        )
        block, chances = _chances_of_ties(np.minimum(self.pop.tail(size), 1.0), own, self.n, law.positive_first)
        size = size.astype(np.float32).astype(np.float64)  # as they are drawn
        far = np.abs(self.pop._points()[0]).min(initial=np.inf)
        size, (_, *own), chances = _grouped((size, np.stack([block, *own]), chances), far)
        t = np.broadcast_to(size, (share.size, size.size))
        upto, scales, total = t + np.spacing(t.astype(np.float32)) / 2, self._scales(law, t), 0.0
        for part in (self.beside_points, self.points):
            for case in self._cases(law, t, upto, scales, part):
                below = case.within - own[0] * case.extreme[1] - own[1] * case.extreme[-1]
                for s in case.signs:
                    smaller, plus, minus = chances[s]
                    each = smaller * below + plus * case.extreme[1] + minus * case.extreme[-1]
                    total += float((share[:, None] * each).sum())
        return total


def _mass_at_zero(pop: Population) -> float:
    at, mass = pop._atoms()
    return float(mass[at == 0].sum())


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
