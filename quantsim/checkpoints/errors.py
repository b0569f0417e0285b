"""What a file that cannot be read as weights raises."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

#: Called with the name of a tensor that cannot be read as weights, and the reason.
Refused: TypeAlias = Callable[[str, str], None]


class CheckpointError(Exception):
    """A file that cannot be read as weights; the message says what to do."""


class TensorError(CheckpointError):
    """A tensor of a file that cannot be read as weights, and the reason."""

    def __init__(self, path: Path | str, tensor: str, reason: str) -> None:
        super().__init__(f"{path}: {tensor!r} {reason}")
        self.tensor, self.reason = tensor, reason
