"""The scale of a tensor, where scales are in two levels: found first, so that the parts of the array can follow apart.

It is the largest of those of any parts: every step from the weights to it is monotone, rounded once, and exact maxima
have no order.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from quantsim._types import Weights
from quantsim.numerics.threads import ONE_CORE_A_CALL, by_threads, shares
from quantsim.populations.structure import Structure
from quantsim.quantizer.stages import Stages, stages_of
from quantsim.quantizer.structure import Numbers, parted, rebuild_quantizer

#: Numbers of the first stage of a call and of the one after the last.
_Between: TypeAlias = tuple[Int32[Array, ""], Int32[Array, ""]]


def scale_by_stages(q: Any, w: Weights, stages: Stages) -> Float[Array, ""]:
    """The scale of a tensor, stage by stage, in the program that needs it."""
    return _largest(q, w, stages, (jnp.int32(0), jnp.int32(stages.whole(w))))


def scale_by_threads(q: Any, parts: Sequence[Weights], *, threads: int) -> Float[np.ndarray, ""]:
    """The scale of a tensor whose parts these are, each of which has stages or is empty, by several threads."""
    structure, numbers = parted(q)

    def calls(w: Weights) -> list[tuple[Any, Weights, tuple[Any, Any]]]:
        stages = stages_of(q._span(w.shape), w.shape)
        if stages is None:  # no weights
            return []
        ranges = shares(stages.whole(w), stages.length, threads) or [(0, 0)]
        betweens = [(np.int32(a), np.int32(b)) for a, b in ranges]
        program = _of_some_stages().lower(structure, numbers, w, betweens[0]).compile()
        return [(program, w, between) for between in betweens]

    def found(call: tuple[Any, Weights, tuple[Any, Any]]) -> np.ndarray:
        program, w, between = call
        return np.asarray(program(numbers, w, between))

    return np.asarray(np.max(by_threads(found, [call for w in parts for call in calls(w)], threads=threads)))


@cache
def _of_some_stages() -> Any:
    """Program of the stages between two numbers, and of the rest if the last is among them."""

    def found(structure: Structure, numbers: Numbers, w: Weights, between: _Between) -> Float[Array, ""]:
        q = rebuild_quantizer(structure, numbers)
        stages = stages_of(q._span(w.shape), w.shape)
        assert stages is not None
        return _largest(q, w, stages, between)

    return jax.jit(found, static_argnums=0, compiler_options=ONE_CORE_A_CALL)


def _largest(q: Any, w: Weights, stages: Stages, between: _Between) -> Float[Array, ""]:
    first, end = between

    def of_stage(i: Array, largest: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.maximum(largest, q._tensor_scale(stages.at(w, i)))

    found = lax.fori_loop(first, end, of_stage, jnp.float32(0.0))
    if not stages.has_rest(w):
        return found
    is_last = end == stages.whole(w)
    return lax.cond(is_last, lambda: jnp.maximum(found, q._tensor_scale(stages.rest(w))), lambda: found)
