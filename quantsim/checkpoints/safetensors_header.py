"""What a ``.safetensors`` file says of itself: eight bytes of length, JSON, then the tensors without a gap.

The ``safetensors`` package, which tests hold this against, cannot give fp8 to NumPy, and takes of two tensors of one
name the last. Source: huggingface/safetensors, README (Format) and ``Metadata::validate``.
"""

import re
from math import prod
from pathlib import Path
from typing import Any

from quantsim.checkpoints import json_text
from quantsim.checkpoints.elements import storage
from quantsim.checkpoints.entries import (
    MOST_BYTES_OF_HEADER,
    MOST_TENSORS,
    Entry,
    Header,
    checked_name,
    checked_shape,
    why_unreadable,
)
from quantsim.checkpoints.errors import CheckpointError, TensorError
from quantsim.checkpoints.files import Bytes

_METADATA = "__metadata__"
_TYPE = re.compile("[A-Z][A-Z0-9_]{0,31}")
_FIELDS = {"dtype", "shape", "data_offsets"}
_AGAIN = "download or save it again"


def header_of(file: Bytes) -> Header:
    """Metadata and tensors of a file, of which only the header is read.

    Raises:
        CheckpointError: for a damaged or truncated file.
    """
    try:
        facts, first = _json(file)
        metadata = _metadata(facts.pop(_METADATA, {}))
        if len(facts) > MOST_TENSORS:
            raise ValueError(f"{len(facts)} tensors")
        entries = sorted((_entry(file.path, first, *item) for item in facts.items()), key=_place)
        _check_whole(entries, first, file.size)
    except ValueError as failure:
        raise CheckpointError(f"{file.path}: damaged or truncated: {failure}; {_AGAIN}") from None
    return Header(metadata, tuple(entries))


def _json(file: Bytes) -> tuple[dict[str, Any], int]:
    """The JSON of the header, and where it ends."""
    if file.size < 8:
        raise ValueError(f"no .safetensors file: {file.size} bytes hold no header")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MOST_BYTES_OF_HEADER:
        raise ValueError(
            f"no .safetensors file, or a header of {length} bytes, at most {MOST_BYTES_OF_HEADER} are read"
        )
    raw = file.read(8, length)
    if raw[:1] != b"{":
        raise ValueError("no .safetensors file: its header does not begin with a brace")
    header = json_text.loads(raw)
    return header, 8 + length


def _metadata(found: object) -> dict[str, Any]:
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f"{_METADATA} holds more than texts")
    return found


def _entry(path: Path, first: int, name: str, facts: object) -> Entry:
    try:
        checked_name(name)
        if not isinstance(facts, dict) or set(facts) != _FIELDS:
            raise ValueError(f"needs {', '.join(sorted(_FIELDS))} and nothing else")
        kind, shape = facts["dtype"], checked_shape(_list(facts["shape"]))
        begin, end = _offsets(facts["data_offsets"])
        if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
            raise ValueError(f"has a dtype that is none, {repr(kind)[:40]}")
        _check_bytes(kind, shape, end - begin)
    except ValueError as failure:
        raise TensorError(path, name, f"{failure}: damaged; {_AGAIN}") from None
    how = storage(kind)
    reason = why_unreadable(kind, shape, how)
    return Entry(name, kind, shape, path, first + begin, end - begin, how, reason)


def _list(found: object) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError("has a shape that is no list")
    return found


def _offsets(found: object) -> tuple[int, int]:
    if not (isinstance(found, list) and len(found) == 2 and all(type(n) is int for n in found)):
        raise ValueError("has data_offsets that are not two whole numbers")
    begin, end = found
    if not 0 <= begin <= end:
        raise ValueError(f"has bytes {begin} to {end}")
    return begin, end


def _check_bytes(kind: str, shape: tuple[int, ...], nbytes: int) -> None:
    how = storage(kind)
    if how is None:
        return
    if prod(shape) % how.block:
        raise ValueError(f"has {prod(shape)} numbers of {kind}, which fill no whole bytes")
    if (wanted := prod(shape) // how.block * how.nbytes) != nbytes:
        raise ValueError(f"has {nbytes} bytes where {kind} of shape {shape} takes {wanted}")


def _place(entry: Entry) -> tuple[int, int, str]:
    return entry.start, entry.nbytes, entry.name


def _check_whole(entries: list[Entry], first: int, size: int) -> None:
    """That the tensors follow one another from the header to the end of the file."""
    at = first
    for entry in entries:
        if entry.start != at:
            what = "overlaps what is before it" if entry.start < at else "leaves a gap before it"
            raise ValueError(f"{entry.name!r} {what}: it begins at byte {entry.start}, not {at}")
        at += entry.nbytes
    if at != size:
        raise ValueError(f"the tensors end at byte {at}, the file at {size}")
