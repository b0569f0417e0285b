"""Do int8 weights make the products of a layer smaller and faster, and by which path?

Layers of LLaMA-2 7B (arXiv:2307.09288), 1 to 512 rows of activations. A method is one program over arrays that lie on
the device as it keeps them: float32; bf16; float32 weights through int8 and back, what a simulation pays; int8 weights
dequantized to bf16; int8 x int8 -> int32 with activations quantized on the way; that product alone. All take turns in
random order, each after a read of 128 MiB that empties the caches and measures bandwidth: time >= bytes / bandwidth.
Baseline is the faster float product, in the same round. Accelerators run 16 matrices a program, 8 programs a timing, or
launches would be all. Expected: one row is bound by bytes, so float32, bf16 and int8 take times as 4 : 2 : 1, but
dequantized weights gain only if that fuses into the product; 512 rows are bound by arithmetic, where only int8 x int8
can win. Refuted if dequantizing wins anywhere, or int8 x int8 loses at either end. (Wrong on a CPU for one row: XLA
first copies int8 and bf16 weights to 32 bits, so that one row takes about ten times as long as two, and float32 wins
sixfold; and for bf16 from 64 rows on: without instructions of its own it is slower than float32.)
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from quantsim._types import Activations, Matrix
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.ratios import root_ratio
from quantsim.outputs.products import integer_product, quantized_product
from quantsim.populations import Normal
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

Q = parse("int8:channel")
FORMS: dict[str, Callable[[Array], Any]] = {  # how a method keeps its weights and is given its activations
    "f32": lambda a: a,
    "bf16": lambda a: a.astype(jnp.bfloat16),
    "int8": Q.quantize,
    "codes": lambda a: Q.quantize(a).codes,
}


def dot(x: Activations, w: Matrix) -> Array:
    """X Wᵀ of float32 or bf16, accumulated in float32; without a transpose, which XLA copies on CPU for one row."""
    contract, exact = (((1,), (1,)), ((), ())), lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return lax.dot_general(x, w, contract, precision=exact, preferred_element_type=jnp.float32)


METHODS: dict[str, tuple[str, str, Callable[[Any, Any], Array]]] = {  # forms of activations and of weights; product
    "f32": ("f32", "f32", dot),
    "bf16": ("bf16", "bf16", dot),
    "fake": ("f32", "f32", lambda x, w: dot(x, Q.roundtrip(w))),
    "dequantize": ("bf16", "int8", lambda x, w: dot(x, w.dequantize().astype(x.dtype))),
    "int8": ("bf16", "int8", lambda x, w: quantized_product(Q.quantize(x), w)),
    "codes": ("codes", "codes", integer_product),
}
FLOATS, PATHS = ("f32", "bf16"), ("dequantize", "int8")  # the baselines, and the layers with int8 weights
STORED = ("int8:channel", "int8:block32", "q8_0")
INSTRUCTIONS = ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx_vnni", "asimddp", "i8mm", "bf16")


@dataclass(frozen=True)
class Config:
    """Layers (name, out, in), rows of activations, floats that a read reads, and how often to measure."""

    layers: tuple[tuple[str, int, int], ...] = (("qkvo", 4096, 4096), ("gate up", 11008, 4096), ("down", 4096, 11008))
    batches: tuple[int, ...] = (1, 2, 8, 64, 512)
    read: int = 2**25
    rounds: tuple[int, int] = (5, 25)  # at least; and at most, if the seconds last
    seconds: float = 1.5
    matrices: int = 16  # in a program, if not on a CPU
    calls: int = 8  # in a timing, if not on a CPU
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """One layer, a sixteenth as wide, and two batches."""
        return cls(layers=(("gate up", 688, 256),), batches=(1, 8), read=2**20)


def measure(config: Config) -> Iterator[Cell]:
    """One cell a layer, one for what formats store."""
    for layer in config.layers:
        yield " ".join(map(str, layer)), partial(_layer, config, *layer)
    shape = max(layer[1:] for layer in config.layers)
    facts = [{"kind": "stored", "spec": s, "bits_per_weight": parse(s).bits_per_weight(shape)} for s in STORED]
    yield "stored", lambda: facts


def machine() -> dict[str, Any]:
    """What the products run on, one device of so many; of a CPU its cores and the instructions that matter here."""
    device, info = jax.devices()[0], Path("/proc/cpuinfo")
    known = info.read_text().split() if device.platform == "cpu" and info.is_file() else []
    about = {"device": device.device_kind, "platform": device.platform, "devices": jax.device_count()}
    return about | {"cores": os.cpu_count(), "instructions": " ".join(i for i in INSTRUCTIONS if i in known)}


def _layer(config: Config, name: str, out: int, fan_in: int) -> list[dict]:
    matrices, rows = config.matrices if jax.devices()[0].platform != "cpu" else 1, []
    base = population_key(config.seed, f"{out} {fan_in}")
    w = [Normal().sample(jax.random.fold_in(base, k), (out, fan_in)) for k in range(matrices)]
    kept = {form: [keep(a) for a in w] for form, keep in FORMS.items()}
    for batch in config.batches:
        keys = (jax.random.fold_in(base, matrices * (1 + batch) + k) for k in range(matrices))
        x = [Normal().sample(k, (batch, fan_in)) for k in keys]
        given = {form: [keep(a) for a in x] for form, keep in FORMS.items()}
        about = {"kind": "time", "layer": name, "out": out, "in": fan_in, "batch": batch, "matrices": matrices}
        rows += [about | row for row in _methods(config, given, kept)]
    return rows


def _methods(config: Config, given: dict[str, list], kept: dict[str, list]) -> list[dict]:
    """A row for each method and one for the read, all measured in the same rounds."""
    buffer, on, runs = jnp.ones(config.read, jnp.float32), machine(), {}
    rows, ((x32, *_), (w32, *more)) = [], (given["f32"], kept["f32"])
    for name, (activations, weights, _) in METHODS.items():
        x, w = given[activations], kept[weights]
        program = compiled(name, x, w)
        y = jax.block_until_ready(program(x, w))[0]
        single = compiled(name, x[:1], w[:1]) if more else program
        row = {"method": name, **sizes(x[0], w[0], y)}
        row["temporary_bytes"] = single.memory_analysis().temp_size_in_bytes
        rows.append(row | ({} if name == "codes" else _error(y, x32, w32)))
        runs[name] = partial(program, x, w)
    runs["read"] = partial(jax.jit(jnp.sum).lower(buffer).compile(), buffer)
    rows.append({"method": "read", "bytes": buffer.nbytes})
    times = _timed(runs, config, 1 if on["platform"] == "cpu" else config.calls)
    found = statistics({n: t / (1 if n == "read" else 1 + len(more)) for n, t in times.items()}, config.seed)
    for row in rows:
        row |= on | found[row["method"]]
        row |= {
            "gbps": row["bytes"] / row["seconds"] / 1e9,
            "of_bandwidth": row["bytes"] / buffer.nbytes / row["of_read"],
        }
        row["of_bandwidth_se"] = row["of_bandwidth"] * row["of_read_se"] / row["of_read"]
        row["gops"] = None if row["method"] == "read" else 2e-9 * len(x32) * w32.size / row["seconds"]
    return rows


def compiled(name: str, x: list, w: list) -> Any:
    """The program of a method over matrices, each with activations of its own, so that none can be merged."""
    multiply = METHODS[name][2]
    return jax.jit(lambda x, w: [multiply(a, b) for a, b in zip(x, w, strict=True)]).lower(x, w).compile()


def sizes(x: Any, w: Any, y: Any) -> dict[str, int]:
    """Bytes that a product must move at least: what it is given and what it returns."""
    named = {"weight_bytes": w, "activation_bytes": x, "output_bytes": y}
    found = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(a)) for name, a in named.items()}
    return found | {"bytes": sum(found.values())}


def _timed(runs: dict[str, Callable[[], Any]], config: Config, calls: int) -> dict[str, np.ndarray]:
    """Seconds of a call in every round."""
    order, found, (least, most) = np.random.default_rng(config.seed), {name: [] for name in runs}, config.rounds
    end = time.perf_counter() + config.seconds
    while len(found["read"]) < least or (time.perf_counter() < end and len(found["read"]) < most):
        for name in order.permutation(list(runs)):
            jax.block_until_ready(runs["read"]())
            start = time.perf_counter()
            jax.block_until_ready([runs[name]() for _ in range(calls)])
            found[name].append((time.perf_counter() - start) / calls)
    return {name: np.array(seconds) for name, seconds in found.items()}


def statistics(times: dict[str, np.ndarray], seed: int) -> dict[str, dict[str, Any]]:
    """Medians of times, and of their ratios to the faster float product and to the read of the same round.

    Standard errors are those of a bootstrap over the rounds. A machine that slows down slows down all of a round.
    """
    rounds, found = len(times["read"]), {}
    drawn = np.random.default_rng(seed).integers(rounds, size=(1000, rounds))
    bases = {"of_float": min((times[f] for f in FLOATS), key=np.median), "of_read": times["read"]}
    for name, t in times.items():
        found[name] = {"rounds": rounds, "seconds_q1": np.quantile(t, 0.25), "seconds_q3": np.quantile(t, 0.75)}
        for column, values in {"seconds": t, **{of: t / base for of, base in bases.items()}}.items():
            se = np.median(values[drawn], axis=1).std()
            found[name] |= {column: np.median(values), f"{column}_se": se}
    return found


def _error(y: Array, x: Activations, w: Matrix) -> dict[str, float]:
    """Relative error of (at most 256) outputs against float64."""
    exact = np.asarray(x, np.float64) @ np.asarray(w[:256], np.float64).T
    off = np.asarray(y[:, :256], np.float64) - exact
    value, se = root_ratio((off**2).sum(0), (exact**2).sum(0))
    return {"rel_rms": value, "rel_rms_se": se}


def summary(rows: Rows) -> str:
    """One sentence: what ran on what, and the time of each int8 path against the faster float product."""
    timed, texts = rows.where(kind="time"), []
    for name in PATHS:
        ratios = timed.where(method=name).column("of_float")
        texts.append(f"{STYLE[name][0]} {ratios.min():.2f} to {ratios.max():.2f}")
    return f"On {_device(timed)}, time over that of the faster float product: {'; '.join(texts)}."


STYLE = {
    "f32": ("float32", 7), "bf16": ("bf16", 0), "fake": ("float32 through int8 and back", 3),
    "dequantize": ("int8 dequantized to bf16", 4), "int8": ("int8 × int8, activations quantized", 1),
    "codes": ("int8 × int8 → int32 alone", 2),
}  # fmt: skip
BASE = "time / faster float product"


def _device(rows: Rows) -> str:
    r = rows[0]
    return r["device"] if r["platform"] != "cpu" else f"CPU, {r['cores']} cores, {r['instructions'] or 'no int8 dot'}"


def draw(rows: Rows) -> plotting.Figure:
    """Time against rows, bandwidth of few rows, memory, error against time; of the layer with most weights."""
    fig, axes = plotting.figure(2, 2, height=4.8)
    largest = max(rows.where(kind="time"), key=lambda r: r["out"] * r["in"])
    layer = rows.where(kind="time", layer=largest["layer"])
    batches = layer.values("batch")
    _times(axes[0, 0], layer)
    _dots(axes[0, 1], layer, batches[:2], "of_bandwidth")
    label = f"a read, {np.median(layer.where(method='read').column('gbps')):.3g} GB/s"
    plotting.prediction(axes[0, 1], [1, 1], [-1, len(STYLE)], label=label)
    axes[0, 1].set(
        xscale="log", xlabel="effective bandwidth / read bandwidth", ylim=(len(STYLE) + 0.6, -0.6), yticks=()
    )
    axes[0, 1].legend(loc="lower left", ncol=3, columnspacing=1)
    _memory(axes[1, 0], layer.where(batch=batches[1]), rows.where(kind="stored"))
    _dots(axes[1, 1], layer, batches[1:2] + batches[2:][-1:], "of_float", "rel_rms")
    axes[1, 1].set(xscale="log", yscale="log", xlabel=BASE, ylabel="output error / output, rms")
    axes[1, 1].legend()
    axes[0, 0].set_title(f"{largest['out']} × {largest['in']} on {_device(layer)}", fontsize=6.5, loc="right")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncol=4, columnspacing=1.2)
    plotting.letter(axes.ravel())
    return fig


def _times(ax: plotting.Axes, layer: Rows) -> None:
    for name, (label, series) in STYLE.items():
        c = layer.where(method=name)
        ratio, se = c.column("of_float"), c.column("of_float_se")
        plotting.curve(ax, c.column("batch"), ratio, se=se, series=series, label=label)
    c = layer.where(method="int8")
    limit = c.column("of_bandwidth") * c.column("of_float")
    plotting.prediction(ax, c.column("batch"), limit, label="int8: bytes / bandwidth")
    ax.axhspan(1e-3, 1, color="0.94", lw=0, zorder=0)
    ax.text(1, 0.056, "A32: faster", fontsize=6.5)
    ax.set(xscale="log", yscale="log", xlabel="rows of activations", ylabel=BASE, ylim=(0.05, None))
    ax.set_xticks(layer.values("batch"), layer.values("batch"))
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def _dots(ax: plotting.Axes, layer: Rows, batches: list[int], x: str, y: str | None = None) -> None:
    """A marker a method, hollow for more rows, at two columns, or below each other."""
    for batch, face in zip(batches, (None, "w"), strict=False):
        for k, (name, (_, series)) in enumerate(STYLE.items()):
            r, color = layer.where(method=name, batch=batch)[0], plotting.COLORS[series]
            down, down_se = (r.get(y, np.nan), r.get(f"{y}_se", 0)) if y else (k, 0)  # codes alone have no error
            style = {"color": color, "marker": plotting.MARKERS[series], "mfc": face or color, "capsize": 1.5}
            ax.errorbar(r[x], down, xerr=1.96 * r[f"{x}_se"], yerr=1.96 * down_se, **style)
        ax.plot([], [], "o", color="0.3", mfc=face or "0.3", label=f"{batch} row" + "s" * (batch > 1))


def _memory(ax: plotting.Axes, layer: Rows, stored: Rows) -> None:
    """Bytes of weights as stored, and what the program needs beside them."""
    for k, (name, (_, series)) in enumerate(STYLE.items()):
        r, color = layer.where(method=name)[0], plotting.COLORS[series]
        kept, beside = (r[c] / r["out"] / r["in"] for c in ("weight_bytes", "temporary_bytes"))
        ax.barh(k, kept, color=color)
        ax.barh(k, beside, left=kept, color=color, alpha=0.35)
    for k, r in enumerate(stored, len(STYLE)):
        kept, text = r["bits_per_weight"] / 8, f"{r['spec']}: −{100 - 6.25 * r['bits_per_weight']:.2f} %"
        ax.barh(k, kept, color="0.6")
        ax.text(kept + 0.1, k, text, fontsize=6, va="center")
    end = len(STYLE) + len(stored)
    plotting.mark_claim(ax, 1, end - 0.1, "A31: half of bf16", offset=(6, -2))
    label = f"bytes a weight, {layer[0]['batch']} rows: stored, temporary (pale)"
    ax.set(xlabel=label, ylim=(end + 0.4, -0.6), yticks=())


def _share_faster(rows: Rows) -> float:
    cases = [r for r in rows.where(kind="time") if r["method"] in PATHS]
    return float(np.mean([r["of_float"] + 3 * r["of_float_se"] < 1 for r in cases]))


CLAIMS = (
    Claim("A32", "share of layers × batches × two products with int8 weights (dequantized to bf16; int8 × int8 with "
          "activations quantized on the way) on one device", _share_faster,
          share_of_cases("it takes less time than the faster of the bf16 and float32 products, by 3 standard errors"),
          "{value:.0%} are faster; of the benefits, time and bandwidth are measured, on the device that the rows name; "
          "energy is not"),
)  # fmt: skip
