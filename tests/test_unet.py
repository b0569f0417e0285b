"""The diffusion UNet: against a slow one in float64, convolutions against products of patches, and its hooks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim import tree
from quantsim.models import unet
from quantsim.models.layers import linear
from quantsim.models.unet import Config, Hooks
from quantsim.tree import Treatment
from tests import oracle_unet

#: Every feature: a level that attends and one that does not, shortcuts and none, a convolution of few pixels.
CONFIG = Config(size=4, image=2, channels=(8, 16), attention=(1,), time=12, groups=4, heads=2)
RNG = np.random.default_rng(0)
IMAGES, TIMES = RNG.normal(size=(3, 4, 4, 2)), np.array([0.0, 0.31, 0.97])


def of_order_one(name, shape):
    """So that nothing is hidden behind a small weight."""
    if len(shape) > 1:
        return RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return 0.3 * RNG.normal(size=shape) + (not name.endswith(".bias"))


PARAMS = {name: of_order_one(name, shape) for name, shape in unet.shapes(CONFIG).items()}
forward = jax.jit(partial(unet.forward, config=CONFIG), static_argnames="hooks")


def as_arrays(dtype=jnp.float32, params=PARAMS):
    return {name: jnp.asarray(w, dtype) for name, w in params.items()}


def expected(**options):
    return np.stack([oracle_unet.noise(PARAMS, x, t, CONFIG, **options) for x, t in zip(IMAGES, TIMES, strict=True)])


@pytest.fixture(scope="module")
def single():
    return np.asarray(forward(as_arrays(), jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TIMES, jnp.float32)))


def halved(name, h):
    """What a study of skips does: one of them at half its size, the lowest left out."""
    return {"down_blocks.0": 0.5, "down_blocks.1": 0.0}.get(name, 1.0) * h


#: Some hundred roundings of 2^-24 in a row, and angles of up to 1000 that are rounded to float32.
SINGLE = 200 * 2**-24


def test_the_noise_is_that_of_a_slow_network(single):
    slow = expected()
    with jax.enable_x64(True):
        double = np.asarray(forward(as_arrays(jnp.float64), jnp.asarray(IMAGES), jnp.asarray(TIMES)))
        ablated = np.asarray(
            forward(as_arrays(jnp.float64), jnp.asarray(IMAGES), jnp.asarray(TIMES), hooks=Hooks(skip=halved))
        )
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    most = np.abs(slow).max()
    np.testing.assert_allclose(double, slow, rtol=0, atol=1e-13 * most)
    np.testing.assert_allclose(single, slow, rtol=0, atol=SINGLE * most)
    np.testing.assert_allclose(ablated, expected(skip=halved), rtol=0, atol=1e-13 * most)
    assert np.abs(ablated - slow).max() > 0.1 * most


def test_one_time_is_that_of_every_image(single):
    x = jnp.asarray(IMAGES, jnp.float32)
    one = forward(as_arrays(), x, jnp.float32(0.31))
    np.testing.assert_allclose(one[1], single[1], rtol=0, atol=SINGLE * np.abs(single).max())
    assert np.abs(one[0] - single[0]).max() > 0.1


def test_products_of_patches_are_the_convolutions(single):
    """Kernels and matrices, convolved and unfolded: the order of a patch is that of a reshaped kernel."""
    x, t = jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TIMES, jnp.float32)
    flat = unet.matrices(as_arrays())
    assert {w.ndim for w in flat.values()} == {1, 2}
    for found in (forward(flat, x, t), forward(flat, x, t, hooks=Hooks(unfolded=True))):
        np.testing.assert_allclose(found, single, rtol=0, atol=SINGLE * np.abs(single).max())


def test_every_weight_goes_through_the_product():
    seen = {}

    def watched(name, x, w):
        seen[name] = (x.shape, w.shape)
        return linear(name, x, w)

    x, t = jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TIMES, jnp.float32)
    jax.eval_shape(partial(unet.forward, config=CONFIG, hooks=Hooks(watched, unfolded=True)), as_arrays(), x, t)
    weights = {name: w for name, w in unet.matrices(as_arrays()).items() if w.ndim == 2}
    assert {name: shape for name, (_, shape) in seen.items()} == {name: w.shape for name, w in weights.items()}
    assert seen["down_blocks.0.resnets.0.conv1"][0] == (3, 4, 4, 72)
    assert seen["down_blocks.0.downsamplers.0.conv"][0] == (3, 2, 2, 72)
    assert seen["up_blocks.0.resnets.0.conv_shortcut"][0] == (3, 2, 2, 32)
    assert seen["mid_block.attentions.0.to_q"][0] == (3, 2, 2, 16)


def test_quantized_weights_are_what_the_network_computes_with():
    quantized = tree.quantize(unet.matrices(as_arrays()), "int4:channel").params
    kernels = {name: np.asarray(w, np.float64).reshape(PARAMS[name].shape) for name, w in quantized.items()}
    slow = oracle_unet.noise(kernels, IMAGES[1], TIMES[1], CONFIG)
    found = forward(quantized, jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TIMES, jnp.float32))
    np.testing.assert_allclose(found[1], slow, rtol=0, atol=SINGLE * np.abs(slow).max())


def test_quantized_inputs_of_a_convolution_are_its_patches():
    """int8 with a scale for each patch, and a static scale in another layer, against NumPy."""
    x, t = jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TIMES, jnp.float32)
    flat = unet.matrices(as_arrays())

    def observed(params, product):
        return unet.forward(params, x, t, CONFIG, hooks=Hooks(product, unfolded=True))

    inputs = tree.site_inputs(observed, flat)
    read = np.asarray(inputs["conv_in"], np.float64)
    assert read.shape == (3 * 16, 18)
    rules = {"conv_in": Treatment(None, "int8:channel"), "mid*.conv1": Treatment(None, "int8:tensor", static=True)}
    quantized = tree.quantize(flat, rules, inputs=inputs).params
    scale = np.abs(read).max(axis=1, keepdims=True) / 127
    rounded = (np.round(read / scale) * scale @ np.asarray(flat["conv_in"], np.float64).T).reshape(3, 4, 4, 8)

    def instead(name, x, w):
        return jnp.asarray(rounded, jnp.float32) if name == "conv_in" else tree.product(name, x, w)

    found, expected = (forward(quantized, x, t, hooks=Hooks(product)) for product in (tree.product, instead))
    np.testing.assert_allclose(found, expected, rtol=0, atol=SINGLE * np.abs(expected).max())


def test_first_weights_have_the_shapes_and_predict_nothing():
    params = unet.init(jax.random.key(0), CONFIG)
    unet.check(params, CONFIG)
    unet.check(unet.matrices(params), CONFIG)
    assert {name: w.shape for name, w in params.items()} == unet.shapes(CONFIG)
    x = jnp.asarray(IMAGES, jnp.float32)
    assert not np.any(forward(params, x, jnp.float32(0.5)))
    drawn = np.asarray(params["up_blocks.0.resnets.0.conv1"], np.float64)
    # 4 standard errors of a standard deviation of so many numbers
    assert drawn.std() * np.sqrt(9 * 32) == pytest.approx(1.0, abs=4 / np.sqrt(2 * drawn.size))


def changed(**by):
    return {name: w for name, w in (as_arrays() | by).items() if w is not None}


BAD = {
    "missing": ({"conv_out": None}, "parameters lack conv_out: a UNet of 2 levels has them"),
    "many missing": (dict.fromkeys(list(PARAMS)[:6]), r"conv_in, conv_in\.bias, .* and 2 more"),
    "unknown": ({"blk.2.attn_q": jnp.ones(3)}, "parameters hold blk.2.attn_q, which this UNet of 2 levels has not"),
    "another shape": ({"conv_in": jnp.ones((8, 2, 5, 5))}, r"conv_in has shape \(8, 2, 5, 5\), the config asks for"),
    "no number": ({"conv_norm_out": jnp.full(8, jnp.nan)}, "conv_norm_out holds a NaN or an infinity"),
}


@pytest.mark.parametrize(("by", "message"), BAD.values(), ids=BAD.keys())
def test_other_parameters_are_refused(by, message):
    with pytest.raises(ValueError, match=message):
        unet.check(changed(**by), CONFIG)


BAD_SIZES = {
    "none": ({"time": 0, "heads": -1}, "at least 1, got time 0, heads -1"),
    "no level": ({"channels": (), "attention": ()}, "at least one level"),
    "a level of nothing": ({"channels": (32, 0)}, "channels of level 1 0"),
    "size": ({"size": 6}, "images of 6 pixels a side cannot be halved 2 times"),
    "groups": ({"channels": (32, 36, 64)}, "36 channels do not make 8 groups and 4 heads evenly"),
    "odd": ({"channels": (3, 3), "groups": 3, "heads": 1}, "sines and cosines of the time fill an even width, not 3"),
    "attention": ({"attention": (1, 3)}, "no level 3 to attend: levels are 0 to 2"),
}


@pytest.mark.parametrize(("by", "message"), BAD_SIZES.values(), ids=BAD_SIZES.keys())
def test_other_sizes_are_refused(by, message):
    with pytest.raises(ValueError, match=message):
        Config(**by)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match=r"images \(3, 8, 8, 1\) are not what this UNet takes: give them as"):
        unet.forward(as_arrays(), jnp.ones((3, 8, 8, 1)), jnp.float32(0.5), CONFIG)
    with pytest.raises(ValueError, match="parameters lack conv_in and perhaps others"):
        unet.forward(changed(conv_in=None), jnp.asarray(IMAGES, jnp.float32), jnp.float32(0.5), CONFIG)
