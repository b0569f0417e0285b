"""Packing of large arrays in parts, by threads: the bytes of one call, one program, results where the weights are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.quantizer.blockformats import parts
from quantsim.quantizer.blockformats.base import _quantize
from quantsim.quantizer.blockformats.gguf import TYPES

SIZE = 2**13  # weights of a part here


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts that make a small array a large one, and perhaps more threads than cores."""
    monkeypatch.setattr(parts, "PART", SIZE)
    monkeypatch.setattr(parts, "cores", lambda: 3)
    parts._program.cache_clear()
    yield
    parts._program.cache_clear()


def weights(rows, columns=512):
    w = np.random.default_rng(rows).standard_t(3, (rows, columns)).astype(np.float32)
    w[rows // 2] *= 1e-6  # below 2^-15, where q3_k's search has another unit
    w[rows // 3] = 0
    return jnp.asarray(w)


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q6_K", "IQ4_NL"])
@pytest.mark.parametrize("rows", [32, 53])
def test_parts_are_the_bytes_of_one_call(name, rows):
    """Two whole parts; three and a ragged one, which overlaps the one before it."""
    w = weights(rows)
    assert parts.is_shared(w)
    expected = _quantize(TYPES[name], w, None).codes
    found = qs.gguf.pack(w, name)
    assert isinstance(found, jax.Array)
    assert (found.shape, found.dtype, found.sharding) == (expected.shape, expected.dtype, expected.sharding)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(TYPES[name].quantize(w[None]).codes[0], expected)


def test_one_program_serves_all_shapes():
    for w in (weights(32), weights(48, 1024)):
        qs.gguf.pack(w, "Q6_K")
    assert parts._program.cache_info().misses == 1


def test_a_nan_poisons_its_block_and_no_other():
    w = weights(32).at[20, 100].set(jnp.nan)
    found = np.asarray(TYPES["Q3_K"].quantize(w, nonfinite="propagate").dequantize())
    assert np.isnan(found[20, :256]).all()
    assert np.isnan(found).sum() == 256


def test_what_is_traced_sharded_or_small_is_one_call():
    w = weights(32)
    expected = np.asarray(qs.gguf.pack(w, "Q6_K"))
    np.testing.assert_array_equal(jax.jit(lambda w: qs.gguf.pack(w, "Q6_K"))(w), expected)
    np.testing.assert_array_equal(jax.vmap(lambda w: qs.gguf.pack(w, "Q6_K"))(w[None])[0], expected)
    assert not parts.is_shared(w[:31])
    mesh = jax.make_mesh((len(jax.devices()),), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(w, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows")))
    assert not parts.is_shared(spread)
    found = qs.gguf.pack(spread, "Q6_K")
    assert len(found.sharding.device_set) == len(jax.devices())
    np.testing.assert_array_equal(found, expected)


def test_results_are_where_the_weights_are():
    there = jax.devices()[-1]
    found = qs.gguf.pack(jax.device_put(weights(32), there), "Q6_K")
    assert found.devices() == {there}
    assert found.committed
    assert not qs.gguf.pack(weights(32), "Q6_K").committed


def test_what_is_not_searched_is_one_call():
    """To copy its blocks and bytes takes longer than the rest."""
    qs.gguf.pack(weights(32), "Q8_0")
    assert parts._program.cache_info().misses == 0
