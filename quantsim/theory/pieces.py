"""Costs of a weight that are polynomials of degree two between kinks, and their exact mean over a population.

Every error of rounding is one: between two thresholds the level is fixed, so ``(x - level)^2`` is a parabola. Beyond
a kink at ``a`` it gains ``c0 + c1 (x - a) + c2 (x - a)^2``, whose mean is ``c0 U0(a) + c1 U1(a) + c2 U2(a)`` with the
upper partial moments of the population: no integral is left to do. Outliers of one exact size are counted one by one:
what the pieces gain up to them is so much larger than the error that nothing would be left of it in float64.
"""

from collections.abc import Callable
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

    ``value`` is the cost of a weight beyond the first kink itself, for each row; it is exact where a sum of the gains
    cancels.
    """

    at: F64
    c0: F64
    c1: F64
    c2: F64
    value: Callable[[F64], F64]


class Stairs(NamedTuple):
    """What weights x > 0 become, as (..., n): the level at 0+ and those above, and the thresholds between them."""

    levels: F64
    thresholds: F64

    def times(self, value: ArrayLike, code: ArrayLike) -> "Stairs":
        """Levels in units of the scale ``value``, thresholds in units of the scale ``code``, one row for each."""
        return Stairs(self.levels * np.asarray(value)[..., None], self.thresholds * np.asarray(code)[..., None])


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


def squared(side: Stairs) -> Pieces:
    """Pieces of ``(level - x)^2``."""
    v, t = side
    gap, middle = np.diff(v), (v[..., 1:] + v[..., :-1]) / 2
    start = v[..., 0] ** 2, -2 * v[..., 0], 1.0
    return _pieces((t, 2 * gap * (middle - t), -2 * gap), start, lambda x: _distance(_level(v, t, x), x) ** 2)


def absolute(side: Stairs) -> Pieces:
    """Pieces of ``|level - x|``, for levels that lie between their thresholds."""
    v, t = side
    upward = v[..., :1] > 0
    first = np.where(upward, v[..., :1], -v[..., :1])[..., 0], np.where(upward, -1.0, 1.0)[..., 0], 0.0
    body = _pieces(
        (t, v[..., 1:] + v[..., :-1] - 2 * t, np.full_like(t, -2.0)),
        first,
        lambda x: abs(_distance(_level(v, t, x), x)),
    )
    turn = np.maximum(v[..., :1], 0.0), *(np.where(upward, c, 0.0) for c in (0.0, 2.0, 0.0))
    back = v[..., 1:], *(np.full_like(t, c) for c in (0.0, 2.0, 0.0))
    at, c0, c1, c2 = (np.concatenate(parts, axis=-1) for parts in zip(turn, body[:4], back, strict=True))
    return Pieces(at, c0, c1, c2, body.value)


def stochastic(side: Stairs) -> Pieces:
    """Pieces of ``(x - below) (above - x)``, the mean squared error of stochastic rounding; saturates."""
    v = side.levels
    slopes = np.concatenate([v[..., 2:] - v[..., :-2], v[..., -1:] - v[..., -2:-1]], axis=-1)
    start = -v[..., 0] * v[..., 1], v[..., 0] + v[..., 1], -1.0
    body = _pieces((v[..., 1:], np.zeros_like(slopes), slopes), start, partial(_stochastic_value, v))
    body.c2[..., -1] = 2.0
    return body


def _stochastic_value(v: F64, x: F64) -> F64:
    above = np.concatenate([v[..., 1:], v[..., -1:]], axis=-1)
    to_below, to_above = (_distance(_level(levels, v[..., 1:], x), x) for levels in (v, above))
    return np.where(x > v[..., -1], to_below**2, -to_below * to_above)


def noise(side: Stairs, parts: float = 12.0) -> Pieces:
    """Pieces of ``step^2 / parts``, for levels too many to list: ``side`` holds steps, and the edges that end them.

    The last edge is the largest level, which is met exactly; where rounding is to nearest, from half a step below it.
    """
    power, h = side.levels**2 / parts, side.levels[..., -1:]
    before = h / 2 if parts == 12.0 else 1e-9 * h
    jumps = np.diff(power, prepend=0.0, axis=-1)
    edges, last = side.thresholds[..., :-1], side.thresholds[..., -1:]
    at = np.concatenate([np.zeros_like(h), edges, last - before], axis=-1)
    c0 = np.concatenate([jumps, before**2 - power[..., -1:]], axis=-1)
    c1 = np.concatenate([np.zeros_like(jumps), -2 * before], axis=-1)
    value = partial(_noise_value, power, edges, (at[..., -1], last[..., 0]))
    return Pieces(at, c0, c1, np.concatenate([np.zeros_like(jumps), np.ones_like(h)], axis=-1), value)


def _noise_value(power: F64, edges: F64, end: tuple[F64, F64], x: F64) -> F64:
    return np.where(x > end[0], _distance(end[1], x) ** 2, _level(power, edges, x))


def _level(levels: F64, thresholds: F64, x: F64) -> F64:
    """The level of each x: as many behind the first as thresholds lie below x."""
    index = np.sum(thresholds < x[..., None], axis=-1)
    levels = np.broadcast_to(levels, (*index.shape, levels.shape[-1]))
    return np.take_along_axis(levels, index[..., None], axis=-1)[..., 0]


def _distance(level: F64, x: F64) -> F64:
    e = np.asarray(level - x)
    return np.where(np.abs(e) <= _ROUNDING * np.abs(x), 0.0, e)


def _pieces(kinks: tuple[F64, F64, F64], start: tuple, value: Callable[[F64], F64]) -> Pieces:
    """Kinks (at, c0, c1), behind one at zero that starts the polynomial."""
    at, c0, c1 = kinks
    first = [np.broadcast_to(np.asarray(c, np.float64), at.shape[:-1])[..., None] for c in start]
    c0, c1, c2 = (np.concatenate(pair, axis=-1) for pair in zip(first, (c0, c1, np.zeros_like(at)), strict=True))
    return Pieces(np.concatenate([np.zeros((*at.shape[:-1], 1)), at], axis=-1), c0, c1, c2, value)


def mean_above(pop: Population, cost: Pieces, upto: ArrayLike | None = None) -> Any:
    """E[cost(X); first kink < X <= upto], for each row of the pieces.

    A part that ends at m loses ``E[(X - a)^k; X > m] = sum_j binomial(k, j) (m - a)^(k-j) U_j(m)``.
    """
    m = None if upto is None else np.asarray(upto, np.float64)
    mean = _mean_beside_points(pop, cost, m)
    for x, mass in zip(*pop._points(), strict=True):
        counted = (cost.at[..., 0] < x) & (True if m is None else x <= m)
        if np.any(counted):
            mean = mean + mass * np.where(counted, cost.value(np.full(counted.shape, x)), 0.0)
    return mean


def _mean_beside_points(pop: Population, cost: Pieces, upto: F64 | None) -> Any:
    total = np.zeros(cost.at.shape)
    if upto is None:
        for k, c in enumerate((cost.c0, cost.c1, cost.c2)):
            total = total + _where_needed(pop, cost.at, c, k)
        return total.sum(axis=-1)
    m = upto[..., None]
    c0, c1, c2 = (np.where(cost.at < m, c, 0.0) for c in (cost.c0, cost.c1, cost.c2))
    width = m - cost.at
    for k, c in enumerate((c0, c1, c2)):
        total = total + _where_needed(pop, cost.at, c, k)
    ends = (c0 + c1 * width + c2 * width**2, c1 + 2 * c2 * width, c2)
    lost = (end.sum(axis=-1) * pop._upper_moment_beside_points(upto, k) for k, end in enumerate(ends))
    return total.sum(axis=-1) - sum(lost)


def value_at(cost: Pieces, x: ArrayLike) -> Any:
    """The cost of a weight, 0 up to the first kink, for each row of the pieces."""
    x = np.asarray(x, np.float64)
    return np.where(x > cost.at[..., 0], cost.value(x), 0.0)


def _where_needed(pop: Population, at: F64, c: F64, k: int) -> F64:
    """``c U_k(at)``, evaluated only where c is not zero."""
    out = np.zeros(at.shape)
    at, needed = np.broadcast_to(at, c.shape), c != 0
    out[needed] = c[needed] * pop._upper_moment_beside_points(at[needed], k)
    return out
