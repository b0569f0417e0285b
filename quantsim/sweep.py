"""Many weights through many quantizers: one generated array is measured by every quantizer, devices side by side."""

import zlib
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32

from quantsim import errors
from quantsim._types import PRNGKey, Shape
from quantsim.errors import ErrorStats, Tally
from quantsim.populations import Population, key
from quantsim.quantized import AbstractQuantizer
from quantsim.theory import weight_mse


def population_key(seed: int, name: str) -> PRNGKey:
    """Key of a grid point: a pure function of the seed and the point's name, never of its place in a loop.

    >>> bool((jax.random.key_data(population_key(0, "normal")) == jax.random.key_data(population_key(0, "t5"))).all())
    False
    """
    return jax.random.fold_in(key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def tallies(pop: Population, quantizers: Sequence[AbstractQuantizer], shape: Shape, key: PRNGKey) -> tuple[Tally, ...]:
    """Draw one array and tally its errors under every quantizer; the population's numbers may be traced."""
    w = pop.sample(key, shape)
    return tuple(errors.tally(w, q.roundtrip(w, key=jax.random.fold_in(key, 0x5EED))) for q in quantizers)


@partial(jax.jit, static_argnums=(0, 1, 2, 5))
def _round(
    pop: Population,
    quantizers: tuple[AbstractQuantizer, ...],
    shape: Shape,
    base: PRNGKey,
    first: Int32[Array, ""],
    mesh: Mesh,
) -> tuple[Tally, ...]:
    """One array on every device."""

    def one(base: PRNGKey, first: Int32[Array, ""]) -> tuple[Tally, ...]:
        number = first + lax.axis_index("arrays")
        each = tallies(pop, quantizers, shape, jax.random.fold_in(base, number))
        return jax.tree.map(lambda leaf: leaf[None], each)

    return jax.shard_map(one, mesh=mesh, in_specs=(P(), P()), out_specs=P("arrays"), check_vma=False)(base, first)


def measure(
    pop: Population,
    quantizers: Sequence[AbstractQuantizer],
    *,
    shape: Shape,
    arrays: int,
    seed: int = 0,
    enough: Callable[[list[ErrorStats]], bool] | None = None,
) -> list[ErrorStats]:
    """Error statistics of ``arrays`` independent arrays of one shape under every quantizer, on all local devices.

    Whole arrays are the units of the standard errors: where weights share a scale, its luck is part of the error.
    Array k is a function of (seed, population, k) alone, so results do not depend on the number of devices.

    Args:
        pop: population.
        quantizers: measured on the same arrays (common random numbers).
        shape: shape of one array, what a per-tensor scale sees.
        arrays: number of arrays at most.
        seed: seed of the run.
        enough: called after every 16 arrays with the statistics so far; true stops.

    Raises:
        ValueError: for fewer than one array.

    >>> import quantsim as qs
    >>> (stats,) = measure(qs.populations.Normal(), [qs.parse("int8:block32")], shape=(64, 1024), arrays=8)
    >>> stats.count, abs(stats.sqnr_db - 45.44) < 0.1
    (524288, True)
    """
    if arrays < 1:
        raise ValueError(f"at least one array must be measured, got {arrays}")
    mesh = jax.make_mesh((jax.local_device_count(),), ("arrays",), devices=jax.local_devices())
    base, stats = population_key(seed, str(pop)), [errors.init() for _ in quantizers]
    for first in range(0, arrays, mesh.size):
        batch = _round(pop, tuple(quantizers), tuple(shape), base, jnp.int32(first), mesh)
        batch = jax.tree.map(np.asarray, batch)
        for device in range(min(mesh.size, arrays - first)):
            one = jax.tree.map(lambda leaf, at=device: leaf[at : at + 1], batch)
            stats = [errors.fold(s, t, "array") for s, t in zip(stats, one, strict=True)]
            if (first + device + 1) % 16 == 0 and enough is not None and enough(stats):
                return stats
    return stats


def predicted_sqnr_db(pop: Population, q: AbstractQuantizer, shape: Shape) -> float | None:
    """SQNR of an infinite population by ``theory.weight_mse``, in dB; None where there is no theory.

    >>> import quantsim as qs
    >>> round(predicted_sqnr_db(qs.populations.Normal(), qs.parse("nf4:block64"), (64, 64)), 3)
    20.726
    >>> predicted_sqnr_db(qs.populations.Normal(), qs.parse("q4_k"), (64, 256)) is None
    True
    """
    try:
        mse = weight_mse(pop, q, shape)
    except ValueError:
        return None
    return float(-10 * np.log10(mse)) if mse > 0 else None
