"""Is a diffusion UNet more sensitive to quantized weights than a language model, in the same units?

Method. Three trainings each of a language model of bytes and of a UNet of digits. Normal noise of 1 % and 10 % in the
weights of all matrices, or of a part; a scale per channel or per block of 32 at 8 to 2 bits, and q8_0. Three units: the
error of the outputs over that of the weights, of one call (logits less their mean, which no softmax sees; predicted
noise); nats per symbol, the divergence of what is generated (KL per byte; per pixel over all noise levels,
`_denoising`); the increase of the held-out loss over the loss. Of every layer: how far weights and inputs stand out,
how much the range of its inputs moves between inputs (sequences; digits) and between steps (positions; times), and what
int8 inputs cost with one static scale and with a scale for each call.
Theory. Damage is S r²: S from noise of 1 % (of the loss, of 10 %), r the error of the weights. A UNet of output error
g r loses 1/2 14.4 g² r² E ε̂² nats per pixel, and g² r² E ε̂² / L of a loss L; with g = 1 that is S = 5.6 and 5.7.
Expected. g near 1 in both. The UNet then loses ten times the 0.55 r² nats per symbol of the language model, and fifteen
times its share of the loss: its loss is small and quadratic, and every noise level adds its nats. Both are nothing at
8 bits. Weights stand out in neither; inputs in both, and their range moves over times no more than over positions.
Instead the nats are thirty times as many. g is 0.6 in the language model; in the UNet it rises with the signal. Noise
in the 288 weights of the first convolution moves its view of x by r ‖x‖, and ε̂ = (x - α x₀) / σ divides that by σ: its
g = g₀ sqrt(1 + (α² / σ²) E x₀²), g₀ that of pure noise. So most of the nats are lost where images are all but clean:
until the noise is half a grey level it is seven times as many. q8_0 keeps that convolution in f16 (9 weights are no
block), and costs less than predicted. Outliers are in inputs of the language model first (down; one layer in six, of
the UNet one in sixteen): a static scale costs it 4.4 times what scales of each call do, the UNet 1.6 times, though the
range of a layer's inputs moves more over times than over positions (by 1.7 against 1.4 in the median).
Refuted if the ratio in nats is less than 3: panel c.
Published. Diffusion models keep their quality with 8-bit weights, and need their inputs calibrated over time
(Q-Diffusion, arXiv:2302.04304; PTQ4DM, arXiv:2211.15736).

Settles A47 and A60 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_most, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate
from quantsim.rows import Rows

from . import _inputs
from . import _language as language
from . import _unet as unets
from . import _units as units
from ._matrices import spread
from ._units import ALL, FIRST, GGUF, LANGUAGE, LARGE, OTHERS, SMALLEST, UNET, UNITS, Extent

PARTS = ("layers", FIRST)  # that noise is put in alone
BEYOND = "beyond_10"  # share of the values beyond 10σ: outliers
FAR_MORE, RARELY = 3.0, 0.1


@dataclass(frozen=True)
class Config:
    """Models, formats, noise and its draws; how much text, and how many digits; inputs of every which layer."""

    models: tuple[str, ...] = language.MODELS + unets.MODELS
    bits: tuple[int, ...] = (8, 6, 5, 4, 3, 2)
    granularities: tuple[str, ...] = ("channel", "block32")
    gguf: tuple[str, ...] = (GGUF,)
    noise: tuple[float, ...] = (SMALLEST, LARGE)
    draws: int = 3
    extent: Extent = Extent(sequences=24, digits=48, levels=12, samples=32, seed=0)
    inputs: int = 12  # and as many steps
    every: int = 1

    @classmethod
    def small(cls) -> "Config":
        """One model each, few formats and layers."""
        models, extent = (language.MODELS[0], unets.MODELS[0]), Extent(2, 4, 2, 4, 0)
        return cls(models, (8,), ("channel",), (), draws=1, extent=extent, inputs=2, every=16)

    @property
    def specs(self) -> list[str]:
        """Formats, from most bits to fewest."""
        return [*self.gguf, *(f"int{b}:{granularity}" for b in self.bits for granularity in self.granularities)]


def measure(config: Config) -> Iterator[Cell]:
    """For each model a cell of its damage and one of its layers; for each UNet one of its noise levels."""
    for model in config.models:
        yield f"{model}, damage", partial(damage, config, model)
        yield f"{model}, layers", partial(layers, config, model)
        if network_of(model) == UNET:
            yield f"{model}, levels", partial(levels, config, model)


def network_of(model: str) -> str:
    """Which of the two a model is."""
    return UNET if model in unets.MODELS else LANGUAGE


# --- damage ---------------------------------------------------------------------------------------------------------


def damage(config: Config, model: str) -> list[dict[str, Any]]:
    """A row for every draw of the noise, in all matrices and in parts, and for every format."""
    network = network_of(model)
    params, judged = units.params_of(network, model), units.judge_of(network, model, config.extent)
    about, rows = {"network": network, "model": model}, []
    for part, size in [(ALL, size) for size in config.noise] + [(part, SMALLEST) for part in PARTS]:
        for draw in range(config.draws):
            row = about | {"kind": "noise", "part": part, "size": size, "draw": draw}
            rows.append(row | judged(units.noisy(params, part, size, config.extent.seed + draw)))
    whole = Rows(rows).where(part=ALL)
    for spec in config.specs:
        changed, bits = units.quantized(network, model, spec)
        error = language.rms(unets.relative_errors(params, changed).values())
        row = about | {"kind": "format", "spec": spec, "bits": bits, "weight_error": error}
        for name, unit in UNITS.items():
            row[f"predicted_{name}"] = units.sensitivity(whole.where(size=unit.size), name).value * error**unit.power
        rows.append(row | judged(changed) | units.images(network, model, config.extent, changed))
    return rows


def levels(config: Config, model: str) -> list[dict[str, Any]]:
    """A row for each noise level of a UNet, with noise in all weights or in those of the first convolution."""
    return [
        {"kind": "level", "model": model, "part": part} | row
        for part in (ALL, FIRST)
        for row in units.gains(model, config.extent, part, config.draws)
    ]


# --- layers ---------------------------------------------------------------------------------------------------------


def layers(config: Config, model: str) -> list[dict[str, Any]]:
    """A row for each linear layer and convolution: its weights and its inputs."""
    network = network_of(model)
    sites = _inputs.of_language if network == LANGUAGE else _inputs.of_unet
    seen, calibration = (sites(model, config.inputs, held_out=held_out) for held_out in (True, False))
    params, about = units.params_of(network, model), {"network": network, "model": model, "kind": "layer"}
    return [
        about | {"site": name} | spread("w", params[name]) | _inputs.described(seen[name], calibration[name])
        for name in list(seen)[:: config.every]
    ]


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    LANGUAGE: Style(plotting.BLUE, "o", "language model"),
    UNET: Style(plotting.VERMILION, "s", "UNet"),
}


def draw(rows: Rows) -> plotting.Figure:
    """Damage against bits, the ratio of sensitivities, the gain at each noise level; weights and inputs of layers."""
    fig, axes = plotting.mosaic("abc;def", height=4.8)
    formats, found = rows.where(kind="format"), rows.where(kind="layer")
    against_bits(axes["a"], formats, "nats", "KL (nats per symbol)")
    against_bits(axes["b"], formats, "increase", "increase of the loss / loss")
    axes["a"].legend(loc="lower left")
    ratios(axes["c"], rows)
    by_level(axes["d"], rows.where(kind="level"))
    by_layer(axes["e"], found, ("w_max", "x_max"), ("weights", "inputs"))
    axes["e"].axhline(10, color="0.3", lw=0.8, ls=":")
    plotting.note(axes["e"], -0.5, 200, "A47: above dots, outliers", va="center")
    axes["e"].set(ylim=(1, 300), ylabel="largest / σ, each layer")
    by_layer(axes["f"], found, ("over_inputs", "over_steps"), ("sequences,\ndigits", "positions,\ntimes"))
    axes["f"].set(ylim=(0.9, 40), ylabel="largest range of inputs / smallest")
    plotting.letter([axes[name] for name in "abcdef"])
    return fig


def against_bits(ax: plotting.Axes, rows: Rows, column: str, label: str) -> None:
    """A column of every model and format, over what S predicts of the errors of its weights; what is clearly there."""
    for network, style in STYLES.items():
        for k, found in enumerate(rows.where(network=network).groups("model").values()):
            clear = Rows(r for r in found if Estimate(r[column], r[f"{column}_se"]).clearly_above(0.0))
            plotting.points(ax, clear, "bits", column, series=style, label=style.label if k == 0 else "_more")
            for granularity in ("channel", "block32"):
                line = Rows(r for r in found if r["spec"].endswith(granularity))
                plotting.prediction(ax, line.column("bits"), line.column(f"predicted_{column}"), series=style)
    ax.set(yscale="log", xlabel="bits per weight", ylabel=label)


def ratios(ax: plotting.Axes, rows: Rows) -> None:
    """How many times as sensitive the UNet is, in each unit; open markers are not counted."""
    for place, unit in enumerate(UNITS | OTHERS):
        value, se = units.times_as_sensitive(rows, unit)
        fill = "full" if unit in UNITS else "none"
        plotting.curve(ax, [value], [place], series=Style("0.1", "D"), linestyle="none", fillstyle=fill)
        ax.plot([value - 1.96 * se, value + 1.96 * se], [place, place], color="0.1", lw=0.8)
    for value, text in ((1.0, "alike"), (FAR_MORE, "A60: far more")):
        ax.axvline(value, color="0.3", lw=0.8, ls=":")
        plotting.note(ax, value * 1.06, -0.75, text, va="center")
    names = [unit.label for unit in (UNITS | OTHERS).values()]
    ax.set_yticks(range(len(names)), names, fontsize=6.5)
    ax.set(xscale="log", xlim=(0.7, 100), ylim=(len(names) - 0.5, -1.1), xlabel="UNet / language model")


def by_level(ax: plotting.Axes, rows: Rows) -> None:
    """Gain of noise in all weights and in those of the first convolution, over what this should be."""
    names = {ALL: Style(plotting.VERMILION, "s", "all weights"), FIRST: Style(plotting.PURPLE, "^", "first layer")}
    for part, style in names.items():
        for k, found in enumerate(rows.where(part=part).groups("model").values()):
            label = style.label if k == 0 else "_more"
            plotting.curve(
                ax, found.column("t"), found.column("gain"), series=style, label=label, linestyle="none", ms=2.6
            )
            if part == FIRST:
                predicted = found.column("gain")[0] * found.column("amplified") / found.column("amplified")[0]
                plotting.prediction(ax, found.column("t"), predicted, series=style)
    ax.legend(loc="upper right")
    ax.set(xscale="log", yscale="log", xlabel="time (1 pure noise)", ylabel="output error / weight error")


def by_layer(ax: plotting.Axes, rows: Rows, columns: tuple[str, str], labels: tuple[str, str]) -> None:
    """Two columns of every layer, in rising order, the networks side by side."""
    for place, column in enumerate(columns):
        for shift, (network, style) in zip((-0.2, 0.2), STYLES.items(), strict=True):
            values = np.sort(rows.where(network=network).column(column))
            at = place + shift + np.linspace(-0.15, 0.15, len(values))
            ax.plot(at, values, ls="none", marker=style.marker, color=style.color, ms=1.8, mew=0)
    ax.set(yscale="log", xlim=(-0.6, 1.6))
    ax.set_xticks([0, 1], labels)


# --- the verdicts ---------------------------------------------------------------------------------------------------


def far_more(rows: Rows) -> float:
    """Share of the units in which the UNet is clearly at least three times as sensitive."""
    return share(units.times_as_sensitive(rows, unit).clearly_above(FAR_MORE) for unit in UNITS)


def with_outliers(rows: Rows) -> float:
    """Share of the language models' weight matrices with a weight beyond 10σ."""
    found = rows.where(kind="layer", network=LANGUAGE)
    return float(np.mean(found.column(f"w_{BEYOND}") > 0))


CLAIMS = (
    Claim(
        "A47",
        statement='"LLM weights rarely have this problem"',
        definition="share of the weight matrices of three trainings of a small language model that hold an outlier for "
        "int8 to clip or distort, a weight beyond 10σ",
        number=with_outliers,
        rule=at_most(RARELY),
        reading="one in 129 does, but of the UNets' weights 2 in 141: what holds outliers are inputs, in the language "
        "models (one layer in six) more often than in the UNets (one in sixteen)",
    ),
    Claim(
        "A60",
        statement="UNets are far more sensitive than LLMs to int8",
        definition="share of three units of damage (error of the outputs over that of the weights; nats per symbol of "
        "what is generated; increase of the loss over the loss) in which noise in the weights of three small UNets "
        "does at least three times what the same noise does in three small language models",
        number=far_more,
        rule=share_of_cases("the ratio is at least 3 by more than three standard errors"),
        reading="for the same noise the UNets' outputs err 2.4 times as much, they lose 32 times the nats per symbol "
        "(7 times while the noise is above half a grey level) and 13 times the share of their small loss; yet q8_0 "
        "costs neither what one would notice: 0.00003 nats per byte of 1.5, 0.0005 per pixel of 1.6; images move "
        "1.4 %, none to another digit",
    ),
)
