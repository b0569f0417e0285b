"""Memory of a process, as Linux counts it."""

from pathlib import Path


def most_resident():
    """Most bytes that this program has had in memory.

    Not ru_maxrss of getrusage, which begins with that of the process that started this one: where a test session is
    large, growth would be counted as none.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
