"""The scale of a sub-block and its points: trial scales around ``top / largest``, then once more with the best.

Weight i of every group is one long vector, and so is weight i of every sub-block: groups are searched side by side and
the sums of a sub-block stay in the reference's order. ``x + zero``, with a zero that the compiler cannot know, keeps a
product from being fused with the addition that follows it.

Source: llama.cpp, ggml-quants.c: the loops of ``quantize_row_iq2_xxs_impl`` and its like.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32

from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.lattices.nearest import (
    Costs,
    Group,
    Snapped,
    Word,
    codes_of,
    number_of,
    rounded_codes,
    snapped,
)
from quantsim.quantizer.blockformats.lattices.points import Lattice
from quantsim.quantizer.blockformats.search import Lane, in_order


@dataclass(frozen=True)
class Trials:
    """Trial scales, and which groups are searched again with the best of them.

    Attributes:
        lattice: what the groups are snapped to.
        most: trials are ``divisor + step t`` for t = -most … most, the divisor being the highest level, 2 levels - 1.
        step: of the trials.
        again: "points": groups that were no point; "sub-block": all groups of a sub-block with one; "all".
    """

    lattice: Lattice
    most: int
    step: float
    again: Literal["points", "sub-block", "all"]

    def divisors(self) -> np.ndarray:
        """Float32, added in the reference's order."""
        t = np.arange(-self.most, self.most + 1, dtype=np.float32)
        return np.float32(2 * self.lattice.levels - 1) + t * np.float32(self.step)


class Parts(NamedTuple):
    """Sub-blocks as the search takes them: values, weights of their errors, and the roots of those."""

    x: Float[Array, "length groups blocks"]
    w: Float[Array, "length groups blocks"]
    root: Float[Array, "length groups blocks"]


class _Best(NamedTuple):
    """The best trial: what it takes from the error, its scale, its points, and whether the groups were points."""

    gain: Lane
    scale: Lane
    word: Word
    was_point: Bool[Array, " groups"]


def parts(x: Float[Array, "blocks size"], w: Float[Array, "blocks size"], lattice: Lattice) -> Parts:
    """Values and weights of sub-blocks, rearranged."""
    rows = [v.reshape(len(v), -1, lattice.length).transpose(2, 1, 0) for v in (x, w)]
    return Parts(rows[0], rows[1], ieee.sqrt(rows[1]))


def codes(word: Word, lattice: Lattice, blocks: int) -> Int32[Array, "blocks size"]:
    """Codes of sub-blocks, from the words of their groups."""
    return jnp.stack(codes_of(word, lattice)).reshape(lattice.length, -1, blocks).transpose(2, 1, 0).reshape(blocks, -1)


def scale_search(p: Parts, largest: Lane, scale: Lane, trials: Trials) -> tuple[Lane, Word]:
    """Scale of each sub-block, which may be negative, and the points of its groups.

    Args:
        p: the sub-blocks.
        largest: what the divisors are divided by, above 0.
        scale: the scale where no trial is any good.
        trials: which scales are tried.
    """
    groups, zero = p.x.shape[1], scale - scale
    divisors = jnp.asarray(np.append(trials.divisors(), np.float32(1)))

    def attempt(t: Int[Array, ""] | int, best: _Best) -> _Best:
        # the last turn is no trial: it searches again with the best scale, and is here to be compiled once
        last = t == len(divisors) - 1
        usable = last & (best.scale > 0)
        factor = ieee.divide(divisors[t] + zero, jnp.where(usable, best.scale, largest))
        tried = jnp.where(usable, best.scale, ieee.divide(1 + zero, factor))
        found = _snapped(p, factor, tried, trials.lattice)
        some, which = _again(best, groups, trials)
        word = jnp.where(which | ~last, found.word, best.word)
        product, square = _sums(p, word, trials.lattice)
        wins = (square > 0) & jnp.where(last, some, product * product > best.gain * square)
        taken = jnp.where(last, which, jnp.tile(wins, groups))
        fitted = _ratio(product, square)
        scale, gain = jnp.where(wins, fitted, best.scale), jnp.where(wins, fitted * product, best.gain)
        return _Best(gain, scale, *(jnp.where(taken, a, b) for a, b in zip(found, best[2:], strict=True)))

    none = jnp.zeros(groups * len(scale), jnp.int32) + jnp.tile(zero, groups).astype(jnp.int32)
    start = _Best(zero, scale, none, none == int(trials.again == "sub-block"))
    best = lax.fori_loop(0, len(divisors), attempt, start)
    return best.scale, best.word


def _again(best: _Best, groups: int, trials: Trials) -> tuple[Bool[Array, " blocks"], Bool[Array, " groups"]]:
    """Sub-blocks and groups that are searched again with the best scale, which must be positive."""
    moved = ~best.was_point if trials.again != "all" else jnp.ones_like(best.was_point)
    some = moved.reshape(groups, -1).any(axis=0) & (best.scale > 0)
    which = jnp.tile(some, groups)
    return some, moved & which if trials.again == "points" else which


def _snapped(p: Parts, factor: Lane, scale: Lane, lattice: Lattice) -> Snapped:
    length, groups, _ = p.x.shape
    x, root = p.x.reshape(length, -1), p.root.reshape(length, -1)
    factor, scale = jnp.tile(factor, groups), jnp.tile(scale, groups)
    number = number_of(rounded_codes(list(x), factor, lattice.levels), lattice.levels)
    return snapped(number, lattice, Costs(x, root, scale, jnp.ones_like(scale), 2.0))


def _level(code: Word) -> Group:
    return (2 * code + 1).astype(jnp.float32)


def _sums(p: Parts, word: Word, lattice: Lattice) -> tuple[Lane, Lane]:
    """Weighed sums of level times value and of level squared, over the weights of each sub-block in order."""
    length, groups, blocks = p.x.shape
    zero = p.x[0, 0] - p.x[0, 0]
    q = [_level(c).reshape(groups, blocks) for c in codes_of(word, lattice)]
    places = [(i, k) for k in range(groups) for i in range(length)]
    product = in_order([(p.w[i, k] * p.x[i, k]) * q[i][k] + zero for i, k in places])
    square = in_order([(p.w[i, k] * q[i][k]) * q[i][k] + zero for i, k in places])
    return product, square


def _ratio(product: Lane, square: Lane) -> Lane:
    return lax.div(product, jnp.where(square > 0, square, 1.0))
