"""Several parts of one task at once, on the cores that there are."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

#: What the compiler is told of a CPU program that several threads call at once. By default XLA shares each operation
#: out to all cores, which then wait for each other after every one, and for those of the other calls; a stage is too
#: short for that. Chains of arithmetic profit from vectors of 512 bits, where a processor has them.
ONE_CORE_A_CALL: dict[str, Any] = {
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
    "xla_cpu_prefer_vector_width": 512,
}

_FEWEST = 2**20  # elements of a call, about a millisecond; from four calls on other threads help
_MOST = 2**22  # elements of a call: milliseconds, for which one thread may wait for others and an interrupt for all
_CALLS = 4  # of each thread, where that is more calls: cores are not equally busy


def worth_sharing(size: int, threads: int) -> bool:
    """Whether several threads do a task of so many elements faster than one.

    >>> worth_sharing(2**24, 2), worth_sharing(2**20, 2), worth_sharing(2**24, 1)
    (True, False, False)
    """
    return threads > 1 and size >= 4 * _FEWEST


def shares(whole: int, length: int, threads: int) -> list[tuple[int, int]]:
    """Ranges of ``whole`` stages of ``length`` elements, one for each call of a thread.

    >>> shares(100, 2**16, 2)
    [(0, 16), (16, 32), (32, 48), (48, 64), (64, 80), (80, 96), (96, 100)]
    """
    most = most_of_a_share(whole, length, threads)
    return list(pairwise([*range(0, whole, most), whole]))


def most_of_a_share(whole: int, length: int, threads: int) -> int:
    """Stages of all shares but the last."""
    return max(min(max(whole * length // (_CALLS * threads), _FEWEST), _MOST) // length, 1)


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


def ahead(f: Callable[[Part], Result], parts: Iterable[Part], *, threads: int) -> Iterator[Result]:
    """``f(part) for part in parts``, by so many threads that work ahead of the caller, twice as many parts at most.

    An error is raised where its part is due. Where the caller stops, or is interrupted, parts that are under way are
    finished and no other is begun.

    >>> list(ahead(abs, [-3, 2, -1], threads=2))
    [3, 2, 1]
    """
    under_way: deque[Future[Result]] = deque()
    try:
        for part in parts:
            under_way.append(_pool(threads).submit(f, part))
            if len(under_way) >= 2 * threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        wait([future for future in under_way if not future.cancel()])


def _next(left: deque[Part]) -> Part | None:
    try:
        return left.popleft()
    except IndexError:  # another may have taken the last
        return None


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    """Threads that wait for work, and end with the interpreter; to start them takes longer than a small task."""
    return ThreadPoolExecutor(helpers, "quantsim")
