"""A batch of quantized arrays, as vmap, scan and stacking make it: decoded and counted as its arrays, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from tests import oracles

SPECS = [
    *("e4m3", "int8:tensor", "int8:channel", "int8:channel@-1", "int4:block4", "int4:block32@0", "int4:block3@-2"),
    *("int4:block5@0-", "int4:channel:minmax", "nf4:tensor:absmax:f16", "mxfp4", "nvfp4", "nvfp4:single", "q8_0"),
]
W = np.random.default_rng(3).standard_normal((4, 4, 32)).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_is_decoded_and_counted_as_its_arrays_are(spec):
    q = qs.parse(spec)
    each = [q.quantize(w) for w in W]
    expected = np.stack([one.dequantize() for one in each])
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
    for batch in (jax.vmap(q.quantize)(W), stacked):
        oracles.same_bits(batch.dequantize(), expected)
        assert batch.shape == W.shape
        assert batch.nbytes == sum(one.nbytes for one in each)
        one = jax.tree.map(lambda part: part[2], batch)
        oracles.same_bits(one.dequantize(), expected[2])
        assert one.nbytes == each[2].nbytes


def test_batches_of_batches_and_scans():
    q, w = qs.parse("int8:channel"), W.reshape(2, 2, 4, 32)
    twice = jax.vmap(jax.vmap(q.quantize))(w)
    oracles.same_bits(twice.dequantize(), jax.vmap(jax.vmap(q.roundtrip))(w))
    assert twice.nbytes == 4 * q.quantize(W[0]).nbytes
    scanned = jax.lax.scan(lambda carry, w: (carry, q.quantize(w)), 0, W)[1]
    oracles.same_bits(scanned.dequantize(), jax.vmap(q.roundtrip)(W))
    within = jax.jit(jax.vmap(lambda w: q.quantize(w).dequantize()))(W)
    oracles.same_bits(within, jax.vmap(q.roundtrip)(W))


@pytest.mark.parametrize("spec", ["int8:channel@1", "int4:block32@0", "int4:block5@0-"])
def test_a_batch_that_does_not_stand_in_front_is_refused(spec):
    batch = jax.vmap(qs.parse(spec).quantize, out_axes=1)(W[:3])
    with pytest.raises(ValueError, match=r"no batch of \(4,\) arrays \(3, 32\) of .*under vmap"):
        batch.dequantize()


@pytest.mark.parametrize("spec", ["int8:channel", "int4:block8", "mxfp4"])
def test_where_scales_follow_their_rows_the_batch_may_stand_behind_them(spec):
    q = qs.parse(spec)
    batch = jax.vmap(q.quantize, out_axes=1)(W[:3])
    oracles.same_bits(batch.dequantize(), jax.vmap(q.roundtrip, out_axes=1)(W[:3]))


def test_a_part_of_an_array_is_no_array():
    part = jax.tree.map(lambda a: a[0], qs.parse("int8:block4").quantize(W[0]))
    for use in (part.dequantize, lambda: part.nbytes):
        with pytest.raises(ValueError, match=r"codes of shape \(32,\) are a part of an array of 2 axes"):
            use()
