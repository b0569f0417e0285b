"""Outliers as a first-class part of a population: how many, where, how large, of which sign."""

from dataclasses import dataclass, replace
from functools import partial
from math import ceil, prod
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from quantsim._types import ArrayLike, Number, PRNGKey, Shape
from quantsim.populations import draws
from quantsim.populations.base import F64, Population, Vector, is_static, scaled
from quantsim.populations.draws import Index
from quantsim.populations.families import spell

Layout = Literal["element", "row", "column", "block"]
Sign = Literal["random", "positive", "negative"]
Values = Literal["exact", "spread"]

_LARGEST = float(np.finfo(np.float32).max)
# streams of the key, beside the bulk's own; outliers of a population that has outliers take the next level
_POSITION, _SIGN, _SIZE, _LEVEL = 0x0F0F0001, 0x0F0F0002, 0x0F0F0003, 0x10


@dataclass(frozen=True)
class Outliers:
    """Which weights are replaced, and by what.

    Attributes:
        rate: probability that a unit (an element, row, column or block) is an outlier; or
        count: exact number of outlier units in the array.
        magnitude: size in standard deviations of the bulk; or
        value: absolute size.
        layout: the unit: "element", "row" (an output row), "column" (an input), "block" (``block`` inputs of a row).
        sign: "random", "positive" or "negative".
        values: "exact" (all of one magnitude, which may fall on a level and so flatter a quantizer) or "spread"
            (uniform from half to three halves of it).
        block: length of a block.

    Raises:
        ValueError: if rate and count, or magnitude and value, are both or neither given, or out of range.

    >>> Outliers(count=1, value=100.0).size(bulk_std=0.02)
    100.0
    """

    rate: Number | None = None
    count: int | None = None
    magnitude: Number | None = None
    value: Number | None = None
    layout: Layout = "element"
    sign: Sign = "random"
    values: Values = "exact"
    block: int = 32

    def __post_init__(self) -> None:
        """Reject what cannot be placed."""
        if (self.rate is None) == (self.count is None):
            raise ValueError("outliers need either a rate or a count, for example rate=0.01")
        if (self.magnitude is None) == (self.value is None):
            raise ValueError("outliers need either a magnitude (in std of the bulk) or an absolute value")
        for name, low, high in (
            ("rate", 0, 1),
            ("count", 0, 2**31 - 1),
            ("magnitude", 0, _LARGEST),
            ("value", 0, _LARGEST),
        ):
            v = getattr(self, name)
            if v is not None and not isinstance(v, jax.Array) and not low <= v <= high:
                raise ValueError(f"outlier {name} must lie between {low} and {high}, got {v}")
        for name, known in (("layout", Layout), ("sign", Sign), ("values", Values)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"outlier {name} is one of {', '.join(get_args(known))}, not {getattr(self, name)!r}")
        if self.count is not None and int(self.count) != self.count:
            raise ValueError(f"the count of outliers is a whole number, got {self.count}")
        if self.block < 1:
            raise ValueError(f"an outlier block needs at least 1 weight, got {self.block}")

    def size(self, bulk_std: Number) -> Any:
        """Absolute magnitude."""
        if self.value is not None:
            return self.value
        assert self.magnitude is not None
        return self.magnitude * bulk_std

    def __str__(self) -> str:
        """Spec of the outliers."""
        shown = {"layout": "element", "sign": "random", "values": "exact", "block": 32}
        parts = [
            f"{k}={v if isinstance(v, str) else spell(v)}"
            for k, v in vars(self).items()
            if v is not None and shown.get(k) != v
        ]
        return f"outliers({','.join(parts)})"


@dataclass(frozen=True)
class Contaminated(Population):
    """A bulk whose outlier units are replaced; ``is_outlier`` says which elements are.

    Layouts and counts look at the shape of the whole array; the distribution functions describe one element with
    outliers by rate (a count has none: it depends on the size of the array).

    >>> from quantsim.populations import Normal, key
    >>> pop = Normal().with_outliers(count=2, magnitude=100.0, sign="positive")
    >>> int((pop.sample(key(0), (16, 32)) == 100.0).sum())
    2
    """

    bulk: Population
    outliers: Outliers

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        if self.outliers.layout != "element" or self.outliers.count is not None:
            raise ValueError(f"{self.outliers} depends on the shape of the array and cannot be part of a mixture")
        return self._in_array(key, i, ())

    def _check_beyond(self, whole: Shape) -> None:
        self.bulk._check_beyond(whole)
        if self.outliers.layout != "element" or self.outliers.count is not None:
            raise ValueError(
                f"a chunk with {self.outliers} must lie within the whole array: pass its shape as of=…, not {whole}"
            )

    def _breaks(self) -> Vector:
        ends = [1.0] if self.outliers.values == "exact" else [0.5, 1.5]
        return np.append(self.bulk._breaks(), self._size() * np.array(ends))

    def _size(self) -> Any:
        o = self.outliers
        return o.value if o.value is not None else o.size(self.bulk.std_dev())

    def _stream(self, key: PRNGKey, which: int) -> PRNGKey:
        return jax.random.fold_in(key, which + _LEVEL * self._depth)

    @property
    def _depth(self) -> int:
        return 1 + self.bulk._depth if isinstance(self.bulk, Contaminated) else 0

    def _in_array(self, key: PRNGKey, i: Index, whole: Shape) -> Float[Array, " n"]:
        return jnp.where(self._marks(key, i, whole), self._values(key, i), self.bulk._in_array(key, i, whole))

    def _values(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        o = self.outliers
        sign = {"positive": 1.0, "negative": -1.0}.get(o.sign)
        if sign is None:
            sign = jnp.where(draws.bits(self._stream(key, _SIGN), i) >> 31 == 1, -1.0, 1.0)
        unit = sign * jnp.ones(i.low.shape, jnp.float32)
        if o.values == "spread":
            unit = unit * (0.5 + draws.uniform(self._stream(key, _SIZE), i))
        return scaled(unit, self._size())

    def _marks(self, key: PRNGKey, i: Index, whole: Shape) -> Bool[Array, " n"]:
        o, k = self.outliers, self._stream(key, _POSITION)
        if o.layout == "element" and o.count is None:
            return draws.chance(k, i, self._rate())
        unit, units = _unit_of(o, i.low, whole)
        if o.count is None:
            return draws.chance(k, Index(jnp.zeros_like(unit), unit), self._rate())
        if o.count > units:
            raise ValueError(f"{o.count} outlier {o.layout}s do not fit into the {units} of shape {whole}")
        chosen = jnp.sort(draws.permuted(k, jnp.arange(o.count), units))
        if not o.count:
            return jnp.zeros(i.low.shape, bool)
        return chosen[jnp.clip(jnp.searchsorted(chosen, unit.astype(jnp.int32)), 0, o.count - 1)] == unit.astype(
            jnp.int32
        )

    def is_outlier(self, key: PRNGKey, shape: Shape) -> Bool[Array, "..."]:
        """Which elements of ``sample(key, shape)`` are outliers, of this or of the bulk."""
        mark = _marked if is_static(self) else _marks_of
        marks = mark(self, tuple(shape), key).reshape(shape)
        return marks | self.bulk.is_outlier(key, shape) if isinstance(self.bulk, Contaminated) else marks

    def _rate(self) -> Number:
        if self.outliers.rate is None:
            raise ValueError(f"{self} has no distribution of one element: give its outliers a rate instead of a count")
        return self.outliers.rate

    def _mean(self, bulk: Any, outlier: Any) -> Any:
        return (1 - self._rate()) * bulk + self._rate() * outlier

    def pdf(self, x: ArrayLike) -> F64:
        x, size = np.asarray(x, np.float64), self._size()
        within = (np.abs(x) >= size / 2) & (np.abs(x) <= 1.5 * size) & (self.outliers.values == "spread")
        share = sum(w * (np.sign(x) == s) for s, w in self._signs())
        return self._mean(self.bulk.pdf(x), np.where(within, share / size, 0.0))

    def cdf(self, x: ArrayLike) -> F64:
        x, size = np.asarray(x, np.float64), self._size()
        total = np.zeros(x.shape)
        for sign, w in self._signs():
            if self.outliers.values == "exact":
                total = total + w * (x >= sign * size)
            else:
                from_low = np.clip(sign * x / size - 0.5, 0.0, 1.0)
                total = total + w * (from_low if sign > 0 else 1 - from_low)
        return self._mean(self.bulk.cdf(x), total)

    def tail(self, x: ArrayLike) -> F64:
        x, size = np.asarray(x, np.float64), self._size()
        beyond = (x < size) * 1.0 if self.outliers.values == "exact" else 1 - np.clip(x / size - 0.5, 0.0, 1.0)
        return self._mean(self.bulk.tail(x), beyond)

    def moment(self, k: int) -> Any:
        size = self._size()
        unit = 1.0 if self.outliers.values == "exact" else (1.5 ** (k + 1) - 0.5 ** (k + 1)) / (k + 1)
        return self._mean(self.bulk.moment(k), sum(w * s**k for s, w in self._signs()) * unit * size**k)

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        x, size, total = np.asarray(x, np.float64), self._size(), 0.0
        for sign, w in self._signs():
            if self.outliers.values == "exact":
                total = total + w * (sign * size > x) * np.maximum(sign * size - x, 0.0) ** k
            else:
                low, high = sorted((sign * size / 2, sign * size * 1.5))
                a, b = np.maximum(high - x, 0.0), np.maximum(low - x, 0.0)
                parts = sum(a**j * b ** (k - j) for j in range(k + 1))  # (a^(k+1) - b^(k+1)) / (a - b)
                total = total + w * np.clip(high - x, 0.0, size) * parts / ((k + 1) * size)
        return self._mean(self.bulk.upper_moment(x, k), total)

    def _mirrored(self) -> Population:
        bulk, o = self.bulk._mirrored(), self.outliers
        if bulk is self.bulk and o.sign == "random":
            return self
        flipped: dict[Sign, Sign] = {"random": "random", "positive": "negative", "negative": "positive"}
        return Contaminated(bulk, replace(o, sign=flipped[o.sign], magnitude=None, value=self._size()))

    def _parts(self) -> tuple[Population, ...]:
        own = (self,) if self.outliers.values == "spread" else ()  # their outer edge is one more scale
        return self.bulk._parts() + own

    def _atoms(self) -> tuple[Vector, Vector]:
        (at, mass), rate = self.bulk._atoms(), float(self._rate())
        signs = np.array(self._signs()) if self.outliers.values == "exact" else np.zeros((0, 2))
        return (
            np.append(at, signs[:, 0] * self._size()),
            np.append(mass * (1 - rate), signs[:, 1] * rate),
        )

    def _signs(self) -> tuple[tuple[int, float], ...]:
        return {"random": ((1, 0.5), (-1, 0.5)), "positive": ((1, 1.0),), "negative": ((-1, 1.0),)}[self.outliers.sign]

    def __str__(self) -> str:
        """Spec of the population."""
        return f"{self.bulk}+{self.outliers}"


def _marks_of(pop: Contaminated, whole: Shape, key: PRNGKey) -> Bool[Array, " n"]:
    return pop._marks(key, draws.indices(0, prod(whole)), whole)


_marked = partial(jax.jit, static_argnums=(0, 1))(_marks_of)


def _unit_of(o: Outliers, i: UInt32[Array, " n"], whole: Shape) -> tuple[UInt32[Array, " n"], int]:
    """Number of the unit that each element belongs to, and how many units there are."""
    if prod(whole) >= 2**32:
        raise ValueError(f"outliers by {o.layout} or count need fewer than 2^32 weights, not shape {whole}")
    columns = whole[-1] if whole else 1
    rows = prod(whole) // max(columns, 1)
    row, column = i // np.uint32(columns), i % np.uint32(columns)
    if o.layout == "row":
        return row, rows
    if o.layout == "column":
        return column, columns
    if o.layout == "block":
        per_row = ceil(columns / o.block)
        return row * np.uint32(per_row) + column // np.uint32(o.block), rows * per_row
    return i, prod(whole)
