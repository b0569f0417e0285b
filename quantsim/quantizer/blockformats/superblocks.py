"""What the K-quants share: 256 weights in sub-blocks of 16 or 32, whose scales are quantized again."""

from typing import TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.blocks import mean_square
from quantsim.quantizer.blockformats.coding import Importance

SUPER = 256
Supers: TypeAlias = Float[Array, "supers 256"]


def sub_blocks(blocks: Supers, size: int) -> Blocks:
    """Sub-blocks of ``size`` weights, one a row."""
    return blocks.reshape(-1, size)


def spread(sub: Float[Array, "..."], size: int) -> Supers:
    """One number for each sub-block, repeated for its ``size`` weights."""
    return jnp.repeat(sub.reshape(-1, SUPER // size), size, axis=-1)


def error_weights(blocks: Supers, importance: Importance, factor: float) -> Supers:
    """Weight of an error: importance times sqrt(factor * mean square of the super-block + w^2)."""
    power = factor * mean_square(blocks)
    return ieee.unfused(importance.weights * jnp.sqrt(power + ieee.square(blocks)), blocks)


def totals(weights: Blocks, count: int) -> Float[Array, "supers subs"]:
    """Sum of the weights of each of ``count`` sub-blocks, in order."""
    rows = weights.T.reshape(weights.shape[-1], -1, count)
    return lax.scan(lambda total, row: (total + row, None), jnp.zeros_like(rows[0]), rows)[0]
