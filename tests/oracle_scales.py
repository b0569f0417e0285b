"""Stored scales of any element, in one level and two, from their definition in NumPy; nothing here imports quantsim.

A block is a row. Quotients and products are those of float32, each rounded once; sums of errors are in float64.
"""

from functools import lru_cache

import numpy as np

from tests import oracles
from tests.oracle_mx import flushed, shared_exponent

#: Exponent bits, mantissa bits and specials of floats, as elements or as scales.
FLOATS = {
    **{"e2m1": (2, 1, "finite"), "e1m2": (1, 2, "finite"), "e1m1": (1, 1, "finite"), "e2m0": (2, 0, "finite")},
    **{"e3m0": (3, 0, "finite"), "e2m3": (2, 3, "finite"), "e3m2": (3, 2, "finite"), "e4m3": (4, 3, "fn")},
    **{"ue4m3": (4, 3, "fn"), "ue5m3": (5, 3, "fn"), "ue5m2": (5, 2, "ieee"), "ue3m4": (3, 4, "ieee")},
    **{"ue3m5": (3, 5, "fn"), "ue4m0": (4, 0, "fn"), "e5m3": (5, 3, "finite"), "f16": (5, 10, "ieee")},
}


@lru_cache
def magnitudes(name: str) -> np.ndarray:
    """Numbers that a float can mean, without sign, in the order of their codes."""
    exponent_bits, mantissa_bits, specials = FLOATS[name]
    values = oracles.float_codes(exponent_bits, mantissa_bits, specials)
    if specials == "fn" and mantissa_bits == 0:
        values[-1] = np.nan
    return values[np.isfinite(values)]


def nearest(x: np.ndarray, name: str) -> np.ndarray:
    """Numbers of a float nearest to float32 ``x``, half to the even code, saturating."""
    table = magnitudes(name)
    x = flushed(x).astype(np.float64)
    at = np.clip(np.searchsorted(table, np.abs(x), side="right") - 1, 0, len(table) - 2)
    below, above = table[at], table[at + 1]
    # with one significant digit both neighbours are odd, and a tie goes up, but zero is even
    odd = at % 2 == 1 if FLOATS[name][1] else at > 0
    low, high = np.abs(x) - below, above - np.abs(x)
    up = (low > high) | ((low == high) & odd)
    return np.copysign(np.where(np.abs(x) >= table[-1], table[-1], np.where(up, above, below)), x)


def levels(x: np.ndarray, element: str) -> np.ndarray:
    """Levels of an element nearest to ``x``."""
    if element.startswith("int"):
        last = 2.0 ** (int(element[3:]) - 1) - 1
        return np.clip(np.rint(np.float64(x)), -last, last) + 0.0
    return nearest(x, element)


def last_level(element: str) -> float:
    """The largest level."""
    return 2.0 ** (int(element[3:]) - 1) - 1 if element.startswith("int") else float(magnitudes(element)[-1])


# --- scales ---------------------------------------------------------------------------------------------------------


def tensor_of(top: np.ndarray, element: str, largest: float) -> np.float32:
    """Scale of a tensor whose blocks have these largest magnitudes."""
    f = np.float32
    return max(flushed(top.max() / f(last_level(element) * largest))[()], f(2.0**-126))


def stored(top: np.ndarray, element: str, scale: str, tensor: np.float32 | None = None, on: float | None = None):
    """Scales as stored that put the largest magnitude on the last level, or ``on`` another."""
    f = np.float32
    level = f(last_level(element) if on is None else on)
    with np.errstate(under="ignore"):
        quotient = flushed(np.float32(top) / (level if tensor is None else level * tensor))
    return nearest(quotient, scale)


def power(top: np.ndarray, element: str, rule: str) -> np.ndarray:
    """Steps of powers of two, float64; integers count as fractions."""
    last = last_level(element)
    digits = int(element[3:]) - 2 if element.startswith("int") else FLOATS[element][1]
    implied = digits if element.startswith("int") else 0
    emax = int(np.floor(np.log2(last))) - implied
    found = [shared_exponent(float(t), rule, last / 2.0**implied, emax, digits) for t in flushed(top).ravel()]
    return np.ldexp(1.0, np.array(found).reshape(np.shape(top)) - implied)


def weights(w: np.ndarray, step: np.ndarray, element: str) -> np.ndarray:
    """Weights of blocks with these steps."""
    w, step = flushed(w), np.asarray(step)
    if step.dtype == np.float64:  # powers of two: exact
        return flushed(levels(w / step, element) * step)
    with np.errstate(under="ignore", over="ignore"):
        units = flushed(np.divide(w, step, out=np.zeros_like(w), where=step > 0))
        return flushed(np.float32(levels(units, element)) * step)


def errors(w: np.ndarray, step: np.ndarray, element: str, importance: np.ndarray | float = 1.0) -> np.ndarray:
    """Squared error of each block, float64, for steps of each."""
    return (np.square(np.float64(weights(w, step, element)) - w) * importance).sum(axis=-1)


def candidates(top: np.ndarray, element: str, scale: str, tensor: np.float32 | None, neighbours: int) -> np.ndarray:
    """Stored scales that a search tries, (tries, blocks, 1), in its order: 0, -1, 1, -2, 2 … codes from absmax."""
    table = magnitudes(scale)
    code = np.searchsorted(table, stored(top, element, scale, tensor))
    order = [0] + [sign * k for k in range(1, neighbours + 1) for sign in (-1, 1)]
    return np.stack([table[np.clip(code + k, np.minimum(code, 1), len(table) - 1)] for k in order])
