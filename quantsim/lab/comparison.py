"""Quantizers side by side, on a population or on the tensors of a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from quantsim import checkpoints
from quantsim import populations as pops
from quantsim.measure import ErrorStats
from quantsim.measure.streaming import weight_error
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.structure import split_quantizer
from quantsim.sweep import measure, predicted_sqnr_db

#: Standard error, in dB, at which a quantizer has seen enough arrays; how many all see at most, and those not yet sure.
ENOUGH_DB, AT_FIRST, AT_MOST = 0.02, 64, 4096

#: Called with the name of a tensor that cannot be measured, and the reason.
Refused: TypeAlias = Callable[[str, str], None]


@dataclass(frozen=True)
class Source:
    """Where the weights of a comparison come from: a population, or a file.

    Attributes:
        population: normal (the default), laplace, uniform, t5, …, with +outliers(rate=0.01,magnitude=100) if wanted.
        weights: measure the tensors of this .npy, .safetensors or .gguf file instead.
        tensor: only the tensor of this name.
        shape: rows and columns of one drawn array, what a scale per tensor or channel sees; 256 1024 by default.
        seed: seed of the draws; 0 by default.
    """

    population: str | None = None
    weights: Path | None = None
    tensor: str | None = None
    shape: tuple[int, int] | None = None
    seed: int | None = None

    def check(self) -> None:
        """Refuse what would be ignored.

        Raises:
            ValueError: for what belongs to a population beside a file, or to a file without one.
        """
        drawn = {"population": self.population, "shape": self.shape, "seed": self.seed}
        given = [name for name, value in drawn.items() if value is not None]
        if self.weights is not None and given:
            raise ValueError(f"{', '.join(given)}: of drawn weights, which there are none of where a file is given")
        if self.weights is None and self.tensor is not None:
            raise ValueError("tensor: of a file, which there is none of; name the file with --weights")


def compare(
    quantizers: list[AbstractQuantizer], source: Source, *, refused: Refused | None = None
) -> Iterator[dict[str, Any]]:
    """One row for each quantizer, or tensor of a file and quantizer: bits, metrics, standard errors, prediction.

    Args:
        quantizers: measured on the same weights.
        source: where those come from.
        refused: called for each tensor of a file that cannot be measured; without it, such a tensor raises.

    Raises:
        ValueError: for an unknown population, an empty shape, or parts of the source that exclude each other.
        CheckpointError: for a file that cannot be read as weights, or of which nothing can be measured.

    >>> from quantsim.quantizer import parse
    >>> (row,) = compare([parse("int8:block32")], Source(shape=(16, 256)))
    >>> abs(row["sqnr_db"] - row["predicted_sqnr_db"]) < 5 * row["sqnr_db_se"], row["sqnr_db_se"] <= 0.02
    (True, True)
    """
    source.check()
    if source.weights is None:
        return _of_population(quantizers, source)
    return _of_file(quantizers, source.weights, source.tensor, refused if source.tensor is None else None)


def _row(q: AbstractQuantizer, stats: ErrorStats, shape: Sequence[int], predicted: float | None) -> dict[str, Any]:
    bits = q.bits_per_weight(tuple(shape))
    return {"spec": str(q), "bits_per_weight": bits, **stats.result(), "predicted_sqnr_db": predicted}


def _of_population(qs: list[AbstractQuantizer], source: Source) -> Iterator[dict[str, Any]]:
    pop, shape = pops.parse(source.population or "normal"), source.shape or (256, 1024)
    if min(shape) < 1:
        raise ValueError(f"the shape of an array needs at least one row and column, got {shape}")
    drawn = partial(measure, pop, shape=shape, seed=source.seed or 0, enough=_all_sure)
    found = drawn(qs, arrays=AT_FIRST)
    unsure = {split_quantizer(q)[0] for q, stats in zip(qs, found, strict=True) if not _all_sure([stats])}
    # whole structures go on, so that their programs need not be compiled for fewer quantizers
    places = [place for place, q in enumerate(qs) if split_quantizer(q)[0] in unsure]
    if places:
        more = drawn([qs[place] for place in places], arrays=AT_MOST)
        found = [dict(zip(places, more, strict=True)).get(place, stats) for place, stats in enumerate(found)]
    for q, stats in zip(qs, found, strict=True):
        row = _row(q, stats, shape, predicted_sqnr_db(pop, q, shape))
        yield row | {"population": str(pop), "shape": list(shape)}


def _all_sure(stats: list[ErrorStats]) -> bool:
    return all(not s.sqnr_db_se > ENOUGH_DB for s in stats)


def _of_file(
    qs: list[AbstractQuantizer], path: Path, tensor: str | None, refused: Refused | None
) -> Iterator[dict[str, Any]]:
    rows = 0
    for name, w in checkpoints.weights(path, tensor, refused=refused):
        for q in qs:
            try:
                row = _row(q, weight_error(w, q), w.shape, None)
            except ValueError as failure:
                if refused is None:
                    raise
                refused(name, f"{q}: {failure}")
                continue
            yield {"tensor": name} | row
            rows += 1
    if not rows:
        raise checkpoints.CheckpointError(f"{path}: holds nothing that {', '.join(map(str, qs))} can measure")
