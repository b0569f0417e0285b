"""Divergences of predictions against float64, where the textbook formula does not cancel."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from quantsim.models.likelihood import compared
from quantsim.numerics.divergence import divergence

RNG = np.random.default_rng(5)
LOGITS = (3 * RNG.normal(size=(2, 7, 50))).astype(np.float32)
TARGETS = RNG.integers(0, 50, (2, 7))


@pytest.mark.parametrize("size", [1e-4, 1e-2, 0.5, 5.0, 100.0])
def test_against_float64(size):
    changed = (LOGITS + size * RNG.normal(size=LOGITS.shape)).astype(np.float32)
    p, q = (log_softmax(a.astype(np.float64), axis=-1) for a in (LOGITS, changed))
    kl = (np.exp(p) * (p - q)).sum(-1)
    nll = (np.take_along_axis(p - q, TARGETS[..., None], -1))[..., 0]
    found = compared(jnp.asarray(LOGITS), jnp.asarray(changed), jnp.asarray(TARGETS))
    # a difference of two logits near 10 is off by 2^-21, which moves d by as much, and the divergence by E_p |d| of it
    off = 2.0**-20 * max(1.0, size)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-5, atol=off * size)
    np.testing.assert_allclose(found.increase, nll, rtol=1e-5, atol=4 * off)
    np.testing.assert_array_equal(found.flips, LOGITS.argmax(-1) != changed.argmax(-1))


def test_a_common_shift_changes_nothing():
    found = compared(jnp.asarray(LOGITS), jnp.asarray(LOGITS) + 8.0, jnp.asarray(TARGETS))
    # the sums and their mean are off by up to 2^-20 each, and the divergence by the square
    assert float(jnp.max(found.kl)) < 2.0**-38
    assert not found.flips.any()


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 30.0, 200.0])
def test_of_many_classes(size):
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (5, 4000)).astype(np.float32)
    moved = (z + np.float32(size) * rng.standard_normal(z.shape).astype(np.float32)).astype(np.float32)
    log_p, log_q = log_softmax(np.float64(z), axis=-1), log_softmax(np.float64(moved), axis=-1)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    # changes are differences of logits up to about 12 that are stored to 2^-21, relative to what they are
    found = divergence(jnp.asarray(z), jnp.asarray(moved) - z).kl[..., 0]
    np.testing.assert_allclose(found, expected, rtol=2e-3)
