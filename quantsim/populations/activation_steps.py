"""What happens to activations after they are drawn: outlier channels, massive activations, shifts, ReLU, constant rows.

Each step changes rows of activations, and the moments with them; channels that it singles out are a fixed set, drawn
from a seed of its own, so that calibration and test data share them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np

from quantsim._types import PRNGKey
from quantsim.numerics import ieee
from quantsim.populations import draws
from quantsim.populations.activation_laws import Moments, Rows, check_part
from quantsim.populations.arguments import key as key_of
from quantsim.populations.draws import Index
from quantsim.populations.law import NoDistributionError
from quantsim.populations.parameters import Vector, check_number, check_std, spell


def fixed_channels(seed: int, count: int, channels: int) -> np.ndarray:
    """``count`` different channels, a function of seed and number of channels only, in ascending order.

    Raises:
        ValueError: if there are fewer channels.

    >>> fixed_channels(0, 2, 8).size, bool((fixed_channels(0, 2, 8) == fixed_channels(0, 2, 8)).all())
    (2, True)
    """
    if count > channels:
        raise ValueError(f"{count} channels are singled out of {channels}: take fewer, or more channels")
    return np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(channels)[:count])


class Step(ABC):
    """A change of rows of activations; frozen, hashable."""

    name = ""

    @abstractmethod
    def apply(self, x: Rows, key: PRNGKey, token: Index) -> Rows:
        """The rows afterwards; ``token`` are their indices."""

    @abstractmethod
    def moments(self, before: Moments) -> Moments:
        """Mean and second moment afterwards."""

    def __str__(self) -> str:
        """The spec; parameters at their default are left out."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]  # pyright: ignore[reportArgumentType]
        return f"{self.name}({','.join(f'{k}={spell(v)}' for k, v in given)})" if given else self.name


@dataclass(frozen=True)
class OutlierChannels(Step):
    """A fixed set of channels, times ``magnitude``: ``x_j -> M x_j``, as after a normalization's gain.

    Attributes:
        magnitude: M, the factor.
        count: how many channels, or None for ``rate``.
        rate: part of the channels, rounded to a whole number, at least 1 unless it is 0.
        seed: of the set, which depends on nothing else but the number of channels.

    Source: Dettmers et al., arXiv:2208.07339, section 4: few feature dimensions hold the outliers of all tokens.
    """

    magnitude: float | int
    count: int | None = None
    rate: float | int | None = None
    seed: int = 0
    name = "channels"

    def __post_init__(self) -> None:
        """Reject anything but one of count and rate."""
        check_number("the magnitude", self.magnitude)
        key_of(self.seed)
        if (self.count is None) == (self.rate is None):
            raise ValueError("outlier channels are given by a count or by a rate, one of the two")
        if self.rate is not None:
            check_part("the rate of outlier channels", self.rate)
        if self.count is not None and (not isinstance(self.count, int) or self.count < 0):
            raise ValueError(f"the count of outlier channels is a whole number of at least 0, got {self.count!r}")

    def channels(self, of: int) -> np.ndarray:
        """Which of ``of`` channels."""
        count = self.count
        if count is None:
            count = max(round((self.rate or 0.0) * of), 1) if self.rate else 0
        return fixed_channels(self.seed, count, of)

    def _factors(self, channels: int) -> Vector:
        factors = np.ones(channels)
        factors[self.channels(channels)] = self.magnitude
        return factors

    def apply(self, x: Rows, key: PRNGKey, token: Index) -> Rows:
        """One multiplication."""
        del key, token
        return x * self._factors(x.shape[1]).astype(np.float32)[None]

    def moments(self, before: Moments) -> Moments:
        """``D S D`` with D the factors on the diagonal."""
        d = self._factors(before.mean.size)
        return Moments(d * before.mean, d[:, None] * before.second * d, before.normal)


@dataclass(frozen=True)
class Massive(Step):
    """Massive activations: a few tokens have the same large ``value`` in a fixed set of ``count`` channels.

    Attributes:
        rate: part of the tokens, each by chance.
        value: what stands there, whatever the input.
        count: how many channels.
        seed: of the set of channels.

    Source: Sun et al., arXiv:2402.17762: few, of one value, in fixed channels of starting and delimiter tokens.
    """

    rate: float | int
    value: float | int
    count: int = 1
    seed: int = 0
    name = "massive"

    def __post_init__(self) -> None:
        """Reject rates outside [0, 1] and counts below 1."""
        check_part("the rate of massive tokens", self.rate)
        check_number("the value", self.value)
        key_of(self.seed)
        if not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"the count of channels is a whole number of at least 1, got {self.count!r}")

    def apply(self, x: Rows, key: PRNGKey, token: Index) -> Rows:
        """Chosen channels of chosen tokens are replaced."""
        chosen = np.zeros(x.shape[1], bool)
        chosen[fixed_channels(self.seed, self.count, x.shape[1])] = True
        hit = draws.chance(key, token, self.rate)
        return jnp.where(hit[:, None] & chosen[None], np.float32(self.value), x)

    def moments(self, before: Moments) -> Moments:
        """``(1 - rate) S + rate E[x xᵀ]`` of the tokens that are hit."""
        n = before.mean.size
        chosen = fixed_channels(self.seed, self.count, n)
        mean, second = before.mean.copy(), before.second.copy()
        mean[chosen] = self.value
        second[chosen] = self.value * mean
        second[:, chosen] = self.value * mean[:, None]
        return _mixed(before, self.rate, mean, second)


@dataclass(frozen=True)
class ConstantRows(Step):
    """A part of the tokens have one normal number of ``std`` in all channels.

    Attributes:
        rate: part of the tokens, each by chance.
        std: of the number.
    """

    rate: float | int
    std: float | int = 1.0
    name = "constant"

    def __post_init__(self) -> None:
        """Reject rates outside [0, 1]."""
        check_part("the rate of constant rows", self.rate)
        check_std(self.std)

    def apply(self, x: Rows, key: PRNGKey, token: Index) -> Rows:
        """Chosen tokens are replaced."""
        hit, value = draws.chance(key, token, self.rate), draws.normal(_key_of_values(key), token)
        return jnp.where(hit[:, None], (value * np.float32(self.std))[:, None], x)

    def moments(self, before: Moments) -> Moments:
        """``(1 - rate) S + rate std² 1 1ᵀ``."""
        return _mixed(before, self.rate, 0.0 * before.mean, np.full_like(before.second, self.std**2))


def _key_of_values(key: PRNGKey) -> PRNGKey:
    """A stream for values beside that of the choice."""
    return jax.random.fold_in(key, 1)


def _mixed(before: Moments, rate: float | int, mean: Vector, second: Vector) -> Moments:
    if rate == 0:
        return before
    return Moments((1 - rate) * before.mean + rate * mean, (1 - rate) * before.second + rate * second, False)


@dataclass(frozen=True)
class Shift(Step):
    """``x + mean``, the same in every channel."""

    mean: float | int
    name = "shift"

    def __post_init__(self) -> None:
        """Reject what is no number."""
        check_number("the mean", self.mean)

    def apply(self, x: Rows, key: PRNGKey, token: Index) -> Rows:
        """One addition."""
        del key, token
        return ieee.unfused(x, x) + np.float32(self.mean)

    def moments(self, before: Moments) -> Moments:
        """``S + m E[x]ᵀ + E[x] mᵀ + m mᵀ``."""
        m = np.full_like(before.mean, self.mean)
        cross = np.outer(m, before.mean)
        return Moments(before.mean + m, before.second + cross + cross.T + np.outer(m, m), before.normal)


@dataclass(frozen=True)
class ReLU(Step):
    """``max(x, 0)``; moments in closed form for normal x of mean zero, or uncorrelated with any mean."""

    name = "relu"

    def apply(self, x: Rows, key: PRNGKey, token: Index) -> Rows:
        """The larger of x and 0."""
        del key, token
        return jnp.maximum(x, 0.0)

    def moments(self, before: Moments) -> Moments:
        """The arc-cosine kernel: ``s_i s_j (sqrt(1 - r²) + r (pi - arccos r)) / 2 pi``, with r the correlation.

        Source: Cho and Saul, Kernel Methods for Deep Learning, NIPS 2009 (order 1).

        Raises:
            NoDistributionError: for others.
        """
        mean, second, normal = before
        covariance = second - np.outer(mean, mean)
        std = np.sqrt(np.diag(covariance))
        uncorrelated = np.allclose(covariance, np.diag(std**2), rtol=0, atol=1e-12 * std.max(initial=0.0) ** 2)
        if not normal or not (uncorrelated or not mean.any()) or not (std > 0).all():
            raise NoDistributionError(
                "relu has closed moments of normal activations, uncorrelated or of mean zero, only"
            )
        if mean.any():
            from scipy.special import ndtr

            t = mean / std
            density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
            after = std * density + mean * ndtr(t)
            found = np.outer(after, after)
            np.fill_diagonal(found, (mean**2 + std**2) * ndtr(t) + mean * std * density)
            return Moments(after, found, False)
        r = np.clip(second / np.outer(std, std), -1, 1)
        kernel = (np.sqrt(1 - r**2) + r * (np.pi - np.arccos(r))) / (2 * np.pi)
        return Moments(std / np.sqrt(2 * np.pi), np.outer(std, std) * kernel, False)
