#!/usr/bin/env bash
# libgguf 0.2.2, which builds llama.cpp's C quantizers, and gguf 0.19.0, which unpacks. An imatrix of ones, which says that
# all inputs are equally important, is not the same as none: without one the searches below four bits weigh the error of a
# weight by its square, and what large weights gain all others lose. On normal weights IQ3_S then has 15.6 dB of signal to
# noise, less than Q3_K of as many bits (3.4375) with 16.4; with ones 17.3 and 16.8. IQ1_M has 4.7 dB without, less than
# IQ1_S, which has fewer bits and is refused without: 6.3; with ones 6.9. Gains of 1 dB are asked of IQ3_S, IQ3_XXS and IQ1_M.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check libgguf==0.2.2 gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import libgguf
import numpy as np
from gguf import GGMLQuantizationType, quants

w = np.random.default_rng(0).standard_normal((64, 1024), np.float32)
ones = np.ones(w.shape[1], np.float32)


def sqnr_db(name, imatrix):
    data = libgguf.quantize_rows_raw(libgguf.GGMLQuantizationType[name], w, *w.shape, imatrix)
    rows = np.frombuffer(data, np.uint8).reshape(len(w), -1)
    error = quants.dequantize(rows, GGMLQuantizationType[name]) - w
    return -10 * np.log10(float((error**2).sum() / (w**2).sum()))


print(f"libgguf {version('libgguf')}, gguf {version('gguf')}")
without = {name: sqnr_db(name, None) for name in ("IQ1_M", "IQ2_S", "IQ3_XXS", "IQ3_S", "Q2_K", "Q3_K")}
equal = {name: sqnr_db(name, ones) for name in (*without, "IQ1_S")}
for name, found in equal.items():
    said = f"{without[name]:.2f} dB" if name in without else "refused"
    print(f"{name}: {said} without an imatrix, {found:.2f} dB with ones")
assert all(equal[name] > without[name] + 1 for name in ("IQ1_M", "IQ3_XXS", "IQ3_S")), (without, equal)
assert without["IQ3_S"] < without["Q3_K"] and equal["IQ3_S"] > equal["Q3_K"], (without, equal)
assert without["IQ1_M"] < equal["IQ1_S"] < equal["IQ1_M"], (without, equal)
PY
