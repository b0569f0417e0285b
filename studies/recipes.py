"""Do the document's recipes for a quantization range run, and does choosing the range help?

Every snippet is run as printed on the document's 16×32 construction and compared with what it should give. Then zero
points, a fixed percentile and a search for the least squared error stand against the plain symmetric scale on weights
with and without outliers (white inputs give the output the relative error of the weights), and the range is swept.
Expected: the error has a minimum between too narrow (clipped) and too wide (coarse), the search finds it, a percentile
does not, and a zero point gains only where one side reaches further. Refuted if the percentile never loses.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantsim import theory
from quantsim._types import Weights
from quantsim.formats import FORMATS
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.ratios import root_ratio
from quantsim.measure.statistics import error
from quantsim.populations import Laplace, Normal, StudentT, Uniform
from quantsim.quantizer import parse
from quantsim.rounding import snap
from quantsim.rows import Rows
from quantsim.sweep import measure as measured
from quantsim.sweep import population_key, predicted_sqnr_db

INT8, SHAPE, HELPS = parse("int8:tensor"), (16, 32), 0.9  # a rule helps if it takes a tenth off the error
CONSTRUCTION = Uniform(3**-0.5).with_outliers(count=5, value=100.0)
RULES = {"asymmetric": "int8:tensor:minmax", "clip 99.9": "int8:tensor:p99.9", "clip MSE": "int8:tensor:mse"}
_OUTLIERS = partial(Normal().with_outliers, rate=2e-3, magnitude=30.0, values="spread")
POPULATIONS = {
    "uniform": Uniform(), "normal": Normal(), "Laplace": Laplace(), "t, 3 d.f.": StudentT(3.0),
    "± outliers": _OUTLIERS(), "+ outliers": _OUTLIERS(sign="positive"),
}  # fmt: skip
SWEPT = ("uniform", "normal", "Laplace")


@dataclass(frozen=True)
class Config:
    seed: int = 42
    shape: tuple[int, int] = (256, 256)
    arrays: int = 64
    reaches: tuple[float, ...] = tuple(np.geomspace(0.5, 200, 25).tolist())

    @classmethod
    def small(cls) -> "Config":
        return cls(shape=(64, 64), arrays=4)


def measure(config: Config) -> Iterator[Cell]:
    """The snippets, each population under every rule, the range."""
    yield "code", lambda: _code(config)
    for name in POPULATIONS:
        yield name, partial(_ruled, config, name)
    yield "range", lambda: [row for name in SWEPT for row in _swept(config, name)]


def detect_outliers(W: np.ndarray, threshold: float = 3) -> np.ndarray:
    mean = np.mean(W)
    std = np.std(W)
    return np.abs(W - mean) > threshold * std


def per_tensor_quant(w: np.ndarray) -> np.ndarray:
    """Called by the document, not printed."""
    scale = np.max(np.abs(w)) / 127
    return np.round(w / scale) * scale


def quantize_with_outliers(w: np.ndarray, threshold: float = 3.0) -> np.ndarray:
    std = np.std(w)
    mask = np.abs(w) > threshold * std
    w_quant = per_tensor_quant(w[~mask])
    w_quant[mask] = w[mask]
    return w_quant


def quantize_int8(w: np.ndarray) -> np.ndarray:
    scale = np.max(np.abs(w)) / 127.0
    q = np.clip(np.round(w / scale), -127, 127).astype(np.int8)
    return q * scale


def _same(a: Any, b: Any) -> bool:
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=1e-6))


def _code(config: Config) -> list[dict]:
    """Every snippet on the construction: whether it runs, whether what it gives is right, and what that is."""
    key = population_key(config.seed, "code")
    W, out = np.asarray(CONSTRUCTION.sample(key, SHAPE)), np.asarray(CONSTRUCTION.is_outlier(key, SHAPE))
    X, square = np.asarray(Normal().sample(jax.random.fold_in(key, 1), (64, SHAPE[0]))), W[:, : SHAPE[0]]
    tensor, rows, affine = (parse(s).quantize(W) for s in ("int8:tensor", "int8:channel", "int8:tensor:minmax"))
    scales, p = np.max(np.abs(W), axis=1) / 127, np.percentile(np.abs(W), 99.9)
    scale, found = (np.max(W) - np.min(W)) / 255, detect_outliers(W)
    mended = _same(scale, affine.scale) and _same(round(-np.min(W) / scale), affine.zero_point)
    off = np.linalg.norm(X @ np.asarray(tensor.codes) - X @ W) / np.linalg.norm(X @ W)
    clips = int((np.clip(W, -p, p) != W).sum())
    tests = (
        ("B21", "quantize_int8(W)", lambda: (_same(quantize_int8(W), tensor.dequantize()), "what int8:tensor gives")),
        ("B35a", "X @ W_int8", lambda: (off < 0.1, f"{off:.0%} off the output: the scale is missing")),
        ("B37", "scales = np.max(np.abs(W), axis=1) / 127", lambda: (_same(scales, rows.scale), "int8:channel's")),
        ("B37", "W / scales", lambda: (_same(W / scales, W / scales[:, None]), "")),
        ("B37", "W[:, :16] / scales, so that W is square",
         lambda: (_same(square / scales, square / scales[:, None]), "divides the columns by the scales of the rows")),
        ("B38", "np.clip(W, -p, p), p = np.percentile(np.abs(W), 99.9)", lambda: (clips > 0, f"clips {clips} of 5")),
        ("B39", "scale = (max(W) - min(W)) / 255", lambda: (_same((max(W) - min(W)) / 255, affine.scale), "")),
        ("B39", "the same with np.max and np.min", lambda: (mended, "scale and zero point of int8:tensor:minmax")),
        ("B42", "detect_outliers(W)",
         lambda: (_same(found, out), f"finds {found[out].sum()} of 5 outliers, {found[~out].sum()} others")),
        ("B70", "quantize_with_outliers(W)", lambda: (quantize_with_outliers(W).shape == W.shape, "")),
        ("B70", "quantize_with_outliers(W.ravel())", lambda: (quantize_with_outliers(W.ravel()).size == W.size, "")),
    )  # fmt: skip
    return [{"kind": "code", "claim": name, "code": code} | _tried(test) for name, code, test in tests]


def _tried(test: Callable[[], tuple[Any, str]]) -> dict:
    try:
        right, says = test()
    except (ValueError, IndexError) as reason:
        return {"runs": False, "right": False, "says": f"{type(reason).__name__}: {reason}"}
    return {"runs": True, "right": bool(right), "says": says}


def _ruled(config: Config, name: str) -> list[dict]:
    """Error of a population under every rule, and over that of the symmetric scale on the same weights."""
    specs, pop = {"symmetric": str(INT8)} | RULES, POPULATIONS[name]
    quantizers = [parse(spec) for spec in specs.values()]
    stats = measured(pop, quantizers, shape=config.shape, arrays=config.arrays, seed=config.seed)
    rows, plain = [], stats[0]
    predicted = [np.array(predicted_sqnr_db(pop, q, config.shape), float) for q in quantizers]
    for rule, q, s, db in zip(specs, quantizers, stats, predicted, strict=True):
        ratio = s.rel_rms / plain.rel_rms
        se = ratio * float(np.hypot(s.rel_rms_se / s.rel_rms, plain.rel_rms_se / plain.rel_rms))
        about = {"kind": "rule", "population": name, "rule": rule, "weights": prod(config.shape)}
        about |= {"bits_per_weight": q.bits_per_weight(config.shape), "to_symmetric": ratio, "to_symmetric_se": se}
        about["predicted_to_symmetric"] = float(10 ** ((predicted[0] - db) / 20))  # NaN for the search
        rows.append(about | s.result())
    return rows


@jax.jit
def _squares(w: Weights, reach: jax.Array) -> tuple[jax.Array, jax.Array]:
    e = error(w, snap(w * (127 / reach), FORMATS["int8"]) * (reach / 127))
    return jnp.sum(e * e, axis=-1), jnp.sum(w * w, axis=-1)


def _swept(config: Config, name: str) -> list[dict]:
    """Error against the magnitude that the last code falls on."""
    rows, shape = [], (4 * config.shape[0], config.shape[1])
    w = POPULATIONS[name].sample(population_key(config.seed, f"range {name}"), shape)
    for reach in config.reaches:
        squares = (np.asarray(v, np.float64) for v in _squares(w, jnp.float32(reach)))
        rms, se = root_ratio(*squares)
        rows.append({"kind": "range", "population": name, "reach": reach, "rms": rms, "rms_se": se})
    return rows


def draw(rows: Rows) -> plotting.Figure:
    """What the snippets do; what rules for the range gain; error against the range."""
    fig, axes = plotting.mosaic("aa;bc", height=4.4, height_ratios=(1.15, 1.6))
    _table(axes["a"], rows.where(kind="code"))
    _rules(axes["b"], rows.where(kind="rule"))
    _ranges(axes["c"], rows.where(kind="range"))
    plotting.letter(axes[k] for k in "abc")
    return fig


def _table(ax: plotting.Axes, rows: Rows) -> None:
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    for y, r in enumerate(rows):
        mark, color = ("✓", plotting.COLORS[2]) if r["right"] else ("✗", plotting.COLORS[1])
        text = r["says"] if len(r["says"]) < 62 else r["says"][:60] + " …"
        ax.text(0.0, y, mark, color=color, fontweight="bold", va="center", fontsize=7)
        ax.text(0.025, y, r["claim"], va="center", fontsize=6.5)
        ax.text(0.075, y, r["code"], family="monospace", va="center", fontsize=6)
        ax.text(0.57, y, text, va="center", fontsize=6.5)


def _rules(ax: plotting.Axes, rows: Rows) -> None:
    for at, rule in enumerate(RULES):
        r, y = rows.where(rule=rule), np.arange(len(POPULATIONS)) + 0.2 * (at - 1)
        style: Any = {"color": plotting.COLORS[at], "marker": plotting.MARKERS[at], "linestyle": "none", "label": rule}
        ax.errorbar(r.column("to_symmetric"), y, xerr=1.96 * r.column("to_symmetric_se"), capsize=1.5, **style)
        style = {"series": at, "linestyle": "none", "marker": "|", "ms": 8}
        plotting.prediction(ax, r.column("predicted_to_symmetric"), y, **style)
    ax.axvline(1.0, color="0.25", lw=0.8)
    ax.axvspan(0, HELPS, color="0.92", lw=0)
    ax.set_yticks(range(len(POPULATIONS)), list(POPULATIONS))
    ax.set(xlim=(0, 3.5), ylim=(5.6, -0.6), xlabel="error / error of the symmetric scale (A22, A23)")
    ax.legend(loc="upper right")


def _ranges(ax: plotting.Axes, rows: Rows) -> None:
    for at, name in enumerate(SWEPT):
        r, pop = rows.where(population=name), POPULATIONS[name]
        plotting.points(ax, r, "reach", "rms", series=at, label=name)
        fine = np.geomspace(r[0]["reach"], r[-1]["reach"], 150)
        plotting.prediction(ax, fine, [theory.int_mse(pop, x, 8) ** 0.5 for x in fine], series=at)
    ax.text(0.45, 0.0055, "too\nnarrow:\nclipped", fontsize=6.5)
    ax.text(60, 0.03, "too wide:\ncoarse", fontsize=6.5)
    ax.set(xscale="log", yscale="log", xlabel="largest code (std of the weights)", ylabel="rms error / rms (A24)")
    ax.legend(loc="lower right")


def _right(name: str) -> Callable[[Rows], float]:
    return lambda rows: float(np.mean([r["right"] for r in rows.where(kind="code", claim=name)]))


def _helps(*rules: str, populations: tuple[str, ...] = tuple(POPULATIONS)) -> Callable[[Rows], float]:
    """Share of the populations and rules where the rule takes a tenth off the error."""
    cases = [{"population": p, "rule": rule} for p in populations for rule in rules]
    return lambda rows: float(np.mean([rows.where(kind="rule", **c).one("to_symmetric") <= HELPS for c in cases]))


def _interior(rows: Rows) -> float:
    errors = [rows.where(kind="range", population=p).column("rms") for p in SWEPT]
    return float(np.mean([min(e[0], e[-1]) >= 2 * e.min() for e in errors]))


CLAIMS = (
    Claim("A22", "share of six populations in which a zero point takes a tenth off the rms error of a symmetric scale",
          _helps("asymmetric"), share_of_cases("it does"),
          "only where one side reaches further: heavy tails, outliers of one sign"),
    Claim("A23", "share of 18 cases (six populations; min/max, 99.9th percentile, least squared error) in which "
          "calibration takes a tenth off the rms error of a symmetric scale", _helps(*RULES), share_of_cases("it does"),
          "most gain little, and a fixed percentile loses wherever there are tails"),
    Claim("A24", "share of three populations whose error has its minimum inside, both ends at least twice as large",
          _interior, share_of_cases("it has"), "the least error lies between clipping and coarse steps"),
    Claim("B37", "share of three uses of the code that are right: the scales; W / scales; W / scales if W is square",
          _right("B37"), share_of_cases("it gives what a scale a row must give"),
          "the scales are right; dividing by them as printed fails, or, if W is square, silently takes the columns"),
    Claim("B39", "share of four cases that hold: as printed; with np.max; a gain with outliers of both signs; of one",
          lambda r: (_right("B39")(r) + _helps("asymmetric", populations=("± outliers", "+ outliers"))(r)) / 2,
          share_of_cases("it runs and is right, or takes a tenth off the error"),
          "max(W) of a matrix raises; mended, it is the affine scale, which helps against one-sided outliers only"),
    Claim("B70", "share of two inputs with outliers, a matrix and a vector, on which the code runs", _right("B70"),
          share_of_cases("it gives an array of the input's shape"),
          "w[~mask] is shorter than the mask that is then applied to it: IndexError"),
)  # fmt: skip
