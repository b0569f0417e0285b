"""Work on several parts at a time, their results in order: a chunk alone does not keep every core busy."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_workers(), "quantsim-inspect")


def _workers() -> int:
    return min(os.cpu_count() or 1, 16)


def in_order(f: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """``map(f, parts)`` in threads, at most one part ahead of each: bounded memory whatever the number of parts.

    >>> list(in_order(abs, iter([-2, 1])))
    [2, 1]
    """
    running: deque[Future[Result]] = deque()
    try:
        for part in parts:
            running.append(_pool().submit(f, part))
            if len(running) > 2 * _workers():
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def beside(f: Callable[[Part], Result], part: Part) -> Future[Result]:
    """``f(part)`` in a thread of its own kind, while the others go on."""
    return _other().submit(f, part)


@cache
def _other() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "quantsim-beside")
