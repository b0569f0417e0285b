"""Processes that start in no time: a server that has imported everything forks one for each sweep or command.

The server, ``python -m tests.forks``, has no backend of JAX yet, so that each child chooses its own devices and joins
its own job. A line of its input is a request, a line of its output the answer: the number of a process that started,
or how a process ended and after how many seconds.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path


@cache
def server():
    """The server of this process; it ends with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forks"],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)
    return process


def _asked(**request):
    process = server()
    print(json.dumps(request), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


class Fork:
    """A sweep or a command in a process of its own, under way."""

    def __init__(self, folder, **request):
        folder.mkdir(parents=True, exist_ok=True)
        self._said = folder / "stdout", folder / "stderr"
        self.pid = _asked(start=request | {"said": [str(path) for path in self._said]})

    def kill_after(self, seconds):
        """At most so many seconds after its start."""
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGKILL)

    def ended(self):
        """How it ended, 0 or minus a signal, after how many seconds, and what it said on stdout and stderr."""
        code, seconds = _asked(wait=self.pid)
        return code, seconds, *(path.read_text(encoding="utf-8") for path in self._said)


# --- in the server --------------------------------------------------------------------------------------------------

_TIMEOUT = 120


def _started(said, devices, chunk, **what):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            for path, at in zip(said, (1, 2), strict=True):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), at)
            code = _in_child(devices, chunk, **what)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


def _in_child(devices, chunk, *, kill_at=0, reads_only=False, draws=None, **work):
    import jax

    from quantsim.sweep import chunks, parts, programs
    from tests.fake_disk import at_call, without_waiting

    jax.config.update("jax_num_cpu_devices", devices)
    programs.CHUNK_ON_CPU, os.fsync = chunk, without_waiting
    chunks.cores = lambda: devices  # as many threads
    if draws is not None:  # already found out, and the same in every process
        parts.self_test = lambda: draws
    if reads_only:  # killed while it writes to JAX's cache, it would leave half a program there
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 3600)
    signal.alarm(_TIMEOUT)
    with at_call(kill_at, lambda _: os.kill(os.getpid(), signal.SIGKILL)):
        return _done(**work)


def _done(*, sweep=None, command=None):
    """Code of a sweep or a command when it has ended."""
    import quantsim as qs
    from quantsim import cli

    if sweep is not None:
        qs.sweep(**sweep)
        return 0
    try:
        cli.main(command)
    except SystemExit as end:
        return end.code
    return 0


def _serve():
    import quantsim.cli  # noqa: F401

    started = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            at = time.monotonic()
            answer = _started(**request["start"])
            started[answer] = at
        else:
            code = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            answer = code, time.monotonic() - started[request["wait"]]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
