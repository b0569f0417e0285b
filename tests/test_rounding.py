"""Elements are exact: every bfloat16 and float16 input, every midpoint of two levels and its float32 neighbours.

Policies, in the order in which the references state them: finite values beyond the range saturate; infinities are kept
by "ieee" formats, NaN in e4m3, saturated elsewhere; NaN is NaN and compares as NaN; magnitudes below 2^-126 count as
zero of their sign in formats with fewer than eight exponent bits; integers have no -0.
"""

from functools import partial
from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim import formats, rounding
from quantsim.formats import Codebook, Float, Grid, Integer, Traced
from quantsim.quantizer.structure import Kind, has_numbers, numbers_of, traced
from tests import oracles

GENERIC = ["e2m0", "e3m0", "e5m0", "e7m0", "e2m5", "e3m3", "e4m4", "e5m6", "e6m9", "e7m1", "e7m8", "e8m3"]
NAMES = [*(n for n in formats.FORMATS if n != "f32"), "uint1", *GENERIC]
BOOKS = {
    "dense": Codebook("dense", tuple(np.linspace(-1, 1, 77).tolist())),  # beyond the chain of selects
    "skew": Codebook("skew", (-3.0, -2.5, 0.125, 7.0)),
}
SIGNED = {f"int{b}-{bounds}": Integer(f"int{b}", b, bounds) for b in (3, 8) for bounds in ("half", "full", "signed")}


def _format(name: str) -> formats.Format:
    return (BOOKS | SIGNED | {"uint1": Integer("uint1", 1, signed=False)}).get(name) or formats.parse(name)


def _oracle(x: np.ndarray, f: formats.Format, how: str = "even") -> np.ndarray:
    if isinstance(f, Codebook):
        return np.where(np.isnan(x), x, np.float32(f.values)[oracles.round_codebook(x, f.values)])
    if isinstance(f, Integer):
        half = 2.0 ** (f.bits - 1)
        low, high = (-half + (f.bounds == "narrow"), half - 1) if f.signed else (0.0, 2 * half - 1)
        return oracles.round_integer(x, low, high, how)
    return oracles.round_float(x, f.exponent_bits, f.mantissa_bits, f.specials, how)


def _levels(f: formats.Format, stride: int = 1) -> np.ndarray:
    """Levels, listed here also where the package does not; of long lists the ends and every ``stride``-th run of 64."""
    if not isinstance(f, Float):
        return formats.levels(f)
    v = oracles.float_codes(f.exponent_bits, f.mantissa_bits, f.specials)
    v = v[np.isfinite(v)]
    v = np.concatenate([v[i : i + 64] for i in range(0, len(v), 64 * stride)] + [v[-64:]])
    return np.unique(np.concatenate([-v, v]))


def _inputs(f: formats.Format, stride: int = 1) -> np.ndarray:
    return np.concatenate([oracles.every_bf16(), oracles.every_f16(), oracles.midpoints(_levels(f, stride))])


# Formats that differ in numbers only share a program, as they do in a quantizer, and arrays of few lengths, too.


def _padded(values) -> np.ndarray:
    """With zeros behind it, to a length that is 2^17, 2^18, …"""
    x = np.asarray(values)
    return np.pad(x, (0, 2 ** max(17, (len(x) - 1).bit_length()) - len(x)))


def _taken_apart(f: formats.Format) -> tuple:
    return (Kind(formats.bounds(f)), np.float32(numbers_of(f))) if has_numbers(f) else (f, np.zeros(0, np.float32))


def _put_together(static, numbers) -> formats.Format | Traced:
    given = iter(numbers)
    return traced(static, lambda: next(given)) if isinstance(static, Kind) else static


@partial(jax.jit, static_argnums=(0, 3))
def _program(static, numbers, x, how, key):
    f = _put_together(static, numbers)
    codes = rounding.encode(x, f, how, key)
    return rounding.snap(x, f, how, key), codes, rounding.decode(codes, f)


@partial(jax.jit, static_argnums=0)
def _decoding(static, numbers, codes):
    return rounding.decode(codes, _put_together(static, numbers))


def _all_ways(x, f, how="even", key=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels of ``x``, codes, and levels of the codes."""
    results = _program(*_taken_apart(f), _padded(np.float32(x)), how, key)
    snapped, codes, decoded = (np.asarray(v)[: len(x)] for v in results)
    return snapped, codes.astype(rounding.code_dtype(f)), decoded


def _decode(codes, f) -> np.ndarray:
    return np.asarray(_decoding(*_taken_apart(f), _padded(np.asarray(codes))))[: len(codes)]


def _check_format(f: formats.Format, how: str, stride: int) -> None:
    x = _inputs(f, stride)
    snapped, codes, decoded = _all_ways(x, f, how)
    expected = _oracle(x, f, how)
    oracles.same_bits(snapped, expected)
    # a format without a code for NaN stores another value in its place
    has_nan = isinstance(f, Float) and f.specials != "finite"
    known = np.ones(len(x), bool) if has_nan else ~np.isnan(x)
    oracles.same_bits(decoded[known], expected[known])
    if isinstance(f, Integer):
        np.testing.assert_array_equal(codes[known], expected[known])


@pytest.mark.parametrize("name", [*NAMES, *BOOKS, *SIGNED])
def test_nearest_is_exact(name):
    _check_format(_format(name), "even", stride=64 if name == "tf32" else 1)


@pytest.mark.parametrize("how", ["away", "truncate"])
@pytest.mark.parametrize("name", ["int2", "int8", "e4m3", "e2m1", "e5m2", "f16", "bf16", "e5m0", "e7m8", "int8-full"])
def test_other_roundings_are_exact(name, how):
    _check_format(_format(name), how, stride=16)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["even", "away", "truncate"])
@pytest.mark.parametrize("name", [n for n in (*NAMES, *SIGNED) if n not in ("nf4", "af4", "fp4")])
def test_every_rounding_is_exact_everywhere(name, how):
    _check_format(_format(name), how, stride=1)


@pytest.mark.parametrize("name", list(oracles.TYPES))
def test_nearest_equals_the_cast_of_ml_dtypes(name):
    f, dtype = formats.parse(name), oracles.TYPES[name]
    x = _inputs(f)
    x = x[np.isfinite(x)]
    saturated = np.clip(x, np.float32(-formats.largest(f)), np.float32(formats.largest(f)))
    oracles.same_bits(_all_ways(x, f)[0], saturated.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("name", ["int4", "uint3", "e4m3", "e2m1", "f16", "e5m2", "e3m3"])
def test_static_facts_give_the_bits_of_numbers(name):
    """Block formats know their elements when they are compiled."""
    f = formats.parse(name)
    x = np.concatenate([oracles.every_bf16(), oracles.midpoints(_levels(f, 64))])
    static = (np.asarray(v) for v in jax.jit(_static_ways, static_argnums=1)(jnp.asarray(x), f))
    for got, expected in zip(static, _all_ways(x, f), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8))


def _static_ways(x, f):
    codes = rounding.encode(x, f)
    return rounding.snap(x, f), codes, rounding.decode(codes, f)


@pytest.mark.parametrize("name", list(oracles.TYPES))
def test_codes_are_those_of_ml_dtypes(name):
    f, dtype = formats.parse(name), np.dtype(oracles.TYPES[name])
    codes = np.arange(2**f.bits).astype(f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):
        values = codes.view(dtype).astype(np.float32)
    oracles.same_bits(_decode(codes, f), values)
    known = ~np.isnan(values)
    np.testing.assert_array_equal(_all_ways(values, f)[1][known], codes[known])


@pytest.mark.parametrize("name", [n for n in (*NAMES, *BOOKS, *SIGNED) if n not in ("tf32",)])
def test_all_codes_decode_to_the_levels(name):
    f = _format(name)
    low, high = (formats.levels(f)[0], formats.levels(f)[-1]) if isinstance(f, Integer) else (0, 2**f.bits - 1)
    codes = np.arange(low, min(high, len(formats.levels(f)) - 1 if isinstance(f, Codebook) else high) + 1)
    values = oracles.wide(_decode(codes.astype(rounding.code_dtype(f)), f))
    expected = oracles.wide(formats.levels(f).astype(np.float32))
    np.testing.assert_array_equal(np.unique(values[np.isfinite(values)]), expected)
    oracles.same_bits(_all_ways(expected, f)[0], expected)  # levels are fixed points


def test_float32_is_the_absence_of_rounding():
    x = np.concatenate([oracles.every_bf16(), oracles.every_f16()])
    snapped, codes, decoded = _all_ways(x, formats.parse("f32"))
    oracles.same_bits(snapped, x)
    oracles.same_bits(decoded, x)
    np.testing.assert_array_equal(codes[~np.isnan(x)], x.view(np.uint32)[~np.isnan(x)])


@pytest.mark.parametrize("name", ["f32", "tf32", "bf16", "f16", "e8m1"])
def test_any_nan_stays_nan(name):
    patterns = np.array([0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF, 0x7FFFFFFF, 0x7F80FFFF], np.uint32)
    snapped, _, decoded = _all_ways(patterns.view(np.float32), formats.parse(name))
    assert np.isnan(snapped).all()
    assert np.isnan(decoded).all()


# --- the kernel with traced facts -----------------------------------------------------------------------------------


def test_one_compiled_kernel_rounds_every_integer_and_small_float():
    traces = []

    @jax.jit
    def kernel(x, g):
        traces.append(g)
        return rounding.round_to_grid(x, Grid(*g))

    x = np.concatenate([oracles.every_bf16(), oracles.every_f16()])
    for name in [*NAMES, *SIGNED]:
        f = _format(name)
        if not has_numbers(f):
            continue
        got = np.asarray(kernel(x, tuple(formats.grid(f))))
        finite = np.isfinite(x)
        expected = _oracle(x, f)[finite]
        oracles.same_bits(got[finite] + np.float32(0) if isinstance(f, Integer) else got[finite], expected)
        ends = np.where(x > 0, formats.grid(f).high, formats.grid(f).low)
        np.testing.assert_array_equal(got[np.isinf(x)], ends[np.isinf(x)])
        assert np.isnan(got[np.isnan(x)]).all()
    assert len(traces) == 1


# --- stochastic rounding --------------------------------------------------------------------------------------------

DRAWS = 4096


def _between_levels(f: formats.Format) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points at several fractions of the gaps over the whole range, and the levels on either side."""
    v = _levels(f) if isinstance(f, Float) else formats.levels(f)
    at = np.unique(np.linspace(0, len(v) - 2, 15).astype(int))
    low, high = np.repeat(v[at], 4), np.repeat(v[at + 1], 4)
    x = (low + (high - low) * np.tile([0.1, 0.25, 0.5, 0.9], len(at))).astype(np.float32)
    return x, low, high


def _check_stochastic(name: str) -> None:
    f = formats.parse(name)
    x, low, high = _between_levels(f)
    draws = _all_ways(np.tile(x, DRAWS), f, "stochastic", jax.random.key(3))[0]
    draws = oracles.wide(draws).reshape(DRAWS, -1)
    assert ((draws == low) | (draws == high)).all()
    p = (x - low) / (high - low)
    se = np.sqrt(p * (1 - p) / DRAWS)
    assert (np.abs((draws - low).mean(axis=0) / (high - low) - p) < 5 * se).all()  # 60 points: chance of a miss 3e-5


@pytest.mark.parametrize("name", ["int4", "e4m3", "bf16"])
def test_stochastic_rounding_is_unbiased(name):
    _check_stochastic(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int2", "int3", "int8", "e2m1", "e5m2", "f16", "tf32", "e3m0", "e5m0", "e7m8"])
def test_stochastic_rounding_is_unbiased_in_more_formats(name):
    _check_stochastic(name)


@pytest.mark.parametrize("name", ["int4", "e4m3", "bf16"])
def test_stochastic_codes_and_values_come_from_the_same_draw(name):
    f, key = formats.parse(name), jax.random.key(6)
    v = formats.levels(f)[-300:]
    x = np.concatenate([np.linspace(-0.99, 0.99, 2000) * v[-1], v, [v[-1] * 1.0001, -v[-1] * 1.0001]]).astype(
        np.float32
    )
    snapped, _, decoded = _all_ways(x, f, "stochastic", key)
    oracles.same_bits(decoded, snapped)
    expected = np.concatenate([v, [v[-1], -v[-1]]])  # levels stay, and what lies beyond saturates
    np.testing.assert_array_equal(snapped[2000:], expected)


@pytest.mark.parametrize("name", ["int4", "e4m3", "bf16"])
def test_stochastic_rounding_needs_a_key(name):
    with pytest.raises(ValueError, match=r"needs a key: pass key=jax.random.key"):
        rounding.snap(jnp.ones(3), formats.parse(name), "stochastic")


def test_unknown_rounding():
    with pytest.raises(ValueError, match=r"unknown rounding 'up'; known are even, away, truncate, stochastic"):
        unwrap(rounding.round_integer)(jnp.ones(3), "up")  # past the type checker of the tests
