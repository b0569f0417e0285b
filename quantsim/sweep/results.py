"""What a sweep gives: a row for each cell and quantizer, as Python, JSON or CSV has it."""

import csv
import io
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from quantsim._types import Shape
from quantsim.populations import Population
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.rows import Rows, plain
from quantsim.sweep.chunks import Cell
from quantsim.sweep.plan import Plan
from quantsim.sweep.totals import Totals
from quantsim.theory import has_weight_theory, weight_rel_mse


class Result(Rows):
    """The rows of a sweep, one a point, and what it took.

    Attributes:
        compiles: programs that had to be compiled; fewer if this process, or JAX's cache on disk, had them already.
        seconds: from start to end.
    """

    compiles: int = 0
    seconds: float = 0.0


def predicted_sqnr_db(pop: Population, q: AbstractQuantizer, shape: Shape) -> float | None:
    """SQNR of an infinite population by ``theory.weight_rel_mse``, in dB; None where there is none.

    >>> import quantsim as qs
    >>> from quantsim.sweep import predicted_sqnr_db
    >>> round(predicted_sqnr_db(qs.populations.Normal(), qs.parse("nf4:block64"), (64, 64)), 3)
    20.726
    >>> predicted_sqnr_db(qs.populations.Normal(), qs.parse("q4_k"), (64, 256)) is None
    True
    """
    if not prod(shape) or not has_weight_theory(pop, q, shape):
        return None
    mse = weight_rel_mse(pop, q, shape)
    return float(-10 * np.log10(mse)) if mse > 0 else None


_predicted = lru_cache(2**14)(predicted_sqnr_db)  # seeds share a prediction


def rows_of(plan: Plan, cell: Cell, totals: Totals) -> Iterator[dict[str, Any]]:
    """The rows of a cell, one for each quantizer of the plan."""
    for q, stats in zip(plan.quantizers, totals.stats(), strict=True):
        row = {
            "population": str(cell.population),
            "shape": list(cell.shape),
            "seed": cell.seed,
            "spec": str(q),
            "bits_per_weight": q.bits_per_weight(cell.shape),
            **stats.result(),
        }
        if plan.predict:
            row["predicted_sqnr_db"] = _predicted(cell.population, q, cell.shape)
        yield row


def table(rows: Rows) -> str:
    """Rows as CSV: all columns, numbers with all digits.

    >>> print(table(Rows([{"spec": "int8", "shape": [4, 32], "mse": 0.1, "mse_se": float("nan")}])), end="")
    spec,shape,mse,mse_se
    int8,4x32,0.1,
    """
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = csv.writer(text, lineterminator="\n")
    out.writerow(names)
    for row in rows:
        out.writerow(_cell(plain(row.get(name))) for name in names)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "x".join(map(str, value)) if isinstance(value, list) else value
