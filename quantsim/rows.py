"""Measured rows: one flat dict each, one JSON object a line."""

import contextlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class Rows(list[dict[str, Any]]):
    """A list of rows that can be filtered and read by column.

    >>> rows = Rows([{"spec": "int8", "sqnr_db": 42.0}, {"spec": "int4", "sqnr_db": 20.0}])
    >>> rows.where(spec="int4").one("sqnr_db"), rows.column("sqnr_db").tolist()
    (20.0, [42.0, 20.0])
    """

    def where(self, **equal: Any) -> "Rows":
        """Rows whose columns have these values."""
        return Rows(r for r in self if all(r.get(k) == v for k, v in equal.items()))

    def column(self, name: str) -> np.ndarray:
        """Values of a column, NaN where there is no number."""
        return np.array([np.nan if r.get(name) is None else r[name] for r in self])

    def one(self, name: str) -> Any:
        """Value of a column in the only row there is.

        Raises:
            LookupError: if there is not exactly one row.
        """
        if len(self) != 1:
            raise LookupError(f"{len(self)} rows where one is needed for {name!r}")
        return self[0][name]

    def values(self, name: str) -> list[Any]:
        """Distinct values of a column, in order of appearance."""
        return list(dict.fromkeys(r[name] for r in self if name in r))

    def by(self, name: str, value: str) -> dict[Any, Any]:
        """Values of one column by those of another, for example the error of each method in one case.

        >>> Rows([{"spec": "int8", "sqnr_db": 42.0}, {"spec": "int4", "sqnr_db": 20.0}]).by("spec", "sqnr_db")
        {'int8': 42.0, 'int4': 20.0}
        """
        return {r[name]: r[value] for r in self}

    def groups(self, *names: str) -> "dict[tuple[Any, ...], Rows]":
        """The rows of each combination of values that these columns take, in order of appearance.

        >>> rows = Rows({"rate": r, "spec": s} for r in (0.1, 0.2) for s in ("int8", "int4"))
        >>> [(at, len(group)) for at, group in rows.groups("rate").items()]
        [((0.1,), 2), ((0.2,), 2)]
        """
        found: dict[tuple[Any, ...], Rows] = {}
        for r in self:
            found.setdefault(tuple(r[name] for name in names), Rows()).append(r)
        return found

    def grid(self, *, x: str, y: str, value: str) -> "Grid":
        """A column as a matrix over two others, one row of it for each distinct ``y``; NaN, or "", where no row is.

        >>> rows = Rows({"rate": r, "size": s, "error": r * s} for s in (1, 10) for r in (2, 3, 4))
        >>> rows.grid(x="rate", y="size", value="error").values.tolist()
        [[2.0, 3.0, 4.0], [20.0, 30.0, 40.0]]
        """
        xs, ys = self.values(x), self.values(y)
        texts = any(isinstance(r[value], str) for r in self)
        values = np.full((len(ys), len(xs)), "" if texts else np.nan, object if texts else float)
        for r in self:
            if r[value] is not None:
                values[ys.index(r[y]), xs.index(r[x])] = r[value]
        return Grid(xs, ys, values)

    def to_pandas(self) -> Any:
        """The rows as a pandas data frame.

        Raises:
            ImportError: if pandas is not installed; nothing else needs it.
        """
        try:
            import pandas as pd  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("a data frame needs pandas: pip install pandas") from None
        return pd.DataFrame(list(self))


@dataclass(frozen=True)
class Grid:
    """A column of rows over two others: ``values[k, j]`` at ``ys[k]`` and ``xs[j]``."""

    xs: list[Any]
    ys: list[Any]
    values: np.ndarray


def plain(value: Any) -> Any:
    """A value as JSON has it: NumPy scalars and arrays unwrapped, numbers that JSON lacks as null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumps(row: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False)


def load(path: Path) -> Rows:
    """Rows of a file."""
    with path.open(encoding="utf-8") as lines:  # not splitlines: a string may hold other separators than \n
        return Rows(json.loads(line) for line in lines)


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: under another name, synced, then renamed.

    Raises:
        OSError: if it cannot be written; a file that was there is left as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as failure:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(failure, OSError) and failure.filename is None:  # of a write or a sync the system does not say it
            failure.filename = str(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last; where folders cannot be opened, as on Windows, renames last by themselves."""
    if os.name == "nt":
        return
    at = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def save(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, whole or not at all."""
    replace_text(path, "".join(dumps(r) + "\n" for r in rows))
