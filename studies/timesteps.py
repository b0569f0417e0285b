"""Does the input of a diffusion model need another int8 scale at every step, and what do few scales cost?

Method. Data x₀ of standard deviation 1/2, normal or with rare large features (1 % of the pixels ten times as large),
become x = c(σ) (x₀ + σ n) with white normal noise n, at the 20 noise levels σ from 80 down to 0.002 of EDM's schedule.
The input scaling c is 1 (VE), 1 / √(1 + σ²) (VP) or 1 / √(σ² + 1/4) (EDM, which so gives its network unit variance).
int8 takes one static scale for all steps, from the largest value or the 99.9th percentile of calibration data, one
for each of four groups of steps, or dynamic scales, of each image or each block of 32 pixels (q8_0's).
Theory. x is normal, or a mixture of two normals; from that follow the largest of n values (``theory.expected_absmax``),
the error at a given scale (``int_mse``) and at that of the image itself (``weight_rel_mse``).
Expected. The range follows √(σ² + 1/4) c(σ): hugely with VE, by a factor of two with VP, not at all with EDM. One
static scale fails with VE, costs a bit at the clean end of VP and nothing with EDM; four are too few for VE. Dynamic
scales lose nothing anywhere; a percentile cuts off the large features. Even with dynamic scales the error of int8
exceeds the noise that the last steps are to remove.
Instead EDM is no cure where data have rare large features: it fixes the variance of its inputs, but not their shape,
which noise makes normal and data do not; the range falls fivefold, and one static scale costs two bits.
Refuted if four static scales come within one bit of dynamic ones with VE: panel b.

Settles A44, A45, A46 and A64 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import nan, sqrt
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import NDArray

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import columns, mean, ratio, root_ratio
from quantsim.populations import Mixture, Normal, Population
from quantsim.quantizer import Quantizer, parse
from quantsim.quantizer.scaled_blocks import calibrated, nearest, outside
from quantsim.rows import Rows
from quantsim.sweep import population_key

DATA_STD = 0.5  # of images in [-1, 1], for which EDM was made
LEVELS = (0.002, 80.0)  # least and largest noise level σ of EDM's schedule, whose levels are even in σ^(1/7)
CURVATURE = 7.0
FEATURES, LARGER = 0.01, 10.0  # share of the pixels that are large features, and times the std of the others
BLOCK = 32  # pixels, as in q8_0
GROUPS = 4  # of consecutive steps: what "few scales" is
HUGELY = 10.0  # times the smallest range
TWICE = 2.0  # times an error: one bit
EASILY = 0.01  # share of the large features that are clipped


@dataclass(frozen=True)
class Scaling:
    """c(σ) = 1 / √(noise σ² + constant), what noisy data are multiplied with before the network sees them."""

    name: str
    noise: float
    constant: float

    def factor(self, level: Any) -> Any:
        """c at a noise level."""
        return 1 / np.sqrt(self.noise * level**2 + self.constant)


VE = Scaling("VE: not scaled", noise=0.0, constant=1.0)
VP = Scaling("VP", noise=1.0, constant=1.0)
EDM = Scaling("EDM", noise=1.0, constant=DATA_STD**2)
SCALINGS = (VE, VP, EDM)


@dataclass(frozen=True)
class Data:
    """Pixels of variance ``DATA_STD``²: normal ones, a share of which is larger."""

    name: str
    features: float = 0.0  # share
    larger: float = 1.0  # times the std of the others

    @property
    def bulk_std(self) -> float:
        """Standard deviation of the pixels that are no features."""
        return DATA_STD / sqrt(1 - self.features + self.features * self.larger**2)

    def noisy(self, level: float) -> Population:
        """Law of x₀ + σ n."""
        if not self.features:
            return Normal(float(np.hypot(self.bulk_std, level)))
        stds = (np.hypot(self.bulk_std, level), np.hypot(self.larger * self.bulk_std, level))
        return Mixture((1 - self.features, self.features), tuple(Normal(float(s)) for s in stds))


NORMAL, RARE = Data("normal data"), Data("rare large features", FEATURES, LARGER)
DATA = (NORMAL, RARE)


@dataclass(frozen=True)
class Scheme:
    """Which values share a scale, and the rule that finds it, from calibration data or from the values themselves."""

    name: str
    quantizer: Quantizer
    share: Literal["all steps", "group", "image", "block"]

    @property
    def static(self) -> bool:
        """Whether the scale is found beforehand."""
        return self.share in ("all steps", "group")


def scaled(spec: str) -> Quantizer:
    """A quantizer of scaled elements, whose scales can be found and given apart."""
    q = parse(spec)
    assert isinstance(q, Quantizer)
    return q


ABSMAX, PERCENTILE = scaled("int8:tensor"), scaled("int8:tensor:p99.9")
ONE = Scheme("one static scale", ABSMAX, "all steps")
ONE_PERCENTILE = Scheme("one static, 99.9 %", PERCENTILE, "all steps")
FEW = Scheme("four static scales", ABSMAX, "group")
DYNAMIC = Scheme("dynamic, image", ABSMAX, "image")
DYNAMIC_PERCENTILE = Scheme("dynamic, 99.9 %", PERCENTILE, "image")
BLOCKS = Scheme("dynamic, 32 pixels (q8_0)", ABSMAX, "block")
SCHEMES = (ONE, ONE_PERCENTILE, FEW, DYNAMIC, DYNAMIC_PERCENTILE, BLOCKS)


@dataclass(frozen=True)
class Config:
    """Steps of the schedule, images at each of them (as many again for calibration), and pixels of an image."""

    steps: int = 20
    images: int = 8
    pixels: int = 4096
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer steps, fewer and smaller images."""
        return cls(steps=8, images=4, pixels=1024)

    def levels(self) -> NDArray[np.float64]:
        """Noise levels σ, falling, as Karras et al. (arXiv:2206.00364) space them: even in σ^(1/7)."""
        first, last = LEVELS[1] ** (1 / CURVATURE), LEVELS[0] ** (1 / CURVATURE)
        return np.linspace(first, last, self.steps) ** CURVATURE


def measure(config: Config) -> Iterator[Cell]:
    """One cell for each kind of data and each input scaling."""
    for data in DATA:
        for scaling in SCALINGS:
            yield f"{data.name}, {scaling.name}", partial(each_scheme, config, data, scaling)


class Inputs(NamedTuple):
    """Inputs of the network at every step, and which pixels are large features, the same at every step."""

    values: Float[Array, "steps images pixels"]
    is_feature: Bool[Array, "images pixels"]


@lru_cache(4)
def drawn(config: Config, data: Data, scaling: Scaling, purpose: str) -> Inputs:
    """A function of the seed, the kind of data and the purpose: all scalings see the same data and noise."""
    x0, noise, chance = (
        Normal().sample(population_key(config.seed, f"{data.name} {purpose} {what}"), (config.images, config.pixels))
        for what in ("data", "noise", "features")
    )
    is_feature = chance > float(Normal().quantile(1 - data.features)) if data.features else chance > jnp.inf
    x0 = x0 * data.bulk_std * jnp.where(is_feature, data.larger, 1.0)
    level = jnp.asarray(config.levels(), jnp.float32)[:, None, None]
    factor = jnp.asarray(scaling.factor(config.levels()), jnp.float32)[:, None, None]
    return Inputs(factor * (x0[None] + level * noise[None]), is_feature)


def each_scheme(config: Config, data: Data, scaling: Scaling) -> list[dict[str, Any]]:
    """The range of the inputs and the error of every scheme, at every step."""
    inputs = drawn(config, data, scaling, "test")
    known = drawn(config, data, scaling, "calibration").values
    about = {"data": data.name, "scaling": scaling.name}
    rows = ranges(config, data, scaling, inputs)
    for scheme in SCHEMES:
        scales = scales_of(scheme, known if scheme.static else inputs.values)
        found = errors(scheme, config, data, scaling, inputs, scales)
        rows += [{"kind": "error", "scheme": scheme.name} | row for row in found]
    return [about | row for row in rows]


def ranges(config: Config, data: Data, scaling: Scaling, inputs: Inputs) -> list[dict[str, Any]]:
    """Largest magnitude of an image at each step, in units of the network's input."""
    top = np.abs(np.asarray(inputs.values, np.float64)).max(axis=-1)
    rows = []
    for level, of_images in zip(config.levels(), top, strict=True):
        predicted = scaling.factor(level) * theory.expected_absmax(data.noisy(level), config.pixels)
        rows.append({"kind": "range", "level": level, "predicted_range": predicted} | columns(range=mean(of_images)))
    return rows


def scales_of(scheme: Scheme, x: Float[Array, "steps images pixels"]) -> Float[Array, "steps images blocks"]:
    """The scale that each image has at each step, or each block of it."""
    steps, images, pixels = x.shape
    if scheme.share == "block":
        return found_scales(scheme.quantizer, x.reshape(-1, BLOCK)).reshape(steps, images, pixels // BLOCK)
    if scheme.share == "image":
        return found_scales(scheme.quantizer, x.reshape(-1, pixels)).reshape(steps, images, 1)
    groups = GROUPS if scheme.share == "group" else 1
    of_groups = found_scales(scheme.quantizer, x.reshape(groups, -1))
    return jnp.broadcast_to(jnp.repeat(of_groups, steps // groups)[:, None, None], (steps, images, 1))


@partial(jax.jit, static_argnums=0)
def found_scales(q: Quantizer, groups: Float[Array, "groups size"]) -> Float[Array, "groups 1"]:
    """The scale of each row by the rule of the quantizer."""
    return calibrated(q, groups, groups.shape[1])[0]


class Sums(NamedTuple):
    """Sums over the pixels of each image at each step."""

    squared_errors: Float[Array | np.ndarray, "..."]
    squared_values: Float[Array | np.ndarray, "..."]
    clipped: Float[Array | np.ndarray, "..."]
    clipped_features: Float[Array | np.ndarray, "..."]


@jax.jit
def sums(inputs: Inputs, scales: Float[Array, "steps images blocks"]) -> Sums:
    """Squared errors with the scales given, and how many values lie beyond the last code, features counted apart."""
    x = inputs.values
    blocks, each = x.reshape(scales.size, -1), scales.reshape(-1, 1)
    e = error(blocks, nearest(ABSMAX, blocks, each)).reshape(x.shape)
    beyond = outside(ABSMAX, blocks, each).reshape(x.shape)
    return Sums(
        squared_errors=jnp.sum(e**2, axis=-1),
        squared_values=jnp.sum(x**2, axis=-1),
        clipped=jnp.sum(beyond, axis=-1).astype(jnp.float32),
        clipped_features=jnp.sum(beyond & inputs.is_feature[None], axis=-1).astype(jnp.float32),
    )


def errors(
    scheme: Scheme, config: Config, data: Data, scaling: Scaling, inputs: Inputs, scales: Array
) -> list[dict[str, Any]]:
    """Relative rms error of the input, its ratio to the noise in it, and shares that are clipped, at each step."""
    found = Sums(*(np.asarray(a, np.float64) for a in sums(inputs, scales)))
    features = np.asarray(inputs.is_feature, np.float64).sum(axis=-1)
    rows = []
    for step, level in enumerate(config.levels()):
        of_step = Sums(*(a[step] for a in found))
        noise_power = config.pixels * (scaling.factor(level) * level) ** 2
        row = columns(
            rel_rms=root_ratio(of_step.squared_errors, of_step.squared_values),
            to_noise=root_ratio(of_step.squared_errors, np.full(config.images, noise_power)),
            clipped=ratio(of_step.clipped, config.pixels),
            clipped_features=ratio(of_step.clipped_features, features),
        )
        reach = 127 * float(np.asarray(scales[step, 0, 0])) / scaling.factor(level) if scheme.static else None
        predicted = predicted_rel_rms(scheme, data, level, reach, config.pixels)
        rms = np.sqrt(DATA_STD**2 + level**2)
        rows.append(
            {"level": level} | row | {"predicted_rel_rms": predicted, "predicted_to_noise": predicted * rms / level}
        )
    return rows


def predicted_rel_rms(scheme: Scheme, data: Data, level: float, reach: float | None, pixels: int) -> float:
    """Relative rms error from the law of the inputs; a static scale's ``reach``, 127 times it, is taken as found."""
    pop = data.noisy(level)
    if reach is not None:
        return float(np.sqrt(theory.int_mse(pop, reach, bits=8) / pop.moment(2)))
    size = BLOCK if scheme.share == "block" else pixels
    if data is NORMAL:
        pop = Normal()  # relative errors of dynamic scales are those of any normal values
    elif scheme is DYNAMIC_PERCENTILE:
        return nan  # a second of quadrature for each step, and not in the figure
    return float(np.sqrt(theory.weight_rel_mse(pop, scheme.quantizer, (size,))))


# --- the figure -----------------------------------------------------------------------------------------------------

OF_SCALING = plotting.styles(scaling.name for scaling in SCALINGS)
OF_SCHEME = plotting.styles(scheme.name for scheme in SCHEMES)
LEVEL = "noise level σ"


def draw(rows: Rows) -> plotting.Figure:
    """Range; errors with VE, VP and EDM; error over noise; clipped features."""
    fig, axes = plotting.figure(2, 3, height=5.2)
    ranges_by_scaling(axes[0, 0], rows.where(kind="range", data=NORMAL.name))
    found = rows.where(kind="error")
    relative_errors(axes[0, 1], found.where(data=NORMAL.name, scaling=VE.name), f"{VE.name}, normal (A45, A64)")
    relative_errors(axes[0, 2], found.where(data=NORMAL.name, scaling=VP.name), f"{VP.name}, normal data")
    relative_errors(axes[1, 0], found.where(data=RARE.name, scaling=EDM.name), f"{EDM.name}, large features")
    error_over_noise(axes[1, 1], found.where(data=NORMAL.name, scaling=VE.name))
    clipped_features(axes[1, 2], found.where(data=RARE.name, scaling=EDM.name))
    handles, labels = axes[0, 1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncol=3, title="int8 scales in panels b to f")
    plotting.letter(axes.ravel())
    return fig


def over_level(ax: plotting.Axes, rows: Rows, column: str, by: str, styles: dict[str, Style], **look: Any) -> None:
    """A column against the noise level, over what theory predicts."""
    plotting.family(ax, rows, "level", column, by=by, styles=styles)
    ax.set(xscale="log", yscale="log", xlabel=LEVEL, **look)


def ranges_by_scaling(ax: plotting.Axes, rows: Rows) -> None:
    """The largest value of an image."""
    over_level(ax, rows, "range", "scaling", OF_SCALING, ylabel="largest |x| of an image")
    not_scaled = rows.where(scaling=VE.name).column("range")
    plotting.note(ax, 0.03, 0.93, f"A44: VE ×{not_scaled.max() / not_scaled.min():.0f}", transform=ax.transAxes)
    ax.legend(loc="center left")


def relative_errors(ax: plotting.Axes, rows: Rows, title: str) -> None:
    """Relative error of every scheme, on one vertical axis in all panels."""
    over_level(ax, rows, "rel_rms", "scheme", OF_SCHEME, ylabel="error / input, rms", ylim=(2e-3, 3))
    plotting.note(ax, 0.97, 0.93, title, transform=ax.transAxes, ha="right")


def error_over_noise(ax: plotting.Axes, rows: Rows) -> None:
    """Error of int8 over the noise that is in the input."""
    over_level(ax, rows, "to_noise", "scheme", OF_SCHEME)
    ax.axhline(1.0, color="0.4", lw=0.9, ls=":")
    plotting.note(ax, 0.97, 0.93, f"{VE.name}, normal data", transform=ax.transAxes, ha="right")
    ax.set(ylabel="error / noise in the input, rms")


def clipped_features(ax: plotting.Axes, rows: Rows) -> None:
    """Share of the large features that int8 clips."""
    for scheme in SCHEMES:
        found = rows.where(scheme=scheme.name)
        x, y, se = (found.column(name) for name in ("level", "clipped_features", "clipped_features_se"))
        plotting.curve(ax, x, 100 * y, se=100 * se, series=OF_SCHEME[scheme.name])
    ax.set(xscale="log", xlabel=LEVEL, ylabel="large features clipped (%)", ylim=(-2, 45))
    plotting.note(ax, 0.97, 0.93, "EDM, large features (A46)", transform=ax.transAxes, ha="right")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def range_varies(rows: Rows) -> float:
    """Share of the input scalings × data with which the range at one step is ten times that at another."""
    found = rows.where(kind="range").groups("data", "scaling").values()
    return share(of_steps.column("range").max() >= HUGELY * of_steps.column("range").min() for of_steps in found)


def worst(rows: Rows) -> dict[str, float]:
    """For each scheme the relative error at the step where it is largest."""
    return {scheme: max(r["rel_rms"] for r in rows.where(scheme=scheme)) for scheme in rows.values("scheme")}


def fails(rows: Rows) -> float:
    """Share of scalings × data × (one, four static scales) with twice the error of dynamic ones at some step."""
    found = []
    for of_case in rows.where(kind="error").groups("data", "scaling").values():
        dynamic = of_case.where(scheme=DYNAMIC.name).by("level", "rel_rms")
        for scheme in (ONE, FEW):
            static = of_case.where(scheme=scheme.name).by("level", "rel_rms")
            found.append(any(static[level] > TWICE * dynamic[level] for level in dynamic))
    return share(found)


def clips(rows: Rows) -> float:
    """Share of scalings × schemes that clip one of a hundred large features at some step."""
    found = rows.where(kind="error", data=RARE.name).groups("scaling", "scheme").values()
    return share(of_steps.column("clipped_features").max() > EASILY for of_steps in found)


def helps(rows: Rows) -> float:
    """Share of scalings × data × (dynamic, percentile) that halve the largest error of one static absmax scale."""
    found = []
    for of_case in rows.where(kind="error").groups("data", "scaling").values():
        largest = worst(of_case)
        found += [TWICE * largest[s.name] <= largest[ONE.name] for s in (DYNAMIC, ONE_PERCENTILE)]
    return share(found)


# Each number is a share of cases: a statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A44",
        statement="UNet input range varies hugely with t",
        definition="share of (VE, VP, EDM) × (normal data, rare large features) with which the largest |x| of an "
        "image, mean over images, is at some step ten times that at another",
        number=range_varies,
        rule=share_of_cases("the ranges differ tenfold"),
        reading="only for inputs that are not scaled (VE); VP's range changes by a factor of two, and EDM's, of "
        "unit variance, not at all for normal data and fivefold where features are rare and large",
    ),
    Claim(
        "A45",
        statement="q8_0 cannot use one/few scales to cover all timesteps",
        definition="share of (VE, VP, EDM) × data × (one, four static int8 scales) with more than twice the relative "
        "rms error of a dynamic scale at some step",
        number=fails,
        rule=share_of_cases("static scales cost a bit or more at some step"),
        reading="true of static scales unless inputs have one variance and one shape at all steps; q8_0 itself has a "
        "scale for every 32 values, found anew at every step, and loses nothing at any",
    ),
    Claim(
        "A46",
        statement="int8 range −128…127 easily clips important activation outliers",
        definition="share of (VE, VP, EDM) × six ways to find the scale with which more than 1 % of the rare large "
        "features lie beyond the last code at some step",
        number=clips,
        rule=share_of_cases("one of a hundred is clipped"),
        reading="the range of the codes clips nothing, a scale does: percentiles cut off a tenth to a third of the "
        "large features, the largest value of other images one or two of a hundred, that of the image itself none",
    ),
    Claim(
        "A64",
        statement="mitigation: dynamic / percentile activation scales",
        definition="share of (VE, VP, EDM) × data × (dynamic scale of each image, static 99.9th percentile) whose "
        "largest relative rms error over the steps is at most half that of one static absmax scale",
        number=helps,
        rule=share_of_cases("the largest error is halved"),
        reading="dynamic scales cure what one static scale spoils, where the variance of inputs changes from step to "
        "step; percentiles cure nothing",
    ),
)
