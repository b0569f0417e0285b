"""Do int8 weights make the products of a layer smaller and faster, and by which path?

Layers of LLaMA-2 7B (arXiv:2307.09288), 1 to 512 rows of activations. A method is one program over arrays that lie on
the device as it keeps them: float32; bf16; float32 weights through int8 and back, what a simulation pays; int8 weights
dequantized to bf16; int8 x int8 -> int32 with activations quantized on the way; that product alone. All take turns in
random order, each after a read of 128 MiB that empties the caches and measures bandwidth: time >= bytes / bandwidth.
Baseline is the faster float product, in the same round. Accelerators run 16 matrices a program, 8 programs a timing, or
launches would be all. Expected: one row is bound by bytes, so float32, bf16 and int8 take times as 4 : 2 : 1, but
dequantized weights gain only if that fuses into the product; 512 rows are bound by arithmetic, where only int8 x int8
can win. Refuted if dequantizing wins anywhere, or int8 x int8 loses at either end. (Wrong on CPUs for one row: XLA
first copies int8 and bf16 weights to 32 bits, and float32 wins six- to ninefold; and from 64 rows on where a processor
multiplies bf16 itself, which is then as fast as int8 or faster.)

Settles A32 of the ledger, which numbers the statements of two documents (``quantsim claims``).
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
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.ratios import CLEARLY, columns, root_ratio
from quantsim.outputs.products import integer_product, quantized_product
from quantsim.populations import Normal
from quantsim.quantizer import QuantizedArray, parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

MEASURES_TIME = True
INT8 = parse("int8:channel")
BASELINES = ("f32", "bf16")
PATHS = ("dequantize", "int8")  # what a layer with int8 weights can do
STORED = ("int8:channel", "int8:block32", "q8_0")
INSTRUCTIONS = ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx_vnni", "asimddp", "i8mm", "bf16")

# --- how a method keeps its weights and is given its activations ----------------------------------------------------


def as_float32(a: Array) -> Array:
    return a


def as_bfloat16(a: Array) -> Array:
    return a.astype(jnp.bfloat16)


def as_codes(a: Array) -> Array:
    return INT8.quantize(a).codes


FORMS: dict[str, Callable[[Array], Any]] = {
    "f32": as_float32,
    "bf16": as_bfloat16,
    "int8": INT8.quantize,
    "codes": as_codes,
}

# --- how it multiplies them -----------------------------------------------------------------------------------------


def dot(x: Activations, w: Matrix) -> Array:
    """X Wᵀ of float32 or bf16, accumulated in float32; without a transpose, which XLA copies on CPU for one row."""
    contract, exact = (((1,), (1,)), ((), ())), lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return lax.dot_general(x, w, contract, precision=exact, preferred_element_type=jnp.float32)


def dot_with_simulated_int8(x: Activations, w: Matrix) -> Array:
    return dot(x, INT8.roundtrip(w))


def dot_with_dequantized(x: Activations, w: QuantizedArray) -> Array:
    return dot(x, w.dequantize().astype(x.dtype))


def integer_dot_with_scales(x: Activations, w: QuantizedArray) -> Array:
    return quantized_product(INT8.quantize(x), w)


@dataclass(frozen=True)
class Method:
    """A product: the forms in which it is given activations and weights, and what it does."""

    activations: str
    weights: str
    multiply: Callable[[Any, Any], Array]


METHODS = {
    "f32": Method("f32", "f32", dot),
    "bf16": Method("bf16", "bf16", dot),
    "fake": Method("f32", "f32", dot_with_simulated_int8),
    "dequantize": Method("bf16", "int8", dot_with_dequantized),
    "int8": Method("bf16", "int8", integer_dot_with_scales),
    "codes": Method("codes", "codes", integer_product),
}


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
    yield "stored", partial(_stored, config)


def _stored(config: Config) -> list[dict]:
    shape = max(layer[1:] for layer in config.layers)
    return [{"kind": "stored", "spec": s, "bits_per_weight": parse(s).bits_per_weight(shape)} for s in STORED]


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
    """A row for each method and one for the read, all measured in the same rounds.

    Args:
        config: how often to measure.
        given: activations of every matrix, in each form.
        kept: the matrices, in each form.
    """
    buffer, matrices = jnp.ones(config.read, jnp.float32), len(kept["f32"])
    rows, runs = [], {}
    for name in METHODS:
        row, runs[name] = _prepared(name, given, kept)
        rows.append(row)
    runs["read"] = partial(jax.jit(jnp.sum).lower(buffer).compile(), buffer)
    rows.append({"method": "read", "bytes": buffer.nbytes})
    about = machine()
    times = _timed(runs, config, calls=1 if about["platform"] == "cpu" else config.calls)
    per_matrix = {name: t if name == "read" else t / matrices for name, t in times.items()}
    found = statistics(per_matrix, config.seed)
    products = len(given["f32"][0]) * kept["f32"][0].size
    return [_rated(row | about | found[row["method"]], buffer.nbytes, products) for row in rows]


def _prepared(name: str, given: dict[str, list], kept: dict[str, list]) -> tuple[dict[str, Any], Callable[[], Any]]:
    """What can be said of a method without a clock, and the call that is timed."""
    method = METHODS[name]
    x, w = given[method.activations], kept[method.weights]
    program = compiled(name, x, w)
    y = jax.block_until_ready(program(x, w))[0]
    of_one = program if len(w) == 1 else compiled(name, x[:1], w[:1])
    row = {"method": name, **sizes(x[0], w[0], y), "temporary_bytes": of_one.memory_analysis().temp_size_in_bytes}
    if name != "codes":
        row |= _error(y, given["f32"][0], kept["f32"][0])
    return row, partial(program, x, w)


def _rated(row: dict[str, Any], bytes_of_read: int, products: int) -> dict[str, Any]:
    """The row with its rates: bytes a second, also as a share of those of the read, and operations a second."""
    row["gbps"] = row["bytes"] / row["seconds"] / 1e9
    row["of_bandwidth"] = row["bytes"] / bytes_of_read / row["of_read"]
    row["of_bandwidth_se"] = row["of_bandwidth"] * row["of_read_se"] / row["of_read"]
    operations = 2 * products  # a multiplication and an addition each
    row["gops"] = None if row["method"] == "read" else 1e-9 * operations / row["seconds"]
    return row


def compiled(name: str, x: list, w: list) -> Any:
    """The program of a method over matrices, each with activations of its own, so that none can be merged."""
    multiply = METHODS[name].multiply

    def all_products(xs: list, ws: list) -> list[Array]:
        return [multiply(x, w) for x, w in zip(xs, ws, strict=True)]

    return jax.jit(all_products).lower(x, w).compile()


def sizes(x: Any, w: Any, y: Any) -> dict[str, int]:
    """Bytes that a product must move at least: what it is given and what it returns."""
    named = {"weight_bytes": w, "activation_bytes": x, "output_bytes": y}
    found = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(a)) for name, a in named.items()}
    return found | {"bytes": sum(found.values())}


def _timed(runs: dict[str, Callable[[], Any]], config: Config, calls: int) -> dict[str, np.ndarray]:
    """Seconds of a call in every round, each after a read, which empties the caches."""
    order = np.random.default_rng(config.seed)
    found: dict[str, list[float]] = {name: [] for name in runs}
    least, most = config.rounds
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
    bases = {"of_float": min((times[name] for name in BASELINES), key=np.median), "of_read": times["read"]}
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
    return columns(rel_rms=root_ratio((off**2).sum(0), (exact**2).sum(0)))


STYLES = {
    "f32": plotting.Style(plotting.BLACK, "*", "float32"),
    "bf16": plotting.Style(plotting.BLUE, "o", "bf16"),
    "fake": plotting.Style(plotting.PURPLE, "D", "float32 through int8 and back"),
    "dequantize": plotting.Style(plotting.ORANGE, "v", "int8 dequantized to bf16"),
    "int8": plotting.Style(plotting.VERMILION, "s", "int8 × int8, activations quantized"),
    "codes": plotting.Style(plotting.GREEN, "^", "int8 × int8 → int32 alone"),
}


def summary(rows: Rows) -> str:
    """One sentence: what ran on what, and the time of each int8 path against the faster float product."""
    timed, texts = rows.where(kind="time"), []
    for name in PATHS:
        ratios = timed.where(method=name).column("of_float")
        texts.append(f"{STYLES[name].label} {ratios.min():.2f} to {ratios.max():.2f}")
    return f"On {_device(timed)}, time over that of the faster float product: {'; '.join(texts)}."


OF_BASELINE = "time / faster float product"


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
    plotting.prediction(axes[0, 1], [1, 1], [-1, len(METHODS)], label=label)
    axes[0, 1].set(
        xscale="log", xlabel="effective bandwidth / read bandwidth", ylim=(len(METHODS) + 0.6, -0.6), yticks=()
    )
    axes[0, 1].legend(loc="lower left", ncol=3, columnspacing=1)
    _memory(axes[1, 0], layer.where(batch=batches[1]), rows.where(kind="stored"))
    _dots(axes[1, 1], layer, batches[1:2] + batches[2:][-1:], "of_float", "rel_rms")
    axes[1, 1].set(xscale="log", yscale="log", xlabel=OF_BASELINE, ylabel="output error / output, rms")
    axes[1, 1].legend()
    axes[0, 0].set_title(f"{largest['out']} × {largest['in']} on {_device(layer)}", fontsize=6.5, loc="right")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncol=4, columnspacing=1.2)
    plotting.letter(axes.ravel())
    return fig


def _times(ax: plotting.Axes, layer: Rows) -> None:
    for name, style in STYLES.items():
        c = layer.where(method=name)
        plotting.curve(ax, c.column("batch"), c.column("of_float"), se=c.column("of_float_se"), series=style)
    c = layer.where(method="int8")
    limit = c.column("of_bandwidth") * c.column("of_float")
    plotting.prediction(ax, c.column("batch"), limit, label="int8: bytes / bandwidth")
    ax.axhspan(1e-3, 1, color="0.94", lw=0, zorder=0)
    plotting.note(ax, 1, 0.056, "A32: faster")
    ax.set(xscale="log", yscale="log", xlabel="rows of activations", ylabel=OF_BASELINE, ylim=(0.05, None))
    ax.set_xticks(layer.values("batch"), layer.values("batch"))
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def _dots(ax: plotting.Axes, layer: Rows, batches: list[int], x: str, y: str | None = None) -> None:
    """A marker a method, hollow for more rows, at two columns, or below each other."""
    for batch, face in zip(batches, (None, "w"), strict=False):
        for place, (name, style) in enumerate(STYLES.items()):
            row = layer.where(method=name, batch=batch)[0]
            down, down_se = (row.get(y, np.nan), row.get(f"{y}_se", 0)) if y else (place, 0)  # codes have no error
            look: dict[str, Any] = {"color": style.color, "marker": style.marker, "mfc": face or style.color}
            ax.errorbar(row[x], down, xerr=1.96 * row[f"{x}_se"], yerr=1.96 * down_se, capsize=1.5, **look)
        ax.plot([], [], "o", color="0.3", mfc=face or "0.3", label=f"{batch} row" + "s" * (batch > 1))


def _memory(ax: plotting.Axes, layer: Rows, stored: Rows) -> None:
    """Bytes of weights as stored, and what the program needs beside them."""
    for place, (name, style) in enumerate(STYLES.items()):
        row = layer.where(method=name)[0]
        kept, beside = (row[c] / row["out"] / row["in"] for c in ("weight_bytes", "temporary_bytes"))
        ax.barh(place, kept, color=style.color)
        ax.barh(place, beside, left=kept, color=style.color, alpha=0.35)
    for place, row in enumerate(stored, len(METHODS)):
        kept, saved = row["bits_per_weight"] / 8, 100 * (1 - row["bits_per_weight"] / 16)
        ax.barh(place, kept, color="0.6")
        plotting.note(ax, kept + 0.1, place, f"{row['spec']}: −{saved:.2f} %", fontsize=6, va="center")
    end = len(METHODS) + len(stored)
    plotting.mark_claim(ax, 1, end - 0.1, "A31: half of bf16", offset=(6, -2))
    label = f"bytes a weight, {layer[0]['batch']} rows: stored, temporary (pale)"
    ax.set(xlabel=label, ylim=(end + 0.4, -0.6), yticks=())


def share_clearly_faster(rows: Rows) -> float:
    """Share of the layers, batches and paths of int8 weights that take clearly less time than the baseline."""
    cases = [r for r in rows.where(kind="time") if r["method"] in PATHS]
    return share(r["of_float"] + CLEARLY * r["of_float_se"] < 1 for r in cases)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A32",
        "share of layers × batches × two products with int8 weights (dequantized to bf16; int8 × int8 with activations "
        "quantized on the way) on one device",
        share_clearly_faster,
        share_of_cases("it takes less time than the faster of the bf16 and float32 products, by 3 standard errors"),
        "{value:.0%} are faster; of the benefits, time and bandwidth are measured, on the device that the rows name; "
        "energy is not",
        statement="bandwidth, speed, energy benefits",
    ),
)
