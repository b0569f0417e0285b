"""Where do outliers sit in a language model, and which of its matrices does quantization hurt?

Method. Of every matrix of three trained models: how far its largest weight stands out (max |w| / σ), kurtosis, shares
beyond 3σ and 10σ, and the same of its inputs. Each is quantized alone ("leave one in": int8 with one scale, int4 per
channel), and the KL of the predictions says what that costs; noise of 3 % in its weights, or in its inputs, says how
sensitive it is, whatever the format.
Expected. Normal-like weights: the largest of n stands out by sqrt(2 log n), under 5σ, in every type; no type errs ten
times as much as another; all that a later layer computes also errs if an earlier one does, so that shallow layers
count more, not less.
Instead the first layer (its down) and the last count most, and noise in inputs costs 2 to 4 times as much as noise of
the same relative size in weights: it is another one at each token.
Refuted if q and k stand out, or the last third errs most: panels a, c and e.
Given weights (``--weights``) are not run: of every matrix in a layer how far its weights stand out, all of them, and
the relative error of int4 per channel, of a sample of its rows. Panels b, d and e need predictions or inputs, and are
left out.

Settles B48, B49, B50, B51, B54, B55, B60, B61, B62, B63, B64, B71 and B78 of the ledger, which numbers the statements
of two documents (``quantsim claims``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array

from quantsim.checkpoints import CheckpointError
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, Rule, at_least, at_most, between, share, share_of_cases, sourced_above, stated
from quantsim.lab.given import Given
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, columns, mean, root_ratio
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows

from . import _language as language
from . import _weights as weights
from ._given_layers import figure_of_given_weights
from ._language import MODELS, Subject
from ._matrices import (
    LAST_THIRD,
    RANKED,
    SHORT,
    STATED_LAST_THIRD,
    STATED_RANK,
    STATED_SIGMAS,
    TYPES,
    depth_map,
    part_from,
    per_layer,
    rank_correlation,
    spread,
)

ALONE = ("int8:tensor", "int4:channel")
NOISE = 0.03  # relative, from which sensitivities are read

STATED_MAX_OVER_MEAN = 8.97 / 0.42  # of int8's absolute errors in q and k
LAST_FIFTH, STATED_LAST_FIFTH = 1 / 5, 0.47  # five layers of 25


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
    """A cell for each layer of each model."""
    for model in config.models:
        for layer in range(config.layers):
            yield f"{model}, layer {layer}", partial(one_layer, config, model, layer)


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


# --- given weights --------------------------------------------------------------------------------------------------

GIVEN = "int4:channel"


def measure_weights(config: Config, given: Given) -> Iterator[Cell]:
    """A cell for each layer of a checkpoint."""
    del config
    layers: dict[int, list[weights.Tensor]] = {}
    for tensor in weights.tensors(given):
        if tensor.role.layer is not None:
            layers.setdefault(tensor.role.layer, []).append(tensor)
    if not layers:
        raise CheckpointError(f"{given.path}: no matrix has a layer in its name; other studies take any matrix")
    for layer in [*layers][: given.tensors]:
        yield f"layer {layer}", partial(weights.rows_of, layers[layer], partial(one_matrix, given))


def one_matrix(given: Given, tensor: weights.Tensor) -> list[dict[str, Any]]:
    """How far weights stand out, and their relative error where each row has a scale."""
    w, q = weights.measurable(given, tensor), quantizer(GIVEN)
    row = {"kind": "matrix", "spec": GIVEN, "of": tensor.entry.size, "weights": w.size} | weights.spread(given, tensor)
    found = weights.squares_of_rows(w, q.roundtrip(w))
    return [row | columns(rel_rms=root_ratio(found.error, found.signal))]


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(MODELS)


def draw(rows: Rows) -> plotting.Figure:
    """Maps of type × depth, stated and measured extremes, sensitivities, shares by depth; of given weights, two."""
    if not rows.values("model"):
        return figure_of_given_weights(rows.where(kind="matrix"), GIVEN)
    fig, axes = plotting.mosaic("aabbcc;dddeee", height=5.0)
    depth_map(axes["a"], rows, "w_max", "max |w| / σ, mean of trainings")
    depth_map(axes["b"], rows, "int8:tensor kl", "log10 KL, int8 alone", log=True)
    extremes(axes["c"], rows)
    weights_and_inputs(axes["d"], rows)
    by_depth(axes["e"], rows)
    plotting.letter([axes[name] for name in "abcde"])
    return fig


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


# --- the verdicts ---------------------------------------------------------------------------------------------------

RANKINGS = ("w_max", "w_kurtosis", "int8:tensor kl", "int4:channel kl")


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


def last_third_of_kl(rows: Rows) -> Estimate:
    """Share of the KL of matrices quantized alone that the last third of the layers holds: mean of trainings."""
    by_model = rows.where(kind="matrix").groups("model").values()
    return language.over_trainings([part_from(per_layer(found, "int8:tensor kl"), LAST_THIRD) for found in by_model])


THREE = "three trainings of a small language model"


def stands_out(of: str, types: tuple[str, ...], statement: str, rule: Rule) -> Claim:
    """The claim that the largest weights of these types stand out as stated."""
    return Claim(
        of,
        statement=statement,
        definition=f"largest |w| / σ of {' and '.join(types)}, mean over the layers of {THREE}",
        number=largest_of(*types),
        rule=rule,
        reading="the largest weight stands {value:.1f} σ out; of as many normal weights it would 4",
    )


CLAIMS = (
    Claim(
        "B48",
        statement="ranking Q/K > up > V > gate > O ≈ down",
        definition=f"share of {THREE} × (max |w| / σ, kurtosis, KL of the matrix alone in int8 per tensor, in int4 per "
        "channel) whose means rank the types as stated, Spearman's correlation at least 0.8",
        number=ranked_as_stated,
        rule=share_of_cases("the rank correlation is at least 0.8"),
        reading="no measure of outliers or of sensitivity ranks the types so",
    ),
    stands_out("B49", ("attn_q", "attn_k"), "Q/K: >20σ concentrated", at_least(20.0)),
    stands_out("B50", ("attn_v",), "V: 5–10σ", between(5.0, 10.0)),
    stands_out("B51", ("attn_output",), "O: <5σ", at_most(5.0)),
    stands_out("B54", ("ffn_up",), "FFN-up: large outlier clusters, 10–50×", between(10.0, 50.0)),
    stands_out("B55", ("ffn_gate",), "gate: sparse, 3–10×", between(3.0, 10.0)),
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
        "B71",
        statement="last third of layers gives 68 % of quantization error",
        definition=f"share of the KL of int8 matrices quantized alone that the last third of the layers give, {THREE}",
        number=last_third_of_kl,
        rule=stated(STATED_LAST_THIRD, 0.05),
        reading="it gives {value:.2f}",
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
