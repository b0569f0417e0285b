"""Tensors of ``.gguf`` files: as stored, and dequantized."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from quantsim.checkpoints.errors import CheckpointError, PassedOverError, TensorError
from quantsim.checkpoints.gguf_header import Entry, Header, mapped, read_header
from quantsim.quantizer.blockformats import gguf

_FLOATS = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype("<f8"),
}
_INTEGERS = {"I8": np.dtype("<i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8")}


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor as a file stores it.

    Attributes:
        name: of the tensor.
        type: GGUF type, for example "Q4_K" or "F32".
        data: numbers of a plain type; of a block format its bytes, uint8 (out, bytes of a row).
    """

    name: str
    type: str
    data: np.ndarray

    @property
    def is_quantized(self) -> bool:
        """Whether ``data`` are the bytes of a block format."""
        return self.type in gguf.LAYOUTS


def dequantized(tensor: StoredTensor) -> np.ndarray:
    """Float32 weights (out, in) of a block format, the numbers themselves of a plain type."""
    return np.asarray(gguf.unpack(tensor.data, tensor.type)) if tensor.is_quantized else tensor.data


def stored_tensors(path: str | Path, header: Header | None = None) -> Iterator[StoredTensor]:
    """Every tensor of a file as it is stored, mapped, in the file's order.

    Args:
        path: a ``.gguf`` file.
        header: what ``read_header`` found, if it was called before.

    Raises:
        CheckpointError: for a damaged or truncated file, or a tensor of a type that cannot be read.
    """
    data = mapped(path)
    for entry in (header or read_header(path)).tensors:
        found = _stored(data, entry, path)
        if isinstance(found, TensorError):
            raise found
        yield found


def _stored(data: memoryview, entry: Entry, path: str | Path) -> StoredTensor | TensorError:
    """The bytes of a tensor under its type, if the file has them all."""
    if (layout := _layout(entry.type)) is None:
        return PassedOverError(path, entry.name, f"is stored as {entry.type}, which cannot be read; save it as F32")
    size, nbytes, kind = layout
    row = entry.shape[-1] if entry.shape else 1
    if row % size:
        return TensorError(path, entry.name, f"has rows of {row}, which no blocks of {size} make up: it is damaged")
    end = entry.start + prod(entry.shape[:-1]) * (row // size) * nbytes
    if end > len(data):
        where = f"{entry.name!r} ends at byte {end}, the file at {len(data)}"
        raise CheckpointError(f"{path}: damaged or truncated: {where}; download it again")
    shape = entry.shape if size == 1 else (*entry.shape[:-1], row // size * nbytes)
    return StoredTensor(entry.name, entry.type, np.frombuffer(data[entry.start : end], kind).reshape(shape))


def _layout(kind: str) -> tuple[int, int, np.dtype] | None:
    """Numbers of a block, its bytes, and as what these are read."""
    if (plain := (_FLOATS | _INTEGERS).get(kind)) is not None:
        return 1, plain.itemsize, plain
    return (*gguf.layout(kind), np.dtype(np.uint8)) if kind in gguf.LAYOUTS else None
