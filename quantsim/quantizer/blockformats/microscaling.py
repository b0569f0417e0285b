"""Microscaling: small elements in short blocks along the last axis, with a scale of one byte for each block.

============  =======  =====  ====  ==========================================================
spec          element  block  emax  stored scale
============  =======  =====  ====  ==========================================================
mxfp4         e2m1     32     2     E8M0: the power of two 2^(code - 127), 255 is NaN
mxfp6_e2m3    e2m3     32     2     E8M0
mxfp6_e3m2    e3m2     32     4     E8M0
mxfp8_e4m3    e4m3     32     8     E8M0
mxfp8_e5m2    e5m2     32     15    E8M0
mxint8        int8/64  32     0     E8M0
nvfp4         e2m1     16           E4M3, and one float32 for the whole tensor
nvfp4:single  e2m1     16           E4M3 alone: blocks of small weights collapse to zero
============  =======  =====  ====  ==========================================================

Elements round half to even and saturate at the largest finite level. The MX formats have four rules for the scale,
written ``mxfp4`` (floor), ``mxfp4:ceil``, ``mxfp4:even``, ``mxfp4:rceil``; see ``E8M0``.
"""

from dataclasses import dataclass
from math import frexp, prod
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt8

from quantsim import formats
from quantsim._types import Blocks, PerBlock, PRNGKey, Shape, Weights
from quantsim.formats import Format, Integer
from quantsim.granularity import Block, ShapeNeededError, block_sizes, from_blocks, scale_shape, span, to_blocks
from quantsim.numerics import ieee
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray, beyond
from quantsim.rounding import decode, encode, snap
from quantsim.theory.scheme import AbsmaxScale, PowerOfTwoScale, ScaleLaw, Scheme, TwoLevelScale

Rule: TypeAlias = Literal["floor", "ceil", "even", "rceil"]
RULES: tuple[Rule, ...] = get_args(Rule)

_E4M3 = formats.FORMATS["e4m3"]
_E8M0_NAN, _E4M3_NAN = 255, 127
_INFINITY = 0x7F800000  # bit pattern of float32; that of any NaN is larger
_SMALLEST = 2.0**-126  # the smallest magnitude that arithmetic does not flush to zero


class Scales(NamedTuple):
    """What is stored beside the elements: a code for each block, and the scale of the tensor where there is one."""

    codes: UInt8[Array, "blocks 1"]
    tensor: Float[Array, ""] | None = None


@dataclass(frozen=True)
class E8M0:
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
        largest, digits = np.float32(formats.largest(element)), _mantissa_bits(element)
        room = 0x7FFFFF - (int(largest.view(np.int32)) & 0x7FFFFF)
        carry = {"floor": 0, "ceil": 0x7FFFFF, "even": 1 << (22 - digits), "rceil": room}[self.rule]
        emax = frexp(float(largest))[1] - 1 - _implied(element)
        bits = ieee.bits_of(top)
        normal = jnp.where(bits < 1 << 23, 0, bits)
        code = jnp.clip(((normal + carry) >> 23) - emax, 0, 254 - emax)
        return Scales(jnp.where(bits >= _INFINITY, _E8M0_NAN, code).astype(jnp.uint8))

    def law(self, element: Format, total: int | None) -> ScaleLaw:
        """Step from one power of two to the next where the magnitude passes ``edge`` times one."""
        del total
        largest, digits = formats.largest(element), _mantissa_bits(element)
        top = frexp(largest)[1] - 1
        up = self.rule in ("ceil", "rceil")  # beyond the edge, not at it
        edge = {"even": 1 - 2.0 ** -(digits + 2), "rceil": largest / 2.0**top}.get(self.rule, 1.0)
        return PowerOfTwoScale(edge * (1 + up * 2.0**-40), up - top)

    def units(self, blocks: Blocks, scales: Scales, element: Format) -> Blocks:
        """Weights in units of their scale; 0 in a block whose scale is NaN."""
        first, second = _powers_of_two(_implied(element) - _exponent(scales))
        return jnp.where(scales.codes == _E8M0_NAN, 0.0, blocks) * first * second

    def weights(self, levels: Blocks, scales: Scales, element: Format) -> Blocks:
        """Levels times their scale."""
        first, second = _powers_of_two(_exponent(scales) - _implied(element))
        return levels * jnp.where(scales.codes == _E8M0_NAN, jnp.nan, first) * second


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


@dataclass(frozen=True)
class E4M3:
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

    def law(self, element: Format, total: int | None) -> ScaleLaw:
        """E4m3 scales of blocks in a tensor of ``total`` weights."""
        assert isinstance(_E4M3, formats.Float)
        if not self.two_level:
            return AbsmaxScale(formats.largest(element), _E4M3)
        if total is None:
            raise ShapeNeededError("the scale of the tensor needs the shape of the array: pass shape=(out, in)")
        return TwoLevelScale(formats.largest(element), _E4M3, total)

    def units(self, blocks: Blocks, scales: Scales, element: Format) -> Blocks:
        """Weights in units of their scale; 0 in a block whose scale is 0 or NaN."""
        step = self._step(scales)
        return jnp.where(step > 0, ieee.divide(blocks, step), 0.0)

    def weights(self, levels: Blocks, scales: Scales, element: Format) -> Blocks:
        """Levels times their scale."""
        return levels * self._step(scales)

    def _step(self, scales: Scales) -> PerBlock:
        scale = decode(scales.codes, _E4M3)
        return scale if scales.tensor is None else scale * scales.tensor.reshape(1, 1)


@dataclass(frozen=True, repr=False)
class Microscaling(AbstractQuantizer):
    """A microscaling format: element codes in the shape of the weights, one scale byte for each block of a row.

    ``w_hat = level(code) * 2^(scale - 127)`` (MX), ``level(code) * e4m3(scale) * tensor_scale`` (NVFP4). The last block
    of a row may be shorter: it is charged a whole scale but no padding. Codes are bit patterns as ``rounding.encode``
    gives them, in which a zero keeps its sign. Those of mxint8 are -127 … 127 and mean code / 64: the largest magnitude
    is 1 63/64, and -128 (-2) stays unused, as the specification allows (5.3.4) and microxcaling has it. A block that
    holds a NaN or an infinity has the scale NaN and codes 0 and dequantizes to NaN, and no other block does. Float32
    subnormals count as zero and results below 2^-126 are zero, as everywhere in XLA on CPU.

    Source: OCP Microscaling Formats (MX) Specification 1.0, 2023; Rouhani et al., arXiv:2310.10537; NVIDIA,
    "Pretraining Large Language Models with NVFP4", arXiv:2509.25149.

    Attributes:
        name: the spec without the rule.
        element: format of one weight.
        size: weights in a block.
        scaling: how scales are found and applied.

    >>> q = Microscaling("mxfp4", formats.FORMATS["e2m1"], 32, E8M0("rceil"))
    >>> q, q.bits_per_weight((4096, 4096))
    (Microscaling('mxfp4:rceil'), 4.25)
    >>> qw = q.quantize([[1.0, -0.4, 13.0]])
    >>> qw.codes.tolist(), qw.scale.tolist(), qw.dequantize().tolist()
    ([[0, 8, 5]], [[129]], [[0.0, -0.0, 12.0]])
    """

    name: str
    element: Format
    size: int
    scaling: E8M0 | E4M3

    def scheme(self, shape: Shape | None = None) -> Scheme:
        """What ``theory.weight_mse`` must know of it."""
        law = self.scaling.law(self.element, None if shape is None else prod(shape))
        return Scheme(self.element, law, block_sizes(Block(self.size), shape))

    def _encode(self, w: Weights, key: PRNGKey | None) -> QuantizedArray:
        units, scales = self._units(w)
        codes = from_blocks(encode(units, self.element), Block(self.size), w.shape)
        scale = scales.codes.reshape(scale_shape(Block(self.size), w.shape))
        return QuantizedArray(codes, scale, None, self, scales.tensor)

    def _decode(self, qw: QuantizedArray) -> Weights:
        assert qw.scale is not None
        levels = decode(to_blocks(qw.codes, Block(self.size)), self.element)
        return self._weights(levels, Scales(qw.scale.reshape(-1, 1), qw.tensor_scale), qw.codes.shape)

    def _approximate(self, w: Weights, key: PRNGKey | None) -> Weights:
        units, scales = self._units(w)
        return self._weights(snap(units, self.element), scales, w.shape)

    def _outside(self, w: Weights) -> Bool[Array, "..."]:
        outside = beyond(self._units(w)[0], formats.ends(self.element))
        return from_blocks(outside, Block(self.size), w.shape)

    def _units(self, w: Weights) -> tuple[Blocks, Scales]:
        blocks = to_blocks(w, Block(self.size))
        scales = self.scaling.scales(ieee.absmax(blocks), self.element)
        return self.scaling.units(blocks, scales, self.element), scales

    def _weights(self, levels: Blocks, scales: Scales, shape: Shape) -> Weights:
        return from_blocks(self.scaling.weights(levels, scales, self.element), Block(self.size), shape)

    def _span(self, shape: Shape) -> int | None:
        return None if self.scaling == E4M3(two_level=True) else span(Block(self.size), shape)

    def _nbytes(self, shape: Shape) -> int:
        codes = -(-self.element.bits * prod(shape) // 8)
        tensor = 4 if self.scaling == E4M3(two_level=True) else 0
        return codes + prod(scale_shape(Block(self.size), shape)) + tensor

    def __str__(self) -> str:
        """The spec: the name, and what differs from its default."""
        if isinstance(self.scaling, E4M3):
            return self.name if self.scaling.two_level else f"{self.name}:single"
        return self.name if self.scaling.rule == "floor" else f"{self.name}:{self.scaling.rule}"


_ELEMENTS = {
    "mxfp4": "e2m1",
    "mxfp6_e2m3": "e2m3",
    "mxfp6_e3m2": "e3m2",
    "mxfp8_e4m3": "e4m3",
    "mxfp8_e5m2": "e5m2",
    "mxint8": "int8",
}

#: Every element with every rule for its scale, and NVFP4 with and without the tensor scale.
MICROSCALING = (
    *(Microscaling(n, formats.FORMATS[e], 32, E8M0(r)) for n, e in _ELEMENTS.items() for r in RULES),
    *(Microscaling("nvfp4", formats.FORMATS["e2m1"], 16, E4M3(two)) for two in (True, False)),
)

#: Other spellings: the default rule in full.
ALIASES = {f"{q}:floor": q for q in MICROSCALING if q.scaling == E8M0("floor")}
