"""Draws: jax.random's bits, from (key, index) alone, wherever and in whatever pieces they are computed."""

import itertools
import math
from functools import partial

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec
from scipy import stats

from quantsim.populations import Normal, draws, inverse_erf, key
from quantsim.populations.draws import Index

REFERENCES = {
    "bits": jax.random.bits,
    "uniform": jax.random.uniform,
    "signed_uniform": lambda k, shape: jax.random.uniform(k, shape, minval=-1.0),
    "normal": jax.random.normal,
    "laplace": jax.random.laplace,
}
PARAMETERS = {"student_t": (5.0,), "generalized_normal": (1.5,)}
DRAWS = [*REFERENCES, *PARAMETERS]
COUNT = 341  # of draws that one program makes; every test takes as many
SHAPES = [(COUNT,), (11, 31)]


def draw(name, k, i):
    return getattr(draws, name)(k, i, *PARAMETERS.get(name, ()))


def draw_all(k, i):
    return {name: draw(name, k, i) for name in DRAWS}


@partial(jax.jit, static_argnums=2)
def take_all(k, start=0, count=COUNT):
    return draw_all(k, draws.indices(Index(jnp.uint32(0), jnp.uint32(start)), count))


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.fixture
def counted_bits(monkeypatch):
    """``draws.bits`` that returns the low word of the index, so that every value of the bits can be visited."""
    monkeypatch.setattr(draws, "bits", lambda k, i: i.low)


def all_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        same_bits(a[name], b[name])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_draws_equal_jax_random_to_the_bit(shape):
    for k in (key(0), key(2**31 + 7), jax.random.fold_in(key(3), 11)):
        drawn = take_all(k)
        for name, reference in REFERENCES.items():
            same_bits(drawn[name].reshape(shape), reference(k, shape))


def test_jit_equals_eager():
    """All but the generalized normal, whose operations test_generalized_normal.py takes one at a time."""
    names = [name for name in DRAWS if name != "generalized_normal"]
    jitted, eager = take_all(key(1)), {name: draw(name, key(1), draws.indices(0, COUNT)) for name in names}
    # XLA's log of a few floats on their own is an ulp off its vector code now and then; ``sample`` always jits
    np.testing.assert_allclose(jitted["student_t"], eager.pop("student_t"), rtol=1e-6)
    all_same_bits({name: jitted[name] for name in eager}, eager)


def whole(k):
    """Three chunks, joined."""
    parts = [take_all(k, COUNT * j) for j in range(3)]
    return {name: np.concatenate([p[name] for p in parts]) for name in DRAWS}


def test_chunks_equal_the_whole():
    all_same_bits(whole(key(1)), jax.tree.map(np.asarray, take_all(key(1), count=3 * COUNT)))


def test_a_scan_over_chunks_under_vmap_over_keys_equals_one_key_and_chunk_at_a_time():
    def chunks(k):
        firsts = jnp.arange(3, dtype=jnp.uint32) * COUNT
        return lax.scan(lambda _, low: (None, take_all(k, low)), None, firsts)[1]

    keys = jax.random.split(key(9), 2)
    rows = jax.jit(jax.vmap(chunks))(keys)
    for at, k in enumerate(keys):
        all_same_bits({name: np.asarray(row[at]).ravel() for name, row in rows.items()}, whole(k))


def test_shard_map_equals_one_device():
    devices = 3
    mesh = jax.make_mesh((devices,), ("d",), devices=jax.devices()[:devices])

    def local(k):
        return take_all(k, lax.axis_index("d").astype(jnp.uint32) * COUNT)

    spread = jax.shard_map(local, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec("d"), check_vma=False)
    drawn = jax.tree.map(np.asarray, jax.jit(spread)(key(2)))
    all_same_bits(drawn, {name: v[: devices * COUNT] for name, v in whole(key(2)).items()})


@pytest.mark.parametrize("start", [2**32 - 3, 2**33 - 1, 5 * 2**32 + 17, 2**63 - 4])
def test_indices_carry_into_the_high_word(start):
    i = draws.indices(start, 8)
    got = [(int(h) << 32) | int(low) for h, low in zip(i.high, i.low, strict=True)]
    assert got == list(range(start, start + 8))


words = jax.jit(draws.words)


@pytest.mark.parametrize("start", [0, 2**32 - 3, 7 * 2**32 - 2])
def test_words_of_64_bit_counters_are_threefry(start):
    i, k = draws.indices(start, 6), key(77)
    expected = jax.extend.random.threefry_2x32(jax.random.key_data(k), jnp.concatenate([i.high, i.low]))
    same_bits(np.concatenate(words(k, i)), expected)


def test_a_key_of_another_implementation_is_refused():
    with pytest.raises(ValueError, match=r"threefry2x32 key, not rbg.*populations\.key"):
        Normal().sample(jax.random.key(0, impl="rbg"), (3,))


@pytest.mark.usefixtures("counted_bits")
def test_the_largest_draws_are_those_the_docstring_states():
    # all 2^23 values of a 23-bit uniform, at both ends; the ends decide, as both maps are monotone in |u|
    ends = np.concatenate([np.arange(2**12), 2**23 - 1 - np.arange(2**12)]).astype(np.uint32) << 9
    i = Index(jnp.uint32(0), jnp.asarray(ends))
    normal, laplace = jax.jit(lambda i: (draws.normal(key(0), i), draws.laplace(key(0), i)))(i)
    assert np.abs(normal).max() == pytest.approx(-stats.norm.ppf(2.0**-25), rel=1e-6)
    assert np.abs(laplace).max() == pytest.approx(math.log(2.0**24), rel=1e-6)
    doc = " ".join(draws.__doc__.split())
    assert f"{-stats.norm.ppf(2.0**-25):.2f} standard deviations" in doc
    assert f"{math.ceil(100 * math.log(2.0**24) / 2**0.5) / 100:.2f} (ln 2^24 / sqrt 2)" in doc


@pytest.mark.usefixtures("counted_bits")
@pytest.mark.parametrize("p", [0.0, 2.0**-32, 1e-8, 1e-6, 3e-6])
def test_chance_resolves_small_probabilities(p):
    # bits 0 ... 2^14 - 1 hold all that are below 2^32 p; float32 keeps p to 6e-8
    i = Index(jnp.uint32(0), jnp.arange(2**14, dtype=jnp.uint32))
    assert int(draws.chance(key(0), i, p).sum()) == math.ceil(float(np.float32(p)) * 2**32)


@pytest.mark.usefixtures("counted_bits")
@pytest.mark.parametrize("p", [0.5, 0.9, 1 - 2.0**-24, 1.0])
def test_chance_at_large_probabilities(p):
    last = np.float32(p).astype(np.float64) * 2**32
    around = np.clip(last + np.array([-600, 600]), 0, 2**32 - 1).astype(np.uint32)
    low, high = draws.chance(key(0), Index(jnp.uint32(0), jnp.asarray(around)), p)
    assert low
    assert bool(high) == (p == 1.0)


@jax.jit
def million(k, df):
    return draws.student_t(k, draws.indices(0, 10**6), df)


@pytest.mark.parametrize("df", [3.0, 5.0, 30.5])
def test_student_t_passes_kolmogorov_smirnov(df):
    # n = 10^6; sqrt(n) D of the right distribution exceeds 1.95 with probability 10^-3
    x = np.asarray(million(key(2024), df), np.float64)
    assert np.isfinite(x).all()
    d = stats.kstest(x, stats.t(df).cdf).statistic
    assert np.sqrt(x.size) * d < stats.kstwobign.isf(1e-3)


@pytest.mark.parametrize("df", [3.0, 5.0, 30.5])
def test_student_t_tail_counts(df):
    # n = 10^6, k = 4 standard errors of a binomial count on each side
    n = 10**6
    x = np.asarray(million(key(7), df), np.float64)
    for p in (1e-2, 1e-3, 1e-4, 2e-5):
        edge = stats.t(df).isf(p)
        for count in ((x > edge).sum(), (x < -edge).sum()):
            assert abs(count - n * p) <= 4 * np.sqrt(n * p * (1 - p))


permuted = jax.jit(draws.permuted, static_argnums=2)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 4096])
def test_permuted_is_a_bijection(size):
    images = permuted(key(3), np.arange(size, dtype=np.int32), size)
    assert images.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(images), np.arange(size))


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("size", [2, 7, 100])
def test_the_image_of_one_element_is_uniform(size):
    # 4000 keys, significance 10^-3
    keys = jax.random.split(key(size), 4000)
    images = jax.jit(jax.vmap(lambda k: draws.permuted(k, jnp.array([size - 1]), size)))(keys)
    counts = np.bincount(np.asarray(images).ravel(), minlength=size)
    assert chi_square(counts) < stats.chi2.isf(1e-3, size - 1)


@pytest.mark.parametrize("size", [4, 5, 8, 17])
def test_every_pair_of_units_is_equally_likely(size):
    # what two outlier columns among few are; 4000 keys, significance 10^-3. Four Feistel rounds fail this from 4 to 8
    keys = jax.random.split(key(100 + size), 4000)
    pairs = np.sort(jax.jit(jax.vmap(lambda k: draws.permuted(k, jnp.arange(2), size)))(keys), axis=1)
    at = np.ravel_multi_index(pairs.T, (size, size))
    all_pairs = [np.ravel_multi_index(p, (size, size)) for p in itertools.combinations(range(size), 2)]
    counts = np.bincount(at, minlength=size**2)[all_pairs]
    assert counts.sum() == 4000
    assert chi_square(counts) < stats.chi2.isf(1e-3, len(all_pairs) - 1)


def test_permuted_looks_random_at_large_sizes():
    # correlation of image and element over n = 4096 has standard error 1/sqrt(n - 1); k = 4
    images = np.asarray(permuted(key(8), np.arange(4096, dtype=np.int32), 4096), np.float64)
    assert abs(np.corrcoef(images, np.arange(4096))[0, 1]) < 4 / np.sqrt(4095)
    assert abs(np.corrcoef(images[1:], images[:-1])[0, 1]) < 4 / np.sqrt(4094)


@pytest.mark.slow
def test_sixteen_million_draws_equal_jax_random():
    drawn, n = take_all(key(0), count=2**24 + 1), 2**24 + 1
    for name, reference in REFERENCES.items():
        same_bits(drawn[name], reference(key(0), (n,)))


@pytest.mark.slow
@pytest.mark.usefixtures("counted_bits")
@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_no_draw_of_all_23_bit_uniforms_exceeds_the_ends(name):
    i = Index(jnp.uint32(0), jnp.arange(2**23, dtype=jnp.uint32) << 9)
    x = np.abs(np.asarray(draw(name, key(0), i)))
    assert x.max() == x[0]


def cosine_errors(every):
    """|cos(2 pi v) - the true one| for every so many of the 2^23 values of v."""
    v = np.arange(0, 2**23, every, dtype=np.float32) * np.float32(2.0**-23)
    found = np.asarray(jax.jit(draws._cos_of_turn)(v), np.float64)
    assert np.abs(found).max() <= 1 + 2.0**-23
    return np.abs(found - np.cos(2 * np.pi * v.astype(np.float64)))


@pytest.mark.parametrize("every", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_the_cosine_of_a_turn(every):
    """Horner's rule on terms t_k = (pi/2)^(2k+1) / (2k+1)!, and x = q^2 rounded: sum of (3k + 2) t_k < 8 roundings."""
    assert cosine_errors(every).max() <= 8 * 2.0**-24 + 7e-10  # and what the series leaves out, as the docstring says


def test_the_series_of_the_cosine_is_as_good_as_its_docstring_says():
    q = np.linspace(0, 0.25, 10**5)  # in float64, so that only what the series leaves out is seen
    value = np.polyval(draws._SINE, q * q) * q
    assert 3.5e-10 < np.abs(value - np.sin(2 * np.pi * q)).max() < 7e-10


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_the_inverse_error_function_is_xlas_to_the_bit(every):
    u = np.arange(-(2**23) + 1, 2**23, every, dtype=np.float32) * np.float32(2.0**-23)
    u = np.concatenate([u, np.float32([1 - 2.0**-24, 2.0**-24 - 1, 1e-30, -1e-30])])
    ours = jax.jit(lambda u: inverse_erf.erf_inv(u, inverse_erf.minus_log_1m(u * u)))
    same_bits(ours(u), jax.jit(lax.erf_inv)(u))


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_the_logarithm_is_xlas_to_the_bit(every):
    """Of all arguments of a Laplace draw, |u|, and of a normal draw, u^2."""
    u = np.arange(1, 2**24, every, dtype=np.float32) * np.float32(2.0**-24)
    for y in (u, u * u):
        same_bits(jax.jit(inverse_erf.minus_log_1m)(y), -jax.jit(lambda y: lax.log1p(-y))(y))


@pytest.mark.slow
@pytest.mark.usefixtures("counted_bits")
@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_every_draw_there_is_equals_jax_random(name):
    """The 2^23 draws, in the order of their uniforms, and what jax.random makes of those on [-1, 1)."""
    low = np.nextafter(np.float32(-1), np.float32(0))
    u = np.maximum(np.arange(2**23, dtype=np.float32) * np.float32(2.0**-22) + low, low)
    made = {
        "normal": lambda u: np.float32(2**0.5) * lax.erf_inv(u),
        "laplace": lambda u: jnp.sign(u) * lax.log1p(-abs(u)),
    }
    i = Index(jnp.uint32(0), jnp.arange(2**23, dtype=jnp.uint32) << 9)
    same_bits(jax.jit(partial(draw, name))(key(0), i), jax.jit(made[name])(u))


LAWS = {
    "normal": (stats.norm(), ()),
    "laplace": (stats.laplace(), ()),
    "signed_uniform": (stats.uniform(-1, 2), ()),
    **{f"student_t {df}": (stats.t(df), (df,)) for df in (2.1, 5.0, 100.0)},
}
TAILS = np.array([1e-3, 1e-4, 1e-5, 1e-6])


def counts_below(name, edges, n, chunks=50):
    """How many of ``n`` draws are below each of the edges, and how many beyond each of their mirror images."""
    draw = jax.jit(lambda low: getattr(draws, name.split()[0])(
        key(11), draws.indices(Index(jnp.uint32(0), low), n // chunks), *LAWS[name][1]))  # fmt: skip
    total = np.zeros((2, len(edges)), np.int64)
    for j in range(chunks):
        x = np.sort(np.asarray(draw(jnp.uint32(n // chunks * j))))
        total += [np.searchsorted(x, edges), x.size - np.searchsorted(x, -edges, side="right")]
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_laws_of_ten_to_the_eight_draws(name):
    """Kolmogorov's distance on a grid of 4095 quantiles, significance 10^-3 / 6; tails, k = 4 standard errors.

    Uniforms of 23 bits move a probability by at most 2^-24, and the 32 of Student's radius by less: 6 of 10^8 draws.
    """
    law, n = LAWS[name][0], 10**8
    below, _ = counts_below(name, edges := law.ppf(np.arange(1, 4096) / 4096).astype(np.float32), n)
    d = np.abs(below / n - law.cdf(edges.astype(np.float64))).max()
    assert np.sqrt(n) * (d - 2.0**-24) < stats.kstwobign.isf(1e-3 / len(LAWS))
    ends = law.ppf(TAILS).astype(np.float32)
    expected = n * law.cdf(ends.astype(np.float64))
    for count in counts_below(name, ends, n):
        assert np.all(np.abs(count - expected) <= 4 * np.sqrt(expected) + n * 2.0**-24)
