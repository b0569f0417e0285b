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
from math import prod

from jaxtyping import Array, Bool

from quantsim import formats
from quantsim._types import Blocks, PRNGKey, Shape, Weights
from quantsim.formats import Format
from quantsim.granularity import Block, block_sizes, from_blocks, scale_shape, span, to_blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.shared_scales import E4M3, E8M0, RULES, Scales, Scaling
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray, beyond
from quantsim.rounding import decode, encode, snap
from quantsim.theory.scheme import Scheme


@dataclass(frozen=True, repr=False)
class Microscaling(AbstractQuantizer):
    """A microscaling format: element codes in the shape of the weights, one scale byte for each block of a row.

    ``w_hat = level(code) * 2^(scale - 127)`` (MX), ``level(code) * e4m3(scale) * tensor_scale`` (NVFP4). The last block
    of a row may be shorter: it is charged a whole scale but no padding. Codes are bit patterns as ``rounding.encode``
    gives them, in which a zero keeps its sign. Those of mxint8 are -127 … 127 and mean code / 64: the largest magnitude
    is 1 63/64, and -128 (-2) stays unused, as the specification allows (5.3.4) and microxcaling has it. A block that
    holds a NaN or an infinity has the scale NaN and codes 0 and dequantizes to NaN, and no other block does. Float32
    subnormals count as zero and results below 2^-126 are zero, as everywhere in XLA on CPU. Weights are rounded to
    float32 first, from which the specification converts: float64 just past a midpoint may so become a tie.

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
    scaling: Scaling

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
        tensors = self._tensors(qw)
        if tensors != qw.codes.shape[: len(tensors)]:
            raise ValueError(
                f"{tensors} scales of tensors do not fit codes {qw.codes.shape}: vmap along the first axis"
            )
        levels = decode(to_blocks(qw.codes, Block(self.size)), self.element)
        return self._weights(levels, Scales(qw.scale.reshape(-1, 1), qw.tensor_scale), qw.codes.shape)

    def _approximate(self, w: Weights, key: PRNGKey | None) -> Weights:
        units, scales = self._units(w)
        return self._weights(snap(units, self.element), scales, w.shape)

    def _outside(self, w: Weights) -> Bool[Array, "..."]:
        ends = tuple(float(level) for level in formats.ends(self.element))
        outside = beyond(self._units(w)[0], ends)
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

    def _nbytes_of(self, qw: QuantizedArray) -> int:
        tensors = self._tensors(qw)
        return prod(tensors) * self._nbytes(qw.shape[len(tensors) :])

    def _tensors(self, qw: QuantizedArray) -> Shape:
        """How many tensors ``vmap`` stacked along each of the first axes, where each has a scale of its own."""
        return () if qw.tensor_scale is None else qw.tensor_scale.shape

    def __str__(self) -> str:
        """The spec: the name, and what differs from its default."""
        option = {E4M3(two_level=False): ":single", **{E8M0(rule): f":{rule}" for rule in RULES if rule != "floor"}}
        return self.name + option.get(self.scaling, "")


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
