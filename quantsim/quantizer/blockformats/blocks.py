"""What the searches ask of a block: extremes, reciprocals and sums, each with one bit pattern everywhere."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from quantsim._types import Blocks, PerBlock
from quantsim.numerics import ieee


def reciprocal(d: PerBlock) -> PerBlock:
    """``1 / d`` rounded once, 0 where d is 0."""
    return jnp.where(d == 0, 0.0, ieee.divide(1.0 + (d - d), jnp.where(d == 0, 1.0, d)))


def extreme(blocks: Blocks) -> PerBlock:
    """The weight of largest magnitude with its sign; of equally large ones the first."""
    top = ieee.absmax(blocks)
    # place and sign of a weight in one integer, so that one reduction finds the first and its sign
    place = 2 * lax.broadcasted_iota(jnp.int32, blocks.shape, 1) + (blocks < 0).astype(jnp.int32)
    first = jnp.min(jnp.where(jnp.abs(blocks) == top, place, 2**30), axis=-1, keepdims=True)
    return jnp.where(first % 2 == 1, -top, top)


def ends(blocks: Blocks) -> tuple[PerBlock, PerBlock]:
    """Smallest and largest weight; integers reduce several times as fast as floats on CPU."""
    order = ieee.ordered(blocks)
    low, high = order.min(axis=-1, keepdims=True), order.max(axis=-1, keepdims=True)
    return ieee.disordered(low), ieee.disordered(high)


def sum_of_squares(blocks: Blocks) -> PerBlock:
    """Sum of squares of each block; the squares are added one after the other, in float32, as the reference does."""

    def add(total: Float[Array, " blocks"], x: Float[Array, " blocks"]) -> tuple[Float[Array, " blocks"], None]:
        return total + ieee.square(x), None

    return lax.scan(add, jnp.zeros_like(blocks[:, 0]), blocks.T)[0][:, None]


def mean_square(blocks: Blocks) -> PerBlock:
    """Mean square of each block, of its sum of squares in order."""
    return ieee.divide(sum_of_squares(blocks), float(blocks.shape[-1]))
