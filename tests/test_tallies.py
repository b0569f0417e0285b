"""Tallies: sums of tiles in the documented order, to the bit what NumPy's float32 gives; extremes and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.measure import tallies
from quantsim.measure.tallies import Exponents
from quantsim.numerics.tiles import STEPS, TILE
from tests import oracle_mx, oracles


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        oracles.same_bits(x, y)


#: Of each kind one: a part of a tile, a tile, a tile and one, and two stages with a tile and a part of one.
SIZES = [5, 4096, 4097, 2**17 + 4096 + 17]


def pair(size, seed=0):
    """Weights of many magnitudes, and approximations; some weights and some approximations are 0."""
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal(size) * 2.0 ** rng.integers(-20, 20, size)).astype(np.float32)
    w[rng.random(size) < 0.1] = 0
    w_hat = (w * (1 + rng.normal(size=size) * 0.1)).astype(np.float32)
    w_hat[rng.random(size) < 0.1] = 0
    return w, w_hat


def by_numpy(v):
    """Sums of tiles: in each step rows are added first to last, lane by lane, in float32."""
    v = np.pad(v, (0, -v.size % TILE)).reshape(-1, TILE)
    for rows, lanes in STEPS:
        v = v.reshape(-1, rows, lanes)
        total = v[:, 0]
        for k in range(1, rows):
            total = total + v[:, k]
        v = total
    return v.reshape(-1)


def test_the_steps_add_a_tile():
    assert np.prod([rows for rows, _ in STEPS]) == TILE
    left = TILE
    for rows, lanes in STEPS:
        assert left % (rows * lanes) == 0
        left //= rows
    np.testing.assert_array_equal(by_numpy(np.ones(TILE + 3, np.float32)), [TILE, 3])


def check(w, w_hat, found):
    """A tally against NumPy, to the bit."""
    with np.errstate(over="ignore", invalid="ignore"):
        e = w_hat - w
        expected = [e, np.abs(e), e * e, w * w, e * w]
        sums = np.stack([by_numpy(v) for v in (np.ones_like(w), *expected)], axis=-1)
    assert sums.dtype == np.float32
    oracles.same_bits(np.asarray(found.sums) + 0.0, sums + 0.0)  # but for the sign of a sum of zeros
    np.testing.assert_array_equal(found.max_abs, np.abs(e).max())
    np.testing.assert_array_equal(found.max_signal, np.abs(w).max())
    assert found.nonzero == np.count_nonzero(w)
    assert found.zeroed == np.count_nonzero((w_hat == 0) & (w != 0))
    assert found.clipped == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_tally_is_numpys_to_the_bit(size):
    w, w_hat = pair(size)
    check(w, w_hat, tallies.tally(w, w_hat))


def test_the_order_is_seen():
    """Of these weights other orders of the additions give other bits, so that the test above would notice."""
    tiles = pair(30 * TILE)[0].reshape(-1, TILE)
    ours = by_numpy(tiles.ravel())
    for other in (by_numpy(tiles[:, ::-1].ravel()), tiles.sum(axis=1), np.add.reduce(tiles.T, axis=0)):
        assert np.mean(ours != other) > 0.5


def test_subnormals_count_as_zero():
    """XLA flushes them in arithmetic, as weights and as results; extremes are patterns of bits and keep them."""
    rng = np.random.default_rng(1)
    w = (rng.integers(-1000, 1000, 5000) * np.float32(2.0**-136)).astype(np.float32)
    w_hat = (w * rng.choice(np.float32([0, 1, 2]), 5000)).astype(np.float32)
    found, tiny = tallies.tally(w, w_hat), np.float32(2.0**-126)
    assert 0 < np.sum((np.abs(w) > 0) & (np.abs(w) < tiny)) < 5000
    assert found.max_signal == np.abs(w).max()
    assert tallies.signal(w[np.abs(w) < tiny]).max_signal == np.abs(w[np.abs(w) < tiny]).max() < tiny
    w, w_hat = oracle_mx.flushed(w), oracle_mx.flushed(w_hat)
    e = oracle_mx.flushed(w_hat - w)
    assert (found.nonzero, found.zeroed) == (np.count_nonzero(w), np.count_nonzero((w_hat == 0) & (w != 0)))
    assert found.max_abs == np.abs(e).max()
    # every number is a multiple of 2^-136, and what a sum loses where it falls below 2^-126 is less than that
    sums = np.pad(e.astype(np.float64), (0, 2 * TILE - 5000)).reshape(2, -1).sum(axis=1)
    assert np.all(np.abs(np.asarray(found.e) - sums) <= TILE * 2.0**-126)
    for squares in (found.e2, found.w2, found.ew):
        np.testing.assert_array_equal(squares, 0)  # they underflow


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["w", "w_hat", "both"])
@pytest.mark.parametrize("at", [0, 4095, 4100, 8999])
def test_what_is_not_finite_stays_in_its_tile_and_in_the_extremes(at, where, bad):
    w, w_hat = pair(9000)
    for name, v in {"w": w, "w_hat": w_hat}.items():
        if where in (name, "both"):
            v[at] = bad
    found, clean = tallies.tally(w, w_hat), tallies.tally(*pair(9000))
    others = np.arange(3) != at // TILE
    oracles.same_bits(np.asarray(found.sums)[others], np.asarray(clean.sums)[others])
    assert not np.isfinite(np.asarray(found.sums)[at // TILE, 1])
    assert not np.isfinite(found.max_abs)
    if np.isnan(bad):
        assert np.isnan(found.max_abs)
    assert np.isfinite(found.max_signal) == (where == "w_hat")
    assert np.isnan(found.max_signal) == (where != "w_hat" and np.isnan(bad))


@pytest.mark.parametrize("size", SIZES[-2:])
def test_signal_and_noise_are_the_parts_of_a_tally(size):
    w, w_hat = pair(size, 3)
    whole, parts = tallies.tally(w, w_hat), tallies.combined(tallies.signal(w), tallies.noise(w, w_hat))
    same(parts, whole)
    on_host = tallies.combined(*jax.tree.map(np.asarray, (tallies.signal(w), tallies.noise(w, w_hat))))
    assert isinstance(on_host.sums, np.ndarray)
    same(on_host, whole)


joined = jax.jit(tallies.joined)


@pytest.mark.parametrize("ends", [[TILE], [TILE, 2 * TILE], [2 * TILE]], ids=str)
def test_tallies_of_consecutive_parts_are_joined(ends):
    w, w_hat = pair(3 * TILE - 99, 4)
    parts = [tallies.tally(*p) for p in zip(np.split(w, ends), np.split(w_hat, ends), strict=True)]
    same(joined(*parts), tallies.tally(w, w_hat))


def test_a_stack_of_tallies_is_joined():
    w, w_hat = pair(3 * TILE, 5)
    parts = [tallies.tally(*p) for p in zip(np.split(w, 3), np.split(w_hat, 3), strict=True)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    same(joined(stack), joined(*parts))


@pytest.mark.parametrize("bad", [np.nan, -np.nan])
def test_a_nan_is_joined(bad):
    w, w_hat = pair(2 * TILE)
    w_hat[5] = bad
    parts = [tallies.tally(w[k : k + TILE], w_hat[k : k + TILE]) for k in (0, TILE)]
    for order in (parts, parts[::-1]):
        assert np.isnan(joined(*order).max_abs)


def test_nothing_is_tallied():
    found = tallies.tally(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert found.sums.shape == (0, 6)
    assert [float(v) for v in jax.tree.leaves(found)[6:]] == [0.0] * 5


# --- units ----------------------------------------------------------------------------------------------------------

EXACT = ("count", "max_abs", "max_signal", "nonzero", "zeroed", "clipped")
POWERS = {"e": (0, 1), "abs_e": (0, 1), "e2": (0, 2), "w2": (2, 0), "ew": (1, 1)}  # of the units of w and e in a sum


def pair_in_eighths():
    """Weights, and the same in eighths, whose magnitudes span few powers of two."""
    w = np.random.default_rng(8).standard_normal(9000).astype(np.float32)
    return w, np.round(w * 8) / np.float32(8)


@pytest.mark.parametrize(("w_power", "e_power"), [(0, 0), (30, 0), (-3, -30), (25, 30)])
def test_units_change_no_bit_of_a_sum_that_stays_in_float32(w_power, e_power):
    w, w_hat = pair(9000)
    plain, unit = tallies.tally(w, w_hat), Exponents(np.int32(w_power), np.int32(e_power))
    found = tallies.tally(w, w_hat, unit=unit)
    for name in EXACT:
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name), err_msg=name)
    for name, (of_w, of_e) in POWERS.items():
        wide = np.asarray(getattr(plain, name), np.float64)
        np.testing.assert_array_equal(getattr(found, name), np.ldexp(wide, -of_w * w_power - of_e * e_power), name)
    same(tallies.on_host(found), tallies.on_host(plain))
    parts = tallies.signal(w, unit=unit), tallies.noise(w, w_hat, unit=unit)
    same(tallies.combined(*parts), found)
    same(tallies.combined(*map(tallies.on_host, parts)), tallies.on_host(found))
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), found)
    same(joined(stack).unit, unit)


@pytest.mark.parametrize("power", [-90, 90])
def test_units_keep_squares_that_leave_float32(power):
    plain = pair_in_eighths()
    w, w_hat = (v * np.float32(2.0**power) for v in plain)
    unit = tallies.unit_for(float(np.abs(w).max()), float(np.abs(w_hat - w).max()))
    found, expected = (tallies.on_host(t) for t in (tallies.tally(w, w_hat, unit=unit), tallies.tally(*plain)))
    for name, (of_w, of_e) in POWERS.items():
        np.testing.assert_array_equal(getattr(found, name), np.ldexp(getattr(expected, name), power * (of_w + of_e)))


def test_units_are_asked_for_only_where_squares_leave_float32():
    low, high = tallies.SAFE
    assert high**2 * TILE < float(np.finfo(np.float32).max)
    assert 2**24 * float(np.finfo(np.float32).tiny) < 2.0**-21 * low**2
    for safe in (low, high, 1.0, 0.02, 0.0, np.inf, np.nan):  # zeros need no unit, and what is not finite finds none
        assert tallies.unit_for(safe, 1.0) is tallies.unit_for(1.0, safe) is None
    for beyond in (low / 2, high * 2, 1e-45, 3e38):
        for unit, own in ((tallies.unit_for(beyond, 1.0), "w"), (tallies.unit_for(1.0, beyond), "e")):
            power = getattr(unit, own)
            assert abs(power) <= 126
            assert 1 <= beyond / 2.0**power < 4 or beyond == 1e-45
            assert {unit.w, unit.e} == {0, power}


def test_units_of_a_batch():
    w, w_hat = (np.stack([v * np.float32(2.0**-90), v]) for v in pair_in_eighths())
    unit = Exponents(np.int32([-90, 0]), np.int32([-90, 0]))
    batch = tallies.on_host(jax.vmap(lambda w, w_hat, unit: tallies.tally(w, w_hat, unit=unit))(w, w_hat, unit))
    np.testing.assert_array_equal(batch.e2[0], batch.e2[1] * 2.0**-180)
    np.testing.assert_array_equal(batch.ew[1], tallies.on_host(tallies.tally(*pair_in_eighths())).ew)
