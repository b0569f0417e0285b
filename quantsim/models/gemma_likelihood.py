"""Likelihoods under Gemma without the logits of a whole text, which are 262,144 a token: in chunks of tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from quantsim.models import gemma
from quantsim.models.gemma import Params, Tokens
from quantsim.models.gemma_config import OUTPUT, Config
from quantsim.models.layers import Product, linear
from quantsim.models.likelihood import Compared, compared, nll

#: Tokens whose logits are held at a time: 134 MB of them for 262,144 of each.
CHUNK = 128


class Ending(NamedTuple):
    """What the last product multiplies: two models are compared by these, and one may be kept for many others."""

    hidden: Float[Array, "batch time width"]
    weights: Float[Array, "vocabulary width"]


def ending(params: Params, tokens: Tokens, config: Config, *, product: Product = linear) -> Ending:
    """All of the forward pass but the last product, of every token that another follows."""
    return Ending(gemma.hidden(params, tokens, config, product=product)[:, :-1], gemma.head(params))


def token_nll(
    params: Params, tokens: Tokens, config: Config, *, product: Product = linear, chunk: int = CHUNK
) -> Float[Array, "batch followers"]:
    """``-log p(token)`` in nats of every token but the first, given those before it.

    Args:
        params: of ``gemma.forward``.
        tokens: each row a text, the token that begins texts in front.
        config: sizes and constants.
        product: as for ``gemma.forward``; the last product sees ``chunk`` tokens at a time, (chunk, width).
        chunk: tokens whose logits are held at a time.
    """
    own = ending(params, tokens, config, product=product)
    return _token_nll(own, tokens[:, 1:], product=product, chunk=chunk)


def compared_endings(
    reference: Ending,
    other: Ending,
    targets: Int[Array, "batch followers"],
    *,
    product: Product = linear,
    chunk: int = CHUNK,
) -> Compared:
    """Two models token by token; the last product of the reference is plain.

    Args:
        reference: ``ending`` of one.
        other: ``ending`` of the other, on the same tokens.
        targets: ``tokens[:, 1:]``.
        product: the last product of the other.
        chunk: tokens whose logits are held at a time.
    """
    return _compared(reference, other, targets, hook=product, chunk=chunk)


@partial(jax.jit, static_argnames=("product", "chunk"))
def _token_nll(own: Ending, targets: Array, *, product: Product, chunk: int) -> Array:
    def some(part: tuple[Array, Array]) -> Array:
        return nll(product(OUTPUT, part[0], own.weights), part[1])

    return _in_chunks(some, (own.hidden, targets), chunk)


@partial(jax.jit, static_argnames=("hook", "chunk"))
def _compared(reference: Ending, other: Ending, targets: Array, *, hook: Product, chunk: int) -> Compared:
    def some(part: tuple[Array, Array, Array]) -> Compared:
        z = linear(OUTPUT, part[0], reference.weights)
        return compared(z, hook(OUTPUT, part[1], other.weights), part[2])

    return _in_chunks(some, (reference.hidden, other.hidden, targets), chunk)


def _in_chunks(f: Callable[[Any], Any], arrays: tuple[Array, ...], chunk: int) -> Any:
    """``f`` of arrays (batch, time, …), with the first two axes as one, so many at a time; the last are filled up."""
    batch, time = arrays[-1].shape[:2]
    count = batch * time
    chunk = min(chunk, count)
    chunks = -(-count // chunk)

    def cut(a: Array) -> Array:
        flat = a.reshape(count, *a.shape[2:])
        fill = [(0, chunks * chunk - count)] + [(0, 0)] * (flat.ndim - 1)
        return jnp.pad(flat, fill).reshape(chunks, chunk, *flat.shape[1:])

    found = lax.map(f, tuple(map(cut, arrays)))
    return jax.tree.map(lambda a: a.reshape(-1)[:count].reshape(batch, time), found)
