"""Which property of a weight distribution decides how large its int8 error is?

Five populations are quantized per tensor, row and block of 32, at least 10^8 weights a point. Errors uniform in a step
give SQNR = 10 log10(12 127^2) - 20 log10(crest) with the crest factor rms over blocks of absmax / rms of the weights:
this mean, not E absmax, makes the line exact, as the squared error is E[step^2] / 12. One weight of n, the extreme, has
no error: + 10 log10(n / (n - 1)). Exact theory adds what is not uniform: per tensor the kink of Laplace's density at 0
lifts its point by 0.0017 dB (measured 0.0016 ± 0.0004). Beside it: other scales, permuted smooth weights, magnitudes,
codes, a network trained on digits. Refuted if a point leaves the line while the step is below the bulk, or if permuting
or rescaling moves the error per tensor. (t3 per tensor: absmax^2 has no variance, intervals mean little.)
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantsim import formats, theory
from quantsim._types import ArrayLike, Matrix, Shape
from quantsim.granularity import Tensor, to_blocks
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, Rule, at_least, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure import statistics
from quantsim.numerics import ieee
from quantsim.populations import Normal, parse
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.sweep import population_key, predicted_sqnr_db

INT8 = {"int8:tensor": "per tensor", "int8:channel": "per row", "int8:block32": "per 32"}
AT_SCALES = ("int8:tensor", "q8_0", "bf16")
BY_MAGNITUDE = ("int8:tensor", "int8:block32", "e4m3:tensor", "nf4:tensor", "bf16")
CREST_ONE = 12 * 127**2  # signal over noise at a crest factor of 1


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
        return cls(shape=(128, 1024), arrays=4, side_shape=(64, 1024), side_arrays=2, lengths=(1.0, 64.0), epochs=3)


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield name, lambda name=name: _headline(config, name) + _codes(config, name)
    yield "scales", lambda: _at_scales(config)
    yield "magnitudes", lambda: [row for s in BY_MAGNITUDE for row in _by_magnitude(config, s)]
    yield "smooth", lambda: [row for length in config.lengths for row in _smooth(config, length)]
    yield "network", lambda: _network(config, "initial", 1, 1e-300) + _network(config, "trained", config.epochs, 1e-3)


def _arrays(config: Config, name: str, shape: Shape, count: int) -> Iterator[Matrix]:
    """Array k is a function of (seed, name, k); eight go to one device, the next to another."""
    base, devices = population_key(config.seed, name), jax.local_devices()
    for k in range(count):
        yield parse(name).sample(jax.device_put(jax.random.fold_in(base, k), devices[k // 8 % len(devices)]), shape)


@partial(jax.jit, static_argnums=1)
def _by_spec(w: Matrix, specs: tuple[str, ...]) -> list[Any]:
    view = [(q, to_blocks(w, getattr(q, "granularity", None) or Tensor())) for q in map(quantizer, specs)]
    return [(statistics.tally(w, q.roundtrip(w)).sums, ieee.absmax(blocks)) for q, blocks in view]


def _powers(arrays: Iterable[Matrix], specs: Iterable[str]) -> np.ndarray:
    """Mean e^2, mean w^2 and mean squared absmax over blocks: float64, (quantizers, 3, arrays)."""
    queued, out = [_by_spec(w, tuple(specs)) for w in arrays], []
    for found in queued:
        sums = [(np.asarray(tiles, np.float64).sum(axis=0), np.asarray(top, np.float64)) for tiles, top in found]
        out.append([(s[3] / s[0], s[4] / s[0], (top**2).mean()) for s, top in sums])
    return np.moveaxis(np.array(out), 0, -1)


def _mean(name: str, of: Iterable[float], over: ArrayLike = 1.0, *, db: bool = False) -> dict[str, float]:
    """Sum of ``of`` / sum of ``over`` over independent arrays, with its standard error by the delta method."""
    a, b = np.broadcast_arrays(np.array([*of], np.float64), over)
    r, n = a.sum() / b.sum(), a.size
    se = np.sqrt(((a - r * b) ** 2).sum() * n / (n - 1)) / b.sum() if n > 1 else np.nan
    r, se = (10 * np.log10(r), 10 / np.log(10) * se / r) if db else (r, se)
    return {name: float(r), f"{name}_se": float(se)}


def _summary(powers: np.ndarray) -> dict[str, float]:
    e2, w2, top2 = powers
    r, se = _mean("crest", top2, w2).values()
    crest = {"crest": r**0.5, "crest_se": se / (2 * r**0.5)}
    return crest | _mean("sqnr_db", w2, e2, db=True) | _mean("above_db", top2, CREST_ONE * e2, db=True)


def _headline(config: Config, name: str) -> list[dict]:
    pop, specs, size = parse(name), ("bf16", *INT8), config.shape[0] * config.shape[1]
    powers = _powers(_arrays(config, name, config.shape, config.arrays), specs)
    rows = []
    for s, n, p in zip(specs, (size, size, config.shape[1], 32), powers, strict=True):
        row = {"kind": "sqnr", "population": name, "spec": s, "weights": size * config.arrays} | _summary(p)
        row["predicted_sqnr_db"] = predicted_sqnr_db(pop, quantizer(s), config.shape)
        row["predicted_crest"] = theory.rms_crest(pop, n)
        row["predicted_above_db"] = row["predicted_sqnr_db"] - 10 * np.log10(CREST_ONE / row["predicted_crest"] ** 2)
        rows.append(row)
    return rows


def _codes(config: Config, name: str) -> list[dict]:
    """Codes for 99 % of the weights, and the error of the largest weights over that of the others."""
    pop, arrays = parse(name), list(_arrays(config, name, config.shape, config.side_arrays))
    edges = (0.0, float(-pop.quantile(0.001 / 2)), np.inf)
    absmax = theory.absmax_quantile(pop, arrays[0].size, (np.arange(400) + 0.5) / 400)
    rows = []
    for s in (*INT8, "int8:tensor:p99.9"):
        counts = [np.bincount(abs(np.ravel(quantizer(s).quantize(w).codes).astype(int))) for w in arrays]
        classes = [statistics.class_stats(w, quantizer(s).roundtrip(w), edges) for w in arrays]
        row = {"kind": "codes", "population": name, "spec": s, "at": config.populations.index(name)}
        row |= _mean("codes", (1 + 2 * np.searchsorted(np.cumsum(n), 0.99 * n.sum()) for n in counts))
        row["predicted_codes"] = 1 + 254 * np.mean(-pop.quantile(0.005) / absmax) if s == "int8:tensor" else None
        row |= _mean("extreme_abs", (c.mean_abs[1] / c.mean_abs[0] for c in classes))
        rows.append(row | _mean("extreme_rel", (c.mean_relative[1] / c.mean_relative[0] for c in classes)))
    return rows


def _at_scales(config: Config) -> list[dict]:
    """The same normal weights at standard deviations 2^k, which float32 multiplies exactly."""
    (w,) = _arrays(config, "normal", config.side_shape, 1)
    rows, codes = [], formats.levels(formats.parse("int8"))
    for std in (2.0**k for k in config.exponents):
        fixed = float(-10 * np.log10(theory.levels_mse(Normal(std), codes * 10 / 127) / std**2))  # -10 … 10
        rows.append({"kind": "scale", "std": std, "spec": "fixed", "predicted_sqnr_db": fixed})
        for s, w_hat in ((s, quantizer(s).roundtrip(w * std)) for s in AT_SCALES):
            row = {"kind": "scale", "std": std, "spec": s} | statistics.error_stats(w * std, w_hat).result()
            rows.append(row | {"predicted_sqnr_db": predicted_sqnr_db(Normal(std), quantizer(s), w.shape)})
    return rows


def _by_magnitude(config: Config, s: str) -> list[dict]:
    """Mean error of normal weights by magnitude; gap between neighbouring values in the tail over that around zero."""
    edges, arrays = np.geomspace(0.01, 4.6, 25), list(_arrays(config, "normal", config.side_shape, config.side_arrays))
    hats = [quantizer(s).roundtrip(w) for w in arrays]
    found = np.stack([statistics.class_stats(w, h, tuple(edges)).mean_abs for w, h in zip(arrays, hats, strict=True)])
    gaps, middles = np.diff(used := np.unique(np.asarray(hats[0], np.float64))), np.abs(used[1:] + used[:-1]) / 2
    ratio = gaps[middles > middles.max() / 2].min() / gaps[middles.argmin()]
    rows = [{"kind": "gap", "spec": s, "ratio": ratio}] if s.endswith("tensor") else []
    step = theory.expected_absmax(Normal(), arrays[0].size) / 127 if s == "int8:tensor" else np.nan
    for x, values in zip(np.sqrt(edges[1:] * edges[:-1]), found.T, strict=False):
        rows.append({"kind": "magnitude", "spec": s, "magnitude": x} | _mean("mean_abs", values))
        rows[-1]["predicted_mean_abs"] = step / 4 if x > step else None
    return rows


def _with_permuted(arrays: list[Matrix], copies: int) -> list[dict]:
    """For each quantizer the errors of the arrays, and those of the same weights in random order."""
    flat = [np.random.default_rng(k).permutation(np.ravel(w)) for k, w in enumerate(arrays * copies)]
    shuffled = _powers([jnp.asarray(w.reshape(arrays[0].shape)) for w in flat], INT8)
    both = zip(INT8, _powers(arrays, INT8), shuffled, strict=True)
    return [{"spec": s} | _summary(before) | _mean("permuted_db", w2, e2, db=True) for s, before, (e2, w2, _) in both]


def _smooth(config: Config, length: float) -> list[dict]:
    """Normal rows with correlation exp(-distance / length) along the inputs."""
    from scipy.signal import lfilter

    arrays, rho = [], np.exp(-1 / length)
    for white in _arrays(config, "normal", config.side_shape, config.side_arrays):
        z = np.array(white, np.float64)
        z[:, 1:] *= np.sqrt(1 - rho**2)
        arrays.append(jnp.asarray(lfilter([1.0], [1.0, -rho], z, axis=1), jnp.float32))
    rows = [{"kind": "smooth", "length": length} | row for row in _with_permuted(arrays, 1)]
    predicted = (predicted_sqnr_db(Normal(), quantizer(s), config.side_shape) for s in INT8)
    return [row | {"predicted_permuted_db": p} for row, p in zip(rows, predicted, strict=True)]


def _network(config: Config, stage: str, epochs: int, rate: float) -> list[dict]:
    """Weights of a digits classifier; with a rate of 1e-300 those that it starts from."""
    from sklearn import datasets, neural_network
    from threadpoolctl import threadpool_limits

    x, y = datasets.load_digits(return_X_y=True)
    network = neural_network.MLPClassifier((256, 128), random_state=0, learning_rate_init=rate)
    with threadpool_limits(1):
        for _ in range(epochs):
            network.partial_fit(x[:1500] / 16, y[:1500], classes=range(10))
    rows, accuracy = [], network.score(x[1500:] / 16, y[1500:])  # on digits it has not seen
    for layer, w in enumerate(c.T.astype(np.float32) for c in network.coefs_):  # (out, in)
        z = w.astype(np.float64) / np.sqrt(np.mean(w.astype(np.float64) ** 2))
        at = {"stage": stage, "layer": layer, "lag_in": (z[:, 1:] * z[:, :-1]).mean()}
        rows.append({"kind": "tensor", **at, "shape": w.shape, "accuracy": accuracy, "within_10": (abs(w) <= 10).mean(),
                     "kurtosis": (z**4).mean(), "lag_out": (z[1:] * z[:-1]).mean(), "beyond_4": (abs(z) > 4).mean(),
                     "within_std": (abs(z) < 1).mean()})  # fmt: skip
        rows += [{"kind": "layer", **at} | r for r in _with_permuted([jnp.asarray(w)], config.side_arrays)]
    return rows


def draw(rows: Rows) -> plotting.Figure:
    fig, axes = plotting.mosaic("aab;aac;def", height=5.5)
    a, b, c, d, e, f = axes.values()
    scale, smooth, sqnr, codes = (rows.where(kind=kind) for kind in ("scale", "smooth", "sqnr", "codes"))
    _against_crest(a, rows)
    _series(b, sqnr, "crest", "above_db", INT8)
    b.set(xscale="log", ylim=(-0.1, 1.3), xlabel="crest factor", ylabel="SQNR above line (dB)")
    _series(c, scale, "std", "sqnr_db", (*AT_SCALES, "fixed"), linestyle="-", ms=2)
    c.set(xscale="log", xlabel="std of the weights", ylabel="SQNR (dB)", ylim=(-3, 66))
    _series(d, rows.where(kind="magnitude"), "magnitude", "mean_abs", BY_MAGNITUDE, linestyle="-", ms=2)
    d.set(xscale="log", yscale="log", xlabel="|weight| / std", ylabel="mean |error| / std", ylim=(1e-5, 200))
    d.legend(ncol=2, loc="upper left", borderpad=0, labelspacing=0.2, columnspacing=0.8)
    _series(e, smooth, "length", "sqnr_db", INT8, linestyle="-")
    _series(e, smooth, "length", "permuted_db", INT8, mfc="white")
    e.set(xscale="log", xlabel="correlation length (weights)", ylabel="int8 SQNR (dB)", xlim=(0.3, 1500), ylim=(38, 54))
    layer = max(rows.where(kind="layer", stage="trained", spec="int8:block32"), key=lambda r: r["lag_in"])
    plotting.mark_claim(e, -1 / np.log(layer["lag_in"]), layer["sqnr_db"], "A03: trained", offset=(-4, 6))
    _series(f, codes, "at", "codes", INT8)
    plotting.prediction(f, [-0.2, 4.2], [255 / 2] * 2, linestyle=":")
    f.set(xticks=range(5), xticklabels=sqnr.values("population"), ylim=(0, 290), ylabel="codes for 99 % of w")
    f.tick_params(axis="x", labelsize=6)
    texts = (
        (b, 1.7, 0.25, "extremes: no error"), (c, 1e-6, 59, "bf16"),
        (b, 1.7, 0.7, "t3: step ≈ bulk;\ntheory counts extremes\nthat no sample holds"),
        (c, 1e-6, 48.5, "q8_0"), (c, 1e-3, 32, "int8"), (c, 20, 6, "step fixed\nat 10/127"),
        (d, 0.1, 2e-5, "A05, A06"), (e, 0.4, 52, "open: permuted"), (f, 1.7, 133, "half: A04"),
    )  # fmt: skip
    for ax, x, y, text in texts:
        ax.text(x, y, text, fontsize=6.5)
    plotting.letter(axes.values())
    return fig


def _series(ax: plotting.Axes, rows: Rows, x: str, y: str, specs: Iterable[str], **style: Any) -> None:
    for at, s in enumerate(specs):
        r = rows.where(spec=s)
        plotting.points(ax, r, x, y, series=at, label=s, **style)
        plotting.prediction(ax, r.column(x), r.column(f"predicted_{y}"), series=at)


def _against_crest(ax: plotting.Axes, rows: Rows) -> None:
    x, r = np.array([1.55, 140.0]), rows.where(kind="sqnr")
    plotting.prediction(ax, x, 10 * np.log10(CREST_ONE / x**2), label="10 log₁₀(12·127²) − 20 log₁₀(crest)")
    for at, s in enumerate((*INT8, "bf16")):
        plotting.points(ax, r.where(spec=s), "crest", "sqnr_db", series=at, label=INT8.get(s, s), ms=4.5)
    style = {"label": "theory alone", "linestyle": "none", "marker": "+", "ms": 7}
    plotting.prediction(ax, r.column("predicted_crest"), r.column("predicted_sqnr_db"), **style)
    for stage, fill in (("initial", "white"), ("trained", "0.1")):
        style = {"color": "0.1", "mfc": fill, "marker": "*", "ms": 5, "label": f"digits network, {stage} (A02, A09)"}
        plotting.points(ax, rows.where(kind="layer", stage=stage), "crest", "sqnr_db", **style)
    for r in rows.where(kind="sqnr", spec="int8:tensor"):
        ax.text(1.06 * r["crest"], r["sqnr_db"] + 0.8, r["population"], fontsize=6.5)
    ax.set(xscale="log", xlabel="crest factor: rms over blocks of max |w|, over rms w", ylabel="SQNR (dB)")
    ax.legend(loc="lower left")


def _share(kind: str, test: Callable[[dict], Any], **where: Any) -> Callable[[Rows], float]:
    return lambda rows: float(np.mean([test(r) for r in rows.where(kind=kind, **where)]))


def _on_one_network(what: str) -> Rule:
    text = f"conditional (one small network on digits) in some cases or all, refuted in none; a case counts if {what}"
    return Rule(text, lambda value, _se: "conditional" if value > 0 else "refuted")


CLAIMS = (
    Claim("A02", "share of trained tensors", _share("tensor", lambda r: 2.5 <= r["kurtosis"] <= 6.5
          and r["within_std"] > 3**-0.5 and r["beyond_4"] <= 0.005, stage="trained"),
          _on_one_network("kurtosis 2.5 … 6.5, more than a uniform share within one std, at most 0.5 % beyond four"),
          "training moves a uniform start towards a bell, far enough in {value:.0%} of the tensors of one network"),
    Claim("A03", "share of trained tensors × axes",
          _share("tensor", lambda r: [r["lag_in"] >= 0.5, r["lag_out"] >= 0.5], stage="trained"),
          _on_one_network("the correlation of neighbours is at least 0.5"),
          "one network shows none; permuting smooth weights only changes the crest factors of their rows and blocks"),
    Claim("A04", "share of populations × scales", _share("codes", lambda r: r["codes"] >= 255 / 2),
          share_of_cases("at least half of the 255 codes lie in the range of 99 % of the weights"),
          "it depends on the crest factor: always so in blocks of 32, not per tensor of heavy tails"),
    Claim("A05", "smallest gap between neighbouring int8 values in the tail / around zero",
          lambda r: r.where(kind="gap", spec="int8:tensor").one("ratio"), at_least(1.05),
          "the steps of int8 are all the same; those of e4m3 and nf4 are finer around zero"),
    Claim("A06", "share of populations × scales × (mean |e|, mean |e| / |w|)",
          _share("codes", lambda r: [r["extreme_abs"] > 1.05, r["extreme_rel"] > 1.05]),
          share_of_cases("the largest 0.1 % of the weights have over 5 % more than the others"),
          "never where the extremes set the scale, only where the scale clips them (p99.9)"),
    Claim("A09", "share of trained tensors", _share("tensor", lambda r: r["within_10"] > 0.5, stage="trained"),
          _on_one_network("more than half of the weights lie within ±10"), "all weights of one small network do"),
)  # fmt: skip
