#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, CPU. jax.random draws float32 normals and Laplacians from uniforms of 23 bits, so they end at
# 5.42 and 11.77 standard deviations, sharply and on both sides. Below 10^7 draws nobody sees it; an absmax scale over a
# larger tensor does, and so does any rare-event estimate. Of 2^29 draws, 32 of either should lie beyond; seen: none.
# NumPy's float32 normals have such draws.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

CHUNK, CHUNKS = 2**24, 32


@partial(jax.jit, static_argnums=0)
def largest(draw, key):
    return jnp.max(jnp.abs(draw(key, (CHUNK,), jnp.float32)))


def largest_of_all(draw):
    return max(float(largest(draw, jax.random.fold_in(jax.random.key(0), i))) for i in range(CHUNKS))


normal, laplace = largest_of_all(jax.random.normal), largest_of_all(jax.random.laplace) / math.sqrt(2)
numpy_draws = np.random.default_rng(0)
beyond = sum(int((abs(numpy_draws.standard_normal(CHUNK, np.float32)) > normal).sum()) for _ in range(CHUNKS))
expected = CHUNK * CHUNKS * math.erfc(normal / math.sqrt(2))
print(f"jax {jax.__version__}: of {CHUNK * CHUNKS} draws the largest is {normal:.4f} (normal), {laplace:.4f} std (Laplace)")
print(f"beyond {normal:.4f} std {expected:.0f} normal draws should lie; NumPy has {beyond}")
assert 5.41 < normal < 5.43 and 11.7 < laplace < 11.8, (normal, laplace)
assert expected > 20 and beyond > 10, (expected, beyond)
PY
