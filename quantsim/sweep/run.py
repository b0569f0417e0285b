"""Running a grid: cells in order, each from where it stopped, rows at the end."""

import csv
import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.monitoring
import numpy as np
from jax.sharding import Mesh

from quantsim._types import Shape
from quantsim.measure.statistics import ErrorStats
from quantsim.populations import Population
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.rows import Rows, plain, replace_text, save
from quantsim.sweep import hosts
from quantsim.sweep.chunks import Cell, Engine, Totals, unstacked
from quantsim.sweep.parts import MixedResultsError, Parts
from quantsim.sweep.plan import Axes, Plan
from quantsim.sweep.programs import mesh_of
from quantsim.theory import has_weight_theory, weight_rel_mse

#: Called with the weights drawn so far, those of all cells, and the name of the cell.
Report = Callable[[int, int, str], None]


class Result(Rows):
    """The rows of a sweep, one a point, and what it took: ``compiles``, ``seconds``."""

    compiles: int = 0
    seconds: float = 0.0


def measure(
    pop: Population,
    quantizers: Sequence[AbstractQuantizer],
    *,
    shape: Shape,
    arrays: int,
    seed: int = 0,
    enough: Callable[[list[ErrorStats]], bool] | None = None,
) -> list[ErrorStats]:
    """Error statistics of ``arrays`` independent arrays of one shape under every quantizer, on all local devices.

    Whole arrays are the units of the standard errors: where weights share a scale, its luck is part of the error.
    Array k is a function of (seed, population, k) alone, so results do not depend on the number of devices.

    Args:
        pop: population.
        quantizers: measured on the same arrays (common random numbers).
        shape: shape of one array, what a per-tensor scale sees.
        arrays: number of arrays at most.
        seed: seed of the run.
        enough: called after every 16 arrays with the statistics so far; true stops.

    Raises:
        ValueError: for fewer than one array.

    >>> import quantsim as qs
    >>> from quantsim.sweep import measure
    >>> (stats,) = measure(qs.populations.Normal(), [qs.parse("int8:block32")], shape=(64, 1024), arrays=8)
    >>> stats.count, abs(stats.sqnr_db - 45.44) < 0.1
    (524288, True)
    """
    if arrays < 1:
        raise ValueError(f"at least one array must be measured, got {arrays}")
    totals = Totals.of(len(quantizers))
    engine = Engine(quantizers, mesh_of(jax.local_devices()))
    for chunk in engine.chunks(Cell(pop, tuple(shape), seed, arrays)):
        for array in unstacked(*chunk):
            totals.add(*array)
            if totals.arrays % 16 == 0 and enough is not None and enough(totals.stats()):
                return totals.stats()
    return totals.stats()


def predicted_sqnr_db(pop: Population, q: AbstractQuantizer, shape: Shape) -> float | None:
    """SQNR of an infinite population by ``theory.weight_rel_mse``, in dB; None where there is no theory.

    >>> import quantsim as qs
    >>> from quantsim.sweep import predicted_sqnr_db
    >>> round(predicted_sqnr_db(qs.populations.Normal(), qs.parse("nf4:block64"), (64, 64)), 3)
    20.726
    >>> predicted_sqnr_db(qs.populations.Normal(), qs.parse("q4_k"), (64, 256)) is None
    True
    """
    if not has_weight_theory(pop, q, shape):
        return None
    mse = weight_rel_mse(pop, q, shape)
    return float(-10 * np.log10(mse)) if mse > 0 else None


_predicted = lru_cache(2**14)(predicted_sqnr_db)  # seeds share a prediction


def sweep(
    populations: Iterable[Population | str] | Population | str,
    quantizers: Iterable[AbstractQuantizer | str] | AbstractQuantizer | str,
    *,
    out: Path | str | None = None,
    mesh: Mesh | None = None,
    report: Report | None = None,
    **axes: Unpack[Axes],
) -> Result:
    """Error statistics of every quantizer on every population, shape and seed: one row a point.

    Each chunk of arrays is drawn once and measured by every quantizer (common random numbers). Programs are compiled
    for the structure of a population or quantizer, not for its numbers. Rows do not depend, to the bit, on the number
    of devices or processes, on the size of a chunk, or on interruptions.

    Args:
        populations: populations or their specs.
        quantizers: quantizers or their specs.
        out: folder in which parts are kept, so that the same call goes on where it stopped, and ``rows.jsonl`` and
            ``table.csv`` are written.
        mesh: devices to use, all of all processes by default.
        report: called after every chunk with the weights drawn, those of all cells, and the name of the cell.
        **axes: ``seeds`` (0), ``shapes`` ((256, 1024)), ``weights`` of a point (10^7), ``predict`` (True).

    Returns:
        Rows with population, shape, seed, spec, bits per weight, every metric of ``errors`` with its standard error
        and, if there is a theory, the predicted SQNR. In a job of several processes only process 0 has them.

    Raises:
        ValueError: for specs that are none, for axes that are empty, and if ``out`` holds another sweep.
        OSError: if ``out`` cannot be written; what was measured before is kept.

    >>> rows = sweep(["normal", "laplace"], ["int8:block32", "int4:block32"], weights=10**6)
    >>> [round(r["sqnr_db"] - r["predicted_sqnr_db"], 1) + 0.0 for r in rows], rows.compiles
    ([0.0, 0.0, 0.0, 0.0], 3)
    """
    return run(Plan.of(populations, quantizers, **axes), out=out, mesh=mesh, report=report)


def run(plan: Plan, *, out: Path | str | None = None, mesh: Mesh | None = None, report: Report | None = None) -> Result:
    """``sweep`` of a plan."""
    started = time.perf_counter()
    devices = mesh_of(list(mesh.devices.flat) if mesh is not None else jax.devices())
    engine, cells, writes = Engine(plan.quantizers, devices), plan.cells(), jax.process_index() == 0
    parts, totals = None, [Totals.of(len(plan.quantizers)) for _ in cells]
    try:
        if out is not None and writes:
            parts = Parts(Path(out), plan)
            totals = [parts.load(c, len(plan.quantizers)) for c in cells]
    except (ValueError, OSError):
        hosts.agreed([-1] * len(cells), devices)  # the other processes must not wait
        raise
    starts = hosts.agreed([t.arrays for t in totals], devices)
    if min(starts) < 0:
        raise MixedResultsError("process 0 cannot use its folder: its message says why")
    drawn = sum(start * prod(c.shape) for c, start in zip(cells, starts, strict=True))
    before = _COMPILES[0]
    for cell, found, start in zip(cells, totals, starts, strict=True):
        for signal, noise in engine.chunks(cell, start):
            for array in unstacked(signal, noise):
                found.add(*array)
            if parts:
                parts.save(cell, found)
            drawn += len(signal.nonzero) * prod(cell.shape)
            if report:
                report(drawn, plan.drawn, str(cell))
    compiles = _COMPILES[0] - before
    rows = Result()
    for cell, found in zip(cells, totals, strict=True) if writes else ():
        rows += _rows(plan, cell, found)
        if report and plan.predict:
            report(drawn, plan.drawn, f"theory of {cell}")
    rows.compiles, rows.seconds = compiles, time.perf_counter() - started
    if parts:
        save(Path(out or "") / "rows.jsonl", rows)
        replace_text(Path(out or "") / "table.csv", table(rows))
    return rows


def _rows(plan: Plan, cell: Cell, totals: Totals) -> Iterable[dict[str, Any]]:
    for q, stats in zip(plan.quantizers, totals.stats(), strict=True):
        row = {"population": str(cell.population), "shape": list(cell.shape), "seed": cell.seed, "spec": str(q)}
        row |= {"bits_per_weight": q.bits_per_weight(cell.shape), **stats.result()}
        yield row | ({"predicted_sqnr_db": _predicted(cell.population, q, cell.shape)} if plan.predict else {})


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
        cells = plain([row.get(name) for name in names])
        out.writerow("x".join(map(str, c)) if isinstance(c, list) else c for c in cells)
    return text.getvalue()


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take on these devices: the first chunk of every program was run to find out."""

    cells: int
    points: int
    weights: int
    compiles: int
    compile_seconds: float
    seconds: float
    device_bytes: int
    devices: str

    def __str__(self) -> str:
        """In words."""
        return (
            f"{self.cells} cells, {self.points} points, {self.weights:.4g} weights drawn, on {self.devices}\n"
            f"{self.compiles} programs, compiled in {self.compile_seconds:.0f} s\n"
            f"about {self.seconds:.0f} s of measuring, by one chunk of every program\n"
            f"about {self.device_bytes / 1e6:.0f} MB of arrays on a device"
        )


def estimate(plan: Plan, mesh: Mesh | None = None) -> Estimate:
    """Compile every program of a plan, time one chunk of each, and add up: time, without predictions, and memory.

    The memory of a device is that of its arrays, twice, as the next chunk is drawn meanwhile, and of a copy of one.
    """
    devices = mesh_of(list(mesh.devices.flat) if mesh is not None else jax.devices())
    engine, cells = Engine(plan.quantizers, devices), plan.cells()
    costs: dict[Any, float] = {}
    compiling = seconds = 0.0
    for cell in cells:
        kind = engine.programs([cell])
        if kind_key := frozenset(kind) if frozenset(kind) not in costs else None:
            start = time.perf_counter()
            jax.block_until_ready(engine.launch(cell, 0))
            again = time.perf_counter()
            jax.block_until_ready(engine.launch(cell, 0))
            costs[kind_key] = time.perf_counter() - again
            compiling += again - start - costs[kind_key]
        seconds += costs[frozenset(kind)] * -(-cell.arrays // engine.layout(cell).arrays)
    held = max((2 * engine.layout(c).per_device + 1) * prod(c.shape) * 4 for c in cells)
    compiles = len(engine.programs(cells))
    return Estimate(len(cells), plan.points, plan.drawn, compiles, compiling, seconds, held, hosts.devices())


_COMPILES = [0]


def _count(event: str, *_: Any, **__: Any) -> None:
    _COMPILES[0] += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)
