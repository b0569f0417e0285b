"""The lattices of GGUF's formats below four bits: which groups of codes can be stored, and what is next to the others.

A *group* is eight codes of three levels or four codes of eight; as digits of one number, the first code the lowest, it
is its ``number``. Some groups are *points* of the lattice, whose place in the grid is what is stored. For every other
group the reference's search considers its *neighbours*: the points at the one, two or three smallest distances.

Source: llama.cpp, ggml-quants.c: ``iq2xs_init_impl``, ``iq3xs_init_impl``.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from quantsim.quantizer.blockformats.unpacking.grids import grid


@dataclass(frozen=True)
class Lattice:
    """The points of a grid, and how many different distances of neighbours count.

    Attributes:
        name: the grid, as ``unpacking.grids.grid`` names it.
        distances: neighbours of a group are the points at so many smallest distances.
    """

    name: str
    distances: int

    @property
    def levels(self) -> int:
        """Codes are 0 … levels - 1."""
        return int(points(self.name).max()) + 1

    @property
    def length(self) -> int:
        """Codes of a group."""
        return points(self.name).shape[1]

    @property
    def bits(self) -> int:
        """Bits of a code where the codes of a group share a word, the first in the lowest."""
        return (self.levels - 1).bit_length()


class Neighbours(NamedTuple):
    """Neighbours of all groups, the nearest first, of equally near ones the first of the grid.

    Groups are ranked, those with most neighbours first, points last, which are their own only neighbour. Row j holds
    the words of neighbour j of those groups that have as many, by rank.
    """

    rank: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    first_point: int


@cache
def points(name: str) -> np.ndarray:
    """Codes of the points of a grid, uint8 (points, length).

    >>> points("iq2_xxs").shape, points("iq3_s")[-1].tolist()
    ((256, 8), [0, 0, 7, 7])
    """
    levels = grid(name)
    return np.searchsorted(np.unique(levels), levels).astype(np.uint8)


@cache
def places(lattice: Lattice) -> np.ndarray:
    """Place in the grid of a group by its number, int32; 0 where it is no point."""
    found = np.zeros(lattice.levels**lattice.length, np.int32)
    found[_numbers(lattice)] = np.arange(len(points(lattice.name)), dtype=np.int32)
    return found


@cache
def neighbours(lattice: Lattice) -> Neighbours:
    """Neighbours of every group."""
    groups, point = _pairs(lattice)
    counts = np.bincount(groups)
    is_point = np.zeros(len(counts), bool)
    is_point[_numbers(lattice)] = True
    rank = np.empty(len(counts), np.int32)
    rank[np.lexsort((is_point, -counts))] = np.arange(len(counts), dtype=np.int32)
    slot = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = np.bincount(slot)
    starts = np.cumsum(lengths) - lengths
    codes = points(lattice.name).astype(np.int64)
    words = (codes << (lattice.bits * np.arange(lattice.length))).sum(axis=1)
    rows = np.empty(len(groups), np.uint16)
    rows[starts[slot] + rank[groups]] = words[point]
    return Neighbours(rank, rows, starts.astype(np.int32), lengths.astype(np.int32), int((~is_point).sum()))


def _numbers(lattice: Lattice) -> np.ndarray:
    return points(lattice.name).astype(np.int64) @ lattice.levels ** np.arange(lattice.length)


def _pairs(lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of groups and their neighbours: by group, then by distance, then by place in the grid."""
    number = np.arange(lattice.levels**lattice.length)
    group = number[:, None] // lattice.levels ** np.arange(lattice.length) % lattice.levels
    a, b = group.astype(np.float32), points(lattice.name).astype(np.float32)
    distance = ((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T).astype(np.int16)
    limit = distance.min(axis=1)
    on_grid = limit == 0
    for _ in range(lattice.distances - 1):
        limit = np.where(distance > limit[:, None], distance, np.iinfo(np.int16).max).min(axis=1)
    limit[on_grid] = 0
    groups, point = np.nonzero(distance <= limit[:, None])
    order = np.lexsort((point, distance[groups, point], groups))
    return groups[order], point[order]
