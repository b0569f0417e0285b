"""Outputs of quantized weights and activations: exact integers, float64 errors, static scales, and theory."""

from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.outputs import products
from quantsim.outputs.products import NoIntegerProductError, product, quantized_product
from quantsim.quantizer.face import QuantizedArray
from tests.test_products import HALF_ULP, arrays, wide

TOKENS, FAN_IN, OUT = 12, 100, 10  # 100 = 3 * 32 + 4: a ragged tail
X, W = arrays(TOKENS, FAN_IN, OUT)
X = X + np.float32(0.5)

# --- integer products -----------------------------------------------------------------------------------------------

PAIRS = [
    ("int8:channel:minmax", "int8:channel"),
    ("int8:tensor", "int4:channel:minmax"),
    ("int8:tensor:minmax", "int8:channel:minmax"),
    ("int8:channel", "int4:block32"),
    ("int8:channel:minmax", "int4:block32:minmax"),
    ("int4:block32:minmax", "int8:block32"),
    ("int4:channel", "int4:channel"),
]


def spread(values, a, size):
    """A number for each code, whatever shares it."""
    values = np.asarray(values)
    if values.ndim == 2:
        return np.repeat(values, size, axis=1)[:, : a.codes.shape[1]]
    return np.broadcast_to(values.reshape(-1, 1), a.codes.shape)


def centred(a):
    """Codes less zero points as int64, and scales as float64, for each weight."""
    size = getattr(a.quantizer.granularity, "size", 0)
    zero = 0 if a.zero_point is None else spread(a.zero_point, a, size).astype(np.int64)
    return np.asarray(a.codes).astype(np.int64) - zero, spread(a.scale, a, size).astype(np.float64)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_integer_products_equal_exact_ones_of_centred_codes(first, second):
    x, w = qs.parse(first).quantize(X), qs.parse(second).quantize(W)
    (cx, sx), (cw, sw) = centred(x), centred(w)
    blocks = any("block" in s for s in (first, second))
    exact = magnitude = 0.0
    for at in range(0, FAN_IN, 32 if blocks else FAN_IN):
        part = slice(at, at + 32 if blocks else FAN_IN)
        term = (cx[:, part] @ cw[:, part].T) * sx[:, at][:, None] * sw[:, at][None]
        exact, magnitude = exact + term, magnitude + np.abs(term)
    # of each block: integer to float32, two scales, one sum
    roundings = 3 + (4 if blocks else 0)
    got = quantized_product(x, w)
    assert (np.abs(wide(got) - exact) <= roundings * HALF_ULP * magnitude * (1 + 1e-6)).all()


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_no_number_of_rows_outputs_or_devices_changes_a_bit_of_integer_products(first, second):
    x, w = qs.parse(first).quantize(X), qs.parse(second).quantize(W)
    whole = np.asarray(quantized_product(x, w))

    def rows(a, at):
        each = {n: getattr(a, n) for n in ("codes", "scale", "zero_point")}
        return replace(a, **{n: v if v is None or not v.ndim else v[at] for n, v in each.items()})

    for some in (slice(0, 1), slice(3, 8)):
        np.testing.assert_array_equal(quantized_product(rows(x, some), w), whole[some])
        np.testing.assert_array_equal(quantized_product(x, rows(w, some)), whole[:, some])
    sharding = jax.NamedSharding(jax.make_mesh((4,), ("d",)), jax.P("d", None))
    on_mesh = qs.parse(first).quantize(jax.device_put(jnp.asarray(X), sharding))
    np.testing.assert_array_equal(quantized_product(on_mesh, w), whole)


def test_float_products_depend_on_how_many_rows_share_them():
    """What the docstring of ``output_error`` warns of: 16 rows at once and each by itself, on some machines alike."""
    x, w = arrays(16, 1024, 64)
    whole = wide(product(jnp.asarray(x), jnp.asarray(w)))
    alone = np.concatenate([wide(product(jnp.asarray(row[None]), jnp.asarray(w))) for row in x])
    bound = 1024 * HALF_ULP * (np.abs(wide(x)) @ np.abs(wide(w)).T)
    assert (np.abs(whole - alone) <= 2 * bound).all()  # last bits only


def full(code, zero, fan_in):
    codes = jnp.full((1, fan_in), code, jnp.uint8)
    q = qs.parse("int8:channel:minmax")
    return QuantizedArray(codes, jnp.ones(1), jnp.full(1, zero, jnp.int32), q, ndim=2)


@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("zero", [0, 255])
def test_an_int32_holds_the_longest_fan_in_with_zero_points_though_terms_wrap_around(code, zero):
    longest = products.MAX_FAN_IN_ASYMMETRIC
    assert 255**2 * longest < 2**31 <= 255**2 * (longest + 1)
    a = full(code, zero, longest)
    assert quantized_product(a, a).item() == np.float32((code - zero) ** 2 * longest)
    with pytest.raises(NoIntegerProductError, match="fan-in"):
        quantized_product(full(code, zero, longest + 1), full(code, zero, longest + 1))


# --- errors ---------------------------------------------------------------------------------------------------------

MODES = [
    ("int8:channel", "bf16"),
    ("int4:block32", "f16"),
    ("int8:channel", "int8:channel"),
    ("int4:block32", "int8:channel"),
    ("int4:block32", "int4:block32"),
    ("int4:channel", "int8:tensor:minmax"),
    ("mxfp4", "mxfp8_e4m3"),
    ("nf4:block32", "int8:channel"),
]


CASES = [(*mode, 1.0, 1.0) for mode in MODES] + [
    ("int8:channel", a, 2.0**60, 2.0**-40) for a in ("bf16", "int8:channel")
]


@pytest.mark.parametrize(("weights", "activations", "of_w", "of_x"), CASES)
def test_errors_of_both_are_those_of_float64(weights, activations, of_w, of_x):
    w, x = W * np.float32(of_w), X * np.float32(of_x)
    got = qs.output_error(w, weights, x, activations=activations)
    w_hat, x_hat = (wide(qs.parse(s).roundtrip(v)) for s, v in ((weights, w), (activations, x)))
    y, dy = wide(x) @ wide(w).T, x_hat @ w_hat.T - wide(x) @ wide(w).T
    e, d, norm = w_hat - wide(w), x_hat - wide(x), np.linalg.norm
    slack = FAN_IN * HALF_ULP * 4 / got.to_bound
    assert got.rel_rms == pytest.approx(norm(dy) / norm(y), rel=slack)
    assert got.rms == pytest.approx(np.sqrt((dy**2).mean()), rel=slack)
    bounds = np.abs(x).astype(float) @ np.abs(e).T + np.abs(d) @ np.abs(w_hat).T
    assert got.to_bound == pytest.approx(np.abs(dy).sum() / bounds.sum(), rel=slack)
    parts = norm(x.astype(float)) * norm(e), norm(d) * norm(w_hat)
    per_y = np.sqrt(FAN_IN) * norm(y)
    assert got.predicted_from_weights == pytest.approx(parts[0] / per_y, rel=slack)
    assert got.predicted_from_activations == pytest.approx(parts[1] / per_y, rel=slack)
    assert got.predicted_rel_rms == pytest.approx(np.hypot(*parts) / per_y, rel=slack)
    integers = all(s.startswith("int") for s in (weights, activations))
    assert (got.integer_rel_rms is not None) == integers
    if integers:
        assert got.integer_rel_rms == pytest.approx(norm(dy) / norm(y), rel=1e-4)
        bound = (FAN_IN + 8) * HALF_ULP * norm(np.abs(x_hat) @ np.abs(w_hat).T) / norm(y)
        assert 0 <= got.integer_difference <= bound


def test_without_quantized_activations_nothing_is_predicted_of_them_and_any_rank_is_a_matrix():
    plain = qs.output_error(W, "int8:channel", X)
    assert type(plain) is qs.OutputError
    cube = X.reshape(3, 4, FAN_IN)
    assert asdict(qs.output_error(W, "int8:channel", cube)) == asdict(plain)
    matrix = qs.output_error(W, "int8:channel", X, activations="int8:channel")
    assert asdict(qs.output_error(W, "int8:channel", cube, activations="int8:channel")) == asdict(matrix)
    row = qs.output_error(W, "int8:channel", X[0], activations="int8:channel")
    assert row.fan_in == FAN_IN
    with pytest.raises(ValueError, match="do not fit"):
        qs.output_error(W, "int8:channel", X[:, :-1], activations="int8:channel")


def test_outputs_without_power_and_beyond_float32_have_no_relative_error():
    none = qs.output_error(0 * W, "int8:channel", X, activations="int8:channel")
    assert none.rms == 0
    assert np.isnan([none.rel_rms, none.predicted_from_weights, none.integer_rel_rms]).all()
    huge = qs.output_error(W * np.float32(1e30), "int8:channel", X * np.float32(1e18), activations="int8:channel")
    plain = qs.output_error(W, "int8:channel", X, activations="int8:channel")
    assert huge.rel_rms == pytest.approx(plain.rel_rms, rel=1e-3)
    assert np.isnan(huge.integer_rel_rms)


def test_a_key_is_split_between_weights_and_activations():
    spec, key = "int8:channel:absmax:stochastic", qs.populations.key(5)
    got = qs.output_error(W, spec, X, activations=spec, key=key)
    of_w, of_x = jax.random.split(key)
    w_hat, x_hat = (wide(qs.parse(spec).roundtrip(v, key=k)) for v, k in ((W, of_w), (X, of_x)))
    y = wide(X) @ wide(W).T
    exact = np.linalg.norm(x_hat @ w_hat.T - y) / np.linalg.norm(y)
    assert got.rel_rms == pytest.approx(exact, rel=FAN_IN * HALF_ULP * 4 / got.to_bound)
    with pytest.raises(ValueError, match="key"):
        qs.output_error(W, "int8:channel", X, activations=spec)


# --- static ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["int8:tensor", "int8:tensor:minmax", "int4:tensor:p99", "e4m3:tensor"])
def test_static_scales_of_the_same_data_are_the_dynamic_ones_to_the_bit(spec):
    frozen, dynamic = qs.static(spec, X).quantize(X), qs.parse(spec).quantize(X)
    np.testing.assert_array_equal(frozen.codes, dynamic.codes)
    np.testing.assert_array_equal(frozen.dequantize(), dynamic.dequantize())
    assert frozen.nbytes == dynamic.nbytes


@pytest.mark.parametrize("spec", ["int8:tensor", "int8:tensor:minmax"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_static_quantization_is_that_of_frozen_scales_and_saturates(spec, per_channel):
    frozen = qs.static(spec, X.reshape(3, 4, FAN_IN), per_channel=per_channel)
    low, high = (X.min(0), X.max(0)) if per_channel else (X.min(), X.max())
    top = np.maximum(np.abs(low), np.abs(high))
    reach = (np.minimum(low, 0), np.maximum(high, 0)) if "minmax" in spec else (-top, top)
    got = wide(frozen.roundtrip(10 * X))
    step = np.broadcast_to(wide(frozen.scale), X.shape)
    clipped = np.clip(10 * wide(X), *reach)
    # a zero point is rounded to a whole number, which moves both ends by up to half a step
    assert (np.abs(got - clipped) <= step * (1.0001 if "minmax" in spec else 0.5001)).all()


def test_static_activations_have_an_integer_product_per_tensor_only():
    calibration = arrays(TOKENS, FAN_IN, OUT)[0] * np.float32(1.5)
    tensor = qs.output_error(W, "int8:channel", X, activations=qs.static("int8:tensor", calibration))
    channel = qs.output_error(W, "int8:channel", X, activations=qs.static("int8:tensor", calibration, per_channel=True))
    assert tensor.integer_rel_rms == pytest.approx(tensor.rel_rms, rel=1e-4)
    assert channel.integer_rel_rms is None


BAD_STATIC = {
    "dynamic": ("int8:channel", X, "one for a tensor"),
    "block format": ("q8_0", X, "one for a tensor"),
    "cast": ("bf16", X, "one for a tensor"),
    "no token": ("int8:tensor", np.zeros((0, 4)), "at least one token"),
    "not finite": ("int8:tensor", np.array([[1.0, np.nan]]), "not finite"),
}


@pytest.mark.parametrize(("spec", "inputs", "message"), BAD_STATIC.values(), ids=BAD_STATIC)
def test_static_refuses_what_has_no_frozen_scale(spec, inputs, message):
    with pytest.raises(ValueError, match=message):
        qs.static(spec, inputs)


def test_static_refuses_other_channels_and_takes_zeros():
    with pytest.raises(ValueError, match="calibrated on 100 channels"):
        qs.static("int8:tensor", X, per_channel=True).quantize(X[:, :4])
    assert not np.asarray(qs.static("int8:tensor", 0 * X).roundtrip(X)).any()


# --- theory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "activations"), [("int8:channel", "int8:channel"), ("int4:block32", "int8:channel")]
)
def test_theory_of_populations_predicts_the_measured_error(weights, activations):
    """256 tokens and outputs of fan-in 512: 5 standard errors, half a percent for cross terms."""
    pop, n = qs.populations.Normal(), 512
    w, x = (np.asarray(pop.sample(qs.populations.key(k), (256, n))) for k in (0, 1))
    got = qs.output_error(w, weights, x, activations=activations)
    of_w, of_x = (qs.theory.weight_rel_mse(pop, qs.parse(s), shape=(256, n)) for s in (weights, activations))
    one = qs.theory.second_moment(n, 1.0)
    predicted = qs.theory.quantized_output_mse(one, one, weight_errors=of_w * one, activation_errors=of_x * one)
    assert abs(got.rel_rms - np.sqrt(predicted / n)) < 5 * got.rel_rms_se + 0.005 * got.rel_rms
