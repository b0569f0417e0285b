"""Tensors of ``.gguf`` files: as stored, and dequantized."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantsim.checkpoints.decoding import mapped
from quantsim.checkpoints.entries import Header
from quantsim.checkpoints.gguf_header import read_header
from quantsim.quantizer.blockformats import gguf


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
    for entry in (header or read_header(path)).tensors:
        yield StoredTensor(entry.name, entry.type, mapped(entry))
