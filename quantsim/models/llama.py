"""A LLaMA-like language model over bytes: pure functions of a flat dictionary of arrays, named as GGUF names them.

``h = embed(tokens)``; each layer adds ``attention(norm(h))``, then ``ffn(norm(h))``; ``logits = output norm(h)``. The
embedding and the output are two matrices: what is done to one of them is then not done to the other. A weight matrix is
(out, in), ``y = x wᵀ``.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from quantsim._types import PRNGKey, Shape
from quantsim.models.layers import Heads, Norm, Product, linear, named_rms_norm, rope

#: Arrays by their names in a GGUF file, without ".weight".
Params: TypeAlias = dict[str, Array]
Tokens: TypeAlias = Int[Array, "batch time"]
Hidden: TypeAlias = Float[Array, "batch time width"]
Logits: TypeAlias = Float[Array, "batch time vocabulary"]
Keys: TypeAlias = Float[Array, "batch time kv_heads head"]

#: The matrices of a layer; the input of the first three is the same, that of gate and up too.
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_STD = 0.02


@dataclass(frozen=True)
class Config:
    """Sizes of a model.

    Attributes:
        vocabulary: number of tokens; 256 for bytes.
        width: of the residual stream.
        layers: number of layers.
        heads: of queries; they share the width.
        kv_heads: of keys and values; each serves heads / kv_heads queries.
        hidden: inner width of the feed-forward layers.
        context: tokens of a training sequence.
        rope_base: base of the wavelengths of RoPE.
        epsilon: of RMSNorm.
    """

    vocabulary: int = 256
    width: int = 128
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 384
    context: int = 128
    rope_base: float = 10_000.0
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        if wrong := [f"{name} {value}" for name, value in sizes.items() if value < 1]:
            raise ValueError(f"the sizes of a model are at least 1, got {', '.join(wrong)}")
        if self.width % self.heads or self.head % 2:
            raise ValueError(f"a width of {self.width} does not make {self.heads} heads of an even width")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} heads of keys and values evenly")

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def group(self) -> int:
        """Heads of queries that share one of keys and values."""
        return self.heads // self.kv_heads


# --- parameters -----------------------------------------------------------------------------------------------------


def shapes(config: Config) -> dict[str, Shape]:
    """Name and shape of every array, in the order of a checkpoint.

    >>> shapes(Config(layers=1))["blk.0.ffn_down"], len(shapes(Config(layers=1)))
    ((128, 384), 12)
    """
    width, hidden, kv = config.width, config.hidden, config.kv_heads * config.head
    of_layer = {
        "attn_norm": (width,),
        "attn_q": (width, width),
        "attn_k": (kv, width),
        "attn_v": (kv, width),
        "attn_output": (width, width),
        "ffn_norm": (width,),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    found: dict[str, Shape] = {"token_embd": (config.vocabulary, width)}
    for layer in range(config.layers):
        found |= {f"blk.{layer}.{name}": shape for name, shape in of_layer.items()}
    return found | {"output_norm": (width,), "output": (config.vocabulary, width)}


def init(key: PRNGKey, config: Config) -> Params:
    """Normal weights of deviation 0.02, over sqrt(2 layers) where they write into the residual stream, and unit gains.

    Source: Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3.
    """
    wanted = shapes(config)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(wanted)))
    # one program for all: a draw of another length has the same elements
    draws = jax.vmap(partial(jax.random.normal, shape=(max(map(math.prod, wanted.values())),)))(keys)
    params = {}
    for (name, shape), drawn in zip(wanted.items(), draws, strict=True):
        std = _STD / math.sqrt(2 * config.layers) if name.endswith(("attn_output", "ffn_down")) else _STD
        matrix = len(shape) > 1
        params[name] = std * drawn[: math.prod(shape)].reshape(shape) if matrix else jnp.ones(shape, drawn.dtype)
    return params


def check(params: Params, config: Config) -> None:
    """That these are the parameters of such a model.

    Raises:
        ValueError: for missing or unknown names, other shapes, and a NaN or infinity.
    """
    wanted = shapes(config)
    if missing := [name for name in wanted if name not in params]:
        raise ValueError(f"parameters lack {_some(missing)}: a model of {config.layers} layers has them")
    if unknown := [name for name in params if name not in wanted]:
        raise ValueError(f"parameters hold {_some(unknown)}, which a model of {config.layers} layers has not")
    for name, shape in wanted.items():
        if params[name].shape != shape:
            raise ValueError(f"{name} has shape {params[name].shape}, the config asks for {shape}")
        if not np.isfinite(np.asarray(params[name], np.float64)).all():
            raise ValueError(f"{name} holds a NaN or an infinity: train or read it again")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# --- forward pass ---------------------------------------------------------------------------------------------------


def forward(
    params: Params, tokens: Tokens, config: Config, *, product: Product = linear, norm: Norm = named_rms_norm
) -> Logits:
    """Logits of the next token after each token, in the type of the parameters.

    Args:
        params: arrays of ``shapes(config)``.
        tokens: whole numbers below the vocabulary, (batch, time); any time, also beyond the context.
        config: sizes.
        product: of every linear layer, called with its name, for example "blk.0.attn_q", its inputs and its weights.
        norm: in front of the layers, called with its name, for example "blk.0.attn_norm", its inputs and its gains.

    >>> config = Config(width=8, layers=1, heads=2, kv_heads=1, hidden=16)
    >>> params = jax.eval_shape(partial(init, config=config), jax.random.key(0))
    >>> jax.eval_shape(partial(forward, config=config), params, jnp.zeros((2, 5), jnp.int32)).shape
    (2, 5, 256)
    """

    def normed(name: str, h: Hidden) -> Hidden:
        return norm(name, h, params[name], config.epsilon)

    h = params["token_embd"][tokens]
    for layer in range(config.layers):
        at = f"blk.{layer}."
        h = h + _attention(params, at, normed(at + "attn_norm", h), config, product)
        h = h + _feed_forward(params, at, normed(at + "ffn_norm", h), product)
    return product("output", normed("output_norm", h), params["output"])


def _attention(params: Params, at: str, x: Hidden, config: Config, product: Product) -> Hidden:
    batch, time, _ = x.shape

    def heads(name: str, number: int) -> Heads:
        return product(at + name, x, params[at + name]).reshape(batch, time, number, config.head)

    q = rope(heads("attn_q", config.heads), config.rope_base)
    k = rope(heads("attn_k", config.kv_heads), config.rope_base)
    mixed = attend(q, k, heads("attn_v", config.kv_heads))
    return product(at + "attn_output", mixed.reshape(batch, time, -1), params[at + "attn_output"])


def attend(q: Heads, k: Keys, v: Keys) -> Heads:
    """Causal softmax(q kᵀ / sqrt(head)) v; head h of the queries reads head h // (heads / kv_heads) of keys and values.

    Source: Ainslie et al., arXiv:2305.13245.
    """
    batch, time, number, head = q.shape
    q = q.reshape(batch, time, k.shape[2], -1, head)
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k, precision=lax.Precision.HIGHEST) / np.sqrt(head).astype(q.dtype)
    past = jnp.tril(jnp.ones((time, time), bool))[None, None, None]
    p = jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bkgts,bskd->btkgd", p, v, precision=lax.Precision.HIGHEST)
    return mixed.reshape(batch, time, number, head)


def _feed_forward(params: Params, at: str, x: Hidden, product: Product) -> Hidden:
    """SwiGLU, ``down (silu(gate x) * up x)``.

    Source: Shazeer, arXiv:2002.05202.
    """
    gate, up = (product(at + name, x, params[at + name]) for name in ("ffn_gate", "ffn_up"))
    return product(at + "ffn_down", jax.nn.silu(gate) * up, params[at + "ffn_down"])
