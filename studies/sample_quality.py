"""Do the errors of a quantized diffusion sampler make its samples worse, or other ones?

Method. As in ``iteration``: DDIM with an exact score, whose predicted noise is spoiled by quantized weights, by fresh
noise, or by rounding, truncating and saturating it. Samples from the same seed with and without errors are compared
(identity: distance, share in another mode), and so is their distribution with the data's (quality: spread within a
mode, energy distance, samples of the mode that loses most).
Expected. Quality suffers later than identity: the distance of a sample grows with the error, the spread within a mode
with its square. Systematic errors (truncated, saturated) accumulate more than fresh ones, rounding of outputs does not.
Refuted if int8 weights, at 20 or 50 steps, blur samples or lose a mode by a tenth: panel a.

Settles A37 and A38 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes, Style
from quantsim.lab.study import Cell
from quantsim.rows import Rows

from ._sampler import (
    FEW,
    FRESH,
    INT4_WEIGHTS,
    INT8_WEIGHTS,
    MANY,
    OF_STEPS,
    PERSISTENT,
    SIZE,
    WIDTH,
    Kind,
    Size,
    predicted_rms,
    problem,
    samples,
)
from ._samples import DISCRETIZATION, discretization, row_of

TRUNCATED = Kind("truncated int8", outputs="int8:channel:absmax:truncate")
SATURATED = Kind("saturated int8", outputs="int8:channel:clip0.8")  # beyond 0.8 of the largest
ROUNDED = Kind("rounded int8", outputs="int8:channel")
ROUNDED_INT4 = Kind("rounded int4", outputs="int4:channel")
OF_OUTPUTS = (TRUNCATED, SATURATED, ROUNDED, ROUNDED_INT4)
SYSTEMATIC = (TRUNCATED, SATURATED, ROUNDED, INT8_WEIGHTS[0])  # what the document names, and weights that are rounded
TWICE = 2.0  # times what arrives of fresh errors: what counts as accumulating
BLURRED = 0.9  # times the spread within a mode, or the samples of a mode: what counts as blur, or as a lost concept


@dataclass(frozen=True)
class Config:
    """Samples of each repeat, which has a mixture and matrices of its own; steps; relative errors of the noise."""

    samples: int = 512
    repeats: int = 8
    steps: tuple[int, ...] = (FEW, MANY)
    sizes: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    seed: int = 0

    @property
    def size(self) -> Size:
        """How much is sampled."""
        return Size(self.samples, self.repeats, self.seed)

    @classmethod
    def small(cls) -> "Config":
        """Fewer samples."""
        return cls(samples=64, repeats=3, sizes=(0.01, 0.1))


def measure(config: Config) -> Iterator[Cell]:
    """A cell for the sampler itself, for each kind of error, for the sizes, for the outputs."""
    yield DISCRETIZATION, partial(discretization, config.size, config.steps)
    for kind in OF_STEPS:
        yield kind.name, partial(by_kind, config, kind)
    yield "sizes", partial(by_size, config)
    yield "outputs", partial(by_output, config)


def by_kind(config: Config, kind: Kind) -> list[dict[str, Any]]:
    """Samples after few and many steps, all of which err."""
    of = problem(config.size)
    about = {"kind": "steps", "error": kind.name}
    return [row_of(of, samples(config.size, of, kind, steps), about | {"steps": steps}) for steps in config.steps]


def by_size(config: Config) -> list[dict]:
    """Identity and quality after many steps, by the size of a persistent error."""
    of = problem(config.size)
    return [
        row_of(
            of, samples(config.size, of, replace(PERSISTENT, persistent=rho), MANY), {"kind": "size", "of_noise": rho}
        )
        for rho in config.sizes
    ]


def by_output(config: Config) -> list[dict]:
    """Errors of rounded, truncated and saturated noise after many steps."""
    of = problem(config.size)
    return [
        row_of(of, samples(config.size, of, kind, MANY), {"kind": "output", "error": kind.name}) for kind in OF_OUTPUTS
    ]


# --- the figure -----------------------------------------------------------------------------------------------------


def draw(rows: Rows) -> plotting.Figure:
    """Identity and quality against the size of the error; how much of it arrives, by kind."""
    figure, axes = plotting.figure(1, 2, height=3.0)
    identity_before_quality(axes[0, 0], rows)
    what_arrives(axes[0, 1], rows)
    plotting.letter(axes.ravel())
    return figure


def identity_before_quality(ax: Axes, rows: Rows) -> None:
    """Against the error of the noise: distance from the same seed's sample, flips, and how much worse samples are."""
    sizes, itself = (
        Rows(map(worse, rows.where(kind="size"))),
        rows.where(kind="steps", error=DISCRETIZATION, steps=MANY),
    )
    for column, style in STYLES_OF_METRICS.items():
        plotting.points(ax, sizes, "of_noise", column, series=style, linestyle="-", lw=0.6)
        ax.axhline(worse(itself[0])[column], color=style.color, lw=0.8, ls=":")
    rho = sizes.column("of_noise")
    rms = predicted_rms(PERSISTENT, MANY, WIDTH)[-1] / SIZE * rho
    plotting.prediction(ax, rho, rms / np.sqrt(1 + WIDTH**2), series=STYLES_OF_METRICS["median"])
    plotting.prediction(ax, rho, (rms / WIDTH) ** 2 / 2, series=STYLES_OF_METRICS["wider"])
    for kind in (INT8_WEIGHTS[0], INT4_WEIGHTS):
        size = rows.where(kind="steps", error=kind.name, steps=MANY).one("of_step")
        ax.axvline(size, color="0.8", lw=0.8)
        plotting.note(ax, size, 1.2e-5, f" {kind.name[:4]}")
    ax.set(xscale="log", yscale="log", ylim=(1e-5, 300), xlabel="relative error of the noise\n···· the sampler itself")
    ax.legend(loc="upper left")


STYLES_OF_METRICS = plotting.styles(
    {
        "median": "same seed: error / sample",
        "flipped": "share in another mode",
        "wider": "spread within modes, off by",
        "further": "energy distance, more (≤)",
    }
)


def worse(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what quality has lost: the spread off 1, and the energy distance, or up to what it may have grown."""
    return row | {
        "wider": abs(row["spread"] - 1),
        "further": max(row["excess"], row["excess"] + 1.96 * row["excess_se"]),
    }


def what_arrives(ax: Axes, rows: Rows) -> None:
    """Error at the end over that of each step, by kind."""
    many = rows.where(steps=MANY, kind="steps")
    found = Rows(many.where(error=kind.name)[0] for kind in (FRESH, PERSISTENT, INT8_WEIGHTS[0]))
    found += rows.where(kind="output")
    limit = TWICE * found[0]["arrives"]
    ax.axvspan(limit, 2, color="0.93", lw=0)
    plotting.dots(ax, found, "arrives", range(len(found)), series=Style(plotting.BLUE))
    plotting.note(ax, limit, -0.75, " A37: piles up")
    labels = [r["error"] for r in found]
    ax.set(yticks=range(len(found)), yticklabels=labels, ylim=(len(found) - 0.5, -1.1))
    ax.set(xlim=(0, 2), xlabel=f"error of the sample / of a step\n(of {MANY} steps)")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def systematic_accumulates(rows: Rows) -> float:
    """Share of the named kinds of errors of which at least twice as much arrives as of fresh ones."""
    measured = Rows(r for r in rows if r.get("steps", MANY) == MANY and r["kind"] in ("steps", "output"))
    arrives = {r["error"]: r["arrives"] for r in measured if "arrives" in r}
    return share(arrives[kind.name] >= TWICE * arrives[FRESH.name] for kind in SYSTEMATIC)


def visibly_worse(rows: Rows) -> float:
    """Share of int8 weights × numbers of steps × (blur, distortion, a lost concept) that show.

    Blur is a spread within modes below 0.9 of what it was, a concept is lost if a mode keeps less than 0.9 of its
    samples, and samples are distorted if their energy distance from the data grows by more than the sampler's own.
    """
    found, cases = rows.where(kind="steps"), []
    for steps in (FEW, MANY):
        itself = found.where(error=DISCRETIZATION, steps=steps).one("excess")
        for kind in INT8_WEIGHTS:
            row = found.where(error=kind.name, steps=steps)[0]
            cases += [row["spread"] < BLURRED, abs(row["excess"]) > abs(itself), row["least_mode"] < BLURRED]
    return share(cases)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A37",
        statement='systematic truncation/saturation or "non-linear rounding" errors do it',
        definition="share of int8 (outputs truncated, saturated, rounded; q8_0 weights) of whose relative error in a "
        "step at least twice as much arrives in the sample at 50 steps as of fresh noise",
        number=systematic_accumulates,
        rule=share_of_cases("at least twice as much arrives as of fresh noise"),
        reading="what is the same in every step adds up, be it truncation, saturation or rounded weights; outputs "
        "rounded to nearest err afresh",
    ),
    Claim(
        "A38",
        statement="end effect: blur, distortion, artefacts, concept loss",
        definition="share of (q8_0, int8:channel, int8:tensor weights) × (20, 50 steps) × (spread within modes below "
        "0.9; energy distance from the data off by more than the sampler's own; a mode with less than 0.9 of its "
        "samples)",
        number=visibly_worse,
        rule=share_of_cases("the samples of int8 are worse by so much"),
        reading="errors of int8's size in the predicted noise move samples, but hardly change their distribution",
    ),
)
