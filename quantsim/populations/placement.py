"""Outliers on the device: which elements are replaced, and by what."""

from dataclasses import dataclass, field
from functools import partial
from math import ceil, prod
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from quantsim._types import Number, PRNGKey, Shape
from quantsim.populations import draws
from quantsim.populations.draws import Index, indices
from quantsim.populations.samplers import STATIC, Sampler, scaled

Layout = Literal["element", "row", "column", "block"]
Sign = Literal["random", "positive", "negative"]
Values = Literal["exact", "spread"]

# streams of the key, beside the bulk's own; outliers of a population that has outliers take the next level
_POSITION, _SIGN, _SIZE, _LEVEL = 0x0F0F0001, 0x0F0F0002, 0x0F0F0003, 0x10


def _stream(key: PRNGKey, which: int, level: int) -> PRNGKey:
    return jax.random.fold_in(key, which + _LEVEL * level)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """Which elements are outliers.

    Attributes:
        layout: the unit that is replaced as a whole.
        block: length of a block.
        count: exact number of units in the array; or
        rate: probability of each.
        level: how many outliers the bulk has already.
    """

    layout: Layout = field(metadata=STATIC)
    block: int = field(metadata=STATIC)
    count: int | None = field(metadata=STATIC)
    rate: Number | None
    level: int = field(metadata=STATIC)

    def marks(self, key: PRNGKey, i: Index, whole: Shape) -> Bool[Array, " n"]:
        """Whether each of the elements ``i`` of an array of shape ``whole`` is an outlier.

        Raises:
            ValueError: for more outliers than units, and for arrays of 2^32 weights where their shape matters.
        """
        stream = _stream(key, _POSITION, self.level)
        if self.count is None and self.layout == "element":
            return draws.chance(stream, i, self._probability())
        unit, units = self._units(i.low, whole)
        if self.count is None:
            return draws.chance(stream, Index(jnp.zeros_like(unit), unit), self._probability())
        if self.count > units:
            raise ValueError(f"{self.count} outlier {self.layout}s do not fit into the {units} of shape {whole}")
        return _is_among(unit, draws.permuted(stream, jnp.arange(self.count, dtype=jnp.int32), units))

    def _probability(self) -> Number:
        assert self.rate is not None
        return self.rate

    def _units(self, i: UInt32[Array, " n"], whole: Shape) -> tuple[UInt32[Array, " n"], int]:
        """Number of the unit that each element belongs to, and how many units there are."""
        if prod(whole) >= 2**32:
            raise ValueError(f"outliers by {self.layout} or count need fewer than 2^32 weights, not shape {whole}")
        columns = whole[-1] if whole else 1
        rows = prod(whole) // max(columns, 1)
        row, column = i // np.uint32(columns), i % np.uint32(columns)
        if self.layout == "row":
            return row, rows
        if self.layout == "column":
            return column, columns
        if self.layout == "block":
            in_row = ceil(columns / self.block)
            return row * np.uint32(in_row) + column // np.uint32(self.block), rows * in_row
        return i, prod(whole)


def _is_among(unit: UInt32[Array, " n"], chosen: Array) -> Bool[Array, " n"]:
    if not chosen.size:
        return jnp.zeros(unit.shape, bool)
    chosen, unit = jnp.sort(chosen), unit.astype(jnp.int32)
    return chosen[jnp.clip(jnp.searchsorted(chosen, unit), 0, chosen.size - 1)] == unit


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Replaced(Sampler):
    """A bulk whose outliers are replaced.

    Attributes:
        bulk: sampler of the other elements.
        places: which elements are outliers.
        size: their absolute magnitude, or its mean if ``values`` are spread.
        sign: "random", "positive" or "negative".
        values: "exact" or "spread".
    """

    bulk: Sampler
    places: Places
    size: Number
    sign: Sign = field(metadata=STATIC)
    values: Values = field(metadata=STATIC)

    def elements(self, key: PRNGKey, i: Index, whole: Shape) -> Float[Array, " n"]:
        """Outliers where they are marked, the bulk elsewhere."""
        marks = self.places.marks(key, i, whole)
        return jnp.where(marks, self._outliers(key, i), self.bulk.elements(key, i, whole))

    def _outliers(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        unit = self._signs(key, i)
        if self.values == "spread":
            unit = unit * (0.5 + draws.uniform(_stream(key, _SIZE, self.places.level), i))
        return scaled(unit, self.size)

    def _signs(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        one = jnp.ones(i.low.shape, jnp.float32)
        if self.sign != "random":
            return one if self.sign == "positive" else -one
        negative = draws.bits(_stream(key, _SIGN, self.places.level), i) >> 31 == 1
        return jnp.where(negative, -one, one)


def marked(places: tuple[Places, ...], key: PRNGKey, whole: Shape) -> Bool[Array, "..."]:
    """Which elements of an array of shape ``whole`` are outliers of any of ``places``."""
    i = indices(0, prod(whole))
    marks = jnp.zeros(prod(whole), bool)
    for each in places:
        marks |= each.marks(key, i, whole)
    return marks.reshape(whole)


#: ``marked`` as one program for each structure and shape.
marks_of = partial(jax.jit, static_argnums=2)(marked)
