"""Errors of outputs: predictions against brute force in NumPy, and against each other in special cases."""

import math

import numpy as np
import pytest

from quantsim.populations import Normal
from quantsim.theory import cancellation, output_rms
from quantsim.theory.noise import quantization_noise
from quantsim.theory.propagation import (
    aligned_relative_error,
    biased_output_mse,
    outlier_column_share,
    output_mse,
    rank_one_output_mse,
    relative_output_error,
    second_moment,
)


def agrees(sample, expected, k=4):
    """Whether the mean of independent draws is within k standard errors of what is expected."""
    sample = np.asarray(sample)
    return abs(sample.mean() - expected) <= k * sample.std(ddof=1) / math.sqrt(sample.size)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def moments(rng, n):
    """A second moment of full rank with correlations and a mean, and a function that draws from it."""
    factor, mean = rng.normal(size=(n, n)) / math.sqrt(n), rng.normal(size=n)
    return factor @ factor.T + np.outer(mean, mean), lambda count: mean + rng.normal(size=(count, n)) @ factor.T


def test_output_error_of_correlated_inputs_and_errors(rng):
    (s, inputs), (c, errors) = moments(rng, 12), moments(rng, 12)
    out = np.einsum("bi,bi->b", inputs(100_000), errors(100_000))
    assert agrees(out**2, output_mse(s, c))
    assert output_mse(s, c) == pytest.approx(np.trace(s @ c), rel=1e-12)


def test_white_on_either_side_is_enough(rng):
    s, _ = moments(rng, 20)
    rms = math.sqrt(np.trace(s) / 20)
    for one, two in ((s, second_moment(20, 0.3)), (second_moment(20, 0.3), s)):
        assert output_mse(one, two) == pytest.approx(output_rms(0.3, rms, 20) ** 2, rel=1e-12)


def test_a_bias_meets_a_mean(rng):
    n, given = 50, {"input_rms": 1.5, "error_rms": 0.2, "input_mean": 0.9, "error_mean": -0.05}
    expected = biased_output_mse(n, **given)
    assert expected == pytest.approx(output_mse(second_moment(n, 1.5, 0.9), second_moment(n, 0.2, -0.05)), rel=1e-12)
    x = rng.normal(0.9, math.sqrt(1.5**2 - 0.9**2), (20_000, n))
    e = rng.normal(-0.05, math.sqrt(0.2**2 - 0.05**2), (20_000, n))
    assert agrees((x * e).sum(axis=1) ** 2, expected)
    # the square of the fan-in wins: alone n^2 (0.9 * 0.05)^2
    assert biased_output_mse(10**9, **given) == pytest.approx((1e9 * 0.045) ** 2, rel=1e-4)


def test_white_inputs_keep_the_relative_error(rng):
    w, e = rng.normal(size=64), rng.normal(size=64) * 0.03
    relative = relative_output_error(second_moment(64, 2.0), np.outer(e, e), np.outer(w, w))
    assert relative == pytest.approx(np.linalg.norm(e) / np.linalg.norm(w), rel=1e-12)
    # a gain is kept by any inputs
    s, _ = moments(rng, 64)
    assert relative_output_error(s, 0.03**2 * np.outer(w, w), np.outer(w, w)) == pytest.approx(0.03, rel=1e-9)


@pytest.mark.parametrize("share", [1 / 200, 0.1, 1.0])
@pytest.mark.parametrize("gain", [1.0, 0.95])
def test_aligned_inputs(rng, share, gain):
    n = 200
    w = rng.normal(size=n)
    unit = w / np.linalg.norm(w)
    s = (1 - share) / (n - 1) * (np.eye(n) - np.outer(unit, unit)) + share * np.outer(unit, unit)
    white = 0.1 * np.linalg.norm(w)
    c = (gain - 1) ** 2 * np.outer(w, w) + white**2 / n * np.eye(n)
    expected = relative_output_error(s, c, np.outer(w, w))
    assert aligned_relative_error(0.1, n, share=share, gain=gain) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rounding", ["even", "truncate"])
def test_rounded_weights_matched_by_their_inputs(rng, rounding):
    # y = w·w over 400 weights: the noise of rounding falls by sqrt(n), the gain of truncation stays
    n, step = 400, 0.5
    w = rng.normal(size=(4000, n))
    q = step * (np.rint(w / step) if rounding == "even" else np.trunc(w / step))
    dy, y = ((q - w) * w).sum(axis=1), (w * w).sum(axis=1)
    noise = quantization_noise(Normal(), step, rounding=rounding)
    ratio = (dy**2).mean() / (y**2).mean()
    predicted = aligned_relative_error(math.sqrt(noise.uncorrelated), n, gain=noise.gain)
    if rounding == "truncate":  # the variance of dy is 1 / n of its square, and the white error is not quite white
        assert ratio == pytest.approx(predicted**2, rel=0.02)
        assert predicted == pytest.approx(1 - noise.gain, rel=0.01)
    else:
        assert ratio == pytest.approx(predicted**2, rel=4 * math.sqrt(2 / 4000))


def test_rank_one_inputs(rng):
    u, e = rng.normal(size=30), rng.normal(size=30)
    x = rng.normal(0, 3.0, 5000)[:, None] * u
    assert agrees((x @ e) ** 2, rank_one_output_mse(u, e, 3.0))
    c, errors = moments(rng, 30)
    assert rank_one_output_mse(u, c, 2.0) == pytest.approx(output_mse(4 * np.outer(u, u), c), rel=1e-12)
    assert agrees((errors(20_000) @ u) ** 2, rank_one_output_mse(u, c))


def test_the_share_of_an_outlier_input(rng):
    s, c = second_moment(100, 1.0), second_moment(100, 0.1)
    s[7], s[:, 7], s[7, 7] = 0, 0, 30.0**2
    c[7, 7] *= 4
    without = s.copy()
    without[7, 7] = 0
    saved = 1 - output_mse(without, c) / output_mse(s, c)
    assert outlier_column_share(100, 30.0, 2.0) == pytest.approx(saved, rel=1e-12)
    assert outlier_column_share(1, 5.0) == 1.0
    assert outlier_column_share(10, 0.0) == outlier_column_share(1, 0.0) == 0.0


def test_cancellation_goes_as_the_root_of_the_fan_in():
    assert cancellation(400) / cancellation(100) == pytest.approx(0.5, rel=1e-12)
    uniform = cancellation(100, input_shape=math.sqrt(3) / 2)  # sqrt(2 / pi) / (10 * 3 / 4)
    assert uniform == pytest.approx(math.sqrt(2 / math.pi) / 7.5, rel=1e-12)


BAD = {
    "no inputs": (lambda: second_moment(0, 1.0), "at least one input"),
    "a mean beyond the rms": (lambda: second_moment(2, 1.0, -2.0), "at least the magnitude"),
    "no fan-in": (lambda: biased_output_mse(0, input_rms=1.0, error_rms=1.0), "at least one input"),
    "an error mean beyond its rms": (
        lambda: biased_output_mse(3, input_rms=1.0, error_rms=1.0, error_mean=2.0),
        "at least the magnitude",
    ),
    "shapes": (lambda: output_mse(np.eye(2), np.eye(3)), r"\(2, 2\) and \(3, 3\)"),
    "vectors": (lambda: output_mse([1.0], [1.0]), "matrices of one size"),
    "no output": (lambda: relative_output_error(np.eye(2), np.eye(2), np.zeros((2, 2))), "no power"),
    "a share of zero": (lambda: aligned_relative_error(0.1, 10, share=0.0), "share of power"),
    "no fan-in of aligned inputs": (lambda: aligned_relative_error(0.1, 0), "fan-in is at least 1"),
    "a direction": (lambda: rank_one_output_mse([1.0, 2.0], [1.0]), r"\(2,\) and \(1,\)"),
    "no outlier": (lambda: outlier_column_share(0, 1.0), "fan-in is at least 1"),
    "a negative magnitude": (lambda: outlier_column_share(3, -1.0), "not negative"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
