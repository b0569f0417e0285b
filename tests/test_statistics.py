"""Error statistics against float64 NumPy; calibrated standard errors; one bit pattern for any split of the weights."""

import dataclasses
import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from quantsim.measure import classes, statistics, tallies
from quantsim.measure.tallies import Tally
from quantsim.numerics.tiles import TILE
from quantsim.populations import Normal
from quantsim.theory import levels_mse

METRICS = ["mse", "rel_rms", "sqnr_db", "mean_abs", "bias", "gain"]
SHAPES = [(), (7,), (4097,), (2, 3, 2500)]  # sizes at the ends of tiles, to the bit: test_tallies.py
BY_ROW, BY_COLUMN = PartitionSpec("d", None), PartitionSpec(None, "d")
# In any order the float32 sum of one tile is off by about sqrt(4096) units of rounding of the sum of magnitudes; k = 4
TILE_ROUNDING = 4 * math.sqrt(TILE) * 2.0**-24


def pair(shape, seed=0, step=0.3):
    """Weights, and the same rounded to multiples of ``step``; some become 0."""
    w = np.asarray(np.random.default_rng(seed).standard_t(5, shape) * 0.4, np.float32)
    return w, np.float32(np.round(w / np.float32(step)) * np.float32(step))


def reference(w, w_hat):
    """Every metric in float64, and the scale that the float32 sums' rounding refers to."""
    e = (w_hat - w).astype(np.float64)  # the difference itself is float32
    w, w_hat = w.astype(np.float64), w_hat.astype(np.float64)
    rel = math.sqrt((e**2).sum() / (w**2).sum())
    return {
        "mse": (np.mean(e**2), np.mean(e**2)),
        "rel_rms": (rel, rel),
        "sqnr_db": (-20 * math.log10(rel), 10),
        "mean_abs": (np.mean(np.abs(e)), np.mean(np.abs(e))),
        "bias": (np.mean(e), np.mean(np.abs(e))),
        "gain": ((w_hat * w).sum() / (w**2).sum(), 1 + np.abs(e * w).sum() / (w**2).sum()),
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_metrics_equal_numpy(shape):
    w, w_hat = pair(shape)
    s = statistics.error_stats(w, w_hat)
    for name, (expected, size) in reference(w, w_hat).items():
        assert abs(getattr(s, name) - expected) <= TILE_ROUNDING * size, name
    assert s.count == w.size
    assert s.max_abs == np.abs(w_hat - w).max()
    assert s.max_signal == np.abs(w).max()
    assert s.zeroed == pytest.approx(((w_hat == 0) & (w != 0)).sum() / max((w != 0).sum(), 1))
    assert s.crest == pytest.approx(np.abs(w).max() / np.sqrt(np.mean(w.astype(np.float64) ** 2)), rel=TILE_ROUNDING)
    assert s.result().keys() >= {"count", "max_abs", "zeroed", "clipped", *METRICS, *(f"{m}_se" for m in METRICS)}


def test_the_definitions_on_four_weights():
    s = statistics.error_stats([1.0, -2.0, 0.5, 0.0], [1.5, -2.0, 0.0, 0.0])  # e = 1/2, 0, -1/2, 0
    assert (s.count, s.mse, s.mean_abs, s.bias, s.max_abs) == (4, 0.125, 0.25, 0.0, 0.5)
    assert s.rel_rms == pytest.approx(math.sqrt(0.5 / 5.25))
    assert s.sqnr_db == pytest.approx(10 * math.log10(5.25 / 0.5))
    assert s.gain == pytest.approx((1.5 + 4) / 5.25)
    assert s.zeroed == pytest.approx(1 / 3)
    assert math.isnan(s.mse_se)


def test_inputs_of_other_types():
    w = np.array([[1, -2], [3, 0]])
    for cast in (np.float64, np.int32, jnp.bfloat16, np.float16):
        assert statistics.error_stats(w.astype(cast), w.tolist()).max_abs == 0


def test_a_perfect_and_an_empty_array():
    perfect = statistics.error_stats(np.ones(4), np.ones(4))
    assert (perfect.sqnr_db, perfect.mse, perfect.rel_rms, perfect.gain) == (math.inf, 0, 0, 1)
    empty = statistics.error_stats(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (empty.count, empty.max_abs, empty.zeroed, empty.clipped) == (0, 0, 0, 0)
    assert math.isnan(empty.mse)
    for s in (statistics.merge(empty, perfect), statistics.merge(statistics.init(), perfect)):
        assert s.result() == pytest.approx(perfect.result(), nan_ok=True)


def test_no_statistic_of_another_name():
    with pytest.raises(AttributeError, match="no statistic 'rmse'; known are mse, rel_rms"):
        _ = statistics.init().rmse


def test_a_nan_is_not_lost():
    clean, bad = ([1.0, 2.0, 3.0, second] for second in (4.0, math.nan))
    s = statistics.merge(statistics.error_stats(clean, clean), statistics.error_stats(clean, bad))
    assert math.isnan(s.mse)
    assert math.isnan(s.max_abs)


@pytest.mark.parametrize(("a", "b"), [((3,), (4,)), ((2, 3), (3, 2)), ((6,), (2, 3)), ((), (1,))])
def test_shapes_must_agree(a, b):
    with pytest.raises(ValueError, match="cannot be compared"):
        statistics.error_stats(np.zeros(a), np.zeros(b))
    with pytest.raises(ValueError, match="cannot be compared"):
        classes.class_stats(np.zeros(a), np.zeros(b), (0.0, 1.0))


def test_the_error_has_no_fused_multiply_add():
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(-127, 128, 2**16).astype(np.int8), rng.normal(size=2**16).astype(np.float32)
    w = ((codes + rng.uniform(-0.5, 0.5, 2**16)) * scale).astype(np.float32)
    in_numpy = codes.astype(np.float32) * scale - w
    fused = jax.jit(lambda q, s, w: q.astype(jnp.float32) * s - w)(codes, scale, w)
    ours = jax.jit(lambda q, s, w: tallies.error(w, q.astype(jnp.float32) * s))(codes, scale, w)
    np.testing.assert_array_equal(np.asarray(ours).view(np.int32), in_numpy.view(np.int32))
    if jax.default_backend() == "cpu":  # the trap is there: without care most last bits differ
        assert np.mean(np.asarray(fused) != in_numpy) > 0.1


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@lru_cache
def three_arrays():
    """Weights, what they became, which of them are large, and their tallies in one call."""
    w, w_hat = pair((3, 5000))
    mask = np.abs(w) > 1
    return w, w_hat, mask, jax.jit(jax.vmap(tallies.tally))(w, w_hat, mask)


def test_tally_under_jit_and_vmap():
    w, w_hat, mask, batch = three_arrays()
    rows = [tallies.tally(a, b, m) for a, b, m in zip(w, w_hat, mask, strict=True)]
    same(batch, jax.tree.map(lambda *leaves: np.stack(leaves), *rows))
    in_one_jit = jax.jit(lambda w: tallies.tally(w, jnp.round(w / 0.25) * 0.25))(w[0])
    same(in_one_jit, tallies.tally(w[0], np.round(w[0] / 0.25) * np.float32(0.25)))


@pytest.mark.parametrize("unit", ["tile", "array"])
def test_a_batch_folds_as_its_members(unit):
    w, w_hat, mask, tallies = three_arrays()
    batch = statistics.fold(statistics.init(), tallies, unit)
    one_by_one = statistics.init()
    for a, b in zip(w, w_hat, strict=True):
        one_by_one = statistics.update(one_by_one, a, b, unit)
    assert batch.units == (6 if unit == "tile" else 3)
    assert batch.result() | {"clipped": 0} == pytest.approx(one_by_one.result(), rel=1e-12)
    assert batch.clipped == pytest.approx(mask.mean(), rel=1e-12)
    assert [getattr(batch, m) for m in METRICS] == [getattr(one_by_one, m) for m in METRICS]


# Of one device the program is that without a mesh. Rows of 512 on four devices are half a tile on each.
@pytest.mark.parametrize(
    ("shape", "devices", "spec"),
    [((16, 4096), 2, BY_ROW), ((16, 4096), 4, BY_ROW), ((16, 4096), 4, BY_COLUMN), ((16, 512), 4, BY_ROW)],
)
def test_the_same_bits_on_any_number_of_devices(shape, devices, spec):
    w, w_hat = pair(shape)
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    sharded = [jax.device_put(x, NamedSharding(mesh, spec)) for x in (w, w_hat)]
    assert statistics.error_stats(*sharded).result() == statistics.error_stats(w, w_hat).result()
    if shape == (16, 4096):
        same(tallies.tally(*sharded), tallies.tally(w, w_hat))
    else:  # one of the two
        assert statistics.error_stats(w, sharded[1]).result() == statistics.error_stats(w, w_hat).result()


def test_any_chunking_at_tiles_gives_the_same_bits():
    # the float64 sums of these float32 tile sums are exact, so that their order cannot matter
    w, w_hat = pair((20_000,))
    whole = statistics.error_stats(w, w_hat)
    for ends in ([4096], [4096 * k for k in range(1, 5)]):
        parts = [statistics.error_stats(a, b) for a, b in zip(np.split(w, ends), np.split(w_hat, ends), strict=True)]
        for order in (parts, parts[::-1]):
            merged = statistics.init()
            for part in order:
                merged = statistics.merge(merged, part)
            np.testing.assert_array_equal(merged.sums, whole.sums)
            assert [getattr(merged, m) for m in METRICS] == [getattr(whole, m) for m in METRICS]
            assert merged.result() == pytest.approx(whole.result(), rel=1e-12)  # the standard errors, in float64


def test_merge_is_associative_and_commutative():
    a, b, c = (statistics.error_stats(*pair((4097,), seed)) for seed in range(3))
    left, right = statistics.merge(statistics.merge(a, b), c), statistics.merge(a, statistics.merge(b, c))
    for f in dataclasses.fields(left):
        np.testing.assert_allclose(getattr(left, f.name), getattr(right, f.name), rtol=1e-14)
        np.testing.assert_array_equal(getattr(statistics.merge(a, b), f.name), getattr(statistics.merge(b, a), f.name))


def test_without_a_mask_nothing_clips():
    assert statistics.error_stats(*pair((4097,))).clipped == 0


def test_standard_errors_of_equal_tiles_are_those_of_a_mean():
    w, w_hat = pair((9 * TILE,))
    s, e = statistics.error_stats(w, w_hat), (w_hat - w).astype(np.float64).reshape(9, -1)
    for name, tiles in {"mse": e**2, "mean_abs": np.abs(e), "bias": e}.items():
        assert getattr(s, f"{name}_se") == pytest.approx(tiles.mean(axis=1).std(ddof=1) / 3, rel=1e-3)
    assert s.sqnr_db_se == pytest.approx(20 / math.log(10) * s.rel_rms_se / s.rel_rms, rel=1e-12)


REPLICATES = 400


def assert_calibrated(z, units):
    """Standardized means are Student's t with units - 1 degrees of freedom: mean 0, variance v / (v - 2).

    k = 4 standard errors of the mean and of the sample variance, whose own variance is (kurtosis - 1) / 400.
    """
    v = units - 1
    variance, kurtosis = v / (v - 2), 3 + 6 / (v - 4)
    assert abs(np.mean(z)) <= 4 * math.sqrt(variance / REPLICATES)
    assert abs(np.var(z, ddof=1) / variance - 1) <= 4 * math.sqrt((kurtosis - 1) / REPLICATES)


def standardized(replicates, truth):
    for name, value in truth.items():
        yield name, np.array([(getattr(s, name) - value) / getattr(s, f"{name}_se") for s in replicates])


def tally_of_units(w, w_hat):
    """What a device would say of arrays (..., tiles, weights), in NumPy: a tile may have any number of weights."""
    e = w_hat - w
    sums = {"e": e, "abs_e": np.abs(e), "e2": e**2, "w2": w**2, "ew": e * w}
    none, each = np.zeros(w.shape[:-2], np.int32), (-2, -1)
    return Tally(
        count=np.full(w.shape[:-1], float(w.shape[-1])),
        **{name: values.sum(axis=-1, dtype=np.float64) for name, values in sums.items()},
        max_abs=np.abs(e).max(axis=each),
        max_signal=np.abs(w).max(axis=each),
        nonzero=np.count_nonzero(w, axis=each).astype(np.int32),
        zeroed=none,
        clipped=none,
    )


def replicate(t, r):
    return jax.tree.map(lambda leaf: leaf[r, ...], t)


def rng_of(seed):
    return np.random.default_rng(seed)


def test_standard_errors_of_tiles_are_calibrated():
    # 400 x 24 tiles, rounded to a fixed step: the truth is the cell integral
    step, units = 0.5, 24
    mse = levels_mse(Normal(), np.arange(-40, 41) * step)
    w = rng_of(1).standard_normal((REPLICATES, units, 128), np.float32)
    batch = tally_of_units(w, np.round(w / step) * step)
    replicates = [statistics.fold(statistics.init(), replicate(batch, r)) for r in range(REPLICATES)]
    for _, z in standardized(replicates, {"mse": mse, "sqnr_db": -10 * math.log10(mse), "bias": 0.0}):
        assert_calibrated(z, units)


def absmax_batch(arrays, tiles):
    """Tallies of Laplace arrays of tiles of 128 weights, of which each array has its own absmax scale."""
    w = rng_of(2).laplace(size=(*arrays, tiles, 128)).astype(np.float32)
    scale = np.abs(w).max(axis=(-2, -1), keepdims=True) / 7
    return tally_of_units(w, np.round(w / scale) * scale)


def test_standard_errors_of_arrays_are_calibrated():
    # 400 x 40 arrays of 256 with their own absmax: the truth is the grand mean, whose error is 20 times smaller
    units = 40
    batch = absmax_batch((REPLICATES, units), 2)
    replicates = [statistics.fold(statistics.init(), replicate(batch, r), "array") for r in range(REPLICATES)]
    grand = statistics.fold(statistics.init(), batch, "array")
    for _, z in standardized(replicates, {"mse": grand.mse, "sqnr_db": grand.sqnr_db, "bias": 0.0}):
        assert_calibrated(z, units)


def test_tiles_that_share_a_scale_do_not_vary_independently():
    # why unit="array" exists: 64 arrays of 32 tiles
    batch = absmax_batch((64,), 32)
    by_tile, by_array = (statistics.fold(statistics.init(), batch, unit) for unit in ("tile", "array"))
    assert by_tile.mse == pytest.approx(by_array.mse, rel=1e-14)
    assert by_array.mse_se > 1.2 * by_tile.mse_se


# --- any scale ------------------------------------------------------------------------------------------------------

SCALES = [1e-34, 1e-20, 1e-17, 1e-18, 1e18, 1e30, 1e37]


def assert_metrics(s, w, w_hat):
    """All metrics within the rounding of a tile, and standard errors that are there."""
    for name, (expected, size) in reference(w, w_hat).items():
        assert abs(getattr(s, name) - expected) <= TILE_ROUNDING * size, name
        assert getattr(s, f"{name}_se") > 0, name


@pytest.mark.parametrize("scale", SCALES)
def test_statistics_do_not_depend_on_the_scale(scale):
    """float32 squares of such weights are 0 or infinite."""
    w, w_hat = (v * np.float32(scale) for v in pair((3, 5000)))
    s = statistics.error_stats(w, w_hat)
    assert_metrics(s, w, w_hat)
    assert s.crest == pytest.approx(np.abs(w).max() / np.sqrt(np.mean(w.astype(np.float64) ** 2)), rel=TILE_ROUNDING)


def test_a_power_of_two_changes_no_bit():
    w, w_hat = pair((3, 5000))
    plain = statistics.error_stats(w, w_hat)
    for power in (-60, -100, 70, 100):  # no weight or error leaves the normal numbers
        moved = statistics.error_stats(*(v * np.float32(2.0**power) for v in (w, w_hat)))
        assert [getattr(moved, m) for m in ("rel_rms", "sqnr_db", "gain", "sqnr_db_se", "crest")] == [
            getattr(plain, m) for m in ("rel_rms", "sqnr_db", "gain", "sqnr_db_se", "crest")
        ]
        assert [moved.mse, moved.bias] == [np.ldexp(plain.mse, 2 * power), np.ldexp(plain.bias, power)]


def test_one_huge_weight_that_is_exact_does_not_hide_the_errors_of_the_others():
    w, w_hat = pair((3, 5000))
    w[1, 7] = w_hat[1, 7] = 2.0**100
    assert_metrics(statistics.error_stats(w, w_hat), w, w_hat)


def test_statistics_of_different_scales_are_merged():
    parts = [tuple(v * np.float32(scale) for v in pair((3, 5000), seed)) for seed, scale in enumerate([1e-19, 1e19, 1])]
    merged = statistics.init()
    for part in parts:
        merged = statistics.update(merged, *part)
    assert_metrics(merged, *(np.concatenate(v) for v in zip(*parts, strict=True)))
    small = statistics.merge(statistics.error_stats(*parts[0]), statistics.error_stats(*parts[0]))
    assert small.sqnr_db == statistics.error_stats(*parts[0]).sqnr_db


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("scale", [1, 1e-20])
def test_what_is_not_finite_is_not_lost_at_any_scale(scale, bad):
    w, w_hat = (v * np.float32(scale) for v in pair((3, 5000)))
    w_hat[0, 3] = bad
    s = statistics.error_stats(w, w_hat)
    assert not np.isfinite([s.mse, s.rel_rms, s.sqnr_db, s.mean_abs, s.max_abs]).any()


def test_a_zero_signal_has_no_crest_factor_and_no_relative_error():
    s = statistics.error_stats(np.zeros(4), np.zeros(4))
    assert np.isnan([s.crest, s.rel_rms, s.sqnr_db, s.gain]).all()
    assert (s.mse, s.max_abs, s.zeroed) == (0, 0, 0)
    lost = statistics.error_stats(np.zeros(4), np.ones(4))
    assert (lost.mse, lost.rel_rms, lost.sqnr_db) == (1, math.inf, -math.inf)


# --- what a person sees ---------------------------------------------------------------------------------------------


def test_print_shows_every_metric_with_its_standard_error():
    s = statistics.error_stats(*pair((4097,)))
    shown = dict(line.split(maxsplit=1) for line in str(s).splitlines())
    assert shown.keys() == {"4097", *METRICS, "max_abs", "zeroed"}
    for name in METRICS:
        value, se = map(float, shown[name].split(" ± "))
        assert abs(value - getattr(s, name)) <= se
        assert se == pytest.approx(getattr(s, f"{name}_se"), rel=0.05)
    assert repr(s) == f"ErrorStats(4097 weights, SQNR {shown['sqnr_db']} dB)"
    assert str(statistics.init()).startswith("0 weights")


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad], ids=lambda t: t.__name__)
def test_inside_a_transformation_the_way_out_is_named(transform):
    with pytest.raises(TypeError, match=r"measure\.tally.*measure\.fold"):
        transform(lambda w: statistics.error_stats(w, w).mse)(np.ones(4, np.float32))


@pytest.mark.parametrize("bad", [["a"], [1j], [True], [None]], ids=str)
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_real_number_is_refused_with_words(place, bad):
    given = [np.ones(1), np.ones(1)]
    given[place] = bad
    for statistic in (statistics.error_stats, partial(classes.class_stats, edges=(0.0, 1.0, 2.0))):
        with pytest.raises(TypeError, match="weights must be real numbers, not"):
            statistic(*given)


def test_lists_and_tuples_are_arrays():
    for kind in (list, tuple):
        assert statistics.error_stats(kind([1.0, 2.0, 3.0, 4]), kind([1.0, 2.0, 3.0, 5])).mse == 0.25
        assert classes.class_stats(kind([1.0]), kind([1.5]), edges=(0.0, 1.0, 2.0)).mean_abs.sum() == 0.5
