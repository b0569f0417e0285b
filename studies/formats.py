"""Which format wins at each bit budget, and how far is it from what its bits allow?

Every format goes over the same arrays of five populations, its SQNR against the bits it really stores. Above lies
Shannon's lower bound on the error, for the normal the Gaussian R(D): 6.02 dB a bit; between, the best fixed codebook
(Lloyd-Max) of each whole number of bits, its scale known and free. A budget's winner has the most SQNR of those that
fit; what no paired difference tells from it within three standard errors shares the place. Int8 with its largest tenth
in bf16, charged for codes, values and a bitmap, is set against integers of as many bits in blocks of 32. Expected:
searched two-level formats (K-quants, iq4) win below 7 bits, iq4 on bells, those with a minimum on uniform weights;
powers of two as scales lose 1 to 3 dB; under heavy tails small blocks beat even Lloyd-Max. Refuted if a format lies
above the bound, or if MX or a scale per tensor wins below 7 bits. (Wrong in one point: at 4.5 bits the minimum of q4_k
beats the bell-shaped levels of iq4_nl everywhere. Under t3 the intervals of a scale per tensor say little, and theory
counts weights that no sample here holds: one in 2e8 exceeds 448, where e4m3 ends, which takes 3.6 dB off its cast.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from math import ceil, gcd, log2, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, PartitionSpec

from quantsim import quantizer, theory
from quantsim.formats import FORMATS, levels
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, Rule, share_of_cases, stated
from quantsim.lab.study import Cell
from quantsim.measure import statistics
from quantsim.measure.ratios import ratio as ratio_of_sums
from quantsim.populations import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key, predicted_sqnr_db

FAMILIES = {
    "casts": "bf16 f16 e4m3 e5m2",
    "integers": "int8:tensor int8:channel int8:channel:minmax int8:tensor:p99.9 int4:tensor:rms int4:block128:mse "
                "int4:block32 int4:block32:absmax:f16",
    "floats, codebooks": "e4m3:tensor e2m1:block16 nf4:block64 af4:block64 fp4:block64",
    "MX, NVFP4": "mxfp4 mxfp6_e2m3 mxfp6_e3m2 mxfp8_e4m3 mxfp8_e5m2 mxint8 nvfp4 nvfp4:single",
    "GGUF q_0, q_1": "q4_0 q4_1 q5_0 q5_1 q8_0",
    "GGUF K": "q2_k q3_k q4_k q5_k q6_k",
    "GGUF iq4, tq": "iq4_nl iq4_xs tq1_0 tq2_0",
}  # fmt: skip
FAMILY = {s: name for name, specs in FAMILIES.items() for s in specs.split()}
ONE_SCALE = tuple(s for s in FAMILY if ":tensor" in s)  # cheap, and noisier than the others
OTHERS = tuple(s for s in FAMILY if s not in ONE_SCALE)
GROUPS = (ONE_SCALE, *(OTHERS[k : k + 3] for k in range(0, len(OTHERS), 3)))  # a program each: they compile slowly
BUDGETS = (2.1, 2.7, 3.5, 4.3, 4.5, 5.0, 5.6, 6.6, 8.1, 8.3, 8.5, 16.0)
INT8 = ("int8:tensor", "int8:channel", "int8:channel:minmax", "mxint8", "q8_0")
INT4 = ("int4:tensor:rms", "int4:block32:absmax:f16", "int4:block128:mse", "q4_0", "q4_k")
TAILED = "t5+outliers(rate=0.001,magnitude=30,values=spread)"
ENOUGH_DB, BATCH, MATRIX, ONE_BIT = 0.05, 16, (4096, 4096), 20 * np.log10(2)


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("normal", "laplace", "t5", "t3", "uniform")
    shape: tuple[int, int] = (256, 1024)
    batches: int = 32  # of 16 arrays, at most, for a scale per tensor
    kept: tuple[float, ...] = (0.0, 0.01, 0.1)

    @classmethod
    def small(cls) -> "Config":
        return cls(shape=(32, 1024), batches=1)


def measure(config: Config) -> Iterator[Cell]:
    for specs, name in product(GROUPS, config.populations):
        yield f"{specs[0]} … {name}", partial(_measured, config, name, specs)
    for name in config.populations:
        yield f"winners {name}", partial(_winners, config, name)
        yield f"codebooks {name}", lambda name=name: [_codebook(name, bits) for bits in range(1, 9)]
    for name in (*config.populations, TAILED):
        yield f"kept {name}", partial(_kept, config, name)
    stored = {s: quantizer.parse(s).bits_per_weight(MATRIX) for s in FAMILY}
    facts = [{"kind": "memory", "family": FAMILY[s], "spec": s, "bits_per_weight": b} for s, b in stored.items()]
    yield "memory", lambda: [row | {"of_f16": row["bits_per_weight"] / 16} for row in facts]


@lru_cache(1)
def _arrays(config: Config, name: str, batch: int) -> Array:
    """Arrays 16 batch … 16 batch + 15 of a population, as ``sweep.measure`` draws them."""
    base, pop = population_key(config.seed, name), parse(name)
    return jnp.stack([pop.sample(jax.random.fold_in(base, BATCH * batch + k), config.shape) for k in range(BATCH)])


@partial(jax.jit, static_argnums=1)
def _sums(arrays: Array, specs: tuple[str, ...]) -> Array:
    """Tile sums for each array and quantizer; the arrays are shared out to the devices."""

    def one(w: Array) -> Array:
        return jnp.stack([statistics.tally(w, quantizer.parse(s).roundtrip(w)).sums for s in specs])

    devices, along = jax.local_devices()[: gcd(len(arrays), jax.local_device_count())], PartitionSpec("arrays")
    mesh = jax.make_mesh((len(devices),), ("arrays",), (AxisType.Auto,), devices=devices)
    return jax.shard_map(partial(lax.map, one), mesh=mesh, in_specs=along, out_specs=along, check_vma=False)(arrays)


@lru_cache(None)
def _powers(config: Config, name: str, specs: tuple[str, ...]) -> np.ndarray:
    """Sums of w^2 and e^2, (quantizers, 2, arrays); batches of arrays are added until every SQNR is sure enough."""
    found = np.zeros((len(specs), 2, 0))
    for batch in range(config.batches if specs == ONE_SCALE else 1):
        sums = np.asarray(_sums(_arrays(config, name, batch), specs), np.float64).sum(axis=2)
        found = np.append(found, np.moveaxis(sums[..., [4, 3]], 0, 2), axis=2)
        if max(_db("sqnr_db", *p)["sqnr_db_se"] for p in found) <= ENOUGH_DB:
            break
    return found


def _db(name: str, of: np.ndarray, over: np.ndarray) -> dict[str, float]:
    """10 log10 of sum of / sum over, arrays being the units of its standard error."""
    r, se = ratio_of_sums(of, over)
    return {name: float(10 * np.log10(r)), f"{name}_se": float(10 / np.log(10) * se / r)}


def _sqnr(name: str, mse: Any) -> float:
    return float(-10 * np.log10(mse / parse(name).moment(2)))


def _row(kind: str, name: str, bits: float, **more: Any) -> dict:
    bound = _sqnr(name, theory.shannon_lower_bound(parse(name), bits))
    return {"kind": kind, "population": name, "bits_per_weight": bits, "bound_db": bound} | more


def _measured(config: Config, name: str, specs: tuple[str, ...]) -> list[dict]:
    rows = []
    for s, p in zip(specs, _powers(config, name, specs), strict=True):
        q = quantizer.parse(s)
        row = _row("sqnr", name, q.bits_per_weight(config.shape), family=FAMILY[s], spec=s)
        row |= {"weights": p[0].size * prod(config.shape)} | _db("sqnr_db", *p)
        rows.append(row | {"predicted_sqnr_db": predicted_sqnr_db(parse(name), q, config.shape)})
    return rows


def _codebook(name: str, bits: int) -> dict:
    mse = theory.levels_mse(parse(name), theory.lloyd_max(parse(name), 2**bits))
    return _row("codebook", name, bits, sqnr_db=_sqnr(name, mse))


def _winners(config: Config, name: str) -> list[dict]:
    powers = {s: p for specs in GROUPS for s, p in zip(specs, _powers(config, name, specs), strict=True)}
    common, rows = {s: p[1, :BATCH] for s, p in powers.items()}, []  # on the same arrays
    bits = {s: round(quantizer.parse(s).bits_per_weight(config.shape), 2) for s in FAMILY}
    for budget in BUDGETS:
        fit = [s for s in sorted(bits, key=lambda s: bits[s]) if bits[s] <= budget]
        best = min(fit, key=lambda s: common[s].sum())
        behind = [_db("db", common[s], common[best]) for s in fit]
        specs = " = ".join(s for s, d in zip(fit, behind, strict=True) if d["db"] <= 3 * d["db_se"])
        row = {"kind": "winner", "population": name, "budget": budget, "specs": specs}
        rows.append(row | _db("sqnr_db", *powers[best]))
    return rows


def _kept(config: Config, name: str) -> list[dict]:
    """Int8 that keeps its largest weights in bf16, against plain int8 and against finer integers in blocks of 32."""
    w, n, rows, plain = _arrays(config, name, 0)[:8], prod(config.shape), [], np.zeros(0)
    ascending = np.sort(np.abs(w).reshape(len(w), n))
    for count in (round(share * n) for share in config.kept):
        large = np.abs(w) > ascending[:, n - count - 1, None, None]
        rest = jax.vmap(quantizer.parse("int8:tensor").roundtrip)(jnp.where(large, 0.0, w))
        e = statistics.error(w, jnp.where(large, quantizer.parse("bf16").roundtrip(w), rest))
        w2, e2 = ((np.asarray(v, np.float64) ** 2).sum(axis=(1, 2)) for v in (w, e))
        plain = plain if count else e2
        bits = (8 * n + 8 * count + min(n, count * ceil(log2(n))) + 32) / n  # a bitmap, or an index each
        block = theory.absmax_int_mse(parse(name), 32, bits - 0.5)  # pyright: ignore[reportArgumentType]
        row = _row("kept", name, bits, share=round(count / n, 3), block_db=_sqnr(name, block))
        row["predicted_sqnr_db"] = _kept_prediction(config, name, count / n)
        rows.append(row | _db("sqnr_db", w2, e2) | _db("gain_db", plain, e2))
    return rows


def _kept_prediction(config: Config, name: str, share: float) -> float | None:
    """SQNR of the levels of int8 up to the quantile of the share, and of those of bf16 beyond."""
    if not share:
        return predicted_sqnr_db(parse(name), quantizer.parse("int8:tensor"), config.shape)
    top, beyond = -float(parse(name).quantile(share / 2)), levels(FORMATS["bf16"])
    both = np.append(levels(FORMATS["int8"]) * top / 127, beyond[abs(beyond) > top])
    return _sqnr(name, theory.levels_mse(parse(name), np.sort(both)))


def summary(rows: Rows) -> str:
    """One sentence: which format wins at each budget of bits on each population."""
    texts: dict[str, list[str]] = {}
    for budget in rows.where(kind="winner").values("budget"):
        won = rows.where(kind="winner", budget=budget)
        on = {s: ", ".join(won.where(specs=s).values("population")) for s in won.values("specs")}
        text = " and ".join(s + f" on {names}" * (len(on) > 1) for s, names in on.items())
        texts.setdefault(text, []).append(f"{budget:g}")
    parts = (f"{text} within {' to '.join(dict.fromkeys((b[0], b[-1])))}" for text, b in texts.items())
    return f"Most SQNR for the bits per weight: {'; '.join(parts)}."


STYLE = dict(zip(FAMILIES, zip((7, 0, 4, 2, 3, 1, 5), "xosD^v*", strict=True), strict=True))


def draw(rows: Rows) -> plotting.Figure:
    fig, axes = plotting.mosaic("acd;bef;bgl", height=5.5)
    _against_bits(axes["a"], rows.where(population="normal"))
    _memory(axes["b"], rows.where(kind="memory"))
    for key, name in zip("cdefg", rows.where(kind="winner").values("population"), strict=True):
        _below_bound(axes[key], rows.where(population=name))
        labels = {"ylabel": "dB below the bound" * (key in "ceg"), "xlabel": "true bits per weight" * (key in "fg")}
        axes[key].set(title=name, **labels)
    style = {"loc": "center", "labelspacing": 0.3, "borderpad": 0, "title_fontsize": 6.5}
    axes["l"].legend(*axes["c"].get_legend_handles_labels(), title="i = int8:channel:minmax", **style)
    axes["l"].axis("off")
    plotting.letter(axes[k] for k in "abcdefg")
    return fig


def _points(ax: plotting.Axes, rows: Rows, y: str) -> None:
    for family, (color, marker) in STYLE.items():
        style = {"color": plotting.COLORS[color], "marker": marker, "ms": 3, "mew": 0.6, "label": family}
        plotting.points(ax, rows.where(family=family), "bits_per_weight", y, **style)


def _line(ax: plotting.Axes, rows: Rows, y: str, **style: Any) -> None:
    plotting.prediction(ax, rows.column("bits_per_weight"), rows.column(y), **style)


def _against_bits(ax: plotting.Axes, rows: Rows) -> None:
    plotting.prediction(ax, [0, 16.5], [0, 16.5 * ONE_BIT], linestyle="-", color="0.1")
    _line(ax, rows.where(kind="codebook"), "sqnr_db")
    _points(ax, rows.where(kind="sqnr"), "sqnr_db")
    for x, y, text in ((15.6, 47, "A61: bf16"), (10.2, 9, "A62: int4"), (9.8, 76, "rate–distortion:\n6.02 dB a bit")):
        ax.text(x, y, text, fontsize=6.5, ha="right")
    ax.set(xlabel="true bits per weight", ylabel="SQNR, normal (dB)", ylim=(0, 100), xlim=(0, 17))


def _memory(ax: plotting.Axes, rows: Rows) -> None:
    ranked = sorted(rows, key=lambda r: (r["family"] != "casts", -len(r["spec"]), r["spec"]))
    sizes = sorted({round(r["of_f16"], 2): (r["spec"], r["family"]) for r in ranked}.items())
    for k, (size, (_, family)) in enumerate(sizes):
        ax.barh(k, 100 * size, color=plotting.COLORS[STYLE[family][0]], height=0.75)
        ax.text(2, k, f"{100 * size:.0f}", fontsize=6, va="center", color="w")
    same = [round(r["of_f16"], 2) for r in rows]
    names = [s + f" + {same.count(v) - 1}" * (same.count(v) > 1) for v, (s, _) in sizes]
    ax.set_yticks(range(len(sizes)), names, fontsize=6)
    plotting.mark_claim(ax, 50, len(sizes) - 4, "A31: half", offset=(6, -2))
    ax.set(xlabel="bytes (% of f16)", ylim=(-0.6, len(sizes) - 0.4))


def _below_bound(ax: plotting.Axes, rows: Rows) -> None:
    columns = {"y": "sqnr_db", "theory": "predicted_sqnr_db", "block": "block_db"}
    far = Rows(r | {k: r["bound_db"] - (r.get(v) or np.nan) for k, v in columns.items()} | {"y_se": r.get("sqnr_db_se")}
               for r in rows if "bound_db" in r)  # fmt: skip
    seen, winners = far.where(kind="sqnr"), [r["specs"] for r in rows.where(kind="winner") if r["budget"] < 16]
    won = Rows(r for s in dict.fromkeys(w.split(" = ")[0] for w in winners) for r in seen.where(spec=s))
    plotting.prediction(ax, [0, 12], [0, 0], linestyle="-", color="0.1", label="Shannon's bound")
    _line(ax, far.where(kind="codebook"), "y", label="best codebook (Lloyd–Max)")
    _line(ax, won, "y", linestyle="-", color="0.6", label="winners")
    _points(ax, seen, "y")
    _line(ax, far, "theory", linestyle="none", marker="_", ms=5, mew=0.6, label="theory")
    style = {"marker": "P", "mfc": "w", "mew": 0.6, "color": "0.1", "label": "int8, 0, 1, 10 % bf16 (B66)"}
    plotting.points(ax, far.where(kind="kept"), "bits_per_weight", "y", **style)
    _line(ax, far.where(kind="kept"), "block", linestyle=":", label="integers in blocks of 32")
    x = won.column("bits_per_weight")  # of the names, which move apart
    for _ in range(40):
        push = np.maximum(0.55 - np.diff(x), 0) / 2
        x = x - np.append(push, 0) + np.append(0, push)
    for at, s in zip(x, won.values("spec"), strict=True):
        ax.text(at, -0.8, "i" if "minmax" in s else s, fontsize=6, rotation=90, ha="center", va="bottom")
    ax.text(7.8, 26, "int8:tensor ↓" * (seen.where(spec="int8:tensor").one("y") > 27), fontsize=6, ha="right")
    ax.set(xlim=(1.2, 10.2), ylim=(27, -10), yticks=(0, 10, 20))


def _above_q8_0(rows: Rows, *specs: str) -> list[tuple[float, float]]:
    """SQNR less that of q8_0, and its standard error, for every population and spec, the largest last."""
    at = {(r["population"], r["spec"]): (r["sqnr_db"], r["sqnr_db_se"]) for r in rows.where(kind="sqnr")}
    pairs = ((at[name, s], at[name, "q8_0"]) for name, s in at if s in specs)
    return sorted((a - b, float(np.hypot(a_se, b_se))) for (a, a_se), (b, b_se) in pairs)


OPPOSITE = Rule("contradicts itself if negative: listed under 'higher precision', it has more error; holds otherwise",
                lambda value, se: "self-contradiction" if value < -3 * se else "holds")  # fmt: skip
CLAIMS = (
    Claim("A31", "smallest saving of five int8 formats in bytes of a 4096 × 4096 matrix, against f16",
          lambda r: min(1 - m["of_f16"] for m in r.where(kind="memory") if m["spec"] in INT8), stated(0.5, 0.05),
          "{value:.1%} in q8_0, which stores a scale for 32 weights, 49.9 % with a scale a row"),
    Claim("A61", "share of populations × (f16, bf16)",
          lambda r: float(np.mean([d >= ONE_BIT for d, _ in _above_q8_0(r, "f16", "bf16")])),
          share_of_cases("its SQNR is at least one bit, 6.02 dB, above that of q8_0"),
          "for 7.5 bits more, which finer codes would turn into 45 dB: bf16 into 7 to 14, f16 into 25 to 32"),
    Claim("A62", "SQNR (dB) of int4 less that of q8_0, in the best of populations × five int4 formats",
          lambda r: _above_q8_0(r, *INT4)[-1], OPPOSITE, "{value:.1f} dB at best, under 'higher precision'"),
    Claim("B66", "share of populations (one with outliers) × (halves the error of plain int8, has less than "
          "integers in blocks of 32 of as many bits)", lambda r: float(np.mean([
              [k["gain_db"] >= ONE_BIT, k["sqnr_db"] > k["block_db"]] for k in r.where(kind="kept", share=0.1)])),
          share_of_cases("int8 with its largest 10 % in bf16, charged with a bitmap, does"),
          "its 1.8 bits buy more in finer codes unless tails are heavy; keeping 1 % beats them on all"),
)  # fmt: skip
