"""What `injection` predicts with: scales that are shared, noise at a step, errors as the function sees them."""

import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.lab import study

injection = study.module("injection")
RNG = np.random.default_rng(7)
W = RNG.normal(size=(6, 64))


def largest_in_rows(w, size):
    """Magnitude of the largest weight of each piece of a row, at every weight of the piece."""
    return np.repeat(np.abs(w.reshape(len(w), -1, size)).max(axis=2), size, axis=1)


@pytest.mark.parametrize(("cut", "size"), [(injection.CHANNEL, 64), (injection.BLOCKS, 32)])
def test_the_extreme_that_a_weight_shares_its_scale_with(cut, size):
    np.testing.assert_array_equal(injection.shared_extremes(W, cut), largest_in_rows(W, size))


def test_one_scale_is_that_of_the_largest_weight():
    assert (injection.shared_extremes(W, injection.TENSOR) == np.abs(W).max()).all()


def test_noise_at_small_steps_is_bennetts_and_at_huge_ones_the_weight_itself():
    # between the 401 points of the table a straight line in logarithms is off by less than 1e-3
    assert injection.noise_at(np.array([0.02, 0.5])) == pytest.approx(np.array([0.02, 0.5]) ** 2 / 12, rel=1e-3)
    assert injection.noise_at(np.array([0.0, 1e4])).tolist() == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("cut", injection.CUTS)
@pytest.mark.parametrize("column", [1.0, 64.0])
def test_errors_that_are_predicted_are_those_that_rounding_makes(cut, column):
    w = RNG.normal(size=(64, 512))
    by = np.ones_like(w)
    by[:, 3] = column
    error = np.asarray(qs.parse(cut).roundtrip(jnp.asarray(w * by, jnp.float32)), np.float64) / by - w
    std = np.sqrt(np.mean(w**2))
    predicted = injection.noise_at(injection.shared_extremes(w * by, cut) / 127 / (std * by)).mean()
    measured = (error**2).mean() / std**2
    # 32768 squares, relative spread of each below 2: 4 standard errors are 5 %; the extreme of a block has no error
    assert measured == pytest.approx(predicted, rel=0.05 + (1 / 32 if cut == injection.BLOCKS else 0))


@pytest.mark.parametrize("times", [1.0, 64.0])
def test_errors_of_inputs_that_are_predicted_are_those_that_rounding_makes(times):
    x, by = RNG.normal(size=(256, 128)), np.ones(128)
    by[5] = times
    rounded = np.asarray(qs.parse("int8:channel").roundtrip(jnp.asarray(x * by, jnp.float32)), np.float64)
    measured = ((rounded / by - x) ** 2).sum() / (x**2).sum()
    assert injection.lost_by_inputs(x, by) == pytest.approx(measured, rel=0.05)


def test_an_injection_into_weights_is_seen_by_what_it_multiplies():
    config = injection.Config.small()
    of = injection.language.subject("lm-w32-s0", 2)
    ones = {name: jnp.ones_like(w) for name, w in of.params.items()}
    by = injection.injected(config, ones, of, injection.NORMS, 64.0, "weights")["blk.0.ffn_up"]
    assert sorted(set(np.asarray(by).ravel().tolist())) == [1.0, 64.0]
    assert (np.asarray(by) == 64.0).all(axis=0).sum() == 1  # one column, the same in every row


@pytest.mark.parametrize("cut", injection.CUTS)
@pytest.mark.parametrize(
    ("site", "names"),
    [
        ("up → down, columns", ("blk.0.ffn_down", "blk.3.ffn_down")),
        ("k → q, rows", ("blk.0.attn_k", "blk.3.attn_k")),  # rows divided by 64, which one scale rounds to nothing
    ],
)
def test_lost_by_weights_is_what_rounding_takes_from_the_function(site, names, cut):
    config = injection.Config.small()
    of = injection.language.subject("lm-w32-s0", 2)
    what = injection.Injected(site, 64.0, "weights")
    predicted = injection.lost_by_weights(config, of, what, cut)
    weights = injection.injected(config, of.params, of, *what)
    for name in names:
        original, spoiled = (np.asarray(params[name], np.float64) for params in (of.params, weights))
        error = (np.asarray(qs.parse(cut).roundtrip(weights[name]), np.float64) - spoiled) * original / spoiled
        # trained weights are not quite normal, which counts where a step is as large as they are
        assert (error**2).sum() / (original**2).sum() == pytest.approx(predicted[name], rel=1 / 3)
