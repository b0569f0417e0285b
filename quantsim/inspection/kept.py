"""Rows of tensors that an interrupted inspection has finished, in the user's cache folder until it is whole."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from quantsim.checkpoints.checkpoint import Checkpoint
from quantsim.checkpoints.real import folder
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.rows import plain

_FOLDER = "inspected"


class KeptRows:
    """Rows by the name of a tensor, appended to a file line by line; without a folder that can be written, to none."""

    def __init__(self, path: Path) -> None:
        """Read what the file holds; a line that was cut short is dropped."""
        self._path, self._rows, self._file = path, _read(path), None

    @classmethod
    def of(cls, checkpoint: Checkpoint, quantizers: Sequence[AbstractQuantizer], importance: Any) -> "KeptRows":
        """The rows of these files, as they are now, under these quantizers and importances."""
        files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in checkpoint.files]
        code = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
        about = [files, [str(q) for q in quantizers], repr(importance), code.hexdigest()]
        name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        return cls(folder() / _FOLDER / f"{name}.jsonl")

    def get(self, tensor: str) -> list[dict[str, Any]] | None:
        """The rows of a tensor, if it is finished."""
        return self._rows.get(tensor)

    def add(self, tensor: str, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a tensor."""
        if self._file is not None:
            self._file.write(json.dumps(plain([tensor, rows]), allow_nan=True) + "\n")
            self._file.flush()

    def forget(self) -> None:
        """The inspection is whole: nothing is kept."""
        self._close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> "KeptRows":
        """Open the file, if that can be done."""
        self._file: TextIO | None
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Close it."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    rows = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                tensor, found = json.loads(line)
                rows[tensor] = found
    return rows
