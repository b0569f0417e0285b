"""GGUF files: small ones written by the gguf package come back; damaged, cut and foreign ones are named."""

import struct
from contextlib import suppress

import jax
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf import quants as package

from quantsim import checkpoints, populations
from quantsim.checkpoints import CheckpointError, dequantized, read, read_header, spread, steps, stored_tensors, weights
from quantsim.checkpoints.gguf_types import TYPES
from tests import oracle_gguf

SPREAD = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
W = oracle_gguf.reference("ggml")["x"][:8]  # (8, 512), and its bytes as the C reference makes them
BYTES = {kind: oracle_gguf.reference("ggml")[kind][:8] for kind in SPREAD}
KEY = populations.key(3)


def written(path, *, architecture="gemma3", tensors=(), kinds=SPREAD):
    """A file with a tensor of every kind, and metadata of every type."""
    writer = GGUFWriter(path, architecture)
    writer.add_array("list", ["a", "bc", "é"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_float32("float", 0.5)
    writer.add_bool("flag", True)
    writer.add_uint64("large", 2**40)
    for name, array in tensors:
        writer.add_tensor(name, np.ascontiguousarray(array))
    for kind in kinds:
        writer.add_tensor(f"{kind}.weight", BYTES[kind], raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PLAIN = {
    "f32": W[:3],
    "f16": W[0].astype(np.float16),
    "f64": np.float64(W[:2, :5]),
    "i32": np.arange(6, dtype=np.int32).reshape(2, 3),
    "3d": W.reshape(2, 4, 512),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return written(tmp_path_factory.mktemp("gguf") / "w.gguf", tensors=PLAIN.items())


# --- what can be read -----------------------------------------------------------------------------------------------


def test_types_are_numbered_as_in_the_package():
    assert {TYPES.get(int(kind), kind.name) for kind in GGMLQuantizationType} >= set(TYPES.values())
    for number, name in TYPES.items():
        assert GGMLQuantizationType(number).name == name


def test_the_header_is_the_packages(path):
    header, theirs = read_header(path), GGUFReader(path)
    wanted = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert header.metadata == wanted
    assert [(e.name, e.type, e.start) for e in header.tensors] == [
        (t.name, t.tensor_type.name, t.data_offset) for t in theirs.tensors
    ]
    assert [e.shape for e in header.tensors] == [tuple(int(n) for n in t.shape[::-1]) for t in theirs.tensors]


def test_tensors_come_back_bit_for_bit(path):
    found = dict(read(path))
    assert list(found) == [n for n in PLAIN if n != "i32"] + [f"{k}.weight" for k in SPREAD]
    for name, array in PLAIN.items():
        if name != "i32":
            np.testing.assert_array_equal(found[name], array, strict=True)
    for tensor in GGUFReader(path).tensors:
        if tensor.tensor_type.name in SPREAD:
            theirs = package.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(found[tensor.name], theirs, strict=True)


def test_integers_are_read_by_name_and_weights_are_float32(path):
    np.testing.assert_array_equal(dict(read(path, "i32"))["i32"], PLAIN["i32"])
    assert {a.dtype for _, a in weights(path)} == {np.dtype(np.float32)}


def test_bfloat16_is_read(tmp_path):
    writer = GGUFWriter(tmp_path / "b.gguf", "gemma3")
    as_bytes = W[:2].astype(ml_dtypes.bfloat16).view(np.uint8)
    writer.add_tensor("b", as_bytes, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ((_, found),) = read(tmp_path / "b.gguf")
    np.testing.assert_array_equal(found, W[:2].astype(ml_dtypes.bfloat16))


def test_tensors_are_read_where_they_lie(path):
    tensor = next(t for t in stored_tensors(path) if t.name == "Q4_K.weight")
    assert tensor.is_quantized
    assert not tensor.data.flags.owndata
    np.testing.assert_array_equal(tensor.data, BYTES["Q4_K"])


# --- what cannot ----------------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_truncated(tmp_path):
    whole = written(tmp_path / "whole.gguf", kinds=("Q8_0",), tensors=[("f32", W[:1])]).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in {*range(12), *range(12, len(whole), 97), len(whole) - 40}:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut.gguf: (no GGUF file|damaged or truncated).*") as caught:
            list(read(cut))
        assert "name one" in str(caught.value) or "download it again" in str(caught.value)


def test_a_damaged_header_never_escapes(tmp_path):
    """One byte changed, at every place: read, or rejected as a checkpoint, at once and with nothing allocated."""
    whole = bytearray(written(tmp_path / "whole.gguf", kinds=(), tensors=[("f32", W[:1, :4])]).read_bytes())
    for at in range(len(whole)):
        for mask in (0x15, 0x80):
            changed = whole.copy()
            changed[at] ^= mask
            (tmp_path / "w.gguf").write_bytes(changed)
            with suppress(CheckpointError):
                list(read(tmp_path / "w.gguf"))


def crafted(*fields):
    return b"GGUF" + b"".join(struct.pack(f"<{code}", value) for code, value in fields)


BAD = {
    "empty": (b"", "no GGUF file.*name one that does"),
    "of another kind": (b"PK\x03\x04" * 9, "no GGUF file"),
    "version 1": (crafted(("I", 1)), "GGUF of version 1, not 2 or 3; convert it"),
    "big-endian": (crafted(("I", 3 << 24)), "GGUF of a big-endian machine; turn it"),
    "no tensor": (crafted(("I", 3), ("Q", 0), ("Q", 0)), "holds no tensor; name a .gguf file with weights"),
    "2^60 tensors": (crafted(("I", 3), ("Q", 2**60), ("Q", 0)), "damaged or truncated header: .* are announced"),
    "a list of 2^40": (
        crafted(("I", 3), ("Q", 0), ("Q", 1), ("Q", 0), ("I", 9), ("I", 8), ("Q", 2**40)),
        "damaged or truncated header: 1099511627776 things",
    ),
    "lists in lists": (
        crafted(("I", 3), ("Q", 0), ("Q", 1), ("Q", 0), ("I", 9)) + struct.pack("<IQ", 9, 1) * 9000,
        "damaged or truncated header",
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_named_and_says_what_to_do(tmp_path, data, message):
    (tmp_path / "w.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"w\.gguf: {message}"):
        list(read(tmp_path / "w.gguf"))


def test_an_unknown_tensor_is_named_with_those_there_are(path):
    with pytest.raises(CheckpointError, match=r"no tensor 'c'; it holds f32 \(F32\), f16 \(F16\)"):
        list(read(path, "c"))


def test_types_that_cannot_be_read_are_passed_over(tmp_path):
    changed = written(tmp_path / "w.gguf", kinds=("Q8_0",), tensors=[("f32", W[:1])]).read_bytes()
    at = changed.index(b"Q8_0.weight") + len(b"Q8_0.weight") + 4 + 16  # behind the number of axes and two of them
    assert changed[at] == GGMLQuantizationType.Q8_0
    (tmp_path / "w.gguf").write_bytes(changed[:at] + bytes([200]) + changed[at + 1 :])
    refused = {}
    assert list(dict(read(tmp_path / "w.gguf", refused=refused.__setitem__))) == ["f32"]
    assert refused == {"Q8_0.weight": "is stored as type 200, which cannot be read; save it as F32"}


# --- weights spread within their cells ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors(path):
    return {t.type: t for t in stored_tensors(path) if t.type in SPREAD}


@pytest.mark.parametrize("kind", SPREAD)
def test_draws_are_uniform_in_the_cell_of_each_weight(tensors, kind):
    tensor = tensors[kind]
    w, step, found = (np.float64(a) for a in (dequantized(tensor), steps(tensor), spread(tensor, KEY)))
    assert np.array_equal(found[step == 0], w[step == 0])
    has = step > 0
    u = ((found - w)[has] / step[has]).ravel()
    # what float32 makes of w + step u: half an ulp of a weight, in steps
    slack = (np.abs(w)[has] / step[has] * 2.0**-23).max()
    assert np.abs(u).max() <= 0.5 + slack
    n = len(u)
    assert n > 3000
    ordered = np.sort(u) + 0.5
    distance = np.abs(ordered - (np.arange(n) + 0.5) / n).max()  # Kolmogorov-Smirnov; 1.95 / sqrt(n) at 0.1 %
    assert distance < 1.95 / np.sqrt(n)
    assert abs(np.mean(u)) < 4 / np.sqrt(12 * n)


@pytest.mark.parametrize("kind", SPREAD)
def test_spread_weights_have_the_codes_of_the_file(tensors, kind):
    """Rounded again on the grid of the file, they are the weights of the file, but for the very edges of cells."""
    tensor = tensors[kind]
    w, step, found = (np.float64(a) for a in (dequantized(tensor), steps(tensor), spread(tensor, KEY)))
    has = step > 0
    again = np.rint((found - w)[has] / step[has])
    assert np.count_nonzero(again) <= 2  # of 4,096; an edge is 2^-16 steps wide at most


@pytest.mark.parametrize("kind", SPREAD)
def test_steps_are_distances_of_levels(tensors, kind):
    """All weights of a sub-block are whole steps apart."""
    w, step = np.float64(dequantized(tensors[kind])), np.float64(steps(tensors[kind]))
    size = {"Q2_K": 16, "Q3_K": 16, "Q6_K": 16}.get(kind, 32)
    w, step = w.reshape(-1, size), step.reshape(-1, size)
    assert (step == step[:, :1]).all()
    has = step[:, 0] > 0
    apart = (w - w[:, :1])[has] / step[has]
    np.testing.assert_allclose(apart, np.rint(apart), atol=1e-3)
    if kind != "Q8_0":  # whose levels are too many for 32 weights to have neighbours in every block
        gaps = np.diff(np.sort(np.rint(apart), axis=1), axis=1)
        assert np.median([g[g > 0].min() for g in gaps]) == 1


def test_draws_depend_on_key_and_name_only(tensors):
    tensor = tensors["Q5_0"]
    first = spread(tensor, KEY)
    np.testing.assert_array_equal(first, spread(tensor, KEY))
    part = checkpoints.StoredTensor(tensor.name, tensor.type, tensor.data[:3])
    np.testing.assert_array_equal(first[:3], spread(part, KEY))
    renamed = checkpoints.StoredTensor("other", tensor.type, tensor.data)
    others = (spread(renamed, KEY), spread(tensor, jax.random.fold_in(KEY, 1)))
    assert all((first != other).mean() > 0.9 for other in others)


def test_plain_tensors_are_not_spread(path):
    plain = next(stored_tensors(path))
    assert spread(plain, KEY) is plain.data
    with pytest.raises(ValueError, match="'f32' is F32, whose codes have no step; weights are spread of Q4_0"):
        steps(plain)
    curved = checkpoints.StoredTensor("c", "IQ4_NL", np.zeros((1, 18), np.uint8))
    with pytest.raises(ValueError, match="'c' is IQ4_NL, whose codes have no step"):
        spread(curved, KEY)
