"""Asymptotes, entropy-coded cells, limits and codebooks against closed forms, quadrature on definitions, and sums."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from quantsim import theory
from quantsim.populations import GeneralizedNormal, Laplace, Mixture, Normal, StudentT, Uniform
from quantsim.theory.companding import cube_root

WIDE = Mixture((0.9, 0.1), (Normal(), Normal(10.0)))
HEAVY = [pytest.param(pop, marks=pytest.mark.slow) for pop in (StudentT(2.1), StudentT(5.0), WIDE)]
POPULATIONS = [Normal(), Laplace(), Uniform(), StudentT(5.0)]
OTHERS = [
    StudentT(2.1),
    StudentT(3.0, 0.02),
    GeneralizedNormal(0.5),
    WIDE,
    Mixture((0.5, 0.5), (Uniform(), Laplace(3.0))),
]
ONE_SIDED = Normal().with_outliers(rate=0.01, value=20.0, values="spread", sign="positive")


@pytest.mark.parametrize("pop", [*POPULATIONS, *OTHERS], ids=str)
def test_panter_dite_equals_its_definition(pop):
    # the cube root of the density is integrated over log x, on which even a tail of power 1.03 falls exponentially
    def over_log(s):
        x = math.exp(s)
        return float(np.cbrt(pop.pdf(x)) + np.cbrt(pop.pdf(-x))) * x

    scale, end = math.log(pop.moment(2) ** 0.5), 100.0 if isinstance(pop, StudentT) else 40.0
    cuts = sorted({-40.0, *np.arange(-12.0, 12.0, 1.0), end, *(math.log(e) - scale for e in (3**0.5,))})
    parts = [
        integrate.quad(over_log, a + scale, b + scale, epsabs=0, epsrel=1e-11, limit=500)[0]
        for a, b in itertools.pairwise(cuts)
        if over_log((a + b) / 2 + scale) > 0
    ]
    beyond = 0.0
    if isinstance(pop, StudentT):  # x^(-(df + 1) / 3) from there on
        x = math.exp(end + scale)
        beyond = 2 * x * float(np.cbrt(pop.pdf(x))) / ((pop.df + 1) / 3 - 1)
    expected = (math.fsum(parts) + beyond) ** 3 / 12
    assert theory.panter_dite(pop, 1) == pytest.approx(expected, rel=1e-8)
    assert theory.panter_dite(pop, 10) == pytest.approx(expected / 100, rel=1e-8)


def test_panter_dite_constants_of_the_textbooks():
    for std in (1.0, 0.02):
        assert theory.panter_dite(Normal(std), 16) == pytest.approx(3**0.5 * math.pi / 2 * std**2 / 256, rel=1e-12)
        assert theory.panter_dite(Laplace(std), 16) == pytest.approx(4.5 * std**2 / 256, rel=1e-12)
        assert theory.panter_dite(Uniform(std), 16) == pytest.approx(std**2 / 256, rel=1e-12)
    assert theory.panter_dite(GeneralizedNormal(2.0), 1) == pytest.approx(3**0.5 * math.pi / 2, rel=1e-12)
    assert theory.panter_dite(StudentT(1e7), 1) == pytest.approx(3**0.5 * math.pi / 2, rel=1e-6)


@pytest.mark.parametrize("pop", [Normal(), Laplace(), StudentT(5.0), GeneralizedNormal(0.5)], ids=str)
def test_lloyd_max_approaches_panter_dite_from_below(pop):
    over = [theory.levels_mse(pop, theory.lloyd_max(pop, n)) / theory.panter_dite(pop, n) for n in (4, 32, 1024)]
    assert np.all(np.diff(over) > 0)
    assert 1 - 20 / 1024 < over[-1] < 1


def test_bennetts_integral():
    for pop in (Normal(0.02), Laplace(), StudentT(3.0), WIDE):
        assert theory.bennett(pop, cube_root(pop), 8) == pytest.approx(theory.panter_dite(pop, 8), rel=1e-9)
        std = pop.moment(2) ** 0.5
        # levels as dense as 1 / (1 + (x / std)^2), pi std in all: E (1 + (x / std)^2)^2 is finite for some only
        if np.isfinite(fourth := float(pop.moment(4))):
            expected = (math.pi * std) ** 2 * (1 + 2 + fourth / std**4) / 12 / 64
            assert theory.bennett(pop, lambda x, s=std: 1 / (1 + (x / s) ** 2), 8) == pytest.approx(expected, rel=1e-9)
        else:
            with pytest.raises(ValueError, match="must be finite"):
                theory.bennett(pop, lambda x, s=std: 1 / (1 + (x / s) ** 2), 8)


def test_bennetts_integral_predicts_the_error_of_a_compander():
    # 4096 levels at equal shares of a Laplace density that is five times as wide as the population's
    y = stats.laplace.ppf((np.arange(4096) + 0.5) / 4096, scale=5 / 2**0.5)
    predicted = theory.bennett(Laplace(), stats.laplace(scale=5 / 2**0.5).pdf, 4096)
    assert theory.levels_mse(Laplace(), y) == pytest.approx(predicted, rel=1e-5)


@pytest.mark.parametrize("levels", [0, -1])
def test_no_levels_no_asymptote(levels):
    for predict in (
        lambda: theory.panter_dite(Normal(), levels),
        lambda: theory.bennett(Normal(), Normal().pdf, levels),
    ):
        with pytest.raises(ValueError, match="at least one level"):
            predict()
    with pytest.raises(ValueError, match="must have an integral"):
        theory.bennett(Normal(), lambda x: 1 / (1 + abs(x)), 4) if levels else theory.bennett(
            StudentT(3.0), np.ones_like, 4
        )


def by_cells(pop, step, dead_zone, count=20_000):
    """Entropy and errors of ``count`` cells a side, one by one."""
    low = (dead_zone / 2 + np.arange(count)) * step
    mass = -np.diff(pop.sf(np.append(low, np.inf)))
    centre = 1 - 2 * pop.sf(low[0])
    bits = -(2 * special.xlogy(mass, mass).sum() + special.xlogy(centre, centre)) / math.log(2)
    x, w = np.polynomial.legendre.leggauss(40)
    x = low[:, None] + (x + 1) * step / 2
    f = pop.pdf(x) * w * step / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nan_to_num((x * f).sum(axis=1) / f.sum(axis=1))
    inner = integrate.quad(lambda x: x * x * pop.pdf(x), 0, low[0], epsrel=1e-12)[0]
    mse = 2 * (inner + (f * (x - mean[:, None]) ** 2).sum())
    return bits, mse, 2 * (inner + (f * (x - low[:, None] - step / 2) ** 2).sum())


@pytest.mark.parametrize("dead_zone", [0.0, 1.0, 1.6])
@pytest.mark.parametrize("step", [3.0, 0.7, 0.05, 0.004])
def test_uniform_threshold_equals_a_sum_over_cells(step, dead_zone):
    for pop, reference in ((Normal(), stats.norm()), (StudentT(5.0), stats.t(5, scale=0.6**0.5))):
        found = theory.uniform_threshold(pop, step, dead_zone=dead_zone)
        np.testing.assert_allclose(found, by_cells(reference, step, dead_zone), rtol=1e-6)


def laplace_closed_form(step, dead_zone):
    """Entropy and error for b = 1: a central cell, and on either side geometric probabilities of equal cells."""
    a, r = dead_zone * step / 2, math.exp(-step)
    p, out = 1 - math.exp(-a), math.exp(-a)
    bits = special.entr([p, out, r, 1 - r]) / math.log(2)
    within = 1 - step**2 * r / (1 - r) ** 2  # variance of a truncated exponential
    inner = 2 - out * (a * a + 2 * a + 2)
    return bits[0] + bits[1] + out * (1 + (bits[2] + bits[3]) / (1 - r)), inner + out * within


@pytest.mark.parametrize("dead_zone", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("step", [20.0, 1.0, 0.1, 0.01])
def test_uniform_threshold_of_a_laplace_population_in_closed_form(step, dead_zone):
    bits, mse = laplace_closed_form(step, dead_zone)
    found = theory.uniform_threshold(Laplace(2**0.5), step, dead_zone=dead_zone)
    tolerance = 1e-9 if step >= 0.1 else 1e-7  # beyond 512 cells by the density: relative errors of order step^2 / 24
    assert found.bits == pytest.approx(bits, rel=tolerance, abs=1e-12)
    assert found.mse == pytest.approx(mse, rel=tolerance)
    assert found.mse <= found.midpoint_mse


@pytest.mark.parametrize("bits", [0.1, 1.0, 2.0, 4.0])
def test_ecsq_of_a_laplace_population_is_the_least_of_the_closed_form(bits):
    def error(dead_zone):
        at = optimize.brentq(lambda s: laplace_closed_form(math.exp(s), dead_zone)[0] - bits, -8, 5)
        return laplace_closed_form(math.exp(at), dead_zone)[1]

    least = min(error(z) for z in np.linspace(0.8, 2.2, 141))
    found = theory.ecsq(Laplace(2**0.5), bits)
    assert least * (1 - 1e-4) <= found <= least * (1 + 1e-9)


@pytest.mark.parametrize("pop", [Normal(), Laplace(), Uniform(), *HEAVY], ids=str)
def test_ecsq_lies_between_shannons_bound_and_lloyd_max(pop):
    for n in (3, 16):
        y = theory.lloyd_max(pop, n)
        p = np.diff(np.concatenate([[0.0], pop.cdf((y[1:] + y[:-1]) / 2), [1.0]]))
        spent = special.entr(p).sum() / math.log(2)  # bits of the same levels with an entropy code
        found = theory.ecsq(pop, spent)
        assert theory.shannon_lower_bound(pop, spent) < found <= theory.levels_mse(pop, y) * (1 + 1e-9)


@pytest.mark.parametrize("pop", [Normal(), Laplace(), Uniform(), *HEAVY], ids=str)
def test_ecsq_is_a_quarter_of_a_bit_above_shannons_bound_at_high_rates(pop):
    for bits in (7.0, 12.0):
        gap = theory.ecsq(pop, bits) / theory.shannon_lower_bound(pop, bits)
        assert gap == pytest.approx(math.pi * math.e / 6, rel=2e-4)
    assert math.log2(math.pi * math.e / 6) / 2 == pytest.approx(0.2546, abs=5e-5)


def test_ecsq_of_a_uniform_population_at_whole_numbers_of_cells():
    for n in (2, 4, 32):
        assert theory.ecsq(Uniform(), math.log2(n)) == pytest.approx(1 / n**2, rel=1e-9)
    assert theory.ecsq(Normal(), 0.001) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("bad", [
    lambda: theory.ecsq(Normal(), 0.0), lambda: theory.ecsq(Normal(), -1.0), lambda: theory.ecsq(ONE_SIDED, 2.0),
    lambda: theory.ecsq(Normal().with_outliers(rate=0.1, value=9.0), 2.0),
    lambda: theory.uniform_threshold(Normal(), 0.0), lambda: theory.uniform_threshold(Normal(), -1.0),
    lambda: theory.uniform_threshold(Normal(), 1.0, dead_zone=-0.1)])  # fmt: skip
def test_rates_and_steps_that_do_not_exist(bad):
    with pytest.raises(ValueError, match=r"rate is above 0|positive step|symmetric population|point masses"):
        bad()


@pytest.mark.parametrize("std", [1.0, 0.02])
def test_rate_distortion_of_a_normal_population(std):
    bits = np.array([0.0, 0.5, 1.0, 8.0])
    np.testing.assert_allclose(theory.rate_distortion(Normal(std), bits), std**2 / 4**bits, rtol=1e-15)
    np.testing.assert_allclose(theory.shannon_lower_bound(Normal(std), bits), std**2 / 4**bits, rtol=1e-12)


def test_rate_distortion_is_refused_where_it_is_not_known():
    with pytest.raises(ValueError, match="shannon_lower_bound"):
        theory.rate_distortion(Laplace(), 2)
    with pytest.raises(ValueError, match="at least 0 bits"):
        theory.rate_distortion(Normal(), -1)


@pytest.mark.parametrize("n", [2, 5, 16, 256])
def test_cube_root_levels_in_closed_form(n):
    p = np.arange(1, n + 1) / (n + 1)
    close = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(theory.cube_root_rms(Normal(0.02), n), stats.norm.ppf(p, scale=3**0.5), **close)
    np.testing.assert_allclose(theory.cube_root_rms(Laplace(5.0), n), stats.laplace.ppf(p, scale=3 / 2**0.5), **close)
    # of 5 degrees of freedom: one of 1, a Cauchy, with df scale^2 the same, 3
    np.testing.assert_allclose(theory.cube_root_rms(StudentT(5.0), n), stats.cauchy.ppf(p, scale=3**0.5), **close)
    np.testing.assert_allclose(theory.cube_root_rms(Uniform(), n), (2 * p - 1) * 3**0.5, **close)


@pytest.mark.parametrize(
    ("pop", "reference"), [(Normal(0.02), stats.norm(scale=0.02)), (Laplace(), stats.laplace(scale=0.5**0.5))]
)
@pytest.mark.parametrize("power", [0, 2])
def test_absmax_scaled_levels_share_the_cube_root_of_the_density(pop, reference, power):
    n, count = 16, 8
    y = theory.cube_root_absmax(pop, count, n, power=power)
    signed = theory.cube_root_signed_max(pop, count, n, power=power)
    x, w = np.polynomial.legendre.leggauss(200)
    top, w = (x + 1) * 8 * pop.std, w * 8 * pop.std  # the largest of 16 beyond 16 std: below 1e-9
    inside = 1 - 2 * reference.sf(top)
    weight = w * n * inside ** (n - 1) * 2 * reference.pdf(top) * top ** (power + 1) / inside

    def density(u):
        return np.cbrt((reference.pdf(u * top) * weight).sum())

    share = lambda a, b: integrate.quad(density, a, b, epsrel=1e-9, points=[0.0] if a < 0 < b else None)[0]  # noqa: E731
    each = [share(a, b) for a, b in itertools.pairwise(y)]
    np.testing.assert_allclose(each, each[0], rtol=1e-6)
    assert (y[0], y[-1], signed[-1]) == (-1.0, 1.0, 1.0)
    np.testing.assert_allclose(y, -y[::-1], atol=1e-12)
    each = [share(a, b) for a, b in itertools.pairwise([-1.0, *signed])]
    np.testing.assert_allclose(np.array(each[1:]) / each[0], 2, rtol=1e-6)  # half a share below the first level


@pytest.mark.parametrize("pop", [Normal(), Laplace(), StudentT(5.0)], ids=str)
def test_scaled_codebooks_beat_even_levels_and_a_signed_extreme_beats_both(pop):
    even = theory.extreme_mse(pop, np.linspace(-1, 1, 16), 64)
    absmax = theory.extreme_mse(pop, theory.cube_root_absmax(pop, 16, 64), 64)
    signed = theory.extreme_mse(pop, theory.cube_root_signed_max(pop, 16, 64), 64)
    relative = theory.extreme_mse(pop, theory.cube_root_absmax(pop, 16, 64, power=0), 64)
    assert signed < absmax < even
    assert absmax < relative  # the average that ignores how large the extreme is serves the weights less


@pytest.mark.parametrize("bad", [
    lambda: theory.cube_root_rms(Normal(), 1), lambda: theory.cube_root_absmax(Normal(), 1, 32),
    lambda: theory.cube_root_signed_max(Normal(), 0, 32), lambda: theory.cube_root_absmax(Normal(), 16, 1),
    lambda: theory.cube_root_absmax(ONE_SIDED, 16, 32), lambda: theory.cube_root_signed_max(Normal(), 16, 0),
])  # fmt: skip
def test_codebooks_that_do_not_exist(bad):
    with pytest.raises(ValueError, match=r"at least two levels|at least two weights|not symmetric"):
        bad()
