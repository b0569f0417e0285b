"""The neighbour of a group that has the least weighed error, for thousands of groups side by side.

Source: llama.cpp, ggml-quants.c: ``iq2_find_best_neighbour``, ``iq3_find_best_neighbour``,
``iq1_find_best_neighbour2``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int, Int32

from quantsim.numerics.ieee import on_cpu
from quantsim.quantizer.blockformats.lattices.points import Lattice, neighbours
from quantsim.quantizer.blockformats.search import in_order
from quantsim.rounding import round_integer

Group: TypeAlias = Float[Array, " groups"]
Word: TypeAlias = Int32[Array, " groups"]


#: Groups of eight that are searched at a time on CPU, sorted so that these have about equally many neighbours. Groups
#: of four have few neighbours, and sorting them takes as long as it saves.
TILE = 1024
STEPS = 4  # neighbours in one turn of the loop


class Snapped(NamedTuple):
    """The words of points, and whether the groups were these points to begin with."""

    word: Word
    was_point: Bool[Array, " groups"]


def codes_of(word: Word, lattice: Lattice) -> list[Word]:
    """The codes of the groups, first to last."""
    return [(word >> (lattice.bits * i)) & (2**lattice.bits - 1) for i in range(lattice.length)]


def rounded_codes(x: Sequence[Group], factor: Group, levels: int) -> list[Group]:
    """Codes c of the levels ``2 c + 1`` that are nearest to ``factor * x``."""
    zero = factor - factor
    return [jnp.clip(round_integer(0.5 * ((factor * v + zero) - 1)), 0, levels - 1) for v in x]


def number_of(codes: Sequence[Group], levels: int) -> Word:
    """The number of each group."""
    return in_order([c * float(levels**i) for i, c in enumerate(codes)]).astype(jnp.int32)


class Costs(NamedTuple):
    """What decides between points: errors ``w (scale level - x)^2``, with levels ``step code + offset``."""

    x: Float[Array, "length groups"]
    w: Float[Array, "length groups"]
    scale: Group
    offset: Group
    step: float

    def of(self, place: int, code: Word | float) -> Group:
        """The error of a code at one place of the groups."""
        zero = self.scale - self.scale
        level = self.step * (code.astype(jnp.float32) if isinstance(code, jax.Array) else code)
        apart = (self.scale * (level + self.offset) + zero) - self.x[place]
        return (self.w[place] * apart) * apart + zero


def snapped(number: Word, lattice: Lattice, costs: Costs) -> Snapped:
    """The point of each group: itself, or the first neighbour with the least sum of errors, added in order."""
    table = neighbours(lattice)
    rank = jnp.asarray(table.rank).at[number].get(mode="promise_in_bounds")
    was_point = rank >= table.first_point
    if not on_cpu() or lattice.length == 4 or len(rank) <= TILE:
        return Snapped(_nearest(rank, lattice, costs), was_point)
    order = _order(rank)
    rank, *parts = (v.at[..., order].get(mode="promise_in_bounds") for v in (rank, *costs[:4]))

    def one(i: Int[Array, ""] | int, word: Word) -> Word:
        first = jnp.minimum(i * TILE, len(rank) - TILE).astype(jnp.int32)
        here = [lax.dynamic_slice_in_dim(v, first, TILE, v.ndim - 1) for v in (rank, *parts)]
        found = _nearest(here[0], lattice, Costs(here[1], here[2], here[3], here[4], costs.step))
        return lax.dynamic_update_slice_in_dim(word, found, first, 0)

    word = lax.fori_loop(0, -(-len(rank) // TILE), one, rank)
    return Snapped(jnp.zeros_like(word).at[order].set(word, unique_indices=True, mode="promise_in_bounds"), was_point)


def _order(rank: Word) -> Int32[Array, " groups"]:
    """Groups by rank; one array of whole numbers is sorted several times as fast as two."""
    if len(rank) > 2**17:
        return jnp.argsort(rank)
    return lax.sort((rank << 17) | jnp.arange(len(rank), dtype=jnp.int32), is_stable=False) & (2**17 - 1)


def _nearest(rank: Word, lattice: Lattice, costs: Costs) -> Word:
    """The words of the nearest neighbours, ``STEPS`` neighbours in each turn of a loop that ends with the last."""
    table = neighbours(lattice)
    pad = -len(table.starts) % STEPS
    starts, lengths = (jnp.asarray(np.pad(part, (0, pad))) for part in (table.starts, table.lengths))
    rows, error = jnp.asarray(table.rows), _error(lattice, costs)

    def attempt(t: Int[Array, ""] | int, best: Complex[Array, " groups"]) -> Complex[Array, " groups"]:
        least, chosen = lax.real(best), lax.imag(best)
        for j in range(STEPS):
            n = t * STEPS + j
            place = starts[n] + jnp.clip(rank, 0, jnp.maximum(lengths[n] - 1, 0))
            word = rows.at[place].get(mode="promise_in_bounds").astype(jnp.int32)
            found = error(word)
            better = (found < least) & (rank < lengths[n]) | (n == 0)
            least, chosen = jnp.where(better, found, least), jnp.where(better, word.astype(jnp.float32), chosen)
        return lax.complex(least, chosen)

    turns = -(-(lengths > rank.min()).sum(dtype=jnp.int32) // STEPS)
    return lax.imag(lax.fori_loop(0, turns, attempt, lax.complex(costs.scale, costs.scale))).astype(jnp.int32)


def _error(lattice: Lattice, costs: Costs) -> Callable[[Word], Group]:
    """The sum of errors of words; of three levels there are few enough to know the errors of all."""
    if lattice.levels > 3:
        return lambda word: in_order([costs.of(i, c) for i, c in enumerate(codes_of(word, lattice))])
    known = [[costs.of(i, float(c)) for c in range(3)] for i in range(lattice.length)]

    def error(word: Word) -> Group:
        bits = [(word & (1 << 2 * i) != 0, word & (2 << 2 * i) != 0) for i in range(lattice.length)]
        return in_order(
            [jnp.where(two, e[2], jnp.where(one, e[1], e[0])) for e, (one, two) in zip(known, bits, strict=True)]
        )

    return error
