"""The law of one element: distribution functions and moments in float64, on the host."""

from abc import ABC, abstractmethod
from math import inf, nan
from typing import Any

import jax
import numpy as np

from quantsim._types import ArrayLike
from quantsim.populations.extremes import expected_absmax_power, reach, smallest
from quantsim.populations.parameters import F64, Vector


class NoDistributionError(ValueError):
    """The population has no distribution of one element: it depends on the size of the array."""


class Law(ABC):
    """A distribution, in float64; ``Population`` adds how its elements are drawn."""

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

    def quantile(self, p: ArrayLike) -> F64:
        """Smallest x with cdf(x) >= p; the ends of the support at 0 and 1, NaN outside of them.

        >>> from quantsim.populations import Laplace
        >>> round(float(Laplace().quantile(0.9)), 6), Laplace().quantile([0.0, 1.0, 1.5]).tolist()
        (1.138044, [-inf, inf, nan])
        """
        p = np.asarray(p, np.float64)
        low, high = self._support()
        found = np.where(p == 0, low, np.where(p == 1, high, nan))
        within = (p > 0) & (p < 1)
        found[within] = self._quantile(p[within])
        return found[()]

    def _quantile(self, p: Vector) -> Vector:
        """Quantiles for 0 < p < 1, by bisection unless a closed form is known."""
        return np.clip(smallest(lambda x: self.cdf(x) >= p, p.shape), *self._support())

    def tail(self, x: ArrayLike) -> F64:
        """P(|X| > x), accurate also where it is tiny."""
        x = np.asarray(x, np.float64)
        return 2 * self.cdf(-x)

    def std_dev(self) -> Any:
        """Root of the second moment; every family but positive outliers has mean 0."""
        return self.moment(2) ** 0.5

    def kurtosis(self) -> Any:
        """E[X^4] / E[X^2]^2: 3 for a normal, 1.8 for a uniform population; NaN for one of zeros.

        >>> from quantsim.populations import Laplace, StudentT
        >>> round(Laplace().kurtosis(), 9), StudentT(4.0).kurtosis()
        (6.0, inf)
        """
        return _over(self.moment(4), self.moment(2) ** 2)

    def crest(self, n: int) -> float:
        """Expected largest magnitude of ``n`` draws over the root of the second moment; NaN for a population of zeros.

        ``E max = integral of 1 - (1 - tail(x))^n dx`` over x > 0.

        Raises:
            ValueError: if n < 1.

        >>> from quantsim.populations import Uniform
        >>> round(Uniform().crest(9), 6) == round(0.9 * 3**0.5, 6)
        True
        """
        if n < 1:
            raise ValueError(f"the crest factor needs at least one weight, got n = {n}")
        return _over(expected_absmax_power(self, n, 1), self.std_dev())

    def _atoms(self) -> tuple[Vector, Vector]:
        """Point masses: where they are, and their probabilities."""
        return np.zeros(0), np.zeros(0)

    def _points(self) -> tuple[Vector, Vector]:
        """Point masses that theory counts one by one, because they may lie far out, and their probabilities."""
        return np.zeros(0), np.zeros(0)

    def _upper_moment_beside_points(self, x: ArrayLike, k: int) -> F64:
        """``upper_moment`` without these."""
        return self.upper_moment(x, k)

    def _reach(self) -> float:
        """Magnitude that is exceeded with probability 1e-280 only: where quadrature may end."""
        return reach(self)

    def _support(self) -> tuple[float, float]:
        """The smallest and the largest value there is."""
        return -inf, inf

    def _breaks(self) -> Vector:
        """Magnitudes at which the density or the tail jumps; quadrature splits there."""
        return np.zeros(0)


def _over(a: Any, b: Any) -> Any:
    """Quotient, NaN where the population is zero."""
    return a / b if isinstance(b, jax.Array) or b else nan
