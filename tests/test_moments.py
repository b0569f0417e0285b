"""Upper partial moments against integrals of the definition; point masses, mirror images and far quantiles."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate

from quantsim.populations import Empirical, GeneralizedNormal, Laplace, Mixture, Normal, StudentT, Uniform
from quantsim.populations.moments import far_moment

VALUES = [-2.5, -1.0, -1.0, 0.0, 0.25, 0.75, 4.0]
SYMMETRIC = [
    Normal(0.02),
    Laplace(0.5),
    Uniform(2.0),
    *(StudentT(df) for df in (2.3, 3.0, 9.0, 30.5, 1e6)),
    *(GeneralizedNormal(beta) for beta in (0.25, 0.8, 2.0, 5.0, 64.0)),
    Mixture((0.9, 0.1), (Normal(), StudentT(2.5, 10.0))),
    Mixture((0.25, 0.25, 0.5), (Laplace(), Uniform(0.1), GeneralizedNormal(3.0))),
    Laplace().with_outliers(rate=0.2, value=2.0, values="spread"),
]
#: population: its point masses, counted by hand
ATOMS = {
    Normal().with_outliers(rate=0.04, magnitude=3.0): [(3.0, 0.02), (-3.0, 0.02)],
    StudentT(5.0).with_outliers(rate=0.1, value=7.0, sign="positive"): [(7.0, 0.1)],
    Uniform(2.0).with_outliers(rate=0.01, magnitude=20.0, sign="negative"): [(-40.0, 0.01)],
    Laplace().with_outliers(rate=0.2, value=2.0, values="spread", sign="positive"): [],
    Uniform(0.1).with_outliers(rate=0.3, value=9.0, values="spread", sign="negative"): [],
    Normal().with_outliers(rate=0.5, value=2.0).with_outliers(rate=0.2, value=5.0, sign="positive"): [
        (2.0, 0.2),
        (-2.0, 0.2),
        (5.0, 0.2),
    ],
    Mixture((0.75, 0.25), (Normal(), Empirical([1.0, -3.0, 1.0, 2.0]))): [(1.0, 0.125), (-3.0, 0.0625), (2.0, 0.0625)],
}
CASES = [*((pop, ()) for pop in SYMMETRIC), *((pop, tuple(masses)) for pop, masses in ATOMS.items())]
POPULATIONS = [pop for pop, _ in CASES]
every_case = pytest.mark.parametrize(("pop", "masses"), CASES, ids=lambda v: str(v) if not isinstance(v, tuple) else "")
every_population = pytest.mark.parametrize("pop", [*POPULATIONS, Empirical(VALUES)], ids=str)


def definition_over(pop, masses, x, claimed):
    """E[max(X - x, 0)^k] over ``claimed[k]``: the integral of (y - x)^k pdf(y), and the point masses beyond x."""

    def powers(y):
        return np.stack([y > x, np.maximum(y - x, 0), np.maximum(y - x, 0) ** 2]) / claimed

    def integral(a, b):
        # each part is counted in units of the claim, so that none is too small to be seen
        return integrate.quad_vec(lambda y: float(pop.pdf(y)) * powers(y), a, b, epsabs=1e-12, epsrel=1e-12, limit=100)[
            0
        ]

    own = [s * part.std_dev() for part in pop._parts() for s in (-4, -1, 0, 1, 4)]
    outward = float(pop.std_dev()) * 4.0 ** np.arange(1, 300)
    inner = np.unique(np.concatenate([x, own, pop._breaks(), -pop._breaks(), outward[outward < x[-1]]]))
    inner = inner[inner >= x[0]]
    total = sum(integral(a, b) for a, b in itertools.pairwise(inner)) + sum(m * powers(at) for at, m in masses)
    start, length = inner[-1], claimed[1, -1] / claimed[0, -1] / 4  # a hint: how far beyond the last x the weights lie
    while np.any((part := integral(start, start + length)) > 1e-12):
        total, start, length = total + part, start + length, 4 * length
    return total


@every_case
def test_upper_moments_are_their_integrals(pop, masses):
    std = float(pop.std_dev())
    far = [-float(pop._mirrored().quantile(p)) for p in (1e-6, 1e-30, 1e-120)]
    x = np.array([-5.3 * std, -std, 0.0, 0.4 * std, 1.1 * std, *far])
    x = np.unique(x[x < far[1] * (1 - 1e-9)] if far[2] == far[1] else x)  # the first: a population that ends
    claimed = np.array([pop.upper_moment(x, k) for k in (0, 1, 2)])
    np.testing.assert_allclose(definition_over(pop, masses, x, claimed), 1, rtol=1e-9)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_upper_moments_of_values_are_sums(k):
    x = np.array([-1e3, -2.5, -2.0, -1.0, 0.0, 0.1, 3.999, 4.0, 1e3])
    expected = [np.mean([(v > at) * (v - at) ** k for v in VALUES]) for at in x]
    np.testing.assert_allclose(Empirical(VALUES).upper_moment(x, k), expected, rtol=1e-9)


@every_population
def test_upper_moments_end_where_the_weights_end(pop):
    x = 1e38 * np.array([1.0, -1.0])  # the levels of a float32; no overflow, no NaN
    for k in (0, 1, 2):
        above, below = pop.upper_moment(x, k)
        assert 0 <= above <= 1e-30 * float(pop.std_dev()) ** k * 1e38 ** max(k - 1, 0)
        assert below == pytest.approx(1e38**k, rel=1e-12)


@every_population
def test_each_upper_moment_is_the_integral_of_the_one_below(pop):
    # Gauss-Legendre in panels that shrink toward zero, where some densities have a cusp
    std, (nodes, weights) = float(pop.std_dev()), np.polynomial.legendre.leggauss(40)
    graded = 6.2 * std * 2.0 ** -np.arange(0, 40, 0.25)
    edges = np.unique(np.concatenate([graded, -graded, [0.0], pop._breaks(), -pop._breaks()]))
    a, b = edges[:-1], edges[1:]
    at = ((a + b)[:, None] + (b - a)[:, None] * nodes) / 2
    for k in (1, 2):
        loss = k * (pop.upper_moment(at, k - 1) * weights).sum(axis=1) * (b - a) / 2
        between = pop.upper_moment(a, k) - pop.upper_moment(b, k)
        np.testing.assert_allclose(between, loss, rtol=1e-9, atol=1e-14 * float(pop.upper_moment(a[0], k)))


@pytest.mark.parametrize("factor", [2.0**-30, 0.375, 1e10])  # four times each is a float32 number, as outliers are
@pytest.mark.parametrize(
    "family",
    [
        *(Normal, Laplace, Uniform, lambda s: StudentT(2.5, s), lambda s: StudentT(50.0, s)),
        *(lambda s: GeneralizedNormal(0.5, s), lambda s: GeneralizedNormal(7.0, s)),
        lambda s: Laplace(s).with_outliers(rate=0.1, magnitude=4.0, sign="positive"),
    ],
)
def test_upper_moments_scale_with_the_standard_deviation(family, factor):
    x = np.array([-4.0, -0.2, 0.0, 0.9, 1.6, 3.3, 9.0])
    for k in (0, 1, 2):
        expected = factor**k * family(1.0).upper_moment(x, k)
        np.testing.assert_allclose(family(factor).upper_moment(factor * x, k), expected, rtol=1e-10)


@every_population
def test_one_place_at_a_time_gives_the_same(pop):
    x = np.array([[-1.5, 0.0, 0.3], [2.0, 5.0, 90.0]]) * float(pop.std_dev())
    for k in (0, 1, 2):
        together = pop.upper_moment(x, k)
        assert np.shape(together) == x.shape
        one = [[float(pop.upper_moment(float(at), k)) for at in row] for row in x]
        np.testing.assert_allclose(together, one, rtol=1e-12)


@every_population
def test_mirrored_populations_have_the_lower_moments(pop):
    # max(X - x, 0)^k and max(x - X, 0)^k are (X - x)^k together, or its difference
    mirror, x = pop._mirrored(), np.linspace(-6.3, 6.3, 41) * float(pop.std_dev())
    up, down = ([p.upper_moment(s * x, k) for k in (0, 1, 2)] for p, s in ((pop, 1), (mirror, -1)))
    np.testing.assert_allclose(up[0] + down[0], 1 - np.array([on(pop, at) for at in x]), rtol=1e-12)
    np.testing.assert_allclose(up[1] - down[1], pop.moment(1) - x, rtol=1e-12, atol=1e-12 * np.abs(x).max())
    np.testing.assert_allclose(up[2] + down[2], pop.moment(2) - 2 * x * pop.moment(1) + x * x, rtol=1e-12)
    np.testing.assert_array_equal(mirror.pdf(-x), pop.pdf(x))
    for k in (1, 2, 3):
        assert mirror.moment(k) == pytest.approx((-1) ** k * pop.moment(k), rel=1e-12)


def on(pop, x):
    """P(X = x)."""
    return sum(m for at, m in zip(*pop._atoms(), strict=True) if at == x)


def test_what_is_symmetric_is_its_own_mirror():
    for pop in SYMMETRIC:
        assert pop._mirrored() is pop
    positive = Normal().with_outliers(rate=0.1, value=3.0, sign="positive")
    assert positive._mirrored() == Normal().with_outliers(rate=0.1, value=3.0, sign="negative")
    assert Empirical([-1.0, 0.0, 1.0])._mirrored() == Empirical([-1.0, 0.0, 1.0])
    assert Empirical(VALUES)._mirrored() == Empirical([0 - v for v in VALUES]) != Empirical(VALUES)
    halves = Mixture((0.5, 0.5), (positive, Laplace()))
    assert halves._mirrored() == Mixture((0.5, 0.5), (positive._mirrored(), Laplace()))


@every_case
def test_atoms_are_those_counted_by_hand(pop, masses):
    at, mass = pop._atoms()
    order, expected = np.argsort(at), np.array(sorted(masses)).reshape(-1, 2)
    np.testing.assert_allclose(np.stack([at, mass], axis=1)[order], expected, rtol=1e-15)
    np.testing.assert_allclose(pop.cdf(at) - pop.cdf(np.nextafter(at, -np.inf)), mass, rtol=1e-12)


def test_atoms_of_values_are_their_shares():
    at, mass = Empirical(VALUES)._atoms()
    np.testing.assert_array_equal(at, sorted(set(VALUES)))
    np.testing.assert_allclose(mass * 7, [VALUES.count(v) for v in at], rtol=1e-15)


def test_parts_are_what_a_population_is_made_of():
    spread = Laplace().with_outliers(rate=0.1, value=9.0, values="spread")
    assert Normal()._parts() == (Normal(),)
    assert Mixture((0.5, 0.5), (Normal(), Mixture((1.0,), (Uniform(),))))._parts() == (Normal(), Uniform())
    assert StudentT(3.0).with_outliers(rate=0.1, value=9.0)._parts() == (StudentT(3.0),)
    assert spread._parts() == (Laplace(), spread)


@pytest.mark.parametrize(
    "pop",
    [*(StudentT(df) for df in (2.01, 5.0, 40.0)), *(GeneralizedNormal(b) for b in (0.25, 1.0, 2.5, 64.0))],
    ids=str,
)
def test_many_places_at_once_give_what_a_few_give(pop):
    x = np.random.default_rng(0).uniform(-9, 9, 20_000) * 10.0 ** np.random.default_rng(1).uniform(-6, 0, 20_000)
    few = np.concatenate([pop.upper_moment(part, 1) for part in np.split(x, 4)])
    np.testing.assert_allclose(pop.upper_moment(x, 1), few, rtol=1e-10)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_far_moments_of_a_normal_are_its_asymptotic_series(k):
    # sum over m of (-1/2)^m (k + 2m)! / m! / z^(k + 1 + 2m), whose terms fall to e^(-z^2 / 2)
    z = 9.0
    terms = [(-0.5) ** m * math.factorial(k + 2 * m) / math.factorial(m) / z ** (k + 1 + 2 * m) for m in range(35)]
    found = far_moment(k, lambda w: (np.sqrt(z * z + 2 * w) - z, 1 / np.sqrt(z * z + 2 * w)))
    assert float(found) == pytest.approx(math.fsum(terms), rel=1e-12)
    density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    for pop in (Normal(), GeneralizedNormal(2.0)):
        assert float(pop.upper_moment(z, k)) == pytest.approx(density * math.fsum(terms), rel=1e-12)


FAR = 10.0 ** -np.array([1.0, 8.0, 16.0, 39.9, 40.1, 60.0, 100.0, 150.0, 200.0, 250.0, 280.0])


@pytest.mark.parametrize("df", [2.001, 2.1, 2.5, 3.0, 5.0, 10.0, 29.9, 30.0, 100.0, 1e4, 1e8])
def test_quantiles_of_student_t_reach_as_far_as_its_tail(df):
    pop = StudentT(df, 0.5)
    x = pop.quantile(FAR)
    np.testing.assert_allclose(pop.cdf(x), FAR, rtol=1e-9)
    np.testing.assert_allclose([float(pop.quantile(float(p))) for p in FAR], x, rtol=1e-14)
    np.testing.assert_allclose(pop.quantile([0.0, 0.5, 1.0]), [-math.inf, 0.0, math.inf])
    assert float(pop.quantile(1 - 2.0**-30)) == pytest.approx(-float(pop.quantile(2.0**-30)), rel=1e-9)


@pytest.mark.parametrize("df", [2.1, 3.0, 5.0, 10.0])
def test_far_quantiles_of_student_t_follow_its_power_law(df):
    # P(T < -z) = gamma((v + 1) / 2) / gamma(v / 2) / sqrt(pi) v^(v / 2 - 1) z^-v up to a factor 1 + O(v^2 / z^2)
    log_c = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(math.pi) + (df / 2 - 1) * math.log(df)
    z = np.exp((log_c - np.log(FAR[-3:])) / df)
    np.testing.assert_allclose(StudentT(df).quantile(FAR[-3:]), -z * ((df - 2) / df) ** 0.5, rtol=1e-12)


@pytest.mark.parametrize("df", [200.0, 1e4, 1e7, 1e15])
def test_the_density_of_student_t_at_many_degrees_of_freedom(df):
    # Stirling at the mode: 1 - 1/(4v) + 1/(32v^2) + 5/(128v^3) - 21/(2048v^4)
    series = 1 - 1 / (4 * df) + 1 / (32 * df**2) + 5 / (128 * df**3) - 21 / (2048 * df**4)
    pop = StudentT(df, (df / (df - 2)) ** 0.5)
    assert float(pop.pdf(0.0)) * math.sqrt(2 * math.pi) == pytest.approx(series, rel=3e-14)
