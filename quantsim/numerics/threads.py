"""Several parts of one task at once, on the cores that there are."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def by_threads(f: Callable[[Part], Result], parts: Sequence[Part], *, threads: int) -> list[Result]:
    """``[f(part) for part in parts]`` by the calling thread and others that help it, so many in all.

    Each takes the next part when it is done with one, so a helper that starts late, or not at all, delays nobody. An
    error or an interrupt ends the work when the parts that are under way are done, and is raised here.

    >>> by_threads(abs, [-3, 2, -1], threads=2)
    [3, 2, 1]
    """
    left, found = deque(enumerate(parts)), dict[int, Result]()

    def work() -> None:
        try:
            while taken := _next(left):
                place, part = taken
                found[place] = f(part)
        except BaseException:
            left.clear()
            raise

    helpers: list[Future[None]] = []
    try:
        with suppress(RuntimeError):  # no thread starts when the interpreter ends
            for _ in range(min(threads, len(parts)) - 1):
                helpers.append(_pool(threads - 1).submit(work))
        work()
    finally:
        left.clear()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
    return [found[place] for place in range(len(parts))]


def _next(left: deque[Part]) -> Part | None:
    try:
        return left.popleft()
    except IndexError:  # another may have taken the last
        return None


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    """Threads that wait for work, and end with the interpreter; to start them takes longer than a small task."""
    return ThreadPoolExecutor(helpers, "quantsim")
