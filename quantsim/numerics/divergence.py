"""How far a softmax moves when its logits do, exact to float32 rounding for small changes as for large."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Logits = Float[Array, "*batch classes"]
PerSoftmax = Float[Array, "*batch 1"]

_FAR = 60.0  # changes of logits beyond it, in nats, would overflow as exp(d)


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
    """Along the last axis; as ``log1p E_p (exp(d) - 1 - d)``, a mean of what is at least 0, where nothing cancels.

    Args:
        logits: of the reference.
        errors: what is added to them.

    >>> z = jnp.array([[0.0, 1.0, 2.0]])
    >>> bool(divergence(z, z * 0 + 5.0).kl[0, 0] < 1e-12), bool(divergence(z, -2 * z).kl[0, 0] > 1)
    (True, True)
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    d = errors - jnp.sum(p * errors, axis=-1, keepdims=True)
    near = jnp.minimum(d, _FAR)
    expanded = jnp.log1p(jnp.sum(p * (jnp.expm1(near) - near), axis=-1, keepdims=True))
    far = jnp.max(d, axis=-1, keepdims=True) > _FAR
    kl = jnp.where(far, jax.nn.logsumexp(log_p + d, axis=-1, keepdims=True), expanded)
    return Divergence(log_p, d, kl)
