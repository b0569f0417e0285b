"""The family between Laplace, normal and uniform: one exponent says how fast the tails fall."""

from dataclasses import dataclass
from functools import partial
from math import comb, gamma
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantsim._types import ArrayLike, Number
from quantsim.populations import draws
from quantsim.populations.moments import far_moment, interpolated, mirrored, with_far
from quantsim.populations.parameters import F64, Vector, check_number, check_std, spell
from quantsim.populations.population import Population
from quantsim.populations.samplers import Sampler, Scaled

_SMALL = 1e-17  # powers that are nothing beside 1, and of large beta soon nothing at all: the density is flat there


@dataclass(frozen=True)
class GeneralizedNormal(Population):
    """Weights with pdf proportional to exp(-|x / a|^beta), scaled to standard deviation ``std``.

    beta = 1 is Laplace, 2 is normal, large is nearly uniform. Source: Subbotin, 1923; Nadarajah, J. Appl. Stat. 32
    (2005). Also called the generalized Gaussian or exponential power distribution.

    Raises:
        ValueError: if beta does not lie between 0.25 and 64.

    >>> round(GeneralizedNormal(1.0).kurtosis(), 9), round(GeneralizedNormal(2.0).kurtosis(), 9)
    (6.0, 3.0)
    """

    beta: Number
    std: Number = 1.0

    def __post_init__(self) -> None:
        """Reject exponents whose draws or moments leave the range of the arithmetic."""
        check_std(self.std)
        check_number("the exponent of a generalized normal", self.beta)
        if not isinstance(self.beta, jax.Array) and not 0.25 <= self.beta <= 64:
            raise ValueError(f"the exponent of a generalized normal lies between 0.25 and 64, got beta = {self.beta}")

    @property
    def _scale(self) -> Any:
        return self.std / self._unscaled_moment(2) ** 0.5

    def _unscaled_moment(self, k: int) -> Any:
        """E|X / a|^k = gamma((k + 1) / beta) / gamma(1 / beta)."""
        if isinstance(self.beta, jax.Array):
            return jnp.exp(jax.lax.lgamma((k + 1) / self.beta) - jax.lax.lgamma(1 / self.beta))
        return gamma((k + 1) / self.beta) / gamma(1 / self.beta)

    def _unscaled(self, x: F64) -> F64:
        """|x / a|, at most where its power is 1000: there e^- of that is 0."""
        return np.minimum(np.abs(x) / self._scale, 1000 ** (1 / self.beta))

    def _sampler(self) -> Sampler:
        known = () if isinstance(self.beta, jax.Array) else (draws.gamma_spread(self.beta),)
        return Scaled(draws.generalized_normal, (self.beta, *known), self._scale)

    def pdf(self, x: ArrayLike) -> F64:
        peak = self.beta / (2 * self._scale * gamma(1 / self.beta))
        return peak * np.exp(-(self._unscaled(np.asarray(x, np.float64)) ** self.beta))

    def cdf(self, x: ArrayLike) -> F64:
        return self.upper_moment(-np.asarray(x, np.float64), 0)

    def _quantile(self, p: Vector) -> Vector:
        from scipy.special import gammainccinv, gammaincinv

        shape = 1 / self.beta
        centre = np.abs(2 * p - 1)
        u = np.where(centre < 0.5, gammaincinv(shape, centre), gammainccinv(shape, 2 * np.minimum(p, 1 - p)))
        z = np.where(u > _SMALL, u**shape, centre * gamma(shape + 1))
        return self._scale * np.where(p < 0.5, -z, z)

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        return mirrored(x, self.std**2, k, partial(interpolated, self, k=k))

    def _upper_moment_of_positive(self, x: F64, k: int) -> F64:
        z = self._unscaled(x)
        beyond = [self._moment_beyond(j, z) for j in range(k + 1)]
        near = np.sum([comb(k, j) * (-x) ** (k - j) * part for j, part in enumerate(beyond)], axis=0)
        return with_far(near, (z**self.beta > 4) & (k > 0), x, partial(self._upper_moment_far, k=k))

    def _upper_moment_far(self, x: F64, k: int) -> F64:
        z = self._unscaled(x)
        return self.pdf(z * self._scale) * far_moment(k, partial(self._path, z * self._scale, z**self.beta))

    def _path(self, x: F64, u: Any, w: float) -> tuple[Any, Any]:
        """How far beyond x the density is e^-w of that at x, where it is e^-u of that at 0; and the slope of it."""
        longer = np.log1p(w / u) / self.beta
        return x * np.expm1(longer), x * np.exp(longer) / (self.beta * (u + w))

    def _moment_beyond(self, k: int, z: F64) -> F64:
        """E[X^k; X > z a]."""
        from scipy.special import gammaincc

        shape, u = (k + 1) / self.beta, z**self.beta
        share = np.where(u > _SMALL, gammaincc(shape, u), 1 - z ** (k + 1) / gamma(shape + 1))
        return self._scale**k * self._unscaled_moment(k) / 2 * share

    def moment(self, k: int) -> Any:
        return 0.0 if k % 2 else self._scale**k * self._unscaled_moment(k)

    def __str__(self) -> str:
        """Spec of the population."""
        std = "" if not isinstance(self.std, jax.Array) and self.std == 1.0 else f",std={spell(self.std)}"
        return f"gennorm(beta={spell(self.beta)}{std})"
