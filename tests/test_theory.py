"""Predictions against adaptive quadrature, published tables, closed forms and Monte Carlo."""

import itertools
import math
from functools import lru_cache

import numpy as np
import pytest
from scipy import integrate, special, stats

from quantsim import theory
from quantsim.populations import Empirical, Laplace, Mixture, Normal, StudentT, Uniform, key

POPULATIONS = [Normal(), Laplace(), Uniform(), StudentT(5.0)]
EVENLY = np.linspace(-3, 3, 15)
LEVELS = {
    "two": [-0.8, 0.8],
    "uneven": [-2.0, -0.5, 0.0, 0.1, 4.0],
    "positive": [0.5, 1.0, 3.0],
    "one": [0.3],
    "beyond the edge": [-4.0, -1.0, 0.0, 1.0, 4.0],
    "int4": EVENLY,
}


def cell_integral(pop, low, high, cost):
    """Adaptive quadrature over one cell, cut where the density or the cost has a kink, as far as there are weights."""
    reach = 3**0.5 * pop.std if isinstance(pop, Uniform) else np.inf
    low, high = max(low, -reach), min(high, reach)
    if low >= high:
        return 0.0
    kinks = [k * pop.std for k in (-50.0, -6.0, 0.0, 6.0, 50.0)]
    points = [low, *(k for k in kinks if low < k < high), high]
    density = reference(pop).pdf
    pieces = (
        integrate.quad(lambda x: cost(x) * density(x), a, b, epsabs=1e-15, epsrel=1e-12, limit=500)
        for a, b in itertools.pairwise(points)
    )
    return sum(value for value, _ in pieces)


def reference(pop):
    if isinstance(pop, StudentT):
        return stats.t(pop.df, scale=pop.std * math.sqrt((pop.df - 2) / pop.df))
    edge = 3**0.5 * pop.std
    return {
        Normal: stats.norm(scale=pop.std),
        Laplace: stats.laplace(scale=pop.std / 2**0.5),
        Uniform: stats.uniform(-edge, 2 * edge),
    }[type(pop)]


def by_quadrature(pop, levels):
    v = np.asarray(levels, np.float64)
    ends = [-np.inf, *((v[1:] + v[:-1]) / 2), np.inf]
    return sum(
        cell_integral(pop, a, b, lambda x, level=level: (x - level) ** 2)
        for level, (a, b) in zip(v, itertools.pairwise(ends), strict=True)
    )


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS.keys())
@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
def test_levels_mse_equals_adaptive_quadrature(pop, levels):
    assert theory.levels_mse(pop, levels) == pytest.approx(by_quadrature(pop, levels), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("std", [1e-3, 40.0])
@pytest.mark.parametrize("pop", [Normal, Laplace, Uniform, lambda s: StudentT(3.0, s), lambda s: StudentT(2.2, s)])
def test_levels_mse_equals_adaptive_quadrature_at_any_scale(pop, std):
    for levels in (EVENLY, np.linspace(-3, 3, 255)):
        expected = by_quadrature(pop(std), levels * std)
        assert theory.levels_mse(pop(std), levels * std) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
def test_one_level_leaves_the_second_moment_about_it(pop):
    assert theory.levels_mse(pop, [0.0]) == pytest.approx(1, rel=1e-9)
    assert theory.levels_mse(pop, [2.0]) == pytest.approx(5, rel=1e-9)


@pytest.mark.parametrize("df", [2.1, 2.5, 3.0])
def test_heavy_tails_are_followed_to_their_end(df):
    assert theory.levels_mse(StudentT(df), [0.0]) == pytest.approx(1, rel=1e-8)


def test_levels_mse_is_linear_in_the_population():
    parts, weights = (Normal(), Laplace(3.0)), (0.75, 0.25)
    expected = sum(w * theory.levels_mse(p, EVENLY) for w, p in zip(weights, parts, strict=True))
    assert theory.levels_mse(Mixture(weights, parts), EVENLY) == pytest.approx(expected, rel=1e-12)


def test_spread_outliers_add_their_own_error():
    # a rate r spread evenly over 10 to 30, all saturating at 3; the two halves are alike
    pop, r = Normal().with_outliers(rate=0.01, value=20.0, values="spread"), 0.01
    saturated = ((30 - 3) ** 3 - (10 - 3) ** 3) / 3 / 20
    for sign in ("random", "positive", "negative"):
        pop = Normal().with_outliers(rate=r, value=20.0, values="spread", sign=sign)
        expected = (1 - r) * theory.levels_mse(Normal(), EVENLY) + r * saturated
        assert theory.levels_mse(pop, EVENLY) == pytest.approx(expected, rel=1e-9)


def test_point_masses_count_one_by_one():
    values = [-3.7, -0.4, 0.1, 0.1, 2.3]
    nearest = EVENLY[np.abs(np.float32(values)[:, None].astype(np.float64) - EVENLY).argmin(axis=1)]
    expected = np.mean((nearest - np.float32(values)) ** 2)
    assert theory.levels_mse(Empirical(values), EVENLY) == pytest.approx(expected, rel=1e-12)
    mean = theory.levels_mean(Empirical(values), EVENLY, lambda x, level: (x - level) ** 2)
    assert mean == pytest.approx(expected, rel=1e-12)
    # a rate of outliers of 9 saturates at 3
    pop = Normal().with_outliers(rate=0.01, magnitude=9.0)
    expected = 0.99 * theory.levels_mse(Normal(), EVENLY) + 0.01 * (9 - 3) ** 2
    assert theory.levels_mse(pop, EVENLY) == pytest.approx(expected, rel=1e-12)
    both = Mixture((0.25, 0.75), (Empirical(values), Laplace()))
    expected = 0.25 * theory.levels_mse(Empirical(values), LEVELS["uneven"])
    expected += 0.75 * theory.levels_mse(Laplace(), LEVELS["uneven"])
    assert theory.levels_mse(both, LEVELS["uneven"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("pop", [Empirical([1.0, 2.0]), Normal().with_outliers(rate=0.01, magnitude=9.0)], ids=str)
def test_point_masses_have_no_entropy(pop):
    for bound in (theory.entropy, lambda p: theory.shannon_lower_bound(p, 4.0)):
        with pytest.raises(ValueError, match="point masses"):
            bound(pop)


@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
def test_levels_mean_of_another_cost(pop):
    v = np.array([-1.5, -0.5, 0.5, 1.5])
    ends = [-np.inf, -1.0, 0.0, 1.0, np.inf]
    expected = sum(
        cell_integral(pop, a, b, lambda x, level=level: x * (level - x))
        for level, (a, b) in zip(v, itertools.pairwise(ends), strict=True)
    )
    assert theory.levels_mean(pop, v, lambda x, level: x * (level - x)) == pytest.approx(expected, rel=1e-9)


# Max, Quantizing for minimum distortion, IRE Trans. Inform. Theory 6 (1960), table I: half of the levels, distortion.
MAX_1960 = {
    2: ([0.7980], 0.3634),
    4: ([0.4528, 1.510], 0.1175),
    8: ([0.2451, 0.7560, 1.344, 2.152], 0.03454),
}


@pytest.mark.parametrize("n", MAX_1960)
def test_lloyd_max_distortions_of_max_1960(n):
    half, distortion = MAX_1960[n]
    levels = [*(-v for v in half[::-1]), *half]
    last_digit = 1e-5 if n == 8 else 1e-4  # not always rounded to nearest in the table: N = 8 is .034548
    assert theory.levels_mse(Normal(), levels) == pytest.approx(distortion, abs=last_digit)


def test_the_two_level_quantizer_in_closed_form():
    # levels at +-E|x|: the error is 1 - (E|x|)^2, 1 - 2/pi for a normal and 1/2 for a Laplace population
    for pop, mean in ((Normal(), math.sqrt(2 / math.pi)), (Laplace(), math.sqrt(0.5)), (Uniform(), math.sqrt(0.75))):
        assert theory.levels_mse(pop, [-mean, mean]) == pytest.approx(1 - mean**2, rel=1e-10)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_int_mse_of_a_uniform_population_is_step_squared_over_12(bits):
    top = 2 ** (bits - 1) - 1
    pop = Uniform(3**-0.5)
    assert theory.int_mse(pop, 1.0, bits) == pytest.approx(1 / 12 / top**2, rel=1e-9)
    assert theory.int_mse(pop, 0.5, bits) == pytest.approx(by_quadrature(pop, np.arange(-top, top + 1) * 0.5 / top))


def harmonic(n, power=1):
    return math.fsum(1 / k**power for k in range(1, n + 1))


@pytest.mark.parametrize("n", [1, 2, 32, 1000, 10**6])
def test_expected_absmax_in_closed_form(n):
    edge, b = 3**0.5 * 0.02, 0.02 / 2**0.5
    # the largest of n exponentials of mean b is a sum of independent ones of means b, b/2, ..., b/n
    assert theory.expected_absmax(Uniform(0.02), n) == pytest.approx(edge * n / (n + 1), rel=1e-10)
    assert theory.expected_absmax(Laplace(0.02), n) == pytest.approx(b * harmonic(n), rel=1e-10)


def test_expected_absmax_of_one_and_two_normal_weights():
    # two: radius and angle are independent, E r = sqrt(pi/2), E max(|cos|, |sin|) = 4/pi sin(pi/4); together 2/sqrt(pi)
    assert theory.expected_absmax(Normal(), 1) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-11)
    assert theory.expected_absmax(Normal(5.0), 2) == pytest.approx(10 / math.sqrt(math.pi), rel=1e-11)


@pytest.mark.parametrize("df", [2.5, 3.0, 5.0, 30.0])
def test_expected_magnitude_of_student_t(df):
    unit = 2 * math.sqrt(df / math.pi) / (df - 1) * math.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2))
    expected = unit * math.sqrt((df - 2) / df)
    assert theory.expected_absmax(StudentT(df), 1) == pytest.approx(expected, rel=1e-10)


def test_expected_absmax_of_a_billion_normal_weights():
    # between the quantiles at which n tail(x) is 2 and 1/2; the extreme-value scale there is about 1/6
    low, high = (stats.norm.isf(c / 1e9 / 2) for c in (2, 0.5))
    assert low < theory.expected_absmax(Normal(), 10**9) < high


@pytest.mark.parametrize("n", [1, 2, 32, 1000])
@pytest.mark.parametrize("bits", [4, 8])
def test_absmax_int_mse_in_closed_form(n, bits):
    # E[max^2]: n/(n+2) of the edge squared for a uniform, b^2 (H_n^2 + H_n^(2)) for a Laplace population
    top = 2 ** (bits - 1) - 1
    noise = (n - 1) / n / 12 / top**2
    laplace = 0.5 * (harmonic(n) ** 2 + harmonic(n, 2))
    assert theory.absmax_int_mse(Uniform(), n, bits) == pytest.approx(noise * 3 * n / (n + 2), rel=1e-10)
    assert theory.absmax_int_mse(Laplace(), n, bits) == pytest.approx(noise * laplace, rel=1e-10)


@pytest.mark.parametrize("pop", [*POPULATIONS, StudentT(2.2), StudentT(3.0)], ids=str)
def test_rms_crest_and_its_sqnr(pop):
    assert theory.rms_crest(pop, 1) == pytest.approx(1, rel=1e-9)
    for n in (32, 1024):
        crest = theory.rms_crest(pop, n)
        assert crest >= pop.crest(n)
        sqnr = 12 * 127**2 / crest**2 * n / (n - 1)
        assert 1 / sqnr == pytest.approx(theory.absmax_int_mse(pop, n, 8), rel=1e-12)


@lru_cache
def blocks_of(pop, n):
    return np.asarray(pop.sample(key(17), (2**20 // n, n)), np.float64)


@pytest.mark.parametrize("n", [32, 1024])
@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
def test_absmax_int_mse_equals_monte_carlo(pop, n):
    # 2^20 weights, k = 4 standard errors over the blocks; int8 steps are 1/60 to 1/10 of a standard deviation
    w = blocks_of(pop, n)
    step = np.abs(w).max(axis=1, keepdims=True) / 127
    mse = ((np.round(w / step) * step - w) ** 2).mean(axis=1)
    assert abs(mse.mean() - theory.absmax_int_mse(pop, n, 8)) <= 4 * mse.std(ddof=1) / math.sqrt(mse.size)


@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
def test_absmax_quantiles_equal_monte_carlo(pop):
    # 2^15 blocks of 32: the share of blocks below a p-quantile is p within k = 4 standard errors
    largest = np.abs(blocks_of(pop, 32)).max(axis=1)
    p = np.array([0.01, 0.25, 0.5, 0.9, 0.999])
    below = (largest[:, None] <= theory.absmax_quantile(pop, 32, p)).mean(axis=0)
    assert np.all(np.abs(below - p) <= 4 * np.sqrt(p * (1 - p) / largest.size))


@pytest.mark.parametrize("name", ["expected_absmax", "rms_crest"])
def test_blocks_are_not_empty(name):
    with pytest.raises(ValueError, match="at least one weight"):
        getattr(theory, name)(Normal(), 0)
    with pytest.raises(ValueError, match="at least one weight"):
        theory.absmax_int_mse(Normal(), 0, 8)
    with pytest.raises(ValueError, match="at least one weight"):
        theory.absmax_quantile(Normal(), 0, 0.5)


def test_white_errors_add_up_as_predicted():
    # 4000 outputs over 256 inputs, errors uniform within a step of 0.1; k = 4 standard errors
    rng = np.random.default_rng(0)
    x, e = rng.normal(0, 2, (4000, 256)), rng.uniform(-0.05, 0.05, (4000, 256))
    out, bound = (x * e).sum(axis=1), np.abs(x * e).sum(axis=1)
    predicted = theory.output_rms(0.1 / math.sqrt(12), 2.0, 256)
    assert abs((out**2).mean() / predicted**2 - 1) <= 4 * math.sqrt(2 / 4000)
    ratio = np.abs(out).mean() / bound.mean()
    assert abs(ratio / theory.cancellation(256) - 1) <= 4 * math.sqrt((math.pi / 2 - 1) / 4000)
