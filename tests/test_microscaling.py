"""OCP MX and NVFP4 against the specifications, written out in NumPy, with ml_dtypes as the judge of every code."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec
from scipy.stats import norm

import quantsim as qs
from quantsim.quantizer.blockformats.microscaling import ALIASES, MICROSCALING
from tests import oracles
from tests.oracle_mx import ELEMENTS, blocks, mx, nvfp4

SPECS = {str(q): q for q in MICROSCALING}
MX = [text for text in SPECS if text.startswith("mx")]


def check_codes(q, w, codes, scale):
    qw = q.quantize(w)
    np.testing.assert_array_equal(qw.scale, scale.reshape(np.shape(qw.scale)), strict=True)
    np.testing.assert_array_equal(qw.codes, codes, strict=True)
    return qw


def check(q, w, codes, scale, weights) -> None:
    """Codes, scales and weights to the bit, and the round trip without codes."""
    oracles.same_bits(check_codes(q, w, codes, scale).dequantize(), weights)
    oracles.same_bits(q.roundtrip(w), weights)


@pytest.mark.parametrize("text", MX)
def test_mx_codes_are_the_specification_to_the_bit(text):
    check_codes(SPECS[text], blocks(32), *mx(blocks(32), text)[:2])


@pytest.mark.parametrize(
    "text", ["mxfp4", "mxfp6_e2m3:ceil", "mxfp6_e3m2:even", "mxfp8_e4m3:rceil", "mxfp8_e5m2", "mxint8"]
)
def test_mx_is_the_specification_to_the_bit(text):
    expected = mx(blocks(32), text)
    assert np.isfinite(expected[2]).all()
    check(SPECS[text], blocks(32), *expected)


@pytest.mark.slow
@pytest.mark.parametrize("text", MX)
def test_mx_is_the_specification_to_the_bit_for_every_format(text):
    check(SPECS[text], blocks(32), *mx(blocks(32), text))


def test_inputs_reach_every_code_and_every_end_of_the_scales():
    codes, scale, _ = mx(blocks(32), "mxfp6_e3m2")
    assert set(codes.ravel()) == set(range(64))
    assert {0, 1, 2, 7, 250} <= set(scale.tolist())
    assert len({tuple(mx(blocks(32), f"mxfp4:{rule}")[1]) for rule in ("floor", "ceil", "even", "rceil")}) == 4


@pytest.mark.parametrize("two_level", [True, False])
def test_nvfp4_is_the_recipe_to_the_bit(two_level):
    q = SPECS["nvfp4" if two_level else "nvfp4:single"]
    every = blocks(16)
    # the first holds the largest float32; the others are tensors of one magnitude
    for w in (every, np.ldexp(every[:24], -100), np.ldexp(every[:24], -112), np.ldexp(every[:24], 100), every[:24] / 7):
        w = np.resize(w, every.shape).astype(np.float32)
        codes, scale, tensor, weights = nvfp4(w, two_level)
        assert np.isfinite(weights).all()
        check(q, w, codes, scale, weights)
        found = q.quantize(w).tensor_scale
        assert found is None if not two_level else found == tensor


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", MX)
def test_powers_of_two_move_only_the_scale(text):
    w = blocks(32)[:100]
    w = np.resize(np.where(np.abs(w) < 2.0**-9, 0, w), blocks(32).shape).astype(np.float32)
    once = SPECS[text].quantize(w)
    zero = (w == 0).all(axis=-1)[:, None]
    for k in (-80, 60):
        scaled = SPECS[text].quantize(np.ldexp(w, k))
        np.testing.assert_array_equal(scaled.codes, once.codes)
        np.testing.assert_array_equal(scaled.scale, np.where(zero, 0, np.asarray(once.scale).astype(int) + k))
        oracles.same_bits(scaled.dequantize(), np.ldexp(np.asarray(once.dequantize()), k))


def test_rules_clip_as_they_claim():
    """Only floor and even clip; ceil and rceil never do, and rceil has the smallest scale that does not."""
    w = blocks(32)[:-1]
    clipped = {text: np.asarray(SPECS[text].clipped(w)) for text in ("mxfp4", "mxfp4:ceil", "mxfp4:rceil")}
    x = np.abs(w) / 2.0 ** (mx(w, "mxfp4")[1].astype(float) - 127)[:, None]
    np.testing.assert_array_equal(clipped["mxfp4"], x > 7)  # half a step beyond 6
    assert clipped["mxfp4"].any()
    assert not clipped["mxfp4:ceil"].any()
    assert not clipped["mxfp4:rceil"].any()


@pytest.mark.parametrize("text", ["mxfp8_e5m2", "mxint8", "nvfp4"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_what_is_not_finite_stays_in_its_block(text, bad):
    q = SPECS[text]
    w = np.resize(blocks(q.size)[:124], blocks(q.size).shape)  # without the largest
    w[7, 3] = bad
    without = np.where(np.arange(len(w))[:, None] == 7, 0, w)
    with pytest.raises(ValueError, match=r"index \(7, 3\)"):
        q.quantize(w)
    got, expected = q.quantize(w, nonfinite="propagate"), q.quantize(without)
    nan = np.uint8(127 if text.startswith("nvfp4") else 255)
    kind = ml_dtypes.float8_e4m3fn if text.startswith("nvfp4") else ml_dtypes.float8_e8m0fnu
    assert np.isnan(nan.view(kind).astype(np.float32))
    np.testing.assert_array_equal(got.scale, np.where(np.arange(len(w))[:, None] == 7, nan, expected.scale))
    np.testing.assert_array_equal(got.codes, expected.codes)
    assert got.tensor_scale == expected.tensor_scale
    for w_hat in (got.dequantize(), q.roundtrip(w, nonfinite="propagate")):
        oracles.same_bits(w_hat, np.where(np.arange(len(w))[:, None] == 7, np.nan, expected.dequantize()))


@pytest.mark.parametrize("text", ["mxfp4", "nvfp4"])
def test_shapes(text):
    """A tail is a block of its own; single numbers, vectors, and arrays of any rank or none have a result."""
    q = SPECS[text]
    size, w = q.size, blocks(32)[:6, :24].reshape(2, 3, 24)
    qw = q.quantize(w)
    assert qw.scale.shape == (2, 3, -(-24 // size))
    padded = np.pad(w, [(0, 0), (0, 0), (0, -24 % size)]).reshape(-1, size)
    codes, scale = mx(padded, text)[:2] if text == "mxfp4" else nvfp4(padded, True)[:2]
    np.testing.assert_array_equal(qw.codes, codes.reshape(2, 3, -1)[..., :24])
    np.testing.assert_array_equal(qw.scale, scale.reshape(qw.scale.shape))
    for shape, scales in [((), ()), ((3,), (1,)), ((0,), (0,)), ((4, 0), (4, 0)), ((0, 64), (0, 64 // size))]:
        one = jax.eval_shape(q.quantize, jax.ShapeDtypeStruct(shape, jnp.float32))
        assert (one.codes.shape, one.scale.shape) == (shape, scales)
        assert jax.eval_shape(q.roundtrip, jax.ShapeDtypeStruct(shape, jnp.float32)).shape == shape
    for shape in [(), (4, 0)]:
        oracles.same_bits(q.quantize(np.full(shape, 6.0, np.float32)).dequantize(), np.full(shape, 6.0))


@pytest.mark.parametrize(
    ("text", "shape", "nbytes"),
    [
        ("mxfp4", (3, 80), 120 + 9),
        ("mxfp6_e2m3:ceil", (3, 80), 180 + 9),
        ("mxfp6_e3m2", (7,), 6 + 1),  # 42 bits
        ("mxfp8_e5m2:rceil", (2, 33), 66 + 4),
        ("mxint8:even", (64, 64), 4096 + 128),
        ("nvfp4", (3, 80), 120 + 15 + 4),
        ("nvfp4:single", (3, 80), 120 + 15),
        ("nvfp4:single", (), 1 + 1),
    ],
)
def test_bytes(text, shape, nbytes):
    q = SPECS[text]
    assert q.bits_per_weight(shape) == 8 * nbytes / max(np.prod(shape), 1)
    qw = jax.eval_shape(q.quantize, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert qw.nbytes == nbytes
    tensor = 0 if qw.tensor_scale is None else 4
    assert nbytes == -(-qw.codes.size * q.element.bits // 8) + qw.scale.size + tensor


@lru_cache
def nvfp4_mse(amax: float) -> float:
    """Mean squared error of NVFP4 on a standard normal tensor with this largest weight, by quadrature.

    Given the maximum t of a block, the other 15 weights are normal between -t and t.
    """
    t = np.linspace(0.3, amax, 500)[:, None]
    tensor = amax / (6 * 448)
    step = (t / 6 / tensor).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * tensor

    def error(x):
        levels = np.clip(x / step, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float64)
        return (levels * step - x) ** 2

    x = t * (np.arange(500) + 0.5) / 500
    inside = np.mean(error(x) * norm.pdf(x), axis=1) * t[:, 0] * 2
    chance = 2 * norm.cdf(t[:, 0]) - 1
    density = 16 * chance**15 * 2 * norm.pdf(t[:, 0])
    return float(np.trapezoid(density * (15 * inside / chance + error(t)[:, 0]), t[:, 0]) / 16)


def test_without_the_tensor_scale_small_weights_collapse():
    """At std 1e-4 no block scale reaches half the smallest e4m3; with the tensor scale the error is that of theory."""
    w = np.random.default_rng(3).standard_normal((4096, 16)).astype(np.float32) * np.float32(1e-4)
    assert np.abs(w).max() / 6 < 2.0**-10
    assert not np.any(SPECS["nvfp4:single"].roundtrip(w))  # an SQNR of 0 dB
    relative = (np.float64(SPECS["nvfp4"].roundtrip(w)) - w) ** 2 / 1e-8
    of_blocks = relative.mean(axis=1)
    expected = nvfp4_mse(float(np.abs(w).max()) * 1e4)
    assert abs(of_blocks.mean() - expected) < 4 * of_blocks.std() / np.sqrt(len(w))
    assert 20 < -10 * np.log10(expected) < 21


# --- one bit pattern under every transformation ---------------------------------------------------------------------


def everything(q):
    def one(w):
        qw = q.quantize(w)
        return qw.codes, qw.scale, qw.tensor_scale, qw.dequantize(), q.roundtrip(w)

    return one


def _sharded(inside):
    def way(one, w):
        mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
        spec = PartitionSpec("data")
        return jax.jit(jax.shard_map(inside(one), mesh=mesh, in_specs=spec, out_specs=spec))(w)

    return way


def _interpreted(one, w):
    with jax.disable_jit():
        return _stacked(one, w)


def _stacked(one, w):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[one(v) for v in w])


WAYS = {
    "disable_jit": _interpreted,
    "jit(vmap)": lambda one, w: jax.jit(jax.vmap(one))(w),
    "shard_map(vmap)": _sharded(jax.vmap),
    "shard_map(scan)": _sharded(lambda one: lambda w: lax.scan(lambda carry, v: (carry, one(v)), 0, w)[1]),
}


def check_way(text: str, way: str) -> None:
    """Arrays of their own magnitude each, down to a scale of 2^-127; the tensor scale is that of each."""
    w = np.resize(blocks(32)[:24], (4, 6, 40))
    w = np.ldexp(w, np.array([0, 9, -113, -118])[:, None, None]).astype(np.float32)
    one = everything(SPECS[text])
    for got, expected in zip(*(jax.tree.leaves(f(one, w)) for f in (WAYS[way], _stacked)), strict=True):
        np.testing.assert_array_equal(*(np.asarray(leaf).view(np.uint8) for leaf in (got, expected)))


@pytest.mark.parametrize(("text", "way"), [("mxfp8_e4m3", "jit(vmap)"), ("nvfp4", "shard_map(scan)")])
def test_one_bit_pattern(text, way):
    check_way(text, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", SPECS)
def test_one_bit_pattern_every_way_for_every_format(text, way):
    check_way(text, way)


@pytest.mark.parametrize("text", ["mxfp4", "mxint8:ceil"])
def test_a_single_block_with_the_smallest_scale(text):
    """The scale is one number here, which a compiler could merge with a constant: 2^-127 is subnormal."""
    w = np.ldexp(np.linspace(-1.9, 1.9, 32, dtype=np.float32), -125 if text == "mxfp4" else -126)[None]
    codes, scale, weights = mx(w, text)
    assert scale.tolist() == [0] if text == "mxfp4" else [2]
    check(SPECS[text], w, codes, scale, weights)


# --- names ----------------------------------------------------------------------------------------------------------


def test_names():
    names = [f"{name}{rule}" for name in ELEMENTS for rule in ("", ":ceil", ":even", ":rceil")]
    assert list(SPECS) == [*names, "nvfp4", "nvfp4:single", "nvint4", "nvint4:single"]
    assert len(set(MICROSCALING)) == len(SPECS)
    assert {alias: str(q) for alias, q in ALIASES.items()} == {f"{name}:floor": name for name in ELEMENTS}
    for text, q in (SPECS | ALIASES).items():
        assert qs.parse(text) == q
