"""The neighbour of a group that has the least weighed error, for thousands of groups side by side.

Source: llama.cpp, ggml-quants.c: ``iq2_find_best_neighbour``, ``iq3_find_best_neighbour``, ``iq1_find_best_neighbour2``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from quantsim.quantizer.blockformats.lattices.points import Lattice, neighbours
from quantsim.quantizer.blockformats.search import in_order
from quantsim.rounding import round_integer

Group: TypeAlias = Float[Array, " groups"]
Word: TypeAlias = Int32[Array, " groups"]


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


def squared_error(
    x: Sequence[Group], w: Sequence[Group], levels: Callable[[Word], Group], scale: Group
) -> Callable[[Sequence[Word]], Group]:
    """Sum of ``w (scale level - x)^2`` of codes, added in order."""
    zero = scale - scale

    def error(codes: Sequence[Word]) -> Group:
        apart = [(scale * levels(c) + zero) - v for v, c in zip(x, codes, strict=True)]
        return in_order([(u * d) * d + zero for u, d in zip(w, apart, strict=True)])

    return error


def snapped(number: Word, lattice: Lattice, error: Callable[[Sequence[Word]], Group]) -> Snapped:
    """The point of each group: itself, or the first neighbour with the least error."""
    table = neighbours(lattice)
    rows, starts, lengths = (jnp.asarray(part) for part in (table.rows, table.starts, table.lengths))
    rank = jnp.asarray(table.rank).at[number].get(mode="promise_in_bounds")

    def attempt(j: Int32[Array, ""], best: tuple[Group, Word]) -> tuple[Group, Word]:
        place = starts[j] + jnp.minimum(rank, lengths[j] - 1)
        word = rows.at[place].get(mode="promise_in_bounds").astype(jnp.int32)
        found = error(codes_of(word, lattice))
        better = (found < best[0]) & (rank < lengths[j]) | (j == 0)
        return jnp.where(better, found, best[0]), jnp.where(better, word, best[1])

    most = (lengths > rank.min()).sum(dtype=jnp.int32)
    start = (jnp.full(rank.shape, jnp.inf, jnp.float32) + 0.0 * rank, rank)
    word = lax.fori_loop(0, most, attempt, start)[1]
    return Snapped(word, rank >= table.first_point)
