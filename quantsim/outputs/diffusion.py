"""A diffusion sampler whose score is exact: data are a mixture of normals, and no network has to be trained.

A noisy sample is ``x = sqrt(a) x_0 + sqrt(1 - a) noise``, with a the *signal share* that the literature calls
alpha-bar: 1 of clean data, near 0 of noise.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from quantsim._types import PRNGKey

Samples: TypeAlias = Float[Array, "samples dimensions"]
PerSample: TypeAlias = Float[Array, " samples"]
Scalar: TypeAlias = Float[Array, ""] | float


class GaussianMixture(NamedTuple):
    """Equal shares of normals of one standard deviation.

    Attributes:
        means: of the modes.
        std: of each coordinate within a mode.
    """

    means: Float[Array, "modes dimensions"]
    std: Scalar

    def sample(self, key: PRNGKey, count: int) -> Samples:
        """Independent samples."""
        of_mode, of_noise = jax.random.split(key)
        mode = jax.random.randint(of_mode, (count,), 0, len(self.means))
        return self.means[mode] + self.std * jax.random.normal(of_noise, (count, self.means.shape[1]))

    def mode_of(self, x: Samples) -> Int[Array, " samples"]:
        """Number of the nearest mean, the likeliest mode of each sample."""
        return jnp.argmin(squared_distances(x, self.means), axis=1)

    def spread(self, x: Samples) -> PerSample:
        """Squared distance of each sample to its nearest mean; dimensions x std^2 on average if x are such samples."""
        return jnp.min(squared_distances(x, self.means), axis=1)


def squared_distances(x: Samples, y: Float[Array, "others dimensions"]) -> Float[Array, "samples others"]:
    """``|x - y|^2`` of all pairs, as ``|x|^2 + |y|^2 - 2 x y``, at least 0.

    >>> squared_distances(jnp.array([[0.0, 3.0]]), jnp.array([[4.0, 0.0], [0.0, 3.0]])).tolist()
    [[25.0, 0.0]]
    """
    products = jnp.dot(x, y.T, precision=lax.Precision.HIGHEST)
    squares = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    return jnp.maximum(squares - 2 * products, 0.0)


def predicted_noise(mixture: GaussianMixture, x: Samples, signal_share: Scalar) -> Samples:
    """The noise that a perfect network predicts, ``E[noise | x] = -sqrt(1 - a) grad log p(x)``.

    Noisy data are a mixture too, with means sqrt(a) m and variance v = a std^2 + 1 - a. With the shares r of the modes
    at x it is ``sqrt(1 - a) (x - sqrt(a) sum r m) / v``.

    Args:
        mixture: of the clean data.
        x: noisy samples.
        signal_share: a, of [0, 1].

    >>> one = GaussianMixture(jnp.zeros((1, 2)), 1.0)
    >>> predicted_noise(one, jnp.array([[1.0, 2.0]]), 0.75).tolist()  # half of x
    [[0.5, 1.0]]
    """
    noise_share = 1.0 - signal_share
    variance = signal_share * mixture.std**2 + noise_share
    means = jnp.sqrt(signal_share) * mixture.means
    shares = jax.nn.softmax(-squared_distances(x, means) / (2 * variance), axis=1)
    expected = jnp.dot(shares, means, precision=lax.Precision.HIGHEST)
    return jnp.sqrt(noise_share) * (x - expected) / variance


def ddim_step(x: Samples, noise: Samples, old: Scalar, new: Scalar) -> Samples:
    """One deterministic update, from the signal share ``old`` to ``new``, with the predicted noise.

    ``sqrt(new) (x - sqrt(1 - old) noise) / sqrt(old) + sqrt(1 - new) noise``: Song, Meng and Ermon, Denoising diffusion
    implicit models (2021), eq. 12 without noise.

    >>> ddim_step(jnp.array([[0.6]]), jnp.array([[0.0]]), 0.36, 1.0).tolist()
    [[1.0]]
    """
    data = (x - jnp.sqrt(1.0 - old) * noise) / jnp.sqrt(old)
    return jnp.sqrt(new) * data + jnp.sqrt(1.0 - new) * noise


def stable_diffusion_schedule(steps: int, trained_steps: int = 1000) -> NDArray[np.float64]:
    """Signal shares from the noisiest sample to clean data, ``steps + 1`` of them, as Stable Diffusion 1 has them.

    The trained share of time t is the product of 1 - beta up to t, sqrt(beta) rising evenly from sqrt(0.00085) to
    sqrt(0.012) ("scaled linear"); a sampler visits evenly spaced times from the last one down ("trailing"), then 1.

    Args:
        steps: updates of the sampler.
        trained_steps: times of the trained schedule.

    Raises:
        ValueError: for no steps, or more than there are times.

    >>> stable_diffusion_schedule(2).round(4).tolist()
    [0.0047, 0.2777, 1.0]
    """
    if not 1 <= steps <= trained_steps:
        raise ValueError(f"a sampler makes 1 to {trained_steps} steps, got {steps}")
    beta = np.linspace(0.00085**0.5, 0.012**0.5, trained_steps) ** 2
    shares = np.append(1.0, np.cumprod(1 - beta))
    return shares[np.round(np.linspace(trained_steps, 0, steps + 1)).astype(int)]


def energy_distance(x: Samples, y: Float[Array, "others dimensions"]) -> Float[Array, ""]:
    """Distance of two distributions from samples, ``2 E|x - y| - E|x - x'| - E|y - y'|``, without bias.

    0 on average if both are one, so that it can be below; pairs of a sample with itself are left out. Székely and
    Rizzo, Energy statistics (2013). In units of x.

    >>> float(energy_distance(jnp.array([[0.0], [0.0]]), jnp.array([[3.0], [3.0]])))
    6.0
    """

    def within(a: Samples) -> Float[Array, ""]:
        distances = jnp.sqrt(squared_distances(a, a)) * (1.0 - jnp.eye(len(a)))
        return jnp.sum(distances) / (len(a) * (len(a) - 1))

    return 2 * jnp.mean(jnp.sqrt(squared_distances(x, y))) - within(x) - within(y)


# --- errors of the predicted noise ----------------------------------------------------------------------------------


class Schedule(NamedTuple):
    """Signal shares from the noisiest sample to clean data, with room for longer samplers, and the updates to make."""

    shares: Float[Array, " room"]
    steps: Int[Array, ""]


def schedule_with_room(shares: NDArray[np.float64], room: int) -> Schedule:
    """A schedule padded with 1 to so many updates: samplers of all lengths are then one compiled program.

    >>> schedule_with_room(np.array([0.25, 1.0]), 3).shares.tolist()
    [0.25, 1.0, 1.0, 1.0]
    """
    padding = np.ones(room + 1 - len(shares))
    return Schedule(jnp.asarray(np.append(shares, padding), jnp.float32), jnp.int32(len(shares) - 1))


class NoiseErrors(NamedTuple):
    """What is wrong with the predicted noise in the updates ``first <= step < end``, counted from 0.

    Attributes:
        matrix: that it is multiplied with, the same in every step; the identity if nothing is wrong.
        fresh: rms of white noise added anew in each step, relative to the predicted noise of the sample.
        first: the first step with errors.
        end: the step after the last one with errors.
    """

    matrix: Float[Array, "dimensions dimensions"]
    fresh: Scalar = 0.0
    first: Int[Array, ""] | int = 0
    end: Int[Array, ""] | int = 2**31 - 1


class Followed(NamedTuple):
    """Samples from one start without and with errors of the predicted noise.

    Attributes:
        exact: last samples without errors.
        spoiled: last samples with errors.
        squared_errors: squared distance of the two after each step; 0 in the room behind the last.
        squared_noise_errors: sum over steps of the squared errors of the noise predicted for the spoiled sample.
        squared_noise: sum over steps of the squared noise that a perfect network predicts for it.
    """

    exact: Samples
    spoiled: Samples
    squared_errors: Float[Array, "room samples"]
    squared_noise_errors: PerSample
    squared_noise: PerSample


def followed_samples(
    mixture: GaussianMixture,
    start: Samples,
    *,
    schedule: Schedule,
    errors: NoiseErrors,
    key: PRNGKey,
    rounded: Callable[[Samples], Samples] | None = None,
) -> Followed:
    """DDIM from one start, once with the exact noise and once with a spoiled one.

    Pure: to be jitted around, with ``rounded`` static.

    Args:
        mixture: of the clean data.
        start: samples at the first signal share of the schedule.
        schedule: of the sampler.
        errors: of the predicted noise.
        key: of fresh errors.
        rounded: what becomes of the predicted noise at last, for example ``qs.parse("int8:channel").roundtrip``, which
            has a scale for each sample.
    """

    def spoil(noise: Samples, step: Int[Array, ""]) -> Samples:
        off = jnp.dot(noise, errors.matrix.T, precision=lax.Precision.HIGHEST)
        rms = jnp.sqrt(jnp.mean(noise * noise, axis=1, keepdims=True))
        off += errors.fresh * rms * jax.random.normal(jax.random.fold_in(key, step), noise.shape)
        off = rounded(off) if rounded else off
        return jnp.where((errors.first <= step) & (step < errors.end), off, noise)

    def update(step: Int[Array, ""], found: Followed) -> Followed:
        old, new = schedule.shares[step], schedule.shares[step + 1]
        exact = ddim_step(found.exact, predicted_noise(mixture, found.exact, old), old, new)
        noise = predicted_noise(mixture, found.spoiled, old)
        off = spoil(noise, step)
        spoiled = ddim_step(found.spoiled, off, old, new)
        return Followed(
            exact,
            spoiled,
            found.squared_errors.at[step].set(jnp.sum((spoiled - exact) ** 2, axis=1)),
            found.squared_noise_errors + jnp.sum((off - noise) ** 2, axis=1),
            found.squared_noise + jnp.sum(noise**2, axis=1),
        )

    nothing = jnp.zeros(len(start))
    room = jnp.zeros((len(schedule.shares) - 1, len(start)))
    return lax.fori_loop(0, schedule.steps, update, Followed(start, start, room, nothing, nothing))
