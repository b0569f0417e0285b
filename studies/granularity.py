"""How many weights should share one int8 scale?

Method. The same weights are cut into blocks of 8 ... 4096, into rows and not at all, with float16 scales, and a scale a
row or one for the tensor is set against q8_0, which has one for 32 weights, in matrices of fan-in 64 to 8192; also with
rows whose sizes differ by a lognormal factor of one octave. A row of n weights with a scale of its own is nothing but a
block of n, so q8_0 should beat per channel at every fan-in above 32. Theory predicts every SQNR.
Expected. The SQNR falls with each doubling of the block, the more the heavier the tails, and the finer cut wins.
Refuted if a coarser cut of the same weights has less error.
Given weights (``--weights``), the tensors of a checkpoint stand beside the families, of which then theory alone is
drawn: a sample of tensors, and of the rows of each, in blocks no longer than its rows.

Settles A52, A53, A54, A55 and A63 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.special import ndtri

from quantsim import theory
from quantsim._types import Shape
from quantsim.granularity import scale_shape
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, share, share_of_cases
from quantsim.lab.given import Given
from quantsim.lab.plotting import VERMILION, Axes
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, columns, decibels
from quantsim.measure.squares import squares
from quantsim.populations import parse, samples
from quantsim.quantizer import parse as quantizer
from quantsim.quantizer.blockformats import BlockFormat
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

from . import _weights as weights

TENSOR, CHANNEL, Q8_0 = "int8:tensor", "int8:channel", "q8_0"
STATED = {"weights": 32, "code_of_zero": 0, "bytes": 34}  # of a block of q8_0


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("uniform", "normal", "laplace", "t5", "t3")
    shape: tuple[int, int] = (1024, 1024)  # drawn, then cut otherwise
    arrays: int = 8
    blocks: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    row: int = 8192  # weights of a row where blocks are cut
    fan_ins: tuple[int, ...] = (64, 256, 1024, 4096, 8192)

    @classmethod
    def small(cls) -> "Config":
        return cls(populations=("normal", "t5"), shape=(32, 1024), arrays=4, blocks=(8, 32, 4096), fan_ins=(64, 8192))


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        yield f"{name} blocks", partial(blocks_of_all_sizes, config, name)
        for fan_in in config.fan_ins:
            yield f"{name} fan-in {fan_in}", partial(against_q8_0, config, name, fan_in)
    yield "bytes of q8_0", bytes_of_q8_0


@lru_cache(1)
def drawn(config: Config, name: str) -> Float[Array, "arrays weights"]:
    return flat(samples(parse(name), array_keys(config.seed, name, config.arrays), config.shape))


def blocks_of_all_sizes(config: Config, name: str) -> list[dict[str, Any]]:
    shape = (prod(config.shape) // config.row, config.row)
    arrays = drawn(config, name).reshape(-1, *shape)
    cuts = [*(f"block{size}" for size in config.blocks), "channel", "tensor"]
    rows, errors_of_smallest = [], None
    for q in (quantizer(f"int8:{cut}:absmax:f16") for cut in cuts):
        found = squares(arrays, q)
        errors_of_smallest = found.error if errors_of_smallest is None else errors_of_smallest
        row = {"kind": "block", "population": name, "spec": str(q), "per_scale": weights_per_scale(q, shape)}
        row |= {"weights": arrays.size, "extra_bits": q.bits_per_weight(shape) - 8}
        row |= columns(sqnr_db=found.sqnr_db, lost_db=decibels(found.error, errors_of_smallest))
        rows.append(row | {"predicted_sqnr_db": predicted_sqnr_db(parse(name), q, shape)})
    return rows


def weights_per_scale(q: Any, shape: Shape) -> int:
    return prod(shape) // prod(scale_shape(q.granularity, shape))


def against_q8_0(config: Config, name: str, fan_in: int) -> list[dict[str, Any]]:
    """How much finer than q8_0 a scale a row, or one for the tensor, is: 10 log10 of their squared errors' ratio."""
    pop, shape = parse(name), (prod(config.shape) // fan_in, fan_in)
    arrays = drawn(config, name).reshape(-1, *shape)
    rows = []
    for octaves in (0.0, 1.0):
        sizes = lognormal_sizes(shape[0], octaves).astype(np.float32)
        scaled = arrays * sizes[:, None]
        of_q8_0 = squares(flat(scaled), quantizer(Q8_0)).error
        for spec in (CHANNEL, TENSOR):
            error = squares(scaled if spec == CHANNEL else flat(scaled), quantizer(spec)).error
            row = {"kind": "fan_in", "population": name, "fan_in": fan_in, "octaves": octaves, "spec": spec}
            row |= columns(finer_db=decibels(of_q8_0, error))
            if spec == CHANNEL or octaves == 0:  # a scale for unequal rows has no theory here
                ratio = theory.weight_rel_mse(pop, quantizer(Q8_0)) / theory.weight_rel_mse(pop, quantizer(spec), shape)
                row["predicted_finer_db"] = 10 * np.log10(ratio)
            rows.append(row)
    return rows


def flat(matrices: Float[Array, "arrays rows columns"]) -> Float[Array, "arrays weights"]:
    """Each matrix as one row: a scale for all, and blocks of 32, do not see where a row of the matrix ends."""
    return matrices.reshape(len(matrices), -1)


def lognormal_sizes(count: int, octaves: float) -> NDArray[np.float64]:
    """Sizes with this standard deviation of log2: 64 quantiles in random order, repeated, of mean square 1."""
    sizes = 2.0 ** (octaves * ndtri((np.arange(64) + 0.5) / 64))
    return np.random.default_rng(0).permutation(np.resize(sizes / np.sqrt(np.mean(sizes**2)), count))


def bytes_of_q8_0() -> list[dict[str, Any]]:
    """What is stored of 64 weights, the last of them 0: for each block a float16 scale, then a byte a weight."""
    q = quantizer(Q8_0)
    assert isinstance(q, BlockFormat)
    stored = np.asarray(q.quantize(np.append(np.linspace(-1, 1, 63), 0.0)).codes)
    code_of_zero = int(stored.view(np.int8)[-1])
    return [{"kind": "format", "weights": q.size, "code_of_zero": code_of_zero, "bytes": stored.size * q.size // 64}]


# --- given weights --------------------------------------------------------------------------------------------------


def measure_weights(config: Config, given: Given) -> Iterator[Cell]:
    yield "families", partial(families, config)
    for tensor in weights.sample(given):
        yield f"tensor {tensor.entry.name}", partial(weights.rows_of, [tensor], partial(one_tensor, config, given))


def families(config: Config) -> list[dict[str, Any]]:
    """What theory says of the populations."""
    rows, shape = [], (prod(config.shape) // config.row, config.row)
    for name in config.populations:
        pop = parse(name)
        for q in cuts_of(config, config.row):
            row = {"kind": "block", "population": name, "spec": str(q), "extra_bits": q.bits_per_weight(shape) - 8}
            rows.append(row | {"predicted_sqnr_db": predicted_sqnr_db(pop, q, shape)})
        of_q8_0 = theory.weight_rel_mse(pop, quantizer(Q8_0))
        for fan_in in config.fan_ins:
            ratio = of_q8_0 / theory.weight_rel_mse(pop, quantizer(CHANNEL), (prod(config.shape) // fan_in, fan_in))
            row = {"kind": "fan_in", "population": name, "fan_in": fan_in, "octaves": 0.0, "spec": CHANNEL}
            rows.append(row | {"predicted_finer_db": 10 * np.log10(ratio)})
    return rows


def cuts_of(config: Config, columns: int) -> list[Any]:
    """Quantizers from the smallest block to one scale, no block longer than a row."""
    cuts = [*(f"block{size}" for size in config.blocks if size < columns), "channel", "tensor"]
    return [quantizer(f"int8:{cut}:absmax:f16") for cut in cuts]


def one_tensor(config: Config, given: Given, tensor: weights.Tensor) -> list[dict[str, Any]]:
    """SQNR of a tensor under every cut, and how much finer than q8_0 a scale for each row is."""
    w, shape, rows = weights.measurable(given, tensor), tensor.shape, []
    about = {"of": tensor.entry.size, "weights": w.size, "fan_in": shape[1]}
    for q in cuts_of(config, shape[1]):
        row = {"kind": "tensor", "spec": str(q), "per_scale": weights_per_scale(q, shape)} | about
        row["extra_bits"] = q.bits_per_weight(shape) - 8
        rows.append(row | columns(sqnr_db=weights.squares_of_rows(w, q.roundtrip(w)).sqnr_db))
    q8_0 = quantizer(Q8_0)
    if shape[1] % STATED["weights"] == 0:  # its blocks do not reach over the end of a row
        of_q8_0, of_rows = (weights.squares_of_rows(w, q.roundtrip(w)).error for q in (q8_0, quantizer(CHANNEL)))
        rows.append({"kind": "tensor fan_in"} | about | columns(finer_db=decibels(of_q8_0, of_rows)))
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------


def draw(rows: Rows) -> plotting.Figure:
    figure, panels = plotting.mosaic("aab", height=3.6)
    styles = plotting.styles(rows.where(kind="block").values("population"))
    tensors_beside(panels["a"], panels["b"], rows)
    sqnr_against_bits(panels["a"], rows.where(kind="block"), styles)
    finer_against_fan_in(panels["b"], rows.where(kind="fan_in", spec=CHANNEL, octaves=0.0), styles)
    widen(panels["a"], rows.where(kind="tensor").column("sqnr_db"))
    widen(panels["b"], rows.where(kind="tensor fan_in").column("finer_db"))
    plotting.letter(panels.values())
    return figure


def tensors_beside(by_bits: Axes, by_fan_in: Axes, rows: Rows) -> None:
    """Given tensors: a thin line each over the cuts, and a point at its fan-in."""
    look: dict[str, Any] = {"color": "0.3", "lw": 0.5, "alpha": 0.5}
    tensors = rows.where(kind="tensor").groups("tensor")
    for number, found in enumerate(tensors.values()):
        label = f"{len(tensors)} given tensors" if number == 0 else None
        by_bits.plot(found.column("extra_bits"), found.column("sqnr_db"), label=label, **look)
    points = rows.where(kind="tensor fan_in")
    if points:
        by_fan_in.plot(points.column("fan_in"), points.column("finer_db"), ls="none", marker=".", ms=3, **look)


def widen(ax: Axes, values: NDArray[np.float64]) -> None:
    """Vertical limits that hold these values, too."""
    low, high = ax.get_ylim()
    ax.set_ylim(min([low, *(values - 1)]), max([high, *(values + 1)]))


def sqnr_against_bits(ax: Axes, rows: Rows, styles: dict[str, plotting.Style]) -> None:
    plotting.family(ax, rows, "extra_bits", "sqnr_db", by="population", styles=styles)
    bits = np.geomspace(1.2e-5, 2.5, 50)
    label = "rate–distortion, normal"
    plotting.prediction(ax, bits, 20 * np.log10(2) * (8 + bits), linestyle=":", label=label)
    for per_scale, text in ((8, "8"), (256, "256"), (8192, "8192: a row")):
        plotting.note(ax, 16 / per_scale, 51, text, ha="center")
    plotting.note(ax, 1.5e-5, 51, "tensor", ha="center")
    plotting.note(ax, 16 / 32, 34, "32: q8_0\n(A52)", ha="center")
    plotting.note(ax, 3e-4, 44.5, "A53: a wider group loses precision", ha="center")
    ax.set(xscale="log", xlabel="bits per weight − 8", ylabel="int8 SQNR (dB)", ylim=(8, 60))
    ax.legend(loc="lower right")


def finer_against_fan_in(ax: Axes, rows: Rows, styles: dict[str, plotting.Style]) -> None:
    plotting.family(ax, rows, "fan_in", "finer_db", by="population", styles=styles)
    ax.axhspan(0, 6, color=VERMILION, alpha=0.15, lw=0)
    plotting.note(ax, 70, 2, "stated: finer (A54, A63)")
    ax.set(xscale="log", ylim=(-19, 6), xlabel="fan-in", ylabel="SQNR per output − that of q8_0 (dB)")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def stored_as_stated(rows: Rows) -> float:
    """Share of (32 weights to a scale, zero point 0, 34 bytes a block) that the bytes of q8_0 show."""
    return share(rows.where(kind="format").one(fact) == value for fact, value in STATED.items())


def lost_a_doubling(rows: Rows) -> Estimate:
    """Mean over populations of what the largest block loses against the smallest, in dB for each doubling between."""
    blocks = Rows(r for r in rows.where(kind="block") if "block" in r["spec"])
    sizes = blocks.values("per_scale")
    largest = blocks.where(per_scale=max(sizes))
    doublings = len(sizes) - 1
    loss = largest.column("lost_db").mean() / doublings
    return Estimate(loss, float(np.sqrt((largest.column("lost_db_se") ** 2).sum())) / len(largest) / doublings)


def finer_than_q8_0(rows: Rows, spec: str) -> float:
    """Share of populations × fan-ins × (equal, unequal rows) in which a coarser cut clearly has less squared error."""
    found = rows.where(kind="fan_in", spec=spec)
    return share(Estimate(r["finer_db"], r["finer_db_se"]).clearly_above(0) for r in found)


def best_of_channels(rows: Rows) -> Estimate:
    """SQNR per output less that of q8_0 in the best case for a scale per output."""
    return max(Estimate(r["finer_db"], r["finer_db_se"]) for r in rows.where(kind="fan_in", spec=CHANNEL))


CASES = "populations × fan-ins × (equal, unequal rows)"
# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A52",
        statement="q8_0: 32 values share one scale d, zero point 0",
        definition="share of (32 weights to a scale, zero point 0, 34 bytes a block)",
        number=stored_as_stated,
        rule=share_of_cases("it is so in the bytes of q8_0"),
        reading="34 bytes hold 32 codes and an f16 scale; 0 has code 0",
    ),
    Claim(
        "A53",
        statement="sharing a scale makes wide groups lose precision",
        definition="dB of SQNR lost for each doubling of the block from 8 to 4096, mean over populations",
        number=lost_a_doubling,
        rule=at_least(0.1),
        reading="{value:.2f} dB a doubling: next to nothing for uniform weights, most for heavy tails",
    ),
    Claim(
        "A54",
        statement="group (q8_0) is coarser than per-channel → larger error",
        definition=f"share of {CASES}",
        number=partial(finer_than_q8_0, spec=CHANNEL),
        rule=share_of_cases("one scale per output has less squared error than one for 32 weights"),
        reading="a row is a group of fan-in weights: 32 is the finer cut; only one scale per input can beat it, where "
        "columns differ enough (of normal weights by over an octave)",
    ),
    Claim(
        "A55",
        statement="even *per-layer* is finer than group",
        definition=f"share of {CASES}",
        number=partial(finer_than_q8_0, spec=TENSOR),
        rule=share_of_cases("one scale per tensor has less squared error than one for 32 weights"),
        reading="one scale per tensor is the coarsest cut of all",
    ),
    Claim(
        "A63",
        statement='per-channel, "much finer than q8_0"',
        definition=f"SQNR (dB) per output less that of q8_0, in the best of {CASES}",
        number=best_of_channels,
        rule=at_least(1.0),
        reading="{value:.2f} dB in its best case: q8_0 is the finer of the two, for half a bit more",
    ),
)
