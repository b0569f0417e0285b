"""Gemma 3 against a slow float64 forward pass, on a cut-down model with every feature on; theorems of its parts."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from quantsim import tree
from quantsim.models import gemma, gemma_likelihood
from quantsim.models.gemma import forward
from quantsim.models.gemma_config import Config, random_params
from quantsim.models.layers import linear, rotation, turned
from tests import oracle_gemma

# two whole periods of attention and one layer more, a window shorter than the text, groups of two query heads
CONFIG = Config(width=24, layers=7, heads=4, kv_heads=2, head=8, hidden=40, window=8, query_scale=8**-0.5, period=3)
VOCABULARY, TIME = 53, 21
PARAMS = random_params(CONFIG, VOCABULARY, seed=0)
TOKENS = np.random.default_rng(1).integers(0, VOCABULARY, (2, TIME))
HALF_ULP = 2.0**-24


@pytest.fixture(scope="module")
def logits():
    return np.asarray(forward(PARAMS, jnp.asarray(TOKENS), CONFIG))


@pytest.fixture(scope="module")
def expected():
    return np.stack([oracle_gemma.forward(PARAMS, row, CONFIG) for row in TOKENS])


def sensitivity(tokens, size=1e-6, rounds=4):
    """Relative change of the logits in float64 for a relative change of every parameter by ``size``, over ``size``."""
    rng, true = np.random.default_rng(2), oracle_gemma.forward(PARAMS, tokens, CONFIG)
    found = []
    for _ in range(rounds):
        moved = {n: np.float64(a) * (1 + size * rng.uniform(-1, 1, a.shape)) for n, a in PARAMS.items()}
        found.append(np.linalg.norm(oracle_gemma.forward(moved, tokens, CONFIG) - true) / np.linalg.norm(true) / size)
    return max(found)


def test_logits_are_those_of_float64_within_rounding(logits, expected):
    # Backward error: float32 is float64 on parameters that are off by the roundings of what they are multiplied into,
    # at most half an ulp for each addition of a product (40 in the widest sum) and some more around it.
    bound = sensitivity(TOKENS[0]) * (CONFIG.hidden + 20) * HALF_ULP
    for row in range(2):
        assert np.linalg.norm(logits[row] - expected[row]) < bound * np.linalg.norm(expected[row])
    assert bound < 1e-3


CHANGES = {
    "window": {"window": 7},
    "period": {"period": 4},
    "local base": {"local_base": 1.1e4},
    "global base": {"global_base": 1e4},
    "query scale": {"query_scale": 0.25},
    "epsilon": {"epsilon": 1e-3},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_constant_counts(logits, change):
    """So that agreement with the oracle says something of each."""
    other = oracle_gemma.forward(PARAMS, TOKENS[0], replace(CONFIG, **change))
    assert np.linalg.norm(other - logits[0]) > 1e-4 * np.linalg.norm(other)


@pytest.mark.parametrize("name", [n for n in PARAMS if n.startswith("blk.0.") or n == "output_norm"])
def test_every_parameter_counts(expected, name):
    w = np.asarray(PARAMS[name])
    slanted = w * np.linspace(0.9, 1.1, w.shape[-1]).reshape((1,) * (w.ndim - 1) + (-1,))
    moved = oracle_gemma.forward(PARAMS | {name: slanted}, TOKENS[0], CONFIG)
    assert np.linalg.norm(moved - expected[0]) > 1e-4 * np.linalg.norm(moved)


def test_no_token_sees_the_next_and_locals_see_the_window_only(logits):
    local = replace(CONFIG, layers=1)
    params = random_params(local, VOCABULARY, seed=0)
    changed = TOKENS.copy()
    changed[:, 10] = (changed[:, 10] + 1) % VOCABULARY
    before, after = (np.asarray(forward(params, jnp.asarray(t), local)) for t in (TOKENS, changed))
    moved = np.abs(before - after).max(axis=(0, 2)) > 0
    assert moved.tolist() == [10 <= t < 10 + CONFIG.window for t in range(TIME)]


def test_every_linear_layer_is_a_call_of_the_hook(logits):
    called = []

    def counted(name, x, w):
        called.append((name, x.shape[-1], w.shape))
        return linear(name, x, w)

    found = forward(PARAMS, jnp.asarray(TOKENS), CONFIG, product=counted)
    kinds = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up", "attn_output", "ffn_down")
    names = {f"blk.{layer}.{kind}" for layer in range(CONFIG.layers) for kind in kinds} | {"output"}
    assert {name for name, _, _ in called} == names
    assert len(called) == len(names)
    assert all(width == shape[1] for _, width, shape in called)
    # programs of other names, but of the same operations
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4 * np.abs(logits).max())


def test_the_last_product_can_have_weights_of_its_own(logits):
    found = forward(PARAMS | {"output": 2 * PARAMS["token_embd"]}, jnp.asarray(TOKENS), CONFIG)
    np.testing.assert_array_equal(found, 2 * logits)


def test_layers_may_stand_in_the_place_of_matrices():
    """Inputs that are quantized to bfloat16 in one layer: as with the plain product on rounded inputs there."""
    name = "blk.2.ffn_down"
    found = tree.quantize(PARAMS, {name: tree.Treatment(activations="bf16")})

    def rounded(at, x, w):
        return linear(at, x.astype(jnp.bfloat16).astype(x.dtype) if at == name else x, w)

    expected = forward(PARAMS, jnp.asarray(TOKENS), CONFIG, product=rounded)
    logits = forward(found.params, jnp.asarray(TOKENS), CONFIG, product=tree.product)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_layers_of_the_plain_product_share_one_program():
    deeper = replace(CONFIG, layers=9)
    before = gemma._layer._cache_size()
    forward(random_params(deeper, VOCABULARY, seed=1), jnp.asarray(TOKENS), deeper)
    assert gemma._layer._cache_size() <= before + 1


def test_rotations_are_turns():
    table = rotation(TIME, 8, 1e4)
    x = np.random.default_rng(0).standard_normal((1, TIME, 1, 8))
    found = np.asarray(turned(jnp.asarray(x, jnp.float32), jnp.asarray(table, jnp.float32)))
    expected = [oracle_gemma.rotate(x[0, t, 0], t, 1e4) for t in range(TIME)]
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)


BAD = {
    "another name": (
        {name.replace("attn_q", "wq"): a for name, a in PARAMS.items()},
        "14 parameters of Gemma 3 are missing, the first is 'blk.0.attn_q'; there is 'blk.0.wq' instead",
    ),
    "another shape": (
        PARAMS | {"blk.1.ffn_up": PARAMS["blk.1.ffn_up"][:-1]},
        r"'blk.1.ffn_up' has shape \(39, 24\), and the sizes of the model make it \(40, 24\)",
    ),
    "one more": (PARAMS | {"bias": jnp.ones(3)}, "1 parameters are none of Gemma 3, the first is 'bias'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_other_parameters_are_named(bad):
    params, message = bad
    with pytest.raises(ValueError, match=message):
        forward(params, jnp.asarray(TOKENS), CONFIG)


@pytest.mark.parametrize("tokens", [[[0, 53]], [[-1, 2]], [0, 1], [[0.5]], [[]]], ids=str)
def test_other_tokens_are_refused(tokens):
    with pytest.raises((ValueError, TypeCheckError), match="tokens"):
        forward(PARAMS, jnp.asarray(tokens), CONFIG)


# --- likelihoods ----------------------------------------------------------------------------------------------------


def log_softmax(z):
    z = np.float64(z)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def test_likelihoods_of_chunks_are_those_of_all_logits(logits):
    tokens = jnp.asarray(TOKENS)
    log_p = log_softmax(logits[:, :-1])
    expected = -np.take_along_axis(log_p, TOKENS[:, 1:, None], axis=-1)[..., 0]
    for chunk in (7, 128):  # 40 tokens: the last chunk of 7 is filled up
        found = gemma_likelihood.token_nll(PARAMS, tokens, CONFIG, chunk=chunk)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_models_are_compared_token_by_token(logits):
    tokens = jnp.asarray(TOKENS)
    moved = PARAMS | {"blk.3.ffn_up": PARAMS["blk.3.ffn_up"] * 1.5}
    reference, other = (gemma_likelihood.ending(p, tokens, CONFIG) for p in (PARAMS, moved))
    found = gemma_likelihood.compared_endings(reference, other, tokens[:, 1:], chunk=16)
    log_p, log_q = (log_softmax(forward(p, tokens, CONFIG)[:, :-1]) for p in (PARAMS, moved))
    np.testing.assert_allclose(found.kl, (np.exp(log_p) * (log_p - log_q)).sum(-1), rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(found.flips, log_p.argmax(-1) != log_q.argmax(-1))
    np.testing.assert_allclose(
        found.increase, np.take_along_axis(log_p - log_q, TOKENS[:, 1:, None], -1)[..., 0], atol=1e-4
    )
