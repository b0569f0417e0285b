"""The language model: against a slow one in float64, and by what RoPE, causality and its names promise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.models import likelihood, llama
from quantsim.models.layers import rope
from quantsim.models.llama import Config
from tests import oracle_llama

CONFIG = Config(vocabulary=29, width=16, layers=2, heads=4, kv_heads=2, hidden=24, context=9, rope_base=100.0)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, CONFIG.vocabulary, (2, CONFIG.context)).astype(np.int32)
#: Of order one in every part, so that nothing is hidden behind a small weight.
PARAMS = {
    name: 1 + 0.3 * RNG.normal(size=shape) if len(shape) == 1 else RNG.normal(size=shape) / np.sqrt(shape[1])
    for name, shape in llama.shapes(CONFIG).items()
}
forward = jax.jit(partial(llama.forward, config=CONFIG))


def as_arrays(dtype):
    return {name: jnp.asarray(w, dtype) for name, w in PARAMS.items()}


@pytest.fixture(scope="module")
def logits():
    return np.asarray(forward(as_arrays(jnp.float32), TOKENS))


def test_logits_are_those_of_a_slow_model(logits):
    with jax.enable_x64(True):
        double = np.asarray(forward(as_arrays(jnp.float64), TOKENS))
    assert (logits.dtype, double.dtype) == (np.float32, np.float64)
    for tokens, single, exact in zip(TOKENS, logits, double, strict=True):
        expected = oracle_llama.logits(PARAMS, tokens, CONFIG)
        np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
        # some hundred roundings of 2^-24 in a row
        np.testing.assert_allclose(single, expected, rtol=0, atol=100 * 2**-24 * np.abs(expected).max())


def test_the_loss_is_that_of_a_slow_model(logits):
    found = np.asarray(jax.jit(likelihood.nll)(jnp.asarray(logits[:, :-1]), jnp.asarray(TOKENS[:, 1:])))
    for tokens, rows, losses in zip(TOKENS, logits.astype(np.float64), found, strict=True):
        np.testing.assert_allclose(losses, oracle_llama.nll(rows[:-1], tokens[1:]), atol=1e-5)


@pytest.mark.parametrize("time", [0, 4, CONFIG.context - 1])
def test_a_token_moves_no_logit_before_it(logits, time):
    other = TOKENS.copy()
    other[:, time] = (other[:, time] + 1) % CONFIG.vocabulary
    found = np.asarray(forward(as_arrays(jnp.float32), other))
    np.testing.assert_array_equal(found[:, :time], logits[:, :time])
    assert (np.abs(found[:, time:] - logits[:, time:]).max(axis=2) > 1e-4).all()


def test_rope_knows_only_distances():
    q, k = RNG.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    turned = [np.asarray(rope(jnp.asarray(np.repeat(a, 12, axis=1)), 50.0))[0, :, 0] for a in (q, k)]
    scores = turned[0] @ turned[1].T
    for distance in range(12):
        along = np.diagonal(scores, -distance)
        np.testing.assert_allclose(along, along[0], atol=1e-5)
    assert np.ptp(scores[:, 0]) > 0.1  # and these do matter
    np.testing.assert_allclose(turned[0][0], q.ravel(), atol=1e-7)


def test_every_linear_layer_goes_through_the_product(logits):
    seen = []

    def watched(name, x, w):
        seen.append((name, x.shape[-1], w.shape))
        return llama.linear(name, x, w)

    jax.eval_shape(partial(llama.forward, config=CONFIG, product=watched), as_arrays(jnp.float32), TOKENS)
    names = [f"blk.{layer}.{name}" for layer in range(CONFIG.layers) for name in llama.MATRICES]
    shapes = llama.shapes(CONFIG)
    assert seen == [(name, shapes[name][1], shapes[name]) for name in [*names, "output"]]


def test_first_weights_have_the_shapes_and_guess_evenly():
    params = llama.init(jax.random.key(0), CONFIG)
    llama.check(params, CONFIG)
    assert {name: w.shape for name, w in params.items()} == llama.shapes(CONFIG)
    # logits of 0.02 sqrt(16) = 0.08 each
    assert oracle_llama.nll(np.asarray(forward(params, TOKENS))[0], TOKENS[0]).mean() == pytest.approx(
        np.log(CONFIG.vocabulary), abs=0.1
    )


def changed(**by):
    return {name: w for name, w in (as_arrays(jnp.float32) | by).items() if w is not None}


BAD = {
    "missing": ({"output": None}, "parameters lack output: a model of 2 layers has them"),
    "many missing": (dict.fromkeys(list(PARAMS)[:6]), "blk.0.attn_k and 2 more"),
    "unknown": ({"blk.2.attn_q": jnp.ones(3)}, "parameters hold blk.2.attn_q, which a model of 2 layers has not"),
    "another shape": ({"output": jnp.ones((16, 29))}, r"output has shape \(16, 29\), the config asks for \(29, 16\)"),
    "no number": ({"output_norm": jnp.full(16, jnp.nan)}, "output_norm holds a NaN or an infinity"),
}


@pytest.mark.parametrize(("by", "message"), BAD.values(), ids=BAD.keys())
def test_other_parameters_are_refused(by, message):
    llama.check(as_arrays(jnp.float32), CONFIG)
    with pytest.raises(ValueError, match=message):
        llama.check(changed(**by), CONFIG)


BAD_SIZES = {
    "heads": ({"heads": 3}, "a width of 16 does not make 3 heads of an even width"),
    "odd": ({"heads": 16}, "a width of 16 does not make 16 heads of an even width"),
    "groups": ({"kv_heads": 3}, "4 heads do not share 3 heads of keys and values evenly"),
    "none": ({"layers": 0, "hidden": -1}, "at least 1, got layers 0, hidden -1"),
}


@pytest.mark.parametrize(("by", "message"), BAD_SIZES.values(), ids=BAD_SIZES.keys())
def test_other_sizes_are_refused(by, message):
    with pytest.raises(ValueError, match=message):
        Config(**{"width": 16, "heads": 4, "kv_heads": 2} | by)
