"""Numbers, texts and lists from the header of a ``.gguf`` file, in order and with bounds."""

import struct
from typing import Any

import numpy as np

from quantsim.checkpoints.entries import MOST_BYTES_OF_HEADER
from quantsim.checkpoints.files import Bytes
from quantsim.checkpoints.gguf_types import ARRAY, NUMBERS, STRING

_WINDOW = 2**16
#: Values of all metadata together; each can become an object of Python.
MOST_VALUES = 2**22
MOST_NESTING = 4
_SIZE = struct.Struct("<Q")
_KIND = struct.Struct("<I")


class Fields:
    """A place in a file from which fields are taken; a count is compared with what is left before memory is taken."""

    def __init__(self, file: Bytes) -> None:
        self._file, self._window, self._first = file, b"", 0
        self._end = min(file.size, MOST_BYTES_OF_HEADER)
        self._values = 0
        self.at = 0

    def size(self) -> int:
        """A number of 64 bits."""
        return _SIZE.unpack(self.take(8))[0]

    def kind(self) -> int:
        """A number of 32 bits."""
        return _KIND.unpack(self.take(4))[0]

    def text(self, most: int) -> str:
        """A text; bytes that are no UTF-8 become marks of replacement."""
        if (count := self.size()) > most:
            raise ValueError(f"a text of {count} bytes at byte {self.at}, at most {most} are read")
        return self.take(count).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of metadata: a number, a text, or a list of them."""
        if kind == STRING:
            return self.text(self._end)
        if kind == ARRAY:
            return self._array(depth + 1)
        return self._numbers(_known(kind, self.at), 1)[0]

    def _array(self, depth: int) -> list[Any]:
        kind, count = self.kind(), self.size()
        if depth > MOST_NESTING:
            raise ValueError(f"lists within lists beyond {MOST_NESTING} at byte {self.at}")
        self.room_for(count, 8 if kind in (STRING, ARRAY) else 1)
        self._values += count
        if self._values > MOST_VALUES:
            raise ValueError(f"{count} values at byte {self.at}, at most {MOST_VALUES} are read in all")
        if kind not in (STRING, ARRAY):
            return self._numbers(_known(kind, self.at), count)
        return [self.value(kind, depth) for _ in range(count)]

    def _numbers(self, code: str, count: int) -> list[Any]:
        dtype = np.dtype("?" if code == "?" else f"<{code}")
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def room_for(self, count: int, size: int) -> None:
        """That so many things of that many bytes can follow.

        Raises:
            ValueError: if the file, or what is read of a header, is shorter.
        """
        if count * size > self._end - self.at:
            raise ValueError(f"{count} things are announced at byte {self.at}, where {self._end} are all")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        begin = self.at - self._first
        if begin + count > len(self._window):
            self.room_for(count, 1)
            self._window = self._file.read(self.at, min(max(count, _WINDOW), self._end - self.at))
            self._first, begin = self.at, 0
        self.at += count
        return self._window[begin : begin + count]


def _known(kind: int, at: int) -> str:
    if kind not in NUMBERS:
        raise ValueError(f"a value of the unknown type {kind} at byte {at}")
    return NUMBERS[kind]
