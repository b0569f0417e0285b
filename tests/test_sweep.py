"""Sweeps: the same bits on any number of devices, arrays that are functions of (seed, population, number), theory."""

from functools import cache

import jax
import numpy as np
import pytest

import quantsim as qs
from quantsim.measure import statistics, tallies
from quantsim.populations import Laplace, Normal, StudentT, Uniform, key
from quantsim.populations.structure import split_population
from quantsim.sweep import measure, population_key, predicted_sqnr_db, programs
from quantsim.sweep.programs import chunk_layout, drawing, mesh_of
from quantsim.sweep.streams import stream_of
from tests.test_traces import NOTHING, counting

SPECS = ("int8:tensor", "int4:block32:absmax:stochastic")
Q = qs.parse("int8:tensor")
SHAPE, ARRAYS = (16, 288), 13  # two tiles, the second one short; no multiple of the devices


@pytest.fixture(autouse=True)
def four_arrays_a_device(monkeypatch):
    """However many there are in all: the same programs serve most tests."""
    monkeypatch.setattr(programs, "CHUNK_ON_CPU", 4 * 16 * 288)


def bits(stats):
    return [v.hex() for v in (*stats.sums.tolist(), *stats.cross.ravel().tolist(), stats.max_abs)]


def by_hand(pop, q, shape, arrays, seed):
    """Statistics from arrays drawn, quantized and summed one after the other on one device, outside of the sweep."""
    stats = statistics.init()
    for k in range(arrays):
        own = jax.random.fold_in(population_key(seed, str(pop)), k)
        w = pop.sample(own, shape)
        stats = statistics.fold(stats, tallies.tally(w, q.roundtrip(w, key=jax.random.fold_in(own, 0x5EED))), "array")
    return stats


def test_array_k_depends_on_seed_population_and_k_only():
    together = measure(Normal(), SPECS, shape=SHAPE, arrays=ARRAYS, seed=11)
    for spec, beside_another in zip(SPECS, together, strict=True):
        (alone,) = measure(Normal(), spec, shape=SHAPE, arrays=ARRAYS, seed=11)
        expected = by_hand(Normal(), qs.parse(spec), SHAPE, ARRAYS, seed=11)
        assert bits(alone) == bits(beside_another) == bits(expected)


@pytest.mark.parametrize("std", [1.0, 1e-18, 1e18])  # squares of the others leave the range of float32
def test_statistics_are_numpys(std):
    """The arrays themselves, drawn outside of the sweep, quantized by NumPy, summed in float64."""
    pop = Normal(std)
    (found,) = measure(pop, [Q], shape=SHAPE, arrays=ARRAYS, seed=5)
    keys = [jax.random.fold_in(population_key(5, str(pop)), k) for k in range(ARRAYS)]
    w = np.stack([np.asarray(pop.sample(k, SHAPE)) for k in keys])
    scale = np.abs(w).max(axis=(1, 2), keepdims=True) / np.float32(127)
    e, w = (np.round(w / scale) * scale - w).astype(np.float64), w.astype(np.float64)
    assert found.count == w.size
    assert found.max_abs == np.abs(e).max()
    bound = 4096 * 2.0**-24  # of the sum of magnitudes, in a tile
    assert found.mse == pytest.approx((e**2).mean(), rel=bound)
    assert found.rel_rms == pytest.approx(np.linalg.norm(e) / np.linalg.norm(w), rel=bound)
    assert abs(found.bias - e.mean()) <= bound * np.abs(e).mean()
    each = (e**2).sum((1, 2)), (w**2).sum((1, 2))
    ratio = each[0].sum() / each[1].sum()
    se = np.std(each[0] - ratio * each[1], ddof=1) * np.sqrt(ARRAYS) / each[1].sum()
    assert found.sqnr_db_se == pytest.approx(10 / np.log(10) * se / ratio, rel=1e-2)


def test_seeds_and_populations_have_streams_of_their_own():
    """Sums of squares of the weights, which no two streams have in common."""
    seen = set()
    for pop, seed in ((Normal(), 0), (Normal(), 1), (Normal(std=2.0), 0)):
        (s,) = measure(pop, Q, shape=SHAPE, arrays=ARRAYS, seed=seed)
        seen.add(s.sums[4] / pop.moment(2))
    assert len(seen) == 3


def test_population_key_is_a_function_of_seed_and_name():
    names = [str(p) for p in (Normal(), Laplace(), Uniform(), StudentT(5.0), Normal(std=0.5))]

    def words(order):
        return {(seed, n): tuple(jax.random.key_data(population_key(seed, n)).tolist()) for seed, n in order}

    grid = [(seed, n) for seed in (0, 1, 42) for n in names]
    assert words(grid) == words(grid[::-1])
    assert len(set(words(grid).values())) == len(grid)
    assert tuple(jax.random.key_data(key(0)).tolist()) not in words(grid).values()


@pytest.mark.parametrize(("stop_at", "expected"), [(16, 16), (17, 32), (40, 40)])
def test_enough_stops_at_a_multiple_of_16_arrays(stop_at, expected):
    def enough(stats):
        asked.append(stats[0].units)
        return stats[0].units >= stop_at

    asked = []
    (s,) = measure(Normal(), [Q], shape=SHAPE, arrays=40, enough=enough)
    assert s.units == expected
    assert asked == list(range(16, expected + 1, 16))


def test_enough_sees_the_first_arrays_whatever_comes_later():
    (first,) = measure(Normal(), [Q], shape=SHAPE, arrays=16)
    (stopped,) = measure(Normal(), [Q], shape=SHAPE, arrays=1000, enough=lambda _: True)
    assert bits(first) == bits(stopped)


@pytest.mark.parametrize("arrays", [0, -1])
def test_no_arrays_is_an_error(arrays):
    with pytest.raises(ValueError, match="at least one array"):
        measure(Normal(), Q, shape=SHAPE, arrays=arrays)


# --- theory ---------------------------------------------------------------------------------------------------------

INT8 = [qs.parse(s) for s in ("int8:tensor", "int8:channel", "int8:block32")]
MATRIX = (64, 1024)


@cache
def measured(pop, *quantizers):
    """128 arrays of 2^16 weights."""
    return measure(pop, quantizers, shape=MATRIX, arrays=128)


@pytest.mark.parametrize("pop", [Normal(), Laplace(std=0.1), Uniform(std=3.0)], ids=str)
def test_int8_agrees_with_theory(pop):
    """Within 4 standard errors, which are at most 0.1 dB."""
    for q, s in zip(INT8, measured(pop, *INT8), strict=True):
        expected = predicted_sqnr_db(pop, q, MATRIX)
        assert expected is not None
        assert s.sqnr_db_se < 0.1
        assert abs(s.sqnr_db - expected) < 4 * s.sqnr_db_se, (str(q), s.sqnr_db, s.sqnr_db_se, expected)


def test_a_prediction_for_the_wrong_bits_would_be_noticed():
    s = measured(Normal(), *INT8)[1]
    expected = predicted_sqnr_db(Normal(), qs.parse("int7:channel"), MATRIX)
    assert expected is not None
    assert abs(s.sqnr_db - expected) > 20 * s.sqnr_db_se


def test_nothing_is_predicted_where_there_is_no_theory_or_no_error():
    """Searches, outliers that are not independent, a shape without weights; a weight alone, whose SQNR is infinite."""
    row = Normal().with_outliers(rate=0.1, magnitude=9.0, layout="row")
    none = [(Normal(), "q4_k"), (Normal(), "int4:block32:mse"), (Laplace(), "int3:block32:rms"), (row, "int4:block32")]
    for pop, spec in [*none, (Normal(), "f32"), (Normal(), "int8:block1")]:
        assert predicted_sqnr_db(pop, qs.parse(spec), (64, 64)) is None, spec
    assert predicted_sqnr_db(Normal(), Q, (0, 4)) is None


PREDICTED = [
    *("bf16", "nf4:block64", "e4m3:tensor", "int8:channel:minmax", "int8:channel:p99", "int8:channel:absmax:f16"),
    *("int8:channel:absmax:half", "int8:channel:absmax:stochastic", "int2:tensor", "mxfp4", "q4_0"),
]


@pytest.mark.parametrize("spec", PREDICTED)
def test_every_scale_that_is_a_law_of_its_block_is_predicted(spec):
    """As theory says, which other tests hold against measured errors."""
    q = qs.parse(spec)
    expected = -10 * np.log10(qs.theory.weight_rel_mse(Laplace(), q, MATRIX))
    assert predicted_sqnr_db(Laplace(), q, MATRIX) == expected


def test_predictions_agree_with_what_is_measured():
    """On the same 16 arrays of 2^16 weights; within 4.5 standard errors."""
    quantizers = [qs.parse(spec) for spec in ("nf4:block64", "int8:channel:absmax:half", "int2:tensor", "q4_0")]
    for q, s in zip(quantizers, measure(Laplace(), quantizers, shape=MATRIX, arrays=16), strict=True):
        expected = predicted_sqnr_db(Laplace(), q, MATRIX)
        assert expected is not None
        assert abs(s.sqnr_db - expected) < 4.5 * s.sqnr_db_se, (str(q), s.sqnr_db, s.sqnr_db_se, expected)


def test_prediction_with_outliers_is_for_the_step_that_they_leave():
    """Outliers of 1000 standard deviations make a step of 8 of them: they are exact, and the bulk is lost."""
    q = qs.parse("int8:tensor")
    far, near = (Normal().with_outliers(rate=0.01, magnitude=m) for m in (1000.0, 20.0))
    lost = 10 * np.log10((0.99 + 0.01 * 1000**2) / 0.99)
    assert predicted_sqnr_db(far, q, (256, 1024)) == pytest.approx(lost, abs=0.01)
    (s,) = measure(near, q, shape=MATRIX, arrays=64)
    expected = predicted_sqnr_db(near, q, MATRIX)
    assert expected is not None
    assert abs(s.sqnr_db - expected) < 4 * s.sqnr_db_se


def test_programs_that_a_process_keeps_are_bounded():
    """And those that are kept are the same: nothing is compiled again."""
    layout = chunk_layout((4, 8), 4, mesh_of(jax.devices()))
    structure = split_population(Normal())[0]
    for make in (programs.drawing, programs.measuring):
        assert make.cache_info().maxsize == programs._KEPT
    assert programs.drawing(structure, layout) is programs.drawing(structure, layout)


def test_traced_parameters_compile_once():
    """Populations that differ in a number are drawn by one program; from one stream, so that it shows what it does."""
    layout, stream = chunk_layout((4, 8), 4, mesh_of(jax.devices())), stream_of(0, "the same")
    numbers = [np.float32([s]) for s in (1.0, 2.0, 4.0)]
    structures = {split_population(Normal(std=float(n[0])))[0] for n in numbers}
    assert len(structures) == 1
    draw = drawing(structures.pop(), layout)
    first = draw(numbers[0], stream, np.uint32(0), None)[1]
    with counting() as warm:
        others = [draw(n, stream, np.uint32(0), None)[1] for n in numbers[1:]]
    assert warm == NOTHING
    squares = [np.asarray(s.sums)[:, 0, 1] for s in (first, *others)]
    np.testing.assert_array_equal(np.array(squares[1:]) / squares[0], [[4.0] * 4, [16.0] * 4])
