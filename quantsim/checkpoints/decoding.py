"""Numbers of a tensor from its file: as float32, piece by piece, and mapped as they are stored."""

from math import prod

import numpy as np

from quantsim.checkpoints.elements import FLOATS, Storage, block_of, decode
from quantsim.checkpoints.entries import Entry
from quantsim.checkpoints.errors import TensorError
from quantsim.checkpoints.files import Bytes

#: Bytes that are read and decoded at a time: they stay in the cache of a core, and memory beyond the result is theirs.
PIECE = 2**20
#: Weights of block formats that are unpacked at a time: whole chunks of the programs that do it.
BLOCKS_OF_WEIGHTS = 2**21


def weights(file: Bytes, entry: Entry, first: int, count: int) -> np.ndarray:
    """Float32 weights ``first`` … ``first + count`` of a readable tensor, codes without their scales.

    Args:
        file: of the tensor, open.
        entry: the tensor.
        first: of its row-major order, a multiple of its block.
        count: how many, a multiple of its block.
    """
    how, found = _storage(entry), np.empty(count, np.float32)
    start = entry.start + first // how.block * how.nbytes
    if how.by_columns:
        _gather(entry, first, found)
    elif how.dtype == FLOATS["F32"]:
        file.read_into(start, found.view(np.uint8))
    else:
        _decode_pieces(file, start, entry.type, how, found)
    return found


def _decode_pieces(file: Bytes, start: int, kind: str, how: Storage, found: np.ndarray) -> None:
    step = BLOCKS_OF_WEIGHTS // how.block if block_of(kind) else max(PIECE // how.nbytes, 1)
    buffer = np.empty(min(step, len(found) // how.block) * how.nbytes, np.uint8)
    for at in range(0, len(found), step * how.block):
        part = found[at : at + step * how.block]
        raw = buffer[: len(part) // how.block * how.nbytes]
        file.read_into(start + at // how.block * how.nbytes, raw)
        decode(kind, raw.view(how.dtype), part)


def _gather(entry: Entry, first: int, found: np.ndarray) -> None:
    """Weights of an array whose first axis runs fastest, from the mapped file, as they lie far apart."""
    with np.errstate(over="ignore"):
        found[...] = mapped(entry).flat[first : first + len(found)]


def check_finite(entry: Entry, first: int, found: np.ndarray) -> None:
    """That weights ``first`` … of a tensor are finite.

    Raises:
        TensorError: naming the first that is not, and its index.
    """
    for at in range(0, len(found), PIECE):
        finite = np.isfinite(found[at : at + PIECE])
        if not finite.all():
            bad = at + int(finite.argmin())
            index = tuple(int(i) for i in np.unravel_index(first + bad, entry.shape))
            wrong = f"cannot be weights: {found[bad]} in float32 at index {index}"
            raise TensorError(entry.path, entry.name, f'{wrong}; mend the file, or pass nonfinite="propagate"')


def mapped(entry: Entry) -> np.ndarray:
    """A tensor as it is stored, read when it is looked at.

    Raises:
        TensorError: for a type whose size is not known.
    """
    how = _storage(entry)
    shape = _stored_shape(entry.shape, how)
    if not entry.nbytes:
        return np.empty(shape, how.dtype)
    order = "F" if how.by_columns else "C"
    return np.memmap(entry.path, how.dtype, "r", entry.start, shape, order)


def _storage(entry: Entry) -> Storage:
    if entry.storage is None:
        raise TensorError(entry.path, entry.name, f"is stored as {entry.type}, whose size is not known")
    return entry.storage


def _stored_shape(shape: tuple[int, ...], how: Storage) -> tuple[int, ...]:
    """Shape of the numbers, or of the bytes of blocks: (out, bytes of a row), or one row if rows share a block."""
    if how.block == 1:
        return shape
    if shape and shape[-1] % how.block == 0:
        return (*shape[:-1], shape[-1] // how.block * how.nbytes)
    return (prod(shape) // how.block * how.nbytes,)
