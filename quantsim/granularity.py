"""Which weights share one scale: array to blocks and back.

Blocks run along the last axis, the one that a matrix product sums over; a *channel* is one output row. Every
granularity gives the same two-dimensional view ``(blocks, size)``, one row a scale. A ragged tail is padded with zeros,
which change neither an extreme nor a squared error, and is cut off on the way back.
"""

from dataclasses import dataclass
from math import prod
from operator import index
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from quantsim._types import Shape


class ShapeNeededError(ValueError):
    """How many weights share a scale depends on the shape of the array, which was not given."""


def _whole(number: Any, what: str, example: str) -> int:
    try:
        return index(number)
    except TypeError:
        raise TypeError(f"{what} is a whole number, not {number!r}; for example {example}") from None


@dataclass(frozen=True)
class Tensor:
    """One scale for everything."""


@dataclass(frozen=True)
class Channel:
    """One scale for each index of ``axis``: with axis 0, one for each output row."""

    axis: int = 0

    def __post_init__(self) -> None:
        """Reject what is no axis."""
        object.__setattr__(self, "axis", _whole(self.axis, "an axis", "Channel(0)"))


@dataclass(frozen=True)
class Block:
    """One scale for ``size`` consecutive weights along ``axis``; the last block of a row may be shorter.

    With ``onward`` a row is everything from that axis to the last, flattened: with axis 1 all the inputs of a
    convolution (out, in, height, width), with axis 0 the whole array.

    Raises:
        TypeError: if size or axis is no whole number.
        ValueError: for empty blocks.

    >>> scale_shape(Block(64), (8, 64, 3)), scale_shape(Block(64, axis=1, onward=True), (8, 64, 3))
    ((8, 64, 1), (8, 3))
    """

    size: int
    axis: int = -1
    onward: bool = False

    def __post_init__(self) -> None:
        """Reject what is no block; the last axis alone goes nowhere onward."""
        object.__setattr__(self, "size", _whole(self.size, "the size of a block", "Block(32)"))
        object.__setattr__(self, "axis", _whole(self.axis, "an axis", "Block(32, axis=0)"))
        if self.size < 1:
            raise ValueError(f"a block needs at least 1 weight, got size {self.size}; for example Block(32)")
        if self.axis == -1:
            object.__setattr__(self, "onward", False)


Granularity: TypeAlias = Tensor | Channel | Block


def _axis(g: Channel | Block, shape: Shape) -> int:
    if not -len(shape) <= g.axis < max(len(shape), 1):
        raise ValueError(f"axis {g.axis} does not exist in an array of shape {shape}")
    return g.axis % len(shape) if shape else 0


def _joined(g: Granularity, shape: Shape) -> tuple[Granularity, Shape]:
    """The same blocks along the last axis of a shape in which the axes that are flattened are one."""
    if not isinstance(g, Block) or not g.onward or not shape:
        return g, shape
    axis = _axis(g, shape)
    return Block(g.size), (*shape[:axis], prod(shape[axis:]))


def _lengths(g: Granularity, shape: Shape) -> tuple[int, int, int, int]:
    """Rows of the view before blocking, length of a row, blocks in a row, size of a block."""
    g, shape = _joined(g, shape)
    if isinstance(g, Tensor) or not shape:
        return 1, prod(shape), 1, max(prod(shape), 1)
    axis = _axis(g, shape)
    rest = prod(n for i, n in enumerate(shape) if i != axis)
    if isinstance(g, Channel):
        return shape[axis], rest, 1, max(rest, 1)
    size = min(g.size, max(shape[axis], 1))  # a short row is one block, without padding
    return rest, shape[axis], -(-shape[axis] // size), size


def _moved(g: Granularity, shape: Shape) -> tuple[int, int]:
    """The axis that is moved and where it is moved to, so that a block is contiguous."""
    if isinstance(g, Tensor) or not shape:
        return 0, 0
    return _axis(g, shape), 0 if isinstance(g, Channel) else len(shape) - 1


def scale_shape(g: Granularity, shape: Shape) -> Shape:
    """Shape of the scales of an array: (), (channels,), or the array's with its blocked axis last and shortened.

    >>> scale_shape(Tensor(), (4, 96)), scale_shape(Channel(), (4, 96)), scale_shape(Block(32), (4, 96))
    ((), (4,), (4, 3))
    """
    if isinstance(g, Tensor) or not shape:
        return ()
    g, shape = _joined(g, shape)
    assert not isinstance(g, Tensor)
    axis = _axis(g, shape)
    if isinstance(g, Channel):
        return (shape[axis],)
    return (*(n for i, n in enumerate(shape) if i != axis), -(-shape[axis] // g.size))


def to_blocks(w: Shaped[Array, "..."], g: Granularity) -> Shaped[Array, "blocks size"]:
    """View of ``w`` with one row for each scale.

    Raises:
        ValueError: if the axis does not exist.

    >>> to_blocks(jnp.arange(10.0).reshape(2, 5), Block(3)).tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 0.0], [5.0, 6.0, 7.0], [8.0, 9.0, 0.0]]
    """
    rows, length, blocks, size = _lengths(g, w.shape)
    g, shape = _joined(g, w.shape)
    if shape:
        w = jnp.moveaxis(w.reshape(shape), *_moved(g, shape))
    w = w.reshape(rows, length)
    if tail := blocks * size - length:
        w = jnp.pad(w, ((0, 0), (0, tail)))
    return w.reshape(rows * blocks, size)


def from_blocks(blocks: Shaped[Array, "blocks size"], g: Granularity, shape: Shape) -> Shaped[Array, "..."]:
    """The array of ``shape`` that ``to_blocks`` saw.

    >>> w = jnp.arange(10.0).reshape(2, 5)
    >>> bool((from_blocks(to_blocks(w, Block(3)), Block(3), w.shape) == w).all())
    True
    """
    rows, length, in_row, size = _lengths(g, shape)
    w = blocks.reshape(rows, in_row * size)[:, :length]
    g, joined = _joined(g, shape)
    if not joined:
        return w.reshape(shape)
    source, target = _moved(g, joined)
    moved = list(joined)
    moved.insert(target, moved.pop(source))
    return jnp.moveaxis(w.reshape(moved), target, source).reshape(shape)


def span(g: Granularity, shape: Shape) -> int | None:
    """Consecutive weights of the flattened array that share scales with no others; None if they are not consecutive.

    >>> span(Block(32), (4, 96)), span(Block(32), (4, 80)), span(Channel(), (4, 80)), span(Tensor(), (4, 80))
    (32, 80, 80, None)
    """
    if isinstance(g, Tensor) or not shape or not prod(shape):
        return None
    g, shape = _joined(g, shape)
    assert not isinstance(g, Tensor)
    axis = _axis(g, shape)
    if isinstance(g, Channel):
        return prod(shape[1:]) if axis == 0 else None
    if axis != len(shape) - 1:
        return None
    return shape[-1] if shape[-1] % g.size else g.size


def block_counts(g: Granularity, shape: Shape) -> Shaped[Array, "blocks 1"] | int:
    """Number of weights in each block, without the padding; one number when all are alike.

    >>> block_counts(Block(3), (2, 5)).ravel().tolist(), block_counts(Channel(), (2, 5))
    ([3, 2, 3, 2], 5)
    """
    rows, length, blocks, size = _lengths(g, shape)
    if not length % size:
        return size
    in_row = jnp.minimum(length - size * jnp.arange(blocks), size)
    return jnp.tile(in_row, rows)[:, None]


def block_sizes(g: Granularity, shape: Shape | None) -> tuple[tuple[int, float], ...]:
    """Numbers of weights that share a scale, each with the part of all weights that lie in blocks of that size.

    Raises:
        ShapeNeededError: if the sizes depend on a shape that is not given.
        ValueError: if the array is empty.

    >>> block_sizes(Block(32), (4, 80)), block_sizes(Channel(), (4, 80))
    (((32, 0.8), (16, 0.2)), ((80, 1.0),))
    """
    if shape is None:
        if isinstance(g, Block):
            return ((g.size, 1.0),)
        raise ShapeNeededError(
            f"a scale for each {type(g).__name__.lower()} needs the shape of the array: pass shape=(out, in)"
        )
    if not prod(shape):
        raise ValueError(f"an array of shape {tuple(shape)} has no weights")
    _, length, _, size = _lengths(g, tuple(shape))
    tail = length % size
    whole = ((size, (length - tail) / length),) if length > tail else ()
    return whole + (((tail, tail / length),) if tail else ())
