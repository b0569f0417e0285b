"""Which weights should share one int8 scale where rows or columns of a matrix differ in size?

Method. Rows or columns of a square matrix are multiplied by lognormal sizes, with a standard deviation of up to 1.5
octaves, and one scale is shared by all weights, by those of an output (a row), of an input (a column), of 32
neighbouring inputs (q8_0) or of 32 neighbouring outputs.
Theory. Errors uniform in a step of absmax / 127, and none in the extreme itself, one of the n weights that share it:
E[e^2] = E[absmax^2] / (12 * 127^2) * (n - 1) / n, with E[absmax^2] of weights of unequal size by one quadrature.
Expected. A scale per output helps most against unequal rows, a scale per input against unequal columns, blocks against
both, as 32 weights see few sizes; one scale for the tensor leaves small rows few codes.
Refuted if a cut gains most against sizes that differ along its own blocks.

Settles A25 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.special import ndtri

from quantsim import theory
from quantsim.granularity import Block, to_blocks
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import columns, decibels
from quantsim.measure.squares import squares
from quantsim.populations import Normal, parse, samples
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

TENSOR, PER_OUTPUT, PER_INPUT, Q8_0 = "int8:tensor", "int8:channel", "int8:channel@1", "q8_0"
CUTS = {
    TENSOR: "tensor",
    PER_OUTPUT: "per output",
    PER_INPUT: "per input",
    Q8_0: "32 inputs (q8_0)",
    "int8:block32@0:absmax:f16": "32 outputs",
}
STRUCTURES = {"equal": "all equal", "rows": "rows unequal", "columns": "columns unequal"}
LARGEST_CODE = 127


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("uniform", "normal", "laplace", "t5", "t3")
    side: int = 1024  # rows and columns
    arrays: int = 8
    octaves: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # standard deviation of log2 of the sizes

    @classmethod
    def small(cls) -> "Config":
        return cls(populations=("normal", "t5"), side=256, arrays=4, octaves=(0.0, 1.5))


def measure(config: Config) -> Iterator[Cell]:
    for name in config.populations:
        for structure in STRUCTURES:
            yield f"{name}, {structure}", partial(each_structure, config, name, structure)
    for octaves in config.octaves:
        yield f"columns, {octaves:g} octaves", partial(each_spread, config, octaves)
    yield "rows by size", partial(rows_by_size, config, octaves=1.5)


@lru_cache(1)
def drawn(config: Config, name: str) -> Float[Array, "arrays rows columns"]:
    return samples(parse(name), array_keys(config.seed, name, config.arrays), (config.side, config.side))


def lognormal_sizes(count: int, octaves: float) -> NDArray[np.float64]:
    """Sizes with this standard deviation of log2: 64 quantiles in random order, repeated, of mean square 1."""
    sizes = 2.0 ** (octaves * ndtri((np.arange(64) + 0.5) / 64))
    return np.random.default_rng(0).permutation(np.resize(sizes / np.sqrt(np.mean(sizes**2)), count))


def factors(structure: str, side: int, octaves: float) -> NDArray[np.float64]:
    """What each weight of a matrix is multiplied with."""
    sizes = lognormal_sizes(side, octaves)
    along = {"equal": np.ones(1), "rows": sizes[:, None], "columns": sizes[None, :]}[structure]
    return np.broadcast_to(along, (side, side))


def each_structure(config: Config, name: str, structure: str) -> list[dict[str, Any]]:
    return [{"kind": "unequal", **row} for row in every_cut(config, name, structure, octaves=1.0)]


def each_spread(config: Config, octaves: float) -> list[dict[str, Any]]:
    return [{"kind": "spread", **row} for row in every_cut(config, "normal", "columns", octaves)]


def every_cut(config: Config, name: str, structure: str, octaves: float) -> list[dict[str, Any]]:
    """SQNR of each cut, and by how many dB it beats one scale for the tensor."""
    factor = factors(structure, config.side, octaves)
    arrays = drawn(config, name) * factor.astype(np.float32)
    found = {spec: squares(arrays, quantizer(spec)) for spec in CUTS}
    rows = []
    for spec, of_cut in found.items():
        row = {"population": name, "structure": structure, "octaves": octaves, "spec": spec}
        row |= columns(sqnr_db=of_cut.sqnr_db, gain_db=decibels(found[TENSOR].error, of_cut.error))
        rows.append(row | {"predicted_sqnr_db": predicted(factor, spec) if name == "normal" else None})
    return rows


def predicted(factor: NDArray[np.float64], spec: str) -> float:
    """SQNR in dB of normal weights times ``factor``: E[e^2] of the docstring, over the mean square of the weights."""
    granularity = getattr(quantizer(spec), "granularity", Block(32))  # q8_0 has blocks of 32
    blocks = np.asarray(to_blocks(jnp.asarray(factor), granularity), np.float64)
    n = blocks.shape[1]
    mse = mean_absmax2(blocks) / (12 * LARGEST_CODE**2) * (n - 1) / n
    return float(-10 * np.log10(mse / np.mean(factor**2)))


def mean_absmax2(blocks: NDArray[np.float64]) -> float:
    """E[absmax^2] of normal weights of these sizes, mean over blocks; a quadrature for each set of relative sizes."""
    sizes = np.sort(blocks, axis=1)
    largest = sizes[:, -1]
    known: dict[bytes, float] = {}
    found = []
    for relative in (sizes / largest[:, None]).round(6):
        if relative.tobytes() not in known:
            known[relative.tobytes()] = theory.unequal_absmax_power(Normal(), relative, 2)
        found.append(known[relative.tobytes()])
    return float(np.mean(np.array(found) * largest**2))


def rows_by_size(config: Config, octaves: float) -> list[dict[str, Any]]:
    """SQNR of single rows, small and large, of one matrix: every third of the 64 sizes."""
    shape, sizes = (config.side, config.side), lognormal_sizes(config.side, octaves)
    arrays = drawn(config, "normal") * sizes[:, None].astype(np.float32)
    signal = np.square(np.asarray(arrays, np.float64)).sum(axis=2)
    step = np.sqrt(theory.unequal_absmax_power(Normal(), np.repeat(sizes, config.side), 2)) / LARGEST_CODE
    rows = []
    for spec in (TENSOR, PER_OUTPUT, Q8_0):
        errors = np.stack([error(w, quantizer(spec).roundtrip(w)) for w in arrays])
        noise = np.square(errors.astype(np.float64)).sum(axis=2)
        for size in np.unique(sizes)[::3]:
            row = {"kind": "size", "population": "normal", "size": size, "spec": spec}
            row |= columns(sqnr_db=sqnr_of_rows(signal[:, sizes == size], noise[:, sizes == size]))
            if spec == TENSOR:
                row["predicted_sqnr_db"] = sqnr_at_step(Normal(size), step)
            else:
                row["predicted_sqnr_db"] = predicted_sqnr_db(Normal(size), quantizer(spec), shape)
            rows.append(row)
    return rows


def sqnr_of_rows(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> Any:
    """SQNR of some rows of each array, (arrays, rows), arrays being the units of its standard error."""
    return decibels(signal.sum(axis=1), noise.sum(axis=1))


def sqnr_at_step(pop: Normal, step: float) -> float:
    """SQNR in dB of codes -127 ... 127 at this step, which does not follow the weights."""
    levels = step * np.arange(-LARGEST_CODE, LARGEST_CODE + 1)
    return float(-10 * np.log10(theory.levels_mse(pop, levels) / pop.std**2))


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(CUTS)


def draw(rows: Rows) -> plotting.Figure:
    figure, panels = plotting.mosaic("ab;cc", height=4.4)
    against_spread(panels["a"], rows.where(kind="spread"))
    against_size(panels["b"], rows.where(kind="size"))
    each_cut_and_structure(panels["c"], rows.where(kind="unequal", population="normal"))
    plotting.letter(panels[name] for name in "abc")
    return figure


def against_spread(ax: Axes, rows: Rows) -> None:
    plotting.family(ax, rows, "octaves", "sqnr_db", by="spec", styles=STYLES)
    ax.set(xlabel="spread of column sizes (octaves)", ylabel="SQNR (dB)")


def against_size(ax: Axes, rows: Rows) -> None:
    plotting.family(ax, rows, "size", "sqnr_db", by="spec", styles=STYLES)
    ax.set(xscale="log", xlabel="size of a row / rms of all (spread 1.5 octaves)", ylabel="SQNR of the row (dB)")


def each_cut_and_structure(ax: Axes, rows: Rows) -> None:
    for k, (spec, style) in enumerate(STYLES.items()):
        places = {structure: at + k / 9 - 0.2 for at, structure in enumerate(STRUCTURES)}
        placed = Rows(r | {"at": places[r["structure"]]} for r in rows.where(spec=spec))
        plotting.points(ax, placed, "at", "sqnr_db", series=style)
        marks = {"linestyle": "none", "marker": "_", "ms": 9}
        plotting.prediction(ax, placed.column("at"), placed.column("predicted_sqnr_db"), series=style, **marks)
    plotting.note(ax, 1.25, 26, "A25: scales per channel")
    ax.set(xticks=range(3), xticklabels=STRUCTURES.values(), ylabel="SQNR (dB)", ylim=(14, 47))
    ax.legend(ncol=3, loc="lower left", columnspacing=0.8)


# --- the verdict ----------------------------------------------------------------------------------------------------


def channels_that_halve_the_error(rows: Rows) -> float:
    """Share of populations × structures × (per output, per input) that gain at least 3 dB on one scale per tensor."""
    found = rows.where(kind="unequal")
    return share(r["gain_db"] >= 3 for r in found if r["spec"] in (PER_OUTPUT, PER_INPUT))


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A25",
        statement="per-channel (output *or input*) scales reduce error notably",
        definition="share of populations × (equal, unequal rows, unequal columns) × (output, input channels)",
        number=channels_that_halve_the_error,
        rule=share_of_cases("scales per channel at least halve the squared error of one scale per tensor"),
        reading="they gain most along the axis whose sizes differ, for equal sizes only as much as the tails are heavy",
    ),
)
