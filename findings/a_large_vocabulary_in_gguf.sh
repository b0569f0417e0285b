#!/usr/bin/env bash
# gguf 0.19.0 (gguf-py), Python 3.11. GGUFReader, the official way to read a GGUF file in Python, makes NumPy memory maps
# of one number each for everything in an array of metadata. A model with Gemma's vocabulary of 262,144 tokens has three
# such arrays (tokens, scores, types), so that opening the file costs 1,048,576 memory maps, whatever tensor is wanted:
# seen are 17 s of CPU and 0.7 GB of memory for Gemma 3 270M's file of 240 MB, and for the 7 MB file made here, which
# holds a vocabulary and one small tensor, as many maps, as much time, and 98 times the file's size of memory.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/vocabulary.gguf" <<'PY'
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np

TOKENS = 262_144
path = Path(sys.argv[1])
writer = gguf.GGUFWriter(path, "llama")
writer.add_token_list([f"token {number}" for number in range(TOKENS)])
writer.add_token_scores([0.0] * TOKENS)
writer.add_token_types([1] * TOKENS)
writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


before, started = peak(), time.process_time()
reader = gguf.GGUFReader(path)
seconds, grown = time.process_time() - started, peak() - before
maps = sum(len(field.parts) for field in reader.fields.values())
size = path.stat().st_size
print(f"gguf {version('gguf')}: {size / 1e6:.1f} MB with {TOKENS} tokens become {maps} memory maps,")
print(f"{grown / 1e6:.0f} MB of memory ({grown / size:.0f} times the file), {seconds:.1f} s of CPU")
assert maps >= 4 * TOKENS, maps
assert grown > 10 * size, (grown, size)
PY
