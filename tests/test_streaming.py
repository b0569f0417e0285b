"""Errors stage by stage equal those of the whole array to the bit; stages that the compiler keeps apart."""

from dataclasses import replace
from functools import lru_cache
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import quantsim as qs
from quantsim.granularity import Block, Channel, Tensor, span
from quantsim.measure import streaming, tallies
from quantsim.numerics import fusion
from quantsim.numerics.fusion import apart, over_stages
from quantsim.numerics.tiles import TILE
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.stages import stages_of
from tests import oracles, test_block_contract, test_contract


@lru_cache(None)
def weights(shape):
    """Normal weights with zeros, large ones, and a run of zeros that no block survives."""
    rng = np.random.default_rng(prod(shape))
    w = rng.standard_normal(shape).astype(np.float32)
    flat = w.reshape(-1)
    flat[rng.random(flat.size) < 0.02] *= 8
    flat[flat.size // 3 : flat.size // 3 + flat.size // 16] = 0
    return w


def _key(q):
    return jax.random.key(9) if "stochastic" in str(q) else None


@lru_cache(None)
def quantized(q, shape):
    """The weights that the quantizer leaves, of the whole array at once."""
    return np.asarray(q.roundtrip(weights(shape), key=_key(q)))


def check(q, shape):
    """Every sum, extreme and count of ``weight_error``, to the bit."""
    w = weights(shape)
    found, expected = qs.weight_error(w, q, key=_key(q)), qs.error_stats(w, quantized(q, shape))
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=f"{name} of {q} for {shape}")
    return found


LARGE = (256, 512)  # two stages of one program; a rest, ragged blocks and other shapes follow below


def one_in(n, texts, slow=(), also=()):
    """One in ``n`` now, and those of ``also``; the others, and what is slow in any case, in the slow tests."""
    return [
        text if (k % n == 0 or text in also) and text not in slow else pytest.param(text, marks=pytest.mark.slow)
        for k, text in enumerate(texts)
    ]


#: Quantized as a whole, as int8:tensor is, or in stages of another that is here, with spans that are tested below.
ALIKE = ("int8:tensor:p99", "int7:block4@0", "e5m2fnuz", "fp4:channel")
ALIKE += ("mxfp8_e4m3", "mxfp6_e2m3:even", "mxfp8_e5m2:even")  # as mxfp4


@pytest.mark.parametrize("text", one_in(4, test_contract.CASES, ALIKE))
def test_weight_error_equals_that_of_the_whole(text):
    assert check(qs.parse(text), LARGE).count == prod(LARGE)


@pytest.mark.parametrize("text", one_in(6, test_block_contract.CASES, ALIKE))
def test_weight_error_of_block_formats_equals_that_of_the_whole(text):
    check(qs.parse(text), LARGE)


#: Shape: quantizers that take it in stages, and those that take it whole.
SHAPES = {
    # three stages that end within rows, and less than a tile; rows too long for a stage of whole rows
    (2, 100_000): (["int4:block32", "f16"], []),
    (3, 140, 512): (["q8_0"], []),
    # ragged blocks: rows, not blocks, are apart from all others
    (1500, 96): (["int8:channel:minmax", "int4:block64"], []),
    (5,): ([], ["int8:tensor", "int4:block32"]),
    (): ([], ["int8:channel", "int4:block32", "bf16"]),
    (0, 64): ([], ["int8:tensor", "int4:block32", "int8:channel", "bf16", "q8_0"]),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weight_error_of_any_shape_equals_that_of_the_whole(shape):
    in_stages, whole = SHAPES[shape]
    for text in in_stages:
        cut = stages_of(qs.parse(text)._span(shape), shape)
        assert cut.length % TILE == cut.length % cut.run == 0
        assert prod(shape) > 2 * cut.length
        assert prod(shape) % cut.length  # a rest
        check(qs.parse(text), shape)
    for text in whole:
        cut = stages_of(qs.parse(text)._span(shape), shape)
        assert cut is None or prod(shape) <= cut.length
        check(qs.parse(text), shape)


def test_rows_that_are_too_long_and_scales_across_rows_leave_no_stages():
    """The array is then taken whole, as that of int8:tensor is above."""
    for text, shape in (("int8:channel", (2, 100_000)), ("int7:block4@0", (3, 140, 512))):
        assert stages_of(qs.parse(text)._span(shape), shape) is None


def test_an_empty_array_needs_no_program():
    before = streaming._tally._cache_size(), tallies.tally._cache_size()
    found = qs.weight_error(np.zeros((0, 65), np.float32), "int8:channel")
    expected = qs.error_stats(np.zeros((0, 65), np.float32), np.zeros((0, 65), np.float32))
    for stats in (found, expected):
        assert (stats.count, stats.units, stats.max_abs, stats.max_signal) == (0, 0, 0, 0)
        assert np.isnan(stats.mse)
    assert (streaming._tally._cache_size(), tallies.tally._cache_size()) == before
    with pytest.raises(ValueError, match="256"):
        qs.weight_error(np.zeros((0, 100)), "q4_k")


def test_quantizers_that_differ_in_numbers_share_a_program():
    """Bits, ranges, clip ratios and small floats are arguments; none of these is compiled after the first of a kind."""
    w = weights((256, 512))
    kinds = [
        ["int4:block32", "int2:block32", "int8:block32"],
        ["e4m3:block32", "e2m1:block32", "e5m2:block32"],
        ["int4:block32:clip0.8", "int3:block32:clip0.55"],
    ]
    for first, *others in kinds:
        check(qs.parse(first), (256, 512))
        before = streaming._tally._cache_size()
        for text in others:
            qs.weight_error(w, text)
        assert streaming._tally._cache_size() == before


@pytest.mark.parametrize("scale", [1e-17, 1e-18, 1e18, 1e30])
@pytest.mark.parametrize("text", ["int4:block32", "bf16"])
def test_weight_error_does_not_depend_on_the_scale(text, scale):
    w = weights(LARGE) * np.float32(scale)
    q = qs.parse(text)
    found, w_hat = qs.weight_error(w, q), np.asarray(q.roundtrip(w))
    e, wide = (w_hat - w).astype(np.float64), w.astype(np.float64)
    assert found.sqnr_db == pytest.approx(10 * np.log10((wide**2).sum() / (e**2).sum()), abs=1e-4)
    assert found.sums.tolist() == qs.error_stats(w, w_hat).sums.tolist()
    # the steps of a float cast lie elsewhere in the octaves of the weights
    assert found.sqnr_db == pytest.approx(qs.weight_error(weights(LARGE), q).sqnr_db, abs=0.3)


SMALL = np.arange(64).reshape(2, 32)


def test_weight_error_takes_other_types():
    given = [SMALL, SMALL.astype(np.float64), SMALL.astype(np.int8), SMALL.tolist(), tuple(map(tuple, SMALL.tolist()))]
    given += [jnp.asarray(SMALL, jnp.bfloat16), jnp.asarray(SMALL)]
    found = [qs.weight_error(v, q) for v in given for q in ("int4:block32", qs.parse("int4:block32"))]
    assert len({tuple(s.sums.tolist()) for s in found}) == 1


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64])
def test_wide_numbers_are_rounded_as_the_quantizer_rounds_them(dtype):
    """bf16 rounds 1 + 2^-8 + 2^-30 up, though float32 ends at 1 + 2^-8, a tie that goes down."""
    w = np.full(SMALL.shape, 1 + 2.0**-8 + 2.0**-30 if dtype is np.float64 else 2**24 + 2**16 + 1, dtype)
    q = qs.parse("bf16")
    found, expected = qs.weight_error(w, q), qs.error_stats(w, q.roundtrip(w))
    assert found.result() == pytest.approx(expected.result(), nan_ok=True, rel=0)
    assert found.bias > 0


def test_weight_error_refuses_with_words():
    bad_at_the_end, infinite = np.float32(SMALL), np.float32(SMALL)
    bad_at_the_end[1, 31], infinite[1, 31] = np.nan, np.inf
    for bad in (bad_at_the_end.tolist(), infinite, jnp.asarray(bad_at_the_end)):
        for text in ("int4:block32", "bf16"):
            with pytest.raises(ValueError, match=r"1 of 64 weights are not finite.* at index \(1, 31\)") as refused:
                qs.weight_error(bad, text)
            assert "nonfinite" not in str(refused.value)
    with pytest.raises(TypeError, match="real numbers"):
        qs.weight_error(["a"], "bf16")
    with pytest.raises(ValueError, match="256"):
        qs.weight_error(np.ones((2, 100)), "q4_k")
    with pytest.raises(ValueError, match="needs a key"):
        qs.weight_error(np.ones((2, 100)), "int8:tensor:stochastic")
    with pytest.raises(ValueError, match="blok32"):
        qs.weight_error(np.ones((2, 100)), "int8:blok32")
    with pytest.raises(TypeError, match=r"measure\.tally"):
        jax.jit(lambda w: qs.weight_error(w, "bf16").mse)(np.ones(4, np.float32))


# --- spans ----------------------------------------------------------------------------------------------------------

GRANULARITIES = [Tensor(), *(Channel(a) for a in (0, 1, -1)), *(Block(s, a) for s in (1, 3, 4, 96) for a in (-1, 0, 1))]
SPANNED = [(12,), (4, 12), (4, 10), (1, 12), (3, 1), (2, 3, 12), (2, 1, 10), (1, 1, 1)]


def apart_from_others(ids, n):
    """Whether runs of ``n`` consecutive weights share no scale with weights of other runs."""
    if ids.size % n:
        return False
    runs = [set(run.tolist()) for run in ids.reshape(-1, n)]
    return sum(map(len, runs)) == len(set.union(*runs))


@pytest.mark.parametrize("shape", SPANNED, ids=str)
@pytest.mark.parametrize("g", GRANULARITIES, ids=str)
def test_a_span_shares_scales_with_no_other(g, shape):
    axis = getattr(g, "axis", 0)
    if not -len(shape) <= axis < len(shape):
        with pytest.raises(ValueError, match="does not exist"):
            span(g, shape)
        return
    ids = oracles.block_ids(shape, type(g).__name__.lower(), getattr(g, "size", 1), axis).ravel()
    n = span(g, shape)
    if n is not None:
        assert apart_from_others(ids, n)


def test_a_span_is_found_where_there_is_one():
    """None is also what any granularity could say: where blocks are consecutive, it is not."""
    for shape in SPANNED:
        assert span(Channel(), shape) == prod(shape[1:])
        for size in (1, 3, 4, 96):
            assert span(Block(size), shape) == (shape[-1] if shape[-1] % size else size)
    assert span(Tensor(), (4, 12)) is span(Channel(1), (4, 12)) is span(Block(4, 0), (4, 12)) is None
    assert span(Block(4), ()) is span(Block(4), (0, 4)) is span(Channel(), ()) is None


ALSO_APART = ("int8:block32", "int4:block32:mse", "mxfp4:even", "mxint8", "q4_0", "tq1_0")  # kinds without a neighbour
LATTICES = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"}
SEARCHED = (
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    *LATTICES,
)  # of one span with all, and seconds to compile


@pytest.mark.parametrize(
    "text",
    [
        *one_in(4, test_contract.CASES, SEARCHED, ALSO_APART),
        *one_in(6, test_block_contract.CASES, SEARCHED, ALSO_APART),
    ],
)
def test_spans_quantized_apart_give_the_same_bits(text):
    """What ``staged`` takes for granted: an array whose rows are spans, each on its own."""
    q, shape = qs.parse(text), LARGE
    n = q._span(shape)
    assert n is None or prod(shape) % n == 0
    if n is None:  # it says why: one scale for everything, scales across, or draws for the whole array
        assert any(word in text for word in ("tensor", "@", "stochastic"))
        return
    w = weights(shape)
    rows = w.reshape(-1) if n == 1 else w.reshape(-1, n)
    apart, half = np.asarray(q.roundtrip(rows)), len(rows) // 2
    oracles.same_bits(apart.reshape(shape), quantized(q, shape))
    others = rows.copy()
    others[half:] = rows[:half]
    if q._has_tensor_scale():  # that of the whole array stays as it is
        largest = np.unravel_index(np.abs(rows).argmax(), rows.shape)
        others[len(rows) - 1 - largest[0] if largest[0] < half else largest[0]] = rows[largest[0]]
    oracles.same_bits(np.asarray(q.roundtrip(others))[:half], apart[:half])


@pytest.mark.filterwarnings("ignore:.*keeps a scale for every 1 weights")  # it does; so do channels of one axis
@pytest.mark.parametrize("shape", [(2**17, 1), (2**18,), (3, 140, 512)], ids=str)
@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
@pytest.mark.parametrize("kind", [Block, Channel])
def test_stages_are_rows_whatever_the_axis_is(kind, axis, shape):
    """A part is a matrix, whose axes have other numbers than those of the array."""
    if axis >= len(shape):
        return
    g = Block(32, axis) if kind is Block else Channel(axis)
    for text in ("int8:block32", "int4:block32:absmax:ue4m3+f32"):
        check(replace(qs.parse(text), granularity=g), shape)


def test_a_quantizer_that_says_nothing_is_taken_whole():
    class Halves(AbstractQuantizer):
        _encode = _decode = _outside = _nbytes = None

        def _approximate(self, w, key):
            return w / 2

        def __str__(self):
            return "halves"

    assert Halves()._span((4, 4)) is None
    assert check(Halves(), LARGE).rel_rms == 0.5


# --- apart ----------------------------------------------------------------------------------------------------------


def pieces(x):
    """Several arrays of several types."""
    return {"float": x * 3 + 1, "integer": (x > 0).astype(jnp.int32), "bool": x > 1, "scalar": x.sum()}


def by_numpy(x):
    return {"float": x * 3 + 1, "integer": (x > 0).astype(np.int32), "bool": x > 1, "scalar": np.asarray(x.sum())}


def kept(x):
    return apart(lambda: pieces(x), x)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_array_equal(x, y)


def on_four_devices(f):
    mesh, spec = jax.make_mesh((4,), ("d",), (jax.sharding.AxisType.Auto,)), PartitionSpec("d")
    return jax.jit(jax.shard_map(jax.vmap(f), mesh=mesh, in_specs=spec, out_specs=spec))


WHOLE = {"eager": lambda f: f, "jit": jax.jit}
BY_ROW = {
    "vmap": jax.vmap,
    "jit(vmap)": lambda f: jax.jit(jax.vmap(f)),
    "scan": lambda f: lambda x: lax.scan(lambda _, row: (None, f(row)), None, x)[1],
    "shard_map": on_four_devices,
}
X = np.float32([[-1.0, 2.0, 0.0], [0.5, 1.5, -0.0], [np.nan, 1.0, 2.0], [np.inf, 2e-38, -3.0]])


@pytest.mark.parametrize("way", WHOLE)
def test_apart_gives_what_the_function_gives(way):
    same(WHOLE[way](kept)(jnp.asarray(X)), by_numpy(X))


@pytest.mark.parametrize("way", BY_ROW)
def test_apart_gives_what_the_function_gives_for_each_row(way):
    rows = [by_numpy(row) for row in X]
    same(BY_ROW[way](kept)(jnp.asarray(X)), jax.tree.map(lambda *leaves: np.stack(leaves), *rows))


@pytest.mark.parametrize("data", [jnp.int32([-1, 5]), jnp.uint32([2**32 - 1]), jnp.float32(-np.nan), jnp.bool_([True])])
def test_apart_takes_any_data(data):
    """All 32 bits of a word are set, or it is a NaN, or has one bit: at most 32 in any case."""
    same(jax.jit(lambda x: apart(lambda: x + 1, x))(data), data + 1)


def test_apart_has_the_gradient_of_the_function():
    c = jnp.asarray([1.0, -2.0, 4.0])
    for transform in (lambda f: f, jax.jit):
        grad = jax.grad(transform(lambda x: apart(lambda: (c * x).sum(), x)))(jnp.ones(3))
        np.testing.assert_array_equal(grad, c)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_apart_computes_once_on_cpu_only(monkeypatch, on_cpu):
    monkeypatch.setattr(fusion, "on_cpu", lambda: on_cpu)
    text = jax.jit(lambda x: apart(lambda: x * 3, x)).lower(jnp.ones(4)).as_text()
    assert ("stablehlo.case" in text) == on_cpu


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 4, 5, 8, 9])
@pytest.mark.parametrize("stage", [1, 4, 100])
def test_over_stages_gives_what_the_function_gives(monkeypatch, rows, stage, on_cpu):
    def f(x, y):
        seen.append(len(x))
        return {"sum": x + y, "of rows": x.sum(axis=1)}

    monkeypatch.setattr(fusion, "on_cpu", lambda: on_cpu)
    seen, x, y = [], np.arange(rows * 4, dtype=np.float32).reshape(rows, 4), np.ones((rows, 4), np.float32)
    with jax.disable_jit():  # a loop over stages is then one of Python, and compiles nothing
        found = over_stages(f, (jnp.asarray(x), jnp.asarray(y)), stage)
    same(found, {"sum": x + y, "of rows": x.sum(axis=1)})
    whole = rows // stage * stage
    in_stages = on_cpu and whole >= 2 * stage
    assert set(seen) == ({stage, *([rows - whole] if rows > whole else [])} if in_stages else {rows})


def test_over_stages_compiles_one_stage(monkeypatch):
    monkeypatch.setattr(fusion, "on_cpu", lambda: True)
    x = np.arange(36, dtype=np.float32).reshape(9, 4)
    same(jax.jit(lambda x: over_stages(lambda r: r * 2, (x,), 2))(x), x * 2)
