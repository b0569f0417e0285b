"""Clipping: the largest weights are cut off before quantization, so that all others get a finer step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from quantsim._types import Matrix, Number
from quantsim.granularity import Block, Channel, Granularity, Tensor, from_blocks, to_blocks
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.outputs.products import product
from quantsim.quantizer.face import AbstractQuantizer

CRITERIA = ("percentile", "weights", "outputs")
_LEAST_RATIO = 0.25

#: The reach of each weight for a part of the largest magnitude that shares its scale.
Reach = Float[Array, "out in"]


@mitigation("steps", by=CRITERIA, p=(0, 100), steps=(2, 1000))
def clip(layer: Layer, q: AbstractQuantizer, *, by: str = "weights", p: Number = 99.9, steps: int = 32) -> Mitigated:
    """Q(W clipped to a part of its reach); nothing more is stored.

    "percentile" clips each row at the p-th percentile of its magnitudes. "weights" and "outputs" try ``steps`` parts
    from 1 down to about 1/4 of the largest magnitude of each block, and keep for each row the part with the least
    ``||ŵ - w||²`` or ``||x (ŵ - w)ᵀ||²``. The part is one per row, also where the row has many blocks: an output is of
    its whole row, so the blocks of a row err together (``awq(clips=…)`` tries each block as if it were alone). It is
    one for all rows where the quantizer has one scale for all. No clipping is a candidate, and is kept where the choice
    of the rows together is no better.

    Args:
        layer: weights (out, in) and calibration inputs (tokens, in), which "outputs" looks at.
        q: quantizer of the clipped weights.
        by: "percentile", "weights" or "outputs".
        p: percentile, in percent.
        steps: how many parts are tried.

    Returns:
        ``found`` holds the ``part`` of each row, but of "percentile".

    Raises:
        ValueError: for a percentile outside [0, 100], or other words.

    Source: Choukroun et al., arXiv:1902.06822 (least squared error of weights); Lin et al., arXiv:2306.00978 (outputs).
    """
    w = layer.weights
    if by == "percentile":
        reach = jnp.percentile(jnp.abs(w), p, axis=1, keepdims=True)
        return Mitigated(q.roundtrip(_within(w, reach)), jnp.float32(0))

    def loss(w_hat: Matrix) -> Float[Array, " out"]:
        error = w_hat - w
        seen = error if by == "weights" else product(layer.inputs, error).T
        return jnp.sum(seen * seen, axis=1)

    weights, part = _searched(w, q, loss, steps)
    return Mitigated(weights, jnp.float32(0), found={"part": part})


def _within(w: Matrix, reach: Float[Array, "..."]) -> Matrix:
    return jnp.maximum(jnp.minimum(w, reach), -reach)


def _searched(
    w: Matrix, q: AbstractQuantizer, loss: Callable[[Matrix], Float[Array, " out"]], steps: int
) -> tuple[Matrix, Float[Array, " out"]]:
    """Weights with the least loss, and the part of the reach that each row keeps."""
    reach = _reach(w, q)
    parts = 1 - (1 - _LEAST_RATIO) * jnp.arange(steps) / steps  # the first is 1: as if nothing were clipped

    def clipped(part: Float[Array, " out"]) -> Matrix:
        return q.roundtrip(_within(w, reach * part[:, None]))

    def tried(part: Float[Array, ""]) -> Float[Array, " out"]:
        return loss(clipped(jnp.full(w.shape[0], part)))

    losses = jax.lax.map(tried, parts)  # one after the other: memory of one, whatever the number
    if isinstance(getattr(q, "granularity", None), Tensor):
        losses = jnp.broadcast_to(jnp.sum(losses, axis=1, keepdims=True), losses.shape)
    part = parts[jnp.argmin(losses, axis=0)]
    plain, found = q.roundtrip(w), clipped(part)
    better = jnp.sum(loss(found)) < jnp.sum(loss(plain))
    return jnp.where(better, found, plain), jnp.where(better, part, 1.0)


def _reach(w: Matrix, q: AbstractQuantizer) -> Reach:
    """Largest magnitude among the weights that share the scale; of a row, where that is not known."""
    granularity: Granularity = getattr(q, "granularity", None) or Channel()
    if isinstance(granularity, Block) and granularity.onward:
        granularity = Channel()
    blocks = to_blocks(jnp.abs(w), granularity)
    top = jnp.broadcast_to(jnp.max(blocks, axis=1, keepdims=True), blocks.shape)
    return from_blocks(top, granularity, w.shape)
