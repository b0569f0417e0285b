"""AWQ: input channels that carry large activations get finer steps, found by a search over one exponent."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from quantsim._types import Activations, Matrix
from quantsim.granularity import Block, Channel, Granularity, from_blocks, to_blocks
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.numerics.ieee import absmax
from quantsim.outputs.products import product
from quantsim.quantizer.face import AbstractQuantizer

BITS_OF_A_SCALE = 16
TERMS = ("none", "mean")
_SMALLEST_CLIP = 0.5  # of the largest weight of a block


@mitigation("ratios", "clips", ratios=(1, 1000), clips=(0, 1000), weight_term=TERMS)
def awq(
    layer: Layer, q: AbstractQuantizer, *, ratios: int = 20, weight_term: str = "none", clips: int = 0
) -> Mitigated:
    """Inputs over s, weights times s, ``s_j = mean |x_j|^ratio``, with the ratio of least output error on the inputs.

    Ratios 0, 1 / ratios … up to below 1 are tried in one program, and s = 1 for all: doing nothing. So on these inputs
    the result is not worse than rounding alone, but for roundings of float32 in the sums that are compared. Scales are
    over the geometric mean of their extremes; an input that is 0 in all rows keeps s = 1. Of equal errors the first
    wins, so that s = 1 stays where nothing gains. The scales are charged 16 bits each, unless they are all 1.

    Args:
        layer: weights, and the inputs to calibrate on.
        q: any quantizer of weights; for ``clips`` one with a scale for each channel or block along the last axis.
        ratios: how many are tried; the released code tries 20.
        weight_term: "none", as in the paper, or "mean", as in later code: s_j is divided by u_j^(1 - ratio), where u_j
            is the mean of |w_ij| over the largest magnitude of its block (or row, if ``q`` has no blocks).
        clips: if above 0, each block is afterwards clipped at one of this many parts of its largest magnitude, from 1
            down to a half, the one with the least output error of this block alone; kept if all outputs gain.

    Returns:
        ``found`` holds the ``ratio`` chosen (NaN: none, s = 1), the squared errors of the candidates (``losses``, s = 1
        first; a sum over outputs and rows), and ``clipped``, whether clips were kept.

    Raises:
        ValueError: for less than one ratio, fewer than zero clips, an unknown term, or clips where there are no blocks.

    Source: Lin et al., arXiv:2306.00978, equations 4 and 5; the weights' term is not in the paper, but in code in use.
    """
    _require_blocks(q, clips)
    x, w = layer.inputs, layer.weights
    grid = jnp.arange(ratios) / ratios
    candidates = _scales(x, w, grid, getattr(q, "granularity", None) if weight_term == "mean" else False)

    def loss(s: Float[Array, " in"]) -> Float[Array, ""]:
        s = s[None]
        return _loss(x, q.roundtrip(w * s) / s - w)

    losses = lax.map(loss, candidates)
    losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    best = jnp.argmin(losses)
    s = candidates[best][None]
    rounded, clipped = q.roundtrip(w * s), jnp.bool_(False)
    if clips:
        trial = q.roundtrip(_clipped(x / s, w * s, q, clips))
        clipped = _loss(x, trial / s - w) < losses[best]
        rounded = jnp.where(clipped, trial, rounded)
    ratio = jnp.where(best == 0, jnp.nan, grid[best - 1])
    extra = jnp.where(jnp.all(s == 1), 0, BITS_OF_A_SCALE * s.size).astype(jnp.float32)
    return Mitigated(rounded, extra, divided_by=s[0], found={"ratio": ratio, "losses": losses, "clipped": clipped})


def _scales(x: Activations, w: Matrix, grid: Float[Array, " ratios"], blocks: Any) -> Float[Array, "candidates in"]:
    """Ones, and the scales for each ratio. ``blocks``: whose maxima the term of the weights has; False: no term."""
    of_x = jnp.mean(jnp.abs(x), axis=0)
    of_w = jnp.ones_like(of_x) if blocks is False else _relative(w, blocks)
    dead = (of_x == 0) | (of_w == 0)
    of_x, of_w = (jnp.where(dead, 1.0, v) for v in (of_x, of_w))
    powers = of_x[None] ** grid[:, None] / of_w[None] ** (1 - grid[:, None])
    largest = jnp.max(jnp.where(dead, 0.0, powers), axis=1, keepdims=True)
    smallest = jnp.min(jnp.where(dead, jnp.inf, powers), axis=1, keepdims=True)
    found = jnp.where(dead, 1.0, powers / (jnp.sqrt(largest) * jnp.sqrt(smallest)))
    return jnp.concatenate([jnp.ones((1, of_x.size)), found])


def _relative(w: Matrix, g: Granularity | None) -> Float[Array, " in"]:
    """Mean over the outputs of |w_ij| relative to the largest magnitude of its block, or of its row."""
    g = g if isinstance(g, Block) else Channel()
    blocks = to_blocks(jnp.abs(w), g)
    top = absmax(blocks)
    return jnp.mean(from_blocks(blocks / jnp.where(top == 0, 1.0, top), g, w.shape), axis=0)


def _loss(x: Activations, e: Matrix) -> Float[Array, ""]:
    return jnp.sum(jnp.square(product(x, e)))


def _clipped(x: Activations, w: Matrix, q: Any, clips: int) -> Matrix:
    """Each block of the weights within the part of its largest magnitude that errs least in its own outputs."""
    blocks = to_blocks(w, q.granularity)
    size = blocks.shape[1]
    in_row = blocks.shape[0] // w.shape[0]
    parts = jnp.pad(x, ((0, 0), (0, in_row * size - x.shape[1]))).reshape(x.shape[0], in_row, size)
    gram = jnp.einsum("tbi,tbj->bij", parts, parts, precision=lax.Precision.HIGHEST)
    top = absmax(blocks)

    def attempt(part: Float[Array, ""]) -> Float[Array, " blocks"]:
        trial = q.roundtrip(from_blocks(jnp.clip(blocks, -part * top, part * top), q.granularity, w.shape))
        e = (to_blocks(trial, q.granularity) - blocks).reshape(w.shape[0], in_row, size)
        seen = jnp.einsum("obi,bij->obj", e, gram, precision=lax.Precision.HIGHEST)
        return jnp.sum(seen * e, axis=-1).reshape(-1)

    given = 1 - (1 - _SMALLEST_CLIP) * jnp.arange(clips) / max(clips - 1, 1)
    best = given[jnp.argmin(lax.map(attempt, given), axis=0)][:, None]
    return from_blocks(jnp.clip(blocks, -best * top, best * top), q.granularity, w.shape)


def _require_blocks(q: AbstractQuantizer, clips: int) -> None:
    g = getattr(q, "granularity", None)
    in_rows = (isinstance(g, Channel) and g.axis in (0, -2)) or (isinstance(g, Block) and g.axis in (1, -1))
    if clips and not in_rows:
        raise ValueError(
            "clips are searched for each channel or block along the last axis, such as those of int4:block128"
        )
