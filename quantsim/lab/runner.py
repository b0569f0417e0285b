"""The runner: measures the rows of a study or loads them, draws its figure where that is not current."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from quantsim.lab import claims, keys, memory, plotting, provenance, study
from quantsim.lab.given import Given
from quantsim.rows import Rows, dumps, load, plain, save

#: Bytes of memory beyond which a run hands back what a cell has freed, and drops the programs of a study when it ends.
MOST_BYTES = 3 * 2**29

#: Bytes that a study may still hold after that: beyond them its programs are dropped between two cells, too.
MOST_WITHIN_STUDY = 2**31

#: Called with (cells done, cells in all).
Tick: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What a run did: rows "measured", "resumed" or "loaded", the figure drawn or left, in how many seconds."""

    name: str
    state: str
    drawn: bool
    seconds: float
    rows: Rows


def run(
    name: str,
    out: Path,
    *,
    small: bool = False,
    fresh: bool = False,
    given: Given | None = None,
    tick: Tick | None = None,
) -> Outcome:
    """Measure the rows of a study, or load them if they are current; draw its figure, unless that is current too.

    Finished cells are kept in ``<name>.partial.jsonl``, so an interrupted run goes on where it stopped.

    Args:
        name: study.
        out: folder for rows, provenance and figures.
        small: the small config, for a smoke test.
        fresh: measure and draw in any case.
        given: weights that are measured in the place of what the study draws itself.
        tick: called with (cells done, cells in all).

    Raises:
        OSError: if the folder cannot be written to.
        ValueError: for weights given to a study that takes none.
    """
    config, started = study.config_of(name, small, given), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    if not fresh and provenance.state_of(out, name, config).word == "current":
        how, rows = "loaded", load(out / f"{name}.jsonl")
    else:
        how, rows = _measured(name, config, out, tick)
        save(out / f"{name}.jsonl", rows)
        seconds = round(time.perf_counter() - started, 2)
        provenance.write(out, name, provenance.measured(name, config, out / f"{name}.jsonl", seconds))
        (out / f"{name}.partial.jsonl").unlink(missing_ok=True)
    draws = fresh or not provenance.figure_is_current(out, name)
    if draws:
        plotting.save(study.module(name).draw(rows), out, name)
        provenance.write(out, name, provenance.stored(out, name) | {"figure": provenance.figure(out, name)})
    memory.drop_programs_beyond(MOST_BYTES)  # below that the next study may use them again
    return Outcome(name, how, draws, time.perf_counter() - started, rows)


def _measured(name: str, config: Any, out: Path, tick: Tick | None) -> tuple[str, Rows]:
    """Rows of all cells, those that an interrupted run has finished taken from where it kept them."""
    partial, identity = out / f"{name}.partial.jsonl", keys.of_rows(name, config)
    cells = study.cells(name, config)
    if len({cell for cell, _ in cells}) < len(cells):
        raise ValueError(f"study {name} gives two of its cells one name")
    done = dict(finished(partial, identity))
    how = "resumed" if done else "measured"
    save(partial, [{"key": identity}, *({"cell": cell, "rows": rows} for cell, rows in done.items())])
    with partial.open("a", encoding="utf-8") as log:
        for at, (cell, compute) in enumerate(cells):
            if tick:
                tick(at, len(cells))
            if cell not in done:
                done[cell] = [plain(r) for r in compute()]
                log.write(dumps({"cell": cell, "rows": done[cell]}) + "\n")
                log.flush()
                if memory.give_back_beyond(MOST_BYTES):
                    memory.drop_programs_beyond(MOST_WITHIN_STUDY)
    if tick:
        tick(len(cells), len(cells))
    return how, Rows(row for cell, _ in cells for row in done[cell])


def finished(partial: Path, identity: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Cells that an interrupted run of the same key has finished; a line cut short is not one."""
    if not partial.is_file():
        return
    # a line may be cut in the middle of a character
    for at, line in enumerate(partial.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return
        if at == 0 and entry.get("key") != identity:
            return
        if at:
            yield entry["cell"], entry["rows"]


def settled(out: Path, wanted: list[str] | None = None) -> Iterator[tuple[str, tuple[claims.Claim, ...], Rows]]:
    """Study, claims and rows of every study whose rows lie in ``out``.

    Raises:
        ValueError: for rows of given weights: statements are about what studies draw and train themselves.
    """
    for name in wanted or study.names():
        if (out / f"{name}.jsonl").is_file():
            if (path := provenance.weights_of(out, name)) is not None:
                raise ValueError(f"rows of {name} in {out} are of {path} and settle nothing: name another --out")
            yield name, study.module(name).CLAIMS, load(out / f"{name}.jsonl")
