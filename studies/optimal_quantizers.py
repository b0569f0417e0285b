"""How near to the limit do the best scalar quantizers come, and which published tables of them are wrong?

Method. Three quantizers on four populations: the best levels (Lloyd-Max), the best evenly spaced levels, and cells of
one width whose numbers are entropy coded. Drawn is their squared error over Shannon's lower bound at their bits, which
for normal weights is R(D) itself; computed, and measured on drawn weights, which go to fixed levels by the package's
own rounding; rare weights are drawn more often and counted less. Published distortions for normal weights are set
against computed ones: Max (1960), and the asymptote pi sqrt(3) / 2 * 4^-b that is commonly taken for the optimum beyond
Max's five bits.
Expected. Entropy coding stays 1.53 dB above the bound at many bits whatever the population; levels of a fixed number
lose the more the heavier the tails are, up to Panter and Dite's constant, and evenly spaced ones lose ever more with
every bit.
Refuted if a measured error leaves its curve by more than four standard errors, or if entropy coding loses to fixed
levels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import theory
from quantsim._types import PRNGKey, Weights
from quantsim.formats import Codebook
from quantsim.lab import plotting
from quantsim.lab.plotting import BLUE, GREEN, PURPLE, VERMILION, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import columns, decibels, mean
from quantsim.populations import Normal, Population, parse, samples
from quantsim.rounding import snap
from quantsim.rows import Rows
from quantsim.sweep import array_keys

BEST, EVEN, CODED = "best levels", "even levels", "entropy coded"
# Max, IRE Trans. Inform. Theory 6 (1960): distortion by number of levels, table I (best) and II (evenly spaced)
MAX_1960 = {
    BEST: {2: 0.3634, 4: 0.1175, 8: 0.03454, 16: 0.009497, 32: 0.002499},
    EVEN: {2: 0.3634, 4: 0.1188, 8: 0.03744, 16: 0.01154, 32: 0.003490},
}
DIGITS = 4  # that Max gives
ASYMPTOTE = "asymptote"  # in use for 6 to 8 bits
ASYMPTOTIC = {2**bits: float(np.pi * 3**0.5 / 2 / 4**bits) for bits in (6, 7, 8)}
RARE = 1e-3  # probability of the weights that are drawn more often than they come
DECADES = 15  # of probability below it over which they are drawn


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("normal", "laplace", "uniform", "t5")
    bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    per_bit: int = 4  # computed points
    arrays: int = 32
    shape: tuple[int, int] = (64, 1024)  # of an array

    @classmethod
    def small(cls) -> "Config":
        return cls(populations=("normal", "t5"), bits=(1, 2, 4), per_bit=1, arrays=4, shape=(32, 1024))


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield f"computed {name}", partial(computed, config, name)
        yield f"measured {name}", partial(measured, config, name)
    yield "published", published


def over_bound(name: str, bits: float, mse: Any) -> dict[str, Any]:
    """Squared error over Shannon's bound in dB; of measured errors an array, one for each array of weights."""
    error_, bound = mean(np.atleast_1d(mse)), float(theory.shannon_lower_bound(parse(name), bits))
    over_db = decibels(np.atleast_1d(mse), bound)
    return {"population": name, "bits": bits, "mse": error_.value, **columns(over_db=over_db)}


def levels(pop: Population, quantizer: str, count: int) -> NDArray[np.float64]:
    if quantizer == EVEN:
        return theory.uniform_levels(count, theory.optimal_step(pop, count))
    return theory.lloyd_max(pop, count)


# --- computed -------------------------------------------------------------------------------------------------------


def computed(config: Config, name: str) -> list[dict[str, Any]]:
    pop, most, rows = parse(name), max(config.bits), []
    every = np.arange(1, most + 0.01, 1 / config.per_bit)
    for count in np.unique(np.round(2**every).astype(int)).tolist():
        for quantizer in (EVEN, BEST):
            mse = theory.levels_mse(pop, levels(pop, quantizer, count))
            rows.append({"kind": "computed", "quantizer": quantizer, **over_bound(name, float(np.log2(count)), mse)})
    for bits in every.tolist():
        rows.append({"kind": "computed", "quantizer": CODED, **over_bound(name, bits, theory.ecsq(pop, bits))})
    asymptote = over_bound(name, float(most), theory.panter_dite(pop, 2**most))
    return [*rows, {"kind": "asymptote", "quantizer": BEST, **asymptote}]


def published() -> list[dict[str, Any]]:
    """Published distortions of normal weights against computed ones; ``digit`` is a unit of the last digit given."""
    rows = []
    for quantizer, table in MAX_1960.items():
        for count, stated in table.items():
            digit = 10.0 ** (np.floor(np.log10(stated)) - DIGITS + 1)
            rows.append(against_stated(quantizer, "Max 1960", count, stated) | {"digit": digit})
    return rows + [against_stated(BEST, ASYMPTOTE, n, stated) | {"digit": 0.0} for n, stated in ASYMPTOTIC.items()]


def against_stated(quantizer: str, source: str, count: int, stated: float) -> dict[str, Any]:
    mse = theory.levels_mse(Normal(), levels(Normal(), quantizer, count))
    about = {"kind": "published", "source": source, "quantizer": quantizer, "levels": count}
    return about | {"stated": stated, "mse": mse, "off": stated / mse - 1}


# --- measured -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighted:
    """Arrays of drawn weights, (arrays, weights), and what each weight counts for in the mean of its array."""

    w: Weights
    share: NDArray[np.float64]


@lru_cache(1)
def drawn(config: Config, name: str) -> Weighted:
    """Weights up to the largest 0.1 %, as they come, then an eighth as many larger ones.

    The larger ones come evenly over 15 decades of their probability: as drawn, they would miss the rarest weights of
    t5, which carry a twentieth of the error of its best 256 levels.
    """
    pop, weights = parse(name), prod(config.shape)
    tail = weights // 8
    keys = array_keys(config.seed, name, config.arrays)
    bulk = np.asarray(samples(pop, keys, config.shape), np.float64).reshape(config.arrays, -1)
    place, side = np.moveaxis(np.asarray(uniform_pairs(keys, tail), np.float64), 1, 0)
    probability = RARE * 10.0 ** (-DECADES * place)
    rare = np.where(side < 0.5, 1, -1) * pop.quantile(probability / 2)
    counted = (np.abs(bulk) <= pop.quantile(1 - RARE / 2)) / weights
    share = np.append(counted, probability * DECADES * np.log(10) / tail, axis=1)
    return Weighted(jnp.asarray(np.append(bulk, rare, axis=1), jnp.float32), share)


@partial(jax.jit, static_argnums=1)
def uniform_pairs(keys: PRNGKey, count: int) -> Float[Array, "arrays 2 count"]:
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (2, count)))(keys)


def measured(config: Config, name: str) -> list[dict[str, Any]]:
    pop, weights, rows = parse(name), drawn(config, name), []
    for bits in config.bits:
        for quantizer in (EVEN, BEST):
            codebook = Codebook(quantizer, tuple(levels(pop, quantizer, 2**bits).tolist()))
            # not jitted: a program of its own for each codebook would take longer than what it does
            squares = np.square(np.asarray(error(weights.w, snap(weights.w, codebook)), np.float64))
            found = over_bound(name, float(bits), (squares * weights.share).sum(axis=1))
            rows.append({"kind": "measured", "quantizer": quantizer, **found})
        rows.append({"kind": "measured", "quantizer": CODED, **entropy_coded(weights, name, bits)})
    return rows


def entropy_coded(weights: Weighted, name: str, bits: float) -> dict[str, Any]:
    """Length of an arithmetic code for the population's cells, and the error with their means as levels."""
    magnitude = np.abs(np.asarray(weights.w, np.float64))
    step, dead_zone = theory.ecsq_cells(parse(name), bits)
    first = 0 if dead_zone else 1
    cell = np.maximum(np.ceil(magnitude / step - dead_zone / 2), first).astype(int)
    mass, level = theory.cells(parse(name), (dead_zone / 2 + np.arange(cell.max() + 1)) * step)
    mass[0], level[0] = 2 * mass[0] - 1, 0.0  # from all below the first threshold to the cell about zero
    length = (-np.log2(np.maximum(mass, 1e-300))[cell] * weights.share).sum(axis=1)
    mse = (np.square(magnitude - level[cell]) * weights.share).sum(axis=1)
    used = float(length.mean())
    # the bound moves with the length of an array's own code
    return over_bound(name, used, mse + mse.mean() * np.log(4) * (length - used))


def summary(rows: Rows) -> str:
    """Published distortions that are off by more than their last digit."""
    lines = ["Normal weights: published distortions that are not the optimum's up to their last digit."]
    lines.append(aligned("levels", "quantizer", "source", "published", "computed", "off"))
    for r in rows.where(kind="published"):
        if abs(r["stated"] - r["mse"]) > r["digit"]:
            numbers = f"{r['stated']:.4g}", f"{r['mse']:.5g}", f"{r['off']:+.2%}"
            lines.append(aligned(r["levels"], r["quantizer"], r["source"], *numbers))
    return "\n".join(lines)


def aligned(count: Any, quantizer: str, source: str, *numbers: str) -> str:
    stated, found, off = numbers
    return f"{count:>6}  {quantizer:<11}  {source:<9}  {stated:>9}  {found:>9}  {off:>6}"


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {EVEN: Style(VERMILION, "s", EVEN), BEST: Style(BLUE, "o", BEST), CODED: Style(GREEN, "^", CODED)}
TABLES = {
    (BEST, "Max 1960"): Style(BLUE, "o", f"Max 1960, {BEST}"),
    (EVEN, "Max 1960"): Style(VERMILION, "s", f"Max 1960, {EVEN}"),
    (BEST, ASYMPTOTE): Style(PURPLE, "D", r"$\pi\sqrt{3}/2\cdot 4^{-b}$"),
}
MANY_BITS_DB = 10 * np.log10(np.pi * np.e / 6)  # that entropy coding keeps above the bound: 1.53 dB


def draw(rows: Rows) -> plotting.Figure:
    figure, panels = plotting.mosaic("abe;cde", height=4.6)
    for letter, name in zip("abcd", rows.where(kind="computed").values("population"), strict=False):
        above_the_bound(panels[letter], rows.where(population=name))
        panels[letter].set_title(name)
    for letter in "ac":
        panels[letter].set_ylabel("dB above the bound")
    for letter in "cd":
        panels[letter].set_xlabel("bits a weight")
    published_off(panels["e"], rows.where(kind="published"))
    figure.legend(*panels["a"].get_legend_handles_labels(), loc="outside upper center", ncol=5, columnspacing=1.2)
    plotting.letter(panels[letter] for letter in "abcde")
    return figure


def above_the_bound(ax: Axes, rows: Rows) -> None:
    levels_db = rows.where(kind="asymptote").one("over_db")
    ends = [0.7, 8.3]
    plotting.prediction(ax, ends, [levels_db] * 2, color="0.6", linestyle=":", label="many levels (Panter–Dite)")
    plotting.prediction(ax, ends, [MANY_BITS_DB] * 2, color="0.6", linestyle="-.", label=f"{MANY_BITS_DB:.2f} dB")
    for quantizer, style in STYLES.items():
        theoretical = rows.where(kind="computed", quantizer=quantizer)
        plotting.prediction(ax, theoretical.column("bits"), theoretical.column("over_db"), series=style)
        plotting.points(ax, rows.where(kind="measured", quantizer=quantizer), "bits", "over_db", series=style)
    ax.set(xlim=(0.7, 8.3), ylim=(0, 20), yticks=(0, 5, 10, 15, 20))


def published_off(ax: Axes, rows: Rows) -> None:
    """In percent, with a bar of one unit of the last digit given."""
    ax.axhline(0, color="0.1", lw=0.8)
    for (quantizer, source), style in TABLES.items():
        found = rows.where(quantizer=quantizer, source=source)
        bits = np.log2(found.column("levels")) + (0.12 if quantizer == EVEN else 0.0)
        digit = 100 * found.column("digit") / found.column("mse")
        look = {"linestyle": "none", "ms": 3}
        plotting.curve(ax, bits, 100 * found.column("off"), se=digit / 1.96, series=style, **look)
    ax.set(xlim=(0.5, 8.5), ylim=(-0.5, 4.5), xlabel="bits (log₂ of the levels)")
    ax.set_ylabel("published / computed distortion − 1 (%)")
    ax.legend(loc="upper left")


CLAIMS = ()
