"""Exactness self-test: what must hold on this machine before its numbers mean anything."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from quantsim import formats
from quantsim.cli import terminal
from quantsim.cli.endings import CheckFailedError
from quantsim.cli.terminal import Flag
from quantsim.measure import error
from quantsim.outputs.products import integer_product, product
from quantsim.populations import Normal, key
from quantsim.quantizer import parse
from quantsim.quantizer.blockformats import gguf
from quantsim.rounding import snap

#: Element formats, and NumPy's types of the same values.
_TYPES = {
    "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
}


def _weights() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, and NumPy's codes and scale of their rows."""
    w = np.asarray(Normal().sample(key(0), (512, 512)))
    scale = np.abs(w).max(axis=1) / np.float32(127)
    return w, np.round(w / scale[:, None]), scale


def _codes() -> int:
    w, codes, _ = _weights()
    return int((np.asarray(parse("int8:channel").quantize(w).codes) != codes).sum())


def _errors() -> int:
    w, codes, scale = _weights()
    e = jax.jit(lambda w: error(w, parse("int8:channel").roundtrip(w)))(w)
    return int((np.asarray(e) != codes * scale[:, None] - w).sum())


def _floats() -> int:
    x = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    wrong = 0
    for name, dtype in _TYPES.items():
        inside = x[np.abs(x) <= formats.largest(formats.parse(name))]
        found = np.asarray(snap(jnp.asarray(inside), formats.parse(name)))
        wrong += int((found != inside.astype(dtype).astype(np.float32)).sum())
    return wrong


def _bytes() -> int:
    """Bytes of q8_0 against NumPy: codes half away from zero by the reciprocal of the float32 scale."""
    w = _weights()[0].reshape(-1, 32)
    d = np.abs(w).max(axis=1, keepdims=True) / np.float32(127)
    units = w * (np.float32(1) / d)
    codes = np.trunc(units + np.copysign(np.float32(0.5), units)).astype(np.int8)
    expected = np.concatenate([d.astype("<f2").view(np.uint8), codes.view(np.uint8)], axis=1)
    return int((np.asarray(gguf.pack(w, "Q8_0")) != expected).sum())


def _draws() -> int:
    k = key(7)
    return int((np.asarray(Normal().sample(k, (4097,))) != np.asarray(jax.random.normal(k, (4097,)))).sum())


def _integers() -> int:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-127, 128, (64, 4096)).astype(np.int8) for _ in range(2))
    found = np.asarray(integer_product(jnp.asarray(a), jnp.asarray(b)))
    return int((found != a.astype(np.int64) @ b.astype(np.int64).T).sum())


def _products() -> int:
    """Products whose error exceeds the float32 bound, fan-in times half an ulp of the sum of magnitudes."""
    w, _, _ = _weights()
    exact, bound = w.astype(np.float64) @ w.astype(np.float64).T, np.abs(w) @ np.abs(w).T
    return int((np.abs(np.asarray(product(jnp.asarray(w), jnp.asarray(w))) - exact) > 512 * 2.0**-24 * bound).sum())


CHECKS: dict[str, Callable[[], int]] = {
    "int8 codes equal NumPy's division": _codes,
    "errors are not fused (bit for bit NumPy's)": _errors,
    "bf16, e4m3, e5m2, e2m1 equal ml_dtypes on all bf16 inputs": _floats,
    "q8_0 bytes equal NumPy's": _bytes,
    "normal draws equal jax.random's bits": _draws,
    "int8 products accumulate exactly in int32": _integers,
    "float32 products keep float32 precision": _products,
}


def examine() -> dict[str, Any]:
    """Versions, devices, and for each check the number of mismatches; all must be 0."""
    return {
        "versions": {p: version(p) for p in ("jax", "jaxlib", "numpy", "ml_dtypes", "scipy", "matplotlib")}
        | {"python": platform.python_version()},
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "mismatches": {name: check() for name, check in CHECKS.items()},
    }


def show(json: Flag = False) -> None:
    """Versions, devices, and an exactness self-test of this machine.

    Args:
        json: print JSON.
    """
    found = examine()
    if json:
        print(terminal.json_text(found))
    else:
        print("  ".join(f"{k} {v}" for k, v in found["versions"].items()) + "\n" + "\n".join(found["devices"]))
        for what, n in found["mismatches"].items():
            print(f"{'FAIL' if n else 'ok  '} {what}: {n} mismatches")
    if any(found["mismatches"].values()):
        raise CheckFailedError("this machine does not compute exactly: its numbers cannot be compared")
