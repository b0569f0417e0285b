"""What does one outlier, or 1 % of them at ±100, do to the other weights of an int8 tensor?

The document's construction (16×32, uniform on [-1, 1), five of 512 weights at ±100, one scale) is drawn many times and
once from its own seed, quantized, and multiplied with white inputs; beside it the same without outliers. As ±100 falls
on the last code and has no error, the outliers are also spread from 50 to 150. Expected: the step is max |w| / 127, so
an outlier M times the bulk leaves it 2 round(127 / M) + 1 codes and multiplies the output MSE by M² while the bulk has
codes, whatever the number of weights. Refuted if a larger tensor suffers less.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from quantsim import theory
from quantsim._types import Activations, Matrix, PRNGKey, Shape
from quantsim.formats import FORMATS, levels
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_most, between, share_of_cases, stated
from quantsim.lab.matrix import document_matrix
from quantsim.lab.study import Cell
from quantsim.measure.ratios import ratio as ratio_of_sums
from quantsim.measure.ratios import root_ratio
from quantsim.measure.statistics import error
from quantsim.outputs.products import product
from quantsim.populations import Contaminated, Normal, Uniform
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

Q, BULK, SHAPE, VALUE, COUNT, BATCH = parse("int8:tensor"), Uniform(3**-0.5), (16, 32), 100.0, 5, 8
MORE_MSE = (300.0, 500.0)  # as stated, in per cent; then the value table: weight, code, dequantized weight, error
TABLE = ((0, 0, 0, 0), (0.5, 1, 0.787, 0.287), (1, 1, 0.787, 0.213), (10, 13, 10.236, 0.236), (100, 127, 100, 0))
# Sums over a class of weights, divided; "root" takes the root. The first six are what "relative error" can mean.
METRICS = {
    "mean of ratios": "ratio one", "ratio of sums": "e w", "rms": "e2 w2 root", "rms over all": "all_e2 all_w2 root",
    "mean over max": "e max", "max over max": "top_e top", "mean_abs": "e one", "above": "above one",
    "exact": "exact one", "clipped": "clipped one", "step": "step matrices", "codes": "codes matrices",
    "output": "dy2 y2 root", "unscaled": "unscaled2 y2 root",
}  # fmt: skip
RELATIVE, M = tuple(METRICS)[:6], np.geomspace(1, 1000, 200)


@dataclass(frozen=True)
class Config:
    seed: int = 42
    matrices: int = 1024
    magnitudes: tuple[float, ...] = tuple(np.geomspace(1, 1000, 25).tolist())
    rates: tuple[float, ...] = tuple(np.geomspace(1e-5, 0.1, 13).tolist())
    rate_shapes: tuple[tuple[int, int], ...] = ((16, 32), (256, 256))
    sizes: tuple[tuple[int, int], ...] = ((16, 32), (512, 512), (2560, 4096))
    weights: int = 2**22  # of a size, in as many matrices as that makes, but in at least four

    @classmethod
    def small(cls) -> "Config":
        return cls(matrices=64, rate_shapes=((16, 32),), sizes=((16, 32),), weights=2**16)


def measure(config: Config) -> Iterator[Cell]:
    """The construction, the document's own matrix and table, sweeps over magnitude, rate and size."""
    cell, five = partial(_measured, config), partial(BULK.with_outliers, count=COUNT)
    for v in ("exact", "spread"):
        args = ({"kind": "construction", "values": v}, five(value=VALUE, values=v))
        yield v, lambda args=args: [cell(*args, SHAPE)]
    yield "document", lambda: [_document(config), *_table(), *_staircase()]
    by_magnitude = [({"kind": "magnitude", "magnitude": m}, five(value=m)) for m in config.magnitudes]
    yield "magnitude", lambda: [cell(*args, SHAPE) for args in by_magnitude]
    by_rate = [({"kind": "rate", "rate": r}, BULK.with_outliers(rate=r, value=VALUE)) for r in config.rates]
    for shape in config.rate_shapes:
        yield f"rate {shape}", lambda shape=shape: [cell(*args, shape, brief=True) for args in by_rate]
    for bulk in (BULK, Normal()):
        args = ({"kind": "size", "bulk": str(bulk)}, bulk.with_outliers(count=1, value=VALUE))
        for shape in config.sizes:
            yield f"size {bulk} {shape}", lambda args=args, shape=shape: [cell(*args, shape, brief=True)]


def _measured(config: Config, about: dict, pop: Contaminated, shape: Shape, *, brief: bool = False) -> dict:
    """Matrices drawn with and without their outliers, quantized and multiplied: metrics with standard errors."""
    n, o = max(4, min(config.matrices, config.weights // prod(shape))), pop.outliers
    keys = jax.vmap(partial(jax.random.fold_in, population_key(config.seed, f"{pop} {shape}")))(jnp.arange(n))
    traced = {k: jnp.float32(v) for k, v in (("value", o.value), ("rate", o.rate)) if v is not None}
    sums = _sums((pop.bulk, o.count, o.values, shape, brief), traced, keys)
    s = {k: np.asarray(v, np.float64).sum(axis=-1) for k, v in sums.items()}
    found = about | {"weights": prod(shape), "matrices": n}
    metrics = {f"{part}_{k}": (part, *m.split()) for k, m in METRICS.items() for part in ("bulk", "clean", "outlier")}
    for name, (part, a, b, *root) in metrics.items():
        if f"{part}_{a}" in s:
            value, se = (root_ratio if root else ratio_of_sums)(s[f"{part}_{a}"], s[f"{part}_{b}"])
            found |= {name: value, f"{name}_se": se}
    if not brief:
        growth, se = ratio_of_sums(s["bulk_dy2"], s["clean_dy2"])
        found |= {"more_mse": 100 * (growth - 1), "more_mse_se": 100 * se}
    return found


@partial(jax.jit, static_argnums=0)
def _sums(settings: tuple, traced: dict[str, jax.Array], keys: PRNGKey) -> dict[str, jax.Array]:
    """Sums over each row of each matrix; the outliers' numbers are traced: a sweep compiles once."""
    bulk, count, values, shape, brief = settings
    pop = bulk.with_outliers(count=count, values=values, **traced)

    def matrix(key: PRNGKey) -> dict[str, jax.Array]:
        w, clean, out = pop.sample(key, shape), pop.bulk.sample(key, shape), pop.is_outlier(key, shape)
        x = Normal().sample(jax.random.fold_in(key, 1), (BATCH, shape[1]))
        found = _classes(w, {"bulk": ~out, "outlier": out}, x) | _classes(clean, {"clean": out | True}, x)
        return {k: v for k, v in found.items() if not brief or k in ("bulk_e2", "bulk_w2", "clean_e2", "clean_w2")}

    return jax.lax.map(matrix, keys, batch_size=max(1, 2**17 // prod(shape)))


def _classes(w: Matrix, masks: dict[str, jax.Array], x: Activations) -> dict[str, jax.Array]:
    """Sums over the rows of what the metrics need, for the weights under each mask; outputs are of all weights."""
    qw, top, a, y = Q.quantize(w), jnp.max(jnp.abs(w)), jnp.abs(w), product(x, w)
    signed = error(w, qw.dequantize())
    e, dy, unscaled = jnp.abs(signed), product(x, signed), product(x, qw.codes.astype(jnp.float32)) - y
    ratio = jnp.where(a == 0, 0.0, e / jnp.where(a == 0, 1.0, a))
    masked = {
        "one": jnp.ones_like(a), "max": jnp.full_like(a, top), "e": e, "e2": e * e, "w": a, "w2": a * a,
        "ratio": ratio, "above": e > 0.2, "exact": ratio <= 2.0**-22, "clipped": Q.clipped(w),
    }  # fmt: skip
    rest = {"all_e2": e * e, "all_w2": a * a, "y2": (y * y).T, "dy2": (dy * dy).T, "unscaled2": (unscaled**2).T}
    found = {}
    for name, mask in masks.items():
        code = jnp.max(jnp.where(mask, jnp.abs(qw.codes), 0)).astype(jnp.float32)
        once = {"matrices": 1, "top": top, "top_e": jnp.max(e * mask), "step": top / 127, "codes": 2 * code + 1}
        found |= {f"{name}_{k}": jnp.sum(jnp.where(mask, v, 0), axis=-1) for k, v in masked.items()}
        found |= {f"{name}_{k}": jnp.sum(v, axis=-1) for k, v in rest.items()}
        found |= {f"{name}_{k}": jnp.reshape(v, 1) for k, v in once.items()}
    return found


def _document(config: Config) -> dict:
    """The seed-42 matrix itself, five of its weights replaced by ±100."""
    random = np.random.RandomState(config.seed)
    out = np.isin(np.arange(512).reshape(SHAPE), random.choice(512, COUNT, replace=False))
    w = jnp.asarray(np.where(out, random.choice([-VALUE, VALUE], out.shape), document_matrix(config.seed)))
    e, codes = np.abs(np.asarray(error(w, Q.roundtrip(w))))[~out], np.asarray(Q.quantize(w).codes)[~out]
    return {"kind": "document", "mean_abs": e.mean(), "above": (e > 0.2).mean(), "codes": len(np.unique(codes))}


def _table() -> list[dict]:
    """The document's five weights, which bring their own scale of 100 / 127."""
    w = jnp.array([row[0] for row in TABLE])
    found = zip(Q.quantize(w).codes.tolist(), Q.roundtrip(w).tolist(), TABLE, strict=True)
    agrees = [c == t[1] and abs(r - t[2]) < 6e-4 and abs(abs(r - t[0]) - t[3]) < 6e-4 for c, r, t in found]
    columns = zip(w.tolist(), agrees, (parse("bf16").roundtrip(w) == w).tolist(), strict=True)
    return [{"kind": "table", "w": v, "agrees": a, "bf16": b, "possible": v <= 1 or v == VALUE} for v, a, b in columns]


def _staircase() -> list[dict]:
    """Error against weight where the largest weight is 100 and where it is 1; nothing random in it."""
    w = jnp.linspace(0.0, 1.0, 1001)
    e = {top: jnp.abs(error(w, Q.roundtrip(jnp.append(w, top))[:-1])) for top in (VALUE, 1.0)}
    return [{"kind": "staircase", "top": top, "w": w, "e": v} for top, v in e.items()]


def draw(rows: Rows) -> plotting.Figure:
    """The ruler; codes and errors against magnitude; error against weight, rate and size."""
    fig, axes = plotting.mosaic("aaaaaa;bbbccc;ddeeff;gghhii", height=5.4, height_ratios=(0.3, 0.3, 1.6, 1.6))
    _ruler(axes["a"], VALUE, VALUE, "255 codes from −100 to 100; 99 % of the weights live in the orange sliver, ±1")
    _ruler(axes["b"], VALUE, 1.0, "the sliver: 3 codes (B26)")
    _ruler(axes["c"], 1.0, 1.0, "without outliers: 255 codes")
    _codes(axes["d"], rows.where(kind="magnitude"))
    _relative(axes["e"], rows.where(kind="magnitude"))
    _output(axes["f"], rows.where(kind="magnitude"))
    _by_weight(axes["g"], rows)
    _rates(axes["h"], rows.where(kind="rate"))
    _sizes(axes["i"], rows.where(kind="size"))
    for name in "def":
        axes[name].set(xscale="log", yscale="log", xlabel="outliers / largest of the bulk, M")
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def _ruler(ax: plotting.Axes, top: float, shown: float, text: str) -> None:
    ticks = levels(FORMATS["int8"]) * top / 127
    ax.axvspan(-1, 1, color=plotting.COLORS[4], alpha=0.6, lw=0)
    ax.vlines(ticks[abs(ticks) <= shown], 0, 1, color="0.1", lw=2 if shown < top else 0.4)
    ax.set(xlim=(-1.01 * shown, 1.01 * shown), ylim=(0, 1), yticks=[])
    ax.grid(False)
    ax.set_title(text, fontsize=6.5)


def _codes(ax: plotting.Axes, rows: Rows) -> None:
    plotting.points(ax, rows, "magnitude", "bulk_codes")
    plotting.prediction(ax, M, 2 * np.floor(127 / M + 0.5) + 1, label="2 round(127 / M) + 1")
    plotting.mark_claim(ax, VALUE, 127.5, "B26: half", offset=(-14, 5))
    ax.set(ylabel="codes left for the bulk", ylim=(0.2, 400))
    ax.legend(loc="lower left")


def _relative(ax: plotting.Axes, rows: Rows) -> None:
    rms = np.sqrt([3 * theory.int_mse(BULK, t, 8) for t in M])
    ratios = [theory.levels_mean(BULK, levels(FORMATS["int8"]) * t / 127, lambda x, v: abs(x - v) / abs(x)) for t in M]
    over_all = rms / np.sqrt(1 + COUNT / (512 - COUNT) * 3 * M**2)
    for at, (name, y) in enumerate((("mean of ratios", ratios), ("rms", rms), ("rms over all", over_all))):
        plotting.points(ax, rows, "magnitude", f"bulk_{name}", series=at, label=name)
        plotting.prediction(ax, M, y, series=at)
    plotting.mark_claim(ax, 1.0, 0.0043, "B31", offset=(4, -9))
    plotting.mark_claim(ax, VALUE, 0.574, "B31", offset=(-20, 3))
    ax.set(ylabel="relative error of the bulk", ylim=(3e-4, 1.5))
    ax.legend(loc="lower right")


def _output(ax: plotting.Axes, rows: Rows) -> None:
    plotting.points(ax, rows, "magnitude", "more_mse")
    growth = np.array([theory.int_mse(BULK, t, 8) for t in M]) / theory.absmax_int_mse(BULK, 512, 8)
    plotting.prediction(ax, M, 100 * (growth * (1 - COUNT / 512) - 1))
    ax.axhspan(*MORE_MSE, color=plotting.COLORS[1], alpha=0.3, lw=0)
    plotting.mark_claim(ax, VALUE, float(np.mean(MORE_MSE)), "B35: stated", offset=(-16, -9))
    ax.set(ylim=(10, 3e7), ylabel="output MSE, increase (%)")


def _by_weight(ax: plotting.Axes, rows: Rows) -> None:
    for at, r in enumerate(rows.where(kind="staircase")):
        plotting.curve(ax, r["w"], r["e"], series=1 - at, marker="", label=("with ±100", "without")[at])
    ax.axhline(_built("bulk_mean_abs")(rows)[0], color=plotting.COLORS[1], lw=0.8, ls=":", label="mean of the bulk")
    for w, _, _, e in TABLE[:3]:
        plotting.mark_claim(ax, w, e, "B28, B30" if e == 0.287 else "", offset=(6, 0))
    ax.set(xlabel="|weight|", ylabel="|error| (weight units)", ylim=(-0.02, 0.6))
    ax.legend(loc="upper right")


def _rates(ax: plotting.Axes, rows: Rows) -> None:
    for at, n in enumerate(rows.values("weights")):
        r = rows.where(weights=n)
        plotting.points(ax, r, "rate", "bulk_rms", series=at, label=f"{n:,} weights")
        hit = -np.expm1(n * np.log1p(-r.column("rate")))
        mse = hit * theory.int_mse(BULK, VALUE, 8) + (1 - hit) * theory.absmax_int_mse(BULK, n, 8)
        plotting.prediction(ax, r.column("rate"), np.sqrt(3 * mse), series=at)
    ax.set(xscale="log", yscale="log", xlabel="share of weights at ±100", ylabel="rms error / rms, bulk")
    ax.legend(loc="lower right")


def _sizes(ax: plotting.Axes, rows: Rows) -> None:
    for at, bulk in enumerate((BULK, Normal())):
        r = rows.where(bulk=str(bulk))
        n = r.column("weights")
        plotting.points(ax, r, "weights", "bulk_rms", series=at, label=("uniform", "normal")[at])
        plotting.points(ax, r, "weights", "clean_rms", series=at)
        for mse in ([theory.int_mse(bulk, VALUE, 8)] * len(n), [theory.absmax_int_mse(bulk, int(k), 8) for k in n]):
            plotting.prediction(ax, n, np.sqrt(np.array(mse) / bulk.moment(2)), series=at)
    ax.text(2e3, 0.45, "B47: one outlier of 100", fontsize=6.5)
    ax.text(2e3, 0.0135, "none", fontsize=6.5)
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 1), xlabel="weights in the tensor", ylabel="rms error / rms, bulk")
    ax.legend(loc="center right")


def _built(name: str, factor: float = 1.0) -> Callable[[Rows], tuple[float, float]]:
    """A metric of the construction with outliers at ±100, and its standard error."""
    columns = (name, f"{name}_se")
    return lambda rows: tuple(factor * rows.where(kind="construction", values="exact").one(c) for c in columns)


def _growth(rows: Rows, name: str) -> float:
    return _built(f"bulk_{name}")(rows)[0] / _built(f"clean_{name}")(rows)[0]


def _tabled(column: str) -> Callable[[Rows], float]:
    return lambda rows: rows.where(kind="table").column(column).mean()


CLAIMS = (
    Claim("B24", "step with five of 512 weights at ±100 / step without", lambda r: _growth(r, "step"), stated(100, 0.5),
          "the step is max |w| / 127 and grows as the outlier does"),
    Claim("B25", "share of two stated numbers, step growth 100 and 256 codes, that are right",
          lambda r: (round(_growth(r, "step")) == 100) / 2 + (len(levels(FORMATS["int8"])) == 256) / 2,
          share_of_cases("the number is right"), "the step grows a hundredfold; symmetric int8 has 255 codes"),
    Claim("B26", "share of the 255 codes that lie within the bulk", _built("bulk_codes", 1 / 255),
          stated(0.5, 0.005, limit=(2 * round(1 / 0.7874) + 1) / 255), "three, by its own step of 0.7874 too"),
    Claim("B27", "share of the five tabled weights that the construction can hold", _tabled("possible"),
          share_of_cases("the weight is within ±1 or at 100"), "it holds no 10; and 1 % of 512 is 5, or 0.98 %"),
    Claim("B28", "share of the five tabled weights with the stated code, value and error", _tabled("agrees"),
          share_of_cases("all three agree to the last digit"), "it is int8's at a scale of 100/127"),
    Claim("B29", "share of the five tabled weights that are bf16 numbers", _tabled("bf16"),
          share_of_cases("the weight is unchanged by rounding to bf16"), "these five are; random weights are not"),
    Claim("B30", "mean |e| of the bulk, outliers at ±100", _built("bulk_mean_abs"), stated(0.287, 0.0005),
          "measured {value:.4f}; 0.287 is the error of one weight, 0.5"),
    Claim("B31", "share of six definitions of the bulk's relative error by which it grows 133 times (within 10 %)",
          lambda r: float(np.mean([abs(_growth(r, k) / 133 - 1) < 0.1 for k in RELATIVE])), share_of_cases("it does"),
          "0.43 % is a mean error over the largest weight, 57.4 % the error of the weight 0.5 over itself"),
    Claim("B32", "share of the outliers (all without error) that the clamp changed", _built("outlier_clipped"),
          share_of_cases("it did"), "the largest weight is the last code; none is clamped"),
    Claim("B33", "share of four cases (at ±100 or spread; absolute or relative) in which the bulk errs more on average",
          lambda r: float(np.mean([c[f"bulk_{k}"] > c[f"outlier_{k}"] for k in ("mean_abs", "mean of ratios")
                                   for c in r.where(kind="construction")])), share_of_cases("it does"),
          "the largest weight has no error, and a bulk of three codes errs by over a quarter step"),
    Claim("B34", "share of the bulk with |e| > 0.2", _built("bulk_above"),
          stated(1.0, 0.005, limit=float(np.mean([t[3] > 0.2 for t in TABLE[:3]]))),
          "measured {value:.0%}; the document's own table has a normal weight without error"),
    Claim("B35", "increase of the output MSE by five weights at ±100, white inputs, in per cent", _built("more_mse"),
          between(*MORE_MSE), "+{value:,.0f} %; outliers of 2 to 2.4 times the bulk give +300 to +500 %"),
    Claim("B35a", "rms of X @ codes − X @ W over rms of X @ W, no outliers", _built("clean_unscaled"), at_most(0.1),
          "the output is 127 times too large; with outliers at 100 only 1.27 times, so this code's MSE would fall"),
    Claim("B47", "share of tensors (512 to 10⁷ weights, two bulks) in which one outlier makes the bulk err tenfold",
          lambda r: float(np.mean([c["bulk_rms"] >= 10 * c["clean_rms"] for c in r.where(kind="size")])),
          share_of_cases("it does"), "one outlier of 100 among ten million weights is enough"),
)  # fmt: skip
