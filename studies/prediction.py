"""Is every error what theory says it must be, for every format, population and granularity?

Method. ``theory.weight_rel_mse`` computes the relative mean squared error of an infinite population from the density
and the facts of the quantizer alone: no weight is drawn, nothing is rounded. Here each pair of population and quantizer
gets weights of its own, so that no two residuals share their luck, and is measured with the package's quantizers;
arrays are the units of the standard error. The residual is (measured - predicted) / standard error.
Expected. If both sides are right, the residuals are independent and standard normal: mean 0, standard deviation 1, as
many beyond 2 and 3 as there should be.
Refuted, for the pair, by a residual that so many draws do not explain; for theory or quantizers as a whole, by a
Kolmogorov-Smirnov test. Heavy tails stop at Student's t with 12 degrees of freedom, because the residual of a mean
whose terms have hardly a variance is not normal. Pairs without theory are left out: searched scales, and the rms of
weights with rare outliers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import numpy as np
from scipy import stats

from quantsim import quantizer, theory
from quantsim.lab import plotting
from quantsim.lab.plotting import COLORS, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, mean
from quantsim.measure.squares import squares
from quantsim.populations import parse, samples
from quantsim.rows import Rows
from quantsim.sweep import array_keys

POPULATIONS = (
    "normal",
    "laplace",
    "uniform",
    "t12",
    "gennorm(beta=0.7)",
    "mixture(0.9*normal+0.1*normal(std=3))",
    "normal+outliers(rate=0.01,magnitude=20)",
    "laplace+outliers(rate=0.003,magnitude=30,sign=positive,values=spread)",
)
GROUPS = {
    "casts": (
        *("bf16", "f16", "tf32", "e5m2", "e4m3", "e3m4", "e3m2", "e2m3", "e2m1"),
        *("bf16:stochastic", "bf16:truncate"),
    ),
    "integers": tuple(f"int{bits}:{cut}" for bits in range(2, 9) for cut in ("tensor", "channel", "block32")),
    "bounds, rounding": (
        *(f"int4:block32:absmax:{bounds}" for bounds in ("half", "full", "signed")),
        "int8:channel:absmax:half",
        "int8:block32:absmax:stochastic",
        "int4:block32:absmax:stochastic",
        "int8:block32:absmax:truncate",
        "int4:channel:absmax:truncate",
    ),
    "stored scales": (
        *(f"int8:block32:absmax:{scale}" for scale in ("f16", "bf16", "e4m3")),
        "int4:block32:absmax:f16:signed",
        "e2m1:block16:absmax:e4m3",
        "nf4:block64:absmax:e5m2",
    ),
    "minmax": (
        *("int8:tensor:minmax", "int8:channel:minmax", "int6:block32:minmax", "int4:block32:minmax"),
        *("int4:block32:minmax:f16", "int2:block32:minmax"),
    ),
    "percentiles, rms": (
        *("int8:tensor:p99", "int4:channel:p99.9", "int4:block32:p90"),
        *("int8:tensor:rms", "int4:tensor:rms"),
    ),
    "scaled floats": (
        *("e5m2:tensor", "e4m3:tensor", "e4m3:channel", "e4m3:block32", "e3m4:block32", "e2m1:block32", "f16:channel"),
    ),
    "codebooks": ("nf4:block64", "af4:block64", "fp4:block64", "nf4:channel", "nf4:tensor"),
    "MX, NVFP4": (
        *("mxfp4", "mxfp4:ceil", "mxfp4:even", "mxfp4:rceil", "mxfp6_e2m3", "mxfp6_e3m2"),
        *("mxfp8_e4m3", "mxfp8_e4m3:rceil", "mxfp8_e5m2", "mxint8", "nvfp4", "nvfp4:single"),
    ),
    "wide, unsigned, fnuz": (
        *("int12:block32", "int16:channel", "int12:channel:minmax", "uint4:block32", "uint8:channel"),
        *("e4m3fnuz", "e5m2fnuz", "e4m3fnuz:channel"),
    ),
    "GGUF": ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq2_0", "mxfp4:gguf", "nvfp4:gguf"),
}
ROUNDING = 0x5EED  # stream of an array's key for stochastic rounding


@dataclass(frozen=True)
class Config:
    seed: int = 0
    shape: tuple[int, int] = (32, 1024)
    arrays: int = 64
    every: int = 1  # of the quantizers

    @classmethod
    def small(cls) -> "Config":
        """Fewer arrays, and every sixteenth quantizer."""
        return cls(arrays=4, every=16)


def measure(config: Config) -> Iterator[Cell]:
    pairs = [(group, spec) for group, specs in GROUPS.items() for spec in specs]
    for group, spec in pairs[:: config.every]:
        yield spec, partial(on_every_population, config, group, spec)


def on_every_population(config: Config, group: str, spec: str) -> list[dict[str, Any]]:
    q = quantizer.parse(spec)
    known = [name for name in POPULATIONS if theory.has_weight_theory(parse(name), q, config.shape)]
    return [residual(config, group, spec, name) for name in known]


def residual(config: Config, group: str, spec: str, name: str) -> dict[str, Any]:
    """Measured and predicted E[e^2] / E[w^2]; the power is the population's, whose luck is not the quantizer's."""
    pop, q = parse(name), quantizer.parse(spec)
    keys = array_keys(config.seed, f"{name} {spec}", config.arrays)
    random = jax.vmap(stream_of_rounding)(keys) if "stochastic" in spec else ()
    found = squares(samples(pop, keys, config.shape), q, keys=random)
    measured = mean(found.error / prod(config.shape) / pop.moment(2))
    predicted = theory.weight_rel_mse(pop, q, config.shape)
    row = {"group": group, "population": name, "spec": spec, **columns(mse=measured), "predicted_mse": predicted}
    row["residual"] = (measured.value - predicted) / measured.se
    return row | {"weights": config.arrays * prod(config.shape)}


def stream_of_rounding(key: Any) -> Any:
    return jax.random.fold_in(key, ROUNDING)


# --- all residuals --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Residuals:
    """Residuals in standard errors, held against the standard normal."""

    z: np.ndarray

    @property
    def largest(self) -> float:
        return float(np.abs(self.z).max())

    @property
    def median_of_largest(self) -> float:
        """The largest of as many standard normals is below this as often as not."""
        return float(stats.norm.isf((1 - 0.5 ** (1 / len(self.z))) / 2))

    @property
    def p(self) -> float:
        """Of a Kolmogorov-Smirnov test."""
        return float(stats.kstest(self.z, "norm").pvalue)


def summary(rows: Rows) -> str:
    found, worst = Residuals(rows.column("residual")), max(rows, key=size_of_residual)
    return (
        f"{len(rows)} points: largest |residual| {found.largest:.2f} standard errors ({worst['spec']} on "
        f"{worst['population']}; its median for as many standard normals is {found.median_of_largest:.2f}); mean "
        f"{found.z.mean():+.3f}, standard deviation {found.z.std(ddof=1):.3f}, "
        f"{100 * np.mean(np.abs(found.z) > 2):.1f} % beyond 2 (4.6 % expected); Kolmogorov-Smirnov p = {found.p:.2f}"
    )


def size_of_residual(row: dict[str, Any]) -> float:
    return abs(row["residual"])


# --- the figure -----------------------------------------------------------------------------------------------------

SHAPES = ("o", "s", "D", "^", "v", "P", "*", "X", "h", "D", "p")


def draw(rows: Rows) -> plotting.Figure:
    figure, panels = plotting.mosaic("aab;aac", height=4.2)
    measured_against_predicted(panels["a"], rows)
    density_of_residuals(panels["b"], rows.column("residual"))
    quantiles_of_residuals(panels["c"], rows.column("residual"))
    plotting.letter(panels[letter] for letter in "abc")
    return figure


def measured_against_predicted(ax: Axes, rows: Rows) -> None:
    predicted, found = rows.column("predicted_mse"), Residuals(rows.column("residual"))
    ends = [predicted.min(), predicted.max()]
    plotting.prediction(ax, ends, ends, label="measured = predicted")
    for k, group in enumerate(GROUPS):
        color = COLORS[k % len(COLORS)]
        edge = {"mfc": "w", "mec": color, "mew": 0.8} if k >= len(COLORS) else {"mec": "w", "mew": 0.4}
        style = Style(color, SHAPES[k], group)
        if of_group := rows.where(group=group):
            plotting.points(ax, of_group, "predicted_mse", "mse", series=style, ms=3.2, zorder=3, **edge)
    ax.set(xscale="log", yscale="log", xlabel="predicted E[e²] / E[w²]", ylabel="measured E[e²] / E[w²]")
    ax.legend(loc="upper left", fontsize=6.5)
    lines = f"{len(rows)} points", f"largest |residual| {found.largest:.1f}", f"Kolmogorov–Smirnov p = {found.p:.2f}"
    ax.text(0.97, 0.05, "\n".join(lines), transform=ax.transAxes, ha="right", fontsize=7.5)


def density_of_residuals(ax: Axes, z: np.ndarray) -> None:
    ax.hist(z, bins=np.arange(-4.5, 4.6, 0.5).tolist(), density=True, color=plotting.SKY, ec="w", lw=0.5)
    fine = np.linspace(-4.5, 4.5, 200)
    plotting.prediction(ax, fine, stats.norm.pdf(fine))
    ax.set(xlabel="residual (standard errors)", ylabel="density", xlim=(-4.5, 4.5))


def quantiles_of_residuals(ax: Axes, z: np.ndarray) -> None:
    plotting.prediction(ax, [-4, 4], [-4, 4])
    ax.plot(stats.norm.ppf((np.arange(len(z)) + 0.5) / len(z)), np.sort(z), ".", ms=2.5, color=plotting.BLUE)
    ax.set(xlabel="standard normal quantile", ylabel="residual (standard errors)", xlim=(-4, 4))


CLAIMS = ()
