"""Where should integers clip, and how much does each rule for it lose against the exact optimum?

A scale per tensor of 262,144 weights, symmetric int2 to int8. Rules: the largest weight (absmax), percentiles of |w|, a
search for the least squared error, and ACIQ (Banner, Nahshan and Soudry, arXiv:1810.05723) from mean |w| as if weights
were Laplace, or from their standard deviation as if normal. Each is set against the reach with exactly the least error
on the infinite population, on the same arrays; lines are predicted. Expected: the search loses nothing; ACIQ, whose
2^bits cells end half a step beyond the last level, clips too late for integers that end on it: 1 dB at 2 bits, nothing
from 4 on where its family is right, 3 to 18 dB where it is not; a percentile is right at one width on each population,
and absmax at none of bell shape. Refuted if a rule beats the optimum. (One does: on t5 the search sees the largest
weights of its own array and gains up to a quarter dB over any reach fixed beforehand.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from quantsim import quantizer, theory
from quantsim.lab import plotting
from quantsim.lab.study import Cell
from quantsim.measure import statistics
from quantsim.measure.ratios import ratio as ratio_of_sums
from quantsim.populations import Laplace, Normal, Population, parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

OUTLIERS = "normal+outliers(rate=0.002,magnitude=30,values=spread)"
SPECS = {"absmax": "", "p99": ":p99", "p99.9": ":p99.9", "p99.99": ":p99.99", "MSE search": ":mse"}
ACIQ = {"ACIQ, Laplace": Laplace(2**0.5), "ACIQ, normal": Normal()}  # of scale 1, what their factors are in units of
RULES = (*SPECS, *ACIQ)
# the authors' tables, in units of b and of the standard deviation
PUBLISHED = {
    "laplace": (2.83, 3.89, 5.03, 6.20, 7.41, 8.64, 9.89),
    "normal": (1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92),
}
IN_PAPER = 3.86  # for 3 bits, Laplace


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
        """Fewer and smaller arrays."""
        return cls(shape=(32, 1024), arrays=4)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each population and width; the arrays of a population are drawn once."""
    for name in config.populations:
        for bits in config.bits:
            yield f"{name} int{bits}", partial(_rules, config, name, bits)
    yield "curves", partial(_curves, config, "normal")
    for name in PUBLISHED:
        yield f"ACIQ {name}", lambda name=name: [_aciq(name, bits) for bits in config.bits]


@lru_cache(1)
def _arrays(config: Config, name: str) -> Array:
    base, pop = population_key(config.seed, name), parse(name)
    return jnp.stack([pop.sample(jax.random.fold_in(base, k), config.shape) for k in range(config.arrays)])


@partial(jax.jit, static_argnums=1)
def _by_spec(arrays: Array, specs: tuple[str, ...]) -> Array:
    """Sums of w^2 and e^2, (arrays, specs, 2, tiles)."""

    def one(w: Array) -> Array:
        return jnp.stack([statistics.tally(w, quantizer.parse(s).roundtrip(w)).sums[:, [4, 3]].T for s in specs])

    return lax.map(one, arrays)


@jax.jit
def _by_reach(arrays: Array, factors: Array, top: Array) -> Array:
    """The same for integers -top … top with a given reach: factors (reaches, 3) of 1, mean |w| and root mean square."""

    def one(w: Array) -> Array:
        moments = jnp.stack([jnp.float32(1), jnp.mean(jnp.abs(w)), jnp.sqrt(jnp.mean(w * w))])

        def clipped(factor: Array) -> Array:
            scale = jnp.sum(factor * moments) / top
            w_hat = jnp.clip(jnp.round(w / scale), -top, top) * scale
            return statistics.tally(w, w_hat).sums[:, [4, 3]].T

        return lax.map(clipped, factors)

    return lax.map(one, arrays)


def _powers(sums: Array) -> np.ndarray:
    """Sums over each array: (rules, 2, arrays)."""
    return np.moveaxis(np.asarray(sums, np.float64).sum(axis=-1), 0, 2)


def _db(name: str, of: np.ndarray, over: np.ndarray) -> dict[str, float]:
    """10 log10 of sum of / sum over, arrays being the units of its standard error."""
    r, se = ratio_of_sums(of, over)
    return {name: float(10 * np.log10(r)), f"{name}_se": float(10 / np.log(10) * se / r)}


def _statistics(pop: Population) -> tuple[float, float]:
    return theory.expected_absmax(pop, 1), float(pop.std_dev())


def _levels(bits: int) -> np.ndarray:
    top = 2 ** (bits - 1) - 1
    return np.arange(-top, top + 1) / top


def _predicted(pop: Population, rule: str, bits: int, n: int) -> float:
    """Mean squared error of a rule; of the search that of the optimum, of a percentile that of the population's own."""
    v = _levels(bits)
    if rule == "absmax":
        return theory.extreme_mse(pop, v, n, signed=False)
    if rule.startswith("p"):
        return theory.percentile_mse(pop, v, float(rule[1:]))
    if rule == "MSE search":
        return theory.int_mse(pop, theory.optimal_clip(pop, bits), bits)
    statistic = _statistics(pop)[list(ACIQ).index(rule)]
    return theory.int_mse(pop, theory.aciq_clip(ACIQ[rule], bits) * statistic, bits)


def _rules(config: Config, name: str, bits: int) -> list[dict]:
    """Every rule, its SQNR, and how far it is behind the exact optimum on the same arrays."""
    pop, arrays, rows = parse(name), _arrays(config, name), []
    best = theory.optimal_clip(pop, bits)
    least = theory.int_mse(pop, best, bits)
    laplace, normal = (theory.aciq_clip(p, bits) for p in ACIQ.values())
    factors = np.array([[best, 0, 0], [0, laplace, 0], [0, 0, normal]], np.float32)
    of_optimum, *of_aciq = _powers(_by_reach(arrays, factors, np.float32(2 ** (bits - 1) - 1)))
    of_specs = _powers(_by_spec(arrays, tuple(f"int{bits}:tensor{s}" for s in SPECS.values())))
    for rule, (w2, e2) in zip(RULES, [*of_specs, *of_aciq], strict=True):
        mse = _predicted(pop, rule, bits, prod(config.shape))
        row = {"kind": "rule", "population": name, "bits": bits, "rule": rule} | _db("sqnr_db", w2, e2)
        row |= _db("behind_db", e2, of_optimum[1]) | {"predicted_sqnr_db": _sqnr(pop, mse)}
        rows.append(row | {"predicted_behind_db": float(10 * np.log10(mse / least))})
    row = {"kind": "optimum", "population": name, "bits": bits, "reach": best} | _db("sqnr_db", *of_optimum)
    return [*rows, row | {"predicted_sqnr_db": _sqnr(pop, least)}]


def _sqnr(pop: Population, mse: float) -> float:
    return float(-10 * np.log10(mse / pop.moment(2)))


def _curves(config: Config, name: str) -> list[dict]:
    pop, rows = parse(name), []
    factors = np.array([[r, 0, 0] for r in config.reaches], np.float32)
    for bits in config.bits:
        powers = _powers(_by_reach(_arrays(config, name), factors, np.float32(2 ** (bits - 1) - 1)))
        for reach, p in zip(config.reaches, powers, strict=True):
            row = {"kind": "curve", "population": name, "bits": bits, "reach": reach} | _db("sqnr_db", *p)
            rows.append(row | {"predicted_sqnr_db": _sqnr(pop, theory.int_mse(pop, reach, bits))})
    return rows


def _aciq(name: str, bits: int) -> dict:
    """ACIQ's clip against the exact optima: of integers that end on it, and of the 2^bits cells it was made for."""
    pop = ACIQ["ACIQ, Laplace" if name == "laplace" else "ACIQ, normal"]
    cells = (2 * np.arange(2**bits) + 1 - 2**bits) / 2**bits
    clip, best, own = theory.aciq_clip(pop, bits), theory.optimal_clip(pop, bits), theory.best_reach(pop, cells)
    lost = theory.int_mse(pop, clip, bits) / theory.int_mse(pop, best, bits)
    of_cells = theory.levels_mse(pop, clip * cells)
    row = {"kind": "aciq", "population": name, "bits": bits, "clip": clip, "optimum": best, "optimum_of_cells": own}
    row |= {"published": PUBLISHED[name][bits - 2], "unit": "b" if name == "laplace" else "std"}
    return row | {
        "behind_db": float(10 * np.log10(lost)),
        "behind_of_cells_db": float(10 * np.log10(of_cells / theory.levels_mse(pop, own * cells))),
        "model_db": float(10 * np.log10(theory.aciq_mse(pop, clip, bits) / of_cells)),
    }


def summary(rows: Rows) -> str:
    """ACIQ's published factors and computed ones, and how far its clips are from the exact optima."""
    parts = []
    for name in PUBLISHED:
        found = rows.where(kind="aciq", population=name)
        cut = [f"{r['published']:.2f} for {r['clip']:.4f}" for r in found if abs(r["published"] - r["clip"]) > 0.005]
        parts.append(
            f"ACIQ, {name}: {len(cut)} of {len(found)} published factors are cut, not rounded, {', '.join(cut)}"
        )
        for r in found[:3:2]:
            far, of_cells = (r["clip"] / r[k] - 1 for k in ("optimum", "optimum_of_cells"))
            parts.append(
                f"int{r['bits']} {far:+.1%} off the optimum, {r['behind_db']:.3f} dB lost, and {of_cells:+.1%} off "
                f"that of its own cells, {r['behind_of_cells_db']:.3f} dB lost; its model {r['model_db']:+.2f} dB"
            )
    three = rows.where(kind="aciq", population="laplace", bits=3).one("clip")
    return "; ".join([*parts, f"the paper's {IN_PAPER} for 3-bit Laplace is a typing error for {three:.4f}"]) + "."


STYLE = dict(zip(RULES, ((7, "s"), (5, "v"), (0, "^"), (3, "D"), (2, "o"), (1, "X"), (4, "P")), strict=True))
TITLES = {OUTLIERS: "normal, 0.2 % outliers"}


def draw(rows: Rows) -> plotting.Figure:
    """SQNR against the reach, ACIQ's clip against the optima, and what each rule loses against the width."""
    fig, axes = plotting.mosaic("aabb;cdef", height=5.2, height_ratios=(1.0, 1.15))
    _reaches(axes["a"], rows)
    _gaps(axes["b"], rows.where(kind="aciq"))
    for key, name in zip("cdef", rows.where(kind="optimum").values("population"), strict=True):
        _behind(axes[key], rows.where(kind="rule", population=name))
        axes[key].set_title(str(TITLES.get(name, name)), fontsize=7)
    axes["e"].text(1.9, 0.02, "below\n0.1 dB", fontsize=6.5, va="center")
    axes["c"].set_ylabel("SQNR lost against the optimum (dB)")
    for key in "def":
        axes[key].set_yticklabels([])
    fig.legend(*axes["c"].get_legend_handles_labels(), loc="outside lower center", ncol=7, columnspacing=1.0)
    plotting.letter(axes[k] for k in "abcdef")
    return fig


def _reaches(ax: plotting.Axes, rows: Rows) -> None:
    pop, fine = Normal(), np.geomspace(0.45, 11, 160)
    for bits in rows.where(kind="curve").values("bits"):
        predicted = [_sqnr(pop, theory.int_mse(pop, float(r), bits)) for r in fine]
        plotting.prediction(ax, fine, predicted, lw=0.7)
        plotting.points(ax, rows.where(kind="curve", bits=bits), "reach", "sqnr_db", color="0.1", marker=".")
        ax.text(11.4, predicted[-1] - 1.2 * (bits == 2), f"int{bits}", fontsize=6.5, va="center")
    best, aciq = (rows.where(kind=k, population="normal") for k in ("optimum", "aciq"))
    style = {"mfc": "none", "color": plotting.COLORS[2], "ms": 5, "label": "optimum"}
    ax.plot(best.column("reach"), best.column("predicted_sqnr_db"), "o", **style)
    y = [_sqnr(pop, theory.int_mse(pop, r["clip"], r["bits"])) for r in aciq]
    ax.plot(aciq.column("clip"), y, "x", color=plotting.COLORS[1], ms=4, label="ACIQ")
    ax.set(xscale="log", xlim=(0.45, 16), xticks=(0.5, 1, 2, 5, 10), xticklabels=("0.5", "1", "2", "5", "10"))
    ax.set(xlabel="reach (standard deviations)", ylabel="SQNR, normal (dB)")
    ax.legend(loc="upper left")


def _gaps(ax: plotting.Axes, rows: Rows) -> None:
    """ACIQ's clip above the optimum of integers that end on it, below that of the cells it was made for."""
    for name, rule in zip(PUBLISHED, ACIQ, strict=True):
        r, color = rows.where(population=name), plotting.COLORS[STYLE[rule][0]]
        for column, style in (("optimum", "-"), ("optimum_of_cells", ":")):
            gap, published = (100 * (r.column(c) / r.column(column) - 1) for c in ("clip", "published"))
            plotting.prediction(ax, r.column("bits"), gap, color=color, linestyle=style, label=name * (style == "-"))
            ax.plot(r.column("bits"), published, STYLE[rule][1], color=color, ms=3)
    for r in rows.where(population="normal", bits=2) + rows.where(population="normal", bits=4):
        gap = 100 * (r["clip"] / r["optimum"] - 1)
        ax.annotate(f"{r['behind_db']:.2f} dB lost", (r["bits"], gap), (7, 4), textcoords="offset points", fontsize=6.5)
    three = rows.where(population="laplace", bits=3)[0]
    ax.plot(3, 100 * (IN_PAPER / three["optimum"] - 1), "x", color="0.1", ms=4)
    note = {
        "va": "center",
        "textcoords": "offset points",
        "fontsize": 6.5,
        "arrowprops": {"arrowstyle": "-", "lw": 0.5},
    }
    ax.annotate("the paper's 3.86", (3, 100 * (IN_PAPER / three["optimum"] - 1)), (26, 10), **note)
    ax.text(2.65, 28, "integers that end on it: too wide", fontsize=6.5)
    ax.text(3.2, -14, "ACIQ's own 2ᵇ cells: too narrow", fontsize=6.5)
    ax.axhline(0, color="0.1", lw=0.8)
    ax.set(xlabel="bits b", ylabel="ACIQ's clip off the optimum (%)", ylim=(-20, 50))
    ax.legend(loc="upper right")


def _behind(ax: plotting.Axes, rows: Rows) -> None:
    for rule, (color, marker) in STYLE.items():
        r, color = rows.where(rule=rule), plotting.COLORS[color]
        plotting.prediction(ax, r.column("bits"), np.maximum(r.column("predicted_behind_db"), 1e-9), color=color)
        plotting.points(ax, r, "bits", "behind_db", marker=marker, label=rule, color=color)
    ax.axhspan(3e-3, 0.1, color="0.94", lw=0, zorder=0)
    ax.set(yscale="log", ylim=(3e-3, 40), xlim=(1.7, 8.3), xticks=range(2, 9), xlabel="bits")


CLAIMS = ()
