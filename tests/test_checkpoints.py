"""Weights from files: every type comes back bit for bit, every broken file is named, nothing is ever unpickled."""

import os
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantsim import cli
from quantsim.checkpoints import CheckpointError, read

BF16, E4M3 = np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)
FLOATS = [np.dtype(t) for t in ("f8", "f4", "f2")]
INTEGERS = [np.dtype(t) for t in ("i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1")]


def weights(dtype, shape=(5, 7)):
    return np.random.default_rng(0).uniform(-100, 100, shape).astype(np.int8).astype(dtype)


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def tensors(tmp_path):
    held = {"b.weight": weights("f4"), "a.weight": weights(BF16), "steps": weights("i4"), "mask": weights(bool)}
    save_file(held, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors", held


# --- what can be read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, np.dtype(">f4")], ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (), (1,), (2, 3, 4)], ids=str)
def test_npy_comes_back_bit_for_bit(tmp_path, dtype, shape):
    np.save(tmp_path / "layer.npy", weights(dtype, shape))
    for name in (None, "layer"):
        ((found, array),) = read(tmp_path / "layer.npy", name)
        assert found == "layer"
        same(array, weights(dtype, shape))


@pytest.mark.parametrize("dtype", [*FLOATS, BF16, *INTEGERS], ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (), (2, 3, 4)], ids=str)
def test_safetensors_come_back_bit_for_bit(tmp_path, dtype, shape):
    save_file({"w": weights(dtype, shape)}, tmp_path / "w.safetensors")
    ((name, array),) = read(str(tmp_path / "w.safetensors"), "w")
    assert name == "w"
    same(array, weights(dtype, shape))


def test_all_tensors_are_the_floating_ones_by_name(tensors):
    path, held = tensors
    found = dict(read(path))
    assert list(found) == ["a.weight", "b.weight"]
    for name, array in found.items():
        same(array, held[name])


def test_integers_are_read_by_name(tensors):
    path, held = tensors
    same(dict(read(path, "steps"))["steps"], held["steps"])


def test_tensors_are_read_one_after_the_other(tmp_path):
    """The second one is empty, which is found only when it is its turn."""
    save_file({"a": weights("f4"), "b": weights("f4", (0, 3))}, tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors")
    same(next(found)[1], weights("f4"))
    with pytest.raises(CheckpointError, match="'b' is empty"):
        next(found)


def test_an_npy_file_is_mapped_not_loaded(tmp_path):
    np.save(tmp_path / "w.npy", weights("f4"))
    ((_, array),) = read(tmp_path / "w.npy")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


def test_fortran_order_is_kept(tmp_path):
    np.save(tmp_path / "w.npy", np.asfortranarray(weights("f4")))
    ((_, array),) = read(tmp_path / "w.npy")
    np.testing.assert_array_equal(array, weights("f4"))


# --- what cannot ----------------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it leaves a file behind."""

    path = ""

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def npy(array, **kw):
    def make(folder):
        np.save(folder / "w.npy", array, **kw)
        return folder / "w.npy"

    return make


def trap(name):
    def make(folder):
        Trap.path = str(folder / "executed")
        if name == "array.npy":
            np.save(folder / name, np.array([Trap()], object), allow_pickle=True)
        elif name == "torch.npy":
            with zipfile.ZipFile(folder / name, "w") as file:
                file.writestr("archive/data.pkl", pickle.dumps(Trap()))
        else:
            (folder / name).write_bytes(pickle.dumps(Trap()))
        return folder / name

    return make


def raw(name, data):
    def make(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return make


def tensor(dtype, shape=(5, 7)):
    def make(folder):
        save_file({"w": weights(dtype, shape)}, folder / "w.safetensors")
        return folder / "w.safetensors"

    return make


def folder_called(name):
    def make(folder):
        (folder / name).mkdir()
        return folder / name

    return make


def header(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n"


BAD = {
    "missing": (lambda folder: folder / "w.npy", "no such file; name an .npy, .safetensors or .gguf file, or a folder"),
    "a folder": (folder_called("w.npy"), "no checkpoint in this folder; name a file"),
    "a checkpoint folder": (folder_called("model"), "no checkpoint in this folder; name a file"),
    "pickled array": (trap("array.npy"), "holds pickled objects, which are never loaded; save it again with numpy"),
    "pickle called npy": (trap("w.npy"), "no .npy file: .*save it again with numpy.save"),
    "torch file called npy": (trap("torch.npy"), "no .npy file: .*save it again with numpy.save"),
    "pickle called safetensors": (trap("w.safetensors"), "damaged or truncated.*download or save it again"),
    **{f"pickle {s}": (trap(f"w{s}"), "never opened: convert to .safetensors") for s in (".pt", ".bin", ".pkl")},
    "no extension": (raw("weights", b"1 2 3"), "a file without extension.*convert to"),
    "empty npy": (raw("w.npy", b""), "damaged, or no .npy file.*save it again"),
    "empty safetensors": (raw("w.safetensors", b""), "damaged or truncated.*save it again"),
    "garbage npy": (raw("w.npy", bytes(range(256)) * 9), "damaged, or no .npy file"),
    "garbage safetensors": (raw("w.safetensors", bytes(range(256)) * 9), "damaged or truncated"),
    "open brackets": (raw("w.npy", header("{'descr': '<f4', 'shape': (4,}")), "damaged"),
    "unknown type": (raw("w.npy", header("{'descr': 'zzz', 'fortran_order': False, 'shape': (4,)}")), "damaged"),
    "huge shape": (raw("w.npy", header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},)}}")), "damag"),
    "bf16 npy": (npy(weights(BF16)), "numpy.save does not keep bfloat16.*use .safetensors, or save float32"),
    "fp8 npy": (npy(weights(E4M3)), "has lost its type"),
    "text": (npy(np.array(["a"])), "<U1, not real numbers"),
    "booleans": (npy(np.ones(3, bool)), "bool, not real numbers"),
    "complex": (npy(np.ones(3, complex)), "complex128, not real numbers"),
    "empty array": (npy(np.ones((0, 3), "f4")), r"'w' is empty, shape \(0, 3\)"),
    "empty tensor": (tensor("f4", (3, 0)), r"'w' is empty, shape \(3, 0\)"),
    "integers only": (tensor("i4"), r"it holds w \(I32\); integers are read by name"),
}  # fmt: skip


@pytest.fixture(params=BAD)
def bad(request, tmp_path):
    make, message = BAD[request.param]
    yield make(tmp_path), message
    assert not (tmp_path / "executed").exists(), "a pickle was executed"


def test_a_bad_file_is_named_and_says_what_to_do(bad):
    path, message = bad
    with pytest.raises(CheckpointError, match=message) as caught:
        list(read(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_a_bad_file_ends_the_command_with_3(bad, capsys):
    path, _ = bad
    for command in (["matrix", str(path)], ["compare", "int8:tensor", "--weights", str(path)]):
        with pytest.raises(SystemExit) as caught:
            cli.main(command)
        shown = capsys.readouterr()
        assert (caught.value.code, shown.out) == (3, "")
        assert shown.err.startswith(f"quantsim: {path}: ")


def test_the_trap_is_one(tmp_path):
    """The pickles above would leave a trace if anything opened them."""
    pickle.loads(trap("w.pkl")(tmp_path).read_bytes())
    assert (tmp_path / "executed").exists()
    (tmp_path / "executed").unlink()
    np.load(trap("array.npy")(tmp_path), allow_pickle=True)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_file_cut_at_any_length_is_damaged(tmp_path, suffix):
    whole = (npy(weights("f4")) if suffix == ".npy" else tensor("f4"))(tmp_path).read_bytes()
    path = tmp_path / f"cut{suffix}"
    for length in {*range(0, len(whole), 13), *range(12), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"damaged.*save it again"):
            list(read(path))
    path.write_bytes(whole)
    assert len(list(read(path))) == 1


def test_a_damaged_header_never_escapes(tmp_path):
    """One byte of the header changed, at every place: read, or rejected as a checkpoint, and nothing else."""
    whole = bytearray(npy(weights("f4"))(tmp_path).read_bytes())
    for at in range(128):
        changed = whole.copy()
        changed[at] ^= 0x15
        (tmp_path / "w.npy").write_bytes(changed)
        with suppress(CheckpointError):
            list(read(tmp_path / "w.npy"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("c", r"no tensor 'c'; it holds a.weight \(BF16\), b"), ("mask", "stored as BOOL, .*save it as F32")],
)
def test_an_unknown_tensor_is_named_with_those_there_are(tensors, name, message, capsys):
    path, _ = tensors
    with pytest.raises(CheckpointError, match=message):
        list(read(path, name))
    with pytest.raises(SystemExit, match=r"^3$"):
        cli.main(["matrix", str(path), "--tensor", name])
    assert f"tensor {name!r}" in capsys.readouterr().err or name == "mask"


def test_an_npy_file_holds_one_array(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tensor 'v'; it holds w \(F32\)"):
        list(read(npy(weights("f4"))(tmp_path), "v"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_file_with_what_is_no_number_is_a_bad_file(tmp_path, value, capsys):
    """1e39 is a float64 beyond float32."""
    np.save(tmp_path / "w.npy", np.array([[1.0, 2.0], [3.0, value]]))
    for command in (["matrix", str(tmp_path / "w.npy")], ["compare", "bf16", "--weights", str(tmp_path / "w.npy")]):
        with pytest.raises(SystemExit, match=r"^3$"):
            cli.main(command)
        assert "index (1, 1)" in capsys.readouterr().err


def test_an_unreadable_file_is_a_bad_file(tmp_path, monkeypatch):
    def refuse(*_args, **_kw):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match=r"w\.npy: Permission denied"):
        list(read(npy(weights("f4"))(tmp_path)))
