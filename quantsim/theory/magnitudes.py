"""Where the largest magnitude t of a block may lie, in panels within which its density and its scale are smooth."""

from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from quantsim.populations import Population
from quantsim.populations.extremes import magnitudes
from quantsim.theory.pieces import F64, Stairs

_NODES = 10  # of a panel
_FEWER = ((5, 3), (_NODES, 6))  # of narrow and of other panels: with their part of the result, and where it is little
_NARROW = 0.25  # of the panel that the density alone asks for
_MANY = 256  # panels, from which it matters how many nodes each has
_LITTLE = 1e-7  # of the variance
_RULES = {count: np.polynomial.legendre.leggauss(count) for count in sum(_FEWER, ())}
_FOLLOWED = 512  # thresholds that outliers of one size are followed over
_FEW = 32  # thresholds that the extreme is followed over in far tails too
_NONE = 1e-14  # part of the result that is left out
_NEVER = 1e-17  # probability that a maximum is so small, from which it is left out


@runtime_checkable
class Law(Protocol):
    """A scale that follows from the largest magnitude t of its block, or several such laws, each for a row of t."""

    @property
    def signed(self) -> bool:
        """Whether the scale has the sign of the extreme."""
        ...

    @property
    def positive_first(self) -> bool:
        """Whether of equal magnitudes a positive one is the extreme; else a random one is."""
        ...

    def take(self, rows: np.ndarray) -> "Law":
        """The laws of these rows; itself where all rows have one law."""
        ...

    def breaks(self, low: float, high: float) -> F64:
        """Magnitudes t at which the scale jumps, as (breaks,) or (laws, breaks)."""
        ...

    def scales(self, t: F64) -> tuple[F64, F64, F64]:
        """Scale of the codes and of the weights, and the probabilities of its k cases, for magnitudes t of (rows, m).

        Shapes are (rows, m, k), but scales have 1 for k where all cases have the same, and probabilities may be (k,).
        """
        ...


class Sides(NamedTuple):
    """Stairs of positive and of negative weights, in units of the scale."""

    positive: Stairs
    negative: Stairs

    def flipped(self) -> "Sides":
        """Under a negative scale."""
        return Sides(self.negative, self.positive)

    def alike(self) -> bool:
        """Whether both are the same."""
        return all(np.array_equal(a, b) for a, b in zip(*self, strict=True))

    def thresholds(self) -> F64:
        """Those of both."""
        return np.union1d(self.positive.thresholds, self.negative.thresholds)


class Panels(NamedTuple):
    """Panels of magnitudes from ``low`` to ``high``, with the law of each and its share of all blocks.

    Attributes:
        low: ends, as (panels,).
        high: ends.
        law: of each panel.
        share: of the law.
        nodes: of the quadrature of each.
        standing: whether the scale is the same in all of a panel.
    """

    low: F64
    high: F64
    law: Law
    share: F64
    nodes: int = _NODES
    standing: bool = False

    def take(self, rows: np.ndarray) -> "Panels":
        """These panels, by index or mask."""
        return self._replace(low=self.low[rows], high=self.high[rows], law=self.law.take(rows), share=self.share[rows])

    def cut(self, at: F64) -> "Panels":
        """Each panel cut at the magnitudes in its row of ``at``, (panels, cuts), where they lie inside."""
        low, high = self.low[:, None], self.high[:, None]
        edges = np.concatenate([low, np.sort(np.clip(at, low, high), axis=1), high], axis=1)
        row, _ = inside = np.nonzero(edges[:, :-1] < edges[:, 1:])
        return self.take(row)._replace(low=edges[:, :-1][inside], high=edges[:, 1:][inside])

    def merged(self, facts: F64) -> "Panels":
        """One for all that have the same ends and the same ``facts``, (panels, …)."""
        whole = np.column_stack([self.low, self.high, facts])
        _, first, place = np.unique(whole, axis=0, return_index=True, return_inverse=True)
        return self.take(first)._replace(share=np.bincount(place, self.share))

    def rule(self) -> tuple[F64, F64]:
        """Nodes and their weights, (panels, nodes)."""
        places, weights = _RULES[self.nodes]
        low, high = self.low[:, None], self.high[:, None]
        return (low + high) / 2 + (high - low) / 2 * places, (high - low) / 2 * weights * self.share[:, None]


@lru_cache(64)
def _scale_of(part: Population) -> F64:
    """Magnitudes of one family, dense where it has its weights, sparse as far as it reaches."""
    tails = 10.0 ** np.concatenate([np.arange(-0.25, -20, -0.5), np.arange(-20, -281, -4.0)])
    edges = magnitudes(part, tails)
    return np.concatenate([edges[0] * np.array([0.0, 0.25, 0.5, 0.75]), edges])


def edges_of_maximum(pop: Population, n: int) -> F64:
    """Ends of the panels: where the maximum of n weights, or of n - 1, can be, as far as its square counts."""
    edges = np.unique(np.concatenate([*(_scale_of(part) for part in pop._parts()), pop._breaks()]))
    tails, beside_points = np.asarray(n * pop.tail(edges)), n * _tail_beside_points(pop, edges)
    kept = np.ones(edges.size, bool)
    # behind the first edge at which the maximum is larger for certain, before the first that no density exceeds
    kept[:-1] &= (tails[1:] < 60) | (n < 60)
    power = edges**2 * np.minimum(beside_points, 1.0)
    least = min(part.moment(2) for part in pop._parts())  # the error may be no more than that of the bulk alone
    kept[1:] &= power[:-1] > _NONE * min(power.max(initial=0.0), least)
    return edges[kept]


def _tail_beside_points(pop: Population, x: F64) -> F64:
    """P(|X| > x) of all but outliers of one size."""
    mirrored = pop._mirrored()
    above = pop._upper_moment_beside_points(x, 0)
    return np.asarray(2 * above if mirrored is pop else above + mirrored._upper_moment_beside_points(x, 0))


class Followed(NamedTuple):
    """Panels by what changes within them.

    Attributes:
        standing: where the scale stands still, cut where the extreme passes a threshold.
        moving: where it grows with the extreme.
        teeth: these, cut where outliers of one size pass a threshold. All of them then change their error at once, so
            that it has the teeth of a saw, as many as there are codes between them and the last one.
    """

    standing: list[Panels]
    moving: Panels
    teeth: Panels


def followed(pop: Population, n: int, sides: Sides, law: Law, share: F64, *, smooth: bool) -> Followed:
    """Panels that end where the density turns or the scale jumps, under laws that each have their share of blocks.

    Where the cost is ``smooth`` between thresholds, many panels get fewer nodes.
    """
    edges = edges_of_maximum(pop, n)
    if edges.size < 2:
        nothing = Panels(np.zeros(0), np.zeros(0), law, np.zeros(0))
        return Followed([], nothing, nothing)
    first = edges[edges > 0][0] * (2.0**-12 if edges[0] == 0 else 1.0)
    laws, thresholds = share.shape, sides.thresholds()
    breaks = np.atleast_2d(law.breaks(first, edges[-1]))
    inside = [np.broadcast_to(x, (*laws, x.shape[-1])) for x in (edges, breaks)]
    panels = Panels(np.full(laws, edges[0]), np.full(laws, edges[-1]), law, share).cut(np.concatenate(inside, axis=1))
    panels = panels.take((n - 1) * np.log1p(-np.minimum(pop.tail(panels.high), 1 - 1e-16)) > np.log(_NEVER))
    begin, end = (
        panels.law.scales(t[:, None])[0][:, 0] for t in (panels.low * (1 + 1e-12) + 1e-300, panels.high * (1 - 1e-12))
    )
    stands = np.all(begin == end, axis=1)
    standing, moving = panels.take(stands), panels.take(~stands)
    near = _near(pop, n, standing, thresholds)
    standing = standing.cut(np.where(near[:, None], begin[stands, :1] * thresholds, 0.0))._replace(standing=True)
    moving = moving.merged(np.hstack([begin, end])[~stands])
    groups = [standing]
    if smooth and standing.low.size >= _MANY:
        near = _near(pop, n, standing, thresholds)
        groups = [standing.take(~near), *_by_nodes(pop, n, edges, standing.take(near))]
    return Followed(groups, moving, _teeth(pop, thresholds, moving))


def _near(pop: Population, n: int, panels: Panels, thresholds: F64) -> np.ndarray:
    """Where the extreme is followed over thresholds: in far tails these are too many."""
    return (n * np.asarray(pop.tail(panels.low)) > 1e-10) | (np.sum(thresholds > 0) < _FEW)


def _by_nodes(pop: Population, n: int, edges: F64, panels: Panels) -> list[Panels]:
    """The panels in groups, with fewer nodes for those that are narrow and those that matter little."""
    around = np.searchsorted(edges, panels.low, side="right")
    narrow = panels.high - panels.low <= _NARROW * (edges[around] - edges[around - 1])
    chance = n * (_tail_beside_points(pop, panels.low) - _tail_beside_points(pop, panels.high))
    little = panels.share * chance * panels.high**2 < _LITTLE * min(part.moment(2) for part in pop._parts())
    groups = ((narrow & ~little, narrow & little), (~narrow & ~little, ~narrow & little))
    return [
        panels.take(group)._replace(nodes=nodes)
        for row, counts in zip(groups, _FEWER, strict=True)
        for group, nodes in zip(row, counts, strict=True)
    ]


def _teeth(pop: Population, thresholds: F64, moving: Panels) -> Panels:
    """Panels beyond outliers of one size, cut where these pass a threshold; whole if they do so too often."""
    size, thresholds = np.unique(np.abs(pop._points()[0])), thresholds[thresholds > 0]
    beyond = moving.take(moving.high > size.min(initial=np.inf))
    if not 0 < size.size <= _FOLLOWED // max(thresholds.size, 1) or not beyond.low.size:
        return beyond
    middle = (beyond.low + beyond.high)[:, None] / 2
    units = np.unique(beyond.law.scales(middle)[0][:, 0] / middle, axis=1)
    at = size[:, None] / (units[:, :, None, None] * thresholds)  # (panels, units, sizes, thresholds)
    return beyond.cut(np.where(at > size[:, None], at, 0.0).reshape(beyond.low.size, -1))
