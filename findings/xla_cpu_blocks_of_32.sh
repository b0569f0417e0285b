#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, CPU with AVX2 or more. Dequantizing int8 codes, d[:, None] * codes.astype(float32), is 2.5
# times slower where a block has 16 or 32 codes than where it has 8, 64 or 128: the program of 32, the block of GGUF and
# MX, is written for single numbers. With the compiler option xla_backend_optimization_level=1 in place of the default,
# which is the highest, 32 is as quick as 64. Seen on an AMD EPYC, M weights/s of 2^17: 8: 6,400, 16: 3,000, 32: 3,000,
# 64: 7,500, 128: 7,400, and 32 at level 1: 7,800. Times are the least of 200 turns; ratios of 1.5 are asked.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import time

import jax
import jaxlib
import numpy as np

WEIGHTS = 2**17


def dequantize(codes, d):
    return d[:, None] * codes.astype(jax.numpy.float32)


def program(block, options):
    codes = np.random.default_rng(0).integers(-127, 128, (WEIGHTS // block, block), dtype=np.int8)
    arguments = jax.device_put((codes, np.ones(WEIGHTS // block, np.float32)))
    compiled = jax.jit(dequantize, compiler_options=options).lower(*arguments).compile()
    compiled(*arguments).block_until_ready()
    return compiled, arguments


level = {"xla_backend_optimization_level": 1}
programs = {f"{block}": program(block, {}) for block in (16, 32, 64, 128)} | {"32, level 1": program(32, level)}
least = dict.fromkeys(programs, float("inf"))
for _ in range(200):
    for name, (compiled, arguments) in programs.items():
        start = time.perf_counter()
        compiled(*arguments).block_until_ready()
        least[name] = min(least[name], time.perf_counter() - start)
print(f"jax {jax.__version__}, jaxlib {jaxlib.__version__}")
for name, seconds in least.items():
    print(f"block {name}: {WEIGHTS / seconds / 1e6:,.0f} M weights/s")
assert least["32"] > 1.5 * least["64"] and least["32"] > 1.5 * least["128"], least
assert least["32"] > 1.5 * least["32, level 1"], least
assert least["16"] > 1.5 * least["64"], least
PY
