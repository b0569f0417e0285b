"""Norms of activations, token by token: LayerNorm and RMSNorm without learned gains."""

import jax.numpy as jnp
from jax import lax

from quantsim._types import Activations

#: What is added to the variance: 1e-5 in PyTorch's LayerNorm and in LLaMA's RMSNorm.
EPSILON = 1e-5


def layer_norm(x: Activations, epsilon: float = EPSILON) -> Activations:
    """Each token less its mean, over its standard deviation, ``(x - mean x) / sqrt(var x + epsilon)``.

    Ba, Kiros and Hinton, Layer normalization (2016), with gain 1 and bias 0.

    Args:
        x: activations (batch, in).
        epsilon: added to the variance, in squared units of x.

    >>> layer_norm(jnp.array([[0.0, 2.0]]), epsilon=0.0).tolist()
    [[-1.0, 1.0]]
    """
    return rms_norm(x - jnp.mean(x, axis=-1, keepdims=True), epsilon)


def rms_norm(x: Activations, epsilon: float = EPSILON) -> Activations:
    """Each token over its root mean square, ``x / sqrt(mean x^2 + epsilon)``; its mean stays.

    Zhang and Sennrich, Root mean square layer normalization (2019), with gain 1.

    Args:
        x: activations (batch, in).
        epsilon: added to the mean square, in squared units of x.

    >>> rms_norm(jnp.array([[2.0, 2.0]]), epsilon=0.0).tolist()
    [[1.0, 1.0]]
    """
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
