"""Measuring one population, or a whole grid: chunks are folded into totals, totals become rows."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, Unpack

import jax
from jax.sharding import Mesh

from quantsim._types import Shape
from quantsim.measure.statistics import ErrorStats
from quantsim.populations import Population
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.rows import replace_text, save
from quantsim.sweep import arguments, hosts, programs
from quantsim.sweep.chunks import Cell, Engine, unstacked
from quantsim.sweep.parts import MixedResultsError, Parts
from quantsim.sweep.plan import Axes, Plan, check_shape
from quantsim.sweep.results import Result, rows_of, table
from quantsim.sweep.totals import Totals

#: Called with the weights drawn so far, those of all cells, and the name of the cell.
Report = Callable[[int, int, str], None]
Several = Sequence[AbstractQuantizer | str] | AbstractQuantizer | str

_ASKED_EVERY = 16  # arrays, between two questions whether the statistics are good enough


def measure(
    pop: Population | str,
    quantizers: Several,
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
        pop: population or its spec.
        quantizers: quantizers or their specs, measured on the same arrays (common random numbers).
        shape: shape of one array, what a per-tensor scale sees.
        arrays: number of arrays at most.
        seed: seed of the run.
        enough: called after every 16 arrays with the statistics so far; true stops.

    Raises:
        TypeError: for what is no population or quantizer.
        ValueError: for fewer than one array, a seed that is no 32-bit number, a shape that a quantizer does not take.

    >>> from quantsim.sweep import measure
    >>> (stats,) = measure("normal", ["int8:block32"], shape=(64, 1024), arrays=8)
    >>> stats.count, abs(stats.sqnr_db - 45.44) < 0.1
    (524288, True)
    """
    cell, parsed = _cell(pop, shape, seed, arrays), arguments.quantizers(quantizers)
    if not parsed:
        raise ValueError("at least one quantizer must be measured")
    for q in parsed:
        check_shape(cell.shape, q)
    totals = Totals.of(len(parsed))
    engine = Engine(parsed, programs.mesh_of(jax.local_devices()))
    for _, signal, noise in engine.chunks([(cell, 0)]):
        for array in unstacked(signal, noise):
            totals.add(*array)
            if enough is not None and totals.arrays % _ASKED_EVERY == 0 and enough(totals.stats()):
                return totals.stats()
    return totals.stats()


def _cell(pop: Any, shape: Any, seed: Any, arrays: Any) -> Cell:
    """The cell of these arguments, checked."""
    (population,) = arguments.populations([pop])
    cell = Cell(
        population,
        arguments.shape(shape),
        arguments.whole(seed, "the seed"),
        arguments.whole(arrays, "the number of arrays"),
    )
    if cell.arrays < 1:
        raise ValueError(f"at least one array must be measured, got {arrays}")
    return cell


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
        populations: populations or their specs, or one.
        quantizers: quantizers or their specs, or one.
        out: folder in which parts are kept, so that the same call goes on where it stopped, and ``rows.jsonl`` and
            ``table.csv`` are written.
        mesh: devices to use, all of all processes by default, whatever ``jax.set_mesh`` says.
        report: called after every chunk with the weights drawn, those of all cells, and the name of the cell.
        **axes: ``seeds`` (0), ``shapes`` ((256, 1024)), ``weights`` of a point (10^7), ``predict`` (True).

    Returns:
        Rows with population, shape, seed, spec, bits per weight, every metric of ``ErrorStats`` with its standard error
        and, if there is a theory, the predicted SQNR; and the attributes ``compiles`` and ``seconds``. In a job of
        several processes only process 0 has the rows.

    Raises:
        TypeError: for what is no population, quantizer, seed, shape, mesh or function.
        ValueError: for specs that are none, for axes that are empty, and if ``out`` holds another sweep.
        OSError: if ``out`` cannot be written; what was measured before is kept.

    >>> rows = sweep(["normal", "laplace"], ["int8:block32", "int4:block32"], weights=10**6)
    >>> [round(r["sqnr_db"] - r["predicted_sqnr_db"], 1) + 0.0 for r in rows]
    [0.0, 0.0, 0.0, 0.0]
    """
    return run(Plan.of(populations, quantizers, **axes), out=out, mesh=mesh, report=report)


def run(plan: Plan, *, out: Path | str | None = None, mesh: Mesh | None = None, report: Report | None = None) -> Result:
    """``sweep`` of a plan.

    1. What a folder has of each cell is loaded, and all processes agree from which array on a cell is measured.
    2. Cell after cell, chunk after chunk is measured and folded into the cell's totals, which are stored after each.
    3. Process 0 makes rows of the totals and writes them.
    """
    _check_kinds(out, mesh, report)
    started = time.perf_counter()
    devices = programs.mesh_of(list(mesh.devices.flat) if mesh is not None else jax.devices())
    parts, totals, starts = _stored(plan, out, devices)
    engine, cells, compiled = Engine(plan.quantizers, devices), plan.cells(), programs.compiles_so_far()
    drawn = sum(start * prod(cell.shape) for cell, start in zip(cells, starts, strict=True))
    for place, signal, noise in engine.chunks(zip(cells, starts, strict=True)):
        cell, found = cells[place], totals[place]
        for array in unstacked(signal, noise):
            found.add(*array)
        if parts:
            parts.save(cell, found)
        drawn += len(signal.nonzero) * prod(cell.shape)
        if report:
            report(drawn, plan.drawn, str(cell))
    compiles = programs.compiles_so_far() - compiled
    rows = _rows(plan, totals, report) if jax.process_index() == 0 else Result()
    rows.compiles, rows.seconds = compiles, time.perf_counter() - started
    if out is not None and parts:
        save(Path(out) / "rows.jsonl", rows)
        replace_text(Path(out) / "table.csv", table(rows))
    return rows


def _check_kinds(out: object, mesh: object, report: object) -> None:
    if not isinstance(out, str | os.PathLike | None):
        raise TypeError(f"out of a sweep is a folder, not {out!r}")
    if not isinstance(mesh, Mesh | None):
        raise TypeError(f"mesh of a sweep is a jax.sharding.Mesh of devices, not {mesh!r}")
    if report is not None and not callable(report):
        raise TypeError(f"report of a sweep is a function of weights drawn, of all, and a name, not {report!r}")


def _stored(plan: Plan, out: Path | str | None, devices: Mesh) -> tuple[Parts | None, list[Totals], list[int]]:
    """The parts of a folder, the totals of each cell so far, and how many arrays process 0 has in each.

    Only process 0 reads and writes: the totals of the others are of what they see, and nobody asks for them.
    """
    parts, totals = None, [Totals.of(len(plan.quantizers)) for _ in plan.cells()]
    try:
        if out is not None and jax.process_index() == 0:
            with jax.set_mesh(devices):  # whichever mesh the caller has set
                parts = Parts(Path(out), plan)
            totals = [parts.load(cell, len(plan.quantizers)) for cell in plan.cells()]
    except (ValueError, OSError):
        hosts.agreed([-1] * len(totals), devices)  # the other processes must not wait
        raise
    starts = hosts.agreed([found.arrays for found in totals], devices)
    if min(starts) < 0:
        raise MixedResultsError("process 0 cannot use its folder: its message says why")
    return parts, totals, starts


def _rows(plan: Plan, totals: Sequence[Totals], report: Report | None) -> Result:
    """A row a point; theory, where rows carry it, takes longer than the rest, so each cell is reported."""
    rows = Result()
    for cell, found in zip(plan.cells(), totals, strict=True):
        rows += rows_of(plan, cell, found)
        if report and plan.predict:
            report(plan.drawn, plan.drawn, f"theory of {cell}")
    return rows
