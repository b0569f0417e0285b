"""Scales beside the codes of fp8: a file in which ``X.weight`` is F8 may hold what it is to be multiplied by.

``X.weight_scale`` (compressed-tensors, ModelOpt) or ``X.weight_scale_inv`` (DeepSeek; multiplied, too): one number, one
for each row, or one for each block of a matrix, of 128 x 128 weights as in DeepSeek's files, or such that blocks divide
it evenly.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import TypeAlias

import numpy as np

from quantsim.checkpoints.elements import FLOATS
from quantsim.checkpoints.entries import Entry

_ENDINGS = ("_scale_inv", "_scale")
_BLOCK = 128
#: Scales ``first`` … ``first + count`` of a tensor.
Reader: TypeAlias = Callable[[int, int], np.ndarray]


def with_scale(entry: Entry, held: Mapping[str, Entry]) -> Entry:
    """A tensor with the name of its scales, if there are any; unreadable if it is not known what they scale.

    Args:
        entry: any tensor.
        held: all of the checkpoint, by name.
    """
    found = [held[entry.name + ending] for ending in _ENDINGS if entry.name + ending in held]
    if not found or not entry.type.startswith("F8_") or entry.unreadable:
        return entry
    scale = found[0]
    if scale.type not in FLOATS or scale.unreadable or blocks(entry.shape, scale.shape) is None:
        reason = f"has scales {scale.name!r}, {scale.type} of shape {scale.shape}, which fit it in no known way"
        return replace(entry, scaled_by=scale.name, unreadable=f"{reason}; save it dequantized")
    return replace(entry, scaled_by=scale.name)


def blocks(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of the blocks that share a scale, or None.

    >>> blocks((300, 512), ()), blocks((300, 512), (300, 1)), blocks((300, 512), (3, 4)), blocks((300, 512), (7, 2))
    ((300, 512), (1, 512), (128, 128), None)
    """
    columns = shape[-1] if shape else 1
    rows = prod(shape) // columns
    if prod(scales) == 1:
        return rows, columns
    if len(shape) != 2 or len(scales) not in (1, 2):
        return None
    down, across = (*scales, 1)[:2]
    if (-(-rows // _BLOCK), -(-columns // _BLOCK)) == (down, across):
        return _BLOCK, _BLOCK
    return None if rows % down or columns % across else (rows // down, columns // across)


def apply(entry: Entry, scale: Entry, read: Reader, first: int, part: np.ndarray) -> None:
    """Multiply codes ``first`` … of a tensor by their scales, in float32.

    Args:
        entry: the tensor.
        scale: its scales.
        read: reads them.
        first: index of the first code.
        part: the codes, which become weights.
    """
    found = blocks(entry.shape, scale.shape)
    if found is None:
        raise ValueError(f"{scale.name!r} fits {entry.name!r} in no known way")
    (tall, wide), columns = found, entry.shape[-1] if entry.shape else 1
    across = -(-columns // wide)
    top = first // columns // tall
    bottom = (first + len(part) - 1) // columns // tall + 1
    scales = read(top * across, (bottom - top) * across).reshape(-1, across)
    for row in range(first // columns, -(-(first + len(part)) // columns)):
        begin, end = max(first, row * columns), min(first + len(part), (row + 1) * columns)
        each = np.repeat(scales[row // tall - top], wide) if across > 1 else scales[row // tall - top]
        wanted = each if across == 1 else each[begin - row * columns : end - row * columns]
        part[begin - first : end - first] *= wanted
