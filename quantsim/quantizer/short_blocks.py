"""A warning where the shape of an array makes scales dear: blocks cut short by their axis, a scale for each bias."""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

from quantsim._types import Shape
from quantsim.granularity import Block, Channel, Granularity, Tensor, scale_shape

_LIBRARIES = ("quantsim", "jax", "jaxtyping", "beartype")
_TOO_MUCH = 2.0  # times the bits that longer blocks of the same quantizer take


def warn_of_short_blocks(q: Any, shape: Shape) -> None:
    """Warn, with what it costs and what to say instead, if longer blocks would take at most half of the bits.

    Python shows a warning once for a text and a line of the program that uses the package.
    """
    if (message := _message(q, shape)) is None:
        return
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _message(q: Any, shape: Shape) -> str | None:
    if not prod(shape):
        return None
    bits = q.bits_per_weight(shape)
    for longer in _longer(q.granularity, shape):
        better = replace(
            q, granularity=longer, two_level=q.two_level and longer != Tensor()
        )  # one scale needs no second
        fewer = better.bits_per_weight(shape)
        if bits > _TOO_MUCH * fewer:
            each = prod(shape) / prod(scale_shape(q.granularity, shape))
            return (
                f"{q} keeps a scale for every {each:.3g} weights of an array of shape {shape}, {bits:.2f} bits a "
                f"weight: {better} takes {fewer:.2f}"
            )
    return None


def _longer(g: Granularity | None, shape: Shape) -> Iterator[Granularity]:
    """Granularities of longer blocks, where those of ``g`` end with an axis; the nearest first."""
    if isinstance(g, Channel) and len(shape) == 1:
        yield Tensor()
    if isinstance(g, Block) and prod(scale_shape(g, shape)) * g.size > prod(shape):
        first = g.axis % len(shape) if shape else 0
        yield from (Block(g.size, axis, onward=True) for axis in range(first - 1, -1, -1))
