"""Do quantization errors pile up over the steps of a diffusion sampler?

Method. Deterministic DDIM on Stable Diffusion's schedule, 5 to 100 steps, with the exact score of a mixture of normals:
no network, so that all errors are made on purpose. The predicted noise is spoiled as a last layer with quantized
weights would do it (persistent: the same matrix at every step), by fresh noise, or by rounding, truncating and
saturating it. Samples from the same seed with and without errors are compared (identity), those that end in another
mode counted apart, and their distribution with the data's (quality). Beside it an error is added in every step of
x <- a x, turned or not.
Expected. A contraction forgets and an expansion multiplies; a rotation turns a persistent error, which then adds up as
fresh ones do. A sampler of T steps takes 1 / T of the noise away in each: persistent errors end the same for any T,
fresh ones fall as 1 / sqrt(T), both as for normal data of a mode's width, and below the error that the sampler itself
makes at 50 steps. Quality suffers later than identity. Systematic errors (truncated, saturated) accumulate more than
fresh ones, rounding of outputs does not. Instead of all samples, this
holds for the median one: before a sample has decided for a mode, those near the boundary of two drift apart, so that
the rms of an early error grows by a third on its way to the end, where its median shrinks by half.
Refuted if the error at 50 steps exceeds that at 20: panel c.

Settles A35, A36, A37 and A38 of the ledger, which numbers the statements of two documents (``quantsim claims``).
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
    EXACT_STEPS,
    WIDTH,
    Kind,
    Problem,
    Size,
    compared,
    identity_and_quality,
    normal_problem,
    problem,
    samples,
)

FEW, MANY = 20, 50  # steps, between which the document sees errors accumulate
MORE_SEEDS = 4  # of errors in one step: the few samples near a boundary dominate their rms
SIZE = 0.01  # relative rms error of the predicted noise, between those of int8 weights (0.6 %) and int4 (10 %)
A_TENTH, HALF, TWICE = 1.1, 0.5, 2.0  # times: what counts as more, as most, as accumulating more than fresh errors do
BLURRED = 0.9  # times the spread within a mode, or the samples of a mode: what counts as blur, or as a lost concept


PERSISTENT, FRESH = Kind("persistent", persistent=SIZE), Kind("fresh", fresh=SIZE)
INT8_WEIGHTS = tuple(Kind(f"{spec} weights", weights=spec) for spec in ("q8_0", "int8:channel", "int8:tensor"))
INT4_WEIGHTS = Kind("int4 weights", weights="int4:channel")
OF_STEPS = (PERSISTENT, FRESH, *INT8_WEIGHTS, INT4_WEIGHTS)  # measured for every number of steps
TRUNCATED = Kind("truncated int8", outputs="int8:channel:absmax:truncate")
SATURATED = Kind("saturated int8", outputs="int8:channel:clip0.8")  # beyond 0.8 of the largest
ROUNDED = Kind("rounded int8", outputs="int8:channel")
ROUNDED_INT4 = Kind("rounded int4", outputs="int4:channel")
OF_OUTPUTS = (TRUNCATED, SATURATED, ROUNDED, ROUNDED_INT4)
SYSTEMATIC = (TRUNCATED, SATURATED, ROUNDED, INT8_WEIGHTS[0])  # what the document names, and weights that are rounded
DISCRETIZATION = "the sampler itself"


@dataclass(frozen=True)
class Map:
    """x <- factor x, its planes turned by random angles or not."""

    name: str
    factor: float
    turned: bool = False


MAPS = (
    Map("× 0.8", 0.8),
    Map("× 1", 1.0),
    Map("× 1, turned", 1.0, turned=True),
    Map("× 1.1", 1.1),
)


@dataclass(frozen=True)
class Config:
    """Numbers of samples and steps.

    Attributes:
        samples: of each repeat.
        repeats: mixtures with means, samples and matrices of their own, the units of the standard errors.
        steps: of the samplers.
        sizes: relative errors of the predicted noise.
        injected_at: steps of which one alone is wrong, from 0.
        iterated: steps of the maps after which errors are read.
    """

    samples: int = 512
    repeats: int = 8
    steps: tuple[int, ...] = (5, 10, 20, 50, 100)
    sizes: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    injected_at: tuple[int, ...] = (0, 5, 10, 20, 30, 40)
    iterated: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50, 100)
    seed: int = 0

    @property
    def size(self) -> Size:
        """How much is sampled."""
        return Size(self.samples, self.repeats, self.seed)

    @classmethod
    def small(cls) -> "Config":
        """Fewer samples."""
        return cls(samples=64, repeats=3, steps=(FEW, MANY), sizes=(0.01, 0.1), injected_at=(0, 40))


def measure(config: Config) -> Iterator[Cell]:
    """One cell a kind of error; one for the sampler itself, for the sizes, for single steps, for the maps."""
    yield "maps", partial(maps, config)
    yield DISCRETIZATION, partial(discretization, config)
    for kind in OF_STEPS:
        yield kind.name, partial(by_steps, config, kind)
    yield "normal data", partial(on_normal_data, config)
    yield "sizes", partial(by_size, config)
    yield "outputs", partial(by_output, config)
    yield "single steps", partial(by_step_injected, config)
    yield "last input", partial(carried_by_the_last_input, config)


# --- maps -----------------------------------------------------------------------------------------------------------


def maps(config: Config) -> list[dict]:
    """Rms error after some steps of each map, an error of rms 1 being added in every step."""
    shape = (config.repeats, 64 * DIMENSIONS)  # planes, as complex numbers
    rows = []
    for each in MAPS:
        for persistent in (True, False):
            rng = np.random.default_rng(config.seed)
            turn = np.exp(1j * rng.uniform(0, 2 * np.pi, shape)) if each.turned else 1.0
            error, once = np.zeros(shape, complex), complex_normal(rng, shape)
            for step in range(1, max(config.iterated) + 1):
                error = each.factor * turn * error + (once if persistent else complex_normal(rng, shape))
                if step in config.iterated:
                    row = {"kind": "map", "map": each.name, "persistent": persistent, "step": step}
                    row |= columns(rms=root_ratio(np.sum(np.abs(error) ** 2, axis=1), shape[1]))
                    coherent = persistent and not each.turned  # turned by all angles alike, powers add up
                    row["predicted_rms"] = theory.geometric_error(each.factor, step, persistent=coherent)
                    rows.append(row)
    return rows


def complex_normal(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.complex128]:
    """Complex numbers with E|z|^2 = 1."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


# --- the sampler ----------------------------------------------------------------------------------------------------


def row_of(of: Problem, found: Followed, about: dict[str, Any]) -> dict[str, Any]:
    """Identity and quality of samples, the relative error of the noise in a step, and how much of it arrives."""
    row = about | identity_and_quality(compared(of, found.exact, found.spoiled))
    of_step = root_ratio(found.squared_noise_errors, found.squared_noise)
    row |= columns(of_step=of_step)
    return row | {"arrives": row["rel_rms"] / of_step.value, "arrives_se": row["rel_rms_se"] / of_step.value}


def discretization(config: Config) -> list[dict]:
    """What the sampler itself is off at so many steps, beside EXACT_STEPS of them."""
    of, exact = problem(config.size), Kind("exact")
    reference = samples(config.size, of, exact, EXACT_STEPS).exact
    return [
        {"kind": "steps", "error": DISCRETIZATION, "steps": steps}
        | identity_and_quality(compared(of, reference, samples(config.size, of, exact, steps).exact))
        for steps in config.steps
    ]


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


def predicted_rms(kind: Kind, steps: int, std: float) -> NDArray[np.float64]:
    """Rms error of a coordinate after each step, for normal data of this standard deviation.

    The noise that is predicted is sqrt(1 - a) x / v with the variance v of noisy data, all of one sample along one
    line; so one matrix errs alike in every step.
    """
    shares = stable_diffusion_schedule(steps)
    factors, of_noise = theory.ddim_steps(shares, std)
    old = shares[:-1]
    variance = old * std**2 + 1 - old
    size = np.sqrt(variance[0]) * np.append(1.0, np.cumprod(factors[:-1]))  # rms of x before each step
    injected = of_noise * np.sqrt(1 - old) * size / variance * max(kind.persistent, kind.fresh)
    persistent = kind.persistent > 0
    ends = range(1, steps + 1)
    return np.array([theory.iterated_error(factors[:k], injected[:k], persistent=persistent) for k in ends])


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
STYLES_OF_MAPS = plotting.styles(each.name for each in MAPS)


def draw(rows: Rows) -> plotting.Figure:
    """Maps; the sampler along its steps, against their number, of one step; identity and quality; what accumulates."""
    figure, axes = plotting.figure(2, 3, height=5.0)
    of_maps(axes[0, 0], rows.where(kind="map"))
    along_the_steps(axes[0, 1], rows.where(kind="along"))
    against_steps(axes[0, 2], rows.where(kind="steps"))
    of_one_step(axes[1, 0], rows.where(kind="single"))
    identity_before_quality(axes[1, 1], rows)
    what_arrives(axes[1, 2], rows)
    handles = axes[0, 2].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncol=5, title="errors of the predicted noise (b to d)")
    plotting.letter(axes.ravel())
    return figure


def of_maps(ax: Axes, rows: Rows) -> None:
    """Error of each map against its steps, filled if it is the same in every step, open if fresh."""
    for name, style in STYLES_OF_MAPS.items():
        found = rows.where(map=name)
        plotting.measured(ax, found.where(persistent=True), "step", "rms", series=style)
        fresh = Style(style.color, style.marker)
        plotting.measured(ax, found.where(persistent=False), "step", "rms", series=fresh, markerfacecolor="w")
    ax.set(xscale="log", yscale="log", ylim=(0.7, 1e4), xlabel="steps of x ← a x\n● persistent, ○ fresh")
    ax.set_ylabel("error / error of one step, rms")
    ax.legend(loc="upper left")


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
    ax.set(xscale="log", yscale="log", ylim=(1e-5, 1e4), xlabel="relative error of the noise\n···· the sampler itself")
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
