"""Scales of any element as e8m0, unsigned floats and in two levels, and scales chosen by their error: to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim import formats
from quantsim.quantizer.blockformats.microscaling import MICROSCALING
from quantsim.quantizer.structure import split_quantizer
from tests import oracle_mx, oracle_scales, oracles

ELEMENTS = ["e2m1", "e1m2", "e1m1", "e2m0", "e3m0", "e2m3", "int4", "int3", "int8"]
SCALES = ["ue4m3", "ue5m3", "ue5m2", "ue3m4", "ue3m5", "ue4m0", "e4m3", "e5m3"]
RULES = formats.RULES


def some(elements, others):
    """Each element with each other part; those that neither the first element nor the diagonal has are slow."""
    pairs = [(i, k) for i in range(len(elements)) for k in range(len(others))]
    quick = {(i, k) for i, k in pairs if (i == 0 and k < 3) or i == k}
    return [pytest.param(elements[i], others[k], marks=[] if (i, k) in quick else pytest.mark.slow) for i, k in pairs]


def check(q, w, scale, step, element) -> None:
    """Scales as stored, weights, and the round trip without codes."""
    qw = q.quantize(w)
    oracles.same_bits(np.ravel(qw.scale), np.float32(scale).ravel())
    expected = oracle_scales.weights(w, step, element)
    oracles.same_bits(qw.dequantize(), expected)
    oracles.same_bits(q.roundtrip(w), expected)


def _top(w):
    return oracle_mx.flushed(np.abs(w).max(axis=-1, keepdims=True))


# --- every number of a format ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["e1m2", "e1m0", "e1m5", "e2m0", "e3m0", "e3m1"])
def test_levels_of_floats_of_few_bits_are_their_codes(name):
    """By the definition of a float, each code; casts of every level and midpoint are in test_rounding.py."""
    fmt = formats.parse(name)
    values = oracles.float_codes(fmt.exponent_bits, fmt.mantissa_bits, fmt.specials)
    np.testing.assert_array_equal(formats.levels(fmt)[-len(values) :], values)


@pytest.mark.parametrize("name", [name for name in SCALES if name.startswith("ue")])
def test_unsigned_floats_have_the_numbers_of_their_codes(name):
    fmt = formats.parse_scale(name)
    np.testing.assert_array_equal(formats.levels(fmt), oracle_scales.magnitudes(name))
    assert fmt.bits == sum(oracle_scales.FLOATS[name][:2])


def test_ranges_of_unsigned_floats():
    assert formats.largest(formats.parse_scale("ue4m3")) == 448
    assert formats.largest(formats.parse_scale("ue5m3")) == 114688
    assert formats.levels(formats.parse_scale("ue5m3"))[1] == 2.0**-17


@pytest.mark.parametrize(("element", "scale"), some(["e2m1", "int4", "e1m2"], SCALES))
def test_every_scale_and_every_midpoint(element, scale):
    """Blocks whose largest weight asks for each number of the scale format, for each midpoint, and one ulp beside."""
    numbers = oracle_scales.magnitudes(scale)
    asked = np.concatenate([numbers, oracles.midpoints(numbers), numbers[-1] * np.array([1.01, 2.0, 1e6])])
    top = np.abs(np.float32(asked * oracle_scales.last_level(element)))[:, None]
    w = np.concatenate([top, top * np.float32([-1.0, 0.3, -0.55, 0.01])], axis=1).astype(np.float32)
    stored = oracle_scales.stored(_top(w), element, scale)
    assert set(stored.ravel()) == set(numbers)
    check(qs.parse(f"{element}:block8:absmax:{scale}"), w, stored, np.float32(stored), element)


@pytest.mark.parametrize(("element", "rule"), some(ELEMENTS, RULES))
def test_powers_of_two_by_every_rule(element, rule):
    """Every exponent, and the magnitudes on which the rules part."""
    w = oracle_mx.blocks(32)
    step = oracle_scales.power(_top(w), element, rule)
    check(qs.parse(f"{element}:block32:absmax:e8m0:{rule}"), w, step, step, element)


def test_the_tops_reach_every_exponent():
    w = np.ldexp(np.linspace(1.0, 1.99, 8, dtype=np.float32), np.arange(-126, 128)[:, None])
    for rule in RULES:
        step = oracle_scales.power(_top(w), "int4", rule)
        check(qs.parse(f"int4:block8:absmax:e8m0:{rule}"), w, step, step, "int4")
        assert len(np.unique(step)) >= 247


# --- two levels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("element", "scale"), some(ELEMENTS, ["e4m3", "ue4m3", "ue5m3", "ue3m4", "f16"]))
def test_two_levels(element, scale):
    every = oracle_mx.blocks(16)
    q, largest = qs.parse(f"{element}:block16:absmax:{scale}+f32"), oracle_scales.magnitudes(scale)[-1]
    for w in (every, every[:24] * np.float32(1e-3), np.ldexp(every[:24], -112), np.ldexp(every[:24], 100)):
        w = np.resize(w, every.shape).astype(np.float32)
        tensor = oracle_scales.tensor_of(_top(w), element, largest)
        if np.abs(w).max() > 1e38:  # the scale of the tensor may be one or two units less, so that nothing overflows
            found = np.float32(q.quantize(w).tensor_scale)
            assert oracles.ulps(found, tensor) <= 2
            tensor = found
        stored = oracle_scales.stored(_top(w), element, scale, tensor)
        check(q, w, stored, np.float32(stored) * tensor, element)
        assert q.quantize(w).tensor_scale == tensor
        assert np.isfinite(q.roundtrip(w)).all()


def test_a_vmapped_tensor_has_a_scale_of_its_own():
    q = qs.parse("int4:block16:absmax:ue4m3+f32")
    w = np.random.default_rng(0).standard_normal((3, 4, 32)).astype(np.float32) * np.float32([[[1]], [[9]], [[0.01]]])
    batch = jax.vmap(q.quantize)(w)
    assert batch.tensor_scale.shape == (3,)
    assert batch.nbytes == 3 * (4 * 16 + 7 + 4)  # 8 scales of 7 bits
    each = [np.asarray(q.roundtrip(one)) for one in w]
    oracles.same_bits(batch.dequantize(), np.stack(each))
    oracles.same_bits(jax.vmap(q.roundtrip)(w), np.stack(each))


@pytest.mark.parametrize("shape", [(), (0,), (4, 0), (1,), (3, 5)])
@pytest.mark.parametrize(
    "spec", ["int4:block16:absmax:ue4m3+f32", "e1m2:block16:absmax:e8m0", "e2m1:block16:search:e4m3"]
)
def test_small_arrays_and_zeros(spec, shape):
    """Blocks longer than the row are one short block; nothing and zeros stay what they are."""
    q = qs.parse(spec)
    oracles.same_bits(q.quantize(np.zeros(shape, np.float32)).dequantize(), np.zeros(shape))
    w = np.full(shape, 3.0, np.float32)
    back = np.asarray(q.roundtrip(w))
    np.testing.assert_allclose(back, w, rtol=0.15)  # half a step of a scale of three digits, or of an element
    assert q.quantize(w).nbytes == q.bits_per_weight(shape) * max(w.size, 1) / 8


@pytest.mark.parametrize("spec", ["int4:block4:absmax:ue4m3+f32", "nf4:block4:absmax:e8m0", "e2m1:block4:search:ue4m3",
                                  "e2m1:block4:fouroversix:e4m3+f32"])  # fmt: skip
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_block(spec, bad):
    q = qs.parse(spec)
    w = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    w[1, 2] = 0.1
    spoiled = w.copy()
    spoiled[1, 2] = bad
    with pytest.raises(ValueError, match=r"index \(1, 2\)"):
        q.quantize(spoiled)
    without = np.where((np.arange(3) == 1)[:, None] & (np.arange(8) < 4), 0, w)
    expected = np.asarray(q.roundtrip(without))
    got = np.asarray(q.roundtrip(spoiled, nonfinite="propagate"))
    assert np.isnan(got[1, :4]).all()
    keep = ~np.isnan(got)
    assert keep.sum() == 20
    oracles.same_bits(got[keep], expected[keep])


def test_a_tensor_of_subnormals_and_one_of_the_largest_floats():
    q = qs.parse("int8:block4:absmax:ue4m3+f32")
    assert not np.any(q.roundtrip(np.full((2, 4), 1e-40, np.float32)))
    assert q.quantize(np.full((2, 4), 1e-40, np.float32)).tensor_scale == np.float32(2.0**-126)
    huge = np.full((2, 4), np.finfo(np.float32).max, np.float32)
    np.testing.assert_allclose(q.roundtrip(huge), huge, rtol=2.0**-21)


# --- chosen scales --------------------------------------------------------------------------------------------------


def _blocks(size: int, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = np.concatenate(
        [rng.standard_normal((300, size)), rng.standard_t(3, (200, size)), rng.uniform(-1, 1, (100, size))]
    )
    w[:50] *= 10.0 ** rng.integers(-2, 3, (50, 1))
    w[77], w[78, 1:] = 0, 0
    return w.astype(np.float32)


def _check_choice(found, tried, losses) -> None:
    """The first of the least losses; where two are within rounding of float32, either."""
    best = losses.min(axis=0)
    slack = 1e-5 * best
    at = np.argmin(losses, axis=0)
    expected = np.take_along_axis(tried[..., 0], at[None], 0)[0]
    close = ((losses <= best + slack) & (tried[..., 0] != expected)).any(axis=0)
    np.testing.assert_array_equal(np.ravel(found)[~close], np.float32(expected)[~close])
    assert close.mean() < 0.03
    chosen = np.ravel(found)[None] == np.float32(tried[..., 0])
    assert (np.where(chosen, losses, np.inf).min(axis=0) <= best + slack).all()


@pytest.mark.parametrize(
    ("element", "scale"),
    some(["e2m1", "int4", "e1m2"], ["ue4m3", "e4m3+f32", "f16", "ue5m3", "e4m3", "e5m3", "ue3m4+f32"]),
)
def test_search_is_the_best_of_the_neighbouring_codes(element, scale):
    neighbours = 2 if element == "int4" else 4
    w, name = _blocks(16), scale.removesuffix("+f32")
    tensor = None
    if name != scale:
        tensor = oracle_scales.tensor_of(_top(w), element, oracle_scales.magnitudes(name)[-1])
    tried = oracle_scales.candidates(_top(w), element, name, tensor, neighbours)
    steps = np.float32(tried) * (np.float32(1) if tensor is None else tensor)
    importance = np.random.default_rng(2).uniform(0, 2, 16).astype(np.float32)
    q = qs.parse(f"{element}:block16:search{neighbours}:{scale}")
    for weighed in (None, importance):
        counts = 1.0 if weighed is None else np.float64(weighed)
        losses = np.stack([oracle_scales.errors(w, step, element, counts) for step in steps])
        qw = q.quantize(w, imatrix=weighed)
        _check_choice(qw.scale, tried, losses)
        oracles.same_bits(q.roundtrip(w, imatrix=weighed), qw.dequantize())


@pytest.mark.parametrize("element", ["e2m1", "int4", "e1m2"])
def test_search_over_powers_of_two(element):
    w = _blocks(32)
    first = oracle_scales.power(_top(w), element, "floor")
    tried = np.stack([first * 2.0**k for k in (0, -1, 1)])
    losses = np.stack([oracle_scales.errors(w, step, element) for step in tried])
    zero = ~w.any(axis=-1)
    losses[1:, zero] = np.inf  # the smallest scale has no neighbour below
    qw = qs.parse(f"{element}:block32:search1:e8m0").quantize(w)
    _check_choice(qw.scale, tried, np.where(zero, 0.0, losses))


@pytest.mark.parametrize("scale", ["e4m3+f32", "ue4m3", "f16", "ue5m3+f32", "f32"])
def test_four_over_six_is_the_better_of_two(scale):
    w, name = _blocks(16), scale.removesuffix("+f32")
    tensor = None
    if name != scale:  # the largest power of two that can grow by 3 / 2
        tensor = oracle_scales.tensor_of(_top(w), "e2m1", {"e4m3": 256.0, "ue5m3": 65536.0}[name])
    if name == "f32":
        tried = np.stack([_top(w) / np.float32(6), _top(w) / np.float32(4)])
    else:
        tried = np.stack([oracle_scales.stored(_top(w), "e2m1", name, tensor, on) for on in (6.0, 4.0)])
    steps = np.float32(tried) * (np.float32(1) if tensor is None else tensor)
    losses = np.stack([oracle_scales.errors(w, step, "e2m1") for step in steps])
    qw = qs.parse(f"e2m1:block16:fouroversix:{scale}").quantize(w)
    _check_choice(qw.scale, tried, losses)
    assert 0.2 < np.mean(np.ravel(qw.scale) == np.float32(tried[1, :, 0])) < 0.8


def test_of_equal_errors_six_is_taken():
    """Levels of both: 6 and 3 are levels of the scale 1, 4 and 2 of the scale 3 / 2."""
    assert qs.parse("e2m1:block4:fouroversix:e4m3").quantize([[6.0, 3.0, 0.0, 0.0]]).scale.item() == 1
    assert qs.parse("e2m1:block4:fouroversix:e4m3").quantize([[6.0, 4.5, 0.0, 0.0]]).scale.item() == 1.5


@pytest.mark.parametrize(("spec", "message"), [("int4:block4:mse", "takes no imatrix"), ("nvfp4", "imatrix")])
def test_an_imatrix_is_for_rules_that_choose(spec, message):
    with pytest.raises((ValueError, TypeError), match=message):
        qs.parse(spec).quantize(np.ones((2, 4), np.float32), imatrix=np.ones(4, np.float32))


# --- one thing under two names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [*map(str, MICROSCALING), "mxfp4:block16", "mxint8:block8:ceil", "nvfp4:block32:single"]
)
def test_a_name_equals_its_generic_spelling(name):
    q = qs.parse(name)
    generic, w = qs.parse(str(q.scaled)), oracle_mx.blocks(32)
    assert generic == q.scaled
    oracles.same_bits(generic.roundtrip(w), q.roundtrip(w))
    oracles.same_bits(generic.quantize(w).dequantize(), q.quantize(w).dequantize())
    np.testing.assert_array_equal(generic.quantize(w).codes, q.quantize(w).codes)
    assert generic.bits_per_weight((64, 64)) == q.bits_per_weight((64, 64))
    assert generic.scheme((64, 64)) == q.scheme((64, 64))


def test_an_unsigned_scale_saves_a_bit_and_nothing_else():
    w = oracle_mx.blocks(16)
    signed, unsigned = (qs.parse(f"e2m1:block16:absmax:{scale}+f32") for scale in ("e4m3", "ue4m3"))
    oracles.same_bits(signed.roundtrip(w), unsigned.roundtrip(w))
    saved = signed.bits_per_weight((64, 64)) - unsigned.bits_per_weight((64, 64))
    assert saved == 1 / 16


def test_e1m2_is_int4_halved():
    w = oracle_mx.blocks(16)[:-1]
    for scale in ("f32", "e8m0", "bf16"):
        ours, integers = (np.asarray(qs.parse(f"{e}:block16:absmax:{scale}").roundtrip(w)) for e in ("e1m2", "int4"))
        np.testing.assert_array_equal(ours[:24], integers[:24])


def test_gguf_differs_where_it_says():
    """Ties go toward zero in GGUF, and there is no -0; on normal weights nothing of it shows."""
    w = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)
    for spec in ("mxfp4", "nvfp4"):
        ours = spec if spec == "mxfp4" else "nvfp4:single"
        np.testing.assert_array_equal(*(qs.parse(name).roundtrip(w) for name in (f"{spec}:gguf", ours)))
    tie = np.float32([[6.0, 0.25, -0.25, 2.5] * 16])
    assert np.asarray(qs.parse("mxfp4:gguf").roundtrip(tie)).ravel()[:4].tolist() == [6.0, 0.0, 0.0, 2.0]
    assert np.asarray(qs.parse("mxfp4").roundtrip(tie)).ravel()[3] == 2.0
    tie = np.float32([[6.0, 0.75, -1.75, 5.0] * 16])
    assert np.asarray(qs.parse("mxfp4:gguf").roundtrip(tie)).ravel()[:4].tolist() == [6.0, 0.5, -1.5, 4.0]
    assert np.asarray(qs.parse("mxfp4").roundtrip(tie)).ravel()[:4].tolist() == [6.0, 1.0, -2.0, 4.0]


def test_what_differs_in_numbers_is_one_program():
    same = [
        [f"{e}:block16:absmax:e8m0{rule}" for e in ("int4", "int8") for rule in ("", ":ceil")],
        [f"{e}:block16:absmax:{s}+f32" for e in ("e2m1", "e1m2", "e3m0") for s in ("e4m3", "ue4m3", "ue5m3", "f16")],
        [f"{e}:block16:search:{s}" for e in ("e2m1", "e1m2") for s in ("e4m3", "ue5m3")],
    ]
    structures = [{split_quantizer(qs.parse(text))[0] for text in texts} for texts in same]
    assert [len(found) for found in structures] == [1, 1, 1]


@pytest.mark.parametrize(
    "spec", ["int4:block16:absmax:ue4m3+f32", "e2m1:block16:search:e4m3", "e1m2:block16:absmax:e8m0"]
)
def test_one_bit_pattern(spec):
    q, w = qs.parse(spec), _blocks(32)
    expected = q.roundtrip(w)
    with jax.disable_jit():
        oracles.same_bits(q.roundtrip(w[:8]), qs.parse(spec).roundtrip(w[:8]))
    oracles.same_bits(jax.jit(q.roundtrip)(w), expected)
    batch = np.stack([w, w[::-1]])
    oracles.same_bits(jax.vmap(q.roundtrip)(jnp.asarray(batch))[0], expected)
    assert qs.weight_error(w, q).mse == qs.error_stats(w, expected).mse
