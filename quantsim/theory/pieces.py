"""Costs of a weight that are polynomials of degree two between kinks, and their exact mean over a population.

Every error of rounding is one: between two thresholds the level is fixed, so ``(x - level)^2`` is a parabola. Beyond
a kink at ``a`` it gains ``c0 + c1 (x - a) + c2 (x - a)^2``, whose mean is ``c0 U0(a) + c1 U1(a) + c2 U2(a)`` with the
upper partial moments of the population: no integral is left to do.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike
from quantsim.populations import Population

F64: TypeAlias = NDArray[np.float64]


class Pieces(NamedTuple):
    """A cost on x > 0: what it gains beyond each kink. F64s of shape (..., kinks), one row for each scale."""

    at: F64
    c0: F64
    c1: F64
    c2: F64


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
    return _pieces(t, 2 * gap * (middle - t), -2 * gap, start=(v[..., 0] ** 2, -2 * v[..., 0], 1.0))


def product(side: Stairs) -> Pieces:
    """Pieces of ``x level``."""
    gap, t = np.diff(side.levels), side.thresholds
    return _pieces(t, gap * t, gap, start=(0.0, side.levels[..., 0], 0.0))


def absolute(side: Stairs) -> Pieces:
    """Pieces of ``|level - x|``, for levels that lie between their thresholds."""
    v, t = side
    upward = v[..., :1] > 0
    turn = Pieces(np.maximum(v[..., :1], 0.0), *(np.where(upward, c, 0.0) for c in (0.0, 2.0, 0.0)))
    first = np.where(upward, v[..., :1], -v[..., :1])[..., 0], np.where(upward, -1.0, 1.0)[..., 0], 0.0
    body = _pieces(t, v[..., 1:] + v[..., :-1] - 2 * t, np.full_like(t, -2.0), start=first)
    back = Pieces(v[..., 1:], *(np.full_like(t, c) for c in (0.0, 2.0, 0.0)))
    return Pieces(*(np.concatenate(parts, axis=-1) for parts in zip(turn, body, back, strict=True)))


def stochastic(side: Stairs) -> Pieces:
    """Pieces of ``(x - below) (above - x)``, the mean squared error of stochastic rounding; saturates."""
    v = side.levels
    slopes = np.concatenate([v[..., 2:] - v[..., :-2], v[..., -1:] - v[..., -2:-1]], axis=-1)
    body = _pieces(
        v[..., 1:], np.zeros_like(slopes), slopes, start=(-v[..., 0] * v[..., 1], v[..., 0] + v[..., 1], -1.0)
    )
    body.c2[..., -1] = 2.0
    return body


def noise(side: Stairs, parts: float = 12.0) -> Pieces:
    """Pieces of ``step^2 / parts``, for levels too many to list: ``side`` holds steps, and the edges that end them.

    The last edge is the largest level, which is met exactly; where rounding is to nearest, from half a step below it.
    """
    power, h = side.levels**2 / parts, side.levels[..., -1:]
    before = h / 2 if parts == 12.0 else 1e-9 * h
    jumps = np.diff(power, prepend=0.0, axis=-1)
    at = np.concatenate([np.zeros_like(h), side.thresholds[..., :-1], side.thresholds[..., -1:] - before], axis=-1)
    c0 = np.concatenate([jumps, before**2 - power[..., -1:]], axis=-1)
    c1 = np.concatenate([np.zeros_like(jumps), -2 * before], axis=-1)
    return Pieces(at, c0, c1, np.concatenate([np.zeros_like(jumps), np.ones_like(h)], axis=-1))


def _pieces(at: F64, c0: F64, c1: F64, start: tuple) -> Pieces:
    """Kinks at ``at``, behind one at zero that starts the polynomial."""
    first = [np.broadcast_to(np.asarray(c, np.float64), at.shape[:-1])[..., None] for c in start]
    columns = [np.concatenate([a, b], axis=-1) for a, b in zip(first, (c0, c1, np.zeros_like(at)), strict=True)]
    return Pieces(np.concatenate([np.zeros((*at.shape[:-1], 1)), at], axis=-1), *columns)


def mean_above(pop: Population, cost: Pieces, upto: ArrayLike | None = None) -> Any:
    """E[cost(X); first kink < X <= upto], for each row of the pieces.

    A part that ends at m loses ``E[(X - a)^k; X > m] = sum_j binomial(k, j) (m - a)^(k-j) U_j(m)``.
    """
    total = np.zeros(cost.at.shape)
    if upto is None:
        for k, c in enumerate((cost.c0, cost.c1, cost.c2)):
            total = total + _where_needed(pop, cost.at, c, k)
        return total.sum(axis=-1)
    m = np.asarray(upto, np.float64)[..., None]
    c0, c1, c2 = (np.where(cost.at < m, c, 0.0) for c in (cost.c0, cost.c1, cost.c2))
    width = m - cost.at
    for k, c in enumerate((c0, c1, c2)):
        total = total + _where_needed(pop, cost.at, c, k)
    ends = (c0 + c1 * width + c2 * width**2, c1 + 2 * c2 * width, c2)
    return total.sum(axis=-1) - sum(end.sum(axis=-1) * pop.upper_moment(m[..., 0], k) for k, end in enumerate(ends))


def value_at(cost: Pieces, x: ArrayLike) -> Any:
    """The cost of a weight beyond the first kink, for each row of the pieces."""
    width = np.asarray(x, np.float64)[..., None] - cost.at
    here = cost.c0 + cost.c1 * width + cost.c2 * width**2
    return np.where(width > 0, here, 0.0).sum(axis=-1)


def _where_needed(pop: Population, at: F64, c: F64, k: int) -> F64:
    """``c U_k(at)``, evaluated only where c is not zero."""
    out = np.zeros(at.shape)
    at, needed = np.broadcast_to(at, c.shape), c != 0
    out[needed] = c[needed] * pop.upper_moment(at[needed], k)
    return out
