"""Populations: a law of one element, and how elements are drawn on the device.

``Contaminated``, a population with outliers, stands here because every population can be given some.
"""

from abc import abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool

from quantsim._types import ArrayLike, Number, PRNGKey, Shape, Weights
from quantsim.populations.arguments import check_key, checked_shape, checked_start, words_of
from quantsim.populations.draws import Index
from quantsim.populations.law import Law, NoDistributionError
from quantsim.populations.outliers import Outliers
from quantsim.populations.parameters import F64, Vector
from quantsim.populations.placement import Places, Replaced, marks_of
from quantsim.populations.samplers import Sampler, drawn, with_float32_leaves
from quantsim.populations.shared_draws import shared_draw


class Population(Law):
    """A distribution of independent weights; frozen, hashable, static under ``jit``.

    Element i of ``sample`` is a pure function of (key, i): chunks, devices and processes cannot change it.
    """

    @abstractmethod
    def _sampler(self) -> Sampler:
        """What draws the elements, with the numbers that it takes."""

    def sample(
        self,
        key: PRNGKey,
        shape: Shape,
        *,
        start: int | Index = 0,
        of: Shape | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Weights:
        """Elements ``start …`` of the infinite sequence that ``key`` names, drawn in float32 and cast last.

        Populations that differ in numbers only share a compiled program.

        Args:
            key: typed key, from ``populations.key(seed)``.
            shape: shape of the result; the last axis is the input axis.
            start: index of the first element, for chunks of a larger array.
            of: shape of that larger array, ``shape`` if it is whole; only layouts and counts of outliers look at it.
            dtype: type of the result.

        Raises:
            TypeError: if a size of the shape or the start is no whole number, or the key no typed key.
            ValueError: if one is negative, or if the layout of outliers needs ``of`` and the chunk does not lie
                within it.

        >>> from quantsim.populations import Normal, key
        >>> whole = Normal().sample(key(0), (6,))
        >>> bool((Normal().sample(key(0), (2,), start=4) == whole[4:]).all())
        True
        """
        shape = checked_shape(shape)
        whole = shape if of is None else checked_shape(of)
        check_key(key)
        first = checked_start(start)
        if isinstance(first, int) and first + prod(shape) > prod(whole):
            self._check_beyond(whole)
        sampler, placed = with_float32_leaves(self._sampler()), whole if self._placed else ()
        found = shared_draw(sampler, key, first, shape, placed) if isinstance(first, int) else None
        return (drawn(sampler, key, words_of(first), shape, placed) if found is None else found).astype(dtype)

    @property
    def _placed(self) -> bool:
        """Whether elements depend on the shape of the array; outliers override this."""
        return False

    def _places(self) -> tuple[Places, ...]:
        """Where outliers are; outliers override this."""
        return ()

    def _check_beyond(self, whole: Shape) -> None:
        """Reject elements behind the end of an array of shape ``whole``, where it matters; outliers override this."""
        del whole

    def _mirrored(self) -> "Population":
        """The population of -X: itself where it is symmetric."""
        return self

    def _parts(self) -> tuple["Population", ...]:
        """Populations whose own scales the density shows; quadrature splits where any of them does."""
        return (self,)

    def with_outliers(self, **settings: Any) -> "Contaminated":
        """This population with outliers; the arguments are the fields of ``Outliers``.

        >>> from quantsim.populations import Normal
        >>> print(Normal().with_outliers(rate=0.01, magnitude=100.0))
        normal+outliers(rate=0.01,magnitude=100)
        """
        return Contaminated(self, Outliers(**settings))


@dataclass(frozen=True)
class Contaminated(Population):
    """A bulk whose outlier units are replaced: ``(1 - rate) bulk + rate outliers``.

    Layouts and counts look at the shape of the whole array; the distribution functions describe one element with
    outliers by rate (a count has none: it depends on the size of the array).

    >>> from quantsim.populations import Normal, key
    >>> pop = Normal().with_outliers(count=2, magnitude=100.0, sign="positive")
    >>> int((pop.sample(key(0), (16, 32)) == 100.0).sum())
    2
    """

    bulk: Population
    outliers: Outliers

    def __post_init__(self) -> None:
        """Reject what is no population with outliers."""
        if not isinstance(self.bulk, Population) or not isinstance(self.outliers, Outliers):
            raise TypeError(
                f"a contaminated population has a bulk and outliers, got {self.bulk!r} and {self.outliers!r}"
            )

    def _sampler(self) -> Sampler:
        o = self.outliers
        return Replaced(self.bulk._sampler(), self._own_places(), self._size(), o.sign, o.values)

    def _own_places(self) -> Places:
        level = len(self.bulk._places()) if isinstance(self.bulk, Contaminated) else 0
        return self.outliers.places(level)

    def _places(self) -> tuple[Places, ...]:
        return (*self.bulk._places(), self._own_places())

    @property
    def _placed(self) -> bool:
        return self.outliers.placed or self.bulk._placed

    def _check_beyond(self, whole: Shape) -> None:
        self.bulk._check_beyond(whole)
        if self.outliers.placed:
            raise ValueError(
                f"a chunk with {self.outliers} must lie within the whole array: pass its shape as of=…, not {whole}"
            )

    def is_outlier(self, key: PRNGKey, shape: Shape) -> Bool[Array, "..."]:
        """Which elements of ``sample(key, shape)`` are outliers, of this or of the bulk."""
        check_key(key)
        return marks_of(with_float32_leaves(self._places()), key, checked_shape(shape))

    def _size(self) -> Any:
        """Absolute size, a float32 number, as it is drawn."""
        o = self.outliers
        size = o.value if o.value is not None else o.size(self.bulk.std_dev())
        if isinstance(size, jax.Array):
            return size
        with np.errstate(over="ignore"):
            return float(np.float32(size))

    def _rate(self) -> Number:
        if self.outliers.rate is None:
            raise NoDistributionError(
                f"{self} has no distribution of one element: give its outliers a rate instead of a count"
            )
        return self.outliers.rate

    def _mean(self, bulk: Any, outlier: Any) -> Any:
        return (1 - self._rate()) * bulk + self._rate() * outlier

    def pdf(self, x: ArrayLike) -> F64:
        x = np.asarray(x, np.float64)
        return self._mean(self.bulk.pdf(x), self.outliers.pdf(x, self._size()))

    def cdf(self, x: ArrayLike) -> F64:
        x = np.asarray(x, np.float64)
        return self._mean(self.bulk.cdf(x), self.outliers.cdf(x, self._size()))

    def tail(self, x: ArrayLike) -> F64:
        x = np.asarray(x, np.float64)
        return self._mean(self.bulk.tail(x), self.outliers.tail(x, self._size()))

    def moment(self, k: int) -> Any:
        return self._mean(self.bulk.moment(k), self.outliers.moment(k, self._size()))

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        x = np.asarray(x, np.float64)
        return self._mean(self.bulk.upper_moment(x, k), self.outliers.upper_moment(x, k, self._size()))

    def _breaks(self) -> Vector:
        return np.append(self.bulk._breaks(), self.outliers.edges(self._size()))

    def _mirrored(self) -> Population:
        bulk = self.bulk._mirrored()
        if bulk is self.bulk and self.outliers.sign == "random":
            return self
        return Contaminated(bulk, self.outliers.mirrored(self._size()))

    def _parts(self) -> tuple[Population, ...]:
        own = (self,) if self.outliers.values == "spread" else ()  # their outer edge is one more scale
        return self.bulk._parts() + own

    def _atoms(self) -> tuple[Vector, Vector]:
        (at, mass), rate = self.bulk._atoms(), float(self._rate())
        own, share = self.outliers.atoms(self._size())
        return np.append(at, own), np.append(mass * (1 - rate), share * rate)

    def _points(self) -> tuple[Vector, Vector]:
        (at, mass), rate = self.bulk._points(), float(self._rate())
        own, share = self.outliers.atoms(self._size())
        return np.append(at, own), np.append(mass * (1 - rate), share * rate)

    def _upper_moment_beside_points(self, x: ArrayLike, k: int) -> F64:
        x, outliers = np.asarray(x, np.float64), 0.0
        if self.outliers.values == "spread":
            outliers = self.outliers.upper_moment(x, k, self._size())
        return self._mean(self.bulk._upper_moment_beside_points(x, k), outliers)

    def _support(self) -> tuple[float, float]:
        rate = float(self._rate())
        ends = ([self.bulk._support()] if rate < 1 else []) + ([self.outliers.ends(self._size())] if rate > 0 else [])
        low, high = zip(*ends, strict=True)
        return min(low), max(high)

    def __str__(self) -> str:
        """Spec of the population."""
        return f"{self.bulk}+{self.outliers}"
