"""Which remedy against outliers lowers the output error most, and at what cost in bits?

Normal weights with 0.01 to 5 % of outliers of 3 to 300 std (spread from half to three halves of that), and the given
16×32 construction get symmetric and asymmetric scales, clipping at the 99.9th percentile or at the least squared error,
scales per row or block, and bf16 copies of all beyond 3σ, each charged 16 bits and an index. Judged by real products
with white inputs, error relative to the output. Expected: clipping destroys what the outliers carry, a zero point gains
nothing, blocks and mixed precision win. Refuted if a single scale comes within one bit of the best method.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil, log2, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantsim import theory
from quantsim._types import Activations, Matrix, PRNGKey, Shape, Weights
from quantsim.formats import FORMATS, levels
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, share_of_cases, stated
from quantsim.lab.study import Cell
from quantsim.measure.ratios import ratio as ratio_of_sums
from quantsim.measure.ratios import root_ratio
from quantsim.measure.statistics import error
from quantsim.outputs.products import product
from quantsim.populations import Contaminated, Normal, Uniform
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

# Method: spec, and whether weights beyond 3σ are kept in bf16. Blocks of 32 weights, of 8 in the 16×32 matrix.
METHODS = {
    "tensor": ("int8:tensor", False), "asymmetric": ("int8:tensor:minmax", False),
    "clip 99.9": ("int8:tensor:p99.9", False), "clip MSE": ("int8:tensor:mse", False), "row": ("int8:channel", False),
    "block": ("int8:block{}:absmax:f16", False), "mixed": ("int8:tensor", True), "row+mixed": ("int8:channel", True),
}  # fmt: skip
LABELS = {"row": "row (B41)", "clip 99.9": "clip 99.9 (B38)", "mixed": "mixed (B69)"}
SHOWN = ("tensor", "row", "block", "asymmetric", "clip 99.9", "mixed")
ADVICE = {"B43": (0.0, 1e-3, "tensor"), "B44": (1e-3, 1e-2, "asymmetric"), "B45": (1e-2, 1.0, "row+mixed")}
SUMS = ("dy2", "y2", "e2", "w2", "ratio", "n", "out_e2", "out_w2", "out_n", "found", "false")
METRICS = {
    "output": "dy2 y2 root", "bulk": "e2 w2 root", "mean_ratio": "ratio n", "outliers": "out_e2 out_w2 root",
    "found": "found out_n", "false": "false n", "gain": "before dy2 root",
}  # fmt: skip
SHAPE, VALUE, BATCH, BF16 = (16, 32), 100.0, 64, parse("bf16")
ONE_BIT, HELPS = 2.0, 0.9  # a bit halves the error; a remedy helps if it takes a tenth off
FIVE = partial(Uniform(3**-0.5).with_outliers, count=5, value=VALUE)
SPREAD = partial(Normal().with_outliers, magnitude=VALUE, values="spread")


@dataclass(frozen=True)
class Config:
    seed: int = 42
    matrices: int = 512  # of 16×32
    repeats: int = 8  # of every point of the map
    shape: tuple[int, int] = (64, 1024)
    rates: tuple[float, ...] = (1e-4, 3e-4, 7e-4, 2e-3, 4e-3, 8e-3, 1.5e-2, 2.2e-2, 3e-2, 5e-2)
    magnitudes: tuple[float, ...] = (3.0, 6.0, 10.0, 30.0, 100.0, 300.0)
    layers: int = 8

    @classmethod
    def small(cls) -> "Config":
        return cls(matrices=64, repeats=2, shape=(32, 256))


def measure(config: Config) -> Iterator[Cell]:
    """The construction, a row of the map at a time, a stack of layers."""
    for values in ("exact", "spread"):
        yield values, partial(_constructed, config, values)
    for m in config.magnitudes:
        yield f"map {m:g}", lambda m=m: [row for r in config.rates for row in _mapped(config, r, m)]
    yield "layers", lambda: _layers(config)


def _keys(config: Config, name: str, number: int) -> PRNGKey:
    return jax.random.split(population_key(config.seed, name), number)


@partial(jax.jit, static_argnums=(0, 1))
def _drawn(pop: Contaminated, shape: Shape, keys: PRNGKey, traced: dict[str, jax.Array]) -> tuple:
    """Matrices, which of their weights are outliers, and white inputs; the map's axes are traced: it compiles once."""
    if traced:
        pop = pop.bulk.with_outliers(values=pop.outliers.values, **traced)
    sample = [lambda k: pop.sample(k, shape), lambda k: pop.is_outlier(k, shape)]
    sample += [lambda k: Normal().sample(jax.random.fold_in(k, 1), (BATCH, shape[1]))]
    return tuple(jax.vmap(s)(keys) for s in sample)


def _remedied(method: str, block: int, w: Matrix) -> tuple[Matrix, jax.Array]:
    """Weights after a method (or a plain spec), and which of them were kept; mixed is W_normal + W_outlier."""
    spec, mixed = METHODS.get(method, (method, False))
    kept = (jnp.abs(w - jnp.mean(w)) > 3 * jnp.std(w)) & mixed
    return jnp.where(kept, BF16.roundtrip(w), parse(spec.format(block)).roundtrip(jnp.where(kept, 0.0, w))), kept


@partial(jax.jit, static_argnums=0)
def _sums(block: int, arrays: tuple[Weights, jax.Array, Activations]) -> jax.Array:
    """For each matrix and method the sums that the metrics need."""

    def matrix(of: tuple[Matrix, jax.Array, Activations]) -> jax.Array:
        (w, out, x), a = of, jnp.abs(of[0])
        y, found = product(x, w), []
        for method in METHODS:
            w_hat, kept = _remedied(method, block, w)
            e = error(w, w_hat)
            bulk = (e * e, w * w, jnp.abs(e) / jnp.where(a == 0, 1.0, a), jnp.ones_like(w))
            parts = [*(jnp.where(out, 0, v) for v in bulk), *(v * out for v in (e * e, w * w, 1.0))]
            parts = [product(x, e) ** 2, y * y, *parts, (kept & out) * 1.0, (kept & ~out) * 1.0]
            found.append(jnp.stack([jnp.sum(v) for v in parts]))
        return jnp.stack(found)

    return jax.lax.map(matrix, arrays)


def _rows(arrays: tuple, block: int, **about: Any) -> list[dict]:
    """One row a method."""
    s, shape = np.asarray(_sums(block, arrays), np.float64), arrays[0].shape[1:]
    rows = []
    for at, method in enumerate(METHODS):
        c: dict[str, np.ndarray] = dict(zip(SUMS, s[:, at].T, strict=True)) | {"before": s[:, 0, 0]}
        bits = parse(METHODS[method][0].format(block)).bits_per_weight(shape)
        bits += (c["found"] + c["false"]).mean() * (16 + ceil(log2(prod(shape)))) / prod(shape)
        rows.append(about | {"method": method, "shape": shape, "bits_per_weight": bits})
        for metric, (a, b, *root) in ((k, m.split()) for k, m in METRICS.items()):
            rows[-1] |= _with_se(metric, c[a], c[b], bool(root))
        rows[-1]["detects"] = rows[-1]["found"] >= 0.95 and rows[-1]["false"] <= 0.01
    return rows


def _with_se(name: str, a: np.ndarray, b: np.ndarray, root: bool = False) -> dict[str, float]:
    return dict(zip((name, f"{name}_se"), (root_ratio if root else ratio_of_sums)(a, b), strict=True))


def _mapped(config: Config, rate: float, magnitude: float) -> list[dict]:
    keys = _keys(config, f"{rate:g} {magnitude:g}", config.repeats)
    arrays = _drawn(
        SPREAD(rate=0.5), config.shape, keys, {"rate": jnp.float32(rate), "magnitude": jnp.float32(magnitude)}
    )
    return _rows(arrays, 32, kind="map", rate=rate, magnitude=magnitude)


def _constructed(config: Config, values: str) -> list[dict]:
    """Metrics over many matrices, the error of the first, and rows with and without an outlier under a scale a row."""
    arrays = _drawn(FIVE(values=values), SHAPE, _keys(config, values, config.matrices), {})
    rows = _rows(arrays, 8, kind="construction", values=values)
    for row in rows:
        row["e"] = error(arrays[0][0], _remedied(row["method"], 8, arrays[0][0])[0])
    w, out = (np.asarray(v) for v in arrays[:2])
    w_hat = np.asarray(jax.vmap(parse(METHODS["row"][0]).roundtrip)(w))
    hit = out.any(axis=2, keepdims=True)
    for in_row, mask in ((True, hit & ~out), (False, ~hit & ~out)):
        ratio = np.where(mask, abs(w_hat - w) / abs(w), 0.0).sum(axis=(1, 2))
        about = {"kind": "row", "values": values, "outlier_in_row": in_row, "share": mask.mean()}
        rows.append(about | _with_se("mean_ratio", ratio, mask.sum(axis=(1, 2))))
    return rows


def _layers(config: Config) -> list[dict]:
    """A stack of normalized layers, two of them with 1 % of outliers: all in int8, or these two in bf16."""
    n, hurt = config.shape[1] // 4, [at in (2, 5) for at in range(config.layers)]
    keys = [_keys(config, f"layer {at}", config.repeats) for at in range(config.layers)]
    draws = [_drawn(SPREAD(rate=0.01 * h), (n, n), k, {}) for h, k in zip(hurt, keys, strict=True)]

    def outputs(methods: list[str]) -> np.ndarray:
        h = draws[0][2]
        for (w, *_), method in zip(draws, methods, strict=True):
            y = jax.vmap(product)(h, jax.vmap(lambda v, m=method: _remedied(m, 32, v)[0])(w))
            h = y / jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True))
        return np.asarray(h, np.float64)

    y, gain = outputs(["f32"] * config.layers), {}
    for method in ("tensor", "bf16"):
        dy = outputs([method if h else "tensor" for h in hurt]) - y
        gain[method] = (dy**2).sum(axis=(1, 2))
    bits = float(np.mean([16 if h else 8 for h in hurt]))
    return [{"kind": "layers", "bits_per_weight": bits} | _with_se("gain", gain["tensor"], gain["bf16"], True)]


def draw(rows: Rows) -> plotting.Figure:
    """One matrix under six methods; the best method of every cell against the advised one; a cut through that map."""
    fig, axes = plotting.mosaic("abcdef;ggghhh", height=4.2, height_ratios=(1, 2.6))
    rows_of = partial(rows.where, kind="construction", values="exact")
    images = [_image(axes[key], rows_of(method=m)[0]) for key, m in zip("abcdef", SHOWN, strict=True)]
    fig.colorbar(images[-1], ax=[axes[k] for k in "abcdef"], fraction=0.03, pad=0.01, label="log₁₀ |error|")
    _map(axes["g"], rows.where(kind="map"))
    _cut(axes["h"], rows.where(kind="map", magnitude=VALUE))
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def _image(ax: plotting.Axes, row: dict) -> Any:
    ax.set(xticks=[], yticks=[])
    name, bits, output = LABELS.get(row["method"], row["method"]), row["bits_per_weight"], 100 * row["output"]
    ax.set_xlabel(f"{name}\n{bits:.1f} bits: {output:.2g} %", fontsize=6.5)
    ax.grid(False)
    return ax.imshow(np.log10(np.abs(row["e"]) + 1e-5), vmin=-4, vmax=0, cmap="OrRd", aspect="auto")


def _map(ax: plotting.Axes, rows: Rows) -> None:
    rates, magnitudes = rows.values("rate"), rows.values("magnitude")
    worse = np.ones((len(magnitudes), len(rates)))
    for (r, m), output in _outputs(rows).items():
        at, best = (magnitudes.index(m), rates.index(r)), min(output, key=lambda k: output[k])
        worse[at] = output[next(method for low, high, method in ADVICE.values() if low <= r < high)] / output[best]
        style = {"ha": "center", "va": "center", "fontsize": 6, "color": "w" if worse[at] > 20 else "0.1"}
        ax.text(at[1], at[0], f"×{worse[at]:.2g}" + "ᵇ" * (best == "block"), **style)
    ax.imshow(np.log10(worse), vmin=0, vmax=2, cmap="OrRd", aspect="auto", origin="lower")
    ax.set_xticks(range(len(rates)), [f"{100 * r:g}" for r in rates])
    ax.set_yticks(range(len(magnitudes)), [f"{m:g}" for m in magnitudes])
    for name, (low, high, method) in ADVICE.items():
        columns = [j for j, r in enumerate(rates) if low <= r < high]
        ax.text(float(np.mean(columns)), len(magnitudes) - 0.4, f"{name}: {method}", ha="center", fontsize=6.5)
        ax.axvline(max(columns) + 0.5, color="w", lw=2)
    ax.set_xlabel("outliers (% of the weights)\n×: error, advised / best (ᵇ best is block, else row+mixed)")
    ax.set_ylabel("magnitude (std of the bulk)")
    ax.grid(False)


def _cut(ax: plotting.Axes, rows: Rows) -> None:
    shape, rates = rows[0]["shape"], np.geomspace(rows[0]["rate"], rows[-1]["rate"], 60)
    for at, method in enumerate(METHODS):
        color = plotting.COLORS[at if at < 6 else 7 if at == 6 else 3]
        style = {"series": at, "label": LABELS.get(method, method), "color": color}
        plotting.points(ax, rows.where(method=method), "rate", "output", **style)
        if method in ("tensor", "clip 99.9", "row", "block", "mixed"):
            plotting.prediction(ax, rates, [_predicted(method, r, shape) for r in rates], color=color)
    ax.set(xscale="log", yscale="log", xlabel="share of outliers of 100 std", ylabel="output error / output, rms")
    ax.set(ylim=(1e-4, 1.5))
    plotting.mark_claim(ax, 0.027, 0.0035, "B42: 3σ misses", offset=(-62, 6))
    ax.legend(ncol=2, loc="lower left")


def _predicted(method: str, rate: float, shape: Shape) -> float:
    """Output error of a method at outliers of 100 std, for white inputs: rms error over rms of the weights."""
    pop, n = SPREAD(rate=rate), {"row": shape[1], "block": 32}.get(method, prod(shape))
    if method in ("row", "block"):
        mse = theory.absmax_int_mse(pop, n, 8)
    elif method == "mixed":
        limit, kept = 3 * float(pop.std_dev()), levels(FORMATS["bf16"])
        reach = limit if limit > VALUE / 2 else min(limit, theory.expected_absmax(Normal(), n))
        of_kept = theory.levels_mse(SPREAD(rate=1.0), kept[(abs(kept) > 32) & (abs(kept) < 256)])
        mse = (reach / 127) ** 2 / 12 + rate * (1.5 - max(0.5, limit / VALUE)) * of_kept
    else:
        reach = theory.expected_absmax(pop, n) if method == "tensor" else float(pop.quantile(0.9995))
        mse = theory.int_mse(pop, reach, 8)
    return float((mse / pop.moment(2)) ** 0.5)


def _outputs(rows: Rows) -> dict[tuple[float, float], dict[str, float]]:
    """Output error of each method for every (share, magnitude) of the map."""
    cells: dict[tuple[float, float], dict[str, float]] = {}
    for r in rows.where(kind="map"):
        cells.setdefault((r["rate"], r["magnitude"]), {})[r["method"]] = r["output"]
    return cells


def _share(*methods: str, factor: float, of: str = "", name: str = "") -> Callable[[Rows], float]:
    """Share of the cells (a statement's own ones) where a method stays within a factor of another, or of the best."""
    low, high, _ = ADVICE.get(name, (0.0, 1.0, ""))

    def find(rows: Rows) -> float:
        cells = [o for (rate, _), o in _outputs(rows).items() if low <= rate < high]
        return float(np.mean([min(o[m] for m in methods) <= factor * o.get(of, min(o.values())) for o in cells]))

    return find


def _value(name: str, **where: str) -> Callable[[Rows], tuple[float, float]]:
    return lambda rows: (rows.where(**where).one(name), rows.where(**where).one(f"{name}_se"))


CLAIMS = (
    Claim("B38", "share of map cells in which clipping at the 99.9th percentile takes a tenth off the output error",
          _share("clip 99.9", factor=HELPS, of="tensor"), share_of_cases("it does"),
          "it cuts off what the outliers carry, or, with more than 0.1 % of them, nothing"),
    Claim("B40", "output error of eight layers in int8, two with 1 % of outliers / with these two in bf16",
          _value("gain", kind="layers"), at_least(ONE_BIT), "{value:.2f} times, for two more bits a weight"),
    Claim("B41", "mean |e|/|w| of the bulk under one scale a row, outliers at ±100",
          _value("mean_ratio", kind="construction", values="exact", method="row"), stated(0.021, 0.0005),
          "{value:.1%} on average: 57 % stays in every row that holds an outlier, 1.4 % in the others"),
    Claim("B42", "share of map cells in which 3σ finds 95 % of the outliers and at most 1 % of the others",
          lambda r: r.where(kind="map", method="mixed").column("detects").mean(), share_of_cases("it does"),
          "it misses small ones, and many large ones, which raise σ themselves"),
    Claim("B43", "share of map cells below 0.1 % outliers in which one symmetric scale is within one bit of the best",
          _share("tensor", factor=ONE_BIT, name="B43"), share_of_cases("it is"),
          "only where they reach no further than 3 std"),
    Claim("B44", "share of map cells from 0.1 to 1 % in which an asymmetric scale is within one bit of the best",
          _share("asymmetric", factor=ONE_BIT, name="B44"), share_of_cases("it is"),
          "with outliers of both signs a zero point gains nothing"),
    Claim("B45", "share of map cells above 1 % in which mixed precision with row scales is within one bit of the best",
          _share("row+mixed", factor=ONE_BIT, name="B45"), share_of_cases("it is"),
          "though above 2.6 % the 3σ rule misses outliers, and what is best is bad"),
    Claim("B69", "output error of one scale / of W_normal + W_outlier, 16×32, outliers spread",
          _value("gain", kind="construction", values="spread", method="mixed"), at_least(ONE_BIT),
          "{value:.0f} times less; what remains is the rounding of the outliers to bf16"),
    Claim("B76", "share of map cells in which min/max, percentile or MSE calibration halves the output error",
          _share("asymmetric", "clip 99.9", "clip MSE", factor=1 / ONE_BIT, of="tensor"), share_of_cases("it does"),
          "one scale has to serve both, whichever is chosen"),
)  # fmt: skip
