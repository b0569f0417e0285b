"""The Fréchet distance: against closed forms and scipy's matrix root, its error and bias against new samples."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from quantsim.measure.frechet import frechet_distance, frechet_increase

RNG = np.random.default_rng(11)


def slow(a, b):
    """The definition, with a matrix square root."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)


def pair(n, rng=RNG):
    return rng.normal(size=(n, 3)), rng.normal(0.3, 1.5, size=(n, 3)) @ np.array(
        [[1.0, 0.5, 0], [0, 1, 0.2], [0, 0, 2]]
    )


def test_the_distance_is_that_of_the_definition():
    a, b = pair(40)
    assert frechet_distance(a, b).distance == pytest.approx(slow(a, b), rel=1e-10)
    assert frechet_distance(b[:30], a).distance == pytest.approx(slow(b[:30], a), rel=1e-10)


def test_of_one_feature_it_is_that_of_means_and_deviations():
    a, b = RNG.normal(size=(50, 1)), RNG.gamma(2.0, size=(70, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b).distance == pytest.approx(expected, rel=1e-10)
    assert abs(frechet_distance(a, a).distance) < 1e-12


def test_the_jackknife_is_that_of_leaving_samples_out():
    a, b = pair(12)
    for_a = np.array([slow(np.delete(a, i, axis=0), b) for i in range(12)])
    for_b = np.array([slow(a, np.delete(b, i, axis=0)) for i in range(12)])
    found = frechet_distance(a, b)
    assert found.bias == pytest.approx(11 * (for_a.mean() + for_b.mean() - 2 * slow(a, b)), rel=1e-8)
    assert found.se == pytest.approx(np.sqrt(11 * (for_a.var() + for_b.var())), rel=1e-8)


def test_error_and_bias_are_those_of_new_samples():
    """Of 300 pairs of samples of 100: the spread within 4 of its standard errors, the bias too."""
    found = [frechet_distance(*pair(100)) for _ in range(300)]
    distances, errors, biases = (np.array(column) for column in zip(*found, strict=True))
    spread = distances.std(ddof=1)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread, abs=4 * spread / np.sqrt(2 * 299))
    true = slow(*pair(400_000))
    unbiased = distances - biases
    error = np.sqrt(unbiased.var(ddof=1) / 300 + (spread * np.sqrt(100 / 400_000)) ** 2)
    assert unbiased.mean() == pytest.approx(true, abs=4 * error)
    assert distances.mean() - true > 4 * error  # it has one


def test_an_increase_is_the_difference_of_distances_and_its_error_that_of_leaving_pairs_out():
    a, other = pair(12)
    b = a + 0.3 * RNG.normal(size=a.shape)

    def increase(left=(), right=()):
        old, new, to = np.delete(a, left, axis=0), np.delete(b, left, axis=0), np.delete(other, right, axis=0)
        return slow(new, to) - slow(old, to)

    by_pair = np.array([increase(left=i) for i in range(12)])
    by_other = np.array([increase(right=i) for i in range(12)])
    found = frechet_increase(a, b, other)
    assert found.value == pytest.approx(increase(), rel=1e-8)
    assert found.se == pytest.approx(np.sqrt(11 * (by_pair.var() + by_other.var())), rel=1e-8)


def test_samples_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match=r"are pairs, got \(9, 3\) and \(8, 3\)"):
        frechet_increase(np.ones((9, 3)), np.ones((8, 3)), np.ones((9, 3)))


def test_of_one_distribution_the_bias_is_all_and_the_error_is_too_large():
    """Of 200 pairs of samples of 200: the bias within 4 standard errors of the mean distance and a share 1 / 200."""
    found = [frechet_distance(RNG.normal(size=(200, 3)), RNG.normal(size=(200, 3))) for _ in range(200)]
    distances, errors, biases = (np.array(column) for column in zip(*found, strict=True))
    error = (distances - biases).std(ddof=1) / np.sqrt(200)
    assert biases.mean() == pytest.approx(distances.mean(), abs=4 * error + distances.mean() / 200)
    assert np.sqrt(np.mean(errors**2)) > distances.std(ddof=1)


def test_features_that_say_too_little_are_refused():
    with pytest.raises(ValueError, match=r"of one width, got \(9, 3\) and \(9, 2\)"):
        frechet_distance(np.ones((9, 3)), np.ones((9, 2)))
    with pytest.raises(ValueError, match="5 samples say too little of 3 features"):
        frechet_distance(np.ones((9, 3)), np.ones((5, 3)))
