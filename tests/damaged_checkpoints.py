"""Damaged files: right ones of every format, changed at random, and what becomes of them.

Bytes are flipped, cut out, put in, doubled; lengths, counts, offsets and types rewritten with numbers that overflow.
Then all that can be read is read. A process of its own: one that crashed would show it, and memory can be bounded.
"""

import json
import re
import resource
import struct
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from quantsim.checkpoints import CheckpointError, open_checkpoint
from quantsim.checkpoints.elements import decode
from quantsim.quantizer.blockformats import gguf
from tests import checkpoint_files as made
from tests.resident import most_resident

SEED = 2026
#: What a process may take beyond what it holds when its programs are compiled.
MOST_ADDRESSED = 256 * 2**20
#: Where 32 and 64 bits end, and sizes around those of the files.
NUMBERS = (0, 1, 7, 31, 33, 255, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (
    '"F64"',
    '"F4"',
    '"BOOL"',
    "null",
    "[]",
    "{}",
    "-1",
    "1e3",
    "1e999",
    "[2, 3]",
    '"w"',
    "true",
    *map(str, NUMBERS),
)


# --- right files ----------------------------------------------------------------------------------------------------


def numbers(count, dtype):
    """Bytes of small numbers, none of them NaN."""
    return np.random.default_rng(0).integers(-3, 4, count).astype(dtype).tobytes()


def plain():
    tensors = {
        "embed": ("F32", (4, 6), numbers(24, "<f4")),
        "up.weight": ("F8_E4M3", (8, 16), numbers(128, ml_dtypes.float8_e4m3fn)),
        "up.weight_scale": ("BF16", (8, 1), numbers(8, ml_dtypes.bfloat16)),
        "packed": ("F4", (2, 8), bytes(range(8))),
        "steps": ("I64", (3,), numbers(3, "<i8")),
        "half": ("F16", (5,), numbers(5, "<f2")),
    }
    return {"model.safetensors": made.safetensors(tensors, {"format": "pt"})}


def shards():
    one = {"a": ("F32", (4, 6), numbers(24, "<f4")), "b": ("F16", (5,), numbers(5, "<f2"))}
    two = {"c": ("F64", (2, 2), numbers(4, "<f8"))}
    files = {"m-1.safetensors": made.safetensors(one), "m-2.safetensors": made.safetensors(two)}
    where = dict.fromkeys(one, "m-1.safetensors") | dict.fromkeys(two, "m-2.safetensors")
    return {"model.safetensors.index.json": made.index(where), **files}


def blocks():
    pairs = [
        made.pair("general.architecture", made.STRING, made.text("llama")),
        made.u32("general.alignment", 32),
        made.listed("tokens", made.STRING, 3, made.text("a") + made.text("") + made.text("é")),
        made.listed("scores", 6, 3, numbers(3, "<f4")),
        made.listed("lists", made.ARRAY, 2, struct.pack("<IQ", made.U8, 2) + b"ab" + struct.pack("<IQ", made.U8, 0)),
        made.pair("flag", made.BOOL, b"\1"),
    ]
    return {"w.gguf": made.gguf(quantized(), pairs)}


def quantized():
    return [
        made.Tensor("f32", (2, 5), made.F32, numbers(10, "<f4")),
        made.Tensor("q4_0", (2, 64), made.Q4_0, bytes(72)),
        made.Tensor("q8_0", (3, 32), made.Q8_0, bytes(102)),
        made.Tensor("q4_k", (1, 256), made.Q4_K, bytes(144)),
        made.Tensor("f16", (4,), made.F16, numbers(4, "<f2")),
    ]


def parts():
    one, two = quantized()[:3], quantized()[3:]
    return {made.part_name(0, 2): made.part(0, 2, one, 5), made.part_name(1, 2): made.part(1, 2, two, 5)}


def array():
    return {"w.npy": made.npy(made.described("<f4", "(4, 6)"), numbers(24, "<f4"))}


FORMATS = {"safetensors": plain, "shards": shards, "gguf": blocks, "gguf in parts": parts, "npy": array}


# --- damage ---------------------------------------------------------------------------------------------------------


def flipped(data, rng):
    for at in rng.integers(0, min(len(data), 700), rng.integers(1, 4)):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def cut(data, rng):
    return data[: rng.integers(len(data))]


def cut_out(data, rng):
    at, count = rng.integers(len(data)), rng.integers(1, 40)
    return data[:at] + data[at + count :]


def put_in(data, rng):
    at = rng.integers(len(data))
    return data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[at:]


def doubled(data, rng):
    at, count = rng.integers(len(data)), rng.integers(1, 90)
    return data[: at + count] + data[at:]


def renumbered(data, rng):
    """A field of 16, 32 or 64 bits with another number in it: most where lengths, counts and types are."""
    size = int(rng.choice([2, 4, 8]))
    at = int(rng.integers(min(len(data), 600) - size))
    number = int(NUMBERS[rng.integers(len(NUMBERS))]) % 256**size
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


def nudged(data, rng):
    """A field of 64 bits that is a small number, a little more or less."""
    small = [at for at in range(min(len(data), 600) - 8) if data[at] and not any(data[at + 1 : at + 8])]
    if not small:
        return flipped(data, rng)
    at = int(rng.choice(small))
    data[at] = int(data[at] + rng.integers(-2, 3)) % 256
    return data


def reworded(data, rng):
    """A value of the header's JSON, or of NumPy's literals, replaced by another, with the length mended."""
    first, end = text_of(data)
    header = bytes(data[first:end]).decode("latin-1")  # in which any byte is a character
    values = list(re.finditer(r'"[^"]*"|-?\d+|\[[^\[\]]*\]|True|False', header))
    if not values:
        return flipped(data, rng)
    value = values[rng.integers(len(values))]
    word = WORDS[rng.integers(len(WORDS))] if rng.random() < 0.7 else values[rng.integers(len(values))].group()
    changed = (header[: value.start()] + word + header[value.end() :]).encode("latin-1")
    if data[:1] == b"{":
        return bytearray(changed)
    size = struct.pack("<H", len(changed) % 2**16) if data[:6] == b"\x93NUMPY" else struct.pack("<Q", len(changed))
    return data[: first - len(size)] + size + changed + data[end:]


def text_of(data):
    """Where the text of a header begins and ends."""
    if data[:1] == b"{":
        return 0, len(data)
    if data[:6] == b"\x93NUMPY":
        return 10, 10 + int.from_bytes(data[8:10], "little")
    return (0, 0) if data[:4] == b"GGUF" else (8, 8 + int.from_bytes(data[:8], "little"))


DAMAGE = (flipped, cut, cut_out, put_in, doubled, renumbered, nudged, reworded, reworded, renumbered)


def damaged(files, rng):
    """One of the files of a checkpoint, changed once or twice: its name and bytes."""
    name = list(files)[rng.integers(len(files))]
    data = bytearray(files[name])
    for _ in range(rng.integers(1, 3)):
        if len(data) > 16:
            data = bytearray(DAMAGE[rng.integers(len(DAMAGE))](data, rng))
    return name, bytes(data)


# --- what becomes of it ---------------------------------------------------------------------------------------------


def read_all(path):
    """Every tensor that can be read is, and what is stored of each has the bytes that it should have."""
    checkpoint = open_checkpoint(path)
    for entry in checkpoint.entries:
        if entry.unreadable is None:
            assert len(checkpoint.weights(entry, nonfinite="propagate")) == entry.size
        if entry.storage is not None:
            assert checkpoint.stored(entry).data.nbytes == entry.nbytes
    return len(checkpoint.entries)


def outcome(path):
    """What is said of a file that is refused; nothing of one that is read."""
    try:
        read_all(path)
    except CheckpointError as failure:
        return str(failure)
    return ""


def compiled():
    """The programs that unpack blocks: to compile one takes longer and more than a file may."""
    for kind in gguf.LAYOUTS:
        weights, nbytes = gguf.layout(kind)
        decode(kind, np.zeros(nbytes, np.uint8), np.empty(weights, np.float32))


def bound_memory():
    """From here on memory beyond what is taken, and ``MOST_ADDRESSED``, cannot be had."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_ADDRESSED, resource.RLIM_INFINITY))


def run(folder, kind, count):
    """How many damaged files of a kind were read and refused, the longest time, and the memory of all of them."""
    files, rng = FORMATS[kind](), np.random.default_rng([SEED, list(FORMATS).index(kind)])
    path = made.filled(folder, files) if len(files) > 1 else made.filled(folder, files) / next(iter(files))
    tensors, refusals, slowest, before = read_all(path), [], 0.0, most_resident()
    for _ in range(count):
        name, data = damaged(files, rng)
        (folder / name).write_bytes(data)
        start = time.perf_counter()
        said = outcome(path)
        slowest = max(slowest, time.perf_counter() - start)
        (folder / name).write_bytes(files[name])
        if said:
            refusals.append(said)
    unnamed = [said for said in refusals if not (said.startswith(str(folder)) and said.isprintable())]
    found = {"tensors": tensors, "read": count - len(refusals), "refused": len(refusals), "unnamed": unnamed[:3]}
    return {**found, "seconds": slowest, "bytes": most_resident() - before}


def main(folder, count):
    """All kinds, as JSON."""
    compiled()
    bound_memory()
    return json.dumps({kind: run(Path(folder) / kind, kind, int(count)) for kind in FORMATS})


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
