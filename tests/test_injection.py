"""Injection changes weights and nothing that is computed: to the bit for powers of two, within 1e-9 in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.models import injection, llama
from quantsim.models.injection import SITES, Injection, inject
from quantsim.models.llama import Config

CONFIG = Config(vocabulary=29, width=24, layers=2, heads=6, kv_heads=2, hidden=40, context=8)
RNG = np.random.default_rng(1)
TOKENS = RNG.integers(0, CONFIG.vocabulary, (2, CONFIG.context)).astype(np.int32)
PARAMS = {
    name: 1 + 0.3 * RNG.normal(size=shape) if len(shape) == 1 else RNG.normal(size=shape) / np.sqrt(shape[1])
    for name, shape in llama.shapes(CONFIG).items()
}
forward = jax.jit(partial(llama.forward, config=CONFIG))
#: What a site writes with, what it reads with, and the axis of the channels there.
WRITERS = {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm", "query_key": "attn_k", "value_output": "attn_v"}
READERS = {
    "attn_norm": (1, "attn_q", "attn_k", "attn_v"),
    "ffn_norm": (1, "ffn_gate", "ffn_up"),
    "query_key": (0, "attn_q"),
    "value_output": (1, "attn_output"),
    "up_down": (1, "ffn_down"),
}


def as_arrays(dtype):
    return {name: jnp.asarray(w, dtype) for name, w in PARAMS.items()}


@pytest.fixture(scope="module")
def single():
    return np.asarray(forward(as_arrays(jnp.float32), TOKENS))


@pytest.fixture(scope="module")
def double():
    with jax.enable_x64(True):
        return np.asarray(forward(as_arrays(jnp.float64), TOKENS))


def moved(params, double):
    """Largest change of a logit; called where 64-bit types are on."""
    found = np.asarray(forward(params, TOKENS))
    assert found.dtype == np.float64
    return np.abs(found - double).max()


@pytest.mark.parametrize("into", ["weights", "activations"])
@pytest.mark.parametrize("site", SITES)
def test_no_factor_moves_the_logits(site, into, double, single):
    for seed, (factor, channels) in enumerate([(1000.0, 1), (1.7, 3), (0.01, 2)]):
        with jax.enable_x64(True):
            spoiled, _ = inject(
                as_arrays(jnp.float64), CONFIG, Injection(site, factor, channels=channels, seed=seed, into=into)
            )
            assert moved(spoiled, double) < 1e-9
    # a power of two commutes with every rounding
    spoiled, _ = inject(as_arrays(jnp.float32), CONFIG, Injection(site, 64.0, channels=2, into=into))
    np.testing.assert_array_equal(np.asarray(forward(spoiled, TOKENS)), single)


@pytest.mark.parametrize("into", ["weights", "activations"])
@pytest.mark.parametrize("site", SITES)
def test_the_named_channels_have_the_factor_and_others_nothing(site, into):
    injected = Injection(site, 8.0, channels=2, seed=3, layers=(1,), into=into)
    spoiled, which = inject(as_arrays(jnp.float32), CONFIG, injected)
    (channels,) = which.values()
    assert list(which) == [1]
    assert len(channels) == (4 if site == "query_key" else 2)
    up = 8.0 if into == "activations" else 1 / 8
    writer = f"blk.1.{WRITERS.get(site, 'ffn_up')}"
    axis, *readers = READERS[site]
    expected = {name: np.ones(shape) for name, shape in llama.shapes(CONFIG).items()}
    expected[writer][list(channels)] = up
    for name in readers:
        columns = np.moveaxis(expected[f"blk.1.{name}"], axis, 0)
        for channel in channels:
            # 6 heads of 4 over 2 of keys and values: head h of the queries reads head h // 3
            head, inside = divmod(channel, 4)
            grouped = site in ("query_key", "value_output")
            columns[[(3 * head + i) * 4 + inside for i in range(3)] if grouped else [channel]] = 1 / up
    for name, w in spoiled.items():
        np.testing.assert_array_equal(np.asarray(w) / PARAMS[name].astype(np.float32), expected[name], err_msg=name)


def half_a_pair(params):
    return injection.query_key(params, CONFIG, 0, [1], factor=10.0)


def pairs_of_neighbours(params):
    return injection.query_key(params, CONFIG, 0, [0, 1], factor=10.0)


def one_head_of_a_group(params):
    found = injection.value_output(params, CONFIG, 0, [1], factor=10.0)
    name = "blk.0.attn_output"
    return found | {name: jnp.concatenate([found[name][:, :4], params[name][:, 4:]], axis=1)}


def gate_for_up(params):
    found = injection.up_down(params, CONFIG, 0, [1], factor=10.0)
    gate, up = "blk.0.ffn_gate", "blk.0.ffn_up"
    return found | {up: params[up], gate: params[gate] / params[up] * found[up]}


def one_reader_forgotten(params):
    return injection.attn_norm(params, CONFIG, 0, [1], factor=10.0) | {"blk.0.attn_v": params["blk.0.attn_v"]}


@pytest.mark.parametrize(
    "wrong", [half_a_pair, pairs_of_neighbours, one_head_of_a_group, gate_for_up, one_reader_forgotten]
)
def test_a_wrong_injection_moves_them(wrong, double):
    with jax.enable_x64(True):
        assert moved(wrong(as_arrays(jnp.float64)), double) > 1e-3


def test_channels_are_drawn_by_seed_and_layer():
    def drawn(seed):
        return inject(as_arrays(jnp.float32), CONFIG, Injection("up_down", 2.0, channels=7, seed=seed))[1]

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0)[0] != drawn(0)[1]
    assert all(len(set(channels)) == 7 for channels in drawn(0).values())
    everything = inject(as_arrays(jnp.float32), CONFIG, Injection("query_key", 2.0, channels=4))[1]
    assert everything[0] == tuple(range(8))


BAD = {
    "site": ({"site": "attn_q"}, "no site 'attn_q': choose one of attn_norm, ffn_norm"),
    "zero": ({"factor": 0.0}, "above 0 and finite, got 0.0"),
    "infinity": ({"factor": np.inf}, "above 0 and finite, got inf"),
    "channels": ({"channels": 0}, "at least one channel, got 0"),
    "many": ({"channels": 41}, "up_down has 40 channels or pairs, 41 were asked for"),
    "layer": ({"layers": (0, 2)}, "the model has no layer 2: its layers are 0 to 1"),
}


@pytest.mark.parametrize(("by", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_asked_wrongly_is_refused(by, message):
    with pytest.raises(ValueError, match=message):
        inject(as_arrays(jnp.float32), CONFIG, Injection(**{"site": "up_down", "factor": 2.0} | by))
