"""Checkpoints larger than memory, which take no disk, and what reading a part of one takes: a process of its own.

Files are made by their header, a few numbers, and a length; where nothing was written the disk holds nothing.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

from quantsim.checkpoints import open_checkpoint
from tests import checkpoint_files as made
from tests.resident import most_resident

CHUNK = 2**22
#: Chunks of the middle of each tensor that are read, too.
CHUNKS = 32
#: A tensor of 4 GB of float32, one of 15 GB of bfloat16, and one of fp8; of GGUF Q8_0 takes the place of the last.
ROWS = {"f32": 2**14, "bf16": 120_000, "last": 2**14}
COLUMNS = 2**16


def safetensors(path):
    sizes = {"f32": ("F32", 4), "bf16": ("BF16", 2), "last": ("F8_E4M3", 1)}
    header, at = {}, 0
    for name, (dtype, nbytes) in sizes.items():
        count = ROWS[name] * COLUMNS * nbytes
        header[name] = made.facts(dtype, (ROWS[name], COLUMNS), at, at + count)
        at += count
    head = made.with_header(header)
    ends = {name: len(head) + facts["data_offsets"][1] for name, facts in header.items()}
    write(path, head, {ends["f32"]: b"\0\0\x80\x3f", ends["bf16"]: b"\x80\x3f", ends["last"]: b"\x38"})


def gguf(path):
    kinds = {"f32": (made.F32, 4, 1), "bf16": (30, 2, 1), "last": (made.Q8_0, 34, 32)}
    tensors, at = [], 0
    for name, (kind, nbytes, block) in kinds.items():
        tensors.append(made.Tensor(name, (ROWS[name], COLUMNS), kind, b"", offset=at))
        at += ROWS[name] * COLUMNS // block * nbytes
    head = made.gguf(tensors)
    ends = [len(head) + tensor.offset for tensor in tensors[1:]] + [len(head) + at]
    last = struct.pack("<e", 1.0) + bytes(31) + b"\1"  # a scale of 1, and codes of 0 but the last
    write(path, head, dict(zip(ends, (b"\0\0\x80\x3f", b"\x80\x3f", last), strict=True)))


def write(path, head, ends):
    """A file of a header, and numbers that end at some bytes, the last one at the end of the file."""
    with path.open("wb") as file:
        file.write(head)
        for end, raw in ends.items():
            file.seek(end - len(raw))
            file.write(raw)


def read_some(path, warm):
    """The growth of memory while a checkpoint is opened, and the first, last and some middle chunks are read."""
    small = open_checkpoint(warm)  # what is compiled, and taken once by libraries, is not of the file
    for entry in small.entries:
        small.weights(entry)
    before = most_resident()
    checkpoint, sums = open_checkpoint(path), {}
    for entry in checkpoint.entries:
        last = checkpoint.weights(entry, entry.size - CHUNK)
        total = float(checkpoint.weights(entry, 0, CHUNK).sum()) + float(last.sum(dtype=np.float64))
        middle = entry.size // CHUNK // 2
        for at in range(middle, middle + CHUNKS):
            total += float(checkpoint.weights(entry, at * CHUNK, CHUNK).sum(dtype=np.float64))
        stored = checkpoint.stored(entry).data
        sums[entry.name] = [total, float(last[-1]), stored.nbytes == entry.nbytes]
    return {"growth": most_resident() - before, "size": path.stat().st_size, "sums": sums}


def main(folder):
    """Both formats, as JSON."""
    found = {}
    for make, ending, kind in ((safetensors, "safetensors", "F8_E4M3"), (gguf, "gguf", "")):
        path, warm = Path(folder) / f"w.{ending}", Path(folder) / f"warm.{ending}"
        make(path)
        shape = (1, CHUNK)
        if kind:
            warm.write_bytes(made.safetensors({"w": (kind, shape, bytes(CHUNK))}))
        else:
            warm.write_bytes(made.gguf([made.Tensor("w", shape, made.Q8_0, bytes(CHUNK // 32 * 34))]))
        found[ending] = read_some(path, warm) | {"disk": path.stat().st_blocks * 512}
    return json.dumps(found)


if __name__ == "__main__":
    print(main(sys.argv[1]))
