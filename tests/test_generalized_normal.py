"""The generalized normal: Laplace, normal and nearly uniform where it should be, draws of any exponent."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from quantsim.populations import GeneralizedNormal, Laplace, Normal, Uniform, draws, key
from quantsim.populations.draws import Index

BETAS = [0.25, 1.0, 1.5, 2.0, 8.0, 64.0]
X = np.concatenate([np.linspace(-9, 9, 181), [-30.0, -1e-9, 1e-9, 30.0]]) * 0.02


@partial(jax.jit, static_argnums=2)
def drawn(k, beta, n):
    return draws.generalized_normal(k, draws.indices(0, n), beta)


@pytest.mark.parametrize(("beta", "other"), [(1.0, Laplace(0.02)), (2.0, Normal(0.02))])
def test_two_exponents_are_other_families(beta, other):
    pop = GeneralizedNormal(beta, 0.02)
    for name in ("pdf", "cdf", "tail"):
        np.testing.assert_allclose(getattr(pop, name)(X), getattr(other, name)(X), rtol=1e-11)
    p = np.concatenate([10.0 ** -np.arange(1.0, 290.0, 17.0), np.linspace(0.03, 0.97, 48), [0.5 - 1e-9, 0.5 + 1e-9]])
    np.testing.assert_allclose(pop.quantile(p), other.quantile(p), rtol=1e-11)
    np.testing.assert_array_equal(pop.quantile([0.0, 0.5, 1.0]), [-math.inf, 0.0, math.inf])
    for k in (0, 1, 2):
        np.testing.assert_allclose(pop.upper_moment(X, k), other.upper_moment(X, k), rtol=1e-10)
    for k in range(1, 9):
        assert pop.moment(k) == pytest.approx(other.moment(k), rel=1e-13)
    assert pop.kurtosis() == pytest.approx(other.kurtosis(), rel=1e-13)
    assert pop.crest(32) == pytest.approx(other.crest(32), rel=1e-10)


def test_a_large_exponent_is_nearly_uniform():
    # for large beta gamma(k / beta) = beta / k (1 - 0.577 k / beta + …): differences fall as 1 / beta or faster
    x, p = np.linspace(-1.5, 1.5, 31), np.linspace(0.001, 0.999, 41)
    names = {"pdf": x, "cdf": x, "quantile": p, "tail": np.abs(x)}
    for name, at in names.items():
        differences = [
            np.max(np.abs(getattr(GeneralizedNormal(beta), name)(at) - getattr(Uniform(), name)(at)))
            for beta in (8.0, 16.0, 32.0, 64.0)
        ]
        assert all(b < 0.65 * a for a, b in itertools.pairwise(differences)), name
        assert differences[-1] < 0.05, name
    wide = GeneralizedNormal(64.0)
    for k in (2, 4, 6):
        assert wide.moment(k) == pytest.approx(Uniform().moment(k), rel=0.01)
    # from log gamma(1 + e) = -0.577 e + zeta(2) e^2 / 2 - zeta(3) e^3 / 3 + …
    series = 4 * special.zeta(2) / 64**2 - 24 * special.zeta(3) / 64**3 + 116 * special.zeta(4) / 64**4
    assert wide.kurtosis() == pytest.approx(1.8 * math.exp(series), rel=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_quantile_inverts_cdf_from_the_middle_to_the_end(beta):
    pop, p = GeneralizedNormal(beta), 10.0 ** -np.arange(1.0, 280.0, 9.0)
    np.testing.assert_allclose(pop.cdf(pop.quantile(p)), p, rtol=1e-10)
    near = 2.0 ** -np.arange(3.0, 50.0)  # exact in 0.5 - near; where the density is flat, cdf = 1/2 + pdf(0) x
    np.testing.assert_allclose(0.5 - pop.cdf(pop.quantile(0.5 - near)), near, rtol=1e-9, atol=1e-16)
    np.testing.assert_allclose(pop.quantile(0.5 - near[-9:]), -near[-9:] / pop.pdf(0.0), rtol=1e-2)


@pytest.mark.parametrize("beta", BETAS)
def test_far_and_near_there_is_no_overflow(beta):
    pop, x = GeneralizedNormal(beta), np.array([0.0, 1e-300, 1e30, 1e150])
    np.testing.assert_array_equal(pop.pdf(-x), [pop.pdf(0.0), pop.pdf(0.0), 0, 0])
    np.testing.assert_array_equal(pop.cdf(x), [0.5, 0.5, 1, 1])
    np.testing.assert_array_equal(pop.tail(x), [1, 1, 0, 0])
    for k in (0, 1, 2):
        np.testing.assert_array_equal(pop.upper_moment(x[2:], k), 0)


@pytest.mark.parametrize("beta", BETAS)
def test_draws_pass_kolmogorov_smirnov(beta):
    # n = 2^18; sqrt(n) D of the right distribution exceeds 1.95 with probability 10^-3
    x = np.asarray(drawn(key(2025), beta, 2**18), np.float64)
    assert np.isfinite(x).all()
    d = stats.kstest(x, stats.gennorm(beta).cdf).statistic
    assert np.sqrt(x.size) * d < stats.kstwobign.isf(1e-3)


@pytest.mark.parametrize("beta", BETAS)
def test_tail_counts(beta):
    # n = 2^18, k = 4 standard errors of a binomial count on each side
    x, n = np.asarray(drawn(key(7), beta, 2**18), np.float64), 2**18
    for p in (1e-2, 1e-3, 1e-4):
        edge = stats.gennorm(beta).isf(p)
        for count in ((x > edge).sum(), (x < -edge).sum()):
            assert abs(count - n * p) <= 4 * np.sqrt(n * p * (1 - p))


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.25, 1.0, 2.0])
def test_tails_of_ten_to_the_eight_draws(beta):
    # n = 10^8 in 32 chunks, k = 4 standard errors of a binomial count
    edge, n = stats.gennorm(beta).isf(1e-6), 10**8
    chunk = n // 32

    @jax.jit
    def count_above(start):
        x = draws.generalized_normal(key(1), draws.indices(Index(jnp.uint32(0), start), chunk), beta)
        return (jnp.abs(x) > jnp.float32(edge)).sum()

    count = sum(int(count_above(jnp.uint32(chunk * j))) for j in range(32))
    assert abs(count - 2e-6 * n) <= 4 * np.sqrt(2e-6 * n)


def test_samples_are_pure_functions_of_key_and_index():
    pop = GeneralizedNormal(0.25, 0.3)
    whole = np.asarray(pop.sample(key(4), (40_000,)))  # more than one chunk of the sampler
    for start in (0, 3, 32_760, 39_967):
        np.testing.assert_array_equal(pop.sample(key(4), (33,), start=start), whole[start : start + 33])
    rows = jax.jit(jax.vmap(lambda k: pop.sample(k, (5, 7))))(jnp.stack([key(9), key(4)]))
    np.testing.assert_array_equal(np.asarray(rows)[1].ravel(), whole[:35])


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_compiled_draws_are_those_of_one_operation_at_a_time(beta):
    # a power of a known exponent, a square or its root, would be compiled to another operation
    compiled = jax.jit(lambda k: draws.generalized_normal(k, draws.indices(0, 4096), beta))(key(4))
    np.testing.assert_array_equal(compiled, draws.generalized_normal(key(4), draws.indices(0, 4096), beta))


def test_a_traced_exponent_gives_the_static_sample():
    # gamma functions in float32 instead of float64 cost some ulps of the scale
    calls = []

    def sample(beta):
        calls.append(beta)
        return GeneralizedNormal(beta, 0.3).with_outliers(rate=0.2, magnitude=9.0).sample(key(8), (999,))

    traced = jax.jit(sample)
    for beta in (0.25, 64.0):
        np.testing.assert_allclose(traced(beta), sample(beta), rtol=6e-6)
    assert len(calls) == 1 + 2


@pytest.mark.parametrize("beta", [0, 0.2, -1.0, 64.1, 1000, math.inf, math.nan])
def test_exponents_out_of_range_are_refused(beta):
    with pytest.raises(ValueError, match=f"lies between 0.25 and 64, got beta = {beta}"):
        GeneralizedNormal(beta)
