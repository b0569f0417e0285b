"""The bulk populations, all with mean 0 and parametrized by their standard deviation."""

from dataclasses import dataclass
from math import factorial, inf, prod
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import ArrayLike, Number, PRNGKey
from quantsim.populations import draws
from quantsim.populations.base import F64, Population, Vector, scaled
from quantsim.populations.draws import Index
from quantsim.populations.moments import far_moment, interpolated, mirrored, with_far

_ROOT2, _ROOT3 = 2.0**0.5, 3.0**0.5


def check_std(std: Number) -> None:
    """Raise unless the standard deviation is positive and finite, or traced."""
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
        check_std(self.std)

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

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        from scipy.special import erfcx, ndtr

        def positive(x: F64) -> F64:
            z = np.minimum(x / self.std, 40.0)  # there and beyond the density is 0
            if k == 0:
                return ndtr(-z)
            mills = np.sqrt(np.pi / 2) * erfcx(z / _ROOT2)  # P(Z > z) / pdf(z)
            over_pdf = 1 - z * mills if k == 1 else (1 + z * z) * mills - z
            return self.std**k * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) * over_pdf

        return mirrored(x, self.std**2, k, positive)

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
        check_std(self.std)

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

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        b = self.std / _ROOT2
        return mirrored(x, self.std**2, k, lambda x: 0.5 * factorial(k) * b**k * np.exp(-x / b))

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
        check_std(self.std)

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        return scaled(draws.signed_uniform(key, i), self.std * _ROOT3)

    def pdf(self, x: ArrayLike) -> F64:
        edge = self.std * _ROOT3
        return np.where(np.abs(np.asarray(x, np.float64)) <= edge, 0.5 / edge, 0.0)

    def cdf(self, x: ArrayLike) -> F64:
        return np.clip(0.5 + np.asarray(x, np.float64) / (2 * self.std * _ROOT3), 0.0, 1.0)

    def _breaks(self) -> Vector:
        return np.array([self.std * _ROOT3])

    def quantile(self, p: ArrayLike) -> F64:
        return (2 * np.asarray(p, np.float64) - 1) * self.std * _ROOT3

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        edge = self.std * _ROOT3
        return mirrored(x, self.std**2, k, lambda x: np.maximum(edge - x, 0.0) ** (k + 1) / (k + 1) / (2 * edge))

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
        check_std(self.std)
        if not isinstance(self.df, jax.Array) and not 2 < self.df < inf:
            raise ValueError(f"Student's t has a finite variance only for df > 2, got df = {self.df}")

    @property
    def _scale(self) -> Any:
        return self.std * ((self.df - 2) / self.df) ** 0.5

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        return scaled(draws.student_t(key, i, self.df), self._scale)

    def pdf(self, x: ArrayLike) -> F64:
        z, v = np.asarray(x, np.float64) / self._scale, self.df
        return np.exp(self._log_norm() - (v + 1) / 2 * np.log1p(z * z / v)) / self._scale

    def _log_norm(self) -> Any:
        """Log of the density at 0, unscaled: gamma((v + 1) / 2) / gamma(v / 2) / sqrt(pi v)."""
        from scipy.special import gammaln

        v = self.df
        if v > 100:  # the difference of two large numbers; Stirling's series leaves 1e-15
            return -0.5 * np.log(2 * np.pi) - 1 / (4 * v) + 1 / (24 * v**3) - 1 / (20 * v**5)
        return gammaln((v + 1) / 2) - gammaln(v / 2) - 0.5 * np.log(v * np.pi)

    def cdf(self, x: ArrayLike) -> F64:
        from scipy.special import stdtr

        return stdtr(self.df, np.asarray(x, np.float64) / self._scale)

    def quantile(self, p: ArrayLike) -> F64:
        from scipy.special import stdtrit

        p = np.asarray(p, np.float64)
        far = (p > 0) & (p < 1e-40) & (self.df < 30)
        z = with_far(stdtrit(self.df, np.where(far, 0.5, p)), far, p, self._far_quantile)
        return self._scale * np.where(p > 0, z, -inf)  # scipy's is +inf at 0

    def _far_quantile(self, p: F64) -> F64:
        """Where scipy fails, at few degrees of freedom: the power law of the tail, corrected by its logarithm there."""
        from scipy.special import stdtr

        v, wanted = self.df, np.log(p)
        y = (self._log_norm() + (v - 1) / 2 * np.log(v) - wanted) / v  # log of the magnitude
        for _ in range(20):
            y = y + (np.log(stdtr(v, -np.exp(y))) - wanted) / v
        return -np.exp(y)

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        from scipy.special import stdtr

        def positive(x: F64) -> F64:
            z, v = x / self._scale, self.df
            above = stdtr(v, -z)
            if k == 0:
                return above
            # integrals by parts, from (v + z^2) pdf'(z) = -(v + 1) z pdf(z)
            first = (v + z * z) / (v - 1) * self.pdf(x) * self._scale - z * above
            near = first if k == 1 else ((v + z * z) * above - (v - 3) * z * first) / (v - 2)
            return with_far(self._scale**k * near, (z > 3) & (v > 50), x, far)

        def far(x: F64) -> F64:
            z, v = x / self._scale, self.df

            def path(w: float) -> tuple[F64, F64]:
                more = (v + z * z) * np.expm1(2 * w / (v + 1))
                y = np.sqrt(z * z + more)
                return more / (y + z), (v + z * z + more) / ((v + 1) * y)

            return self._scale ** (k + 1) * self.pdf(x) * far_moment(k, path)

        return mirrored(x, self.std**2, k, (lambda x: interpolated(self, x, positive)) if k == 1 else positive)

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
