"""Weights beside what they became, stage by stage: working sets that fit the cache, of all stages or of some."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32

from quantsim._types import PRNGKey, Shape, TensorScale, Weights
from quantsim.measure import tallies
from quantsim.measure.tallies import Part
from quantsim.numerics.fusion import STAGE, apart
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.stages import Stages, stages_of
from quantsim.quantizer.tensor_scales import scale_by_stages


@dataclass(frozen=True)
class Given:
    """Both are there."""

    w: Weights
    w_hat: Weights
    stages: Stages = Stages(STAGE)

    def at(self, i: Array) -> tuple[Weights, Weights]:
        """Stage number ``i`` of both."""
        return self.stages.at(self.w, i), self.stages.at(self.w_hat, i)

    def rest(self) -> tuple[Weights, Weights]:
        """What is left of both after the whole stages."""
        return self.stages.rest(self.w), self.stages.rest(self.w_hat)


@dataclass(frozen=True)
class Quantized:
    """The weights are there, and each stage is quantized, into the cache, when it is read."""

    w: Weights
    q: AbstractQuantizer
    tensor: TensorScale | None
    stages: Stages

    def at(self, i: Array) -> tuple[Weights, Weights]:
        """Stage number ``i`` of both."""
        return self.stages.at(self.w, i), self._approximated(lambda: self.stages.at(self.w, i), i)

    def rest(self) -> tuple[Weights, Weights]:
        """What is left of both after the whole stages."""
        return self.stages.rest(self.w), self._approximated(lambda: self.stages.rest(self.w), self.w)

    def _approximated(self, rows: Callable[[], Weights], known_late: Array) -> Weights:
        return apart(lambda: self.q._approximate_rows(rows(), self.tensor), known_late)


#: Weights and what they became, read a stage at a time.
Pairs: TypeAlias = Given | Quantized


def staged(
    f: Callable[[Weights, Weights], Part],
    q: AbstractQuantizer,
    w: Weights,
    key: PRNGKey | None,
    *,
    tensor: TensorScale | None = None,
) -> Part:
    """``f(w, q.roundtrip(w))``, for functions of ``tallies``, in stages where there are any, else whole.

    Args:
        f: function of ``tallies``.
        q: quantizer.
        w: weights.
        key: for stochastic rounding.
        tensor: the scale of the tensor that the weights are a part of; without, they are all of it.
    """
    stages = stages_of(q._span(w.shape), w.shape)
    if stages is None or (w.size <= stages.length and tensor is None):
        return f(w, apart(lambda: q._approximate(w, key), w) if w.size else w)
    if q._has_tensor_scale() and tensor is None:
        tensor = scale_by_stages(q, w, stages)
    pairs, found = Quantized(w, q, tensor, stages), []
    if stages.whole(w):
        found.append(lax.map(lambda i: f(*pairs.at(i)), jnp.arange(stages.whole(w))))
    if stages.has_rest(w):
        found.append(f(*pairs.rest()))
    return tallies.joined(*found)


def some_stages(
    f: Callable[[Weights, Weights], Part],
    pairs: Pairs,
    *,
    between: tuple[Int32[Array, ""], Int32[Array, ""]],
    most: int,
) -> tuple[Part, Part | None]:
    """``f`` of the stages from the first number of ``between`` up to the other, and of the rest if the last is there.

    The numbers may be traced, so that one program serves all parts of an array.

    Args:
        f: function of ``tallies``.
        pairs: of an array of at least a stage.
        between: number of the first stage, and of the one after the last.
        most: how many stages there may be; sums of those that there are not follow the others, and mean nothing.

    Returns:
        Joined parts of the stages, and that of the rest: None where the array has none, nothing where it is another's.
    """
    first, end = between

    def one(i: Array) -> Part:
        return f(*pairs.at(i))

    def add(i: Array, found: Part) -> Part:
        return jax.tree.map(lambda all_, of_i: lax.dynamic_update_index_in_dim(all_, of_i, i - first, 0), found, one(i))

    found = tallies.joined(lax.fori_loop(first, end, add, _nothing(lambda: one(first), (most,))))
    if not pairs.stages.has_rest(pairs.w):
        return found, None

    def rest() -> Part:
        return f(*pairs.rest())

    return found, lax.cond(end == pairs.stages.whole(pairs.w), rest, lambda: _nothing(rest))


def _nothing(f: Callable[[], Part], stacked: Shape = ()) -> Part:
    """Zeros of the shapes of what ``f`` would give."""
    return jax.tree.map(lambda s: jnp.zeros((*stacked, *s.shape), s.dtype), jax.eval_shape(f))
