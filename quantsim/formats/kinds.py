"""The kinds of element format: evenly spaced integers, small floats and codebooks; the facts of each, and no more."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

Bounds: TypeAlias = Literal["narrow", "half", "full", "signed"]
Specials: TypeAlias = Literal["finite", "fn", "ieee", "fnuz"]
SPECIALS: tuple[Specials, ...] = get_args(Specials)
Rule: TypeAlias = Literal["floor", "ceil", "even", "rceil"]
RULES: tuple[Rule, ...] = get_args(Rule)

_WIDEST_INTEGER = 16


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

    One that is not ``signed`` has the codes 0 … 2^b-1 and the scale absmax / (2^b-1): negative weights clip to 0.

    Raises:
        ValueError: for widths that are not 1 to 16 bits (2 to 16 with a sign), and for bounds of an unsigned integer.

    >>> from quantsim.formats import levels
    >>> Integer("int8", 8).bits, levels(Integer("int3", 3)).tolist()
    (8, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    """

    name: str
    bits: int
    bounds: Bounds = "narrow"
    signed: bool = True

    def __post_init__(self) -> None:
        """Reject what has no codes."""
        least = 2 if self.signed else 1
        if not least <= self.bits <= _WIDEST_INTEGER:
            kind = "a signed" if self.signed else "an unsigned"
            raise ValueError(f"{kind} integer has {least} to {_WIDEST_INTEGER} bits, not {self.bits}")
        if not self.signed and self.bounds != "narrow":
            raise ValueError(f"bounds {self.bounds!r} go with signed integers, not with {self.name}")


@dataclass(frozen=True)
class Float:
    """Small floats: sign, ``exponent_bits``, ``mantissa_bits``, bias 2^(e-1)-1, gradual underflow, saturating.

    ``specials`` tells which codes are not numbers: "ieee" keeps the top exponent for infinities and NaN, "fn" only the
    code of all ones for NaN, "finite" none. "fnuz" has the bias 2^(e-1), and NaN in the place of -0.
    One that is not ``signed`` has no bit for a sign and no negative numbers: it is a format of scales.

    >>> from quantsim.formats import largest, parse
    >>> largest(parse("e4m3")), largest(parse("e5m2")), largest(parse("e2m1")), largest(parse("e4m3fnuz"))
    (448.0, 57344.0, 6.0, 240.0)
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    specials: Specials = "finite"
    signed: bool = True

    @property
    def bits(self) -> int:
        """Width of one code."""
        return self.signed + self.exponent_bits + self.mantissa_bits


@dataclass(frozen=True)
class PowerOfTwo:
    """E8M0, the scale of OCP MX: a byte that means 2^(code - 127), 255 is NaN; there is no zero and no sign.

    ``rule`` finds the shared exponent s from ``top``, the magnitude that falls on the last level; ``last`` is that
    level and emax its exponent. The last level of integers counts as 1 and a fraction, as in mxint8:
    code / 2^(bits - 2).

    =====  =====================================================  ====================================================
    rule   s                                                      what it means
    =====  =====================================================  ====================================================
    floor  floor(log2 top) - emax                                 the OCP conversion; a top beyond the last level clips
    ceil   ceil(log2 top) - emax                                  nothing clips; up to one binade is left unused
    even   floor(log2 r) - emax, r = top in the element's digits  the carry of rounding goes into the exponent
    rceil  ceil(log2(top / last))                                 the smallest scale with which nothing clips
    =====  =====================================================  ====================================================

    s is kept within -127 … 127 - emax; above, elements would have room that float32 has not, and the largest weights
    would dequantize to infinity. Zeros and float32 subnormals have s = -127.

    Source: OCP Microscaling Formats (MX) 1.0, section 6.3 (floor), as microxcaling's ``_shared_exponents`` does it;
    torchao's ``ScaleCalculationMode`` (all four; its half-up addition for even carries exactly when half-even does);
    NVIDIA, cuBLAS "1D block scaling" with ``cvt.rp.ue8m0x2.f32``, and Mishra et al., arXiv:2506.08027 (rceil).

    Raises:
        ValueError: for an unknown rule.

    >>> PowerOfTwo().name, PowerOfTwo("ceil").name, PowerOfTwo().bits
    ('e8m0', 'e8m0:ceil', 8)
    """

    bits: ClassVar[int] = 8
    exponent_bits: ClassVar[int] = 8

    rule: Rule = "floor"

    def __post_init__(self) -> None:
        """Reject what is no rule."""
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r} of e8m0; known are {', '.join(RULES)}")

    @property
    def name(self) -> str:
        """How a spec spells it."""
        return "e8m0" if self.rule == "floor" else f"e8m0:{self.rule}"


@dataclass(frozen=True)
class Codebook:
    """Any increasing list of levels; a code is an index into it.

    Raises:
        ValueError: if the levels cannot be searched.

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


class Grid(NamedTuple):
    """What one arithmetic kernel must know of an integer or small float; the fields may be traced.

    Values are multiples of ``2^(max(floor(log2 |x|), min_exponent) - mantissa_bits)`` from ``low`` to ``high``.
    """

    mantissa_bits: int
    min_exponent: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Traced:
    """An integer or small float of which only the kind is static: its facts are numbers that a program may trace.

    Attributes:
        grid: facts of the arithmetic kernel.
        reach: what absmax is divided by to get the scale.
        bounds: convention of an integer, None for a float.
        exponent_bits: of a float.
        specials: of a float, its place in ``SPECIALS``; never "fnuz".
    """

    grid: Grid
    reach: Any
    bounds: Bounds | None = None
    exponent_bits: Any = None
    specials: Any = None


class Carry(NamedTuple):
    """What a power-of-two scale must know of its rule and element; the fields may be traced.

    Attributes:
        added: to the bits of the top, so that mantissas that shall raise the exponent carry into it.
        last: exponent of the last level, where that of an integer counts as 0.
        implied: exponent of that level itself, less ``last``.
    """

    added: Any
    last: Any
    implied: Any


Format: TypeAlias = Integer | Float | Codebook

# What a quantizer holds: a format, and within programs that serve many, where nobody asks for its name, a traced one.
if TYPE_CHECKING:
    Elements: TypeAlias = Format
    ScaleElements: TypeAlias = Float | PowerOfTwo
else:
    Elements: TypeAlias = Format | Traced
    ScaleElements: TypeAlias = Float | PowerOfTwo | Traced | Carry


def bounds(fmt: Format | Traced) -> Bounds | None:
    """Convention of an integer format; None for floats and codebooks."""
    return getattr(fmt, "bounds", None)
