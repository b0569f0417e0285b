"""The sampler of ``iteration`` and ``sample_quality``: data whose score is exact, kinds of errors, and their theory."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import theory
from quantsim._types import PRNGKey
from quantsim.outputs.diffusion import (
    Followed,
    GaussianMixture,
    NoiseErrors,
    followed_samples,
    schedule_with_room,
    stable_diffusion_schedule,
)
from quantsim.quantizer import parse
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.sweep import array_keys

DIMENSIONS, MODES, WIDTH = 64, 8, 0.5  # of the data: means are standard normal, a mode has this standard deviation
EXACT_STEPS = 400  # of the sampler that stands for infinitely many steps
FEW, MANY = 20, 50  # steps, between which the document sees errors accumulate
SIZE = 0.01  # relative rms error of the predicted noise, between those of int8 weights (0.6 %) and int4 (10 %)


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


PERSISTENT, FRESH = Kind("persistent", persistent=SIZE), Kind("fresh", fresh=SIZE)
INT8_WEIGHTS = tuple(Kind(f"{spec} weights", weights=spec) for spec in ("q8_0", "int8:channel", "int8:tensor"))
INT4_WEIGHTS = Kind("int4 weights", weights="int4:channel")
OF_STEPS = (PERSISTENT, FRESH, *INT8_WEIGHTS, INT4_WEIGHTS)  # measured for every number of steps


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


def predicted_rms(kind: Kind, steps: int, std: float) -> NDArray[np.float64]:
    """Rms error of a coordinate after each step, for normal data of this standard deviation.

    The noise that is predicted is sqrt(1 - a) x / v with the variance v of noisy data, all of one sample along one
    line; so one matrix errs alike in every step.
    """
    shares = stable_diffusion_schedule(steps)
    factors, of_noise = theory.ddim_steps(shares, std)
    old = shares[:-1]
    variance = old * std**2 + 1 - old
    size = np.sqrt(variance[0]) * np.append(1.0, np.cumprod(factors[:-1]))  # rms of x before each step
    injected = of_noise * np.sqrt(1 - old) * size / variance * max(kind.persistent, kind.fresh)
    persistent = kind.persistent > 0
    ends = range(1, steps + 1)
    return np.array([theory.iterated_error(factors[:k], injected[:k], persistent=persistent) for k in ends])
