"""Where do outliers sit in a real language model, Gemma 3 270M, and which of its matrices does quantization hurt?

Method. The real half of `layers`. Of the weights of every matrix, spread within the cells of the file's codes: how far
the largest stands out (max |w| / σ, σ the rms), kurtosis, shares beyond 3σ and 10σ, and the same of the inputs of the
matrix on passages of Python's documentation. Each matrix is quantized alone, int4 with a scale per
channel, and the KL of the predictions says what that costs. The documents' ranking of types stands beside it. Four
numbers that need no trial are ranked against that KL: the relative error of the weights, that weighed by the inputs'
mean squares (an imatrix), that of the outputs, and sum F e^2 / 2 with squared gradients F of other passages.
Expected. Outliers in few channels of the inputs (arXiv:2208.07339, arXiv:2211.10438), weights near to normal; matrices
whose error passes through many layers cost more than the last ones.
Refuted if weights stand out as far as inputs, types rank as the documents say (Spearman's correlation at least 0.8), or
the last third of the layers costs the two thirds that they give it.

Needs the extra ``real``: ``quantsim run --real real_layers``. Settles nothing of the ledger; `layers` does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from jaxtyping import Array

from quantsim import populations
from quantsim.lab import plotting
from quantsim.lab.claims import Claim
from quantsim.lab.study import Cell
from quantsim.models import gemma
from quantsim.models.squared_gradients import squared_gradients
from quantsim.rows import Rows

from . import _real as real
from ._matrices import (
    LAST_THIRD,
    SHORT,
    STATED_LAST_THIRD,
    STATED_RANK,
    STATED_SIGMAS,
    depth_map,
    part_from,
    per_layer,
    rank_correlation,
    spread,
)
from ._real import SPREAD, TYPES, Reading

NEEDS_REAL_MODEL = True

ALONE = "int4:channel"


@dataclass(frozen=True)
class Config:
    """A reference, its layers, and how much text."""

    reference: str = SPREAD
    layers: tuple[int, ...] = tuple(range(18))
    reading: Reading = Reading(2, 65)
    calibration: Reading = Reading(2, 65, shift=0.5)

    @classmethod
    def small(cls) -> "Config":
        """Two layers, little text."""
        return cls(layers=(0, 17), reading=Reading(2, 17), calibration=Reading(1, 17, shift=0.5))


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each layer."""
    for layer in config.layers:
        yield f"layer {layer}", partial(one_layer, config, layer)


def one_layer(config: Config, layer: int) -> list[dict[str, Any]]:
    """Every matrix of a layer: its weights, its inputs, and what quantizing it alone costs."""
    of, rows = real.subject(config.reference, config.reading), []
    for kind in TYPES:
        name = f"blk.{layer}.{kind}"
        about = {"kind": "matrix", "layer": layer, "type": kind}
        about |= spread("w", of.params[name]) | spread("x", inputs(config)[name])
        changed = real.quantized(of, {name: ALONE}).params
        about["rel_rms"] = real.relative_error(of.params, changed)
        about |= foretold(config, name, of.params[name], changed[name])
        rows.append(about | real.columns_of(real.damage(of, changed)))
    return rows


def foretold(config: Config, name: str, w: Array, w_hat: Array) -> dict[str, float]:
    """What can be said of the damage without trying it: squared errors of columns and outputs, and by gradients."""
    x = np.asarray(calibration_inputs(config)[name], np.float64)
    weights, e = np.asarray(w, np.float64), np.asarray(w_hat, np.float64) - np.asarray(w, np.float64)
    power = (x * x).mean(axis=0)
    return {
        "imatrix_error": float((e * e * power).sum() / (weights * weights * power).sum()),
        "output_error": float(np.square(x @ e.T).sum() / np.square(x @ weights.T).sum()),
        "predicted_kl": float((e * e * gradients(config)[name]).sum() / 2),
    }


@cache
def calibration_inputs(config: Config) -> dict[str, Array]:
    """Inputs of every matrix on other passages."""
    return real.site_inputs(config.reference, config.calibration)


@cache
def gradients(config: Config) -> dict[str, np.ndarray]:
    """Squared gradients of the log-likelihood, per token, on other passages."""
    model = real.model(config.reference)
    matrices, tokens = real.matrices(model.params), real.passages(model, config.calibration)

    def forward(changed: dict[str, Array], tokens: Array) -> Array:
        return gemma.forward({**model.params, **changed}, tokens, model.config)

    return squared_gradients(forward, matrices, tokens, populations.key(0))


@cache
def inputs(config: Config) -> dict[str, Array]:
    """Inputs of every matrix on what is read."""
    return real.site_inputs(config.reference, config.reading)


# --- what the rows say ----------------------------------------------------------------------------------------------

FORETOLD = {
    "rel_rms": "weights' error",
    "imatrix_error": "by imatrix",
    "output_error": "outputs' error",
    "predicted_kl": "by gradients",
}
MEASURES = {"w_max": "max |w| / σ", "w_kurtosis": "kurtosis", "x_max": "max |x| / σ", "kl": "KL alone"}


def agreement(rows: Rows, column: str) -> float:
    """Rank correlation of a measure's means with the documents' ranking of types."""
    found = [rows.where(type=kind).column(column).mean() for kind in TYPES]
    return rank_correlation([-STATED_RANK[kind] for kind in TYPES], found)


def short(kind: Any) -> str:
    """A type in a word, as in `layers`."""
    return SHORT[kind]


def largest(rows: Rows, column: str) -> str:
    """Where a column is largest, and how much."""
    top = max(rows, key=lambda r: r[column])
    return f"{top[column]:.0f} ({short(top['type'])} of layer {top['layer']})"


def summary(rows: Rows) -> str:
    """One sentence: largest weights and inputs, agreement with the documents' ranking, what the last third costs."""
    ranks = ", ".join(f"{agreement(rows, column):.2f} by {name}" for column, name in MEASURES.items())
    told = ", ".join(
        f"{rank_correlation(rows.column(c), rows.column('kl')):.2f} {name}" for c, name in FORETOLD.items()
    )
    ratio = float(rows.column("predicted_kl").sum() / rows.column("kl").sum())
    return (
        f"Gemma 3 270M: the largest |w| / σ of a matrix is {np.median(rows.column('w_max')):.1f} in the median and "
        f"{largest(rows, 'w_max')} at most, the largest |x| / σ {np.median(rows.column('x_max')):.1f} and "
        f"{largest(rows, 'x_max')}; correlation with the documents' ranking of types: {ranks}; of the KL of {ALONE} in "
        f"each matrix alone, the last third of the layers gives {part_from(per_layer(rows, 'kl'), LAST_THIRD):.2f}; "
        f"correlation with that KL over {len(rows)} matrices: {told}; sum of predicted over measured KLs: {ratio:.2f}."
    )


# --- the figure -----------------------------------------------------------------------------------------------------

WEIGHTS, INPUTS = plotting.Style(plotting.BLUE, "o", "weights"), plotting.Style(plotting.VERMILION, "s", "inputs")


def draw(rows: Rows) -> plotting.Figure:
    """Maps of type × depth, extremes beside the stated ones, weight error against KL, shares by depth."""
    fig, axes = plotting.figure(2, 3, height=6.4, gridspec_kw={"height_ratios": [3, 2]})
    depth_map(axes[0, 0], rows, "w_max", "max |w| / σ")
    depth_map(axes[0, 1], rows, "x_max", "max |x| / σ, inputs")
    depth_map(axes[0, 2], rows, "kl", f"log10 KL, {ALONE} alone", log=True)
    extremes(axes[1, 0], rows)
    predicted_and_kl(axes[1, 1], rows)
    by_depth(axes[1, 2], rows)
    plotting.letter(axes.ravel())
    return fig


def extremes(ax: plotting.Axes, rows: Rows) -> None:
    """The largest weight and the largest input of each matrix in σ, beside the range that is stated of weights."""
    for place, kind in enumerate(TYPES):
        low, high = STATED_SIGMAS[kind]
        ax.fill_between([place - 0.4, place + 0.4], max(low, 1.0), high, color="0.85", lw=0)
        for shift, column, style in ((-0.15, "w_max", WEIGHTS), (0.15, "x_max", INPUTS)):
            values = rows.where(type=kind).column(column)
            label = style.label if place == 0 else None
            look = {"ls": "none", "marker": style.marker, "color": style.color, "ms": 2, "label": label}
            ax.plot(np.full(len(values), place + shift), values, **look)
    ax.set_xticks(range(len(TYPES)), [short(kind) for kind in TYPES], fontsize=6)
    ax.set(yscale="log", ylabel="largest / σ (grey: stated, of weights)")
    ax.legend(loc="lower left")


def predicted_and_kl(ax: plotting.Axes, rows: Rows) -> None:
    """KL of each matrix alone against the one that squared gradients predict; how well four numbers rank it."""
    for kind, style in plotting.styles(TYPES).items():
        found = rows.where(type=kind)
        look = {"ls": "none", "marker": style.marker, "color": style.color, "ms": 3, "label": short(kind)}
        ax.plot(found.column("predicted_kl"), found.column("kl"), **look)
    ends = np.array([rows.column("kl").min() / 2, rows.column("kl").max() * 2])
    ax.plot(ends, ends, color="0.4", lw=0.8, zorder=0)
    ax.set(xscale="log", yscale="log", xlabel="sum F e² / 2, other text (nats)", ylabel="KL, matrix alone (nats)")
    ax.set_ylim(bottom=ends[0] / 8)
    ax.legend(loc="lower right", ncols=4, columnspacing=0.8, handletextpad=0.2)
    ranks = [f"{rank_correlation(rows.column(c), rows.column('kl')):.2f} {name}" for c, name in FORETOLD.items()]
    words = "\n".join(["rank correlation", *ranks])
    plotting.note(ax, 0.03, 0.97, words, transform=ax.transAxes, ha="left", va="top", fontsize=5.5)


def by_depth(ax: plotting.Axes, rows: Rows) -> None:
    """Share of the KL of all matrices quantized alone, by layer."""
    kl = per_layer(rows, "kl")
    ax.plot(range(len(kl)), kl / kl.sum(), color=WEIGHTS.color, marker=WEIGHTS.marker)
    ax.set(xlabel="layer", ylabel=f"share of the KL, {ALONE} alone", ylim=(0, None))
    words = f"last third {part_from(kl, LAST_THIRD):.2f}; stated {STATED_LAST_THIRD}"
    plotting.note(ax, 0.97, 0.95, words, transform=ax.transAxes, ha="right", va="top")


CLAIMS: tuple[Claim, ...] = ()
