"""Commands on studies: what there is, measuring and drawing, the ledger. Their drawing library is slow to import."""

from pathlib import Path
from typing import Any, TypeAlias

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quantsim.cli import terminal
from quantsim.cli.endings import CheckFailedError
from quantsim.cli.terminal import Flag
from quantsim.rows import replace_text

Names: TypeAlias = tyro.conf.Positional[tuple[str, ...]]
_OUT = Path("paper_figures")


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


def run(names: Names = (), small: Flag = False, fresh: Flag = False, out: Path = _OUT) -> None:
    """Run studies, all by default: rows, provenance, figures and the ledger. What is current is loaded, not redone.

    Args:
        names: studies to run.
        small: small sizes, into the folder small/ below the output.
        fresh: measure and draw in any case, also what could be loaded.
        out: folder of the results.
    """
    from quantsim.lab import claims, runner, study

    wanted, folder = list(names) or study.names(), out / "small" if small else out
    for name in wanted:
        study.module(name)
    columns = TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in wanted:
            _run_one(progress, name, folder, small=small, fresh=fresh)
    entries = claims.ledger(runner.settled(folder))
    replace_text(folder / "claims.json", claims.to_json(entries))
    replace_text(folder / "claims.md", claims.to_markdown(entries))


def _run_one(progress: Progress, name: str, folder: Path, *, small: bool, fresh: bool) -> None:
    from quantsim.lab import runner, study

    task = progress.add_task(name, total=None)

    def tick(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    found = runner.run(name, folder, small=small, fresh=fresh, tick=tick)
    if found.state == "loaded":
        tick(1, 1)
    how = "loaded (key matches)" if found.state == "loaded" else found.state
    figure = "drawn" if found.drawn else "current"
    where = f"{folder / name}.pdf .svg .png"
    print(f"{name}: {how}, {len(found.rows)} rows, figure {figure}, {found.seconds:.1f} s -> {where}", flush=True)
    if said := study.summary(name, found.rows):
        print(said, flush=True)


def show_claims(check: Flag = False, json: Flag = False, out: Path = _OUT) -> None:
    """Every statement of the documents with its verdict.

    Args:
        check: recompute all verdicts from the rows and fail if the stored ledger differs, or if rows are missing, were
            measured by other code, or are not those that were measured.
        json: print JSON.
        out: folder of the results.
    """
    from quantsim.lab import claims, runner

    entries = claims.ledger(runner.settled(out))
    if check:
        _check_ledger(entries, out)
    if json:
        print(terminal.json_text(entries))
        return
    cells = [(e["id"], e["verdict"], claims.number_text(e), e.get("study", ""), e["statement"]) for e in entries]
    print(terminal.table(("id", "verdict", "number", "study", "statement"), cells, last=max(24, Console().width - 58)))
    print(f"\n{claims.settled_count(entries)} of {len(entries)} statements settled; definitions with --json")


def _check_ledger(entries: list[dict[str, Any]], out: Path) -> None:
    from quantsim.lab import claims, provenance, study

    wrong = []
    for name in study.names():
        found = provenance.state(out, name)
        if found.word != "current":
            wrong.append(f"rows of {name} are {found.word} ({found.why}): run `quantsim run {name}`")
    stored = {"claims.json": claims.to_json(entries), "claims.md": claims.to_markdown(entries)}
    for file, text in stored.items():
        if not (out / file).is_file() or (out / file).read_text(encoding="utf-8") != text:
            wrong.append(f"{out / file} differs from what its rows give: run `quantsim run`")
    if wrong:
        raise CheckFailedError("\n".join(wrong))
    terminal.say(f"ledger checked: {claims.settled_count(entries)} verdicts recomputed, 0 differ")
