"""Studies side by side, each in a process of its own: nearly all of a run is compilation, which one core does."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax

from quantsim.cli import programs

#: Called with (study, cells done, cells in all).
Report = Callable[[str, int, int], None]

_SECONDS_BETWEEN_REPORTS = 0.2
_ticks: Any = None  # in a process of a study, where it tells how far it is


def run(names: Sequence[str], folder: Path, jobs: int, report: Report, **options: Any) -> Iterator[Any]:
    """The ``Outcome`` of each study as soon as it is there, so many at a time.

    Args:
        names: studies.
        folder: of the results.
        jobs: processes at a time.
        report: told of every cell that a study has finished.
        options: of ``runner.run``.

    Raises:
        Exception: what a study raised; the others are ended, and keep the cells that they have finished.
    """
    context = multiprocessing.get_context("spawn")  # a forked JAX hangs
    ticks = context.SimpleQueue()
    devices = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    with ProcessPoolExecutor(jobs, context, _start, (ticks, devices)) as pool:
        waiting: set[Future] = {pool.submit(_one, name, folder, options) for name in names}
        try:
            while waiting:
                done, waiting = wait(waiting, _SECONDS_BETWEEN_REPORTS, FIRST_COMPLETED)
                while not ticks.empty():
                    report(*ticks.get())
                yield from (future.result() for future in done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _start(ticks: Any, devices: int) -> None:
    """A process starts: as the command does, but Ctrl-C ends it without a word; the command speaks for all."""
    global _ticks
    _ticks = ticks
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    jax.config.update("jax_num_cpu_devices", devices)
    programs.keep()


def _end_with_the_command() -> None:
    """A command that is killed has no time to end its processes."""
    command = multiprocessing.parent_process()
    assert command is not None
    command.join()
    os._exit(1)


def _one(name: str, folder: Path, options: dict[str, Any]) -> Any:
    from quantsim.lab import runner

    return runner.run(name, folder, **options, tick=lambda done, total: _ticks.put((name, done, total)))
