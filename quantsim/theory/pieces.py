"""Costs of a weight that are polynomials of degree two between kinks, and their exact mean over a population.

Every error of rounding is one: between two thresholds the level is fixed, so ``(x - level)^2`` is a parabola. Beyond
a kink at ``a`` it gains ``c0 + c1 (x - a) + c2 (x - a)^2``, whose mean is ``c0 U0(a) + c1 U1(a) + c2 U2(a)`` with the
upper partial moments of the population: no integral is left to do. Outliers of one exact size are counted one by one:
what the pieces gain up to them is so much larger than the error that nothing would be left of it in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike
from quantsim.populations import Population

F64: TypeAlias = NDArray[np.float64]

_ROUNDING = 2.0**-47  # of a weight: a level that is so near is the weight itself, but for the rounding of float64


class Pieces(NamedTuple):
    """A cost on x > 0: what it gains beyond each kink. Arrays of shape (..., kinks), one row for each scale.

    Rows that have their kinks in common need them once: ``at`` may have one row where the gains have several. ``value``
    is the cost of a weight beyond the first kink itself, for each row; it is exact where a sum of the gains cancels.
    """

    at: F64
    c0: F64
    c1: F64
    c2: F64
    value: Callable[[F64], Any]


class Stairs(NamedTuple):
    """What weights x > 0 become, as (..., n): the level at 0+ and those above, and the thresholds between them."""

    levels: F64
    thresholds: F64

    def times(self, value: ArrayLike, code: ArrayLike) -> "Stairs":
        """Levels in units of the scale ``value``, thresholds in units of the scale ``code``, one row for each."""
        return Stairs(self.levels * np.asarray(value)[..., None], self.thresholds * np.asarray(code)[..., None])

    def alike(self) -> "Stairs":
        """The same with as many rows of levels as of thresholds."""
        rows = np.broadcast_shapes(self.levels.shape[:-1], self.thresholds.shape[:-1])
        return Stairs(*(np.broadcast_to(x, (*rows, x.shape[-1])) for x in self))


@dataclass(frozen=True)
class Cost:
    """What it costs that weights become a level.

    Attributes:
        gains: kinks of the cost of stairs, and its gains there: the first four fields of ``Pieces``.
        value: cost of weights x > 0 under stairs.
    """

    gains: Callable[[Stairs], tuple[F64, F64, F64, F64]]
    value: Callable[[Stairs, F64], Any]

    def __call__(self, side: Stairs) -> Pieces:
        """Pieces of the cost."""
        return Pieces(*self.gains(side), partial(self.value, side))


def stairs(levels: F64, rounding: str = "even") -> tuple[Stairs, Stairs]:
    """Both sides of zero, the second mirrored, when weights round to increasing ``levels``.

    Args:
        levels: increasing.
        rounding: "even" and "away" (which differ on ties only) or "truncate", toward zero.
    """
    sides = []
    for v in (levels, -levels[::-1]):
        middle = (v[1:] + v[:-1]) / 2
        first = int(np.sum(middle <= 0)) if rounding != "truncate" else int(np.sum(v <= 0)) - 1
        above = v[max(first, 0) :]
        sides.append(Stairs(above, above[1:] * (1 - 1e-7) if rounding == "truncate" else middle[max(first, 0) :]))
    return sides[0], sides[1]


def _squared_gains(side: Stairs) -> tuple[F64, F64, F64, F64]:
    v, t = side
    gap, middle = np.diff(v), (v[..., 1:] + v[..., :-1]) / 2
    start = v[..., 0] ** 2, -2 * v[..., 0], 1.0
    return _gains((t, 2 * gap * _distance(middle, t), -2 * gap), start)


def _squared_value(side: Stairs, x: F64) -> Any:
    return _distance(_level(*side, x), x) ** 2


def _absolute_gains(side: Stairs) -> tuple[F64, F64, F64, F64]:
    v, t = side.alike()
    upward = v[..., :1] > 0
    first = np.where(upward, v[..., :1], -v[..., :1])[..., 0], np.where(upward, -1.0, 1.0)[..., 0], 0.0
    body = _gains((t, v[..., 1:] + v[..., :-1] - 2 * t, np.full_like(t, -2.0)), first)
    turn = np.maximum(v[..., :1], 0.0), *(np.where(upward, c, 0.0) for c in (0.0, 2.0, 0.0))
    back = v[..., 1:], *(np.full_like(t, c) for c in (0.0, 2.0, 0.0))
    at, c0, c1, c2 = (np.concatenate(parts, axis=-1) for parts in zip(turn, body, back, strict=True))
    return at, c0, c1, c2


def _absolute_value(side: Stairs, x: F64) -> Any:
    return abs(_distance(_level(*side, x), x))


def _stochastic_gains(side: Stairs) -> tuple[F64, F64, F64, F64]:
    v = side.alike().levels
    slopes = np.concatenate([v[..., 2:] - v[..., :-2], v[..., -1:] - v[..., -2:-1]], axis=-1)
    start = -v[..., 0] * v[..., 1], v[..., 0] + v[..., 1], -1.0
    at, c0, c1, c2 = _gains((v[..., 1:], np.zeros_like(slopes), slopes), start)
    c2[..., -1] = 2.0
    return at, c0, c1, c2


def _stochastic_value(side: Stairs, x: F64) -> Any:
    v = side.levels
    above = np.concatenate([v[..., 1:], v[..., -1:]], axis=-1)
    to_below, to_above = (_distance(_level(levels, v[..., 1:], x), x) for levels in (v, above))
    return np.where(x > v[..., -1], to_below**2, -to_below * to_above)


#: ``(level - x)^2``.
squared = Cost(_squared_gains, _squared_value)
#: ``|level - x|``, for levels that lie between their thresholds.
absolute = Cost(_absolute_gains, _absolute_value)
#: ``(x - below) (above - x)``, the mean squared error of stochastic rounding; saturates.
stochastic = Cost(_stochastic_gains, _stochastic_value)


def noise(parts: float = 12.0) -> Cost:
    """The cost ``step^2 / parts``, for levels too many to list: stairs hold steps, and the edges that end them.

    The last edge is the largest level, which is met exactly; where rounding is to nearest, from half a step below it.
    """
    return Cost(partial(_noise_gains, parts), partial(_noise_value, parts))


def _noise_gains(parts: float, side: Stairs) -> tuple[F64, F64, F64, F64]:
    side = side.alike()
    power, h = side.levels**2 / parts, side.levels[..., -1:]
    before = _met_before(parts, h)
    jumps = np.diff(power, prepend=0.0, axis=-1)
    edges, last = side.thresholds[..., :-1], side.thresholds[..., -1:]
    at = np.concatenate([np.zeros_like(h), edges, last - before], axis=-1)
    c0 = np.concatenate([jumps, before**2 - power[..., -1:]], axis=-1)
    c1 = np.concatenate([np.zeros_like(jumps), -2 * before], axis=-1)
    return at, c0, c1, np.concatenate([np.zeros_like(jumps), np.ones_like(h)], axis=-1)


def _noise_value(parts: float, side: Stairs, x: F64) -> Any:
    last = side.thresholds[..., -1]
    end = last - _met_before(parts, side.levels[..., -1])
    return np.where(x > end, _distance(last, x) ** 2, _level(side.levels**2 / parts, side.thresholds[..., :-1], x))


def _met_before(parts: float, step: F64) -> F64:
    """How far before the largest level weights start to become it."""
    return step / 2 if parts == 12.0 else 1e-9 * step


def _level(levels: F64, thresholds: F64, x: F64) -> Any:
    """The level of each x: as many behind the first as thresholds lie below x."""
    index = np.sum(thresholds < x[..., None], axis=-1)
    rows = np.broadcast_shapes(index.shape, levels.shape[:-1])
    levels = np.broadcast_to(levels, (*rows, levels.shape[-1]))
    return np.take_along_axis(levels, np.broadcast_to(index, rows)[..., None], axis=-1)[..., 0]


def _distance(level: Any, x: F64) -> F64:
    e = np.asarray(level - x)
    return np.where(np.abs(e) <= _ROUNDING * np.abs(x), 0.0, e)


def _gains(kinks: tuple[F64, F64, F64], start: tuple) -> tuple[F64, F64, F64, F64]:
    """Kinks (at, c0, c1), behind one at zero that starts the polynomial."""
    at, c0, c1 = kinks
    first = [np.broadcast_to(np.asarray(c, np.float64), c0.shape[:-1])[..., None] for c in start]
    c0, c1, c2 = (
        np.concatenate([of_first, c], axis=-1) for of_first, c in zip(first, (c0, c1, np.zeros_like(c1)), strict=True)
    )
    return np.concatenate([np.zeros((*at.shape[:-1], 1)), at], axis=-1), c0, c1, c2


def mean_above(pop: Population, cost: Pieces, upto: ArrayLike | None = None) -> Any:
    """E[cost(X); first kink < X <= upto], for each row of the pieces."""
    m = None if upto is None else np.asarray(upto, np.float64)
    first = cost.at[..., 0]
    return mean_beside_points(pop, cost, m) + mean_of_points(pop, cost.value, first, np.inf if m is None else m)


def mean_of_points(pop: Population, value: Callable[[F64], Any], above: ArrayLike, upto: ArrayLike) -> Any:
    """What outliers of one size have of ``mean_above``: those in (above, upto], for each row of these."""
    mean = np.zeros(np.broadcast_shapes(np.shape(above), np.shape(upto)))
    for x, mass in zip(*pop._points(), strict=True):
        counted = (above < x) & (x <= np.asarray(upto))
        if np.any(counted):
            mean = mean + mass * np.where(counted, value(np.full(counted.shape, x)), 0.0)
    return mean


def mean_beside_points(pop: Population, cost: Pieces, upto: F64 | None) -> Any:
    """``mean_above`` without outliers of one size.

    A part that ends at m loses ``E[(X - a)^k; X > m] = sum_j binomial(k, j) (m - a)^(k-j) U_j(m)``. Rows of ends may
    share a row of pieces.
    """
    gains = cost.c0, cost.c1, cost.c2
    if upto is None:
        return _gained(pop, cost.at, gains).sum(axis=-1)
    m = upto[..., None]
    width = m - cost.at
    passed = width > 0
    reached = np.any(passed, axis=_shared(cost.at.shape, passed.shape), keepdims=True)
    total = np.where(passed, _gained(pop, cost.at, [np.where(reached, c, 0.0) for c in gains]), 0.0).sum(axis=-1)
    c0, c1, c2 = (np.where(passed, c, 0.0) for c in gains)
    ends = (c0 + c1 * width + c2 * width**2, c1 + 2 * c2 * width, c2)
    lost = (end.sum(axis=-1) * pop._upper_moment_beside_points(upto, k) for k, end in enumerate(ends))
    return total - sum(lost)


def value_at(cost: Pieces, x: ArrayLike) -> Any:
    """The cost of a weight, 0 up to the first kink, for each row of the pieces."""
    x = np.asarray(x, np.float64)
    return np.where(x > cost.at[..., 0], cost.value(x), 0.0)


def _gained(pop: Population, at: F64, gains: Sequence[F64]) -> F64:
    """``c0 U0(at) + c1 U1(at) + c2 U2(at)``, moments evaluated only where a gain is not zero."""
    total = np.zeros(at.shape)
    for k, c in enumerate(gains):
        needed = np.any(c != 0, axis=_shared(at.shape, c.shape), keepdims=True)
        moment = np.zeros(at.shape)
        moment[needed] = pop._upper_moment_beside_points(at[needed], k)
        total = total + c * moment
    return total


def _shared(few: tuple[int, ...], many: tuple[int, ...]) -> tuple[int, ...]:
    """Axes along which ``few`` have one row for all of ``many``."""
    return tuple(i for i, (a, b) in enumerate(zip(few, many, strict=True)) if a == 1 != b)
