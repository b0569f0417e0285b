"""From compiled programs to totals: chunk after chunk of arrays, folded one array at a time in float64."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from quantsim._types import PRNGKey, Shape
from quantsim.measure.statistics import ErrorStats
from quantsim.measure.tallies import Noise, Signal
from quantsim.populations import Population
from quantsim.populations.structure import Structure, split_population
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.structure import split_quantizer
from quantsim.sweep import programs

F64 = NDArray[np.float64]


def population_key(seed: int, name: str) -> PRNGKey:
    """Key of a grid point: a pure function of the seed and the point's name, never of its place in a loop.

    >>> bool((jax.random.key_data(population_key(0, "normal")) == jax.random.key_data(population_key(0, "t5"))).all())
    False
    """
    return programs.stream_key(programs.stream_of(seed, name))


def array_keys(seed: int, name: str, arrays: int) -> PRNGKey:
    """Keys of the arrays 0, 1, … of a grid point, stacked: that of array k is a function of seed, name and k alone.

    >>> [array_keys(0, "normal", n)[1] == array_keys(0, "normal", 2)[1] for n in (2, 5)]
    [Array(True, dtype=bool), Array(True, dtype=bool)]
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(population_key(seed, name), np.arange(arrays))


@dataclass
class Totals:
    """Sums over arrays for each quantizer, as ``ErrorStats`` has them; always folded in the order of the arrays."""

    sums: F64
    cross: F64
    max_abs: F64
    max_signal: float = 0.0
    arrays: int = 0
    nonzero: int = 0
    zeroed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(cls, quantizers: int) -> "Totals":
        """Totals of nothing."""
        zeros = np.zeros(quantizers)
        return cls(np.zeros((quantizers, 6)), np.zeros((quantizers, 6, 6)), zeros, zeroed=zeros.astype(np.int64))

    def add(self, signal: Signal, noise: Noise) -> None:
        """Fold one array: its signal, and the noise of each quantizer along the leading axis."""
        of_w, of_e = _over_tiles(signal.sums), _over_tiles(noise.sums)
        count, squares = (np.broadcast_to(v, len(of_e)) for v in of_w)
        sums = np.stack([count, *of_e.T[:3], squares, of_e.T[3]], axis=1)
        self.sums += sums
        self.cross += sums[:, :, None] * sums[:, None, :]
        self.max_abs = np.maximum(self.max_abs, np.asarray(noise.max_abs, np.float64))
        self.max_signal = float(np.maximum(self.max_signal, signal.max_signal))
        self.arrays += 1
        self.nonzero += int(signal.nonzero)
        self.zeroed += np.asarray(noise.zeroed, np.int64)

    def stats(self) -> list[ErrorStats]:
        """Error statistics of each quantizer, arrays being the units of the standard errors."""
        return [
            ErrorStats(s, c, self.arrays, float(m), self.max_signal, self.nonzero, int(z), 0)
            for s, c, m, z in zip(self.sums, self.cross, self.max_abs, self.zeroed, strict=True)
        ]

    def plain(self) -> dict[str, Any]:
        """As JSON has it; floats are written with all digits, so ``Totals.load`` gives the same bits."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    @classmethod
    def load(cls, stored: dict[str, Any]) -> "Totals":
        """Totals that ``plain`` gave."""
        found: dict[str, Any] = {k: np.array(v, np.float64) if isinstance(v, list) else v for k, v in stored.items()}
        found["zeroed"] = np.array(stored["zeroed"], np.int64)
        return cls(**found)


def _over_tiles(sums: Any) -> F64:
    """Sum over the tiles, first to last: with the tiles outermost NumPy adds row by row."""
    return np.add.reduce(np.ascontiguousarray(np.moveaxis(np.asarray(sums, np.float64), -2, 0)), axis=0)


@dataclass(frozen=True)
class Cell:
    """A point of the grid without the quantizers: these arrays are drawn, and every quantizer measures them."""

    population: Population
    shape: Shape
    seed: int
    arrays: int

    def __str__(self) -> str:
        """Its name."""
        return f"{self.population}, {'x'.join(map(str, self.shape))}, seed {self.seed}"


class Engine:
    """The programs that measure a set of quantizers on cells, on the devices of a mesh."""

    def __init__(self, quantizers: Sequence[AbstractQuantizer], mesh: Mesh, chunk: int | None = None) -> None:
        self.quantizers, self.mesh, self._chunk = tuple(quantizers), mesh, chunk

    @cached_property
    def _groups(self) -> list[tuple[Structure, np.ndarray, list[int]]]:
        """Quantizers of one structure, their numbers, and where they stand in the list."""
        found: dict[Structure, list[tuple[tuple[float, ...], int]]] = defaultdict(list)
        for at, q in enumerate(self.quantizers):
            structure, numbers = split_quantizer(q)
            found[structure].append((numbers, at))
        return [
            (
                structure,
                np.array([n for n, _ in members], np.float32).reshape(len(members), -1),
                [i for _, i in members],
            )
            for structure, members in found.items()
        ]

    def layout(self, cell: Cell) -> programs.Layout:
        """How the arrays of a cell are shared out."""
        return programs.chunk_layout(cell.shape, cell.arrays, self.mesh, self._chunk)

    def programs(self, cells: Sequence[Cell]) -> set[tuple[Structure, programs.Layout]]:
        """What is compiled for these cells."""
        layouts = {self.layout(c) for c in cells}
        drawing = {(split_population(c.population)[0], self.layout(c)) for c in cells}
        return drawing | {(structure, layout) for structure, *_ in self._groups for layout in layouts}

    def launch(self, cell: Cell, first: int) -> tuple[Signal, list[Noise]]:
        """Start the programs of the chunk that begins with array ``first``."""
        structure, numbers = split_population(cell.population)
        layout, stream = self.layout(cell), programs.stream_of(cell.seed, str(cell.population))
        start = np.uint32(first)
        w, signal = programs.drawing(structure, layout)(np.array(numbers, np.float32), stream, start)
        return signal, [programs.measuring(s, layout)(n, stream, start, w) for s, n, _ in self._groups]

    def chunks(self, cell: Cell, first: int = 0) -> Iterator[tuple[Signal, Noise]]:
        """Signal and noise of the arrays from ``first`` on, a chunk at a time, the next one being under way."""
        step = self.layout(cell).arrays
        starts = list(range(first, cell.arrays, step))
        under_way = self.launch(cell, starts[0]) if starts else None
        for at, start in enumerate(starts):
            assert under_way
            found = under_way
            under_way = self.launch(cell, starts[at + 1]) if at + 1 < len(starts) else None
            yield self._fetched(found, min(step, cell.arrays - start))

    def _fetched(self, found: tuple[Signal, list[Noise]], arrays: int) -> tuple[Signal, Noise]:
        """On the host, cut to the arrays that count, quantizers in their own order."""
        signal, noises = jax.tree.map(lambda leaf: np.asarray(leaf)[:arrays], found)
        order = np.argsort([i for *_, places in self._groups for i in places])
        return signal, jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, order], *noises)


def unstacked(signal: Signal, noise: Noise) -> Iterator[tuple[Signal, Noise]]:
    """Signal and noise of one array after the other."""
    for k in range(len(signal.nonzero)):
        yield jax.tree.map(lambda leaf, k=k: leaf[k, ...], (signal, noise))
