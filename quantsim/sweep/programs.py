"""The compiled programs of a sweep: one draws arrays, one for each kind of quantizer measures them.

Arrays are shared out to the devices of a mesh. A program is compiled for a structure, the shape of an array and the
number of arrays on a device; the numbers of populations and quantizers are arguments.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt32

from quantsim._types import PRNGKey, Shape
from quantsim.measure import tallies
from quantsim.measure.streaming import staged
from quantsim.measure.tallies import Noise, Signal
from quantsim.numerics.ieee import on_cpu
from quantsim.populations.structure import Structure, rebuild_population
from quantsim.quantizer.structure import rebuild_quantizer

_ROUNDING = 0x5EED  # stream of an array's key for stochastic rounding
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


def _over(f: Callable[..., Any], *xs: Any) -> Any:
    """``f`` for each row of ``xs``: one after the other on CPU, so that each stays in cache, all at once elsewhere."""
    return lax.map(lambda x: f(*x), xs) if on_cpu() else jax.vmap(f)(*xs)


def _options() -> dict[str, Any] | None:
    # arithmetic on short chains, for which vectors of 512 bits pay where a processor has them
    return {"xla_cpu_prefer_vector_width": 512} if on_cpu() else None


@lru_cache(None)
def drawing(structure: Structure, layout: Layout) -> Callable[..., tuple[Float[Array, "arrays ..."], Signal]]:
    """Program (numbers, stream, first array) -> arrays ``first …``, and what their tallies say of the weights."""

    def draw(numbers: Float[Array, " k"], stream: UInt32[Array, "2"], first: UInt32[Array, ""]) -> tuple[Array, Signal]:
        def one(number: UInt32[Array, ""]) -> tuple[Array, Signal]:
            w = rebuild_population(structure, numbers).sample(array_key(stream, number), layout.shape)
            return w, tallies.signal(w)

        w, signal = _over(one, _numbers(first, layout))
        return w, _gathered(signal)

    specs = P(), P(), P()
    return _program(draw, layout, specs, (P(_AXIS), P() if jax.process_count() > 1 else P(_AXIS)), _options())


@lru_cache(None)
def measuring(structure: Structure, layout: Layout) -> Callable[..., Noise]:
    """Program (numbers of each quantizer, stream, first array, arrays) -> errors, (arrays, quantizers, …)."""

    def measure(
        numbers: Float[Array, "quantizers k"], stream: UInt32[Array, "2"], first: UInt32[Array, ""], w: Array
    ) -> Noise:
        def one(number: UInt32[Array, ""], w: Array) -> Noise:
            key = jax.random.fold_in(array_key(stream, number), _ROUNDING)

            def by(numbers: Float[Array, " k"]) -> Noise:
                return staged(tallies.noise, rebuild_quantizer(structure, numbers), w, key)

            return lax.map(by, numbers)

        return _gathered(_over(one, _numbers(first, layout), w))

    out = P() if jax.process_count() > 1 else P(_AXIS)
    return _program(measure, layout, (P(), P(), P(), P(_AXIS)), out, _options())


def _program(f: Callable, layout: Layout, specs: Any, out: Any, options: dict[str, Any] | None) -> Callable:
    spread = jax.shard_map(f, mesh=layout.mesh, in_specs=specs, out_specs=out, check_vma=False)
    return jax.jit(spread, compiler_options=options)


def _numbers(first: UInt32[Array, ""], layout: Layout) -> UInt32[Array, " per_device"]:
    """Numbers of the arrays on this device."""
    before = first + lax.axis_index(_AXIS).astype(jnp.uint32) * jnp.uint32(layout.per_device)
    return before + jnp.arange(layout.per_device, dtype=jnp.uint32)


def _gathered(tree: Any) -> Any:
    """Results of all devices on each, where processes see only their own; small, and moved without arithmetic."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, _AXIS, tiled=True), tree)


def stream_of(seed: int, name: str) -> np.ndarray:
    """What names the random numbers of a grid point: its seed and its name, never its place in a loop.

    Raises:
        ValueError: for a seed that is no 32-bit number.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed lies between 0 and 2^32 - 1, got {seed}")
    return np.array([seed, zlib.crc32(name.encode()) & 0x7FFFFFFF], np.uint32)


def stream_key(stream: UInt32[Array | np.ndarray, "2"]) -> PRNGKey:
    """The key of a stream: that of its seed, folded with its name."""
    seed, name = jnp.asarray(stream)
    return jax.random.fold_in(jax.random.wrap_key_data(jnp.stack([0 * seed, seed]), impl="threefry2x32"), name)


def array_key(stream: UInt32[Array, "2"], number: UInt32[Array, ""]) -> PRNGKey:
    """Key of array ``number`` of a stream."""
    return jax.random.fold_in(stream_key(stream), number)


def chunk_layout(shape: Shape, arrays: int, mesh: Mesh, chunk: int | None = None) -> Layout:
    """Layout for ``arrays`` arrays in as few chunks as fit about ``chunk`` weights on a device, evenly filled.

    >>> chunk_layout((256, 1024), 38, mesh_of(jax.devices()[:1])).per_device
    13
    """
    size = chunk or (2**22 if on_cpu() else 2**27)
    most = max(size // max(prod(shape), 1), 1)
    chunks = -(-arrays // (mesh.size * most))
    return Layout(tuple(shape), mesh, -(-arrays // (mesh.size * chunks)))
