"""The rule that finds the scale of a block from its weights.

Every rule but ``MinMax`` chooses a *reach*, the magnitude that the last level of the format falls on; the scale is
``reach / formats.reach(format)``. All sums run in a fixed order, so a scale has one bit pattern everywhere.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int
from numpy.typing import NDArray

from quantsim import formats
from quantsim._types import Blocks, Number, PerBlock
from quantsim.formats import Format, Integer, Traced
from quantsim.numerics import ieee
from quantsim.rounding import round_integer, snap

_MOST_NEIGHBOURS = 32


def _known_number(number: Any, what: str, example: str) -> float | None:
    """The number as a float; None if it is traced."""
    try:
        return float(number)
    except jax.errors.ConcretizationTypeError:
        return None
    except (TypeError, ValueError):
        raise TypeError(f"{what} is a number, not {number!r}; for example {example}") from None


@dataclass(frozen=True)
class Absmax:
    """reach = max |w|: nothing is clipped."""


@dataclass(frozen=True)
class Clip:
    """reach = ratio * max |w|: what is larger clips. The ratio may be traced by ``jit`` or ``vmap``, for a sweep.

    Raises:
        TypeError: if the ratio is no number.
        ValueError: if it is known, and does not lie above 0 and at most at 1.

    >>> Clip(jnp.float32(0.5))
    Clip(ratio=0.5)
    """

    ratio: Number

    def __post_init__(self) -> None:
        """Reject what is no part of the range; a known ratio is a float, so that the rule can be hashed."""
        known = _known_number(self.ratio, "a clip ratio", "clip0.8")
        if known is None:
            return
        object.__setattr__(self, "ratio", known)
        if not 0 < known <= 1:
            raise ValueError(f"a clip ratio lies above 0 and at most at 1, got {known:g}; for example clip0.8")


@dataclass(frozen=True)
class MinMax:
    """Asymmetric: the range from min(w, 0) to max(w, 0) over all 2^bits codes, with an integer zero point."""


@dataclass(frozen=True)
class Percentile:
    """reach = the p-th percentile of |w|, linearly interpolated as ``numpy.percentile`` does; what is larger clips."""

    p: float

    def __post_init__(self) -> None:
        """Reject what is no percentile."""
        known = _known_number(self.p, "a percentile", "p99.9")
        if known is None:
            raise TypeError("a percentile is known before a program is compiled: it says which weights are ranked")
        object.__setattr__(self, "p", known)
        if not 0 < self.p <= 100:
            raise ValueError(f"a percentile lies above 0 and at most at 100, got {self.p:g}; for example p99.9")


@dataclass(frozen=True)
class MSE:
    """reach = the fraction 2^(-k/16), k = 0 … 127, of max |w| with the least squared error of the block."""


@dataclass(frozen=True)
class RMS:
    """reach = rms(w) times the ratio with the least squared error on a normal population of unit variance."""


@dataclass(frozen=True)
class FourOverSix:
    """reach = max |w| on the level 6 or on the level 4 of e2m1, whichever scale, as stored, has the less squared error.

    Of equal errors the scale with max |w| on 6 is taken. A scale of the tensor leaves room for the larger scale: of
    e4m3 it uses the numbers up to 256, not 448.

    Source: Cook et al., arXiv:2512.02010, and its code (``E4M3_MAX_FOUROVERSIX``, ``select_fouroversix``).
    """


@dataclass(frozen=True)
class Search:
    """Of the stored scale of absmax and ``neighbours`` codes below and above it, that with the least squared error.

    ``search`` tries 4 on either side: 8 neighbours. Of equal errors the nearest to absmax is taken, and of two as near
    the smaller scale. Codes end at the smallest and largest finite number of the scale format; 0 counts as one if
    absmax has that scale.

    Raises:
        ValueError: for numbers of neighbours that are not 1 … 32.
    """

    neighbours: int = 4

    def __post_init__(self) -> None:
        """Reject what is no number of neighbours."""
        if not 1 <= self.neighbours <= _MOST_NEIGHBOURS:
            raise ValueError(
                f"a search goes over 1 to {_MOST_NEIGHBOURS} codes on either side, not {self.neighbours}; "
                "for example search4"
            )


Calibration: TypeAlias = Absmax | Clip | MinMax | Percentile | MSE | RMS | FourOverSix | Search
Counts: TypeAlias = Int[Array, "blocks 1"] | int

_F32 = formats.FORMATS["f32"]
assert isinstance(_F32, formats.Float)
_STEPS_PER_OCTAVE, _OCTAVES = 16, 8


def divide_by_reach(reach: PerBlock, fmt: Format | Traced) -> PerBlock:
    """Scale that puts ``reach`` on the last level of the format (for "signed" bounds, on its lowest code)."""
    divisor = formats.reach(fmt)
    return ieee.divide(reach, -divisor if formats.bounds(fmt) == "signed" else divisor)


def calibrate(blocks: Blocks, fmt: Format | Traced, rule: Calibration, counts: Counts) -> PerBlock:
    """Scale of each block, float32; 0 for a block of zeros. ``counts`` excludes the zeros of a padded tail.

    >>> calibrate(jnp.array([[1.0, -2.54]]), formats.parse("int8"), Absmax(), 2).tolist()
    [[0.019999999552965164]]
    """
    if isinstance(rule, RMS):  # the ratio last: a reach would round once more
        assert not isinstance(fmt, Traced)
        scale = divide_by_reach(_rms(blocks, counts), fmt) * np.float32(normal_reach(fmt))
        return jnp.minimum(scale, np.finfo(np.float32).max)
    return divide_by_reach(reach_of(blocks, fmt, rule, counts), fmt)


def reach_of(blocks: Blocks, fmt: Format | Traced, rule: Calibration, counts: Counts) -> PerBlock:
    """The magnitude of each block that falls on the last level; with its sign for "signed" bounds.

    >>> reach_of(jnp.array([[1.0, -2.5]]), formats.parse("int8"), Clip(0.5), 2).tolist()
    [[1.25]]
    """
    if formats.bounds(fmt) == "signed" and isinstance(rule, Absmax):
        return _signed_extreme(blocks)
    if isinstance(rule, Percentile):
        return _percentile(blocks, rule.p, counts)
    if isinstance(rule, Clip):
        return ieee.unfused(top := ieee.absmax(blocks), top) * rule.ratio
    if isinstance(rule, RMS):
        assert not isinstance(fmt, Traced)
        return jnp.minimum(_rms(blocks, counts) * np.float32(normal_reach(fmt)), np.finfo(np.float32).max)
    if isinstance(rule, MSE):
        return _search(blocks, fmt)
    return ieee.absmax(blocks)


def minmax(
    blocks: Blocks, fmt: Integer | Traced, scale_format: formats.Float | Traced = _F32
) -> tuple[PerBlock, PerBlock]:
    """Scale (max - min) / (2^bits - 1), as it is stored, and integer zero point round(-min / scale) of each block.

    The range always holds 0, so that 0 is a level.

    >>> [v.tolist() for v in minmax(jnp.array([[-1.0, 4.1]]), formats.parse("int8"))]
    [[[0.019999999552965164]], [[50.0]]]
    """
    low, high = ieee.extremes(blocks)
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    # halves, so that the difference of two large extremes does not overflow
    scale = snap(ieee.divide(0.5 * high - 0.5 * low, formats.last_code(fmt) / 2), scale_format)
    zero = round_integer(ieee.divide(-low, jnp.where(scale == 0, 1.0, scale)))
    return scale, jnp.minimum(zero, formats.last_code(fmt))


def _signed_extreme(blocks: Blocks) -> PerBlock:
    """The weight of largest magnitude with its sign; the positive one where both signs reach it."""
    low, high = ieee.extremes(blocks)
    return jnp.where(-low > high, low, high)


def _rms(blocks: Blocks, counts: Counts) -> PerBlock:
    # relative to the largest power of two, so that no square over- or underflows
    unit = ieee.power_of_two(jnp.clip(ieee.exponent_of(ieee.absmax(blocks)), -126, 126))
    total = ieee.ordered_sum(ieee.square(blocks / unit))
    return ieee.sqrt(ieee.divide(total, jnp.asarray(counts, jnp.float32))) * unit


def _order_statistic(magnitude_bits: Int[Array, "blocks size"], from_top: Counts) -> Int[Array, "blocks 1"]:
    """The ``from_top``-th largest (0 is the largest) by bisection on the bit pattern: exact, no sort."""

    def halve(i: Int[Array, ""] | int, found: Int[Array, "blocks 1"]) -> Int[Array, "blocks 1"]:
        trial = found | (jnp.int32(1) << (30 - i))
        enough = jnp.sum(magnitude_bits >= trial, axis=-1, keepdims=True, dtype=jnp.int32) > from_top
        return jnp.where(enough, trial, found)

    return lax.fori_loop(0, 31, halve, jnp.zeros_like(magnitude_bits[:, :1]))


def _ranks(p: float, n: NDArray[np.integer] | int) -> tuple:
    """Of n weights the two ranks from the top around the percentile, and the distances from either, in float64."""
    rank = (1 - p / 100) * (n - 1)
    upper = np.floor(rank)
    above, below = upper.astype(np.int32), np.minimum(upper + 1, n - 1).astype(np.int32)
    return above, below, np.float32(rank - upper), np.float32(upper + 1 - rank)


def _percentile(blocks: Blocks, p: float, counts: Counts) -> PerBlock:
    # ranks from the top: the zeros of the padding stay at the bottom, out of the way
    if isinstance(counts, int):
        above, below, down, up = (v.item() for v in _ranks(p, counts))  # numbers of Python take the type of arrays
    else:
        above, below, down, up = (jnp.asarray(v)[counts - 1] for v in _ranks(p, np.arange(1, blocks.shape[-1] + 1)))
    bits = ieee.bits_of(blocks) & 0x7FFFFFFF
    high, low = (ieee.from_bits(_order_statistic(bits, rank)) for rank in (above, below))
    gap = high - low
    # from the nearer end, as numpy does: no cancellation
    return jnp.where(down < up, high - ieee.unfused(gap * down, high), low + ieee.unfused(gap * up, low))


def _search(blocks: Blocks, fmt: Format | Traced) -> PerBlock:
    top = ieee.absmax(blocks)

    def attempt(k: Int[Array, ""] | int, best: tuple[PerBlock, PerBlock]) -> tuple[PerBlock, PerBlock]:
        reach = top * ratios[k]
        scale = divide_by_reach(reach, fmt)
        safe = jnp.where(scale == 0, 1.0, scale)
        # in units of the largest weight, so that no square underflows
        error = ieee.divide(ieee.unfused(snap(ieee.divide(blocks, safe), fmt) * safe, blocks) - blocks, unit)
        loss = ieee.ordered_sum(ieee.square(error))
        better = loss < best[0]
        return jnp.where(better, loss, best[0]), jnp.where(better, reach, best[1])

    unit = jnp.where(top == 0, 1.0, top)
    steps = _STEPS_PER_OCTAVE * _OCTAVES
    ratios = jnp.asarray(2.0 ** (-np.arange(steps) / _STEPS_PER_OCTAVE), jnp.float32)
    start = (jnp.full_like(top, jnp.inf), top)
    return lax.fori_loop(0, steps, attempt, start)[1]


@lru_cache
def normal_reach(fmt: Format) -> float:
    """Reach, in standard deviations, with the least squared error of ``fmt`` on a normal population, as float32.

    See ``theory.best_reach``. The minimum is so flat that the last digits of a float64 move with the order of a sum;
    rounded once, they are the same for the quantizer and for what predicts its errors.

    >>> round(normal_reach(formats.parse("int4")), 3), round(normal_reach(formats.parse("int8")), 3)
    (2.474, 3.921)
    """
    from quantsim.populations import Normal
    from quantsim.theory import best_reach

    return float(np.float32(best_reach(Normal(), formats.levels(fmt) / formats.reach(fmt))))
