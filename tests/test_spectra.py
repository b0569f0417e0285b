"""Spectra and convolutions: Parseval, white noise, single waves, and XLA's convolution with wrapped borders."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.lab import study
from quantsim.outputs.spectra import convolution, frequencies, power_spectrum, ring_means, transfer


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_the_mean_of_the_spectrum_is_the_mean_square(rng):
    a = rng.normal(size=(2, 3, 8, 12))
    np.testing.assert_allclose(power_spectrum(a).mean(axis=(-2, -1)), (a**2).mean(axis=(-2, -1)), rtol=1e-12)


def test_a_wave_is_one_line_at_its_frequency():
    y, x = np.mgrid[:16, :16]
    power = power_spectrum(np.cos(2 * np.pi * (3 * x + 4 * y) / 16))
    lines = power > 1e-9
    assert lines.sum() == 2
    np.testing.assert_allclose(frequencies(16, 16)[lines], 5 / 16)


def test_white_noise_is_flat(rng):
    found = ring_means(power_spectrum(rng.normal(0, 2, (400, 16, 16))), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8])
    se = found.std(axis=0, ddof=1) / np.sqrt(400)
    assert (np.abs(found.mean(axis=0) - 4) < 4 * se).all()


def test_rings_hold_each_frequency_once():
    edges, count = np.array([0.0, 0.1, 0.3, 0.8]), np.ones((10, 14))
    np.testing.assert_array_equal(ring_means(count, edges), 1.0)
    radius = frequencies(10, 14)
    sizes = np.array([((radius >= a) & (radius < b)).sum() for a, b in pairwise(edges)])
    assert sizes.sum() == count.size
    assert (ring_means(radius, edges) * sizes).sum() == pytest.approx(radius.sum())


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (1, 1)], ids=str)
def test_convolution_is_that_of_xla_with_wrapped_borders(rng, kernel):
    x, w = rng.normal(size=(2, 3, 8, 10)), rng.normal(size=(2, 4, 3, *kernel))
    pads = [(n // 2, n // 2) for n in kernel]
    for one, weights, found in zip(x, w, convolution(x, w), strict=True):
        padded = jnp.asarray(np.pad(one, [(0, 0), *pads], mode="wrap")[None], jnp.float32)
        out = jax.lax.conv_general_dilated(
            padded, jnp.asarray(weights, jnp.float32), (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST
        )
        np.testing.assert_allclose(found, np.asarray(out[0]), atol=1e-4)


def test_the_power_of_an_output_is_that_of_the_input_times_the_transfer(rng):
    x, w = rng.normal(size=(1, 8, 8)), rng.normal(size=(1, 1, 3, 3))
    expected = power_spectrum(x) * np.abs(transfer(w[0], 8, 8)) ** 2
    np.testing.assert_allclose(power_spectrum(convolution(x, w)), expected, rtol=1e-9, atol=1e-12)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        power_spectrum(np.zeros(4))
    with pytest.raises(ValueError, match="holds no frequency"):
        ring_means(np.ones((4, 4)), [0.01, 0.02])
    with pytest.raises(ValueError, match="larger than a field"):
        transfer(np.ones((5, 5)), 4, 4)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 2), (2, 4), (1, 4), (-1, 8), (-1, -1), (3, 5), (2, -3)])
def test_rounding_errors_of_multiples_are_correlated_as_the_study_says(a, b):
    """Over whole periods of w, sampled evenly off the ties; 10^5 points a period."""
    w = (np.arange(100_000) + 0.5) / 100_000
    of_a, of_b = (np.round(n * w) - n * w for n in (a, b))
    expected = study.module("convolution").rounding_correlation(float(a), float(b))
    assert 12 * np.mean(of_a * of_b) == pytest.approx(expected, abs=1e-4)
