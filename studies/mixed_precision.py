"""Do the largest tenth of the weights deserve bf16, beside int8 for the others?

Method. The largest 0, 1 or 10 % of the weights of an array are kept in bf16 and the others quantized to int8 with one
scale for the array, which then no outlier widens. Stored are 8 bits for each weight, 8 more for each that is kept, a
bitmap (or, where that is shorter, an index for each that is kept) and the scale. As many bits can be spent otherwise:
on integers in blocks of 32, of 2^(bits - 0.5) levels, as a float16 scale takes half a bit a weight; so this is a
fractional number of levels, whose error is a formula. Both stand against Shannon's bound on the error at their bits.
Theory. Kept weights are those beyond a quantile of the population: levels of int8 up to it, levels of bf16 beyond.
Expected. 1.8 bits for a tenth of the weights are better spent on finer codes, unless tails are heavy.
Refuted if keeping a tenth beats integers in blocks on uniform or normal weights.

Settles B66 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil, log2, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsim import theory
from quantsim._types import Shape
from quantsim.formats import FORMATS, levels
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import BLUE, VERMILION, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, decibels
from quantsim.measure.squares import squares_of_pairs
from quantsim.populations import Population, parse, samples
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

INT8, BF16 = quantizer("int8:tensor"), quantizer("bf16")
WITH_OUTLIERS = "t5+outliers(rate=0.001,magnitude=30,values=spread)"
ONE_BIT_DB = 20 * np.log10(2)


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("normal", "laplace", "t5", "t3", "uniform", WITH_OUTLIERS)
    shape: tuple[int, int] = (256, 1024)
    arrays: int = 8
    kept: tuple[float, ...] = (0.0, 0.01, 0.1)  # share of the weights

    @classmethod
    def small(cls) -> "Config":
        return cls(populations=("normal", WITH_OUTLIERS), shape=(32, 1024), arrays=4)


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield name, partial(each_share, config, name)


def each_share(config: Config, name: str) -> list[dict[str, Any]]:
    pop = parse(name)
    arrays = np.asarray(samples(pop, array_keys(config.seed, name, config.arrays), config.shape))
    rows, plain = [], None
    for kept in config.kept:
        count = round(kept * prod(config.shape))
        found = squares_of_pairs((w, mixed(w, count)) for w in arrays)
        plain = plain or found  # the first keeps none
        bits = bits_stored(config.shape, count)
        row = {"kind": "kept", "population": name, "share": kept, "bits_per_weight": bits}
        row |= columns(sqnr_db=found.sqnr_db, gain_db=decibels(plain.error, found.error))
        row["predicted_sqnr_db"] = predicted(pop, config.shape, count)
        row["block_db"] = of_integers_in_blocks(pop, bits)
        rows.append(row | {"bound_db": sqnr_of(pop, theory.shannon_lower_bound(pop, bits))})
    return rows


def mixed(w: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Int8 that keeps the ``count`` largest weights in bf16."""
    kept = largest(w, count)
    return np.where(kept, BF16.roundtrip(w), INT8.roundtrip(np.where(kept, 0, w)))


def largest(w: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Which weights are larger in magnitude than all but ``count``."""
    return np.abs(w) > np.sort(np.abs(w), axis=None)[w.size - count - 1]


def bits_stored(shape: Shape, count: int) -> float:
    """Bits a weight: an int8 code for each, 8 bits more for each that is kept, where those are, and the scale."""
    n = prod(shape)
    places = min(n, count * ceil(log2(n)))  # a bitmap, or an index for each
    return (8 * n + 8 * count + places + 32) / n


def sqnr_of(pop: Population, mse: Any) -> float:
    """10 log10(E[w^2] / E[e^2]) in decibels."""
    return float(-10 * np.log10(mse / pop.moment(2)))


def of_integers_in_blocks(pop: Population, bits: float) -> float:
    """SQNR in dB of integers in blocks of 32 that store so many bits, half a bit of them for a scale."""
    return sqnr_of(pop, theory.absmax_int_mse(pop, 32, bits - 0.5))  # pyright: ignore[reportArgumentType]


def predicted(pop: Population, shape: Shape, count: int) -> float | None:
    """SQNR in dB of the levels of int8 up to the quantile beyond which weights are kept, and those of bf16 beyond."""
    if not count:
        return predicted_sqnr_db(pop, INT8, shape)
    reach = float(pop.quantile(1 - count / prod(shape) / 2))
    of_int8, of_bf16 = levels(FORMATS["int8"]) * reach / 127, levels(FORMATS["bf16"])
    both = np.sort(np.append(of_int8, of_bf16[np.abs(of_bf16) > reach]))
    return sqnr_of(pop, theory.levels_mse(pop, both))


# --- the figure -----------------------------------------------------------------------------------------------------

TITLES = {WITH_OUTLIERS: "t5, 0.1 % outliers"}


def draw(rows: Rows) -> plotting.Figure:
    figure, panels = plotting.mosaic("abc;def", height=3.8, sharex=True, sharey=True)
    for letter, ((name,), found) in zip("abcdef", rows.groups("population").items(), strict=False):
        against_blocks(panels[letter], found)
        panels[letter].set_title(TITLES.get(name, str(name)), fontsize=7.5)
    for letter in "ad":
        panels[letter].set_ylabel("SQNR (dB)")
    for letter in "def":
        panels[letter].set_xlabel("true bits per weight")
    figure.legend(*panels["a"].get_legend_handles_labels(), loc="outside upper center", ncol=4)
    plotting.letter(panels[letter] for letter in "abcdef")
    return figure


def against_blocks(ax: Axes, rows: Rows) -> None:
    bits = rows.column("bits_per_weight")
    plotting.prediction(ax, bits, rows.column("bound_db"), linestyle="-", color="0.1", label="Shannon's bound")
    look = {"linestyle": ":", "marker": "s", "ms": 2.5}
    plotting.prediction(
        ax, bits, rows.column("block_db"), series=Style(VERMILION), label="integers, blocks of 32", **look
    )
    style = Style(BLUE, "o", "int8 and bf16")
    plotting.points(ax, rows, "bits_per_weight", "sqnr_db", series=style, ms=3.5)
    plotting.prediction(ax, bits, rows.column("predicted_sqnr_db"), series=style, label="theory")
    for r in rows:
        text = f"{100 * r['share']:g} %" + (", B66" if r["share"] == 0.1 else "")
        place = (r["bits_per_weight"], r["sqnr_db"])
        ax.annotate(text, place, (5, -7), textcoords="offset points", fontsize=6)
    ax.set(xlim=(7.8, 10.3), ylim=(8, 66))


# --- the verdict ----------------------------------------------------------------------------------------------------


def tenth_in_bf16_pays(rows: Rows) -> float:
    """Share of populations × (halves the error of plain int8, has less than integers in blocks of as many bits)."""
    found = rows.where(kind="kept", share=0.1)
    halved = [r["gain_db"] >= ONE_BIT_DB for r in found]
    finer = [r["sqnr_db"] > r["block_db"] for r in found]
    return share([*halved, *finer])


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "B66",
        statement="keep the top 10 % in BF16",
        definition="share of populations (one with outliers) × (halves the error of plain int8, has less than "
        "integers in blocks of 32 of as many bits)",
        number=tenth_in_bf16_pays,
        rule=share_of_cases("int8 with its largest 10 % in bf16, charged with a bitmap, does"),
        reading="its 1.8 bits buy more in finer codes unless tails are heavy; keeping 1 % beats them on all",
    ),
)
