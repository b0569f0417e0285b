"""What a report holds of each study: question, answer, verdicts, rows, figure, and how to measure them anew."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from quantsim.lab import claims, provenance, runner, study
from quantsim.rows import Rows, load

#: A row of the ledger, as ``claims.ledger`` makes it.
Entry: TypeAlias = dict[str, Any]
_MOST_SAMPLED = 6
_UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # what rows can bring about
_FINDING = 400  # characters of a finding in a picture's text


class NoRowsError(LookupError):
    """A folder without the rows of any study."""


class DamagedRowsError(ValueError):
    """Rows that are cut off, edited or incomplete, so that no number follows from them."""


@dataclass(frozen=True, eq=False)
class Study:
    """One study as the report shows it.

    Attributes:
        name: of the study.
        question: first line of its docstring.
        method: the other paragraphs of its docstring.
        rows: what it measured, None where there is nothing.
        summary: what it says of its rows.
        entries: the statements that it settles.
        about: provenance of the rows.
        why: what is wrong with the rows, empty if they are current.
        picture: its figure as PNG, None if there is none.
        command: what measures the rows anew.
        real: whether it needs the real model.
    """

    name: str
    question: str
    method: list[str]
    rows: Rows | None
    summary: str | None
    entries: list[Entry]
    about: dict[str, Any]
    why: str
    picture: Path | None
    command: str
    real: bool

    @property
    def finding(self) -> str:
        """What it finds in a few sentences, for those who do not see its picture."""
        said = [self.summary] if self.summary else [e["reading"] for e in self.entries if e["reading"]]
        text = " ".join("; ".join(said).split())
        return text if len(text) <= _FINDING else f"{text[:_FINDING].rsplit(' ', 1)[0]} …"

    @property
    def sample(self) -> Rows:
        """The first row of each kind, for those who want to see what a row is."""
        first: dict[Any, dict[str, Any]] = {}
        for row in self.rows or ():
            first.setdefault(row.get("kind"), row)
        return Rows(list(first.values())[:_MOST_SAMPLED])


@dataclass(frozen=True, eq=False)
class Gathered:
    """All studies and the ledger."""

    studies: list[Study]
    ledger: list[Entry] = field(default_factory=list)
    folder: Path | None = None

    @property
    def missing(self) -> list[str]:
        """Names of the studies without rows."""
        return [s.name for s in self.studies if s.rows is None]

    @property
    def stale(self) -> list[str]:
        """Names of the studies whose rows are not current."""
        return [s.name for s in self.studies if s.rows is not None and s.why]

    @property
    def undrawn(self) -> list[str]:
        """Names of the studies with rows and without a figure."""
        return [s.name for s in self.studies if s.rows is not None and s.picture is None]


def gather(folder: Path) -> Gathered:
    """Everything that lies in a folder of results.

    Raises:
        NoRowsError: if there are rows of no study.
        DamagedRowsError: if there are rows that their study cannot judge.
    """
    if not any((folder / f"{name}.jsonl").is_file() for name in study.names()):
        raise NoRowsError(
            f"no rows in {folder}, and a report only tells of rows that lie there: measure them with "
            "`quantsim run` (one study: `quantsim run int8_matrix`), or name their folder with --figures"
        )
    try:
        ledger = claims.ledger(runner.settled(folder, _own(folder)))
        return Gathered(list(_studies(folder, ledger)), ledger, folder)
    except _UNFIT as why:
        name = next((name for name in study.names() if not _is_fit(folder, name)), None)
        if name is None:
            raise
        raise DamagedRowsError(
            f"the rows of {name} in {folder} are damaged or incomplete ({why}): measure them again with "
            f"`quantsim run --fresh {name}`, or take {name}.jsonl away"
        ) from why


def _is_fit(folder: Path, name: str) -> bool:
    """Whether a study can judge and sum up the rows of it that lie in a folder, if there are any."""
    if not (folder / f"{name}.jsonl").is_file():
        return True
    try:
        study.summary(name, load(folder / f"{name}.jsonl"))
        if name in _own(folder):
            claims.ledger(runner.settled(folder, [name]))
    except _UNFIT:
        return False
    return True


def _own(folder: Path) -> list[str]:
    """The studies whose rows are of what they draw and train themselves, not of given weights."""
    return [name for name in study.names() if provenance.weights_of(folder, name) is None]


def _studies(folder: Path, ledger: list[Entry]) -> Iterator[Study]:
    for name in study.names():
        path, drawn = folder / f"{name}.jsonl", folder / f"{name}.png"
        rows = load(path) if path.is_file() else None
        found, real = provenance.state(folder, name), study.needs_real_model(name)
        yield Study(
            name=name,
            question=study.question(name),
            method=_paragraphs(study.module(name).__doc__ or ""),
            rows=rows,
            summary=study.summary(name, rows) if rows is not None else None,
            entries=[entry for entry in ledger if entry.get("study") == name],
            about=provenance.stored(folder, name),
            why="" if found.word == "current" else found.why,
            picture=drawn if drawn.is_file() else None,
            command=f"quantsim run --fresh {'--real ' if real else ''}{name}",
            real=real,
        )


def _paragraphs(docstring: str) -> list[str]:
    r"""What follows the question, a paragraph where a line begins with a word of the method and a full stop.

    >>> _paragraphs("Is it?\n\nMethod. One\nway.\nRefuted if not.")
    ['Method. One way.', 'Refuted if not.']
    """
    found: list[str] = []
    for line in docstring.strip().splitlines()[1:]:
        starts = line.startswith(("Method", "Expected", "Refuted"))
        if not line.strip() or starts or not found:
            found.append("")
        found[-1] = f"{found[-1]} {line.strip()}".strip()
    return [text for text in found if text]
