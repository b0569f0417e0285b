"""One identity everywhere: a spec string reads back as what it prints, and an unknown one says what was meant."""

import re
import string
from contextlib import suppress
from inspect import unwrap
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quantsim as qs
from quantsim import calibration, formats
from quantsim.calibration import MSE, RMS, Absmax, Clip, FourOverSix, MinMax, Percentile, Search
from quantsim.formats import FORMATS, Codebook, Float, Integer, PowerOfTwo
from quantsim.granularity import Block, Channel, Tensor
from quantsim.quantizer import Quantizer
from quantsim.quantizer.blockformats import SPECS
from quantsim.rounding import ROUNDINGS

F = formats.parse

#: Spec strings and the quantizers they mean, written out.
MEANINGS = {
    "bf16": Quantizer(F("bf16")),
    "f16": Quantizer(F("f16")),
    "e4m3": Quantizer(F("e4m3")),
    "e5m2": Quantizer(F("e5m2")),
    "e3m3": Quantizer(Float("e3m3", 3, 3)),
    "bf16:stochastic": Quantizer(F("bf16"), rounding="stochastic"),
    "int8:tensor": Quantizer(Integer("int8", 8), Tensor()),
    "int8:channel": Quantizer(Integer("int8", 8), Channel(0)),
    "int8:channel@1": Quantizer(Integer("int8", 8), Channel(1)),
    "int8:channel@-1": Quantizer(Integer("int8", 8), Channel(-1)),
    "int4:block32": Quantizer(Integer("int4", 4), Block(32)),
    "int4:block32@0": Quantizer(Integer("int4", 4), Block(32, 0)),
    "nf4:block64@1-": Quantizer(F("nf4"), Block(64, 1, onward=True)),
    "nf4:block64@0-": Quantizer(F("nf4"), Block(64, 0, onward=True)),
    "int8:block32@-3-": Quantizer(Integer("int8", 8), Block(32, -3, onward=True)),
    "int16:tensor": Quantizer(Integer("int16", 16), Tensor()),
    "uint4:block32": Quantizer(Integer("uint4", 4, signed=False), Block(32)),
    "e4m3fnuz": Quantizer(Float("e4m3fnuz", 4, 3, "fnuz")),
    "int8:block32:absmax:e5m2fnuz": Quantizer(Integer("int8", 8), Block(32), Absmax(), Float("e5m2fnuz", 5, 2, "fnuz")),
    "int8:channel:minmax": Quantizer(Integer("int8", 8), Channel(), MinMax()),
    "int8:tensor:p99.9": Quantizer(Integer("int8", 8), Tensor(), Percentile(99.9)),
    "int8:tensor:p0.00001": Quantizer(Integer("int8", 8), Tensor(), Percentile(1e-5)),
    "int4:block128:mse": Quantizer(Integer("int4", 4), Block(128), MSE()),
    "int4:tensor:rms": Quantizer(Integer("int4", 4), Tensor(), RMS()),
    "int4:block32:absmax:f16": Quantizer(Integer("int4", 4), Block(32), Absmax(), F("f16")),
    "int4:block32:mse:e5m3": Quantizer(Integer("int4", 4), Block(32), MSE(), F("e5m3")),
    "int8:tensor:absmax:half": Quantizer(Integer("int8", 8, "half"), Tensor()),
    "int4:block32:absmax:f16:signed": Quantizer(Integer("int4", 4, "signed"), Block(32), Absmax(), F("f16")),
    "int8:tensor:absmax:away": Quantizer(Integer("int8", 8), Tensor(), rounding="away"),
    "int3:channel:mse:bf16:full:truncate": Quantizer(
        Integer("int3", 3, "full"), Channel(), MSE(), F("bf16"), rounding="truncate"
    ),
    "int4:block32:absmax:e8m0": Quantizer(Integer("int4", 4), Block(32), scale_format=PowerOfTwo()),
    "int4:block32:absmax:e8m0:even": Quantizer(Integer("int4", 4), Block(32), scale_format=PowerOfTwo("even")),
    "int4:channel:clip0.5:e8m0:rceil:away": Quantizer(
        Integer("int4", 4), Channel(), Clip(0.5), PowerOfTwo("rceil"), "away"
    ),
    "int4:block16:absmax:ue4m3": Quantizer(
        Integer("int4", 4), Block(16), Absmax(), Float("ue4m3", 4, 3, "fn", signed=False)
    ),
    "e2m1:block16:absmax:e4m3+f32": Quantizer(F("e2m1"), Block(16), Absmax(), F("e4m3"), two_level=True),
    "e1m2:block8@0:search:ue5m3+f32": Quantizer(
        Float("e1m2", 1, 2), Block(8, 0), Search(), Float("ue5m3", 5, 3, "fn", signed=False), two_level=True
    ),
    "e2m1:block16:fouroversix:e4m3+f32:truncate": Quantizer(
        F("e2m1"), Block(16), FourOverSix(), F("e4m3"), "truncate", two_level=True
    ),
    "int8:block32:search2:f16": Quantizer(Integer("int8", 8), Block(32), Search(2), F("f16")),
    "e4m3:tensor": Quantizer(F("e4m3"), Tensor()),
    "e2m1:block16": Quantizer(F("e2m1"), Block(16)),
    "nf4:block64": Quantizer(F("nf4"), Block(64)),
    "af4:block64": Quantizer(F("af4"), Block(64)),
    "fp4:block64": Quantizer(F("fp4"), Block(64)),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_meaning_and_spelling(text):
    assert qs.parse(text) == MEANINGS[text]
    assert str(qs.parse(text)) == text
    assert repr(qs.parse(text)) == f"Quantizer('{text}')"


def test_every_format_reads_back():
    for name, f in FORMATS.items():
        texts = [name] * isinstance(f, Float) + [f"{name}:block32"] * (getattr(f, "exponent_bits", 0) != 8)
        assert texts
        for text in texts:
            assert str(qs.parse(text)) == text
            assert qs.parse(text).format is f


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("int4:block32:absmax", "int4:block32"),
        ("int4:block32:absmax:f32", "int4:block32"),
        ("int4:f16:block32", "int4:block32:absmax:f16"),
        ("int4:away:mse:f16:block32", "int4:block32:mse:f16:away"),
        ("int8:channel@0", "int8:channel"),
        ("int8:block32@-1", "int8:block32"),
        ("int8:block32@-1-", "int8:block32"),
        ("int8:tensor:p99.90", "int8:tensor:p99.9"),
        ("int8:tensor:narrow:even", "int8:tensor"),
        (" int8:tensor\n", "int8:tensor"),
        ("int8:block032", "int8:block32"),
        ("int4:e8m0:floor:block32", "int4:block32:absmax:e8m0"),
        ("int4:block32:ue8m0:ceil", "int4:block32:absmax:e8m0:ceil"),
        ("int4:block32:e8m0:even:even", "int4:block32:absmax:e8m0:even"),
        ("int4:block32:even:e8m0", "int4:block32:absmax:e8m0"),
        ("int4:block16:e4m3+f32:search4", "int4:block16:search:e4m3+f32"),
        ("mxfp4:block32:floor", "mxfp4"),
        ("mxint4:block016:ceil", "mxint4:block16:ceil"),
        ("nvint4:block32:single", "nvint4:block32:single"),
    ],
)
def test_one_spelling_for_one_quantizer(text, canonical):
    assert str(qs.parse(text)) == canonical
    assert qs.parse(text) == qs.parse(canonical)


@pytest.mark.parametrize("text", ["int8:block32", "bf16", "q4_k", "mxfp4:ceil", "nvfp4"])
def test_a_quantizer_is_given_back_as_it_is(text):
    q = qs.parse(text)
    assert qs.parse(q) is q


@pytest.mark.parametrize("wrong", [8, None, b"int8:block32", FORMATS["int8"], Block(32), Quantizer])
def test_what_is_neither_spec_nor_quantizer(wrong):
    with pytest.raises(TypeError, match="a quantizer or its spec is wanted, for example 'int8:block32', not "):
        unwrap(qs.parse)(wrong)  # past the type checker of the tests


# --- every valid quantizer reads back -------------------------------------------------------------------------------

_axes = st.integers(-4, 4)
_scalings = st.sampled_from([f for f in FORMATS.values() if isinstance(f, Float)]) | st.builds(
    lambda e, m: formats.parse(f"e{e}m{m}"), st.integers(2, 7), st.integers(0, 22)
)
_formats = (
    st.sampled_from([f for f in FORMATS.values() if isinstance(f, Codebook)])
    | _scalings
    | st.builds(
        lambda b, bounds: Integer(f"int{b}", b, bounds), st.integers(2, 16), st.sampled_from(get_args(formats.Bounds))
    )
    | st.builds(lambda b: formats.parse(f"uint{b}"), st.integers(2, 16))
)
_granularities = (
    st.none()
    | st.just(Tensor())
    | st.builds(Channel, _axes)
    | st.builds(Block, st.integers(1, 10**6), _axes, st.booleans())
)
_percentiles = st.builds(Percentile, st.floats(0, 100, exclude_min=True, allow_subnormal=False))
_clips = st.builds(Clip, st.floats(0, 1, exclude_min=True, allow_subnormal=False))
_searches = st.builds(Search, st.integers(1, 32))
_calibrations = st.sampled_from([Absmax(), MinMax(), MSE(), RMS(), FourOverSix()]) | _percentiles | _clips | _searches
_unsigned = st.builds(lambda e, m: formats.parse_scale(f"ue{e}m{m}"), st.integers(2, 7), st.integers(1, 22))
_stored = _scalings | st.sampled_from([PowerOfTwo(rule) for rule in formats.RULES]) | _unsigned


def test_the_strategy_knows_every_rule():
    named = {Absmax, MinMax, MSE, RMS, Percentile, Clip, FourOverSix, Search}
    assert named == set(get_args(calibration.Calibration))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(_formats, _granularities, _calibrations, _stored, st.sampled_from(ROUNDINGS), st.booleans())
def test_random_quantizers_read_back(fmt, granularity, rule, scale_format, rounding, two_level):
    if granularity is None:
        rule, scale_format, two_level = Absmax(), F("f32"), False
    try:
        q = Quantizer(fmt, granularity, rule, scale_format, rounding, two_level)
    except ValueError:
        return  # the combination does not exist
    assert qs.parse(str(q)) == q
    assert hash(qs.parse(str(q))) == hash(q)
    assert str(qs.parse(str(q))) == str(q)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(string.ascii_lowercase + string.digits + ":@.-", max_size=20) | st.text(max_size=12))
def test_any_text_is_a_quantizer_or_a_value_error(text):
    with suppress(ValueError):
        assert qs.parse(str(qs.parse(text))) == qs.parse(text)


# --- what is no spec ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named", "meant"),
    [
        ("int8:blok32", "token 'blok32'", "int8:block32"),
        ("int8:blcok64", "token 'blcok64'", "int8:block64"),
        ("int8:chanel", "token 'chanel'", "int8:channel"),
        ("int4:block32:msee", "token 'msee'", "int4:block32:mse"),
        ("int17:blok32:f61", "token 'blok32'", "int7:block32:f16"),
        ("int4:block32:absmax:fp16", "token 'fp16'", "int4:block32:absmax:f16"),
        ("int8:tensr", "token 'tensr'", "int8:tensor"),
        ("int8:tensor:qqqq", "token 'qqqq'", "int8:tensor"),
        ("int8:block-3", "token 'block-3'", "int8:block3"),
        ("bf17", "format 'bf17'", "bf16"),
        ("int17:tensor", "format 'int17'", "int7:tensor"),
        ("nf5", "format 'nf5'", "nf4:block32"),
        ("uint17", "format 'uint17'", "uint7:block32"),
        ("int8:channel:minimax", "token 'minimax'", "int8:channel:minmax"),
        ("int8:tensor:stocastic", "token 'stocastic'", "int8:tensor:stochastic"),
        ("q4_k_m", "format 'q4_k_m'", "q4_k"),
        ("q4k", "format 'q4k'", "q4_k"),
        ("nvpf4", "format 'nvpf4'", "nvfp4"),
        ("mxfp8", "format 'mxfp8'", "mxfp8_e4m3"),
        ("float8_e4m3fn", "format 'float8_e4m3fn'", "e4m3"),
        ("float8_e5m2fnuz:channel", "format 'float8_e5m2fnuz'", "e5m2fnuz:channel"),
        ("float4_e2m1fn:block32", "format 'float4_e2m1fn'", "e2m1:block32"),
        ("bfloat16", "format 'bfloat16'", "bf16"),
        ("float16", "format 'float16'", "f16"),
        ("int4:block16:absmax:u4m3+f32", "token 'u4m3+f32'", "int4:block16:absmax:ue4m3+f32"),
        ("int4:block16:serach:e4m3", "token 'serach'", "int4:block16:search:e4m3"),
        ("e2m1:block16:fouroversx:e4m3", "token 'fouroversx'", "e2m1:block16:fouroversix:e4m3"),
        ("e2m1:block16:4over6:e4m3", "token '4over6'", "e2m1:block16:fouroversix:e4m3"),
        ("int4:block16:absmax:e4m3:two", "token 'two'", "int4:block16:absmax:e4m3"),
    ],
)
def test_unknown_parts_say_what_was_meant(text, named, meant):
    with pytest.raises(
        ValueError,
        match=f"^unknown {re.escape(named)} in spec '{re.escape(text)}'; did you mean '{re.escape(meant)}'\\? ",
    ) as caught:
        qs.parse(text)
    assert qs.parse(meant)
    assert len(str(caught.value)) < 240
    assert str(caught.value).endswith(" help(quantsim.parse) lists all")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("e0m3", "without an exponent it is an integer, say int4"),
        ("e4m33:tensor", "an ExMy has 0 to 22 mantissa bits, as everything is computed in float32"),
        ("int8:block32:e9m2", "an ExMy has 1 to 8 exponent bits, as everything is computed in float32"),
        ("int8:block32:ue9m2", "an ExMy has 1 to 8 exponent bits, as everything is computed in float32"),
        ("int8:block32:ue1m1", "an unsigned float needs 3 bits at least, as one code is NaN"),
        ("e8m0", "powers of two are scales, not elements: mxfp4, or any element as in int4:block32:absmax:e8m0"),
        ("ue4m3:block32", "it has no sign and is a format of scales: int4:block32:absmax:ue4m3"),
        ("int4:block32:ceil", "the rule of a power-of-two scale follows its e8m0"),
        ("int4:block32:e4m3+f16", "the scale of the tensor is a float32"),
    ],
)
def test_floats_that_are_none_say_why(text, reason):
    with pytest.raises(
        ValueError, match=f"^unknown (format|token) '.*' in spec '{re.escape(text)}' \\({re.escape(reason)}\\)"
    ):
        qs.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q4_k:tensor", "q4_k takes no options; did you mean 'q4_k'?"),
        (
            "mxfp4:flor",
            "mxfp4 takes a block such as block16, and ceil, even, rceil, gguf, floor; did you mean 'mxfp4:floor'?",
        ),
        ("nvfp4:signle", "nvfp4 takes a block such as block16, and single, gguf; did you mean 'nvfp4:single'?"),
    ],
)
def test_options_that_a_block_format_does_not_take(text, message):
    with pytest.raises(ValueError, match=f"^spec '{text}': {re.escape(message)}$"):
        qs.parse(text)


@pytest.mark.parametrize("text", ["", ":", "zzz", "@", "?:?"])
def test_what_resembles_nothing_says_where_all_is_listed(text):
    with pytest.raises(
        ValueError, match=r"^unknown (token|format) '.*' in spec '.*'\. help\(quantsim.parse\) lists all$"
    ):
        qs.parse(text)


def test_every_name_is_in_the_help():
    helped = set(re.findall(r"[\w@-]+", unwrap(qs.parse).__doc__))
    names = {name for name in FORMATS if not re.fullmatch(r"u?int\d+", name)} | {s.partition(":")[0] for s in SPECS}
    assert helped >= names | {
        *ROUNDINGS,
        *get_args(formats.Bounds),
        "absmax",
        "minmax",
        "mse",
        "rms",
        "tensor",
        "channel",
    }


@pytest.mark.parametrize("text", ["Q4_K", "E4M3", "INT8:Block32:MSE", "MXFP4:Ceil", "IQ4_NL", " BF16\n"])
def test_case_does_not_matter(text):
    assert qs.parse(text) == qs.parse(text.lower())
    assert str(qs.parse(text)) == text.strip().lower()


@pytest.mark.parametrize(
    ("text", "slot", "second"),
    [
        ("int8:tensor:channel", "granularity", "channel"),
        ("int8:block32:block32", "granularity", "block32"),
        ("int8:tensor:mse:p99", "calibration", "p99"),
        ("int8:tensor:f16:bf16", "scale format", "bf16"),
        ("int8:tensor:half:full", "bounds", "full"),
        ("int8:tensor:even:away", "rounding", "away"),
    ],
)
def test_repeated_tokens(text, slot, second):
    with pytest.raises(ValueError, match=f"^spec '{text}' gives its {slot} twice: the second is '{second}'"):
        qs.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int8", "int8 needs a granularity, for example int8:block32"),
        ("nf4", "nf4 needs a granularity, for example nf4:block32"),
        ("e4m3:mse", "e4m3 needs a granularity, for example e4m3:block32"),
        ("bf16:tensor", "bf16 has the range of float32 and takes no scale: say it alone"),
        ("f32:block32", "f32 has the range of float32 and takes no scale: say it alone"),
        ("nf4:block64:minmax", "minmax needs an integer format with its default bounds, not nf4"),
        (
            "uint4:block64:minmax",
            "minmax finds a zero point by itself: say int4, whose codes are then 0 … 15, not uint4",
        ),
        ("uint4:tensor:half", "bounds 'half' go with signed integers, not with uint4"),
        ("int8:tensor:minmax:half", "minmax needs an integer format with its default bounds, not int8"),
        ("nf4:block64:away", "codebook nf4 rounds to the nearest level only, not 'away'"),
        ("e4m3:tensor:half", "bounds 'half' go with integer formats, not with e4m3"),
        (
            "int8:tensor:mse:signed",
            "signed bounds take their scale from the extreme weight: only absmax goes with them",
        ),
        ("int8:block0", r"a block needs at least 1 weight, got size 0; for example Block\(32\)"),
        ("int8:tensor:p0", "a percentile lies above 0 and at most at 100, got 0; for example p99.9"),
        ("int8:tensor:p100.5", "a percentile lies above 0 and at most at 100, got 100.5; for example p99.9"),
    ],
)
def test_combinations_that_do_not_exist_say_what_does(text, message):
    with pytest.raises(ValueError, match=message):
        qs.parse(text)


def test_unknown_rounding_of_a_quantizer():
    with pytest.raises(ValueError, match="unknown rounding 'up'; known are even, away, truncate, stochastic"):
        Quantizer.__post_init__(_with_rounding("up"))


def _with_rounding(name: str) -> Quantizer:
    """A quantizer that the type checker of the tests would not let through."""
    q = qs.parse("int8:tensor")
    object.__setattr__(q, "rounding", name)
    return q


def test_spec_is_what_quantizes():
    w = np.linspace(-1, 1, 40, dtype=np.float32)
    a, b = qs.parse("int4:f16:block32").quantize(w), qs.parse("int4:block32:absmax:f16").quantize(w)
    np.testing.assert_array_equal(a.codes, b.codes)
    assert a.quantizer == b.quantizer
