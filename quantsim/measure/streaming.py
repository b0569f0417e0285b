"""Errors of weights under a quantizer without forming the quantized array: stage by stage, in cache, on all cores."""

from functools import cache, partial
from itertools import pairwise
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from quantsim._types import ArrayLike, PRNGKey, Weights
from quantsim.measure import statistics, tallies
from quantsim.measure.shards import in_order
from quantsim.measure.stages import some_stages, stage_of, staged
from quantsim.measure.statistics import ErrorStats
from quantsim.measure.tallies import SUMS, Exponents, Tally
from quantsim.numerics.meshes import is_on_one_cpu, placed_like
from quantsim.numerics.threads import by_threads, cores
from quantsim.numerics.tiles import TILE, with_whole_tiles
from quantsim.populations.structure import Structure
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.inputs import as_weights
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.structure import parted, rebuild_quantizer

_FEWEST = 2**20  # weights of a call, a millisecond; from four calls on other threads help
_MOST = 2**22  # weights of a call: milliseconds, for which one thread may wait for others and an interrupt for all
_CALLS = 4  # of each thread, where that is more calls: cores are not equally busy
#: Chains of arithmetic profit from vectors of 512 bits, where a processor has them; the threads here are all there are.
_OPTIONS: dict[str, Any] = {"xla_cpu_prefer_vector_width": 512, "xla_cpu_multi_thread_eigen": False}

_EXTREMES, _COUNTS = ("max_abs", "max_signal"), ("nonzero", "zeroed", "clipped")
#: Sums, extremes and counts of a tally.
_Packed: TypeAlias = tuple[Float[Array, "6 _"], Float[Array, "2"], Int32[Array, "3"]]


@partial(jax.jit, static_argnums=0)
def _tally(
    structure: Structure, numbers: Float[Array, " k"], w: Weights, key: PRNGKey | None, unit: Exponents | None
) -> Tally:
    def measured(numbers: Float[Array, " k"], w: Weights, key: PRNGKey | None, unit: Exponents | None) -> Tally:
        return staged(partial(tallies.tally, unit=unit), rebuild_quantizer(structure, numbers), w, key)

    return placed_like(w, measured, numbers, w, key, unit)


def tally(q: AbstractQuantizer, w: Weights, key: PRNGKey | None = None, *, unit: Exponents | None = None) -> Tally:
    """``tallies.tally(w, q.roundtrip(w), unit=unit)`` to the bit, stage by stage.

    One compiled program serves all quantizers that differ in numbers only: bits, range, clip ratio.
    """
    return _tally(*parted(q), w, key, unit)


# --- by several threads ---------------------------------------------------------------------------------------------


@cache
def _part() -> Any:
    """Program that tallies some of the stages of an array, to be compiled for the whole of it and called for each."""

    def measured(
        structure: Structure,
        most: int,
        numbers: Float[Array, " k"],
        w: Weights,
        unit: Exponents | None,
        between: tuple[Int32[Array, ""], Int32[Array, ""]],
    ) -> tuple[_Packed, _Packed | None]:
        q = rebuild_quantizer(structure, numbers)
        found, rest = some_stages(partial(tallies.tally, unit=unit), q, w, between=between, most=most)
        return _packed(found), None if rest is None else _packed(rest)

    return jax.jit(measured, static_argnums=(0, 1), compiler_options=_OPTIONS)


def threaded(q: AbstractQuantizer, w: Weights, unit: Exponents | None = None, *, threads: int) -> Tally | None:
    """What ``tally`` gives, to the bit, in NumPy arrays, by so many threads; None where one call is as good.

    One program, compiled here, takes the whole array and the numbers of the stages that a call is for. JAX runs the
    calls of several threads at once, also on one device.
    """
    sizes = stage_of(q, w.shape) if is_on_one_cpu(w) and threads > 1 and w.size >= 4 * _FEWEST else None
    if sizes is None:
        return None
    stage, stages = sizes[0], w.size // sizes[0]
    most = max(min(max(w.size // (_CALLS * threads), _FEWEST), _MOST) // stage, 1)
    structure, numbers = parted(q)
    tallies.require_known(jax.device_put(numbers))  # inside jit they are not, though the weights may be
    cuts = [np.int32(cut) for cut in (*range(0, stages, most), stages)]
    program = _part().lower(structure, most, numbers, w, unit, (cuts[0], cuts[1])).compile()

    def part(cut: tuple[Any, Any]) -> list[Any]:
        (sums, *others), rest = jax.tree.map(np.asarray, program(numbers, w, unit, cut))
        kept = sums[:, : int(cut[1] - cut[0]) * stage // TILE], *others
        return [kept, rest] if rest is not None and cut[1] == stages else [kept]

    found = by_threads(part, list(pairwise(cuts)), threads=threads)
    return _unpacked([packed for of_part in found for packed in of_part], unit)


def _packed(t: Tally) -> _Packed:
    """A tally in three arrays: to make many of Python takes longer than a stage."""
    sums, extremes, counts = ([getattr(t, name) for name in names] for names in (SUMS, _EXTREMES, _COUNTS))
    return jnp.stack(sums), jnp.stack(extremes), jnp.stack(counts)


def _unpacked(parts: list[Any], unit: Exponents | None) -> Tally:
    """The tally of consecutive parts that are packed, in NumPy arrays."""
    sums, extremes, counts = zip(*parts, strict=True)
    found = [*np.concatenate(sums, axis=1), *np.max(extremes, axis=0), *np.sum(counts, axis=0)]
    names = (*SUMS, *_EXTREMES, *_COUNTS)
    return jax.tree.map(np.asarray, Tally(**dict(zip(names, found, strict=True)), unit=unit))


# --- statistics -----------------------------------------------------------------------------------------------------


def weight_error(w: ArrayLike, q: AbstractQuantizer | str, *, key: PRNGKey | None = None) -> ErrorStats:
    """Error statistics of the weights when they are quantized: ``error_stats(w, q.roundtrip(w))`` to the bit.

    The quantized array is never formed, so this is several times as fast, and a ``jax.Array`` is not copied; an array
    of NumPy is, where it is checked and handed to JAX.

    Args:
        w: weights of any shape; a matrix is (out, in).
        q: quantizer, or its spec.
        key: for stochastic rounding.

    Raises:
        TypeError: if ``w`` is not numeric or ``q`` no quantizer, and inside ``jit`` and other transformations.
        ValueError: for a NaN or infinity, or a shape that the quantizer does not take.

    >>> import quantsim as qs
    >>> w = qs.populations.Normal().sample(qs.populations.key(0), (256, 1024))
    >>> weight_error(w, "int8:block32").mse == qs.error_stats(w, qs.parse("int8:block32").roundtrip(w)).mse
    True
    """
    quantizer, w32 = parse(q), as_weights(w, "propagate")
    tallies.require_known(w32)
    if not _is_narrow(w):
        as_weights(w)
        return statistics.error_stats(w, quantizer.roundtrip(w, key=key))
    jax.eval_shape(lambda w: quantizer._checked(w, None), w32)  # its shape; its values are seen by the tally
    if not w32.size:  # nothing to compile a program for
        return statistics.init()

    sizes = stage_of(quantizer, w32.shape) if key is None else None
    parts = [w32] if sizes is None else in_order(w32, sizes[1])

    def measured(unit: Exponents | None) -> Tally:
        found = [_by_all_cores(quantizer, with_whole_tiles(part), key, unit) for part in parts]
        return found[0] if len(found) == 1 else tallies.joined(*found)

    found = statistics.of_any_scale(measured)
    if not np.isfinite(found.max_signal):
        as_weights(w)  # says which weight it is
    return statistics.fold(statistics.init(), found)


def _by_all_cores(q: AbstractQuantizer, w: Weights, key: PRNGKey | None, unit: Exponents | None) -> Tally:
    found = threaded(q, w, unit, threads=cores()) if key is None else None
    return tally(q, w, key, unit=unit) if found is None else found


def _is_narrow(w: ArrayLike) -> bool:
    """Whether float32 holds these numbers, so that it does not matter who rounds them."""
    dtype = w.dtype if isinstance(w, jax.Array | np.ndarray | np.generic) else np.asarray(w).dtype
    return jnp.finfo(dtype).bits <= 32 if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).bits <= 16
