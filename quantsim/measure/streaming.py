"""Errors of weights under a quantizer without forming the quantized array: stage by stage, in cache, on all cores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from quantsim._types import ArrayLike, PRNGKey, TensorScale, Weights
from quantsim.measure import statistics, tallies, threaded
from quantsim.measure.pairs import staged
from quantsim.measure.shards import in_order
from quantsim.measure.statistics import ErrorStats
from quantsim.measure.tallies import Exponents, Tally
from quantsim.numerics.meshes import placed_like
from quantsim.numerics.threads import cores
from quantsim.numerics.tiles import with_whole_tiles
from quantsim.populations.structure import Structure
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.inputs import as_weights
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.stages import stages_of
from quantsim.quantizer.structure import Numbers, parted, rebuild_quantizer
from quantsim.quantizer.tensor_scales import scale_by_threads


@partial(jax.jit, static_argnums=0)
def _tally(
    structure: Structure,
    given: tuple[Numbers, TensorScale | None],
    w: Weights,
    key: PRNGKey | None,
    unit: Exponents | None,
) -> Tally:
    def measured(
        given: tuple[Numbers, TensorScale | None], w: Weights, key: PRNGKey | None, unit: Exponents | None
    ) -> Tally:
        numbers, tensor = given
        q = rebuild_quantizer(structure, numbers)
        return staged(partial(tallies.tally, unit=unit), q, w, key, tensor=tensor)

    return placed_like(w, measured, given, w, key, unit)


def tally(
    q: AbstractQuantizer,
    w: Weights,
    key: PRNGKey | None = None,
    *,
    unit: Exponents | None = None,
    tensor: TensorScale | None = None,
) -> Tally:
    """``tallies.tally(w, q.roundtrip(w), unit=unit)`` to the bit, stage by stage.

    One compiled program serves all quantizers that differ in numbers only: bits, range, clip ratio. ``tensor`` is the
    scale of the tensor that the weights are a part of, of a quantizer with one; without, they are all of it.
    """
    structure, numbers = parted(q)
    return _tally(structure, (numbers, tensor), w, key, unit)


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

    stages = stages_of(quantizer._span(w32.shape), w32.shape) if key is None else None
    parts = [w32] if stages is None else in_order(w32, stages.run)

    is_cut = quantizer._has_tensor_scale() and len(parts) > 1
    tensor = scale_by_threads(quantizer, parts, threads=cores()) if is_cut else None

    def measured(unit: Exponents | None) -> Tally:
        found = [_by_all_cores(quantizer, with_whole_tiles(part), key, unit, tensor) for part in parts]
        return found[0] if len(found) == 1 else tallies.joined(*found)

    found = statistics.of_any_scale(measured)
    if not np.isfinite(found.max_signal):
        as_weights(w)  # says which weight it is
    return statistics.fold(statistics.init(), found)


def _by_all_cores(
    q: AbstractQuantizer, w: Weights, key: PRNGKey | None, unit: Exponents | None, tensor: TensorScale | None
) -> Tally:
    found = threaded.of_quantized(q, w, unit, tensor=tensor, threads=cores()) if key is None else None
    return tally(q, w, key, unit=unit, tensor=tensor) if found is None else found


def _is_narrow(w: ArrayLike) -> bool:
    """Whether float32 holds these numbers, so that it does not matter who rounds them."""
    dtype = w.dtype if isinstance(w, jax.Array | np.ndarray | np.generic) else np.asarray(w).dtype
    return jnp.finfo(dtype).bits <= 32 if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).bits <= 16
