"""Where should integers clip, and how much does each rule for it lose against the exact optimum?

Method. A scale per tensor of 262,144 weights, symmetric int2 to int8. Rules: the largest weight (absmax), percentiles
of |w|, a search for the least squared error, and ACIQ (Banner, Nahshan and Soudry, arXiv:1810.05723) from mean |w| as
if weights were Laplace, or from their standard deviation as if normal. Each is set against the reach with exactly the
least error on the infinite population, on the same arrays; lines are predicted.
Expected. The search loses nothing; ACIQ, whose 2^bits cells end half a step beyond the last level, clips too late for
integers that end on it: 1 dB at 2 bits, nothing from 4 on where its family is right, 3 to 18 dB where it is not; a
percentile is right at one width on each population, and absmax at none of bell shape.
Refuted if a rule beats the optimum. (One does: on t5 the search sees the largest weights of its own array and gains up
to a quarter dB over any reach fixed beforehand.)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import quantizer, theory
from quantsim._types import Matrix, Weights
from quantsim.lab import plotting
from quantsim.lab.plotting import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, decibels
from quantsim.measure.squares import Squares, squares, squares_of_pairs
from quantsim.populations import Laplace, Normal, Population, parse, samples
from quantsim.rows import Rows
from quantsim.sweep import array_keys

from ._minima import best_reach

OUTLIERS = "normal+outliers(rate=0.002,magnitude=30,values=spread)"


@dataclass(frozen=True)
class Aciq:
    """ACIQ's rule for one family: its published clips, in units of the family's scale, for 2 to 8 bits."""

    family: Population  # of scale 1
    unit: str
    published: tuple[float, ...]

    def published_for(self, bits: int) -> float:
        return self.published[bits - 2]


ACIQ = {
    "laplace": Aciq(Laplace(2**0.5), "b", (2.83, 3.89, 5.03, 6.20, 7.41, 8.64, 9.89)),
    "normal": Aciq(Normal(), "std", (1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92)),
}
IN_PAPER = 3.86  # for 3 bits, Laplace
CALIBRATIONS = {"absmax": "", "p99": ":p99", "p99.9": ":p99.9", "p99.99": ":p99.99", "MSE search": ":mse"}
BY_MEAN_ABS, BY_STD = "ACIQ, Laplace", "ACIQ, normal"  # ACIQ as if weights were Laplace, as if they were normal


@dataclass(frozen=True)
class Config:
    """Populations, widths, reaches of the curves in standard deviations, and sizes."""

    seed: int = 0
    populations: tuple[str, ...] = ("normal", "laplace", "t5", OUTLIERS)
    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    reaches: tuple[float, ...] = (0.5, 0.8, 1.25, 1.8, 2.5, 3.5, 5.0, 7.0, 10.0)
    shape: tuple[int, int] = (256, 1024)
    arrays: int = 16

    @classmethod
    def small(cls) -> "Config":
        """Fewer of everything."""
        populations, bits, reaches = ("normal", OUTLIERS), (2, 3, 4), (0.8, 2.5, 7.0)
        return cls(populations=populations, bits=bits, reaches=reaches, shape=(32, 1024), arrays=4)


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        for bits in config.bits:
            yield f"{name} int{bits}", partial(every_rule, config, name, bits)
    for bits in config.bits:
        yield f"normal int{bits} curve", partial(every_reach, config, bits)
    for name in ACIQ:
        yield f"ACIQ {name}", partial(aciq_against_optima, config, name)


# --- measured -------------------------------------------------------------------------------------------------------


@lru_cache(1)
def arrays(config: Config, name: str) -> Float[Array, "arrays rows columns"]:
    return samples(parse(name), array_keys(config.seed, name, config.arrays), config.shape)


@jax.jit
def clipped(w: Matrix, reach: Float[Array, ""], largest_code: Float[Array, ""]) -> Matrix:
    """Weights in integers up to ±largest_code, the last of which stands for ``reach``."""
    scale = reach / largest_code
    return jnp.clip(jnp.round(w / scale), -largest_code, largest_code) * scale


def squares_of_reaches(weights: Iterable[Matrix], reaches: Iterable[Any], bits: int) -> Squares:
    """Squares of each array with a reach of its own."""
    largest_code = np.float32(2 ** (bits - 1) - 1)
    pairs = zip(weights, reaches, strict=True)
    return squares_of_pairs((w, clipped(w, np.float32(reach), largest_code)) for w, reach in pairs)


@jax.jit
def mean_abs_and_rms(w: Weights) -> tuple[Array, Array]:
    return jnp.mean(jnp.abs(w)), jnp.sqrt(jnp.mean(w * w))


def every_rule(config: Config, name: str, bits: int) -> list[dict[str, Any]]:
    """Every rule, its SQNR, and how far it is behind the exact optimum on the same arrays."""
    pop, weights = parse(name), arrays(config, name)
    best = best_reach(pop, levels(bits))
    least = theory.int_mse(pop, best, bits)
    of_optimum = squares_of_reaches(weights, [best] * config.arrays, bits)
    rows = []
    for rule, found in squares_of_rules(weights, bits).items():
        mse = predicted_mse(pop, rule, bits, prod(config.shape))
        row = {"kind": "rule", "population": name, "bits": bits, "rule": rule}
        row |= columns(sqnr_db=found.sqnr_db, behind_db=decibels(found.error, of_optimum.error))
        row |= {"predicted_sqnr_db": sqnr_of(pop, mse), "predicted_behind_db": float(10 * np.log10(mse / least))}
        rows.append(row)
    row = {"kind": "optimum", "population": name, "bits": bits, "reach": best, **columns(sqnr_db=of_optimum.sqnr_db)}
    return [*rows, row | {"predicted_sqnr_db": sqnr_of(pop, least)}]


def squares_of_rules(weights: Float[Array, "arrays rows columns"], bits: int) -> dict[str, Squares]:
    found = {
        rule: squares(weights, quantizer.parse(f"int{bits}:tensor{calibration}"))
        for rule, calibration in CALIBRATIONS.items()
    }
    statistics = np.array([mean_abs_and_rms(w) for w in weights], np.float32)
    for rule, family, statistic in ((BY_MEAN_ABS, "laplace", 0), (BY_STD, "normal", 1)):
        factor = np.float32(theory.aciq_clip(ACIQ[family].family, bits))
        found[rule] = squares_of_reaches(weights, factor * statistics[:, statistic], bits)
    return found


def every_reach(config: Config, bits: int) -> list[dict[str, Any]]:
    """The SQNR of normal weights against where integers clip."""
    pop, weights, rows = Normal(), arrays(config, "normal"), []
    for reach in config.reaches:
        found = squares_of_reaches(weights, [reach] * config.arrays, bits)
        row = {"kind": "curve", "population": "normal", "bits": bits, "reach": reach, **columns(sqnr_db=found.sqnr_db)}
        rows.append(row | {"predicted_sqnr_db": sqnr_of(pop, theory.int_mse(pop, reach, bits))})
    return rows


# --- predicted ------------------------------------------------------------------------------------------------------


def predicted_mse(pop: Population, rule: str, bits: int, weights: int) -> float:
    """Mean squared error of a rule; of the search that of the optimum, of a percentile that of the population's own."""
    if rule == "absmax":
        return theory.extreme_mse(pop, levels(bits), weights, signed=False)
    if rule == "MSE search":
        return theory.int_mse(pop, best_reach(pop, levels(bits)), bits)
    if rule == BY_MEAN_ABS:
        return theory.int_mse(
            pop, theory.aciq_clip(ACIQ["laplace"].family, bits) * theory.expected_absmax(pop, 1), bits
        )
    if rule == BY_STD:
        return theory.int_mse(pop, theory.aciq_clip(ACIQ["normal"].family, bits) * float(pop.std_dev()), bits)
    return theory.percentile_mse(pop, levels(bits), float(rule.removeprefix("p")))


def levels(bits: int) -> NDArray[np.float64]:
    """Of symmetric integers, from -1 to 1."""
    largest_code = 2 ** (bits - 1) - 1
    return np.arange(-largest_code, largest_code + 1) / largest_code


def sqnr_of(pop: Population, mse: float) -> float:
    """10 log10(E[w^2] / E[e^2]) in decibels."""
    return float(-10 * np.log10(mse / pop.moment(2)))


def aciq_against_optima(config: Config, name: str) -> list[dict[str, Any]]:
    """ACIQ's clip against the exact optima: of integers that end on it, and of the 2^bits cells it was made for."""
    aciq, rows = ACIQ[name], []
    for bits in config.bits:
        pop = aciq.family
        cells = (2 * np.arange(2**bits) + 1 - 2**bits) / 2**bits
        clip = theory.aciq_clip(pop, bits)
        best, own = best_reach(pop, levels(bits)), best_reach(pop, cells)
        lost = theory.int_mse(pop, clip, bits) / theory.int_mse(pop, best, bits)
        of_cells = theory.levels_mse(pop, clip * cells)
        row = {"kind": "aciq", "population": name, "bits": bits, "clip": clip, "optimum": best}
        row |= {"optimum_of_cells": own, "published": aciq.published_for(bits), "unit": aciq.unit}
        row |= {
            "behind_db": float(10 * np.log10(lost)),
            "behind_of_cells_db": float(10 * np.log10(of_cells / theory.levels_mse(pop, own * cells))),
            "model_db": float(10 * np.log10(theory.aciq_mse(pop, clip, bits) / of_cells)),
        }
        rows.append(row)
    return rows


def summary(rows: Rows) -> str:
    """ACIQ's published factors and computed ones, and how far its clips are from the exact optima."""
    parts = []
    for name in ACIQ:
        found = rows.where(kind="aciq", population=name)
        cut = [f"{r['published']:.2f} for {r['clip']:.4f}" for r in found if abs(r["published"] - r["clip"]) > 0.005]
        parts.append(
            f"ACIQ, {name}: {len(cut)} of {len(found)} published factors are cut, not rounded, {', '.join(cut)}"
        )
        parts += [off_the_optima(r) for r in found if r["bits"] in (2, 4)]
    three = rows.where(kind="aciq", population="laplace", bits=3).one("clip")
    return "; ".join([*parts, f"the paper's {IN_PAPER} for 3-bit Laplace is a typing error for {three:.4f}"]) + "."


def off_the_optima(r: dict[str, Any]) -> str:
    return (
        f"int{r['bits']} {r['clip'] / r['optimum'] - 1:+.1%} off the optimum, {r['behind_db']:.3f} dB lost, and "
        f"{r['clip'] / r['optimum_of_cells'] - 1:+.1%} off that of its own cells, {r['behind_of_cells_db']:.3f} dB "
        f"lost; its model {r['model_db']:+.2f} dB"
    )


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    "absmax": Style(BLACK, "s", "absmax"),
    "p99": Style(SKY, "v", "p99"),
    "p99.9": Style(BLUE, "^", "p99.9"),
    "p99.99": Style(PURPLE, "D", "p99.99"),
    "MSE search": Style(GREEN, "o", "MSE search"),
    BY_MEAN_ABS: Style(VERMILION, "X", BY_MEAN_ABS),
    BY_STD: Style(ORANGE, "P", BY_STD),
}
OF_FAMILY = {"laplace": STYLES[BY_MEAN_ABS], "normal": STYLES[BY_STD]}
TITLES = {OUTLIERS: "normal, 0.2 % outliers"}


def draw(rows: Rows) -> plotting.Figure:
    """SQNR against the reach, ACIQ's clip against the optima, and what each rule loses against the width."""
    figure, panels = plotting.mosaic("aabb;cdef", height=5.2, height_ratios=(1.0, 1.15))
    sqnr_against_reach(panels["a"], rows)
    aciq_off_the_optimum(panels["b"], rows.where(kind="aciq"))
    for letter, name in zip("cdef", rows.where(kind="optimum").values("population"), strict=False):
        lost_by_each_rule(panels[letter], rows.where(kind="rule", population=name))
        panels[letter].set_title(TITLES.get(name, str(name)), fontsize=7)
    plotting.note(panels["e"], 1.9, 0.02, "below\n0.1 dB", va="center")
    panels["c"].set_ylabel("SQNR lost against the optimum (dB)")
    for letter in "def":
        panels[letter].set_yticklabels([])
    figure.legend(*panels["c"].get_legend_handles_labels(), loc="outside lower center", ncol=7, columnspacing=1.0)
    plotting.letter(panels[letter] for letter in "abcdef")
    return figure


def sqnr_against_reach(ax: Axes, rows: Rows) -> None:
    pop, fine = Normal(), np.geomspace(0.45, 11, 160)
    for bits in rows.where(kind="curve").values("bits"):
        predicted = [sqnr_of(pop, theory.int_mse(pop, float(reach), bits)) for reach in fine]
        plotting.prediction(ax, fine, predicted, lw=0.7)
        plotting.points(ax, rows.where(kind="curve", bits=bits), "reach", "sqnr_db", series=Style("0.1", "."))
        plotting.note(ax, 11.4, predicted[-1] - (1.2 if bits == 2 else 0.0), f"int{bits}", va="center")
    best, aciq = (rows.where(kind=kind, population="normal") for kind in ("optimum", "aciq"))
    of_best, of_aciq = best.column("predicted_sqnr_db"), [sqnr_of(pop, mse_of_clip(r)) for r in aciq]
    ax.plot(best.column("reach"), of_best, "o", mfc="none", color=GREEN, ms=5, label="optimum")
    ax.plot(aciq.column("clip"), of_aciq, "x", color=VERMILION, ms=4, label="ACIQ")
    ax.set(xscale="log", xlim=(0.45, 16), xticks=(0.5, 1, 2, 5, 10), xticklabels=("0.5", "1", "2", "5", "10"))
    ax.set(xlabel="reach (standard deviations)", ylabel="SQNR, normal (dB)")
    ax.legend(loc="upper left")


def mse_of_clip(r: dict[str, Any]) -> float:
    return theory.int_mse(Normal(), r["clip"], r["bits"])


def aciq_off_the_optimum(ax: Axes, rows: Rows) -> None:
    """Above the optimum of integers that end on it, below that of the cells it was made for."""
    for name, style in OF_FAMILY.items():
        found = rows.where(population=name)
        for optimum, line, label in (("optimum", "-", name), ("optimum_of_cells", ":", None)):
            gap = percent_off(found.column("clip"), found.column(optimum))
            plotting.prediction(ax, found.column("bits"), gap, color=style.color, linestyle=line, label=label)
            published = percent_off(found.column("published"), found.column(optimum))
            ax.plot(found.column("bits"), published, style.marker, color=style.color, ms=3)
    for bits in (2, 4):
        r = rows.where(population="normal", bits=bits)[0]
        at = (bits, percent_off(r["clip"], r["optimum"]))
        ax.annotate(f"{r['behind_db']:.2f} dB lost", at, (7, 4), textcoords="offset points", fontsize=6.5)
    at = (3, percent_off(IN_PAPER, rows.where(population="laplace", bits=3).one("optimum")))
    ax.plot(*at, "x", color="0.1", ms=4)
    look = {
        "va": "center",
        "textcoords": "offset points",
        "fontsize": 6.5,
        "arrowprops": {"arrowstyle": "-", "lw": 0.5},
    }
    ax.annotate("the paper's 3.86", at, (26, 10), **look)
    plotting.note(ax, 2.65, 28, "integers that end on it: too wide")
    plotting.note(ax, 3.2, -14, "ACIQ's own 2ᵇ cells: too narrow")
    ax.axhline(0, color="0.1", lw=0.8)
    ax.set(xlabel="bits b", ylabel="ACIQ's clip off the optimum (%)", ylim=(-20, 50))
    ax.legend(loc="upper right")


def percent_off(clip: Any, optimum: Any) -> Any:
    return 100 * (clip / optimum - 1)


def lost_by_each_rule(ax: Axes, rows: Rows) -> None:
    for rule, style in STYLES.items():
        found = rows.where(rule=rule)
        shown = np.maximum(found.column("predicted_behind_db"), 1e-9)  # on a logarithmic axis
        plotting.prediction(ax, found.column("bits"), shown, series=style)
        plotting.points(ax, found, "bits", "behind_db", series=style)
    ax.axhspan(3e-3, 0.1, color="0.94", lw=0, zorder=0)
    ax.set(yscale="log", ylim=(3e-3, 40), xlim=(1.7, 8.3), xticks=range(2, 9), xlabel="bits")


CLAIMS = ()
