"""LayerNorm and RMSNorm: against float64, and what no norm can change."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.outputs.norms import layer_norm, rms_norm


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(2.0, 3.0, (7, 96)).astype(np.float32)


def test_both_norms_are_their_formula_in_float64(x):
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
        layer_norm(jnp.asarray(x)), centred / np.sqrt(wide.var(axis=1, keepdims=True) + 1e-5), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        rms_norm(jnp.asarray(x)), wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_a_norm_forgets_a_gain_and_bounds_every_value(norm, x):
    np.testing.assert_allclose(norm(jnp.asarray(8 * x), 0.0), norm(jnp.asarray(x), 0.0), rtol=1e-5, atol=1e-6)
    spike = jnp.asarray(x).at[:, 3].set(1e6)
    assert float(jnp.max(jnp.abs(norm(spike)))) <= 96**0.5 * (1 + 1e-6)


def test_only_layer_norm_forgets_a_shift(x):
    shifted = jnp.asarray(x) + 5.0
    np.testing.assert_allclose(layer_norm(shifted), layer_norm(jnp.asarray(x)), atol=1e-5)
    assert float(jnp.max(jnp.abs(rms_norm(shifted) - rms_norm(jnp.asarray(x))))) > 0.1


def test_a_token_of_zeros_stays_zero():
    assert not np.any(layer_norm(jnp.zeros((2, 8))))
    assert not np.any(rms_norm(jnp.zeros((2, 8))))
