"""A disk on which something happens at one of the calls that write, and the sweep that the tests write to it."""

import contextlib
import os
from pathlib import Path

import jax

SHAPE = (4, 40)
#: One program draws both populations, one measures both quantizers.
GRID = {
    "populations": ["normal", "normal(std=2)"],
    "quantizers": ["int3:block8:absmax:stochastic", "int4:block8:absmax:stochastic"],
}
CELLS = [f"{population}, 4x40, seed 3" for population in GRID["populations"]]
AXES = {"seeds": [3], "shapes": [SHAPE], "weights": 20 * 4 * 40, "predict": False}
CHUNK = 7 * 4 * 40  # weights of a device: 20 arrays are three chunks


def without_waiting(_):
    """In place of ``os.fsync``: a process that ends, however it ends, leaves what it has written to the system."""


def _is_of_jax(path):
    """Whether a file belongs to JAX's cache of compiled programs: those may be written at any time."""
    cache = jax.config.jax_compilation_cache_dir
    return cache is not None and Path(path).is_relative_to(cache)


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
        if "mkdir" not in calls and not _is_of_jax(path):
            count("mkdir")
        return kept[2](path, *args, **kwargs)

    def opened(path, mode="r", *args, **kwargs):
        if "w" not in mode or _is_of_jax(path):
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
