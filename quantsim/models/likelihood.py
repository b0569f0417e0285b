"""What logits say of the tokens that came, and how far two models differ, position by position."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_FAR = 60.0  # changes of logits beyond it, in nats, would overflow as exp(d)


class Compared(NamedTuple):
    """Two models on the same tokens, a number for each position.

    Attributes:
        nll: of the reference, -log p(token), in nats.
        nll_hat: of the other.
        kl: Kullback-Leibler divergence of the other from the reference, E_p log(p / p̂), in nats.
        agree: whether the likeliest token is the same.
    """

    nll: Float[Array, "..."]
    nll_hat: Float[Array, "..."]
    kl: Float[Array, "..."]
    agree: Bool[Array, "..."]


def nll(logits: Float[Array, "... vocabulary"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """``-log softmax(logits)[target]``, in nats.

    >>> float(nll(jnp.zeros((1, 8)), jnp.array([3]))[0]) - float(jnp.log(8.0))
    0.0
    """
    own = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - own


def divergence(
    logits: Float[Array, "... vocabulary"], logits_hat: Float[Array, "... vocabulary"]
) -> Float[Array, "..."]:
    """Kullback-Leibler divergence ``E_p log(p / p̂)``, in nats, without cancellation for small changes.

    With x, the changes of the logits less their mean under p, it is ``log E_p exp(x) = log(1 + E_p(exp(x) - 1 - x))``:
    a mean of what is about x^2 / 2, and not a difference of logarithms.

    >>> z = jnp.array([[0.0, 1.0, 2.0]])
    >>> bool(divergence(z, z + 5.0)[0] < 1e-12), bool(divergence(z, -z)[0] > 1)
    (True, True)
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p, d = jnp.exp(log_p), logits_hat - logits
    x = d - jnp.sum(p * d, axis=-1, keepdims=True)
    near = jnp.minimum(x, _FAR)
    small = jnp.log1p(jnp.sum(p * (jnp.expm1(near) - near), axis=-1))
    return jnp.where(jnp.max(x, axis=-1) > _FAR, jax.nn.logsumexp(log_p + x, axis=-1), small)


def compared(
    logits: Float[Array, "... vocabulary"], logits_hat: Float[Array, "... vocabulary"], targets: Int[Array, "..."]
) -> Compared:
    """All of it, of logits (..., vocabulary) and the tokens that came (...)."""
    return Compared(
        nll(logits, targets),
        nll(logits_hat, targets),
        divergence(logits, logits_hat),
        jnp.argmax(logits, axis=-1) == jnp.argmax(logits_hat, axis=-1),
    )
