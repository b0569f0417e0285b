#!/usr/bin/env bash
# libgguf 0.2.2 (llama.cpp's quantizers on the CPU) and gguf 0.19.0. K-quants store the scale of a super-block in float16,
# divided once more by the range of the sub-scales, so it becomes 0 while the weights are far above float16's smallest
# number; the minimum of Q4_K and Q5_K survives longer, and is then all that is left. Normal weights, ||error|| / ||w||:
# at a standard deviation of 1e-5 Q5_K 2.2 (zeros would be 1.0), Q6_K 1.0, Q4_0 0.09; at 1e-6 Q4_K and Q5_K 3.0. A mix that
# gives a tensor of such weights "more bits" erases it, or worse.
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

TYPES = ("Q4_0", "Q4_K", "Q5_K", "Q6_K")
unit = np.random.default_rng(0).standard_normal((64, 256))


def relative_error(std, name):
    w = (unit * std).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    data = np.asarray(libgguf.quantize_rows(w, kind)).view(np.uint8)
    e = gguf.quants.dequantize(data, kind).reshape(w.shape).astype(np.float64) - w
    return float(np.sqrt((e**2).sum() / (w.astype(np.float64) ** 2).sum()))


found = {(std, name): relative_error(std, name) for std in (1e-2, 1e-5, 1e-6) for name in TYPES}
print(", ".join(f"{p} {version(p)}" for p in ("libgguf", "gguf")))
print("std    " + "  ".join(f"{name:>5}" for name in TYPES))
for std in (1e-2, 1e-5, 1e-6):
    print(f"{std:<7g}" + "  ".join(f"{found[std, name]:5.2f}" for name in TYPES))
assert all(found[1e-2, name] < 0.1 for name in TYPES), found
assert found[1e-5, "Q4_0"] < 0.1 and 0.99 < found[1e-5, "Q6_K"] < 1.01 and found[1e-5, "Q5_K"] > 1.5, found
assert found[1e-6, "Q4_0"] < 0.2 and min(found[1e-6, "Q4_K"], found[1e-6, "Q5_K"]) > 2, found
PY
