"""JAX's switches change nothing: same bits and types with 64-bit types and strict promotion, and on Explicit axes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import quantsim as qs
from tests import oracles

#: One of each kind of program: casts, integers, calibrations, bounds, stored scales, codebooks, roundings.
SPECS = [
    *("e4m3", "bf16", "tf32", "e4m3fnuz", "bf16:stochastic", "int8:tensor", "int16:block32", "uint4:channel"),
    *("int8:channel:minmax", "int4:block32:minmax:f16", "int8:tensor:p99", "int4:block32:p90", "int4:block32:mse"),
    *("int3:block32:rms:bf16", "e4m3:channel:clip0.5:f16", "int4:block32:absmax:f16:signed", "int8:block32@0-"),
    *("nf4:block32", "e2m1:block16:absmax:e4m3", "int8:block32:absmax:away", "int4:block32:absmax:stochastic"),
]


def fingerprints() -> dict[str, str]:
    """Types and bits of all that quantizers give for one matrix, with a ragged tail."""
    w = np.random.default_rng(1).standard_normal((6, 80)).astype(np.float32)
    found = {}
    for spec in SPECS:
        q, key = qs.parse(spec), qs.populations.key(0) if "stochastic" in spec else None
        qw = q.quantize(w, key=key)
        gradient = jax.grad(lambda w, q=q, key=key: q.roundtrip(w, key=key).sum())(w)
        arrays = [qw.codes, qw.scale, qw.zero_point, qw.dequantize(), q.roundtrip(w, key=key), q.clipped(w), gradient]
        text = [f"{a.dtype} {np.asarray(a).tobytes().hex()}" for a in arrays if a is not None]
        found[spec] = hashlib.sha256(" ".join(text).encode()).hexdigest()
    return found


def test_64_bit_types_and_strict_promotion_change_nothing():
    """Both at once, in a process of their own."""
    switches = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUM_CPU_DEVICES": "4"}
    program = "import json; from tests.test_modes import fingerprints; print(json.dumps(fingerprints()))"
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | switches, cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == fingerprints()


ON_A_MESH = [
    "e4m3",
    "int8:tensor",
    "int8:channel",
    "int8:channel@1",
    "int4:block32",
    "int4:block4@0",
    "int4:block48@0-",
]


@pytest.mark.parametrize("spec", ON_A_MESH)
@pytest.mark.parametrize("sharded", [PartitionSpec("d", None), PartitionSpec(None, "d")], ids=str)
def test_arrays_on_explicit_axes(spec, sharded):
    """As ``jax.make_mesh`` makes them; weights come back as they were sharded."""
    q, mesh = qs.parse(spec), jax.make_mesh((4,), ("d",))
    plain = np.random.default_rng(2).standard_normal((8, 128)).astype(np.float32)
    w = jax.device_put(plain, NamedSharding(mesh, sharded))
    qw = q.quantize(w)
    for found in (qw.dequantize(), q.roundtrip(w)):
        oracles.same_bits(found, q.roundtrip(plain))
        assert found.sharding == w.sharding
    np.testing.assert_array_equal(qw.codes, q.quantize(plain).codes)
    np.testing.assert_array_equal(q.clipped(w), q.clipped(plain))
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(lambda w: q.roundtrip(w).sum()))(w)
    np.testing.assert_array_equal(gradient, np.where(q.clipped(plain), 0, 1))
