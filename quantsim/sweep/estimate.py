"""What a sweep will take: one chunk of every program is run to find out."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import jax
from jax.sharding import Mesh

from quantsim.sweep import hosts
from quantsim.sweep.chunks import Cell, Engine
from quantsim.sweep.plan import Plan
from quantsim.sweep.programs import mesh_of


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take on these devices.

    Attributes:
        cells: populations x shapes x seeds.
        points: rows of the result.
        weights: weights drawn at all cells together.
        compiles: programs.
        compile_seconds: what compiling them took.
        seconds: of measuring, without predictions.
        device_bytes: of arrays on a device.
        devices: in words.
    """

    cells: int
    points: int
    weights: int
    compiles: int
    compile_seconds: float
    seconds: float
    device_bytes: int
    devices: str

    def __str__(self) -> str:
        """In words."""
        return (
            f"{self.cells} cells, {self.points} points, {self.weights:.4g} weights drawn, on {self.devices}\n"
            f"{self.compiles} programs, compiled in {self.compile_seconds:.0f} s\n"
            f"about {self.seconds:.0f} s of measuring, by one chunk of every program\n"
            f"about {self.device_bytes / 1e6:.0f} MB of arrays on a device"
        )


def estimate(plan: Plan, mesh: Mesh | None = None) -> Estimate:
    """Compile every program of a plan, time one chunk of each, and add up."""
    engine = Engine(plan.quantizers, mesh_of(list(mesh.devices.flat) if mesh is not None else jax.devices()))
    cells = plan.cells()
    compiling, measuring = _seconds(engine, cells)
    return Estimate(
        cells=len(cells),
        points=plan.points,
        weights=plan.drawn,
        compiles=len(engine.programs(cells)),
        compile_seconds=compiling,
        seconds=measuring,
        device_bytes=max(_held(engine, cell) for cell in cells),
        devices=hosts.devices(),
    )


def _seconds(engine: Engine, cells: Iterable[Cell]) -> tuple[float, float]:
    """Of compiling, and of measuring all cells; those of the same programs take the same time a chunk."""
    of_a_chunk: dict[frozenset, float] = {}
    compiling = measuring = 0.0
    for cell in cells:
        kind = frozenset(engine.programs([cell]))
        if kind not in of_a_chunk:
            first = _first_chunk(engine, cell)
            of_a_chunk[kind] = _first_chunk(engine, cell)
            compiling += first - of_a_chunk[kind]
        chunks = -(-cell.arrays // engine.layout(cell).arrays)
        measuring += of_a_chunk[kind] * -(-chunks // engine.at_once)
    return compiling, measuring


def _first_chunk(engine: Engine, cell: Cell) -> float:
    start = time.perf_counter()
    jax.block_until_ready(engine.launch(cell, 0))
    return time.perf_counter() - start


def _held(engine: Engine, cell: Cell) -> int:
    """Bytes on a device: its arrays twice, as the next chunk is drawn meanwhile, or once a thread; and one more."""
    return (max(engine.at_once, 2) * engine.layout(cell).per_device + 1) * prod(cell.shape) * 4
