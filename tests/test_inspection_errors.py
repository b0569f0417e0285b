"""Errors of tensors in chunks of one shape, held against the same quantizer on the whole array, and float64 NumPy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import quantsim as qs
from quantsim.inspection import programs
from quantsim.inspection.errors import CannotMeasureError, Subject, damages, way
from quantsim.inspection.importances import of_columns
from quantsim.inspection.pieces import CHUNK, PIECE, Matrix, chunks
from quantsim.inspection.signal import beyond_sigmas, signal_of

# Tiles of 4096 squares are summed in float32: each sum is within 4096 half units in the last place, all positive.
SUMS = 4096 * 2.0**-24
# as blocks, rows and tensors share scales, and by every way that a tensor is seen
SPECS = (
    "q8_0",
    "mxfp4",
    "nvfp4",
    "int8:channel",
    "int4:channel:minmax",
    "int8:tensor",
    "int8:tensor:clip0.5",
    "e4m3:tensor",
    "int4:block32",
    "int4:block32:minmax",
    "int4:block32:rms",
    "int4:channel:mse",
    "int4:tensor:p99.9",
    "int4:block16:absmax:ue4m3+f32",
    "int4:channel:absmax:ue4m3+f32",
    "e2m1:block16:fouroversix:e4m3+f32",
    "int4:block32:search1:e8m0",
    "bf16",
)
# whole pieces, short rows, one row, rows longer than a chunk, and more than one chunk
SHAPES = ((64, 256), (30, 100), (7, 640), (1, 96), (2, CHUNK + 100), (300, 1024))


def weights(shape, seed=0):
    return (np.random.default_rng(seed).standard_t(4, shape) * 0.02).astype(np.float32)


def reader(w):
    flat = np.ascontiguousarray(w).reshape(-1)
    return lambda first, count: flat[first : first + count]


def subject(w, **more):
    take, matrix = reader(w), Matrix.of(w.shape)
    return Subject(take, matrix, signal_of(take, matrix), **more)


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_hold_every_weight_once_and_rows_begin_with_a_piece(shape):
    w = weights(shape)
    matrix, seen = Matrix.of(w.shape), []
    for chunk in chunks(reader(w), matrix):
        pieces, counts, rows = chunk.weights.reshape(-1, PIECE), chunk.counts(matrix), chunk.rows(matrix)
        assert counts.sum() == chunk.count
        for piece, count, row in zip(pieces, counts, rows, strict=True):
            assert not piece[count:].any()
            seen += [(row, value) for value in piece[:count]]
    assert [row for row, _ in seen] == np.repeat(np.arange(matrix.rows), matrix.columns).tolist()
    assert [value for _, value in seen] == w.ravel().tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_equal_numpys(shape):
    w = weights(shape)
    w.reshape(-1)[::17] = 0
    take, a = reader(w), w.astype(np.float64)
    found, rms = signal_of(take, Matrix.of(w.shape)), np.sqrt(np.mean(a * a))
    columns = found.columns()
    assert_allclose(columns["sigma"], rms, rtol=SUMS)
    assert_allclose(columns["kurtosis"], np.mean(a**4) / rms**4, rtol=3 * SUMS)
    assert_allclose(columns["mean"], a.mean(), atol=SUMS * np.abs(a).mean())
    assert_allclose(columns["crest"], np.abs(a).max() / rms, rtol=SUMS)
    assert found.extreme == (float(w.reshape(-1)[np.abs(a).argmax()]), int(np.abs(a).argmax()))
    assert found.zeros == np.count_nonzero(w == 0)
    assert found.counts.sum() == w.size
    assert np.array_equal(found.low, np.minimum(w.min(axis=1), 0))
    assert np.array_equal(found.high, np.maximum(w.max(axis=1), 0))
    limits = found.sigma * np.array([0.5, 3.0, 10.0])
    assert beyond_sigmas(take, found, (0.5, 3.0, 10.0)) == [np.mean(np.abs(a) > limit) for limit in limits]


@pytest.mark.parametrize("shape", [(64, 256), (30, 100), (300, 1024), (2, CHUNK + 100)])
def test_errors_are_those_of_the_whole_array(shape):
    w = weights(shape)
    for q, damage in damages(subject(w), [qs.parse(spec) for spec in SPECS]).items():
        if isinstance(damage, CannotMeasureError):
            assert str(q) == "q8_0"
            assert shape[1] % 32
            continue
        whole = qs.weight_error(w, q)
        assert damage.stats.count == w.size
        assert damage.stats.max_abs == whole.max_abs, q
        assert damage.stats.zeroed_count == whole.zeroed_count, q
        assert_allclose(damage.stats.rel_rms, whole.rel_rms, rtol=SUMS, err_msg=str(q))
        assert_allclose(damage.stats.bias, whole.bias, atol=SUMS * whole.mean_abs, err_msg=str(q))


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15])
def test_weights_of_any_size(scale):
    w = weights((16, 256)) * np.float32(scale)
    (damage,) = damages(subject(w), [qs.parse("int8:channel")]).values()
    assert_allclose(damage.stats.rel_rms, qs.weight_error(w, "int8:channel").rel_rms, rtol=SUMS)


@pytest.mark.parametrize(
    "spec", ["q8_0", "nvfp4", "int4:channel:mse", "q4_0", "e2m1:block16:search:e4m3+f32", "int4:block32:search1:e8m0"]
)
def test_importances_weigh_errors_and_searches(spec):
    w, q = weights((48, 256)), qs.parse(spec)
    columns = np.exp(np.random.default_rng(1).normal(size=256)).astype(np.float32)
    searches = spec == "q4_0" or "search" in spec
    w_hat = q.roundtrip(w, imatrix=columns) if searches else q.roundtrip(w)
    a, e = w.astype(np.float64), np.asarray(w_hat, np.float64) - w
    given = subject(w, importance=of_columns(columns, Matrix.of(w.shape)), columns=columns)
    (damage,) = damages(given, [q]).values()
    assert_allclose(damage.noise, (e * e * columns).sum(), rtol=2 * SUMS)
    assert_allclose(damage.power, (a * a * columns).sum(), rtol=2 * SUMS)
    assert_allclose(damage.stats.rel_rms, np.sqrt((e * e).sum() / (a * a).sum()), rtol=SUMS)


def test_importances_of_each_weight():
    w, importance = weights((30, 100)), np.random.default_rng(1).exponential(size=(30, 100)).astype(np.float32)
    e = np.asarray(qs.parse("int4:block32").roundtrip(w), np.float64) - w
    (damage,) = damages(subject(w, importance=reader(importance)), [qs.parse("int4:block32")]).values()
    assert_allclose(damage.noise, (e * e * importance).sum(), rtol=2 * SUMS)


def test_a_format_that_does_not_take_a_tensor_says_so():
    found = damages(subject(weights((4, 100))), [qs.parse("q4_k"), qs.parse("bf16")])
    refused, taken = found.values()
    assert isinstance(refused, CannotMeasureError)
    assert "100" in str(refused)
    assert not isinstance(taken, CannotMeasureError)


def test_what_must_be_seen_at_once_is_bounded():
    with pytest.raises(CannotMeasureError, match="at once"):
        way(qs.parse("int8:tensor:mse"), Matrix(2**16, 2**16))
    assert way(qs.parse("int8:tensor"), Matrix(2**16, 2**16)) == "chunks"
    assert way(qs.parse("int4:channel:mse"), Matrix(2**16, 2**16)) == "rows"


def test_one_program_serves_tensors_of_all_shapes():
    quantizers = [qs.parse(spec) for spec in ("q8_0", "int8:channel", "nvfp4", "int4:block32:minmax")]
    damages(subject(weights((8, 256))), quantizers)
    before = programs._errors._cache_size()
    for shape in ((3, 512), (40, 96), (300, 1024), (2, CHUNK + 96)):
        damages(subject(weights(shape)), quantizers)
    assert programs._errors._cache_size() == before
