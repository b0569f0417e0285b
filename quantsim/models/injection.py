"""Outliers injected into the language model without a change of what it computes, exact in real arithmetic.

Between two linear maps flows something that can be scaled by c where it is written and by 1/c where it is read:

=============  ===============================  =================  ======================================
site           what flows                       written by         read by
=============  ===============================  =================  ======================================
attn_norm      a channel into attention         gain of attn_norm  columns of attn_q, attn_k, attn_v
ffn_norm       a channel into the feed-forward  gain of ffn_norm   columns of ffn_gate, ffn_up
query_key      a RoPE pair of the keys          rows of attn_k     rows of attn_q, of all heads in the group
value_output   a channel of the values          row of attn_v      columns of attn_output, of all heads
up_down        a hidden unit (linear in up)     row of ffn_up      column of ffn_down
=============  ===============================  =================  ======================================

Scaled by c > 1, activations have outlier channels; scaled by 1/c, the weights that read them have outlier columns (rows
of attn_q). A power of two moves no bit of the logits, short of overflow and underflow.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from quantsim.models.llama import Config, Params

Channels: TypeAlias = np.ndarray | list[int] | tuple[int, ...]
Into: TypeAlias = Literal["weights", "activations"]

#: Layer -> channels of what flows there, in the numbering of its writer.
Which: TypeAlias = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class Injection:
    """What is injected where.

    Attributes:
        site: one of ``SITES``.
        factor: c, above 0; at 1 nothing changes.
        channels: how many channels of each layer, or pairs of channels for "query_key".
        seed: of the choice of channels, which is another one in each layer.
        layers: numbers of the layers, all of them by default.
        into: "activations", what flows times c, its readers over c; or "weights", the other way round.

    Raises:
        ValueError: for another site or target, and for numbers out of range.
    """

    site: str
    factor: float
    channels: int = 1
    seed: int = 0
    layers: tuple[int, ...] | None = None
    into: Into = "weights"

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ValueError(f"no site {self.site!r}: choose one of {', '.join(SITES)}")
        if self.into not in ("weights", "activations"):
            raise ValueError(f'outliers go into "weights" or "activations", not {self.into!r}')
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"the factor of an injection is above 0 and finite, got {self.factor}")
        if self.channels < 1:
            raise ValueError(f"an injection takes at least one channel, got {self.channels}")


def inject(params: Params, config: Config, injection: Injection) -> tuple[Params, Which]:
    """Parameters of the same function with outliers in them, and the channels that have them.

    Args:
        params: of the model; they are left as they are.
        config: of the model.
        injection: what, where, and how much.

    Raises:
        ValueError: for more channels than there are, or a layer that the model has not.

    >>> from quantsim.models import llama
    >>> config = Config(width=8, layers=1, heads=2, kv_heads=1, hidden=16)
    >>> params = {name: jnp.ones(shape) for name, shape in llama.shapes(config).items()}
    >>> spoiled, which = inject(params, config, Injection("up_down", 32.0))
    >>> (channel,) = which[0]
    >>> float(spoiled["blk.0.ffn_up"][channel, 0]), float(spoiled["blk.0.ffn_down"][0, channel])
    (0.03125, 32.0)
    """
    layers = range(config.layers) if injection.layers is None else injection.layers
    if wrong := [layer for layer in layers if layer not in range(config.layers)]:
        raise ValueError(f"the model has no layer {wrong[0]}: its layers are 0 to {config.layers - 1}")
    factor = injection.factor if injection.into == "activations" else 1 / injection.factor
    which: Which = {}
    for layer in layers:
        which[layer] = _drawn(injection, config, layer)
        params = SITES[injection.site](params, config, layer, which[layer], factor=factor)
    return params, which


def _drawn(injection: Injection, config: Config, layer: int) -> tuple[int, ...]:
    """Channels of a layer; for pairs, both members of each."""
    of_site = {"query_key": config.kv_heads * config.head // 2, "value_output": config.kv_heads * config.head}
    there = config.hidden if injection.site == "up_down" else of_site.get(injection.site, config.width)
    if injection.channels > there:
        raise ValueError(f"{injection.site} has {there} channels or pairs, {injection.channels} were asked for")
    key = jax.random.fold_in(jax.random.key(injection.seed), layer)
    drawn = np.sort(np.argsort(np.asarray(jax.random.bits(key, (there,))), stable=True)[: injection.channels])
    if injection.site == "query_key":
        half = config.head // 2
        first = drawn // half * config.head + drawn % half
        drawn = np.sort(np.concatenate([first, first + half]))
    return tuple(drawn.tolist())


# --- the sites: what flows times the factor, its readers over it ----------------------------------------------------


def attn_norm(params: Params, config: Config, layer: int, channels: Channels, *, factor: float) -> Params:
    """Gains of attn_norm times the factor, columns of attn_q, attn_k and attn_v over it."""
    del config
    return _norm_columns(params, f"blk.{layer}.attn_", ("q", "k", "v"), channels, factor)


def ffn_norm(params: Params, config: Config, layer: int, channels: Channels, *, factor: float) -> Params:
    """Gains of ffn_norm times the factor, columns of ffn_gate and ffn_up over it."""
    del config
    return _norm_columns(params, f"blk.{layer}.ffn_", ("gate", "up"), channels, factor)


def _norm_columns(params: Params, at: str, readers: Collection[str], channels: Channels, factor: float) -> Params:
    found = params | {at + "norm": _times(params[at + "norm"], channels, 0, factor)}
    return found | {at + name: _times(params[at + name], channels, 1, 1 / factor) for name in readers}


def query_key(params: Params, config: Config, layer: int, channels: Channels, *, factor: float) -> Params:
    """Rows of attn_k times the factor, rows of attn_q that meet them over it, in every head that reads these keys.

    RoPE mixes the members i and i + d/2 of a pair, so both have to be among the channels, or the logits move.
    """
    k, q = f"blk.{layer}.attn_k", f"blk.{layer}.attn_q"
    readers = _of_queries(channels, config)
    return params | {k: _times(params[k], channels, 0, factor), q: _times(params[q], readers, 0, 1 / factor)}


def value_output(params: Params, config: Config, layer: int, channels: Channels, *, factor: float) -> Params:
    """Rows of attn_v times the factor, columns of attn_output that read them over it, of every head of the group."""
    v, out = f"blk.{layer}.attn_v", f"blk.{layer}.attn_output"
    readers = _of_queries(channels, config)
    return params | {v: _times(params[v], channels, 0, factor), out: _times(params[out], readers, 1, 1 / factor)}


def up_down(params: Params, config: Config, layer: int, channels: Channels, *, factor: float) -> Params:
    """Rows of ffn_up times the factor, columns of ffn_down over it: a hidden unit is linear in up."""
    del config
    up, down = f"blk.{layer}.ffn_up", f"blk.{layer}.ffn_down"
    return params | {up: _times(params[up], channels, 0, factor), down: _times(params[down], channels, 1, 1 / factor)}


#: Every place where outliers can be injected.
SITES: dict[str, Callable[..., Params]] = {
    "attn_norm": attn_norm,
    "ffn_norm": ffn_norm,
    "query_key": query_key,
    "value_output": value_output,
    "up_down": up_down,
}


def _of_queries(channels: Channels, config: Config) -> np.ndarray:
    """Channels of the heads of queries that share the given channels of keys or values."""
    head, inside = np.divmod(np.asarray(channels, int), config.head)
    heads = head[:, None] * config.group + np.arange(config.group)[None]
    return (heads * config.head + inside[:, None]).ravel()


def _times(w: Array, where: Channels, axis: int, factor: float) -> Array:
    by = np.ones(w.shape)
    np.moveaxis(by, axis, 0)[np.asarray(where, int)] = factor
    return w * jnp.asarray(by, w.dtype)
