"""What do the skips of a UNet carry, and what does quantizing them lose?

Method. In three trained UNets of digits the skip of each level (8x8, 4x4 and 2x2 pixels) is taken away, or replaced by
its mean over images; or all are quantized, in int8, int4 and fp8, beside weights that are quantized alone. Errors of
the predicted noise in one call, and of samples of 20 steps, are told by radial frequency: low is less than 0.2, high
more than 0.35 cycles a pixel. Features that a skip has joined are quantized with one scale for both, or one for each.
Theory. Features of 4x4 pixels hold no frequency above a quarter of a cycle a pixel; what is finer can reach the output
by the first skip alone.
Expected. Without the first skip the predicted noise loses all of its high frequencies and half of the low ones; without
the others it loses low ones only, and little. int8 skips cost a tenth of what int8 weights do, as their errors are
fresh from image to image and step to step; int4 skips as much as int8 weights do. One scale for shallow and deep
features errs by at most a half more than a scale for each, as norms keep their ranges alike.
Instead all is lost without the first skip, coarse and fine, and errors exceed the noise itself; a first rule, that high
frequencies err twice as much as low ones, so counted nothing and was replaced by what is lost. int8 skips cost a third
of int8 weights, int4 ones three times as much as these. Whatever is quantized, samples err two to four times as much
at high frequencies, where digits have little power, though the predicted noise does not.
Refuted if a skip of lower resolution carries more of the high frequencies than of the low ones: panel b.

Settles A39 and A41 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, root_ratio
from quantsim.outputs.spectra import frequencies, power_spectrum, ring_means
from quantsim.rows import Rows

from . import _unet as unet
from . import _unet_skips as skips
from ._unet import MODELS, STANDARD, Drawn, Subject
from ._unet_skips import AVERAGED, EACH, FUSIONS, GONE, QUANTIZERS, TOGETHER, Acts

LEVELS = (0, 1, 2)
EDGES = (0.0, 0.2, 0.35, 0.8)  # cycles a pixel
RINGS = ("low", "middle", "high")
WEIGHTS = ("int8:tensor", "q8_0", "e4m3:channel", "int4:block32")
TWICE, HALF = 2.0, 0.5


@dataclass(frozen=True)
class Config:
    """Networks, levels, quantizers of skips and of weights, fusions, numbers of samples, digits and pictures."""

    models: tuple[str, ...] = MODELS
    levels: tuple[int, ...] = LEVELS
    of_skips: tuple[str, ...] = QUANTIZERS
    of_weights: tuple[str, ...] = WEIGHTS
    fusions: tuple[str, ...] = tuple(FUSIONS)
    samples: int = 64
    digits: int = 32
    columns: int = 6  # of the pictures
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One network, few quantizers, samples and digits."""
        few = {
            "of_skips": QUANTIZERS[:1],
            "of_weights": WEIGHTS[:1],
            "fusions": ("int8, one scale", "int8, a scale each"),
        }
        return cls(MODELS[:1], samples=8, digits=4, **few)


def measure(config: Config) -> Iterator[Cell]:
    """Cells of each network: skips taken away, quantized, and joined."""
    for model in config.models:
        yield f"{model}, without skips", partial(without_skips, config, model)
        yield f"{model}, quantized", partial(quantized, config, model)
        yield f"{model}, joined", partial(joined, config, model)


# --- what is measured -----------------------------------------------------------------------------------------------


def by_ring(error: Drawn, signal: Drawn, prefix: str = "") -> dict[str, float]:
    """Relative error of fields (..., size, size, 1) at low, middle and high frequencies, one field a unit."""
    powers = [ring_means(power_spectrum(a[..., 0]), EDGES) for a in (error, signal)]
    of, over = (p.reshape(-1, len(RINGS)) for p in powers)
    return columns(**{f"{prefix}{ring}": root_ratio(of[:, k], over[:, k]) for k, ring in enumerate(RINGS)})


def lost_by_ring(found: Drawn, signal: Drawn) -> dict[str, float]:
    """Share of a signal's power at low, middle and high frequencies that no multiple of what was found gives back.

    1 - |sum a b*|² / (sum |a|² sum |b|²), one less the squared coherence, over the fields and frequencies of a ring.
    """
    a, b = (np.fft.fft2(x[..., 0]).reshape(-1, *x.shape[-3:-1]) for x in (found, signal))
    radius, lost = frequencies(*a.shape[1:]), {}
    for ring, (low, high) in zip(RINGS, pairwise(EDGES), strict=True):
        x, y = (of[:, (radius >= low) & (radius < high)] for of in (a, b))
        common = np.abs(np.vdot(x, y)) ** 2 / (np.linalg.norm(x) * np.linalg.norm(y)) ** 2
        lost[f"lost_{ring}"] = float(1 - common)
    return lost


def samples_differ(config: Config, model: str, drawn: Drawn) -> dict[str, float]:
    """How samples differ from those of the network as it is, by frequency too."""
    exact = unet.unquantized(model, config.samples, seed=config.seed)
    return unet.moved(exact, drawn).columns() | by_ring(drawn - exact, exact)


def noise_differs(config: Config, of: Subject, asked: Acts) -> dict[str, float]:
    """How the predicted noise differs from that of the network as it is, by frequency."""
    expected, found = as_it_is(of.name, config.digits), skips.predicted_noise(of, config.digits, asked)
    return by_ring(found - expected, expected, "noise_") | lost_by_ring(found, expected)


@cache
def as_it_is(model: str, digits: int) -> Drawn:
    """Noise that the network sees, by the program that can change its skips: rounding is the same."""
    of = unet.subject(model, 1)
    return skips.predicted_noise(of, digits, skips.acts(of.config, {}))


def acted(config: Config, of: Subject, at: dict[int, str]) -> tuple[Drawn, dict[str, float]]:
    """Samples of a network whose skips are changed, and how they and the predicted noise differ."""
    asked = skips.acts(of.config, at)
    drawn = skips.images(of, STANDARD, asked)
    return drawn, samples_differ(config, of.name, drawn) | noise_differs(config, of, asked)


def without_skips(config: Config, model: str) -> list[dict[str, Any]]:
    """Each level's skip taken away or averaged, and pictures of the first network's samples."""
    of = unet.subject(model, config.samples, config.seed)
    rows = [pictured(config, model, unet.unquantized(model, config.samples, seed=config.seed), "with all skips")]
    for level in config.levels:
        for action in (GONE, AVERAGED):
            drawn, found = acted(config, of, {level: action})
            rows.append({"kind": "without", "model": model, "level": level, "action": action} | found)
            if action == GONE:
                rows.append(pictured(config, model, drawn, f"without {8 >> level}x{8 >> level}"))
    return rows


def pictured(config: Config, model: str, drawn: Drawn, name: str) -> dict[str, Any]:
    """The first samples, pixels in 255 steps."""
    pixels = np.clip((drawn[: config.columns, ..., 0] + 1) * 127.5, 0, 255).round().astype(int)
    return {"kind": "pictures", "model": model, "name": name, "pixels": pixels.tolist()}


def quantized(config: Config, model: str) -> list[dict[str, Any]]:
    """All skips quantized, or all weights."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    for spec in config.of_skips:
        _, found = acted(config, of, dict.fromkeys(LEVELS, spec))
        rows.append({"kind": "quantized", "model": model, "what": "skips", "spec": spec} | found)
    for spec in config.of_weights:
        params = unet.quantized(of, spec).params
        found = samples_differ(config, model, unet.images(of, params))
        found |= noise_differs(config, of._replace(params=params), skips.acts(of.config, {}))
        rows.append({"kind": "quantized", "model": model, "what": "weights", "spec": spec} | found)
    return rows


def joined(config: Config, model: str) -> list[dict[str, Any]]:
    """Features that a skip has joined, quantized together or each."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    for name in config.fusions:
        bits, how = name.split(", ")
        found = samples_differ(config, model, skips.images(of, STANDARD, skips.fusion(name)))
        rows.append({"kind": "joined", "model": model, "bits": bits, "how": how} | found)
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

RING_STYLES = {
    "low": Style(plotting.BLUE, "o", "low"),
    "middle": Style(plotting.ORANGE, "s", "middle"),
    "high": Style(plotting.VERMILION, "^", "high"),
}
GAP = 1  # pixels between pictures


def draw(rows: Rows) -> plotting.Figure:
    """Pictures without skips, what is lost by frequency, quantized skips beside weights, and joined features."""
    fig, axes = plotting.mosaic("aabbb;cccdd", height=5.0)
    side_by_side(axes["a"], rows.where(kind="pictures", model=rows[0]["model"]))
    lost(axes["b"], rows.where(kind="without"))
    skips_and_weights(axes["c"], rows.where(kind="quantized"))
    fusions(axes["d"], rows.where(kind="joined"))
    plotting.letter([axes[name] for name in "abcd"])
    return fig


def side_by_side(ax: Axes, rows: Rows) -> None:
    """A row of pictures for each network, a column for each seed."""
    pictures = [np.pad(np.asarray(r["pixels"], float), ((0, 0), (0, GAP), (0, GAP)), constant_values=255) for r in rows]
    whole = np.concatenate([np.concatenate(list(row), axis=1) for row in pictures])
    plotting.image(ax, whole, "columns: same noise", cmap="gray", vmin=0, vmax=255, aspect="equal")
    side = pictures[0].shape[1]
    ax.set_yticks([(k + 0.5) * side - 1 for k in range(len(rows))], rows.values("name"))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def rings(ax: Axes, groups: dict[tuple[Any, ...], Rows], prefix: str = "") -> None:
    """A place for each group of rows, and in it the error at every frequency, of each training."""
    for place, found in enumerate(groups.values()):
        for offset, (ring, style) in zip((-0.2, 0.0, 0.2), RING_STYLES.items(), strict=True):
            values = found.column(f"{prefix}{ring}")
            label = style.label if place == 0 else None
            y = np.full(len(values), place + offset)
            ax.plot(values, y, color=style.color, marker=style.marker, ms=3, ls="none", label=label)


def lost(ax: Axes, rows: Rows) -> None:
    """Share of the predicted noise's power that goes with each skip."""
    groups = rows.groups("level", "action")
    rings(ax, groups, "lost_")
    ax.axvline(HALF, color="0.4", lw=0.8, ls=":")
    names = [f"{8 >> level}x{8 >> level} {action}" for level, action in groups]
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="share of the predicted noise lost (A39: half, dotted)")
    ax.legend(loc="lower right", title="frequency")


def skips_and_weights(ax: Axes, rows: Rows) -> None:
    """Errors of samples, all skips or all weights quantized."""
    groups = rows.groups("what", "spec")
    rings(ax, groups)
    names = [f"{what}, {spec}" for what, spec in groups]
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.5, -0.5), xscale="log", xlabel="error of samples / samples, by frequency")


def fusions(ax: Axes, rows: Rows) -> None:
    """Errors of samples at high frequencies, joined features quantized together or each."""
    names = rows.groups("bits", "how")
    rings(ax, names)
    ax.set_yticks(range(len(names)), [f"{bits}, {how}" for bits, how in names])
    ax.set(ylim=(len(names) - 0.5, -0.5), xscale="log", xlabel="joined features (A41):\nerror of samples / samples")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def detail_lost(rows: Rows) -> float:
    """Share of levels × (gone, averaged) × trainings that lose half of the high frequencies."""
    return share(r["lost_high"] >= HALF for r in rows.where(kind="without"))


def fusing_costs(rows: Rows) -> float:
    """Share of (int8, int4) × trainings in which one scale errs twice as much at high frequencies as a scale each."""
    pairs = rows.where(kind="joined").groups("model", "bits").values()
    return share(pair.where(how=TOGETHER).one("high") >= TWICE * pair.where(how=EACH).one("high") for pair in pairs)


CLAIMS = (
    Claim(
        "A39",
        statement="skip connections carry high-resolution detail",
        definition="share of three levels' skips × (gone, replaced by the mean over images) × three trainings without "
        "which half of the predicted noise's power at high frequencies is lost, more than any gain could give back",
        number=detail_lost,
        rule=share_of_cases("half of the detail goes with the skip"),
        reading="the skip of the full resolution carries all that is fine, and all that is coarse as well; those of "
        "lower resolutions carry little of either",
    ),
    Claim(
        "A41",
        statement="fusing quantized shallow + deep features loses detail",
        definition="share of (int8, int4) × three trainings in which samples err at high frequencies at least twice as "
        "much where skip and deep features share a scale as where each has its own",
        number=fusing_costs,
        rule=share_of_cases("fusing doubles the error of the detail"),
        reading="features that are joined have ranges alike: one scale for both costs next to nothing",
    ),
)
