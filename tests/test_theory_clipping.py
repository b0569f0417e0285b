"""Clipping: optima against quadrature and scipy's minimizers, ACIQ against its published arrays, the outlier law."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from quantsim import formats, theory
from quantsim.populations import Empirical, GeneralizedNormal, Laplace, Mixture, Normal, StudentT, Uniform, parse

FORMATS = ("int2", "int4", "e2m1", "nf4")
REFERENCE = {
    Normal(): stats.norm(),
    Laplace(): stats.laplace(scale=0.5**0.5),
    Uniform(): stats.uniform(-(3**0.5), 2 * 3**0.5),
    StudentT(5.0): stats.t(5, scale=math.sqrt(3 / 5)),
}
T5 = math.gamma(3) / (math.gamma(2.5) * math.sqrt(3 * math.pi))
# plain functions: scipy's densities are slow, one number at a time
DENSITY = {
    Normal(): lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    Laplace(): lambda x: math.exp(-abs(x) * math.sqrt(2)) / math.sqrt(2),
    Uniform(): lambda x: 0.5 / math.sqrt(3),
    StudentT(5.0): lambda x: T5 * (1 + x * x / 3) ** -3,
}


def unit_levels(name):
    fmt = formats.parse(name)
    return formats.levels(fmt) / formats.reach(fmt)


def by_definition(density, levels, lowest=-np.inf, highest=np.inf):
    """Adaptive quadrature of (x - nearest level)^2 over each cell; far tails apart, where quad needs a hint."""
    v = [float(level) for level in levels]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(v)]
    ends = np.unique(np.clip([lowest, *middles, -30, -6, 0, 6, 30, highest], lowest, highest)).tolist()
    total = 0.0
    for a, b in itertools.pairwise(ends):
        inside = (a + b) / 2 if math.isfinite(a + b) else (a if math.isfinite(a) else b)
        level = min(v, key=lambda u, x=inside: abs(x - u))
        total += integrate.quad(lambda x, u=level: (x - u) ** 2 * density(x), a, b, epsabs=1e-13, epsrel=1e-11)[0]
    return total


def support(pop):
    edge = 3**0.5 if isinstance(pop, Uniform) else np.inf
    return -edge, edge


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("pop", REFERENCE, ids=str)
def test_best_reach_is_where_a_minimizer_ends(pop, name):
    v, density = unit_levels(name), DENSITY[pop]
    best = theory.best_reach(pop, v)
    found = optimize.minimize_scalar(
        lambda r: by_definition(density, r * v, *support(pop)),
        bracket=(0.97 * best, 1.01 * best, 1.04 * best),
        tol=1e-6,
    )
    # a minimum by values is known to the root of their precision
    assert best == pytest.approx(found.x, rel=2e-5)
    assert theory.levels_mse(pop, best * v) == pytest.approx(found.fun, rel=1e-9)


@pytest.mark.parametrize("name", ["int2", "int8", "nf4", "e4m3"])
@pytest.mark.parametrize("pop", [Normal(), Uniform(), StudentT(2.2), GeneralizedNormal(0.5)], ids=str)
def test_no_other_scale_has_less_error(pop, name):
    v = unit_levels(name)
    best = theory.best_reach(pop, v)
    least = theory.levels_mse(pop, best * v)
    others = [*np.geomspace(best / 16, best * 16, 40), *(best * (1 + d) for d in (-0.01, -0.001, 0.001, 0.01))]
    assert all(theory.levels_mse(pop, r * v) >= least * (1 - 1e-8) for r in others)


@pytest.mark.parametrize("n", [2, 3, 15, 16, 255])
def test_best_steps_of_a_uniform_population_cover_it(n):
    # n cells of 2/n on [-1, 1], the last level half a cell inside
    best = theory.best_reach(Uniform(3**-0.5), np.linspace(-1, 1, n))
    assert best == pytest.approx((n - 1) / n, rel=1e-12)


def test_ternary_and_binary_optima_in_closed_form():
    # a level is the mean of its cell: x | x > r/2 of an exponential is r/2 + b, so r = 2 b
    assert theory.optimal_clip(Laplace(2**0.5), 2) == pytest.approx(2.0, rel=1e-12)
    for pop, mean in ((Normal(), math.sqrt(2 / math.pi)), (Laplace(), 0.5**0.5), (Uniform(), 0.75**0.5)):
        assert theory.best_reach(pop, [-1, 1]) == pytest.approx(mean, rel=1e-12)


# Max, Quantizing for minimum distortion, IRE Trans. Inform. Theory 6 (1960), table II, equally spaced levels:
# number of levels, spacing, distortion
MAX_UNIFORM = [
    (3, 1.224, 0.1902),
    (4, 0.9957, 0.1188),
    (8, 0.5860, 0.03744),
    (16, 0.3352, 0.01154),
    (32, 0.1881, 0.003495),
]


@pytest.mark.parametrize(("n", "spacing", "distortion"), MAX_UNIFORM)
def test_uniform_quantizers_of_max_1960(n, spacing, distortion):
    v = np.arange(n) - (n - 1) / 2
    best = theory.best_reach(Normal(), v)
    assert best == pytest.approx(spacing, abs=1e-4 if spacing < 1 else 1e-3)
    assert theory.levels_mse(Normal(), best * v) == pytest.approx(distortion, rel=1e-3)


@pytest.mark.parametrize("std", [1e-3, 40.0])
def test_a_clip_is_in_the_unit_of_the_weights(std):
    for family in (Normal, Laplace, Uniform, lambda s: StudentT(5.0, s)):
        for name in ("int4", "e4m3"):
            expected = std * theory.best_reach(family(1.0), unit_levels(name))
            assert theory.best_reach(family(std), unit_levels(name)) == pytest.approx(expected, rel=1e-9)
        assert theory.aciq_clip(family(std), 4) == pytest.approx(std * theory.aciq_clip(family(1.0), 4), rel=1e-12)


def test_one_sided_outliers_count_on_their_side():
    # all levels negative: positive outliers of 5 saturate at the level next to zero
    pop = Normal().with_outliers(rate=0.01, value=5.0, sign="positive")
    for v in (np.linspace(-1, 1, 15), np.linspace(-1, 1, 16), np.array([-1.0, -0.5])):
        best = theory.best_reach(pop, v)

        def mse(r, v=v):
            bulk = by_definition(DENSITY[Normal()], r * v)
            return 0.99 * bulk + 0.01 * np.min(np.abs(5.0 - r * v)) ** 2

        assert all(mse(best) <= mse(best * d) for d in (0.98, 0.999, 1.001, 1.02))


def test_the_best_scale_of_a_sample_is_found_by_trying_all():
    w = np.random.default_rng(0).normal(size=300).astype(np.float32).astype(np.float64)
    for name in ("int2", "e2m1", "e2m5"):
        v = unit_levels(name)

        def mse(r, v=v):
            return np.mean((r * v[np.searchsorted((v[1:] + v[:-1]) / 2, w / r)] - w) ** 2)

        best = theory.best_reach(Empirical(w), v)
        assert mse(best) <= min(mse(r) for r in np.geomspace(0.3, 8, 5000))


def test_of_equally_good_octaves_the_smallest():
    best = theory.best_reach(Normal(), unit_levels("e5m2"))
    halved = theory.levels_mse(Normal(), best / 2 * unit_levels("e5m2"))
    assert best < 64
    assert halved > theory.levels_mse(Normal(), best * unit_levels("e5m2")) * (1 + 1e-9)


def laplace_model(alpha, bits):
    clipped, _ = integrate.quad(lambda x: (x - alpha) ** 2 * math.exp(-x), alpha, np.inf)
    return clipped + alpha**2 / (3 * 4**bits)


def normal_model(alpha, bits):
    clipped, _ = integrate.quad(lambda x: 2 * (x - alpha) ** 2 * DENSITY[Normal()](x), alpha, 40)
    return clipped + alpha**2 / (3 * 4**bits)


MODELS = {"laplace": (Laplace(2**0.5), laplace_model), "normal": (Normal(), normal_model)}


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize(("pop", "model"), MODELS.values(), ids=MODELS)
def test_aciq_is_the_minimum_of_its_model(pop, model, bits):
    clip = theory.aciq_clip(pop, bits)
    assert theory.aciq_mse(pop, clip, bits) == pytest.approx(model(clip, bits), rel=1e-7)
    found: Any = optimize.minimize_scalar(lambda a: model(a, bits), bounds=(0.9 * clip, 1.1 * clip), method="bounded")
    assert clip == pytest.approx(found.x, rel=1e-4)
    assert theory.aciq_mse(pop, clip, bits) <= min(theory.aciq_mse(pop, clip * d, bits) for d in (0.999, 1.001))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lamberts_w_is_the_root_of_the_general_equation(bits):
    # the same population by another name takes the numerical way
    clip = theory.aciq_clip(Laplace(), bits)
    assert clip == pytest.approx(theory.aciq_clip(GeneralizedNormal(1.0), bits), rel=1e-9)
    b = 0.5**0.5
    assert clip / b * math.exp(clip / b) == pytest.approx(3 * 4**bits, rel=1e-12)


# comments in the authors' own code, for 2 to 8 bits; its tables in use have two digits
IN_CODE = {
    Laplace(2**0.5): [2.83068299, 3.89722946, 5.02864014, 6.20476633, 7.41312622, 8.64561995, 9.89675982],
    Normal(): [1.71063519, 2.15159277, 2.55913646, 2.93620062, 3.28691474, 3.6151146, 3.92403714],
}
IN_USE = {
    Laplace(2**0.5): [2.83, 3.89, 5.03, 6.20, 7.41, 8.64, 9.89],
    Normal(): [1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92],
}


@pytest.mark.parametrize("pop", IN_CODE, ids=str)
def test_aciqs_published_arrays(pop):
    ours = [theory.aciq_clip(pop, bits) for bits in range(2, 9)]
    assert ours == pytest.approx(IN_CODE[pop], rel=1e-6)  # theirs come from a minimizer
    assert ours == pytest.approx(IN_USE[pop], abs=0.01)  # most are cut, not rounded


def test_the_papers_clip_for_three_bits_is_a_typing_error():
    assert abs(theory.aciq_clip(Laplace(2**0.5), 3) - 3.86) > 0.03


def test_how_far_aciq_is_from_the_optimum():
    # too wide for integers whose last level is the clip, too narrow for its own 2^bits cells; both vanish with bits
    for pop in (Normal(), Laplace()):
        for bits in range(2, 9):
            cells = (2 * np.arange(2**bits) + 1 - 2**bits) / 2**bits
            clip = theory.aciq_clip(pop, bits)
            assert theory.optimal_clip(pop, bits) < clip < theory.best_reach(pop, cells)
    two = theory.int_mse(Normal(), theory.aciq_clip(Normal(), 2), 2) / theory.int_mse(Normal(), 1.22400636, 2)
    assert 10 * math.log10(two) == pytest.approx(1.268, abs=1e-3)


@pytest.mark.parametrize("p", [50, 99.0, 99.99])
def test_percentiles_of_the_magnitude(p):
    for pop, scipys in REFERENCE.items():
        assert theory.percentile_reach(pop, p) == pytest.approx(scipys.ppf(0.5 + p / 200), rel=1e-9)
    bulk = stats.norm.isf((0.9 - p / 100) / 0.9 / 2) if p < 90 else 7.0
    assert theory.percentile_reach(parse("normal+outliers(rate=0.1,value=7)"), p) == pytest.approx(bulk, rel=1e-9)


@pytest.mark.parametrize("pop", REFERENCE, ids=str)
def test_percentile_mse_by_definition(pop):
    v = unit_levels("int4")
    expected = by_definition(DENSITY[pop], v * REFERENCE[pop].ppf(0.995), *support(pop))
    assert theory.percentile_mse(pop, v, 99.0) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("magnitude", [50.0, 250.0, 440.0, 900.0])
def test_the_outlier_law_by_direct_integration(magnitude):
    step = magnitude / 127
    expected = by_definition(DENSITY[Normal()], np.arange(-127, 128)[100:-100] * step)  # no weight beyond 27 steps
    assert theory.outlier_bulk_mse(Normal(0.02), magnitude) == pytest.approx(0.02**2 * expected, rel=1e-7)


@pytest.mark.parametrize("bits", [4, 8])
def test_asymptotes_of_the_outlier_law(bits):
    cross, top = theory.outlier_crossover(bits), 2 ** (bits - 1) - 1
    assert cross == pytest.approx(math.sqrt(12) * top, rel=1e-12)
    for pop in (Normal(3.0), Laplace(3.0), Uniform(3.0)):
        assert theory.outlier_bulk_mse(pop, 100 * cross, bits) == pytest.approx(9, rel=1e-12)  # all zeros
        assert 0.5 * 9 < theory.outlier_bulk_mse(pop, cross, bits) < 9 * (1 + 1e-12)
    # steps of half a standard deviation: a normal differs from 1/12 by exp(-8 pi^2), reach 7 clips 1e-13
    if bits == 8:
        assert theory.outlier_bulk_mse(Normal(3.0), top / 2, bits) == pytest.approx(9 / 4 / 12, rel=1e-10)


@pytest.mark.parametrize(("rate", "n"), [(1e-3, 512), (0.02, 32)])
def test_outlier_mse_equals_monte_carlo(rate, n):
    # 2^19 weights, k = 4 standard errors over the blocks; outliers of 60 stand above every weight
    rng = np.random.default_rng(1)
    w = rng.normal(size=(2**19 // n, n))
    w = np.where(rng.random(w.shape) < rate, np.where(rng.random(w.shape) < 0.5, -60.0, 60.0), w)
    step = np.abs(w).max(axis=1, keepdims=True) / 127
    mse = ((np.round(w / step) * step - w) ** 2).mean(axis=1)
    predicted = theory.outlier_mse(Normal().with_outliers(rate=rate, magnitude=60.0), n)
    assert abs(mse.mean() - predicted) <= 4 * mse.std(ddof=1) / math.sqrt(mse.size)


def test_bad_input_says_what_is_wrong():
    outliers = Normal().with_outliers
    cases = [
        (lambda: theory.best_reach(Normal(), [1.0]), "two different"),
        (lambda: theory.best_reach(Normal(), [0.0, np.inf]), "finite levels"),
        (lambda: theory.best_reach(Empirical([0.0]), [0.0, 1.0]), "all weights are zero"),
        (lambda: theory.optimal_clip(Normal(), 1), "at least 2"),
        (lambda: theory.aciq_mse(Normal(), 0.0, 4), "positive"),
        (lambda: theory.percentile_reach(Normal(), 100), "between 0 and 100"),
        (lambda: theory.percentile_mse(Normal(), [0, 1], 0), "between 0 and 100"),
        (lambda: theory.outlier_bulk_mse(Normal(), 0.0), "positive"),
        (lambda: theory.outlier_crossover(1), "at least 2 bits"),
        (lambda: theory.outlier_mse(outliers(rate=0.1, magnitude=9.0), 0), "at least one weight"),
        (lambda: theory.outlier_mse(outliers(count=1, magnitude=9.0), 9), "by rate"),
        (lambda: theory.outlier_mse(outliers(rate=0.1, magnitude=9.0, values="spread"), 9), "exact size"),
        (lambda: theory.outlier_mse(outliers(rate=0.1, magnitude=9.0, layout="row"), 9), "single outliers"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_mixtures_have_several_valleys_and_the_deepest_is_taken():
    # ternary on a narrow bulk with a wide tenth: one valley serves the bulk, the deeper one the wide part alone
    pop = Mixture((0.9, 0.1), (Normal(), Normal(50.0)))
    assert theory.best_reach(pop, [-1.0, 0.0, 1.0]) == pytest.approx(50 * 1.224, rel=0.01)
