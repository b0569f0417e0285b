"""From compiled programs to tallies on the host: a cell's arrays, chunk after chunk."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from quantsim._types import Shape
from quantsim.measure import tallies
from quantsim.measure.tallies import Exponents, Noise, Signal
from quantsim.numerics.threads import ahead, cores
from quantsim.populations import Population
from quantsim.populations.structure import Structure, split_population
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.structure import split_quantizer
from quantsim.sweep import programs
from quantsim.sweep.streams import stream_of

#: A structure, where it runs, and whether its sums have a unit of their own.
Program = tuple[Structure, programs.Layout, bool]


@dataclass(frozen=True)
class Cell:
    """A point of the grid without the quantizers: these arrays are drawn, and every quantizer measures them."""

    population: Population
    shape: Shape
    seed: int
    arrays: int

    @cached_property
    def unit(self) -> Exponents | None:
        """In which tallies sum: None but for populations whose squares leave the range of float32."""
        rms = float(np.sqrt(self.population.moment(2)))
        return jax.tree.map(np.asarray, tallies.unit_for(rms, rms))

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


#: Place of a cell in a list, the cell, and the number of the first array of one of its chunks.
Task: TypeAlias = tuple[int, Cell, int]
#: Place of a cell, and of the arrays of one of its chunks the signal, and the noise under every quantizer.
Measured: TypeAlias = tuple[int, Signal, Noise]


class Engine:
    """The programs that measure a set of quantizers on cells: on CPU by threads, else on the devices of a mesh.

    On CPU, in a process that is alone, each thread takes the next chunk and works on one core; how many devices JAX
    makes of the cores does not matter. Several processes, and accelerators, run each program on all their devices.

    Args:
        quantizers: measured on the same arrays.
        mesh: devices.
        chunk: about how many weights a device, or a thread, works on at a time; by default what suits it.
    """

    def __init__(self, quantizers: Sequence[AbstractQuantizer], mesh: Mesh, chunk: int | None = None) -> None:
        self.quantizers, self._chunk = tuple(quantizers), chunk
        self._threads = cores() if programs.are_called_by_threads() else 0
        self.mesh = programs.mesh_of(list(mesh.devices.flat)[:1]) if self._threads else mesh
        self._kinds = kinds_of(quantizers)
        self._order = np.argsort([place for kind in self._kinds for place in kind.places])
        self._compiled: set[Program] = set()
        self._compiling = Lock()

    @property
    def at_once(self) -> int:
        """How many chunks are measured at once."""
        return self._threads or 1

    def layout(self, cell: Cell) -> programs.Layout:
        """How the arrays of a cell are shared out."""
        return programs.chunk_layout(cell.shape, cell.arrays, self.mesh, self._chunk, workers=self._threads or None)

    def programs(self, cells: Sequence[Cell]) -> set[Program]:
        """What is compiled for these cells."""
        return {program for cell in cells for program in (self._drawing(cell), *self._measuring(cell))}

    def _drawing(self, cell: Cell) -> Program:
        return split_population(cell.population)[0], self.layout(cell), cell.unit is not None

    def _measuring(self, cell: Cell) -> list[Program]:
        return [(kind.structure, self.layout(cell), cell.unit is not None) for kind in self._kinds]

    def launch(self, cell: Cell, first: int) -> tuple[Signal, list[Noise]]:
        """Start the programs of the chunk that begins with array ``first``: signal, and noise by each kind."""
        structure, numbers, shared = _arguments(cell, first)
        layout = self.layout(cell)
        with jax.set_mesh(self.mesh):  # whichever mesh the caller has set
            with self._compiling:
                self._compile(cell)
            w, signal = programs.drawing(structure, layout)(numbers, *shared)
            noises = [programs.measuring(kind.structure, layout)(kind.numbers, *shared, w) for kind in self._kinds]
        return signal, noises

    def _compile(self, cell: Cell) -> None:
        """Compile what a cell needs side by side: each program keeps one core busy, and calls would wait in turn."""
        if self._drawing(cell) in self._compiled or jax.process_count() > 1:
            return
        structure, numbers, shared = _arguments(cell, 0)
        layout = self.layout(cell)
        w = programs.arrays_of(layout)
        draw: Any = programs.drawing(structure, layout)
        lowered = [draw.lower(numbers, *shared)]
        for kind in self._kinds:
            measure: Any = programs.measuring(kind.structure, layout)
            lowered.append(measure.lower(kind.numbers, *shared, w))
        with ThreadPoolExecutor() as pool:
            list(pool.map(_compiled, lowered))
        self._compiled.add(self._drawing(cell))

    def chunks(self, cells: Iterable[tuple[Cell, int]]) -> Iterator[Measured]:
        """Signal and noise of the arrays of cells, from a first one on, a chunk at a time; others are under way."""
        tasks = (
            (place, cell, start)
            for place, (cell, first) in enumerate(cells)
            for start in range(first, cell.arrays, self.layout(cell).arrays)
        )
        if self._threads:
            yield from ahead(self._measured, tasks, threads=self._threads)
            return
        under_way: tuple[Task, tuple[Signal, list[Noise]]] | None = None
        for task in tasks:
            launched = task, self.launch(*task[1:])
            if under_way is not None:
                yield self._fetched(*under_way)
            under_way = launched
        if under_way is not None:
            yield self._fetched(*under_way)

    def _measured(self, task: Task) -> Measured:
        return self._fetched(task, self.launch(*task[1:]))

    def _fetched(self, task: Task, launched: tuple[Signal, list[Noise]]) -> Measured:
        """On the host, cut to the arrays that count; noise as (arrays, quantizers, …), in the order of the list."""
        place, cell, start = task
        arrays = min(self.layout(cell).arrays, cell.arrays - start)
        signal, noises = jax.tree.map(lambda leaf: np.asarray(leaf)[:arrays], launched)

        def in_order(*of_kinds: Any) -> np.ndarray:
            return np.concatenate(of_kinds, axis=1)[:, self._order]

        noise = jax.tree.map(in_order, *noises)
        of_w, of_e = (tallies.on_host(replace(part, unit=cell.unit)) for part in (signal, noise))
        return place, of_w, of_e


def _arguments(cell: Cell, first: int) -> tuple[Structure, NDArray[np.float32], tuple[Any, ...]]:
    """Structure and numbers of a cell's population, and the arguments of all programs: stream, first array, unit."""
    structure, numbers = split_population(cell.population)
    stream = stream_of(cell.seed, str(cell.population))
    return structure, np.array(numbers, np.float32), (stream, np.uint32(first), cell.unit)


def _compiled(lowered: Any) -> Any:
    return lowered.compile()  # a later call of the program finds it


def unstacked(signal: Signal, noise: Noise) -> Iterator[tuple[Signal, Noise]]:
    """Signal and noise of one array after the other, of those of a chunk on the host."""
    for k in range(len(signal.nonzero)):
        yield jax.tree.map(lambda leaf, k=k: leaf[k, ...], (signal, noise))
