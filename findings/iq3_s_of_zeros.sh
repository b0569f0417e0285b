#!/usr/bin/env bash
# libgguf 0.2.2 (llama.cpp's quantizers on the CPU) and gguf 0.19.0. Where 32 weights are all zero, quantize_row_iq3_s_impl
# goes on to the next 32 without moving its pointers into the block: the low bits of the points and the signs of all that
# follows are stored 32 weights too early, their ninth bits and scales in the right place. Normal weights, ||error|| / ||w||,
# with the second 32 of every 256 weights zero: IQ3_S 1.35, more than if zeros were written (1.0); IQ3_XXS 0.21.
# Pruned or padded weights of a checkpoint are enough for it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check libgguf==0.2.2 gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import gguf
import libgguf
import numpy as np

TYPES = ("IQ3_S", "IQ3_XXS", "Q3_K")
whole = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
pruned = whole.copy()
pruned[:, 32:64] = 0


def relative_error(w, name):
    kind = gguf.GGMLQuantizationType[name]
    data = np.asarray(libgguf.quantize_rows(w, kind)).view(np.uint8)
    e = gguf.quants.dequantize(data, kind).reshape(w.shape).astype(np.float64) - w
    return float(np.sqrt((e**2).sum() / (w.astype(np.float64) ** 2).sum()))


print(", ".join(f"{p} {version(p)}" for p in ("libgguf", "gguf")))
for of, w in (("all weights", whole), ("32 of 256 are zero", pruned)):
    print(f"{of:<20}" + "  ".join(f"{name} {relative_error(w, name):.2f}" for name in TYPES))
assert all(relative_error(whole, name) < 0.3 for name in TYPES)
assert relative_error(pruned, "IQ3_S") > 1 and relative_error(pruned, "IQ3_XXS") < 0.3
PY
