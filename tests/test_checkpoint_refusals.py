"""Files that are wrong in one way each: which way is said, with the file and the place, before any tensor is read."""

import json
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from quantsim.checkpoints import CheckpointError, open_checkpoint
from quantsim.checkpoints.files import Bytes
from tests import checkpoint_files as made
from tests.checkpoint_files import facts, floats, gguf, index, listed, npy, one, pair, part, part_name, with_header

W = made.safetensors({"w": made.f32(np.zeros((2, 3)))})
V = made.safetensors({"v": made.f32(np.zeros((2, 3)))})
TWO = with_header({"a": facts("F32", (2,), 0, 8), "b": facts("F32", (2,), 8, 16)}, bytes(16))
HUGE = 2**63
DEEP = 3000  # Python takes them to be too deep, or, newer ones, to be cut

#: A wrong .safetensors file, and what is said of it.
SAFETENSORS = {
    "nothing": (b"", "no .safetensors file: 0 bytes hold no header"),
    "seven bytes": (bytes(7), "7 bytes hold no header"),
    "a length beyond the file": (with_header({}, length=100), "bytes 8 to 108 are wanted, the file ends at 10"),
    "a length of 2^64 - 1": (with_header({}, length=2**64 - 1), "a header of 18446744073709551615 bytes"),
    "a length above the limit": (with_header({}, length=100_000_001), "a header of 100000001 bytes, at most"),
    "a length of 0": (with_header({}, length=0), "does not begin with a brace"),
    "a length that cuts the JSON": (with_header(W[8:], length=30), "damaged or truncated: .*line 1 column"),
    "no JSON": (with_header("{'w': 1}"), "Expecting property name"),
    "a list": (with_header("[]"), "does not begin with a brace"),
    "spaces first": (with_header(" {}"), "does not begin with a brace"),
    "no UTF-8": (with_header(b'{"\xff": 1}'), "utf-8.*byte 0xff in position 2"),
    "UTF-16": (with_header("{}".encode("utf-16-le")), "damaged"),
    "text behind the JSON": (with_header("{} {}"), "Extra data"),
    "lists without end": (with_header('{"w": ' + "[" * DEEP), "nested without bound|Expecting"),
    "objects without end": (with_header('{"w": ' + '{"a":' * DEEP), "nested without bound|Expecting"),
    "values without end": (with_header("{" + "," * 2**22), "JSON of more than 4194304 values"),
    "a number without end": (with_header('{"w": ' + "1" * 10_000 + "}"), "digits"),
    "NaN": (with_header('{"w": NaN}'), "NaN is no JSON"),
    "a name twice": (with_header('{"w": 1, "w": 2}'), "'w' stands there twice"),
    "a fact twice": (with_header('{"w": {"dtype": "F32", "dtype": "F32"}}'), "'dtype' stands there twice"),
    "an empty name": (with_header({"": facts("F32", (), 0, 4)}, bytes(4)), "a tensor has an empty name"),
    "half of a pair": (with_header({"\ud800": facts("F32", (), 0, 4)}, bytes(4)), "surrogates not allowed"),
    "a long name": (with_header({"w" * 2**16: facts("F32", (), 0, 4)}, bytes(4)), "a name of 65536 characters"),
    "metadata of numbers": (with_header({"__metadata__": {"a": 1}}), "__metadata__ holds more than texts"),
    "metadata that are a list": (with_header({"__metadata__": ["a"]}), "__metadata__ holds more than texts"),
    "no facts": (with_header({"w": {}}), "'w' needs data_offsets, dtype, shape"),
    "facts that are a number": (with_header({"w": 1}), "'w' needs data_offsets, dtype, shape"),
    "facts too many": (one(stride=1), "'w' needs .* and nothing else"),
    "a dtype that is a number": (one(dtype=3), "'w' has a dtype that is none, 3"),
    "a dtype that is an escape": (one("\x1b[2J"), r"'w' has a dtype that is none, '\\x1b\[2J'"),
    "a shape that is a number": (one(shape=7), "'w' has a shape that is no list"),
    "a negative axis": (one(shape=(-2, -3)), r"'w' has a shape that is none: \(-2, -3\)"),
    "an axis of 2.0": (one(shape=(2.0, 3)), r"'w' has a shape that is none: \(2.0, 3\)"),
    "an axis that is true": (one(shape=(True, 6)), "'w' has a shape that is none"),
    "nine axes": (one(shape=(1,) * 9), "'w' has 9 axes, at most 8 are read"),
    "more weights than a file can hold": (one(shape=(HUGE, HUGE)), "'w' has 85070591730234615865843651857942052864 we"),
    "bytes that are not the shape's": (one(shape=(2, 4)), r"'w' has 24 bytes where F32 of shape \(2, 4\) takes 32"),
    "half a byte": (one("F4", (3, 3), 5), "'w' has 9 numbers of F4, which fill no whole bytes"),
    "three offsets": (one(data_offsets=[0, 12, 24]), "'w' has data_offsets that are not two whole numbers"),
    "offsets that are texts": (one(data_offsets=["0", "24"]), "'w' has data_offsets that are not two whole numbers"),
    "an end before the beginning": (one(data_offsets=[24, 0]), "'w' has bytes 24 to 0"),
    "a negative offset": (one(data_offsets=[-24, 0]), "'w' has bytes -24 to 0"),
    "an offset of 2^63": (one(data_offsets=[HUGE, HUGE + 24]), "'w' leaves a gap before it"),
    "data cut": (W[:-1], "the tensors end at byte .*, the file at"),
    "data too long": (W + b"\0", "the tensors end at byte .*, the file at"),
    "data missing": (W[:-24], "the tensors end at byte .*, the file at"),
    "an overlap": (
        with_header({"a": facts("F32", (2,), 0, 8), "b": facts("F32", (2,), 4, 12)}, bytes(12)),
        "'b' overlaps what is before it",
    ),
    "one place for two": (
        with_header({"a": facts("F32", (2,), 0, 8), "b": facts("F32", (2,), 0, 8)}, bytes(8)),
        "'b' overlaps what is before it",
    ),
    "a gap": (
        with_header({"a": facts("F32", (2,), 0, 8), "b": facts("F32", (2,), 12, 20)}, bytes(20)),
        "'b' leaves a gap before it",
    ),
    "a zip": (b"PK\x03\x04" * 9, "no .safetensors file, or a header of"),
}

LIST_IN_LIST = struct.pack("<IQ", made.ARRAY, 1)
#: A wrong .gguf file, and what is said of it.
GGUF = {
    "nothing": (b"", "no GGUF file"),
    "three letters": (b"GGU", "no GGUF file"),
    "letters only": (b"GGUF", "damaged or truncated header: 4 bytes|damaged or truncated header: 4 things"),
    "small letters": (b"gguf" + gguf()[4:], "no GGUF file: it does not begin with the letters GGUF"),
    "version 0": (gguf(version=0), "GGUF of version 0, not 2 or 3"),
    "version 4": (gguf(version=4), "GGUF of version 4, not 2 or 3"),
    "big-endian": (gguf(version=3 << 24), "of a big-endian machine; turn it with gguf-convert-endian"),
    "2^64 - 1 tensors": (gguf(counts=(2**64 - 1, 0)), "18446744073709551615 tensors and 0 keys are announced"),
    "2^20 tensors": (gguf(counts=(2**20, 0)), "damaged or truncated header: "),
    "2^63 keys": (gguf(counts=(0, HUGE)), "9223372036854775808 keys are announced"),
    "a key that is longer than the file": (gguf([], [struct.pack("<Q", 60) + b"key"]), "60 things are announced"),
    "a key of 2^16 bytes": (gguf([], [pair("k" * 2**16, made.U8, b"\0")]), "a text of 65536 bytes"),
    "a key twice": (gguf([], [made.u32("k", 1), made.u32("k", 2)]), "the key 'k' stands there twice"),
    "a value of unknown type": (gguf([], [pair("k", 13, bytes(8))]), "a value of the unknown type 13 at byte"),
    "a text of 2^63 bytes": (
        gguf([], [pair("k", made.STRING, struct.pack("<Q", HUGE))]),
        "a text of 92233720368547758",
    ),
    "a list of more numbers than bytes": (
        gguf([], [listed("k", made.U32, 5000, b"")]),
        "5000 things are announced",
    ),
    "a list of more texts than bytes": (gguf([], [listed("k", made.STRING, 5000, b"")]), "5000 things are announced"),
    "a list of unknown type": (gguf([], [listed("k", 77, 1, bytes(8))]), "a value of the unknown type 77"),
    "a list longer than is read": (
        gguf([], [listed("k", made.U8, 2**22 + 1, bytes(2**22 + 1))]),
        "4194305 values at byte .*, at most 4194304 are read in all",
    ),
    "lists in lists": (
        gguf([], [pair("k", made.ARRAY, LIST_IN_LIST * 100 + struct.pack("<IQ", made.U8, 0))]),
        "lists within lists beyond 4",
    ),
    "an alignment of 0": (gguf([floats()], [made.u32("general.alignment", 0)]), "an alignment of 0, which is no power"),
    "an alignment of 24": (gguf([floats()], [made.u32("general.alignment", 24)]), "an alignment of 24"),
    "an alignment of 2^31": (gguf([floats()], [made.u32("general.alignment", 2**31)]), "an alignment of 2147483648"),
    "an alignment that is a text": (
        gguf([floats()], [pair("general.alignment", made.STRING, made.text("\x1b[2J"))]),
        r"an alignment of '\\x1b\[2J', which is no power of two",
    ),
    "a tensor without a name": (gguf([floats("")]), "a tensor has an empty name"),
    "a name twice": (gguf([floats(), floats()]), "the tensor 'w' stands there twice"),
    "nine axes": (gguf([floats(shape=(1,) * 9)]), "'w' has 9 axes, at most 8 are read"),
    "2^32 - 1 axes": (gguf([floats(axes=2**32 - 1)]), "'w' has 4294967295 axes, at most 8"),
    "more weights than a file can hold": (
        gguf([made.Tensor("w", (HUGE, HUGE), made.F32, b"")]),
        "'w' has 85070591730234615865843651857942052864 weights",
    ),
    "a shape beyond the file": (
        gguf([made.Tensor("w", (2**20, 2**20), made.F32, bytes(64))]),
        "'w' ends at byte .*, the file at",
    ),
    "rows of half a block": (
        gguf([made.Tensor("w", (2, 48), made.Q8_0, bytes(102))]),
        "'w' has rows of 48, which no blocks of 32 make up",
    ),
    "an offset that is not aligned": (gguf([floats(offset=8)]), "'w' begins at byte 8 of the data, no multiple of 32"),
    "an offset beyond the file": (gguf([floats(offset=2**40)]), "'w' ends at byte 1099511627.*, the file at"),
    "an offset of 2^64 - 32": (gguf([floats(offset=2**64 - 32)]), "'w' ends at byte 18446744073709"),
    "an unknown type beyond the file": (
        gguf([made.Tensor("w", (2, 256), 99, bytes(64), offset=2**20)]),
        "'w' ends at byte .*, the file at",
    ),
    "an overlap": (
        gguf([floats(shape=(64,)), floats("v", offset=32)]),
        "two tensors overlap: 'w' ends at .* 'v' begins",
    ),
    "data cut": (gguf([floats(shape=(64,))])[:-1], "'w' ends at byte .*, the file at"),
    "tensors cut": (gguf([floats(), floats("v")])[:90], "damaged or truncated"),
    "part of three": (part(1, 3, [floats()], 1), "part of a file in 3 parts, but not named so; name it as"),
}

#: A wrong .npy file, and what is said of it.
NPY = {
    "nothing": (b"", "it does not begin as one"),
    "letters only": (b"\x93NUMPY\x01\x00", "it does not begin as one"),
    "version 9": (npy(made.described(), bytes(24), version=b"\x09\x00"), "it does not begin as one"),
    "a header beyond the file": (npy(made.described(), length=5000), "bytes 0 to 5010 are wanted, the file ends at"),
    "a header of 2^32 - 1": (npy("", version=b"\x02\x00", length=2**32 - 1), "a header of 4294967295 characters, at m"),
    "a call": (npy("__import__('os').getcwd()"), "damaged"),
    "operators": (npy("-" * 100 + "1"), "its header is more than the shape and type"),
    "brackets": (npy("(" * 100 + ")" * 100), "its header is more than the shape and type"),
    "a list": (npy("[1, 2]"), "damaged"),
    "no shape": (npy("{'descr': '<f4', 'fortran_order': False}"), "damaged"),
    "a negative axis": (npy(made.described(shape="(-1, 3)"), bytes(24)), "its header is more than the shape and type"),
    "a text as axis": (npy(made.described(shape="('a',)"), bytes(24)), "damaged"),
    "nine axes": (npy(made.described(shape="(1, 1, 1, 1, 1, 1, 1, 1, 1)"), bytes(4)), "has 9 axes, at most 8"),
    "a shape beyond the file": (
        npy(made.described(shape="(1000000, 1000000)"), bytes(24)),
        "the array ends at byte 40000",
    ),
    "more weights than a file can hold": (npy(made.described(shape=f"({10**30},)")), "no file holds them"),
    "a shape of so many digits": (npy(made.described(shape=f"({'9' * 5000},)")), "damaged"),
    "data cut": (npy(made.described(), bytes(23)), "the array ends at byte .*, the file at"),
    "objects": (npy(made.described("|O"), bytes(48)), "holds pickled objects, which are never loaded; save it again"),
    "objects in fields": (
        npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        "holds pickled objects, which are never loaded",
    ),
    "a type that is none": (npy(made.described("zzz"), bytes(24)), "damaged, or no .npy file"),
}

SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"


def sharded(weight_map: object, **files: bytes) -> dict[str, bytes]:
    """An index and its files; the names of these lack their ending."""
    return {INDEX: index(weight_map), **{f"{name}.safetensors": data for name, data in files.items()}}


#: A folder that is wrong, and what is said of it.
FOLDERS = {
    "nothing": ({}, "no checkpoint in this folder; name a file"),
    "no weights": ({"config.json": b"{}"}, "no checkpoint in this folder"),
    "pickles": ({"pytorch_model.bin": b"."}, "'pytorch_model.bin' is pickled, and pickles can run code; convert it"),
    "two files": ({"a.safetensors": W, "b.safetensors": V}, "more than one checkpoint: 'a.safetensors', 'b.safeten"),
    "a file and an index": (sharded({"w": "a.safetensors"}, a=W, model=W), "more than one checkpoint: 'model.safeten"),
    "two kinds": (
        {"model.safetensors": W, "w.gguf": gguf([floats()])},
        "more than one checkpoint: .*'w.gguf'; name one",
    ),
    "an index of nothing": ({INDEX: b""}, "index.json: damaged: Expecting value"),
    "an index without a map": ({INDEX: b"{}"}, "it has no weight_map of names and files"),
    "an index that is a list": ({INDEX: b"[]"}, "it has no weight_map"),
    "an empty map": (sharded({}), "it has no weight_map"),
    "a name twice": ({INDEX: b'{"weight_map": {"w": "a", "w": "b"}}'}, "'w' stands there twice"),
    "a map of numbers": (sharded({"w": 1}), "a file is called 1, which is no text"),
    "an index nested without end": ({INDEX: b'{"weight_map":' + b"[" * DEEP}, "nested without bound|Expecting"),
    "up and away": (sharded({"w": "../a.safetensors"}), "'../a.safetensors' is no .safetensors file beside it"),
    "from the root": (sharded({"w": "/etc/a.safetensors"}), "'/etc/a.safetensors' is no .safetensors file beside"),
    "a folder within": (sharded({"w": "b/a.safetensors"}), "'b/a.safetensors' is no .safetensors file beside it"),
    "back and away": (sharded({"w": "..\\a.safetensors"}), "is no .safetensors file beside it"),
    "a drive": (sharded({"w": "C:a.safetensors"}), "'C:a.safetensors' is no .safetensors file beside it"),
    "NUL": (sharded({"w": "a\0.safetensors"}), r"'a\\x00.safetensors' is no .safetensors file beside it"),
    "no name": (sharded({"w": ""}), "'' is no .safetensors file beside it"),
    "the folder itself": (sharded({"w": "."}), "'.' is no .safetensors file beside it"),
    "a pickle": (sharded({"w": "a.bin"}), "'a.bin' is no .safetensors file beside it"),
    "a file of 300 letters": (sharded({"w": "a" * 300 + ".safetensors"}), "is no .safetensors file beside it"),
    "a file that is missing": (
        sharded({"w": "a.safetensors", "v": "b.safetensors"}, a=W),
        "1 of 2 files are missing: 'b.safetensors'; download them, too",
    ),
    "a tensor that is missing": (
        sharded({"w": "a.safetensors", "v": "a.safetensors"}, a=W),
        "'v' is in none of its files, not in 'a.safetensors'",
    ),
    "a tensor elsewhere": (
        sharded({"w": "b.safetensors", "v": "a.safetensors"}, a=W, b=V),
        "'w' is in 'a.safetensors', not in 'b.safetensors'",
    ),
    "a tensor too many": (sharded({"a": "a.safetensors"}, a=TWO), "does not name 'b' of 'a.safetensors'"),
    "a tensor in two files": (
        sharded({"w": "a.safetensors", "v": "b.safetensors"}, a=W, b=W),
        "b.safetensors: 'w' is in 'a.safetensors', too",
    ),
    "a damaged file": (
        sharded({"w": "a.safetensors"}, a=W[:-1]),
        "a.safetensors: damaged or truncated: the tensors end",
    ),
    "a part that is missing": (
        {part_name(0, 3): part(0, 3, [floats()], 3), part_name(2, 3): part(2, 3, [floats("v")], 3)},
        "1 of 3 files are missing: 'w-00002-of-00003.gguf'; download them, too",
    ),
    "a part in the wrong place": (
        {part_name(0, 2): part(0, 2, [floats()], 2), part_name(1, 2): part(0, 2, [floats("v")], 2)},
        "w-00002-of-00002.gguf: named part 2 of 2, its split.no is 0 and split.count 2",
    ),
    "a part of another count": (
        {part_name(0, 2): part(0, 2, [floats()], 2), part_name(1, 2): part(1, 2, [floats("v")], 2, said=(1, 3))},
        "its split.no is 1 and split.count 3",
    ),
    "a part that does not say so": (
        {part_name(0, 2): gguf([floats()]), part_name(1, 2): gguf([floats("v")])},
        "its split.no is None and split.count None",
    ),
    "fewer tensors than are said": (
        {part_name(0, 2): part(0, 2, [floats()], 5), part_name(1, 2): part(1, 2, [floats("v")], 5)},
        "split.tensors.count is 5, the parts hold 2",
    ),
    "a tensor in two parts": (
        {part_name(0, 2): part(0, 2, [floats()], 2), part_name(1, 2): part(1, 2, [floats()], 2)},
        "w-00002-of-00002.gguf: 'w' is in 'w-00001-of-00002.gguf', too",
    ),
    "a part of no such number": ({"w-00000-of-00002.gguf": b""}, "part 0 of 2: there is none; name it as llama-gguf"),
    "only a later part": ({part_name(2, 3): b""}, "2 of 3 files are missing: 'w-00001-of-00003.gguf', 'w-00002-of"),
    "a name that is an escape": (
        sharded({"w": "\x1b[2J.safetensors"}),
        r"'\\x1b\[2J.safetensors' is no .safetensors file",
    ),
}

#: Endings of files that are never opened, and what is said instead.
FOREIGN = {
    "w.pt": "are never opened: convert to .safetensors or .npy, where .*torch.load.*weights_only=True.* w.pt w.saf",
    "pytorch_model.bin": "can run code.*weights_only=True",
    "w;id.ckpt": r"can run code.*weights_only=True.* 'w;id\.ckpt' w.safetensors",
    "w.PTH": "can run code.*weights_only=True",
    "w.pkl": "can run code and are never opened: convert to .safetensors",
    "w.npz": "is a zip of arrays, which may be pickled; save each with numpy.save",
    "w.h5": "is HDF5; convert to .safetensors or .npy",
    "w.onnx": "is a graph; convert to .safetensors or .npy",
    "w": "a file without extension",
    "w.gguf.part": "cannot read '.part'",
}

FILES = {f"{ending}: {what}": (ending, *case) for ending, cases in
         (("safetensors", SAFETENSORS), ("gguf", GGUF), ("npy", NPY)) for what, case in cases.items()}  # fmt: skip


@pytest.fixture
def only_headers(monkeypatch):
    """Tensors are read by ``read_into`` and mapped by NumPy: neither is called. Returns the bytes that were read."""
    read, counts = Bytes.read, []

    def counted(self, start, count):
        found = read(self, start, count)
        counts.append(len(found))
        return found

    def refuse(*_args, **_kw):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(Bytes, "read", counted)
    monkeypatch.setattr(Bytes, "read_into", refuse)
    monkeypatch.setattr(np, "memmap", refuse)
    return counts


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    said = str(caught.value)
    assert said.startswith(str(path.parent))
    assert all(c.isprintable() for c in said)
    return said


def test_there_are_enough():
    assert len(FILES) + len(FOLDERS) + len(FOREIGN) >= 60


@pytest.mark.parametrize("what", FILES)
def test_a_wrong_file_is_refused_by_name_and_place(tmp_path, only_headers, what):
    ending, data, message = FILES[what]
    path = tmp_path / f"model.{ending}"
    path.write_bytes(data)
    assert refused(path, message).startswith(f"{path}: ")
    assert sum(only_headers) <= len(data) + 12  # a beginning twice


@pytest.mark.parametrize("what", FOLDERS)
def test_a_wrong_folder_is_refused_by_name_and_place(tmp_path, only_headers, what):
    files, message = FOLDERS[what]
    refused(made.filled(tmp_path / "model", files), message)


@pytest.mark.parametrize("name", FOREIGN)
def test_other_kinds_are_not_opened(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n")
    monkeypatch.setattr(os, "open", None)
    assert refused(tmp_path / name, FOREIGN[name]).startswith(f"{tmp_path / name}: ")


# --- what is no file ------------------------------------------------------------------------------------------------


def at_once(call):
    """That a call ends: a pipe that no one writes to keeps who opens it waiting."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("ending", ["safetensors", "gguf", "npy", "safetensors.index.json"])
def test_a_pipe_is_not_waited_for(tmp_path, ending):
    os.mkfifo(tmp_path / f"model.{ending}")
    said = []

    def call():
        said.append(refused(tmp_path / f"model.{ending}", "a pipe, device or socket, not a file"))

    at_once(call)
    assert said


def test_pipes_in_folders_are_not_waited_for(tmp_path):
    os.mkfifo(made.filled(tmp_path / "a", {}) / "model.safetensors")
    os.mkfifo(made.filled(tmp_path / "b", {INDEX: index({"w": "a.safetensors"})}) / "a.safetensors")
    os.mkfifo(made.filled(tmp_path / "c", {part_name(0, 2): part(0, 2, [floats()], 2)}) / part_name(1, 2))
    said = []

    def call():
        said.extend(refused(tmp_path / name, "a pipe, device or socket, not a file") for name in "abc")

    at_once(call)
    assert len(said) == 3


def test_devices_and_folders_are_no_files(tmp_path):
    (tmp_path / "w.gguf").symlink_to("/dev/zero")
    refused(tmp_path / "w.gguf", "a pipe, device or socket, not a file")
    (tmp_path / "model" / "model.safetensors").mkdir(parents=True)
    refused(tmp_path / "model", "model.safetensors: a folder, not a file")


@pytest.mark.parametrize("name", ["", "w.npy", "w.gguf", "w.safetensors", "x" * 5000 + ".npy", "a\0b.npy", "n/o.npy"])
def test_what_is_not_there_is_said(tmp_path, name):
    with pytest.raises(CheckpointError):
        open_checkpoint(f"{tmp_path}/none/{name}")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "w.npy").write_bytes(npy(made.described(), bytes(24)))

    def refuse(*_args, **_kw):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    refused(tmp_path / "w.npy", "Permission denied")


# --- links ----------------------------------------------------------------------------------------------------------


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    made.filled(tmp_path / "secret", {"a.safetensors": W})
    folder = made.filled(tmp_path / "model", {INDEX: index({"w": "a.safetensors"})})
    (folder / "a.safetensors").symlink_to("../secret/a.safetensors")
    refused(folder, "a.safetensors: a link to .*, out of its folder, which is not followed; put the file itself there")
    (folder / INDEX).unlink()
    refused(folder, "out of its folder")
    assert len(open_checkpoint(folder / "a.safetensors").entries) == 1, "who names the link means it"


def test_a_part_that_is_a_link_out_of_the_folder_is_not_followed(tmp_path):
    made.filled(tmp_path / "secret", {"b.gguf": part(1, 2, [floats("v")], 2)})
    folder = made.filled(tmp_path / "model", {part_name(0, 2): part(0, 2, [floats()], 2)})
    (folder / part_name(1, 2)).symlink_to("../secret/b.gguf")
    refused(folder / part_name(0, 2), "out of its folder")


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path):
    folder = made.filled(tmp_path / "model", {"blob": W})
    (folder / "model.safetensors").symlink_to("blob")
    (tmp_path / "link").symlink_to("model")
    assert len(open_checkpoint(tmp_path / "link").entries) == 1


@pytest.mark.parametrize("target", ["../../blobs/1f", "../../../outside/1f"])
def test_a_cache_of_hugging_face_is_followed_within_its_model(tmp_path, target):
    for place in ("models--a--b/blobs", "outside"):
        made.filled(tmp_path / place, {"1f": W})
    snapshot = made.filled(tmp_path / "models--a--b" / "snapshots" / "0c", {INDEX: index({"w": "a.safetensors"})})
    (snapshot / "a.safetensors").symlink_to(target)
    if "blobs" in target:
        assert len(open_checkpoint(snapshot).entries) == 1
    else:
        refused(snapshot, "out of its folder")


def test_links_in_a_circle_lead_nowhere(tmp_path):
    folder = made.filled(tmp_path / "model", {})
    (folder / "model.safetensors").symlink_to("model.safetensors")
    refused(folder, "a link that leads nowhere|Too many levels")


# --- after it was opened --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["cut", "longer", "gone", "replaced"])
def test_a_file_that_changes_is_not_read(tmp_path, change):
    path = made.filled(tmp_path, {"w.safetensors": W}) / "w.safetensors"
    checkpoint = open_checkpoint(path)
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": W[:-4], "longer": W + bytes(4), "replaced": V}[change])
        os.utime(path, ns=(1, 1))
    for call in (checkpoint.weights, checkpoint.stored):
        with pytest.raises(CheckpointError, match=r"w\.safetensors: (has changed since it was opened|no such file)"):
            call(checkpoint.entries[0])


def test_a_file_that_is_cut_while_it_is_read_is_truncated(tmp_path, monkeypatch):
    """The stamp is as it was; the bytes are gone."""
    path = made.filled(tmp_path, {"w.safetensors": W}) / "w.safetensors"
    checkpoint = open_checkpoint(path)
    read_into = Bytes.read_into

    def cut_first(self, start, found):
        os.truncate(path, len(W) - 8)
        read_into(self, start, found)

    monkeypatch.setattr(Bytes, "read_into", cut_first)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: damaged or truncated: bytes .* are wanted"):
        checkpoint.weights(checkpoint.entries[0])


def test_names_are_kept_and_escaped_in_messages(tmp_path):
    names = ["up\x1b[2J", "[red]x[/red]", "back\u202ewards", "a\nb", "nul\0", "<b>"]
    path = Path(tmp_path) / "w.safetensors"
    path.write_bytes(made.safetensors({n: ("F32", (1,), struct.pack("<f", np.nan)) for n in names}))
    checkpoint = open_checkpoint(path)
    assert [e.name for e in checkpoint.entries] == names
    for entry in checkpoint.entries:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.weights(entry)
        assert repr(entry.name) in str(caught.value)
        assert all(c.isprintable() for c in str(caught.value))


def test_a_json_file_that_is_too_long_is_not_read(tmp_path, only_headers):
    path = tmp_path / INDEX
    with path.open("wb") as file:
        file.write(json.dumps({"weight_map": {}}).encode())
        file.truncate(100_000_001)  # of which the disk holds nothing
    refused(path, "100000001 bytes, at most 100000000 are read of an index")
    assert not only_headers
