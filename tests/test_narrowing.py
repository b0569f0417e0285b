"""Wider numbers to float32, and a cast of them is one rounding: against exact integers and rationals, and ml_dtypes."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim import formats
from quantsim.numerics.narrowing import to_nearest, to_odd
from tests import oracles

CASTS = [*oracles.TYPES, "e3m3", "e7m8", "tf32", "e5m21"]


def _around_midpoints(name: str) -> np.ndarray:
    """Midpoints of neighbouring levels, a few hundred over the whole range, and the float64 numbers on either side."""
    f = formats.parse(name)
    g = formats.grid(f)
    exponents = np.unique(np.linspace(max(g.min_exponent, -100), np.floor(np.log2(g.high)) - 1, 20).astype(int))
    digits = np.unique(np.linspace(0, 2**f.mantissa_bits - 1, 9).astype(int))
    significands = 1 + (digits + 0.5) / 2**f.mantissa_bits
    middle = np.outer(2.0**exponents, significands).ravel()
    middle = np.concatenate([middle, -middle])
    return np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])


def _rounded(x: float, f: formats.Float, how: str) -> float:
    """One rounding in exact arithmetic, of a number within the range."""
    magnitude, g = abs(Fraction(x)), formats.grid(f)
    exponent = max(int(np.floor(np.log2(abs(x)))), g.min_exponent)
    quantum = Fraction(2) ** (exponent - f.mantissa_bits)
    whole, rest = divmod(magnitude / quantum, 1)
    up = {"even": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1),
          "away": rest >= Fraction(1, 2), "truncate": False}[how]  # fmt: skip
    return float(np.copysign(float((whole + up) * quantum), x))


@pytest.mark.parametrize("how", ["even", "away", "truncate"])
@pytest.mark.parametrize("name", CASTS)
def test_a_cast_of_float64_is_one_rounding(name, how):
    f, x = formats.parse(name), _around_midpoints(name)
    expected = np.array([_rounded(v, f, how) for v in x])
    oracles.same_bits(qs.parse(f"{name}:{how}" if how != "even" else name).roundtrip(x), expected + 0.0 * x)


def test_the_inputs_tell_one_rounding_from_two():
    for name in CASTS:
        f, x = formats.parse(name), _around_midpoints(name)
        once = np.array([_rounded(v, f, "even") for v in x])
        twice = np.asarray(qs.parse(name).roundtrip(x.astype(np.float32)))
        assert np.count_nonzero(once != twice) >= len(x) / 5, name


#: 64-bit and 32-bit integers whose float32 is a tie of bf16, though they are none.
LARGE = [16973823, 16973825, 2**31 - 1, 2**24 + 1, 2**53 + 1, 2**62 + 2**54 + 1, 2**62 + 2**54 - 1, 2**63 - 1]


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "uint32"])
@pytest.mark.parametrize("name", ["bf16", "tf32", "e8m3"])
def test_a_cast_of_large_integers_is_one_rounding(name, dtype):
    f, info = formats.parse(name), np.iinfo(dtype)
    whole = [s * v for v in LARGE for s in (1, -1) if info.min <= s * v <= info.max] + [info.min, info.max]
    expected = [_exactly(v, f.mantissa_bits) for v in whole]
    for given in (np.array(whole, dtype), *([jnp.array(whole, dtype)] if info.bits == 32 else [])):
        assert np.asarray(qs.parse(name).roundtrip(given)).tolist() == expected


def _exactly(whole: int, mantissa_bits: int) -> float:
    """A Python integer rounded to so many bits behind the first, half to even."""
    drop = max(abs(whole).bit_length() - mantissa_bits - 1, 0)
    kept, rest = abs(whole) >> drop, abs(whole) & ((1 << drop) - 1)
    half = (1 << drop) >> 1
    kept += drop > 0 and (rest > half or (rest == half and kept % 2 == 1))
    return float(np.copysign(float(kept << drop), whole))


def test_odd_is_the_neighbour_whose_last_bit_is_one():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(4000) * 10.0 ** rng.uniform(-44, 38, 4000), [0.0, -0.0, 1.0, -1e-60]])
    odd, near = to_odd(x), to_nearest(x)
    bits, exact = odd.view(np.int32), near.astype(np.float64) == x
    np.testing.assert_array_equal(odd[exact], near[exact])
    assert (bits[~exact] % 2 == 1).all()
    assert (np.abs(odd.astype(np.float64) - x) < np.spacing(np.abs(odd)).astype(np.float64)).all()
    assert (np.signbit(odd) == np.signbit(x)).all()


def test_odd_leaves_what_float32_holds_and_what_is_beyond_it():
    for dtype in (np.float32, np.float16, np.int16, np.uint8):
        x = np.arange(100).astype(dtype)
        np.testing.assert_array_equal(to_odd(x), x.astype(np.float32))
    assert to_odd(np.array([1e39, -1e39, np.nan])).astype(str).tolist() == ["inf", "-inf", "nan"]


def test_with_a_scale_weights_are_float32_first():
    """The definition: weights, scale and quotient are float32. So codes do not tell float64 from its float32."""
    x = np.random.default_rng(1).standard_normal((4, 64)) * (1 + 1e-12)
    for spec in ("int8:channel", "e4m3:tensor", "nf4:block32"):
        oracles.same_bits(qs.parse(spec).roundtrip(x), qs.parse(spec).roundtrip(x.astype(np.float32)))


def test_the_gradient_passes_through_a_cast_of_float64():
    with jax.enable_x64(True):
        grad = jax.grad(lambda x: qs.parse("e4m3").roundtrip(x).sum())(jnp.array([431.99999999999994, 999.0]))
        assert grad.tolist() == [1.0, 0.0]
        assert qs.parse("e4m3").roundtrip(jnp.array([431.99999999999994])).tolist() == [416.0]
        assert qs.parse("bf16").roundtrip(jnp.array([16973823, 2**62 + 2**54 + 1])).tolist() == [
            16908288.0,
            float(2**62 + 2**55),
        ]
