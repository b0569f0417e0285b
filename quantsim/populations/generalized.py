"""The family between Laplace, normal and uniform: one exponent says how fast the tails fall."""

from dataclasses import dataclass
from math import comb, gamma, lgamma
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import ArrayLike, Number, PRNGKey
from quantsim.populations import draws
from quantsim.populations.base import F64, Population, scaled
from quantsim.populations.draws import Index
from quantsim.populations.families import check_std, spell
from quantsim.populations.moments import interpolated, mirrored


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
        if not isinstance(self.beta, jax.Array) and not 0.25 <= self.beta <= 64:
            raise ValueError(f"the exponent of a generalized normal lies between 0.25 and 64, got beta = {self.beta}")

    @property
    def _scale(self) -> Any:
        log_gamma, exp = (jax.lax.lgamma, jax.numpy.exp) if isinstance(self.beta, jax.Array) else (lgamma, np.exp)
        return self.std * exp((log_gamma(1 / self.beta) - log_gamma(3 / self.beta)) / 2)

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        return scaled(draws.generalized_normal(key, i, self.beta), self._scale)

    def pdf(self, x: ArrayLike) -> F64:
        z = np.abs(np.asarray(x, np.float64)) / self._scale
        return self.beta / (2 * self._scale * gamma(1 / self.beta)) * np.exp(-(z**self.beta))

    def cdf(self, x: ArrayLike) -> F64:
        return self.upper_moment(-np.asarray(x, np.float64), 0)

    def quantile(self, p: ArrayLike) -> F64:
        from scipy.special import gammainccinv

        p = np.asarray(p, np.float64)
        size = self._scale * gammainccinv(1 / self.beta, 2 * np.minimum(p, 1 - p)) ** (1 / self.beta)
        return np.where(p < 0.5, -size, size)

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        from scipy.special import gammaincc

        def positive(x: F64) -> F64:
            u = (x / self._scale) ** self.beta
            beyond = [self._beyond(j) * gammaincc((j + 1) / self.beta, u) for j in range(k + 1)]
            return np.sum(
                [comb(k, j) * (-x) ** (k - j) * part for j, part in enumerate(beyond)], axis=0
            )  # E[(X - x)^k; X > x]

        return mirrored(x, self.std**2, k, (lambda x: interpolated(self, x, positive)) if k == 1 else positive)

    def _beyond(self, k: int) -> float:
        """E[X^k; X > 0]."""
        return self._scale**k * gamma((k + 1) / self.beta) / gamma(1 / self.beta) / 2

    def moment(self, k: int) -> Any:
        return 0.0 if k % 2 else 2 * self._beyond(k)

    def __str__(self) -> str:
        """Spec of the population."""
        std = "" if not isinstance(self.std, jax.Array) and self.std == 1.0 else f",std={spell(self.std)}"
        return f"gennorm(beta={spell(self.beta)}{std})"
