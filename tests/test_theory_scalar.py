"""Optimal quantizers against published tables, closed forms, adaptive quadrature on the definitions and brute force."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from quantsim import theory
from quantsim.populations import Empirical, GeneralizedNormal, Laplace, Mixture, Normal, StudentT, Uniform

WIDE = Mixture((0.9, 0.1), (Normal(), Normal(10.0)))
HEAVY = [pytest.param(StudentT(df), marks=pytest.mark.slow) for df in (2.1, 5.0)]
POPULATIONS = [Normal(), Laplace(), Uniform(), StudentT(5.0)]
OTHERS = [
    StudentT(2.1),
    StudentT(3.0, 0.02),
    GeneralizedNormal(0.5),
    WIDE,
    Mixture((0.5, 0.5), (Uniform(), Laplace(3.0))),
]
ONE_SIDED = Normal().with_outliers(rate=0.01, value=20.0, values="spread", sign="positive")


def integral(pop, function, low, high):
    """Integral of function * density over log |x| on either side of zero, in pieces that end where it may jump."""
    std, total = pop.moment(2) ** 0.5, 0.0
    x, w = np.polynomial.legendre.leggauss(24)
    for sign, a, b in ((1, max(low, 0.0), max(high, 0.0)), (-1, max(-high, 0.0), max(-low, 0.0))):
        a, b = max(a, std * 1e-20), min(b, std * 1e60)
        cuts = np.concatenate([std * np.exp(np.arange(-46.0, 138.0, 0.5)), [3**0.5 * std, 3**0.5, 10.0, 30.0]])
        ends = np.log(np.unique(np.concatenate([[a], cuts[(cuts > a) & (cuts < b)], [b]]))) if a < b else np.zeros(1)
        half = np.diff(ends)[:, None] / 2
        at = sign * np.exp((ends[1:] + ends[:-1])[:, None] / 2 + half * x)
        total += (function(at) * pop.pdf(at) * np.abs(at) * half * w).sum()
    return total


# Max, Quantizing for minimum distortion, IRE Trans. Inform. Theory 6 (1960), table I: half of the levels, distortion.
MAX_1960 = {
    3: ([0.0, 1.224], 0.1902),
    4: ([0.4528, 1.510], 0.1175),
    5: ([0.0, 0.7646, 1.724], 0.07994),
    6: ([0.3177, 1.000, 1.894], 0.05798),
    7: ([0.0, 0.5606, 1.188, 2.033], 0.04400),
    8: ([0.2451, 0.7560, 1.344, 2.152], 0.03454),
    16: ([0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], None),  # the distortion is inexact, see below
}


@pytest.mark.parametrize("n", MAX_1960)
def test_lloyd_max_levels_of_max_1960(n):
    half, distortion = MAX_1960[n]
    found = theory.lloyd_max(Normal(), n)
    np.testing.assert_allclose(found[n // 2 :], half, rtol=5e-4)
    np.testing.assert_array_equal(found, -found[::-1])
    if distortion:
        assert theory.levels_mse(Normal(), found) == pytest.approx(distortion, rel=3e-4)  # four digits


@pytest.mark.parametrize(("n", "max_1960", "true"), [(16, 0.009497, 0.0095010), (32, 0.002499, 0.0025047)])
def test_two_entries_of_max_1960_are_below_the_optimum(n, max_1960, true):
    y = theory.lloyd_max(Normal(), n)
    t = [-np.inf, *((y[1:] + y[:-1]) / 2), np.inf]
    # 1 - sum of mass mean^2, from the distribution function and the density alone
    mass, mean = np.diff(stats.norm.cdf(t)), -np.diff(stats.norm.pdf(t)) / np.diff(stats.norm.cdf(t))
    assert 1 - (mass * mean**2).sum() == pytest.approx(true, abs=6e-8)
    assert theory.levels_mse(Normal(), y) == pytest.approx(true, abs=6e-8)
    assert max_1960 < true * (1 - 4e-4)


# Paez and Glisson, IEEE Trans. Commun. 20 (1972), Laplace
@pytest.mark.parametrize(("n", "half", "mse"), [
    (4, [0.420, 1.834], 0.1762), (8, [0.233, 0.833, 1.673, 3.087], 0.0545)])  # fmt: skip
def test_lloyd_max_levels_of_paez_and_glisson(n, half, mse):
    found = theory.lloyd_max(Laplace(), n)
    np.testing.assert_allclose(found[n // 2 :], half, atol=6e-4)
    assert theory.levels_mse(Laplace(), found) == pytest.approx(mse, abs=6e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 4096])
def test_lloyd_max_levels_of_a_uniform_population_are_evenly_spaced(n):
    expected = (2 * np.arange(n) + 1 - n) / n
    np.testing.assert_allclose(theory.lloyd_max(Uniform(3**-0.5), n), expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("pop", [*POPULATIONS, *OTHERS, ONE_SIDED], ids=str)
def test_each_level_is_the_mean_of_its_cell(pop, n):
    y = theory.lloyd_max(pop, n)
    ends = [-np.inf, *((y[1:] + y[:-1]) / 2), np.inf]
    for level, (a, b) in zip(y, itertools.pairwise(ends), strict=True):
        mean = integral(pop, lambda x: x, a, b) / integral(pop, np.ones_like, a, b)
        assert level == pytest.approx(mean, rel=1e-9, abs=1e-9 * pop.moment(2) ** 0.5)


@pytest.mark.parametrize("n", [16, 255, 1024, 4096])
def test_each_of_many_levels_is_the_mean_of_its_cell(n):
    y = theory.lloyd_max(Normal(), n)[n // 2 :]  # from the middle on, counted from the upper tail
    t = np.append((y[1:] + y[:-1]) / 2, np.inf)
    mean = -np.diff(stats.norm.pdf(t)) / -np.diff(stats.norm.sf(t))
    np.testing.assert_allclose(y[1:], mean, rtol=1e-9)
    y = theory.lloyd_max(Laplace(2**0.5), n)[n // 2 :]
    a, width = (y[1:] + y[:-1])[:-1] / 2, np.diff((y[1:] + y[:-1]) / 2)
    np.testing.assert_allclose(y[1:-1], a + 1 - width / np.expm1(width), rtol=1e-9)  # a truncated exponential
    assert y[-1] == pytest.approx((y[-1] + y[-2]) / 2 + 1, rel=1e-12)


def test_two_levels_where_newtons_method_is_degenerate():
    # any threshold near zero satisfies the equations of two levels of a Laplace population to first order
    np.testing.assert_allclose(theory.lloyd_max(Laplace(), 2), [-(0.5**0.5), 0.5**0.5], rtol=1e-14)


@pytest.mark.parametrize(
    "pop", [WIDE, GeneralizedNormal(0.25), GeneralizedNormal(0.5), StudentT(3.0), Normal()], ids=str
)
def test_the_best_two_levels_by_scanning_their_threshold(pop):
    t = np.linspace(-12, 12, 4001) * pop.std_dev()
    mass = pop.upper_moment(t, 0)
    first = pop.upper_moment(t, 1) + t * mass
    with np.errstate(divide="ignore", invalid="ignore"):
        scanned = pop.moment(2) - np.nanmax(first**2 / mass / (1 - mass))
    found = theory.levels_mse(pop, theory.lloyd_max(pop, 2))
    assert scanned * (1 - 1e-4) <= found <= scanned * (1 + 1e-12)
    symmetric = pop.moment(2) - (2 * pop.upper_moment(0.0, 1)) ** 2
    unsymmetric = pop in (WIDE, GeneralizedNormal(0.25), GeneralizedNormal(0.5))
    assert (found < symmetric * (1 - 1e-3)) == unsymmetric


@pytest.mark.slow
def test_no_random_start_of_lloyds_iteration_ends_lower():
    rng = np.random.default_rng(0)
    for pop, n in ((WIDE, 5), (GeneralizedNormal(0.5), 4), (StudentT(3.0), 4)):
        least = theory.levels_mse(pop, theory.lloyd_max(pop, n))
        for _ in range(8):
            t = np.sort(pop.quantile(rng.uniform(0.001, 0.999, n - 1)))
            for _ in range(40):
                mass = np.diff(np.concatenate([[1.0], pop.upper_moment(t, 0), [0.0]]))
                first = np.diff(np.concatenate([[0.0], pop.upper_moment(t, 1) + t * pop.upper_moment(t, 0), [0.0]]))
                y = first / mass
                t = (y[1:] + y[:-1]) / 2
            assert theory.levels_mse(pop, y) >= least * (1 - 1e-12)


@pytest.mark.parametrize("pop", [HEAVY[0], StudentT(30.0), WIDE, ONE_SIDED], ids=str)
def test_many_levels_are_found_and_in_order(pop):
    for n in (33, 4096):
        y = theory.lloyd_max(pop, n)
        assert y.shape == (n,)
        assert np.all(np.diff(y) > 0)
    assert theory.levels_mse(pop, theory.lloyd_max(pop, 256)) < theory.levels_mse(pop, theory.lloyd_max(pop, 255))


SPEED = """
import time
from quantsim import theory
from quantsim.populations import *
worst = 0.0
wide = Mixture((0.9, 0.1), (Normal(), Normal(10.0)))
for pop in (Normal(), Laplace(), Uniform(), StudentT(2.1), StudentT(5.0), GeneralizedNormal(0.5), wide):
    for predict, *args in ((theory.lloyd_max, 64), (theory.lloyd_max, 4096), (theory.optimal_step, 4096),
                           (theory.ecsq, 0.1), (theory.ecsq, 2.5), (theory.panter_dite, 16),
                           (theory.cube_root_rms, 256), (theory.cube_root_absmax, 256, 64)):
        times = []
        for _ in range(4):
            start = time.perf_counter()
            predict(pop, *args)
            times.append(time.perf_counter() - start)
        worst = max(worst, min(times))
print(worst)
"""


@pytest.mark.slow
def test_any_prediction_takes_less_than_a_fifth_of_a_second():
    # in a process of its own, without the checks of every annotation that the tests switch on
    done = subprocess.run([sys.executable, "-c", SPEED], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2


@pytest.mark.parametrize("pop", [Empirical([1.0, 2.0]), Normal().with_outliers(rate=0.01, magnitude=9.0)], ids=str)
def test_point_masses_have_no_best_levels(pop):
    for find in (theory.lloyd_max, theory.optimal_step):
        with pytest.raises(ValueError, match="point masses"):
            find(pop, 4)


def test_too_few_levels_are_refused():
    with pytest.raises(ValueError, match="at least 1 level, got 0"):
        theory.lloyd_max(Normal(), 0)
    with pytest.raises(ValueError, match="at least 2 levels, got 1"):
        theory.optimal_step(Normal(), 1)
    with pytest.raises(ValueError, match="not symmetric"):
        theory.optimal_step(ONE_SIDED, 4)
    for levels, step in ((0, 1.0), (4, 0.0), (4, -1.0), (4, math.nan)):
        with pytest.raises(ValueError, match="positive step"):
            theory.uniform_levels(levels, step)


# Max 1960, table II: step, distortion in units of its last digit
@pytest.mark.parametrize(("n", "step", "mse", "digits"), [
    (2, 1.596, 0.3634, 4), (3, 1.224, 0.1902, 4), (4, 0.9957, 0.1188, 4), (5, 0.8430, 0.08218, 5),
    (6, 0.7334, 0.06065, 5), (7, 0.6508, 0.04686, 5), (8, 0.5860, 0.03744, 5), (16, 0.3352, 0.01154, 5)])  # fmt: skip
def test_optimal_steps_of_max_1960(n, step, mse, digits):
    found = theory.optimal_step(Normal(), n)
    assert found == pytest.approx(step, rel=2e-4)
    assert theory.levels_mse(Normal(), theory.uniform_levels(n, found)) == pytest.approx(mse, abs=10**-digits)


def test_the_last_distortion_of_max_1960_for_even_steps_is_below_the_optimum():
    step = theory.optimal_step(Normal(), 32)
    assert step == pytest.approx(0.1881, rel=3e-4)
    t = np.arange(1, 16) * step  # half of the thresholds: the error from the distribution function and the density
    above, first = stats.norm.sf(np.append(0.0, t)), stats.norm.pdf(np.append(0.0, t))
    gains = np.append(0.25, 2 * np.arange(1, 16)) * step**2 * above, np.append(0.5, np.ones(15)) * step * first
    mse = 1 + 2 * gains[0].sum() - 4 * gains[1].sum()
    assert mse == pytest.approx(0.0034952, abs=1e-7)
    assert theory.levels_mse(Normal(), theory.uniform_levels(32, step)) == pytest.approx(mse, rel=1e-9)
    assert mse > 0.003490 * (1 + 1e-3)  # the table


@pytest.mark.parametrize("n", [2, 3, 16, 255, 4096])
def test_optimal_step_of_a_uniform_population(n):
    assert theory.optimal_step(Uniform(0.02), n) == pytest.approx(0.02 * 12**0.5 / n, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 16, 33])
@pytest.mark.parametrize("pop", [Normal(0.02), Laplace(), WIDE, *HEAVY], ids=str)
def test_the_error_is_stationary_and_least_at_the_optimal_step(pop, n):
    step = theory.optimal_step(pop, n)
    y = theory.uniform_levels(n, step)
    ends = [-np.inf, *((y[1:] + y[:-1]) / 2), np.inf]
    slopes = [  # of the squared error by the logarithm of the step
        2 * v * (v * integral(pop, np.ones_like, a, b) - integral(pop, lambda x: x, a, b))
        for v, (a, b) in zip(y, itertools.pairwise(ends), strict=True)
    ] if n <= 4 else []  # fmt: skip
    assert abs(sum(slopes)) <= 1e-9 * pop.moment(2)
    least = theory.levels_mse(pop, y)
    assert all(theory.levels_mse(pop, y * r) > least for r in (1 - 1e-4, 1 + 1e-4))
    assert all(theory.levels_mse(pop, y * r) >= least for r in np.geomspace(0.01, 100, 33))
