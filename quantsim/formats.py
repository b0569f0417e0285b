"""Element formats as rows of facts; levels, range and code width are derived.

A format says which values one code can mean, before any scale. There are three kinds: evenly spaced integers, small
floats ``ExMy`` and codebooks. Adding a format adds a row to a table here; nothing else needs to know its name.

Sources: OCP 8-bit Floating Point Specification 1.0 (e4m3, e5m2) and OCP Microscaling Formats 1.0 (e3m2, e2m3, e2m1);
Dettmers et al., QLoRA, arXiv:2305.14314 (nf4); Yoshida, arXiv:2306.06965 (af4 for blocks of 64); bitsandbytes (fp4).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from math import frexp
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

Bounds: TypeAlias = Literal["narrow", "half", "full", "signed"]
Specials: TypeAlias = Literal["ieee", "fn", "finite"]


@dataclass(frozen=True)
class Integer:
    """Integers of ``bits`` bits under one of the bound conventions in use.

    ========  ========================  ======================  =================================
    bounds    codes                     scale                   for 8 bits
    ========  ========================  ======================  =================================
    narrow    -(2^(b-1)-1) … 2^(b-1)-1  absmax / (2^(b-1)-1)    absmax / 127, -128 is not used
    half      -2^(b-1) … 2^(b-1)-1      absmax / (2^(b-1)-1/2)  absmax / 127.5
    full      -2^(b-1) … 2^(b-1)-1      absmax / 2^(b-1)        absmax / 128, +absmax clips to 127
    signed    -2^(b-1) … 2^(b-1)-1      -extreme / 2^(b-1)      the extreme is exact, as in GGUF q4_0
    ========  ========================  ======================  =================================

    >>> Integer("int8", 8).bits, levels(Integer("int3", 3)).tolist()
    (8, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    """

    name: str
    bits: int
    bounds: Bounds = "narrow"


@dataclass(frozen=True)
class Float:
    """Small floats: sign, ``exponent_bits``, ``mantissa_bits``, bias 2^(e-1)-1, gradual underflow, saturating.

    ``specials`` tells which codes are not numbers: "ieee" keeps the top exponent for infinities and NaN, "fn" only the
    code of all ones for NaN, "finite" none.

    >>> largest(parse("e4m3")), largest(parse("e5m2")), largest(parse("e2m1"))
    (448.0, 57344.0, 6.0)
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    specials: Specials = "finite"

    @property
    def bits(self) -> int:
        """Width of one code."""
        return 1 + self.exponent_bits + self.mantissa_bits


@dataclass(frozen=True)
class Codebook:
    """Any increasing list of levels; a code is an index into it.

    >>> Codebook("ternary", (-1.0, 0.0, 1.0)).bits
    2
    """

    name: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Reject what cannot be searched."""
        if len(self.values) < 2 or not np.all(np.diff(np.asarray(self.values, np.float32)) > 0):
            raise ValueError(f"codebook {self.name!r} needs at least two strictly increasing levels")
        if not np.all(np.isfinite(np.asarray(self.values, np.float32))):
            raise ValueError(f"codebook {self.name!r} has a level that is not a finite float32")

    @property
    def bits(self) -> int:
        """Width of one code."""
        return (len(self.values) - 1).bit_length()


@dataclass(frozen=True, eq=False)
class Traced:
    """An integer or small float of which only the kind is static: its facts are numbers that a sweep may trace.

    Attributes:
        grid: facts of the arithmetic kernel.
        reach: what absmax is divided by to get the scale.
        bounds: convention of an integer, None for a float.
    """

    grid: "Grid"
    reach: Any
    bounds: Bounds | None = None


Format: TypeAlias = Integer | Float | Codebook

# What a quantizer holds: a format, and within the programs of a sweep, where nobody asks for its name, a traced one.
if TYPE_CHECKING:
    Elements: TypeAlias = Format
    ScaleElements: TypeAlias = Float
else:
    Elements: TypeAlias = Format | Traced
    ScaleElements: TypeAlias = Float | Traced

_BNB_FP4 = (0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
_NF4 = """-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0"""
_AF4 = """-1.0 -0.69441008 -0.51243739 -0.3736951 -0.25607552 -0.14982478 -0.04934812 0.0 0.04273164 0.12934483
0.21961274 0.31675666 0.42563882 0.55496234 0.72424863 1.0"""

#: Every named format. ``f32`` is the absence of quantization.
FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        *(Integer(f"int{b}", b) for b in range(2, 9)),
        Float("f32", 8, 23, "ieee"),
        Float("tf32", 8, 10, "ieee"),
        Float("bf16", 8, 7, "ieee"),
        Float("f16", 5, 10, "ieee"),
        Float("e5m2", 5, 2, "ieee"),
        Float("e4m3", 4, 3, "fn"),
        Float("e3m4", 3, 4, "ieee"),
        Float("e3m2", 3, 2),
        Float("e2m3", 2, 3),
        Float("e2m1", 2, 1),
        Codebook("nf4", tuple(float(v) for v in _NF4.split())),
        Codebook("af4", tuple(float(v) for v in _AF4.split())),
        Codebook("fp4", tuple(sorted({s * v / 12 for v in _BNB_FP4 for s in (1, -1)}))),
    )
}


def parse(name: str) -> Format:
    """Format of a name in the table, or of any ``ExMy`` with 2 to 8 exponent and 0 to 22 mantissa bits.

    Not e8m0: with the specials of float32 it has no code for NaN.

    Raises:
        KeyError: if the name is neither.

    >>> parse("e3m3")
    Float(name='e3m3', exponent_bits=3, mantissa_bits=3, specials='finite')
    """
    if name in FORMATS:
        return FORMATS[name]
    if name != "e8m0" and (m := re.fullmatch(r"e([2-8])m(\d|1\d|2[0-2])", name)):
        e, bits = int(m[1]), int(m[2])
        return Float(name, e, bits, "ieee" if e == 8 else "finite")
    raise KeyError(name)


class Grid(NamedTuple):
    """What one arithmetic kernel must know of an integer or small float; the fields may be traced.

    Values are multiples of ``2^(max(floor(log2 |x|), min_exponent) - mantissa_bits)`` from ``low`` to ``high``.
    """

    mantissa_bits: int
    min_exponent: int
    low: float
    high: float


def grid(fmt: Integer | Float | Traced) -> Grid:
    """The arithmetic facts of an integer (quantum 1 everywhere) or a small float.

    >>> grid(parse("e4m3"))
    Grid(mantissa_bits=3, min_exponent=-6, low=-448.0, high=448.0)
    """
    if isinstance(fmt, Traced):
        return fmt.grid
    if isinstance(fmt, Integer):
        low = -(2.0 ** (fmt.bits - 1)) + (fmt.bounds == "narrow")
        return Grid(fmt.bits, fmt.bits, low, 2.0 ** (fmt.bits - 1) - 1)
    bias = 2 ** (fmt.exponent_bits - 1) - 1
    top_field = 2**fmt.exponent_bits - 1 - (fmt.specials == "ieee")
    fraction = 2.0 - 2.0**-fmt.mantissa_bits - (2.0**-fmt.mantissa_bits if fmt.specials == "fn" else 0.0)
    high = fraction * 2.0 ** (top_field - bias)
    return Grid(fmt.mantissa_bits, 1 - bias, -high, high)


@lru_cache
def _levels(fmt: Format) -> tuple[float, ...]:
    if isinstance(fmt, Codebook):
        return fmt.values
    g = grid(fmt)
    if isinstance(fmt, Integer):
        return tuple(np.arange(g.low, g.high + 1).tolist())
    if fmt.bits > 16:
        raise ValueError(f"{fmt.name} has too many levels to list")
    field, mantissa = np.divmod(np.arange(2 ** (fmt.bits - 1), dtype=np.float64), 2**fmt.mantissa_bits)
    fraction = np.where(field == 0, mantissa, mantissa + 2**fmt.mantissa_bits)
    positive = fraction * 2.0 ** (np.maximum(field, 1) - 1 + g.min_exponent - fmt.mantissa_bits)
    positive = positive[positive <= g.high]
    return tuple(np.concatenate([-positive[:0:-1], positive]).tolist())


def bounds(fmt: Format | Traced) -> Bounds | None:
    """Convention of an integer format; None for floats and codebooks."""
    return getattr(fmt, "bounds", None)


def last_code(fmt: Integer | Traced) -> Any:
    """Largest code of an integer that has a zero point: 2^bits - 1.

    >>> last_code(Integer("int4", 4))
    15.0
    """
    return 2.0 * fmt.grid.high + 1 if isinstance(fmt, Traced) else 2.0**fmt.bits - 1


def levels(fmt: Format) -> np.ndarray:
    """All values that a code can mean, float64, increasing; zero once.

    >>> levels(parse("e2m1"))[7:].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    return np.array(_levels(fmt))


def ends(fmt: Format) -> np.ndarray:
    """The last two levels on either side, also of formats with too many levels to list.

    >>> ends(parse("e2m1")).tolist()
    [-6.0, -4.0, 4.0, 6.0]
    """
    if fmt.bits <= 16:
        return levels(fmt)[[0, 1, -2, -1]]
    assert isinstance(fmt, Float)
    top = largest(fmt)
    below = top - 2.0 ** (frexp(top)[1] - 1 - fmt.mantissa_bits)
    return np.array([-top, -below, below, top])


def largest(fmt: Format) -> float:
    """Largest magnitude that a code can mean."""
    return max(abs(v) for v in fmt.values) if isinstance(fmt, Codebook) else max(abs(v) for v in grid(fmt)[2:])


def reach(fmt: Format | Traced) -> Any:
    """What absmax is divided by to get the scale: the level, or the half step beyond it, that absmax falls on.

    >>> reach(parse("int8")), reach(Integer("int8", 8, "half")), reach(parse("nf4"))
    (127.0, 127.5, 1.0)
    """
    if isinstance(fmt, Traced):
        return fmt.reach
    if isinstance(fmt, Integer):
        return 2.0 ** (fmt.bits - 1) - {"narrow": 1.0, "half": 0.5, "full": 0.0, "signed": 0.0}[fmt.bounds]
    return largest(fmt)
