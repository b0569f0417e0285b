"""The report of all studies as one HTML file."""

import sys
from pathlib import Path
from typing import Any

from quantsim.lab import answer, claims
from quantsim.lab.report import page, strings
from quantsim.lab.report.gathering import Gathered, Study, gather
from quantsim.lab.report.packing import Packed
from quantsim.lab.report.pictures import Picture, pictures, previews_style
from quantsim.lab.report.playground import data
from quantsim.rows import dumps

#: Most bytes of a report.
MOST_BYTES = 8 * 10**6


def html(folder: Path, language: str = "en") -> str:
    """The report of the rows in a folder; the same text for the same rows.

    Args:
        folder: of rows and figures.
        language: one of ``strings.LANGUAGES``.

    Raises:
        NoRowsError: if there are no rows.
    """
    return of(gather(folder), language)


def of(found: Gathered, language: str = "en") -> str:
    """The report of what was gathered."""
    packed, words = Packed(), strings.words(language)
    drawn = [study for study in found.studies if study.picture is not None]
    seen = dict(zip((s.name for s in drawn), pictures([s.picture for s in drawn if s.picture]), strict=True))
    studies = [_shown(study, packed, words, seen.get(study.name)) for study in found.studies]
    return page.render(
        "report.html.j2",
        language=language,
        w=words,
        script_words={name: part for name, part in words.items() if name != "questions"},
        version=sys.modules["quantsim"].__version__,
        studies=studies,
        ledger=found.ledger,
        statements=strings.statements(language),
        number=claims.number_text,
        counts=_counts(found, words),
        rows=sum(len(study.rows or ()) for study in found.studies),
        settled=claims.settled_count(found.ledger),
        packed=packed,
        previews=previews_style(seen),
        playground_data=data.data(found.folder),
        answer=answer.standing(found.ledger),
        answer_title=answer.title(language),
    )


def _counts(found: Gathered, words: strings.Words) -> dict[str, int]:
    """How many statements each verdict has, in the order of the table of words; verdicts that none has are left out."""
    given = [entry["verdict"] for entry in found.ledger]
    return {verdict: given.count(verdict) for verdict in words["verdicts"] if verdict in given}


def _shown(study: Study, packed: Packed, words: strings.Words, picture: Picture | None) -> dict[str, Any]:
    """What the template tells of a study; its picture and its rows are packed."""
    if picture is not None:
        packed.add(f"{study.name}.webp", picture.data)
    if study.rows is not None:
        packed.add_compressed(f"{study.name}.rows", "".join(dumps(row) + "\n" for row in study.rows).encode())
    columns = list(dict.fromkeys(name for row in study.sample for name in row))
    return {
        "study": study,
        "picture": picture,
        "question": words["questions"].get(study.name, study.question),
        "translated": study.name in words["questions"],
        "columns": columns,
        "cells": [[_cell(row.get(name)) for name in columns] for row in study.sample],
    }


def _cell(value: Any) -> str:
    """A value of a row as a table shows it.

    >>> [_cell(v) for v in (0.123456, 3, None, "int8", [1, 2, 3, 4, 5])]
    ['0.1235', '3', '', 'int8', '[1, 2, 3, …]']
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(_cell(v) for v in value[:3])}{', …' if len(value) > 3 else ''}]"
    return str(value)
