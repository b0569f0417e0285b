"""Theory of outliers so far out that their square hides the bulk's error in float64, against what the limit must be."""

import numpy as np
import pytest
from scipy import integrate, stats

import quantsim as qs
from quantsim.populations import Empirical, Laplace, Mixture, Normal, StudentT
from quantsim.theory import weight_mean_abs, weight_mse, weight_rel_mse

RATE = 0.01
VALUES = stats.norm.ppf((np.arange(500) + 0.5) / 500)
BULKS = [
    Normal(),
    Laplace(0.02),
    StudentT(5.0),
    Mixture((0.9, 0.1), (Normal(), Normal(3.0))),
    Empirical(VALUES),
    Normal().with_outliers(rate=0.1, magnitude=5.0),
]
#: Specs whose scale puts an outlier on a level, and the weights of a block.
EXACT = {
    "int8:block32": 32,
    "int4:block32": 32,
    "int4:block32:absmax:away": 32,
    "int8:block32:absmax:truncate": 32,
    "int8:block32:p100": 32,
    "int2:block16": 16,
    "e2m1:block32": 32,
    "e4m3:block32": 32,
    "nf4:block64": 64,
}
FAR = [1e12, 1e12 / 3, 1e20, 1e37]
SOME = {"int8:block32:absmax:truncate": [127 * 2.0**40, 127 * 2.0**100], "int8:block32:p100": [1e12]}


def struck(n):
    """Share of weights that are no outliers and share a block with one."""
    return 1 - RATE - (1 - RATE) ** n


@pytest.mark.parametrize("spec", EXACT)
def test_of_far_outliers_only_the_bulk_that_becomes_zero_is_left(spec):
    """Outliers fall on a level, the others of their blocks become 0, all other blocks are those of the bulk."""
    q, n = qs.parse(spec), EXACT[spec]
    for bulk in BULKS if spec == "int8:block32" else BULKS[:1] + BULKS[4:5]:
        expected = struck(n) * bulk.moment(2) + (1 - RATE) ** n * weight_mse(bulk, q)
        for value in SOME.get(spec, FAR):
            pop = bulk.with_outliers(rate=RATE, value=value)
            assert weight_mse(pop, q) == pytest.approx(expected, rel=1e-7), (bulk, value)


def test_outliers_of_1e8_standard_deviations():
    """0.99 - 0.99^32 = 0.26502 of the weights become 0, over a second moment of 0.01 1e16."""
    pop, q = Normal().with_outliers(rate=RATE, magnitude=1e8), qs.parse("int8:block32")
    assert weight_mse(pop, q) == pytest.approx(0.26502, rel=2e-4)
    assert weight_rel_mse(pop, q) == pytest.approx(2.6502e-15, rel=2e-4)


@pytest.mark.parametrize("sign", ["positive", "negative", "random"])
@pytest.mark.parametrize("spec", ["int8:block32", "nf4:block64"])
def test_mean_magnitudes_of_the_error(spec, sign):
    q, n = qs.parse(spec), EXACT[spec]
    expected = struck(n) * (2 / np.pi) ** 0.5 + (1 - RATE) ** n * weight_mean_abs(Normal(), q)
    pop = Normal().with_outliers(rate=RATE, magnitude=1e15, sign=sign)
    assert weight_mean_abs(pop, q) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("spec", ["mxfp4", "mxfp6_e2m3", "mxint8", "mxfp8_e4m3"])
def test_outliers_that_are_the_largest_level_of_an_mx_block(spec):
    top = {"mxfp4": 6.0, "mxfp6_e2m3": 7.5, "mxint8": 1.984375, "mxfp8_e4m3": 448.0}[spec]
    q, pop = qs.parse(spec), Normal().with_outliers(rate=RATE, value=top * 2.0**60)
    expected = struck(32) + (1 - RATE) ** 32 * weight_mse(Normal(), q)
    assert weight_mse(pop, q) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("spec", "sign"), [("q4_0", "positive"), ("q5_0", "negative"), ("q8_0", "random")])
def test_outliers_whose_float16_scale_is_exact(spec, sign):
    value = {"q4_0": 8.0, "q5_0": 16.0, "q8_0": 127.0}[spec] * 2.0**12
    q, pop = qs.parse(spec), Normal().with_outliers(rate=RATE, value=value, sign=sign)
    expected = struck(32) + (1 - RATE) ** 32 * weight_mse(Normal(), q)
    assert weight_mse(pop, q) == pytest.approx(expected, rel=1e-9)


def test_outliers_whose_float16_scale_is_rounded():
    q, value = qs.parse("q8_0"), 1e6
    own = float(np.float16(value / 127)) * 127 - value
    expected = RATE * own**2 + struck(32) + (1 - RATE) ** 32 * weight_mse(Normal(), q)
    assert weight_mse(Normal().with_outliers(rate=RATE, value=value), q) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("spec", ["bf16", "e5m2", "bf16:stochastic"])
def test_casts_of_outliers_that_are_levels(spec):
    q, value = qs.parse(spec), 2.0**15 if spec == "e5m2" else 2.0**100
    pop = Normal().with_outliers(rate=RATE, value=value)
    expected = (1 - RATE) * weight_mse(Normal(), q)
    assert weight_mse(pop, q) == pytest.approx(expected, rel=1e-6)


def test_of_a_tensor_with_a_far_outlier_nothing_but_outliers_is_left():
    """NVFP4's block scales are counted in units of the largest weight: those of all other blocks become 0."""
    pop = Normal().with_outliers(rate=RATE, magnitude=1e10)
    for spec in ("nvfp4", "int8:tensor"):
        assert weight_mse(pop, qs.parse(spec), (256, 256)) == pytest.approx(1 - RATE, rel=1e-8), spec


def least_squared(m):
    """E[min(x_1 … x_m, 0)^2] of m normal weights: the integral of 2 x P(min < -x) over x > 0."""
    return integrate.quad(lambda x: -2 * x * np.expm1(m * stats.norm.logsf(-x)), 0, 12, epsabs=1e-12)[0]


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("magnitude", [1e5, 1e9])
def test_a_minmax_range_that_one_sided_outliers_open(bits, magnitude):
    """The zero point is 0, so of its block the bulk becomes 0, and an outlier b errs by the minimum a: it is b - a."""
    q, n = qs.parse(f"int{bits}:block32:minmax"), 32
    k = np.arange(1, n)
    chance = stats.binom.pmf(k, n, RATE)
    own = np.array([least_squared(int(n - j)) for j in k])
    expected = float((chance * ((n - k) + k * own)).sum() / n) + (1 - RATE) ** n * weight_mse(Normal(), q)
    for sign in ("positive", "negative"):
        pop = Normal().with_outliers(rate=RATE, magnitude=magnitude, sign=sign)
        assert weight_mse(pop, q) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("spec", ["int8:block32", "e2m1:block32", "int4:block32:p100", "nf4:block64"])
def test_values_that_lie_far_out_are_outliers(spec):
    """The same weights as values of one population, and as a bulk with outliers."""
    q = qs.parse(spec)
    for at in (1e6, 1e14):
        far = np.repeat([at, -at], [3, 3])
        values, bulk = Empirical(np.concatenate([np.repeat(VALUES, 2), far])), Empirical(VALUES)
        pop = bulk.with_outliers(rate=6 / 1006, value=at)
        assert weight_mse(values, q) == pytest.approx(weight_mse(pop, q), rel=1e-8)


def test_which_values_lie_far_out():
    assert Empirical(VALUES)._points()[0].size == 0
    at, mass = Empirical([*VALUES, 5e3, -5e3, 5e3])._points()
    assert at.tolist() == [-5e3, 5e3]
    np.testing.assert_allclose(mass, np.array([1, 2]) / 503)
    many = Empirical([*VALUES, *(1e6 + 1e3 * np.arange(65))])  # more than are told apart
    assert many._points()[0].size == 0
    assert Empirical([0.0, 0.0, 1e-3])._points()[0].tolist() == [np.float32(1e-3)]
