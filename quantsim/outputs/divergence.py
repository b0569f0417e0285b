"""How far a softmax moves when its logits do, exact to float32 rounding for small changes as for large."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Logits = Float[Array, "*batch classes"]
PerSoftmax = Float[Array, "*batch 1"]

#: Changes of logits below it, in nats, are expanded around zero, where their effects would cancel.
SMALL = 1.0


class Divergence(NamedTuple):
    """Of softmax(logits + errors) from p = softmax(logits).

    Attributes:
        log_p: log p.
        centred: d, the errors less their mean under p.
        kl: Kullback-Leibler divergence E_p log(p / p̂) = log E_p exp(d), in nats.
    """

    log_p: Logits
    centred: Logits
    kl: PerSoftmax


def divergence(logits: Logits, errors: Logits) -> Divergence:
    """Along the last axis; small errors as ``log1p E_p (exp(d) - 1 - d)``, where nothing cancels."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    d = errors - jnp.sum(p * errors, axis=-1, keepdims=True)
    small = jnp.clip(d, -SMALL, SMALL)
    expanded = jnp.log1p(jnp.sum(p * (jnp.expm1(small) - small), axis=-1, keepdims=True))
    far = jnp.max(jnp.abs(d), axis=-1, keepdims=True) > SMALL
    kl = jnp.where(far, jax.nn.logsumexp(log_p + d, axis=-1, keepdims=True), expanded)
    return Divergence(log_p, d, kl)


class TokenErrors(NamedTuple):
    """What happens to the prediction of each next token.

    Attributes:
        kl: Kullback-Leibler divergence of the prediction from the reference's, in nats.
        nll: negative log-likelihood of the token that came, more than the reference's, in nats.
        flips: whether another token is the most likely one.
    """

    kl: Float[Array, "batch time"]
    nll: Float[Array, "batch time"]
    flips: Bool[Array, "batch time"]


@jax.jit
def token_errors(
    reference: Float[Array, "batch time vocabulary"],
    logits: Float[Array, "batch time vocabulary"],
    targets: Int[Array, "batch time"],
) -> TokenErrors:
    """How predictions differ from a reference's on the same tokens.

    >>> z = jnp.array([[[0.0, 0.0]]])
    >>> found = token_errors(z, jnp.array([[[0.1, 0.0]]]), jnp.array([[0]]))
    >>> round(float(found.kl[0, 0]), 7), round(float(found.nll[0, 0]), 4), bool(found.flips[0, 0])
    (0.0012495, -0.0488, False)
    """
    moved = divergence(reference, logits - reference)
    of_target = jnp.take_along_axis(moved.centred, targets[..., None], axis=-1)
    flips = jnp.argmax(reference, axis=-1) != jnp.argmax(logits, axis=-1)
    return TokenErrors(moved.kl[..., 0], (moved.kl - of_target)[..., 0], flips)
