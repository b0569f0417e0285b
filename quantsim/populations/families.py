"""Normal, Laplace and uniform weights, all with mean 0 and parametrized by their standard deviation."""

from dataclasses import dataclass
from functools import partial
from math import factorial, prod
from typing import Any

import numpy as np

from quantsim._types import ArrayLike, Number
from quantsim.populations import draws
from quantsim.populations.moments import mirrored
from quantsim.populations.parameters import F64, Vector, check_std, std_suffix
from quantsim.populations.population import Population
from quantsim.populations.samplers import Sampler, Scaled

_ROOT2, _ROOT3 = 2.0**0.5, 3.0**0.5


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

    def _sampler(self) -> Sampler:
        return Scaled(draws.normal, (), self.std)

    def pdf(self, x: ArrayLike) -> F64:
        return np.exp(-0.5 * (np.asarray(x, np.float64) / self.std) ** 2) / (self.std * np.sqrt(2 * np.pi))

    def cdf(self, x: ArrayLike) -> F64:
        from scipy.special import ndtr

        return ndtr(np.asarray(x, np.float64) / self.std)

    def _quantile(self, p: Vector) -> Vector:
        from scipy.special import ndtri

        return self.std * ndtri(p)

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        return mirrored(x, self.std**2, k, partial(self._upper_moment_of_positive, k=k))

    def _upper_moment_of_positive(self, x: F64, k: int) -> F64:
        from scipy.special import erfcx, ndtr

        z = np.minimum(x / self.std, 40.0)  # there and beyond the density is 0
        if k == 0:
            return ndtr(-z)
        mills = np.sqrt(np.pi / 2) * erfcx(z / _ROOT2)  # P(Z > z) / pdf(z)
        over_pdf = 1 - z * mills if k == 1 else (1 + z * z) * mills - z
        return self.std**k * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) * over_pdf

    def moment(self, k: int) -> Any:
        return 0.0 if k % 2 else float(prod(range(1, k, 2))) * self.std**k

    def __str__(self) -> str:
        """Spec of the population."""
        return "normal" + std_suffix(self.std)


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

    def _sampler(self) -> Sampler:
        return Scaled(draws.laplace, (), self.std / _ROOT2)

    def pdf(self, x: ArrayLike) -> F64:
        b = self.std / _ROOT2
        return np.exp(-np.abs(np.asarray(x, np.float64)) / b) / (2 * b)

    def cdf(self, x: ArrayLike) -> F64:
        z = np.asarray(x, np.float64) / (self.std / _ROOT2)
        small = 0.5 * np.exp(-np.abs(z))
        return np.where(z < 0, small, 1 - small)

    def _quantile(self, p: Vector) -> Vector:
        return (self.std / _ROOT2) * np.where(p < 0.5, np.log(2 * p), -np.log(2 * (1 - p)))

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        b = self.std / _ROOT2
        return mirrored(x, self.std**2, k, lambda x: 0.5 * factorial(k) * b**k * np.exp(-x / b))

    def moment(self, k: int) -> Any:
        return 0.0 if k % 2 else float(factorial(k)) * (self.std / _ROOT2) ** k

    def __str__(self) -> str:
        """Spec of the population."""
        return "laplace" + std_suffix(self.std)


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

    def _sampler(self) -> Sampler:
        return Scaled(draws.signed_uniform, (), self.std * _ROOT3)

    def pdf(self, x: ArrayLike) -> F64:
        edge = self.std * _ROOT3
        return np.where(np.abs(np.asarray(x, np.float64)) <= edge, 0.5 / edge, 0.0)

    def cdf(self, x: ArrayLike) -> F64:
        return np.clip(0.5 + np.asarray(x, np.float64) / (2 * self.std * _ROOT3), 0.0, 1.0)

    def _breaks(self) -> Vector:
        return np.array([self.std * _ROOT3])

    def _support(self) -> tuple[float, float]:
        return -self.std * _ROOT3, self.std * _ROOT3

    def _quantile(self, p: Vector) -> Vector:
        return (2 * p - 1) * self.std * _ROOT3

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        edge = self.std * _ROOT3
        return mirrored(x, self.std**2, k, lambda x: np.maximum(edge - x, 0.0) ** (k + 1) / (k + 1) / (2 * edge))

    def moment(self, k: int) -> Any:
        return 0.0 if k % 2 else (self.std * _ROOT3) ** k / (k + 1)

    def __str__(self) -> str:
        """Spec of the population."""
        return "uniform" + std_suffix(self.std)
