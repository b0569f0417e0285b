"""The table of bad and odd input: a defined result, or an error that names what is wrong and what to do."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import quantsim as qs
from quantsim import cli

SPECS = ("bf16", "int8:tensor", "int4:channel:minmax", "int4:block32:mse", "nf4:block8", "e4m3:block16:p99")
SHAPE = (4, 64)
TINY = np.float32(2**-140)  # a float32 subnormal


@pytest.fixture(params=SPECS)
def q(request):
    return qs.parse(request.param)


# --- not finite -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_what_is_not_finite_is_named_with_its_place(q, bad):
    w = np.ones((3, 4), np.float32)
    w[1, 2] = w[2, 3] = bad
    for use in (q.quantize, q.roundtrip, q.clipped):
        with pytest.raises(ValueError, match=rf"2 of 12 weights are not finite .*first is {bad} at index \(1, 2\)"):
            use(w)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_spoils_its_block_only_where_wanted(bad):
    w = np.ones((2, 64), np.float32)
    w[0, 3] = bad
    after = np.asarray(qs.parse("int8:block32").roundtrip(w, nonfinite="propagate"))
    assert np.isnan(after[0, :32]).all()
    assert (after[0, 32:] == 1).all()
    assert (after[1] == 1).all()


def test_how_to_treat_it_is_one_of_two():
    with pytest.raises(ValueError, match="'raise' or 'propagate', not 'ignore'"):
        qs.parse("int8:tensor").quantize([1.0], nonfinite="ignore")


# --- little or nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, ()], ids=str)
def test_all_zeros_stay_zeros(q, shape):
    w = np.zeros(shape, np.float32)
    qw = q.quantize(w)
    assert not np.asarray(qw.dequantize()).any()
    assert qw.scale is None or not np.asarray(qw.scale).any()
    stats = qs.error_stats(w, q.roundtrip(w))
    assert (stats.mse, stats.max_abs, stats.zeroed) == (0.0, 0.0, 0.0)
    assert np.isnan(stats.rel_rms)


def test_a_block_of_zeros_has_scale_0_and_codes_0():
    w = np.concatenate([np.zeros(32), np.ones(32)]).astype(np.float32)
    qw = qs.parse("int8:block32").quantize(w)
    assert np.asarray(qw.scale).tolist() == [0.0, np.float32(1) / np.float32(127)]
    assert np.asarray(qw.codes).tolist() == [0] * 32 + [127] * 32


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)], ids=str)
@pytest.mark.parametrize("spec", ["int8:tensor", "int4:channel:minmax", "nf4:block8"])
def test_nothing_stays_nothing(spec, shape):
    w, q = np.zeros(shape, np.float32), qs.parse(spec)
    assert q.roundtrip(w).shape == q.quantize(w).dequantize().shape == shape
    assert qs.error_stats(w, w).count == 0
    assert np.isnan(qs.error_stats(w, w).mse)


@pytest.mark.parametrize("spec", ["int8:tensor", "int8:channel", "int8:block32", "int8:tensor:absmax:f16"])
def test_a_single_weight_keeps_its_value_to_a_rounding(spec):
    """It is the extreme of its block: code 127, and 127 times a 127th."""
    q = qs.parse(spec)
    for w in (np.float32(-0.3), np.array([-0.3], np.float32), np.array([[-0.3]], np.float32)):
        after = float(np.asarray(q.roundtrip(w)).item())
        assert after == pytest.approx(-0.3, rel=2**-10 if "f16" in spec else 2**-22)


def test_a_ragged_tail_is_a_block_of_its_own():
    w = np.concatenate([np.full(32, 100.0), np.full(5, 0.5)]).astype(np.float32)
    q = qs.parse("int8:block32")
    qw = q.quantize(w)
    assert qw.codes.shape == (37,)
    assert np.asarray(qw.codes).tolist() == [127] * 37
    assert np.asarray(qw.scale).tolist() == [np.float32(100) / np.float32(127), np.float32(0.5) / np.float32(127)]
    assert q.bits_per_weight((37,)) == (8 * 37 + 2 * 32) / 37


def test_subnormals_give_finite_weights_no_larger_than_the_largest(q):
    """XLA flushes float32 subnormals to zero in arithmetic: zero is allowed, NaN or growth is not."""
    w = np.tile(np.array([TINY, -TINY, 3 * TINY, 0.0], np.float32), (4, 16))
    after = np.asarray(q.roundtrip(w))
    assert np.isfinite(after).all()
    assert np.abs(after).max() <= 3 * TINY * 1.1
    beside = np.asarray(q.roundtrip(np.tile(np.array([1.0, TINY], np.float32), (4, 32))))
    assert np.isfinite(beside).all()
    assert (np.abs(beside[:, ::2] - 1) < 0.1).all()


# --- other types ----------------------------------------------------------------------------------------------------


VALUES = np.random.default_rng(0).integers(0, 100, SHAPE)  # every type below holds them
AS = {np.dtype(t).name: lambda v, t=t: v.astype(t) for t in ("f8", "f2", ml_dtypes.bfloat16, "i1", "i4", "i8", "u2")}
AS |= {
    "list": np.ndarray.tolist,
    "jax bfloat16": lambda v: jnp.array(v, jnp.bfloat16),
    "big endian": lambda v: v.astype(">f4"),
}


@pytest.mark.parametrize("kind", AS)
def test_other_types_are_float32(q, kind):
    after, same = q.roundtrip(AS[kind](VALUES)), q.roundtrip(VALUES.astype(np.float32))
    assert after.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(after), np.asarray(same))


def test_float64_beyond_float32_is_not_finite():
    with pytest.raises(ValueError, match=r"first is 1e\+39 at index \(1,\)"):
        qs.parse("int8:tensor").quantize(np.array([1.0, 1e39]))


@pytest.mark.parametrize("bad", ["1", 1j, True, None], ids=str)
def test_what_is_no_number_is_an_error(bad):
    with pytest.raises(TypeError, match="weights must be real numbers, not"):
        qs.parse("int8:tensor").quantize(np.array([bad]))


def test_errors_of_arrays_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) cannot be compared with .* \(3, 2\)"):
        qs.error_stats(np.ones((2, 3)), np.ones((3, 2)))


# --- what a person types --------------------------------------------------------------------------------------------

TYPED = {
    "int8:blok32": "did you mean 'int8:block32'",
    "int8:chanel": "did you mean 'int8:channel'",
    "int4:block0": "a block needs at least 1 weight",
    "int8": "needs a granularity, for example int8:block32",
    "int8:tensor:p0": "a percentile lies above 0",
    "int8:tensor:p101": "a percentile lies above 0",
    "nf4:tensor:minmax": "minmax needs an integer format",
    "int8:tensor:channel": "twice",
    "bf16:tensor:signed": "go with integer formats",
    "": "unknown format ''",
    "int8::tensor": "unknown token ''",
}


@pytest.mark.parametrize("spec", TYPED)
def test_a_spec_that_is_none_says_what_was_meant(spec, capsys):
    with pytest.raises(ValueError, match=TYPED[spec]):
        qs.parse(spec)
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["compare", spec, "--shape", "4", "4"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert TYPED[spec] in shown.err


@pytest.mark.parametrize("axis", ["int8:channel@2", "int8:block4@-3"])
def test_an_axis_that_does_not_exist_is_named(axis):
    with pytest.raises(ValueError, match=r"axis -?\d does not exist in an array of shape \(4, 4\)"):
        qs.parse(axis).quantize(np.ones((4, 4)))
