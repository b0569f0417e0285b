"""What every population can do: sampling on the device, distribution functions in float64 on the host."""

from abc import ABC, abstractmethod
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim._types import ArrayLike, PRNGKey, Shape, Weights
from quantsim.numerics import ieee
from quantsim.numerics.ieee import on_cpu
from quantsim.populations.draws import Index, indices

if TYPE_CHECKING:
    from quantsim.populations.outliers import Contaminated

_CHUNK = 1 << 15  # weights of a stage of draws on CPU
F64: TypeAlias = NDArray[np.float64] | np.float64  # what NumPy makes of an array, and of a number
Vector: TypeAlias = NDArray[np.float64]
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(40)


def key(seed: int) -> PRNGKey:
    """A typed threefry2x32 key, whatever implementation JAX defaults to.

    >>> key(42)
    Array((), dtype=key<fry>) overlaying:
    [ 0 42]
    """
    return jax.random.key(seed, impl="threefry2x32")


class Population(ABC):
    """A distribution of independent weights; frozen, hashable, static under ``jit``.

    Element i of ``sample`` is a pure function of (key, i): chunks, devices and processes cannot change it.
    """

    @abstractmethod
    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        """Float32 elements with index ``i``."""

    @abstractmethod
    def pdf(self, x: ArrayLike) -> F64:
        """Probability density at ``x``; point masses are left out."""

    @abstractmethod
    def cdf(self, x: ArrayLike) -> F64:
        """P(X <= x)."""

    @abstractmethod
    def moment(self, k: int) -> Any:
        """E[X^k]; infinite where it does not exist, 0 for the odd ones of symmetric populations."""

    @abstractmethod
    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        """E[max(X - x, 0)^k] for k = 1 or 2, the upper partial moment about ``x``; P(X > x) for k = 0.

        The error of rounding to fixed levels is a sum of these, see ``theory.levels_mse``.

        >>> from quantsim.populations import Laplace, Uniform
        >>> round(float(Uniform(3**-0.5).upper_moment(0.0, 1)), 9), round(float(Laplace().upper_moment(0.0, 2)), 9)
        (0.25, 0.5)
        """

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

        Args:
            key: typed key, from ``populations.key(seed)``.
            shape: shape of the result; the last axis is the input axis.
            start: index of the first element, for chunks of a larger array.
            of: shape of that larger array, ``shape`` if it is whole; only layouts and counts of outliers look at it.
            dtype: type of the result.

        Raises:
            ValueError: if the layout of outliers needs ``of`` and the chunk does not lie within it.

        >>> from quantsim.populations import Normal, key
        >>> whole = Normal().sample(key(0), (6,))
        >>> bool((Normal().sample(key(0), (2,), start=4) == whole[4:]).all())
        True
        """
        whole = tuple(of or shape)
        if not isinstance(start, Index) and start + prod(shape) > prod(whole):
            self._check_beyond(whole)
        draw = _sample if is_static(self) else _elements_of
        return draw(self, prod(shape), whole, key, _words(start)).reshape(shape).astype(dtype)

    def _check_beyond(self, whole: Shape) -> None:
        """Reject elements behind the end of an array of shape ``whole``, where it matters; outliers override this."""
        del whole

    def _breaks(self) -> Vector:
        """Magnitudes at which the density or the tail jumps; quadrature splits there."""
        return np.zeros(0)

    def _mirrored(self) -> "Population":
        """The population of -X: itself where it is symmetric."""
        return self

    def _parts(self) -> tuple["Population", ...]:
        """Populations whose own scales the density shows; quadrature splits where any of them does."""
        return (self,)

    def _atoms(self) -> tuple[Vector, Vector]:
        """Point masses: where they are, and their probabilities."""
        return np.zeros(0), np.zeros(0)

    def _reach(self) -> float:
        """Magnitude that is exceeded with probability 1e-280 only: where quadrature may end."""
        return _reach_of(self)

    def _in_array(self, key: PRNGKey, i: Index, whole: Shape) -> Float[Array, " n"]:
        """Elements of an array of shape ``whole``; outliers override this."""
        del whole
        return self._elements(key, i)

    def quantile(self, p: ArrayLike) -> F64:
        """Smallest x with cdf(x) >= p, by bisection unless a closed form is known.

        >>> from quantsim.populations import Laplace
        >>> round(float(Laplace().quantile(0.9)), 6)
        1.138044
        """
        p = np.asarray(p, np.float64)
        return _bisect(lambda x: self.cdf(x) >= p, p.shape)

    def tail(self, x: ArrayLike) -> F64:
        """P(|X| > x), accurate also where it is tiny."""
        x = np.asarray(x, np.float64)
        return 2 * self.cdf(-x)

    def std_dev(self) -> Any:
        """Root of the second moment; every family but positive outliers has mean 0."""
        return self.moment(2) ** 0.5

    def kurtosis(self) -> Any:
        """E[X^4] / E[X^2]^2: 3 for a normal, 1.8 for a uniform population.

        >>> from quantsim.populations import Laplace, StudentT
        >>> round(Laplace().kurtosis(), 9), StudentT(4.0).kurtosis()
        (6.0, inf)
        """
        return self.moment(4) / self.moment(2) ** 2

    def crest(self, n: int) -> float:
        """Expected largest magnitude of ``n`` draws over the root of the second moment.

        ``E max = integral of 1 - (1 - tail(x))^n dx`` over x > 0.

        >>> from quantsim.populations import Uniform
        >>> round(Uniform().crest(9), 6) == round(0.9 * 3**0.5, 6)
        True
        """
        if n < 1:
            raise ValueError(f"the crest factor needs at least one weight, got n = {n}")
        return expected_absmax_power(self, n, 1) / self.std_dev()

    def with_outliers(self, **settings: Any) -> "Contaminated":
        """This population with outliers; the arguments are the fields of ``Outliers``.

        >>> from quantsim.populations import Normal
        >>> print(Normal().with_outliers(rate=0.01, magnitude=100.0))
        normal+outliers(rate=0.01,magnitude=100)
        """
        from quantsim.populations.outliers import Contaminated, Outliers

        return Contaminated(self, Outliers(**settings))


def expected_absmax_power(pop: Population, n: int, power: int) -> float:
    """E[max(|x_1| … |x_n|)^power] = power times the integral of x^(power-1) (1 - (1 - tail(x))^n) over x > 0.

    Gauss-Legendre on panels between the magnitudes at which the integrand falls, split in decades of n tail(x). The
    last lie far out, because the second power of Student's t with few degrees of freedom converges slowly.
    """
    decades = 10.0 ** np.concatenate([np.arange(2, -17, -0.5), np.arange(-17, -281, -2.0)]) / n
    edges = magnitudes(pop, decades)
    edges = np.unique(np.concatenate([[0.0], edges[0] * np.linspace(0.25, 1, 4), edges, pop._breaks()]))
    a, b = edges[:-1, None], edges[1:, None]
    x = (a + b) / 2 + (b - a) / 2 * _NODES
    with np.errstate(divide="ignore"):
        some = -np.expm1(n * np.log1p(-np.minimum(pop.tail(x), 1.0)))
    return float(power * ((b - a) / 2 * _NODE_WEIGHTS * x ** (power - 1) * some).sum())


def magnitudes(pop: Population, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest magnitudes that are exceeded with at most these probabilities."""
    return _bisect(lambda x: pop.tail(x) <= probabilities, probabilities.shape, low=0.0)


def _bisect(reached: Any, shape: Shape, low: float | None = None) -> NDArray[np.float64]:
    """Smallest x for which the monotone ``reached(x)`` holds, to the last bits of a float64."""
    hi = np.ones(shape)
    while not np.all(done := reached(hi)) and hi.max(initial=1.0) < 1e300:
        hi = np.where(done, hi, hi * 4)
    lo = np.full(shape, low) if low is not None else -np.ones(shape)
    while low is None and np.any(below := reached(lo)) and lo.min(initial=-1.0) > -1e300:
        lo = np.where(below, lo * 4, lo)
    for _ in range(200):
        mid = (lo + hi) / 2
        if np.all((mid == lo) | (mid == hi)):
            break
        done = reached(mid)
        lo, hi = np.where(done, lo, mid), np.where(done, mid, hi)
    return hi


@lru_cache
def _reach_of(pop: Population) -> float:
    return float(_bisect(lambda x: pop.tail(x) <= 1e-280, (), low=0.0))


def scaled(unit: Float[Array, " n"], factor: Any) -> Float[Array, " n"]:
    """``unit * factor`` with one rounding: the compiler may not merge the factor with constants inside ``unit``."""
    return ieee.unfused(unit, unit) * jnp.asarray(factor, jnp.float32)


def is_static(pop: Population) -> bool:
    """Whether every parameter is a number, so that the population can be a static argument."""
    try:
        hash(pop)
    except TypeError:  # a traced field, in a sweep over it
        return False
    return True


def _words(start: int | Index) -> Index:
    return start if isinstance(start, Index) else Index(jnp.uint32(start >> 32), jnp.uint32(start & 0xFFFFFFFF))


def _elements_of(pop: Population, count: int, whole: Shape, key: PRNGKey, start: Index) -> Float[Array, " n"]:
    if count <= _CHUNK or not on_cpu():
        return pop._in_array(key, indices(start, count), whole)
    # one chunk after the other: a loop cannot be fused into, and so repeated in, everything that reads the weights
    firsts = indices(start, -(-count // _CHUNK), step=_CHUNK)
    chunks = lax.map(lambda first: pop._in_array(key, indices(first, _CHUNK), whole), firsts)
    return chunks.reshape(-1)[:count]


_sample = partial(jax.jit, static_argnums=(0, 1, 2))(_elements_of)
