"""Products: float32 within its rounding bound, integers exactly, and both on meshes with explicit axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import quantsim as qs
from quantsim.granularity import Block, Channel, scale_shape
from quantsim.outputs import products
from quantsim.outputs.products import integer_product, product, quantized_product
from quantsim.quantizer import Quantizer

HALF_ULP = 2.0**-24
SHAPES = [(1, 1, 1), (8, 300, 16), (2, 4097, 3)]


def arrays(batch, fan_in, out, seed=0):
    """Activations and weights, float32."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((batch, fan_in)), rng.laplace(size=(out, fan_in))
    return x.astype(np.float32), w.astype(np.float32)


def wide(a):
    return np.asarray(a, np.float64)


def product_bound(x, w):
    """What n products and n - 1 sums, each off by half an ulp, make at most: n u / (1 - n u) sum |x| |w|."""
    n = x.shape[1] * HALF_ULP
    return n / (1 - n) * (np.abs(x) @ np.abs(w).T)


# --- float32 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "fan_in", "out"), SHAPES)
def test_product_is_float64_within_the_float32_bound(batch, fan_in, out):
    x, w = arrays(batch, fan_in, out)
    got, x, w = wide(product(jnp.asarray(x), jnp.asarray(w))), wide(x), wide(w)
    assert got.shape == (batch, out)
    assert (np.abs(got - x @ w.T) <= product_bound(x, w)).all()


# --- integers -------------------------------------------------------------------------------------------------------


def exact_product(x, w):
    return np.asarray(x, np.int64) @ np.asarray(w, np.int64).T


def codes(shape, seed):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


@pytest.mark.parametrize(("batch", "fan_in", "out"), [*SHAPES, (2, 0, 3), (0, 4, 3), (5, 33000, 4)])
def test_integer_product_is_exact(batch, fan_in, out):
    x, w = codes((batch, fan_in), 0), codes((out, fan_in), 1)
    got = integer_product(jnp.asarray(x), jnp.asarray(w))
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(np.asarray(got), exact_product(x, w))


@pytest.mark.parametrize("pair", [(127, 127), (-128, -128), (127, -128), (-127, 127)], ids=str)
def test_integer_product_is_exact_at_the_longest_fan_in(pair):
    x, w = (np.full((1, products.MAX_FAN_IN), v, np.int8) for v in pair)
    assert integer_product(jnp.asarray(x), jnp.asarray(w)).item() == pair[0] * pair[1] * products.MAX_FAN_IN


def test_the_longest_fan_in_is_what_an_int32_holds():
    assert 128**2 * products.MAX_FAN_IN <= np.iinfo(np.int32).max < 128**2 * (products.MAX_FAN_IN + 1)
    one = jnp.ones((1, products.MAX_FAN_IN + 1), jnp.int8)
    with pytest.raises(ValueError, match="fan-in of 131072"):
        integer_product(one, one)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
def test_integer_product_takes_int8_codes_only(dtype):
    with pytest.raises(ValueError, match="int8 codes"):
        integer_product(jnp.ones((2, 4), dtype), jnp.ones((2, 4), jnp.int8))


@pytest.mark.parametrize(("x", "w"), [((2, 4), (3, 5)), ((4,), (3, 4))])
def test_integer_product_checks_its_shapes(x, w):
    with pytest.raises(TypeCheckError):
        integer_product(jnp.ones(x, jnp.int8), jnp.ones(w, jnp.int8))


# --- integers with scales -------------------------------------------------------------------------------------------

PAIRS = [
    ("int8:tensor", "int8:channel"),
    ("int8:channel", "int4:channel"),
    ("int8:channel", "int8:channel@-2"),
    ("int8:block32", "int8:block32"),
    ("int8:block7", "int4:block7:mse"),  # 96 = 13 * 7 + 5: a ragged tail
    ("int8:channel:absmax:signed", "int8:tensor:absmax:full"),
]


def scaled_product(x, w, size):
    """Scales times exact integer products in float64, block by block, and the sum of the magnitudes."""
    total = magnitude = 0.0
    for at in range(0, x.codes.shape[1], size):
        part = slice(at, at + size)
        scales = per_row(x, at // size)[:, None] * per_row(w, at // size)[None]
        block = scales * exact_product(x.codes[:, part], w.codes[:, part])
        total, magnitude = total + block, magnitude + np.abs(block)
    return total, magnitude


def per_row(a, block):
    scale = wide(a.scale)
    return scale[:, block] if scale.ndim == 2 else np.broadcast_to(scale, a.codes.shape[:1])


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_quantized_product_is_scales_times_exact_integers(first, second):
    x, w = arrays(6, 96, 10)
    x, w = qs.parse(first).quantize(x), qs.parse(second).quantize(w)
    granularity = w.quantizer.granularity
    size = granularity.size if isinstance(granularity, Block) else 96
    exact, magnitude = scaled_product(x, w, size)
    # a block: integer to float32, two scales, one sum
    got, roundings = wide(quantized_product(x, w)), 3 + -(-96 // size)
    assert (np.abs(got - exact) <= roundings * HALF_ULP * magnitude * (1 + 1e-6)).all()
    a, b = wide(x.dequantize()), wide(w.dequantize())
    assert (np.abs(got - a @ b.T) <= (roundings + 4) * HALF_ULP * (np.abs(a) @ np.abs(b).T)).all()


def test_a_long_block_is_exact_in_integers():
    """Codes of 127 over 2^17 - 1 inputs: a float32 sum of products would stop counting at 2^24 * 127."""
    x = qs.parse("int8:channel").quantize(jnp.ones((1, products.MAX_FAN_IN)))
    s = wide(x.scale)[0]
    got = quantized_product(x, x).item()
    assert got == pytest.approx(127**2 * products.MAX_FAN_IN * s * s, rel=3 * HALF_ULP)


BAD = {
    "small floats": ("int8:channel", "e4m3:channel", "at most 8 bits"),
    "a codebook": ("nf4:block32", "nf4:block32", "at most 8 bits"),
    "a cast": ("bf16", "int8:channel", "at most 8 bits"),
    "blocks of two sizes": ("int8:block32", "int8:block16", "must be the same"),
    "scales along the sum": ("int8:tensor", "int8:channel@1", "summed over"),
    "scales along the sum, from behind": ("int8:channel@-1", "int8:channel", "summed over"),
    "blocks across the sum": ("int8:block32@0", "int8:block32@0", "summed over"),
}


def traced_product(x, w, *shapes):
    """Shapes only: what is rejected is rejected before anything runs."""
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    return jax.eval_shape(lambda a, b: quantized_product(qs.parse(x).quantize(a), qs.parse(w).quantize(b)), *arrays)


def test_traced_product_takes_what_fits():
    assert traced_product("int8:block4", "int8:block4", (2, 8), (3, 8)).shape == (2, 3)


@pytest.mark.parametrize(("x", "w", "message"), BAD.values(), ids=BAD)
def test_quantized_product_rejects_what_has_no_integer_product(x, w, message):
    with pytest.raises(ValueError, match=message):
        traced_product(x, w, (96, 96), (96, 96))


@pytest.mark.filterwarnings("ignore:.*keeps a scale for every")
@pytest.mark.parametrize("spec", ["int8:tensor", "int8:channel", "int8:block4"])
@pytest.mark.parametrize("shapes", [((2, 8), (3, 9)), ((8,), (3, 8)), ((2, 8), (1, 3, 8))], ids=str)
def test_quantized_product_rejects_shapes_that_do_not_fit(spec, shapes):
    with pytest.raises(ValueError, match="do not fit"):
        traced_product(spec, spec, *shapes)


def test_blocks_along_the_named_last_axis_are_blocks():
    q = Quantizer(qs.formats.parse("int8"), Block(32, axis=1))
    assert scale_shape(Channel(-2), (6, 96)) == (6,)
    x, w = (q.quantize(a) for a in arrays(6, 96, 10))
    exact, magnitude = scaled_product(x, w, 32)
    assert (np.abs(wide(quantized_product(x, w)) - exact) <= 6.001 * HALF_ULP * magnitude).all()


# --- explicit meshes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "text"), [(("d", None), "int8:block32"), ((None, "d"), "int8:channel")])
def test_products_on_explicit_axes_are_those_without(spec, text):
    """A mesh as ``jax.make_mesh`` makes it, of activations and weights or of one of them."""
    sharding = jax.NamedSharding(jax.make_mesh((4,), ("d",)), jax.P(*spec))
    x, w = (jnp.asarray(v) for v in arrays(8, 64, 4))
    on_mesh = [jax.device_put(v, sharding) for v in (x, w)]
    integers, on_mesh_integers = ([(8 * v).astype(jnp.int8) for v in pair] for pair in ((x, w), on_mesh))
    np.testing.assert_array_equal(integer_product(*on_mesh_integers), integer_product(*integers))
    np.testing.assert_array_equal(integer_product(on_mesh_integers[0], integers[1]), integer_product(*integers))
    bound = product_bound(wide(x), wide(w))
    assert (np.abs(wide(product(*on_mesh)) - wide(x) @ wide(w).T) <= bound).all()
    found, plain = (quantized_product(*map(qs.parse(text).quantize, pair)) for pair in (on_mesh, (x, w)))
    np.testing.assert_array_equal(found, plain)
