"""How much do quantized weights cost a language model that was really trained, format by format?

Method. Three small models of bytes (quantsim.models, one for each seed) are quantized, all their matrices, embeddings
included, by every format, some with quantized inputs of every layer, too, and judged on held-out text beside the
unquantized model, token by token: the Kullback-Leibler divergence (KL) of the predictions, the change of the loss
(ΔNLL), how often the most likely byte is another, and after how many bytes greedy continuations part. Beside each
format stand models with normal noise of the same rms in each matrix, and in each row of each matrix.
Theory. Small errors are noise in the logits, and KL is half their variance: KL = c r², with r the relative rms error of
the weights, whatever the format; c is read off the smallest noise. A model that predicts the text as well as it can
loses its KL: ΔNLL = KL on average.
Expected. int8 with a scale per channel or block costs less than a hundredth of the loss, one scale per tensor somewhat
more; 4 bits cost percents; formats lie on the curve of noise of their size, so that nothing is absorbed.
Instead scales by row or block lie up to a half below the curve: they err less where rows are small, as those of bytes
that the text never holds. Noise of the same rms row by row does what they do.
Refuted if formats differ from noise of their rows, or int8 costs more than 1 %: the verdict on noise, and panel b.

Settles A01, A16, A59, B20 and B36 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_most, share, share_of_cases, stated
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, columns, mean, ratio
from quantsim.models import llama
from quantsim.models.llama import Params
from quantsim.rows import Rows
from quantsim.tree import Treatment

from . import _language as language
from ._language import MODELS, Subject

WEIGHTS = (
    "int8:tensor",
    "int8:channel",
    "q8_0",
    "e4m3:channel",
    "mxfp8_e4m3",
    "int6:block32",
    "mxfp6_e2m3",
    "q5_0",
    "q4_0",
    "iq4_nl",
    "nf4:block64",
    "mxfp4",
    "nvfp4",
    "int4:channel",
    "int4:tensor",
    "int3:block32",
    "int2:block32:mse",
)
WITH_INPUTS: dict[str, Treatment] = {
    "W8A8": Treatment("int8:channel", "int8:channel"),
    "W4A8": Treatment("int4:block32", "int8:channel"),
    "W4A4": Treatment("int4:block32", "int4:block32"),
}
INT8 = ("int8:tensor", "int8:channel", "q8_0")
ONE_PERCENT = 0.01
FOUR_PERCENT = 0.04  # of the perplexity, which B36 says int8 costs without outliers
UNNOTICED = 0.9  # of the continuations, which a deviation leaves as they were if nobody notices it: A59
SMALLEST = 0.003  # relative noise, at which c is read off


@dataclass(frozen=True)
class Config:
    """Models, formats, sizes of the noise, and how much text."""

    models: tuple[str, ...] = MODELS
    formats: tuple[str, ...] = (*WEIGHTS, *WITH_INPUTS)
    noise: tuple[float, ...] = (SMALLEST, 0.01, 0.03, 0.1, 0.2, 0.4)
    sequences: int = 64
    draws: int = 2  # of noise
    prompts: int = 16
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One model, few formats, little text."""
        return cls(
            models=MODELS[:1],
            formats=("int8:tensor", "int8:channel", "q8_0"),
            noise=(SMALLEST, 0.1),
            sequences=4,
            prompts=2,
        )


def measure(config: Config) -> Iterator[Cell]:
    """A cell for the loss and the curve of noise of each model, and one for each format."""
    for model in config.models:
        yield f"{model}, noise", partial(noise_curve, config, model)
        for name in config.formats:
            yield f"{model}, {name}", partial(one_format, config, model, name)


def noise_curve(config: Config, model: str) -> list[dict[str, Any]]:
    """The model's loss, and its damage under noise of each size in all matrices."""
    of = language.subject(model, config.sequences)
    rows: list[dict[str, Any]] = [{"kind": "loss", "model": model} | columns(loss=language.loss(of))]
    for size in config.noise:
        about = {"kind": "noise", "model": model, "series": "noise", "rel_rms": size}
        sizes = dict.fromkeys(language.matrices(of.params), size)
        rows.append(about | over_draws(config, of, partial(language.noisy, of.params, sizes)).columns())
    return rows


def over_draws(config: Config, of: Subject, noisy: Callable[[int], Params]) -> language.Damage:
    """Damage of parameters with noise, a function of a seed: mean over draws."""
    seeds = range(config.seed, config.seed + config.draws)
    return language.mean_of(language.damage(of, noisy(seed)) for seed in seeds)


def one_format(config: Config, model: str, name: str) -> list[dict[str, Any]]:
    """Damage of one format, beside noise of its size in every row if only weights are quantized."""
    of = language.subject(model, config.sequences)
    quantized = language.quantized(of, WITH_INPUTS.get(name, name))
    found = language.damage(of, quantized.params)
    about = {"kind": "format", "model": model, "spec": name, "bits": quantized.bits_per_weight}
    about |= {"loss": language.loss(of).value, "inputs": name in WITH_INPUTS}
    agreed = agreement(config, of, quantized.params)
    row = about | found.columns() | columns(agreement=mean(agreed), same=mean(agreed == agreed_in_all(of)))
    if name not in WITH_INPUTS:
        sizes = language.relative_errors(of.params, quantized.params)
        row["rel_rms"] = float(np.sqrt(np.mean(np.square(list(sizes.values())))))
        of_matrices = over_draws(config, of, partial(language.noisy, of.params, sizes))
        of_rows = over_draws(config, of, partial(language.noise_like, of.params, quantized.params))
        row |= columns(
            over_matrix_noise=ratio(found.kl, of_matrices.kl),
            over_row_noise=ratio(found.kl, of_rows.kl),
        )
    return [row]


# --- greedy continuations -------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("config", "length"))
def continued(params: Params, prompts: Int[Array, "prompts time"], config: llama.Config, length: int) -> Array:
    """Prompts and the most likely bytes after them, one by one, (prompts, time + length)."""
    time = prompts.shape[1]
    padded = jnp.pad(prompts, ((0, 0), (0, length)))

    def one_more(at: Array, tokens: Array) -> Array:
        logits = llama.forward(params, tokens, config)
        following = jnp.argmax(lax.dynamic_index_in_dim(logits, at - 1, 1, keepdims=False), axis=-1)
        return lax.dynamic_update_index_in_dim(tokens, following.astype(tokens.dtype), at, 1)

    return lax.fori_loop(time, time + length, one_more, padded)


@cache
def reference_continuation(of_name: str, sequences: int, prompts: int) -> Array:
    """What the unquantized model writes after the first half of a context, for as long as the other half."""
    of = language.subject(of_name, sequences)
    half = of.config.context // 2
    return continued(of.params, of.tokens[:prompts, :half], of.config, agreed_in_all(of))


def agreed_in_all(of: Subject) -> int:
    """Bytes of a continuation that stays the same to its end."""
    return of.config.context - of.config.context // 2


def agreement(config: Config, of: Subject, params: Any) -> language.PerSequence:
    """Bytes that a quantized model continues as the unquantized one does, up to the first other one, for each prompt.

    As long as both agree they see the same text, so one forward pass over the reference's text finds where they part.
    """
    whole = reference_continuation(of.name, config.sequences, config.prompts)
    half = of.config.context // 2
    chosen = jnp.argmax(language.predictions(params, whole, of.config), axis=-1)[:, half - 1 : -1]
    same = np.asarray(chosen == whole[:, half:])
    return np.where(same.all(axis=1), same.shape[1], np.argmin(same, axis=1)).astype(float)


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(MODELS)
LABELLED = ("int8:tensor", "q8_0", "int6:block32", "q5_0", "q4_0", "int3:block32", "int2:block32:mse")


def draw(rows: Rows) -> plotting.Figure:
    """KL against the size of the errors, and what each format costs."""
    fig, axes = plotting.mosaic("aabb;aabb;aacc", height=4.6)
    kl_against_size(axes["a"], rows)
    cost_by_format(axes["b"], rows.where(kind="format"))
    continuations(axes["c"], rows.where(kind="format", model=MODELS[0]))
    plotting.letter([axes[name] for name in "abc"])
    return fig


def kl_against_size(ax: plotting.Axes, rows: Rows) -> None:
    """KL of formats and of noise of every size, and the line of small errors."""
    for model, style in STYLES.items():
        noise = rows.where(kind="noise", model=model)
        if not noise:
            continue
        of_formats = Rows(r for r in rows.where(kind="format", model=model) if not r["inputs"])
        ax.plot(noise.column("rel_rms"), noise.column("kl"), color=style.color)
        plotting.points(ax, of_formats, "rel_rms", "kl", series=style)
        if model == MODELS[0]:
            r = noise.column("rel_rms")
            plotting.prediction(ax, r, noise.column("kl")[0] * (r / r[0]) ** 2, label="c r²")
            for row in of_formats:
                if row["spec"] in LABELLED:
                    plotting.note(ax, row["rel_rms"] * 1.2, row["kl"] * 0.9, row["spec"], va="top")
    ax.set(xscale="log", yscale="log", xlabel="error of the weights / weights, rms", ylabel="KL (nats per byte)")
    ax.set_xlim(2e-3, 2)
    plotting.note(ax, 0.96, 0.04, "lines: noise; markers: formats (A16)", transform=ax.transAxes, ha="right")
    ax.legend(loc="upper left", title="trainings")


def cost_by_format(ax: plotting.Axes, rows: Rows) -> None:
    """Increase of the loss, relative, beside each format."""
    names = rows.values("spec")
    for model, style in STYLES.items():
        found = rows.where(model=model)
        if found:
            cost = [r["nll"] / r["loss"] for r in found]
            se = [r["nll_se"] / r["loss"] for r in found]
            places = np.arange(len(names))[[names.index(r["spec"]) for r in found]]
            ax.errorbar(
                cost, places, xerr=1.96 * np.asarray(se), color=style.color, marker=style.marker, ls="none", ms=2.6
            )
    ax.axvline(ONE_PERCENT, color="0.3", lw=0.8, ls=":")
    plotting.note(ax, ONE_PERCENT * 0.85, 0.4, "1 % (A01, B20)", va="center", ha="right")
    ax.set_yticks(range(len(names)), names, fontsize=5.5)
    ax.set_xscale("symlog", linthresh=1e-3)
    ax.set(xlabel="increase of the loss / loss", ylim=(len(names) - 0.4, -0.6))


def continuations(ax: plotting.Axes, rows: Rows) -> None:
    """Share of greedy continuations that stay the same to the end."""
    plotting.points(ax, rows, "kl", "same", series=STYLES[MODELS[0]])
    ax.axhline(UNNOTICED, color="0.3", lw=0.8, ls=":")
    ax.set(xscale="log", ylim=(-0.05, 1.05), xlabel="KL (nats per byte)", ylabel="same continuations")
    plotting.note(ax, 0.02, 0.06, "A59: nine of ten, dotted", transform=ax.transAxes)


# --- the verdicts ---------------------------------------------------------------------------------------------------


def int8(rows: Rows) -> Rows:
    """Formats of 8-bit integers in every model, weights alone."""
    return Rows(r for r in rows.where(kind="format") if r["spec"] in INT8)


def nearly_intact(rows: Rows) -> float:
    """Share of int8 formats × trainings whose loss rises by clearly no more than 1 %."""
    return share(r["nll"] + 3 * r["nll_se"] <= ONE_PERCENT * r["loss"] for r in int8(rows))


def typical_increase(rows: Rows) -> Estimate:
    """Relative increase of the perplexity with int8 weights, a scale per channel: the largest of the trainings."""
    found = [r for r in int8(rows) if r["spec"] == "int8:channel"]
    worst = max(found, key=lambda r: r["nll"])
    return Estimate(float(np.expm1(worst["nll"])), worst["nll_se"])


def increase_with_one_scale(rows: Rows) -> Estimate:
    """Relative increase of the perplexity with int8 weights, a scale per tensor: mean of the trainings."""
    found = Rows(r for r in int8(rows) if r["spec"] == "int8:tensor")
    se = float(np.sqrt(np.sum(found.column("nll_se") ** 2)) / len(found))
    return Estimate(float(np.mean(np.expm1(found.column("nll")))), se)


def over_noise(rows: Rows) -> Estimate:
    """KL of q8_0 over that of normal noise of its size in every row: mean of the trainings."""
    found = rows.where(kind="format", spec="q8_0")
    se = float(np.sqrt(np.sum(found.column("over_row_noise_se") ** 2)) / len(found))
    return Estimate(float(found.column("over_row_noise").mean()), se)


def unnoticed(rows: Rows) -> float:
    """Share of int8 formats × trainings of which nine greedy continuations in ten stay the same to their end."""
    return share(r["same"] >= UNNOTICED for r in int8(rows))


CLAIMS = (
    Claim(
        "A01",
        statement="int8 weights for fp16 keep accuracy nearly intact in LLMs",
        definition="share of int8 formats (a scale per tensor, channel, block of 32) × three trainings of a small "
        "language model whose loss rises by clearly no more than 1 %",
        number=nearly_intact,
        rule=share_of_cases("loss on held-out text rises by at most 1 %, three standard errors included"),
        reading="rounding errors of a hundredth of the weights move predictions by 1e-4 nats, and the loss by less",
    ),
    Claim(
        "A16",
        statement='strong representational capacity "absorbs" the noise',
        definition="KL of a small language model's predictions with q8_0 weights, over that with normal noise of the "
        "same rms in each row of each matrix; mean of three trainings",
        number=over_noise,
        rule=at_most(0.5),
        reading="rounding errors do what noise of their size does, {value:.2f} times as much; nothing is absorbed, in "
        "a trained network as in random ones (`perturbations`)",
    ),
    Claim(
        "A59",
        statement="text tolerates more; one token's deviation is not noticed",
        definition="share of int8 formats × three trainings of a small language model of which nine of ten greedy "
        "continuations by half a context stay the same to the last byte",
        number=unnoticed,
        rule=share_of_cases("nine of ten continuations stay the same"),
        reading="each byte that is chosen is read again: where two candidates are nearly as likely, the rest of the "
        "text becomes another one, as good as the first",
    ),
    Claim(
        "B20",
        statement="int8 typical loss < 1 %",
        definition="relative increase of the perplexity per byte of a small language model with int8 weights, a scale "
        "per channel; the largest of three trainings",
        number=typical_increase,
        rule=at_most(ONE_PERCENT),
        reading="it is {value:.2g}",
    ),
    Claim(
        "B36",
        statement="PPL 15.2→15.8 (+4 %)→28.6 (+88 %)",
        definition="relative increase of the perplexity per byte of a small language model with int8 weights, a scale "
        "per tensor, no outliers; mean of three trainings",
        number=increase_with_one_scale,
        rule=stated(FOUR_PERCENT, 0.005),
        reading="without outliers int8 costs {value:.2g}, not 0.04; what outliers cost has no one number, it rises "
        "with their size (`injection`)",
    ),
)
