"""How small may weights become before the numbers that store their scale run out?

Method. Normal weights with a standard deviation from 1e-7 to 10 go through every kind of scale: float32, bf16, fp16
(q8_0, q4_0, K-quants), e4m3 (nvfp4, with and without the scale of the tensor), powers of two (mxfp4), none (plain
casts). The same arrays serve every standard deviation.
Expected. Nothing changes until a stored number becomes subnormal. From there its grid is fixed, u = 2^-24 in fp16 and
2^-9 in e4m3: a scale s errs by u / (sqrt(12) s), the SQNR falls 20 dB a decade, and a scale below u / 2 is 0. Where
codes follow from the unrounded scale (q8_0, q4_0) the error has doubled at std = u / (sqrt(12) r k), r being the
relative error of large weights and k = s / std; codes from the stored scale make up for some of it. Theory predicts
every curve but those of the K-quants, which search.
Refuted if a float32, bf16 or power-of-two scale loses anything, or an fp16 scale nothing.

Settles A08 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim import theory
from quantsim._types import Matrix, Weights
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import columns, decibels, mean, per_unit
from quantsim.populations import Normal, samples
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

from ._axes import logarithmic

# spec and name in the figure; many bits and few, each in a panel, and two in neither
WIDE = {
    "int8:block32": "int8, f32 scale",
    "int8:block32:absmax:f16": "int8, f16 scale",
    "q8_0": "q8_0",
    "q6_k": "q6_k",
    "f16": "f16 cast",
    "e4m3": "e4m3 cast",
    "bf16": "bf16 cast",
}
NARROW = {
    "int4:block32": "int4, f32 scale",
    "q4_0": "q4_0",
    "q4_k": "q4_k",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "nvfp4:single": "nvfp4:single",
}
LABELS = WIDE | {"int8:block32:absmax:bf16": "int8, bf16 scale"} | NARROW | {"nvfp4:gguf": "nvfp4:gguf"}
SPECS = tuple(LABELS)
FLOAT32_SCALED = ("int8:block32", "int4:block32", "nvfp4")  # nvfp4: its blocks have e4m3, the tensor float32
SEARCHED = ("q6_k", "q4_k")  # their scales follow no law, so theory has no curve
TWICE_DB = 10 * np.log10(2)  # what an error of twice the power costs
F16_SPACING = 2.0**-24  # of its subnormal numbers
DIVISORS = {"q8_0": 127, "q4_0": 8}  # scale = extreme of the block / divisor
FP16_LARGEST, FP16_SMALLEST = 65504.0, 5.96e-8  # as stated


@dataclass(frozen=True)
class Config:
    """Standard deviations of the weights, and the arrays that are drawn once for all of them."""

    stds: tuple[float, ...] = logarithmic(1e-7, 10.0, 97)
    shape: tuple[int, int] = (64, 1024)
    arrays: int = 8
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer standard deviations, fewer and smaller arrays."""
        return cls(stds=logarithmic(1e-7, 10.0, 9), shape=(16, 1024), arrays=4)


def measure(config: Config) -> Iterator[Cell]:
    """All standard deviations, and the ends of fp16."""
    yield "stds", partial(by_std, config)
    yield "fp16", lambda: [ends_of_fp16()]


def by_std(config: Config) -> list[dict]:
    """SQNR of every format at every standard deviation, and where each format has lost how much."""
    keys = array_keys(config.seed, "normal", config.arrays)
    found = [squares(samples(Normal(std), keys, config.shape)) for std in config.stds]
    rows = []
    for std, at_std in zip(config.stds, found, strict=True):
        for spec in SPECS:
            sqnr_db = decibels(at_std.weights, at_std.errors[spec])
            predicted = predicted_db(spec, std, config.shape)
            about = {"kind": "std", "spec": spec, "std": std, "predicted_sqnr_db": predicted}
            rows.append(about | columns(sqnr_db=sqnr_db))
    for spec in SPECS:
        ratios = [per_unit(at_std.weights) / per_unit(at_std.errors[spec]) for at_std in found]
        predicted = Rows(rows).where(spec=spec).column("predicted_sqnr_db").astype(float)
        rows += edges(config.stds, spec, 10 * np.log10(ratios), predicted)
    return rows


def predicted_db(spec: str, std: float, shape: tuple[int, int]) -> float | None:
    """SQNR that theory predicts, if it does: for a float32 scale the same at every standard deviation."""
    return _predicted_db(spec, 1.0 if spec in FLOAT32_SCALED else std, shape)


@cache
def _predicted_db(spec: str, std: float, shape: tuple[int, int]) -> float | None:
    return predicted_sqnr_db(Normal(std), parse(spec), shape)


class Squares(NamedTuple):
    """Sums of w² over each row of each array, and of e² under every quantizer."""

    weights: Float[Array, "arrays out"]
    errors: dict[str, Float[Array, "arrays out"]]


@jax.jit
def squares(arrays: Weights) -> Squares:
    """One program for all standard deviations."""

    def one(w: Matrix) -> Squares:
        errors = {spec: error(w, parse(spec).roundtrip(w)) for spec in SPECS}
        return Squares(jnp.sum(w * w, axis=-1), {spec: jnp.sum(e * e, axis=-1) for spec, e in errors.items()})

    return jax.lax.map(one, arrays)


def edges(stds: tuple[float, ...], spec: str, each_db: np.ndarray, predicted_db: np.ndarray) -> list[dict]:
    """The largest standard deviation at which the error has doubled, and at which less than 3 dB are left, if any.

    Args:
        stds: of the weights, increasing.
        spec: format.
        each_db: SQNR of each array, (stds, arrays); their crossings are the units of the standard error.
        predicted_db: SQNR that theory predicts, (stds,).
    """
    rows = []
    for edge in ("doubled", "nothing"):
        logs = mean([last_crossing(stds, db, edge) for db in each_db.T])
        closed = closed_form(spec, predicted_db[-1]) if edge == "doubled" and spec in DIVISORS else None
        row = {"kind": "edge", "spec": spec, "edge": edge, "closed_std": closed}
        row |= {"std": 10**logs.value, "std_se": 10**logs.value * np.log(10) * logs.se}
        rows.append(row | {"predicted_std": 10 ** last_crossing(stds, predicted_db, edge)})
    return rows


def last_crossing(stds: tuple[float, ...], db: np.ndarray, edge: str) -> float:
    """Log10 of the standard deviation at the last crossing of a threshold, interpolated; NaN if there is none."""
    log_std = np.log10(stds)
    threshold = db[log_std >= 0].mean() - TWICE_DB if edge == "doubled" else TWICE_DB
    below = np.flatnonzero(db < threshold)
    if not below.size or np.isnan(db).any():
        return np.nan
    k = below[-1]
    between = (threshold - db[k]) / (db[k + 1] - db[k])
    return float(log_std[k] + between * (log_std[k + 1] - log_std[k]))


def closed_form(spec: str, sqnr_db: float) -> float:
    """Standard deviation at which the error has doubled: u / (sqrt(12) r k), with r² the relative mse of large weights.

    The squared errors of blocks add, so the k of all is the mean of 1 / k² over blocks, to the power of -1/2.
    """
    tops = theory.absmax_quantile(Normal(), 32, (np.arange(400) + 0.5) / 400)
    k = np.mean((tops / DIVISORS[spec]) ** -2) ** -0.5
    return float(F16_SPACING / (12**0.5 * 10 ** (-sqnr_db / 20) * k))


def ends_of_fp16() -> dict:
    """The largest and the smallest number that a cast to fp16 keeps."""
    cast = np.asarray(parse("f16").roundtrip(np.append(2.0 ** -np.arange(40.0), 1e9)))
    return {"kind": "fp16", "largest": cast.max(), "smallest": cast[cast > 0].min()}


def draw(rows: Rows) -> plotting.Figure:
    """What is left of the weights, format by format; SQNR against the standard deviation."""
    fig, axes = plotting.mosaic("aa;bc", height=5.5)
    what_is_left(axes["a"], rows)
    against_std(axes["b"], rows.where(kind="std"), plotting.styles(WIDE))
    against_std(axes["c"], rows.where(kind="std"), plotting.styles(NARROW))
    axes["b"].set(ylim=(-3, 110))
    axes["c"].set(ylim=(-12, 42))
    plotting.note(axes["c"], 8e-6, -9, "q4_k: scale 0, minimum not")
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def against_std(ax: plotting.Axes, rows: Rows, styles: dict[str, plotting.Style]) -> None:
    """SQNR of some formats, measured over predicted; points are joined where theory predicts none."""
    for spec, style in styles.items():
        line = "-" if spec in SEARCHED else "none"
        found = rows.where(spec=spec)
        plotting.measured(ax, found, "std", "sqnr_db", series=style, ms=1.8, linestyle=line, lw=0.4)
    ax.set(xscale="log", xlabel="std of the weights", ylabel="SQNR (dB)")
    ax.legend(loc="upper left", ncol=2, columnspacing=0.8)


def what_is_left(ax: plotting.Axes, rows: Rows) -> None:
    """A bar for each format over all standard deviations, coloured by what is left of the weights."""
    lowest, highest = rows.where(kind="std").column("std")[[0, -1]]
    found = rows.where(kind="edge")
    doubled, nothing = (dict.fromkeys(SPECS, 0.0) | numbers(found.where(edge=e)) for e in ("doubled", "nothing"))
    order = sorted(SPECS, key=lambda spec: (doubled[spec], nothing[spec]))
    for place, spec in enumerate(order):
        ends = (lowest, max(nothing[spec], lowest), max(doubled[spec], lowest), highest)
        parts = zip(ends, ends[1:], (plotting.VERMILION, plotting.ORANGE, plotting.SKY), strict=False)
        for left, right, color in parts:
            ax.barh(place, right - left, left=left, color=color, height=0.75, lw=0)
    at = [order.index(r["spec"]) for r in found]
    ax.errorbar(found.column("std"), at, xerr=1.96 * found.column("std_se"), color="0.1", ls="", capsize=1.5, lw=0.8)
    marks = {"linestyle": "none", "ms": 5}
    plotting.prediction(ax, found.column("predicted_std"), at, marker="|", label="predicted", **marks)
    plotting.prediction(ax, found.column("closed_std"), at, marker="x", label="closed form", **marks)
    ax.barh(0, 0, color=plotting.VERMILION, label="lost (below 3 dB)")
    ax.barh(0, 0, color=plotting.ORANGE, label="error more than doubled")
    ax.barh(0, 0, color=plotting.SKY, label="as at a std of 1")
    ax.axvline(FP16_SMALLEST, color="0.1", lw=0.8, ls=":")
    plotting.note(ax, 2.9e-8, 0, "A08: smallest fp16", rotation=90)
    ax.set(xscale="log", xlim=(2.5e-8, highest), ylim=(-0.6, len(order) + 2.4), xlabel="std of the weights")
    ax.set(yticks=range(len(order)), yticklabels=[LABELS[spec] for spec in order])
    ax.grid(visible=False)
    ax.legend(loc="upper right", ncol=3, columnspacing=1.0)


def numbers(rows: Rows) -> dict[str, float]:
    """The standard deviation of an edge by format, where there is one."""
    return {r["spec"]: r["std"] for r in rows if r["std"] is not None}


def ends_as_stated(rows: Rows) -> float:
    """Share of two stated numbers, the largest and the smallest magnitude of fp16, that a cast confirms."""
    (found,) = rows.where(kind="fp16")
    pairs = ((found["largest"], FP16_LARGEST), (found["smallest"], FP16_SMALLEST))
    return share(abs(number / stated - 1) < 1e-3 for number, stated in pairs)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A08",
        statement="FP16 max ≈65504, min ≈5.96e-8",
        definition="share of two stated numbers, the largest and the smallest magnitude of fp16",
        number=ends_as_stated,
        rule=share_of_cases("a cast keeps it and nothing beyond it, to the stated digits"),
        reading="but the smallest is subnormal: full precision ends at 6.1e-5, where fp16 scales begin to err",
    ),
)
