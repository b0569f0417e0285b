"""How much do a UNet's numbers differ across channels, pixels and time, and what does precision by time step give back?

Method. Of every matrix of three trained UNets of digits: rms of its weights by input channel, by output channel and by
tap of the kernel. Of the inputs of every layer, on noisy held-out digits: rms by channel, by pixel and by time. Ratios
of the largest to the smallest say how much a shared scale has to span. Then samples of 20 steps whose network is
quantized in some steps and not in others: the share of the damage (squared median distance) that is given back.
Theory. Errors of one call go through a sampler of normal data (as in `diffusion_steps`), persistent where the network
is quantized and nothing elsewhere: keeping some steps takes their amplitudes away.
Expected. Weights differ by a factor of two to three across channels and taps, inputs by ten across channels, by two
across pixels and time. Errors are made early, where a sample's noise is large, and late steps forget them: the
first quarter of the steps gives back more than the last one, and steps kept at both ends a third.
Instead ranges differ less, by a factor of 1.2 to 1.7 in the median layer, but of 2.8 across channels of inputs; over
time only what the embedding of the time makes differs much. The first two steps of 20 give back half to three quarters,
as predicted: what is wrong while a sample is mostly noise stays wrong to its end.
Refuted if the last quarter of the steps gives back more than the first one: panel b.

Settles A56 and A67 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes
from quantsim.lab.study import Cell
from quantsim.models import unet as network
from quantsim.models.layers import linear
from quantsim.models.unet import Hooks
from quantsim.models.unet_sampling import Other
from quantsim.rows import Rows

from . import _unet as unet
from . import _unet_trajectory as trajectory
from ._unet import MODELS, STANDARD, TIMES, Subject

F64 = NDArray[np.float64]
SPECS = ("int8:tensor", "int4:block32")
QUARTER = STANDARD // 4
FIRST, LAST, EVEN = "first quarter", "last quarter", "every fourth"
#: Steps that are kept in bfloat16.
KEPT: dict[str, tuple[int, ...]] = {
    "first two": tuple(range(2)),
    FIRST: tuple(range(QUARTER)),
    "first half": tuple(range(2 * QUARTER)),
    "middle quarter": tuple(range(8, 8 + QUARTER)),
    EVEN: tuple(range(0, STANDARD, 4)),
    LAST: tuple(range(STANDARD - QUARTER, STANDARD)),
    "last two": tuple(range(STANDARD - 2, STANDARD)),
    "first and last two": (0, 1, STANDARD - 2, STANDARD - 1),
}
OF_WEIGHTS = ("input channel", "output channel", "tap")
OF_INPUTS = ("channel", "pixel", "time")
ONE_BIT = 2.0


@dataclass(frozen=True)
class Config:
    """Networks, specs, which steps are kept, numbers of samples and of digits."""

    models: tuple[str, ...] = MODELS
    specs: tuple[str, ...] = SPECS
    kept: tuple[str, ...] = tuple(KEPT)
    samples: int = 64
    digits: int = 32
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One network, one spec, few steps, samples and digits."""
        return cls(MODELS[:1], SPECS[1:], (FIRST, EVEN, LAST), samples=8, digits=4)


def measure(config: Config) -> Iterator[Cell]:
    """Cells of each network: ranges, and precision by step."""
    for model in config.models:
        yield f"{model}, ranges", partial(ranges, config, model)
        for spec in config.specs:
            yield f"{model}, {spec}", partial(by_step, config, model, spec)


# --- ranges ---------------------------------------------------------------------------------------------------------


def ranges(config: Config, model: str) -> list[dict[str, Any]]:
    """Largest over smallest rms of every matrix, and of the inputs of every layer."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    for name, w in unet.matrices(of.params).items():
        for axis, ratio in weight_ratios(np.asarray(w, np.float64), name in unet.kernels(of.config)).items():
            rows.append({"kind": "range", "model": model, "of": "weights", "layer": name, "axis": axis, "ratio": ratio})
    for name, squares in squares_of_inputs(of, config.digits).items():
        for axis, ratio in zip(OF_INPUTS, input_ratios(squares), strict=True):
            if ratio is not None:
                about = {"kind": "range", "model": model, "of": "inputs", "layer": name, "axis": axis, "ratio": ratio}
                rows.append(about)
    return rows


def weight_ratios(w: F64, is_kernel: bool) -> dict[str, float]:
    """Largest over smallest rms of a matrix (out, in taps) by each axis that it has."""
    by_axis = w.reshape(len(w), -1, 9 if is_kernel else 1)
    found = {name: spread(by_axis**2, axis) for name, axis in zip(OF_WEIGHTS, (1, 0, 2), strict=True)}
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def input_ratios(squares: F64) -> list[float | None]:
    """The same of inputs' mean squares (times, pixels, channels), by channel, pixel and time."""
    return [spread(squares, axis) for axis in (2, 1, 0)]


def spread(squares: F64, axis: int) -> float | None:
    """Largest over smallest rms along an axis; None where it has one place only."""
    if squares.shape[axis] == 1:
        return None
    others = tuple(k for k in range(squares.ndim) if k != axis)
    means = squares.mean(axis=others)
    return float(np.sqrt(means.max() / means.min()))


def squares_of_inputs(of: Subject, number: int) -> dict[str, F64]:
    """Mean squares over images of every layer's inputs, (times, pixels, channels); of a patch its middle pixel."""
    x, t = unet.noisy_images(unet.held_out(number), TIMES)
    kernels = unet.kernels(of.config)

    @jax.jit
    def observed(params: Any) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def observing(name: str, inputs: Array, w: Array) -> Array:
            seen = inputs.reshape(*inputs.shape[:-1], -1, 9)[..., 4] if name in kernels else inputs
            by_time = seen.reshape(len(TIMES), number, -1, seen.shape[-1])
            found[name] = (by_time**2).mean(axis=1)
            return linear(name, inputs, w)

        network.forward(params, x, t, of.config, hooks=Hooks(product=observing, unfolded=True))
        return found

    return {name: np.asarray(a, np.float64) for name, a in observed(of.params).items()}


# --- precision by step ----------------------------------------------------------------------------------------------


def by_step(config: Config, model: str, spec: str) -> list[dict[str, Any]]:
    """Damage given back where some steps are kept in bfloat16, beside the prediction."""
    of, rows = unet.subject(model, config.samples, config.seed), []
    params = unet.quantized(of, spec).params
    exact = unet.unquantized(model, config.samples, seed=config.seed)
    error = unet.predicted_noise(of, params, config.digits) - unet.reference_noise(model, config.digits)
    of_one_call = trajectory.along_directions(error)
    whole = float(np.median(unet.moved(exact, unet.images(of, params)).distance))
    for name in config.kept:
        at = np.isin(np.arange(STANDARD), KEPT[name])
        found = unet.moved(exact, unet.images(of, params, other=Other(of.params, at)))
        about = {"kind": "step", "model": model, "spec": spec, "kept": name, "share_of_steps": float(at.mean())}
        about |= {"given_back": 1 - (float(np.median(found.distance)) / whole) ** 2}
        about |= {"predicted_given_back": predicted(of_one_call, at)}
        rows.append(about | found.columns() | {"all_distance": whole})
    return rows


def predicted(of_one_call: F64, kept: NDArray[np.bool_]) -> float:
    """What the same errors at all steps but those that are kept leave, of all of them."""
    left, whole = (
        trajectory.predicted(of_one_call, len(kept), persistent=True, at=at)[-1] for at in (~kept, kept | True)
    )
    return float(1 - (left / whole) ** 2)


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(MODELS)
PLACES = {
    **{("weights", axis): k for k, axis in enumerate(OF_WEIGHTS)},
    **{("inputs", a): 3 + k for k, a in enumerate(OF_INPUTS)},
}


def draw(rows: Rows) -> plotting.Figure:
    """Ratios of rms by axis, and what keeping some steps gives back."""
    fig, axes = plotting.figure(1, 2, height=3.0)
    spans(axes[0, 0], rows.where(kind="range"))
    given_back(axes[0, 1], rows.where(kind="step", spec=SPECS[-1]))
    plotting.letter(axes[0])
    return fig


def spans(ax: Axes, rows: Rows) -> None:
    """Every layer a point, medians as bars."""
    for (of, axis), place in PLACES.items():
        found = rows.where(of=of, axis=axis)
        for offset, (model, style) in zip((-0.2, 0.0, 0.2), STYLES.items(), strict=True):
            values = found.where(model=model).column("ratio")
            ax.plot(values, np.full(len(values), place + offset), marker=".", ms=2, ls="none", color=style.color)
        ax.plot([np.median(found.column("ratio"))], [place], marker="|", ms=14, mew=1.5, color="0.1")
    ax.axvline(ONE_BIT, color="0.4", lw=0.8, ls=":")
    ax.set_yticks(range(len(PLACES)), [f"{of}, by {axis}" for of, axis in PLACES])
    ax.set(
        xscale="log",
        ylim=(len(PLACES) - 0.4, -0.6),
        xlabel="largest / smallest rms, every layer\n(bar: median; dotted: one bit, A56)",
    )


def given_back(ax: Axes, rows: Rows) -> None:
    """Share of the damage against the share of the steps, predictions as bars."""
    names = rows.values("kept")
    for model, style in STYLES.items():
        found = rows.where(model=model)
        plotting.dots(ax, found, "given_back", [names.index(r["kept"]) for r in found], series=style, ms=3)
    for place, name in enumerate(names):
        ax.plot(rows.where(kept=name).column("share_of_steps")[:1], [place], marker="x", ms=4, color="0.2", ls="none")
    ax.set_yticks(range(len(names)), names)
    ax.set(
        ylim=(len(names) - 0.4, -0.6),
        xlabel="int4 damage given back by bf16 steps\n(bar: predicted, cross: their share, A67)",
    )
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.13))


# --- the verdicts ---------------------------------------------------------------------------------------------------


def differ(rows: Rows) -> float:
    """Share of layers × (weights by channel, tap; inputs by channel, pixel, time) × trainings that span a bit."""
    return share(r["ratio"] >= ONE_BIT for r in rows.where(kind="range"))


def timing_helps(rows: Rows) -> float:
    """Share of specs × trainings in which a quarter at one end gives back more than as many steps spread evenly."""
    cases = []
    for found in rows.where(kind="step").groups("model", "spec").values():
        given = found.by("kept", "given_back")
        cases.append(max(given[FIRST], given[LAST]) > given[EVEN])
    return share(cases)


CLAIMS = (
    Claim(
        "A56",
        statement="weights/activations differ across channel, space, timestep",
        definition="share of layers × (weights by input channel, output channel, tap of the kernel; inputs by channel, "
        "pixel, time) × three trainings whose largest rms is at least twice the smallest",
        number=differ,
        rule=share_of_cases("they differ by a bit, so that a shared scale costs some of them one"),
        reading="nearly all differ across channels; across pixels and time it depends on the layer",
    ),
    Claim(
        "A67",
        statement="diffusion-specific methods (timestep-aware …) exist",
        definition="share of (int8 with one scale, int4 blocks) × three trainings in which bfloat16 in the first or "
        "the last quarter of 20 steps gives back more of the damage than in as many steps spread evenly",
        number=timing_helps,
        rule=share_of_cases("knowing the time step helps"),
        reading="they are published (PTQ4DM, arXiv:2211.15736; Q-Diffusion, arXiv:2302.04304; TDQ, arXiv:2306.02316); "
        "here it matters which steps are kept",
    ),
)
