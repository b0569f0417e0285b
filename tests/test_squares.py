"""Sums of squares of independent arrays against NumPy in float64."""

import jax
import numpy as np
import pytest

from quantsim import parse, populations
from quantsim.measure.ratios import decibels
from quantsim.measure.squares import Squares, squares, squares_of_pairs
from quantsim.sweep import array_keys


def in_float64(w, w_hat):
    """Sums of w^2 and e^2 of each array; e is a float32 difference."""
    e = np.asarray(w_hat) - np.asarray(w)
    return [np.square(np.asarray(v, np.float64)).reshape(len(v), -1).sum(axis=1) for v in (w, e)]


@pytest.mark.parametrize("shape", [(3, 5), (4, 96), (2, 4096), (5000,)])
def test_squares_are_those_of_numpy(shape):
    w = populations.samples(populations.Normal(), array_keys(0, "normal", 3), shape)
    q = parse("int8:tensor")
    found = squares(w, q)
    signal, error = in_float64(w, np.stack([q.roundtrip(a) for a in w]))
    np.testing.assert_allclose(found.signal, signal, rtol=1e-6)
    np.testing.assert_allclose(found.error, error, rtol=1e-6)
    assert found.sqnr_db == decibels(found.signal, found.error)


def test_keys_are_those_of_the_arrays():
    w, q = np.full((2, 64, 32), 0.3, np.float32), parse("int8:block32:stochastic")
    w[..., 0] = 1.0
    keys = jax.random.split(jax.random.key(1), 2)
    found = squares(w, q, keys=keys)
    _, error = in_float64(w, np.stack([q.roundtrip(a, key=k) for a, k in zip(w, keys, strict=True)]))
    np.testing.assert_allclose(found.error, error, rtol=1e-6)
    assert found.error[0] != found.error[1]


def test_more_arrays_come_after_the_others():
    first, second = (squares_of_pairs([(np.full(3, v, np.float32), np.full(3, v + 1, np.float32))]) for v in (1, 2))
    both = first.and_more(second)
    assert (both.signal.tolist(), both.error.tolist()) == ([3.0, 12.0], [3.0, 3.0])


def test_no_array_has_no_squares():
    assert squares([], parse("int8:tensor")).error.size == 0
    assert isinstance(squares_of_pairs([]), Squares)
