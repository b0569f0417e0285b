"""A disk on which something happens at one of the calls that write; and a server of sweeps that can be killed.

The server, ``python -m tests.fake_disk``, has imported everything and forks a process for every line of its input, so
that a process starts in no time: [folder, seconds until it is killed, number of the call at which it kills itself].
"""

import contextlib
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

SHAPE = (4, 40)
GRID = {"populations": ["normal", "t5"], "quantizers": ["int8:tensor", "int4:block8:absmax:stochastic"]}
AXES = {"seeds": [3], "shapes": [SHAPE], "weights": 20 * 4 * 40, "predict": False}
CHUNK = 7 * 4 * 40  # weights of a device: 20 arrays are three chunks


@contextlib.contextmanager
def at_call(number, happen):
    """Calls that write are counted in the list that this gives; ``happen(what)`` comes before call ``number``.

    Of a write, half is done before. What is opened to be read is not counted.
    """
    calls, kept = [], (Path.open, Path.replace, Path.mkdir, os.fsync, os.open)

    def count(what, before=lambda: None):
        calls.append(what)
        if len(calls) == number:
            before()
            happen(what)

    def counted(what, f):
        def call(*args, **kwargs):
            count(what)
            return f(*args, **kwargs)

        return call

    def made(path, *args, **kwargs):  # once, as it calls itself for every parent
        if "mkdir" not in calls:
            count("mkdir")
        return kept[2](path, *args, **kwargs)

    def opened(path, mode="r", *args, **kwargs):
        if "w" not in mode:
            return kept[0](path, mode, *args, **kwargs)
        count("open")
        file = kept[0](path, mode, *args, **kwargs)
        write = file.write

        def written(text):
            count("write", lambda: (write(text[: len(text) // 2]), file.flush()))
            return write(text)

        file.write = written
        return file

    Path.open, Path.replace, Path.mkdir = opened, counted("replace", kept[1]), made
    os.fsync, os.open = counted("fsync", kept[3]), counted("open folder", kept[4])
    try:
        yield calls
    finally:
        Path.open, Path.replace, Path.mkdir, os.fsync, os.open = kept


def _child(folder, number):
    import quantsim as qs

    with at_call(number, lambda _: os.kill(os.getpid(), signal.SIGKILL)):
        qs.sweep(**GRID, **AXES, out=folder)


def serve():
    """Fork a sweep for every line, and say how it ended: the signal or 0, and after how many seconds."""
    from quantsim.sweep import run

    run.Engine = partial(run.Engine, chunk=CHUNK)
    for line in sys.stdin:
        folder, seconds, number = json.loads(line)
        started, process = time.monotonic(), os.fork()
        if not process:
            _child(folder, number)
            os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(json.dumps([-code, time.monotonic() - started]), flush=True)


if __name__ == "__main__":
    serve()
