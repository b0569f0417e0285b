"""How many steps does a UNet's sampler need, and do errors of quantized weights compound over them?

Method. Three trained UNets of digits draw samples in 5 to 100 steps of DDIM and of DPM-Solver++(2M), unquantized, and
from the same noise with quantized weights. The median distance from 200 steps is the sampler's own error; that from the
unquantized network in as many steps is the quantizer's. At 20 and 50 steps of DDIM it is followed step by step.
Theory. Errors of the predicted noise in one call, at each time and along each principal direction of the digits, go
through a sampler of normal data with that covariance: amplitudes add up if a sample's error stays the same at all
steps, powers if it is another one at each.
Expected. A step of T takes 1 / T of the noise away, so that errors of weights end the same for any number of steps and
solver, as persistent ones do; near the persistent line, and far above the fresh one at 50 steps. The second-order
solver needs 10 steps where DDIM needs 20 to 50.
Instead errors of weights fall by half from 5 steps to 50, and the second-order solver needs 18. Step by step they
follow the persistent line to a few percent for half of the way, though nothing in it is fitted; then they stay level,
where it rises a little, as errors at late times are not those at early ones.
Refuted if the error at 50 steps exceeds that at 10 by a half: panel b.

`iteration` asks of an exact score whether errors accumulate, this study of networks.
Settles A34 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns
from quantsim.models import unet_sampling
from quantsim.models.layers import linear
from quantsim.models.samplers import Carried
from quantsim.models.sampling_plans import Solver
from quantsim.models.unet import Hooks
from quantsim.rows import Rows

from . import _unet as unet
from . import _unet_trajectory as trajectory
from ._unet import MODELS, STANDARD

SOLVERS: tuple[Solver, ...] = ("ddim", "dpm++2m")
FORMATS = ("q8_0", "int8:tensor", "int4:block32")
EXACT_STEPS = 200  # of the second-order solver: what fewer are compared with
FOLLOWED = (STANDARD, 50)
INVISIBLE = 40.0  # decibels above which differences are usually called invisible
STATED = (20, 50)


@dataclass(frozen=True)
class Config:
    """Networks, formats, steps, those that are followed one by one, numbers of samples and of digits."""

    models: tuple[str, ...] = MODELS
    formats: tuple[str, ...] = FORMATS
    steps: tuple[int, ...] = (5, 10, 20, 50, 100)
    quantized_steps: tuple[int, ...] = (5, 10, 20, 50)
    followed: tuple[int, ...] = FOLLOWED
    samples: int = 64
    digits: int = 32
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One network, two formats, few steps and samples."""
        return cls(MODELS[:1], FORMATS[:2], (5, 20), (5, 20), (STANDARD,), samples=8, digits=4)


def measure(config: Config) -> Iterator[Cell]:
    """Cells of each network: the sampler itself, and every format."""
    for model in config.models:
        yield f"{model}, sampler", partial(sampler_itself, config, model)
        for name in config.formats:
            yield f"{model}, {name}", partial(one_format, config, model, name)
            yield f"{model}, {name}, step by step", partial(step_by_step, config, model, name)


# --- what is measured -----------------------------------------------------------------------------------------------


def sampler_itself(config: Config, model: str) -> list[dict[str, Any]]:
    """Each solver at each number of steps beside 200 steps, and how often it calls the network."""
    exact = unet.unquantized(model, config.samples, EXACT_STEPS, "dpm++2m", config.seed)
    rows = []
    for solver in SOLVERS:
        for steps in config.steps:
            drawn = unet.unquantized(model, config.samples, steps, solver, config.seed)
            about = {"kind": "sampler", "model": model, "solver": solver, "steps": steps}
            about["calls"] = steps * calls_in_a_step(config, model, solver)
            rows.append(about | unet.moved(exact, drawn).columns())
    return rows


def calls_in_a_step(config: Config, model: str, solver: Solver) -> int:
    """How often a step of a solver goes through the network: through its first convolution."""
    of, called = unet.subject(model, config.samples, config.seed), []

    def counting(name: str, x: Array, w: Array) -> Array:
        called.append(name)
        return linear(name, x, w)

    hooks = Hooks(product=counting, unfolded=True)
    step = partial(unet_sampling.step, plan=unet.plan_of(STANDARD, solver), number=0, config=of.config, hooks=hooks)
    jax.eval_shape(step, of.params, Carried(of.start, of.start))
    return called.count("conv_in")


def one_format(config: Config, model: str, name: str) -> list[dict[str, Any]]:
    """What a format moves in each solver at each number of steps, beside the same solver unquantized."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    params = unet.quantized(of, name).params
    for solver in SOLVERS:
        for steps in config.quantized_steps:
            exact = unet.unquantized(model, config.samples, steps, solver, config.seed)
            found = unet.moved(exact, unet.images(of, params, steps, solver=solver))
            about = {"kind": "format", "model": model, "format": name, "solver": solver, "steps": steps}
            rows.append(about | found.columns())
    return rows


def step_by_step(config: Config, model: str, name: str) -> list[dict[str, Any]]:
    """Error of a pixel after each step of DDIM, rms of the median sample, beside the two predictions."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    params = unet.quantized(of, name).params
    exact = unet.reference_noise(model, config.digits)
    of_one_call = trajectory.along_directions(unet.predicted_noise(of, params, config.digits) - exact)
    for steps in config.followed:
        error = unet.states(of, params, steps) - unet.states(of, of.params, steps)
        by_sample = np.sqrt(np.mean(error**2, axis=(2, 3, 4)))
        persistent, fresh = (trajectory.predicted(of_one_call, steps, persistent=p) for p in (True, False))
        for step in range(1, steps + 1):
            about = {"kind": "along", "model": model, "format": name, "steps": steps, "step": step}
            about |= {"persistent": float(persistent[step]), "fresh": float(fresh[step])}
            rows.append(about | columns(error=unet.median(by_sample[step])))
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    "sampler": Style(plotting.BLACK, "P", "the sampler itself"),
    "q8_0": Style(plotting.GREEN, "^"),
    "int8:tensor": Style(plotting.VERMILION, "s"),
    "int4:block32": Style(plotting.BLUE, "o"),
}
LINES = {"ddim": "-", "dpm++2m": ":"}


def draw(rows: Rows) -> plotting.Figure:
    """Error against steps, of the sampler and of formats, and step by step."""
    fig, axes = plotting.figure(1, 3, height=2.9)
    sampler_against_steps(axes[0, 0], rows.where(kind="sampler"))
    formats_against_steps(axes[0, 1], rows.where(kind="format"))
    along(axes[0, 2], rows.where(kind="along", steps=STANDARD))
    plotting.letter(axes[0])
    return fig


def over_trainings(rows: Rows, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean of a column over trainings."""
    found = rows.groups("steps")
    return np.array([steps for (steps,) in found]), np.array([g.column(column).mean() for g in found.values()])


def sampler_against_steps(ax: Axes, rows: Rows) -> None:
    """PSNR of fewer steps beside 200, every training a point."""
    for color, solver in zip((plotting.BLACK, plotting.PURPLE), SOLVERS, strict=True):
        found = rows.where(solver=solver)
        plotting.points(ax, found, "steps", "psnr", series=Style(color))
        ax.plot(*over_trainings(found, "psnr"), color=color, ls=LINES[solver], label=solver)
    ax.axhline(INVISIBLE, color="0.4", lw=0.8, ls="--")
    ax.axvspan(*STATED, color="0.93", lw=0)
    ax.set(xscale="log", xlabel="steps (A34: grey)", ylabel="PSNR against 200 steps (dB)")
    ax.set_xticks((5, 10, 20, 50, 100), ("5", "10", "20", "50", "100"))
    ax.minorticks_off()
    ax.legend(loc="upper left")


def formats_against_steps(ax: Axes, rows: Rows) -> None:
    """Distance that each format makes, by solver."""
    for name, style in STYLES.items():
        for solver in SOLVERS:
            if found := rows.where(format=name, solver=solver):
                label = name if solver == "ddim" else None
                steps, mean = over_trainings(found, "distance")
                ax.plot(steps, mean, color=style.color, ls=LINES[solver], marker=style.marker, ms=3, label=label)
    ax.set(xscale="log", yscale="log", xlabel="steps (dotted: dpm++2m)", ylabel="median distance / image")
    ax.set_xticks((5, 10, 20, 50), ("5", "10", "20", "50"))
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.legend(loc="center right")


def along(ax: Axes, rows: Rows) -> None:
    """Error of a pixel step by step, between what persistent and fresh errors would make."""
    for name, style in STYLES.items():
        found = rows.where(format=name)
        if found:
            steps = found.values("step")
            mean = {
                c: np.array([found.where(step=step).column(c).mean() for step in steps])
                for c in ("error", "persistent", "fresh")
            }
            ax.fill_between(steps, mean["fresh"], mean["persistent"], color=style.color, alpha=0.15, lw=0)
            ax.plot(steps, mean["error"], color=style.color, marker=style.marker, ms=2.6)
    ax.set(yscale="log", xlabel=f"step of {STANDARD}", ylabel="error of a pixel, rms")
    plotting.note(ax, 0.97, 0.03, "bands: fresh to\npersistent errors", transform=ax.transAxes, ha="right")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def steps_needed(rows: Rows) -> float:
    """Steps from which the median sample is 40 dB or more from 200 steps, interpolated in their logarithm."""
    steps, psnr = np.log(rows.column("steps")), rows.column("psnr")
    return float(np.exp(np.interp(INVISIBLE, psnr, steps)))


def as_stated(rows: Rows) -> float:
    """Share of solvers × trainings × (20 to 50 steps are needed; the network is called once a step)."""
    cases = []
    for found in rows.where(kind="sampler").groups("model", "solver").values():
        cases.append(STATED[0] <= steps_needed(found) <= STATED[1])
        cases.append(all(r["calls"] == r["steps"] for r in found))
    return share(cases)


CLAIMS = (
    Claim(
        "A34",
        statement="sampling takes 20–50 steps, UNet called each step",
        definition="share of (DDIM, DPM-Solver++(2M)) × three trainings × (the fewest steps whose median sample lies "
        "40 dB or more from that of 200 steps are 20 to 50; the network is called once in each)",
        number=as_stated,
        rule=share_of_cases("the steps that are needed, or the calls that are counted, are those stated"),
        reading="the network is called once a step; 20 to 50 of them are what DDIM needs, and a solver of second order "
        "fewer",
    ),
)
