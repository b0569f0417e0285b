"""Where an array is cut so that its parts can be quantized apart from each other: stages, which fit the cache."""

from dataclasses import dataclass
from math import lcm, prod

from jax import lax
from jaxtyping import Array

from quantsim._types import Shape, Weights
from quantsim.numerics.fusion import STAGE
from quantsim.numerics.ieee import on_cpu
from quantsim.numerics.tiles import TILE

_LONGEST = 16 * STAGE  # a stage of rows that share a scale; arrays of longer ones are taken whole


@dataclass(frozen=True)
class Stages:
    """How an array is cut.

    Attributes:
        length: weights of a stage: whole tiles and whole runs.
        run: consecutive weights that share scales with no others.

    >>> import jax.numpy as jnp
    >>> cut, w = Stages(4, 2), jnp.arange(10.0)
    >>> cut.whole(w), cut.at(w, 1).tolist(), cut.rest(w).tolist()
    (2, [[4.0, 5.0], [6.0, 7.0]], [[8.0, 9.0]])
    """

    length: int
    run: int = 1

    def whole(self, w: Weights) -> int:
        """How many whole stages an array has."""
        return w.size // self.length

    def has_rest(self, w: Weights) -> bool:
        """Whether weights are left after the whole stages."""
        return bool(w.size % self.length)

    def at(self, w: Weights, i: Array | int) -> Weights:
        """Stage number ``i``, which may be traced: a slice, so that no reader needs a copy."""
        whole = w.reshape(-1)[: self.whole(w) * self.length].reshape(-1, self.length)
        return self._rows(lax.dynamic_index_in_dim(whole, i, keepdims=False))

    def rest(self, w: Weights) -> Weights:
        """What is left after the whole stages."""
        return self._rows(w.reshape(-1)[self.whole(w) * self.length :])

    def _rows(self, flat: Weights) -> Weights:
        return flat if self.run == 1 else flat.reshape(-1, self.run)


def stages_of(run: int | None, shape: Shape) -> Stages | None:
    """How weights of a shape are cut of which ``run`` consecutive ones share scales with no others; None: not at all.

    A scale for the tensor, a stochastic rounding (no run) and very long rows have no stages; an accelerator needs none.

    >>> from quantsim.quantizer import parse
    >>> [stages_of(parse(q)._span((512, 512)), (512, 512)) for q in ("int8:block32", "int8:tensor")]
    [Stages(length=65536, run=32), None]
    """
    if run is None or not on_cpu() or not prod(shape):
        return None
    unit = lcm(run, TILE)
    length = unit * max(STAGE // unit, 1)
    return Stages(length, run) if length <= _LONGEST else None
