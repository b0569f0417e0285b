"""Scales: every rule against float64 NumPy, and the padding of a ragged tail never counts."""

from inspect import unwrap
from typing import get_args

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import integrate, optimize, stats

import quantsim as qs
from quantsim import calibration, formats
from quantsim.calibration import MSE, RMS, Absmax, Clip, MinMax, Percentile, calibrate, minmax, normal_reach
from quantsim.formats import Integer
from tests import oracles

#: Of what is quantized: a block of 32 and a tail. Quantizers of one structure share a program for a shape.
TAIL = 21
SHAPE = (6, 32 + TAIL)

_calibrate = jax.jit(calibrate, static_argnums=(1, 2, 3))


def _blocks(seed: int, rows: int = 40, size: int = 32) -> np.ndarray:
    """Heavy-tailed weights of very different scale from block to block."""
    g = np.random.default_rng(seed)
    return (g.standard_t(3, (rows, size)) * 10.0 ** g.uniform(-6, 6, (rows, 1))).astype(np.float32)


def _scales(w: np.ndarray, fmt: formats.Format, rule) -> np.ndarray:
    return np.asarray(_calibrate(jnp.asarray(w), fmt, rule, w.shape[-1]))


# --- absmax and minmax ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int2", "int4", "int8", "e4m3", "e2m1", "nf4", "f16"])
def test_absmax_is_one_division(name):
    fmt, w = formats.parse(name), _blocks(1)
    divisor = {"int2": 1, "int4": 7, "int8": 127, "e4m3": 448, "e2m1": 6, "nf4": 1, "f16": 65504}[name]
    oracles.same_bits(_scales(w, fmt, Absmax()), np.abs(w).max(axis=-1, keepdims=True) / np.float32(divisor))


@pytest.mark.parametrize(("bounds", "divisor"), [("narrow", 127), ("half", 127.5), ("full", 128)])
def test_bounds_are_divisors(bounds, divisor):
    w = _blocks(2)
    expected = np.abs(w).max(axis=-1, keepdims=True) / np.float32(divisor)
    oracles.same_bits(_scales(w, Integer("int8", 8, bounds), Absmax()), expected)


def test_signed_bounds_put_the_extreme_on_the_lowest_code():
    w = _blocks(3)
    extreme = np.take_along_axis(w, np.abs(w).argmax(axis=-1)[:, None], axis=-1)
    oracles.same_bits(_scales(w, Integer("int4", 4, "signed"), Absmax()), extreme / np.float32(-8))
    q = qs.parse("int4:channel:absmax:signed")
    oracles.same_bits(np.take_along_axis(np.asarray(q.roundtrip(w)), np.abs(w).argmax(axis=-1)[:, None], -1), extreme)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_minmax(bits):
    w = _blocks(4) + np.linspace(-3, 3, 40, dtype=np.float32)[:, None]
    w[0], w[1] = np.abs(w[0]), -np.abs(w[1])  # one-sided blocks reach to zero
    scale, zero = (np.asarray(v) for v in minmax(jnp.asarray(w), Integer("int", bits)))
    for i, block in enumerate(w):
        _, expected, z, _ = oracles.minmax_quantize(block, bits)
        oracles.same_bits(scale[i], [expected])
        assert (float(zero[i, 0]), 0 <= z < 2**bits) == (z, True)
    assert (zero[0, 0], zero[1, 0]) == (0, 2**bits - 1)


def test_zero_point_belongs_to_the_stored_scale():
    w = np.random.default_rng(5).uniform(-1.0, 3.0, (40, 32)).astype(np.float32)
    scale, zero = (np.asarray(v) for v in minmax(jnp.asarray(w), Integer("int", 8), formats.FORMATS["e4m3"]))
    stored = ((w.max(1) - w.min(1)) / np.float32(255)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert (scale[:, 0] == stored).all()
    assert (zero[:, 0] == np.minimum(np.round(-w.min(1) / stored), 255)).all()


# --- percentile -----------------------------------------------------------------------------------------------------


PERCENTILES = [(50.0, 1), (50.0, 2), (90.0, 11), (100.0, 32), (99.9, 32), (70.0, 301), (0.5, 301), (99.9, 1000)]


@pytest.mark.parametrize(("p", "n"), PERCENTILES)
def test_percentile_is_that_of_numpy(p, n):
    w = _blocks(5, 20, n)
    reach = _scales(w, formats.parse("int2"), Percentile(p))  # int2: the scale is the reach
    assert oracles.ulps(reach, np.percentile(np.abs(w.astype(np.float64)), p, axis=-1, keepdims=True)) <= 2


@pytest.mark.parametrize("p", [50.0, 90.0, 99.0])
def test_percentile_of_a_ragged_tail(p):
    w = _blocks(6, 7, 75)
    scale = np.asarray(qs.parse(f"int2:block32:p{p}").quantize(w).scale)
    for j, part in enumerate((w[:, :32], w[:, 32:64], w[:, 64:])):
        assert oracles.ulps(scale[:, j], np.percentile(np.abs(part.astype(np.float64)), p, axis=-1)) <= 2


def test_percentile_where_the_rank_is_a_hair_below_a_whole_number():
    w = np.arange(1, 12, dtype=np.float32)[None]  # (1 - 90/100) * 10 is 0.9999999999999998 in float64
    assert _scales(w, formats.parse("int2"), Percentile(90.0))[0, 0] == 10


@pytest.mark.parametrize("p", [0.0, -1.0, 100.1, float("nan")])
def test_what_is_no_percentile(p):
    with pytest.raises(ValueError, match=r"a percentile lies above 0 and at most at 100.*for example p99\.9"):
        Percentile(p)


# --- clip -----------------------------------------------------------------------------------------------------------


def test_a_clip_ratio_may_be_traced():
    """One program for a sweep; each of its results is that of the ratio as a number, to the bit."""
    w, block = _blocks(12, *SHAPE), qs.granularity.Block(32)
    ratios = np.float32([0.5, 0.7, 0.9])
    for fmt in (formats.parse("int4"), formats.parse("nf4")):

        def each(r, fmt=fmt):
            q = qs.Quantizer(fmt, block, Clip(r))
            qw = q.quantize(w)
            return qw.codes, qw.dequantize(), q.roundtrip(w), q.clipped(w)

        codes, decoded, roundtrip, clipped = (np.asarray(part) for part in jax.jit(jax.vmap(each))(ratios))
        for i, r in enumerate(ratios):
            q = qs.Quantizer(fmt, block, Clip(float(r)))
            np.testing.assert_array_equal(codes[i], q.quantize(w).codes)
            oracles.same_bits(decoded[i], q.roundtrip(w))
            oracles.same_bits(roundtrip[i], q.roundtrip(w))
            np.testing.assert_array_equal(clipped[i], q.clipped(w))


@pytest.mark.parametrize("ratio", [np.float32(0.5), jnp.float32(0.5), np.array(0.5), 0.5])
def test_a_known_clip_ratio_is_a_float(ratio):
    unwrap(Clip.__post_init__)(clip := _made(Clip, ratio=ratio))
    assert (clip, hash(clip), str(qs.Quantizer(formats.parse("int4"), qs.granularity.Tensor(), clip))) == (
        Clip(0.5),
        hash(Clip(0.5)),
        "int4:tensor:clip0.5",
    )


@pytest.mark.parametrize(
    ("kind", "field", "wrong", "message"),
    [
        (Clip, "ratio", None, "a clip ratio is a number, not None; for example clip0.8"),
        (Clip, "ratio", "x", "a clip ratio is a number, not 'x'; for example clip0.8"),
        (Percentile, "p", "all", "a percentile is a number, not 'all'; for example p99.9"),
    ],
)
def test_what_is_no_number(kind, field, wrong, message):
    rule = _made(kind, **{field: wrong})
    with pytest.raises(TypeError, match=message):
        unwrap(kind.__post_init__)(rule)


def _made(kind, **fields):
    """A rule that the type checker of the tests would not let through."""
    rule = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(rule, name, value)
    return rule


def test_a_percentile_is_not_traced():
    with pytest.raises(TypeError, match="a percentile is known before a program is compiled"):
        jax.jit(lambda p: unwrap(Percentile.__post_init__)(_made(Percentile, p=p)))(50.0)


# --- mean squared error ---------------------------------------------------------------------------------------------

RATIOS = 2.0 ** (-np.arange(128) / 16)


def _candidates(block: np.ndarray, fmt: formats.Format) -> np.ndarray:
    """The scales that the search tries, in float32."""
    return np.abs(block).max() * RATIOS.astype(np.float32) / np.float32(formats.reach(fmt))


@pytest.mark.parametrize("name", ["int2", "int4", "int8", "e2m1", "nf4"])
def test_mse_search_equals_brute_force(name):
    fmt, w = formats.parse(name), _blocks(7, 30, 48)
    for block, scale in zip(w, _scales(w, fmt, MSE())[:, 0], strict=True):
        candidates = _candidates(block, fmt)
        losses = oracles.grid_losses(block, candidates, formats.levels(fmt))
        k = int(np.argmin(np.abs(candidates - scale)))
        assert scale == candidates[k]
        # the package sums in float32: it may prefer a candidate whose loss is equal to a few ulp
        assert losses[k] <= losses.min() * (1 + 1e-5)
        assert losses[k] <= losses[0] * (1 + 1e-5)  # candidate 0 is absmax
        second = np.partition(losses, 1)[1]
        assert second < losses.min() * (1 + 1e-5) or k == int(np.argmin(losses))


@pytest.mark.parametrize("name", ["int3", "e2m1"])
def test_mse_search_has_no_larger_error_than_absmax(name):
    w = _blocks(8, 60, 32)
    error = [np.float64(qs.parse(f"{name}:block32{tail}").roundtrip(w)) - w for tail in ("", ":mse")]
    absmax, mse = ((e**2).sum(axis=-1) for e in error)
    assert (mse <= absmax * (1 + 1e-5)).all()
    assert (mse < absmax * 0.99).any()


# --- root mean square -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 100])
@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e36])
def test_rms(n, unit):
    w = (np.random.default_rng(9).standard_normal((20, n)) * unit).astype(np.float32)
    fmt = formats.parse("int4")
    expected = np.sqrt((w.astype(np.float64) ** 2).mean(axis=-1, keepdims=True)) * normal_reach(fmt) / 7
    assert oracles.ulps(_scales(w, fmt, RMS()), expected) <= 4 + np.log2(n)


def _uniform_loss(reach: float, last: int) -> float:
    """Mean squared error of a standard normal on the levels -last … last times reach / last."""
    step = reach / last

    def over(level: int) -> float:
        low, high = (level - 0.5) * step, np.inf if level == last else (level + 0.5) * step
        square = lambda x: (x - level * step) ** 2 * stats.norm.pdf(x)  # noqa: E731
        return integrate.quad(square, low, high, epsabs=1e-13)[0]

    return over(0) + 2 * sum(over(k) for k in range(1, last + 1))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_reach_of_a_normal_population_is_optimal(bits):
    last = 2 ** (bits - 1) - 1
    best = optimize.minimize_scalar(
        lambda r: _uniform_loss(r, last), bounds=(0.5, 5), method="bounded", options={"xatol": 1e-7}
    )
    assert normal_reach(formats.parse(f"int{bits}")) == pytest.approx(best.x, rel=1e-5)


@pytest.mark.parametrize("name", ["int2", "int8", "nf4", "e4m3"])
def test_reach_is_the_float32_that_the_quantizer_multiplies_by(name):
    # the minimum is flat: the last digits of a float64 moved from one process to the next, and predictions with them
    reach = normal_reach(formats.parse(name))
    assert reach == float(np.float32(reach))


def test_ternary_reach_is_the_published_one():
    # Max 1960, three levels, uniform: +-1.224, cut at 0.612, error 0.1902
    reach = normal_reach(formats.parse("int2"))
    assert reach == pytest.approx(1.224, abs=5e-4)
    assert _uniform_loss(reach, 1) == pytest.approx(0.1902, abs=5e-5)


# --- what holds for every rule --------------------------------------------------------------------------------------

SPECS = [
    "int8:block32",
    "int8:block32:minmax",
    "int8:block32:p90",
    "int4:block32:clip0.7",
    "int4:block32:mse",
    "int4:block32:rms",
]
#: What needs a scale format; see test_stored_scales.py.
CHOSEN = {calibration.FourOverSix, calibration.Search}


def test_every_rule_is_tested_here():
    assert {type(qs.parse(s).calibration) for s in SPECS} == set(get_args(calibration.Calibration)) - CHOSEN


@pytest.mark.parametrize("spec", SPECS)
def test_the_padding_of_a_tail_does_not_matter(spec):
    w = _blocks(10, *SHAPE)
    qw, alone = qs.parse(spec).quantize(w), qs.parse(spec.replace("block32", f"block{TAIL}")).quantize(w[:, 32:])
    # sums of squares are added in another order where they are padded; everything else is the same to the bit
    of_tail = np.abs(np.asarray(qw.scale)[:, 1])
    assert oracles.ulps(of_tail, np.abs(np.asarray(alone.scale)[:, 0])) <= (4 if "rms" in spec else 0)
    if "rms" not in spec:
        np.testing.assert_array_equal(np.asarray(qw.codes)[:, 32:], alone.codes)
        oracles.same_bits(np.asarray(qw.dequantize())[:, 32:], alone.dequantize())


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("scale_format", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_the_stored_scale_is_the_rounded_one_and_makes_the_codes(spec, scale_format, dtype):
    w = np.random.default_rng(11).standard_normal(SHAPE).astype(np.float32)
    calibration_name = spec.split(":")[2] if spec.count(":") == 2 else "absmax"
    exact = qs.parse(spec).quantize(w)
    qw = qs.parse(f"{':'.join(spec.split(':')[:2])}:{calibration_name}:{scale_format}").quantize(w)
    stored = np.asarray(exact.scale).astype(dtype).astype(np.float32)
    oracles.same_bits(qw.scale, stored)

    def spread(values):
        return np.repeat(np.asarray(values), 32, axis=-1)[:, : SHAPE[1]]

    zero = 0 if qw.zero_point is None else spread(qw.zero_point)
    low, high = (0, 255) if qw.zero_point is not None else (-127, 127) if "int8" in spec else (-7, 7)
    codes = np.clip(np.round(w / spread(stored)) + zero, low, high)
    np.testing.assert_array_equal(qw.codes, codes)
    oracles.same_bits(qw.dequantize(), ((codes - zero) * spread(stored) + 0.0).astype(np.float32))


@pytest.mark.parametrize("rule", [Absmax(), Percentile(90.0), MSE(), RMS(), MinMax()], ids=lambda r: type(r).__name__)
def test_a_block_of_zeros_has_scale_zero(rule):
    w = jnp.zeros((2, 8))
    scale = (
        minmax(w, formats.parse("int4"))[0]
        if isinstance(rule, MinMax)
        else _calibrate(w, formats.parse("int4"), rule, 8)
    )
    oracles.same_bits(scale, np.zeros((2, 1)))
