"""What an ``.npy`` file says of itself: a line of Python's literals, never run, at most 10,000 characters of it."""

import re
from io import BytesIO
from math import prod
from typing import Any

import numpy as np

from quantsim.checkpoints.elements import FLOATS, INTEGERS, OTHERS, Storage
from quantsim.checkpoints.entries import Entry, Header, checked_shape, why_unreadable
from quantsim.checkpoints.errors import CheckpointError
from quantsim.checkpoints.files import Bytes

_MAGIC = b"\x93NUMPY"
_MOST_CHARACTERS = 10_000
#: What a parser of Python is given: no operators, and few brackets, so that it never has to go deep.
_LITERALS = re.compile(rb"[\w\s'\"<>|=,:.(){}\[\]]*", re.ASCII)
_MOST_BRACKETS = 64
_NAMES = {dtype: name for name, dtype in (FLOATS | INTEGERS | OTHERS).items() if dtype.isbuiltin == 1}
_AGAIN = "save it again with numpy.save from a numeric array"


def header_of(file: Bytes) -> Header:
    """The array of a file, called as the file is.

    Raises:
        CheckpointError: for a damaged or truncated file, and for Python objects, which are never loaded.
    """
    try:
        shape, by_columns, dtype, start = _header(file)
        whole = checked_shape(shape)
        if start + prod(whole) * dtype.itemsize > file.size:
            raise ValueError(f"the array ends at byte {start + prod(whole) * dtype.itemsize}, the file at {file.size}")
    except CheckpointError:
        raise
    except Exception as failure:  # NumPy's parser raises all kinds
        wrong = f"damaged, or no .npy file: {str(failure)[:200]}"
        raise CheckpointError(f"{file.path}: {wrong}; {_AGAIN}") from None
    return Header({}, (_entry(file, whole, by_columns, dtype, start),))


def _header(file: Bytes) -> tuple[Any, bool, np.dtype, int]:
    """Shape, whether the first axis runs fastest, type, and where the array begins."""
    head = file.read(0, min(12, file.size))
    if head[:6] != _MAGIC or len(head) < 12 or head[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("it does not begin as one")
    first = 10 if head[6] == 1 else 12  # the header's length has two bytes, or four
    length = int.from_bytes(head[8:first], "little")
    if length > _MOST_CHARACTERS:
        raise ValueError(f"a header of {length} characters, at most {_MOST_CHARACTERS} are read")
    whole = file.read(0, first + length)
    text = whole[first:]
    if not _LITERALS.fullmatch(text) or sum(text.count(bracket) for bracket in (b"(", b"[", b"{")) > _MOST_BRACKETS:
        raise ValueError("its header is more than the shape and type of numbers")
    read = np.lib.format.read_array_header_1_0 if head[6] == 1 else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(BytesIO(whole[8:]))
    if dtype.hasobject:
        raise CheckpointError(f"{file.path}: holds pickled objects, which are never loaded; {_AGAIN}")
    return shape, by_columns, dtype, first + length


def _entry(file: Bytes, shape: tuple[int, ...], by_columns: bool, dtype: np.dtype, start: int) -> Entry:
    name, kind = file.path.stem, _NAMES.get(dtype.newbyteorder("<"))
    how = Storage(1, dtype.itemsize, dtype, by_columns and len(shape) > 1)
    if kind is None or kind in OTHERS:
        kind, reason = kind or str(dtype), _why_foreign(dtype)
    else:  # integers are weights, too: who names the file means its one array
        reason = why_unreadable("F32" if kind in INTEGERS else kind, shape, how)
    return Entry(name, kind, shape, file.path, start, prod(shape) * dtype.itemsize, how, reason)


def _why_foreign(dtype: np.dtype) -> str:
    if dtype.kind == "V":
        reason = "numpy.save does not keep bfloat16 and the like; use .safetensors, or save float32"
        return f"has lost its type: {reason}"
    return f"is {dtype}, not real numbers; save them as float32"
