"""What a tensor's weights say of themselves: extremes, moments, where the largest sits. The first of two passes.

========  ==============================  ====
column    definition                      unit
========  ==============================  ====
mean      mean w                          weight
sigma     sqrt(mean w^2), the rms         weight
crest     max |w| / sigma                 1
kurtosis  mean w^4 / (mean w^2)^2         1; 3 of a normal population
zeros     share of weights that are 0     1
========  ==============================  ====

Sums of tiles of 4096 weights are float32, in units of the largest weight of their chunk, and are folded in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from quantsim.inspection.ahead import in_order
from quantsim.inspection.pieces import CHUNK, PIECE, Chunk, Matrix, Take, chunks
from quantsim.measure.histogram import histogram_edges
from quantsim.numerics import ieee
from quantsim.numerics.tiles import TILE, tile_sums

_HISTOGRAM_SHIFT = 18  # of the bits of a float32: the bins of ``measure.histogram``
_BINS = len(histogram_edges())
_BINS_MERGED = 8  # of 32 an octave
_POWERS = 4
_UP = 90  # octaves that weights are raised by where all of them are tiny


@jax.jit
def _seen(w: Float[Array, " chunk"]) -> tuple[Array, Array, Array, Array]:
    """Smallest and largest weight of each piece, sums of powers of each tile, and the exponent of their unit."""
    pieces = w.reshape(-1, PIECE)
    low, high = pieces.min(axis=1), pieces.max(axis=1)
    exponent = (ieee.bits_of(jnp.maximum(-low.min(), high.max())) >> 23) - 127
    unit = jnp.clip(exponent, -126, 126)
    scaled = w * ieee.power_of_two(-unit)
    squares = ieee.square(scaled)
    powers = (scaled, squares, squares * scaled, squares * squares)
    sums = jnp.stack([tile_sums(p.reshape(-1, TILE)) for p in powers])
    return low, high, sums, unit


@dataclass(frozen=True)
class Part:
    """What is seen of a chunk: the fields of ``Signal``, and the row of each of its pieces."""

    rows: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    power_sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    count: int
    zeros: int
    extreme: tuple[float, int]


def part_of(matrix: Matrix, chunk: Chunk) -> Part:
    """What a chunk of a matrix says."""
    low, high, powers = _summed(chunk.weights)
    filling = CHUNK - chunk.count  # zeros that stand for no weight
    counts = np.bincount((chunk.weights.view(np.int32) & 0x7FFFFFFF) >> _HISTOGRAM_SHIFT, minlength=_BINS)
    counts[0] -= filling
    zeros = int(np.count_nonzero(chunk.weights == 0)) - filling
    extreme = _extreme(matrix, chunk, np.maximum(-low, high))
    return Part(chunk.rows(matrix), low, high, powers, counts, chunk.count, zeros, extreme)


def _summed(w: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Smallest and largest weight of each piece, and sums of powers; the device takes subnormal weights for zeros."""
    low, high, sums, unit = (np.asarray(part) for part in _seen(w))
    up = _UP if int(unit) < -_UP and w.any() else 0
    if up:
        low, high, sums, unit = (np.asarray(part) for part in _seen(np.ldexp(w, up)))
    powers = np.ldexp(sums.astype(np.float64).sum(axis=1), (int(unit) - up) * np.arange(1, _POWERS + 1))
    return np.ldexp(low, -up), np.ldexp(high, -up), powers


def _extreme(matrix: Matrix, chunk: Chunk, tops: NDArray[np.float32]) -> tuple[float, int]:
    """The first weight of largest magnitude, and its place in the flattened matrix."""
    piece = int(tops.argmax())
    within = chunk.weights[piece * PIECE : (piece + 1) * PIECE]
    at = int(np.abs(within).argmax())
    row, part = divmod(chunk.first + piece, matrix.row_pieces)
    return float(within[at]), row * matrix.columns + part * PIECE + at


@dataclass
class Signal:
    """Running statistics of a tensor.

    Attributes:
        matrix: its shape in products.
        low: smallest weight of each row, at most 0.
        high: largest weight of each row, at least 0.
        power_sums: of w, w^2, w^3 and w^4, float64.
        count: weights seen.
        zeros: how many are 0.
        counts: of magnitudes, in the bins of ``measure.histogram``.
        extreme: the weight of largest magnitude, and its place in the flattened tensor.
    """

    matrix: Matrix
    low: NDArray[np.float32] = field(init=False)
    high: NDArray[np.float32] = field(init=False)
    power_sums: NDArray[np.float64] = field(init=False)
    counts: NDArray[np.int64] = field(init=False)
    count: int = 0
    zeros: int = 0
    extreme: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        """Nothing has been seen."""
        self.low, self.high = (np.zeros(self.matrix.rows, np.float32) for _ in range(2))
        self.power_sums = np.zeros(_POWERS)
        self.counts = np.zeros(_BINS, np.int64)

    def add(self, part: "Part") -> None:
        """See the next chunk."""
        np.minimum.at(self.low, part.rows, part.low)
        np.maximum.at(self.high, part.rows, part.high)
        self.power_sums += part.power_sums
        self.count += part.count
        self.zeros += part.zeros
        self.counts += part.counts
        if abs(part.extreme[0]) > abs(self.extreme[0]):
            self.extreme = part.extreme

    # --- what it says -----------------------------------------------------------------------------------------------

    @property
    def mean(self) -> float:
        """Mean w."""
        return float(self.power_sums[0] / self.count)

    @property
    def sigma(self) -> float:
        """Root mean square."""
        return float(np.sqrt(self.power_sums[1] / self.count))

    @property
    def max_abs(self) -> float:
        """Largest magnitude."""
        return abs(self.extreme[0])

    def magnitudes(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Edges and counts of |w| in bins of a quarter octave, from the first that holds any to the last; no zeros."""
        counts = self.counts.reshape(-1, _BINS_MERGED).sum(axis=1)
        counts[0] -= self.zeros
        held = np.flatnonzero(counts)
        if not held.size:
            return np.zeros(1), counts[:0]
        first, last = held[0], held[-1] + 1
        lower = histogram_edges()[first * _BINS_MERGED : (last + 1) * _BINS_MERGED : _BINS_MERGED]
        edges = np.where(np.isfinite(lower), lower, np.inf).astype(np.float64)
        return edges, counts[first:last]

    def columns(self) -> dict[str, Any]:
        """The table of the module, NaN where all weights are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            square, fourth = np.float64(self.power_sums[1] / self.count), self.power_sums[3] / self.count
            return {
                "mean": self.mean,
                "sigma": self.sigma,
                "max_abs": self.max_abs,
                "crest": float(self.max_abs / np.sqrt(square)),
                "kurtosis": float(fourth / square**2),
                "zeros": self.zeros / self.count,
            }


@jax.jit
def _beyond(w: Float[Array, " chunk"], limits: Float[Array, " limits"]) -> Int[Array, " limits"]:
    """How many weights lie beyond each limit, strictly."""
    return jnp.sum(jnp.abs(w)[None, :] > limits[:, None], axis=1, dtype=jnp.int32)


def signal_of(take: Take, matrix: Matrix) -> Signal:
    """The statistics of a whole tensor.

    >>> w = np.array([0.5, -2.0, 0.0, 0.5], np.float32)
    >>> found = signal_of(lambda first, count: w[first : first + count], Matrix(2, 2))
    >>> found.extreme, found.zeros, round(found.columns()["crest"], 3)
    ((-2.0, 1), 1, 1.886)
    """
    found = Signal(matrix)
    for part in in_order(partial(part_of, matrix), chunks(take, matrix)):
        found.add(part)
    return found


def beyond_sigmas(take: Take, signal: Signal, sigmas: Sequence[float]) -> list[float]:
    """Shares of a tensor's weights beyond so many sigma, strictly, by comparing each weight.

    Args:
        take: reads the weights.
        signal: what is known of all of them.
        sigmas: limits.
    """
    limits = np.array([np.float64(signal.sigma) * s for s in sigmas])
    below = np.minimum(limits, np.finfo(np.float32).max).astype(np.float32)
    below = np.where(below.astype(np.float64) > limits, np.nextafter(below, np.float32(0)), below)

    def beyond(chunk: Chunk) -> NDArray[np.int64]:
        return np.asarray(_beyond(chunk.weights, below), np.int64)

    counts = sum(in_order(beyond, chunks(take, signal.matrix)), np.zeros(len(sigmas), np.int64))
    return [float(count) / signal.count for count in counts]
