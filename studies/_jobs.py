"""The jobs of the study ``throughput``, and who does each of them: quantsim, NumPy (with gguf), C, torch."""

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from quantsim.measure import weight_error
from quantsim.numerics.threads import by_threads, cores
from quantsim.populations import Normal, key
from quantsim.populations import parse as population
from quantsim.populations.structure import split_population
from quantsim.quantizer import parse
from quantsim.quantizer.blockformats import gguf
from quantsim.sweep import chunks, measure, programs, streams

from . import _rivals
from ._rivals import C_REFERENCE, NUMPY_GGUF
from ._served import SHAPE, SPEC
from ._timing import Contender, by_numpy, by_quantsim, by_torch, finish

#: One of each kind that a program takes numbers or constants of; the first eight share no program.
SPECS = (
    SPEC,
    "int4:channel",
    "bf16",
    "e4m3:tensor",
    "nf4:block64",
    "mxfp4",
    "nvfp4",
    "q8_0",
    "int8:tensor",
    "int8:channel",
    "int6:block32",
    "int5:block32",
    "int4:block32",
    "int4:tensor",
    "int3:block32",
    "int2:block32",
    "int4:block128",
    "int8:block128",
    "int4:block32:clip0.8",
    "int4:channel:clip0.5",
    "int8:channel:minmax",
    "int4:block32:minmax",
    "e4m3",
    "e5m2",
    "f16",
    "e4m3:block32",
    "e5m2:block32",
    "e2m1:block16",
    "af4:block64",
    "mxfp8_e4m3",
    "mxint8",
    "q4_0",
)
#: Types that are packed: those of most files, and the K-quants of fewest bits.
PACKED = ("q8_0", "q4_0", "q2_k", "q3_k", "q4_k", "q6_k")
#: Laws that are drawn, by their name in the figure.
LAWS = {"normal": "normal", "student-t": "t5", "Laplace": "laplace"}

FULL_STATISTICS, READ, COPY = "full statistics", "read", "copy"
#: Name of a contender: quantsim's programs one by one.
SUM_OF_PARTS = "sum of parts"
FEWER = 8  # times fewer draws, of laws that rivals are slow at
CHUNK = 2**22  # weights of a draw, a buffer that rivals fill, too


def generate(law: str) -> str:
    """Name of the job that draws a law."""
    return f"generate {law}"


def generate_and_measure(quantizers: int) -> str:
    """Name of the job that draws normal weights and measures them with so many quantizers."""
    return f"generate + measure, {quantizers}"


def pack(kind: str) -> str:
    """Name of the job that packs a type."""
    return f"pack {kind}"


# --- weights that are given -----------------------------------------------------------------------------------------


def given(weights: int, seed: int, *, compiled: bool) -> list[Contender]:
    """Statistics of weights that are there, as a user asks for them; reads and copies, which are the limit."""
    mesh = programs.mesh_of(jax.devices())
    rows = weights // SHAPE[1] // mesh.size * mesh.size
    x = np.random.default_rng(seed).standard_normal((rows, SHAPE[1]), dtype=np.float32)
    w = jax.device_put(x, NamedSharding(mesh, P(mesh.axis_names)))
    found = [
        by_quantsim(FULL_STATISTICS, x.size, partial(weight_error, w, SPEC)),
        by_quantsim(READ, x.size, _on_each_device(jnp.sum, w, mesh)),
        by_quantsim(COPY, x.size, _on_each_device(jnp.negative, w, mesh)),
        by_numpy(READ, x.size, x.sum),
        by_numpy(COPY, x.size, partial(np.copyto, np.empty_like(x), x)),
    ]
    if _rivals.optional("gguf"):
        found.append(by_numpy(FULL_STATISTICS, x.size, partial(_rivals.numpy_statistics, "q8_0", x), NUMPY_GGUF))
    return found + _given_to_torch(x, compiled)


def _on_each_device(f: Callable[[Any], Any], w: jax.Array, mesh: Any) -> Callable[[], Any]:
    """A call of ``f`` on the part of ``w`` that each device holds."""
    along = P(mesh.axis_names)

    def stacked(part: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], f(part))

    spread = jax.shard_map(stacked, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
    return partial(jax.jit(spread), w)


def _given_to_torch(x: np.ndarray, compiled: bool) -> list[Contender]:
    torch = _rivals.optional("torch")
    if not torch:
        return []
    w = torch.from_numpy(x).to(_rivals.torch_device())
    found = [
        by_torch(FULL_STATISTICS, x.size, partial(_rivals.torch_statistics, w)),
        by_torch(READ, x.size, w.sum),
        by_torch(COPY, x.size, partial(torch.empty_like(w).copy_, w)),
    ]
    if compiled:
        fused = torch.compile(_rivals.torch_statistics, dynamic=False, fullgraph=True)
        found.insert(0, by_torch(FULL_STATISTICS, x.size, partial(fused, w), "torch.compile"))
    return found


# --- weights that are drawn -----------------------------------------------------------------------------------------


def _layout(weights: int) -> tuple[programs.Layout, int]:
    """Layout of a sweep of so many weights, and its number of chunks."""
    arrays = -(-weights // prod(SHAPE))
    engine, cell = chunks.Engine([], programs.mesh_of(jax.devices())), chunks.Cell(Normal(), SHAPE, 0, arrays)
    layout = engine.layout(cell)
    return layout, -(-arrays // layout.arrays)


def _repeated(times: int, f: Callable[..., Any], *args: Any) -> None:
    for _ in range(times):
        finish(f(*args))


def _by_threads(times: int, f: Callable[[], Any]) -> None:
    """Calls of one core each, as many at once as a sweep makes."""
    by_threads(lambda _: finish(f()), range(times), threads=cores() if programs.are_called_by_threads() else 1)


def _drawing(law: str, layout: programs.Layout) -> Callable[[], Any]:
    """A call that draws a chunk as a sweep does."""
    structure, numbers = split_population(population(law))
    first, unit = np.uint32(0), None
    arguments = np.array(numbers, np.float32), streams.stream_of(0, law), first, unit
    return partial(programs.drawing(structure, layout), *arguments)


def draws(weights: int, laws: tuple[str, ...]) -> Iterator[Contender]:
    """Each law, a chunk at a time; of what rivals are slow at they draw fewer chunks."""
    chunk = min(weights, CHUNK)
    chunks_of_all = -(-weights // chunk)
    for name in laws:
        law, job = LAWS[name], generate(name)
        fewer = chunks_of_all if law == "normal" else -(-chunks_of_all // FEWER)
        draw = partial(population(law).sample, key(0), (chunk,))
        yield by_quantsim(job, chunks_of_all * chunk, partial(_repeated, chunks_of_all, draw))
        fill = partial(_rivals.numpy_drawn, law, np.random.default_rng(0), np.empty(chunk, np.float32))
        yield by_numpy(job, fewer * chunk, partial(_repeated, fewer, fill))
        if torch := _rivals.optional("torch"):
            fill = partial(_rivals.torch_drawn, law, torch.empty(chunk, device=_rivals.torch_device()))
            yield by_torch(job, fewer * chunk, partial(_repeated, fewer, fill))


def sweeps(weights: int, fewer: int, quantizers: int) -> Iterator[Contender]:
    """Drawing and measuring at once; and program by program, on a chunk that is there."""
    job, specs, (layout, chunks_of_all) = generate_and_measure(quantizers), SPECS[:quantizers], _layout(weights)
    arrays = chunks_of_all * layout.arrays
    drawn = arrays * prod(SHAPE)
    parsed = [parse(spec) for spec in specs]
    yield by_quantsim(job, drawn, partial(measure, Normal(), parsed, shape=SHAPE, arrays=arrays))
    draw = _drawing("normal", layout)
    yield by_quantsim(job, drawn, partial(_by_threads, chunks_of_all, draw), SUM_OF_PARTS)
    w, _ = draw()
    for kind in chunks.kinds_of(parsed):
        first, unit = np.uint32(0), None
        arguments = kind.numbers, streams.stream_of(0, "normal"), first, unit, w
        measured = partial(programs.measuring(kind.structure, layout), *arguments)
        yield by_quantsim(job, drawn, partial(_by_threads, chunks_of_all, measured), SUM_OF_PARTS)
    if _rivals.optional("gguf"):
        arrays = -(-fewer // prod(SHAPE))
        yield by_numpy(job, arrays * prod(SHAPE), partial(_rivals.numpy_sweep, specs, SHAPE, arrays), NUMPY_GGUF)


# --- bytes of GGUF --------------------------------------------------------------------------------------------------


def packing(weights: int, types: tuple[str, ...], seed: int) -> Iterator[Contender]:
    """Bytes of GGUF types, of one array as a user has it."""
    x = np.random.default_rng(seed).standard_normal((weights // SHAPE[1], SHAPE[1]), dtype=np.float32)
    w = jnp.asarray(x)
    for kind in types:
        yield by_quantsim(pack(kind), x.size, partial(gguf.pack, w, kind))
        if _rivals.optional("gguf") and _rivals.can_pack(kind):
            yield by_numpy(pack(kind), x.size, partial(_rivals.packed, kind, x), NUMPY_GGUF)
        if _rivals.optional("libgguf"):
            yield by_numpy(pack(kind), x.size, partial(_rivals.packed_in_c, kind, x), C_REFERENCE)
