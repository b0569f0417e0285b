"""Ratios of sums: against NumPy in float64, against the jackknife, and against how they scatter in many samples."""

import numpy as np
import pytest

from quantsim.measure.ratios import Estimate, columns, decibels, difference, mean, per_unit, ratio, root_ratio

RNG = np.random.default_rng(11)
OVER = RNG.gamma(8.0, size=200)
OF = OVER * RNG.uniform(0.5, 1.5, 200)  # units whose sums rise together, as those of one array do
TRANSFORMS = {ratio: lambda r: r, root_ratio: np.sqrt, decibels: lambda r: 10 * np.log10(r)}


def jackknife(transform, a, b):
    """Standard error from leaving one unit out at a time."""
    left_out = transform((a.sum() - a) / (b.sum() - b))
    n = len(a)
    return np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())


@pytest.mark.parametrize("of", TRANSFORMS, ids=lambda f: f.__name__)
def test_a_value_is_that_of_the_sums_and_its_error_that_of_the_jackknife(of):
    found, transform = of(OF, OVER), TRANSFORMS[of]
    assert found.value == pytest.approx(transform(OF.sum() / OVER.sum()), rel=1e-14)
    # both are estimates of first order in 1 / n: 200 units part them by well under a percent
    assert found.se == pytest.approx(jackknife(transform, OF, OVER), rel=0.01)


@pytest.mark.parametrize("of", TRANSFORMS, ids=lambda f: f.__name__)
def test_standard_errors_say_how_far_samples_scatter(of):
    samples = [of(OF[k], OVER[k]) for k in RNG.integers(200, size=(2000, 60))]
    spread, stated = np.std([s.value for s in samples]), np.median([s.se for s in samples])
    assert stated == pytest.approx(spread, rel=0.08)  # 2000 samples know a spread to 1.6 %, at five of these


def test_a_common_factor_of_units_costs_nothing():
    assert ratio(3 * OVER, OVER).se < 1e-15
    assert decibels(OVER, 10 * OVER) == pytest.approx((-10.0, 0.0), abs=1e-13)


def test_a_mean_is_a_ratio_to_the_number_of_units():
    found = mean(OF)
    assert found == pytest.approx((OF.mean(), OF.std(ddof=1) / np.sqrt(200)), rel=1e-13)
    assert ratio(OF, np.ones(200)) == ratio(OF, 1.0) == found


def test_one_unit_has_a_value_and_no_error():
    for of, transform in TRANSFORMS.items():
        value, se = of([3.0], [4.0])
        assert value == pytest.approx(transform(0.75))
        assert np.isnan(se)


def test_ratios_without_a_signal_are_no_numbers():
    assert np.isnan(ratio([0.0, 0.0], [0.0, 0.0])).all()
    assert np.isnan(root_ratio([0.0, 0.0], [0.0, 0.0])).all()
    assert np.isnan(decibels([0.0, 0.0], [0.0, 0.0])).all()


def test_nothing_errs():
    assert root_ratio([0.0, 0.0], [1.0, 2.0]) == (0.0, 0.0)
    assert decibels([1.0, 2.0], [0.0, 0.0]).value == np.inf


def test_parts_of_a_unit_are_added_before_anything_else():
    parts = OF.reshape(50, 4), OVER.reshape(50, 2, 2)
    assert ratio(*parts) == ratio(parts[0].sum(axis=1), parts[1].sum(axis=(1, 2)))
    assert decibels(*parts).se != decibels(OF, OVER).se
    assert per_unit(np.ones((3, 2**24 + 1), np.float32))[0] == 2**24 + 1  # float32 would stop at 2^24


def test_sums_of_float32_are_added_in_float64():
    a = np.full(2**20, 0.1, np.float32)
    assert ratio(a, np.ones_like(a)).value == np.float64(np.float32(0.1))


def test_a_negative_sum_below_the_line_has_a_positive_error():
    assert ratio([1.0, 3.0], [-2.0, -2.0]) == (-1.0, 0.5)


def test_estimates_change_units_and_are_told_from_a_limit():
    found = Estimate(2.0, 0.25)
    assert found.times(-4.0) == (-8.0, 1.0)
    assert found.plus(-3.0) == (-1.0, 0.25)
    assert found.clearly_above(1.0)
    assert not found.clearly_above(1.25), "three standard errors, and not a bit more"
    assert difference(Estimate(5.0, 3.0), Estimate(1.0, 4.0)) == (4.0, 5.0)
    assert Estimate(1.0).se == 0.0


def test_columns_of_a_row():
    assert columns(a=Estimate(1.0, 0.5), b=Estimate(2.0)) == {"a": 1.0, "a_se": 0.5, "b": 2.0, "b_se": 0.0}
