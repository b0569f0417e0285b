"""Gemma 3's sizes and constants, and what they make of its parameters: names, shapes, checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

#: Name that the last product is called by. Its weights are "output" of the parameters or, without, "token_embd".
OUTPUT = "output"


@dataclass(frozen=True)
class Config:
    """What the arrays do not say.

    Attributes:
        width: of the residual stream.
        layers: how many.
        heads: query heads.
        kv_heads: heads of keys and values; divides ``heads``.
        head: width of a head.
        hidden: width between up and down.
        window: tokens that a local layer sees, the present one included.
        query_scale: factor of the logits of attention.
        period: every so many layers one is global, the last of them.
        local_base: base of the rotations in local layers.
        global_base: and in global ones.
        epsilon: added to mean squares.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    window: int
    query_scale: float
    period: int = 6
    local_base: float = 1e4
    global_base: float = 1e6
    epsilon: float = 1e-6

    def is_global(self, layer: int) -> bool:
        """Whether a layer, counted from 0, sees all tokens."""
        return layer % self.period == self.period - 1


# --- parameters -----------------------------------------------------------------------------------------------------


def shapes(config: Config, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, in the order of the layers."""
    found: dict[str, tuple[int, ...]] = {"token_embd": (vocabulary, config.width), "output_norm": (config.width,)}
    own = _layer_shapes(config)
    for number in range(config.layers):
        found |= {f"blk.{number}.{name}": shape for name, shape in own.items()}
    return found


def _layer_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    queries, keys = config.heads * config.head, config.kv_heads * config.head
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    return {
        "attn_q": (queries, config.width),
        "attn_k": (keys, config.width),
        "attn_v": (keys, config.width),
        "attn_output": (config.width, queries),
        "ffn_gate": (config.hidden, config.width),
        "ffn_up": (config.hidden, config.width),
        "ffn_down": (config.width, config.hidden),
        "attn_q_norm": (config.head,),
        "attn_k_norm": (config.head,),
        **dict.fromkeys(norms, (config.width,)),
    }


def random_params(config: Config, vocabulary: int, seed: int) -> dict[str, Array]:
    """Parameters of a model that knows nothing: normal, of size 1 / sqrt(in); gains around 1."""
    rng, found = np.random.default_rng(seed), {}
    for name, shape in shapes(config, vocabulary).items():
        drawn = rng.standard_normal(shape)
        w = drawn / np.sqrt(shape[-1]) if len(shape) > 1 else 1 + 0.25 * drawn
        found[name] = jnp.asarray(w, jnp.float32)
    return found


def check_params(params: Mapping[str, Any], config: Config) -> None:
    """That every parameter is there and has its shape, and no other is; "output" may be.

    Raises:
        ValueError: which names the first that is missing, or none of the model, or of another shape.
    """
    embedding = params.get("token_embd")
    wanted = shapes(config, 0 if embedding is None else len(embedding))
    if OUTPUT in params:
        wanted[OUTPUT] = wanted["token_embd"]
    missing, other = [n for n in wanted if n not in params], [n for n in params if n not in wanted]
    if missing:
        has = f"; there is {other[0]!r} instead" if other else ""
        raise ValueError(f"{len(missing)} parameters of Gemma 3 are missing, the first is {missing[0]!r}{has}")
    if other:
        raise ValueError(f"{len(other)} parameters are none of Gemma 3, the first is {other[0]!r}: leave them out")
    for name, shape in wanted.items():
        found = getattr(params[name], "shape", shape)  # what stands in the place of a matrix may have none
        if found != shape:
            raise ValueError(f"{name!r} has shape {found}, and the sizes of the model make it {shape}")


def check_tokens(tokens: Any, vocabulary: int) -> None:
    """That tokens are rows of numbers below the size of the vocabulary, as far as their values are known.

    Raises:
        ValueError: otherwise; an index that is too large would silently take the last embedding.

    >>> check_tokens(jnp.array([[0, 9]]), 9)
    Traceback (most recent call last):
    ValueError: tokens are numbers from 0 to 8, and these go from 0 to 9: encode the text with the model's vocabulary
    """
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer) or not tokens.size:
        raise ValueError(f"tokens are whole numbers (batch, time), not {tokens.dtype} {tokens.shape}")
    try:
        least, most = int(tokens.min()), int(tokens.max())
    except jax.errors.ConcretizationTypeError:  # traced
        return
    if least < 0 or most >= vocabulary:
        raise ValueError(
            f"tokens are numbers from 0 to {vocabulary - 1}, and these go from {least} to {most}: encode the text "
            "with the model's vocabulary"
        )
