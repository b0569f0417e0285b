"""The bulk populations, all with mean 0 and parametrized by their standard deviation."""

from dataclasses import dataclass
from math import factorial, inf, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import ArrayLike, Number, PRNGKey
from quantsim.populations import draws
from quantsim.populations.base import F64, Population, scaled
from quantsim.populations.draws import Index

_ROOT2, _ROOT3 = 2.0**0.5, 3.0**0.5


def _check_std(std: Number) -> None:
    if not isinstance(std, jax.Array) and not 0 < std < inf:
        raise ValueError(f"the standard deviation must be positive and finite, got {std}")


def spell(number: Number) -> str:
    """The fewest digits that ``float`` reads back as the same number.

    >>> spell(100.0), spell(1 / 3)
    ('100', '0.3333333333333333')
    """
    return str(number) if isinstance(number, jax.Array) else repr(float(number)).removesuffix(".0")


def _suffix(std: Number) -> str:
    return "" if not isinstance(std, jax.Array) and std == 1.0 else f"(std={spell(std)})"


@dataclass(frozen=True)
class Normal(Population):
    """Gaussian weights, pdf exp(-x^2 / (2 std^2)) / (std sqrt(2 pi)).

    >>> round(Normal(0.02).kurtosis(), 9), round(float(Normal().quantile(0.975)), 3)
    (3.0, 1.96)
    """

    std: Number = 1.0

    def __post_init__(self) -> None:
        """Reject a standard deviation that is not positive."""
        _check_std(self.std)

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        return scaled(draws.normal(key, i), self.std)

    def pdf(self, x: ArrayLike) -> F64:
        return np.exp(-0.5 * (np.asarray(x, np.float64) / self.std) ** 2) / (self.std * np.sqrt(2 * np.pi))

    def cdf(self, x: ArrayLike) -> F64:
        from scipy.special import ndtr

        return ndtr(np.asarray(x, np.float64) / self.std)

    def quantile(self, p: ArrayLike) -> F64:
        from scipy.special import ndtri

        return self.std * ndtri(np.asarray(p, np.float64))

    def moment(self, k: int) -> Any:
        return 0.0 if k % 2 else float(prod(range(1, k, 2))) * self.std**k

    def __str__(self) -> str:
        """Spec of the population."""
        return "normal" + _suffix(self.std)


@dataclass(frozen=True)
class Laplace(Population):
    """Two-sided exponential weights, pdf exp(-|x| / b) / (2 b) with b = std / sqrt 2.

    >>> round(float(Laplace().cdf(-1.0)), 6)
    0.121558
    """

    std: Number = 1.0

    def __post_init__(self) -> None:
        """Reject a standard deviation that is not positive."""
        _check_std(self.std)

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        return scaled(draws.laplace(key, i), self.std / _ROOT2)

    def pdf(self, x: ArrayLike) -> F64:
        b = self.std / _ROOT2
        return np.exp(-np.abs(np.asarray(x, np.float64)) / b) / (2 * b)

    def cdf(self, x: ArrayLike) -> F64:
        z = np.asarray(x, np.float64) / (self.std / _ROOT2)
        small = 0.5 * np.exp(-np.abs(z))
        return np.where(z < 0, small, 1 - small)

    def quantile(self, p: ArrayLike) -> F64:
        p = np.asarray(p, np.float64)
        with np.errstate(divide="ignore"):
            return (self.std / _ROOT2) * np.where(p < 0.5, np.log(2 * p), -np.log(2 * (1 - p)))

    def moment(self, k: int) -> Any:
        return 0.0 if k % 2 else float(factorial(k)) * (self.std / _ROOT2) ** k

    def __str__(self) -> str:
        """Spec of the population."""
        return "laplace" + _suffix(self.std)


@dataclass(frozen=True)
class Uniform(Population):
    """Uniform weights on [-sqrt(3) std, sqrt(3) std); ``Uniform(3**-0.5)`` is uniform on [-1, 1).

    >>> round(Uniform().kurtosis(), 9)
    1.8
    """

    std: Number = 1.0

    def __post_init__(self) -> None:
        """Reject a standard deviation that is not positive."""
        _check_std(self.std)

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        return scaled(draws.signed_uniform(key, i), self.std * _ROOT3)

    def pdf(self, x: ArrayLike) -> F64:
        edge = self.std * _ROOT3
        return np.where(np.abs(np.asarray(x, np.float64)) <= edge, 0.5 / edge, 0.0)

    def cdf(self, x: ArrayLike) -> F64:
        return np.clip(0.5 + np.asarray(x, np.float64) / (2 * self.std * _ROOT3), 0.0, 1.0)

    def _breaks(self) -> F64:
        return np.array([self.std * _ROOT3])

    def quantile(self, p: ArrayLike) -> F64:
        return (2 * np.asarray(p, np.float64) - 1) * self.std * _ROOT3

    def moment(self, k: int) -> Any:
        return 0.0 if k % 2 else (self.std * _ROOT3) ** k / (k + 1)

    def __str__(self) -> str:
        """Spec of the population."""
        return "uniform" + _suffix(self.std)


@dataclass(frozen=True)
class StudentT(Population):
    """Heavy-tailed weights: Student's t with ``df`` degrees of freedom, scaled to standard deviation ``std``.

    Raises:
        ValueError: if df <= 2, where no standard deviation exists.

    >>> round(StudentT(5.0).kurtosis(), 9)
    9.0
    """

    df: Number
    std: Number = 1.0

    def __post_init__(self) -> None:
        """Reject what has no variance."""
        _check_std(self.std)
        if not isinstance(self.df, jax.Array) and not 2 < self.df < inf:
            raise ValueError(f"Student's t has a finite variance only for df > 2, got df = {self.df}")

    @property
    def _scale(self) -> Any:
        return self.std * ((self.df - 2) / self.df) ** 0.5

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        return scaled(draws.student_t(key, i, self.df), self._scale)

    def pdf(self, x: ArrayLike) -> F64:
        from scipy.special import gammaln

        z, v = np.asarray(x, np.float64) / self._scale, self.df
        log_norm = gammaln((v + 1) / 2) - gammaln(v / 2) - 0.5 * np.log(v * np.pi)
        return np.exp(log_norm - (v + 1) / 2 * np.log1p(z * z / v)) / self._scale

    def cdf(self, x: ArrayLike) -> F64:
        from scipy.special import stdtr

        return stdtr(self.df, np.asarray(x, np.float64) / self._scale)

    def quantile(self, p: ArrayLike) -> F64:
        from scipy.special import stdtrit

        return self._scale * stdtrit(self.df, np.asarray(p, np.float64))

    def moment(self, k: int) -> Any:
        if k % 2:
            return 0.0
        if k > 2 and k >= self.df:
            return inf
        return prod((2 * j - 1) / (self.df - 2 * j) for j in range(1, k // 2 + 1)) * (self.df * self._scale**2) ** (
            k // 2
        )

    def __str__(self) -> str:
        """Spec of the population."""
        df = self.df if isinstance(self.df, jax.Array) else np.format_float_positional(self.df, trim="-")
        return f"t{df}" + _suffix(self.std)


@dataclass(frozen=True)
class Mixture(Population):
    """Each weight comes from component j with probability weights[j]; its own scale is the components'.

    Raises:
        ValueError: if the probabilities do not add up to 1, or their number differs from the components'.

    >>> Mixture((0.9, 0.1), (Normal(), Normal(3.0))).moment(2)
    1.8
    """

    weights: tuple[float | int, ...]
    components: tuple[Population, ...]

    def __post_init__(self) -> None:
        """Reject what is no mixture."""
        if len(self.weights) != len(self.components) or not self.components:
            raise ValueError(f"{len(self.weights)} probabilities for {len(self.components)} components")
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-9:
            raise ValueError(f"the probabilities of a mixture are at least 0 and add up to 1, got {self.weights}")

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        b = draws.bits(jax.random.fold_in(key, 0), i)
        out = self.components[-1]._elements(jax.random.fold_in(key, len(self.components)), i)
        ends = np.round(np.minimum(np.cumsum(self.weights, dtype=np.float64), 1.0) * 2.0**32)
        for j in reversed(range(len(self.components) - 1)):
            here = self.components[j]._elements(jax.random.fold_in(key, j + 1), i)
            out = jnp.where(b <= np.uint32(ends[j] - 1), here, out) if ends[j] else out
        return out

    def _mean_of(self, parts: Any) -> Any:
        return sum(w * part for w, part in zip(self.weights, parts, strict=True))

    def _breaks(self) -> F64:
        return np.concatenate([c._breaks() for c in self.components])

    def pdf(self, x: ArrayLike) -> F64:
        return self._mean_of(c.pdf(x) for c in self.components)

    def cdf(self, x: ArrayLike) -> F64:
        return self._mean_of(c.cdf(x) for c in self.components)

    def tail(self, x: ArrayLike) -> F64:
        return self._mean_of(c.tail(x) for c in self.components)

    def moment(self, k: int) -> Any:
        return self._mean_of(c.moment(k) for c in self.components)

    def __str__(self) -> str:
        """Spec of the population."""
        parts = "+".join(f"{spell(w)}*{c}" for w, c in zip(self.weights, self.components, strict=True))
        return f"mixture({parts})"
