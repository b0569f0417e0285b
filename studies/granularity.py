"""How many weights should share one int8 scale, and which ones?

The same weights are cut into blocks of 8 … 4096, rows, and one tensor. Rows of n weights with a scale each are nothing
but blocks of n, so q8_0 should beat per channel at every fan-in above 32. Then weights whose rows or columns differ in
size by a lognormal factor are cut along both axes. Theory predicts every SQNR: that of blocks of equal weights exactly,
that of unequal ones from errors uniform within a step and E absmax^2. Expected: the SQNR falls with each doubling of
the block; a scale per output helps most against unequal rows, a scale per input against unequal columns, blocks against
both. Refuted if a coarser cut of the same weights has less error.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtri

from quantsim import theory
from quantsim._types import ArrayLike, Matrix, Shape
from quantsim.granularity import Block, scale_shape, to_blocks
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.statistics import error
from quantsim.numerics import ieee
from quantsim.populations import Normal, parse
from quantsim.quantizer import Quantizer
from quantsim.quantizer import parse as quantizer
from quantsim.quantizer.blockformats import BlockFormat
from quantsim.rows import Rows
from quantsim.sweep import population_key, predicted_sqnr_db

TENSOR, CHANNEL, Q8_0 = "int8:tensor", "int8:channel", "q8_0"
PER_INPUT = "int8:channel@1"
CUTS = {TENSOR: "tensor", CHANNEL: "per output", PER_INPUT: "per input", Q8_0: "32 inputs (q8_0)",
        "int8:block32@0:absmax:f16": "32 outputs"}  # fmt: skip
STORED = {"weights": 32, "code_of_zero": 0, "bytes": 34}  # of a block, as the statement has it
STRUCTURES = {"equal": "all equal", "rows": "rows unequal", "columns": "columns unequal"}


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("uniform", "normal", "laplace", "t5", "t3")
    weights: int = 2**20  # of an array
    arrays: int = 8
    blocks: tuple[int, ...] = tuple(2**k for k in range(3, 13))
    fan_ins: tuple[int, ...] = (64, 256, 1024, 4096, 8192)
    side: int = 1024  # rows and columns of the unequal matrices
    octaves: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)

    @classmethod
    def small(cls) -> "Config":
        return cls(weights=2**17, arrays=2, side=256, blocks=(8, 32, 256, 4096), fan_ins=(64, 1024, 8192))


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield f"blocks {name}", partial(_blocks, config, name)
        yield f"fan-ins {name}", partial(_fan_ins, config, name)
        yield f"structures {name}", lambda n=name: [r for s in STRUCTURES for r in _unequal(config, n, s, 1.0)]
    yield "spread", lambda: [r for octaves in config.octaves for r in _spread(config, octaves)]
    yield "sizes", lambda: _by_size(config, octaves=1.5)
    yield "format", lambda: [_format()]


@partial(jax.jit, static_argnums=2)
def _row_sums(w: Matrix, factor: Matrix, specs: tuple[str, ...]) -> list[Any]:
    """For each row the sums of w^2, and of e^2 under every quantizer."""
    w = w * factor
    errors = [error(w, quantizer(s).roundtrip(w)) for s in specs]
    return [ieee.ordered_sum(ieee.square(v))[:, 0] for v in (w, *errors)]


@lru_cache(2)
def _arrays(config: Config, name: str) -> list[Array]:
    base = population_key(config.seed, name)
    return [parse(name).sample(jax.random.fold_in(base, k), (config.weights,)) for k in range(config.arrays)]


def _cut(config: Config, name: str, shape: Shape, specs: tuple[str, ...], factor: ArrayLike = 1.0) -> np.ndarray:
    """Row sums (1 + quantizers, arrays, rows) of arrays of a population times ``factor``, in float64."""
    factor = jnp.broadcast_to(jnp.asarray(factor, jnp.float32), shape)
    draws = (flat[: prod(shape)].reshape(shape) for flat in _arrays(config, name))
    return np.stack([np.array(_row_sums(w, factor, specs), np.float64) for w in draws], axis=1)


def _db(name: str, of: np.ndarray, over: np.ndarray) -> dict[str, float]:
    """10 log10 of sum of / sum over, arrays being the units of its standard error (delta method)."""
    a, b = of.sum(axis=-1), over.sum(axis=-1)
    r, n = a.sum() / b.sum(), a.size
    se = np.sqrt(((a - r * b) ** 2).sum() * n / (n - 1)) / b.sum() / r
    return {name: float(10 * np.log10(r)), f"{name}_se": float(10 / np.log(10) * se)}


def _blocks(config: Config, name: str) -> list[dict]:
    shape = (config.weights // config.fan_ins[-1], config.fan_ins[-1])
    specs = tuple(f"int8:{cut}:absmax:f16" for cut in (*(f"block{n}" for n in config.blocks), "channel", "tensor"))
    w2, *e2 = _cut(config, name, shape, specs)
    rows = []
    for s, e in zip(specs, e2, strict=True):
        q = quantizer(s)
        assert isinstance(q, Quantizer)
        assert q.granularity
        n = config.weights // prod(scale_shape(q.granularity, shape))
        row = {"kind": "block", "population": name, "spec": s, "per_scale": n, "weights": w2.size * shape[1]}
        row["extra_bits"] = q.bits_per_weight(shape) - 8
        row["predicted_sqnr_db"] = predicted_sqnr_db(parse(name), q, shape)
        rows.append(row | _db("sqnr_db", w2, e) | _db("lost_db", e, e2[0]))  # against the smallest block
    return rows


def _factors(count: int, octaves: float) -> np.ndarray:
    """Lognormal sizes with this standard deviation of log2, 64 quantiles in random order, mean square 1."""
    sizes = 2.0 ** (octaves * ndtri((np.arange(64) + 0.5) / 64))
    return np.random.default_rng(0).permutation(np.resize(sizes / np.sqrt(np.mean(sizes**2)), count))


def _fan_ins(config: Config, name: str) -> list[dict]:
    """How much finer than q8_0 (in dB) a scale per output, or one for the tensor, is."""
    rows, mse = [], partial(theory.weight_rel_mse, parse(name))
    for n, octaves in product(config.fan_ins, (0.0, 1.0)):
        shape = (config.weights // n, n)
        _, *e2, q8_0 = _cut(config, name, shape, (CHANNEL, TENSOR, Q8_0), _factors(shape[0], octaves)[:, None])
        for s, e in zip((CHANNEL, TENSOR), e2, strict=True):
            row = {"kind": "fan_in", "population": name, "fan_in": n, "octaves": octaves, "spec": s}
            if s == CHANNEL or not octaves:
                row["predicted_finer_db"] = 10 * np.log10(mse(quantizer(Q8_0)) / mse(quantizer(s), shape))
            rows.append(row | _db("finer_db", q8_0, e))
    return rows


def _unequal(config: Config, name: str, structure: str, octaves: float) -> list[dict]:
    shape, f = (config.side, config.side), _factors(config.side, octaves)
    factor = np.broadcast_to({"equal": 1.0, "rows": f[:, None], "columns": f}[structure], shape)
    w2, *e2 = _cut(config, name, shape, tuple(CUTS), factor)
    rows = []
    for s, e in zip(CUTS, e2, strict=True):
        row = {"kind": "unequal", "population": name, "structure": structure, "octaves": octaves, "spec": s}
        row["predicted_sqnr_db"] = _predicted(factor, s) if name == "normal" else None
        rows.append(row | _db("sqnr_db", w2, e) | _db("gain_db", e2[0], e) | _db("finer_db", e2[3], e))
    return rows


def _spread(config: Config, octaves: float) -> list[dict]:
    return [row | {"kind": "spread"} for row in _unequal(config, "normal", "columns", octaves)]


def _predicted(factor: np.ndarray, s: str) -> float:
    """SQNR of normal weights times ``factor``; blocks of the same relative sizes need one quadrature."""
    granularity, powers = getattr(quantizer(s), "granularity", Block(32)), {}  # q8_0 has blocks of 32
    blocks = np.sort(np.asarray(to_blocks(jnp.asarray(factor), granularity), np.float64), axis=1)
    top, n = blocks[:, -1], blocks.shape[1]
    relative = (blocks / top[:, None]).round(6)
    for kind in relative:
        if kind.tobytes() not in powers:
            powers[kind.tobytes()] = theory.unequal_absmax_power(Normal(), kind, 2)
    top2 = np.array([powers[kind.tobytes()] for kind in relative]) * top**2
    return float(-10 * np.log10(top2.mean() / 127**2 / 12 * (n - 1) / n / (factor**2).mean()))


def _by_size(config: Config, octaves: float) -> list[dict]:
    """SQNR of single rows, small and large, of one matrix."""
    shape, f, specs = (config.side, config.side), _factors(config.side, octaves), (TENSOR, CHANNEL, Q8_0)
    w2, *e2 = _cut(config, "normal", shape, specs, f[:, None])
    step = np.sqrt(theory.unequal_absmax_power(Normal(), np.repeat(f, config.side), 2)) / 127
    rows = []
    for size, (s, e) in product(np.unique(f)[::3], zip(specs, e2, strict=True)):
        row = {"kind": "size", "population": "normal", "size": size, "spec": s}
        row["predicted_sqnr_db"] = predicted_sqnr_db(Normal(size), quantizer(s), shape)
        if s == TENSOR:
            mse = theory.levels_mse(Normal(size), step * np.arange(-127, 128)) / size**2
            row["predicted_sqnr_db"] = -10 * np.log10(mse)
        rows.append(row | _db("sqnr_db", w2[:, f == size], e[:, f == size]))
    return rows


def _format() -> dict:
    """What is stored of 64 weights, the last of them 0, in the blocks of q8_0: an f16 scale and a byte a weight."""
    q = quantizer(Q8_0)
    assert isinstance(q, BlockFormat)
    data = np.asarray(q.quantize(np.append(np.linspace(-1, 1, 63), 0.0)).codes)
    return {
        "kind": "format",
        "weights": q.size,
        "code_of_zero": int(data.view(np.int8)[-1]),
        "bytes": data.size * q.size // 64,
    }


def draw(rows: Rows) -> plotting.Figure:
    fig, axes = plotting.mosaic("aaaabb;aaaacc;dddeee", height=5.5)
    a, b, c, d, e = axes.values()
    _against_bits(a, rows.where(kind="block"))
    _against_fan_in(b, rows.where(kind="fan_in", spec=CHANNEL, octaves=0.0))
    for at, (s, label) in enumerate(CUTS.items()):
        for ax, kind, x in ((c, "spread", "octaves"), (d, "size", "size"), (e, "unequal", "at")):
            found = enumerate(rows.where(kind=kind, population="normal", spec=s))
            r = Rows(row | {"at": k + at / 9 - 0.2} for k, row in found)
            plotting.points(ax, r, x, "sqnr_db", series=at, label=label)
            style = {"linestyle": "none", "marker": "_", "ms": 9} if ax is e else {}
            plotting.prediction(ax, r.column(x), r.column("predicted_sqnr_db"), series=at, **style)
    c.set(xlabel="spread of column sizes (octaves)", ylabel="SQNR (dB)")
    d.set(xscale="log", xlabel="size of a row / rms of all (spread 1.5 octaves)", ylabel="SQNR of the row (dB)")
    e.set(xticks=range(3), xticklabels=STRUCTURES.values(), ylabel="SQNR (dB)", ylim=(14, 47))
    e.legend(ncol=3, loc="lower left", columnspacing=0.8)
    for ax, x, y, text in ((e, 1.35, 27, "A25"), (c, 0.02, 33, "A55")):
        ax.text(x, y, text, fontsize=6.5)
    plotting.letter(axes.values())
    return fig


def _against_bits(ax: plotting.Axes, rows: Rows) -> None:
    for at, name in enumerate(rows.values("population")):
        r = rows.where(population=name)
        plotting.points(ax, r, "extra_bits", "sqnr_db", series=at, label=name, ms=3.5)
        plotting.prediction(ax, r.column("extra_bits"), r.column("predicted_sqnr_db"), series=at)
    x = np.geomspace(1.2e-5, 2.5, 50)
    plotting.prediction(ax, x, 20 * np.log10(2) * (8 + x), linestyle=":", label="rate–distortion, normal")
    for x, y, text in (
        (2, 51, "8"), (0.5, 34, "32: q8_0\n(A52)"), (16 / 256, 51, "256"), (16 / 8192, 51, "8192: a row"),
        (1.5e-5, 51, "tensor"), (3e-4, 44.5, "A53: a wider group loses precision"),
    ):  # fmt: skip
        ax.text(x, y, text, fontsize=6.5, ha="center")
    ax.set(xscale="log", xlabel="bits per weight − 8", ylabel="int8 SQNR (dB)", ylim=(8, 60))
    ax.legend(loc="lower right")


def _against_fan_in(ax: plotting.Axes, rows: Rows) -> None:
    for at, name in enumerate(rows.values("population")):
        r = rows.where(population=name)
        plotting.points(ax, r, "fan_in", "finer_db", series=at)
        plotting.prediction(ax, r.column("fan_in"), r.column("predicted_finer_db"), series=at)
    ax.axhspan(0, 6, color=plotting.COLORS[1], alpha=0.15, lw=0)
    ax.text(70, 2, "stated: finer (A54, A63)", fontsize=6.5)
    ax.set(xscale="log", ylim=(-19, 6), xlabel="fan-in", ylabel="per output − q8_0 (dB)")


def _share(kind: str, test: Callable[[dict], Any], *specs: str) -> Callable[[Rows], float]:
    return lambda rows: float(np.mean([test(r) for r in rows.where(kind=kind) if not specs or r["spec"] in specs]))


def _slope(rows: Rows) -> tuple[float, float]:
    """Mean loss (dB) for each doubling of the block, over the populations."""
    blocks = [r for r in rows.where(kind="block") if "block" in r["spec"]]
    last = Rows(r for r in blocks if r["per_scale"] == max(b["per_scale"] for b in blocks))
    doublings = len(blocks) / len(last) - 1
    loss, se = last.column("lost_db") / doublings, last.column("lost_db_se") / doublings
    return float(loss.mean()), float(np.sqrt((se**2).sum()) / len(last))


def _best(rows: Rows) -> tuple[float, float]:
    best = max(rows.where(kind="fan_in", spec=CHANNEL), key=lambda r: r["finer_db"])
    return best["finer_db"], best["finer_db_se"]


def _finer(r: dict) -> bool:
    return r["finer_db"] > 3 * r["finer_db_se"]


CLAIMS = (
    Claim("A25", "share of populations × (equal, unequal rows, unequal columns) × (output, input channels)",
          _share("unequal", lambda r: r["gain_db"] >= 3, CHANNEL, PER_INPUT),
          share_of_cases("scales per channel at least halve the squared error of one scale per tensor"),
          "they gain most along the axis whose sizes differ, for equal sizes only as much as the tails are heavy"),
    Claim("A52", "share of (32 weights to a scale, zero point 0, 34 bytes a block)",
          lambda r: float(np.mean([r.where(kind="format").one(k) == v for k, v in STORED.items()])),
          share_of_cases("it is so in the bytes of q8_0"), "34 bytes hold 32 codes and an f16 scale; 0 has code 0"),
    Claim("A53", "dB of SQNR lost for each doubling of the block from 8 to 4096, mean over populations", _slope,
          at_least(0.1), "{value:.2f} dB a doubling: next to nothing for uniform weights, most for heavy tails"),
    Claim("A54", "share of populations × fan-ins × (equal, unequal rows)", _share("fan_in", _finer, CHANNEL),
          share_of_cases("one scale per output has less squared error than one for 32 weights"),
          "a row is a group of fan-in weights: 32 is the finer cut; only one scale per input can beat it, where "
          "columns differ enough (of normal weights by over an octave)"),
    Claim("A55", "share of populations × fan-ins × (equal, unequal rows)", _share("fan_in", _finer, TENSOR),
          share_of_cases("one scale per tensor has less squared error than one for 32 weights"),
          "one scale per tensor is the coarsest cut of all"),
    Claim("A63", "SQNR (dB) per output less that of q8_0, in the best of populations × fan-ins × (equal, unequal rows)",
          _best, at_least(1.0), "{value:.2f} dB in its best case: q8_0 is the finer of the two, for half a bit more"),
)  # fmt: skip
