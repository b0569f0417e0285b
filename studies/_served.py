"""Processes of their own for what a process must not share: its cores and devices, and its peak of memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import jax

from quantsim.populations import Normal
from quantsim.quantizer import parse
from quantsim.sweep import chunks, programs
from quantsim.sweep.totals import Totals

SHAPE = (256, 1024)
SPEC = "int8:block32"
#: Environment that says on how many cores a process may run.
_CORES = "QUANTSIM_SERVED_CORES"
#: What a process runs; it finds its module as a study's neighbour, wherever the studies lie.
_CODE = "from quantsim.lab import study; study.module('throughput').{module}.serve()"

#: From a question to what was found; the question of a sweep is its number of weights.
Ask = Callable[[Any], dict[str, Any]]


@contextmanager
def answering(module: str, **environment: str) -> Iterator[Ask]:
    """A process in which ``serve`` of a neighbour answers each line, a question in JSON, by a line."""
    command = [sys.executable, "-c", _CODE.format(module=module)]
    with subprocess.Popen(
        command, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(question: Any) -> dict[str, Any]:
            assert process.stdout
            print(json.dumps(question), file=process.stdin, flush=True)
            if not (answer := process.stdout.readline()):
                raise RuntimeError(f"the process of {module} ended without an answer to {question!r}")
            return json.loads(answer)

        yield ask


def serving(cores: int | None = None, devices: int = 1) -> AbstractContextManager[Ask]:
    """A process that sweeps as many weights as it is asked to, with so many CPU devices, on so many cores or on all."""
    chosen = {} if cores is None else {_CORES: str(cores)}
    return answering("_served", JAX_NUM_CPU_DEVICES=str(devices), XLA_PYTHON_CLIENT_PREALLOCATE="false", **chosen)


def serve() -> None:
    """Answer each line of the standard input, a number of weights, by what sweeping so many takes."""
    if chosen := os.environ.get(_CORES):  # before JAX starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(chosen)])
    for line in sys.stdin:
        print(json.dumps(swept(json.loads(line))), flush=True)


def swept(weights: int) -> dict[str, Any]:
    """Seconds of a sweep of one quantizer, compiled before, and the peak of memory of this process so far."""
    cell = chunks.Cell(Normal(), SHAPE, 0, -(-weights // prod(SHAPE)))
    engine, totals = chunks.Engine([parse(SPEC)], programs.mesh_of(jax.devices())), Totals.of(1)
    jax.block_until_ready(engine.launch(cell, 0))
    start = time.perf_counter()
    for _, signal, noise in engine.chunks([(cell, 0)]):
        for array in chunks.unstacked(signal, noise):
            totals.add(*array)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_gb": peak_gb(), "sqnr_db": totals.stats()[0].sqnr_db}


def peak_gb() -> float | None:
    """Most memory at any time: of the accelerator, or of this process, where the system is Linux and says so.

    Not getrusage: its ru_maxrss begins with that of the process that started this one.
    """
    if found := jax.devices()[0].memory_stats():  # None on CPU
        return found["peak_bytes_in_use"] / 1e9
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), None)
