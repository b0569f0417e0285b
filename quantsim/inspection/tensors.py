"""One tensor: what its weights are like, what each format does to them, and what a population like it predicts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.entries import Entry
from quantsim.inspection import importances
from quantsim.inspection.ahead import beside
from quantsim.inspection.errors import MOST_AT_ONCE, CannotMeasureError, Damage, Subject, damages
from quantsim.inspection.fitting import Fit, fit, with_std
from quantsim.inspection.pieces import Matrix, Take
from quantsim.inspection.predicting import predict
from quantsim.inspection.roles import Role
from quantsim.inspection.signal import Signal, beyond_sigmas, signal_of
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.tree.quantized import fitting

#: Weights of a tensor that are read once and held; larger ones are read once for each pass.
_HELD = 2**24
#: Kinds of tensors that no one quantizes: too few weights, and too much depends on each.
PLAIN_KINDS = ("norm", "bias")
SIGMAS = (3.0, 10.0)
#: Largest magnitude that a matrix must have: errors far below it are then no subnormal numbers, which devices drop.
LEAST = 2.0**-100
#: Columns of what the fitted population predicts, and the measured error over it.
PREDICTED = ("predicted_rel_rms", "predicted_rel_rms_se", "predicted_sqnr_db", "predicted_by", "over_predicted")


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of each tensor.

    Attributes:
        quantizers: formats that are tried.
        columns: importance of each column by the name of a tensor without ``.weight``.
        gradients: squared gradients of the log-likelihood, a tensor of the shape of each.
    """

    quantizers: Sequence[AbstractQuantizer]
    columns: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    gradients: Checkpoint | None = None


def rows_of(
    checkpoint: Checkpoint, entry: Entry, role: Role, request: Request, tick: Callable[[int], Any] = int
) -> list[dict[str, Any]]:
    """The row of a tensor, and a row for each format if it is a matrix.

    Args:
        checkpoint: that holds it.
        entry: which tensor.
        role: that it plays.
        request: formats and importances.
        tick: told how many weights, times formats, have been seen since it was last called.

    Raises:
        CheckpointError: for a tensor that cannot be read, or holds a NaN or an infinity.
    """
    matrix = matrix_of(entry, role)
    take = reader(checkpoint, entry, role)
    signal = signal_of(take, matrix)
    is_matrix = takes_formats(entry, role) and signal.max_abs > 0
    if is_matrix and signal.max_abs < LEAST:
        raise ValueError(
            f"has no weight beyond {signal.max_abs:.2g}: errors of so little are lost in float32; scale it"
        )
    fitting_it = beside(fit, signal) if is_matrix else None
    row = _tensor_row(entry, role, matrix, signal) | _magnitudes(signal)
    row |= dict(zip(("beyond_3", "beyond_10"), beyond_sigmas(take, signal, SIGMAS), strict=True))
    if fitting_it is None:
        return [row | _fit_columns(None)]
    subject = _subject(request, entry, take, signal)
    used = {q: fitting(q, matrix.columns) for q in request.quantizers}
    found = damages(subject, list(dict.fromkeys(used.values())), tick)
    fitted = fitting_it.result()
    errors = [_error_row(entry, asked, q, found[q], request.gradients is not None) for asked, q in used.items()]
    for error, q in zip(errors, used.values(), strict=True):
        if "damage" in error:
            error |= {"bits_per_weight": q.bits_per_weight((matrix.rows, matrix.columns))}
            error |= _predicted(fitted, q, matrix, error["rel_rms"])
    return [row | _fit_columns(fitted), *errors]


def takes_formats(entry: Entry, role: Role) -> bool:
    """Whether a tensor is one that formats are for: a matrix or a kernel, no vector of gains or biases."""
    return len(entry.shape) > 1 and min(entry.shape[:2]) > 1 and role.kind not in PLAIN_KINDS


def matrix_of(entry: Entry, role: Role) -> Matrix:
    """The tensor as its products see it, outputs first."""
    found = Matrix.of(entry.shape)
    return Matrix(found.columns, found.rows) if role.transposed and len(entry.shape) == 2 else found


def reader(checkpoint: Checkpoint, entry: Entry, role: Role) -> Take:
    """Reads parts of the flattened matrix; what is small, or stored the other way round, is held as a whole."""
    turned = role.transposed and len(entry.shape) == 2
    if turned and entry.size > MOST_AT_ONCE:
        raise ValueError(f"{entry.name!r} is stored (in, out) and has {entry.size} weights: too many to turn in memory")
    if entry.size > _HELD and not turned:

        def read(first: int, count: int) -> NDArray[np.float32]:
            return checkpoint.weights(entry, first, count)

        return read
    held = checkpoint.weights(entry)
    if turned:
        held = np.ascontiguousarray(held.reshape(entry.shape).T).reshape(-1)

    def part(first: int, count: int) -> NDArray[np.float32]:
        return held[first : first + count]

    return part


def _subject(request: Request, entry: Entry, take: Take, signal: Signal) -> Subject:
    matrix = signal.matrix
    columns = request.columns.get(importances.base(entry.name))
    if columns is not None and columns.size != matrix.columns:
        raise ValueError(f"{entry.name!r} has {matrix.columns} columns, and its importances are {columns.size}")
    weighed = None if columns is None else importances.of_columns(columns, matrix)
    if request.gradients is not None:
        weighed = importances.of_gradients(request.gradients, entry.name, matrix) or weighed
    return Subject(take, matrix, signal, weighed, columns)


# --- rows -----------------------------------------------------------------------------------------------------------


def _tensor_row(entry: Entry, role: Role, matrix: Matrix, signal: Signal) -> dict[str, Any]:
    value, place = signal.extreme
    if role.transposed and len(entry.shape) == 2:
        column, row = divmod(place, matrix.columns)
        place = row * matrix.rows + column
    at = np.unravel_index(place, entry.shape) if entry.shape else ()
    about = {"kind": "tensor", "tensor": entry.name, "type": entry.type, "shape": list(entry.shape)}
    about |= {"role": role.kind, "layer": role.layer, "place": role.place, "expert": role.expert}
    about |= {"weights": entry.size, "stored_bits": 8 * entry.nbytes / max(entry.size, 1)}
    about |= {"rows": matrix.rows, "columns": matrix.columns, "scaled_by": entry.scaled_by}
    return about | signal.columns() | {"extreme": value, "extreme_at": [int(i) for i in at]}


def _fit_columns(fitted: Fit | None) -> dict[str, Any]:
    if fitted is None:
        return dict.fromkeys(("population", "family", "distance", "expected_crest", "stray"))
    return {
        "population": str(fitted.population),
        "family": str(with_std(fitted.population, 1.0)),
        "distance": fitted.distance,
        "expected_crest": fitted.crest,
        "stray": fitted.stray,
    }


def _magnitudes(signal: Signal) -> dict[str, Any]:
    """Counts of |w| in bins of a quarter octave, and the edges of the bins."""
    edges, counts = signal.magnitudes()
    return {"magnitude_edges": edges.tolist(), "magnitude_counts": counts.tolist()}


def _error_row(
    entry: Entry, asked: AbstractQuantizer, used: AbstractQuantizer, found: Damage | CannotMeasureError, nats: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": "error", "tensor": entry.name, "spec": str(asked), "used": str(used)}
    return row | ({"reason": str(found)} if isinstance(found, CannotMeasureError) else _errors(found, nats))


def _errors(damage: Damage, nats: bool) -> dict[str, Any]:
    """Errors, and the part that the tensor has in the damage to the model."""
    stats = damage.stats
    names = ("rel_rms", "sqnr_db", "max_abs", "mean_abs", "bias", "zeroed")
    row: dict[str, Any] = {name: getattr(stats, name) for name in names}
    if not damage.power:
        return row | {"damage": row["rel_rms"] ** 2}
    row["weighed_rel_rms"] = float(np.sqrt(damage.noise / damage.power))
    return row | {"damage": damage.noise / 2 if nats else damage.noise / damage.power}


def _predicted(fitted: Fit | None, q: AbstractQuantizer, matrix: Matrix, measured: float) -> dict[str, Any]:
    if fitted is None:
        return dict.fromkeys(PREDICTED)
    rel_rms, se, by = predict(fitted.population, q, matrix)
    with np.errstate(divide="ignore", invalid="ignore"):
        sqnr = float(-20 * np.log10(np.float64(rel_rms)))
        over = float(np.float64(measured) / rel_rms)
    return dict(zip(PREDICTED, (rel_rms, se, sqnr, by, over), strict=True))
