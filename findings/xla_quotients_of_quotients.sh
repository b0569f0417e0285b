#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, CPU. Under jit XLA rewrites (x / b) / c to x / (b * c) and x / (b / c) to (x * c) / b, although
# the product may over- or underflow where both quotients do not. Scales of scales (a block's over a tensor's) are such
# quotients. Seen: 1e30 / 1e25 / 1e25 = 0 instead of 1e-20, 3e-30 / 1e-25 / 1e-25 = inf instead of 3e20, without a warning;
# of 2^20 ordinary quotients 35 % differ from NumPy's in the last bit, and none when not jitted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jaxlib
import numpy as np


def quotient(x, b, c):
    return x / b / c


def by_quotient(x, b, c):
    return x / (b / c)


jitted, jitted_by = jax.jit(quotient), jax.jit(by_quotient)
x, b, c = np.float32([1e30, 3e-30]), np.float32([1e25, 1e-25]), np.float32([1e25, 1e-25])
far, far_by = np.asarray(jitted(x, b, c)), np.asarray(jitted_by(x, b, c))
draws = np.random.default_rng(0)
w = draws.standard_normal(2**20, np.float32)
d, s = (draws.uniform(0.5, 3.5, 2**20).astype(np.float32) for _ in range(2))
exact = quotient(w, d, s)
print(f"jax {jax.__version__}, jaxlib {jaxlib.__version__}")
print("x / b / c    NumPy", quotient(x, b, c), " jitted", far)
print("x / (b / c)  NumPy", by_quotient(x, b, c), " jitted", far_by)
share = float(np.mean(np.asarray(jitted(w, d, s)) != exact))
eager = float(np.mean(np.asarray(quotient(jax.numpy.asarray(w), d, s)) != exact))
print(f"last bit differs: {share:.1%} jitted, {eager:.1%} not jitted")
assert far.tolist() == [0.0, np.inf], far
assert far_by.tolist() == [np.inf, 0.0], far_by
assert 0.25 < share < 0.45 and eager == 0.0, (share, eager)
PY
