"""Quantizers side by side, on a population or on the tensors of a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantsim import checkpoints
from quantsim import populations as pops
from quantsim.measure.statistics import ErrorStats
from quantsim.measure.streaming import weight_error
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.sweep import measure, predicted_sqnr_db

#: Standard error, in dB, at which a synthetic comparison has seen enough arrays, and how many it draws at most.
ENOUGH_DB, AT_MOST = 0.02, 4096


@dataclass(frozen=True)
class Source:
    """Where the weights of a comparison come from.

    Attributes:
        population: normal, laplace, uniform, t5, …, with +outliers(rate=0.01,magnitude=100) where wanted.
        weights: measure the tensors of this .npy or .safetensors file instead.
        tensor: only the tensor of this name.
        shape: rows and columns of one array: what a scale per tensor or channel sees.
        seed: seed of the draws.
    """

    population: str = "normal"
    weights: Path | None = None
    tensor: str | None = None
    shape: tuple[int, int] = (256, 1024)
    seed: int = 0


def compare(quantizers: list[AbstractQuantizer], source: Source) -> Iterator[dict[str, Any]]:
    """One row for each quantizer, or tensor of a file and quantizer: bits, metrics, standard errors, prediction.

    Raises:
        ValueError: for an unknown population or an empty shape.
        CheckpointError: for a file that cannot be read as weights.

    >>> from quantsim.quantizer import parse
    >>> (row,) = compare([parse("int8:block32")], Source(shape=(16, 256)))
    >>> abs(row["sqnr_db"] - row["predicted_sqnr_db"]) < 5 * row["sqnr_db_se"], row["sqnr_db_se"] <= 0.02
    (True, True)
    """
    return _of_file(quantizers, source) if source.weights else _of_population(quantizers, source)


def _row(q: AbstractQuantizer, stats: ErrorStats, shape: Sequence[int], predicted: float | None) -> dict[str, Any]:
    bits = q.bits_per_weight(tuple(shape))
    return {"spec": str(q), "bits_per_weight": bits, **stats.result(), "predicted_sqnr_db": predicted}


def _of_population(qs: list[AbstractQuantizer], source: Source) -> Iterator[dict[str, Any]]:
    pop, shape = pops.parse(source.population), source.shape
    if min(shape) < 1:
        raise ValueError(f"the shape of an array needs at least one row and column, got {shape}")

    def enough(stats: list[ErrorStats]) -> bool:
        return all(not s.sqnr_db_se > ENOUGH_DB for s in stats)

    found = measure(pop, qs, shape=shape, arrays=AT_MOST, seed=source.seed, enough=enough)
    for q, stats in zip(qs, found, strict=True):
        row = _row(q, stats, shape, predicted_sqnr_db(pop, q, shape))
        yield row | {"population": str(pop), "shape": list(shape)}


def _of_file(qs: list[AbstractQuantizer], source: Source) -> Iterator[dict[str, Any]]:
    assert source.weights
    for name, w in checkpoints.weights(source.weights, source.tensor):
        for q in qs:
            yield {"tensor": name} | _row(q, weight_error(w, q), w.shape, None)
