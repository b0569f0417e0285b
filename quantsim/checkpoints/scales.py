"""Scales beside the codes of small floats: a file in which ``X.weight`` is F8 or F4 may hold what it is multiplied by.

``X.weight_scale`` (compressed-tensors, ModelOpt), ``X.weight_scale_inv`` (DeepSeek; a factor, in spite of its name),
``X.scale`` (DeepSeek's own inference) or ``X.scale_weight`` (ComfyUI): one number, one for each row, or one for each
block of a matrix, of 128 x 128 weights as in DeepSeek's files, or such that blocks divide it evenly.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import TypeAlias

import numpy as np

from quantsim.checkpoints.elements import FLOATS
from quantsim.checkpoints.entries import Entry

_BESIDE_TENSOR = ("_scale_inv", "_scale")
_BESIDE_WEIGHT = ("scale", "scale_weight")
#: A second level of scales, as of NVFP4, which is not understood here.
_SECOND = ("_scale_2", "_global_scale")
_BLOCK = 128
#: Scales ``first`` … ``first + count`` of a tensor, from ``first`` and ``count``.
Reader: TypeAlias = Callable[[int, int], np.ndarray]


def with_scale(entry: Entry, held: Mapping[str, Entry]) -> Entry:
    """A tensor with the name of its scales, if there are any; unreadable if it is not known what they scale.

    Args:
        entry: any tensor.
        held: all of the checkpoint, by name.
    """
    if not entry.type.startswith(("F8_", "F4")) or entry.unreadable:
        return entry
    scale = next((held[name] for name in _names_of_scales(entry.name) if name in held), None)
    if scale is None:
        return entry
    second = any(entry.name + ending in held for ending in _SECOND)
    if second or scale.type not in FLOATS or scale.unreadable or blocks(entry.shape, scale.shape) is None:
        reason = f"has scales {scale.name!r}, {scale.type} of shape {scale.shape}, which fit it in no known way"
        return replace(entry, scaled_by=scale.name, unreadable=f"{reason}; save it dequantized")
    return replace(entry, scaled_by=scale.name)


def _names_of_scales(name: str) -> Iterator[str]:
    yield from (name + ending for ending in _BESIDE_TENSOR)
    if name.endswith(".weight"):
        yield from (name.removesuffix("weight") + ending for ending in _BESIDE_WEIGHT)


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
    """Multiply codes ``first`` … of a tensor by their scales, in float32; only the scales of their rows are read.

    Args:
        entry: the tensor.
        scale: its scales.
        read: reads them.
        first: index of the first code.
        part: the codes, which become weights.

    Raises:
        ValueError: for scales that fit in no known way.
    """
    found, columns = blocks(entry.shape, scale.shape), entry.shape[-1] if entry.shape else 1
    if found is None:
        raise ValueError(f"{scale.name!r} fits {entry.name!r} in no known way")
    (tall, wide), last = found, first + len(part) - 1
    across, top = -(-columns // wide), first // columns // tall
    scales = read(top * across, (last // columns // tall + 1 - top) * across).reshape(-1, across)
    for row in range(first // columns, last // columns + 1):
        begin, end = max(first, row * columns), min(last + 1, (row + 1) * columns)
        each = scales[row // tall - top]
        if across > 1:
            each = np.repeat(each, wide)[begin - row * columns : end - row * columns]
        part[begin - first : end - first] *= each
