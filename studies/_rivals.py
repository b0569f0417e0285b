"""What quantsim is timed against: the same work in NumPy with the gguf package, in C, in torch and in torch.compile.

Each does it as its users would: NumPy with arrays, ml_dtypes for small floats and gguf for q8_0 and q4_0; C with the
quantizers of ggml, which libgguf calls on one thread; torch with tensors on the device that JAX computes on. Nothing
here calls a quantizer of quantsim.
"""

import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import jax
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from quantsim.formats import FORMATS, levels

F32 = NDArray[np.float32]
Round = Callable[[F32], Any]
#: Name of a contender: NumPy with the package of GGUF.
NUMPY_GGUF = "NumPy + gguf"
#: Name of a contender: the quantizers of ggml, which the package libgguf binds.
C_REFERENCE = "C"
#: Package: what its contenders' names begin with.
_NEEDED = {"torch": "torch", "gguf": NUMPY_GGUF, "libgguf": C_REFERENCE}
_NEEDED_FOR_LAYERS = {"neural-compressor-pt": "neural-compressor", "qwix": "qwix"}


@cache
def optional(name: str) -> Any:
    """A module of the extra ``bench``, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def missing(contenders: Iterable[str], *, among_layers: bool = False) -> str | None:
    """What to say if contenders, those of layers included, are absent: of which package, and how to install it."""
    needed, here = _NEEDED | (_NEEDED_FOR_LAYERS if among_layers else {}), set(contenders)
    absent = [package for package, start in needed.items() if not any(c.startswith(start) for c in here)]
    names = " and ".join(filter(None, (", ".join(absent[:-1]), *absent[-1:])))
    return f"{names} not installed, so not compared: pip install 'quantsim-jax[bench]'" if absent else None


# --- NumPy ----------------------------------------------------------------------------------------------------------


def statistics(w: F32, w_hat: F32) -> tuple[float, ...]:
    """Mean e², max |e|, mean |e|, mean e, sum w²."""
    e = w_hat - w
    magnitude = np.abs(e)
    values = np.mean(e * e), np.max(magnitude), np.mean(magnitude), np.mean(e), np.sum(w * w)
    return tuple(float(v) for v in values)


def packed(kind: str, w: F32) -> NDArray[np.uint8]:
    """Bytes of a GGUF type. Raises NotImplementedError for types that the package cannot quantize."""
    gguf = optional("gguf")
    return gguf.quants.quantize(w, gguf.GGMLQuantizationType[kind.upper()])


def unpacked(kind: str, data: NDArray[np.uint8]) -> F32:
    """Weights of the bytes of a GGUF type."""
    gguf = optional("gguf")
    with np.errstate(all="ignore"):  # of scales that are not finite
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.upper()])


def can_pack(kind: str) -> bool:
    """Whether the package quantizes this type, and not only dequantizes it."""
    try:
        packed(kind, np.zeros((1, 256), np.float32))
    except NotImplementedError:
        return False
    return True


def packed_in_c(kind: str, w: F32) -> NDArray[np.uint8]:
    """Bytes of a GGUF type by the reference, whatever the type."""
    libgguf = optional("libgguf")
    return libgguf.quantize_rows(w, libgguf.GGMLQuantizationType[kind.upper()])


_TYPES = {
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
_TOP = {name: float(ml_dtypes.finfo(t).max) for name, t in _TYPES.items()}


def _cast(name: str, x: F32) -> F32:
    top = _TOP[name]
    return np.clip(x, -top, top).astype(_TYPES[name]).astype(np.float32)


def _integer(top: float, x: F32) -> F32:
    return np.clip(np.rint(x), -top, top)


def _nearest(values: F32, x: F32) -> F32:
    middles = (values[1:] + values[:-1]) / 2
    return values[np.searchsorted(middles, x)]


def _element(name: str) -> tuple[float, Round]:
    """Largest level of a format, and rounding to its levels."""
    if name in _TYPES:
        return _TOP[name], partial(_cast, name)
    if name.startswith("int"):
        top = 2.0 ** (int(name[3:]) - 1) - 1
        return top, partial(_integer, top)
    values = levels(FORMATS[name]).astype(np.float32)
    return float(values[-1]), partial(_nearest, values)


def _rows(granularity: str, w: F32) -> F32:
    size = {"tensor": w.size, "channel": w.shape[-1]}.get(granularity) or int(granularity.removeprefix("block"))
    return w.reshape(-1, size)


def _scaled(granularity: str, element: tuple[float, Round], ratio: float, w: F32) -> F32:
    (top, snap), b = element, _rows(granularity, w)
    scale = np.abs(b).max(axis=1, keepdims=True) * np.float32(ratio) / np.float32(top)
    return (snap(b / scale) * scale).reshape(w.shape)


def _minmax(granularity: str, bits: int, w: F32) -> F32:
    b, top = _rows(granularity, w), np.float32(2**bits - 1)
    low, high = np.minimum(b.min(axis=1, keepdims=True), 0), np.maximum(b.max(axis=1, keepdims=True), 0)
    scale = (high - low) / top
    zero = np.rint(-low / scale)
    return ((np.clip(np.rint(b / scale) + zero, 0, top) - zero) * scale).reshape(w.shape)


def _microscaling(snap: Round, emax: int, w: F32) -> F32:
    b = w.reshape(-1, 32)
    scale = np.ldexp(np.float32(1), np.frexp(np.abs(b).max(axis=1, keepdims=True))[1] - 1 - emax)
    return (snap(b / scale) * scale).reshape(w.shape)


def _nvfp4(w: F32) -> F32:
    b = w.reshape(-1, 16)
    top = np.abs(b).max(axis=1, keepdims=True)
    whole = top.max() / np.float32(6 * 448)
    scale = _cast("e4m3", top / 6 / whole) * whole
    return (_cast("e2m1", b / scale) * scale).reshape(w.shape)


def _mxint8(x: F32) -> Any:
    return np.clip(np.rint(x * 64), -127, 127) / 64


def _through_bytes(kind: str, w: F32) -> F32:
    return unpacked(kind, packed(kind, w))


def roundtrip(spec: str) -> Round:
    """What a quantizer makes of a matrix; no row or block of it may be all zeros."""
    name, granularity, calibration, *_ = (*spec.split(":"), "", "")
    if name in ("q8_0", "q4_0"):
        return partial(_through_bytes, name)
    if name == "nvfp4":
        return _nvfp4
    if name == "mxint8":
        return partial(_microscaling, _mxint8, 0)
    if name.startswith("mxfp"):
        element = {"mxfp4": "e2m1"}.get(name) or name.split("_")[1]
        return partial(_microscaling, partial(_cast, element), int(np.frexp(_TOP[element])[1]) - 1)
    if not granularity:
        return partial(_cast, name)
    if calibration == "minmax":
        return partial(_minmax, granularity, int(name[3:]))
    ratio = float(calibration.removeprefix("clip") or 1)
    return partial(_scaled, granularity, _element(name), ratio)


def numpy_statistics(spec: str, w: F32) -> tuple[float, ...]:
    """The five statistics of weights under a quantizer."""
    return statistics(w, roundtrip(spec)(w))


def numpy_drawn(law: str, rng: np.random.Generator, out: F32) -> None:
    """Fill a buffer, on one thread; of these laws only the normal is drawn in float32."""
    if law == "normal":
        rng.standard_normal(dtype=np.float32, out=out)
    else:
        out[:] = rng.standard_t(5, out.shape) if law == "t5" else rng.laplace(0, 1, out.shape)


def numpy_sweep(specs: Sequence[str], shape: tuple[int, int], arrays: int) -> list[tuple[float, ...]]:
    """Statistics of normal arrays under every quantizer, array by array, so that each stays in cache."""
    rng, w, found = np.random.default_rng(0), np.empty(shape, np.float32), []
    for _ in range(arrays):
        numpy_drawn("normal", rng, w)
        found += [numpy_statistics(spec, w) for spec in specs]
    return found


# --- torch ----------------------------------------------------------------------------------------------------------


def torch_device() -> str:
    """Torch's name of the kind of device that JAX computes on."""
    return "cuda" if jax.default_backend() == "gpu" and optional("torch").cuda.is_available() else "cpu"


def wait() -> None:
    """Until torch has done what it was asked to."""
    if optional("torch") and torch_device() == "cuda":
        optional("torch").cuda.synchronize()


def torch_statistics(w: Any) -> tuple[Any, ...]:
    """The five statistics of block-32 int8, of a tensor of whole blocks."""
    b = w.view(-1, 32)
    top = b.abs().amax(1, keepdim=True).clamp_min(1e-30)  # a block of zeros keeps its codes 0
    e = (b * (127 / top)).round() * (top / 127) - b
    magnitude = e.abs()
    return (e * e).mean(), magnitude.max(), magnitude.mean(), e.mean(), (b * b).sum()


def torch_drawn(law: str, out: Any) -> None:
    """Fill a tensor, with torch's own threads."""
    torch = optional("torch")
    if law == "normal":
        out.normal_()
        return
    of = torch.distributions
    zero, one = torch.zeros((), device=out.device), torch.ones((), device=out.device)
    out.copy_((of.StudentT(5 * one) if law == "t5" else of.Laplace(zero, one)).sample(out.shape))
