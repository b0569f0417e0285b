"""A checkpoint: every tensor that its files list, and the numbers of each, read when they are asked for."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from quantsim.checkpoints import decoding, scales
from quantsim.checkpoints.entries import Entry
from quantsim.checkpoints.errors import TensorError
from quantsim.checkpoints.files import Stamp, opened
from quantsim.checkpoints.gguf_file import StoredTensor


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of a file, or of several that belong together.

    Attributes:
        path: as it was named: a file or a folder.
        kind: "safetensors", "gguf" or "npy".
        metadata: GGUF's keys and values, or the texts of a safetensors file; of several files those of the first.
        entries: every tensor of any type, in the order of the file; several files in the order of their names.
        stamps: each file, and by what it is known again.
    """

    path: Path
    kind: str
    metadata: dict[str, Any]
    entries: tuple[Entry, ...]
    stamps: dict[Path, Stamp] = field(repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order of their names."""
        return tuple(self.stamps)

    @cached_property
    def _named(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.entries}

    def weights(
        self, entry: Entry, first: int = 0, count: int | None = None, *, nonfinite: str = "raise"
    ) -> np.ndarray:
        """Float32 weights ``first`` … ``first + count`` of a tensor in row-major order; no other bytes are read.

        Numbers beyond float32 become infinite. Codes of a tensor that is ``scaled_by`` another are multiplied by it.

        Args:
            entry: one of ``entries``.
            first: index of the first, a multiple of ``entry.block``.
            count: how many, a multiple of ``entry.block``; by default all that are left.
            nonfinite: "raise", or "propagate" a NaN or infinity.

        Raises:
            TensorError: for a tensor that cannot be read as weights, and for a NaN or infinity, named with its index.
            CheckpointError: if the file has changed since it was opened.
            ValueError: for weights that are not there, or begin or end within a block.

        >>> from tempfile import TemporaryDirectory
        >>> from quantsim.checkpoints import open_checkpoint
        >>> with TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/w.npy", np.arange(6.0).reshape(2, 3))
        ...     checkpoint = open_checkpoint(f"{folder}/w.npy")
        ...     checkpoint.weights(checkpoint.entries[0], 2, 3).tolist()
        [2.0, 3.0, 4.0]
        """
        self._check_own(entry)
        if nonfinite not in ("raise", "propagate"):
            raise ValueError(f"nonfinite is 'raise' or 'propagate', not {nonfinite!r}")
        if entry.unreadable is not None:
            raise TensorError(entry.path, entry.name, entry.unreadable)
        count = entry.size - first if count is None else count
        _check_range(entry, first, count)
        with opened(entry.path, self.stamps[entry.path]) as file:
            found = decoding.weights(file, entry, first, count)
        if entry.scaled_by is not None and count:
            scale = self._named[entry.scaled_by]
            scales.apply(entry, scale, partial(self.weights, scale, nonfinite=nonfinite), first, found)
        if nonfinite == "raise":
            decoding.check_finite(entry, first, found)
        return found

    def stored(self, entry: Entry) -> StoredTensor:
        """A tensor as its file stores it, mapped: numbers of a plain type, else bytes of blocks (out, bytes of a row).

        Raises:
            TensorError: for a type whose size is not known.
            CheckpointError: if the file has changed since it was opened.
        """
        self._check_own(entry)
        with opened(entry.path, self.stamps[entry.path]):
            return StoredTensor(entry.name, entry.type, decoding.mapped(entry))

    def _check_own(self, entry: Entry) -> None:
        if entry.path not in self.stamps:
            raise ValueError(f"{entry.name!r} is of {entry.path}, not of {self.path}: take one of its entries")


def _check_range(entry: Entry, first: int, count: int) -> None:
    if first < 0 or count < 0 or first + count > entry.size:
        raise ValueError(f"{entry.name!r} has {entry.size} weights: none from {first} to {first + count}")
    if first % entry.block or count % entry.block:
        raise ValueError(f"{entry.name!r} has blocks of {entry.block}: {first} and {count} are no multiples of it")
