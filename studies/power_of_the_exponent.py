"""Which 8-bit format is best once its scale is best: int8, or how many exponent bits?

After Kuzmin et al., FP8 Quantization: The Power of the Exponent, arXiv:2208.09225. Int8, e2m5, e3m4, e4m3 and e5m2 each
get the scale with exactly the least squared error on the infinite population, so that only the spacing of the levels
counts. Populations: uniform, normal, t8, and between and beyond them generalized normals (exponent 16 to 1/2) and
Student's t (100 down to 2.2 degrees of freedom). A float of m mantissa bits has a relative step of 2^-m wherever it has
range: 6 dB a mantissa bit, whatever the shape. So expected: each exponent bit costs 6 dB and pays only where tails
outgrow the range of one less: int8 on uniform, e2m5 on normal weights, then one more exponent bit at a time. Published:
the more outliers, the more exponent bits. Refuted if the winners from flat to heavy tails come in any other order, or
if a simulation with these scales differs from the prediction. It does if drawn directly: the best scale clips weights
so rare that few samples hold one, and these carry a share of the error (crosses: e3m4 on t5 looks 0.6 dB better than it
is, with an interval of 0.01 dB). So weights beyond the last level are drawn apart, by importance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from quantsim import formats, theory
from quantsim._types import PRNGKey, Shape
from quantsim.lab import plotting
from quantsim.lab.study import Cell
from quantsim.measure import statistics
from quantsim.measure.ratios import ratio as ratio_of_sums
from quantsim.populations import GeneralizedNormal, Normal, Population, StudentT, Uniform
from quantsim.rounding import round_to_grid
from quantsim.rows import Rows
from quantsim.sweep import population_key

FORMATS = ("int8", "e2m5", "e3m4", "e4m3", "e5m2")
MAIN: dict[str, Population] = {"uniform": Uniform(), "normal": Normal(), "t8": StudentT(8.0)}
AXES = {"gennorm": "exponent β of a generalized normal", "t": "degrees of freedom of Student's t"}
ALONG = {"gennorm": lambda beta: -np.log2(beta), "t": lambda df: 1 / np.asarray(df)}


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
        """Fewer and smaller arrays."""
        return cls(shape=(64, 1024), arrays=4, fine=7)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each measured population, one for each predicted family."""
    for name in MAIN:
        yield name, partial(_measured, config, "main", name, MAIN[name])
    for family, values in (("gennorm", config.betas), ("t", config.dfs)):
        for value in values:
            yield f"{family} {value}", partial(_measured, config, family, value, _population(family, value))
        yield f"{family} predicted", partial(_line, config, family, values)


def _population(family: str, value: float) -> Population:
    return {"gennorm": GeneralizedNormal, "t": StudentT}[family](value)


def _best(pop: Population, name: str) -> tuple[float, float]:
    """Scale with the least mean squared error, and its SQNR."""
    levels = formats.levels(formats.parse(name))
    scale = theory.best_reach(pop, levels)
    return scale, float(-10 * np.log10(theory.levels_mse(pop, scale * levels) / pop.moment(2)))


@partial(jax.jit, static_argnums=(0, 1))
def _sums(draw: Any, shape: Shape, value: Any, keys: PRNGKey, scales: Array, grids: formats.Grid) -> Array:
    """Sums of w^2 and e^2, and of e^2 within the range, (arrays, formats, 3); one program for a family."""
    pop = draw(value) if value is not None else draw

    def one(key: PRNGKey) -> Array:
        w = pop.sample(key, shape)

        def each(at: tuple[Array, formats.Grid]) -> Array:
            scale, grid = at
            w_hat = round_to_grid(w / scale, grid) * scale
            inside = jnp.abs(w) <= grid.high * scale
            whole, part = statistics.tally(w, w_hat).sums, statistics.tally(w, jnp.where(inside, w_hat, w)).sums
            return jnp.stack([whole[:, 4], whole[:, 3], part[:, 3]])

        return lax.map(each, (scales, grids))

    return lax.map(one, keys)


def _beyond(pop: Population, reach: float, keys: PRNGKey, count: int) -> np.ndarray:
    """E[(|x| - reach)^2; |x| > reach], one estimate for each key.

    Tail probabilities are P v^8 instead of P v, with weights 8 v^7, so that the variance is finite for t at df > 2.14.
    """
    share = float(pop.tail(reach))
    v = 1 - np.asarray(
        jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 0x7A11), (count,)))(keys), np.float64
    )
    excess = np.maximum(-pop.quantile(share * v**8 / 2) - reach, 0.0) if share > 0 else 0.0 * v
    return share * np.mean(8 * v**7 * excess**2, axis=1)


def _measured(config: Config, family: str, value: Any, pop: Population) -> list[dict]:
    best = [_best(pop, name) for name in FORMATS]
    grids = [formats.grid(formats.parse(name)) for name in FORMATS]  # pyright: ignore[reportArgumentType]
    types = (jnp.int32, jnp.int32, jnp.float32, jnp.float32)
    traced = formats.Grid(*(jnp.asarray(c, t) for c, t in zip(zip(*grids, strict=True), types, strict=True)))  # pyright: ignore
    base = population_key(config.seed, str(pop))
    keys = jax.vmap(lambda k: jax.random.fold_in(base, k))(jnp.arange(config.arrays))
    draw, number = (pop, None) if family == "main" else (type(pop), jnp.float32(value))
    sums = _sums(draw, config.shape, number, keys, jnp.asarray([s for s, _ in best], jnp.float32), traced)
    powers, rows = np.moveaxis(np.asarray(sums, np.float64).sum(axis=-1), 0, 2), []
    for name, grid, (scale, predicted), (w2, e2, inside) in zip(FORMATS, grids, best, powers, strict=True):
        row = {"kind": "measured", "family": family, "value": value, "format": name, "scale": scale}
        mse = inside / prod(config.shape) + _beyond(pop, grid.high * scale, keys, config.beyond)
        row |= _db("sqnr_db", np.full(config.arrays, pop.moment(2)), mse) | _db("direct_sqnr_db", w2, e2)
        rows.append(row | {"predicted_sqnr_db": predicted, "weights": config.arrays * prod(config.shape)})
    return rows


def _db(name: str, of: np.ndarray, over: np.ndarray) -> dict[str, float]:
    """10 log10 of sum of / sum over, arrays being the units of its standard error."""
    r, se = ratio_of_sums(of, over)
    return {name: float(10 * np.log10(r)), f"{name}_se": float(10 / np.log(10) * se / r)}


def _line(config: Config, family: str, values: tuple[float, ...]) -> list[dict]:
    ends, t = (max(values), min(values)), family == "t"
    fine = (1 / np.linspace(1 / ends[0], 1 / ends[1], config.fine) if t else np.geomspace(*ends, config.fine)).tolist()
    about = [(v, name, _best(_population(family, v), name)[1]) for v in fine for name in FORMATS]
    return [{"kind": "line", "family": family, "value": v, "format": f, "predicted_sqnr_db": p} for v, f, p in about]


def _winners(rows: Rows) -> list[tuple[Any, str]]:
    """The format of the most predicted SQNR for each value."""
    return [(v, max(rows.where(value=v), key=lambda r: r["predicted_sqnr_db"])["format"]) for v in rows.values("value")]


def _turns(rows: Rows) -> list[tuple[float, str, str]]:
    """Where the winner changes along a predicted line: the value at which both are equal, and both formats."""
    found = []
    for (a, before), (b, after) in pairwise(_winners(rows)):
        if before != after:
            ahead = [
                rows.where(value=v, format=before).one("predicted_sqnr_db")
                - rows.where(value=v, format=after).one("predicted_sqnr_db")
                for v in (a, b)
            ]
            found.append((float(a * (b / a) ** (ahead[0] / (ahead[0] - ahead[1]))), before, after))
    return found


def summary(rows: Rows) -> str:
    """Who wins where, by how much, and how well the prediction held."""
    seen, parts = rows.where(kind="measured"), []
    for name in MAIN:
        first, second = sorted(seen.where(value=name), key=lambda r: -r["predicted_sqnr_db"])[:2]
        lead = first["predicted_sqnr_db"] - second["predicted_sqnr_db"]
        parts.append(f"{first['format']} wins on {name}, {lead:.1f} dB before {second['format']}")
    for family, symbol in (("gennorm", "β"), ("t", "df")):
        turns = _turns(rows.where(kind="line", family=family))
        parts += [f"{b} passes {a} at {symbol} = {v:.2g}" for v, a, b in turns]
    z = [(r["sqnr_db"] - r["predicted_sqnr_db"]) / r["sqnr_db_se"] for r in seen]
    worst = max(seen, key=lambda r: r["direct_sqnr_db"] - r["predicted_sqnr_db"])
    parts.append(f"largest of {len(z)} residuals {max(np.abs(z)):.1f} standard errors, their rms {np.std(z):.2f}")
    gap = worst["direct_sqnr_db"] - worst["predicted_sqnr_db"]
    where = f"{worst['format']} at {worst['family']} {worst['value']}"
    return "; ".join([*parts, f"drawn directly, {where} is {gap:.1f} dB better than it is"]) + "."


STYLE: dict[str, tuple[int, str]] = dict(zip(FORMATS, zip((7, 0, 2, 4, 1), "sov^D", strict=True), strict=True))


def draw(rows: Rows) -> plotting.Figure:
    """Three populations; the way from flat to heavy tails."""
    fig, axes = plotting.mosaic("abb;acc", height=4.4, width_ratios=(1.0, 1.0, 1.0))
    _three(axes["a"], rows.where(family="main"))
    for key, family in zip("bc", AXES, strict=True):
        _along(axes[key], rows.where(family=family), family)
    plotting.letter(axes[k] for k in "abc")
    return fig


def _three(ax: plotting.Axes, rows: Rows) -> None:
    won = dict(_winners(rows))
    for at, name in enumerate(MAIN):
        for k, fmt in enumerate(FORMATS):
            r = rows.where(value=name, format=fmt)
            x, color = at + 0.16 * (k - 2), plotting.COLORS[STYLE[fmt][0]]
            wins = won[name] == fmt
            ax.bar(x, r.one("predicted_sqnr_db"), 0.14, color=color, alpha=1.0 if wins else 0.35, lw=0)
            ax.text(x, 1.0, fmt, rotation=90, fontsize=6.5, ha="center", color="w" if wins else "0.1")
            plotting.curve(ax, [x], r.column("sqnr_db"), se=r.column("sqnr_db_se"), color="0.1", marker=".", ms=3)
    ax.set(xticks=range(3), xticklabels=list(MAIN), ylabel="SQNR at the best scale (dB)", ylim=(0, 52))
    ax.grid(visible=False, axis="x")


def _along(ax: plotting.Axes, rows: Rows, family: str) -> None:
    to, line, seen = ALONG[family], rows.where(kind="line"), rows.where(kind="measured")
    for fmt, (color, marker) in STYLE.items():
        r, m, color = line.where(format=fmt), seen.where(format=fmt), plotting.COLORS[color]
        plotting.prediction(ax, to(r.column("value")), r.column("predicted_sqnr_db"), color=color)
        x, style = to(m.column("value")), {"color": color, "linestyle": "none", "marker": marker, "ms": 3}
        plotting.curve(ax, x, m.column("sqnr_db"), se=m.column("sqnr_db_se"), series=0, **style)
        far = m.column("direct_sqnr_db") > m.column("predicted_sqnr_db") + 0.3
        ax.plot(x[far], m.column("direct_sqnr_db")[far], "x", color=color, ms=3.5, mew=0.8)
    values, won = line.values("value"), list(dict.fromkeys(f for _, f in _winners(line)))
    edges = to(np.array([values[0], *(v for v, _, _ in _turns(line)), values[-1]]))
    for a, b, fmt in zip(edges[:-1], edges[1:], won, strict=True):
        color = plotting.COLORS[STYLE[str(fmt)][0]]
        ax.axvspan(a, b, color=color, alpha=0.13, lw=0, zorder=0)
        ax.text((a + b) / 2, 50, fmt, fontsize=7, ha="center", va="center", color=color, fontweight="bold")
    if family == "t":
        ax.text(
            0.02, 0.06, "× drawn directly: too good, rare weights are missing", fontsize=6.5, transform=ax.transAxes
        )
    margin = (edges[-1] - edges[0]) / 60
    ax.set(xlim=(edges[0] - margin, edges[-1] + margin), ylim=(0, 54), xlabel=AXES[family], ylabel="SQNR (dB)")
    ax.set_xticks(to(np.array(seen.values("value"))), [f"{v:g}" for v in seen.values("value")])
    ax.grid(visible=False)


CLAIMS = ()
