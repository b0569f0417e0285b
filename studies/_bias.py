"""What rounding does to the sign of an error, for ``conventions``: the expectation of e sign(w), positive outward.

It is integrated over the extreme of a block and the other weights, and over rows of eight sizes, so that no power of
two is favoured; what is rounded here is rounded by NumPy, not by the package.
"""

from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from quantsim import formats, theory
from quantsim.populations import Population
from quantsim.quantizer import Quantizer, parse
from quantsim.quantizer.blockformats.microscaling import Microscaling

SIZES = 2.0 ** (np.arange(8) / 8)  # standard deviations of rows 0 … 7, and so on
BLOCK = 32


@lru_cache
def expected_outward(pop: Population, spec: str, points: int) -> float:
    """Expectation of e sign(w), relative to the size of the row, over blocks of rows of all sizes."""
    q = parse(spec)
    assert isinstance(q, Quantizer | Microscaling)
    element, rounding = (q.format, q.rounding) if isinstance(q, Quantizer) else (q.element, "even")
    assert not isinstance(element, formats.Codebook | formats.Traced)
    block = 1 if isinstance(q, Quantizer) and q.granularity is None else BLOCK

    def outward(x: Any, top: Any) -> Any:
        size = np.resize(np.repeat(SIZES, 2), len(x))  # in pairs, as every other extreme is negative
        x, top = np.float32(x * size), np.float32(top * size)
        scale = stored_scale(q, top) if block > 1 else np.float32(1)
        # the quotient is one of float32: whether that of the extreme is whole decides about a step where it truncates
        return mean_error(np.float64(x / scale), element, rounding) * np.sign(x) * scale / size

    return theory.block_mean(pop, block, outward, points=points)


def stored_scale(q: Quantizer | Microscaling, top: Any) -> Any:
    """Scale of blocks with these extremes, as it is stored, such that integers are whole numbers."""
    if isinstance(q, Microscaling):
        stored = q.scaled.scale_format
        assert isinstance(stored, formats.PowerOfTwo)
        unit = 2.0 ** (q.element.bits - 2) if isinstance(q.element, formats.Integer) else 1.0
        power = power_of_two(np.abs(top), stored.rule, formats.largest(q.element) / unit, q.element)
        return np.float32(power / unit)
    signed = isinstance(q.format, formats.Integer) and q.format.bounds == "signed"
    scale = (-top if signed else np.abs(top)) / np.float32(formats.reach(q.format))
    if q.scale_format.name == "e7m0":
        mantissa, exponent = np.frexp(scale)
        return np.ldexp(np.float32(1), exponent - (mantissa < 0.75))
    stored = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[q.scale_format.name]
    return np.float32(scale.astype(stored))


def power_of_two(top: Any, rule: str, largest: float, element: formats.Format) -> Any:
    """The MX scale of blocks with these extremes: floor of log2, or one more where the rule rounds up."""
    mantissa, exponent = np.frexp(top)  # from 1/2 to 1, so that the floor of the logarithm is one less
    digits = element.mantissa_bits if isinstance(element, formats.Float) else element.bits - 2
    rounds_up = {
        "floor": np.False_,
        "ceil": mantissa > 0.5,
        "even": mantissa >= 1 - 2.0 ** -(digits + 2),
        "rceil": mantissa > np.frexp(largest)[0],
    }
    return np.ldexp(1.0, exponent + rounds_up[rule] - np.frexp(largest)[1])


def mean_error(u: Any, element: formats.Integer | formats.Float, rounding: str) -> Any:
    """Mean error of rounding ``u``, which of stochastic rounding is only that of what is clipped."""
    grid = formats.grid(element)
    inside = np.clip(u, grid.low, grid.high)
    if rounding == "stochastic":
        return inside - u
    quantum = np.ldexp(1.0, np.maximum(np.frexp(inside)[1] - 1, int(grid.min_exponent)) - int(grid.mantissa_bits))
    return whole_number(inside / quantum, rounding) * quantum - u


def whole_number(v: NDArray[np.float64], rounding: str) -> NDArray[np.float64]:
    if rounding == "even":
        return np.rint(v)
    return np.trunc(v + np.copysign(0.5, v)) if rounding == "away" else np.trunc(v)
