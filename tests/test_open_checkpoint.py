"""What a checkpoint says of its tensors, and their numbers: of every type every code, in any pieces, from any files."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf import quants as package

import quantsim as qs
from quantsim.checkpoints import TensorError, dequantized, open_checkpoint, read, stored_tensors, weights
from quantsim.checkpoints.gguf_types import TYPES
from quantsim.models import trained
from tests import checkpoint_files as made
from tests import oracle_gguf

_FOLDER = TemporaryDirectory(prefix="quantsim-trained-")  # of the process; removed when it ends
TRAINED = Path(_FOLDER.name) / "lm-w64-s0.safetensors"
TRAINED.write_bytes(trained.shipped("lm-w64-s0"))
BLOCKS = oracle_gguf.reference("ggml")
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


# --- every code of every type ---------------------------------------------------------------------------------------


def small_float(code, exponent_bits, mantissa_bits, bias):
    """A number of sign, exponent and mantissa, by the definition; what a type says of its highest codes is apart."""
    mantissa = code & (2**mantissa_bits - 1)
    exponent = code >> mantissa_bits & (2**exponent_bits - 1)
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (2**mantissa_bits + mantissa) * 2.0 ** (exponent - bias - mantissa_bits)


def e4m3(code):
    return np.nan if code & 0x7F == 0x7F else small_float(code, 4, 3, 7)


def e5m2(code):
    if code & 0x7F > 0x7C:
        return np.nan
    return np.inf * (-1 if code >> 7 else 1) if code & 0x7F == 0x7C else small_float(code, 5, 2, 15)


def e4m3fnuz(code):
    return np.nan if code == 0x80 else small_float(code, 4, 3, 8)


def e5m2fnuz(code):
    return np.nan if code == 0x80 else small_float(code, 5, 2, 16)


def e8m0(code):
    return np.nan if code == 255 else 2.0 ** (code - 127)


#: What each code of a type of eight bits is, by its definition, and in ml_dtypes.
FP8 = {
    "F8_E4M3": (e4m3, ml_dtypes.float8_e4m3fn),
    "F8_E5M2": (e5m2, ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": (e4m3fnuz, ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": (e5m2fnuz, ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": (e8m0, ml_dtypes.float8_e8m0fnu),
}


def opened(folder, dtype, shape, raw):
    path = folder / "w.safetensors"
    path.write_bytes(made.safetensors({"w": (dtype, shape, raw)}))
    checkpoint = open_checkpoint(path)
    return checkpoint, checkpoint.entries[0]


def all_numbers(folder, dtype, shape, raw):
    checkpoint, entry = opened(folder, dtype, shape, raw)
    return checkpoint.weights(entry, nonfinite="propagate")


def same_bits(found, expected):
    """Equal to the bit, the sign of zero included; one NaN is as good as another."""
    expected = np.asarray(expected, np.float32)
    assert found.dtype == np.float32
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found[~nan].view(np.uint32), expected[~nan].view(np.uint32))


@pytest.mark.parametrize("dtype", FP8)
def test_every_code_of_eight_bits(tmp_path, dtype):
    codes = np.arange(256, dtype=np.uint8)
    definition, kind = FP8[dtype]
    with np.errstate(invalid="ignore"):
        theirs = codes.view(kind).astype(np.float32)
    for shape in ((256,), (255,), (1,), (16, 16)):
        count = int(np.prod(shape))
        found = all_numbers(tmp_path, dtype, shape, codes[:count].tobytes())
        same_bits(found, [definition(int(code)) for code in codes[:count]])
        same_bits(found, theirs[:count])


def test_every_code_of_fp4_the_low_bits_first(tmp_path):
    codes = np.arange(16, dtype=np.uint8)
    levels = [small_float(int(code), 2, 1, 1) for code in codes]
    np.testing.assert_array_equal(levels, codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32))
    low, high = np.meshgrid(codes, codes)
    found = all_numbers(tmp_path, "F4", (16, 32), (low | high << 4).tobytes())
    same_bits(found.reshape(16, 16, 2)[..., 0].ravel(), np.array(levels)[low].ravel())
    same_bits(found.reshape(16, 16, 2)[..., 1].ravel(), np.array(levels)[high].ravel())


def test_every_number_of_sixteen_bits(tmp_path):
    codes = np.arange(2**16, dtype=np.uint16)
    bf16 = (codes.astype(np.uint32) << 16).view(np.float32)
    same_bits(all_numbers(tmp_path, "BF16", (256, 256), codes.tobytes()), bf16)
    for part in (codes, codes[:0x7C00], codes[0x8000:0xFC00], codes[0x7BF0:0x7C10]):  # with and without infinities
        raw = part.tobytes()
        half = list(part.view(np.float16))
        same_bits(all_numbers(tmp_path, "F16", (len(part),), raw), half)


def test_float64_is_rounded_to_the_nearest_once(tmp_path):
    """Midpoints of float32 go to the even one, their neighbours to theirs; what is too large becomes infinite."""
    draws = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    middles = (draws.astype(np.float64) + np.nextafter(draws, np.float32(9))) / 2
    hard = np.concatenate([middles, np.nextafter(middles, 9), np.nextafter(middles, -9), [1e39, -1e39, 1e-46, 5e-324]])
    with np.errstate(over="ignore"):
        expected = hard.astype(np.float32)
    assert (expected[:500].view(np.uint32) % 2 == 0).all()
    same_bits(all_numbers(tmp_path, "F64", hard.shape, hard.tobytes()), expected)


def test_float32_is_as_it_is(tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
    found = all_numbers(tmp_path, "F32", (10, 100), raw)
    assert found.tobytes() == raw


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_unpacked_as_the_package_does(gguf_file, kind):
    checkpoint = open_checkpoint(gguf_file)
    entry = next(e for e in checkpoint.entries if e.type == kind)
    expected = package.dequantize(BLOCKS[kind][:8], GGMLQuantizationType[kind])
    assert entry.shape == expected.shape
    np.testing.assert_array_equal(checkpoint.weights(entry), expected.ravel(), strict=True)


@pytest.mark.parametrize("kind", qs.gguf.LAYOUTS)
def test_every_type_that_can_be_unpacked_is_read(tmp_path, kind):
    number = next(n for n, name in TYPES.items() if name == kind)
    size, nbytes = qs.gguf.layout(kind)
    data = np.random.default_rng(4).integers(0, 256, (3, 2 * nbytes), np.uint8)
    (tmp_path / "w.gguf").write_bytes(made.gguf([made.Tensor("w", (3, 2 * size), number, data.tobytes())]))
    checkpoint = open_checkpoint(tmp_path / "w.gguf")
    (entry,) = checkpoint.entries
    assert (entry.type, entry.block, entry.nbytes, entry.unreadable) == (kind, size, data.size, None)
    expected = np.asarray(qs.gguf.unpack(data, kind))
    np.testing.assert_array_equal(checkpoint.weights(entry, nonfinite="propagate"), expected.ravel(), strict=True)
    np.testing.assert_array_equal(checkpoint.stored(entry).data, data, strict=False)


# --- what is said of tensors ----------------------------------------------------------------------------------------


def writer_of(path, **kw):
    writer = GGUFWriter(path, "llama", **kw)
    writer.add_array("tokens", ["a", "bc", "é"])
    writer.add_array("scores", [1.5, -2.0])
    writer.add_uint64("large", 2**40)
    for kind in KINDS:
        writer.add_tensor(f"{kind}.weight", BLOCKS[kind][:8], raw_dtype=GGMLQuantizationType[kind])
    writer.add_tensor("norm", np.linspace(-1, 1, 7, dtype=np.float32))
    writer.add_tensor("positions", np.arange(6, dtype=np.int32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "w.gguf"
    writer_of(path)
    return path


def test_a_gguf_file_says_what_the_package_reads(gguf_file):
    found, theirs = open_checkpoint(gguf_file), GGUFReader(gguf_file)
    assert (found.path, found.kind, found.files) == (gguf_file, "gguf", (gguf_file,))
    assert found.metadata == {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    for entry, tensor in zip(found.entries, theirs.tensors, strict=True):
        assert (entry.name, entry.type, entry.start) == (tensor.name, tensor.tensor_type.name, tensor.data_offset)
        assert (entry.shape, entry.nbytes) == (tuple(tensor.shape.tolist()[::-1]), tensor.n_bytes)
        assert (entry.size, entry.path) == (tensor.n_elements, gguf_file)


def test_tensors_are_stored_as_stored_tensors_yields_them(gguf_file):
    checkpoint = open_checkpoint(gguf_file)
    for entry, theirs in zip(checkpoint.entries, stored_tensors(gguf_file), strict=True):
        found = checkpoint.stored(entry)
        assert (found.name, found.type, found.is_quantized) == (theirs.name, theirs.type, theirs.is_quantized)
        np.testing.assert_array_equal(found.data, theirs.data, strict=False)
        assert found.data.dtype == theirs.data.dtype
        assert not found.data.flags.owndata
        assert not found.data.flags.writeable


def test_a_safetensors_file_says_what_its_header_does(tmp_path):
    raw = np.arange(24, dtype=np.uint8).tobytes()
    tensors = {"b": ("F32", (2, 3), raw), "a": ("F4", (4, 12), raw), "c": ("I64", (3,), raw), "d": ("F32", (), raw[:4])}
    path = tmp_path / "w.safetensors"
    path.write_bytes(made.safetensors(tensors, {"format": "pt"}))
    found = open_checkpoint(str(path))
    assert (found.kind, found.metadata, found.files) == ("safetensors", {"format": "pt"}, (path,))
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    assert [(e.name, e.type, e.shape, e.start - header, e.nbytes) for e in found.entries] == [
        ("b", "F32", (2, 3), 0, 24),
        ("a", "F4", (4, 12), 24, 24),
        ("c", "I64", (3,), 48, 24),
        ("d", "F32", (), 72, 4),
    ]
    assert [(e.size, e.block) for e in found.entries] == [(6, 1), (48, 2), (3, 1), (1, 1)]
    stored = [found.stored(e).data for e in found.entries]
    assert [(a.shape, a.dtype) for a in stored] == [((2, 3), "f4"), ((4, 6), "u1"), ((3,), "i8"), ((), "f4")]
    assert [a.tobytes() for a in stored] == [raw, raw, raw, raw[:4]]


UNREADABLE = {
    "integers": ("I32", (2,), 8, "is stored as I32, integers are read by name"),
    "truths": ("BOOL", (8,), 8, "is stored as BOOL, which cannot be read; save it as F32"),
    "complex": ("C64", (1,), 8, "is stored as C64, which cannot be read; save it as F32"),
    "six bits": ("F6_E2M3", (4, 4), 12, "is stored as F6_E2M3, which cannot be read; save it as F32"),
    "a type to come": ("F2_E1M0", (32,), 8, "is stored as F2_E1M0, which cannot be read; save it as F32"),
    "a type of another format": ("Q4_0", (32,), 18, "is stored as Q4_0, which cannot be read; save it as F32"),
    "nothing": ("F32", (0, 3), 0, r"is empty, shape (0, 3); there is nothing to measure"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_listed_with_the_reason(tmp_path, what):
    dtype, shape, nbytes, reason = UNREADABLE[what]
    checkpoint, entry = opened(tmp_path, dtype, shape, bytes(nbytes))
    assert entry.unreadable == reason
    with pytest.raises(TensorError) as caught:
        checkpoint.weights(entry)
    assert (caught.value.tensor, caught.value.reason) == ("w", reason)


def test_types_of_gguf_without_blocks_are_listed_with_the_bytes_that_can_be_theirs(tmp_path):
    tensors = [made.Tensor("x", (2, 256), 99, bytes(100)), made.floats("w"), made.Tensor("y", (1, 256), 98, bytes(40))]
    path = tmp_path / "w.gguf"
    path.write_bytes(made.gguf(tensors))
    x, w, y = open_checkpoint(path).entries
    assert [e.type for e in (x, w, y)] == ["type 99", "F32", "type 98"]
    assert x.start + x.nbytes == w.start
    assert y.start + y.nbytes == path.stat().st_size
    assert w.unreadable is None
    assert "is stored as type 99, which cannot be read" in str(x.unreadable)
    with pytest.raises(TensorError, match="'x' is stored as type 99, whose size is not known"):
        open_checkpoint(path).stored(x)


def test_a_gap_between_tensors_of_gguf_is_allowed(tmp_path):
    """Nothing in the format forbids it, and files are changed in place."""
    (tmp_path / "w.gguf").write_bytes(made.gguf([made.floats(), made.floats("v", offset=64)]) + bytes(64))
    w, v = open_checkpoint(tmp_path / "w.gguf").entries
    assert v.start - w.start == 64


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", ">f4", ">f2", "<i8", "<u2", "|i1"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_file_is_its_array(tmp_path, dtype, shape, order):
    array = np.asarray(np.random.default_rng(0).integers(0, 99, shape), dtype, order=order)
    np.save(tmp_path / "layer.npy", array)
    checkpoint = open_checkpoint(tmp_path / "layer.npy")
    (entry,) = checkpoint.entries
    assert (checkpoint.kind, checkpoint.metadata, entry.name) == ("npy", {}, "layer")
    assert (entry.shape, entry.unreadable) == (shape, None)
    assert entry.type == {"f": "F", "i": "I", "u": "U"}[np.dtype(dtype).kind] + str(8 * np.dtype(dtype).itemsize)
    np.testing.assert_array_equal(checkpoint.weights(entry), array.ravel().astype(np.float32), strict=True)
    np.testing.assert_array_equal(checkpoint.weights(entry, 1, entry.size - 1), array.ravel()[1:].astype(np.float32))
    np.testing.assert_array_equal(checkpoint.stored(entry).data, array)


# --- in pieces ------------------------------------------------------------------------------------------------------


def test_any_piece_is_a_piece_of_the_whole(tmp_path, gguf_file):
    rng = np.random.default_rng(1)
    raw = rng.integers(
        0, 0x3F, 3 * 2**20, np.uint8
    ).tobytes()  # three pieces and more of those that are decoded at once
    for dtype, bits in (("F32", 32), ("F16", 16), ("BF16", 16), ("F64", 64), ("F8_E4M3", 8), ("F4", 4)):
        checkpoint, entry = opened(tmp_path, dtype, (len(raw) // 512, 4096 // bits), raw)
        pieces_are_of_the_whole(checkpoint, entry, rng)
    checkpoint = open_checkpoint(gguf_file)
    for entry in checkpoint.entries[:-1]:
        pieces_are_of_the_whole(checkpoint, entry, rng)


def pieces_are_of_the_whole(checkpoint, entry, rng):
    whole = checkpoint.weights(entry)
    assert whole.shape == (entry.size,)
    blocks = entry.size // entry.block
    for _ in range(5):
        first, last = np.sort(rng.integers(0, blocks + 1, 2)) * entry.block
        found = checkpoint.weights(entry, int(first), int(last - first))
        np.testing.assert_array_equal(found, whole[first:last], strict=True)
    assert checkpoint.weights(entry, entry.size, 0).shape == (0,)
    np.testing.assert_array_equal(checkpoint.weights(entry, entry.size - entry.block), whole[-entry.block :])


def test_pieces_that_are_not_there_or_cut_blocks_are_refused(gguf_file):
    checkpoint = open_checkpoint(gguf_file)
    entry = checkpoint.entries[0]
    for first, count in ((-32, 32), (0, entry.size + 32), (entry.size, 32), (0, -32)):
        with pytest.raises(ValueError, match=f"'Q4_0.weight' has {entry.size} weights: none from {first} to"):
            checkpoint.weights(entry, first, count)
    for first, count in ((16, 32), (0, 33)):
        with pytest.raises(ValueError, match="has blocks of 32"):
            checkpoint.weights(entry, first, count)
    with pytest.raises(ValueError, match="nonfinite is 'raise' or 'propagate', not 'skip'"):
        checkpoint.weights(entry, nonfinite="skip")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_finite_is_named_with_its_index(tmp_path, value):
    w = np.zeros((3, 2, 2**19))
    w[1, 1, 7] = w[2, 0, 0] = value
    checkpoint, entry = opened(tmp_path, "F64", w.shape, w.tobytes())
    for first in (0, 2**20):
        with pytest.raises(
            TensorError, match=r"'w' cannot be weights: .*(nan|inf) in float32 at index \(1, 1, 7\); mend"
        ):
            checkpoint.weights(entry, first)
    assert np.isfinite(checkpoint.weights(entry, 0, 2**20)).all()
    assert np.flatnonzero(~np.isfinite(checkpoint.weights(entry, nonfinite="propagate"))).tolist() == [
        3 * 2**19 + 7,
        2**21,
    ]


def test_finite_weights_with_an_infinite_sum_are_finite(tmp_path):
    w = np.full(8, 3e38, np.float32)
    checkpoint, entry = opened(tmp_path, "F32", w.shape, w.tobytes())
    np.testing.assert_array_equal(checkpoint.weights(entry), w)


# --- scales beside codes --------------------------------------------------------------------------------------------


def scaled(folder, shape, scale, ending, kind="F32"):
    codes = np.random.default_rng(2).integers(0, 0x7F, shape, np.uint8)
    scale = np.asarray(scale, {"F32": "<f4", "BF16": ml_dtypes.bfloat16, "U8": "u1"}[kind])
    path = folder / "w.safetensors"
    tensors = {
        "l.weight": ("F8_E4M3", shape, codes.tobytes()),
        f"l.weight{ending}": (kind, scale.shape, scale.tobytes()),
    }
    path.write_bytes(made.safetensors(tensors))
    checkpoint = open_checkpoint(path)
    entry = next(e for e in checkpoint.entries if e.name == "l.weight")
    return checkpoint, entry, codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32), scale.astype(np.float32)


RNG = np.random.default_rng(3)
SCALES = {
    "one, as PyTorch has it": ((40, 50), RNG.uniform(size=()), "_scale", (40, 50)),
    "one in a list": ((40, 50), RNG.uniform(size=(1,)), "_scale", (40, 50)),
    "one of three axes": ((3, 10, 8), RNG.uniform(size=(1, 1)), "_scale", (30, 8)),
    "rows": ((40, 50), RNG.uniform(size=(40, 1)), "_scale", (1, 50)),
    "rows in a list": ((40, 50), RNG.uniform(size=(40,)), "_scale", (1, 50)),
    "blocks of 128": ((300, 400), RNG.uniform(size=(3, 4)), "_scale_inv", (128, 128)),
    "one block": ((30, 400), RNG.uniform(size=(1, 4)), "_scale_inv", (128, 128)),
    "blocks of a row": ((6, 64), RNG.uniform(size=(6, 2)), "_scale", (1, 32)),
}


@pytest.mark.parametrize("what", SCALES)
def test_codes_are_multiplied_by_their_scales(tmp_path, what):
    shape, scale, ending, block = SCALES[what]
    checkpoint, entry, codes, stored = scaled(tmp_path, shape, scale, ending)
    assert (entry.scaled_by, entry.unreadable) == (f"l.weight{ending}", None)
    matrix = codes.reshape(-1, shape[-1])
    rows, columns = np.indices(matrix.shape)
    across = -(-matrix.shape[1] // block[1])
    each = stored.ravel()[rows // block[0] * across + columns // block[1]]
    expected = (matrix * each).ravel()
    np.testing.assert_array_equal(checkpoint.weights(entry), expected, strict=True)
    for first, count in ((0, 1), (13, 101), (entry.size - 77, 77)):
        np.testing.assert_array_equal(checkpoint.weights(entry, first, count), expected[first : first + count])
    np.testing.assert_array_equal(checkpoint.stored(entry).data.astype(np.float32), codes)
    found = dict(read(entry.path))["l.weight"]
    np.testing.assert_array_equal(found, expected.reshape(shape))
    np.testing.assert_array_equal(dict(weights(entry.path))["l.weight"], found)


@pytest.mark.parametrize("name", ["l.weight_scale_inv", "l.weight_scale", "l.scale", "l.scale_weight"])
@pytest.mark.parametrize("dtype", ["F8_E5M2", "F4"])
def test_scales_are_found_by_their_names(tmp_path, name, dtype):
    codes = bytes(range(24))
    path, shape = tmp_path / "scaled.safetensors", (2, 24 if dtype == "F4" else 12)
    path.write_bytes(made.safetensors({"l.weight": (dtype, shape, codes), name: made.f32(0.5)}))
    checkpoint = open_checkpoint(path)
    found, half = (next(e for e in checkpoint.entries if e.name == n) for n in ("l.weight", name))
    assert (found.scaled_by, half.scaled_by) == (name, None)
    np.testing.assert_array_equal(checkpoint.weights(found), all_numbers(tmp_path, dtype, shape, codes) / 2)


def test_a_second_level_of_scales_is_not_understood(tmp_path):
    tensors = {"w": ("F4", (2, 32), bytes(32)), "w_scale": made.f32(np.ones((2, 2))), "w_scale_2": made.f32(0.5)}
    (tmp_path / "w.safetensors").write_bytes(made.safetensors(tensors))
    assert "has scales 'w_scale'" in str(open_checkpoint(tmp_path / "w.safetensors").entries[0].unreadable)


def test_an_entry_of_another_checkpoint_is_refused(tmp_path, gguf_file):
    checkpoint, _ = opened(tmp_path, "F32", (1,), bytes(4))
    other = open_checkpoint(gguf_file).entries[0]
    for call in (checkpoint.weights, checkpoint.stored):
        with pytest.raises(ValueError, match=r"'Q4_0.weight' is of .*w.gguf, not of .*w.safetensors: take one of its"):
            call(other)


@pytest.mark.parametrize(
    ("shape", "scale", "kind"),
    [((300, 400), np.ones((7, 3)), "F32"), ((6, 64), np.ones((6, 2)), "U8"), ((2, 4, 5), np.ones((2, 4, 1)), "F32")],
)
def test_codes_whose_scales_are_not_understood_are_not_read(tmp_path, shape, scale, kind):
    checkpoint, entry, _, _ = scaled(tmp_path, shape, scale, "_scale", kind)
    with pytest.raises(TensorError, match=r"'l.weight' has scales 'l.weight_scale', .* which fit it in no known way"):
        checkpoint.weights(entry)


def test_a_scale_that_is_not_finite_is_named_with_its_own_index(tmp_path):
    checkpoint, entry, _, _ = scaled(tmp_path, (4, 6), [[1.0], [np.nan], [1.0], [1.0]], "_scale")
    with pytest.raises(TensorError, match=r"'l.weight_scale' cannot be weights: nan in float32 at index \(1, 0\)"):
        checkpoint.weights(entry)
    assert np.isnan(checkpoint.weights(entry, nonfinite="propagate")).sum() == 6


# --- one file or many -----------------------------------------------------------------------------------------------


def sharded(folder, stem="model", shards=3):
    """The shipped model in several files, by turns, and its tensors."""
    held = {e.name: (e.type, e.shape, open_checkpoint(TRAINED).stored(e).data.tobytes()) for e in entries()}
    names = {name: f"{stem}-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(held)}
    files = {
        shard: made.safetensors({n: t for n, t in held.items() if names[n] == shard}) for shard in set(names.values())
    }
    return made.filled(folder, files | {f"{stem}.safetensors.index.json": made.index(names)}), names


def entries():
    return open_checkpoint(TRAINED).entries


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model", "model.fp16"])
def test_shards_are_the_file(tmp_path, stem):
    folder, names = sharded(tmp_path / "model", stem)
    found, whole = open_checkpoint(folder), open_checkpoint(TRAINED)
    assert found.files == tuple(folder / name for name in sorted(set(names.values())))
    assert [folder / names[e.name] for e in found.entries] == [e.path for e in found.entries]
    assert [e.path for e in found.entries] == sorted(e.path for e in found.entries)
    numbers = {e.name: found.weights(e) for e in found.entries}
    assert numbers.keys() == {e.name for e in whole.entries}
    for entry in whole.entries:
        np.testing.assert_array_equal(numbers[entry.name], whole.weights(entry), strict=True)
    assert [n for n, _ in weights(folder)] == sorted(numbers)
    assert open_checkpoint(folder / f"{stem}.safetensors.index.json").entries == found.entries


def test_parts_are_the_file(tmp_path, gguf_file):
    """The gguf package cuts it."""
    writer_of(tmp_path / "w.gguf", split_max_tensors=5)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert [p.name for p in parts] == [made.part_name(i, 3) for i in range(3)]
    whole = open_checkpoint(gguf_file)
    for named in (*parts, tmp_path):
        found = open_checkpoint(named)
        assert found.files == tuple(parts)
        assert found.metadata["tokens"] == whole.metadata["tokens"]
        assert [(e.name, e.type, e.shape) for e in found.entries] == [(e.name, e.type, e.shape) for e in whole.entries]
    for entry, same in zip(found.entries, whole.entries, strict=True):
        if entry.unreadable is None:
            np.testing.assert_array_equal(found.weights(entry), whole.weights(same), strict=True)


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "any.safetensors"])
def test_a_folder_is_the_one_file_in_it(tmp_path, name):
    made.filled(tmp_path, {name: TRAINED.read_bytes(), "config.json": b"{}", "README.md": b""})
    assert [e.name for e in open_checkpoint(tmp_path).entries] == [e.name for e in entries()]


def test_variants_beside_the_usual_name_are_passed_over(tmp_path):
    made.filled(tmp_path, {"model.safetensors": TRAINED.read_bytes(), "model.fp16.safetensors": b"", "a.bin": b""})
    assert len(open_checkpoint(tmp_path).entries) == len(entries())


def test_a_gguf_file_in_a_folder(tmp_path, gguf_file):
    made.filled(tmp_path, {"w.Q4_K_M.gguf": gguf_file.read_bytes()})
    assert open_checkpoint(tmp_path).kind == "gguf"


def test_readers_agree(gguf_file):
    """``stored_tensors`` with ``dequantized``, ``read``, ``weights`` and ``Checkpoint.weights``."""
    checkpoint, found = open_checkpoint(gguf_file), dict(weights(gguf_file))
    plain = dict(read(gguf_file))
    for tensor, entry in zip(stored_tensors(gguf_file), checkpoint.entries, strict=True):
        if entry.unreadable is None:
            same = np.asarray(dequantized(tensor), np.float32)
            np.testing.assert_array_equal(found[entry.name], same, strict=True)
            np.testing.assert_array_equal(plain[entry.name], same)
            np.testing.assert_array_equal(checkpoint.weights(entry).reshape(entry.shape), same, strict=True)


def test_the_header_of_the_package_is_read(tmp_path):
    """What safetensors itself writes, metadata of texts and padding included."""
    from safetensors.numpy import save_file

    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.float16)}, tmp_path / "w.safetensors", {"k": "é"})
    found = open_checkpoint(tmp_path / "w.safetensors")
    assert (found.metadata, {e.name: e.shape for e in found.entries}) == ({"k": "é"}, {"a": (2, 3), "b": (5,)})
    assert json.loads((tmp_path / "w.safetensors").read_bytes()[8 : found.entries[0].start])["__metadata__"] == {
        "k": "é"
    }
