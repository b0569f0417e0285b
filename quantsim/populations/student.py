"""Heavy-tailed weights."""

from dataclasses import dataclass
from functools import partial
from math import inf, prod
from typing import Any

import jax
import numpy as np

from quantsim._types import ArrayLike, Number
from quantsim.populations import draws
from quantsim.populations.moments import far_moment, interpolated, mirrored, with_far
from quantsim.populations.parameters import F64, Vector, check_number, check_std, std_suffix
from quantsim.populations.population import Population
from quantsim.populations.samplers import Sampler, Scaled


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
        check_number("the number of degrees of freedom", self.df)
        if not isinstance(self.df, jax.Array) and not 2 < self.df < inf:
            raise ValueError(f"Student's t has a finite variance only for df > 2, got df = {self.df}")

    @property
    def _scale(self) -> Any:
        return self.std * ((self.df - 2) / self.df) ** 0.5

    def _sampler(self) -> Sampler:
        return Scaled(draws.student_t, (self.df, -2.0 / self.df), self._scale)

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

    def tail(self, x: ArrayLike) -> F64:
        return 2 * self.upper_moment(x, 0)

    def _quantile(self, p: Vector) -> Vector:
        from scipy.special import stdtrit

        far = (p < 1e-40) & (self.df < 30)
        z = with_far(stdtrit(self.df, np.where(far, 0.5, p)), far, p, self._far_quantile)
        return self._scale * np.asarray(z)

    def _far_quantile(self, p: F64) -> F64:
        """Where scipy fails, at few degrees of freedom: the power law of the tail, corrected by its logarithm there."""
        from scipy.special import stdtr

        v, wanted = self.df, np.log(p)
        y = (self._log_norm() + (v - 1) / 2 * np.log(v) - wanted) / v  # log of the magnitude
        for _ in range(20):
            y = y + (np.log(stdtr(v, -np.exp(y))) - wanted) / v
        return -np.exp(y)

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        return mirrored(x, self.std**2, k, partial(interpolated, self, k=k))

    def _upper_moment_of_positive(self, x: F64, k: int) -> F64:
        from scipy.special import stdtr

        z, v = x / self._scale, self.df
        above = stdtr(v, -z)
        if k == 0:
            return above
        # integrals by parts, from (v + z^2) pdf'(z) = -(v + 1) z pdf(z)
        first = (v + z * z) / (v - 1) * self.pdf(x) * self._scale - z * above
        near = first if k == 1 else ((v + z * z) * above - (v - 3) * z * first) / (v - 2)
        return with_far(self._scale**k * near, (z > 3) & (v > 50), x, partial(self._upper_moment_far, k=k))

    def _upper_moment_far(self, x: F64, k: int) -> F64:
        return self._scale ** (k + 1) * self.pdf(x) * far_moment(k, partial(self._path, x / self._scale))

    def _path(self, z: F64, w: float) -> tuple[Any, Any]:
        """How far beyond z the unscaled density is e^-w of that at z, and the slope of it."""
        v = self.df
        more = (v + z * z) * np.expm1(2 * w / (v + 1))
        y = np.sqrt(z * z + more)
        return more / (y + z), (v + z * z + more) / ((v + 1) * y)

    def moment(self, k: int) -> Any:
        if k % 2:
            return 0.0
        if k > 2 and k >= self.df:
            return inf
        half = k // 2
        unit = prod((2 * j - 1) / (self.df - 2 * j) for j in range(1, half + 1))
        return unit * (self.df * self._scale**2) ** half

    def __str__(self) -> str:
        """Spec of the population."""
        df = self.df if isinstance(self.df, jax.Array) else np.format_float_positional(self.df, trim="-")
        return f"t{df}" + std_suffix(self.std)
