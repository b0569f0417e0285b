"""The exact sampler: its score against autodiff and quadrature, its steps against closed forms, its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from quantsim import theory
from quantsim.outputs.diffusion import (
    GaussianMixture,
    NoiseErrors,
    ddim_step,
    energy_distance,
    followed_samples,
    predicted_noise,
    schedule_with_room,
    squared_distances,
    stable_diffusion_schedule,
)

D = 6
RNG = np.random.default_rng(4)
MIXTURE = GaussianMixture(jnp.asarray(RNG.normal(size=(3, D)), jnp.float32), jnp.float32(0.5))
NORMAL = GaussianMixture(jnp.zeros((1, D)), jnp.float32(1.0))
X = jnp.asarray(RNG.normal(size=(40, D)), jnp.float32)
KEY = jax.random.key(0)


def log_density(x, share):
    """Of one noisy sample, in float64 NumPy."""
    variance = share * 0.25 + 1 - share
    squares = ((x - np.sqrt(share) * np.asarray(MIXTURE.means, np.float64)) ** 2).sum(axis=1)
    return np.log(np.exp(-squares / (2 * variance)).sum())


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_the_predicted_noise_is_the_score(share):
    """-sqrt(1 - a) times the gradient of log p, by central differences in float64."""
    noise, width = np.asarray(predicted_noise(MIXTURE, X, share)), 1e-5
    for x, found in zip(np.asarray(X, np.float64)[:5], noise[:5], strict=True):
        steps = width * np.eye(D)
        gradient = np.array([(log_density(x + e, share) - log_density(x - e, share)) / (2 * width) for e in steps])
        np.testing.assert_allclose(found, -np.sqrt(1 - share) * gradient, rtol=2e-4, atol=2e-5)


def test_the_predicted_noise_is_the_mean_of_the_noise():
    """Its error is uncorrelated with it: E[(noise - predicted) predicted] = 0, within 4 standard errors of 200,000."""
    of_data, of_noise = jax.random.split(KEY)
    noise = jax.random.normal(of_noise, (200_000, D))
    x = 0.6 * MIXTURE.sample(of_data, len(noise)) + 0.8 * noise
    predicted = predicted_noise(MIXTURE, x, 0.36)
    products = np.asarray(jnp.sum((noise - predicted) * predicted, axis=1), np.float64)
    assert abs(products.mean()) < 4 * products.std() / np.sqrt(products.size)
    assert float(jnp.mean((noise - predicted) ** 2)) < 0.8


def test_a_step_on_normal_data_is_that_of_theory():
    factors, of_noise = theory.ddim_steps([0.3, 0.7], 1.0)
    e = 0.1 * X[::-1]
    found = ddim_step(X, predicted_noise(NORMAL, X, 0.3) + e, 0.3, 0.7)
    np.testing.assert_allclose(found, factors[0] * X + of_noise[0] * e, rtol=1e-4, atol=1e-5)


def test_the_schedule_is_the_published_one():
    """Of 1000 times: the product of 1 - beta in float64; a sampler's times are evenly spaced from the last one."""
    beta = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
    shares = [1.0]
    for b in beta:
        shares.append(shares[-1] * (1 - b))
    found = stable_diffusion_schedule(50)
    np.testing.assert_allclose(found, [shares[1000 - 20 * k] for k in range(51)], rtol=1e-12)
    assert np.all(np.diff(found) > 0)
    with pytest.raises(ValueError, match="1 to 1000 steps"):
        stable_diffusion_schedule(0)


def test_room_behind_a_schedule_changes_nothing():
    def last(room):
        schedule = schedule_with_room(stable_diffusion_schedule(5), room)
        return followed_samples(MIXTURE, X, schedule=schedule, errors=NoiseErrors(jnp.eye(D)), key=KEY)

    np.testing.assert_array_equal(last(5).exact, last(9).exact)
    np.testing.assert_array_equal(last(5).exact, last(5).spoiled)
    assert not np.any(last(9).squared_errors)


def test_many_steps_draw_from_the_mixture():
    """The spread within modes and the shares of the modes are the data's, within 4 standard errors or 3 %."""
    of_start, of_noise = jax.random.split(KEY)
    shares, count = stable_diffusion_schedule(200), 4000
    start = np.sqrt(shares[0]) * MIXTURE.sample(of_start, count)
    start += np.sqrt(1 - shares[0]) * jax.random.normal(of_noise, (count, D))
    errors = NoiseErrors(jnp.eye(D))
    x = followed_samples(MIXTURE, start, schedule=schedule_with_room(shares, 200), errors=errors, key=KEY).exact
    data = MIXTURE.sample(jax.random.key(9), count)
    assert float(jnp.mean(MIXTURE.spread(x))) == pytest.approx(float(jnp.mean(MIXTURE.spread(data))), rel=0.03)
    counts = [np.bincount(np.asarray(MIXTURE.mode_of(v)), minlength=3) / count for v in (x, data)]
    assert np.all(abs(counts[0] - counts[1]) < 4 * np.sqrt(2 / 9 / count * 2))


@pytest.mark.parametrize("persistent", [True, False])
def test_errors_on_normal_data_are_those_of_theory(persistent):
    """Of 3000 samples in 6 dimensions, to first order, within 5 %."""
    shares, rho, count = stable_diffusion_schedule(20), 1e-3, 3000
    start = jax.random.normal(jax.random.key(2), (count, D))
    rotation = jnp.asarray(np.linalg.qr(RNG.normal(size=(D, D)))[0], jnp.float32)
    matrix = jnp.eye(D) + rho * rotation if persistent else jnp.eye(D)  # all noise off by rho, along the same line
    errors = NoiseErrors(matrix, jnp.float32(0.0 if persistent else rho))
    found = followed_samples(NORMAL, start, schedule=schedule_with_room(shares, 25), errors=errors, key=KEY)
    factors, of_noise = theory.ddim_steps(shares, 1.0)
    sizes = np.append(1.0, np.cumprod(factors[:-1])) * np.sqrt(1 - shares[:-1])
    expected = rho * theory.iterated_error(factors, of_noise * sizes, persistent=persistent)
    measured = np.sqrt(np.mean(np.asarray(found.spoiled - found.exact, np.float64) ** 2))
    assert measured == pytest.approx(expected, rel=0.05)
    np.testing.assert_allclose(found.squared_errors[19], jnp.sum((found.spoiled - found.exact) ** 2, axis=1), rtol=1e-5)
    assert not np.any(found.squared_errors[20:])
    of_step = float(jnp.sqrt(jnp.sum(found.squared_noise_errors) / jnp.sum(found.squared_noise)))
    assert of_step == pytest.approx(rho, rel=0.05)


def test_only_the_wrong_steps_are_wrong():
    schedule = schedule_with_room(stable_diffusion_schedule(8), 8)
    errors = NoiseErrors(1.5 * jnp.eye(D), 0.0, 3, 5)
    found = followed_samples(MIXTURE, X, schedule=schedule, errors=errors, key=KEY)
    off = np.sum(found.squared_errors, axis=1)
    assert np.all(off[:3] == 0)
    assert np.all(off[3:] > 0)


def test_rounding_comes_last():
    schedule = schedule_with_room(stable_diffusion_schedule(4), 4)
    found = followed_samples(
        MIXTURE, X, schedule=schedule, errors=NoiseErrors(jnp.eye(D), 0.5), key=KEY, rounded=jnp.zeros_like
    )
    np.testing.assert_allclose(found.squared_noise_errors, found.squared_noise, rtol=1e-6)


def test_distances_are_those_of_scipy():
    x, y = RNG.normal(size=(30, D)), RNG.normal(0.5, 2.0, size=(50, D))
    a, b = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    np.testing.assert_allclose(squared_distances(a, b), cdist(x, y, "sqeuclidean"), rtol=1e-4, atol=1e-4)
    within = [cdist(v, v).sum() / (len(v) * (len(v) - 1)) for v in (x, y)]
    assert float(energy_distance(a, b)) == pytest.approx(2 * cdist(x, y).mean() - sum(within), abs=1e-4)
