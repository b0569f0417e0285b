"""The scales of microscaling formats: powers of two by four rules (OCP MX), and e4m3 in one or two levels (NVFP4).

A scaling finds the stored scale of a block from its largest magnitude, divides weights by it, and multiplies levels
with it.
"""

import abc
from dataclasses import dataclass
from math import frexp
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from quantsim import formats
from quantsim._types import Blocks, PerBlock
from quantsim.formats import Format, Integer
from quantsim.granularity import ShapeNeededError
from quantsim.numerics import ieee
from quantsim.rounding import decode, encode
from quantsim.theory.scheme import AbsmaxScale, PowerOfTwoScale, ScaleLaw, TwoLevelScale

Rule: TypeAlias = Literal["floor", "ceil", "even", "rceil"]
RULES: tuple[Rule, ...] = get_args(Rule)

_E4M3 = formats.FORMATS["e4m3"]
_E8M0_NAN, _E4M3_NAN = 255, 127
_DIGITS = 23  # of the mantissa of float32
_INFINITY = 0x7F800000  # bit pattern of float32; that of any NaN is larger
_SMALLEST = 2.0**-126  # the smallest magnitude that arithmetic does not flush to zero


class Scales(NamedTuple):
    """What is stored beside the elements: a code for each block, and the scale of the tensor where there is one.

    Of tensors that ``vmap`` stacked there is one ``tensor`` scale each, in the order of their blocks.
    """

    codes: UInt8[Array, "blocks 1"]
    tensor: Float[Array, "..."] | None = None


class Scaling(abc.ABC):
    """How scales are found and applied; ``element`` is the format of one weight."""

    @abc.abstractmethod
    def scales(self, top: PerBlock, element: Format) -> Scales:
        """Stored scales of blocks with these absolute maxima; NaN where one is not finite."""

    @abc.abstractmethod
    def units(self, blocks: Blocks, scales: Scales, element: Format) -> Blocks:
        """Weights in units of their scale, to be rounded to levels; 0 where there is no such unit."""

    @abc.abstractmethod
    def weights(self, levels: Blocks, scales: Scales, element: Format) -> Blocks:
        """Levels times their scale."""

    @abc.abstractmethod
    def law(self, element: Format, total: int | None) -> ScaleLaw:
        """What theory must know of the scales of a tensor of ``total`` weights."""


# --- powers of two --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class E8M0(Scaling):
    """Power-of-two scale 2^s of OCP MX; ``rule`` finds the shared exponent s from ``top = max |w|``.

    =====  ======================================================  ====================================================
    rule   s                                                       what it means
    =====  ======================================================  ====================================================
    floor  floor(log2 top) - emax                                  the OCP conversion; a top beyond the last level clips
    ceil   ceil(log2 top) - emax                                   nothing clips; up to one binade is left unused
    even   floor(log2 r) - emax, r = top in the element's digits   the carry of rounding goes into the exponent
    rceil  ceil(log2(top / largest))                               the smallest scale with which nothing clips
    =====  ======================================================  ====================================================

    All four are one integer addition to the bits of ``top``: a carry out of the mantissa adds 1 to the exponent, so no
    logarithm and no quotient is rounded. s is kept within -127 … 127 - emax; above, elements would have room that
    float32 has not, and the largest weights would dequantize to infinity. Zeros and float32 subnormals have s = -127.

    Source: OCP Microscaling Formats (MX) 1.0, section 6.3 (floor), as microxcaling's ``_shared_exponents`` does it;
    torchao's ``ScaleCalculationMode`` (all four; its half-up addition for even carries exactly when half-even does);
    NVIDIA, cuBLAS "1D block scaling" with ``cvt.rp.ue8m0x2.f32``, and Mishra et al., arXiv:2506.08027 (rceil).

    >>> top = jnp.array([[6.0], [6.5], [7.5], [8.0]])
    >>> {r: (E8M0(r).scales(top, formats.FORMATS["e2m1"]).codes.ravel() - 127.0).tolist() for r in RULES}
    {'floor': [0.0, 0.0, 0.0, 1.0], 'ceil': [1.0, 1.0, 1.0, 1.0], 'even': [0.0, 0.0, 1.0, 1.0], \
'rceil': [0.0, 1.0, 1.0, 1.0]}
    """

    rule: Rule = "floor"

    def scales(self, top: PerBlock, element: Format) -> Scales:
        """Stored scales of blocks with these absolute maxima; NaN where one is not finite."""
        bits = ieee.bits_of(top)
        normal = jnp.where(bits < 1 << _DIGITS, 0, bits)
        emax = _last_exponent(element) - _implied(element)
        code = jnp.clip(((normal + self._carry(element)) >> _DIGITS) - emax, 0, 254 - emax)
        return Scales(jnp.where(bits >= _INFINITY, _E8M0_NAN, code).astype(jnp.uint8))

    def _carry(self, element: Format) -> int:
        """What is added to the bits of ``top``, so that the mantissas that shall raise the exponent carry into it."""
        largest = np.float32(formats.largest(element))
        all_ones = (1 << _DIGITS) - 1
        return {
            "floor": 0,
            "ceil": all_ones,
            "even": 1 << (_DIGITS - 1 - _mantissa_bits(element)),
            "rceil": all_ones - (int(largest.view(np.int32)) & all_ones),
        }[self.rule]

    def units(self, blocks: Blocks, scales: Scales, element: Format) -> Blocks:
        """Weights in units of their scale; 0 in a block whose scale is NaN."""
        first, second = _powers_of_two(_implied(element) - _exponent(scales))
        return jnp.where(scales.codes == _E8M0_NAN, 0.0, blocks) * first * second

    def weights(self, levels: Blocks, scales: Scales, element: Format) -> Blocks:
        """Levels times their scale."""
        first, second = _powers_of_two(_exponent(scales) - _implied(element))
        return levels * jnp.where(scales.codes == _E8M0_NAN, jnp.nan, first) * second

    def law(self, element: Format, total: int | None) -> ScaleLaw:
        """Step from one power of two to the next where the magnitude passes ``edge`` times one."""
        del total
        top = _last_exponent(element)
        edge = {
            "even": 1 - 2.0 ** -(_mantissa_bits(element) + 2),
            "rceil": formats.largest(element) / 2.0**top,
        }.get(self.rule, 1.0)
        beyond = self.rule in ("ceil", "rceil")  # beyond the edge, not at it
        return PowerOfTwoScale(edge * (1 + beyond * 2.0**-40), beyond - top)


def _last_exponent(element: Format) -> int:
    """``floor(log2)`` of the largest level."""
    return frexp(formats.largest(element))[1] - 1


def _mantissa_bits(element: Format) -> int:
    """Binary digits after the leading one of the largest level."""
    return element.mantissa_bits if isinstance(element, formats.Float) else element.bits - 2


def _implied(element: Format) -> int:
    """MX integers are fractions: int8 code / 2^6, so that 1 lies in their last binade."""
    return element.bits - 2 if isinstance(element, Integer) else 0


def _exponent(scales: Scales) -> Int32[Array, "blocks 1"]:
    return scales.codes.astype(jnp.int32) - 127


def _powers_of_two(exponent: Int32[Array, "blocks 1"]) -> tuple[PerBlock, PerBlock]:
    """Two normal factors of 2^exponent: as one number 2^-127 is subnormal, and flushed to zero."""
    half = exponent >> 1
    return ieee.power_of_two(half), ieee.power_of_two(exponent - half)


# --- e4m3 -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class E4M3(Scaling):
    """Scale of NVFP4: an e4m3 for each block and, if ``two_level``, one float32 for the tensor.

    ``tensor = max |w| / (6 * 448)``, ``scale = e4m3(top / (6 * tensor))`` of a block with ``top = max |w|``, and
    elements are ``w / (scale * tensor)``, with the scale as it is stored: weights are divided by the very number that
    a dequantizer multiplies with. Every operation is rounded once, in this order, which is that of NVIDIA's ModelOpt
    (``NVFP4QTensor``); torchao's ``nvfp4_quantize`` has ``top / 6 / tensor``, and Transformer Engine multiplies by
    reciprocals: either can differ by one unit in the last place before rounding to e4m3 or e2m1.

    A block whose scale rounds to 0 dequantizes to 0, as in Transformer Engine; ModelOpt lifts it to 2^-9, torchao to
    2^-6. Blocks that are not finite are left out of the tensor scale: they turn to NaN, and no other does. The tensor
    scale is at least 2^-126, so that it is no subnormal. No finite tensor dequantizes to an infinity.

    >>> E4M3().scales(jnp.array([[1.0], [0.5], [1e-6]]), formats.FORMATS["e2m1"]).codes.ravel().tolist()
    [126, 118, 0]
    """

    two_level: bool = True

    def scales(self, top: PerBlock, element: Format) -> Scales:
        """Stored scales of blocks with these absolute maxima; NaN where one is not finite."""
        finite = ieee.bits_of(top) < _INFINITY
        safe = jnp.where(finite, top, 0.0)
        largest, tensor = formats.largest(element), None
        if self.two_level:
            tensor = jnp.maximum(ieee.divide(jnp.max(safe, initial=0.0), largest * formats.largest(_E4M3)), _SMALLEST)
        # one division: each more would round once more
        scale = ieee.divide(safe, largest if tensor is None else (largest * tensor).reshape(1, 1))
        return Scales(jnp.where(finite, encode(scale, _E4M3), _E4M3_NAN).astype(jnp.uint8), tensor)

    def units(self, blocks: Blocks, scales: Scales, element: Format) -> Blocks:
        """Weights in units of their scale; 0 in a block whose scale is 0 or NaN."""
        step = self._step(scales)
        return jnp.where(step > 0, ieee.divide(blocks, step), 0.0)

    def weights(self, levels: Blocks, scales: Scales, element: Format) -> Blocks:
        """Levels times their scale."""
        return levels * self._step(scales)

    def law(self, element: Format, total: int | None) -> ScaleLaw:
        """E4m3 scales of blocks in a tensor of ``total`` weights."""
        assert isinstance(_E4M3, formats.Float)
        if not self.two_level:
            return AbsmaxScale(formats.largest(element), _E4M3)
        if total is None:
            raise ShapeNeededError("the scale of the tensor needs the shape of the array: pass shape=(out, in)")
        return TwoLevelScale(formats.largest(element), _E4M3, total)

    def _step(self, scales: Scales) -> PerBlock:
        scale, tensor = decode(scales.codes, _E4M3), scales.tensor
        if tensor is None:
            return scale
        if tensor.ndim == 0:
            return scale * tensor.reshape(1, 1)
        return scale * jnp.repeat(tensor.reshape(-1), len(scale) // max(tensor.size, 1))[:, None]
