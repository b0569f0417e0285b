"""OCP MX and NVFP4 written out in NumPy from the specifications, one row a block; nothing here imports quantsim."""

from functools import lru_cache

import ml_dtypes
import numpy as np

from tests import oracles

FLOAT_MAX = float(np.finfo(np.float32).max)

#: By the specification: type of the elements, largest value, its exponent, its digits after the leading one.
ELEMENTS = {
    "mxfp4": (ml_dtypes.float4_e2m1fn, 6.0, 2, 1),
    "mxfp6_e2m3": (ml_dtypes.float6_e2m3fn, 7.5, 2, 3),
    "mxfp6_e3m2": (ml_dtypes.float6_e3m2fn, 28.0, 4, 2),
    "mxfp8_e4m3": (ml_dtypes.float8_e4m3fn, 448.0, 8, 3),
    "mxfp8_e5m2": (ml_dtypes.float8_e5m2, 57344.0, 15, 2),
    "mxint8": (None, 127 / 64, 0, 6),
    "mxint4": (None, 7 / 4, 0, 2),
}


def flushed(x: np.ndarray) -> np.ndarray:
    """Float32 whose subnormals are zeros."""
    return np.where(np.abs(x) < 2.0**-126, np.copysign(0.0, x), x).astype(np.float32)


def shared_exponent(top: float, rule: str, largest: float, emax: int, digits: int) -> int:
    """Exponent of the scale of a block by its rule; every operation is exact in float64."""
    if top == 0:
        return -127
    fraction, exponent = np.frexp(top)  # top = fraction 2^exponent, 1/2 <= fraction < 1
    if rule == "floor":
        s = exponent - 1 - emax
    elif rule == "ceil":
        s = exponent - (fraction == 0.5) - emax
    elif rule == "even":
        s = np.frexp(np.rint(fraction * 2.0 ** (digits + 1)))[1] - (digits + 1) + exponent - 1 - emax
    else:
        s = next(k for k in range(-170, 170) if top <= largest * 2.0**k)
    return int(np.clip(s, -127, 127 - emax))


def mx(w: np.ndarray, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Element codes, scale codes and weights of rows that are one block each."""
    name, rule = (*text.split(":"), "floor")[:2]
    kind, largest, emax, digits = ELEMENTS[name]
    w = flushed(w).astype(np.float64)
    s = np.array([shared_exponent(row.max(), rule, largest, emax, digits) for row in np.abs(w)])[:, None]
    x = np.clip(w / 2.0**s, -largest, largest)
    if kind is None:
        codes = np.rint(x * 2.0**digits).astype(np.int8)
        levels = codes / 2.0**digits
    else:
        levels = flushed(x).astype(kind)
        codes = levels.view(np.uint8)
    scale = (s + 127).astype(np.uint8)
    exact = np.float64(levels) * scale.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    return codes, scale[:, 0], flushed(exact)


def nvfp4(w: np.ndarray, two_level: bool) -> tuple[np.ndarray, np.ndarray, np.float32, np.ndarray]:
    """Element codes, scale codes, tensor scale and weights of rows that are one block each, in NumPy's float32."""
    f, w = np.float32, flushed(w)
    top = np.abs(w).max(axis=-1, keepdims=True)
    tensor = f(1)
    with np.errstate(under="ignore"):
        if two_level:
            tensor = max(flushed(top.max() / f(6 * 448))[()], f(2.0**-126))
        scale = np.minimum(flushed(top / (f(6) * tensor)), f(448)).astype(ml_dtypes.float8_e4m3fn)
        step = flushed(scale.astype(f) * tensor)
        x = np.divide(w, step, out=np.zeros_like(w), where=step > 0)
        levels = flushed(np.clip(x, -6, 6)).astype(ml_dtypes.float4_e2m1fn)
        weights = flushed(levels.astype(f) * step)
    return levels.view(np.uint8), scale.view(np.uint8)[:, 0], tensor, weights


# --- blocks of every kind -------------------------------------------------------------------------------------------


@lru_cache
def blocks(size: int) -> np.ndarray:
    """Rows of one block: bulk, heavy tails, an outlier, ties, zeros, and scales from 2^-127 to the top of float32."""
    rng = np.random.default_rng(0)
    bulk = rng.standard_normal((24, size))
    outlier = np.where(np.arange(size) == 5, 300.0, bulk[:4])
    # midpoints of the levels of every element: odd multiples of a power of two, up to nine digits
    ties = np.ldexp(rng.integers(-256, 256, (48, size)) * 2 + 1.0, -rng.integers(0, 9, (48, 1)))
    every = [bulk * 0.02, rng.standard_t(5, (24, size)), outlier, ties, ties / 64, np.zeros((1, size)), -0.0 * bulk[:1]]
    # the maxima on which the rules part: each largest level, each carry, each power of two, and one ulp beside them
    edges = np.array([1, 1.25, 1.5, 1.75, 1.875, 1.9375, 127 / 64, 255 / 128, 1.96875])
    edges = np.concatenate([oracles.midpoints([e, e]) for e in edges]).astype(np.float64)[:, None]
    every.append(np.concatenate([edges, edges * rng.uniform(-0.6, 0.6, (len(edges), size - 1))], axis=1))
    exponents = np.r_[-126:-98, 100:127][:, None]
    every.append(np.ldexp(rng.uniform(-2, 2, (len(exponents), size)), exponents))
    every.append(np.ldexp(rng.standard_normal((4, size)), -128))  # subnormals, some of them
    every.append(np.where(np.arange(size) < 2, FLOAT_MAX, bulk[:1] * 1e37))
    return np.concatenate(every).astype(np.float32)
