"""The strict session: four CPU devices, shapes checked at run time, no implicit rank promotion, a headless canvas.

Programs that were compiled once in the session, by whichever worker or process of it, are loaded by the others from a
folder of the session's own, empty when it starts and removed when it ends.
"""

import atexit
import os
import shutil
import sys
import tempfile

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("MPLBACKEND", "agg")

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers, and the processes that tests start, inherit the environment
    programs = tempfile.mkdtemp(prefix="quantsim-programs-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("quantsim", "beartype.beartype")

from quantsim.lab import memory

MOST_BYTES = 2**30


@pytest.fixture(scope="module", autouse=True)
def no_open_figure():
    """A module that leaves a figure open fails itself, and not the next one that looks."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """A worker that holds more than this after a module drops its programs; the folder of the session keeps them."""
    yield
    memory.drop_programs_beyond(MOST_BYTES)
