"""Round trips of large arrays by all cores: one program, which takes some stages, called by several threads.

Programs are compiled ahead: a call of one with known arrays is then no part of a program that is being traced.
"""

from functools import cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32

from quantsim._types import Weights
from quantsim.numerics.fusion import apart
from quantsim.numerics.memory import empty
from quantsim.numerics.meshes import is_on_one_cpu
from quantsim.numerics.threads import ONE_CORE_A_CALL, by_threads, cores, worth_sharing
from quantsim.populations.structure import Structure
from quantsim.quantizer.stages import Stages, stages_of
from quantsim.quantizer.structure import Numbers, parted, rebuild_quantizer

_MOST = 8  # stages of a call: results that stay in the cache until they are copied
#: Numbers of the first stage of a call and of the one after the last.
_Between: TypeAlias = tuple[Int32[Array, ""], Int32[Array, ""]]


def shared_roundtrip(q: Any, w: Weights) -> Weights | None:
    """What ``q`` makes of ``w``, to the bit, by all cores; None where one call is as good, or ``w`` is not known."""
    threads = cores()
    if not is_on_one_cpu(w) or not worth_sharing(w.size, threads):
        return None
    stages, (structure, numbers) = stages_of(q._span(w.shape), w.shape), parted(q)
    if stages is None or not isinstance(numbers, np.ndarray):  # numbers that may be traced
        return None
    whole, length, out = stages.whole(w), stages.length, empty(w.size)
    betweens = [(np.int32(i), np.int32(min(i + _MOST, whole))) for i in range(0, whole, _MOST)]
    some = _some_stages().lower(structure, numbers, w, betweens[0]).compile()

    def part(between: tuple[Any, Any]) -> None:
        first, end = (int(i) * length for i in between)
        out[first:end] = np.asarray(some(numbers, w, between)).reshape(-1)[: end - first]

    by_threads(part, betweens, threads=threads)
    if stages.has_rest(w):
        rest = _rest().lower(structure, numbers, w).compile()
        out[whole * length :] = np.asarray(rest(numbers, w)).reshape(-1)
    return jax.device_put(out.reshape(w.shape), w.sharding if w.committed else None, may_alias=True)


@cache
def _some_stages() -> Any:
    """Program of the stages between two numbers; what follows them means nothing."""

    def approximated(structure: Structure, numbers: Numbers, w: Weights, between: _Between) -> Weights:
        q, (first, end) = rebuild_quantizer(structure, numbers), between
        stages = _stages_of(q, w)

        def add(i: Array, found: Weights) -> Weights:
            made = apart(lambda: q._approximate(stages.at(w, i), None), i)
            return lax.dynamic_update_index_in_dim(found, made.reshape(-1), i - first, 0)

        return lax.fori_loop(first, end, add, jnp.zeros((_MOST, stages.length), jnp.float32))

    return jax.jit(approximated, static_argnums=0, compiler_options=ONE_CORE_A_CALL)


@cache
def _rest() -> Any:
    """Program of what is left after the whole stages."""

    def approximated(structure: Structure, numbers: Numbers, w: Weights) -> Weights:
        q = rebuild_quantizer(structure, numbers)
        return q._approximate(_stages_of(q, w).rest(w), None)

    return jax.jit(approximated, static_argnums=0, compiler_options=ONE_CORE_A_CALL)


def _stages_of(q: Any, w: Weights) -> Stages:
    stages = stages_of(q._span(w.shape), w.shape)
    assert stages is not None
    return stages
