"""Uniform quantization as noise, against adaptive quadrature, closed forms, counting and Monte Carlo."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special

from quantsim.populations import (
    Contaminated,
    Empirical,
    GeneralizedNormal,
    Laplace,
    Mixture,
    Normal,
    Outliers,
    StudentT,
    Uniform,
)
from quantsim.theory.noise import ROUNDINGS, quantization_noise

GRIDS = [("even", False), ("even", True), ("truncate", False), ("stochastic", False)]
IDS = ["mid-tread", "mid-rise", "truncate", "stochastic"]
POPULATIONS = [
    Normal(),
    Laplace(),
    Uniform(),
    StudentT(2.1),
    StudentT(5.0),
    GeneralizedNormal(0.5),
    GeneralizedNormal(16.0),
    Mixture((0.9, 0.1), (Normal(), Laplace(0.01))),
    Contaminated(Normal(), Outliers(rate=0.01, magnitude=20.0, values="spread", sign="positive")),
]


def outcomes(x, rounding, midrise):
    """Levels that x, in steps, can become, with their probabilities: written down from the definition of each rule."""
    a, sign = np.abs(x), np.sign(x)
    if rounding == "stochastic":
        below = np.floor(x)
        return [(below, below + 1 - x), (below + 1, x - below)]
    if midrise:
        return [(sign * (np.floor(a) + 0.5), 1.0)]
    nearest = {"even": np.rint, "away": lambda v: np.floor(v + 0.5), "truncate": np.floor}[rounding]
    return [(sign * nearest(a), 1.0)]


def costs(x, rounding, midrise):
    """E of e, e^2, x e, e^4, x Q and Q^2 at x, in steps."""
    parts = [
        np.array([q - x, (q - x) ** 2, x * (q - x), (q - x) ** 4, x * q, q * q]) * p
        for q, p in outcomes(x, rounding, midrise)
    ]
    return sum(parts)


def found(noise, step):
    units = step ** np.array([1, 2, 2, 4, 2, 2])
    moments = [noise.mean, noise.mse, noise.cross, noise.fourth, noise.gain * noise.power, noise.quantized_power]
    return np.array(moments) / units


def by_quadrature(pop, step, grid):
    """Adaptive quadrature over half cells, out to 40 standard deviations or the end of the population."""
    reach = 3**0.5 if isinstance(pop, Uniform) else 9.0 if isinstance(pop, Normal) else 30.0
    edges = np.append(np.arange(0.0, reach / step, 0.5), reach / step)
    total = np.zeros(6)
    for a, b in itertools.pairwise(edges):
        value, _ = integrate.quad_vec(lambda x: costs(x, *grid) * pop.pdf(x * step), a, b, epsrel=1e-12, epsabs=1e-16)
        total += 2 * step * value
    total[0] = 0.0
    return total


@pytest.mark.parametrize("grid", GRIDS, ids=IDS)
@pytest.mark.parametrize("step", [0.3, 1.0, 2.4, 2.6, 7.0, 30.0])
def test_noise_of_a_normal_population_equals_adaptive_quadrature(step, grid):
    noise = quantization_noise(Normal(), step, rounding=grid[0], midrise=grid[1])
    expected = by_quadrature(Normal(), step, grid)
    np.testing.assert_allclose(found(noise, step), expected, rtol=1e-9, atol=1e-13 / step**2)


@pytest.mark.parametrize("grid", GRIDS, ids=IDS)
@pytest.mark.parametrize("pop", [Laplace(), Uniform()], ids=str)
def test_noise_of_other_populations_equals_adaptive_quadrature(pop, grid):
    for step in (0.7, 3.0):
        noise = quantization_noise(pop, step, rounding=grid[0], midrise=grid[1])
        np.testing.assert_allclose(found(noise, step), by_quadrature(pop, step, grid), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("std", [1e-3, 40.0])
@pytest.mark.parametrize("step", [1e-4, 0.02, 0.5, 2.0, 9.0])
@pytest.mark.parametrize("grid", GRIDS, ids=IDS)
def test_the_series_of_the_normal_equals_its_cell_integrals(std, step, grid):
    # a mixture of one is no Normal to the code, and so integrated; truncation has no series, and equals itself
    for k in (1, 3):
        one, two = (
            found(quantization_noise(p, step * std * k, rounding=grid[0], midrise=grid[1]), step * std * k)
            for p in (Normal(std), Mixture((1.0,), (Normal(std),)))
        )
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-14 / (step * k))


@pytest.mark.parametrize("z", [0.003, 0.05, 0.4, 1.0, 3.0, 20.0, 60.0])
def test_laplace_in_closed_form(z):
    # b = std / sqrt 2 and z = step / 2b: E[e^2] = 2 b^2 (1 - f), E[xQ] = b^2 (2 f - z f') with f = z / sinh z
    b, n = 0.5**0.5, np.arange(1, 30)
    if z < 1:  # the same without cancellation, f = 1 + 2 sum_n (-1)^n eta(2n) (z / pi)^(2n)
        eta = (1 - 2.0 ** (1 - 2 * n)) * special.zeta(2 * n)
        terms = 2 * (-1.0) ** n * eta * (z / np.pi) ** (2 * n)
        mse, cross = -2 * b**2 * terms.sum(), b**2 * (terms * (2 - 2 * n)).sum()
        gain = 1 + cross / (2 * b**2)
    else:
        f = z / math.sinh(z)
        gain = (f + z * z * math.cosh(z) / math.sinh(z) ** 2) / 2  # of which little is left at a coarse grid
        mse, cross = 2 * b**2 * (1 - f), 2 * b**2 * (gain - 1)
    noise = quantization_noise(Laplace(), 2 * b * z)
    assert noise.mse == pytest.approx(mse, rel=1e-9)
    assert noise.cross == pytest.approx(cross, rel=1e-9, abs=1e-15 * b * z)
    assert noise.gain == pytest.approx(gain, rel=1e-12, abs=0)


@pytest.mark.parametrize("step", [0.01, 0.3, 2.0, 10.0, 300.0])
@pytest.mark.parametrize("df", [2.5, 5.0])
def test_student_t_by_its_characteristic_function(df, step):
    # phi(u) = (r |u|)^(df/2) K_{df/2}(r |u|) / (Gamma(df/2) 2^(df/2 - 1)), r^2 = df scale^2 = df - 2
    k = np.arange(1.0, 6000.0)
    u = math.sqrt(df - 2) * 2 * np.pi * k / step
    phi = np.exp(df / 2 * np.log(u) + np.log(special.kve(df / 2, u)) - u - special.gammaln(df / 2))
    phi = phi * 2 ** (1 - df / 2)
    sign = (-1.0) ** k
    tread, rise = ((s * phi / (np.pi * k) ** 2).sum() for s in (sign, 1.0))
    assert quantization_noise(StudentT(df), step).mse == pytest.approx(step**2 * (1 / 12 + tread), rel=1e-9)
    assert quantization_noise(StudentT(df), step, midrise=True).mse == pytest.approx(
        step**2 * (1 / 12 + rise), rel=1e-9
    )
    stochastic = quantization_noise(StudentT(df), step, rounding="stochastic")
    assert stochastic.mse == pytest.approx(step**2 * (1 / 6 - rise), rel=1e-9)


def segment(low, high):
    """E of e, e^2 and x e for weights uniform on 0 < low < high, in steps, rounded to nearest: by antiderivatives."""

    def upto(a):  # with m whole cells behind it, the k-th holding integral x e = -1/12, the last one reached to y
        m, y = math.floor(a + 0.5), a - math.floor(a + 0.5)
        whole = np.array([0.0, m / 12, -m / 12])
        part = [(1 / 4 - y * y) / 2, (y**3 + 1 / 8) / 3, m * (1 / 4 - y * y) / 2 - (y**3 + 1 / 8) / 3]
        return whole + part

    return (upto(high) - upto(low)) / (high - low)


@pytest.mark.parametrize("step", [0.013, 0.21, 1.7, 11.0, 70.0])
@pytest.mark.parametrize("sign", ["positive", "negative", "random"])
def test_spread_outliers_by_antiderivatives(step, sign):
    # a rate of 1 leaves only the outliers, spread from 10 to 30: a density with breaks far from zero
    pop = Normal().with_outliers(rate=1.0, value=20.0, values="spread", sign=sign)
    mean, mse, cross = segment(10 / step, 30 / step) * np.array([step, step**2, step**2])
    noise = quantization_noise(pop, step)
    direction = {"positive": 1, "negative": -1, "random": 0}[sign]
    assert noise.mean == pytest.approx(direction * mean, rel=1e-9, abs=1e-13 * step)
    assert noise.mse == pytest.approx(mse, rel=1e-9)
    assert noise.cross == pytest.approx(cross, rel=1e-9)


@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
@pytest.mark.parametrize("step", [1e-6, 0.11, 4.0, 600.0])
def test_what_is_rounded_at_random_and_what_is_lost_at_mid_rise_make_a_quarter(pop, step):
    # f (1 - f) + (f - 1/2)^2 = 1/4 at every fraction f
    loss = quantization_noise(pop, step, midrise=True).mse + quantization_noise(pop, step, rounding="stochastic").mse
    assert loss == pytest.approx(step**2 / 4, rel=1e-12)


@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
@pytest.mark.parametrize("step", [0.02, 0.5, 3.0])
def test_noise_equals_a_sum_of_upper_moments(pop, step):
    # e^2 = x^2 - 2 step sum over thresholds (|x| - t)+, and the sum far out by the midpoint rule
    m, edge = (np.arange(200_000) + 0.5) * step, 200_000 * step
    sides = (pop.upper_moment, mirror(pop))
    first = sum(np.sort(u(m, 1)).sum() * step + u(edge, 2) / 2 - step**2 / 24 * u(edge, 0) for u in sides)
    power = float(pop.moment(2))
    mse = power - 2 * first
    tolerance = 1e-9 * mse + 2e-15 * power  # the difference of two large numbers
    assert abs(quantization_noise(pop, step).mse - mse) <= tolerance


def mirror(pop):
    """Upper moments of -X from those of X, E(-X - t)+^k = E(X + t)^k - E(X + t)+^k up to sign."""
    if not isinstance(pop, Contaminated):
        return pop.upper_moment
    bulk, rate = pop.bulk, pop.outliers.rate
    return lambda t, k: (1 - rate) * bulk.upper_moment(t, k)  # its outliers are positive


def test_point_masses_are_counted():
    x = np.array([0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.3, -7.7, 12.25])
    for rounding, midrise in [("even", False), ("even", True), *((r, False) for r in ROUNDINGS)]:
        noise = quantization_noise(Empirical(x.astype(np.float32)), 1.0, rounding=rounding, midrise=midrise)
        expected = costs(x.astype(np.float32).astype(np.float64), rounding, midrise).mean(axis=1)
        if midrise:  # zero lies between two levels: either is as far
            expected[[1, 3, 5]] += np.array([0.25, 0.0625, 0.25]) / x.size
        np.testing.assert_allclose(found(noise, 1.0), expected, rtol=1e-12, atol=1e-15)
    even, away = (quantization_noise(Empirical([0.5, 2.5]), 1.0, rounding=r).mean for r in ("even", "away"))
    assert (even, away) == (-0.5, 0.5)


def test_noise_is_linear_in_the_population():
    pop = Laplace(0.7).with_outliers(rate=0.02, value=9.3, sign="negative")
    for rounding in ROUNDINGS:
        parts = [quantization_noise(p, 0.8, rounding=rounding) for p in (Laplace(0.7), Empirical([-9.3]), pop)]
        bulk, outlier, whole = (found(p, 0.8) for p in parts)
        np.testing.assert_allclose(whole, 0.98 * bulk + 0.02 * outlier, rtol=1e-6, atol=1e-13)  # -9.3 is a float32
        assert whole[0] == pytest.approx(0.02 * outlier[0], abs=1e-8)


@pytest.mark.parametrize("step", [0.25, 1.5, 3.0])
@pytest.mark.parametrize("grid", [*GRIDS, ("away", False)], ids=[*IDS, "away"])
def test_noise_equals_monte_carlo(grid, step):
    # 10^5 normal weights, k = 4 standard errors
    rng = np.random.default_rng(7)
    x = rng.normal(size=100_000)
    levels = [q for q, _ in outcomes(x / step, *grid)]
    chances = [p for _, p in outcomes(x / step, *grid)]
    q = step * (levels[0] if len(levels) == 1 else np.where(rng.random(x.size) < chances[0], *levels))
    e = q - x
    noise = quantization_noise(Normal(), step, rounding=grid[0], midrise=grid[1])
    for sample, expected in (
        (e, noise.mean),
        (e**2, noise.mse),
        (x * e, noise.cross),
        (e**4, noise.fourth),
        (x * q, noise.gain),
        (q * q, noise.quantized_power),
        ((q - noise.gain * x) ** 2, noise.uncorrelated),
        ((x - noise.decoder_gain * q) * q, 0.0),
    ):
        assert abs(sample.mean() - expected) <= 4 * sample.std() / math.sqrt(x.size)
    spread = math.sqrt((noise.fourth - noise.mse**2) / x.size)
    assert spread == pytest.approx((e**2).std() / math.sqrt(x.size), rel=0.02)
    assert np.corrcoef(x, e)[0, 1] == pytest.approx(noise.correlation, abs=4 / math.sqrt(x.size))


def test_the_limits_of_a_fine_and_of_a_coarse_grid():
    for pop in (Normal(), Laplace(), StudentT(2.1), StudentT(5.0)):  # no edge, whose last cell is cut
        size = 2 * float(pop.upper_moment(0.0, 1))
        even, truncate, stochastic = (quantization_noise(pop, 1e-5, rounding=r) for r in ("even", *ROUNDINGS[2:]))
        assert even.mse * 1e10 == pytest.approx(1 / 12, rel=1e-8)
        assert truncate.mse * 1e10 == pytest.approx(1 / 3, rel=1e-4)
        assert truncate.cross * 1e5 == pytest.approx(-size / 2, rel=1e-4)
        assert stochastic.mse * 1e10 == pytest.approx(1 / 6, rel=1e-8)
        assert (stochastic.mean, stochastic.cross, stochastic.gain) == (0.0, 0.0, 1.0)
        coarse = quantization_noise(pop, 1e6)
        assert coarse.mse == pytest.approx(pop.moment(2), rel=1e-6 if pop != StudentT(2.1) else 0.5)
    nothing = quantization_noise(Normal(), 1e6)
    assert nothing.gain == 0.0
    assert math.isnan(nothing.decoder_gain)
    assert quantization_noise(Empirical([1.0, -2.0]), 1.0).correlation == 0.0


def test_bad_input_is_refused():
    for step in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="step of a grid is positive"):
            quantization_noise(Normal(), step)
    with pytest.raises(ValueError, match="known are even, away"):
        quantization_noise(Normal(), 1.0, rounding="up")
    with pytest.raises(ValueError, match="rounding to nearest"):
        quantization_noise(Normal(), 1.0, rounding="truncate", midrise=True)
    with pytest.raises(ValueError, match="not all zeros"):
        quantization_noise(Empirical([0.0]), 1.0)
    with pytest.raises(ValueError, match="rate instead of a count"):
        quantization_noise(Normal().with_outliers(count=1, magnitude=5.0), 1.0)
