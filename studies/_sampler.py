"""What the study ``iteration`` samples: data whose score is exact, kinds of errors, and what of samples is compared."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import PRNGKey
from quantsim.measure.ratios import columns, mean, root_ratio
from quantsim.outputs.diffusion import (
    Followed,
    GaussianMixture,
    NoiseErrors,
    energy_distance,
    followed_samples,
    schedule_with_room,
    stable_diffusion_schedule,
)
from quantsim.quantizer import parse
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.sweep import array_keys

DIMENSIONS, MODES, WIDTH = 64, 8, 0.5  # of the data: means are standard normal, a mode has this standard deviation
EXACT_STEPS = 400  # of the sampler that stands for infinitely many steps


@dataclass(frozen=True)
class Size:
    """How much is sampled.

    Attributes:
        samples: of each repeat.
        repeats: mixtures with means, samples and matrices of their own, the units of the standard errors.
        seed: of everything that is drawn.
    """

    samples: int
    repeats: int
    seed: int


@dataclass(frozen=True)
class Kind:
    """What is wrong with the predicted noise: its name, and relative sizes or the specs of quantizers.

    Attributes:
        persistent: rms of one white matrix added to the identity.
        fresh: rms of white noise, another in each step.
        weights: quantizer of an orthogonal last layer, or None.
        outputs: quantizer of the noise itself, one scale for each sample, or None.
    """

    name: str
    persistent: float = 0.0
    fresh: float = 0.0
    weights: str | None = None
    outputs: str | None = None


class Problem(NamedTuple):
    """Stacks over repeats: the mixture, noisy samples to start from, and independent clean ones."""

    mixture: GaussianMixture
    start: Float[Array, "repeats samples dimensions"]
    data: Float[Array, "repeats samples dimensions"]


@lru_cache(8)
def problem(size: Size) -> Problem:
    """Mixtures of normals with means of their own, and starts at the noisiest signal share."""
    return drawn(array_keys(size.seed, "mixtures", size.repeats), size.samples)


@partial(jax.jit, static_argnums=1)
def drawn(keys: PRNGKey, count: int) -> Problem:
    """A problem with so many samples for each key."""
    first_share = float(stable_diffusion_schedule(1)[0])

    def one(key: PRNGKey) -> Problem:
        of_means, of_start, of_noise, of_data = jax.random.split(key, 4)
        mixture = GaussianMixture(jax.random.normal(of_means, (MODES, DIMENSIONS)), jnp.float32(WIDTH))
        noise = jax.random.normal(of_noise, (count, DIMENSIONS))
        start = np.sqrt(first_share) * mixture.sample(of_start, count) + np.sqrt(1 - first_share) * noise
        return Problem(mixture, start, mixture.sample(of_data, count))

    return jax.vmap(one)(keys)


def normal_problem(size: Size) -> Problem:
    """The same starts for data that are standard normal: all modes in one place."""
    mixture, start, data = problem(size)
    return Problem(GaussianMixture(jnp.zeros_like(mixture.means), jnp.ones_like(mixture.std)), start, data)


@partial(jax.jit, static_argnames="outputs")
def followed(
    of: Problem, keys: PRNGKey, errors: NoiseErrors, shares: Any, *, outputs: AbstractQuantizer | None
) -> Followed:
    """Samples of all repeats without and with errors."""

    def one(repeat: tuple) -> Followed:
        each, key, matrix = repeat
        rounded = outputs.roundtrip if outputs else None
        mine = errors._replace(matrix=matrix)
        return followed_samples(each.mixture, each.start, schedule=shares, errors=mine, key=key, rounded=rounded)

    return jax.lax.map(one, (of, keys, errors.matrix))


def samples(size: Size, of: Problem, kind: Kind, steps: int, wrong: tuple[int, int] | None = None) -> Followed:
    """Samples after so many steps, all of which are wrong, or those from one number up to another."""
    first, end = wrong or (0, steps)
    errors = NoiseErrors(matrices(size, kind), jnp.float32(kind.fresh), jnp.int32(first), jnp.int32(end))
    keys = array_keys(size.seed, f"fresh {kind.name} {steps}", size.repeats)
    shares = schedule_with_room(stable_diffusion_schedule(steps), EXACT_STEPS)
    outputs = parse(kind.outputs) if kind.outputs else None
    return followed(of, keys, errors, shares, outputs=outputs)


def matrices(size: Size, kind: Kind) -> Float[Array, "repeats dimensions dimensions"]:
    """What the noise is multiplied with: the identity plus a white matrix, or weights Ŵ of the features Wᵀ noise."""
    rng = np.random.default_rng((size.seed, 1))
    white = rng.standard_normal((size.repeats, DIMENSIONS, DIMENSIONS))
    if not kind.weights:
        return jnp.asarray(np.eye(DIMENSIONS) + kind.persistent * white / np.sqrt(DIMENSIONS), jnp.float32)
    w = jnp.asarray(np.linalg.qr(white)[0], jnp.float32)
    w_hat = np.asarray(jax.lax.map(parse(kind.weights).roundtrip, w), np.float64)
    return jnp.asarray(w_hat @ np.swapaxes(np.asarray(w, np.float64), 1, 2), jnp.float32)


class Comparison(NamedTuple):
    """Two sets of samples from one start, and how far each is from the data."""

    squared_distance: Float[Array, "repeats samples"]
    squared_sample: Float[Array, "repeats samples"]
    mode: Float[Array, "repeats samples"]
    mode_hat: Float[Array, "repeats samples"]
    spread: Float[Array, "repeats samples"]
    spread_hat: Float[Array, "repeats samples"]
    from_data: Float[Array, " repeats"]
    from_data_hat: Float[Array, " repeats"]


@jax.jit
def compared(of: Problem, x: Float[Array, "repeats samples dimensions"], x_hat: Array) -> Comparison:
    """What is compared, by repeat."""

    def one(repeat: tuple) -> Comparison:
        each, a, b = repeat
        return Comparison(
            squared_distance=jnp.sum((b - a) ** 2, axis=1),
            squared_sample=jnp.sum(a**2, axis=1),
            mode=each.mixture.mode_of(a),
            mode_hat=each.mixture.mode_of(b),
            spread=each.mixture.spread(a),
            spread_hat=each.mixture.spread(b),
            from_data=energy_distance(a, each.data),
            from_data_hat=energy_distance(b, each.data),
        )

    return jax.lax.map(one, (of, x, x_hat))


def identity_and_quality(found: Comparison) -> dict[str, float]:
    """Identity: distance of samples that stay in their mode, median of all, share that flips. Quality: the rest.

    rel_rms = ‖x̂ − x‖ / ‖x‖ of those that stay; excess = energy distance from the data, more than without errors;
    spread = rms distance from the means, over that without errors; least_mode = samples in the mode that loses most,
    likewise.
    """
    c = found._replace(**{name: np.asarray(a, np.float64) for name, a in found._asdict().items()})
    stays = c.mode == c.mode_hat
    medians = np.sqrt(np.median(c.squared_distance / c.squared_sample, axis=1))
    counts = [[np.bincount(modes.astype(int), minlength=MODES) for modes in m] for m in (c.mode, c.mode_hat)]
    kept = np.where(np.array(counts[0]) > 0, np.array(counts[1]) / np.maximum(counts[0], 1), 1.0)
    return columns(
        rel_rms=root_ratio(c.squared_distance * stays, c.squared_sample * stays),
        median=mean(medians),
        flipped=mean(1 - stays.mean(axis=1)),
        excess=mean(c.from_data_hat - c.from_data),
        spread=root_ratio(c.spread_hat, c.spread),
        least_mode=mean(kept.min(axis=1)),
    )
