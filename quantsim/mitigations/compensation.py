"""Rounding column by column, later columns making up for the errors of earlier ones: the loop of GPTQ, compiled.

Matrices stand with columns first, (in, out), so that a column is contiguous.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from quantsim._types import Matrix, PerBlock
from quantsim.calibration import Counts
from quantsim.granularity import block_counts, from_blocks, to_blocks
from quantsim.numerics import ieee
from quantsim.quantizer.scaled import Quantizer
from quantsim.quantizer.scaled_blocks import calibrated, nearest, outside
from quantsim.quantizer.structure import rebuild_quantizer

Columns = Float[Array, "columns out"]


@dataclass(frozen=True)
class Plan:
    """What the loop must know to be compiled.

    Attributes:
        size: columns that share a scale, if it is found within the loop; it divides ``lazy``.
        lazy: columns after which the errors are handed on to all columns behind, in one product of matrices.
        scales: "block", "group" or "static": see ``gptq``.
    """

    size: int
    lazy: int
    scales: str


class Scales(NamedTuple):
    """Scale and, with minmax, zero point of each weight."""

    scale: Columns
    zero: Columns | None


class Rounded(NamedTuple):
    """Weights as they are dequantized, (out, in), and how many of the compensated ones were out of range."""

    weights: Matrix
    saturated: Int32[Array, ""]


class _Column(NamedTuple):
    hat: Float[Array, "..."]
    error: Float[Array, "..."]
    saturated: Int32[Array, "..."]


@partial(jax.jit, static_argnums=(0, 5))
def rounded_in_turn(
    structure: Any, numbers: Any, w: Matrix, links: Float[Array, "in in"], order: Int32[Array, " in"], plan: Plan
) -> Rounded:
    """Columns rounded in turn, w_k -= links[j,k] (w_j - ŵ_j) for the columns k behind each column j.

    Args:
        structure: of a scaled quantizer.
        numbers: of it.
        w: weights (out, in).
        links: strictly upper, for columns in the order in which they are rounded.
        order: which column of ``w`` comes first, and so on.
        plan: sizes, and when scales are found.
    """
    q = rebuild_quantizer(structure, numbers)
    columns, tail = w.shape[1], -w.shape[1] % plan.lazy
    fixed = None
    if plan.scales == "static":
        fixed = jax.tree.map(lambda a: _in_groups(_padded(a.T[order], tail), plan), _spread_scales(q, w))
    links = jnp.pad(links, (0, tail))

    def lazy_block(rows: Columns, step: tuple) -> tuple[Columns, tuple]:
        start, scales = step
        block, own = (lax.dynamic_slice_in_dim(a, start, plan.lazy) for a in (rows, links))
        inside = lax.dynamic_slice_in_dim(own, start, plan.lazy, axis=1)
        done = _block_in_turn(q, block, inside, scales, (plan, start, columns))
        # all columns, though only those behind change: links to others are 0
        rows = rows - lax.dot_general(own, done.error, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
        return rows, (done.hat, done.saturated)

    rows = _padded(w.T[order], tail)
    starts = jnp.arange(0, columns + tail, plan.lazy)
    _, (hats, saturated) = lax.scan(lazy_block, rows, (starts, fixed))
    hat = hats.reshape(rows.shape)[:columns]
    return Rounded(jnp.zeros_like(hat).at[order].set(hat, unique_indices=True).T, jnp.sum(saturated))


def _block_in_turn(
    q: Quantizer, block: Columns, links: Float[Array, "lazy lazy"], fixed: Scales | None, where: tuple
) -> _Column:
    """The columns of one lazy block: dequantized, their errors, and how many weights saturate."""
    plan, start, columns = where
    first = block

    def group(block: Columns, step: tuple) -> tuple[Columns, _Column]:
        begin, scales = step
        if scales is None:
            source = lax.dynamic_slice_in_dim(first if plan.scales == "block" else block, begin, plan.size)
            scale, zero = calibrated(q, source.T, _counts(source, start + begin, columns))
            scales = Scales(_along_columns(scale, source), None if zero is None else _along_columns(zero, source))
        return lax.scan(column, block, (begin + jnp.arange(plan.size), scales))

    def column(block: Columns, step: tuple) -> tuple[Columns, _Column]:
        j, scales = step
        w = lax.dynamic_index_in_dim(block, j, keepdims=False)
        scale, zero = scales.scale[:, None], None if scales.zero is None else scales.zero[:, None]
        hat = nearest(q, w[:, None], scale, zero)[:, 0]
        error = w - ieee.unfused(hat, w)
        saturated = jnp.sum(outside(q, w[:, None], scale, zero), dtype=jnp.int32)
        link = lax.dynamic_index_in_dim(links, j, keepdims=False)
        return block - link[:, None] * error[None], _Column(hat, error, saturated)

    _, done = lax.scan(group, block, (jnp.arange(0, plan.lazy, plan.size), fixed))
    return _Column(done.hat.reshape(block.shape), done.error.reshape(block.shape), jnp.sum(done.saturated))


def _counts(source: Columns, start: Int32[Array, ""], columns: int) -> Counts:
    """Weights in each of the blocks of a group, without the padding behind the last column."""
    size, out = source.shape
    if not columns % size:
        return size
    return jnp.full((out, 1), jnp.clip(columns - start, 1, size))


def _along_columns(a: PerBlock, source: Columns) -> Columns:
    return jnp.broadcast_to(a.T, source.shape)


def _padded(rows: Columns, tail: int) -> Float[Array, "whole out"]:
    return jnp.pad(rows, ((0, tail), (0, 0)))


def _in_groups(a: Columns, plan: Plan) -> Float[Array, "blocks groups size out"]:
    return a.reshape(-1, plan.lazy // plan.size, plan.size, a.shape[1])


def _spread_scales(q: Quantizer, w: Matrix) -> Scales:
    """Scale and zero point that rounding to nearest would use for each weight, (out, in); 1 for a cast."""
    g = q.granularity
    if g is None:
        return Scales(jnp.ones_like(w), None)
    blocks = to_blocks(w, g)

    def spread(a: PerBlock) -> Matrix:
        return from_blocks(jnp.broadcast_to(a, blocks.shape), g, w.shape)

    scale, zero = calibrated(q, blocks, block_counts(g, w.shape))
    return Scales(spread(scale), None if zero is None else spread(zero))
