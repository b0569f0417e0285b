"""GGUF to the byte: against the C reference of llama.cpp and against the ``gguf`` package; see oracle_gguf.py.

Compiling takes most of the time, so nearly all weights have the one shape of the reference's, (102, 512), and those
with importances the shape of the hard rows, (38, 512).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.quantizer.blockformats import chunks
from quantsim.quantizer.blockformats.gguf import TYPES
from tests import oracles
from tests.oracle_gguf import LATTICES, TOPS, dequantize, everything, expected, kinds, normal, quantize, reference

WEIGHED = [name for name, q in TYPES.items() if q.takes_imatrix]
QUICK = {"Q4_0", "Q4_1", "Q3_K", "Q6_K"}  # with an imatrix the others take as long as all the rest
by_type = pytest.mark.parametrize("name", TYPES)
#: The same, lattices among the slow tests but for one of each length.
by_quick_type = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in LATTICES and name not in ("IQ2_S", "IQ3_XXS") else name
        for name in TYPES
    ],
)


def pack(w, name, *, imatrix=None):
    """``gguf.pack``, with equal importances where there must be some."""
    ones = np.ones(np.shape(w)[-1], np.float32) if TYPES[name].needs_imatrix else None
    return qs.gguf.pack(w, name, imatrix=ones if imatrix is None else imatrix)


def some(names, quick):
    """All ``names``, those that are not ``quick`` among the slow tests."""
    rows = [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("name", rows)


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_the_reference_has_every_type():
    plain, weighed = TYPES.keys() - LATTICES.keys(), [f"{name}+imatrix" for name in WEIGHED if name not in LATTICES]
    assert set(reference("ggml")) == {"x", *plain}
    assert set(reference("ggml_hard")) == {"x", "imatrix", *plain, *weighed}
    assert set(reference("ggml_lattices")) == {*LATTICES, *(f"{name}+imatrix" for name in LATTICES)}
    assert len(TYPES) == 23
    assert everything().shape == (102, 512)


@by_type
def test_bytes_are_those_of_the_reference(name):
    np.testing.assert_array_equal(pack(everything(), name), expected(name), strict=True)


def test_mxfp4_takes_the_logarithm_of_float32():
    """Just below a power of two the float32 logarithm is rounded up to it, and the scale with it."""
    n, k = np.repeat(np.arange(-100, 100), 80), np.tile(np.arange(1, 81), 200)
    w = np.zeros((len(n), 32), np.float32)
    w[:, 0] = np.ldexp(1.0, n) * (1 - k * 2.0**-24)
    w[:, 1] = -w[:, 0] / 3
    theirs = quantize(w, "MXFP4")
    ours = [qs.gguf.pack(part, "MXFP4") for part in np.resize(w, (10, 102, 512))]
    np.testing.assert_array_equal(np.concatenate(ours).reshape(-1, 17)[: len(w)], theirs)
    assert (theirs[:, 0] != np.frexp(w[:, 0])[1] - 1 - 2 + 127).sum() > 1000  # the case does occur


@some(WEIGHED, QUICK)
def test_bytes_with_an_imatrix_are_those_of_the_reference(name):
    hard, answers = reference("ggml_hard"), reference("ggml_lattices" if name in LATTICES else "ggml_hard")
    got = qs.gguf.pack(hard["x"], name, imatrix=hard["imatrix"])
    np.testing.assert_array_equal(got, answers[f"{name}+imatrix"], strict=True)
    assert (np.asarray(got) != answers[name][-len(hard["x"]) :]).any()


@pytest.mark.parametrize(("name", "half"), [("Q4_0", 8), ("Q5_0", 16)])
def test_codes_are_those_of_the_first_trial_where_only_an_outlier_has_one_and_does_not_count(name, half):
    """No code that counts differs from zero, so the scale is 0; the reference keeps what -half / extreme gave."""
    w, imatrix = np.ones((1, 32), np.float32), np.ones(32, np.float32)
    w[0, 5], imatrix[5] = -100.0, 0.0
    stored = TYPES[name].coding.from_bytes(qs.gguf.pack(w, name, imatrix=imatrix))
    assert float(stored.scales[0][0, 0]) == 0.0
    assert stored.codes.tolist() == [[half] * 5 + [0] + [half] * 26]


def test_importances_keep_their_rounding_before_they_are_summed():
    """Rows chosen because a product fused with the sum that follows it changes their bytes, about one in 700."""
    fused = reference("ggml_fused")
    rows = len(fused["x"])
    got = [
        qs.gguf.pack(np.resize(fused["x"][i:], (38, 512)), "Q4_1", imatrix=fused["imatrix"]) for i in range(0, rows, 38)
    ]
    np.testing.assert_array_equal(np.concatenate(got)[:rows], fused["Q4_1"], strict=True)


@by_type
def test_unpack_and_dequantize_are_those_of_the_package_to_the_bit(name):
    """Two programs that read a block, one at memory speed and one that is traced, differentiated and placed.

    Subnormal float32 too: only MXFP4 has any, 2^-128 times a level, and makes them of bits without arithmetic.

    All others are multiples of the smallest float16, 2^-24 (of half the smallest e4m3, 2^-10, for NVFP4).
    """
    rng, tiny = np.random.default_rng(4), np.finfo(np.float32).tiny
    anything = rng.integers(0, 256, expected(name).shape, dtype=np.uint8)
    if name == "MXFP4":
        anything[:, ::17] %= 5  # scales of 2^-127 and little more
    for data in (expected(name), anything):
        weights = dequantize(data, name)
        oracles.same_bits(qs.gguf.unpack(data, name), weights)
        oracles.same_bits(qs.QuantizedArray(jnp.asarray(data), None, None, TYPES[name]).dequantize(), weights)
    magnitude = np.abs(weights[weights != 0])
    assert (magnitude < tiny).any() == (name == "MXFP4")
    assert np.isnan(magnitude).any() == TYPES[name].has_nan


def test_the_package_quantizes_no_other_type():
    for name in TYPES.keys() - TOPS.keys():
        with pytest.raises(NotImplementedError):
            quantize(everything(), name)


@pytest.mark.parametrize("name", TOPS)
def test_bytes_are_those_of_the_package(name):
    """More than 2^15 weights of all kinds."""
    w = np.resize(np.concatenate(list(kinds(name, 12 * 512).values())), (102, 512))
    np.testing.assert_array_equal(qs.gguf.pack(w, name), quantize(w, name), strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPS)
def test_bytes_are_those_of_the_package_on_a_million_weights_of_each_kind(name):
    for kind, w in kinds(name, 2**20).items():
        assert w.size >= 10**6
        got = np.asarray(qs.gguf.pack(w, name))
        np.testing.assert_array_equal(got, quantize(w, name), strict=True, err_msg=kind)


# --- chunks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [0, 7, 20])
def test_over_chunks_is_the_function_on_all_rows(total):
    def f(first, rows):
        assert len(rows) <= 7
        return {"twice": 2 * rows, "at": first + jnp.arange(len(rows))}

    rows = np.arange(3 * total, dtype=np.int32).reshape(total, 3)
    got = jax.jit(lambda r: chunks.over_chunks(f, r, 7))(rows)
    np.testing.assert_array_equal(got["twice"], 2 * rows)
    np.testing.assert_array_equal(got["at"], np.arange(total))


def check_pieces(name: str, rows: int, piece: int, imatrix=None) -> None:
    """Packing many rows at once is packing them piece by piece."""
    w = normal(5, rows) * np.geomspace(0.01, 10, rows, dtype=np.float32)[:, None]
    assert w.size > 1.5 * chunks.CHUNK
    assert w.size % chunks.CHUNK
    parts = [pack(w[i : i + piece], name, imatrix=imatrix) for i in range(0, rows, piece)]
    np.testing.assert_array_equal(pack(w, name, imatrix=imatrix), np.concatenate(parts))


def test_chunks_change_no_byte():
    check_pieces("Q8_0", 5 * 102, 102)
    check_pieces("Q4_0", 12 * 38, 38, reference("ggml_hard")["imatrix"])  # each row with its own power


@pytest.mark.slow
@by_type
def test_a_million_weights_pack_as_their_rows_do(name):
    check_pieces(name, 1961, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHED)
def test_a_million_weights_pack_as_their_rows_do_with_an_imatrix(name):
    check_pieces(name, 1961, 1, reference("ggml_hard")["imatrix"])


def temporaries(name: str, rows: int) -> int:
    w = jax.ShapeDtypeStruct((rows, 1024), jnp.float32)
    analysis = jax.jit(lambda w: pack(w, name)).lower(w).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend analyses no memory")
    return analysis.temp_size_in_bytes


@some(TYPES, {"Q8_0", "Q6_K"})
def test_temporaries_are_bounded_by_a_chunk(name):
    assert temporaries(name, 2**14) < 8 * 4 * chunks.CHUNK  # eight chunks, two for most types; the weights have 128


@pytest.mark.slow
@by_type
def test_temporaries_do_not_grow(name):
    assert temporaries(name, 2**14) <= 1.01 * temporaries(name, 2**12)


# --- what is out of the ordinary ------------------------------------------------------------------------------------


def ruined(where, value) -> np.ndarray:
    w = normal(6)
    w[where] = value
    return w


NOT_PACKED = [
    ("Q4_KM", normal(6), ValueError, "unknown GGUF type 'Q4_KM'; did you mean Q4_K"),
    ("bogus", normal(6), ValueError, "unknown GGUF type 'bogus'; Known: Q4_0"),
    ("Q8_0", normal(6)[:, :33], ValueError, r"blocks of 32 weights.*\(102, 33\)"),
    ("Q4_K", normal(6)[:, :128], ValueError, r"blocks of 256 weights.*\(102, 128\)"),
    ("NVFP4", 1.0, ValueError, "blocks of 64 weights: a single number"),
    ("Q8_0", normal(6) * 1j, TypeError, "real numbers"),
    ("Q5_K", ruined((3, 5), np.nan), ValueError, r"nan at index \(3, 5\); mend the input$"),
    ("TQ1_0", ruined((99, 0), np.inf), ValueError, r"inf at index \(99, 0\)"),
]
NO_IMATRIX = [
    ("Q4_0", np.ones(511), r"\(512,\), not \(511,\)"),
    ("Q4_0", np.ones((1, 512)), r"\(512,\), not \(1, 512\)"),
    ("Q6_K", -np.ones(512), "at least 0"),
    ("Q6_K", np.where(np.arange(512) == 9, np.nan, 1), r"index \(9,\)"),
    ("TQ2_0", np.ones(512), "takes no imatrix"),
    *((name, None, "needs importances, as in llama.cpp: imatrix=") for name in ("IQ1_S", "IQ2_XXS", "IQ2_XS")),
]
NOT_UNPACKED = [
    ("F4", np.zeros((2, 34), np.uint8), ValueError, "unknown GGUF type 'F4'"),
    ("Q8_0", normal(6), TypeError, "uint8.*not float32"),
    ("Q8_0", np.zeros((2, 34), np.int8), TypeError, "uint8.*not int8"),
    ("Q8_0", np.zeros((2, 33), np.uint8), ValueError, "whole blocks of 34 bytes"),
    ("Q8_0", np.uint8(3), ValueError, "whole blocks of 34 bytes: a single byte"),
    ("Q8_0", b"34 bytes, but not quite", ValueError, r"whole blocks of 34 bytes: .*\(23,\)"),
]


def test_errors_are_clear():
    for name, w, error, message in NOT_PACKED:
        with pytest.raises(error, match=message):
            qs.gguf.pack(w, name)
    for name, imatrix, message in NO_IMATRIX:
        with pytest.raises(ValueError, match=message):
            qs.gguf.pack(normal(6), name, imatrix=imatrix)
    for name, data, error, message in NOT_UNPACKED:
        with pytest.raises(error, match=message):
            qs.gguf.unpack(data, name)


def test_case_and_rank_do_not_matter_and_nothing_is_packed_to_nothing():
    w, data = everything(), expected("Q8_0")
    np.testing.assert_array_equal(qs.gguf.pack(w, "q8_0"), data)
    np.testing.assert_array_equal(qs.gguf.pack(w.reshape(2, 51, 512), "Q8_0"), data.reshape(2, 51, -1))
    for shape, name in [((0, 512), "Q8_0"), ((3, 0), "MXFP4")]:
        empty = qs.gguf.pack(np.zeros(shape), name)
        assert empty.shape == (shape[0], shape[1] // TYPES[name].size * TYPES[name].nbytes)
        assert qs.gguf.unpack(empty, name).shape == shape
    assert qs.gguf.pack(np.zeros((0, 32)), "Q4_0", imatrix=np.ones(32)).shape == (0, 18)


@by_quick_type
def test_a_nan_poisons_its_block_and_no_other(name):
    q, w = TYPES[name], everything().copy()
    w[5, 300], w[60, 0] = np.nan, -np.inf
    if not q.has_nan:
        with pytest.raises(ValueError, match="no code for NaN"):
            q.quantize(w, nonfinite="propagate")
        return
    qw = q.quantize(w, nonfinite="propagate")
    bad = ~np.isfinite(w.reshape(-1, q.size)).all(axis=1)
    np.testing.assert_array_equal(np.isnan(qw.dequantize()).reshape(-1, q.size).all(axis=1), bad)
    np.testing.assert_array_equal(np.isnan(qw.dequantize()).reshape(-1, q.size).any(axis=1), bad)
    blocks, others = (np.asarray(data).reshape(-1, q.nbytes) for data in (qw.codes, expected(name)))
    np.testing.assert_array_equal(blocks[~bad], others[~bad])


@by_quick_type
def test_huge_weights_saturate_and_zeros_are_zeros(name):
    w = normal(7)
    w[1::6], w[2::6], w[3::6], w[4::6, ::7] = 0, 1e30, -3e38, 3.4e38
    w[0] = np.where(np.arange(512) % 2 == 0, 3.4e38, -3.4e38)
    found = np.asarray(qs.gguf.unpack(pack(w, name), name))
    assert np.isfinite(found).all()
    assert not found[1::6].any()
    assert (found[2::6] > 0).all()
    assert (found[3::6] < 0).all()


@pytest.mark.parametrize(("name", "levels"), [("Q8_0", 127), ("Q4_0", 8), ("TQ2_0", 1)])
def test_where_we_depart_from_the_reference_a_scale_saturates(name, levels):
    """The reference stores an infinite float16, which decodes to infinities and, times 0, to NaN."""
    w = np.full((102, 512), 1e30, np.float32)
    assert not np.isfinite(dequantize(quantize(w, name), name)).any()
    np.testing.assert_array_equal(qs.gguf.unpack(qs.gguf.pack(w, name), name), np.float32(65504 * levels))


# --- importances ----------------------------------------------------------------------------------------------------


@some(WEIGHED, QUICK)
def test_only_the_ratio_of_importances_counts(name):
    w, importance = normal(8, 38), np.random.default_rng(9).uniform(0.1, 2, 512)
    once, again = (qs.gguf.pack(w, name, imatrix=importance * unit) for unit in (1, 32))
    np.testing.assert_array_equal(once, again)


@some(WEIGHED, {"Q4_0", "Q6_K"})
def test_an_importance_lowers_the_error_there(name):
    """Each weight of an important column against itself under equal importances: 9,728 pairs, 4 standard errors."""
    columns, gains = np.arange(512) % 16 == 3, []
    for seed in range(8):
        w = normal(20 + seed, 38)
        important, equal = (
            np.square(dequantize(np.asarray(qs.gguf.pack(w, name, imatrix=m)), name) - w)[:, columns]
            for m in (np.where(columns, 50.0, 1.0), np.ones(512))
        )
        gains.append(equal - important)
    assert np.mean(gains) > 4 * np.std(gains) / np.sqrt(np.size(gains))


@some(WEIGHED, {"Q4_0"})
def test_the_round_trip_takes_the_imatrix_too(name):
    hard, q = reference("ggml_hard"), TYPES[name]
    found = q.roundtrip(hard["x"], imatrix=hard["imatrix"])
    stored = q.quantize(hard["x"], imatrix=hard["imatrix"]).codes
    oracles.same_bits(found, dequantize(np.asarray(stored), name))
    answers = reference("ggml_lattices" if name in LATTICES else "ggml_hard")
    oracles.same_bits(found, dequantize(answers[f"{name}+imatrix"], name))
