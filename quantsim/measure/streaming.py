"""Errors of weights under a quantizer without forming the quantized array: stage by stage, in cache."""

from collections.abc import Callable
from functools import partial
from math import lcm, prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from quantsim._types import ArrayLike, PRNGKey, Shape, Weights
from quantsim.measure import statistics, tallies
from quantsim.measure.statistics import ErrorStats
from quantsim.measure.tallies import Exponents, Part, Tally
from quantsim.numerics.fusion import STAGE, apart
from quantsim.numerics.ieee import on_cpu
from quantsim.numerics.meshes import placed_like
from quantsim.numerics.tiles import TILE, with_whole_tiles
from quantsim.populations.structure import Structure
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.inputs import as_weights
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.structure import parted, rebuild_quantizer

_LONGEST = 16 * STAGE  # a stage of rows that share a scale; arrays of longer ones are taken whole


def _stage_of(q: AbstractQuantizer, shape: Shape) -> tuple[int, int] | None:
    """Weights of a stage and of a run of weights that share scales with no others; None where there are no stages."""
    run = q._span(shape)
    unit = lcm(run or 1, TILE)
    stage = unit * max(STAGE // unit, 1)
    return None if not on_cpu() or run is None or not prod(shape) or stage > _LONGEST else (stage, run)


def staged(f: Callable[[Weights, Weights], Part], q: AbstractQuantizer, w: Weights, key: PRNGKey | None) -> Part:
    """``f(w, q.roundtrip(w))``, for functions of ``tallies``, with working sets that fit the cache.

    A stage is whole tiles and whole runs of weights that share scales with no others. A scale for the tensor, a
    stochastic rounding and very long rows take the array whole.
    """
    sizes = _stage_of(q, w.shape)
    if sizes is None or w.size <= sizes[0]:
        return f(w, apart(lambda: q._approximate(w, key), w) if w.size else w)
    (stage, run), flat = sizes, w.reshape(-1)
    whole = w.size // stage * stage

    def part(rows: Callable[[], Weights], at: Array) -> Part:
        def shaped() -> Weights:
            return rows().reshape(-1) if run == 1 else rows().reshape(-1, run)

        return f(shaped(), apart(lambda: q._approximate(shaped(), key), at))

    def at(i: Array) -> Part:  # sliced where it is read: no copy
        return part(lambda: lax.dynamic_index_in_dim(flat[:whole].reshape(-1, stage), i, keepdims=False), i)

    found = tallies.joined(lax.map(at, jnp.arange(whole // stage)))
    return tallies.joined(found, part(lambda: flat[whole:], flat)) if whole < w.size else found


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


def weight_error(w: ArrayLike, q: AbstractQuantizer | str, *, key: PRNGKey | None = None) -> ErrorStats:
    """Error statistics of the weights when they are quantized: ``error_stats(w, q.roundtrip(w))`` to the bit.

    The quantized array is never formed, so this is several times as fast and needs no second copy of the weights.

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

    def measured(unit: Exponents | None) -> Tally:
        return tally(quantizer, with_whole_tiles(w32), key, unit=unit)

    found = statistics.of_any_scale(measured)
    if not np.isfinite(found.max_signal):
        as_weights(w)  # says which weight it is
    return statistics.fold(statistics.init(), found)


def _is_narrow(w: ArrayLike) -> bool:
    """Whether float32 holds these numbers, so that it does not matter who rounds them."""
    dtype = w.dtype if isinstance(w, jax.Array | np.ndarray | np.generic) else np.asarray(w).dtype
    return jnp.finfo(dtype).bits <= 32 if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).bits <= 16
