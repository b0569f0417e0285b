"""JAX's switches change nothing: same bits and types with 64-bit types and strict promotion, and on Explicit axes."""

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import cache, partial
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


#: Those whose bits are compared in a process of its own, which takes long: one of each way of finding scales or codes.
IN_A_PROCESS = [
    *("e4m3", "bf16:stochastic", "int4:block32:minmax:f16", "int4:block32:p90", "int4:block32:mse", "nf4:block32"),
    "e2m1:block16:absmax:e4m3",
]


def matrix() -> np.ndarray:
    """Normal weights with a ragged tail of each row."""
    return np.random.default_rng(1).standard_normal((6, 80)).astype(np.float32)


def everything(spec: str, w) -> list:
    """All that a quantizer gives for one matrix; the gradient last."""
    q, key = qs.parse(spec), qs.populations.key(0) if "stochastic" in spec else None
    qw = q.quantize(w, key=key)
    roundtrip, gradient = jax.vjp(lambda w: q.roundtrip(w, key=key), w)
    arrays = [qw.codes, qw.scale, qw.zero_point, qw.dequantize(), roundtrip, q.clipped(w), *gradient(w)]
    return [a for a in arrays if a is not None]


def fingerprint(arrays: list) -> str:
    """Types and bits."""
    text = [f"{a.dtype} {np.asarray(a).tobytes().hex()}" for a in arrays]
    return hashlib.sha256(" ".join(text).encode()).hexdigest()


def fingerprints() -> dict[str, str]:
    """Of one program for each quantizer, and of the functions one by one for the first."""
    found = {spec: fingerprint(jax.jit(partial(everything, spec))(matrix())) for spec in IN_A_PROCESS}
    return found | {"one by one": fingerprint(everything(IN_A_PROCESS[0], matrix()))}


def test_64_bit_types_and_strict_promotion_change_no_bit():
    """Both at once, in a process of their own."""
    switches = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUM_CPU_DEVICES": "4"}
    program = "import json; from tests.test_modes import fingerprints; print(json.dumps(fingerprints()))"
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | switches, cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == fingerprints()


@pytest.mark.parametrize("spec", SPECS)
def test_64_bit_types_and_strict_promotion_change_no_operation(spec):
    """The types that come out are the same, and no array is of float64: the operations are those of float32."""
    expected = jax.eval_shape(partial(everything, spec), matrix())
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        program, results = jax.make_jaxpr(partial(everything, spec), return_shape=True)(matrix())
    assert [(a.shape, a.dtype) for a in results] == [(a.shape, a.dtype) for a in expected]
    assert not re.findall(r"f64\[\d.*", str(program))


ON_A_MESH = [
    "e4m3",
    "int8:tensor",
    "int8:channel",
    "int8:channel@1",
    "int4:block32",
    "int4:block4@0",
    "int4:block48@0-",
]


@cache
def without_a_mesh(spec: str) -> list:
    w = np.random.default_rng(2).standard_normal((8, 128)).astype(np.float32)
    return [w, *jax.device_get(jax.jit(partial(everything, spec))(w))]


@pytest.mark.parametrize("spec", ON_A_MESH)
@pytest.mark.parametrize("sharded", [PartitionSpec("d", None), PartitionSpec(None, "d")], ids=str)
def test_arrays_on_explicit_axes(spec, sharded):
    """As ``jax.make_mesh`` makes them; weights come back as they were sharded."""
    plain, *expected = without_a_mesh(spec)
    mesh = jax.make_mesh((4,), ("d",))
    w = jax.device_put(plain, NamedSharding(mesh, sharded))
    with jax.set_mesh(mesh):
        found = jax.jit(partial(everything, spec))(w)
    for one, of_plain in zip(found, expected, strict=True):
        oracles.same_bits(one, of_plain)
    w_hat, roundtrip, clipped, gradient = found[-4:]
    assert w_hat.sharding == roundtrip.sharding == w.sharding
    np.testing.assert_array_equal(gradient, np.where(clipped, 0, plain))


@pytest.mark.parametrize("sharded", [PartitionSpec("d", None), PartitionSpec(None, "d")], ids=str)
def test_each_function_takes_arrays_on_explicit_axes(sharded):
    """Where no mesh is set, too: weights are checked, and the mesh is found in them."""
    plain, *expected = without_a_mesh("int4:block32")
    q, w = qs.parse("int4:block32"), jax.device_put(plain, NamedSharding(jax.make_mesh((4,), ("d",)), sharded))
    qw = q.quantize(w)
    w_hat, roundtrip = qw.dequantize(), q.roundtrip(w)
    for one, of_plain in zip([qw.codes, qw.scale, w_hat, roundtrip, q.clipped(w)], expected, strict=False):
        oracles.same_bits(one, of_plain)
    assert w_hat.sharding == roundtrip.sharding == w.sharding
