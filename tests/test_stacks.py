"""Stacks of layers beside spoiled ones: against a loop in float64, and theorems of each kind of layer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.outputs.depth import normalized_layer, plain_layer, residual_layer, stack_errors

WIDTH, LAYERS = 24, 5
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(LAYERS, WIDTH, WIDTH)) / np.sqrt(WIDTH)
ERRORS = 0.05 * RNG.normal(size=WEIGHTS.shape) / np.sqrt(WIDTH)
INPUTS = RNG.normal(size=(6, WIDTH))


def rms(h):
    return h / np.sqrt((h * h).mean(axis=1, keepdims=True) + 1e-5)


def relu(h):
    return np.maximum(h, 0)


LAYERS_IN_FLOAT64 = {
    plain_layer: lambda h, w: relu(h) @ w.T,
    normalized_layer: lambda h, w: rms(relu(h) @ w.T),
    residual_layer: lambda h, w: h + relu(rms(h)) @ w.T,
}


def found(layer, inputs=INPUTS):
    w, e = jnp.asarray(WEIGHTS, jnp.float32), jnp.asarray(ERRORS, jnp.float32)
    return stack_errors(
        layer,
        lambda number: w[number],
        spoiled=lambda matrix, number: {"off": matrix + e[number], "same": matrix, "gain": 1.25 * matrix},
        inputs=jnp.asarray(inputs, jnp.float32),
        layers=LAYERS,
    )


@pytest.mark.parametrize("layer", LAYERS_IN_FLOAT64, ids=lambda f: f.__name__)
def test_a_stack_is_a_loop_over_its_layers(layer):
    sums = found(partial(layer, activation=jax.nn.relu))
    h, off, step = INPUTS, INPUTS, LAYERS_IN_FLOAT64[layer]
    for number in range(LAYERS):
        h, off = step(h, WEIGHTS[number]), step(off, WEIGHTS[number] + ERRORS[number])
        assert float(sums.squared_outputs[number]) == pytest.approx((h * h).sum(), rel=1e-4)
        assert float(sums.squared_errors["off"][number]) == pytest.approx(((off - h) ** 2).sum(), rel=1e-3)
    # two programs of one formula, rounded otherwise
    assert np.all(np.asarray(sums.squared_errors["same"]) <= 1e-11 * np.asarray(sums.squared_outputs))


def test_a_gain_adds_up_in_a_plain_stack_and_is_undone_by_norms():
    plain, behind_norms = found(plain_layer), found(normalized_layer)
    relative = np.sqrt(plain.squared_errors["gain"] / plain.squared_outputs)
    np.testing.assert_allclose(relative, 1.25 ** np.arange(1, LAYERS + 1) - 1, rtol=1e-5)
    assert np.all(np.sqrt(behind_norms.squared_errors["gain"] / behind_norms.squared_outputs) < 1e-4)


def test_the_program_does_not_grow_with_the_depth():
    def traced(layers):
        stack = partial(stack_errors, plain_layer, lambda n: jnp.eye(4) * (n + 1.0), layers=layers)
        return jax.make_jaxpr(lambda x: stack(spoiled=lambda w, n: {"off": w * 2.0 + n}, inputs=x))(jnp.ones((2, 4)))

    assert len(str(traced(4))) == pytest.approx(len(str(traced(64))), rel=0.02)
