"""Weights beside what a quantizer makes of them, stage by stage: working sets that fit the cache, of all or of some."""

from collections.abc import Callable
from math import lcm, prod
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32

from quantsim._types import PRNGKey, Shape, Weights
from quantsim.measure import tallies
from quantsim.measure.tallies import Part
from quantsim.numerics.fusion import STAGE, apart
from quantsim.numerics.ieee import on_cpu
from quantsim.numerics.tiles import TILE
from quantsim.quantizer.face import AbstractQuantizer

#: Of some weights, given by a function that reads them, and of an array that is known at run time only.
Measure: TypeAlias = Callable[[Callable[[], Weights], Array], Part]

_LONGEST = 16 * STAGE  # a stage of rows that share a scale; arrays of longer ones are taken whole


def stage_of(q: AbstractQuantizer, shape: Shape) -> tuple[int, int] | None:
    """Weights of a stage and of a run of weights that share scales with no others; None where there are no stages.

    A stage is whole tiles and whole runs. A scale for the tensor, a stochastic rounding and very long rows have none.

    >>> from quantsim.quantizer import parse
    >>> stage_of(parse("int8:block32"), (512, 512)), stage_of(parse("int8:tensor"), (512, 512))
    ((65536, 32), None)
    """
    run = q._span(shape)
    unit = lcm(run or 1, TILE)
    stage = unit * max(STAGE // unit, 1)
    return None if not on_cpu() or run is None or not prod(shape) or stage > _LONGEST else (stage, run)


def staged(f: Callable[[Weights, Weights], Part], q: AbstractQuantizer, w: Weights, key: PRNGKey | None) -> Part:
    """``f(w, q.roundtrip(w))``, for functions of ``tallies``, in stages where there are any, else whole."""
    sizes = stage_of(q, w.shape)
    if sizes is None or w.size <= sizes[0]:
        return f(w, apart(lambda: q._approximate(w, key), w) if w.size else w)
    stage, run = sizes
    part = _beside(f, q, key, run=run)
    found = tallies.joined(lax.map(_stage_at(part, w, stage=stage), jnp.arange(w.size // stage)))
    return tallies.joined(found, _rest(part, w, stage=stage)) if w.size % stage else found


def some_stages(
    f: Callable[[Weights, Weights], Part],
    q: AbstractQuantizer,
    w: Weights,
    *,
    between: tuple[Int32[Array, ""], Int32[Array, ""]],
    most: int,
) -> tuple[Part, Part | None]:
    """``f`` of the stages from the first number of ``between`` up to the other, and of the rest if the last is there.

    The numbers may be traced, so that one program serves all parts of an array.

    Args:
        f: function of ``tallies``.
        q: quantizer that has stages of this array.
        w: the whole array, at least a stage of it.
        between: number of the first stage, and of the one after the last.
        most: how many stages there may be; sums of those that there are not follow the others, and mean nothing.

    Returns:
        Joined parts of the stages, and that of the rest: None where the array has none, nothing where it is another's.
    """
    (stage, run), (first, end) = stage_of(q, w.shape) or (w.size, 1), between
    part = _beside(f, q, None, run=run)
    at = _stage_at(part, w, stage=stage)

    def add(i: Array, found: Part) -> Part:
        return jax.tree.map(lambda all_, one: lax.dynamic_update_index_in_dim(all_, one, i - first, 0), found, at(i))

    found = tallies.joined(lax.fori_loop(first, end, add, _nothing(lambda: at(first), (most,))))
    if not w.size % stage:
        return found, None

    def rest() -> Part:
        return _rest(part, w, stage=stage)

    return found, lax.cond(end == w.size // stage, rest, lambda: _nothing(rest))


def _nothing(f: Callable[[], Part], stacked: Shape = ()) -> Part:
    """Zeros of the shapes of what ``f`` would give."""
    return jax.tree.map(lambda s: jnp.zeros((*stacked, *s.shape), s.dtype), jax.eval_shape(f))


def _beside(
    f: Callable[[Weights, Weights], Part], q: AbstractQuantizer, key: PRNGKey | None, *, run: int
) -> Measure[Part]:
    """``f`` of some weights, given by a function that reads them, and of what they become; and an array known late."""

    def part(rows: Callable[[], Weights], at: Array) -> Part:
        def shaped() -> Weights:
            return rows().reshape(-1) if run == 1 else rows().reshape(-1, run)

        return f(shaped(), apart(lambda: q._approximate(shaped(), key), at))

    return part


def _stage_at(part: Measure[Part], w: Weights, *, stage: int) -> Callable[[Array], Part]:
    flat, whole = w.reshape(-1), w.size // stage * stage

    def at(i: Array) -> Part:  # sliced where it is read: no copy
        return part(lambda: lax.dynamic_index_in_dim(flat[:whole].reshape(-1, stage), i, keepdims=False), i)

    return at


def _rest(part: Measure[Part], w: Weights, *, stage: int) -> Part:
    flat = w.reshape(-1)
    return part(lambda: flat[w.size // stage * stage :], flat)
