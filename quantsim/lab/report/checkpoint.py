"""The report of one checkpoint: what ``inspect`` finds, as a page."""

import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from quantsim.inspection import FORMATS, Advice, Inspection, Uniform, counts_of
from quantsim.lab import inspection_figures, outlier_cells, plotting
from quantsim.lab.report import page, strings
from quantsim.lab.report.packing import Packed
from quantsim.lab.report.pictures import Picture, pictures, previews_style
from quantsim.rows import Rows

#: A row of a table: the texts of its cells.
Cells: TypeAlias = list[str]


def html(found: Inspection, language: str = "en") -> str:
    """The report of an inspection; names of tensors and files are escaped, whatever they hold."""
    packed, words = Packed(), strings.words(language)
    picture = _figure(found)
    packed.add("inspection.webp", picture.data)
    return page.render(
        "checkpoint.html.j2",
        previews=previews_style({"inspection": picture}),
        language=language,
        w=words,
        script_words={name: words[name] for name in ("report", "studies", "ledger")},
        version=sys.modules["quantsim"].__version__,
        found=found,
        about=_about(found),
        picture=picture,
        matrices=list(_matrices(found)),
        uniform=[_uniform(found, choice) for choice in found.uniform],
        specs=[choice.spec for choice in found.uniform],
        errors=list(_errors(found)),
        mixture=None if found.advice is None else _mixture(found, found.advice),
        packed=packed,
        command=_command(found),
    )


def _command(found: Inspection) -> str:
    """What inspects the file anew, for a shell, whatever the file's name."""
    words, specs = ["quantsim", "inspect", found.path.name], [choice.spec for choice in found.uniform]
    if specs and set(specs) != set(FORMATS):
        words += ["--formats", *specs]
    if found.advice is not None:
        words += ["--budget", f"{found.advice.budget:g}"]
    return shlex.join(words)


def _figure(found: Inspection) -> Picture:
    """The figure that ``inspect --figures`` draws."""
    with tempfile.TemporaryDirectory(prefix="quantsim-report-") as folder:
        plotting.save(inspection_figures.draw(found), Path(folder), inspection_figures.STEM)
        [picture] = pictures([Path(folder) / f"{inspection_figures.STEM}.png"])
    return picture


def _about(found: Inspection) -> dict[str, str]:
    """Numbers of the whole checkpoint."""
    weights = sum(found.tensors.column("weights"))
    bits = sum(found.tensors.column("weights") * found.tensors.column("stored_bits"))
    return {
        "tensors": str(len(found.tensors)),
        "weights": f"{weights / 1e6:.4g}",
        "bits": f"{bits / weights:.3f}",
        "types": ", ".join(f"{len(rows)} {kind}" for (kind,), rows in found.tensors.groups("type").items()),
    }


def _matrices(found: Inspection) -> Iterator[Cells]:
    """Every matrix, the one whose largest weight stands out most first."""
    matrices = [row for row in found.tensors if row["population"] is not None]
    for row in sorted(matrices, key=outlier_cells.crest, reverse=True):
        yield [row["tensor"], *outlier_cells.cells(row)]


def _uniform(found: Inspection, choice: Uniform) -> Cells:
    """The model in one format alone."""
    rows = Rows(row for row in found.errors.where(spec=choice.spec) if "damage" in row)
    first = [choice.spec + ("*" if choice.stands_in else ""), f"{choice.bits_per_weight:.3f}"]
    if not rows:
        return [*first, "", "", "", "", ""]
    worst = min(rows, key=_sqnr)
    measured, predicted = (sorted(rows.column(c))[len(rows) // 2] for c in ("sqnr_db", "predicted_sqnr_db"))
    numbers = [f"{choice.damage:.4g}", f"{measured:.2f}", f"{predicted:.2f}", f"{worst['sqnr_db']:.2f}"]
    return [*first, *numbers, worst["tensor"]]


def _sqnr(row: dict[str, Any]) -> float:
    return row["sqnr_db"]


def _errors(found: Inspection) -> Iterator[Cells]:
    """SQNR of every matrix in every format; nothing where a format does not take it."""
    for (name,), rows in found.errors.groups("tensor").items():
        by_spec = {row["spec"]: row for row in rows}
        cells = [by_spec.get(choice.spec, {}).get("sqnr_db") for choice in found.uniform]
        yield [name, *("" if value is None else f"{value:.2f}" for value in cells)]


def _mixture(found: Inspection, advice: Advice) -> dict[str, Any]:
    """The best mixture under the budget, what it gains, and the format of each tensor."""
    best = advice.best_uniform
    return {
        "budget": f"{advice.budget:g}",
        "bits": f"{advice.bits_per_weight:.3f}",
        "damage": f"{advice.allocation.damage:.4g}",
        "counts": ", ".join(f"{n} × {spec}" for spec, n in counts_of(found).items()),
        "best": None if best is None or not best.damage else best.spec,
        "gain": "" if best is None else f"{advice.gain:.2f}",
        "formats": sorted(advice.allocation.formats.items()),
    }
