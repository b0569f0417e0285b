"""Files as bytes: opened without waiting, read at a place, never more than is asked for.

Bytes are read, not mapped: a file that another process cuts short is an error then, and not the end of this process,
and what was read does not stay among its pages.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from quantsim.checkpoints.errors import CheckpointError

#: Without it, to open a pipe waits for one that writes to it.
_NOT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Stamp:
    """By what a file is known again: bytes, and when they were last written, in ns."""

    size: int
    written: int


class Bytes:
    """A file that is open.

    Attributes:
        path: of the file.
        stamp: as it was when it was opened.
    """

    def __init__(self, path: Path, file: FileIO, stamp: Stamp) -> None:
        self.path, self.stamp, self._file = path, stamp, file

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self.stamp.size

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on, compared with the size of the file before memory is taken.

        Raises:
            CheckpointError: if the file ends before.
        """
        if start + count > self.size:
            raise self._short(start, count)
        self._file.seek(start)
        found = self._file.read(count)
        if len(found) < count:
            raise self._short(start, count)
        return found

    def read_into(self, start: int, found: np.ndarray) -> None:
        """Fill an array of uint8 with the bytes from ``start`` on.

        Raises:
            CheckpointError: if the file ends before.
        """
        self._file.seek(start)
        at = 0
        while at < found.size:
            count = self._file.readinto(found.data[at:])
            if not count:
                raise self._short(start, found.size)
            at += count

    def _short(self, start: int, count: int) -> CheckpointError:
        where = f"bytes {start} to {start + count} are wanted, the file ends at {self.size}"
        return CheckpointError(f"{self.path}: damaged or truncated: {where}; download or save it again")


@contextmanager
def opened(path: Path, known: Stamp | None = None) -> Iterator[Bytes]:
    """A regular file, open for reading; nothing is waited for, and an ``OSError`` within becomes a message.

    Args:
        path: the file.
        known: what it was when it was last open.

    Raises:
        CheckpointError: for a missing, changed or unreadable file, a folder, pipe or device.
    """
    try:
        _check_kind(path, path.stat())  # before it is opened: to open a device can act on it
        with FileIO(os.open(path, os.O_RDONLY | _NOT_WAITING)) as file:
            found = os.fstat(file.fileno())
            _check_kind(path, found)
            now = Stamp(found.st_size, found.st_mtime_ns)
            if known not in (None, now):
                raise CheckpointError(f"{path}: has changed since it was opened; open it again when it is whole")
            yield Bytes(path, file, now)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; name an .npy, .safetensors or .gguf file, or a folder") from None
    except OSError as failure:
        raise CheckpointError(f"{path}: {failure.strerror or failure}") from None


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, device or socket"
        raise CheckpointError(f"{path}: {kind}, not a file; name a file with weights")
