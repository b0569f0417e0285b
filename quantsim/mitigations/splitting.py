"""Outlier splitting: single weights that stand out are kept beside the codes, sparse and in 16 bits."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from quantsim._types import Matrix, Number
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.mitigations.stored import BITS_OF_A_HALF, half, index_bits
from quantsim.quantizer.face import AbstractQuantizer

THRESHOLDS = ("std", "share")


def largest(w: Matrix, share: Number) -> Bool[Array, "out in"]:
    """The ``round(share n)`` largest magnitudes of n weights; fewer where the next one is as large.

    >>> largest(jnp.array([[1.0, -3.0, 2.0, 0.5]]), 0.5).tolist()
    [[False, True, True, False]]
    """
    magnitudes = jnp.abs(w)
    falling = -jnp.sort(-magnitudes, axis=None)
    count = jnp.round(jnp.asarray(share, jnp.float32) * w.size).astype(jnp.int32)
    next_one = jnp.where(count >= w.size, -1.0, falling[jnp.minimum(count, w.size - 1)])
    return magnitudes > next_one


@mitigation(by=THRESHOLDS, std=(0, float("inf")), share=(0, 1))
def split_outliers(
    layer: Layer, q: AbstractQuantizer, *, by: str = "std", std: Number = 3.0, share: Number = 0.01
) -> Mitigated:
    """W = Q(W without outliers) + outliers: ``|w| > std * std(W)``, or a share of largest magnitude.

    Each outlier is charged 16 bits for its float16 and ceil(log2 n) for its place among n weights, or all together a
    bit for each weight, if that is less. The quantizer sees zeros in their places, and stores codes for them.

    Args:
        layer: weights (out, in); the inputs are not looked at.
        q: quantizer of the rest.
        by: "std" or "share".
        std: threshold, in standard deviations of the matrix.
        share: of the weights, within [0, 1].

    Raises:
        ValueError: if it is negative, or for a share beyond 1.

    Source: Dettmers et al., arXiv:2306.03078 (weights kept apart, sparse, in 16 bits).
    """
    w = layer.weights
    outlier = jnp.abs(w) > std * jnp.std(w) if by == "std" else largest(w, share)
    rest = q.roundtrip(jnp.where(outlier, 0.0, w))
    count = jnp.sum(outlier, dtype=jnp.float32)
    bits = BITS_OF_A_HALF * count + index_bits(outlier)
    return Mitigated(jnp.where(outlier, half(w), rest), bits, found={"outliers": count})
