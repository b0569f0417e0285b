"""Stale rows, confirmed: where code changed and numbers should not have, some cells are measured again and compared.

To measure all studies again takes hours. Where code was only moved or made faster, a part of each says whether rows are
still those that the code gives: cells that are measured again give the stored numbers, or, on any machine, the numbers
that a checkout of the code that measured them gives there. Provenance then holds, beside the new key, which cells were
measured again, and the key that the rows were measured under.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantsim.lab import keys, memory, other_code, provenance, study
from quantsim.lab.runner import MOST_BYTES
from quantsim.rows import dumps, load, plain

#: How far a number may move: of its size, as float32 sums in the order of another processor's products do; or of its
#: standard error, where the row has one, which samplers and training make of them and no figure shows.
MOST, MOST_OF_SE = 1e-5, 0.1
#: How far a standard error may move, of its size: that of n units is itself uncertain by 1 / sqrt(2 n).
MOST_BY_SE = 0.02
#: How far a number may move from that of other code on the same machine, of its size, and decibels, which are
#: logarithms, as they are: the last digits of predictions, of their differences too.
MOST_BY_CODE = 1e-9


class OtherRowsError(ValueError):
    """A cell that was measured again gives other rows than those that are stored."""


@dataclass(frozen=True)
class Confirmation:
    """What confirmed the rows of a study: these cells, of so many, in so many seconds."""

    name: str
    cells: tuple[str, ...]
    of: int
    seconds: float


def confirm(name: str, out: Path, *, seconds: float, against: Path | None = None) -> Confirmation:
    """Measure cells of a study again, for about so many seconds and at least one, and take its stored rows as current.

    Which cells come first is decided by the hash of their names with the new key: nobody chooses them, and after the
    next change it is others.

    Args:
        name: study.
        out: folder of the rows.
        seconds: time for the cells.
        against: a checkout of the code that measured the rows, whose numbers on this machine count, to
            ``MOST_BY_CODE``. Without, the stored numbers do, to ``MOST`` and what their standard errors allow.

    Raises:
        ValueError: for rows that are current, missing or edited, measured with another config, or times; for a checkout
            whose code did not measure them.
        OtherRowsError: if a number moves further; the rows stay stale.
    """
    config = study.config_of(name, small=False)
    _require_stale(name, out, config)
    started, about = time.perf_counter(), provenance.stored(out, name)
    found = _measured_again(name, config, seconds)
    if against is None:
        stored = [json.loads(dumps(row)) for row in load(out / f"{name}.jsonl")]
        moved = [cell for cell, rows in found.items() if not _holds(stored, rows)]
    else:
        other = other_code.rows_by(against, name, list(found))
        if other.key != (about.get("measured_by") or about)["key"]:
            raise ValueError(f"the code in {against} did not measure the rows of {name} in {out}: take that which did")
        moved = [cell for cell, rows in found.items() if not _alike(other.cells[cell], rows, by_code=True)]
    if moved:
        raise OtherRowsError(
            f"rows of {name} stay stale: its cell {moved[0]!r} gives other rows than "
            f"{f'{out / name}.jsonl holds' if against is None else f'the code in {against}'}. Run `quantsim run {name}`"
        )
    taken, of = round(time.perf_counter() - started, 2), len(study.cells(name, config))
    by = "stored rows" if against is None else "the code that measured them, on one machine"
    provenance.write(out, name, provenance.confirmed(about, name, config, list(found), by=f"{by}, of {of} cells"))
    memory.drop_programs_beyond(MOST_BYTES)
    return Confirmation(name, tuple(found), of, taken)


def _measured_again(name: str, config: Any, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Rows of the first cells by the hash of their names, until the time is up; of one that has rows, at least."""
    key, cells = keys.of_rows(name, config), study.cells(name, config)
    cells.sort(key=lambda cell: hashlib.sha256(f"{key} {cell[0]}".encode()).hexdigest())
    started, found = time.perf_counter(), {}
    for cell, compute in cells:
        if rows := [json.loads(dumps(plain(row))) for row in compute()]:
            found[cell] = rows
        if found and time.perf_counter() - started >= seconds:
            break
    return found


def _require_stale(name: str, out: Path, config: Any) -> None:
    found, about = provenance.state_of(out, name, config), provenance.stored(out, name)
    if found.word != "stale":
        raise ValueError(f"rows of {name} are {found.word}; what is confirmed is stale rows. {found.why}".strip())
    if about.get("config") != provenance.written(config):
        raise ValueError(f"rows of {name} were measured with another config: run `quantsim run {name}`")
    if not provenance.are_as_measured(out, name):
        raise ValueError(f"rows of {name} were edited: run `quantsim run {name}`")
    if study.measures_time(name):
        raise ValueError(f"rows of {name} are times, which other code changes: run `quantsim run {name}`")


def _holds(rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> bool:
    """Whether ``found`` stands among ``rows``, one after another.

    >>> _holds([{"a": 1.0}, {"a": 2.0}, {"a": 3.0}], [{"a": 2.0}, {"a": 3.0 + 1e-7}])
    True
    >>> _holds([{"a": 1.0}, {"a": 2.0}], [{"a": 2.001}]), _holds([{"a": 2.0, "a_se": 0.1}], [{"a": 2.001, "a_se": 0.1}])
    (False, True)
    """
    starts = range(len(rows) - len(found) + 1)
    return any(all(_same_row(*pair) for pair in zip(rows[k : k + len(found)], found, strict=True)) for k in starts)


def _same_row(a: dict[str, Any], b: dict[str, Any], *, by_code: bool = False) -> bool:
    within = {k: MOST_BY_CODE * k.endswith("_db") if by_code else _within(a, k) for k in a}
    return a.keys() == b.keys() and all(_alike(a[k], b[k], within=within[k], by_code=by_code) for k in a)


def _within(row: dict[str, Any], column: str) -> float:
    """How far a number of a row may move beyond its last digits."""
    if column.endswith("_se"):
        share, found = MOST_BY_SE, row[column]
    else:
        share, found = MOST_OF_SE, row.get(f"{column}_se")
    return share * found if isinstance(found, float) and math.isfinite(found) else 0.0


def _alike(a: Any, b: Any, *, within: float = 0.0, by_code: bool = False) -> bool:
    """Whether values are the same but for last digits.

    >>> [_alike({k: 4e-6}, {k: 4e-6 + 5e-12}, by_code=True) for k in ("gain_db", "mse")]
    [True, False]
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return _same_row(a, b, by_code=by_code)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_alike(*pair, by_code=by_code) for pair in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        most = MOST_BY_CODE if by_code else MOST
        return math.isclose(a, b, rel_tol=most, abs_tol=within) or (math.isnan(a) and math.isnan(b))
    return a == b
