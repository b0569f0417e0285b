"""Everything that the page must know and does not compute: matrices, facts of formats, what theory and studies say."""

from pathlib import Path
from typing import Any

from quantsim.lab.matrix import document_matrix
from quantsim.lab.report.playground.facts import (
    GRANULARITIES,
    SCALE_FORMATS,
    elements,
    format_facts,
    shortest,
)
from quantsim.lab.report.playground.predictions import theory_facts
from quantsim.populations import Normal, key

SHAPE = (16, 32)


def data(folder: Path | None = None) -> dict[str, Any]:
    """What the scripts of the playground read, as JSON.

    Args:
        folder: where the rows of the studies are, ``paper_figures``: measured points of the study ``prediction`` are
            shown beside predictions. None shows predictions alone.

    >>> sorted(data())
    ['elements', 'exact_scale', 'formats', 'granularities', 'matrix', 'scale_formats', 'theory']
    """
    return {
        "matrix": {"rows": SHAPE[0], "columns": SHAPE[1], "sources": _matrices()},
        "elements": elements(),
        "formats": format_facts(),
        "granularities": GRANULARITIES,
        "scale_formats": list(SCALE_FORMATS),
        "exact_scale": SCALE_FORMATS[0],
        "theory": theory_facts(folder),
    }


def _matrices() -> dict[str, list[float]]:
    """The documents' matrix, and one of normal weights."""
    return {
        "documents": shortest(document_matrix(shape=SHAPE)),
        "normal": shortest(Normal(0.3).sample(key(0), SHAPE)),
    }
