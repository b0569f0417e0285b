"""The jobs of the study ``throughput``, who does them, and how they are timed: in turns, in one process."""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from quantsim.measure import streaming
from quantsim.populations import Normal
from quantsim.populations import parse as population
from quantsim.populations.structure import split_population
from quantsim.quantizer import parse
from quantsim.quantizer.blockformats import gguf
from quantsim.quantizer.structure import split_quantizer
from quantsim.sweep import measure, programs, streams

from . import _rivals

SHAPE = (256, 1024)
_KINDS = (  # of all that a program takes numbers or constants of; the first 8 share no program
    "int8:block32 int4:channel bf16 e4m3:tensor nf4:block64 mxfp4 nvfp4 q8_0 int8:tensor int8:channel int6:block32 "
    "int5:block32 int4:block32 int4:tensor int3:block32 int2:block32 int4:block128 int8:block128 int4:block32:clip0.8 "
    "int4:channel:clip0.5 int8:channel:minmax int4:block32:minmax e4m3 e5m2 f16 e4m3:block32 e5m2:block32 e2m1:block16 "
    "af4:block64 mxfp8_e4m3 mxint8 q4_0"
)
SPECS = tuple(_KINDS.split())
LAWS = {"normal": "normal", "student-t": "t5", "Laplace": "laplace"}
FULL, SUM, GGUF = "full statistics", "sum of parts", "NumPy + gguf"
_CALLS = 8  # in a timing on an accelerator, or launches would be all


class Contender(NamedTuple):
    """Who does which job on how many weights, and on what; those of one job and name add up."""

    job: str
    name: str
    weights: int
    run: Callable[[], Any]
    device: str
    threads: int | None


@cache
def processor() -> str:
    """Name of the CPU and its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = found[0].replace("(R)", "").replace("(TM)", "") if found else "CPU"
    return f"{name}, {os.cpu_count()} cores"


def ours(job: str, weights: int, run: Callable[[], Any], name: str = "quantsim") -> Contender:
    """Quantsim, on all devices of JAX."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return Contender(job, name, weights, run, processor(), os.cpu_count())
    return Contender(job, name, weights, run, f"{jax.device_count()} x {device.device_kind}", None)


def _numpy(job: str, weights: int, run: Callable[[], Any], name: str = "NumPy") -> Contender:
    return Contender(job, name, weights, run, processor(), 1)


def _torch(job: str, weights: int, run: Callable[[], Any], name: str = "torch") -> Contender:
    device = _rivals.torch_device()
    torch = _rivals.optional("torch")
    if device == "cpu":
        return Contender(job, name, weights, run, processor(), torch.get_num_threads())
    return Contender(job, name, weights, run, f"1 x {torch.cuda.get_device_name()}", None)


# --- timing ---------------------------------------------------------------------------------------------------------


def _wait(done: Any) -> None:
    jax.block_until_ready(done)
    _rivals.wait()


def timed(contenders: Sequence[Contender], rounds: int) -> dict[Contender, np.ndarray]:
    """Seconds of each in every round but the first, which compiles; a contender stands for those that add up."""
    found: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds + 1):
        for seconds, c in zip(found, contenders, strict=True):
            calls = 1 if c.device == processor() else _CALLS
            start = time.perf_counter()
            _wait([c.run() for _ in range(calls)])
            seconds.append((time.perf_counter() - start) / calls)
    whole: dict[tuple[str, str], Contender] = {}
    added: dict[Contender, Any] = defaultdict(float)
    for c, seconds in zip(contenders, found, strict=True):
        added[whole.setdefault((c.job, c.name), c)] += np.array(seconds[1:])
    return added


def row(c: Contender, seconds: np.ndarray, seed: int) -> dict[str, Any]:
    """What was measured of a contender: seconds, and M weights/s."""
    q1, median, q3 = np.quantile(seconds, (0.25, 0.5, 0.75))
    found = {"kind": "time", "job": c.job, "contender": c.name, "weights": c.weights, "rounds": len(seconds)}
    found |= {"seconds": median, "seconds_se": _se(_median, seed, seconds), "seconds_q1": q1, "seconds_q3": q3}
    return found | {"rate": c.weights / median / 1e6, "device": c.device, "threads": c.threads}


def ratio(of: np.ndarray, over: np.ndarray, seed: int) -> dict[str, Any]:
    """Ratio of medians, and its standard error by a bootstrap over rounds, which slow down all of their contenders."""

    def medians(a: np.ndarray, b: np.ndarray) -> Any:
        return _median(a) / _median(b)

    return {"ratio": medians(of, over), "ratio_se": _se(medians, seed, of, over)}


def _median(seconds: np.ndarray) -> Any:
    return np.median(seconds, axis=-1)


def _se(f: Callable[..., Any], seed: int, *values: np.ndarray) -> float:
    drawn = np.random.default_rng(seed).integers(len(values[0]), size=(1000, len(values[0])))
    return float(np.std(f(*(v[drawn] for v in values))))


# --- jobs -----------------------------------------------------------------------------------------------------------


def given(weights: int, seed: int, compiled: bool) -> list[Contender]:
    """Statistics of weights that are there; reads and copies of them, which are the limit."""
    mesh = programs.mesh_of(jax.devices())
    along, rows = P(mesh.axis_names), weights // SHAPE[1] // mesh.size * mesh.size
    x = np.random.default_rng(seed).standard_normal((rows, SHAPE[1]), dtype=np.float32)
    w, out = jax.device_put(x, NamedSharding(mesh, along)), np.empty_like(x)

    def program(f: Callable[[Any], Any]) -> Callable[[], Any]:
        def stacked(w: jax.Array) -> Any:
            return jax.tree.map(lambda leaf: leaf[None], f(w))

        spread = jax.shard_map(stacked, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
        return partial(jax.jit(spread, compiler_options=programs._options()), w)

    tally = partial(streaming.tally, parse(SPECS[0]))
    jobs: dict[str, Callable[[Any], Any]] = {FULL: tally, "read": jnp.sum, "copy": jnp.negative}
    found = [ours(job, x.size, program(f)) for job, f in jobs.items()]
    found += [_numpy("read", x.size, x.sum), _numpy("copy", x.size, partial(np.copyto, out, x))]
    if _rivals.optional("gguf"):
        found.append(_numpy(FULL, x.size, partial(_rivals.numpy_statistics, "q8_0", x), GGUF))
    return found + _torch_given(x, compiled)


def _torch_given(x: np.ndarray, compiled: bool) -> list[Contender]:
    if not (torch := _rivals.optional("torch")):
        return []
    t = torch.from_numpy(x).to(_rivals.torch_device())
    found = [
        _torch(FULL, x.size, partial(_rivals.torch_statistics, t)),
        _torch("read", x.size, t.sum),
        _torch("copy", x.size, partial(torch.empty_like(t).copy_, t)),
    ]
    if compiled:
        fused = torch.compile(_rivals.torch_statistics, dynamic=False, fullgraph=True)
        found.insert(0, _torch(FULL, x.size, partial(fused, t), "torch.compile"))
    return found


def _repeated(times: int, f: Callable[..., Any], *args: Any) -> None:
    for _ in range(times):
        _wait(f(*args))


def _layout(weights: int) -> tuple[programs.Layout, int]:
    """Layout of a sweep of so many weights, and its number of chunks."""
    arrays = -(-weights // prod(SHAPE))
    layout = programs.chunk_layout(SHAPE, arrays, programs.mesh_of(jax.devices()))
    return layout, -(-arrays // layout.arrays)


def _drawing(spec: str, layout: programs.Layout) -> Callable[[], Any]:
    """A call that draws a chunk as a sweep does."""
    structure, numbers = split_population(population(spec))
    args = np.array(numbers, np.float32), streams.stream_of(0, spec), np.uint32(0)
    return partial(programs.drawing(structure, layout), *args)


def draws(weights: int, laws: Iterable[str]) -> Iterable[Contender]:
    """Each law, a chunk at a time; what rivals are slow at, an eighth as often."""
    layout, times = _layout(weights)
    chunk = layout.arrays * prod(SHAPE)
    for name in laws:
        law = LAWS[name]
        job, less = f"generate {name}", times if law == "normal" else -(-times // 8)
        yield ours(job, times * chunk, partial(_repeated, times, _drawing(law, layout)))
        fill = partial(_rivals.numpy_drawn, law, np.random.default_rng(0), np.empty(chunk, np.float32))
        yield _numpy(job, less * chunk, partial(_repeated, less, fill))
        if torch := _rivals.optional("torch"):
            fill = partial(_rivals.torch_drawn, law, torch.empty(chunk, device=_rivals.torch_device()))
            yield _torch(job, less * chunk, partial(_repeated, less, fill))


def sweeps(weights: int, fewer: int, number: int) -> Iterable[Contender]:
    """Drawing and measuring at once; and program by program, on a chunk that is there."""
    job, (layout, times) = f"generate + measure, {number}", _layout(weights)
    quantizers, draw, arrays = [parse(s) for s in SPECS[:number]], _drawing("normal", layout), times * layout.arrays
    weights, (w, _) = arrays * prod(SHAPE), draw()
    yield ours(job, weights, partial(measure, Normal(), quantizers, shape=SHAPE, arrays=arrays))
    yield ours(job, weights, partial(_repeated, times, draw), SUM)
    groups: dict[Any, list[Any]] = defaultdict(list)
    for structure, numbers in map(split_quantizer, quantizers):
        groups[structure].append(np.array(numbers, np.float32))
    for structure, numbers in groups.items():
        args = np.stack(numbers), streams.stream_of(0, "normal"), np.uint32(0), w
        yield ours(job, weights, partial(_repeated, times, programs.measuring(structure, layout), *args), SUM)
    if _rivals.optional("gguf"):
        arrays = -(-fewer // prod(SHAPE))
        run = partial(_rivals.numpy_sweep, SPECS[:number], SHAPE, arrays)
        yield _numpy(job, arrays * prod(SHAPE), run, GGUF)


def packing(weights: int, types: Iterable[str], seed: int) -> Iterable[Contender]:
    """Bytes of GGUF types, and back, of one array as a user has it."""
    x = np.random.default_rng(seed).standard_normal((weights // SHAPE[1], SHAPE[1]), dtype=np.float32)
    w = jnp.asarray(x)
    for kind in types:
        data, there, back = gguf.pack(w, kind), f"pack {kind}", f"unpack {kind}"
        yield ours(there, x.size, partial(gguf.pack, w, kind))
        yield ours(back, x.size, partial(gguf.unpack, data, kind))
        if _rivals.optional("gguf"):
            yield _numpy(back, x.size, partial(_rivals.unpacked, kind, np.asarray(data)), GGUF)
            if _rivals.can_pack(kind):
                yield _numpy(there, x.size, partial(_rivals.packed, kind, x), GGUF)
