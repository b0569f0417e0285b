"""The command that confirms stale rows by a part of them."""

from pathlib import Path

from quantsim.cli import terminal
from quantsim.cli.endings import CheckFailedError
from quantsim.cli.studies import Names


def confirm(
    names: Names = (), seconds: float = 20.0, against: Path | None = None, out: Path = Path("paper_figures")
) -> None:
    """Confirm stale rows after a change of code that moves no number: some cells are measured again and compared.

    Rows that were measured by other code become current if cells of theirs, as many as take the seconds, give the same
    numbers; which cells is written beside them. Others stay stale. The same are the stored numbers, to 1e-5 or a tenth
    of a standard error, or, with --against, those that the other code gives on this machine, to 1e-9.

    Args:
        names: studies, by default all whose rows are stale, but for those that measure times or the real model.
        seconds: for each study, at least; one cell may take longer.
        against: a checkout of the code that measured the rows (`git worktree add FOLDER COMMIT`).
        out: folder of the results.
    """
    from quantsim.lab import confirming, provenance, study

    if seconds < 0:
        raise ValueError(f"--seconds is a time, not {seconds:g}")
    wanted = [
        name
        for name in names or study.names()
        if names
        or (
            provenance.state(out, name).word == "stale"
            and not study.measures_time(name)
            and not study.needs_real_model(name)
        )
    ]
    failed = []
    for name in wanted:
        try:
            found = confirming.confirm(name, out, seconds=seconds, against=against)
        except confirming.OtherRowsError as other:
            terminal.say(str(other))
            failed.append(name)
            continue
        print(f"{name}: {len(found.cells)} of {found.of} cells, the same rows, {found.seconds:.1f} s", flush=True)
    if failed:
        raise CheckFailedError(f"rows of {', '.join(failed)} stay stale: run `quantsim run {' '.join(failed)}`")
