"""Populations against scipy.stats, jax.random and their own samples; element i depends on (key, i) alone."""

import itertools
import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from quantsim.populations import (
    Empirical,
    GeneralizedNormal,
    Laplace,
    Mixture,
    Normal,
    StudentT,
    Uniform,
    expected_absmax_power,
    key,
)
from quantsim.populations.draws import Index

VALUES = [-2.5, -1.0, -1.0, 0.0, 0.25, 0.75, 4.0]
FAMILIES = [
    Normal(0.02),
    Laplace(0.5),
    Uniform(2.0),
    StudentT(3.0),
    StudentT(5.0, 0.02),
    StudentT(30.5, 3.0),
    GeneralizedNormal(0.7, 0.02),
    GeneralizedNormal(1.5),
    Mixture((0.9, 0.1), (Normal(), Normal(3.0))),
    Mixture((0.25, 0.25, 0.5), (Laplace(), Uniform(), StudentT(5.0))),
    Empirical(VALUES),
]
SMOOTH = FAMILIES[:-1]
PLAIN = FAMILIES[:8]
FAMILIES_BY_STD = [Normal, Laplace, Uniform, lambda std: StudentT(5.0, std), lambda std: GeneralizedNormal(1.5, std)]


def reference(pop):
    """The scipy distribution of a family that is no mixture."""
    if isinstance(pop, Uniform):
        return stats.uniform(-(3**0.5) * pop.std, 2 * 3**0.5 * pop.std)
    if isinstance(pop, StudentT):
        return stats.t(pop.df, scale=pop.std * ((pop.df - 2) / pop.df) ** 0.5)
    if isinstance(pop, GeneralizedNormal):
        return stats.gennorm(pop.beta, scale=pop.std / stats.gennorm(pop.beta).std())
    return {Normal: stats.norm, Laplace: stats.laplace}[type(pop)](scale=pop.std / (2**0.5) ** isinstance(pop, Laplace))


def mixed(pop, name, x):
    """A method of the scipy distribution, or of those of the components of a mixture."""
    if isinstance(pop, Mixture):
        return sum(w * mixed(c, name, x) for w, c in zip(pop.weights, pop.components, strict=True))
    return getattr(reference(pop), name)(x)


#: Draws of most tests, flat or as (27, 37): families that differ in numbers only share a program for a count.
COUNT = 999


@lru_cache
def drawn(pop, n=2**18):
    return np.asarray(pop.sample(key(11), (n,)), np.float64)


def highest_moment(pop):
    """Largest order whose moment exists."""
    return min([math.ceil(c.df) - 1 for c in (pop, *getattr(pop, "components", ())) if isinstance(c, StudentT)] + [99])


@pytest.mark.parametrize("pop", FAMILIES, ids=str)
def test_sample_moments(pop):
    # n = 2^18, k = 4 standard errors; only orders whose own variance exists
    x = drawn(pop)
    for order in (k for k in (1, 2, 3, 4) if 2 * k <= highest_moment(pop)):
        expected = pop.moment(order)
        error = np.sqrt((pop.moment(2 * order) - expected**2) / x.size)
        assert abs(np.mean(x**order) - expected) <= 4 * error


@pytest.mark.parametrize("pop", SMOOTH, ids=str)
def test_moments_are_those_of_scipy(pop):
    for order in range(1, min(highest_moment(pop), 6) + 1):
        expected = mixed(pop, "moment", order)  # scipy integrates numerically
        assert pop.moment(order) == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert pop.std_dev() == pytest.approx(math.sqrt(mixed(pop, "moment", 2)), rel=1e-12)


@pytest.mark.parametrize("df", [2.5, 3.0, 4.0])
def test_moments_that_do_not_exist_are_infinite(df):
    assert StudentT(df).moment(4) == math.inf
    assert StudentT(df).kurtosis() == math.inf
    assert StudentT(df).moment(3) == 0.0


@pytest.mark.parametrize(
    ("pop", "kurtosis"),
    [(Normal(7.0), 3), (Laplace(0.1), 6), (Uniform(2.0), 1.8), (StudentT(5.0), 9), (StudentT(10.0), 4)],
)
def test_kurtosis(pop, kurtosis):
    assert pop.kurtosis() == pytest.approx(kurtosis, rel=1e-12)


@pytest.mark.parametrize("name", ["pdf", "cdf"])
@pytest.mark.parametrize("pop", SMOOTH, ids=str)
def test_distribution_functions_are_those_of_scipy(pop, name):
    x = np.linspace(-9, 9, 1001) * pop.std_dev()
    np.testing.assert_allclose(getattr(pop, name)(x), mixed(pop, name, x), rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("pop", SMOOTH, ids=str)
def test_the_density_integrates_to_the_distribution(pop):
    ends = np.array([-6.0, -2.1, -0.3, 0.0, 0.7, 1.4, 5.0]) * pop.std_dev()
    for a, b in itertools.pairwise(ends):
        jumps = [s * e for e in pop._breaks() for s in (-1, 1) if a < s * e < b]
        area = integrate.quad(pop.pdf, a, b, points=jumps or None, epsabs=1e-13, epsrel=1e-12)[0]
        assert area == pytest.approx(float(pop.cdf(b) - pop.cdf(a)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("pop", PLAIN, ids=str)
def test_quantiles_are_those_of_scipy(pop):
    p = np.concatenate([10.0 ** -np.arange(1, 16), np.linspace(0.01, 0.99, 99)])
    np.testing.assert_allclose(pop.quantile(p), reference(pop).ppf(p), rtol=1e-8, atol=1e-12)


UNIFORM_END = 2 * 3**0.5
BOUNDED = [
    (Uniform(2.0), (-UNIFORM_END, UNIFORM_END)),
    (Empirical(VALUES), (-2.5, 4.0)),
    (Mixture((0.5, 0.5, 0.0), (Uniform(2.0), Empirical(VALUES), Normal())), (-UNIFORM_END, 4.0)),
    (Uniform(2.0).with_outliers(rate=0.1, value=9.0, sign="positive"), (-UNIFORM_END, 9.0)),
    (Uniform(2.0).with_outliers(rate=0.1, value=1.0, sign="negative"), (-UNIFORM_END, UNIFORM_END)),
    (Empirical(VALUES).with_outliers(rate=0.1, value=8.0, values="spread"), (-12.0, 12.0)),
    (Normal().with_outliers(rate=1.0, value=8.0, sign="positive", values="spread"), (4.0, 12.0)),
    (Uniform(2.0).with_outliers(rate=0.0, value=9.0), (-UNIFORM_END, UNIFORM_END)),
]
CONTAMINATED = [
    Normal().with_outliers(rate=0.1, value=9.0),
    FAMILIES[8].with_outliers(rate=0.1, magnitude=9.0, values="spread"),
    StudentT(5.0).with_outliers(rate=0.1, value=9.0).with_outliers(rate=0.1, value=20.0, sign="positive"),
]
ENDLESS = [p for p in [*FAMILIES, *CONTAMINATED] if not isinstance(p, Uniform | Empirical)]


@pytest.mark.parametrize(("pop", "ends"), [*BOUNDED, *((p, (-np.inf, np.inf)) for p in ENDLESS)], ids=str)
def test_quantiles_end_where_the_population_does(pop, ends):
    """At 0 and 1; there is none outside, and none of what is no number."""
    np.testing.assert_allclose(pop.quantile([0.0, 1.0]), ends, rtol=1e-15)
    assert np.isnan(pop.quantile([np.nan, -0.1, 1.1, -np.inf, np.inf])).all()
    within = pop.quantile(np.array([[0.25, 0.5], [0.0, np.nan]]))
    assert within.shape == (2, 2)
    assert ends[0] <= within[0, 0] <= within[0, 1] <= ends[1]
    one = pop.quantile(0.5)
    assert np.shape(one) == ()
    assert one == within[0, 1]


def test_a_population_of_zeros_has_no_shape():
    for pop in (Empirical(np.zeros(5)), Mixture((0.5, 0.5), (Empirical([0.0]), Empirical([0.0, 0.0])))):
        assert (pop.moment(2), pop.std_dev(), pop.quantile(0.5)) == (0, 0, 0)
        assert math.isnan(pop.kurtosis())
        assert math.isnan(pop.crest(7))


@pytest.mark.parametrize("pop", SMOOTH, ids=str)
def test_quantile_inverts_cdf(pop):
    # above the median 1 - cdf loses digits: stay below three standard deviations
    x = np.linspace(-1.7 if isinstance(pop, Uniform) else -12.0, 1.7, 301) * pop.std_dev()
    np.testing.assert_allclose(pop.quantile(pop.cdf(x)), x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 7, 25, 29, 41, 1000])
def test_quantile_inverts_cdf_of_values(n):
    # k / n * n rounds above k for some k, first at 7 / 25
    values = np.arange(n, dtype=np.float32)
    np.testing.assert_array_equal(Empirical(values).quantile(Empirical(values).cdf(values)), values)


@pytest.mark.parametrize("pop", SMOOTH, ids=str)
def test_tail_is_accurate_where_it_is_tiny(pop):
    if isinstance(pop, Uniform):
        return  # it has no tail
    low, high = 0.0, 1e9
    for _ in range(200):  # where scipy's survival function is 10^-15 / 2
        middle = (low + high) / 2
        low, high = (middle, high) if mixed(pop, "sf", middle) > 0.5e-15 else (low, middle)
    assert float(pop.tail(high)) == pytest.approx(1e-15, rel=1e-9)


def test_tail_of_a_uniform_population_ends_at_its_edge():
    edge = 3**0.5
    np.testing.assert_allclose(Uniform().tail([0.0, edge / 2, edge, 2.0]), [1, 0.5, 0, 0], atol=1e-15)


def test_tail_of_values_counts_them():
    np.testing.assert_allclose(Empirical(VALUES).tail([0.0, 0.5, 1.0, 3.9, 4.0]) * 7, [6, 5, 2, 1, 0], atol=1e-14)


def order_statistic(pop, n):
    """E max |x_i| as the integral of x d(F^n), F the distribution of |x|, from scipy's functions alone."""

    def integrand(x):
        return x * n * 2 * mixed(pop, "pdf", x) * (1 - 2 * mixed(pop, "sf", x)) ** (n - 1)

    points = sorted({*(q * pop.std_dev() for q in (0.0, 2.0, 5.0, 20.0, 1e3)), *pop._breaks(), np.inf})
    points = sorted({*points, *(b * (1 - c / n) for b in pop._breaks() for c in (1, 10, 100) if c < n)})
    return sum(
        integrate.quad(integrand, a, b, epsabs=1e-12, epsrel=1e-9, limit=200)[0] for a, b in itertools.pairwise(points)
    )


@pytest.mark.parametrize("n", [2, 32])
@pytest.mark.parametrize("pop", [Normal(0.02), Laplace(0.5), Uniform(2.0), StudentT(3.0)], ids=str)
def test_crest_equals_the_order_statistic(pop, n):
    assert pop.crest(n) == pytest.approx(order_statistic(pop, n) / pop.std_dev(), rel=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 16, 32, 128, 1024, 4096, 10**6])
@pytest.mark.parametrize("pop", SMOOTH, ids=str)
def test_crest_equals_the_order_statistic_everywhere(pop, n):
    test_crest_equals_the_order_statistic(pop, n)


@pytest.mark.parametrize("n", [32, 1024])
@pytest.mark.parametrize("pop", FAMILIES, ids=str)
def test_crest_equals_monte_carlo(pop, n):
    # 2^18 / n blocks, k = 4 standard errors of their mean
    largest = np.abs(drawn(pop).reshape(-1, n)).max(axis=1)
    assert abs(largest.mean() - pop.crest(n) * pop.std_dev()) <= 4 * largest.std(ddof=1) / np.sqrt(largest.size) + 1e-12


@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_crest_of_values_is_a_finite_sum(n):
    # with k of the m magnitudes at most v, the largest of n draws is at most v with probability (k / m)^n
    m = np.sort(np.abs(VALUES))
    below = (np.arange(m.size + 1) / m.size) ** n
    expected = (m * np.diff(below)).sum() / np.sqrt(np.mean(m**2))
    assert Empirical(VALUES).crest(n) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("df", [2.1, 2.5, 3.0, 5.0])
def test_second_power_of_one_draw_is_the_variance(df):
    assert expected_absmax_power(StudentT(df), 1, 2) == pytest.approx(1, rel=1e-9)


def test_crest_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one weight"):
        Normal().crest(0)


@pytest.mark.parametrize("pop", [*FAMILIES[:3], *FAMILIES[4:5], *FAMILIES[7:]], ids=str)
def test_any_chunk_is_a_slice_of_the_whole(pop):
    # chunks as large as the whole, so that one program draws all: they overlap it, and each other
    whole = np.asarray(pop.sample(key(4), (27, 37))).ravel()
    behind = np.asarray(pop.sample(key(4), (COUNT,), start=COUNT))
    for start in (3, 36, 967):
        chunk = pop.sample(key(4), (COUNT,), start=start)
        np.testing.assert_array_equal(chunk, np.concatenate([whole, behind])[start : start + COUNT])


def test_chunks_beyond_32_bits_do_not_repeat():
    def chunk(start):
        return np.asarray(Normal().sample(key(0), (COUNT,), start=start))

    assert not np.any(chunk(5)[:64] == chunk(2**32 + 5)[:64])
    across = chunk(2**32 - 5)[5:]
    np.testing.assert_array_equal(across, chunk(2**32)[:-5])
    traced = jax.jit(lambda low: Normal().sample(key(0), (5,), start=Index(jnp.uint32(1), low)))
    np.testing.assert_array_equal(traced(np.uint32(0)), across[:5])


@pytest.mark.parametrize(
    ("pop", "draw"),
    [
        (Normal(0.02), jax.random.normal),
        (Laplace(0.02 * 2**0.5), jax.random.laplace),
        (Uniform(0.02 / 3**0.5), lambda k, shape: jax.random.uniform(k, shape, minval=-1.0)),
    ],
)
def test_a_sample_is_a_factor_times_the_draw_of_jax(pop, draw):
    factor = {Normal: 1.0, Laplace: 1 / 2**0.5, Uniform: 3**0.5}[type(pop)] * pop.std
    # drawn flat: in rows of 7 the log1p of jax 0.12 rounds some of JAX's own Laplace draws differently
    expected = np.asarray(draw(key(5), (COUNT,))).reshape(27, 37) * np.float32(factor)
    np.testing.assert_array_equal(pop.sample(key(5), (27, 37)), expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("pop", [Normal(0.02), StudentT(5.0), FAMILIES[-1]], ids=str)
def test_samples_are_drawn_in_float32_and_cast_last(pop, dtype):
    narrow = pop.sample(key(6), (COUNT,), dtype=dtype)
    assert narrow.dtype == dtype
    np.testing.assert_array_equal(narrow, np.asarray(pop.sample(key(6), (COUNT,))).astype(dtype))


def test_bfloat16_samples_take_more_than_the_128_values_of_a_bfloat16_draw():
    assert np.unique(np.float32(Normal().sample(key(6), (5000,), dtype=jnp.bfloat16))).size > 500


@pytest.mark.parametrize("family", FAMILIES_BY_STD)
def test_powers_of_two_scale_exactly(family):
    small, unit, large = (np.asarray(family(0.3 * s).sample(key(8), (COUNT,))) for s in (2.0**-40, 1.0, 2.0**40))
    np.testing.assert_array_equal(small, unit * np.float32(2.0**-40))
    np.testing.assert_array_equal(large, unit * np.float32(2.0**40))


def test_empirical_populations_are_equal_by_content():
    a, b, c = Empirical(VALUES), Empirical(np.array(VALUES[::-1])), Empirical([*VALUES, 0.5])
    assert a == b
    assert hash(a) == hash(b)
    assert a not in (c, Normal())
    assert len({a, b, c}) == 2
    with pytest.raises(ValueError, match="read-only"):
        a.values[0] = 1.0


def test_empirical_draws_only_its_values_and_all_alike():
    # n = 70 000 of 7 distinct values, significance 10^-3
    values = np.float32([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -9.0])
    drawn_values, counts = np.unique(Empirical(values).sample(key(1), (70_000,)), return_counts=True)
    np.testing.assert_array_equal(drawn_values, np.sort(values))
    assert ((counts - 1e4) ** 2 / 1e4).sum() < stats.chi2.isf(1e-3, 6)


def test_a_mixture_draws_each_component_by_its_weight():
    # n = 2^18, k = 4 standard errors of a share; the components do not overlap
    shares = (0.5, 0.3, 0.19, 0.01)
    pop = Mixture(shares, tuple(Empirical([v]) for v in (1.0, 2.0, 3.0, 4.0)))
    for value, share in zip((1.0, 2.0, 3.0, 4.0), shares, strict=True):
        seen = np.mean(drawn(pop) == value)
        assert abs(seen - share) <= 4 * np.sqrt(share * (1 - share) / 2**18)


def test_a_component_of_weight_zero_is_never_drawn():
    pop = Mixture((0.0, 1.0, 0.0), tuple(Empirical([v]) for v in (1.0, 2.0, 3.0)))
    assert np.all(drawn(pop) == 2.0)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3, 4)])
def test_samples_have_any_shape(shape):
    w = Normal().sample(key(0), shape)
    assert w.shape == shape
    assert w.dtype == jnp.float32
