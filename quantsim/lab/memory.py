"""How much memory this process holds, and how compiled programs are dropped when it is much."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import jax


def held_bytes() -> int | None:
    """Memory that this process holds, where the system says it.

    >>> held_bytes() is None or held_bytes() > 2**24
    True
    """
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.is_file() else None


def give_back_beyond(most: int) -> bool:
    """Hand freed memory back to the system if the process holds more bytes than that; whether it did.

    glibc keeps what was freed: a process that quantized one model after another would hold a second one for ever.
    """
    held = held_bytes()
    if held is None or held <= most:
        return False
    gc.collect()
    if sys.platform == "linux":
        _give_back()
    return True


def drop_programs_beyond(most: int) -> bool:
    """Drop all that was compiled if the process holds more bytes than that, or nobody knows; whether it did.

    What is dropped is compiled again when it is called again. Freed memory goes back to the system, where its
    allocator can be asked to: glibc keeps it otherwise, and the next question would find as much held as before.
    """
    held = held_bytes()
    if held is not None and held <= most:
        return False
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        _give_back()
    return True


def _give_back() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
