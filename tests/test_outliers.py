"""Outliers: how many, where, how large, and that the bulk around them is untouched."""

import itertools
import math
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from quantsim.populations import Contaminated, Empirical, Laplace, Mixture, Normal, Outliers, Uniform, key

MANY = 2**19  # draws where shares and moments are counted: populations of one structure share a program
LAYOUTS = ["element", "row", "column", "block"]
SHAPE = (24, 100)  # the last block of a row has 4 weights instead of 32
UNITS = {"element": 2400, "row": 24, "column": 100, "block": 24 * 4}


def with_count(count, layout, **settings):
    return Normal(0.02).with_outliers(count=count, magnitude=100.0, layout=layout, **settings)


def units_of(layout, shape=SHAPE, block=32):
    """Number of the unit of each element, written down independently."""
    row, column = np.indices(shape)
    per_row = math.ceil(shape[1] / block)
    return {
        "element": row * shape[1] + column,
        "row": row,
        "column": column,
        "block": row * per_row + column // block,
    }[layout]


PART = 800  # a third of the array: one program for a population draws all parts


def in_parts(pop, k):
    """An array of ``SHAPE``; that parts make the whole is tested below."""
    parts = [pop.sample(k, (PART,), start=start, of=SHAPE) for start in range(0, 3 * PART, PART)]
    return np.concatenate(parts).reshape(SHAPE)


def assert_whole_units(marks, layout, count):
    units = units_of(layout)
    hit = np.unique(units[marks])
    assert hit.size == count
    np.testing.assert_array_equal(marks, np.isin(units, hit))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_are_exact_and_mark_whole_units(layout):
    w, plain = (in_parts(p, key(3)) for p in (with_count(5, layout), Normal(0.02)))
    marks = np.abs(w) == 2.0
    assert_whole_units(marks, layout, 5)
    np.testing.assert_array_equal(w[~marks], plain[~marks])


@pytest.mark.parametrize(("layout", "count"), [("row", 24), ("block", 96)])
def test_every_unit_may_be_an_outlier(layout, count):
    assert_whole_units(np.asarray(with_count(count, layout).is_outlier(key(3), SHAPE)), layout, count)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rate_marks_whole_units_as_often_as_it_says(layout):
    # 64 arrays, k = 4 standard errors of a binomial share
    shape, rate = (64, 96), 0.03
    pop = Normal().with_outliers(rate=rate, magnitude=50.0, layout=layout)
    units, hits = units_of(layout, shape), 0
    for seed in range(64):
        marks = np.asarray(pop.is_outlier(key(seed), shape))
        hit = np.unique(units[marks])
        np.testing.assert_array_equal(marks, np.isin(units, hit))
        hits += hit.size
    n = 64 * (units.max() + 1)
    assert abs(hits - n * rate) <= 4 * np.sqrt(n * rate * (1 - rate))


@pytest.mark.parametrize("rate", [0.0, 1e-5, 0.3, 1.0])
def test_rates_of_elements(rate):
    # n = 2^22, k = 4 standard errors
    n = 2**22
    hits = np.asarray(Normal().with_outliers(rate=rate, magnitude=9.0).is_outlier(key(1), (n,))).sum()
    assert abs(hits - n * rate) <= 4 * np.sqrt(n * rate * (1 - rate))


MIXTURE = Mixture((0.5, 0.5), (Uniform(), Laplace(0.5)))


@pytest.mark.parametrize(("bulk", "layout"), [(Laplace(), "row"), (MIXTURE, "column")])
def test_the_bulk_is_untouched_to_the_bit(bulk, layout):
    pop = bulk.with_outliers(count=7, magnitude=30.0, layout=layout)
    marks = np.asarray(pop.is_outlier(key(5), SHAPE))
    w, plain = (np.asarray(p.sample(key(5), SHAPE)) for p in (pop, bulk))
    np.testing.assert_array_equal(w[~marks], plain[~marks])
    np.testing.assert_allclose(np.abs(w[marks]), 30 * bulk.std_dev(), rtol=1e-6)


def test_positions_do_not_depend_on_the_bulk_or_the_size():
    first = Normal().with_outliers(rate=0.1, magnitude=3.0).is_outlier(key(2), (999,))
    for other in (Laplace(0.1).with_outliers(rate=0.1, magnitude=80.0), Uniform().with_outliers(rate=0.1, value=1e-3)):
        np.testing.assert_array_equal(other.is_outlier(key(2), (999,)), first)


def test_positions_are_uncorrelated_with_the_bulk_they_replace():
    # n = 2^18, k = 4 standard errors of a mean over the marked elements
    marks = np.asarray(Normal().with_outliers(rate=0.1, magnitude=3.0).is_outlier(key(2), (2**18,)))
    hidden = np.asarray(Normal().sample(key(2), (2**18,)), np.float64)[marks]
    assert abs(hidden.mean()) <= 4 / np.sqrt(hidden.size)
    assert abs((hidden**2).mean() - 1) <= 4 * np.sqrt(2 / hidden.size)


@pytest.mark.parametrize(
    ("bulk", "sign", "mean", "values"),
    [
        (Normal(0.03), "random", 0, "exact"),
        (Laplace(0.03), "random", 0, "spread"),
        (Normal(0.03), "positive", 1, "exact"),
        (Uniform(0.03), "negative", -1, "spread"),
    ],
    ids=str,
)
def test_sign_and_spread(bulk, sign, mean, values):
    # about 2^17 outliers; k = 4 standard errors of the mean sign, of the mean size and of its variance s^2 / 12
    pop = bulk.with_outliers(rate=0.25, value=8.0, sign=sign, values=values)
    x = np.asarray(pop.sample(key(9), (MANY,)), np.float64)
    x = x[np.abs(x) > 1]  # 33 standard deviations of the bulk
    assert abs(np.sign(x).mean() - mean) <= 4 * (sign == "random") / np.sqrt(x.size)
    size = np.abs(x)
    if values == "exact":
        assert np.all(size == 8.0)
        return
    assert size.min() >= 4.0
    assert size.max() <= 12.0
    assert abs(size.mean() - 8.0) <= 4 * 8 / np.sqrt(12 * size.size)
    assert abs(size.var() - 64 / 12) <= 4 * 64 * np.sqrt(1 / 180 / size.size)


def test_magnitude_counts_in_standard_deviations_and_value_is_absolute():
    assert Outliers(rate=0.1, magnitude=100.0).size(0.02) == pytest.approx(2.0)
    assert Outliers(rate=0.1, value=100.0).size(0.02) == 100.0
    bulk = Mixture((0.5, 0.5), (Uniform(0.5), Empirical([3.0, -1.0])))
    by_std = bulk.with_outliers(rate=1.0, magnitude=10.0, sign="positive").sample(key(0), (8, 8))
    np.testing.assert_array_equal(by_std, np.float32(10 * math.sqrt((0.25 + 5) / 2)))


SHAPE_BOUND = [with_count(5, layout) for layout in LAYOUTS]
BY_RATE = [Normal().with_outliers(rate=0.1, magnitude=9.0, layout=layout, values="spread") for layout in LAYOUTS]
NESTED = with_count(5, "column").with_outliers(rate=0.02, value=3.0, values="spread")


@pytest.mark.parametrize("pop", [*SHAPE_BOUND, BY_RATE[0], BY_RATE[3], NESTED], ids=str)
def test_any_chunk_of_any_layout_is_a_slice_of_the_whole(pop):
    # parts make the whole, and chunks overlap them
    parts = in_parts(pop, key(4))
    for start in (17, 799, 1555):
        chunk = pop.sample(key(4), (PART,), start=start, of=SHAPE)
        np.testing.assert_array_equal(chunk, parts.ravel()[start : start + PART])
    if pop is NESTED or pop is SHAPE_BOUND[3]:
        np.testing.assert_array_equal(parts, pop.sample(key(4), SHAPE))


@pytest.mark.parametrize("pop", [*SHAPE_BOUND, *BY_RATE[1:], NESTED], ids=str)
def test_a_chunk_outside_of_the_whole_array_is_refused(pop):
    with pytest.raises(ValueError, match="must lie within the whole array: pass its shape as of="):
        pop.sample(key(0), (10,), start=2391, of=SHAPE)
    with pytest.raises(ValueError, match="of="):
        pop.sample(key(0), (10,), start=10)


def test_elements_by_rate_are_one_infinite_sequence():
    pop = BY_RATE[0]
    first, later = (np.asarray(pop.sample(key(0), (PART,), start=start)) for start in (0, 10))
    np.testing.assert_array_equal(later[:-10], first[10:])


@pytest.mark.parametrize(("shape", "units"), [((), 1), ((7,), 1), ((2, 3, 10), 6)])
def test_rows_of_arrays_that_are_no_matrices(shape, units):
    pop = with_count(1, "row")
    marks = np.asarray(pop.is_outlier(key(1), shape)).reshape(units, -1)
    assert sorted(marks.sum(axis=1))[-1] == marks.shape[1]
    assert marks.sum() == marks.shape[1]


def test_empty_arrays_have_no_outliers():
    assert BY_RATE[1].sample(key(0), (0, 5)).shape == (0, 5)
    assert with_count(0, "column").sample(key(0), (5, 0)).shape == (5, 0)


CONTAMINATED = [
    Normal().with_outliers(rate=0.05, magnitude=3.0),
    Normal(0.5).with_outliers(rate=0.05, magnitude=6.0, sign="positive"),
    Laplace().with_outliers(rate=0.2, value=2.0, values="spread"),
    Uniform().with_outliers(rate=0.01, magnitude=20.0, values="spread", sign="negative"),
    BY_RATE[0].with_outliers(rate=0.2, value=9.0, sign="positive"),
]


@lru_cache
def drawn(pop):
    return np.asarray(pop.sample(key(21), (MANY,)), np.float64)


@pytest.mark.parametrize("pop", CONTAMINATED, ids=str)
def test_moments_of_samples(pop):
    # n = 2^19, k = 4 standard errors
    x = drawn(pop)
    for order in (1, 2, 3, 4):
        error = np.sqrt((pop.moment(2 * order) - pop.moment(order) ** 2) / x.size)
        assert abs(np.mean(x**order) - pop.moment(order)) <= 4 * error


@pytest.mark.parametrize("pop", CONTAMINATED, ids=str)
def test_cdf_and_tail_of_samples(pop):
    # n = 2^19, k = 4 standard errors of a share
    x, points = drawn(pop), np.array([-33.0, -9.5, -3.1, -2.0, -0.4, 0.0, 1.0, 2.6, 4.0, 8.9, 9.1])
    for p, share in zip(pop.cdf(points), [np.mean(x <= at) for at in points], strict=True):
        assert abs(share - p) <= 4 * np.sqrt(p * (1 - p) / x.size)
    for p, share in zip(pop.tail(np.abs(points)), [np.mean(np.abs(x) > abs(at)) for at in points], strict=True):
        assert abs(share - p) <= 4 * np.sqrt(p * (1 - p) / x.size)


@pytest.mark.parametrize("pop", CONTAMINATED, ids=str)
def test_the_density_integrates_to_the_distribution_without_its_point_masses(pop):
    jumps = sorted({s * b for b in pop._breaks() for s in (-1, 1)} | {-40.0, 0.0, 40.0})
    ends = [(a + b) / 2 for a, b in itertools.pairwise(jumps)]
    for a, b in itertools.pairwise(ends):
        (jump,) = [j for j in jumps if a < j < b]
        area = sum(integrate.quad(pop.pdf, *part, epsabs=1e-12, limit=200)[0] for part in ((a, jump), (jump, b)))
        mass = float(pop.cdf(jump) - pop.cdf(np.nextafter(jump, -np.inf)))
        assert area + mass == pytest.approx(float(pop.cdf(b) - pop.cdf(a)), abs=1e-9)


@pytest.mark.parametrize("pop", CONTAMINATED, ids=str)
def test_crest_of_samples(pop):
    # 2^16 blocks of 8, k = 4 standard errors
    largest = np.abs(drawn(pop).reshape(-1, 8)).max(axis=1)
    error = largest.std(ddof=1) / np.sqrt(largest.size)
    assert abs(largest.mean() - pop.crest(8) * pop.std_dev()) <= 4 * error


def test_outliers_of_outliers_fall_independently():
    # inner and outer rates 0.5: both at a quarter of the elements; n = 2^19, k = 4 standard errors
    inner = Normal().with_outliers(rate=0.5, value=50.0, values="spread")  # from 25 to 75
    outer = inner.with_outliers(rate=0.5, value=900.0, sign="positive")
    x = np.abs(np.asarray(outer.sample(key(0), (MANY,))))
    assert abs(np.mean(x == 900.0) - 0.5) <= 4 * np.sqrt(0.25 / x.size)
    assert abs(np.mean((x >= 25.0) & (x <= 75.0)) - 0.25) <= 4 * np.sqrt(0.1875 / x.size)
    marks = np.asarray(outer.is_outlier(key(0), (MANY,)))
    np.testing.assert_array_equal(marks, x > 20)


def test_a_mixture_may_hold_outliers_by_rate():
    # n = 2^18, k = 4 standard errors
    pop = Mixture((0.5, 0.5), (Normal(), Normal().with_outliers(rate=0.1, value=50.0)))
    share = np.mean(np.abs(np.asarray(pop.sample(key(0), (2**18,)))) == 50.0)
    assert abs(share - 0.05) <= 4 * np.sqrt(0.05 * 0.95 / 2**18)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"magnitude": 3.0}, "either a rate or a count"),
        ({"rate": 0.1, "count": 3, "magnitude": 3.0}, "either a rate or a count"),
        ({"rate": 0.1}, "either a magnitude .* or an absolute value"),
        ({"rate": 0.1, "magnitude": 3.0, "value": 3.0}, "either a magnitude .* or an absolute value"),
        ({"rate": 1.5, "magnitude": 3.0}, "rate must lie between 0 and 1, got 1.5"),
        ({"rate": -0.1, "magnitude": 3.0}, "rate must lie"),
        ({"rate": math.nan, "magnitude": 3.0}, "rate must lie"),
        ({"count": -1, "magnitude": 3.0}, "count must lie"),
        ({"rate": 0.1, "magnitude": -3.0}, "magnitude must lie"),
        ({"rate": 0.1, "value": -3.0}, "value must lie"),
        ({"rate": 0.1, "value": math.inf}, "value must lie"),
        ({"rate": 0.1, "value": 3.0, "block": 0}, "block needs at least 1"),
    ],
)
def test_what_cannot_be_placed_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Outliers(**settings)


# the type checker of the tests comes first where there is one: its error is a TypeError
@pytest.mark.parametrize("wrong", [{"layout": "diagonal"}, {"sign": "both"}, {"values": "wide"}, {"count": 2.5}])
def test_what_is_unknown_is_refused(wrong):
    settings = {"magnitude": 3.0} | ({} if "count" in wrong else {"rate": 0.1}) | wrong
    with pytest.raises((ValueError, TypeError), match=r"diagonal|both|wide|2\.5"):
        Outliers(**settings)


@pytest.mark.parametrize(("layout", "units"), UNITS.items())
def test_too_many_outliers_are_refused(layout, units):
    with pytest.raises(ValueError, match=f"{units + 1} outlier {layout}s do not fit into the {units}"):
        with_count(units + 1, layout).sample(key(0), SHAPE)


def test_layouts_have_no_place_in_a_mixture():
    with pytest.raises(ValueError, match="cannot be part of a mixture"):
        Mixture((0.5, 0.5), (Normal(), with_count(1, "row"))).sample(key(0), SHAPE)


@pytest.mark.parametrize("name", ["pdf", "cdf", "tail", "moment"])
def test_a_count_has_no_distribution_of_one_element(name):
    with pytest.raises(ValueError, match="give its outliers a rate instead of a count"):
        getattr(with_count(1, "element"), name)(2)


def test_layouts_need_32_bit_indices():
    with pytest.raises(ValueError, match="fewer than 2\\^32 weights"):
        with_count(1, "row").sample(key(0), (1,), of=(2**20, 2**13))
    assert Contaminated(Normal(), Outliers(rate=0.5, value=9.0)).sample(key(0), (4,), start=2**33).dtype == jnp.float32
