"""Do quantization errors pile up over the steps of a diffusion sampler?

Method. Deterministic DDIM on Stable Diffusion's schedule, 5 to 100 steps, with the exact score of a mixture of normals:
no network, so that all errors are made on purpose. The predicted noise is spoiled as a last layer with quantized
weights would do it (persistent: the same matrix at every step), or by fresh noise; in all steps, or in one. Samples
from the same seed with and without errors are compared, those that end in another mode counted apart.
Expected. A sampler of T steps takes 1 / T of the noise away in each: persistent errors end the same for any T, fresh
ones fall as 1 / sqrt(T), both as for normal data of a mode's width, and below the error that the sampler itself makes
at 50 steps. Instead of all samples, this holds for the median one: before a sample has decided for a mode, those near
the boundary of two drift apart, so that the rms of an early error grows by a third on its way to the end, where its
median shrinks by half.
Refuted if the error at 50 steps exceeds that at 20: panel b.

Settles A35 and A36 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, share, share_of_cases
from quantsim.lab.plotting import Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, columns, mean, ratio, root_ratio
from quantsim.outputs.diffusion import Followed, stable_diffusion_schedule
from quantsim.rows import Rows

from ._sampler import (
    DIMENSIONS,
    FEW,
    FRESH,
    INT4_WEIGHTS,
    INT8_WEIGHTS,
    MANY,
    OF_STEPS,
    PERSISTENT,
    WIDTH,
    Kind,
    Problem,
    Size,
    normal_problem,
    predicted_rms,
    problem,
    samples,
)
from ._samples import DISCRETIZATION, compared, discretization, row_of

MORE_SEEDS = 4  # of errors in one step: the few samples near a boundary dominate their rms
A_TENTH, HALF = 1.1, 0.5  # times: what counts as more, and as most


@dataclass(frozen=True)
class Config:
    """Numbers of samples and steps.

    Attributes:
        samples: of each repeat.
        repeats: mixtures with means, samples and matrices of their own, the units of the standard errors.
        steps: of the samplers.
        injected_at: steps of which one alone is wrong, from 0.
    """

    samples: int = 512
    repeats: int = 8
    steps: tuple[int, ...] = (5, 10, 20, 50, 100)
    injected_at: tuple[int, ...] = (0, 5, 10, 20, 30, 40)
    seed: int = 0

    @property
    def size(self) -> Size:
        """How much is sampled."""
        return Size(self.samples, self.repeats, self.seed)

    @classmethod
    def small(cls) -> "Config":
        """Fewer samples."""
        return cls(samples=64, repeats=3, steps=(FEW, MANY), injected_at=(0, 40))


def measure(config: Config) -> Iterator[Cell]:
    """One cell a kind of error; one for the sampler itself, for normal data, for single steps."""
    yield DISCRETIZATION, partial(discretization, config.size, config.steps)
    for kind in OF_STEPS:
        yield kind.name, partial(by_steps, config, kind)
    yield "normal data", partial(on_normal_data, config)
    yield "single steps", partial(by_step_injected, config)
    yield "last input", partial(carried_by_the_last_input, config)


# --- the sampler ----------------------------------------------------------------------------------------------------


def by_steps(config: Config, kind: Kind) -> list[dict]:
    """Errors at the end by the number of steps, and, of many steps, after each."""
    of, rows = problem(config.size), []
    for steps in config.steps:
        found = samples(config.size, of, kind, steps)
        row = row_of(of, found, {"kind": "steps", "error": kind.name, "steps": steps})
        if kind in (PERSISTENT, FRESH):
            size_of_samples = np.sqrt(1 + WIDTH**2)
            row["predicted_median"] = predicted_rms(kind, steps, WIDTH)[-1] / size_of_samples
            rows += along(of, kind, found) if steps == MANY else []
        rows.append(row)
    return rows


def along(of: Problem, kind: Kind, found: Followed) -> list[dict]:
    """Error of a coordinate after each of many steps: rms over samples that stay in their mode, and median of all."""
    c = compared(of, found.exact, found.spoiled)
    stays = np.asarray(c.mode == c.mode_hat)
    predicted, rows = predicted_rms(kind, MANY, WIDTH), []
    for step in range(MANY):
        squares = np.asarray(found.squared_errors[:, step], np.float64) * stays
        row = {"kind": "along", "error": kind.name, "step": step + 1}
        row |= columns(rms=root_ratio(squares, DIMENSIONS * stays))
        row |= columns(median=median_root(found.squared_errors[:, step], DIMENSIONS))
        rows.append(row | {"predicted_median": predicted[step]})
    return rows


def median_root(of: Any, over: Any) -> Estimate:
    """Median over the samples of each repeat of the root of a ratio, mean over repeats."""
    ratios = np.asarray(of, np.float64) / np.asarray(over, np.float64)
    return mean(np.sqrt(np.median(ratios, axis=1)))


def on_normal_data(config: Config) -> list[dict]:
    """Errors at the end where theory is exact to first order: standard normal data."""
    of, rows = normal_problem(config.size), []
    for kind in (PERSISTENT, FRESH):
        for steps in config.steps:
            found = samples(config.size, of, kind, steps)
            row = row_of(of, found, {"kind": "normal", "error": kind.name, "steps": steps})
            size_of_samples = np.prod(theory.ddim_steps(stable_diffusion_schedule(steps), 1.0)[0])
            rows.append(row | {"predicted_rel_rms": predicted_rms(kind, steps, 1.0)[-1] / size_of_samples})
    return rows


def by_step_injected(config: Config) -> list[dict]:
    """Error at the end over that right behind the only step that is wrong, of samples that stay in their mode."""
    factors, rows = theory.ddim_steps(stable_diffusion_schedule(MANY), WIDTH)[0], []
    for step in config.injected_at:
        squares = [one_wrong_step(replace(config.size, seed=config.seed + k), step) for k in range(MORE_SEEDS)]
        at_once, at_the_end, stays = (np.concatenate(parts) for parts in zip(*squares, strict=True))
        row = {"kind": "single", "step": step + 1}
        row |= columns(left=root_ratio(at_the_end * stays, at_once * stays))
        row |= columns(median_left=median_root(at_the_end, at_once))
        rows.append(row | {"predicted_median_left": float(np.prod(factors[step + 1 :]))})
    return rows


def one_wrong_step(size: Size, step: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Squared errors of each sample behind the wrong step and at the end, and whether it stays in its mode."""
    of = problem(size)
    found = samples(size, of, FRESH, MANY, wrong=(step, step + 1))
    at_once, at_the_end = (np.asarray(found.squared_errors[:, k], np.float64) for k in (step, MANY - 1))
    c = compared(of, found.exact, found.spoiled)
    return at_once, at_the_end, np.asarray(c.mode == c.mode_hat)


def carried_by_the_last_input(config: Config) -> list[dict]:
    """Share of the squared error that is there without the error of the last step: its input brings it."""
    of, rows = problem(config.size), []
    for kind in (PERSISTENT, FRESH):
        for steps in (FEW, MANY):
            whole, without_last = (
                samples(config.size, of, kind, steps),
                samples(config.size, of, kind, steps, (0, steps - 1)),
            )
            squares = (np.asarray(f.squared_errors[:, steps - 1], np.float64) for f in (without_last, whole))
            row = {"kind": "carried", "error": kind.name, "steps": steps}
            rows.append(row | columns(carried=ratio(*squares)))
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    PERSISTENT.name: Style(plotting.BLUE, "o", "persistent"),
    FRESH.name: Style(plotting.VERMILION, "s", "fresh"),
    INT8_WEIGHTS[0].name: Style(plotting.GREEN, "^", "q8_0 weights"),
    INT4_WEIGHTS.name: Style(plotting.PURPLE, "D", "int4 weights"),
    DISCRETIZATION: Style(plotting.BLACK, "X", DISCRETIZATION),
}


def draw(rows: Rows) -> plotting.Figure:
    """The error of the sampler along its steps, against their number, and of one step."""
    figure, axes = plotting.figure(1, 3, height=2.9)
    along_the_steps(axes[0, 0], rows.where(kind="along"))
    against_steps(axes[0, 1], rows.where(kind="steps"))
    of_one_step(axes[0, 2], rows.where(kind="single"))
    handles = axes[0, 1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncol=5, title="errors of the predicted noise")
    plotting.letter(axes.ravel())
    return figure


def along_the_steps(ax: Axes, rows: Rows) -> None:
    """Error of a coordinate after each of many steps, of the median sample."""
    for kind in (PERSISTENT, FRESH):
        found = Rows(r for r in rows.where(error=kind.name) if r["step"] % 3 == 2)
        plotting.measured(ax, found, "step", "median", series=STYLES[kind.name])
    ax.set(yscale="log", xlabel=f"denoising step, of {MANY}", ylabel="error of a coordinate, median (%)")
    ax.set(yticks=(0.002, 0.005, 0.01, 0.02), yticklabels=("0.2", "0.5", "1", "2"))
    ax.minorticks_off()


def against_steps(ax: Axes, rows: Rows) -> None:
    """Error at the end against the number of steps, of the median sample."""
    for name, style in STYLES.items():
        found = rows.where(error=name)
        if name in (PERSISTENT.name, FRESH.name):
            plotting.measured(ax, found, "steps", "median", series=style)
        else:
            plotting.points(ax, found, "steps", "median", series=style, linestyle="-", lw=0.6)
    ax.axvspan(FEW, MANY, color="0.93", lw=0)
    plotting.note(ax, np.sqrt(FEW * MANY), 0.4, "A36", ha="center")
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 0.6), xlabel="steps of the sampler")
    ax.set_ylabel("same seed: error / sample, median")


def of_one_step(ax: Axes, rows: Rows) -> None:
    """What is left at the end of the error of one step: the median, and the rms that a few samples dominate."""
    plotting.measured(ax, rows, "step", "median_left", series=STYLES[FRESH.name])
    plotting.points(ax, rows, "step", "left", series=STYLES[FRESH.name], markerfacecolor="w")
    ax.axhspan(A_TENTH, 3, color="0.93", lw=0)
    plotting.note(ax, 42, 2.7, "A36: amplified\n(open: rms, few\nsamples dominate)", ha="right", va="top")
    plotting.note(ax, 8, 0.37, "median")
    ax.set(yscale="log", ylim=(0.3, 3), yticks=(0.3, 0.5, 1, 2, 3), yticklabels=("0.3", "0.5", "1", "2", "3"))
    ax.minorticks_off()
    ax.set(xlabel=f"the only wrong step, of {MANY}", ylabel="error at the end / behind that step")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def carried(rows: Rows) -> Estimate:
    """The least share of the squared error that the last step's input brings, over kinds and numbers of steps."""
    least = min(rows.where(kind="carried"), key=lambda r: r["carried"])
    return Estimate(least["carried"], least["carried_se"])


def piles_up(rows: Rows) -> float:
    """Share of cases: errors or flips of a kind a tenth more at 50 steps than at 20, or one error amplified."""
    found, cases = rows.where(kind="steps"), []
    for kind in (PERSISTENT, FRESH, *INT8_WEIGHTS):
        few, many = (found.where(error=kind.name, steps=steps)[0] for steps in (FEW, MANY))
        cases.append(many["rel_rms"] > A_TENTH * few["rel_rms"])
        more = Estimate(many["flipped"] - A_TENTH * few["flipped"], np.hypot(many["flipped_se"], few["flipped_se"]))
        cases.append(more.clearly_above(0.0))
    return share(cases + [r["left"] > A_TENTH for r in rows.where(kind="single")])


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A35",
        statement="each step's error enters the next step's input",
        definition="share of the squared error of the last sample that is there without the last step's own error, the "
        "least over (persistent, fresh) × (20, 50 steps)",
        number=carried,
        rule=at_least(HALF),
        reading="it does: of the last sample's squared error the input of the last step brings at least {value:.1%}",
    ),
    Claim(
        "A36",
        statement="errors accumulate and amplify over 20–50 steps",
        definition="share of cases: (persistent, fresh, q8_0, int8:channel, int8:tensor weights) × (error of samples "
        "that stay in their mode, share that flips) more than a tenth larger at 50 steps than at 20; errors of one of "
        "six steps whose rms is more than a tenth larger at the end",
        number=piles_up,
        rule=share_of_cases("more steps make it a tenth worse, or the steps that follow amplify it by a tenth"),
        reading="more steps are never worse, as each takes a smaller part of the noise away; amplified are only errors "
        "made before a sample has decided for a mode, in the few samples near a boundary",
    ),
)
