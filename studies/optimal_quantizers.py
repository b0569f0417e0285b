"""How near to the limit do the best scalar quantizers come, and which published tables of them are wrong?

Three quantizers on four populations: the best levels (Lloyd-Max), the best evenly spaced levels, and cells of one width
whose numbers are entropy coded. Drawn is their squared error over Shannon's lower bound at their bits, which for normal
weights is R(D) itself; computed, and measured on drawn weights, which go to fixed levels by the package's own rounding;
rare weights are drawn more often and counted less. Expected: entropy coding stays 1.53 dB above the bound at many bits
whatever the population; levels of a fixed number lose the more the heavier the tails are, up to Panter and Dite's
constant, and evenly spaced ones lose ever more with every bit. Refuted if a measured error leaves its curve by more
than four standard errors, or if entropy coding loses to fixed levels. Published distortions for normal weights are set
against computed ones: Max (1960), and the asymptote pi sqrt(3) / 2 * 4^-b that is commonly taken for the optimum beyond
Max's five bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantsim import theory
from quantsim._types import Weights
from quantsim.formats import Codebook
from quantsim.lab import plotting
from quantsim.lab.study import Cell
from quantsim.measure.ratios import ratio as ratio_of_sums
from quantsim.measure.statistics import error
from quantsim.populations import Normal, Population, parse
from quantsim.rounding import snap
from quantsim.rows import Rows
from quantsim.sweep import population_key

SERIES = {"even levels": 1, "best levels": 0, "entropy coded": 2}
# Max, IRE Trans. Inform. Theory 6 (1960): distortion by number of levels, table I (best) and II (evenly spaced)
MAX_1960 = {
    "best levels": {2: 0.3634, 4: 0.1175, 8: 0.03454, 16: 0.009497, 32: 0.002499},
    "even levels": {2: 0.3634, 4: 0.1188, 8: 0.03744, 16: 0.01154, 32: 0.003490},
}
ASYMPTOTE = "asymptote"  # in use for 6 to 8 bits
RARE = 1e-3  # probability of the weights that are drawn more often than they come


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("normal", "laplace", "uniform", "t5")
    bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    per_bit: int = 4  # computed points
    arrays: int = 32
    weights: int = 2**16  # of an array

    @classmethod
    def small(cls) -> "Config":
        return cls(bits=(1, 2, 4), per_bit=1, arrays=8, weights=2**14)


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield f"computed {name}", partial(_computed, name, max(config.bits), 1 / config.per_bit)
        yield f"measured {name}", partial(_measured, config, name)
    yield "published", _published


def _row(kind: str, name: str, quantizer: str, bits: float, mse: Any) -> dict:
    """Error over the bound in dB; of measured errors an array, one for each array of weights."""
    mean, se = ratio_of_sums(np.atleast_1d(mse), np.ones(np.size(mse)))
    over = mean / float(theory.shannon_lower_bound(parse(name), bits))
    about = {"kind": kind, "population": name, "quantizer": quantizer, "bits": bits, "mse": mean}
    return about | {"over_db": 10 * np.log10(over), "over_db_se": 10 / np.log(10) * se / mean}


def _levels(pop: Population, quantizer: str, count: int) -> np.ndarray:
    even = quantizer == "even levels"
    return theory.uniform_levels(count, theory.optimal_step(pop, count)) if even else theory.lloyd_max(pop, count)


def _computed(name: str, most: int, apart: float) -> list[dict]:
    pop, rows = parse(name), []
    for count in np.unique(np.round(2 ** np.arange(1, most + 0.01, apart)).astype(int)).tolist():
        for quantizer in ("even levels", "best levels"):
            mse = theory.levels_mse(pop, _levels(pop, quantizer, count))
            rows.append(_row("computed", name, quantizer, float(np.log2(count)), mse))
    for bits in np.arange(1, most + 0.01, apart).tolist():
        rows.append(_row("computed", name, "entropy coded", bits, theory.ecsq(pop, bits)))
    return [*rows, _row("asymptote", name, "best levels", float(most), theory.panter_dite(pop, 2**most))]


@lru_cache(1)
def _arrays(config: Config, name: str) -> tuple[Weights, np.ndarray]:
    """Arrays of drawn weights up to the largest 0.1 %, then of larger ones; and what each counts for in a mean.

    The larger ones come evenly over 15 decades of their probability: as drawn, they would miss the rarest weights of
    t5, which carry a twentieth of the error of its best 256 levels.
    """
    pop, base, decades, tail = parse(name), population_key(config.seed, name), 15, config.weights // 8
    keys = [jax.random.fold_in(base, k) for k in range(config.arrays)]
    bulk = np.stack([np.asarray(pop.sample(k, (config.weights,)), np.float64) for k in keys])
    beyond = np.stack([np.asarray(jax.random.uniform(jax.random.fold_in(k, 1), (2, tail)), np.float64) for k in keys])
    probability = RARE * 10.0 ** (-decades * beyond[:, 0])
    rare = np.where(beyond[:, 1] < 0.5, 1, -1) * pop.quantile(probability / 2)
    counted = (np.abs(bulk) <= -pop.quantile(RARE / 2)) / config.weights
    share = np.append(counted, probability * decades * np.log(10) / tail, axis=1)
    return jnp.asarray(np.append(bulk, rare, axis=1), jnp.float32), share


@partial(jax.jit, static_argnums=1)
def _errors(w: Weights, codebook: Codebook) -> Weights:
    return error(w, snap(w, codebook))


def _measured(config: Config, name: str) -> list[dict]:
    pop, (w, share), rows = parse(name), _arrays(config, name), []
    for bits in config.bits:
        for quantizer in ("even levels", "best levels"):
            codebook = Codebook(quantizer, tuple(_levels(pop, quantizer, 2**bits).tolist()))
            squares = np.asarray(_errors(w, codebook), np.float64) ** 2
            rows.append(_row("measured", name, quantizer, float(bits), (squares * share).sum(axis=1)))
        rows.append(_entropy_coded(np.asarray(w, np.float64), share, name, theory.ecsq_cells(pop, bits)))
    return rows


def _entropy_coded(w: np.ndarray, share: np.ndarray, name: str, quantizer: tuple[float, float]) -> dict:
    """Length of an arithmetic code for the population's cells, and the error with their means as levels."""
    step, dead_zone = quantizer
    cell = np.maximum(np.ceil(np.abs(w) / step - dead_zone / 2), 0 if dead_zone else 1).astype(int)
    mass, mean = theory.cells(parse(name), (dead_zone / 2 + np.arange(cell.max() + 1)) * step)
    mass[0], mean[0] = 2 * mass[0] - 1, 0.0  # from all below the first threshold to the cell about zero
    length = (-np.log2(np.maximum(mass, 1e-300))[cell] * share).sum(axis=1)
    mse = ((np.abs(w) - mean[cell]) ** 2 * share).sum(axis=1)
    bits = float(length.mean())
    # the bound moves with the length of an array's own code
    return _row("measured", name, "entropy coded", bits, mse + mse.mean() * np.log(4) * (length - bits))


def _published() -> list[dict]:
    pop, rows = Normal(), []
    tables = [(quantizer, "Max 1960", table) for quantizer, table in MAX_1960.items()]
    beyond = {2**b: float(np.pi * 3**0.5 / 2 / 4**b) for b in (6, 7, 8)}
    for quantizer, source, table in [*tables, ("best levels", ASYMPTOTE, beyond)]:
        for count, stated in table.items():
            mse = theory.levels_mse(pop, _levels(pop, quantizer, count))
            digit = 0.0 if source == ASYMPTOTE else 10.0 ** (np.floor(np.log10(stated)) - 3)  # four are given
            rows.append({"kind": "published", "source": source, "quantizer": quantizer, "levels": count,
                         "stated": stated, "mse": mse, "digit": digit, "off": stated / mse - 1})  # fmt: skip
    return rows


def summary(rows: Rows) -> str:
    """Published distortions that are off by more than their last digit."""
    lines = ["Normal weights: published distortions that are not the optimum's up to their last digit."]
    form = "{:>6}  {:<11}  {:<9}  {:>9}  {:>9}  {:>6}".format
    lines.append(form("levels", "quantizer", "source", "published", "computed", "off"))
    for r in rows.where(kind="published"):
        if abs(r["stated"] - r["mse"]) > r["digit"]:
            numbers = f"{r['stated']:.4g}", f"{r['mse']:.5g}", f"{r['off']:+.2%}"
            lines.append(form(r["levels"], r["quantizer"], r["source"], *numbers))
    return "\n".join(lines)


def draw(rows: Rows) -> plotting.Figure:
    fig, axes = plotting.mosaic("abe;cde", height=4.6)
    for key, name in zip("abcd", rows.where(kind="computed").values("population"), strict=False):
        _above_bound(axes[key], rows.where(population=name))
        axes[key].set(ylabel="dB above the bound" * (key in "ac"), xlabel="bits a weight" * (key in "cd"), title=name)
    _tables(axes["e"], rows.where(kind="published"))
    fig.legend(*axes["a"].get_legend_handles_labels(), loc="outside upper center", ncol=5, columnspacing=1.2)
    plotting.letter(axes[k] for k in "abcde")
    return fig


def _above_bound(ax: plotting.Axes, rows: Rows) -> None:
    asymptote = rows.where(kind="asymptote").one("over_db")
    for y, style, label in (
        (asymptote, ":", "many levels (Panter–Dite)"),
        (10 * np.log10(np.pi * np.e / 6), "-.", "1.53 dB"),
    ):
        plotting.prediction(ax, [0.7, 8.3], [y, y], color="0.6", linestyle=style, label=label)
    for quantizer, series in SERIES.items():
        theoretical = rows.where(kind="computed", quantizer=quantizer)
        plotting.prediction(ax, theoretical.column("bits"), theoretical.column("over_db"), series=series)
        measured = rows.where(kind="measured", quantizer=quantizer)
        plotting.points(ax, measured, "bits", "over_db", series=series, label=quantizer)
    ax.set(xlim=(0.7, 8.3), ylim=(0, 20), yticks=(0, 5, 10, 15, 20))


def _tables(ax: plotting.Axes, rows: Rows) -> None:
    ax.axhline(0, color="0.1", lw=0.8)
    for series, (quantizer, source) in enumerate(
        (("best levels", "Max 1960"), ("even levels", "Max 1960"), ("best levels", ASYMPTOTE))
    ):
        r = rows.where(quantizer=quantizer, source=source)
        x = np.log2(r.column("levels")) + (0.12 if quantizer == "even levels" else 0.0)
        label = f"{source}, {quantizer}" if source != ASYMPTOTE else r"$\pi\sqrt{3}/2\cdot 4^{-b}$"
        plotting.curve(ax, x, 100 * r.column("off"), se=100 * r.column("digit") / r.column("mse") / 1.96,
                       series=(0, 1, 3)[series], label=label, linestyle="none", ms=3)  # fmt: skip
    ax.set(
        xlabel="bits (log₂ of the levels)",
        ylabel="published / computed distortion − 1 (%)",
        xlim=(0.5, 8.5),
        ylim=(-0.5, 4.5),
    )
    ax.legend(loc="upper left")


CLAIMS = ()
