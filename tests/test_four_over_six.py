"""The error of e2m1 with the largest weight on 6 or on 4, whichever errs less: by hand, in its limits, and measured."""

import time

import numpy as np
import pytest

import quantsim as qs
from quantsim.populations import Empirical, Laplace, Mixture, Normal, Uniform, key
from quantsim.theory import weight_mse, weight_rel_mse
from quantsim.theory.quadrature import fewer

LEVELS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
SHAPE = (256, 1024)


def errors(x, scale):
    """Squared errors of magnitudes under a scale."""
    return ((LEVELS[np.abs((x / scale)[..., None] - LEVELS).argmin(axis=-1)] * scale) - x) ** 2


def least(blocks):
    """Mean squared error with exact scales, of magnitudes (blocks, n)."""
    top = blocks.max(axis=1, keepdims=True)
    return np.minimum(*(errors(blocks, top / last).sum(axis=1) for last in (6, 4))) / blocks.shape[1]


# --- by hand --------------------------------------------------------------------------------------------------------


def test_two_weights_by_integration_in_two_dimensions():
    """The error of (r t, t) is t^2 times that of (r, 1), which loses little of its square to kinks in 2^18 cells."""
    r = (np.arange(2**18) + 0.5) / 2**18
    pair = least(np.stack([r, np.ones(r.size)], axis=1))
    spec = qs.parse("e2m1:block2:fouroversix")
    # the density of t and r is 2 t on the unit square, and E[t^2] = 1/2
    assert weight_mse(Uniform(3**-0.5), spec) == pytest.approx(pair.mean() / 2, rel=1e-4)
    # 2 t exp(-t (1 + r)), and the integral of t^3 exp(-t (1 + r)) is 6 / (1 + r)^4
    assert weight_mse(Laplace(2**0.5), spec) == pytest.approx((pair * 12 / (1 + r) ** 4).mean(), rel=1e-4)
    # normal: 2 t (2 / pi) exp(-t^2 (1 + r^2) / 2), and the integral with t^2 is 2 / (1 + r^2)^2
    assert weight_mse(Normal(), spec) == pytest.approx((pair * 8 / np.pi / (1 + r**2) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("n", [3, 4])
def test_blocks_of_few_values_by_counting(n):
    """Every block of point masses there is, one of them at zero; the series of |D| ends after 40 terms, 1/160 of L."""
    values, share = np.array([0.0, 0.3125, 0.8125, 1.0, 1.90625]), np.array([0.1, 0.4, 0.2, 0.2, 0.1])
    pop = Mixture(tuple(share), tuple(Empirical([v]) for v in values))
    index = np.stack(np.meshgrid(*[np.arange(5)] * n, indexing="ij"), axis=-1).reshape(-1, n)
    some = index[values[index].max(axis=1) > 0]
    expected = (least(values[some]) * share[some].prod(axis=1)).sum()
    assert weight_mse(pop, qs.parse(f"e2m1:block{n}:fouroversix")) == pytest.approx(expected, rel=1e-2)


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["e2m1:block16:fouroversix", "e2m1:block16:fouroversix:bf16"])
def test_powers_of_two_change_nothing(spec):
    one, other = (weight_rel_mse(Normal(std), qs.parse(spec)) for std in (1.0, 2.0**-4))
    assert one == pytest.approx(other, rel=1e-9)


def test_many_weights_have_the_scale_that_errs_less_on_the_whole():
    """Of 2^18 uniform weights the largest is the edge, on 4; of normal ones, with their few large weights, on 6."""
    for pop in (Uniform(), Normal()):
        six, four = (weight_mse(pop, qs.parse(f"e2m1:tensor:{rule}"), SHAPE) for rule in ("absmax", "fouroversix"))
        assert four <= six * (1 + 1e-6)
    edge = 3**0.5
    on_four = edge / 4 * np.concatenate([-LEVELS[:0:-1], LEVELS])
    found = weight_mse(Uniform(), qs.parse("e2m1:tensor:fouroversix"), SHAPE)
    assert found == pytest.approx(qs.theory.levels_mse(Uniform(), on_four), rel=1e-4)


def test_it_errs_less_than_either_scale():
    for pop in (Normal(), Laplace(), qs.populations.parse("t5")):
        both, six = (weight_mse(pop, qs.parse(f"e2m1:block16:{rule}:bf16")) for rule in ("fouroversix", "absmax"))
        assert both < six


def test_fewer_nodes_have_the_moments_of_many():
    x, weights = np.log(np.arange(1.0, 41)), np.arange(1.0, 41)
    y, found = fewer(x, weights, 7)
    assert y.size == 7
    for k in range(14):
        assert (found * y**k).sum() == pytest.approx((weights * x**k).sum(), rel=1e-9)
    y, found = fewer(np.array([1.0, 1.0 + 1e-13, 2.0]), np.ones(3), 3)  # two are one
    assert y[-1] == pytest.approx(2.0)
    assert found.sum() == pytest.approx(3)


# --- measured -------------------------------------------------------------------------------------------------------

SPECS = (
    *("e2m1:block16:fouroversix", "e2m1:block16:fouroversix:e4m3+f32", "e2m1:block8:fouroversix:ue5m3+f32"),
    *("e2m1:block32:fouroversix:ue4m3", "e2m1:block128:fouroversix:bf16", "e2m1:block5:fouroversix:f16"),
)
POPULATIONS = (
    *("normal", "normal(std=0.002)", "laplace(std=0.02)", "uniform", "t12"),
    *("normal+outliers(rate=0.001,magnitude=10)", "normal+outliers(rate=0.01,magnitude=20,sign=positive)"),
)


@pytest.mark.parametrize("name", POPULATIONS)
def test_predictions_equal_measurements(name):
    """Rows of 2^20 weights, k = 4.5; three quantizers for each population."""
    pop, first = qs.populations.parse(name), POPULATIONS.index(name) % 2
    w = np.asarray(pop.sample(key(29), (1024, 1024)))
    for spec in SPECS[first::2]:
        q = qs.parse(spec)
        each = ((np.asarray(q.roundtrip(w), np.float64) - w) ** 2).mean(axis=1)
        z = (each.mean() - weight_mse(pop, q, w.shape)) / (each.std(ddof=1) / each.size**0.5)
        assert abs(z) < 4.5, (spec, z)


@pytest.mark.slow
def test_a_prediction_takes_less_than_a_fifth_of_a_second():
    """Processor time, the least of three populations of another size, as each is predicted once."""
    for spec in ("e2m1:block16:fouroversix:e4m3+f32", "e2m1:block16:fouroversix", "e2m1:block32:fouroversix:ue4m3"):
        seconds = []
        for std in (0.5, 0.7, 0.9):
            start = time.process_time()
            weight_mse(Normal(std), qs.parse(spec), SHAPE)
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.2, spec
