"""Slow, independent references in NumPy, float64 where they calculate; nothing here imports quantsim.

A format is given by its facts (exponent bits, mantissa bits, specials), an array by plain NumPy. What the package does
with bit tricks and reductions is done here by listing every level and comparing distances, one block after the other.
"""

from itertools import product

import ml_dtypes
import numpy as np
from scipy.stats import norm

#: The type that holds the same values, where NumPy or ml_dtypes has one.
TYPES = {
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e3m4": ml_dtypes.float8_e3m4,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}

# --- inputs ---------------------------------------------------------------------------------------------------------


def every_bf16() -> np.ndarray:
    """All 65536 bfloat16 values, NaN, infinities and float32 subnormals among them, as float32."""
    return (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)


def every_f16() -> np.ndarray:
    """All 65536 float16 values as float32."""
    with np.errstate(invalid="ignore"):
        return np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)


def wide(x) -> np.ndarray:
    """Values as float64; a signaling NaN is no reason to warn."""
    with np.errstate(invalid="ignore"):
        return np.asarray(x).astype(np.float64)


def midpoints(levels: np.ndarray) -> np.ndarray:
    """The middle of each pair of neighbouring levels, rounded to float32, and the float32 on either side of it."""
    v = np.sort(np.asarray(levels, np.float64))
    middle = ((v[1:] + v[:-1]) / 2).astype(np.float32)
    inf = np.float32(np.inf)
    return np.concatenate([middle, np.nextafter(middle, inf), np.nextafter(middle, -inf)])


def same_bits(got, expected) -> None:
    """Equal as float32 bit patterns, so that -0 is not +0; every NaN equals every other."""
    a, b = np.asarray(got, np.float32), np.asarray(expected, np.float32)
    assert a.shape == b.shape, f"shape {a.shape} is not {b.shape}"
    a, b = np.atleast_1d(a), np.atleast_1d(b)
    wrong = np.flatnonzero((a.view(np.uint32) != b.view(np.uint32)) & ~(np.isnan(a) & np.isnan(b)))
    assert not len(wrong), f"{len(wrong)} of {a.size} differ; first {a.flat[wrong[0]]!r}, not {b.flat[wrong[0]]!r}"


def ulps(got, expected) -> float:
    """Largest distance of ``got`` from ``expected`` in units in the last place of float32."""
    a, b = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return float(np.max(np.abs(a - b) / np.spacing(np.abs(b).astype(np.float32)).astype(np.float64), initial=0.0))


# --- elements -------------------------------------------------------------------------------------------------------


def float_codes(exponent_bits: int, mantissa_bits: int, specials: str) -> np.ndarray:
    """Values of the codes without the sign bit, in order, by the definition of a small float."""
    bias, top = 2 ** (exponent_bits - 1) - (specials != "fnuz"), 2**exponent_bits - 1
    values = []
    for field, mantissa in product(range(top + 1), range(2**mantissa_bits)):
        if field == top and specials == "ieee":
            values.append(np.nan if mantissa else np.inf)
        elif field == top and specials == "fn" and mantissa == 2**mantissa_bits - 1:
            values.append(np.nan)
        elif field == 0:
            values.append(mantissa / 2**mantissa_bits * 2.0 ** (1 - bias))
        else:
            values.append((1 + mantissa / 2**mantissa_bits) * 2.0 ** (field - bias))
    return np.array(values)


def _chosen(x: np.ndarray, low: np.ndarray, high: np.ndarray, rounding: str, to_high: np.ndarray) -> np.ndarray:
    """Of two neighbours around the magnitude x the one a rounding picks; ``to_high`` settles ties to even."""
    if rounding == "truncate":
        return low
    up = x - low > high - x
    tie = x - low == high - x
    return np.where(up | (tie & (to_high if rounding == "even" else True)), high, low)


def round_float(x, exponent_bits: int, mantissa_bits: int, specials: str, rounding: str = "even") -> np.ndarray:
    """Small float nearest to float32 ``x``; finite values saturate, "finite" formats saturate infinities too.

    A tie goes to the even last digit; with one significant digit both are odd and it goes up, as IEEE 754 says.
    """
    table = float_codes(exponent_bits, mantissa_bits, specials)
    table = table[np.isfinite(table)]
    x = wide(x)
    magnitude = np.minimum(np.abs(x), table[-1])
    at = np.clip(np.searchsorted(table, magnitude, side="right") - 1, 0, len(table) - 2)
    digit = (at % 2**mantissa_bits) + np.where(at >= 2**mantissa_bits, 2**mantissa_bits, 0)
    out = _chosen(magnitude, table[at], table[at + 1], rounding, digit % 2 == 1)
    out = np.where(magnitude == table[-1], table[-1], out)
    infinite = {"ieee": np.inf, "fn": np.nan, "fnuz": np.nan, "finite": table[-1]}[specials]
    out = np.where(np.isnan(x), np.nan, np.where(np.isinf(x), infinite, out))
    if specials == "fnuz":  # the code of -0 is that of NaN
        return np.where(out == 0, 0.0, np.copysign(out, x)).astype(np.float32)
    return np.copysign(out, x).astype(np.float32)


def round_integer(x, low: float, high: float, rounding: str = "even") -> np.ndarray:
    """Integer nearest to ``x`` within the range; +0 for zero."""
    x = np.clip(wide(x), low - 2, high + 2)
    away = np.copysign(np.floor(np.abs(x) + 0.5), x)
    r = {"even": np.rint(x), "away": away, "truncate": np.trunc(x)}[rounding]
    return (np.clip(r, low, high) + 0.0).astype(np.float32)


def round_codebook(x, levels) -> np.ndarray:
    """Index of the level nearest to ``x``; of two equally near ones the lower."""
    v = np.asarray(levels, np.float32).astype(np.float64)
    x = np.clip(wide(x), v[0], v[-1])
    return np.argmin(np.abs(x[..., None] - v), axis=-1)


def normal_float(offset: float = 0.9677083) -> np.ndarray:
    """Levels of nf4 as bitsandbytes' ``create_normal_map`` makes them: 8 positive and 7 negative quantiles, and 0."""
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    v = np.sort(np.concatenate([positive, [0.0], negative]))
    return v / v.max()


# --- blocks ---------------------------------------------------------------------------------------------------------


def block_ids(shape: tuple[int, ...], kind: str, size: int = 1, axis: int = 0) -> np.ndarray:
    """For each element the number of the block it belongs to: kind is "tensor", "channel" or "block"."""
    ids = np.zeros(shape, int)
    if kind == "tensor" or not shape:
        return ids
    axis %= len(shape)
    others = [n for i, n in enumerate(shape) if i != axis]
    in_row = -(-shape[axis] // size)
    for index in np.ndindex(*shape):
        rest = [n for i, n in enumerate(index) if i != axis]
        row = int(np.ravel_multi_index(rest, others)) if rest else 0
        ids[index] = index[axis] if kind == "channel" else row * in_row + index[axis] // size
    return ids


def absmax_quantize(w: np.ndarray, ids: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and weights of symmetric absmax integers in float32, as one would write them in NumPy."""
    top = np.float32(2 ** (bits - 1) - 1)
    w = np.asarray(w, np.float32)
    scale = np.array([np.max(np.abs(w[ids == i]), initial=0) for i in range(ids.max() + 1)], np.float32) / top
    s = scale[ids]
    with np.errstate(invalid="ignore", divide="ignore"):
        codes = np.where(s == 0, 0, np.clip(np.round(w / s), -top, top)).astype(np.int8)
    return codes, scale, codes.astype(np.float32) * s


def minmax_quantize(w: np.ndarray, bits: int) -> tuple[np.ndarray, np.float32, int, np.ndarray]:
    """Codes, scale, zero point and weights of one asymmetric block in float32."""
    w, top = np.asarray(w, np.float32), 2**bits - 1
    low, high = min(w.min(), np.float32(0)), max(w.max(), np.float32(0))
    scale = np.float32(high - low) / np.float32(top)
    zero = int(np.round(-low / scale))
    codes = np.clip(np.round(w / scale) + np.float32(zero), 0, top).astype(np.uint8)
    return codes, scale, zero, (codes.astype(np.float32) - np.float32(zero)) * scale


def packed_bytes(codes, bits: int) -> int:
    """Bytes that codes of ``bits`` bits take when packed without gaps."""
    c = np.asarray(codes).astype(np.int64).ravel() & (2**bits - 1)
    return np.packbits((c[:, None] >> np.arange(bits)) & 1).nbytes


# --- calibration ----------------------------------------------------------------------------------------------------


def grid_losses(w: np.ndarray, scales: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Squared error of one block for each of the scales, in float64: nearest level times scale."""
    v = np.sort(np.asarray(levels, np.float64))
    losses = []
    for s in np.float64(scales):
        u = np.float64(w) / s
        at = np.clip(np.searchsorted(v, u), 1, len(v) - 1)
        error = np.minimum(np.abs(u - v[at - 1]), np.abs(u - v[at])) * s
        losses.append(np.sum(error**2))
    return np.array(losses)
