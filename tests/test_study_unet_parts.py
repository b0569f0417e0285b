"""Parts of the UNet, its skips, its ranges: each matrix in one part, actions where they should be, spectra by ring."""

import jax
import numpy as np
import pytest

from quantsim.lab import study
from quantsim.models import unet as network
from quantsim.models.unet import Config, Hooks, matrices
from quantsim.rows import Rows

unet_parts, unet_skips, unet_timesteps = (study.module(f"unet_{name}") for name in ("parts", "skips", "timesteps"))
unet, parts, skips = unet_parts.unet, unet_parts.parts, unet_skips.skips
RNG = np.random.default_rng(5)
SMALL = Config(channels=(8, 8, 16), attention=(), time=16, groups=4, heads=2)


@pytest.fixture(scope="module")
def of():
    """A small network of random weights."""
    drawn = {
        name: jax.numpy.asarray(RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:])), jax.numpy.float32)
        for name, shape in network.shapes(SMALL).items()
    }
    return unet.Subject("small", matrices(drawn), SMALL, jax.random.normal(jax.random.key(0), (3, 8, 8, 1)))


# --- parts ----------------------------------------------------------------------------------------------------------


def test_every_matrix_belongs_to_one_part():
    found = unet.matrices(unet.subject("unet-s0", 1).params)
    names = [name for part in parts.PARTS for name in parts.names_of(part, found)]
    assert sorted(names) == sorted(found)


def test_leave_one_out_leaves_one_part_out():
    of = unet.subject("unet-s0", 1)
    found = unet.matrices(of.params)
    names = parts.names_of("skip-adjacent", found)
    kept = unet.quantized(of, dict.fromkeys(names) | {"*": "int4:block32"})
    same = [name for name, w in found.items() if np.array_equal(kept.params[name], w)]
    assert same == names
    assert {kept.bits[name] for name in names} == {16}


def test_without_attention_nothing_of_it_is_written():
    params = unet_parts.without_attention(unet.subject("unet-s0", 1).params)
    off = [name for name, w in params.items() if ".to_out" in name]
    assert len(off) == 6
    assert not any(np.asarray(params[name]).any() for name in off)


def test_damage_is_given_back_in_squares():
    assert unet_parts.share_of_damage({"distance": 0.01, "all_distance": 0.02}) == pytest.approx(0.75)


# --- skips ----------------------------------------------------------------------------------------------------------


def directly(of, number, skip):
    """Predicted noise with a hook on the skips, all times in one call."""
    x, t = unet.noisy_images(unet.held_out(number), unet.TIMES)
    found = jax.jit(lambda p: network.forward(p, x, t, of.config, hooks=Hooks(skip=skip)))(of.params)
    return np.asarray(found).reshape(len(unet.TIMES), number, 8, 8, 1)


def gone(name, x):
    return 0 * x if name == "down_blocks.1" else x


def averaged(name, x):
    if name != "down_blocks.0":
        return x
    grouped = x.reshape(len(unet.TIMES), -1, *x.shape[1:])
    means = [np.ones((len(group), 1, 1, 1), np.float32) * group.mean(axis=0, keepdims=True) for group in grouped]
    return jax.numpy.concatenate(means)


@pytest.mark.parametrize(("at", "skip"), [({1: skips.GONE}, gone), ({0: skips.AVERAGED}, averaged)])
def test_an_action_is_done_at_its_level_and_nowhere_else(of, at, skip):
    found = skips.predicted_noise(of, 2, skips.acts(of.config, at))
    # patches and convolutions add up in another order: 1e-5 of numbers near 1
    np.testing.assert_allclose(found, directly(of, 2, skip), atol=2e-5)


def test_features_with_a_scale_each_are_quantized_part_by_part():
    drawn = RNG.normal(size=(4, 6, 9)).astype(np.float32)
    drawn[:, 2:] *= 100
    x = jax.numpy.asarray(drawn)
    each = np.asarray(skips._joined("int8:tensor", skips.EACH, 2, x))
    together = np.asarray(skips._joined("int8:tensor", skips.TOGETHER, 2, x))
    step = np.abs(x[:, :2]).max() / 127
    assert np.abs(each - x)[:, :2].max() <= step / 2 * (1 + 1e-5)
    assert np.abs(together - x)[:, :2].max() > 10 * step
    np.testing.assert_array_equal(each[:, 2:], together[:, 2:])


def test_what_joins_a_skip_has_as_many_channels_as_the_network_says(of):
    acting = skips._Acting(of.config, skips.fusion("int8, one scale"), 1)
    found = {name: acting._deep(name) for name in skips.fused(of.config)}
    assert found["up_blocks.0.resnets.0.conv1"] == 16  # of the middle
    assert found["up_blocks.2.resnets.0.conv_shortcut"] == 8


# --- spectra --------------------------------------------------------------------------------------------------------

CHECKERBOARD = np.indices((8, 8)).sum(axis=0) % 2 * 2.0 - 1
FLAT = np.ones((8, 8))


def field(*parts_of):
    return np.sum(parts_of, axis=0)[None, ..., None] * np.ones((3, 1, 1, 1))


def test_an_error_lies_in_the_ring_of_its_frequency():
    signal = field(2 * FLAT, 4 * CHECKERBOARD, np.cos(np.pi / 2 * np.arange(8)) * FLAT)
    found = unet_skips.by_ring(field(CHECKERBOARD), signal)
    assert [found[ring] for ring in unet_skips.RINGS] == pytest.approx([0.0, 0.0, 0.25], abs=1e-12)


def test_lost_is_what_no_multiple_gives_back():
    signal = RNG.normal(size=(3, 8, 8, 1))
    assert list(unet_skips.lost_by_ring(-7 * signal, signal).values()) == pytest.approx([0.0] * 3, abs=1e-12)
    flat = unet_skips.lost_by_ring(signal + field(100 * FLAT), signal)
    assert flat["lost_low"] > 0.5
    assert flat["lost_high"] == pytest.approx(0.0, abs=1e-12)
    other = unet_skips.lost_by_ring(RNG.normal(size=(500, 8, 8, 1)), RNG.normal(size=(500, 8, 8, 1)))
    assert min(other.values()) > 0.99


# --- ranges, and steps that are kept --------------------------------------------------------------------------------


def test_ratios_of_a_known_array():
    squares = np.ones((3, 4, 2))
    squares[:, :, 1] = 25.0
    assert unet_timesteps.input_ratios(squares) == pytest.approx([5.0, 1.0, 1.0])
    assert unet_timesteps.input_ratios(squares[:, :1])[1] is None
    w = np.ones((2, 3 * 9))
    w[:, 4::9] = 7.0
    found = unet_timesteps.weight_ratios(w, True)
    assert found == pytest.approx({"input channel": 1.0, "output channel": 1.0, "tap": 7.0})


def test_inputs_are_seen_once_by_pixel_and_channel(of):
    x, _ = unet.noisy_images(unet.held_out(2), unet.TIMES)
    found = unet_timesteps.squares_of_inputs(of, 2)
    expected = (np.asarray(x, np.float64).reshape(len(unet.TIMES), 2, 64, 1) ** 2).mean(axis=1)
    np.testing.assert_allclose(found["conv_in"], expected, rtol=1e-5)
    assert found["mid_block.attentions.0.to_q"].shape == (len(unet.TIMES), 4, 16)


def test_keeping_all_steps_would_give_all_back():
    errors = RNG.uniform(0.01, 0.02, size=(len(unet.TIMES), 64))
    assert unet_timesteps.predicted(errors, np.ones(20, bool)) == 1.0
    assert unet_timesteps.predicted(errors, np.zeros(20, bool)) == pytest.approx(0.0)


def test_timing_counts_an_end_that_gives_back_more_than_even_steps():
    def rows(first, last):
        given = {unet_timesteps.FIRST: first, unet_timesteps.LAST: last, unet_timesteps.EVEN: 0.5}
        about = {"kind": "step", "model": "m", "spec": "s"}
        return Rows(about | {"kept": name, "given_back": value} for name, value in given.items())

    assert [unet_timesteps.timing_helps(rows(*ends)) for ends in ((0.6, 0.1), (0.1, 0.6), (0.4, 0.4))] == [1, 1, 0]
