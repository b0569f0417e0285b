"""Facts of the formats: against the types of ml_dtypes, the definition of a small float and the published codebooks."""

from typing import get_args

import ml_dtypes
import numpy as np
import pytest
from scipy import integrate, stats

from quantsim import formats
from tests import oracles

SMALL = ["e5m2", "e5m2fnuz", "e4m3", "e4m3fnuz", "e3m4", "e3m2", "e2m3", "e2m1"]
GENERIC = ["e2m0", "e3m0", "e5m0", "e2m9", "e3m3", "e4m4", "e2m5", "e5m6", "e6m9", "e7m8", "e8m3"]


def _all_codes(name: str) -> np.ndarray:
    """Values of all codes as the type of ml_dtypes decodes them, in order."""
    dtype = np.dtype(oracles.TYPES[name])
    bits = formats.parse(name).bits
    with np.errstate(invalid="ignore"):
        return np.arange(2**bits).astype(f"u{dtype.itemsize}").view(dtype).astype(np.float64)


@pytest.mark.parametrize("name", [*SMALL, "bf16", "f16"])
def test_levels_are_what_the_type_decodes(name):
    values = _all_codes(name)
    np.testing.assert_array_equal(formats.levels(formats.parse(name)), np.unique(values[np.isfinite(values)]))


@pytest.mark.parametrize("name", [*GENERIC, *SMALL])
def test_levels_by_definition(name):
    f = formats.parse(name)
    positive = oracles.float_codes(f.exponent_bits, f.mantissa_bits, f.specials)
    positive = positive[np.isfinite(positive)]
    np.testing.assert_array_equal(formats.levels(f), np.concatenate([-positive[:0:-1], positive]))
    assert f.bits == 1 + f.exponent_bits + f.mantissa_bits


@pytest.mark.parametrize("name", SMALL)
def test_largest_and_width_are_those_of_the_type(name):
    f, info = formats.parse(name), ml_dtypes.finfo(oracles.TYPES[name])
    assert (formats.largest(f), f.bits, f.mantissa_bits) == (float(info.max), info.bits, info.nmant)
    assert np.min(np.abs(formats.levels(f)[formats.levels(f) != 0])) == float(info.smallest_subnormal)


@pytest.mark.parametrize("name", ["f32", "tf32", "bf16", "f16"])
def test_wide_floats(name):
    f = formats.parse(name)
    by_hand = {"f32": np.finfo(np.float32).max, "tf32": (2 - 2.0**-10) * 2.0**127, "f16": 65504.0}
    assert formats.largest(f) == float(by_hand.get(name, ml_dtypes.finfo(ml_dtypes.bfloat16).max))
    assert f.bits == {"f32": 32, "tf32": 19, "bf16": 16, "f16": 16}[name]


@pytest.mark.parametrize("bits", range(2, 17))
def test_integers_and_their_bounds(bits):
    half = 2 ** (bits - 1)
    expected = {
        "narrow": (1 - half, half - 1),
        "half": (-half, half - 0.5),
        "full": (-half, half),
        "signed": (-half, half),
    }
    assert set(expected) == set(get_args(formats.Bounds))
    for bounds, (low, reach) in expected.items():
        f = formats.Integer(f"int{bits}", bits, bounds)
        np.testing.assert_array_equal(formats.levels(f), np.arange(low, half))
        assert (formats.reach(f), formats.largest(f)) == (reach, -low)


@pytest.mark.parametrize("bits", range(1, 17))
def test_unsigned_integers(bits):
    f = formats.Integer(f"uint{bits}", bits, signed=False)
    np.testing.assert_array_equal(formats.levels(f), np.arange(2**bits))
    assert formats.reach(f) == formats.largest(f) == 2**bits - 1
    assert formats.FORMATS.get(f.name, f) == f


@pytest.mark.parametrize(("bits", "signed"), [(1, True), (17, True), (0, False), (17, False)])
def test_widths_that_are_none(bits, signed):
    with pytest.raises(ValueError, match=rf"integer has {1 + signed} to 16 bits, not {bits}"):
        formats.Integer("int", bits, signed=signed)


@pytest.mark.parametrize("bounds", ["half", "full", "signed"])
def test_bounds_of_an_unsigned_integer(bounds):
    with pytest.raises(ValueError, match=f"bounds '{bounds}' go with signed integers, not with uint4"):
        formats.Integer("uint4", 4, bounds, signed=False)


@pytest.mark.parametrize("name", [n for n in formats.FORMATS if not n.startswith("int")])
def test_absmax_falls_on_the_last_level(name):
    f = formats.parse(name)
    assert formats.reach(f) == formats.largest(f)


@pytest.mark.parametrize("name", [*SMALL, *GENERIC[:-2], "f16", "bf16", "int2", "int16", "uint4", "nf4"])
def test_ends_are_the_last_levels(name):
    v = formats.levels(formats.parse(name))
    np.testing.assert_array_equal(formats.ends(formats.parse(name)), v[[0, 1, -2, -1]])


@pytest.mark.parametrize("name", ["f32", "tf32"])
def test_ends_of_formats_too_large_to_list(name):
    f = formats.parse(name)
    gap = 2.0 ** (127 - f.mantissa_bits)
    top = formats.largest(f)
    np.testing.assert_array_equal(formats.ends(f), [-top, gap - top, top - gap, top])
    with pytest.raises(ValueError, match="too many levels"):
        formats.levels(f)


def test_nf4_is_the_normal_float():
    np.testing.assert_allclose(formats.levels(formats.parse("nf4")), oracles.normal_float(), rtol=0, atol=1e-6)


def _cdf_of_scaled_normals(block: int):
    """P(w / absmax <= x) of the weights of a normal block that are not its largest, by quadrature over the absmax."""
    m, step = np.linspace(0.02, 7, 4000, retstep=True)
    inside = 2 * stats.norm.cdf(m) - 1
    density = 2 * block * stats.norm.pdf(m) * inside ** (block - 1)

    def cdf(x: float) -> float:
        below = (stats.norm.cdf(x * m) - stats.norm.cdf(-m)) / inside
        return float(integrate.trapezoid(density * below, dx=step))

    return cdf


def test_af4_minimizes_the_absolute_error_of_normal_blocks_of_64():
    # an optimal level is the median of its cell (Yoshida 2023); -1 and 1 are given, and 0 parts the two sides
    v, cdf = formats.levels(formats.parse("af4")), _cdf_of_scaled_normals(64)
    middle = (v[1:] + v[:-1]) / 2
    middle[6:8] = 0
    for i in {*range(1, 15)} - {7}:
        median = (cdf(middle[i - 1]) + cdf(middle[i])) / 2
        density = (cdf(v[i] + 1e-4) - cdf(v[i] - 1e-4)) / 2e-4
        assert abs(cdf(v[i]) - median) / density < 1e-6, (i, v[i])


def test_fp4_is_the_code_of_bitsandbytes():
    positive = np.array([0.0, 0.005208333333, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0])
    v = formats.levels(formats.parse("fp4"))
    np.testing.assert_allclose(v, np.concatenate([-positive[:0:-1], positive]), rtol=1e-9)
    assert not np.signbit(v[7])


@pytest.mark.parametrize("name", ["nf4", "af4", "fp4"])
def test_codebooks_hold_zero_and_both_ends(name):
    v = formats.levels(formats.parse(name))
    assert v[0] == -1
    assert v[-1] == 1
    assert 0.0 in v
    assert (formats.parse(name).bits, formats.largest(formats.parse(name))) == (4, 1.0)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 16, 17, 256])
def test_width_of_a_codebook(count):
    book = formats.Codebook("book", tuple(np.linspace(-1, 1, count).tolist()))
    assert book.bits == int(np.ceil(np.log2(count)))


@pytest.mark.parametrize("values", [(1.0,), (1.0, 1.0), (2.0, 1.0), (0.0, np.inf), (0.0, np.nan), (0.0, 1e-50)])
def test_codebooks_that_cannot_be_searched(values):
    with pytest.raises(ValueError, match="codebook 'bad'"), np.errstate(all="ignore"):
        formats.Codebook("bad", values)


@pytest.mark.parametrize("name", ["int17", "int1", "uint1", "e04m3", "e4m03", "float", "", "E4M3", "e4m3 ", "e3m2fnuz"])
def test_names_that_are_no_format(name):
    with pytest.raises(KeyError, match=f"^'{name}'$"):
        formats.parse(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("e0m2", "without an exponent it is an integer, say int3"),
        ("e9m1", "1 to 8 exponent bits"),
        ("e0m3", "an integer, say int4"),
        ("e1m23", "0 to 22 mantissa bits"),
        ("e4m23", "0 to 22 mantissa bits"),
        ("e8m0", "powers of two are scales, not elements"),
    ],
)
def test_floats_that_are_none_say_why(name, reason):
    with pytest.raises(KeyError, match=f"{name}: .*{reason}"):
        formats.parse(name)


def test_one_exponent_bit_spaces_levels_evenly():
    positive = oracles.float_codes(1, 2, "finite")
    np.testing.assert_array_equal(positive / positive[1], formats.levels(formats.parse("int4"))[7:])
    assert len(positive) == 8


def test_the_top_exponent_is_what_infinities_cost():
    assert (formats.largest(formats.parse("e5m10")), formats.largest(formats.parse("f16"))) == (131008, 65504)


def test_formats_are_static():
    assert hash(formats.parse("e4m3")) == hash(formats.Float("e4m3", 4, 3, "fn"))
    assert all(formats.parse(name) is f and f.name == name for name, f in formats.FORMATS.items())
