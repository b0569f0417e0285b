"""Squared gradients of a model's log-likelihood: the diagonal of Fisher's information, and what an error costs.

Labels are drawn from the model's own predictions p, so that the mean of the squared gradient is the diagonal of

    F = E[ (d log p(y | x) / dw) (d log p(y | x) / dw)^T ],   KL(p(w) || p(w + e)) = e^T F e / 2 + O(|e|^3),

and ``sum F_ii e_i^2 / 2`` is the divergence that uncorrelated errors of mean 0 are expected to cost. Scores of tokens
are uncorrelated, so that one backward pass over a whole text has the right mean.
Source: Martens, "New insights and perspectives on the natural gradient method", JMLR 21 (2020), section 5.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from quantsim._types import PRNGKey

Params: TypeAlias = Mapping[str, Array]
#: Logits of every token of texts.
Forward: TypeAlias = Callable[[dict[str, Array], Int[Array, "texts time"]], Float[Array, "texts time vocabulary"]]


def squared_gradients(
    forward: Forward, params: Params, texts: Int[np.ndarray | Array, "texts time"], key: PRNGKey, *, draws: int = 1
) -> dict[str, NDArray[np.float32]]:
    """F_ii of each weight of the matrices, per token: an estimate from ``draws`` labels for each token.

    Args:
        forward: (params, tokens) to logits; jitted here.
        params: arrays by name; gradients are of those with two axes.
        texts: tokens; every token but the last of a text is given a successor.
        key: of the labels.
        draws: backward passes over each text.

    >>> tokens = jnp.array([[0, 1, 1, 0, 1]])
    >>> found = squared_gradients(lambda p, x: p["w"][x], {"w": jnp.zeros((2, 2))}, tokens, jax.random.key(0))
    >>> found["w"].shape
    (2, 2)
    """
    matrices = {name: w for name, w in params.items() if w.ndim == 2}
    totals = {name: np.zeros(w.shape, np.float32) for name, w in matrices.items()}

    def log_likelihood(matrices: dict[str, Array], tokens: Array, key: PRNGKey) -> Array:
        logits = forward({**params, **matrices}, tokens)[:, :-1].astype(jnp.float32)
        drawn = jax.random.categorical(key, jax.lax.stop_gradient(logits))
        return jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[..., None], axis=-1).sum()

    gradient = jax.jit(jax.grad(log_likelihood))
    for number, text in enumerate(np.asarray(texts)):
        for draw in range(draws):
            own = jax.random.fold_in(jax.random.fold_in(key, number), draw)
            for name, found in gradient(matrices, jnp.asarray(text[None]), own).items():
                totals[name] += np.square(np.asarray(found))
    tokens = np.float32(draws * texts.shape[0] * (texts.shape[1] - 1))
    return {name: total / tokens for name, total in totals.items()}
