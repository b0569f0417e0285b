"""What logits say of the tokens that came, and how far two models differ, position by position."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from quantsim.numerics.divergence import divergence


class Compared(NamedTuple):
    """Two models on the same tokens, a number for each position.

    Attributes:
        nll: of the reference, -log p(token), in nats.
        increase: what the other has more of it, log p(token) - log p̂(token), in nats.
        kl: Kullback-Leibler divergence of the other from the reference, E_p log(p / p̂), in nats.
        flips: whether another token is the likeliest.
    """

    nll: Float[Array, "..."]
    increase: Float[Array, "..."]
    kl: Float[Array, "..."]
    flips: Bool[Array, "..."]


def nll(logits: Float[Array, "... vocabulary"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """``-log softmax(logits)[target]``, in nats.

    >>> float(nll(jnp.zeros((1, 8)), jnp.array([3]))[0]) - float(jnp.log(8.0))
    0.0
    """
    return jax.nn.logsumexp(logits, axis=-1) - _of(logits, targets)


def _of(values: Float[Array, "... vocabulary"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    return jnp.take_along_axis(values, targets[..., None], axis=-1)[..., 0]


@jax.jit
def compared(
    logits: Float[Array, "... vocabulary"], logits_hat: Float[Array, "... vocabulary"], targets: Int[Array, "..."]
) -> Compared:
    """All of it, exact to float32 rounding for small changes as for large: no difference of two likelihoods is taken.

    >>> found = compared(jnp.array([[0.0, 0.0]]), jnp.array([[0.1, 0.0]]), jnp.array([0]))
    >>> round(float(found.kl[0]), 7), round(float(found.increase[0]), 4), bool(found.flips[0])
    (0.0012495, -0.0488, False)
    """
    moved = divergence(logits, logits_hat - logits)
    kl = moved.kl[..., 0]
    flips = jnp.argmax(logits, axis=-1) != jnp.argmax(logits_hat, axis=-1)
    return Compared(nll(logits, targets), kl - _of(moved.centred, targets), kl, flips)
