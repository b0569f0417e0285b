"""Numbers of a tensor from its file: as float32, piece by piece, and mapped as they are stored."""

import numpy as np

from quantsim.checkpoints.elements import Storage, decode
from quantsim.checkpoints.entries import Entry
from quantsim.checkpoints.errors import TensorError
from quantsim.checkpoints.files import Bytes

#: Bytes that are read and decoded at a time: they stay in the cache of a core, and memory beyond the result is theirs.
PIECE = 2**20


def weights(file: Bytes, entry: Entry, first: int, count: int, *, check: bool) -> np.ndarray:
    """Float32 weights ``first`` … ``first + count`` of a readable tensor.

    Args:
        file: of the tensor, open.
        entry: the tensor.
        first: of its row-major order, a multiple of its block, as is the next.
        count: how many.
        check: that all are finite.

    Raises:
        TensorError: for a NaN or infinity.
    """
    how = entry.storage
    if how is None:
        raise TensorError(entry.path, entry.name, f"is stored as {entry.type}, which cannot be read")
    found = np.empty(count, np.float32)
    if how.by_columns:
        _gather(entry, first, found)
        _check_finite(entry, first, found, check)
        return found
    buffer = np.empty(max(PIECE // how.nbytes, 1) * how.nbytes, np.uint8)
    step = len(buffer) // how.nbytes * how.block
    for at in range(0, count, step):
        part = found[at : at + step]
        raw = buffer[: len(part) // how.block * how.nbytes]
        file.read_into(entry.start + (first + at) // how.block * how.nbytes, raw)
        decode(entry.type, raw.view(how.dtype), part)
        _check_finite(entry, first + at, part, check)
    return found


def _gather(entry: Entry, first: int, found: np.ndarray) -> None:
    """Weights of an array whose first axis runs fastest, from the mapped file, as they lie far apart."""
    with np.errstate(over="ignore"):
        found[...] = mapped(entry).flat[first : first + len(found)]


def _check_finite(entry: Entry, first: int, part: np.ndarray, check: bool) -> None:
    if not check:
        return
    with np.errstate(all="ignore"):
        if np.isfinite(part.sum()):  # much faster than to ask each
            return
    bad = np.flatnonzero(~np.isfinite(part))
    if len(bad):
        at = tuple(int(i) for i in np.unravel_index(first + int(bad[0]), entry.shape))
        wrong = f"cannot be weights: not finite in float32, {part[bad[0]]} at index {at}"
        raise TensorError(entry.path, entry.name, f'{wrong}; mend the file, or pass nonfinite="propagate"')


def mapped(entry: Entry) -> np.ndarray:
    """A tensor as it is stored, read when it is looked at.

    Raises:
        TensorError: for a type whose size is not known.
    """
    how = entry.storage
    if how is None:
        raise TensorError(entry.path, entry.name, f"is stored as {entry.type}, whose size is not known")
    shape = _stored_shape(entry.shape, how)
    if not entry.nbytes:
        return np.empty(shape, how.dtype)
    order = "F" if how.by_columns else "C"
    return np.memmap(entry.path, how.dtype, "r", entry.start, shape, order)


def _stored_shape(shape: tuple[int, ...], how: Storage) -> tuple[int, ...]:
    """Shape of the numbers, or of the bytes of blocks: (out, bytes of a row), or one row if rows share a block."""
    if how.block == 1:
        return shape
    if shape and shape[-1] % how.block == 0:
        return (*shape[:-1], shape[-1] // how.block * how.nbytes)
    total = 1
    for n in shape:
        total *= n
    return (total // how.block * how.nbytes,)
