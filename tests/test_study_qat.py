"""The training of the study of QAT: which weights are quantized, what their gradient is, and the rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.lab import study
from quantsim.quantizer import parse

qat = study.module("qat")
SPECS = ("int8:channel", "int3:channel")


@pytest.fixture(scope="module")
def params():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"token_embd": (6, 8), "blk.0.attn_q": (8, 8), "blk.0.attn_norm": (8,)}
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


@pytest.mark.parametrize("which", [0, 1, 2])
def test_matrices_of_layers_go_through_their_quantizer(params, which):
    found = qat.rounded(params, jnp.int32(which), SPECS)
    wanted = params["blk.0.attn_q"]
    if which:
        wanted = parse(SPECS[which - 1]).quantize(wanted).dequantize()
    assert np.array_equal(found["blk.0.attn_q"], wanted)
    for name in ("token_embd", "blk.0.attn_norm"):
        assert np.array_equal(found[name], params[name])


def test_the_gradient_is_that_at_the_quantized_weights(params):
    def loss(p):
        return jnp.sum(jnp.sin(3 * p["blk.0.attn_q"]) * p["blk.0.attn_norm"][None])

    through = jax.grad(lambda p: loss(qat.rounded(p, jnp.int32(2), SPECS)))(params)
    w_hat = np.asarray(parse("int3:channel").roundtrip(params["blk.0.attn_q"]), np.float64)
    by_hand = 3 * np.cos(3 * w_hat) * np.asarray(params["blk.0.attn_norm"], np.float64)
    np.testing.assert_allclose(through["blk.0.attn_q"], by_hand, rtol=1e-4, atol=1e-5)
