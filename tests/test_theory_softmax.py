"""Softmax under noise: squared changes and flips against quadrature, counting and Monte Carlo."""

import math

import numpy as np
import pytest
from scipy import integrate, special

from quantsim.theory import softmax_flips, softmax_mse


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def agrees(samples, expected):
    """Within 4 standard errors of the mean of the samples."""
    return abs(samples.mean() - expected) < 4 * samples.std(ddof=1) / math.sqrt(len(samples))


def test_squared_change_by_brute_force(rng):
    logits, rms = rng.normal(0, 2, (3, 50)), 0.01
    p = special.softmax(logits, axis=1)
    noisy = special.softmax(logits + rms * rng.normal(size=(4000, 3, 50)), axis=-1)
    squares = ((noisy - p) ** 2).sum(axis=-1)
    for row in range(3):
        assert agrees(squares[:, row], softmax_mse(logits, rms)[row])


def test_squared_change_is_that_of_the_averages_of_white_values(rng):
    logits, rms, values = rng.normal(0, 2, 20), 0.01, rng.normal(size=(20, 4000))
    p = special.softmax(logits)
    moved = special.softmax(logits + rms * rng.normal(size=(4000, 20)), axis=1) - p
    assert agrees(np.einsum("ni,in->n", moved, values) ** 2, softmax_mse(logits, rms))


def test_squared_change_of_equal_logits():
    # p = 1/n: v / n (1 - 1/n)
    assert softmax_mse(np.zeros(8), 0.1) == pytest.approx(0.01 / 8 * (1 - 1 / 8), rel=1e-12)
    assert softmax_mse([3.0], 0.1) == 0.0


@pytest.mark.parametrize("rms", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("gap", [0.0, 0.2, 3.0])
def test_flips_of_two_logits(gap, rms):
    assert softmax_flips([gap, 0.0], rms) == pytest.approx(special.ndtr(-gap / rms / math.sqrt(2)), abs=1e-12)


def test_flips_of_equal_logits_are_all_but_one_of_n():
    for n in (1, 2, 10, 300):
        assert softmax_flips(np.full(n, -7.0), 0.3) == pytest.approx(1 - 1 / n, abs=1e-9)


def test_flips_by_quadrature_and_by_counting(rng):
    logits, rms = rng.normal(size=40), 0.4
    gaps = (logits.max() - np.delete(logits, logits.argmax())) / rms

    def stays(x):
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * special.ndtr(x + gaps).prod()

    found = float(softmax_flips(logits, rms))
    assert found == pytest.approx(1 - integrate.quad(stays, -10, 10, epsabs=1e-12)[0], abs=1e-10)
    noisy = logits + rms * rng.normal(size=(20000, 40))
    assert agrees((noisy.argmax(axis=1) != logits.argmax()).astype(float), found)


def test_flips_of_many_rows_are_those_of_each():
    rows = np.random.default_rng(0).normal(size=(2, 3, 30)) * np.array([0.1, 1.0, 30.0])[:, None]
    found = softmax_flips(rows, 0.5)
    assert found.shape == (2, 3)
    for place in np.ndindex(2, 3):
        assert found[place] == pytest.approx(float(softmax_flips(rows[place], 0.5)), abs=1e-12)


def test_what_does_not_flip():
    assert softmax_flips([1.0, 2.0], 0.0) == 0.0
    assert softmax_flips([5.0], 1.0) == pytest.approx(0.0, abs=1e-12)
    assert softmax_flips([0.0, -np.inf], 1.0) == pytest.approx(0.0, abs=1e-12)  # a masked key


@pytest.mark.parametrize("f", [softmax_mse, softmax_flips])
def test_bad_input_is_refused(f):
    with pytest.raises(ValueError, match="at least one class"):
        f([], 0.1)
    with pytest.raises(ValueError, match="not negative"):
        f([0.0, 1.0], -0.1)
