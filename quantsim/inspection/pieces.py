"""Weights of any tensor in chunks of one fixed shape, so that one compiled program serves tensors of all shapes.

A tensor is seen as a matrix (rows, columns), its rows as pieces of 128 weights, and 2048 pieces as a chunk. Where rows
are no whole pieces, zeros fill the last one: they change neither an extreme nor a squared error. A chunk of zeros is
followed by no weight.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float

from quantsim._types import Shape

PIECE = 128
#: Weights of a chunk: what two cores work on at a time, and all that a program's temporaries grow with.
CHUNK = 2**18
_READ = 2**21  # weights that are read at a time: a file answers, and unpacks, many faster than few

#: So many weights from the first one on, of the flattened tensor: what a checkpoint reads.
Take = Callable[[int, int], Float[np.ndarray, " n"]]


@dataclass(frozen=True)
class Matrix:
    """A tensor as its products see it: ``rows`` outputs of ``columns`` inputs.

    >>> Matrix.of((64, 32, 3, 3)), Matrix.of((8, 64, 640)), Matrix.of((640,))
    (Matrix(rows=64, columns=288), Matrix(rows=512, columns=640), Matrix(rows=1, columns=640))
    """

    rows: int
    columns: int

    @classmethod
    def of(cls, shape: Shape) -> "Matrix":
        """Kernels of convolutions, (out, in, …) with short last axes, are flattened; axes of experts are rows."""
        if len(shape) < 2:
            return cls(1, prod(shape))
        if is_kernel(shape):
            return cls(shape[0], prod(shape[1:]))
        return cls(prod(shape[:-1]), shape[-1])

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.columns

    @property
    def row_pieces(self) -> int:
        """Pieces of a row."""
        return -(-self.columns // PIECE)

    @property
    def is_padded(self) -> bool:
        """Whether zeros fill the last piece of each row."""
        return self.columns % PIECE != 0


_LONGEST_KERNEL = 31  # of the side of a convolution's kernel


def is_kernel(shape: Shape) -> bool:
    """Whether an array is a convolution's: (out, in, width), (out, in, height, width) or with a depth."""
    return 3 <= len(shape) <= 5 and max(shape[2:]) <= _LONGEST_KERNEL


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive pieces of a matrix.

    Attributes:
        weights: (CHUNK,), zeros behind the last weight and behind each row that is no whole pieces.
        first: number of the first piece, of all of the tensor.
        pieces: how many hold weights.
        count: how many weights they hold.
    """

    weights: Float[np.ndarray, " chunk"]
    first: int
    pieces: int
    count: int

    def rows(self, matrix: Matrix) -> np.ndarray:
        """Row that each piece belongs to; of pieces behind the last one, the last row."""
        at = np.arange(self.first, self.first + CHUNK // PIECE) // matrix.row_pieces
        return np.minimum(at, matrix.rows - 1)

    def counts(self, matrix: Matrix) -> np.ndarray:
        """Weights of each piece: 128, fewer at the end of a row that is no whole pieces, none behind the last row."""
        in_row = (self.first + np.arange(CHUNK // PIECE)) % matrix.row_pieces
        counts = np.minimum(PIECE, matrix.columns - in_row * PIECE)
        counts[self.pieces :] = 0
        return counts


def chunks(take: Take, matrix: Matrix) -> Iterator[Chunk]:
    """The chunks of a tensor in order, one in memory at a time.

    >>> w = np.arange(6.0, dtype=np.float32)
    >>> (chunk,) = chunks(lambda first, count: w[first : first + count], Matrix(2, 3))
    >>> chunk.weights[:3].tolist(), chunk.weights[PIECE : PIECE + 3].tolist(), chunk.pieces, chunk.count
    ([0.0, 1.0, 2.0], [3.0, 4.0, 5.0], 2, 6)
    """
    return _of_short_rows(take, matrix) if matrix.is_padded else _of_whole_pieces(take, matrix)


def _of_whole_pieces(take: Take, matrix: Matrix) -> Iterator[Chunk]:
    for start in range(0, matrix.size, _READ):
        read = take(start, min(_READ, matrix.size - start))
        for first in range(0, len(read), CHUNK):
            part = read[first : first + CHUNK]
            yield Chunk(filled(part), (start + first) // PIECE, len(part) // PIECE, len(part))


def _of_short_rows(take: Take, matrix: Matrix) -> Iterator[Chunk]:
    """Rows that are no whole pieces: as many as fit, or a part of one that is longer than a chunk."""
    length = matrix.row_pieces * PIECE
    if length > CHUNK:
        for row in range(matrix.rows):
            yield from _of_long_row(take, matrix, row)
        return
    at_once = CHUNK // length
    for row in range(0, matrix.rows, at_once):
        rows = min(at_once, matrix.rows - row)
        found = take(row * matrix.columns, rows * matrix.columns).reshape(rows, matrix.columns)
        padded = np.pad(found, ((0, 0), (0, length - matrix.columns))).reshape(-1)
        yield Chunk(filled(padded), row * matrix.row_pieces, rows * matrix.row_pieces, found.size)


def _of_long_row(take: Take, matrix: Matrix, row: int) -> Iterator[Chunk]:
    for first in range(0, matrix.columns, CHUNK):
        count = min(CHUNK, matrix.columns - first)
        place = row * matrix.row_pieces + first // PIECE
        yield Chunk(filled(take(row * matrix.columns + first, count)), place, -(-count // PIECE), count)


def filled(weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " chunk"]:
    """The weights, and zeros up to a whole chunk."""
    return weights if weights.size == CHUNK else np.pad(weights, (0, CHUNK - weights.size))
