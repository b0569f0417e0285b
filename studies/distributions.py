"""Which property of a weight distribution decides how large its int8 error is?

Method. Five populations, each with one int8 scale a tensor, a row and a block of 32, at least 10^8 weights a point.
Expected. One number decides, the crest factor: the rms over blocks of their largest |w|, over the rms of all weights.
An int8 step is absmax / 127, and errors uniform in a step have E[e^2] = E[step^2] / 12 = E[absmax^2] / (12 * 127^2), so

    SQNR = E[w^2] / E[e^2] = 12 * 127^2 / crest^2, in decibels 10 log10(12 * 127^2) - 20 log10(crest).

One weight of each n, the extreme, has no error: + 10 log10(n / (n - 1)) on this line. Exact theory adds what is not
uniform: per tensor the kink of Laplace's density at 0 lifts its point by 0.0017 dB (measured 0.0016 +- 0.0004). The
error must not depend on the size of the weights, as the scale follows it; bf16, whose step follows each weight, must
not depend on the crest factor. And the higher the crest, the fewer codes hold nearly all of the weights.
Refuted if a point leaves the line while the step is below the bulk of the weights, or if rescaling moves the error of
one scale per tensor. (t3 per tensor: the square of its absmax has no variance, so its intervals mean little.)
Given weights (``--weights``), the tensors of a checkpoint stand beside the families, of which then theory alone is
drawn: a sample of tensors, and of the rows of each. Sizes of weights are left out (c): no error depends on them.

Settles A04 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from quantsim import formats, theory
from quantsim._types import Matrix, PerBlock
from quantsim.granularity import Granularity, Tensor, to_blocks
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.given import Given
from quantsim.lab.plotting import BLUE, GREEN, PURPLE, VERMILION, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure import error_stats
from quantsim.measure.ratios import columns, decibels, mean, root_ratio
from quantsim.measure.squares import Squares, squares
from quantsim.numerics import ieee
from quantsim.populations import Normal, parse, samples
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

from . import _weights as weights

INT8 = ("int8:tensor", "int8:channel", "int8:block32")
MEASURED = ("bf16", *INT8)
RESCALED = ("int8:tensor", "q8_0", "bf16")
CODES = (*INT8, "int8:tensor:p99.9")
ON_THE_LINE = 12 * 127**2  # SQNR times crest^2 where errors are uniform in a step


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("uniform", "normal", "laplace", "t5", "t3")
    shape: tuple[int, int] = (1024, 1024)
    batches: int = 12  # of 8 arrays of 2^20 weights: over 10^8; of the first one also the codes are counted
    batch: int = 8
    rescaled_rows: int = 256  # of the first array
    exponents: tuple[int, ...] = tuple(range(-20, 15))  # of two, standard deviations of rescaled weights

    @classmethod
    def small(cls) -> "Config":
        return cls(populations=("normal", "t5"), shape=(32, 1024), batches=2, batch=4, rescaled_rows=32)


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield name, partial(sqnr_and_crest, config, name)
        yield f"{name} codes", partial(codes_in_use, config, name)
    yield "scales", partial(rescaled, config)


@lru_cache(1)
def batch(config: Config, name: str, number: int) -> Float[Array, "arrays rows columns"]:
    """Independent arrays of a population; array k of all batches is a function of seed, name and k alone."""
    keys = array_keys(config.seed, name, config.batches * config.batch).reshape(config.batches, config.batch)
    return samples(parse(name), keys[number], config.shape)


# --- SQNR against the crest factor ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What is measured of some arrays: their squares, and the mean over its blocks of absmax^2 of each array."""

    squares: Squares
    absmax2: np.ndarray

    def and_more(self, other: "Seen") -> "Seen":
        return Seen(self.squares.and_more(other.squares), np.append(self.absmax2, other.absmax2))


def sqnr_and_crest(config: Config, name: str) -> list[dict[str, Any]]:
    seen: dict[str, Seen] = {}
    for number in range(config.batches):
        arrays = batch(config, name, number)
        for spec in MEASURED:
            found = look_at(arrays, quantizer(spec))
            seen[spec] = seen[spec].and_more(found) if spec in seen else found
    return [against_crest(config, name, spec, found) for spec, found in seen.items()]


def look_at(arrays: Iterable[Matrix], q: Any) -> Seen:
    """Squares and absmax^2 of each array; of a plain cast, which has no scale, that of the whole array."""
    tops = [absmax_of_blocks(w, q.granularity or Tensor()) for w in arrays]
    return Seen(squares(arrays, q), np.array([np.square(np.asarray(top, np.float64)).mean() for top in tops]))


@partial(jax.jit, static_argnums=1)
def absmax_of_blocks(w: Matrix, granularity: Granularity) -> PerBlock:
    return ieee.absmax(to_blocks(w, granularity))


def against_crest(config: Config, name: str, spec: str, seen: Seen) -> dict[str, Any]:
    pop, weights = parse(name), prod(config.shape)
    signal, error = (sums / weights for sums in (seen.squares.signal, seen.squares.error))
    per_scale = {"int8:channel": config.shape[1], "int8:block32": 32}.get(spec, weights)
    crest, sqnr_db = theory.rms_crest(pop, per_scale), predicted_sqnr_db(pop, quantizer(spec), config.shape)
    assert sqnr_db is not None
    return {
        "kind": "sqnr",
        "population": name,
        "spec": spec,
        "weights": weights * len(seen.absmax2),
        **columns(
            crest=root_ratio(seen.absmax2, signal),
            sqnr_db=seen.squares.sqnr_db,
            above_db=decibels(seen.absmax2, ON_THE_LINE * error),  # SQNR over ON_THE_LINE / crest^2
        ),
        "predicted_crest": crest,
        "predicted_sqnr_db": sqnr_db,
        "predicted_above_db": sqnr_db - line_db(crest),
    }


def line_db(crest: Any) -> Any:
    """SQNR of int8 in decibels where errors are uniform in a step: 10 log10(12 * 127^2 / crest^2)."""
    return 10 * np.log10(ON_THE_LINE / crest**2)


# --- given weights --------------------------------------------------------------------------------------------------


def measure_weights(config: Config, given: Given) -> Iterator[Cell]:
    yield "families", partial(families, config)
    for tensor in weights.sample(given):
        yield f"tensor {tensor.entry.name}", partial(weights.rows_of, [tensor], partial(on_the_line, given))


def families(config: Config) -> list[dict[str, Any]]:
    """What theory says of the populations."""
    rows = []
    for name in config.populations:
        pop = parse(name)
        for spec in MEASURED:
            per_scale = {"int8:channel": config.shape[1], "int8:block32": 32}.get(spec, prod(config.shape))
            row = {
                "kind": "family",
                "population": name,
                "spec": spec,
                "predicted_crest": theory.rms_crest(pop, per_scale),
            }
            rows.append(row | {"predicted_sqnr_db": predicted_sqnr_db(pop, quantizer(spec), config.shape)})
    return rows


def on_the_line(given: Given, tensor: weights.Tensor) -> list[dict[str, Any]]:
    """SQNR, crest factor and codes of a tensor; rows are the units of the standard errors."""
    w, rows = weights.measurable(given, tensor), []
    for spec in MEASURED:
        q = quantizer(spec)
        found = weights.squares_of_rows(w, q.roundtrip(w))
        mean_signal, mean_error = found.signal / w.shape[1], found.error / w.shape[1]
        tops = np.square(np.asarray(absmax_of_blocks(w, q.granularity or Tensor()), np.float64)).reshape(-1)
        absmax2 = np.broadcast_to(tops, len(w)) if tops.size == 1 else tops.reshape(len(w), -1).mean(axis=1)
        row = {"kind": "tensor", "spec": spec, "of": tensor.entry.size, "weights": w.size}
        row |= columns(crest=root_ratio(absmax2, mean_signal), sqnr_db=found.sqnr_db)
        if spec in INT8:
            row |= columns(above_db=decibels(absmax2, ON_THE_LINE * mean_error))
            row["codes"] = codes_of_most_weights(np.asarray(q.quantize(w).codes))
        rows.append(row)
    return rows


# --- codes, and sizes of weights ------------------------------------------------------------------------------------


def codes_in_use(config: Config, name: str) -> list[dict[str, Any]]:
    pop, arrays = parse(name), batch(config, name, 0)
    absmax = theory.absmax_quantile(pop, prod(config.shape), (np.arange(400) + 0.5) / 400)
    rows = []
    for spec in CODES:
        q = quantizer(spec)
        row = {"kind": "codes", "population": name, "spec": spec}
        row |= columns(codes=mean([codes_of_most_weights(np.asarray(q.quantize(w).codes)) for w in arrays]))
        if spec == "int8:tensor":  # 127 codes on either side reach to absmax, in the mean over what absmax may be
            row["predicted_codes"] = float(1 + 254 * np.mean(pop.quantile(1 - 0.01 / 2) / absmax))
        rows.append(row)
    return rows


def codes_of_most_weights(codes: np.ndarray) -> int:
    """How many codes -c ... c hold at least 99 % of the weights."""
    reached = np.cumsum(np.bincount(np.abs(codes.astype(int)).ravel()))
    return 1 + 2 * int(np.searchsorted(reached, 0.99 * codes.size))


def rescaled(config: Config) -> list[dict[str, Any]]:
    """The same normal weights at standard deviations 2^k, by which float32 multiplies exactly."""
    w = batch(config, "normal", 0)[0, : config.rescaled_rows]
    rows = []
    for std in (2.0**k for k in config.exponents):
        rows.append({"kind": "scale", "std": std, "spec": "fixed", "predicted_sqnr_db": of_fixed_step(Normal(std))})
        for q in map(quantizer, RESCALED):
            stats = error_stats(w * std, q.roundtrip(w * std))
            row = {
                "kind": "scale",
                "std": std,
                "spec": str(q),
                "sqnr_db": stats.sqnr_db,
                "sqnr_db_se": stats.sqnr_db_se,
            }
            rows.append(row | {"predicted_sqnr_db": predicted_sqnr_db(Normal(std), q, w.shape)})
    return rows


def of_fixed_step(pop: Normal) -> float:
    """SQNR in decibels of int8 codes whose scale does not follow the weights: they reach from -10 to 10."""
    levels = formats.levels(formats.parse("int8")) * 10 / 127
    return float(-10 * np.log10(theory.levels_mse(pop, levels) / pop.std**2))


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    "int8:tensor": Style(BLUE, "o", "per tensor"),
    "int8:channel": Style(VERMILION, "s", "per row"),
    "int8:block32": Style(GREEN, "^", "per 32"),
    "bf16": Style(PURPLE, "D", "bf16"),
    "q8_0": Style(GREEN, "^"),
}


def draw(rows: Rows) -> plotting.Figure:
    if rows.where(kind="family"):
        return draw_given(rows)
    figure, panels = plotting.mosaic("aab;aac;aad", height=5.5)
    sqnr_against_crest(panels["a"], rows.where(kind="sqnr"))
    above_the_line(panels["b"], rows.where(kind="sqnr"))
    sqnr_against_std(panels["c"], rows.where(kind="scale"))
    codes_of_each_population(panels["d"], rows.where(kind="codes"))
    plotting.letter(panels[name] for name in "abcd")
    return figure


def draw_given(rows: Rows) -> plotting.Figure:
    """Tensors among the families; without the sizes of weights."""
    figure, panels = plotting.mosaic("aab;aac", height=4.2)
    tensors = rows.where(kind="tensor")
    tensors_among_families(panels["a"], tensors, rows.where(kind="family"))
    for ax, column in ((panels["b"], "above_db"), (panels["c"], "codes")):
        for spec in INT8:
            plotting.points(ax, tensors.where(spec=spec), "crest", column, series=STYLES[spec], **SMALL)
        ax.set(xscale="log", xlim=panels["a"].get_xlim(), xlabel="crest factor")
    panels["b"].set(ylabel="SQNR above line (dB)")
    panels["c"].axhline(255 / 2, color="0.25", linestyle=":", lw=0.9)
    panels["c"].set(ylim=(0, 290), ylabel="codes for 99 % of w")
    plotting.letter(panels[name] for name in "abc")
    return figure


SMALL = {"ms": 2.6, "alpha": 0.6, "elinewidth": 0.5}


def tensors_among_families(ax: Axes, tensors: Rows, of_families: Rows) -> None:
    crest = np.array([1.55, max([140.0, *tensors.column("crest")])])
    plotting.prediction(ax, crest, line_db(crest), label="10 log₁₀(12·127²) − 20 log₁₀(crest)")
    alone = of_families.column("predicted_crest"), of_families.column("predicted_sqnr_db")
    plotting.prediction(ax, *alone, label="families, theory", linestyle="none", marker="+", ms=7)
    for spec in MEASURED[::-1]:
        plotting.points(ax, tensors.where(spec=spec), "crest", "sqnr_db", series=STYLES[spec], **SMALL)
    for r in of_families.where(spec="int8:tensor"):
        plotting.note(ax, 1.06 * r["predicted_crest"], r["predicted_sqnr_db"] + 0.8, r["population"])
    of_bf16 = tensors.where(spec="bf16").column("sqnr_db")
    words = f"{len(of_bf16)} given tensors, of which\n{np.isnan(of_bf16).sum()} have no error in bf16"
    plotting.note(ax, 0.97, 0.82, words, transform=ax.transAxes, ha="right")
    ax.set(xscale="log", xlabel="crest factor: rms over blocks of max |w|, over rms w", ylabel="SQNR (dB)")
    ax.legend(loc="lower left")


def sqnr_against_crest(ax: Axes, rows: Rows) -> None:
    crest = np.array([1.55, 140.0])
    plotting.prediction(ax, crest, line_db(crest), label="10 log₁₀(12·127²) − 20 log₁₀(crest)")
    for spec in MEASURED[::-1]:
        plotting.points(ax, rows.where(spec=spec), "crest", "sqnr_db", series=STYLES[spec], ms=4.5)
    alone = rows.column("predicted_crest"), rows.column("predicted_sqnr_db")
    plotting.prediction(ax, *alone, label="theory alone", linestyle="none", marker="+", ms=7)
    for r in rows.where(spec="int8:tensor"):
        plotting.note(ax, 1.06 * r["crest"], r["sqnr_db"] + 0.8, r["population"])
    ax.set(xscale="log", xlabel="crest factor: rms over blocks of max |w|, over rms w", ylabel="SQNR (dB)")
    ax.legend(loc="lower left")


def above_the_line(ax: Axes, rows: Rows) -> None:
    for spec in INT8:
        plotting.measured(ax, rows.where(spec=spec), "crest", "above_db", series=STYLES[spec])
    plotting.note(ax, 1.7, 0.25, "extremes: no error")
    plotting.note(ax, 1.7, 0.7, "t3: step ≈ bulk;\ntheory counts extremes\nthat no sample holds")
    ax.set(xscale="log", ylim=(-0.1, 1.3), xlabel="crest factor", ylabel="SQNR above line (dB)")


def sqnr_against_std(ax: Axes, rows: Rows) -> None:
    for spec in RESCALED:
        plotting.measured(ax, rows.where(spec=spec), "std", "sqnr_db", series=STYLES[spec], ms=2)
    fixed = rows.where(spec="fixed")
    plotting.prediction(ax, fixed.column("std"), fixed.column("predicted_sqnr_db"))
    for x, y, text in ((1e-6, 59, "bf16"), (1e-6, 48.5, "q8_0"), (1e-3, 32, "int8"), (20, 6, "step fixed\nat 10/127")):
        plotting.note(ax, x, y, text)
    ax.set(xscale="log", xlabel="std of the weights", ylabel="SQNR (dB)", ylim=(-3, 66))


def codes_of_each_population(ax: Axes, rows: Rows) -> None:
    names = rows.values("population")
    for spec in INT8:
        placed = Rows(r | {"at": names.index(r["population"])} for r in rows.where(spec=spec))
        plotting.measured(ax, placed, "at", "codes", series=STYLES[spec])
    plotting.prediction(ax, [-0.2, 4.2], [255 / 2] * 2, linestyle=":")
    plotting.note(ax, 1.7, 133, "half: A04")
    ax.set(xticks=range(len(names)), xticklabels=names, ylim=(0, 290), ylabel="codes for 99 % of w")


# --- the verdict ----------------------------------------------------------------------------------------------------


def half_of_the_codes_in_use(rows: Rows) -> float:
    """Share of populations × scales in which 99 % of the weights take at least half of the 255 codes."""
    return share(r["codes"] >= 255 / 2 for r in rows.where(kind="codes"))


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A04",
        statement="256 levels effectively cover the main dynamic range",
        definition="share of populations × scales",
        number=half_of_the_codes_in_use,
        rule=share_of_cases("at least half of the 255 codes lie in the range of 99 % of the weights"),
        reading="it depends on the crest factor: always so in blocks of 32, not per tensor of heavy tails",
    ),
)
