"""From compiled programs to tallies on the host: a cell's arrays, chunk after chunk."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from quantsim._types import Shape
from quantsim.measure.tallies import Noise, Signal
from quantsim.populations import Population
from quantsim.populations.structure import Structure, split_population
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.structure import split_quantizer
from quantsim.sweep import programs
from quantsim.sweep.streams import stream_of


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


@dataclass(frozen=True)
class Kind:
    """Quantizers of one structure, which one program measures: their numbers, and their places in the list."""

    structure: Structure
    numbers: NDArray[np.float32]
    places: list[int]


def kinds_of(quantizers: Sequence[AbstractQuantizer]) -> list[Kind]:
    """Quantizers by structure, in order of appearance.

    >>> from quantsim.quantizer import parse
    >>> [k.places for k in kinds_of([parse(s) for s in ("int4:tensor", "nf4:block64", "int8:tensor")])]
    [[0, 2], [1]]
    """
    numbers, places = defaultdict(list), defaultdict(list)
    for place, q in enumerate(quantizers):
        structure, own = split_quantizer(q)
        numbers[structure].append(own)
        places[structure].append(place)
    return [
        Kind(structure, np.array(numbers[structure], np.float32).reshape(len(at), -1), at)
        for structure, at in places.items()
    ]


class Engine:
    """The programs that measure a set of quantizers on cells, on the devices of a mesh.

    Args:
        quantizers: measured on the same arrays.
        mesh: devices.
        chunk: about how many weights are on a device at a time; by default what suits the kind of device.
    """

    def __init__(self, quantizers: Sequence[AbstractQuantizer], mesh: Mesh, chunk: int | None = None) -> None:
        self.quantizers, self.mesh, self._chunk = tuple(quantizers), mesh, chunk
        self._kinds = kinds_of(quantizers)
        self._order = np.argsort([place for kind in self._kinds for place in kind.places])

    def layout(self, cell: Cell) -> programs.Layout:
        """How the arrays of a cell are shared out."""
        return programs.chunk_layout(cell.shape, cell.arrays, self.mesh, self._chunk)

    def programs(self, cells: Sequence[Cell]) -> set[tuple[Structure, programs.Layout]]:
        """What is compiled for these cells."""
        layouts = {self.layout(cell) for cell in cells}
        drawing = {(split_population(cell.population)[0], self.layout(cell)) for cell in cells}
        return drawing | {(kind.structure, layout) for kind in self._kinds for layout in layouts}

    def launch(self, cell: Cell, first: int) -> tuple[Signal, list[Noise]]:
        """Start the programs of the chunk that begins with array ``first``: signal, and noise by each kind."""
        structure, numbers = split_population(cell.population)
        layout, which = self.layout(cell), (stream_of(cell.seed, str(cell.population)), np.uint32(first))
        with jax.set_mesh(self.mesh):  # whichever mesh the caller has set
            w, signal = programs.drawing(structure, layout)(np.array(numbers, np.float32), *which)
            noises = [programs.measuring(k.structure, layout)(k.numbers, *which, w) for k in self._kinds]
        return signal, noises

    def chunks(self, cell: Cell, first: int = 0) -> Iterator[tuple[Signal, Noise]]:
        """Signal and noise of the arrays from ``first`` on, a chunk at a time, the next one being under way."""
        step, under_way = self.layout(cell).arrays, None
        for start in range(first, cell.arrays, step):
            launched = self.launch(cell, start), min(step, cell.arrays - start)
            if under_way is not None:
                yield self._fetched(*under_way)
            under_way = launched
        if under_way is not None:
            yield self._fetched(*under_way)

    def _fetched(self, launched: tuple[Signal, list[Noise]], arrays: int) -> tuple[Signal, Noise]:
        """On the host, cut to the arrays that count; noise as (arrays, quantizers, …), in the order of the list."""
        signal, noises = jax.tree.map(lambda leaf: np.asarray(leaf)[:arrays], launched)

        def in_order(*of_kinds: Any) -> np.ndarray:
            return np.concatenate(of_kinds, axis=1)[:, self._order]

        return signal, jax.tree.map(in_order, *noises)


def unstacked(signal: Signal, noise: Noise) -> Iterator[tuple[Signal, Noise]]:
    """Signal and noise of one array after the other, of those of a chunk."""
    for k in range(len(signal.nonzero)):
        yield jax.tree.map(lambda leaf, k=k: leaf[k, ...], (signal, noise))
