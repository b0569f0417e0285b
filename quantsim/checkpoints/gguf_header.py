"""What a ``.gguf`` file says of itself: metadata, and where each tensor lies.

Read with bounds: a count that the file is too short for is damage, not work. The 262,144 tokens of a vocabulary take a
fraction of a second here; the ``gguf`` package, which tests hold this against, makes several arrays of each.
Source: ggml, docs/gguf.md, versions 2 and 3, little-endian.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantsim.checkpoints.errors import CheckpointError

MAGIC = b"GGUF"
ALIGNMENT = 32  # unless the file says otherwise
_STRING, _ARRAY = 8, 9
#: How each kind of number in metadata is stored.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
#: Names of the types of tensors. What is not here is called by its number.
TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}


@dataclass(frozen=True)
class Entry:
    """A tensor: name, type, shape with the outputs first, (out, in), and the byte of the file that it begins at."""

    name: str
    type: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True, eq=False)
class Header:
    """Metadata by key, and every tensor in the order of the file."""

    metadata: dict[str, Any]
    tensors: tuple[Entry, ...]


class _Reader:
    """A place in the bytes of a file, from which things are taken."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> Any:
        (found,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return found

    def text(self) -> str:
        return str(self._bytes(self.number("Q")), "utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        return self._array() if kind == _ARRAY else self.number(_NUMBERS[kind])

    def _array(self) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        if kind in _NUMBERS:
            return self._numbers(_NUMBERS[kind], count)
        self.room_for(count, 8)
        return [self.value(kind) for _ in range(count)]

    def _numbers(self, code: str, count: int) -> list[Any]:
        kind = np.dtype(f"<{code}" if code != "?" else "?")
        return np.frombuffer(self._bytes(count * kind.itemsize), kind).tolist()

    def _bytes(self, count: int) -> memoryview:
        self.room_for(count, 1)
        self.at += count
        return self.data[self.at - count : self.at]

    def room_for(self, count: int, size: int) -> None:
        if count * size > len(self.data) - self.at:
            raise ValueError(f"{count} things are announced at byte {self.at}, where {len(self.data)} are all")


def read_header(path: str | Path) -> Header:
    """Metadata and tensors of a file.

    Raises:
        CheckpointError: if it is no GGUF file of version 2 or 3, or damaged before its first tensor.
        OSError: if it cannot be opened.
    """
    data = mapped(path)
    if bytes(data[:4]) != MAGIC:
        raise CheckpointError(f"{path}: no GGUF file: it does not begin with the letters GGUF; name one that does")
    reader = _Reader(data)
    reader.at = 4
    try:
        version = reader.number("I")
        if version not in (2, 3):
            raise CheckpointError(f"{path}: GGUF of version {version}, not 2 or 3; convert it with a current llama.cpp")
        return _header(reader)
    except (struct.error, ValueError, KeyError, RecursionError) as failure:
        raise CheckpointError(f"{path}: damaged or truncated header: {failure}; download it again") from None


def mapped(path: str | Path) -> memoryview:
    """The bytes of a file, read when they are looked at."""
    with Path(path).open("rb") as file:
        if not file.seek(0, 2):
            return memoryview(b"")  # which cannot be mapped
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _header(reader: _Reader) -> Header:
    tensors, pairs = reader.number("Q"), reader.number("Q")
    reader.room_for(tensors + pairs, 12)
    metadata = {}
    for _ in range(pairs):
        key, kind = reader.text(), reader.number("I")
        metadata[key] = reader.value(kind)
    entries = [_entry(reader) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not (isinstance(alignment, int) and alignment > 0):
        raise ValueError(f"an alignment of {alignment!r}")
    first = -(-reader.at // alignment) * alignment
    return Header(metadata, tuple(Entry(e.name, e.type, e.shape, first + e.start) for e in entries))


def _entry(reader: _Reader) -> Entry:
    name, axes = reader.text(), reader.number("I")
    reader.room_for(axes, 8)
    shape = tuple(reader.number("Q") for _ in range(axes))[::-1]
    kind, start = reader.number("I"), reader.number("Q")
    return Entry(name, TYPES.get(kind, f"type {kind}"), shape, start)
