"""The command ``report``: one HTML file of all studies and the ledger, or of a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from quantsim.cli import shipped, terminal
from quantsim.inspection import FORMATS
from quantsim.rows import replace_text


@dataclass(frozen=True)
class OfCheckpoint:
    """A report of a checkpoint in the place of one of the studies: what ``inspect`` finds.

    Attributes:
        checkpoint: .safetensors, .gguf or .npy, a folder of one model, or a name as of inspect.
        formats: quantizers that are tried.
        budget: bits per weight over the whole model.
    """

    checkpoint: Path | None = None
    formats: tuple[str, ...] = FORMATS
    budget: float | None = None


_STUDIES = OfCheckpoint()


def write(
    out: Path = Path("report.html"),
    figures: Path = Path("paper_figures"),
    lang: Literal["en", "zh"] = "en",
    of: tyro.conf.OmitArgPrefixes[OfCheckpoint] = _STUDIES,
) -> None:
    """One self-contained HTML file: every study, the ledger and a matrix to play with, or a checkpoint.

    It measures nothing of the studies: it shows the rows and figures that lie in a folder.

    Args:
        out: the file that is written.
        figures: folder of the rows and figures that `quantsim run` wrote.
        lang: language of the page, English or Chinese.
        of: what the report is of, the studies if no checkpoint is named.
    """
    if of.checkpoint is None and (of.budget is not None or of.formats != FORMATS):
        raise ValueError("--budget and --formats are of a checkpoint: name it with --checkpoint")
    text = _of_studies(figures, lang) if of.checkpoint is None else _of_checkpoint(of, lang)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, text)
    terminal.say(f"quantsim: wrote {out}, {len(text.encode()) / 1e6:.1f} MB")


def _of_studies(figures: Path, language: str) -> str:
    from quantsim.lab.report import gathering, writing

    found = gathering.gather(figures)
    _tell(found, figures)
    return writing.of(found, language)


def _tell(found: Any, figures: Path) -> None:
    """What the report has to leave out, or shows though it is not current, and what mends it."""
    for names, what in (
        (found.missing, "have no rows"),
        (found.undrawn, "have no figure"),
        (found.stale, "have rows that are not current"),
    ):
        if names:
            shown = " ".join(names[:5]) + (f" … ({len(names)} in all)" if len(names) > 5 else "")
            terminal.say(f"in {figures} these studies {what}, and the report says so: {shown}")
    if mend := list(dict.fromkeys([*found.missing, *found.undrawn, *found.stale])):
        named = f" {' '.join(mend)}" if len(mend) <= 5 else ", or with the names of some of them"
        terminal.say(f"to measure and draw them: quantsim run{named}")


def _of_checkpoint(of: OfCheckpoint, language: str) -> str:
    from quantsim import inspection
    from quantsim.lab.report import checkpoint

    assert of.checkpoint is not None
    with terminal.progress() as report:
        found = inspection.inspect(shipped.file_of(of.checkpoint), of.formats, budget=of.budget, progress=report)
    return checkpoint.html(found, language)
