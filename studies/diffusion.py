"""Does a quantized UNet draw worse images, and how much worse than a sampler of fewer steps?

Method. Three trained UNets of handwritten digits (quantsim.models, one for each seed) draw samples in 20 steps of DDIM.
Quantized, they begin with the same noise, so that each sample has its pair: median distance, PSNR, how often a
classifier sees another digit, and apart from these the Fréchet distance of the classifier's features to held-out
digits. GGUF's q8_0 means three things on a UNet: kernels as rows of in 9 (the name without more), 3x3 kernels kept in
bfloat16, or cast to f16. The yardstick is the sampler's own error: fewer steps of the unquantized network beside 200.
Theory. Noise in one matrix alone tells how much of its error arrives in the predicted noise and in samples; squares of
all matrices' errors add up, whatever the format.
Expected. q8_0 has weights off by 0.5 %, one scale per tensor by 1 to 2 %; the predicted noise errs by one to two times
as much and so do samples, 40 dB or more. Samples of 20 steps are off by 10 %: q8_0 is lost in that, and no digit of a
hundred becomes another one. 4 bits (9 to 15 %) are what 10 steps cost. The distribution hardly moves above 4 bits.
Instead DDIM is better than expected, off by 3 % in 20 steps and 1.2 % in 50, which q8_0's 1.0 to 1.5 % are no smaller
than; 4 bits cost more than 5 steps. The predicted noise errs as predicted to a quarter (q4_k once by three quarters),
samples by up to 2.6 times more or less, by luck: a third of the damage or more is made by the 288 weights of conv_out,
where draws of noise of one size differ sixfold. The Fréchet distance tells only formats that flip a quarter of the
digits, and these on the mean of the trainings only: a first rule asked each training alone and could not have found
any format. Paired samples tell all.
Refuted if q8_0 moves the median sample further than 50 steps instead of 200 do: panel b. It does, in two of three.

Settles A33 and A57 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes
from quantsim.lab.study import Cell
from quantsim.measure.ratios import CLEARLY, Estimate, columns
from quantsim.rows import Rows
from quantsim.tree import QuantizedTree, Treatment

from . import _unet as unet
from ._unet import MODELS, STANDARD, Drawn, Reading, Subject
from ._unet_sensitivity import DRAWS_OF_FEW, expected, sensitivities


class Format(NamedTuple):
    """What all matrices get, and what that means for 3x3 kernels."""

    treatment: Treatment
    reading: Reading = "rows"


FORMATS = {
    "bf16": Format(Treatment("bf16")),
    "q8_0": Format(Treatment("q8_0")),
    "q8_0, 3x3 kept": Format(Treatment("q8_0"), "kept"),
    "q8_0, 3x3 in f16": Format(Treatment("q8_0"), "f16"),
    "int8:channel": Format(Treatment("int8:channel")),
    "int8:tensor": Format(Treatment("int8:tensor")),
    "e4m3:channel": Format(Treatment("e4m3:channel")),
    "W8A8 dynamic": Format(Treatment("int8:channel", "int8:channel")),
    "W8A8 static": Format(Treatment("int8:channel", "int8:tensor", static=True)),
    "q4_k (q5_0)": Format(Treatment("q4_k")),  # 256 fit into no row, so that all are q5_0
    "int4:block32": Format(Treatment("int4:block32")),
    "q4_0": Format(Treatment("q4_0")),
    "nvfp4": Format(Treatment("nvfp4")),
    "mxfp4": Format(Treatment("mxfp4")),
    "int4:channel": Format(Treatment("int4:channel")),
}
READ = ("q8_0", "q8_0, 3x3 kept", "q8_0, 3x3 in f16")
INT8 = (*READ, "int8:channel", "int8:tensor")
PICTURED = ("bf16", "q8_0", "int8:channel", "int8:tensor", "q4_0", "int4:block32", "int4:channel")
EXACT_STEPS = 200  # of the second-order solver: what fewer are compared with
INVISIBLE = 40.0  # decibels above which differences are usually called invisible
A_LEVEL = 2 / 16  # between two of the 17 greys of the digits
ONE_PERCENT = 0.01  # of the samples


@dataclass(frozen=True)
class Config:
    """Networks, formats, steps of the unquantized sampler, sizes of noise, numbers of samples and of digits."""

    models: tuple[str, ...] = MODELS
    formats: tuple[str, ...] = tuple(FORMATS)
    steps: tuple[int, ...] = (5, 10, 20, 50, 100)
    noise: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.2)
    samples: int = 128
    digits: int = 32
    columns: int = 8  # of the pictures
    draws: int = DRAWS_OF_FEW  # of noise in a matrix of few weights; without any, nothing is predicted
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One network, few formats and samples."""
        return cls(MODELS[:1], PICTURED, steps=(STANDARD,), noise=(0.01,), samples=40, digits=4, draws=0)


def measure(config: Config) -> Iterator[Cell]:
    """Cells of each network: the sampler itself, noise, and every format; then the pictures."""
    for model in config.models:
        yield f"{model}, sampler", partial(sampler_itself, config, model)
        yield f"{model}, noise", partial(noise_curve, config, model)
        for name in config.formats:
            yield f"{model}, {name}", partial(one_format, config, model, name)
    yield "pictures", partial(pictures, config, config.models[0])


# --- what is measured -----------------------------------------------------------------------------------------------


def compared(config: Config, model: str, x_hat: Drawn, x: Drawn | None = None) -> dict[str, float]:
    """How samples moved from those of the network as it was trained, and what that adds to the Fréchet distance."""
    exact = unet.unquantized(model, config.samples, seed=config.seed) if x is None else x
    value, se = unet.frechet_added(exact, x_hat)
    return unet.moved(exact, x_hat).columns() | columns(frechet_added=Estimate(value, se))


def sampler_itself(config: Config, model: str) -> list[dict[str, Any]]:
    """What fewer steps cost without quantization, and how far from held-out digits samples lie."""
    exact = unet.unquantized(model, config.samples, EXACT_STEPS, "dpm++2m", config.seed)
    rows = []
    for steps in config.steps:
        drawn = unet.unquantized(model, config.samples, steps, seed=config.seed)
        distance, se, bias = unet.frechet(drawn)
        about = {"kind": "sampler", "model": model, "steps": steps, "frechet_bias": bias}
        about |= columns(frechet=Estimate(distance, se))
        rows.append(about | compared(config, model, drawn, exact))
    return rows


def noise_curve(config: Config, model: str) -> list[dict[str, Any]]:
    """Noise of each size in all matrices."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    for size in config.noise:
        params = unet.noisy(of.params, size, config.seed)
        about = {"kind": "noise", "model": model, "rel_rms": size}
        about |= columns(noise_error=unet.noise_error(of, params, config.digits).relative())
        rows.append(about | compared(config, model, unet.images(of, params)))
    return rows


@cache
def of_format(model: str, name: str, samples: int, seed: int) -> QuantizedTree:
    """A network in a format."""
    of, how = unet.subject(model, samples, seed), FORMATS[name]
    rules: dict[str, Any] = unet.as_read(of.config, "bf16", how.reading) | {"*": how.treatment}
    return unet.quantized(of, rules)


def one_format(config: Config, model: str, name: str) -> list[dict[str, Any]]:
    """Bits, errors of weights and of the predicted noise, and samples, beside the predictions."""
    of = unet.subject(model, config.samples, config.seed)
    quantized = of_format(model, name, config.samples, config.seed)
    about = {"kind": "format", "model": model, "format": name, "bits": quantized.bits_per_weight}
    about |= columns(noise_error=unet.noise_error(of, quantized.params, config.digits).relative())
    if config.draws and FORMATS[name].treatment.activations is None:
        about |= predicted(of, quantized, config.draws)
    return [about | compared(config, model, unet.images(of, quantized.params))]


def pictures(config: Config, model: str) -> list[dict[str, Any]]:
    """The first samples in some formats, pixels in 255 steps."""
    rows = []
    for name in PICTURED:
        of = unet.subject(model, config.samples, config.seed)
        drawn = unet.images(of, of_format(model, name, config.samples, config.seed).params)[: config.columns]
        pixels = np.clip((drawn[..., 0] + 1) * 127.5, 0, 255).round().astype(int)
        rows.append({"kind": "pictures", "model": model, "format": name, "pixels": pixels.tolist()})
    return rows


# --- predictions ----------------------------------------------------------------------------------------------------


def predicted(of: Subject, quantized: QuantizedTree, draws: int) -> dict[str, float]:
    """Errors of the predicted noise and of samples, from those of the weights."""
    relative = unet.relative_errors(of.params, quantized.params)
    found = expected(sensitivities(of.name, relative, draws_of_few=draws), relative)
    return {
        "rel_rms": unet.rms(relative.values()),
        "predicted_noise_error": found.noise,
        "predicted_distance": found.distance,
    }


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(MODELS)
GAP = 1  # pixels between pictures


def draw(rows: Rows) -> plotting.Figure:
    """Pictures, distances, distances against errors of the predicted noise, and the distribution."""
    fig, axes = plotting.mosaic("aaabbb;aaabbb;cccddd;cccddd", height=6.2)
    side_by_side(axes["a"], rows.where(kind="pictures"))
    distances(axes["b"], rows)
    against_noise_error(axes["c"], rows)
    distribution(axes["d"], rows)
    plotting.letter([axes[name] for name in "abcd"])
    return fig


def side_by_side(ax: Axes, rows: Rows) -> None:
    """A row of pictures for each format, a column for each seed."""
    names = rows.values("format")
    cells = [np.asarray(r["pixels"], float) for r in rows]
    side = cells[0].shape[1] + GAP
    whole = np.full((len(names) * side - GAP, len(cells[0]) * side - GAP), 255.0)
    for k, pictures_of in enumerate(cells):
        for j, picture in enumerate(pictures_of):
            whole[k * side : k * side + side - GAP, j * side : j * side + side - GAP] = picture
    plotting.image(ax, whole, "columns: same noise, 20 steps", cmap="gray", vmin=0, vmax=255, aspect="equal")
    ax.set_yticks([k * side + side / 2 - 1 for k in range(len(names))], names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def formats(rows: Rows) -> Rows:
    """Rows of formats that change something."""
    return Rows(r for r in rows.where(kind="format") if r["format"] != "bf16")


def distances(ax: Axes, rows: Rows) -> None:
    """Median distance of each format, predictions as bars, and what fewer steps cost."""
    found = formats(rows)
    names = found.values("format")
    for model, style in STYLES.items():
        of_model = found.where(model=model)
        plotting.dots(ax, of_model, "distance", [names.index(r["format"]) for r in of_model], series=style, ms=2.6)
    for steps in (50, 20, 10):
        if of_steps := rows.where(kind="sampler", steps=steps):
            at = of_steps.column("distance").mean()
            ax.axvline(at, color="0.4", lw=0.8, ls=":")
            plotting.note(ax, at, -0.9, f"{steps}", ha="center", color="0.3")
    invisible = np.median(found.column("distance") * 10 ** ((found.column("psnr") - INVISIBLE) / 20))
    ax.axvline(invisible, color=plotting.PURPLE, lw=0.8)
    plotting.note(ax, invisible * 0.95, len(names) - 0.6, "40 dB (A57)", ha="right", color=plotting.PURPLE)
    plotting.note(ax, 0.97, 0.6, "dotted: 50, 20, 10\nsteps, not 200", transform=ax.transAxes, ha="right", color="0.3")
    ax.set_yticks(range(len(names)), names)
    ax.set(xscale="log", ylim=(len(names) - 0.4, -1.4), xlabel="median distance / image (bars: predicted)")
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.9))


def against_noise_error(ax: Axes, rows: Rows) -> None:
    """Distance of samples against the error of one call: formats on the line of noise."""
    for model, style in STYLES.items():
        noise = rows.where(kind="noise", model=model)
        ax.plot(noise.column("noise_error"), noise.column("distance"), color=style.color, lw=0.8)
        plotting.points(ax, formats(rows).where(model=model), "noise_error", "distance", series=style)
    ax.set(
        xscale="log", yscale="log", xlabel="error of the predicted noise, one call", ylabel="median distance / image"
    )
    plotting.note(ax, 0.04, 0.93, "lines: noise in all weights", transform=ax.transAxes)


def distribution(ax: Axes, rows: Rows) -> None:
    """Fréchet distance that each format adds, in its standard errors, and flips."""
    found = formats(rows)
    names = found.values("format")
    for model, style in STYLES.items():
        of_model = found.where(model=model)
        places = [names.index(r["format"]) for r in of_model]
        in_errors = of_model.column("frechet_added") / of_model.column("frechet_added_se")
        ax.plot(in_errors, places, color=style.color, marker=style.marker, ls="none", ms=3)
    for place, name in enumerate(names):
        value, se = frechet_added(found.where(format=name))
        ax.plot([value / se], [place], marker="|", ms=9, mew=1.5, color="0.1", ls="none")
        flips = found.where(format=name).column("flips").mean()
        plotting.note(ax, 1.02, place, f"{flips:.1%}", transform=ax.get_yaxis_transform(), va="center")
    plotting.note(ax, 1.02, -1.1, "flips", transform=ax.get_yaxis_transform(), va="center")
    ax.axvspan(-CLEARLY, CLEARLY, color="0.93", lw=0)
    ax.set_yticks(range(len(names)), names)
    ax.set(
        ylim=(len(names) - 0.4, -1.6),
        xlabel="Fréchet distance added / standard error\n(bars: mean of trainings; A33: beyond 3)",
    )


# --- the verdicts ---------------------------------------------------------------------------------------------------


def significantly_worse(rows: Rows) -> float:
    """Share of q8_0's readings × trainings × (distribution, median sample, flips) in which q8_0 shows.

    In the distribution if it clearly adds to the Fréchet distance, on the mean of the trainings; in samples, and in
    flips, if they are clearly more than those of 20 steps instead of 200.
    """
    cases = []
    of_formats = rows.where(kind="format")
    for name in (name for name in READ if name in of_formats.values("format")):
        found = of_formats.where(format=name)
        cases.append(frechet_added(found).clearly_above(0.0))
        for row in found:
            steps = rows.where(kind="sampler", steps=STANDARD, model=row["model"])[0]
            for column in ("distance", "flips"):
                cases.append(Estimate(row[column], row[f"{column}_se"]).clearly_above(steps[column]))
    return share(cases)


def frechet_added(found: Rows) -> Estimate:
    """Of one format, the mean of the trainings."""
    se = np.sqrt(np.sum(found.column("frechet_added_se") ** 2)) / len(found)
    return Estimate(float(found.column("frechet_added").mean()), float(se))


def noticed(rows: Rows) -> float:
    """Share of int8 formats × trainings × (PSNR, greys, digits) by which someone could notice."""
    cases = []
    for row in rows.where(kind="format"):
        if row["format"] in INT8:
            cases += [row["psnr"] < INVISIBLE, row["largest"] >= A_LEVEL, row["flips"] > ONE_PERCENT]
    return share(cases)


CLAIMS = (
    Claim(
        "A33",
        statement="bf16→q8_0 makes UNet quality drop *significantly*",
        definition="share of (q8_0 with kernels as rows, with 3x3 kernels kept, cast to f16) × (Fréchet distance "
        "to held-out digits, mean of three trainings, clearly larger; in each training the median sample, and the "
        "share of flips, clearly further off than 20 steps are from 200)",
        number=significantly_worse,
        rule=share_of_cases("q8_0 shows by three standard errors"),
        reading="q8_0 moves images by a hundredth of what they are, as 50 steps instead of 200 do and half as far as "
        "20, and their distribution by less than can be told; int4 shows by the same rule",
    ),
    Claim(
        "A57",
        statement="human eyes notice the error",
        definition="share of (q8_0 in three readings, int8:channel, int8:tensor) × three trainings × (median PSNR "
        "below 40 dB; a pixel of the median sample changes by a grey level of the digits, 1/16 of the range; more than "
        "1 % of the samples show another digit), proxies of what eyes see",
        number=noticed,
        rule=share_of_cases("a proxy says that it could be noticed; no eye was asked"),
        reading="by proxies alone: no person has looked",
    ),
)
