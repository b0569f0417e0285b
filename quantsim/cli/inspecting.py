"""The command ``inspect``: a checkpoint, tensor by tensor."""

import csv as csv_files
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from quantsim import inspection
from quantsim.cli import endings, shipped, terminal
from quantsim.cli.inspection_text import text_of
from quantsim.cli.terminal import Flag
from quantsim.inspection import FORMATS, Importance, Inspection, Selection, emitting
from quantsim.inspection.budget import NoRoomError
from quantsim.rows import Rows, replace_text


@dataclass(frozen=True)
class Output:
    """What is printed and written.

    Attributes:
        top: tensors a table shows.
        json: print every row as JSON.
        csv: print the rows of errors as CSV.
        emit: write the mixture for llama-quantize's --tensor-type-file (.txt), as .json, or as a .py dict.
        figures: draw maps of role and depth, the worst tensors and the frontier into this folder.
    """

    top: int = 10
    json: Flag = False
    csv: Flag = False
    emit: Path | None = None
    figures: Path | None = None


_EVERYTHING = Selection()
_PLAIN = Importance()
_TABLES = Output()


def inspect(
    path: tyro.conf.Positional[Path],
    formats: tuple[str, ...] = FORMATS,
    budget: float | None = None,
    select: tyro.conf.OmitArgPrefixes[Selection] = _EVERYTHING,
    importance: tyro.conf.OmitArgPrefixes[Importance] = _PLAIN,
    output: tyro.conf.OmitArgPrefixes[Output] = _TABLES,
) -> None:
    """A checkpoint, tensor by tensor: outliers, the error of each format, the best mixture of formats under a budget.

    Args:
        path: .safetensors, .gguf (any part of a file in parts) or .npy, a folder of one model, or the name of one that
            comes with quantsim: lm-w128-s0, unet-s0, gemma.
        formats: quantizers that are tried.
        budget: bits per weight over the whole model.
        select: which tensors.
        importance: what an error of a weight counts.
        output: what is printed and written.
    """
    _check(output, budget)
    found = _found(shipped.file_of(path), formats, budget=budget, select=select, importance=importance)
    if output.emit is not None:
        with endings.writing("--emit"):
            replace_text(output.emit, inspection.emitted(found, output.emit))
        terminal.say(f"quantsim: wrote {output.emit}")
    if output.figures is not None:
        with endings.writing("--figures"):
            _draw(found, output.figures)
    if output.json:
        print(terminal.json_text(list(found.rows())))
    elif output.csv:
        _print_csv(found.errors)
    else:
        print(text_of(found, output.top))


def _check(output: Output, budget: float | None) -> None:
    """What would fail at the end fails before anything is read."""
    if output.json and output.csv:
        raise ValueError("--json and --csv are two ways to print: leave one of them out")
    if output.emit is not None and budget is None:
        raise ValueError("--emit writes the mixture under a budget: give --budget, for example --budget 4.5")
    if output.emit is not None:
        emitting.check_ending(output.emit)
    if output.figures is not None:
        with endings.writing("--figures"):
            output.figures.mkdir(parents=True, exist_ok=True)


def _found(path: Path, formats: tuple[str, ...], **given: Any) -> Inspection:
    with terminal.progress() as report:
        try:
            return inspection.inspect(path, formats, **given, progress=report)
        except NoRoomError as failure:
            why = "; only GGUF types are mixed where --formats names none" if formats == FORMATS else ""
            raise ValueError(f"{failure}{why}") from None


def _draw(found: Inspection, folder: Path) -> None:
    from quantsim.lab import inspection_figures

    for written in inspection_figures.write(found, folder):
        terminal.say(f"quantsim: wrote {written}")


def _print_csv(rows: Rows) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = csv_files.DictWriter(sys.stdout, columns)
    out.writeheader()
    out.writerows(rows)
