"""Memory for results: of a kind that is quick to touch for the first time, and used again when a result is gone.

Touching fresh memory, which the system fills with zeros first, takes longer than unpacking into it. So results are
memory of NumPy, which asks for pages of 2 MiB where XLA gets pages of 4 KiB; and what a result leaves behind is kept
for the next one of about its size, as ``malloc`` does with less than 32 MiB, up to ``KEPT`` bytes in all.
"""

import threading
import weakref

import numpy as np
from jaxtyping import Float32

#: Bytes that are kept at most.
KEPT = 2**27
_ALIGNMENT = 64  # bytes: what XLA asks of memory that it takes over without a copy
_PAGE = 2**21  # bytes of a large page
_kept: list[np.ndarray] = []
_turn = threading.RLock()  # whoever drops a result may hold it already


class _Part:
    """A part of some memory, as NumPy's array interface has it: every array that shares it keeps this alive."""

    def __init__(self, raw: np.ndarray, start: int, weights: int) -> None:
        place = raw.ctypes.data + start, False
        self.__array_interface__ = {"shape": (weights,), "typestr": "<f4", "data": place, "version": 3}
        weakref.finalize(self, _keep, raw).atexit = False


def empty(weights: int) -> Float32[np.ndarray, " weights"]:
    """Memory that JAX takes over as it is; what it holds is not defined.

    >>> empty(3).shape
    (3,)
    """
    alignment = _PAGE if 4 * weights > _PAGE else _ALIGNMENT
    raw = _again(4 * weights + alignment)
    return np.asarray(_Part(raw, -raw.ctypes.data % alignment, weights))


def _again(nbytes: int) -> np.ndarray:
    """So many bytes and at most half as many more: kept ones, or new ones."""
    with _turn:
        for place, raw in enumerate(_kept):
            if nbytes <= raw.nbytes <= 1.5 * nbytes:
                return _kept.pop(place)
    return np.empty(nbytes, np.uint8)


def _keep(raw: np.ndarray) -> None:
    """Take back the memory of a result that is gone, and let go of the oldest if that is too much."""
    with _turn:
        _kept.append(raw)
        while sum(r.nbytes for r in _kept) > KEPT:
            _kept.pop(0)
