"""How small may weights become before the numbers that store their scale run out?

Normal weights with a standard deviation from 1e-7 to 10 go through every kind of scale: float32, bf16, fp16 (q8_0,
q4_0, K-quants), e4m3 (nvfp4, with and without the scale of the tensor), powers of two (mxfp4), none (plain casts).
Expected: nothing changes until a stored number becomes subnormal. From there its grid is fixed, u = 2^-24 in fp16 and
2^-9 in e4m3: a scale s errs by u / (sqrt(12) s), the SQNR falls 20 dB a decade, and a scale below u / 2 is 0. Where
codes follow from the unrounded scale (q8_0, q4_0) the error has doubled at std = u / (sqrt(12) r k), r being the
relative error of large weights and k = s / std; codes from the stored scale make up for some of it. Refuted if a
float32, bf16 or power-of-two scale loses anything, or an fp16 scale nothing. Theory predicts every curve but those of
the K-quants, which search. Beside it, for A11: int8 weights of which all grow, or 1 in 32 does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from quantsim import theory
from quantsim._types import Matrix, PRNGKey
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.ratios import ratio as ratio_of_sums
from quantsim.measure.statistics import error
from quantsim.numerics import ieee
from quantsim.populations import Normal
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key, predicted_sqnr_db

F16_SCALE, BF16_SCALE = "int8:block32:absmax:f16", "int8:block32:absmax:bf16"
WIDE = ("int8:block32", F16_SCALE, "q8_0", "q6_k", "f16", "e4m3", "bf16")
NARROW = ("int4:block32", "q4_0", "q4_k", "mxfp4", "nvfp4", "nvfp4:single")
SPECS = (*WIDE, BF16_SCALE, *NARROW, "nvfp4:gguf")
LABELS = {"int8:block32": "int8, f32 scale", F16_SCALE: "int8, f16 scale", BF16_SCALE: "int8, bf16 scale",
          "int4:block32": "int4, f32 scale", "f16": "f16 cast", "e4m3": "e4m3 cast", "bf16": "bf16 cast"}  # fmt: skip
DIVISORS, SPACING = {"q8_0": 127, "q4_0": 8}, 2.0**-24  # scale = extreme / divisor; spacing of fp16 subnormals
EDGES = ("doubled", "nothing")
LEFT = {"lost (below 3 dB)": 1, "error more than doubled": 4, "as at a std of 1": 5}  # and its colour
LOSS = 10 * np.log10(2)
INT8, WAYS = ("int8:tensor", "q8_0"), ("range", "ratio")
FP16_ENDS, TRAINED = (65504.0, 5.96e-8), 10.0  # as stated


@dataclass(frozen=True)
class Config:
    seed: int = 0
    shape: tuple[int, int] = (64, 1024)
    arrays: int = 8
    stds: tuple[float, ...] = tuple((10.0 ** np.linspace(-7, 1, 97)).tolist())
    tops: tuple[float, ...] = (TRAINED, *np.geomspace(20, 4e4, 11).tolist(), FP16_ENDS[0])

    @classmethod
    def small(cls) -> "Config":
        stds = tuple((10.0 ** np.linspace(-7, 1, 9)).tolist())
        return cls(shape=(16, 1024), arrays=4, stds=stds, tops=(TRAINED, 200.0, 4000.0, FP16_ENDS[0]))


def measure(config: Config) -> Iterator[Cell]:
    yield "stds", lambda: (rows := _by_std(config)) + _edges(rows)
    yield "tops", lambda: _by_top(config)
    yield "fp16", lambda: [_fp16()]


def _errors(specs: tuple[str, ...], w: Matrix, counted: Any) -> jax.Array:
    """For each row the sum of w^2, and those of e^2 and e under every quantizer."""
    e = jnp.stack([error(w, parse(s).roundtrip(w)) for s in specs])
    return ieee.ordered_sum(jnp.concatenate([ieee.square(w)[None], ieee.square(e), e]) * counted)[..., 0]


def _scaled(shape: tuple[int, int], key: PRNGKey, std: Any) -> jax.Array:
    return _errors(SPECS, Normal(std).sample(key, shape), 1.0)


def _grown(shape: tuple[int, int], key: PRNGKey, top: Any) -> jax.Array:
    """Sums over 31 of 32 weights, when all have grown until the largest is about ``top``, and when only others have."""
    w, other = Normal().sample(key, shape), jnp.arange(shape[1]) % 32 == 0
    ways = w * (top / theory.expected_absmax(Normal(), w.size)), jnp.where(other, jnp.sign(w) * top, w)
    return jnp.concatenate([_errors(INT8, way, ~other) for way in ways])


def _swept(config: Config, sums: Callable, values: tuple[float, ...]) -> np.ndarray:
    """Sums (values, numbers, arrays) over each of the arrays; the swept number is traced, so all share one program."""
    devices = jax.local_device_count()
    mesh, each = jax.make_mesh((devices,), ("arrays",)), -(-config.arrays // devices)

    def arrays(base: PRNGKey, value: jax.Array) -> Any:
        numbers = jax.lax.axis_index("arrays") * each + jnp.arange(each)
        return jax.lax.map(lambda k: sums(config.shape, jax.random.fold_in(base, k), value), numbers)

    program = jax.jit(jax.shard_map(arrays, mesh=mesh, in_specs=(P(), P()), out_specs=P("arrays"), check_vma=False))
    base = population_key(config.seed, "normal")
    found = [np.array(program(base, jnp.float32(v)), np.float64).sum(axis=-1) for v in values]
    return np.stack(found)[:, : config.arrays].swapaxes(1, 2)


def _db(w2: np.ndarray, e2: np.ndarray) -> dict[str, float]:
    r, se = ratio_of_sums(e2, w2)
    return {"sqnr_db": float(-10 * np.log10(r)), "sqnr_db_se": float(10 / np.log(10) * se / r)}


def _by_std(config: Config) -> list[dict]:
    rows, count = [], config.shape[0] * config.shape[1]
    for std, (w2, *sums) in zip(config.stds, _swept(config, _scaled, config.stds), strict=True):
        for s, e2, e in zip(SPECS, sums[: len(SPECS)], sums[len(SPECS) :], strict=True):
            row = {"kind": "std", "spec": s, "std": std} | _db(w2, e2)
            row |= {"shift": e.mean() / count / std, "shift_se": e.std(ddof=1) / e.size**0.5 / count / std}
            row["each_db"] = -10 * np.log10(e2 / w2)  # of each array
            rows.append(row | {"predicted_sqnr_db": predicted_sqnr_db(Normal(std), parse(s), config.shape)})
    return rows


def _edges(rows: list[dict]) -> list[dict]:
    """The largest std at which a format has lost 3 dB, and at which it has less than 3 dB left, if any."""
    out = []
    for s in SPECS:
        r = Rows(rows).where(spec=s)
        std, each, predicted = r.column("std"), np.array([row["each_db"] for row in r]), r.column("predicted_sqnr_db")
        for edge in EDGES:
            logs = np.array([_crossing(std, db, edge) for db in each.T])
            found = {"kind": "edge", "spec": s, "edge": edge, "std": 10 ** logs.mean()}
            found["std_se"] = found["std"] * np.log(10) * logs.std(ddof=1) / logs.size**0.5
            found["predicted_std"] = 10 ** _crossing(std, predicted, edge)
            closed = s in DIVISORS and edge == "doubled"
            out.append(found | {"closed_std": _closed(s, predicted[-1]) if closed else None})
    for row in rows:
        del row["each_db"]
    return out


def _crossing(std: np.ndarray, db: np.ndarray, edge: str) -> float:
    """Log10 of the std at the last crossing of the threshold, interpolated; NaN if there is none."""
    threshold = db[std >= 1].mean() - LOSS if edge == "doubled" else LOSS
    below = np.flatnonzero(db < threshold)
    if not below.size or np.isnan(db).any():
        return np.nan
    k = below[-1]
    share = (threshold - db[k]) / (db[k + 1] - db[k])
    return float(np.log10(std[k]) + share * np.log10(std[k + 1] / std[k]))


def _closed(s: str, db: float) -> float:
    # the mean is that of 1 / s^2, as errors of blocks add
    tops = theory.absmax_quantile(Normal(), 32, (np.arange(400) + 0.5) / 400)
    k = np.mean((tops / DIVISORS[s]) ** -2) ** -0.5
    return float(SPACING / (12**0.5 * 10 ** (-db / 20) * k))


def _by_top(config: Config) -> list[dict]:
    rows, sums = [], _swept(config, _grown, config.tops)
    counts = {"int8:tensor": config.shape[0] * config.shape[1], "q8_0": 32}
    for top, found in zip(config.tops, sums, strict=True):
        for way, (w2, *rest) in zip(WAYS, np.split(found, 2), strict=True):
            for at, (s, n) in enumerate(counts.items()):
                # the bulk's own step while all grow; that of the largest weight where only some do
                mse = theory.absmax_int_mse(Normal(), n, 8) if way == "range" else theory.int_mse(Normal(), top, 8)
                row = {"kind": "top", "way": way, "spec": s, "top": top, "predicted_sqnr_db": -10 * np.log10(mse)}
                rows.append(row | _db(w2, rest[at]))
    return rows


def _fp16() -> dict:
    """The largest and the smallest number that a cast to fp16 keeps."""
    cast = np.asarray(parse("f16").roundtrip(np.append(2.0 ** -np.arange(40.0), 1e9)))
    return {"kind": "fp16", "largest": cast.max(), "smallest": cast[cast > 0].min()}


def draw(rows: Rows) -> plotting.Figure:
    fig, axes = plotting.mosaic("aaaabb;cccddd", height=5.5)
    _usable(axes["a"], rows)
    _narrowed(axes["b"], rows.where(kind="top"))
    for name, specs in (("c", WIDE), ("d", NARROW)):
        for at, s in enumerate(specs):
            r = rows.where(kind="std", spec=s)
            line = "-" if np.isnan(r.column("predicted_sqnr_db")).all() else "none"
            style = {"ms": 1.8, "linestyle": line, "lw": 0.4, "label": LABELS.get(s, s)}
            plotting.points(axes[name], r, "std", "sqnr_db", series=at, **style)
            plotting.prediction(axes[name], r.column("std"), r.column("predicted_sqnr_db"), series=at, lw=0.7)
        axes[name].set(xscale="log", xlabel="std of the weights", ylabel="SQNR (dB)")
        axes[name].legend(loc="upper left", ncol=2, columnspacing=0.8)
    axes["c"].set(ylim=(-3, 110))
    axes["d"].set(ylim=(-12, 42))
    axes["d"].text(8e-6, -9, "q4_k: scale 0, minimum not", fontsize=6.5)
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def _usable(ax: plotting.Axes, rows: Rows) -> None:
    """A bar for each format over all stds, coloured by what is left of the weights."""
    edges, (low, high) = rows.where(kind="edge"), rows.where(kind="std").column("std")[[0, -1]]
    worst = {s: [np.nan_to_num(edges.where(spec=s, edge=e).column("std").item()) for e in EDGES] for s in SPECS}
    order = sorted(SPECS, key=lambda s: worst[s])
    for at, s in enumerate(order):
        ends = [low, *(max(v, low) for v in worst[s][::-1]), high]
        for (label, color), left, right in zip(LEFT.items(), ends, ends[1:], strict=False):
            style = {"color": plotting.COLORS[color], "height": 0.75, "lw": 0}
            ax.barh(at, right - left, left=left, label=label if not at else None, **style)
        for r in edges.where(spec=s):
            if r["std"]:
                ax.errorbar(r["std"], at, xerr=1.96 * r["std_se"], color="0.1", capsize=1.5, lw=0.8)
    for column, marker, label in (("predicted_std", "|", "predicted"), ("closed_std", "x", "closed form")):
        r = Rows(row | {"at": order.index(row["spec"])} for row in edges)
        plotting.prediction(ax, r.column(column), r.column("at"), linestyle="none", marker=marker, ms=5, label=label)
    ax.axvline(FP16_ENDS[1], color="0.1", lw=0.8, ls=":")
    ax.text(2.9e-8, 0, "A08: smallest fp16", fontsize=6.5, rotation=90)
    ax.set(xscale="log", xlim=(2.5e-8, high), ylim=(-0.6, len(order) + 2.4), xlabel="std of the weights")
    ax.set(yticks=range(len(order)), yticklabels=[LABELS.get(s, s) for s in order])
    ax.grid(False)
    ax.legend(loc="upper right", ncol=3, columnspacing=1.0)


def _narrowed(ax: plotting.Axes, rows: Rows) -> None:
    for at, (way, s) in enumerate((way, s) for way in WAYS for s in INT8):
        r = rows.where(spec=s, way=way)
        plotting.points(ax, r, "top", "sqnr_db", series=at)
        plotting.prediction(ax, r.column("top"), r.column("predicted_sqnr_db"), series=at)
    for x, y, text in ((30, 47, "all grow: q8_0"), (30, 36, "all grow: per tensor"), (150, 13, "1 in 32 grows")):
        ax.text(x, y, text, fontsize=6.5)
    for x, text, side in ((TRAINED, " A11: 10", "left"), (FP16_ENDS[0], "A08: 65504 ", "right")):
        ax.axvline(x, color="0.1", lw=0.8, ls=":")
        ax.text(x, 51, text, fontsize=6.5, ha=side)
    ax.set(xscale="log", ylim=(-2, 55), xlabel="largest weight", ylabel="int8 SQNR of the others (dB)")


def _share_of_gains(rows: Rows) -> float:
    """Of two formats and two ways to grow: in how many narrowing fp16's range to ±10 gains a decibel."""
    gains = []
    for s in INT8:
        for way in WAYS:
            r = rows.where(kind="top", spec=s, way=way)
            (a, b), se = r.column("sqnr_db")[[0, -1]], r.column("sqnr_db_se")[[0, -1]]
            gains.append(a - b - 3 * np.hypot(*se) >= 1)
    return float(np.mean(gains))


CLAIMS = (
    Claim("A08", "share of two stated numbers, the largest and the smallest magnitude of fp16",
          lambda r: float(np.mean([abs(r.where(kind="fp16").one(k) / v - 1) < 1e-3
                                   for k, v in zip(("largest", "smallest"), FP16_ENDS, strict=True)])),
          share_of_cases("a cast keeps it and nothing beyond it, to the stated digits"),
          "but the smallest is subnormal: full precision ends at 6.1e-5, where fp16 scales begin to err"),
    Claim("A11", "share of (all weights grow, 1 in 32 grows) × (int8 per tensor, q8_0)", _share_of_gains,
          share_of_cases("narrowing the largest weight from fp16's 65504 to 10 gains the others at least 1 dB"),
          "a range as such costs nothing, the scale takes it up (too small weights do, where the scale is fp16); what "
          "must be limited is the ratio of the largest weight to the others"),
)  # fmt: skip
