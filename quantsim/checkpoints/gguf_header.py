"""What a ``.gguf`` file says of itself: metadata, and where each tensor lies, checked against the file.

A count that the file is too short for is damage, not work. The 262,144 tokens of a vocabulary take a fraction of a
second here; the ``gguf`` package, which tests hold this against, makes several arrays of each.
Source: ggml, docs/gguf.md, versions 2 and 3, little-endian.
"""

from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from quantsim.checkpoints.elements import gguf_storage
from quantsim.checkpoints.entries import (
    MOST_AXES,
    MOST_BYTES_OF_NAME,
    MOST_TENSORS,
    Entry,
    Header,
    check_apart,
    checked_name,
    checked_shape,
    why_unreadable,
)
from quantsim.checkpoints.errors import CheckpointError, TensorError
from quantsim.checkpoints.files import Bytes, opened
from quantsim.checkpoints.gguf_fields import Fields
from quantsim.checkpoints.gguf_types import TYPES

MAGIC = b"GGUF"
ALIGNMENT = 32  # unless the file says otherwise
_AGAIN = "download it again"
#: Bytes of a key without a name and a value of one byte, and of a tensor without a name and axes.
_LEAST_OF_PAIR, _LEAST_OF_TENSOR = 13, 24
_MOST_KEYS = 2**16
_BIG_ENDIAN = (2 << 24, 3 << 24)


def read_header(path: str | Path) -> Header:
    """Metadata and tensors of a file.

    Raises:
        CheckpointError: if there is none, it is no GGUF file of version 2 or 3, or damaged or truncated.
    """
    with opened(Path(path)) as file:
        return header_of(file)


def header_of(file: Bytes) -> Header:
    """Metadata and tensors of a file, of which only the header is read.

    Raises:
        CheckpointError: if it is no GGUF file of version 2 or 3, or damaged or truncated.
    """
    fields = Fields(file)
    try:
        _check_beginning(fields, file)
        return _header(fields, file)
    except ValueError as failure:
        raise CheckpointError(f"{file.path}: damaged or truncated header: {failure}; {_AGAIN}") from None


def _check_beginning(fields: Fields, file: Bytes) -> None:
    if file.size < len(MAGIC) or fields.take(len(MAGIC)) != MAGIC:
        wrong = "no GGUF file: it does not begin with the letters GGUF; name one that does"
        raise CheckpointError(f"{file.path}: {wrong}")
    version = fields.kind()
    if version in _BIG_ENDIAN:
        raise CheckpointError(f"{file.path}: GGUF of a big-endian machine; turn it with gguf-convert-endian")
    if version not in (2, 3):
        wrong = f"GGUF of version {version}, not 2 or 3; convert it with a current llama.cpp"
        raise CheckpointError(f"{file.path}: {wrong}")


def _header(fields: Fields, file: Bytes) -> Header:
    tensors, pairs = fields.size(), fields.size()
    if tensors > MOST_TENSORS or pairs > _MOST_KEYS:
        raise ValueError(f"{tensors} tensors and {pairs} keys are announced, where {file.size} bytes are all")
    fields.room_for(1, tensors * _LEAST_OF_TENSOR + pairs * _LEAST_OF_PAIR)
    metadata = _metadata(fields, pairs)
    found = [_entry(fields, file) for _ in range(tensors)]
    alignment = _alignment(metadata)
    first = -(-fields.at // alignment) * alignment
    _check_names(found)
    entries = tuple(_placed(entry, first, alignment, file.size) for entry in found)
    check_apart(entries)
    return Header(metadata, _with_extents(entries, file.size))


def _metadata(fields: Fields, pairs: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(pairs):
        key = fields.text(MOST_BYTES_OF_NAME)
        if key in found:
            raise ValueError(f"the key {key!r} stands there twice")
        found[key] = fields.value(fields.kind())
    return found


def _alignment(metadata: dict[str, Any]) -> int:
    found = metadata.get("general.alignment", ALIGNMENT)
    if type(found) is not int or not 0 < found <= 2**20 or found & (found - 1):
        raise ValueError(f"an alignment of {repr(found)[:40]}, which is no power of two")
    return found


def _entry(fields: Fields, file: Bytes) -> Entry:
    """A tensor as it is listed; its start is yet to be counted from the beginning of the file."""
    name = checked_name(fields.text(MOST_BYTES_OF_NAME))
    if (axes := fields.kind()) > MOST_AXES:
        raise ValueError(f"{name!r} has {axes} axes, at most {MOST_AXES} are read")
    shape = [fields.size() for _ in range(axes)][::-1]
    kind, start = fields.kind(), fields.size()
    try:
        known, kind = checked_shape(shape), TYPES.get(kind, f"type {kind}")
        return Entry(name, kind, known, file.path, start, _nbytes(kind, known), gguf_storage(kind))
    except ValueError as failure:
        raise TensorError(file.path, name, f"{failure}: it is damaged; {_AGAIN}") from None


def _nbytes(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; 0 for a type of unknown size."""
    how = gguf_storage(kind)
    if how is None:
        return 0
    row = shape[-1] if shape else 1
    if row % how.block:
        raise ValueError(f"has rows of {row}, which no blocks of {how.block} make up")
    return prod(shape) // how.block * how.nbytes


def _check_names(entries: list[Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise ValueError(f"the tensor {entry.name!r} stands there twice")
        seen.add(entry.name)


def _placed(entry: Entry, first: int, alignment: int, size: int) -> Entry:
    """A tensor with its place in the file, which must hold all of it."""
    if entry.start % alignment:
        wrong = f"begins at byte {entry.start} of the data, no multiple of {alignment}: it is damaged; {_AGAIN}"
        raise TensorError(entry.path, entry.name, wrong)
    start = first + entry.start
    if entry.size and start + entry.nbytes > size:
        where = f"{entry.name!r} ends at byte {start + entry.nbytes}, the file at {size}"
        raise CheckpointError(f"{entry.path}: damaged or truncated: {where}; {_AGAIN}")
    return replace(entry, start=start, unreadable=why_unreadable(entry.type, entry.shape, entry.storage))


def _with_extents(entries: tuple[Entry, ...], size: int) -> tuple[Entry, ...]:
    """Tensors of unknown size with all the bytes that can be theirs."""
    ends = sorted({size, *(entry.start for entry in entries)})
    after = dict(pairwise(ends))
    return tuple(
        entry if entry.storage else replace(entry, nbytes=max(after.get(entry.start, size) - entry.start, 0))
        for entry in entries
    )
