"""The training of the study of QAT of UNets: which weights are quantized, and what steps of no size change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.lab import study
from quantsim.mitigations import Layer, gptq
from quantsim.quantizer import parse
from quantsim.rows import Rows

qat = study.module("qat_unet")
SPECS = ("int8:channel", "int3:channel")


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {"conv_in": (4, 9), "mid_block.conv1": (5, 40), "mid_block.conv1.bias": (5,)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("which", [0, 1, 2])
def test_all_matrices_go_through_their_quantizer(params, which):
    found = qat.rounded(params, jnp.int32(which), SPECS)
    for name, w in params.items():
        through = which and w.ndim == 2
        wanted = parse(SPECS[which - 1]).roundtrip(w) if through else w
        assert np.array_equal(found[name], wanted), name


def test_the_gradient_is_that_at_the_quantized_weights(params):
    def loss(p):
        return sum(jnp.sum(jnp.sin(3 * w)) for w in p.values() if w.ndim == 2)

    through = jax.grad(lambda p: loss(qat.rounded(p, jnp.int32(2), SPECS)))(params)
    for name in ("conv_in", "mid_block.conv1"):
        w_hat = np.asarray(parse("int3:channel").roundtrip(params[name]), np.float64)
        np.testing.assert_allclose(through[name], 3 * np.cos(3 * w_hat), rtol=1e-4, atol=1e-5)


def test_steps_without_a_rate_change_nothing():
    """Neither without a quantizer nor with one: what is trained is the weights behind it."""
    config = qat.Config(specs=("int4:channel",), steps=2, batch=2, rate=0.0)
    of = qat.unets.subject("unet-s0", 1)
    for spec in (None, "int4:channel"):
        found = qat.trained_on(config, of, spec)
        assert all(np.array_equal(found[name], w) for name, w in of.params.items())


def test_rows_of_zeros_change_nothing_in_gptq():
    rng = np.random.default_rng(1)
    w, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 12), (40, 12)))
    assert np.array_equal(qat.by_gptq(w, x, "int3:channel"), gptq(Layer(w, x), "int3:channel").weights)


def test_calibration_sees_all_pixels():
    pixels = jnp.arange(8 * qat.MOST_VECTORS).reshape(-1, 1) % 64
    found = np.asarray(qat.drawn(pixels, 0))
    assert len(found) == qat.MOST_VECTORS
    assert set(found.ravel()) == set(range(64))
    assert np.array_equal(qat.drawn(pixels[:100], 0), pixels[:100])


def test_qat_must_clearly_leave_less_than_every_remedy():
    def case(spec, *ahead):
        about = {"kind": "remedy", "model": "m", "spec": spec, "over_qat_se": 0.01}
        return [about | {"over_qat": value} for value in ahead]

    assert qat.qat_leads(Rows(case("int3:channel", 0.1, 0.04) + case("int8:channel", 0.1, -0.1))) == 0.5
    assert qat.qat_leads(Rows(case("int3:channel", 0.1, 0.02))) == 0, "within three standard errors of one"
