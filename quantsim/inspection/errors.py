"""What formats do to a tensor: the second of two passes.

How the scales of a quantizer are shared decides how it sees a tensor: in chunks of fixed shape, whose scales lie within
them or follow from extremes of the first pass, so that one compiled program serves tensors of all shapes; or as rows,
as many as fit a chunk; or at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import frexp
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from quantsim.calibration import Absmax, Clip, FourOverSix, MinMax, Search
from quantsim.granularity import Block, Channel
from quantsim.inspection import programs
from quantsim.inspection.ahead import in_order
from quantsim.inspection.pieces import CHUNK, PIECE, Matrix, Take, chunks
from quantsim.inspection.programs import Found, Given
from quantsim.inspection.signal import Signal
from quantsim.measure import statistics
from quantsim.measure.statistics import ErrorStats
from quantsim.measure.tallies import SUMS, Exponents
from quantsim.numerics.tiles import TILE
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.microscaling import Microscaling
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.scaled import Quantizer

#: How a quantizer sees a tensor.
Way: TypeAlias = Literal["chunks", "rows", "whole"]
#: Weights that are taken at once, by quantizers that must see all of them.
MOST_AT_ONCE = 2**26


class CannotMeasureError(ValueError):
    """A tensor that a quantizer does not take, or not in bounded memory; the message says why."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A tensor that formats are tried on.

    Attributes:
        take: reads its weights.
        matrix: its shape in products.
        signal: what the first pass saw.
        importance: reads what an error of each weight counts, or None.
        columns: importance of each column, which formats that take an imatrix search by, or None.
    """

    take: Take
    matrix: Matrix
    signal: Signal
    importance: Take | None = None
    columns: Float[np.ndarray, " columns"] | None = None

    @property
    def unit(self) -> Exponents:
        """Of sums: the power of two below the largest weight."""
        exponent = np.int32(np.clip(frexp(self.signal.max_abs)[1] - 1, -126, 126))
        return Exponents(exponent, exponent)


@dataclass(frozen=True)
class Damage:
    """Errors of a tensor under a quantizer.

    Attributes:
        stats: of all weights.
        noise: sum of importance e^2, 0 without importances.
        power: sum of importance w^2.
    """

    stats: ErrorStats
    noise: float = 0.0
    power: float = 0.0


# --- how a quantizer sees a tensor ----------------------------------------------------------------------------------


def way(q: AbstractQuantizer, matrix: Matrix, *, by_column: bool = False) -> Way:
    """How a quantizer sees a matrix; ``by_column`` if there are importances of columns to search by.

    Raises:
        CannotMeasureError: for rows that its blocks do not fill, and for too many weights to be taken at once.

    >>> from quantsim.quantizer import parse
    >>> specs = ("q4_k", "int4:block32", "int8:channel", "int8:channel:mse", "int8:tensor:p99.9")
    >>> [way(parse(spec), Matrix(64, 1024)) for spec in specs]
    ['chunks', 'chunks', 'chunks', 'rows', 'whole']
    """
    try:
        q.bits_per_weight((matrix.rows, matrix.columns))
    except ValueError as reason:
        raise CannotMeasureError(str(reason)) from None
    searched = by_column and programs.searches_by_columns(q)
    # whether no part of a tensor can be quantized apart from the rest
    is_one = q._span((2, 2 * CHUNK)) is None or q._has_tensor_scale()
    if not searched and (programs.takes_extremes(q) or (not is_one and _fits_chunks(q, matrix))):
        return "chunks"
    if not is_one and matrix.columns <= CHUNK:
        return "rows"
    if matrix.size > MOST_AT_ONCE:
        raise CannotMeasureError(
            f"{q} must see all {matrix.size} weights at once, at most {MOST_AT_ONCE} are held; try :channel or blocks"
        )
    return "whole"


def _fits_chunks(q: AbstractQuantizer, matrix: Matrix) -> bool:
    run = _run(q)
    if run is None or CHUNK % run:
        return False
    return matrix.columns % run == 0 or (PIECE % run == 0 and _ends_in_zeros(q))


def _run(q: AbstractQuantizer) -> int | None:
    """Consecutive weights of a row that share a scale with no others; None where it is all of the row, or more."""
    if isinstance(q, BlockFormat | Microscaling):
        return q.size
    if not isinstance(q, Quantizer) or q.rounding == "stochastic":
        return None
    if q.granularity is None:
        return 1
    block = q.granularity
    return block.size if isinstance(block, Block) and programs.has_blocks_in_rows(q) else None


def _ends_in_zeros(q: AbstractQuantizer) -> bool:
    """Whether zeros behind a row change nothing: a short block then has the extremes that its scale is made of."""
    if isinstance(q, Microscaling):
        return True
    return isinstance(q, Quantizer) and isinstance(q.calibration, Absmax | Clip | MinMax | FourOverSix | Search)


# --- the pass -------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What programs see of a tensor at a time.

    Attributes:
        weights: flat for chunks, (rows, columns) otherwise.
        counts: how many weights each tile of 4096 holds.
        extremes: of the row of each piece, its smallest and largest weight; of chunks.
        importance: of each weight, in the shape of the weights, or None.
        power: sum of importance w^2.
    """

    weights: np.ndarray
    counts: np.ndarray
    extremes: np.ndarray | None
    importance: np.ndarray | None
    power: float


def damages(
    subject: Subject,
    quantizers: Sequence[AbstractQuantizer],
    tick: Callable[[int], Any] = int,
) -> dict[AbstractQuantizer, Damage | CannotMeasureError]:
    """Errors of a tensor under each quantizer, or why it does not take the tensor.

    Args:
        subject: the tensor.
        quantizers: each is tried.
        tick: told how many weights, times quantizers, have been seen since it was last called.
    """
    found: dict[AbstractQuantizer, Damage | CannotMeasureError] = {}
    by_way: dict[Way, list[AbstractQuantizer]] = {}
    for q in quantizers:
        try:
            by_way.setdefault(way(q, subject.matrix, by_column=subject.columns is not None), []).append(q)
        except CannotMeasureError as reason:
            found[q] = reason
    for seen, some in by_way.items():
        totals, tasks = {q: _Total() for q in some}, _tasks(subject, seen, some)
        for q, part in in_order(partial(_measured, subject), tasks):
            totals[q].add(part)
            tick(part.stats.count)
        found |= {q: total.damage() for q, total in totals.items()}
    return {q: found[q] for q in quantizers}


def _tasks(
    subject: Subject, seen: Way, quantizers: Sequence[AbstractQuantizer]
) -> Iterator[tuple[AbstractQuantizer, Batch]]:
    """Each part of a tensor with each quantizer, so that programs are compiled, and run, several at a time."""
    for batch in batches(subject, seen):
        yield from ((q, batch) for q in quantizers)


def batches(subject: Subject, seen: Way) -> Iterator[Batch]:
    """A tensor in parts, as quantizers see it."""
    if seen == "chunks":
        yield from _chunk_batches(subject)
        return
    matrix = subject.matrix
    at_once = matrix.rows if seen == "whole" else max(1, CHUNK // matrix.columns)
    for first in range(0, matrix.rows, at_once):
        rows = min(at_once, matrix.rows - first)

        def padded(take: Take, first: int = first, rows: int = rows) -> np.ndarray:
            found = take(first * matrix.columns, rows * matrix.columns).reshape(rows, matrix.columns)
            return np.pad(found, ((0, at_once - rows), (0, 0)))

        tiles = -(-at_once * matrix.columns // TILE)
        counts = np.clip(rows * matrix.columns - np.arange(tiles) * TILE, 0, TILE)
        importance = None if subject.importance is None else padded(subject.importance)
        w = padded(subject.take)
        yield Batch(w, counts, None, importance, _power(w, importance))


def _chunk_batches(subject: Subject) -> Iterator[Batch]:
    matrix, signal = subject.matrix, subject.signal
    weighed = None if subject.importance is None else chunks(subject.importance, matrix)
    for chunk in chunks(subject.take, matrix):
        rows = chunk.rows(matrix)
        extremes = np.stack([signal.low[rows], signal.high[rows]], axis=1)
        counts = chunk.counts(matrix).reshape(-1, TILE // PIECE).sum(axis=1)
        importance = None if weighed is None else next(weighed).weights
        yield Batch(chunk.weights, counts, extremes, importance, _power(chunk.weights, importance))


def _power(w: np.ndarray, importance: np.ndarray | None) -> float:
    return 0.0 if importance is None else float((np.square(w, dtype=np.float64) * importance).sum())


class _Part(NamedTuple):
    """Of a batch: statistics, and sums of importance e^2 and importance w^2, where there are importances."""

    stats: ErrorStats
    noise: float = 0.0
    power: float = 0.0


def _measured(subject: Subject, task: tuple[AbstractQuantizer, Batch]) -> tuple[AbstractQuantizer, _Part]:
    q, batch = task
    w, given = batch.weights, Given(importance=batch.importance, columns=subject.columns)
    if batch.extremes is not None:
        w = w.reshape(-1, max(_run(q) or PIECE, PIECE))
        extremes = _extremes(q, subject, batch.extremes) if programs.takes_extremes(q) else None
        importance = None if batch.importance is None else batch.importance.reshape(w.shape)
        given = Given(extremes, importance)
    found, unit = programs.errors(q, w, subject.unit, given), int(subject.unit.e)
    noise = 0.0 if found.weighed is None else float(np.ldexp(found.weighed.sum(dtype=np.float64), 2 * unit))
    return q, _Part(_as_stats(found, batch.counts, unit), noise, batch.power)


def _extremes(q: AbstractQuantizer, subject: Subject, of_rows: np.ndarray) -> np.ndarray:
    """Of the weights that share the scale of each piece: those of its row, or of the tensor."""
    if isinstance(q, Quantizer) and q.granularity == Channel():
        return of_rows
    of_tensor = np.array([subject.signal.low.min(), subject.signal.high.max()])
    return np.broadcast_to(of_tensor, of_rows.shape)


#: Powers of the unit that the sums of a tile are in, in the order of ``SUMS``.
_POWERS = np.array([{"count": 0, "e": 1, "abs_e": 1}.get(name, 2) for name in SUMS])


def _as_stats(found: Found, counts: np.ndarray, unit: int) -> ErrorStats:
    """Statistics of the weights that there are; tiles of nothing but filling zeros are left out."""
    held = counts > 0
    sums = np.ldexp(found.sums[held].astype(np.float64), unit * _POWERS)
    sums[:, SUMS.index("count")] = counts[held]
    max_abs, max_signal = map(float, found.largest)
    nonzero, zeroed = map(int, found.counts)
    return ErrorStats(sums.sum(axis=0), sums.T @ sums, len(sums), max_abs, max_signal, nonzero, zeroed, 0)


class _Total:
    """Sums over the parts of a tensor."""

    def __init__(self) -> None:
        self.stats, self.noise, self.power = statistics.init(), 0.0, 0.0

    def add(self, part: _Part) -> None:
        self.stats = statistics.merge(self.stats, part.stats)
        self.noise, self.power = self.noise + part.noise, self.power + part.power

    def damage(self) -> Damage:
        return Damage(self.stats, self.noise, self.power)
