"""Single operations keep their own rounding inside compiled code: held against NumPy, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.numerics import ieee
from tests import oracles

N = 20_000


def _normals(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def _wide(seed: int, n: int = N) -> np.ndarray:
    """Random signs, exponents -60 to 60 and mantissas."""
    return np.ldexp(_normals(seed, n), np.random.default_rng(seed + 1).integers(-60, 60, n)).astype(np.float32)


def test_bits_round_trip():
    x = oracles.every_bf16()
    np.testing.assert_array_equal(ieee.bits_of(jnp.asarray(x)), x.view(np.int32))
    oracles.same_bits(ieee.from_bits(ieee.bits_of(jnp.asarray(x))), x)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("divisor", [127.0, 7.0, 3.0, -8.0, 127.5])
def test_division_by_a_constant(transform, divisor):
    x = _wide(1)
    got = transform(lambda a: ieee.divide(a, divisor))(jnp.asarray(x))
    oracles.same_bits(got, x / np.float32(divisor))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_division_by_a_broadcast_scale(transform):
    x, s = _wide(2).reshape(200, 100), np.abs(_wide(4, 200)).reshape(200, 1)
    oracles.same_bits(transform(ieee.divide)(jnp.asarray(x), jnp.asarray(s)), x / s)


def test_division_of_a_quotient_is_not_folded():
    # x / (a / 127) must not become x * 127 / a
    x, a = _normals(2), np.abs(_normals(3))
    got = jax.jit(lambda u, v: ieee.divide(u, ieee.divide(v, 127.0)))(jnp.asarray(x), jnp.asarray(a))
    oracles.same_bits(got, x / (a / np.float32(127)))


@pytest.mark.parametrize("divisor", [0.0371, np.abs(_normals(4, 200)).reshape(200, 1)], ids=["constant", "broadcast"])
def test_division_of_a_quotient_by_another_number_is_not_folded(divisor):
    # (x / 6) / c must not become x / (6 c)
    x, c = _normals(2).reshape(200, 100), np.float32(divisor)
    got = jax.jit(lambda u, v: ieee.divide(ieee.divide(u, 6.0), v))(jnp.asarray(x), jnp.asarray(c))
    oracles.same_bits(got, x / np.float32(6) / c)


def test_division_of_what_is_not_finite_is_nan():
    assert np.isnan(ieee.divide(jnp.array([jnp.inf, -jnp.inf, jnp.nan]), 2.0)).all()


def test_product_keeps_its_rounding_before_a_difference():
    q, s, x = _normals(5), _normals(6), _normals(7)
    expected = q * s - x
    got = jax.jit(lambda a, b, c: ieee.unfused(a * b, c) - c)(*map(jnp.asarray, (q, s, x)))
    oracles.same_bits(got, expected)
    fused = (np.float64(q) * s - x).astype(np.float32)  # the test can tell the two apart
    assert np.mean(fused != expected) > 0.2


def test_square_keeps_its_rounding_in_a_sum():
    x, y = _normals(8), _normals(9)
    got = jax.jit(lambda a, b: ieee.square(a) + b)(jnp.asarray(x), jnp.asarray(y))
    oracles.same_bits(got, x * x + y)


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 33), (2, 3, 8)])
def test_absmax(shape):
    x = _wide(10, int(np.prod(shape))).reshape(shape)
    oracles.same_bits(ieee.absmax(jnp.asarray(x)), np.abs(x).max(axis=-1, keepdims=True))


@pytest.mark.parametrize("size", [1024, 1088, 4096, 4097, 2**18])
def test_extremes_of_rows_as_long_as_they_come(size):
    x = _wide(5, 3 * size).reshape(3, size)
    low, high = jax.jit(ieee.extremes)(jnp.asarray(x))
    oracles.same_bits(low, x.min(axis=1, keepdims=True))
    oracles.same_bits(high, x.max(axis=1, keepdims=True))
    x[1, size // 3] = np.nan
    oracles.same_bits(jax.jit(ieee.absmax)(jnp.asarray(x))[::2], np.abs(x[::2]).max(axis=1, keepdims=True))
    assert np.isnan(ieee.absmax(jnp.asarray(x))[1, 0])


def test_absmax_along_another_axis_and_of_nan():
    x = _normals(11, 12).reshape(3, 4)
    oracles.same_bits(ieee.absmax(jnp.asarray(x), axis=0), np.abs(x).max(axis=0, keepdims=True))
    x[1, 2] = np.nan
    assert np.isnan(np.asarray(ieee.absmax(jnp.asarray(x)))).ravel().tolist() == [False, True, False]
    assert ieee.absmax(jnp.array([1.0, -jnp.inf]))[0] == jnp.inf


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 100])
def test_ordered_sum_is_near_the_exact_sum(n):
    x = _normals(12, 4 * n).reshape(4, n)
    exact = x.astype(np.float64).sum(axis=-1, keepdims=True)
    bound = np.abs(x).sum(axis=-1, keepdims=True) * (np.ceil(np.log2(n)) + 1) * 2.0**-24
    assert (np.abs(np.asarray(ieee.ordered_sum(jnp.asarray(x)), np.float64) - exact) <= bound).all()


def test_ordered_sum_has_one_bit_pattern():
    x = jnp.asarray(_normals(13, 400).reshape(4, 100))
    eager = ieee.ordered_sum(x)
    oracles.same_bits(jax.jit(ieee.ordered_sum)(x), eager)
    oracles.same_bits(jax.vmap(ieee.ordered_sum)(x), eager)
    oracles.same_bits(jax.lax.map(ieee.ordered_sum, x), eager)
    padded = jnp.pad(x[:, :64], ((0, 0), (0, 64)))  # zeros behind a whole power of two change nothing
    oracles.same_bits(ieee.ordered_sum(padded), ieee.ordered_sum(x[:, :64]))


def test_powers_of_two():
    e = np.arange(-126, 128)
    oracles.same_bits(ieee.power_of_two(jnp.asarray(e, jnp.int32)), np.ldexp(np.float32(1), e))


def test_exponents():
    x = oracles.every_bf16()
    x = x[np.isfinite(x)]
    normal = np.abs(x) >= np.finfo(np.float32).tiny
    expected = np.where(normal, np.frexp(x)[1] - 1, -127)
    np.testing.assert_array_equal(ieee.exponent_of(jnp.asarray(x)), expected)
