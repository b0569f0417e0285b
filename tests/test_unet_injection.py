"""Injection into the UNet changes weights and nothing that is computed: to the bit, or within 1e-9 in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.models import unet, unet_injection
from quantsim.models.unet_injection import SITES, Injection, inject, places_of
from tests.test_unet import CONFIG, IMAGES, PARAMS, TIMES, as_arrays, forward

MIDDLE, UP = "mid_block.attentions.0", "up_blocks.0.upsamplers.0"


def noise(params, dtype):
    found = np.asarray(forward(params, jnp.asarray(IMAGES, dtype), jnp.asarray(TIMES, dtype)))
    assert found.dtype == dtype
    return found


@pytest.fixture(scope="module")
def double():
    with jax.enable_x64(True):
        return noise(as_arrays(jnp.float64), jnp.float64)


@pytest.fixture(scope="module")
def single():
    return noise(as_arrays(), jnp.float32)


@pytest.mark.parametrize("into", ["weights", "activations"])
@pytest.mark.parametrize("site", SITES)
def test_no_factor_moves_the_noise(site, into, double, single):
    for seed, (factor, channels) in enumerate([(1000.0, 1), (1.7, 3), (0.01, 2)]):
        with jax.enable_x64(True):
            injected = Injection(site, factor, channels=channels, seed=seed, into=into)
            spoiled, which = inject(as_arrays(jnp.float64), CONFIG, injected)
            assert np.abs(noise(spoiled, jnp.float64) - double).max() < 1e-9
        assert tuple(which) == places_of(CONFIG, site) != ()
    # a power of two commutes with every rounding
    spoiled, _ = inject(as_arrays(), CONFIG, Injection(site, 64.0, channels=2, into=into))
    np.testing.assert_array_equal(noise(spoiled, jnp.float32), single)


#: What a site writes with (rows, bias), and what it reads with, by the axis of the channels there.
TABLE = {
    "attn_norm": (MIDDLE, {"group_norm": 0, "group_norm.bias": 0}, {"to_q": 1, "to_k": 1, "to_v": 1}),
    "query_key": (MIDDLE, {"to_k": 0, "to_k.bias": 0}, {"to_q": 0, "to_q.bias": 0}),
    "value_output": (MIDDLE, {"to_v": 0, "to_v.bias": 0}, {"to_out": 1}),
    "upsampler": (UP, {"proj": 0, "proj.bias": 0}, {"conv": 1}),
}


@pytest.mark.parametrize("site", SITES)
def test_the_named_channels_have_the_factor_and_others_nothing(site):
    place, writers, readers = TABLE[site]
    injected = Injection(site, 8.0, channels=2, seed=3, places=(place,), into="activations")
    spoiled, which = inject(as_arrays(), CONFIG, injected)
    channels = list(which[place])
    assert (list(which), len(channels)) == ([place], 2)
    expected = {name: np.ones(shape) for name, shape in unet.shapes(CONFIG).items()}
    for names, by in ((writers, 8.0), (readers, 1 / 8)):
        for name, axis in names.items():
            np.moveaxis(expected[f"{place}.{name}"], axis, 0)[channels] = by
    for name, w in spoiled.items():
        np.testing.assert_array_equal(np.asarray(w) / PARAMS[name].astype(np.float32), expected[name], err_msg=name)
    flat = inject(unet.matrices(as_arrays()), CONFIG, injected)[0]
    for name, w in unet.matrices(spoiled).items():
        np.testing.assert_array_equal(flat[name], w, err_msg=name)


def forgotten(site, name):
    """The site without what it does to one array."""
    place = TABLE[site][0]
    found = SITES[site](as_arrays(jnp.float64), place, [1], factor=10.0)
    return found | {f"{place}.{name}": as_arrays(jnp.float64)[f"{place}.{name}"]}


WRONG = [
    ("attn_norm", "group_norm.bias"),
    ("attn_norm", "to_v"),
    ("query_key", "to_q.bias"),
    ("upsampler", "proj.bias"),
]


@pytest.mark.parametrize(("site", "name"), WRONG)
def test_a_wrong_injection_moves_the_noise(site, name, double):
    with jax.enable_x64(True):
        # a thousand times what an exact one may
        assert np.abs(noise(forgotten(site, name), jnp.float64) - double).max() > 1e-6


def test_a_convolution_before_a_norm_is_no_site(double):
    """A whole group of channels, which GroupNorm scales back but for its epsilon, moves the noise all the same."""
    at, group = "down_blocks.0.resnets.0", list(range(CONFIG.channels[0] // CONFIG.groups))
    with jax.enable_x64(True):
        params = as_arrays(jnp.float64)
        for name in ("conv1", "time_emb_proj"):
            params = unet_injection._written(params, f"{at}.{name}", group, 1e3)
        off = np.abs(noise(params, jnp.float64) - double).max()
    assert off > 1e-6


BAD = {
    "site": ({"site": "conv1"}, "no site 'conv1': choose one of attn_norm, query_key"),
    "zero": ({"factor": 0.0}, "above 0 and finite, got 0.0"),
    "channels": ({"channels": 0}, "at least one channel, got 0"),
    "many": ({"channels": 17}, "channels, 17 were asked for"),
    "place": ({"places": (MIDDLE,)}, "upsampler is not at 'mid_block.attentions.0': it is at up_blocks.0.upsamplers.0"),
}


@pytest.mark.parametrize(("by", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_asked_wrongly_is_refused(by, message):
    with pytest.raises(ValueError, match=message):
        inject(as_arrays(), CONFIG, Injection(**{"site": "upsampler", "factor": 2.0} | by))
