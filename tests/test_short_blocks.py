"""Blocks that an axis cuts short: a warning that counts, and blocks along flattened axes instead."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim import formats
from quantsim.calibration import Clip
from quantsim.granularity import Block
from tests import oracles


@pytest.mark.parametrize(
    ("spec", "shape", "each", "bits", "better", "fewer"),
    [
        ("nf4:block64", (64, 64, 3), "3", "14.67", "nf4:block64@1-", "4.50"),
        ("int4:block32", (8, 16, 3, 3), "3", "14.67", "int4:block32@1-", "5.11"),
        ("int8:block128", (512, 2), "2", "24.00", "int8:block128@0-", "8.25"),
        ("int4:block32:absmax:f16", (64, 1), "1", "20.00", "int4:block32@0-:absmax:f16", "4.50"),
        ("int4:block32@1", (64, 4, 3), "4", "12.00", "int4:block32@0-", "5.00"),
        ("int8:channel", (48,), "1", "40.00", "int8:tensor", "8.67"),
    ],
)
def test_short_blocks_warn_with_what_they_cost_and_what_to_say(spec, shape, each, bits, better, fewer):
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    message = (
        f"{spec} keeps a scale for every {each} weights of an array of shape {shape}, {bits} bits a weight: "
        f"{better} takes {fewer}"
    )
    q = qs.parse(spec)
    for use in (q.quantize, q.roundtrip, q.clipped):
        with pytest.warns(UserWarning, match="keeps a scale") as caught:
            use(w)
        assert [str(warning.message) for warning in caught] == [message]
        assert caught[0].filename == __file__
    assert float(bits) == round(q.bits_per_weight(shape), 2)
    assert float(fewer) == round(qs.parse(better).bits_per_weight(shape), 2)
    qs.parse(better).roundtrip(w)  # and that does not warn


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        *(("int8:block32", ()), ("int8:block32", (1,)), ("int8:block32", (7,)), ("int8:block32", (4, 4))),
        *(("int4:block32", (64, 80)), ("int4:block32", (64, 33)), ("int2:block1", (64, 64)), ("int8:channel", (1,))),
        *(("int8:channel", (64, 9)), ("int8:tensor", (64,)), ("e4m3", (64, 1)), ("int8:block32", (0, 3))),
        *(("int8:block32@0", (64, 3)), ("nf4:block64@1-", (64, 64, 3, 3)), ("nf4:block64@0-", (64, 1))),
    ],
)
def test_what_costs_little_more_does_not_warn(spec, shape):
    qs.parse(spec).roundtrip(np.ones(shape, np.float32))  # a warning is an error here


def test_a_place_in_a_program_warns_once():
    q, w = qs.parse("int8:block32"), np.ones((64, 1), np.float32)
    with pytest.warns(UserWarning, match="40.00 bits a weight"):
        q.roundtrip(w)  # compiling, JAX makes Python forget what has been shown
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            q.roundtrip(w)
    assert len(caught) == 1


@pytest.mark.filterwarnings("ignore:.*keeps a scale")
def test_a_clip_ratio_may_be_traced_where_blocks_are_short():
    """Nothing is known of a traced ratio that a warning could quote."""
    w = np.random.default_rng(2).standard_normal((64, 3)).astype(np.float32)
    ratios = [0.5, 0.8, 1.0]

    def clipped(ratio):
        return qs.Quantizer(formats.parse("int4"), Block(32), Clip(ratio)).roundtrip(w)

    mapped = jax.vmap(clipped)(jnp.float32(ratios))
    for ratio, found in zip(ratios, mapped, strict=True):
        expected = qs.parse(f"int4:block32:clip{ratio}").roundtrip(w)
        oracles.same_bits(found, expected)
        oracles.same_bits(jax.jit(clipped)(ratio), expected)


@pytest.mark.parametrize(("spec", "flat"), [("nf4:block64@1-", (8, 150)), ("int4:block32@0-", (1200,))])
def test_flattened_axes_are_blocked_as_one(spec, flat):
    """As bitsandbytes does with the whole array, and as the inputs of a convolution are summed over."""
    w = np.random.default_rng(1).standard_normal((8, 50, 3)).astype(np.float32)
    plain = qs.parse(spec.partition("@")[0])
    got, expected = qs.parse(spec).quantize(w), plain.quantize(w.reshape(flat))
    np.testing.assert_array_equal(got.codes, np.asarray(expected.codes).reshape(w.shape))
    np.testing.assert_array_equal(got.scale, expected.scale)
    assert got.nbytes == expected.nbytes
    for found in (got.dequantize(), qs.parse(spec).roundtrip(w)):
        oracles.same_bits(found, np.asarray(plain.roundtrip(w.reshape(flat))).reshape(w.shape))
    assert qs.weight_error(w, qs.parse(spec)).mse == qs.error_stats(w, qs.parse(spec).roundtrip(w)).mse
