"""Which property of a weight distribution decides how large its int8 error is?

Five populations are quantized per tensor, row and block of 32, at least 10^8 weights a point. Errors uniform within a step
give SQNR = 10 log10(12 127^2) - 20 log10(crest), where the crest factor is the root mean square over blocks of absmax over
the rms of the weights: with this mean, not E absmax, the line is exact, since the squared error is E[step^2] / 12. The n-th
part of the weights, the extremes, has no error: + 10 log10(n / (n - 1)). Theory gives the crest factor too. Beside it: other
scales, smooth weights and their permutations, errors by magnitude, codes in use, one small network trained on digits.
Refuted if a point leaves the line while the step is small beside the bulk, or if permuting or rescaling weights moves
their error per tensor. Per tensor of t3 the squared absmax has no finite variance: its interval means little.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantsim import errors, formats, ieee, plotting, theory
from quantsim._types import ArrayLike, Matrix, Shape
from quantsim.claims import Claim, Rule, at_least, share_of_cases
from quantsim.granularity import Tensor, to_blocks
from quantsim.populations import Normal, parse
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.study import Cell
from quantsim.sweep import population_key, predicted_sqnr_db

INT8 = {"int8:tensor": "per tensor", "int8:channel": "per row", "int8:block32": "per 32"}
CLIPPED = "int8:tensor:p99.9"  # a scale that clips the extremes
AT_SCALES = {"int8:tensor": "int8", "int8:block32:absmax:f16": "int8, f16 scales", "bf16": "bf16"}
BY_MAGNITUDE = {"int8:tensor": "int8", "int8:block32": "int8, per 32", "e4m3:tensor": "e4m3", "nf4:tensor": "nf4",
                "bf16": "bf16"}  # fmt: skip
CONVENTIONS = ("absmax", "absmax:half", "absmax:full", "absmax:signed", "minmax")
CREST_ONE_DB = float(10 * np.log10(12 * 127**2))
EXTREMES = 1e-3  # the largest of 1000 weights
FIXED_STEP = 10 / 127  # codes for -10 … 10


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("uniform", "normal", "laplace", "t5", "t3")
    shape: tuple[int, int] = (1024, 1024)
    arrays: int = 96  # x 2^20 weights > 10^8
    side_shape: tuple[int, int] = (256, 1024)
    side_arrays: int = 8
    exponents: tuple[int, ...] = tuple(range(-20, 15))
    lengths: tuple[float, ...] = tuple(4.0**k for k in range(6))
    epochs: int = 60

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller arrays, a shorter training."""
        return cls(shape=(128, 1024), arrays=4, side_shape=(64, 1024), side_arrays=2, epochs=3)


def measure(config: Config) -> Iterator[Cell]:
    """The headline curve, then what stands beside it."""
    for name in config.populations:
        yield f"sqnr {name}", partial(_headline, config, name)
        yield f"codes {name}", partial(_codes, config, name)
    yield "scales", lambda: _at_scales(config)
    yield "magnitudes", lambda: [row for s in BY_MAGNITUDE for row in _by_magnitude(config, s)]
    yield "smooth", lambda: [row for length in config.lengths for row in _smooth(config, length)]
    yield "trained", lambda: _trained(config)
    yield "conventions", lambda: [_convention(config, c) for c in CONVENTIONS]


def _arrays(config: Config, name: str, shape: Shape, count: int) -> Iterator[Matrix]:
    """Array k is a function of (seed, name, k); the devices take turns."""
    base, devices = population_key(config.seed, name), jax.local_devices()
    for k in range(count):
        yield parse(name).sample(jax.device_put(jax.random.fold_in(base, k), devices[k % len(devices)]), shape)


@partial(jax.jit, static_argnums=1)
def _by_spec(w: Matrix, specs: tuple[str, ...]) -> list[Any]:
    qs = [quantizer(s) for s in specs]
    return [(errors.tally(w, q.roundtrip(w)).sums, ieee.absmax(to_blocks(w, q.granularity or Tensor()))) for q in qs]


def _powers(arrays: Iterable[Matrix], specs: Iterable[str]) -> np.ndarray:
    """Mean e^2, mean w^2 and mean squared absmax over blocks: float64, (quantizers, 3, arrays)."""
    out = []
    for found in [_by_spec(w, tuple(specs)) for w in arrays]:  # all are queued before the first is looked at
        tiles = [(np.asarray(sums, np.float64).sum(axis=0), np.asarray(top, np.float64)) for sums, top in found]
        out.append([(s[3] / s[0], s[4] / s[0], (top**2).mean()) for s, top in tiles])
    return np.moveaxis(np.array(out), 0, -1)


def _db(name: str, a: np.ndarray, b: np.ndarray, minus: float = 0.0) -> dict[str, float]:
    """10 log10 of sum a / sum b over independent arrays, with its standard error by the delta method."""
    r, n = a.sum() / b.sum(), len(a)
    se = np.sqrt(((a - r * b) ** 2).sum() * n / (n - 1)) / b.sum() / r if n > 1 else np.nan
    return {name: float(10 * np.log10(r)) - minus, f"{name}_se": float(10 / np.log(10) * se)}


def _summary(powers: np.ndarray) -> dict[str, float]:
    e2, w2, top2 = powers
    crest = float(np.sqrt(top2.sum() / w2.sum()))
    return {"crest": crest} | _db("sqnr_db", w2, e2) | _db("crest_db", top2, w2) | _db("above_db", top2, e2, CREST_ONE_DB)


def _means(**values: ArrayLike) -> dict[str, float]:
    """Means over independent arrays, with their standard errors."""
    arrays = {name: np.asarray(v, np.float64) for name, v in values.items()}
    spread = {f"{name}_se": v.std(ddof=1) / len(v) ** 0.5 for name, v in arrays.items()}
    return {name: v.mean() for name, v in arrays.items()} | spread


def _headline(config: Config, name: str) -> list[dict]:
    pop, specs, size = parse(name), ("bf16", *INT8), prod(config.shape)
    powers = _powers(_arrays(config, name, config.shape, config.arrays), specs)
    bf16 = -10 * np.log10(theory.levels_mse(pop, formats.levels(formats.parse("bf16"))) / pop.moment(2))
    rows = []
    for s, n, p in zip(specs, (size, size, config.shape[1], 32), powers, strict=True):
        row = {"kind": "sqnr", "population": name, "spec": s, "weights": size * config.arrays} | _summary(p)
        row["predicted_db"] = predicted_sqnr_db(pop, quantizer(s), config.shape) if s in INT8 else bf16
        row |= {"predicted_crest": theory.rms_crest(pop, n), "predicted_above_db": 10 * np.log10(n / (n - 1))}
        rows.append(row)
    return rows


def _codes(config: Config, name: str) -> list[dict]:
    """Codes for 99 % of the weights, and the error of the largest weights over that of the others."""
    pop, arrays = parse(name), list(_arrays(config, name, config.shape, config.side_arrays))
    edges = (0.0, float(-pop.quantile(EXTREMES / 2)), np.inf)
    absmax = theory.absmax_quantile(pop, arrays[0].size, (np.arange(400) + 0.5) / 400)
    rows = []
    for s in (*INT8, CLIPPED):
        codes = [np.abs(np.asarray(quantizer(s).quantize(w).codes, np.int32)).ravel() for w in arrays]
        classes = [errors.class_stats(w, quantizer(s).roundtrip(w), edges) for w in arrays]
        row = _means(
            codes=[1 + 2 * np.searchsorted(np.cumsum(np.bincount(c)), 0.99 * c.size) for c in codes],
            extreme_abs=[c.mean_abs[1] / c.mean_abs[0] for c in classes],
            extreme_rel=[c.mean_relative[1] / c.mean_relative[0] for c in classes],
        )
        predicted = 1 + 2 * 127 * float(np.mean(-pop.quantile(0.005) / absmax)) if s == "int8:tensor" else None
        rows.append({"kind": "codes", "population": name, "spec": s, "predicted_codes": predicted} | row)
    return rows


def _at_scales(config: Config) -> list[dict]:
    """The same normal weights at standard deviations 2^k, which float32 multiplies exactly."""
    (w,) = _arrays(config, "normal", config.side_shape, 1)
    rows = []
    for std in (2.0**k for k in config.exponents):
        for s in AT_SCALES:
            stats = errors.error_stats(w * std, quantizer(s).roundtrip(w * std))
            rows.append({"kind": "scale", "std": std, "spec": s} | stats.result())
        fixed = theory.levels_mse(Normal(std), formats.levels(formats.parse("int8")) * FIXED_STEP) / std**2
        rows.append({"kind": "scale", "std": std, "spec": "fixed", "sqnr_db": -10 * np.log10(fixed)})
    return rows


def _by_magnitude(config: Config, s: str) -> list[dict]:
    """Mean error of normal weights by magnitude; smallest distances of neighbouring values, in the tail and around 0."""
    edges, arrays = np.geomspace(0.01, 4.6, 25), list(_arrays(config, "normal", config.side_shape, config.side_arrays))
    hats = [quantizer(s).roundtrip(w) for w in arrays]
    found = np.stack([errors.class_stats(w, h, tuple(edges)).mean_abs for w, h in zip(arrays, hats, strict=True)])
    gaps = np.diff(used := np.unique(np.asarray(hats[0], np.float64)))
    middles = np.abs(used[1:] + used[:-1]) / 2
    ratio = gaps[middles > middles.max() / 2].min() / gaps[middles.argmin()]
    rows = [{"magnitude": x, **_means(mean_abs=v)} for x, v in zip(np.sqrt(edges[1:] * edges[:-1]), found.T, strict=False)]
    return [{"kind": "gap", "spec": s, "tail_over_centre": ratio}, *({"kind": "magnitude", "spec": s} | r for r in rows)]


def _with_permuted(arrays: list[Matrix], copies: int) -> list[dict]:
    """For each quantizer the errors of the arrays, and those of the same weights in random order."""
    order = [(w, np.random.default_rng(k)) for k, w in enumerate(arrays * copies)]
    shuffled = [jnp.asarray(rng.permutation(np.ravel(w)).reshape(w.shape)) for w, rng in order]
    both = zip(INT8, _powers(arrays, INT8), _powers(shuffled, INT8), strict=True)
    return [{"spec": s, **_summary(before), **_db("permuted_db", after[1], after[0])} for s, before, after in both]


def _smooth(config: Config, length: float) -> list[dict]:
    """Normal rows with correlation exp(-distance / length) along the inputs."""
    from scipy.signal import lfilter

    arrays, rho = [], np.exp(-1 / length)
    for white in _arrays(config, "normal", config.side_shape, config.side_arrays):
        z = np.array(white, np.float64)
        z[:, 1:] *= np.sqrt(1 - rho**2)
        arrays.append(jnp.asarray(lfilter([1.0], [1.0, -rho], z, axis=1), jnp.float32))
    predicted = {s: predicted_sqnr_db(Normal(), quantizer(s), config.side_shape) for s in INT8}
    return [
        {"kind": "smooth", "length": length, "predicted_db": predicted[r["spec"]]} | r for r in _with_permuted(arrays, 1)
    ]


def _networks(epochs: int) -> list[tuple[str, int, np.ndarray, float]]:
    """Stage, layer, weights (out, in) and accuracy on unseen images of a digits classifier, before and after training."""
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    x, y = load_digits(return_X_y=True)
    make = partial(MLPClassifier, (256, 128), random_state=0, n_iter_no_change=epochs + 1)
    networks = {"initial": make(max_iter=1, learning_rate_init=1e-300), "trained": make(max_iter=epochs)}
    out = []
    for stage, network in networks.items():  # a rate of 1e-300 moves nothing
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is wanted
            network.fit(x[:1500] / 16, y[:1500])
        accuracy = float(network.score(x[1500:] / 16, y[1500:]))
        out += [(stage, at, w.T.astype(np.float32), accuracy) for at, w in enumerate(network.coefs_)]
    return out


def _trained(config: Config) -> list[dict]:
    rows = []
    for stage, at, w, accuracy in _networks(config.epochs):
        z = w.astype(np.float64) / np.sqrt(np.mean(w.astype(np.float64) ** 2))
        lags = float((z[:, 1:] * z[:, :-1]).mean()), float((z[1:] * z[:-1]).mean())
        rows.append({"kind": "tensor", "stage": stage, "layer": at, "shape": w.shape, "accuracy": accuracy,
                     "kurtosis": (z**4).mean(), "within_std": (abs(z) < 1).mean(), "beyond_4": (abs(z) > 4).mean(),
                     "lag_in": lags[0], "lag_out": lags[1], "within_10": (abs(w) <= 10).mean()})  # fmt: skip
        found = _with_permuted([jnp.asarray(w)], config.side_arrays)
        rows += [{"kind": "layer", "stage": stage, "layer": at} | r for r in found]
    return rows


def _convention(config: Config, name: str) -> dict:
    """Codes that a symmetric sample uses: of each weight also the negative."""
    w = jnp.concatenate([v := next(_arrays(config, "uniform", config.shape, 1)), -v])
    codes = np.asarray(quantizer(f"int8:tensor:{name}").quantize(w).codes, np.int32) - 128 * (name == "minmax")
    return {"kind": "convention", "name": name, "lowest": codes.min(), "highest": codes.max(),
            "at_minus_128": (codes == -128).sum(), "weights": codes.size}  # fmt: skip


def draw(rows: Rows) -> plotting.Figure:
    """SQNR against crest factor, large; the distance from its line, and what else was said to matter."""
    fig, axes = plotting.mosaic("aab;aac;def", height=5.5)
    a, b, c, d, e, f = axes.values()
    scale, smooth, sqnr = (rows.where(kind=kind) for kind in ("scale", "smooth", "sqnr"))
    _against_crest(a, rows)
    _series(b, sqnr, "crest", "above_db", INT8, "predicted_above_db")
    b.set(xscale="log", ylim=(-0.1, 0.65), xlabel="crest factor", ylabel="SQNR above line (dB)")
    _series(c, scale, "std", "sqnr_db", AT_SCALES, linestyle="-", ms=2)
    plotting.prediction(c, *(scale.where(spec="fixed").column(name) for name in ("std", "sqnr_db")))
    c.set(xscale="log", xlabel="std of the weights", ylabel="SQNR (dB)", ylim=(-3, 66))
    _series(d, rows.where(kind="magnitude"), "magnitude", "mean_abs", BY_MAGNITUDE, linestyle="-", ms=2)
    d.set(xscale="log", yscale="log", xlabel="|weight| / std", ylabel="mean |error| / std", ylim=(1e-5, 200))
    d.legend(ncol=2, loc="upper left", borderpad=0, labelspacing=0.2, columnspacing=0.8)
    _series(e, smooth, "length", "sqnr_db", INT8, linestyle="-")
    _series(e, smooth, "length", "permuted_db", INT8, "predicted_db", mfc="white")
    e.set(xscale="log", xlabel="correlation length (weights)", ylabel="int8 SQNR (dB)", xlim=(0.3, 1500), ylim=(38, 54))
    layer = max(rows.where(kind="tensor", stage="trained"), key=lambda r: r["lag_in"])
    y = rows.where(kind="layer", stage="trained", layer=layer["layer"], spec="int8:block32").one("sqnr_db")
    plotting.mark_claim(e, -1 / np.log(layer["lag_in"]), y, "A03: trained", offset=(-4, 6))
    codes = Rows({"at": k // 4} | r for k, r in enumerate(rows.where(kind="codes")))
    _series(f, codes, "at", "codes", INT8, "predicted_codes")
    f.axhline(255 / 2, color="0.3", lw=0.8, ls=":")
    f.set(xticks=range(5), xticklabels=sqnr.values("population"), ylim=(0, 290), ylabel="codes for 99 % of weights")
    for ax, x, y, text in (
        (b, 1.7, 0.2, "the extremes have no error"), (b, 14, 0.45, "t3: step ≈ bulk"), (c, 1e-6, 59, "bf16"),
        (c, 1e-6, 48.5, "int8, f16 scale per 32"), (c, 1e-3, 32, "int8 (A11)"), (c, 30, 8, "step fixed\nat 10/127"),
        (d, 0.1, 2e-5, "A05, A06"), (e, 0.4, 52, "open: permuted"), (f, 1.7, 133, "half: A04"), (f, -0.2, 268, "−128 unused: A10"),
    ):  # fmt: skip
        ax.text(x, y, text, fontsize=6.5)
    plotting.letter(axes.values())
    return fig


def _series(ax: plotting.Axes, rows: Rows, x: str, y: str, labels: dict, predicted: str = "", **style: Any) -> None:
    for at, (s, label) in enumerate(labels.items()):
        r = rows.where(spec=s)
        plotting.points(ax, r, x, y, series=at, label=label, **style)
        if predicted:
            plotting.prediction(ax, r.column(x), r.column(predicted), series=at)


def _against_crest(ax: plotting.Axes, rows: Rows) -> None:
    x, r = np.array([1.55, 140.0]), rows.where(kind="sqnr")
    plotting.prediction(ax, x, CREST_ONE_DB - 20 * np.log10(x), label="10 log₁₀(12·127²) − 20 log₁₀(crest)")
    _series(ax, r, "crest", "sqnr_db", INT8 | {"bf16": "bf16"}, ms=4.5)
    predicted = r.column("predicted_crest"), r.column("predicted_db")
    plotting.prediction(ax, *predicted, label="theory alone", linestyle="none", marker="+", ms=7)
    for r in rows.where(kind="sqnr", spec="int8:tensor"):
        ax.text(1.06 * r["crest"], r["sqnr_db"] + 0.8, r["population"], fontsize=6.5)
    for stage, fill in (("initial", "white"), ("trained", "0.1")):
        style = {"color": "0.1", "mfc": fill, "marker": "*", "ms": 5, "label": f"digits network, {stage} (A02, A09)"}
        plotting.points(ax, rows.where(kind="layer", stage=stage), "crest", "sqnr_db", **style)
    ax.set(xscale="log", xlabel="crest factor: rms over blocks of max |w|, over rms w", ylabel="SQNR (dB)", ylim=(5, 60))
    ax.legend(loc="lower left")


def _share(kind: str, test: Callable[[dict], ArrayLike], **where: Any) -> Callable[[Rows], float]:
    return lambda rows: float(np.mean([test(r) for r in rows.where(kind=kind, **where) if r.get("spec") != NO_CASE]))


def _range_of_scales(rows: Rows) -> float:
    return float(np.ptp(rows.where(kind="scale", spec="int8:tensor").column("sqnr_db")))


def _bell(r: dict) -> bool:
    return 2.5 <= r["kurtosis"] <= 6.5 and r["within_std"] > 3**-0.5 and r["beyond_4"] <= 0.005


CLAIMS = (
)  # fmt: skip
