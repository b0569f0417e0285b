"""Maps and tables of plain characters, readable on 80 columns and without colour; JSON and messages."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from quantsim.rows import plain

#: An option that is there or not, without a ``--no-`` of its own.
Flag: TypeAlias = Annotated[bool, tyro.conf.FlagCreatePairsOff]

SHADES = ("··", "░░", "▒▒", "▓▓", "██")


def printable(text: str) -> str:
    r"""A text from a file or a user as a terminal can show it: what is no printable character becomes an escape.

    >>> printable("up\x1b[2J")
    'up\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(name: str, longest: int = 36) -> str:
    """A name from a file as a table can hold it: its beginning and its end, where it is long.

    >>> shortened("model.layers.0.mlp.down_proj.weight", 16)
    'model.l…j.weight'
    """
    text = printable(name)
    return text if len(text) <= longest else f"{text[: longest // 2 - 1]}…{text[-longest // 2 :]}"


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "tensor"), counted(3, "tensor")
    ('1 tensor', '3 tensors')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def say(text: str) -> None:
    """A message on stderr, line by line."""
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr)


def json_text(value: Any, *, indent: int | None = 1) -> str:
    """JSON in which every character that a terminal could obey is escaped; NaN and infinities are null."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=indent, allow_nan=False)
    return re.sub(r"[^\n]", _escaped, text)


def _escaped(character: re.Match[str]) -> str:
    text = character.group()
    return text if text.isprintable() else json.dumps(text)[1:-1].replace("\x7f", "\\u007f")


def shade_map(magnitude: NDArray[np.floating], top: float) -> str:
    """One shaded cell for each entry, in fifths of ``top``.

    >>> print(shade_map(np.array([[0.0, 0.5, 1.0]]), 1.0))
    ··▒▒██
    """
    level = np.clip((np.asarray(magnitude) / (top or 1.0) * len(SHADES)).astype(int), 0, len(SHADES) - 1)
    return "\n".join("".join(SHADES[i] for i in row) for row in level)


def digit_map(values: NDArray[np.floating], top: float) -> str:
    """Each entry as a signed digit, its ninths of ``top``.

    >>> print(digit_map(np.array([[1.0, -0.5, 0.0]]), 1.0))
     9-4 0
    """
    digit = np.round(np.asarray(values) / (top or 1.0) * 9).astype(int)
    return "\n".join("".join(f"{d:2d}" for d in row) for row in digit)


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr, with the rate of this run and the time that is left, for (weights done, of all, what)."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}")
    bar, first = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)), list[tuple[int, float]]()
    try:

        def report(done: int, total: int, what: str) -> None:
            if not first:  # where a run goes on, and what compiles, is not its rate
                first.append((done, time.monotonic()))
                bar.start()  # not before: a file that is refused has no progress
                bar.add_task(what, rate="")
            rate = (done - first[0][0]) / max(time.monotonic() - first[0][1], 1e-9)
            bar.update(
                bar.task_ids[0], completed=done, total=total, description=what, rate=f"{rate / 1e6:.0f} M weights/s"
            )

        yield report
    finally:
        if first:
            bar.stop()


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, last: int | None = None) -> str:
    """Columns padded to their widest cell; numbers to the right. ``last`` cuts the last column at a width.

    >>> print(table(("spec", "dB"), [("int8", "42.1"), ("bf16", "55.6")]))
    spec    dB
    int8  42.1
    bf16  55.6
    """
    cells = [[printable(str(c)) for c in row] for row in (header, *rows)]
    if last is not None:
        cells = [[*row[:-1], row[-1] if len(row[-1]) <= last else row[-1][: last - 1] + "…"] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = (
        "  ".join(c.rjust(n) if right else c.ljust(n) for c, n, right in zip(row, widths, numeric, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _is_number(text: str) -> bool:
    return not text or text[0].isdigit() or text[0] in "-+"
