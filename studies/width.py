"""Does a wider language model bear quantization better, and do its outliers grow?

Method. Nine models of bytes, three widths × three seeds, trained alike: as many steps on the same text at the same rate
(quantsim.models). Of the matrices of the layers of each: how far the largest weight stands out (max |w| / σ) and the
share beyond 3σ, σ the rms of the matrix. Then normal noise of the same relative size in all of them, which gives the
sensitivity S = KL / r², and five formats, with the KL of the predictions on held-out text. The control has the weights
of each matrix shuffled: as many, as large, and nothing learned.
Theory. The largest of n normal weights stands out by about sqrt(2 log n), more in a larger matrix without any outlier,
and 0.27 % lie beyond 3σ in each. From this follows r of every format; KL = S r². Noise in the weights of a product is
1 / a of r² in its outputs, with a = n ‖X Wᵀ‖² / (‖X‖² ‖W‖²): 1 if weights know nothing of their inputs, more if they
were trained on them; so S of a model that averages nothing but that falls as the mean of 1 / a does.
Expected. S hardly moves with width, as the relative errors of random products do not (`error_averaging`). So one scale
a tensor gets worse with width, by the largest weight alone, and blocks stay where they are.
Refuted if S falls like 1 / width (panel a), or the share beyond 3σ rises manyfold (panel d). The first is: S falls even
faster, in trained models and not in shuffled ones, half of it for the a of wider layers.
Published. Outlier features of activations appear in all layers beyond 6.7 billion weights (arXiv:2208.07339), but come
from how a model was trained, not from its size (arXiv:2305.19268); weights quantized to few bits cost large models
less, and those trained longer more (arXiv:2411.17691). None counts outliers of weights by size.

Settles A14, B73 and B74 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray
from scipy import stats

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, between, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, columns, difference, mean
from quantsim.models import trained
from quantsim.models.llama import Params
from quantsim.populations import Normal
from quantsim.rows import Rows

from . import _language as language
from ._language import Subject

FORMATS = ("int8:tensor", "int8:channel", "q8_0", "q4_0", "int4:block32")
ONE_SCALE = "int8:tensor"
SMALLEST = 0.01  # relative noise, at which S is read off
BEYOND = 3.0  # σ: the density of outliers
#: Share of normal weights beyond 3σ.
NORMAL_BEYOND = float(2 * stats.norm.sf(BEYOND))
TENFOLD = 10.0  # weights of 70B over those of 7B
STATED_DENSITY = (5.0, 7.0)


@dataclass(frozen=True)
class Config:
    """Models, formats, sizes of the noise, and how much text."""

    widths: tuple[int, ...] = (32, 64, 128)
    trainings: tuple[int, ...] = (0, 1, 2)
    formats: tuple[str, ...] = FORMATS
    noise: tuple[float, ...] = (SMALLEST, 0.1)
    draws: int = 3  # of the noise
    sequences: int = 64
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Two trainings of two widths, little noise and text."""
        return cls(widths=(32, 64), trainings=(0, 1), formats=FORMATS[:2], noise=(SMALLEST,), draws=2, sequences=4)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each model."""
    for width in config.widths:
        for training in config.trainings:
            yield f"width {width}, seed {training}", partial(one_model, config, width, training)


def one_model(config: Config, width: int, training: int) -> list[dict[str, Any]]:
    """A row for the model and its weights, one for each size of the noise, one for each format."""
    of = language.subject(trained.name_of(width, training), config.sequences)
    matrices = language.layers(of.params)
    about = {"width": width, "training": training, "weights": sum(w.size for w in matrices.values())}
    noise_power = mean([power_of_noise(w, language.calibration_inputs(of.name)[name]) for name, w in matrices.items()])
    rows = [about | {"kind": "model"} | columns(loss=language.loss(of), noise_power=noise_power) | outliers(matrices)]
    rows.append(about | {"kind": "shuffled", "rel_rms": SMALLEST} | columns(sensitivity=of_shuffled(config, of)))
    for size in config.noise:
        kl = language.layers_noise(of, size, range(config.seed, config.seed + config.draws))
        sensitivity = kl.times(1 / size**2)
        rows.append(about | {"kind": "noise", "rel_rms": size} | columns(kl=kl, sensitivity=sensitivity))
    s = Rows(rows).where(kind="noise", rel_rms=SMALLEST).one("sensitivity")
    for spec in config.formats:
        found = language.quantized(of, {"blk.*": spec})
        sizes = [language.relative_error(w, found.params[name]) for name, w in matrices.items()]
        predicted = language.rms(language.normal_error(spec, w) for w in matrices.values())
        row = about | {"kind": "format", "spec": spec, "rel_rms": language.rms(sizes), "predicted_rel_rms": predicted}
        rows.append(row | language.damage(of, found.params).columns() | {"predicted_kl": s * predicted**2})
    return rows


def power_of_noise(w: Array, x: Array) -> float:
    """1 / a: the power of noise in the outputs over that of the outputs, where in the weights it is 1."""
    weights, inputs = (np.asarray(v, np.float64) for v in (w, x))
    outputs = np.sum((inputs @ weights.T) ** 2)
    return float(np.sum(inputs**2) * np.sum(weights**2) / (weights.shape[1] * outputs))


def of_shuffled(config: Config, of: Subject) -> Estimate:
    """S of the model with the weights of each matrix in any order, mean over draws of the order and of the noise."""
    found = []
    for draw in range(config.seed, config.seed + config.draws):
        params = shuffled(of.params, draw)
        other = of._replace(params=params, logits=language.predictions(params, of.tokens, of.config))
        found.append(language.layers_noise(other, SMALLEST, [draw]).times(1 / SMALLEST**2).value)
    return mean(found)


def shuffled(params: Params, seed: int) -> Params:
    """The matrices of the layers, the weights of each in any order."""
    rng = np.random.default_rng(seed)
    moved = {name: rng.permuted(np.asarray(w).ravel()) for name, w in language.layers(params).items()}
    return params | {name: jnp.asarray(w).reshape(params[name].shape) for name, w in moved.items()}


def outliers(matrices: dict[str, Array]) -> dict[str, float]:
    """max |w| / σ, mean over matrices, beside that of normal weights; share of all weights beyond 3σ and beyond 6σ."""
    units = [in_deviations(w) for w in matrices.values()]
    each = np.concatenate([u.ravel() for u in units])
    return columns(crest=mean([u.max() for u in units])) | {
        "predicted_crest": float(np.mean([theory.expected_absmax(Normal(), w.size) for w in matrices.values()])),
        "beyond": float(np.mean(each > BEYOND)),
        "beyond_6": float(np.mean(each > 2 * BEYOND)),
    }


def in_deviations(w: Array) -> NDArray[np.float64]:
    """|w| / σ, σ the rms."""
    a = np.abs(np.asarray(w, np.float64))
    return a / np.sqrt(np.mean(a * a))


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(FORMATS)
SEEDS = {k: Style(plotting.COLORS[k], plotting.MARKERS[k], f"seed {k}") for k in range(3)}
WEIGHTS = "weights in the layers"


def draw(rows: Rows) -> plotting.Figure:
    """Against the number of weights: sensitivity, KL, largest weight, share beyond 3σ, errors of weights, loss."""
    fig, axes = plotting.figure(2, 3, height=4.6)
    models, formats = rows.where(kind="model"), rows.where(kind="format")
    sensitivities(axes[0, 0], rows)
    by_format(axes[0, 1], formats, "kl")
    by_seed(axes[0, 2], models, "crest")
    plotting.prediction(axes[0, 2], *curve_of(models, "predicted_crest"), label="normal weights")
    axes[0, 2].set(ylabel="largest |w| / σ, mean of matrices", ylim=(0, None))
    densities(axes[1, 0], models)
    by_format(axes[1, 1], formats, "rel_rms")
    by_seed(axes[1, 2], models, "loss")
    axes[0, 1].set(yscale="log", ylabel="KL (nats per byte)")
    axes[1, 1].set(yscale="log", ylabel="error of the weights / weights, rms")
    axes[1, 2].set(ylabel="loss (nats per byte)")
    for ax in axes.ravel():
        ax.set(xscale="log", xlabel=WEIGHTS)
    for ax in axes[0, 1:]:
        ax.legend()
    plotting.letter(axes.ravel())
    return fig


def by_seed(ax: plotting.Axes, rows: Rows, column: str) -> None:
    """A column of the models of each seed."""
    for training, style in SEEDS.items():
        if found := rows.where(training=training):
            ses = [r.get(f"{column}_se") for r in found]
            se = None if None in ses else ses
            plotting.curve(ax, found.column("weights"), found.column(column), se=se, series=style, ms=3)


def curve_of(rows: Rows, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A column and the numbers of weights, mean over seeds."""
    groups = rows.groups("weights").values()
    weights, values = ([group.column(name).mean() for group in groups] for name in ("weights", column))
    return np.array(weights), np.array(values)


def sensitivities(ax: plotting.Axes, rows: Rows) -> None:
    """S, also of shuffled weights; beside it, S if nothing is averaged, as 1 / width, and as the mean of 1 / a."""
    of_noise, models, control = rows.where(kind="noise", rel_rms=SMALLEST), rows.where(kind="model"), Style("0.5", "x")
    by_seed(ax, of_noise, "sensitivity")
    plotting.points(ax, rows.where(kind="shuffled"), "weights", "sensitivity", series=control, label="shuffled")
    weights, found = curve_of(of_noise, "sensitivity")
    widths, powers = (curve_of(models, column)[1] for column in ("width", "noise_power"))
    by = {"nothing averaged": widths**0, "as 1 / width (A14)": 1 / widths, "as mean 1 / a": powers}
    for (label, factor), line in zip(by.items(), ("--", ":", "-."), strict=True):
        plotting.prediction(ax, weights, found[0] * factor / factor[0], label=label, linestyle=line)
    ax.set(yscale="log", ylim=(0.03, 60), ylabel="S = KL / r², noise of 1 %")
    lines = [line for line in zip(*ax.get_legend_handles_labels(), strict=True) if "seed" not in line[1]]
    ax.legend(*zip(*lines, strict=True), loc="lower left")


def densities(ax: plotting.Axes, rows: Rows) -> None:
    """Share beyond 3σ, that of normal weights, and what the document says of a tenfold."""
    by_seed(ax, rows, "beyond")
    weights, found = curve_of(rows, "beyond")
    plotting.prediction(ax, weights, np.full(len(weights), NORMAL_BEYOND))
    low, high = (found[0] * factor ** np.log10(weights / weights[0]) for factor in STATED_DENSITY)
    ax.fill_between(weights, low, high, color="0.88", lw=0)
    plotting.note(ax, 0.05, 0.93, "grey: stated (B74)\ndashed: normal", transform=ax.transAxes, va="top")
    ax.set(yscale="log", ylabel="share of the weights beyond 3σ", ylim=(1e-3, 0.2))


def by_format(ax: plotting.Axes, rows: Rows, column: str) -> None:
    """A column of each format, and its prediction, mean over seeds."""
    for spec, style in STYLES.items():
        found = rows.where(spec=spec)
        if found:
            look = {"color": style.color, "marker": style.marker, "ls": "none", "ms": 2.6, "label": style.label}
            ax.plot(found.column("weights"), found.column(column), **look)
            plotting.prediction(ax, *curve_of(found, f"predicted_{column}"), series=style)


# --- the verdicts ---------------------------------------------------------------------------------------------------


def robust_by_width(rows: Rows) -> float:
    """Share of seeds × formats × widenings where KL clearly falls."""
    cases = []
    for group in rows.where(kind="format").groups("training", "spec").values():
        kls = [Estimate(r["kl"], r["kl_se"]) for r in sorted(group, key=lambda r: r["weights"])]
        cases += [difference(narrow, wide).clearly_above(0.0) for narrow, wide in pairwise(kls)]
    return share(cases)


def links_that_hold(rows: Rows) -> float:
    """Share of seeds × links × pairs of widths where what the link names second rises with what it names first."""
    cases = []
    for (training,), models in rows.where(kind="model").groups("training").items():
        found = rows.where(kind="format", spec=ONE_SCALE, training=training)
        chain = [*(models.column(name) for name in ("weights", "beyond", "crest")), found.column("rel_rms")]
        for cause, effect in [*pairwise(chain), (models.column("crest"), found.column("kl"))]:
            cases += [rises(cause, effect, *pair) for pair in combinations(range(len(cause)), 2)]
    return share(cases)


def rises(cause: NDArray[Any], effect: NDArray[Any], i: int, j: int) -> bool:
    """Whether of two models the one with the larger cause has the larger effect."""
    return bool((cause[j] - cause[i]) * (effect[j] - effect[i]) > 0)


def density_of_tenfold(rows: Rows) -> Estimate:
    """Factor of the share beyond 3σ for ten times the weights, from a line through all models in logarithms."""
    models = rows.where(kind="model")
    line: Any = stats.linregress(np.log(models.column("weights")), np.log(models.column("beyond")))
    value = float(TENFOLD**line.slope)
    return Estimate(value, float(np.log(TENFOLD) * value * line.stderr))


CLAIMS = (
    Claim(
        "A14",
        statement="over-parameterization (many weights) gives the robustness",
        definition="share of three seeds × five formats × two widenings (32 to 64, 64 to 128) of a small language "
        "model where the KL of its predictions falls by clearly more than its standard error",
        number=robust_by_width,
        rule=share_of_cases("the wider model has clearly the lower KL"),
        reading="wider models that were trained lose less, though errors of their weights are as large: their signals "
        "are aligned with the weights, and errors are not; as many shuffled weights lose more, and of synthetic maps "
        "only copies with independent errors lose less (`error_averaging`)",
    ),
    Claim(
        "B73",
        statement="params ↑ → outliers ↑ → magnitude ↑ → quant error ↑",
        definition="share of three seeds × four links × pairs of three widths where the second rises with the first: "
        "weights, share beyond 3σ, mean max |w| / σ, and from this both ‖e‖ / ‖w‖ and the KL of int8 with one scale",
        number=links_that_hold,
        rule=share_of_cases("the second rises with the first"),
        reading="outliers, the largest weight and the errors of the weights rise with the width of these models, but "
        "the damage to the predictions falls: a wider model bears its larger errors better",
    ),
    Claim(
        "B74",
        statement="70B outlier density 5–7× 7B",
        definition="factor of the share of weights beyond 3σ for ten times the weights, from the line through nine "
        "models of three widths in logarithms",
        number=density_of_tenfold,
        rule=between(*STATED_DENSITY),
        reading="it is {value:.2f}; published are outliers of activations (arXiv:2208.07339), which come from how a "
        "model was trained (arXiv:2305.19268)",
    ),
)
