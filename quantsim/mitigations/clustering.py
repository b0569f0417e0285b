"""Outlier clustering: W = W_normal + W_outlier, two clusters of magnitudes, each quantized with scales of its own."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from quantsim._types import Matrix
from quantsim.mitigations.layer import Layer, Mitigated
from quantsim.mitigations.registry import mitigation
from quantsim.mitigations.stored import index_bits, second_scale_bits
from quantsim.quantizer.face import AbstractQuantizer


def far_cluster(w: Matrix, steps: int) -> Bool[Array, "out in"]:
    """Which weights belong to the larger of two clusters of |w|, by Lloyd's iteration from mean and maximum.

    >>> far_cluster(jnp.array([[1.0, -1.1, 10.0, 0.9]]), 8).tolist()
    [[False, False, True, False]]
    """
    magnitudes = jnp.abs(w)

    def mean_of(chosen: Bool[Array, "out in"], otherwise: Float[Array, ""]) -> Float[Array, ""]:
        count = jnp.sum(chosen)
        total = jnp.sum(jnp.where(chosen, magnitudes, 0.0))
        return jnp.where(count == 0, otherwise, total / jnp.maximum(count, 1))

    def step(_: Int32[Array, ""] | int, centres: tuple) -> tuple:
        near, far = centres
        chosen = magnitudes > (near + far) / 2
        return mean_of(~chosen, near), mean_of(chosen, far)

    near, far = lax.fori_loop(0, steps, step, (jnp.mean(magnitudes), jnp.max(magnitudes)))
    return magnitudes > (near + far) / 2


@mitigation("steps", steps=(1, 1000))
def cluster_outliers(layer: Layer, q: AbstractQuantizer, *, steps: int = 32) -> Mitigated:
    """Ŵ = Q(W_normal) + Q(W_outlier), either with zeros in the places of the other.

    Two clusters of |w|, found by 2-means over the matrix, have a scale each where before there was one. Every weight
    keeps one code; charged are the places of the outliers and a second set of scales.

    Args:
        layer: weights (out, in); the inputs are not looked at.
        q: quantizer of both parts.
        steps: of the 2-means.

    Source: Lloyd, IEEE Trans. Inf. Theory 28 (1982), for the clusters.
    """
    w = layer.weights
    outlier = far_cluster(w, steps)
    normal, far = (q.roundtrip(jnp.where(chosen, w, 0.0)) for chosen in (~outlier, outlier))
    bits = index_bits(outlier) + second_scale_bits(q, w.shape)
    count = jnp.sum(outlier, dtype=jnp.float32)
    return Mitigated(jnp.where(outlier, far, normal), bits, found={"outliers": count})
