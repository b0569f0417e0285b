"""Laws of activations, token × channel, before outliers: independent, correlated along the channels, SwiGLU products.

Each draws element (token, channel) from (key, token, channel) alone, and gives mean and second moment in float64.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from quantsim._types import PRNGKey
from quantsim.numerics import ieee
from quantsim.populations import draws
from quantsim.populations.arguments import key as key_of
from quantsim.populations.draws import Index
from quantsim.populations.law import NoDistributionError
from quantsim.populations.parameters import Vector, check_std, spell, std_suffix
from quantsim.populations.population import Population

Rows = Float[Array, "tokens channels"]


class Moments(NamedTuple):
    """Of one token's activations x.

    Attributes:
        mean: E[x], (channels,).
        second: E[x xᵀ], (channels, channels), the mean included.
        normal: whether x is jointly normal, so that ReLU has a closed form.
    """

    mean: Vector
    second: Vector
    normal: bool


class ActivationLaw(ABC):
    """What activations are before outliers; frozen, hashable."""

    @abstractmethod
    def draw(self, key: PRNGKey, i: Index, channels: int) -> Rows:
        """Rows of activations; ``i`` are the indices of their elements, token * channels + channel, row by row."""

    @abstractmethod
    def moments(self, channels: int) -> Moments:
        """Mean and second moment, exact."""


def check_part(name: str, value: float | int, low: float = 0.0) -> None:
    """Raise unless a number lies in [low, 1].

    Raises:
        ValueError: if it does not.
    """
    if not low <= value <= 1:
        raise ValueError(f"{name} lies between {spell(low)} and 1, got {value}")


@dataclass(frozen=True)
class Independent(ActivationLaw):
    """Independent elements of a population of weights, outliers by element included."""

    population: Population

    def __post_init__(self) -> None:
        """Reject outliers whose place depends on the size of the array."""
        if self.population._placed:
            raise ValueError(
                f"{self.population} places outliers in an array of known size: use channels() or massive()"
            )

    def draw(self, key: PRNGKey, i: Index, channels: int) -> Rows:
        """Elements as ``Population.sample`` draws them."""
        first = Index(i.high[0], i.low[0])
        return self.population.sample(key, (i.low.size // channels, channels), start=first)

    def moments(self, channels: int) -> Moments:
        """``(E[x²] - E[x]²) I + E[x]² 1 1ᵀ``."""
        mean, square = (float(self.population.moment(k)) for k in (1, 2))
        if not np.isfinite(square):
            raise NoDistributionError(f"{self.population} has no second moment")
        second = np.full((channels, channels), mean**2) + (square - mean**2) * np.eye(channels)
        return Moments(np.full(channels, mean), second, str(self.population).partition("(")[0] == "normal")

    def __str__(self) -> str:
        """The spec of the population."""
        return str(self.population)


@dataclass(frozen=True)
class Autoregressive(ActivationLaw):
    """Normal, neighbouring channels correlated: ``x_j = rho x_{j-1} + sqrt(1 - rho²) z_j``, stationary.

    >>> Autoregressive(rho=0.5, std=2.0).moments(3).second.tolist()
    [[4.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 4.0]]
    """

    rho: float | int
    std: float | int = 1.0

    def __post_init__(self) -> None:
        """Reject what is no correlation or no standard deviation."""
        check_part("the correlation rho of neighbouring channels", self.rho, -1.0)
        check_std(self.std)

    def draw(self, key: PRNGKey, i: Index, channels: int) -> Rows:
        """Channel after channel, elementwise, so that no other token or chunk changes a bit."""
        z = draws.normal(key, i).reshape(-1, channels)
        rho, new = np.float32(self.rho), np.float32(np.sqrt(1 - self.rho**2))

        def following(before: Float[Array, " tokens"], noise: Float[Array, " tokens"]) -> tuple:
            x = ieee.unfused(rho * before, noise) + ieee.unfused(new * noise, noise)
            return x, x

        _, others = lax.scan(following, z[:, 0], z[:, 1:].T)
        return jnp.concatenate([z[:, :1], others.T], axis=1) * np.float32(self.std)

    def moments(self, channels: int) -> Moments:
        """``std² rho^|i - j|``."""
        at = np.arange(channels)
        second = self.std**2 * np.float64(self.rho) ** np.abs(at[:, None] - at)
        return Moments(np.zeros(channels), second, True)

    def __str__(self) -> str:
        """The spec."""
        std = "" if self.std == 1 else f",std={spell(self.std)}"
        return f"ar(rho={spell(self.rho)}{std})"


@dataclass(frozen=True)
class LowRank(ActivationLaw):
    """Normal, near a subspace: ``x = sqrt(1 - noise²) B z / sqrt(rank) + noise e``, with z and e white.

    B (channels, rank) is standard normal, drawn from ``seed``: the same for every draw of tokens.
    """

    rank: int
    noise: float | int = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject ranks below 1 and parts of noise outside [0, 1]."""
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"the rank is a whole number of at least 1, got {self.rank!r}")
        check_part("noise", self.noise)
        key_of(self.seed)

    def directions(self, channels: int) -> Float[Array, "rank channels"]:
        """Bᵀ sqrt((1 - noise²) / rank), as float32."""
        unit = draws.normal(key_of(self.seed), draws.indices(0, self.rank * channels))
        return unit.reshape(self.rank, channels) * np.float32(np.sqrt((1 - self.noise**2) / self.rank))

    def draw(self, key: PRNGKey, i: Index, channels: int) -> Rows:
        """One direction after the other, elementwise: a matmul would round otherwise for other numbers of tokens."""
        token = Index(i.high[::channels], i.low[::channels])
        basis = self.directions(channels)
        noise = draws.normal(jax.random.fold_in(key, 0), i).reshape(-1, channels) * np.float32(self.noise)

        def add(k: Array, x: Rows) -> Rows:
            z = draws.normal(jax.random.fold_in(key, 1 + k), token)[:, None]
            return x + ieee.unfused(z * basis[k][None], x)

        return lax.fori_loop(0, self.rank, add, ieee.unfused(noise, noise))

    def moments(self, channels: int) -> Moments:
        """``(1 - noise²) B Bᵀ / rank + noise² I``."""
        b = np.asarray(self.directions(channels), np.float64)
        return Moments(np.zeros(channels), b.T @ b + self.noise**2 * np.eye(channels), True)

    def __str__(self) -> str:
        """The spec."""
        return f"lowrank(rank={self.rank},noise={spell(self.noise)},seed={self.seed})"


@dataclass(frozen=True)
class SwiGLU(ActivationLaw):
    """Products ``silu(a) b`` of independent normals of one ``std``, silu(a) = a / (1 + exp(-a)).

    Symmetric and uncorrelated, with a heavier tail than either factor. Source: Shazeer, arXiv:2002.05202.
    """

    std: float | int = 1.0

    def __post_init__(self) -> None:
        """Reject what is no standard deviation."""
        check_std(self.std)

    def draw(self, key: PRNGKey, i: Index, channels: int) -> Rows:
        """Gate and value from streams of their own."""
        gate, value = (draws.normal(jax.random.fold_in(key, k), i) * np.float32(self.std) for k in (0, 1))
        return (jax.nn.silu(gate) * value).reshape(-1, channels)

    def moments(self, channels: int) -> Moments:
        """``E[silu(a)²] std² I``, the expectation by Gauss–Legendre quadrature to 1e-12."""
        return Moments(np.zeros(channels), _silu_square(self.std) * self.std**2 * np.eye(channels), False)

    def __str__(self) -> str:
        """The spec."""
        return f"swiglu{std_suffix(self.std)}"


@lru_cache
def _silu_square(std: float | int) -> float:
    """E[silu(a)²] of a normal a: panels of 1/4 up to 12 standard deviations, finer where silu bends at 0."""
    x, weight = np.polynomial.legendre.leggauss(20)
    near = np.geomspace(1e-3, 12, 400)
    edges = np.concatenate([-near[::-1], [0.0], near])
    half = np.diff(edges) / 2
    z = (edges[:-1] + half)[:, None] + half[:, None] * x
    a = std * z
    gate = np.exp(-np.logaddexp(0, -a))
    return float((half[:, None] * weight * (a * gate) ** 2 * np.exp(-(z**2) / 2)).sum() / np.sqrt(2 * np.pi))
