"""Weights that a person gives to a study, in the place of what it draws or trains: which they are."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantsim.checkpoints import CheckpointError, open_checkpoint

#: Tensors, and weights of one, that studies take which sample: of a normal tensor's SQNR that is known to 0.01 dB.
TENSORS, WEIGHTS = 128, 2**22
_FEW_TENSORS, _FEW_WEIGHTS = 4, 2**14


@dataclass(frozen=True)
class Given:
    """A checkpoint, known by its content, and how much of it is measured.

    Attributes:
        path: as it was named.
        nbytes: of its files.
        sha256: of its file; of several, of their digests one below the other, in the order of their names.
        tensors: at most so many are measured, by studies that sample.
        weights: at most so many of each, by studies that sample.
    """

    path: str
    nbytes: int
    sha256: str
    tensors: int = TENSORS
    weights: int = WEIGHTS


@dataclass(frozen=True)
class OnWeights:
    """The config of a study that measures given weights, in the place of its ``Config`` alone."""

    config: Any
    given: Given


def given(path: Path, *, small: bool = False) -> Given:
    """The checkpoint at a path, a file or a folder; all of it is read once.

    Args:
        path: what ``checkpoints.open_checkpoint`` takes.
        small: few tensors and few weights of each, for a smoke test.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    files = open_checkpoint(path).files
    digests = [_digest(file) for file in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    size = sum(file.stat().st_size for file in files)
    most = {"tensors": _FEW_TENSORS, "weights": _FEW_WEIGHTS} if small else {}
    return Given(str(path), size, whole, **most)


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as failure:
        raise CheckpointError(f"{file}: {failure.strerror or failure}") from None
