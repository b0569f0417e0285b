"""Quantizers in rotated coordinates: the transform against the matrices, and what follows from orthogonality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.mitigations import parse as mitigation
from quantsim.mitigations.layer import Layer
from quantsim.numerics import hadamard

HALF_ULP = 2.0**-24
SPECS = ("int4:block32", "e2m1:block16:fouroversix:ue4m3+f32", "int8:channel", "q4_k", "mxfp4")
W = qs.populations.parse("t3").sample(qs.populations.key(0), (32, 1024))


@pytest.mark.parametrize("rows", [1, 3, 1025])  # the last ones are more blocks than are turned at a time
@pytest.mark.parametrize("kind", hadamard.KINDS)
@pytest.mark.parametrize("size", [4, 16, 64, 256, 1024, 4096])
def test_turned_is_the_product_with_the_matrix(kind, size, rows):
    """Each of the log2(size) sums and the last product round once: by half an ulp of the sum of magnitudes."""
    x = np.random.default_rng(size).standard_normal((rows, size)).astype(np.float32)
    exact = x.astype(np.float64) @ getattr(hadamard, kind)(size)
    bound = (np.log2(size) + 2) * HALF_ULP * np.abs(x).sum(axis=1, dtype=np.float64)[:, None] / np.sqrt(size)
    assert (np.abs(np.asarray(hadamard.turned(jnp.asarray(x), kind, size)) - exact) <= bound).all()


@pytest.mark.parametrize("size", [2, 8, 32, 128, 512, 2048])
def test_sylvester_has_all_powers_of_two(size):
    x = jnp.eye(size, dtype=jnp.float32)
    exact = hadamard.sylvester(size).astype(np.float32)
    assert (np.asarray(hadamard.turned(x, "sylvester", size)) == exact).all()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("around", ["regular64", "sylvester128", "sylvester32:signs", "regular256:signs7"])
def test_a_round_trip_is_the_quantizer_in_rotated_coordinates(spec, around):
    q = qs.parse(f"{around}({spec})")
    assert qs.parse(str(q)) == q
    flips = np.broadcast_to(np.asarray(q._flips(W), np.float32), W.shape)
    turned = hadamard.turned(W * flips, q.kind, q.size)
    expected = hadamard.turned(q.inner.roundtrip(turned), q.kind, q.size) * flips
    found = q.roundtrip(W)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(q.quantize(W).dequantize(), found)
    assert np.abs(flips).min() == 1
    assert (flips.min() < 0) == ("signs" in around)


@pytest.mark.parametrize("spec", ["int4:block32", "nvfp4"])
def test_the_error_is_that_of_the_rotated_weights(spec):
    """Both sums of squares agree to what float32 rounds of the rotation: 2 log2(64) half ulps of a weight over e."""
    q = qs.parse(f"regular64({spec})")
    turned = hadamard.turned(W, "regular", 64)
    inside = np.asarray(turned - q.inner.roundtrip(turned), np.float64)
    outside = np.asarray(W, np.float64) - np.asarray(q.roundtrip(W), np.float64)
    slack = 2 * 6 * HALF_ULP * np.linalg.norm(W)
    assert abs(np.linalg.norm(outside) - np.linalg.norm(inside)) <= slack


def test_signs_are_those_of_the_mitigation():
    q, x = qs.parse("sylvester64:signs7(int4:block32)"), jnp.eye(1024, dtype=jnp.float32)
    of_layer = mitigation("rotation(block=64,signs=random)").apply(Layer(W, x), q.inner, key=jax.random.key(7))
    np.testing.assert_array_equal(of_layer.rotation.signs, q._flips(W)[0])
    back = np.asarray(of_layer.weights.reshape(32, -1, 64) @ of_layer.rotation.matrix.T).reshape(32, 1024)
    slack = 2 * 6 * HALF_ULP * 64 * np.abs(W).max()
    close = np.abs(back * np.asarray(of_layer.rotation.signs) - np.asarray(q.roundtrip(W))) <= slack
    assert close.mean() > 0.999  # a weight in a thousand may lie on the other side of a tie


def test_stored_bits_count_the_signs():
    plain, signed = (qs.parse(f"sylvester64{s}(int4:block32)").bits_per_weight((32, 1024)) for s in ("", ":signs"))
    assert plain == qs.parse("int4:block32").bits_per_weight((32, 1024))
    assert signed == plain + 1024 / W.size


def test_quantizers_that_differ_in_numbers_share_a_program():
    specs = ("int4:block32", "int3:block32")
    structures = {qs.parse(f"regular64({s})")._split()[0] for s in specs}
    assert len(structures) == 1
    of_others = {qs.parse(s)._split()[0] for s in ("regular64(int4:block32)", "regular16(int4:block32)")}
    assert len(of_others) == 2


@pytest.mark.parametrize("spec", ["int4:block32", "nvfp4", "int8:channel"])
def test_stages_give_the_same_bits_as_one_piece(spec):
    q = qs.parse(f"regular64({spec})")
    w = qs.populations.Normal().sample(qs.populations.key(1), (1030, 1024))
    one = jax.jit(lambda w: q._approximate(w, None))(w)
    np.testing.assert_array_equal(q.roundtrip(w), one)
    np.testing.assert_array_equal(q.quantize(w).dequantize(), one)
    assert qs.weight_error(w, q).rel_rms == qs.error_stats(w, one).rel_rms


def test_only_normal_weights_have_a_theory():
    q, normal = qs.parse("regular64(int4:block32)"), qs.populations.Normal()
    assert qs.theory.weight_mse(normal, q) == qs.theory.weight_mse(normal, q.inner)
    with pytest.raises(qs.theory.NoTheoryError, match="only normal weights stay independent"):
        qs.theory.weight_mse(qs.populations.Laplace(), q)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("regular32(int4:block32)", "a power of 4 .* not 32; the largest is 16"),
        ("sylvester1(int4:block32)", "takes blocks of 2 to 65536 inputs, not 1"),
        ("hadamard64(int4:block32)", r"did you mean 'sylvester64\(int4:block32\)'"),
        ("regular64(int4:block32", r"did you mean 'regular64\(int4:block32\)'"),
        ("regular64(int9:blok32)", "did you mean 'int9:block32'"),
        ("regular64(regular64(int4:block32))", "is rotated already"),
    ],
)
def test_specs_that_are_none_say_what_was_meant(spec, message):
    with pytest.raises(ValueError, match=message):
        qs.parse(spec)


def test_shapes_that_blocks_do_not_divide_are_refused():
    q = qs.parse("regular64(int4:block32)")
    with pytest.raises(ValueError, match="divides the 96 inputs, not 64; the largest is 16"):
        q.quantize(np.ones((3, 96)))
    with pytest.raises(ValueError, match="a number has none"):
        q.quantize(1.0)
