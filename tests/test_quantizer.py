"""Quantize, store, dequantize: NumPy in float32 bit for bit, every odd input, what is charged is what is stored."""

import copy
import pickle
from inspect import unwrap

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import quantsim as qs
from quantsim import formats
from quantsim.granularity import Block, Channel, Tensor
from quantsim.quantizer.face import AbstractQuantizer
from tests import oracles

ABSMAX = [
    ("int8:tensor", (), "tensor", 1),
    ("int8:channel", (61,), "channel", 1),
    ("int4:block32", (61, 3), "block", 32),
    ("int8:block7", (61, 11), "block", 7),
    ("int2:block1", (61, 77), "block", 1),
]


#: Of nearly all tests: quantizers of one structure share a program for a shape. Blocks of 32 leave a tail of 13.
SHAPE = (61, 77)


def _weights(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- the definition -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "scale_shape", "kind", "size"), ABSMAX)
def test_symmetric_integers_equal_numpy(spec, scale_shape, kind, size):
    w = _weights(1)
    axis = -1 if kind == "block" else 0
    codes, scale, expected = oracles.absmax_quantize(w, oracles.block_ids(w.shape, kind, size, axis), int(spec[3]))
    qw = qs.parse(spec).quantize(w)
    np.testing.assert_array_equal(qw.codes, codes)
    oracles.same_bits(qw.scale, scale.reshape(scale_shape))
    oracles.same_bits(qw.dequantize(), expected)
    oracles.same_bits(qs.parse(spec).roundtrip(w), expected)


@pytest.mark.parametrize(("spec", "bits"), [("int8:channel:minmax", 8), ("int4:channel:minmax", 4)])
def test_asymmetric_integers_equal_numpy(spec, bits):
    w = _weights(2) + np.resize(np.float32([-2, -1, 0, 1, 9]), (SHAPE[0], 1))
    qw, again = qs.parse(spec).quantize(w), np.asarray(qs.parse(spec).roundtrip(w))
    given = [np.asarray(part) for part in (qw.codes, qw.scale, qw.zero_point, qw.dequantize())]
    for i, row in enumerate(w):
        codes, scale, zero, expected = oracles.minmax_quantize(row, bits)
        got_codes, got_scale, got_zero, w_hat = (part[i] for part in given)
        np.testing.assert_array_equal(got_codes, codes)
        assert (float(got_scale), int(got_zero)) == (float(scale), zero)
        oracles.same_bits(w_hat, expected)
        oracles.same_bits(again[i], expected)


@pytest.mark.parametrize("name", ["bf16", "f16", "e4m3", "e2m1"])
def test_a_quantizer_without_granularity_is_a_cast(name):
    w = _weights(3)
    qw = qs.parse(name).quantize(w)
    oracles.same_bits(qw.dequantize(), w.astype(oracles.TYPES[name]).astype(np.float32))
    assert (qw.scale, qw.zero_point) == (None, None)


def test_channel_means_output_row_and_blocks_run_along_inputs():
    largest = np.resize(np.float32([1, 10, 100]), SHAPE[0])
    scale = qs.parse("int8:channel").quantize(np.broadcast_to(largest[:, None], SHAPE)).scale
    np.testing.assert_allclose(np.asarray(scale) * 127, largest, rtol=1e-6)

    def scale_shape(spec):
        return jax.eval_shape(qs.parse(spec).quantize, np.ones((3, 64), np.float32)).scale.shape

    assert scale_shape("int8:block32") == (3, 2)
    assert scale_shape("int8:channel@1") == (64,)
    assert scale_shape("int8:block2@0") == (64, 2)


# --- types of input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.int32, np.uint8, np.int64])
def test_other_types_are_computed_in_float32(dtype):
    w = (_weights(4) * 50).astype(dtype) if dtype != np.uint8 else np.resize(np.arange(200, dtype=np.uint8), SHAPE)
    q = qs.parse("int8:channel")
    got, expected = q.quantize(w), q.quantize(w.astype(np.float32))
    np.testing.assert_array_equal(got.codes, expected.codes)
    oracles.same_bits(got.scale, expected.scale)
    assert got.dequantize().dtype == q.roundtrip(w).dtype == jnp.float32


@pytest.mark.parametrize("w", [1.27, 3, [1.0, 2.0], [[1, 2], [3, 4]], (1.0, 2.5), np.float32(2.0), np.float64(2.0)])
def test_numbers_lists_and_scalars(w):
    q = qs.parse("int8:tensor")
    np.testing.assert_allclose(q.roundtrip(w), np.asarray(w), rtol=0.01)
    assert q.quantize(w).codes.shape == np.shape(w)


@pytest.mark.parametrize("w", [np.array([True]), np.array([1j]), np.array(["a"]), np.array([None]), True], ids=str)
def test_what_is_no_real_number_is_a_type_error(w):
    for call in (qs.parse("int8:tensor").quantize, qs.parse("int8:tensor").roundtrip):
        with pytest.raises(TypeError, match="weights must be real numbers, not"):
            call(w)


# --- values of input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "named"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e300, r"1e\+300")])
def test_what_is_not_finite_is_named_with_its_index(value, named):
    w = _weights(5).astype(np.float64)
    w[3, 1] = w[4, 0] = value
    q = qs.parse("int8:tensor")
    message = rf"^2 of 4697 weights are not finite in float32, the first is {named} at index \(3, 1\); mend the input"
    remedies = {
        q.quantize: ', or pass nonfinite="propagate"$',
        q.roundtrip: ', or pass nonfinite="propagate"$',
        q.clipped: "$",
    }
    for call, remedy in remedies.items():  # clipped has no such parameter
        with pytest.raises(ValueError, match=message + remedy):
            call(w)


def test_what_is_not_finite_is_named_under_differentiation():
    with pytest.raises(ValueError, match=r"the first is nan at index \(1,\)"):
        jax.grad(lambda w: qs.parse("int8:tensor").roundtrip(w).sum())(jnp.array([1.0, jnp.nan]))


@pytest.mark.parametrize("spec", ["int8:block32:minmax", "e2m1:block32", "int4:block32:p50", "int4:block32:mse"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_propagation_poisons_the_block_and_no_other(spec, value):
    w, q = _weights(6), qs.parse(spec)
    bad, clean = w.copy(), np.asarray(q.roundtrip(w))
    bad[1, 70] = value
    poisoned = np.zeros(w.shape, bool)
    poisoned[1, 64:] = True
    for got in (q.quantize(bad, nonfinite="propagate").dequantize(), q.roundtrip(bad, nonfinite="propagate")):
        oracles.same_bits(got, np.where(poisoned, np.float32(np.nan), clean))


def test_unknown_policy_for_what_is_not_finite():
    with pytest.raises(ValueError, match="nonfinite is 'raise' or 'propagate', not 'ignore'"):
        qs.parse("int8:tensor").quantize([1.0], nonfinite="ignore")


ALL_KINDS = [
    "int8:tensor",
    "int4:channel",
    "int4:block32",
    "int8:channel:minmax",
    "int4:block32:mse",
    "int8:tensor:p99",
    "nf4:block32",
]


@pytest.mark.parametrize("spec", [*ALL_KINDS, "e4m3:tensor", "e2m1", "int4:block32:absmax:f16"])
def test_zeros_have_scale_zero_and_code_zero(spec):
    zeros = np.zeros(SHAPE, np.float32)
    qw = qs.parse(spec).quantize(zeros)
    assert qw.scale is None or not np.asarray(qw.scale).any()
    zero_code = 7 if spec.startswith("nf4") else 0
    assert np.all(np.asarray(qw.codes) == zero_code)
    oracles.same_bits(qw.dequantize(), zeros)
    oracles.same_bits(qs.parse(spec).roundtrip(zeros), zeros)


@pytest.mark.parametrize("spec", ["int8:tensor", "int4:channel:minmax", "int4:block32:p99", "e4m3"])
@pytest.mark.parametrize("shape", [(0,), (5, 0)])
def test_empty_arrays(spec, shape):
    q = qs.parse(spec)
    qw = q.quantize(np.zeros(shape, np.float32))
    assert qw.dequantize().shape == q.roundtrip(np.zeros(shape)).shape == qw.codes.shape == shape
    assert np.isfinite(qw.nbytes)
    assert q.bits_per_weight(shape) == 8 * qw.nbytes


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_a_single_weight_is_exact(shape):
    for spec in ("int8:tensor", "int8:block32:minmax", "nf4:block32"):
        assert oracles.ulps(qs.parse(spec).roundtrip(np.full(shape, -0.3, np.float32)), np.full(shape, -0.3)) <= 2


def test_ragged_tail_equals_the_tail_alone():
    w, q = _weights(7), qs.parse("int4:block32")
    whole = np.asarray(q.roundtrip(w))
    oracles.same_bits(whole[:, 64:], q.roundtrip(w[:, 64:]))
    oracles.same_bits(whole[:, :64], q.roundtrip(w[:, :64]))


def test_subnormal_weights():
    w = np.float32([1e-40, -3e-42, 2e-38, 0])
    # a cast keeps them; a scale below 2^-126 counts as zero, as arithmetic flushes it
    oracles.same_bits(qs.parse("bf16").roundtrip(w), w.astype(ml_dtypes.bfloat16).astype(np.float32))
    oracles.same_bits(qs.parse("f32").quantize(w).dequantize(), w)
    oracles.same_bits(qs.parse("int8:tensor").roundtrip(w[:2]), [0, 0])
    assert not np.any(qs.parse("e4m3").quantize(w).dequantize())
    assert np.isfinite(qs.parse("int8:block2:minmax").roundtrip(w)).all()


@pytest.mark.parametrize(
    "spec",
    [*ALL_KINDS, "int8:channel:absmax:bf16", "int8:channel:absmax:half", "int8:channel:absmax:signed", "f16:tensor"],
)
def test_huge_weights_stay_finite(spec):
    w = np.full(SHAPE, 3e38, np.float32) * np.where(np.arange(77) % 2, 1, -1).astype(np.float32)
    qw = qs.parse(spec).quantize(w)
    assert np.isfinite(np.asarray(qw.scale)).all()
    error = np.abs(np.float64(qw.dequantize()) / w - 1)
    assert (error <= 0.01 if "int4" not in spec else error <= 0.08).all()  # half a step of int8, int4
    oracles.same_bits(qs.parse(spec).roundtrip(w), qw.dequantize())


@pytest.mark.parametrize("spec", ["int2:tensor:rms", "int4:channel:rms"])
def test_huge_weights_with_a_scale_from_the_rms(spec):
    w = np.full((2, 32), 3e38, np.float32)
    assert np.isfinite(qs.parse(spec).quantize(w).scale).all()
    assert not np.isnan(qs.parse(spec).roundtrip(w)).any()


def test_a_scale_that_underflows_in_its_format():
    w = np.float32([[1e-9, -1e-9], [1e-3, 1e-3], [1e9, 1.0]])
    qw = qs.parse("int8:channel:absmax:f16").quantize(w)
    assert qw.scale.tolist() == [0, float(np.float16(np.float32(1e-3) / np.float32(127))), 65504]
    assert qw.codes.tolist()[0] == [0, 0]
    assert qw.codes.tolist()[2] == [127, 0]  # and one that saturates
    oracles.same_bits(qw.dequantize()[0], [0, 0])


# --- gradient -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["int4:tensor:p99", "int4:block32:p50", "e2m1:channel:p80", "int4:channel", "e4m3", "f32", "tf32"]
)
def test_straight_through_gradient(spec):
    w, c, q = _weights(8) * 300, _weights(9), qs.parse(spec)
    (grad,), clipped = jax.vjp(q.roundtrip, w)[1](c), np.asarray(q.clipped(w))
    np.testing.assert_array_equal(grad, np.where(clipped, 0, c))
    # clipped: more than half a step beyond the last level
    scale = 1.0 if q.granularity is None else np.abs(np.float64(q.quantize(w).scale))
    of_blocks = np.ndim(scale) == 2
    s = np.repeat(scale, 32, axis=-1)[:, : SHAPE[1]] if of_blocks else scale[:, None] if np.ndim(scale) else scale
    top, below = formats.ends(q.format)[[-1, -2]]
    np.testing.assert_array_equal(clipped, np.abs(w) > (1.5 * top - 0.5 * below) * s)


def test_gradient_of_an_asymmetric_quantizer_and_under_jit_and_vmap():
    q, w = qs.parse("int8:channel:minmax"), jnp.asarray(_weights(10, (3, 4, 16)))
    grad = jax.grad(lambda x: q.roundtrip(x).sum())
    np.testing.assert_array_equal(jax.jit(jax.vmap(grad))(w), np.ones((3, 4, 16)))
    tangent = jax.jvp(q.roundtrip, (w[0],), (2 * w[0],))[1]
    np.testing.assert_array_equal(tangent, 2 * w[0])


# --- what is stored -------------------------------------------------------------------------------------------------

STORED = [
    "int8:tensor",
    "int4:block32",
    "int3:block10",
    "int4:block32:minmax",
    "int5:channel:minmax:f16",
    "e2m3:channel",
]
STORED += ["int4:block32:absmax:f16", "e2m1:block16:absmax:e4m3", "nf4:block64", "tf32", "e3m3:tensor", "int2:tensor"]


@pytest.mark.filterwarnings("ignore:int4.block32.minmax keeps a scale for every 5 weights")
@pytest.mark.parametrize(
    ("spec", "shape"),
    [*((spec, SHAPE) for spec in STORED), *((spec, s) for spec in STORED[2:4] for s in ((), (3,), (2, 3, 5)))],
)
def test_bits_per_weight_are_the_bytes_stored(spec, shape):
    q, w = qs.parse(spec), _weights(11, shape)
    qw = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), jax.eval_shape(q.quantize, w))  # values do not matter
    size = oracles.packed_bytes(qw.codes, q.format.bits)
    if qw.scale is not None:
        size += -(-np.size(qw.scale) * q.scale_format.bits // 8)
    if qw.zero_point is not None:
        size += oracles.packed_bytes(qw.zero_point, q.format.bits)
    assert qw.nbytes == size
    assert q.bits_per_weight(shape) == 8 * size / w.size


@pytest.mark.parametrize(
    "spec", ["uint4:block32", "int12:block32", "int12:channel:minmax", "e4m3fnuz:channel", "e5m2fnuz"]
)
def test_theory_knows_wide_and_unsigned_integers_and_fnuz_floats(spec):
    """Within 5 standard errors of half a million weights; two million gave 1.5 at most."""
    pop, q = qs.populations.Normal(), qs.parse(spec)
    w = pop.sample(qs.populations.key(0), (512, 1024))
    measured = qs.error_stats(w, q.roundtrip(w))
    assert abs(measured.mse - qs.theory.weight_mse(pop, q, w.shape)) < 5 * measured.mse_se


def test_unsigned_integers_hold_what_is_not_negative():
    """Half a step of a grid that spends no code on a sign; what is negative is 0."""
    w = np.abs(_weights(13))
    u, s = (np.abs(np.asarray(qs.parse(f"{name}:channel").roundtrip(w)) - w).max() for name in ("uint4", "int5"))
    assert u == pytest.approx(s, rel=0.2)
    assert not np.asarray(qs.parse("uint4:channel").quantize(-w).codes).any()
    assert np.asarray(qs.parse("uint4:channel").clipped(-w)).any()


def test_bits_per_weight_by_hand():
    shape = (4096, 4096)
    table = {"int8:tensor": 8 + 32 / 4096**2, "int8:channel": 8 + 32 / 4096, "int4:block32": 5, "bf16": 16}
    table |= {
        "int4:block32:absmax:f16": 4.5,
        "int4:block32:minmax:f16": 4.625,
        "nf4:block64": 4.5,
        "e2m1:block16:absmax:e4m3": 4.5,
    }
    assert {spec: qs.parse(spec).bits_per_weight(shape) for spec in table} == table


@pytest.mark.parametrize("spec", ["int8:channel", "int4:block32:minmax", "e4m3"])
def test_a_quantized_array_is_a_pytree(spec):
    w = _weights(12, (2, 3, 40))
    qw = qs.parse(spec).quantize(w[0])
    leaves = 1 + (qw.scale is not None) + (qw.zero_point is not None)
    assert len(jax.tree.leaves(qw)) == leaves
    w_hat = np.asarray(qw.dequantize())
    oracles.same_bits(jax.jit(lambda a: a)(qw).dequantize(), w_hat)
    oracles.same_bits(jax.tree.map(lambda a: np.asarray(a) + 0, qw).dequantize(), w_hat)
    batch = jax.vmap(qs.parse(spec).quantize)(w)
    oracles.same_bits(np.asarray(jax.vmap(lambda a: a.dequantize())(batch))[0], w_hat)
    assert jax.tree.map(jnp.shape, qw).codes == jax.eval_shape(qs.parse(spec).quantize, w[0]).codes.shape == (3, 40)
    assert jax.tree.map(lambda a: np.asarray(a)[0], batch).quantizer is batch.quantizer == qs.parse(spec)


# --- kinds of argument ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "wrong", "example"),
    [
        ("format", "int4", "quantsim.formats.parse"),
        ("format", 4, "quantsim.formats.parse"),
        ("format", None, "quantsim.formats.parse"),
        ("granularity", "block32", "quantsim.granularity.Block"),
        ("granularity", Block, "quantsim.granularity.Block"),
        ("granularity", 32, "quantsim.granularity.Block"),
        ("calibration", "mse", "quantsim.calibration.Absmax"),
        ("scale_format", "f16", "quantsim.formats.parse"),
        ("scale_format", formats.parse("int8"), "quantsim.formats.parse"),
    ],
)
def test_parts_of_a_quantizer_of_another_kind(field, wrong, example):
    q = copy.copy(qs.parse("int4:block32"))
    object.__setattr__(q, field, wrong)  # past the type checker of the tests
    with pytest.raises(
        TypeError, match=rf"the {field.replace('_', ' ')} of a quantizer is an object such as {example}"
    ):
        q.__post_init__()


@pytest.mark.parametrize("shape", [5, "ab", (4.0, 2), None])
def test_what_is_no_shape(shape):
    for use in (unwrap(type(qs.parse("e4m3")).bits_per_weight), unwrap(qs.Quantizer.scheme)):
        if shape is not None or use is not unwrap(qs.Quantizer.scheme):
            with pytest.raises(TypeError, match=r"a shape is a tuple of whole numbers such as \(out, in\), not"):
                use(qs.parse("int8:channel"), shape)


def test_shapes_of_any_whole_numbers():
    assert unwrap(qs.Quantizer.bits_per_weight)(qs.parse("int8:channel"), [np.int64(4), 8]) == 12
    with pytest.raises(ValueError, match=r"a shape has no negative numbers: \(4, -1\)"):
        qs.parse("int8:channel").bits_per_weight((4, -1))


def test_a_seed_is_no_key():
    with pytest.raises(TypeError, match=r"a key is made by jax.random.key\(seed\), not 0"):
        unwrap(AbstractQuantizer.roundtrip)(qs.parse("int8:tensor:stochastic"), [1.0], key=0)


@pytest.mark.parametrize("text", ["e4m3", "int8:channel", "int4:block32:clip0.7:f16", "nf4:block64@0-", "uint4:tensor"])
def test_copies_equal_the_original(text):
    q = qs.parse(text)
    for again in (pickle.loads(pickle.dumps(q)), copy.deepcopy(q), copy.copy(q)):
        assert again == q
        assert hash(again) == hash(q)
    qw = q.quantize(_weights(14))
    again = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, qw)))
    jax.tree.map(np.testing.assert_array_equal, qw, again)


def test_quantizers_are_static():
    q = qs.Quantizer(formats.parse("int8"), Channel())
    assert hash(q) == hash(qs.parse("int8:channel"))
    assert {Tensor(): 1, Block(3): 2}[Block(3)] == 2
    assert repr(q) == "Quantizer('int8:channel')"
