"""Where do outliers sit in a language model, and which of its layers does quantization hurt?

Method. Of every matrix of three trained models: how far its largest weight stands out (max |w| / σ), kurtosis, shares
beyond 3σ and 10σ, and the same of its inputs. Each is quantized alone ("leave one in": int8 with one scale, int4 per
channel), and the KL of the predictions says what that costs; noise of 3 % in its weights, or in its inputs, says how
sensitive it is, whatever the format. Then policies: the documents' strategy beside uniform formats; the shallow or the
deep third kept; weights or inputs quantized; attention alone, as it is and with outlier channels ×64 in its inputs; the
formula that the documents give for the feed-forward layer.
Expected. Normal-like weights: the largest of n stands out by sqrt(2 log n), under 5σ, in every type; no type errs ten
times as much as another; all that a later layer computes also errs if an earlier one does, so that shallow layers
count more, not less.
Instead the first layer (its down) and the last count most, and noise in inputs costs 2 to 4 times as much as noise of
the same relative size in weights: it is another one at each token.
Refuted if q and k stand out, or the last third errs most: panels a, b and e.

Settles A51, B48, B49, B50, B51, B53, B54, B55, B57, B58, B60, B61, B62, B63, B64, B65, B71, B72 and B78 of the ledger,
which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray
from scipy import stats

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, at_most, between, share, share_of_cases, sourced_above, stated
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, mean
from quantsim.models import llama
from quantsim.models.injection import Injection, inject
from quantsim.models.layers import linear, rope
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.tree import Treatment, documents_strategy

from . import _language as language
from ._language import MODELS, Subject

TYPES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
ALONE = ("int8:tensor", "int4:channel")
W8, A8 = Treatment("int8:channel"), Treatment(activations="int8:channel")
W8A8 = Treatment("int8:channel", "int8:channel")
NOISE = 0.03  # relative, from which sensitivities are read
LARGE = 64.0  # factor of the outlier channels that attention is tried with
TEN_TIMES = 10.0  # the average attention: what B53 calls abnormal
ONE_PERCENT = 0.01  # of the loss: A51's "safe"

#: The documents' ranking of outliers, from most to fewest; ties share a place.
STATED_RANK = {
    "attn_q": 1,
    "attn_k": 1,
    "ffn_up": 2,
    "attn_v": 3,
    "ffn_gate": 4,
    "attn_output": 5,
    "ffn_down": 5,
}
RANKED = 0.8  # rank correlation from which rankings agree
#: Ranges of max |w| / σ that they give.
STATED_SIGMAS = {
    "attn_q": (20.0, 100.0),
    "attn_k": (20.0, 100.0),
    "attn_v": (5.0, 10.0),
    "attn_output": (2.0, 5.0),
    "ffn_up": (10.0, 50.0),
    "ffn_gate": (3.0, 10.0),
    "ffn_down": (0.0, 2.0),
}
STATED_MAX_OVER_MEAN = 8.97 / 0.42  # of int8's absolute errors in q and k
LAST_THIRD, STATED_LAST_THIRD = 1 / 3, 0.68
LAST_FIFTH, STATED_LAST_FIFTH = 1 / 5, 0.47  # five layers of 25

UNIFORM = ("int8:tensor", "int8:channel", "q8_0")
STRATEGY = "documents' strategy"


@dataclass(frozen=True)
class Config:
    """Models and how much text."""

    models: tuple[str, ...] = MODELS
    layers: int = 6
    sequences: int = 32
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One model, little text."""
        return cls(MODELS[:1], sequences=2)


def measure(config: Config) -> Iterator[Cell]:
    """Cells for each model: every layer, policies, attention, and what the feed-forward layer computes."""
    for model in config.models:
        for layer in range(config.layers):
            yield f"{model}, layer {layer}", partial(one_layer, config, model, layer)
        yield f"{model}, policies", partial(policies, config, model)
        yield f"{model}, attention", partial(attention, config, model)
        yield f"{model}, feed-forward", partial(feed_forward, config, model)


# --- each matrix alone ----------------------------------------------------------------------------------------------


def one_layer(config: Config, model: str, layer: int) -> list[dict[str, Any]]:
    """Every matrix of a layer: its weights, its inputs, and what quantizing it alone costs."""
    of, rows = language.subject(model, config.sequences), []
    for kind in TYPES:
        name = f"blk.{layer}.{kind}"
        about = {"kind": "matrix", "model": model, "layer": layer, "type": kind}
        about |= spread("w", of.params[name]) | spread("x", language.calibration_inputs(model)[name])
        about |= sensitivities(config, of, name) | one_scale_errors(of.params[name])
        for spec in ALONE:
            found = language.damage(of, language.quantized(of, {name: spec}).params)
            about |= {f"{spec} {column}": value for column, value in found.columns().items()}
        rows.append(about)
    return rows


def spread(of: str, values: Array) -> dict[str, float]:
    """max |v| / σ, kurtosis E[v⁴] / E[v²]², and shares beyond 3σ and 10σ, σ the rms."""
    a = np.asarray(values, np.float64)
    units = np.abs(a) / np.sqrt(np.mean(a * a))
    return {
        f"{of}_max": float(units.max()),
        f"{of}_kurtosis": float(np.mean(units**4)),
        f"{of}_beyond_3": float(np.mean(units > 3)),
        f"{of}_beyond_10": float(np.mean(units > 10)),
    }


def sensitivities(config: Config, of: Subject, name: str) -> dict[str, float]:
    """S of weights and of inputs: KL = S r² under normal noise of relative size r."""
    size = {name: NOISE}
    of_weights = language.damage(of, language.noisy(of.params, size, config.seed)).kl
    of_inputs = language.noisy_inputs(of, size, config.seed).kl
    return {"w_sensitivity": float(of_weights.mean()) / NOISE**2, "x_sensitivity": float(of_inputs.mean()) / NOISE**2}


def one_scale_errors(w: Array) -> dict[str, float]:
    """Largest and mean absolute error of int8 with one scale, in σ."""
    a = np.asarray(w, np.float64)
    e = np.abs(np.asarray(quantizer("int8:tensor").roundtrip(w), np.float64) - a)
    std = np.sqrt(np.mean(a * a))
    return {"max_abs": float(e.max() / std), "mean_abs": float(e.mean() / std)}


# --- policies -------------------------------------------------------------------------------------------------------


def policies(config: Config, model: str) -> list[dict[str, Any]]:
    """Uniform formats, the documents' strategy, a third of the layers kept, weights against inputs."""
    of = language.subject(model, config.sequences)
    third = round(LAST_THIRD * of.config.layers)
    first, last = range(third), range(of.config.layers - third, of.config.layers)
    tried: dict[str, Any] = {spec: {"blk.*": spec} for spec in UNIFORM}
    tried |= {STRATEGY: documents_strategy(), "W8A16": {"blk.*": W8}, "W16A8": {"blk.*": A8}, "W8A8": {"blk.*": W8A8}}
    for spec in ALONE:
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
SHORT = dict(zip(TYPES, ("q", "k", "v", "o", "gate", "up", "down"), strict=True))


def draw(rows: Rows) -> plotting.Figure:
    """Maps of type × depth, sensitivities, stated and measured extremes, shares by depth, policies."""
    fig, axes = plotting.figure(2, 3, height=5.0)
    matrices = rows.where(kind="matrix")
    depth_map(axes[0, 0], matrices, "w_max", "max |w| / σ, mean of trainings")
    depth_map(axes[0, 1], matrices, "int8:tensor kl", "log10 KL, int8 alone", log=True)
    extremes(axes[0, 2], matrices)
    weights_and_inputs(axes[1, 0], matrices)
    by_depth(axes[1, 1], matrices)
    by_policy(axes[1, 2], rows.where(kind="policy"))
    plotting.letter(axes.ravel())
    return fig


def depth_map(ax: plotting.Axes, rows: Rows, column: str, label: str, *, log: bool = False) -> None:
    """A column by type and depth, mean over the trainings."""
    cells = []
    for (layer, kind), group in rows.groups("layer", "type").items():
        value = float(group.column(column).mean())
        value = float(np.log10(value)) if log else value
        cells.append({"type": SHORT[kind], "layer": layer, "value": value, "text": f"{value:.1f}"})
    grid, texts = (Rows(cells).grid(x="type", y="layer", value=name) for name in ("value", "text"))
    low, high = grid.values.min(), grid.values.max()
    plotting.heat_map(ax, grid, texts=texts, white_above=low + 0.7 * (high - low))
    ax.tick_params(axis="x", labelsize=6.5)
    ax.set(xlabel=label, ylabel="layer")


def extremes(ax: plotting.Axes, rows: Rows) -> None:
    """The largest weight of each type in σ, beside the range that is stated."""
    for place, kind in enumerate(TYPES):
        low, high = STATED_SIGMAS[kind]
        ax.fill_between([place - 0.35, place + 0.35], max(low, 1.0), high, color="0.85", lw=0)
        for model, style in STYLES.items():
            found = rows.where(type=kind, model=model)
            if found:
                places = np.full(len(found), place)
                ax.plot(places, found.column("w_max"), ls="none", marker=".", color=style.color, ms=3)
    ax.set_xticks(range(len(TYPES)), [SHORT[kind] for kind in TYPES])
    ax.set(yscale="log", ylim=(1, 120), ylabel="max |w| / σ (B48 … B55)")
    plotting.note(ax, 0.97, 0.95, "grey: stated", transform=ax.transAxes, ha="right", va="top")


def weights_and_inputs(ax: plotting.Axes, rows: Rows) -> None:
    """Sensitivity to noise in the inputs against that to noise in the weights."""
    for style, kind in zip(plotting.styles(TYPES).values(), TYPES, strict=True):
        found = rows.where(type=kind)
        look = {"ls": "none", "marker": style.marker, "color": style.color, "label": SHORT[kind], "ms": 3}
        ax.plot(found.column("w_sensitivity"), found.column("x_sensitivity"), **look)
    ends = np.array([2e-4, 0.7])
    plotting.prediction(ax, ends, ends)
    ax.set(xscale="log", yscale="log", xlabel="KL / r², noise in weights", ylabel="KL / r², noise in inputs")
    ax.legend(loc="lower right", ncols=2)


def by_depth(ax: plotting.Axes, rows: Rows) -> None:
    """Share of the KL of all matrices quantized alone, by layer."""
    for model, style in STYLES.items():
        found = rows.where(model=model)
        if found:
            kl = per_layer(found, "int8:tensor kl")
            ax.plot(range(len(kl)), kl / kl.sum(), color=style.color, marker=style.marker, label=model)
    ax.set(xlabel="layer", ylabel="share of the KL, int8 alone", ylim=(0, None))
    words = f"{STATED_LAST_THIRD} stated in 4 and 5 (B71)"
    plotting.note(ax, 0.5, 0.95, words, transform=ax.transAxes, ha="center", va="top")


def per_layer(rows: Rows, column: str) -> NDArray[np.float64]:
    """Sum of a column over the matrices of each layer."""
    return np.array([group.column(column).sum() for group in rows.groups("layer").values()])


def by_policy(ax: plotting.Axes, rows: Rows) -> None:
    """KL of every policy."""
    names = rows.values("policy")
    for model, style in STYLES.items():
        found = rows.where(model=model)
        if found:
            plotting.dots(ax, found, "kl", [names.index(r["policy"]) for r in found], series=style)
    ax.set(xscale="log", xlabel="KL (nats per byte)", ylim=(len(names) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), names, fontsize=5.5)


# --- the verdicts ---------------------------------------------------------------------------------------------------

RANKINGS = ("w_max", "w_kurtosis", "int8:tensor kl", "int4:channel kl")


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's."""
    found: Any = stats.spearmanr(a, b)
    return float(found.statistic)


def ranked_as_stated(rows: Rows) -> float:
    """Share of trainings × (max / σ, kurtosis, KL of int8 and of int4 alone) that rank the types as stated."""
    cases = []
    for of_model in rows.where(kind="matrix").groups("model").values():
        for column in RANKINGS:
            found = [of_model.where(type=kind).column(column).mean() for kind in TYPES]
            cases.append(rank_correlation([-STATED_RANK[kind] for kind in TYPES], found) >= RANKED)
    return share(cases)


def largest_of(*types: str) -> Callable[[Rows], Estimate]:
    """Largest weight in σ of matrices of these types: mean over matrices and trainings."""

    def number(rows: Rows) -> Estimate:
        return mean([r["w_max"] for r in rows.where(kind="matrix") if r["type"] in types])

    return number


def rises_with_depth(rows: Rows) -> float:
    """Share of trainings × (beyond 3σ, beyond 10σ) whose outliers rise with depth, rank correlation at least 0.8."""
    cases = []
    for of_model in rows.where(kind="matrix").groups("model").values():
        for column in ("w_beyond_3", "w_beyond_10"):
            found = per_layer(of_model, column)
            cases.append(np.ptp(found) > 0 and rank_correlation(range(len(found)), found) >= RANKED)
    return share(cases)


def last_fifth(rows: Rows) -> float:
    """Share of the weights beyond 10σ that the last fifth of the layers holds, all trainings; 0 if there are none."""
    found = per_layer(rows.where(kind="matrix"), "w_beyond_10")
    return part_from(found, LAST_FIFTH)


def part_from(by_layer: NDArray[np.float64], part: float) -> float:
    """Share of a sum over layers that the last part of them holds, a layer counting as far as it lies in it.

    0 where all are 0, NaN without a layer.
    """
    n = len(by_layer)
    if n == 0:
        return float("nan")
    inside = np.clip(np.arange(1, n + 1) - n * (1 - part), 0, 1)
    return float((by_layer * inside).sum() / by_layer.sum()) if by_layer.sum() else 0.0


def density_ratio(rows: Rows) -> float:
    """Share of weights beyond 3σ in q and k over that in down, all trainings."""
    found = rows.where(kind="matrix")
    q_and_k = np.mean([r["w_beyond_3"] for r in found if r["type"] in ("attn_q", "attn_k")])
    return float(q_and_k / found.where(type="ffn_down").column("w_beyond_3").mean())


def without_outliers(rows: Rows) -> float:
    """Share of matrices of o and down, said to hold none, without a weight beyond 3σ."""
    return share(r["w_beyond_3"] == 0 for r in rows.where(kind="matrix") if r["type"] in ("attn_output", "ffn_down"))


def max_over_mean(rows: Rows) -> Estimate:
    """Largest over mean absolute error of int8 with one scale in q and k."""
    found = [r for r in rows.where(kind="matrix") if r["type"] in ("attn_q", "attn_k")]
    return mean([r["max_abs"] / r["mean_abs"] for r in found])


def strategy_over_uniform(rows: Rows) -> Estimate:
    """KL of the documents' strategy over that of the best uniform int8 format of no more bits: mean of trainings."""
    ratios = []
    for found in rows.where(kind="policy").groups("model").values():
        strategy = found.where(policy=STRATEGY)
        rivals = [r["kl"] for r in found if r["policy"] in UNIFORM and r["bits"] <= strategy.one("bits")]
        ratios.append(strategy.one("kl") / min(rivals))
    return spread_over_trainings(ratios)


def spread_over_trainings(values: list[float]) -> Estimate:
    """Mean and its standard error; of one training the error is not known, and 0."""
    return mean(values) if len(values) > 1 else Estimate(values[0], 0.0)


def last_third_of_kl(rows: Rows) -> Estimate:
    """Share of the KL of matrices quantized alone that the last third of the layers holds: mean of trainings."""
    by_model = rows.where(kind="matrix").groups("model").values()
    return spread_over_trainings([part_from(per_layer(found, "int8:tensor kl"), LAST_THIRD) for found in by_model])


def last_kept_over_first_kept(rows: Rows) -> float:
    """Share of trainings × formats where keeping the last third leaves less KL than keeping the first."""
    cases = []
    for found in rows.where(kind="policy").groups("model").values():
        for spec in ALONE:
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
    return spread_over_trainings(rows.where(kind="feed-forward").column("kl").tolist())


THREE = "three trainings of a small language model"
CLAIMS = (
    Claim(
        "A51",
        statement="LLM attention is safe because its weights are static and embeddings are tame",
        definition=f"share of {THREE} × (inputs of attention as they are; one channel of them ×64) with q, k, v, o and "
        "their inputs in int8, per channel and per token, whose loss rises by clearly no more than 1 %",
        number=attention_safe,
        rule=share_of_cases("the loss rises by at most 1 %, three standard errors included"),
        reading="tame inputs are what it needs; where one channel stands out, static weights do not save it",
    ),
    Claim(
        "B48",
        statement="ranking Q/K > up > V > gate > O ≈ down",
        definition=f"share of {THREE} × (max |w| / σ, kurtosis, KL of the matrix alone in int8 per tensor, in int4 per "
        "channel) whose means rank the types as stated, Spearman's correlation at least 0.8",
        number=ranked_as_stated,
        rule=share_of_cases("the rank correlation is at least 0.8"),
        reading="no measure of outliers or of sensitivity ranks the types so",
    ),
    Claim(
        "B49",
        statement="Q/K: >20σ concentrated",
        definition=f"largest |w| / σ of attn_q and attn_k, mean over the layers of {THREE}",
        number=largest_of("attn_q", "attn_k"),
        rule=at_least(20.0),
        reading="the largest weight stands {value:.1f} σ out; normal weights of this number would reach 4",
    ),
    Claim(
        "B50",
        statement="V: 5–10σ",
        definition=f"largest |w| / σ of attn_v, mean over the layers of {THREE}",
        number=largest_of("attn_v"),
        rule=between(5.0, 10.0),
        reading="the largest weight stands {value:.1f} σ out",
    ),
    Claim(
        "B51",
        statement="O: <5σ",
        definition=f"largest |w| / σ of attn_output, mean over the layers of {THREE}",
        number=largest_of("attn_output"),
        rule=at_most(5.0),
        reading="the largest weight stands {value:.1f} σ out",
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
        "B54",
        statement="FFN-up: large outlier clusters, 10–50×",
        definition=f"largest |w| / σ of ffn_up, mean over the layers of {THREE}",
        number=largest_of("ffn_up"),
        rule=between(10.0, 50.0),
        reading="the largest weight stands {value:.1f} σ out",
    ),
    Claim(
        "B55",
        statement="gate: sparse, 3–10×",
        definition=f"largest |w| / σ of ffn_gate, mean over the layers of {THREE}",
        number=largest_of("ffn_gate"),
        rule=between(3.0, 10.0),
        reading="the largest weight stands {value:.1f} σ out, as in every type",
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
        "B60",
        statement="outlier frequency rises with depth",
        definition=f"share of {THREE} × (weights beyond 3σ, beyond 10σ) whose frequency rises with the layer, "
        "Spearman's correlation at least 0.8",
        number=rises_with_depth,
        rule=share_of_cases("the rank correlation with depth is at least 0.8"),
        reading="it does not, as far as these models go",
    ),
    Claim(
        "B61",
        statement="last 5 layers hold 47 % of extremes",
        definition=f"share of the weights beyond 10σ that the last fifth of the layers of {THREE} hold (5 of 25 "
        "layers); 0 where there are none",
        number=last_fifth,
        rule=stated(STATED_LAST_FIFTH, 0.05),
        reading="a fifth of the layers hold {value:.2f} of them",
    ),
    Claim(
        "B62",
        statement="Q/K outlier density = 30× FFN-down",
        definition=f"share of weights beyond 3σ in attn_q and attn_k over that in ffn_down, {THREE}",
        number=density_ratio,
        rule=between(15.0, 60.0),
        reading="it is {value:.2f}",
    ),
    Claim(
        "B63",
        statement="layer heat map",
        definition=f"share of attn_output and ffn_down matrices of {THREE} without a weight beyond 3σ, which the map "
        "gives nearly all of them",
        number=without_outliers,
        rule=share_of_cases("no weight lies beyond 3σ"),
        reading="of 16,000 normal weights 44 lie beyond 3σ: a map of the largest weights cannot be empty",
    ),
    Claim(
        "B64",
        statement="LLaMA-7B WikiText table: MAE .42±.15, max 8.97",
        definition=f"largest over mean absolute error of int8 with one scale in attn_q and attn_k, {THREE}",
        number=max_over_mean,
        rule=stated(STATED_MAX_OVER_MEAN, 1.0),
        reading="rounding errors end at half a step and are a quarter on average: none is 21 times the mean, whatever "
        "the model",
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
        "B71",
        statement="last third of layers gives 68 % of quantization error",
        definition=f"share of the KL of int8 matrices quantized alone that the last third of the layers give, {THREE}",
        number=last_third_of_kl,
        rule=stated(STATED_LAST_THIRD, 0.05),
        reading="it gives {value:.2f}",
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
    Claim(
        "B78",
        statement='"based on LLM.int8(), SmoothQuant"',
        definition=f"largest |w| / σ over all matrices of {THREE}",
        number=largest_of(*TYPES),
        rule=sourced_above(
            20.0,
            "both papers (arXiv:2208.07339, arXiv:2211.10438) report outliers of activations, in few channels of the "
            "inputs of all layers; neither ranks weights by type",
        ),
        reading="what they found is in the inputs; a ranking of weights by type has no source",
    ),
)
