"""The compiled programs of a sweep: one draws arrays, one for each kind of quantizer measures them.

Arrays are shared out to the devices of a mesh. A program is compiled for a structure, the shape of an array and the
number of arrays on a device; the numbers of populations and quantizers (std, rate, bits, clip ratio, …) are arguments,
and so is the unit in which tallies sum, where squares of the weights would leave the range of float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt32

from quantsim._types import Shape, Weights
from quantsim.measure import tallies
from quantsim.measure.pairs import staged
from quantsim.measure.tallies import Exponents, Noise, Signal
from quantsim.numerics.ieee import on_cpu
from quantsim.numerics.threads import ONE_CORE_A_CALL
from quantsim.populations.structure import Structure, rebuild_population
from quantsim.quantizer.structure import rebuild_quantizer
from quantsim.sweep.streams import Stream, array_key, rounding_key

#: Weights of a chunk on one device: many, so that launches do not count, and few enough for its memory.
CHUNK_ON_CPU, CHUNK_ON_ACCELERATOR = 2**22, 2**27
#: Programs of each kind that a process keeps, those used last; more than any grid has structures times shapes.
_KEPT = 512
_AXIS = "arrays"


@dataclass(frozen=True)
class Layout:
    """Where arrays are drawn: their shape, the devices, and how many arrays are on a device at a time."""

    shape: Shape
    mesh: Mesh
    per_device: int

    @property
    def arrays(self) -> int:
        """Arrays in a chunk, on all devices."""
        return self.per_device * self.mesh.size


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """The devices side by side.

    >>> mesh_of(jax.devices()[:1]).size
    1
    """
    return Mesh(np.array(devices), (_AXIS,))


def chunk_layout(
    shape: Shape, arrays: int, mesh: Mesh, chunk: int | None = None, *, workers: int | None = None
) -> Layout:
    """Layout for ``arrays`` arrays in as few chunks as fit about ``chunk`` weights on a device, evenly filled.

    Where threads work on one device, ``workers`` of them, each has a chunk of its own, and all as many.

    >>> one = mesh_of(jax.devices()[:1])
    >>> chunk_layout((256, 1024), 38, one).per_device, chunk_layout((256, 1024), 38, one, workers=2).per_device
    (13, 10)
    """
    size, workers = chunk or (CHUNK_ON_CPU if on_cpu() else CHUNK_ON_ACCELERATOR), workers or mesh.size
    most = max(size // max(prod(shape), 1), 1)
    chunks = -(-arrays // (workers * most))
    return Layout(tuple(shape), mesh, -(-arrays // (workers * chunks)))


def are_called_by_threads() -> bool:
    """Whether each call of a program works on one core: on CPU, unless several processes work as one."""
    return on_cpu() and jax.process_count() == 1


# --- the two programs -----------------------------------------------------------------------------------------------


@lru_cache(_KEPT)
def drawing(structure: Structure, layout: Layout) -> Callable[..., tuple[Float[Array, "arrays ..."], Signal]]:
    """Program (numbers, stream, first array, unit) -> arrays ``first …``, and their signal in that unit."""

    def draw(
        numbers: Float[Array, " k"], stream: Stream, first: UInt32[Array, ""], unit: Exponents | None
    ) -> tuple[Array, Signal]:
        def one(number: UInt32[Array, ""]) -> tuple[Array, Signal]:
            w = rebuild_population(structure, numbers).sample(array_key(stream, number), layout.shape)
            return w, replace(tallies.signal(w, unit), unit=None)

        w, signal = _each(one, _numbers_of_arrays(first, layout))
        return w, _gathered(signal)

    return _on_all_devices(draw, layout, in_specs=(P(), P(), P(), P()), out_specs=(P(_AXIS), _results()))


@lru_cache(_KEPT)
def measuring(structure: Structure, layout: Layout) -> Callable[..., Noise]:
    """Program (numbers of each quantizer, stream, first array, unit, arrays) -> noise, (arrays, quantizers, …)."""

    def measure(
        numbers: Float[Array, "quantizers k"],
        stream: Stream,
        first: UInt32[Array, ""],
        unit: Exponents | None,
        w: Float[Array, "arrays ..."],
    ) -> Noise:
        def noise(w: Weights, w_hat: Weights) -> Noise:
            return replace(tallies.noise(w, w_hat, unit), unit=None)

        def one(number: UInt32[Array, ""], w: Float[Array, "..."]) -> Noise:
            key = rounding_key(array_key(stream, number))

            def by(numbers: Float[Array, " k"]) -> Noise:
                return staged(noise, rebuild_quantizer(structure, numbers), w, key)

            return lax.map(by, numbers)

        return _gathered(_each(one, _numbers_of_arrays(first, layout), w))

    return _on_all_devices(measure, layout, in_specs=(P(), P(), P(), P(), P(_AXIS)), out_specs=_results())


def _on_all_devices(f: Callable[..., Any], layout: Layout, *, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """``f`` of what each device has, compiled."""
    spread = jax.shard_map(f, mesh=layout.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(spread, compiler_options=_options())


def arrays_of(layout: Layout) -> jax.ShapeDtypeStruct:
    """Shape, type and place of the arrays that ``drawing`` gives and ``measuring`` takes."""
    spread = NamedSharding(layout.mesh, P(_AXIS) if layout.mesh.size > 1 else P())  # as JAX says it of one device
    return jax.ShapeDtypeStruct((layout.arrays, *layout.shape), jnp.float32, sharding=spread)


def _options() -> dict[str, Any] | None:
    """What the compiler is told: chains of arithmetic profit from vectors of 512 bits, where a processor has them."""
    if are_called_by_threads():
        return ONE_CORE_A_CALL
    return {"xla_cpu_prefer_vector_width": 512} if on_cpu() else None


def _each(f: Callable[..., Any], *xs: Any) -> Any:
    """``f`` for each row of ``xs``: one after the other on CPU, so that each stays in cache, all at once elsewhere."""
    return lax.map(lambda x: f(*x), xs) if on_cpu() else jax.vmap(f)(*xs)


def _numbers_of_arrays(first: UInt32[Array, ""], layout: Layout) -> UInt32[Array, " per_device"]:
    """Numbers of the arrays on this device."""
    before = first + lax.axis_index(_AXIS).astype(jnp.uint32) * jnp.uint32(layout.per_device)
    return before + jnp.arange(layout.per_device, dtype=jnp.uint32)


def _results() -> P:
    """Where tallies are: on the device of their arrays, or on all where a process sees only its own devices."""
    return P() if jax.process_count() > 1 else P(_AXIS)


def _gathered(tally: Any) -> Any:
    """A tally as ``_results`` has it; small, and moved without arithmetic."""
    if jax.process_count() == 1:
        return tally
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, _AXIS, tiled=True), tally)


# --- how many are compiled ------------------------------------------------------------------------------------------

_compiles: list[str] = []  # a list, as programs are compiled in several threads


@jax.monitoring.register_event_duration_secs_listener
def _count(event: str, *_: Any, **__: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiles.append(event)


def compiles_so_far() -> int:
    """Programs that JAX has compiled, or loaded from its cache on disk, since this process started."""
    return len(_compiles)
