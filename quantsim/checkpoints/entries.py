"""Tensors as the header of a file lists them, and the checks that every format needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from quantsim.checkpoints.elements import INTEGERS, Storage, is_readable
from quantsim.checkpoints.errors import CheckpointError

#: Bounds that no file in use comes near; the header's is that of the safetensors package.
MOST_BYTES_OF_HEADER = 100_000_000
MOST_TENSORS = 2**18
MOST_AXES = 8
MOST_BYTES_OF_NAME = 2**16 - 1
MOST_WEIGHTS = 2**58  # of which bytes have numbers of 63 bits


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a checkpoint, none of whose numbers has been read.

    Attributes:
        name: as the file has it; it may hold any character.
        type: as the file names it: "BF16", "F8_E4M3", "Q4_K", ….
        shape: of the numbers, outputs first, (out, in).
        path: the file that holds it.
        start: byte of the file that it begins at.
        nbytes: its bytes; of a type of unknown size, all until the next tensor.
        storage: how its numbers lie there, None if that is not known.
        unreadable: None, or why its numbers are not read as weights, as the end of a sentence about it.
        scaled_by: None, or the name of the tensor that holds the scales of its codes. ``Checkpoint.weights`` are
            multiplied by them, ``Checkpoint.stored`` are the codes.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    path: Path
    start: int
    nbytes: int
    storage: Storage | None
    unreadable: str | None = None
    scaled_by: str | None = None

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def is_integer(self) -> bool:
        """Whether its numbers are stored as plain integers."""
        return self.type in INTEGERS

    @property
    def block(self) -> int:
        """Weights that are stored together: what ``first`` and ``count`` of ``Checkpoint.weights`` are multiples of."""
        return 1 if self.storage is None else self.storage.block


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of itself: metadata by key, and every tensor in its order."""

    metadata: dict[str, Any]
    tensors: tuple[Entry, ...]


def shown(name: str) -> str:
    r"""A name in a list of names: quoted if it holds what no terminal should be sent, and not without end.

    >>> shown("blk.0.attn_q"), shown("up\x1b[2J")
    ('blk.0.attn_q', "'up\\x1b[2J'")
    """
    text = name if name.isprintable() else repr(name)
    return text if len(text) <= 80 else f"{text[:80]} …"


def why_unreadable(kind: str, shape: tuple[int, ...], how: Storage | None) -> str | None:
    """Why numbers of a type, stored in a way, are not read as weights, or None."""
    if kind in INTEGERS:
        return f"is stored as {kind}, integers are read by name"
    if how is None or not is_readable(kind):
        return f"is stored as {kind}, which cannot be read; save it as F32"
    if not prod(shape):
        return f"is empty, shape {shape}; there is nothing to measure"
    return None


def checked_shape(shape: Iterable[object]) -> tuple[int, ...]:
    """A shape, if it is one.

    Raises:
        ValueError: for what are no whole numbers, too many of them, or too many weights.
    """
    found = tuple(shape)
    if len(found) > MOST_AXES:
        raise ValueError(f"has {len(found)} axes, at most {MOST_AXES} are read")
    if not all(type(n) is int and n >= 0 for n in found):
        raise ValueError(f"has a shape that is none: {_cut(found)}")
    whole = tuple(n for n in found if type(n) is int)
    if prod(n or 1 for n in whole) > MOST_WEIGHTS:  # NumPy cannot make empty arrays of such axes either
        raise ValueError(f"has {prod(whole)} weights, shape {whole}: no file holds them")
    return whole


def checked_name(name: str) -> str:
    """A name, if it can be written down.

    Raises:
        ValueError: for an empty one, a very long one, or half of a surrogate pair.
    """
    if not name:
        raise ValueError("a tensor has an empty name")
    if len(name.encode()) > MOST_BYTES_OF_NAME:  # which half of a pair has no bytes for
        raise ValueError(f"a name of {len(name)} characters, {name[:32]!r} …")
    return name


def check_apart(entries: Sequence[Entry]) -> None:
    """That no two tensors of a file share bytes.

    Raises:
        CheckpointError: naming both.
    """
    held = sorted((e for e in entries if e.nbytes), key=_start)
    for one, other in pairwise(held):
        if one.start + one.nbytes > other.start:
            where = f"{one.name!r} ends at byte {one.start + one.nbytes}, {other.name!r} begins at {other.start}"
            raise CheckpointError(f"{one.path}: damaged: two tensors overlap: {where}; download or save it again")


def _start(entry: Entry) -> int:
    return entry.start


def _cut(value: object) -> str:
    """A value from a file, as much of it as a message can hold."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} …"
