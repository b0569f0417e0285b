"""The bulk populations, all with mean 0 and parametrized by their standard deviation."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim._types import ArrayLike, PRNGKey
from quantsim.populations import draws
from quantsim.populations.base import Population, scaled
from quantsim.populations.draws import Index

_ROOT2, _ROOT3 = np.sqrt(2.0), np.sqrt(3.0)
F64 = NDArray[np.float64]


def _check_std(std: Any) -> None:
    if isinstance(std, float | int) and not (0 < std < np.inf):
        raise ValueError(f"the standard deviation must be positive and finite, got {std}")


def _suffix(**params: float) -> str:
    shown = [f"{name}={value:.12g}" for name, value in params.items() if (name, value) != ("std", 1.0)]
    return f"({','.join(shown)})" if shown else ""


@dataclass(frozen=True)
class Normal(Population):
    """Gaussian weights, pdf exp(-x^2 / (2 std^2)) / (std sqrt(2 pi)).

    >>> round(Normal(0.02).kurtosis(), 9), round(float(Normal().quantile(0.975)), 3)
    (3.0, 1.96)
    """

    std: float = 1.0

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

    def moment(self, k: int) -> float:
        return 0.0 if k % 2 else float(np.prod(np.arange(1.0, k, 2)) * self.std**k)

    def __str__(self) -> str:
        """Spec of the population."""
        return "normal" + _suffix(std=self.std)


@dataclass(frozen=True)
class Laplace(Population):
    """Two-sided exponential weights, pdf exp(-|x| / b) / (2 b) with b = std / sqrt 2.

    >>> round(float(Laplace().cdf(-1.0)), 6)
    0.121558
    """

    std: float = 1.0

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

    def moment(self, k: int) -> float:
        return 0.0 if k % 2 else float(np.prod(np.arange(1.0, k + 1)) * (self.std / _ROOT2) ** k)

    def __str__(self) -> str:
        """Spec of the population."""
        return "laplace" + _suffix(std=self.std)


@dataclass(frozen=True)
class Uniform(Population):
    """Uniform weights on [-sqrt(3) std, sqrt(3) std); ``Uniform(3**-0.5)`` is uniform on [-1, 1).

    >>> round(Uniform().kurtosis(), 9)
    1.8
    """

    std: float = 1.0

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

    def quantile(self, p: ArrayLike) -> F64:
        return (2 * np.asarray(p, np.float64) - 1) * self.std * _ROOT3

    def moment(self, k: int) -> float:
        return 0.0 if k % 2 else float((self.std * _ROOT3) ** k / (k + 1))

    def __str__(self) -> str:
        """Spec of the population."""
        return "uniform" + _suffix(std=self.std)


@dataclass(frozen=True)
class StudentT(Population):
    """Heavy-tailed weights: Student's t with ``df`` degrees of freedom, scaled to standard deviation ``std``.

    Raises:
        ValueError: if df <= 2, where no standard deviation exists.

    >>> round(StudentT(5.0).kurtosis(), 9)
    9.0
    """

    df: float
    std: float = 1.0

    def __post_init__(self) -> None:
        """Reject what has no variance."""
        _check_std(self.std)
        if isinstance(self.df, float | int) and not (2 < self.df < np.inf):
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

    def moment(self, k: int) -> float:
        if k % 2:
            return 0.0
        j = np.arange(1.0, k // 2 + 1)
        unit = np.prod((2 * j - 1) / (self.df - 2 * j)) * self.df ** (k / 2) if k < self.df else np.inf
        return float(unit * self._scale**k)

    def __str__(self) -> str:
        """Spec of the population."""
        return f"t{self.df:.12g}" + _suffix(std=self.std)


@dataclass(frozen=True)
class Mixture(Population):
    """Each weight comes from component j with probability weights[j]; its own scale is the components'.

    Raises:
        ValueError: if the probabilities do not add up to 1, or their number differs from the components'.

    >>> Mixture((0.9, 0.1), (Normal(), Normal(3.0))).moment(2)
    1.8
    """

    weights: tuple[float, ...]
    components: tuple[Population, ...]

    def __post_init__(self) -> None:
        """Reject what is no mixture."""
        if len(self.weights) != len(self.components) or not self.components:
            raise ValueError(f"{len(self.weights)} probabilities for {len(self.components)} components")
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-9:
            raise ValueError(f"the probabilities of a mixture are at least 0 and add up to 1, got {self.weights}")

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        u = draws.uniform(jax.random.fold_in(key, 0), i)
        out = self.components[-1]._elements(jax.random.fold_in(key, len(self.components)), i)
        edges = np.cumsum(self.weights, dtype=np.float64)
        for j in reversed(range(len(self.components) - 1)):
            here = self.components[j]._elements(jax.random.fold_in(key, j + 1), i)
            out = jnp.where(u < np.float32(edges[j]), here, out)
        return out

    def _mean_of(self, parts: Any) -> Any:
        return sum(w * part for w, part in zip(self.weights, parts, strict=True))

    def pdf(self, x: ArrayLike) -> F64:
        return self._mean_of(c.pdf(x) for c in self.components)

    def cdf(self, x: ArrayLike) -> F64:
        return self._mean_of(c.cdf(x) for c in self.components)

    def tail(self, x: ArrayLike) -> F64:
        return self._mean_of(c.tail(x) for c in self.components)

    def moment(self, k: int) -> float:
        return self._mean_of(c.moment(k) for c in self.components)

    def __str__(self) -> str:
        """Spec of the population."""
        parts = "+".join(f"{w:.12g}*{c}" for w, c in zip(self.weights, self.components, strict=True))
        return f"mixture({parts})"


class Empirical(Population):
    """Weights drawn with replacement from given values, for example those of a checkpoint; equal by content.

    An element is ``values[bits % n]``: the bias of the modulus is below n / 2^32.

    Raises:
        ValueError: for no values, or values that are not finite.

    >>> Empirical([3.0, -1.0]).quantile([0.25, 0.75]).tolist()
    [-1.0, 3.0]
    """

    def __init__(self, values: ArrayLike) -> None:
        """Keep the sorted values as float32."""
        self.values: np.ndarray = np.sort(np.asarray(values, np.float32).ravel())
        if not self.values.size or not np.isfinite(self.values).all():
            raise ValueError("an empirical population needs at least one value, all of them finite")
        self.values.setflags(write=False)

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.values.tobytes()).hexdigest()[:12]

    def __eq__(self, other: object) -> bool:
        """Equal values."""
        return isinstance(other, Empirical) and self._digest == other._digest

    def __hash__(self) -> int:
        """Hash of the values."""
        return hash(self._digest)

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        return jnp.asarray(self.values)[draws.bits(key, i) % np.uint32(self.values.size)]

    def pdf(self, x: ArrayLike) -> F64:
        """Zero: every value is a point mass."""
        return np.zeros(np.shape(x))

    def cdf(self, x: ArrayLike) -> F64:
        return np.searchsorted(self.values, np.asarray(x, np.float64), side="right") / self.values.size

    def tail(self, x: ArrayLike) -> F64:
        above = 1 - self.cdf(x)
        below = np.searchsorted(self.values, -np.asarray(x, np.float64), side="left") / self.values.size
        return above + below

    def quantile(self, p: ArrayLike) -> F64:
        at = np.ceil(np.asarray(p, np.float64) * self.values.size).astype(int) - 1
        return self.values[np.clip(at, 0, None)].astype(np.float64)

    def moment(self, k: int) -> float:
        return float(np.mean(self.values.astype(np.float64) ** k))

    def __str__(self) -> str:
        """A name with a digest of the values."""
        return f"empirical({self._digest})"

    __repr__ = __str__
