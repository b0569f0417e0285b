"""What do outliers do to a language model, when they change nothing but its numbers?

Method. Between two linear layers a channel can be made c times larger where it is written and c times smaller where it
is read: the model computes the same, to rounding, but its weights or its activations have outliers of a known size in
known places (quantsim.models.injection). Three trained models get one such channel a layer: in the gains of their norms
and the columns that read them, in q and k, in v and o, in up and down; c runs from 1 to 256. Their layers are then
quantized to int8 with one scale a tensor, a scale per channel or q8_0's blocks, and judged by the KL of their
predictions; where activations have the outliers, inputs are quantized as well (W8A8, a scale per token). At c = 64
every remedy is tried.
Theory. First the sensitivity of each matrix is read off noise in its weights alone, and off noise in its inputs alone,
without an injection: KL = S r², r the relative rms error. Then r follows from c: a scale is the largest weight that
shares it over 127, the error of a weight that of normal weights of its size at that step, seen from the function's
side, where it is divided by what the weight was multiplied by. Predictions are sums of S r²; nothing in them is fitted.
Expected. One scale a tensor loses with c², until its ordinary weights all round to zero; a scale per row is safe where
the outlier is a row and not where it is a column, blocks confine it to a thirty-second.
Instead outliers ×256 under one scale cost 7 to 39 times the prediction: nearly all weights round to zero, and errors
that are the weights themselves are no small noise.
Refuted if measured KL leaves the prediction by more than a factor of 2 at a factor of 64 or less: panels a to e.

Settles B68 and B77 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, mean
from quantsim.models.injection import Injection, inject
from quantsim.models.llama import Params
from quantsim.populations import Normal
from quantsim.rows import Rows
from quantsim.tree import Treatment, policy

from . import _language as language
from ._language import MODELS, Subject

#: What is injected: the sites, and what it makes of the weights.
SITES = {
    "norms → columns": ("attn_norm", "ffn_norm"),
    "k → q, rows": ("query_key",),
    "v → o, columns": ("value_output",),
    "up → down, columns": ("up_down",),
}
NORMS = "norms → columns"
TENSOR, CHANNEL, BLOCKS = "int8:tensor", "int8:channel", "q8_0"
CUTS = (TENSOR, CHANNEL, BLOCKS)
BLOCK = 32
LAYERS = "blk.*"
W8A8 = Treatment(CHANNEL, CHANNEL)
REMEDIES = ("", "smoothquant", "awq", "llm_int8", "split_outliers", "rotation(block=128)", "gptq", "clip")
LARGE = 64.0  # the factor at which remedies are compared
ONE_PERCENT = 0.01  # of the perplexity: B77
TWICE = 2.0  # the KL without an injection: what counts as cured
SENSITIVITY_NOISE = 0.03  # relative noise from which sensitivities are read

#: The documents' best practice: SmoothQuant and a scale per channel on q, k and up, int8 with one scale elsewhere.
BEST_PRACTICE = {
    "blk.*.attn_[qk]": Treatment(CHANNEL, CHANNEL, "smoothquant"),
    "blk.*.ffn_up": Treatment(CHANNEL, CHANNEL, "smoothquant"),
    LAYERS: Treatment(TENSOR, CHANNEL),
}
#: One scale everywhere but in up.
UP_PER_CHANNEL = {"blk.*.ffn_up": CHANNEL, LAYERS: TENSOR}
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """Models, sites, factors, and how much text."""

    models: tuple[str, ...] = MODELS
    sites: tuple[str, ...] = tuple(SITES)
    factors: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0, 256.0)
    remedies: tuple[str, ...] = REMEDIES
    sequences: int = 32
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One model, few factors and remedies, little text."""
        return cls(MODELS[:1], factors=(1.0, LARGE), remedies=("", "smoothquant"), sequences=4)


def measure(config: Config) -> Iterator[Cell]:
    """Cells for each model: ladders of weights and of activations, remedies, and the documents' advice."""
    for model in config.models:
        for site in config.sites:
            yield f"{model}, {site}", partial(weight_ladder, config, model, site)
        yield f"{model}, activations", partial(activation_ladder, config, model)
        for into in ("weights", "activations"):
            yield f"{model}, remedies of {into}", partial(remedies, config, model, into)
        yield f"{model}, advice", partial(advice, config, model)


class Injected(NamedTuple):
    """An injection: where, how large, into weights or activations."""

    site: str
    factor: float
    into: str


def injected(config: Config, params: Params, of: Subject, site: str, factor: float, into: str) -> Params:
    """The same function with one outlier channel a layer at a site."""
    for one in SITES[site]:
        what = Injection(one, factor, seed=config.seed, into=into)  # pyright: ignore[reportArgumentType]
        params, _ = inject(params, of.config, what)
    return params


# --- predictions ----------------------------------------------------------------------------------------------------


class Sensitivity(NamedTuple):
    """S of a matrix: KL = S r² for relative noise r in its weights, or in its inputs."""

    weights: float
    inputs: float


@cache
def sensitivities(model: str, sequences: int, seed: int) -> dict[str, Sensitivity]:
    """S of each matrix of the layers, without an injection."""
    of, found = language.subject(model, sequences), {}
    for name in language.layers(of.params):
        size = {name: SENSITIVITY_NOISE}
        kls = language.damage(of, language.noisy(of.params, size, seed)).kl, language.noisy_inputs(of, size, seed).kl
        found[name] = Sensitivity(*(float(kl.mean()) / SENSITIVITY_NOISE**2 for kl in kls))
    return found


@cache
def noise_of_steps() -> tuple[F64, F64]:
    """log of steps in standard deviations of normal weights, and of E[e²] over E[w²] at each."""
    steps = np.logspace(-5, 5, 401)
    mse = [theory.quantization_noise(Normal(), float(step)).mse for step in steps]
    return np.log(steps), np.log(np.maximum(mse, 1e-300))


def noise_at(step: F64) -> F64:
    """E[e²] / E[w²] of normal weights at steps in their standard deviations; 0 at a step of 0, 1 at huge ones."""
    with np.errstate(divide="ignore"):
        return np.exp(np.interp(np.log(step), *noise_of_steps())) * (step > 0)


def shared_extremes(w: F64, cut: str) -> F64:
    """For each weight the largest magnitude among those that share its scale."""
    size = np.abs(w)
    if cut == TENSOR:
        return np.full_like(size, size.max())
    if cut == CHANNEL:
        return np.broadcast_to(size.max(axis=1, keepdims=True), size.shape)
    blocks = size.reshape(len(size), -1, BLOCK)
    return np.broadcast_to(blocks.max(axis=2, keepdims=True), blocks.shape).reshape(size.shape)


def lost_by_weights(config: Config, of: Subject, injection: Injected, cut: str) -> dict[str, float]:
    """r² of each matrix: the mean of E[e²] / E[w²], e seen from the function's side."""
    ones = {name: jnp.ones_like(w) for name, w in of.params.items()}
    multiplied, weights = (injected(config, params, of, *injection) for params in (ones, of.params))
    found = {}
    for name in language.layers(of.params):
        w, by = (np.asarray(a[name], np.float64) for a in (weights, multiplied))
        std = np.sqrt(np.mean((w / by) ** 2))
        found[name] = float(noise_at(shared_extremes(w, cut) / 127 / (std * np.abs(by))).mean())
    return found


def predicted_kl(config: Config, of: Subject, injection: Injected, cut: str) -> float:
    """Sum of S r² over the matrices of the layers."""
    of_matrix = sensitivities(of.name, config.sequences, config.seed)
    lost = lost_by_weights(config, of, injection, cut)
    return sum(of_matrix[name].weights * r2 for name, r2 in lost.items())


def predicted_w8a8_kl(config: Config, of: Subject, injection: Injected) -> float:
    """The same, and what the inputs lose, whose scales are those of the largest input of each token."""
    of_matrix = sensitivities(of.name, config.sequences, config.seed)
    ones = {name: jnp.ones_like(w) for name, w in of.params.items()}
    multiplied, total = injected(config, ones, of, *injection), predicted_kl(config, of, injection, CHANNEL)
    for name, x in language.calibration_inputs(of.name).items():
        if name in of_matrix:
            times = 1 / np.asarray(multiplied[name], np.float64)[0]
            total += of_matrix[name].inputs * lost_by_inputs(np.asarray(x, np.float64), times)
    return total


def lost_by_inputs(x: F64, times: F64) -> float:
    """Relative power of the errors of int8 inputs, a scale per token, whose channels are multiplied."""
    power = np.mean(x**2, axis=0)
    steps = np.abs(x * times).max(axis=1, keepdims=True) / 127
    errors = noise_at(steps / (np.sqrt(power) * times)) * power
    return float(errors.sum(axis=1).mean() / power.sum())


# --- measurements ---------------------------------------------------------------------------------------------------


def row(found: language.Damage, **about: Any) -> dict[str, Any]:
    """A row of what a policy costs."""
    return about | found.columns()


def weight_ladder(config: Config, model: str, site: str) -> list[dict[str, Any]]:
    """KL of int8 weights with outliers of every size at a site, beside the prediction."""
    of, rows = language.subject(model, config.sequences), []
    for factor in config.factors:
        about = {"kind": "weights", "model": model, "site": site, "factor": factor}
        predictions = {cut: predicted_kl(config, of, Injected(site, factor, "weights"), cut) for cut in CUTS}
        spoiled = of._replace(params=injected(config, of.params, of, site, factor, "weights"))
        same = mean(language.damage(of, spoiled.params).kl)
        for cut in CUTS:
            found = language.damage(of, language.quantized(spoiled, {LAYERS: cut}).params)
            about |= {"cut": cut, "predicted_kl": predictions[cut]} | columns(float32_kl=same)
            rows.append(row(found, **about))
    return rows


def activation_ladder(config: Config, model: str) -> list[dict[str, Any]]:
    """KL of W8A8 with outlier channels of every size in the inputs that come out of norms."""
    of, rows = language.subject(model, config.sequences), []
    for factor in config.factors:
        about = {"kind": "activations", "model": model, "site": NORMS, "factor": factor, "cut": "W8A8"}
        about["predicted_kl"] = predicted_w8a8_kl(config, of, Injected(NORMS, factor, "activations"))
        spoiled = of._replace(params=injected(config, of.params, of, NORMS, factor, "activations"))
        rows.append(row(language.damage(of, language.quantized(spoiled, {LAYERS: W8A8}).params), **about))
    return rows


class Problem(NamedTuple):
    """Where the outliers are, and what is quantized."""

    name: str
    quantizers: Treatment


PROBLEMS = {
    "weights": (Problem("weights, one scale", Treatment(TENSOR)), Problem("weights, per channel", Treatment(CHANNEL))),
    "activations": (Problem("inputs, per token", W8A8),),
}


def remedies(config: Config, model: str, into: str) -> list[dict[str, Any]]:
    """Every remedy on the norms' outliers ×64, in the layers' matrices."""
    of, rows = language.subject(model, config.sequences), []
    spoiled = of._replace(params=injected(config, of.params, of, NORMS, LARGE, into))
    inputs = language.inputs_of(spoiled)
    for problem in PROBLEMS[into]:
        clean = language.damage(of, language.quantized(of, {LAYERS: problem.quantizers}).params)
        rows.append(row(clean, kind="remedy", model=model, problem=problem.name, remedy="no outliers"))
        for remedy in config.remedies:
            given = problem.quantizers
            treatment = Treatment(given.weights, given.activations, remedy or None)
            found = language.quantized(spoiled, {LAYERS: treatment}, inputs=inputs)
            about = {"kind": "remedy", "model": model, "problem": problem.name, "remedy": remedy or "none"}
            rows.append(row(language.damage(of, found.params), **about, bits=bits_in_layers(found)))
    return rows


def bits_in_layers(found: Any) -> float:
    """Bits per weight of the matrices of layers."""
    return found.bits_of(*(name for name in found.bits if name.startswith("blk.")))


def advice(config: Config, model: str) -> list[dict[str, Any]]:
    """The documents' advice on outliers at each site: their best practice (W8A8), and up per channel (weights)."""
    of, rows = language.subject(model, config.sequences), []
    clean = {name: clean_kl(of, rules) for name, rules in ADVICE.items()}
    for site in config.sites:
        for into in ("weights", "activations"):
            spoiled = of._replace(params=injected(config, of.params, of, site, LARGE, into))
            inputs = language.inputs_of(spoiled)
            for name, rules in ADVICE.items():
                found = language.quantized(spoiled, rules, inputs=inputs)
                about = {"kind": "advice", "model": model, "site": site, "into": into, "advice": name}
                rows.append(row(language.damage(of, found.params), **about, clean_kl=clean[name]))
    return rows


ADVICE: dict[str, dict[str, Any]] = {"best practice": BEST_PRACTICE, "up per channel": UP_PER_CHANNEL}


def clean_kl(of: Subject, rules: dict[str, Any]) -> float:
    """KL of a policy without an injection."""
    return float(language.damage(of, language.quantized(of, policy(rules)).params).kl.mean())


# --- the figure -----------------------------------------------------------------------------------------------------

CUT_STYLES = {
    TENSOR: Style(plotting.VERMILION, "s", "int8, one scale"),
    CHANNEL: Style(plotting.BLUE, "o", "int8, per channel"),
    BLOCKS: Style(plotting.GREEN, "^", "q8_0"),
}
W8A8_STYLE = Style(plotting.PURPLE, "D", "W8A8, per token")
PROBLEM_STYLES = {
    "weights, one scale": CUT_STYLES[TENSOR],
    "weights, per channel": CUT_STYLES[CHANNEL],
    "inputs, per token": W8A8_STYLE,
}


def draw(rows: Rows) -> plotting.Figure:
    """A ladder for each site, that of activations, and the remedies."""
    fig, axes = plotting.figure(2, 3, height=4.8)
    of_one = rows.where(model=MODELS[0])
    for ax, site in zip(axes.ravel(), SITES, strict=False):
        ladder(ax, of_one.where(kind="weights", site=site), CUT_STYLES)
        plotting.note(ax, 0.04, 0.95, site, transform=ax.transAxes, va="top")
    ladder(axes[1, 1], of_one.where(kind="activations"), {"W8A8": W8A8_STYLE})
    plotting.note(axes[1, 1], 0.04, 0.95, "norms → activations", transform=axes[1, 1].transAxes, va="top")
    axes[1, 1].legend(loc="lower right")
    axes[0, 1].legend(loc="upper left", bbox_to_anchor=(0.0, 0.92), title="dashed: predicted")
    by_remedy(axes[1, 2], of_one.where(kind="remedy"))
    plotting.letter(axes.ravel())
    return fig


def ladder(ax: plotting.Axes, rows: Rows, styles: dict[str, Style]) -> None:
    """KL against the factor."""
    plotting.family(ax, rows, "factor", "kl", by="cut", styles=styles)
    ax.set_xscale("log", base=4)
    ax.set(yscale="log", ylim=(1e-5, 10), xlabel="factor c of one channel a layer", ylabel="KL (nats per byte)")


def by_remedy(ax: plotting.Axes, rows: Rows) -> None:
    """KL of every remedy at a factor of 64."""
    names = ["no outliers", *(remedy or "none" for remedy in REMEDIES)]
    for problem, style in PROBLEM_STYLES.items():
        found = Rows(r for r in rows.where(problem=problem) if r["remedy"] in names)
        plotting.dots(ax, found, "kl", [names.index(r["remedy"]) for r in found], series=style)
    ax.set(xscale="log", xlabel="KL (nats per byte), c = 64", ylim=(len(names) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), names)


# --- the verdicts ---------------------------------------------------------------------------------------------------


def best_practice_is_enough(rows: Rows) -> float:
    """Share of trainings × sites × (weights, activations) where the perplexity rises by clearly less than 1 %."""
    found = rows.where(kind="advice", advice="best practice")
    return share(np.expm1(r["nll"] + 3 * r["nll_se"]) < ONE_PERCENT for r in found)


def up_per_channel_cures(rows: Rows) -> float:
    """Share of trainings × (norms, up) × (weights, activations) whose KL is at most twice that without outliers."""
    found = rows.where(kind="advice", advice="up per channel")
    cases = [r for site in (NORMS, "up → down, columns") for r in found.where(site=site)]
    return share(r["kl"] <= TWICE * r["clean_kl"] for r in cases)


CLAIMS = (
    Claim(
        "B68",
        statement="up: per-channel",
        definition="share of three trainings × outliers ×64 (in the columns of up, gate, q, k and v; in those of down; "
        "in the activations of either) where int8 with a scale per channel in up, one scale elsewhere, keeps its KL "
        "within twice that of the model without outliers",
        number=up_per_channel_cures,
        rule=share_of_cases("the KL is at most twice that without outliers"),
        reading="outliers in columns, as norms and down have them, are in every row: no scale of a row sees them apart",
    ),
    Claim(
        "B77",
        statement="best practice: SmoothQuant + per-channel on QK & up → <1 % PPL",
        definition="share of three trainings × four sites × (weights, activations) with outliers ×64 where SmoothQuant "
        "and scales per channel on q, k and up, int8 with one scale elsewhere, all inputs in int8 per token, raise the "
        "perplexity by clearly less than 1 %",
        number=best_practice_is_enough,
        rule=share_of_cases("perplexity rises by less than 1 %, three standard errors included"),
        reading="it holds where the outliers are those that it is made for, and not where they sit in v, o or down",
    ),
)
