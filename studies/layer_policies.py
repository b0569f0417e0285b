"""Which policy should the layers of a language model get, and is their attention safe?

Method. The layers of three trained models are quantized by the documents' strategy (q and k in mixed precision, v and
up per channel, else one scale), by uniform int8 formats, with the first or the last third of the layers kept, with
inputs in int8, too. Attention is quantized alone, weights and inputs, as it is and with one channel of its inputs ×64,
which changes nothing else (quantsim.models.injection). Of each head: how much attention its most attended key gets. The
documents' formula for the feed-forward layer is computed in the place of the network's. Judged is the KL of the
predictions on held-out text.
Expected. Finer scales everywhere are worth more than mixed precision for some; shallow layers are worth keeping, as all
later ones read what they write; int8 inputs cost more than int8 weights; attention is safe while its inputs are tame.
Instead keeping the last third is worth more, in every training, at 8 bits and at 4.
Refuted if the strategy leaves the least KL of int8, or an outlier channel in its inputs costs attention nothing: panels
a and b.

Settles A51, B53, B57, B58, B65 and B72 of the ledger, which numbers the statements of two documents
(``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, at_most, share, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate
from quantsim.models import llama
from quantsim.models.injection import Injection, inject
from quantsim.models.layers import linear, rope
from quantsim.rows import Rows
from quantsim.tree import Treatment, documents_strategy

from . import _language as language
from ._language import MODELS, Subject
from ._matrices import LAST_THIRD

UNIFORM = ("int8:tensor", "int8:channel", "q8_0")
STRATEGY = "documents' strategy"
KEEPING = ("int8:tensor", "int4:channel")  # of the layers that are not kept
A8, W8A8 = Treatment(activations="int8:channel"), Treatment("int8:channel", "int8:channel")
LARGE = 64.0  # factor of the outlier channels that attention is tried with
TEN_TIMES = 10.0  # the average attention: what B53 calls abnormal
ONE_PERCENT = 0.01  # of the loss: A51's "safe"


@dataclass(frozen=True)
class Config:
    """Models and how much text."""

    models: tuple[str, ...] = MODELS
    sequences: int = 32
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One model, little text."""
        return cls(MODELS[:1], sequences=2)


def measure(config: Config) -> Iterator[Cell]:
    """Cells for each model: policies, attention, and what the feed-forward layer computes."""
    for model in config.models:
        yield f"{model}, policies", partial(policies, config, model)
        yield f"{model}, attention", partial(attention, config, model)
        yield f"{model}, feed-forward", partial(feed_forward, config, model)


# --- policies -------------------------------------------------------------------------------------------------------


def policies(config: Config, model: str) -> list[dict[str, Any]]:
    """Uniform formats, the documents' strategy, a third of the layers kept, weights against inputs."""
    of = language.subject(model, config.sequences)
    third = round(LAST_THIRD * of.config.layers)
    first, last = range(third), range(of.config.layers - third, of.config.layers)
    tried: dict[str, Any] = {spec: {"blk.*": spec} for spec in UNIFORM}
    tried |= {STRATEGY: documents_strategy(), "W16A8": {"blk.*": A8}, "W8A8": {"blk.*": W8A8}}
    for spec in KEEPING:
        tried[f"{spec}, last third kept"] = keeping(last, spec)
        tried[f"{spec}, first third kept"] = keeping(first, spec)
    rows = []
    for name, rules in tried.items():
        found = language.quantized(of, rules)
        bits = found.bits_of(*language.layers(of.params))
        about = {"kind": "policy", "model": model, "policy": name, "bits": bits}
        rows.append(about | language.damage(of, found.params).columns())
    return rows


def keeping(layers: range, spec: str) -> dict[str, Any]:
    """Everything in layers quantized, but in these."""
    return {f"blk.{layer}.*": None for layer in layers} | {"blk.*": spec}


def attention(config: Config, model: str) -> list[dict[str, Any]]:
    """W8A8 in attention alone, as it is and with outlier channels in its inputs; how much one key attracts."""
    of, rows = language.subject(model, config.sequences), []
    for factor in (1.0, LARGE):
        params, _ = inject(of.params, of.config, Injection("attn_norm", factor, seed=config.seed, into="activations"))
        spoiled = of._replace(params=params)
        found = language.damage(of, language.quantized(spoiled, {"blk.*.attn_*": W8A8}).params)
        about = {"kind": "attention", "model": model, "factor": factor, "loss": language.loss(of).value}
        rows.append(about | found.columns())
    for layer, heads in enumerate(most_attended(of)):
        for head, value in enumerate(heads):
            rows.append({"kind": "head", "model": model, "layer": layer, "head": head, "most_attended": float(value)})
    return rows


def most_attended(of: Subject) -> NDArray[np.float64]:
    """Of each head, (layers, heads): the attention that the most attended key of a sequence gets, over the average.

    A key's attention is its mean over the queries that can see it times the keys that they see, so that even attention
    is 1 everywhere; the largest of a sequence, mean over sequences. Only keys that half of the queries see count.
    """
    found = []
    for layer in range(of.config.layers):
        p = np.asarray(attention_maps(of.params, of.tokens, of.config, layer), np.float64)
        time = p.shape[-1]
        seen = np.arange(1, time + 1)[:, None] * np.tril(np.ones((time, time)))
        relative = (p * seen).sum(axis=-2) / np.arange(time, 0, -1)
        found.append(relative[..., : time // 2].max(axis=-1).mean(axis=0))
    return np.array(found)


@partial(jax.jit, static_argnames=("config", "layer"))
def attention_maps(params: llama.Params, tokens: Array, config: llama.Config, layer: int) -> Array:
    """Attention of a layer, (batch, heads, queries, keys)."""
    seen: dict[str, Array] = {}

    def observing(name: str, x: Array, w: Array) -> Array:
        seen[name] = linear(name, x, w)
        return seen[name]

    llama.forward(params, tokens, config, product=observing)
    batch, time = tokens.shape
    q, k = (seen[f"blk.{layer}.{name}"].reshape(batch, time, -1, config.head) for name in ("attn_q", "attn_k"))
    q, k = rope(q, config.rope_base), jnp.repeat(rope(k, config.rope_base), config.group, axis=2)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(config.head)
    past = jnp.broadcast_to(jnp.tril(jnp.ones((time, time), bool)), scores.shape)
    return jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=-1)


def feed_forward(config: Config, model: str) -> list[dict[str, Any]]:
    """The documents' formula, down (act(up) ⊗ gate), instead of down (act(gate) ⊗ up); and whether up is linear."""
    of = language.subject(model, config.sequences)
    swapped = dict(of.params)
    for layer in range(of.config.layers):
        gate, up = (f"blk.{layer}.{name}" for name in ("ffn_gate", "ffn_up"))
        swapped |= {gate: of.params[up], up: of.params[gate]}
    x = language.calibration_inputs(model)["blk.0.ffn_up"]
    w, shifted = of.params["blk.0.ffn_up"], x[::-1]
    parts = linear("", x, w) + linear("", shifted, w)
    departure = language.relative_error(parts, linear("", x + shifted, w))
    about = {"kind": "feed-forward", "model": model, "departure": departure}
    return [about | language.damage(of, swapped).columns()]


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(MODELS)


def draw(rows: Rows) -> plotting.Figure:
    """KL of every policy; what attention loses; how much its most attended keys get."""
    fig, axes = plotting.mosaic("aabc", height=2.8)
    by_policy(axes["a"], rows.where(kind="policy"))
    attention_alone(axes["b"], rows.where(kind="attention"))
    most_attended_keys(axes["c"], rows.where(kind="head"))
    plotting.letter([axes[name] for name in "abc"])
    return fig


def by_policy(ax: plotting.Axes, rows: Rows) -> None:
    """KL of every policy."""
    names = rows.values("policy")
    for model, style in STYLES.items():
        found = rows.where(model=model)
        if found:
            plotting.dots(ax, found, "kl", [names.index(r["policy"]) for r in found], series=style)
    ax.set(xscale="log", xlabel="KL (nats per byte)", ylim=(len(names) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), names, fontsize=5.5)
    ax.legend(loc="upper right")


def attention_alone(ax: plotting.Axes, rows: Rows) -> None:
    """Increase of the loss with attention in W8A8, without and with an outlier channel."""
    for place, (model, style) in enumerate(STYLES.items()):
        found = rows.where(model=model)
        if found:
            increase = np.array([r["nll"] / r["loss"] for r in found])
            se = np.array([r["nll_se"] / r["loss"] for r in found])
            plotting.curve(
                ax, np.arange(len(found)) + 0.1 * (place - 1), increase, se=se, series=style, linestyle="none"
            )
    ax.axhline(ONE_PERCENT, color="0.3", lw=0.8, ls=":")
    plotting.note(ax, -0.4, ONE_PERCENT * 1.05, "A51: safe below", va="bottom")
    ax.set(xlim=(-0.5, 1.5), ylabel="increase of the loss / loss, attention in W8A8")
    ax.set_xticks([0, 1], ["as it is", "one input\n×64"])


def most_attended_keys(ax: plotting.Axes, rows: Rows) -> None:
    """Attention that the most attended key of each head gets, over the average."""
    for model, style in STYLES.items():
        found = rows.where(model=model)
        if found:
            look = {"ls": "none", "marker": style.marker, "color": style.color, "ms": 3}
            ax.plot(found.column("layer"), found.column("most_attended"), **look)
    ax.axhline(TEN_TIMES, color="0.3", lw=0.8, ls=":")
    plotting.note(ax, 0.0, TEN_TIMES * 1.05, "B53: abnormal above", va="bottom")
    ax.set(yscale="log", ylim=(1, 20), xlabel="layer", ylabel="most attended key / average")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def strategy_over_uniform(rows: Rows) -> Estimate:
    """KL of the documents' strategy over that of the best uniform int8 format of no more bits: mean of trainings."""
    ratios = []
    for found in rows.where(kind="policy").groups("model").values():
        strategy = found.where(policy=STRATEGY)
        rivals = [r["kl"] for r in found if r["policy"] in UNIFORM and r["bits"] <= strategy.one("bits")]
        ratios.append(strategy.one("kl") / min(rivals))
    return language.over_trainings(ratios)


def last_kept_over_first_kept(rows: Rows) -> float:
    """Share of trainings × formats where keeping the last third leaves less KL than keeping the first."""
    cases = []
    for found in rows.where(kind="policy").groups("model").values():
        for spec in KEEPING:
            last, first = (found.where(policy=f"{spec}, {which} third kept").one("kl") for which in ("last", "first"))
            cases.append(last < first)
    return share(cases)


def attention_safe(rows: Rows) -> float:
    """Share of trainings × (inputs as they are, outliers ×64) with W8A8 in attention that lose at most 1 %."""
    return share(r["nll"] + 3 * r["nll_se"] <= ONE_PERCENT * r["loss"] for r in rows.where(kind="attention"))


def heads_with_a_key(rows: Rows) -> float:
    """Share of heads in which a key gets ten times the average attention."""
    return share(r["most_attended"] >= TEN_TIMES for r in rows.where(kind="head"))


def departure_from_linear(rows: Rows) -> float:
    """How far up (x + y) departs from up x + up y, relative, the largest of the trainings."""
    return float(rows.where(kind="feed-forward").column("departure").max())


def formula_kl(rows: Rows) -> Estimate:
    """KL of the documents' feed-forward formula from what the network computes: mean of trainings."""
    return language.over_trainings(rows.where(kind="feed-forward").column("kl").tolist())


THREE = "three trainings of a small language model"
CLAIMS = (
    Claim(
        "A51",
        statement="LLM attention is safe because its weights are static and embeddings are tame",
        definition=f"share of {THREE} × (inputs of attention as they are; one channel of them ×64) with q, k, v, o and "
        "their inputs in int8, per channel and per token, whose loss rises by clearly no more than 1 %",
        number=attention_safe,
        rule=share_of_cases("the loss rises by at most 1 %, three standard errors included"),
        reading="with tame inputs int8 attention costs nothing measurable; one channel ×64 moves predictions some 240 "
        "times as far, and the loss by 0.3 to 0.7 %, which is not clearly below 1 % in every training",
    ),
    Claim(
        "B53",
        statement="because few key tokens get abnormally large attention scores",
        definition=f"share of the heads of {THREE} in which the most attended key of a sequence gets ten times the "
        "average attention, over the queries that see it",
        number=heads_with_a_key,
        rule=share_of_cases("a key gets ten times the average attention"),
        reading="{value:.2f} of the heads have such a key, and q and k have no larger outliers than other types",
    ),
    Claim(
        "B57",
        statement="because up does non-linear expansion",
        definition=f"relative departure of up (x + y) from up x + up y on inputs of {THREE}, the largest",
        number=departure_from_linear,
        rule=at_least(0.01),
        reading="up is a matrix: what is not linear is the activation of gate",
    ),
    Claim(
        "B58",
        statement="FFN(x) = down(act(up)⊗gate)",
        definition=f"KL of the predictions of {THREE} when their feed-forward layers compute that, mean, in nats",
        number=formula_kl,
        rule=at_most(1e-6),
        reading="the activation belongs to gate; with the two exchanged the network is another one",
    ),
    Claim(
        "B65",
        statement="strategy code: q,k → mixed; up,v → per-channel; *else standard*",
        definition="KL of the strategy over that of the best uniform int8 format (per tensor, per channel, blocks of "
        f"32) of no more bits, mean of {THREE}",
        number=strategy_over_uniform,
        rule=at_most(1.0),
        reading="its bits are better spent on finer scales everywhere: {value:.1f} times the KL",
    ),
    Claim(
        "B72",
        statement="progressive: shallow int8, deep FP16",
        definition=f"share of {THREE} × (int8 per tensor, int4 per channel) where keeping the last third of the layers "
        "leaves less KL than keeping the first third, at the same bits",
        number=last_kept_over_first_kept,
        rule=share_of_cases("keeping the last third leaves less KL"),
        reading="of the two ends the last third is worth more, though the first layer alone costs as much",
    ),
)
