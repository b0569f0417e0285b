"""Which 8-bit format is best once its scale is best: int8, or how many exponent bits?

After Kuzmin et al., FP8 Quantization: The Power of the Exponent, arXiv:2208.09225, who found: the more outliers, the
more exponent bits.
Method. Int8, e2m5, e3m4, e4m3 and e5m2 each get the scale with exactly the least squared error on the infinite
population, so that only the spacing of the levels counts. Populations: uniform, normal, t8, and between and beyond them
generalized normals (exponent 16 to 1/2) and Student's t (100 down to 2.2 degrees of freedom).
Expected. A float of m mantissa bits has a relative step of 2^-m wherever it has range: 6 dB a mantissa bit, whatever
the shape. So each exponent bit costs 6 dB and pays only where tails outgrow the range of one less: int8 on uniform,
e2m5 on normal weights, then one more exponent bit at a time.
Refuted if the winners from flat to heavy tails come in any other order, or if a simulation with these scales differs
from the prediction. It does if drawn directly: the best scale clips weights so rare that few samples hold one, and
these carry a share of the error (crosses: e3m4 on t5 looks 0.6 dB better than it is, with an interval of 0.01 dB). So
weights beyond the last level are drawn apart, by importance.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import formats, theory
from quantsim._types import Matrix, PRNGKey
from quantsim.lab import plotting
from quantsim.lab.plotting import BLACK, BLUE, GREEN, ORANGE, VERMILION, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, decibels
from quantsim.measure.squares import Squares, squares_of_pairs
from quantsim.populations import GeneralizedNormal, Normal, Population, StudentT, Uniform, samples
from quantsim.rounding import round_to_grid
from quantsim.rows import Rows
from quantsim.sweep import array_keys

from ._minima import best_reach

FORMATS = ("int8", "e2m5", "e3m4", "e4m3", "e5m2")
MAIN: dict[str, Population] = {"uniform": Uniform(), "normal": Normal(), "t8": StudentT(8.0)}
FAMILIES = {"gennorm": GeneralizedNormal, "t": StudentT}
BEYOND = 0x7A11  # stream of an array's key for weights beyond the last level


@dataclass(frozen=True)
class Config:
    """Parameters of the two families, measured and predicted, and sizes."""

    seed: int = 0
    betas: tuple[float, ...] = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5)
    dfs: tuple[float, ...] = (100.0, 16.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.2)
    fine: int = 31  # points of a predicted line
    shape: tuple[int, int] = (256, 1024)
    arrays: int = 16
    beyond: int = 1024  # weights drawn beyond the last level, for each array and format

    @classmethod
    def small(cls) -> "Config":
        """Fewer of everything."""
        return cls(betas=(16.0, 2.0, 0.5), dfs=(100.0, 5.0, 2.2), shape=(32, 1024), arrays=4, fine=7)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each measured population, one for each predicted family."""
    for name, pop in MAIN.items():
        yield name, partial(every_format, config, "main", name, pop)
    for beta in config.betas:
        yield f"gennorm {beta}", partial(every_format, config, "gennorm", beta, GeneralizedNormal(beta))
    for df in config.dfs:
        yield f"t {df}", partial(every_format, config, "t", df, StudentT(df))
    # evenly on the axes of the figure: log beta, and 1 / df
    betas = np.geomspace(max(config.betas), min(config.betas), config.fine)
    dfs = 1 / np.linspace(1 / max(config.dfs), 1 / min(config.dfs), config.fine)
    yield "gennorm predicted", partial(predicted_line, "gennorm", betas.tolist())
    yield "t predicted", partial(predicted_line, "t", dfs.tolist())


# --- predicted ------------------------------------------------------------------------------------------------------


class Best(NamedTuple):
    """The scale with the least mean squared error on a population, and its SQNR in decibels."""

    scale: float
    sqnr_db: float


def best(pop: Population, name: str) -> Best:
    levels = formats.levels(formats.parse(name))
    scale = best_reach(pop, levels)
    return Best(scale, float(-10 * np.log10(theory.levels_mse(pop, scale * levels) / pop.moment(2))))


def predicted_line(family: str, values: Iterable[float]) -> list[dict[str, Any]]:
    rows = []
    for value in values:
        pop = FAMILIES[family](value)
        for name in FORMATS:
            row = {"kind": "line", "family": family, "value": value, "format": name}
            rows.append(row | {"predicted_sqnr_db": best(pop, name).sqnr_db})
    return rows


# --- measured -------------------------------------------------------------------------------------------------------


def every_format(config: Config, family: str, value: Any, pop: Population) -> list[dict[str, Any]]:
    keys = array_keys(config.seed, str(pop), config.arrays)
    arrays, rows = samples(pop, keys, config.shape), []
    for name in FORMATS:
        (scale, predicted), grid = best(pop, name), formats.grid(formats.parse(name))  # pyright: ignore
        everywhere, inside = squares_at_scale(arrays, scale, grid)
        mse = inside.error / prod(config.shape) + mse_beyond(pop, grid.high * scale, keys, config.beyond)
        row = {"kind": "measured", "family": family, "value": value, "format": name, "scale": scale}
        row |= columns(sqnr_db=decibels(pop.moment(2), mse), direct_sqnr_db=everywhere.sqnr_db)
        rows.append(row | {"predicted_sqnr_db": predicted, "weights": arrays.size})
    return rows


def squares_at_scale(arrays: Float[Array, "arrays rows columns"], scale: float, grid: Any) -> tuple[Squares, Squares]:
    """Squares of each array at this scale: of all weights, and with no error beyond the last level."""
    traced = formats.Grid(
        jnp.int32(grid.mantissa_bits), jnp.int32(grid.min_exponent), jnp.float32(grid.low), jnp.float32(grid.high)
    )
    rounded = [at_scale(w, jnp.float32(scale), traced) for w in arrays]
    everywhere = squares_of_pairs((w, w_hat) for w, (w_hat, _) in zip(arrays, rounded, strict=True))
    inside = squares_of_pairs((w, w_hat) for w, (_, w_hat) in zip(arrays, rounded, strict=True))
    return everywhere, inside


@jax.jit
def at_scale(w: Matrix, scale: Float[Array, ""], grid: formats.Grid) -> tuple[Matrix, Matrix]:
    """Weights rounded to ``scale`` times a format, and the same with those beyond its last level left as they are.

    The format is an argument, not part of the program, so that one program rounds to all of them.
    """
    w_hat = round_to_grid(w / scale, grid) * scale
    return w_hat, jnp.where(jnp.abs(w) <= grid.high * scale, w_hat, w)


def mse_beyond(pop: Population, reach: float, keys: PRNGKey, count: int) -> NDArray[np.float64]:
    """E[(|x| - reach)^2; |x| > reach], one estimate for each key.

    Tail probabilities are P v^8 instead of P v, with weights 8 v^7, so that the variance is finite for t at df > 2.14.
    """
    share = float(pop.tail(reach))
    v = 1 - np.asarray(uniforms(keys, count), np.float64)
    excess = np.maximum(-pop.quantile(share * v**8 / 2) - reach, 0.0) if share > 0 else 0.0 * v
    return share * np.mean(8 * v**7 * excess**2, axis=1)


@partial(jax.jit, static_argnums=1)
def uniforms(keys: PRNGKey, count: int) -> Float[Array, "arrays count"]:
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, BEYOND), (count,)))(keys)


# --- who wins -------------------------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """The value of a parameter at which one format draws level with another, and both formats."""

    value: float
    before: str
    after: str


def winners(rows: Rows) -> dict[Any, str]:
    """The format of the most predicted SQNR for each value of the parameter."""
    found = {}
    for (value,), of_value in rows.groups("value").items():
        sqnr_db = of_value.by("format", "predicted_sqnr_db")
        found[value] = max(sqnr_db, key=sqnr_db.__getitem__)
    return found


def turns(line: Rows) -> list[Turn]:
    """Where the winner changes along a predicted line, between its points by geometric interpolation."""
    found = []
    for (a, before), (b, after) in pairwise(winners(line).items()):
        if before != after:
            at_a, at_b = (lead(line.where(value=value), before, after) for value in (a, b))
            found.append(Turn(float(a * (b / a) ** (at_a / (at_a - at_b))), before, after))
    return found


def lead(rows: Rows, of: str, over: str) -> float:
    """Predicted SQNR of one format less that of another."""
    sqnr_db = rows.by("format", "predicted_sqnr_db")
    return sqnr_db[of] - sqnr_db[over]


def summary(rows: Rows) -> str:
    """Who wins where, by how much, and how well the prediction held."""
    seen, parts = rows.where(kind="measured"), []
    for name in MAIN:
        sqnr_db = seen.where(value=name).by("format", "predicted_sqnr_db")
        first, second, *_ = sorted(sqnr_db, key=sqnr_db.__getitem__, reverse=True)
        parts.append(f"{first} wins on {name}, {sqnr_db[first] - sqnr_db[second]:.1f} dB before {second}")
    for family, symbol in (("gennorm", "β"), ("t", "df")):
        line = rows.where(kind="line", family=family)
        parts += [f"{turn.after} passes {turn.before} at {symbol} = {turn.value:.2g}" for turn in turns(line)]
    z = (seen.column("sqnr_db") - seen.column("predicted_sqnr_db")) / seen.column("sqnr_db_se")
    parts.append(f"largest of {len(z)} residuals {np.abs(z).max():.1f} standard errors, their rms {np.std(z):.2f}")
    worst = max(seen, key=too_good)
    where = f"{worst['format']} at {worst['family']} {worst['value']}"
    return "; ".join([*parts, f"drawn directly, {where} is {too_good(worst):.1f} dB better than it is"]) + "."


def too_good(row: dict[str, Any]) -> float:
    """By how many dB a row looks better if its weights are drawn directly."""
    return row["direct_sqnr_db"] - row["predicted_sqnr_db"]


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    "int8": Style(BLACK, "s"),
    "e2m5": Style(BLUE, "o"),
    "e3m4": Style(GREEN, "v"),
    "e4m3": Style(ORANGE, "^"),
    "e5m2": Style(VERMILION, "D"),
}


def draw(rows: Rows) -> plotting.Figure:
    """Three populations; the way from flat to heavy tails."""
    figure, panels = plotting.mosaic("abb;acc", height=4.4, width_ratios=(1.0, 1.0, 1.0))
    three_populations(panels["a"], rows.where(family="main"))
    along_family(panels["b"], rows.where(family="gennorm"), minus_log2)
    panels["b"].set_xlabel("exponent β of a generalized normal")
    along_family(panels["c"], rows.where(family="t"), reciprocal)
    panels["c"].set_xlabel("degrees of freedom of Student's t")
    words = "× drawn directly: too good, rare weights are missing"
    panels["c"].text(0.02, 0.06, words, fontsize=6.5, transform=panels["c"].transAxes)
    plotting.letter(panels[letter] for letter in "abc")
    return figure


def minus_log2(beta: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.log2(beta)


def reciprocal(df: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / df


def three_populations(ax: Axes, rows: Rows) -> None:
    won = winners(rows)
    for at, name in enumerate(MAIN):
        for k, (fmt, style) in enumerate(STYLES.items()):
            r, x, wins = rows.where(value=name, format=fmt), at + 0.16 * (k - 2), won[name] == fmt
            ax.bar(x, r.one("predicted_sqnr_db"), 0.14, color=style.color, alpha=1.0 if wins else 0.35, lw=0)
            plotting.note(ax, x, 1.0, fmt, rotation=90, ha="center", color="w" if wins else "0.1")
            plotting.curve(ax, [x], r.column("sqnr_db"), se=r.column("sqnr_db_se"), series=Style("0.1", "."), ms=3)
    ax.set(xticks=range(3), xticklabels=list(MAIN), ylabel="SQNR at the best scale (dB)", ylim=(0, 52))
    ax.grid(visible=False, axis="x")


def along_family(ax: Axes, rows: Rows, place: Any) -> None:
    """Lines and points of each format, on a background of the winner's colour; ``place`` makes an axis of values."""
    line, seen = rows.where(kind="line"), rows.where(kind="measured")
    shade_winners(ax, line, place)
    for fmt, style in STYLES.items():
        of_line, of_seen = line.where(format=fmt), seen.where(format=fmt)
        x = place(of_seen.column("value"))
        plotting.prediction(ax, place(of_line.column("value")), of_line.column("predicted_sqnr_db"), series=style)
        look = {"series": style, "linestyle": "none", "ms": 3}
        plotting.curve(ax, x, of_seen.column("sqnr_db"), se=of_seen.column("sqnr_db_se"), **look)
        far = np.array([too_good(r) > 0.3 for r in of_seen])
        ax.plot(x[far], of_seen.column("direct_sqnr_db")[far], "x", color=style.color, ms=3.5, mew=0.8)
    values = np.array(seen.values("value"))
    ax.set_xticks(place(values), [f"{value:g}" for value in values])
    ax.set(ylim=(0, 54), ylabel="SQNR (dB)")
    ax.grid(visible=False)


def shade_winners(ax: Axes, line: Rows, place: Any) -> None:
    values, won = line.values("value"), list(dict.fromkeys(winners(line).values()))
    edges = place(np.array([values[0], *(turn.value for turn in turns(line)), values[-1]]))
    for (a, b), fmt in zip(pairwise(edges), won, strict=True):
        color = STYLES[fmt].color
        ax.axvspan(a, b, color=color, alpha=0.13, lw=0, zorder=0)
        plotting.note(ax, (a + b) / 2, 50, fmt, fontsize=7, ha="center", va="center", color=color, fontweight="bold")
    margin = (edges[-1] - edges[0]) / 60
    ax.set_xlim(edges[0] - margin, edges[-1] + margin)


CLAIMS = ()
