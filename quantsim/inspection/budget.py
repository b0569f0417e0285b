"""Which format for which tensor under a budget of bits: least total damage, and what each bit buys.

``minimize sum_t D_t(f_t)  subject to  sum_t n_t b(f_t) <= B``  over one format f_t for each tensor t of n_t weights.

Of each tensor only the lower convex hull of (bits, damage) can be taken by a Lagrange multiplier; the steps of all
hulls, steepest first, are the frontier. Between its points whole choices are searched by an integer program, so that an
allocation is optimal, not only near to it. Sources: Everett, Operations Research 11 (1963); Shoham and Gersho, IEEE
Trans. ASSP 36 (1988).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_SECONDS = 20.0  # for the integer program; what it has found by then is taken if it beats the multiplier's choice
_GAP = 1e-6  # relative, between what it has found and what cannot be beaten


class Choice(NamedTuple):
    """A format for a tensor: stored bits in all, and its part of the damage."""

    format: str
    bits: float
    damage: float


#: Of each tensor what it may become.
Options = Mapping[str, Sequence[Choice]]


@dataclass(frozen=True)
class Allocation:
    """A format for each tensor, with the bits and the damage of all of them."""

    formats: dict[str, str]
    bits: float
    damage: float


class NoRoomError(ValueError):
    """A budget that the smallest formats exceed."""


def allocate(options: Options, budget: float) -> Allocation:
    """Formats of least total damage that take at most so many bits.

    Args:
        options: of each tensor, at least one choice.
        budget: bits of all tensors together.

    Raises:
        NoRoomError: if even the smallest choices take more.

    >>> small, large = Choice("q4", 40.0, 1.0), Choice("q8", 80.0, 0.1)
    >>> worse = [Choice("q4", 40.0, 9.0), large]
    >>> allocate({"a": [small, large], "b": worse}, 120.0)
    Allocation(formats={'a': 'q4', 'b': 'q8'}, bits=120.0, damage=1.1)
    """
    least = sum(min(c.bits for c in choices) for choices in options.values())
    if least > budget:
        raise NoRoomError(f"a budget of {budget:.6g} bits: the smallest formats take {least:.6g}; add smaller formats")
    return min([_by_multiplier(options, budget), *_searched(options, budget)], key=_damage)


def _damage(a: Allocation) -> tuple[float, float]:
    return a.damage, a.bits


class Point(NamedTuple):
    """Bits and damage of all tensors."""

    bits: float
    damage: float


def frontier(options: Options) -> list[Point]:
    """What all Lagrange multipliers choose, from fewest bits to least damage; nothing beats two of them mixed.

    >>> frontier({"a": [Choice("q4", 40.0, 1.0), Choice("q8", 80.0, 0.25)]})
    [Point(bits=40.0, damage=1.0), Point(bits=80.0, damage=0.25)]
    """
    first, steps = _path(options)
    points = [Point(float(sum(c.bits for c in first.values())), float(sum(c.damage for c in first.values())))]
    for _, before, after in steps:
        bits, damage = points[-1]
        points.append(Point(bits + after.bits - before.bits, damage + after.damage - before.damage))
    return points


def _path(options: Options) -> tuple[dict[str, Choice], list[tuple[str, Choice, Choice]]]:
    """The smallest choice of each tensor, and (tensor, from, to) of every step along the hulls, steepest first."""
    hulls = {name: hull(choices) for name, choices in options.items()}
    steps = [(name, a, b) for name, choices in hulls.items() for a, b in pairwise(choices)]
    return {name: choices[0] for name, choices in hulls.items()}, sorted(steps, key=_steepest)


def _by_multiplier(options: Options, budget: float) -> Allocation:
    """The largest multiplier's choice that fits, and of the next steps those that still do."""
    now, steps = _path(options)
    bits = sum(choice.bits for choice in now.values())
    for name, before, after in steps:
        if now[name] == before and bits + after.bits - before.bits <= budget:
            bits += after.bits - before.bits
            now[name] = after
    return _allocation(now)


def _steepest(step: tuple[str, Choice, Choice]) -> tuple[float, str, float]:
    name, before, after = step
    return _slope(before, after), name, after.bits


def _slope(a: Choice, b: Choice) -> float:
    return (b.damage - a.damage) / (b.bits - a.bits)


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that a Lagrange multiplier can pick: the lower convex hull, falling from fewest bits.

    >>> [
    ...     c.format
    ...     for c in hull([Choice("a", 1.0, 9.0), Choice("b", 2.0, 8.0), Choice("c", 3.0, 1.0), Choice("d", 4.0, 2.0)])
    ... ]
    ['a', 'c']
    """
    found: list[Choice] = []
    for choice in sorted(choices, key=_bits_then_damage):
        if found and choice.damage >= found[-1].damage:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) >= _slope(found[-1], choice):
            found.pop()
        if found and found[-1].bits == choice.bits:
            continue
        found.append(choice)
    return found


def _bits_then_damage(choice: Choice) -> tuple[float, float]:
    return choice.bits, choice.damage


def _allocation(now: Mapping[str, Choice]) -> Allocation:
    chosen = now.values()
    formats = {name: choice.format for name, choice in now.items()}
    return Allocation(formats, float(sum(c.bits for c in chosen)), float(sum(c.damage for c in chosen)))


def _searched(options: Options, budget: float) -> list[Allocation]:
    """What the integer program finds: nothing, or one allocation."""
    from scipy import optimize, sparse

    flat = [(name, choice) for name, choices in options.items() for choice in choices]
    bits = np.array([choice.bits for _, choice in flat])
    damage = np.array([choice.damage for _, choice in flat])
    numbers = {name: number for number, name in enumerate(options)}
    owners = np.array([numbers[name] for name, _ in flat])
    one_each = sparse.csr_array((np.ones(len(flat)), (owners, np.arange(len(flat)))))
    constraints = [
        optimize.LinearConstraint(one_each, 1, 1),
        optimize.LinearConstraint(bits[None, :] / budget, -np.inf, 1),
    ]
    scale = damage.max() or 1.0
    found = optimize.milp(
        damage / scale,
        constraints=constraints,
        integrality=np.ones(len(flat)),
        bounds=optimize.Bounds(0, 1),
        options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
    )
    if found.x is None:
        return []
    now = {name: choice for (name, choice), taken in zip(flat, found.x, strict=True) if taken > 0.5}
    result = _allocation(now)
    return [result] if result.bits <= budget * (1 + 1e-12) else []
