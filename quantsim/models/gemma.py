"""Gemma 3, the text model: logits of tokens, from parameters named as GGUF files name them.

A layer, with every norm the root mean square one::

    h = h + norm(attention(norm(h)))
    h = h + norm(down(gelu(gate(norm(h))) * up(norm(h))))

Queries and keys are normalized in each head before they are rotated; query heads share keys and values in groups. Of
every six layers five see ``window`` tokens back, the present one included, and rotate with the base ``local_base``; the
sixth sees all and rotates with ``global_base``. The embedding is scaled by sqrt(width), and its table makes the logits
too. There is no soft cap. Source: Gemma Team, Gemma 3 Technical Report, arXiv:2503.19786; llama.cpp, models/gemma3.

Parameters are a flat dict: "token_embd" (vocabulary, width), "output_norm" (width,), and of each layer i,
"blk.i.attn_q" (heads * head, width), "blk.i.attn_k" and "blk.i.attn_v" (kv_heads * head, width), "blk.i.attn_output"
(width, heads * head), "blk.i.ffn_gate" and "blk.i.ffn_up" (hidden, width), "blk.i.ffn_down" (width, hidden), and the
gains "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm" and "attn_k_norm". A gain
multiplies as it stands: GGUF files hold the 1 + w of the published formula.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from quantsim.models.gemma_config import OUTPUT, Config, check_params, check_tokens
from quantsim.models.layers import Product, linear, rms_norm, rotation, turned

Tokens: TypeAlias = Int[Array, "batch time"]
Hidden: TypeAlias = Float[Array, "batch time width"]
#: Arrays, or what ``product`` takes in the place of a matrix.
Params: TypeAlias = Mapping[str, Any]


def forward(
    params: Params, tokens: Tokens, config: Config, *, product: Product = linear
) -> Float[Array, "batch time vocabulary"]:
    """Logits of the token after each.

    Args:
        params: as above, float32 or float64, all of one type.
        tokens: numbers of tokens; the first of a text is the one that begins texts.
        config: sizes and constants.
        product: every linear layer is one call of it; a function that is equal to itself and depends on its arguments
            only, as programs are kept by it.

    Raises:
        ValueError: for parameters of other names or shapes, and for tokens that are none.

    >>> from quantsim.models.gemma_config import random_params
    >>> config = Config(8, 2, 2, 1, 4, 16, window=3, query_scale=0.5, period=2)
    >>> forward(random_params(config, 11, seed=0), jnp.arange(5)[None], config).shape
    (1, 5, 11)
    """
    return logits(params, hidden(params, tokens, config, product=product), product=product)


def hidden(params: Params, tokens: Tokens, config: Config, *, product: Product = linear) -> Hidden:
    """What the last product multiplies, normalized: ``forward`` without it."""
    check_params(params, config)
    check_tokens(tokens, len(params["token_embd"]))
    # Plain layers are one program, called for each. Layers with names of their own would be one each: all together they
    # are compiled in a third of the time.
    run = _hidden if product is linear else _hidden_at_once
    return run(params, tokens, config, product)


def _hidden(params: Params, tokens: Tokens, config: Config, product: Product) -> Hidden:
    time = tokens.shape[1]
    h = params["token_embd"][tokens]
    h = h * np.asarray(np.sqrt(config.width), h.dtype)
    local, everywhere = (rotation(time, config.head, b) for b in (config.local_base, config.global_base))
    for number in range(config.layers):
        prefix = f"blk.{number}."
        own = {name.removeprefix(prefix): a for name, a in params.items() if name.startswith(prefix)}
        reach, table = (time, everywhere) if config.is_global(number) else (config.window, local)
        h = _layer(own, h, table.astype(h.dtype), reach, config=config, hook=_Named.of(product, prefix))
    return rms_norm(h, params["output_norm"], config.epsilon)


_hidden_at_once = jax.jit(_hidden, static_argnums=(2, 3))


def logits(params: Params, hidden: Hidden, *, product: Product = linear) -> Float[Array, "... vocabulary"]:
    """The last product. Who wants its weights other than the embedding's gives them as ``params["output"]``."""
    return _last(head(params), hidden, product)


def head(params: Params) -> Float[Array, "vocabulary width"]:
    """Weights of the last product."""
    return params.get(OUTPUT, params["token_embd"])


@partial(jax.jit, static_argnums=2)
def _last(weights: Array, hidden: Array, product: Product) -> Array:
    return product(OUTPUT, hidden, weights)


# --- a layer --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Named:
    """The linear layers of one layer. Of ``linear`` it is the same for all, so that these share a program."""

    product: Product
    prefix: str

    @classmethod
    def of(cls, hook: Product, prefix: str) -> "_Named":
        return cls(hook, "" if hook is linear else prefix)

    def __call__(self, name: str, x: Array, w: Any) -> Array:
        return self.product(self.prefix + name, x, w)


@partial(jax.jit, static_argnames=("config", "hook"))
def _layer(p: Params, h: Hidden, table: Array, reach: Int[Array, ""] | int, *, config: Config, hook: _Named) -> Hidden:
    """One layer, local or global by the tokens that it reaches and its table of rotations."""
    found = _attention(p, rms_norm(h, p["attn_norm"], config.epsilon), table, reach, config=config, hook=hook)
    h = h + rms_norm(found, p["post_attention_norm"], config.epsilon)
    x = rms_norm(h, p["ffn_norm"], config.epsilon)
    gate = jax.nn.gelu(hook("ffn_gate", x, p["ffn_gate"]), approximate=True)
    found = hook("ffn_down", gate * hook("ffn_up", x, p["ffn_up"]), p["ffn_down"])
    return h + rms_norm(found, p["post_ffw_norm"], config.epsilon)


def _attention(
    p: Params, x: Hidden, table: Array, reach: Int[Array, ""] | int, *, config: Config, hook: _Named
) -> Hidden:
    """Grouped attention, its output product included; a group of query heads shares one head of keys and values."""
    batch, time, _ = x.shape
    heads = (batch, time, -1, config.head)
    q, k, v = (hook(name, x, p[name]).reshape(heads) for name in ("attn_q", "attn_k", "attn_v"))
    q = turned(rms_norm(q, p["attn_q_norm"], config.epsilon), table) * config.query_scale
    k = turned(rms_norm(k, p["attn_k_norm"], config.epsilon), table)
    grouped = q.reshape(batch, time, config.kv_heads, -1, config.head)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, k, precision=lax.Precision.HIGHEST)
    back = jnp.arange(time)[:, None] - jnp.arange(time)[None]
    seen = (back >= 0) & (back < reach)
    weights = jax.nn.softmax(jnp.where(seen[None, None, None], scores, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bkgts,bskd->btkgd", weights, v, precision=lax.Precision.HIGHEST)
    return hook("attn_output", mixed.reshape(batch, time, -1), p["attn_output"])
