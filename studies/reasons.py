"""Do the seven reasons of the document explain why int8 weights cost a language model next to nothing?

Method. Three trained models of width 128, the matrices of their layers in int8 with a scale for each channel; the KL of
the predictions on held-out text. Then each reason is taken away by itself, and the KL measured again:

- concentration: noise with the error that uniform weights of the same rms would have, instead of bell-shaped ones;
- limited range: one hidden unit a layer 32 times as far out, the function unchanged (``quantsim.models.injection``);
- over-parameterization: the model of width 32, a sixteenth of the weights;
- LayerNorm: the norms divide by what they divided by before the weights were quantized, so that they correct nothing;
- asymmetric codes, calibration, channels: symmetric ones beside a zero point a channel, the largest weight beside a
  searched range, one scale a tensor beside one a channel.

Theory. KL = S r², r the relative error of the weights. A reason that acts on weights alone takes r with it: KL grows by
the square of r's factor. A norm removes what of an error points along its input, one direction of 128.
Expected. Range and width matter, channels a little; concentration costs rather than helps: uniform weights make better
use of int8. Zero point, calibration and norms do next to nothing.
Refuted if KL moves otherwise than r² says where theory speaks, or if most of the seven at least double it. For norms it
does: of an error in front of a norm not 1 / 128 points along its input but four times that, and there it is a change of
all logits alike, of their temperature, to which KL is most sensitive.

Settles A30 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from quantsim import theory, tree
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.ratios import CLEARLY, Estimate, columns, mean, ratio
from quantsim.models import injection, llama, trained
from quantsim.models.injection import Injection
from quantsim.models.layers import named_rms_norm
from quantsim.models.llama import Config as Sizes
from quantsim.models.llama import Params
from quantsim.populations import Uniform
from quantsim.quantizer import parse
from quantsim.rows import Rows

from . import _language as language
from ._language import Damage, Subject

INT8 = "int8:channel"
WIDTH, NARROW = 128, 32
OUTLIER = Injection("up_down", 32.0)
ALONG = "errors along the input of a norm"
CORE = 2.0  # what a core reason multiplies the KL by, at least, when it is taken away

#: Reason and what stands in its place.
REASONS = {
    "concentration": "uniform weights",
    "limited range": "a unit × 32 in each layer",
    "over-parameterization": "width 32",
    "LayerNorm": "norms that correct nothing",
    "asymmetric": "beside a zero point",
    "calibration": "beside a searched range",
    "per channel": "one scale a tensor",
}


@dataclass(frozen=True)
class Config:
    """Models, and how much text."""

    trainings: tuple[int, ...] = (0, 1, 2)
    sequences: int = 64
    draws: int = 4
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One model, little text."""
        return cls(trainings=(0,), sequences=4, draws=1)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each model."""
    for training in config.trainings:
        yield f"seed {training}", partial(one_model, config, training)


def one_model(config: Config, training: int) -> list[dict[str, Any]]:
    """KL with and without each reason, their ratio, and what theory says of it."""
    of = language.subject(trained.name_of(WIDTH, training), config.sequences)
    rows = []
    for reason, (kept, taken, predicted) in cases(config, of, training).items():
        row = {"reason": reason, "without": REASONS[reason], "training": training, "expected_factor": predicted}
        with_it, without = kept.columns(), taken.columns()
        row |= {"kl": with_it["kl"], "kl_se": with_it["kl_se"], "kl_without": without["kl"]}
        rows.append(row | columns(factor=ratio(taken.kl, kept.kl), loss=language.loss(of)))
    return [*rows, {"reason": ALONG, "training": training} | columns(along=along_the_input(of))]


def cases(config: Config, of: Subject, training: int) -> dict[str, tuple[Damage, Damage, float]]:
    """For each reason: what int8 does with it, and without it, and the ratio that theory expects, or NaN."""
    narrow = language.subject(trained.name_of(NARROW, training), config.sequences)
    far = with_outlier(of)
    own, spec = in_format(of, INT8), partial(in_format, of)
    tensor, zero_point, searched = (spec(s) for s in ("int8:tensor", f"{INT8}:minmax", f"{INT8}:mse"))
    uniform = uniform_errors(of.params)
    noise = [language.damage(of, language.noisy(of.params, uniform, config.seed + k)) for k in range(config.draws)]
    plain = language.damage(of, own)
    return {
        "concentration": (plain, language.mean_of(noise), squared(uniform) / lost(of.params, own)),
        "limited range": (plain, language.damage(far, in_format(far, INT8)), float("nan")),
        "over-parameterization": (plain, language.damage(narrow, in_format(narrow, INT8)), float("nan")),
        "LayerNorm": (plain, without_norms(of, own), WIDTH / (WIDTH - 1)),
        "asymmetric": (language.damage(of, zero_point), plain, lost(of.params, own) / lost(of.params, zero_point)),
        "calibration": (language.damage(of, searched), plain, lost(of.params, own) / lost(of.params, searched)),
        "per channel": (plain, language.damage(of, tensor), lost(of.params, tensor) / lost(of.params, own)),
    }


def in_format(of: Subject, spec: str) -> Params:
    """The model with the matrices of its layers in a format."""
    return language.quantized(of, {"blk.*": spec}).params


def lost(params: Params, changed: Params) -> float:
    """Mean r² of the matrices of layers."""
    return float(np.mean([language.relative_error(w, changed[n]) ** 2 for n, w in language.layers(params).items()]))


def uniform_errors(params: Params) -> dict[str, float]:
    """r of int8 for uniform weights, for each matrix of the layers."""
    of_uniform = partial(theory.weight_rel_mse, Uniform(), parse(INT8))
    return {name: float(np.sqrt(of_uniform(w.shape))) for name, w in language.layers(params).items()}


def squared(errors: dict[str, float]) -> float:
    """Mean square."""
    return language.rms(errors.values()) ** 2


def with_outlier(of: Subject) -> Subject:
    """The same function with a hidden unit far out in each layer."""
    params, _ = injection.inject(of.params, of.config, OUTLIER)
    return of._replace(params=params)


# --- norms that correct nothing -------------------------------------------------------------------------------------


def without_norms(of: Subject, changed: Params) -> Damage:
    """What quantized weights do where every norm divides by the rms that it met in the unquantized model."""
    return language.moved(of, _with_norms_of(of.params, changed, of.tokens, of.config))


@partial(jax.jit, static_argnames="config")
def _with_norms_of(params: Params, changed: Params, tokens: Array, config: Sizes) -> Array:
    met = _inputs_of_norms(params, tokens, config)

    def fixed(name: str, h: Array, gain: Array, epsilon: float) -> Array:
        scale = lax.rsqrt(jnp.mean(met[name] ** 2, axis=-1, keepdims=True) + epsilon)
        return h * scale * jnp.broadcast_to(gain, h.shape)

    return llama.forward(changed, tokens, config, product=tree.product, norm=fixed)


def along_the_input(of: Subject) -> Estimate:
    """Share of the power of int8's error in front of a norm that points along the norm's input, mean over norms."""
    clean, off = (_inputs_of_norms(params, of.tokens, of.config) for params in (of.params, in_format(of, INT8)))
    shares = []
    for name in list(clean)[1:]:  # nothing was quantized in front of the first
        h = np.asarray(clean[name], np.float64)
        error = np.asarray(off[name], np.float64) - h
        along = np.sum(error * h, axis=-1) ** 2 / np.sum(h * h, axis=-1)
        shares.append(float(along.sum() / np.sum(error**2)))
    return mean(shares)


@partial(jax.jit, static_argnames="config")
def _inputs_of_norms(params: Params, tokens: Array, config: Sizes) -> dict[str, Array]:
    inputs: dict[str, Array] = {}

    def observed(name: str, h: Array, gain: Array, epsilon: float) -> Array:
        inputs[name] = h
        return named_rms_norm(name, h, gain, epsilon)

    llama.forward(params, tokens, config, product=tree.product, norm=observed)
    return inputs


# --- what the rows say ----------------------------------------------------------------------------------------------


def doubles(row: dict[str, Any]) -> bool:
    """Whether KL is clearly at least twice as large without the reason."""
    return bool(row["factor"] - CLEARLY * row["factor_se"] >= CORE)


def core_reasons(rows: Rows) -> float:
    """Share of reasons × trainings without which the KL at least doubles."""
    return share(doubles(row) for reason in REASONS for row in rows.where(reason=reason))


def of_reason(rows: Rows, reason: str) -> Estimate:
    """The factor of a reason, mean over trainings."""
    return language.over_trainings(list(rows.where(reason=reason).column("factor")))


def summary(rows: Rows) -> str:
    """One sentence: the KL of int8, and by how much it grows without each reason."""
    factors = ", ".join(f"{reason} {of_reason(rows, reason).value:.2g}" for reason in REASONS)
    kl, along = rows.where(reason="per channel").column("kl").mean(), rows.where(reason=ALONG).column("along").mean()
    return (
        f"{INT8} costs {kl:.1e} nats of KL; without each reason by itself it is so many times that: {factors}; "
        f"of an error in front of a norm, {along:.3f} of the power points along its input (1 / width {1 / WIDTH:.3f})."
    )


# --- the figure -----------------------------------------------------------------------------------------------------

SEEDS = plotting.styles({str(k): f"seed {k}" for k in range(3)})


def draw(rows: Rows) -> plotting.Figure:
    """By how much KL grows when a reason is taken away, and what r² says of it."""
    fig, axes = plotting.figure(height=3.2)
    ax, names = axes[0, 0], list(REASONS)
    for (seed, style), shift in zip(SEEDS.items(), (-0.16, 0.0, 0.16), strict=True):
        found = Rows(row for name in names for row in rows.where(reason=name, training=int(seed)))
        if found:
            plotting.dots(ax, found, "factor", np.arange(len(names)) + shift, series=style)
    predictions(ax, rows)
    ax.axvline(1, color="0.6", lw=0.7)
    ax.axvspan(CORE, 1e3, color="0.93", lw=0)
    plotting.note(ax, 1.04 * CORE, -0.42, "at least doubled (A30)", va="top")
    largest = max(row["factor"] for name in names for row in rows.where(reason=name))
    ax.set(xscale="log", xlabel=f"KL of {INT8} without the reason / with it", ylim=(len(names) - 0.5, -0.5))
    ax.set_xlim(0.2, 2 * max(CORE, largest))
    ax.set_yticks(range(len(names)), [f"{name} ({REASONS[name]})" for name in names])
    ax.legend(loc="lower right")
    return fig


def predictions(ax: plotting.Axes, rows: Rows) -> None:
    """A dashed line at the predicted factor of each reason that has one."""
    for place, name in enumerate(REASONS):
        expected = [row["expected_factor"] for row in rows.where(reason=name)]
        if None not in expected and np.isfinite(expected).all():
            label = "predicted from r²" if place == 0 else None
            ax.plot([np.mean(expected)] * 2, [place - 0.35, place + 0.35], color="k", ls="--", lw=0.9, label=label)


CLAIMS = (
    Claim(
        "A30",
        statement="concentration+range+over-param+LN+asym+calibration+per-channel jointly explain it",
        definition="share of seven reasons × three trainings without which the KL of a small language model under "
        "int8 per channel is clearly at least twice as large, each taken away by itself",
        number=core_reasons,
        rule=share_of_cases("the KL at least doubles without the reason"),
        reading="the limited range of the weights, the width of the model and a scale for each channel do; the norms "
        "take back a third of the KL, and zero points or a searched range hardly any; concentration costs, as uniform "
        "weights would lose less",
    ),
)
