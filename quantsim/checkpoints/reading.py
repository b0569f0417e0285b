"""Weights from files: every tensor that holds real numbers, one after the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.entries import Entry, shown
from quantsim.checkpoints.errors import CheckpointError, Refused, TensorError
from quantsim.checkpoints.opening import open_checkpoint


def read(
    path: str | Path, name: str | None = None, *, refused: Refused | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of each floating-point tensor of a checkpoint, one in memory at a time.

    Args:
        path: what ``open_checkpoint`` takes; block formats come dequantized, fp8 with its scales, F4 as float32.
        name: only the tensor of this name.
        refused: called for every tensor that is left out, with the reason: stored as integers, which are read by name,
            or in a way that cannot be read. Without it the former are passed over and a broken tensor raises.

    Raises:
        CheckpointError: if the file is missing, truncated, pickled, of another kind, or has no such tensor.
    """
    checkpoint = open_checkpoint(path)
    for entry in _chosen(checkpoint, name, refused):
        yield entry.name, _array(checkpoint, entry)


def weights(
    path: str | Path, name: str | None = None, *, refused: Refused | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and float32 weights of each tensor of a checkpoint, as ``read`` finds them; all must be finite.

    Raises:
        CheckpointError: also for a NaN or infinity, named with its index, unless ``refused`` is called for it.
    """
    checkpoint = open_checkpoint(path)
    for entry in _chosen(checkpoint, name, refused):
        try:
            found = _float32(checkpoint, entry)
        except TensorError as failure:
            if refused is None:
                raise
            refused(entry.name, failure.reason)
            continue
        yield entry.name, found


def _chosen(checkpoint: Checkpoint, name: str | None, refused: Refused | None) -> Iterator[Entry]:
    """Tensors that are read; the others are refused, passed over or raised."""
    by_name = checkpoint.kind == "safetensors"
    entries = sorted(checkpoint.entries, key=_name) if by_name else list(checkpoint.entries)
    _check_any(checkpoint.path, entries, name)
    for entry in entries:
        if name not in (None, entry.name):
            continue
        if entry.unreadable is None or (name is not None and entry.is_integer and entry.size):
            yield entry
        elif refused is not None:
            refused(entry.name, entry.unreadable)
        elif not entry.size or name is not None:
            raise TensorError(entry.path, entry.name, entry.unreadable)


def _name(entry: Entry) -> str:
    return entry.name


def _check_any(path: Path, entries: Sequence[Entry], name: str | None) -> None:
    """That there is a tensor of that name, or, without a name, one that is no integers."""
    held = ", ".join(f"{shown(e.name)} ({e.type})" for e in entries[:8]) + " …" * (len(entries) > 8)
    if not entries:
        raise CheckpointError(f"{path}: holds no tensor; name a .gguf file with weights and not only a vocabulary")
    if name is not None and name not in {e.name for e in entries}:
        raise CheckpointError(f"{path}: no tensor {name!r}; it holds {held}")
    if name is None and all(e.unreadable and e.size for e in entries):
        if len(entries) == 1 and not entries[0].is_integer:
            raise TensorError(path, entries[0].name, entries[0].unreadable or "")
        raise CheckpointError(f"{path}: no tensor of real numbers; it holds {held}; integers are read by name")


def _array(checkpoint: Checkpoint, entry: Entry) -> np.ndarray:
    """Numbers of a plain type as they are stored, mapped; of any other as float32."""
    if entry.block == 1 and entry.scaled_by is None:
        return checkpoint.stored(entry).data
    return checkpoint.weights(entry, nonfinite="propagate").reshape(entry.shape)


def _float32(checkpoint: Checkpoint, entry: Entry) -> np.ndarray:
    if entry.is_integer:
        return checkpoint.stored(entry).data.astype(np.float32)
    return checkpoint.weights(entry).reshape(entry.shape)
