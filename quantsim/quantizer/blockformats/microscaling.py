"""Microscaling by name: small elements in short blocks along the last axis, with a scale of one byte for each block.

============  =======  =====  ====================================  =============================================
spec          element  block  scaled elements                       stored scale
============  =======  =====  ====================================  =============================================
mxfp4         e2m1     32     e2m1:block32:absmax:e8m0              E8M0: the power of two 2^(code - 127), 255 is NaN
mxfp6_e2m3    e2m3     32     e2m3:block32:absmax:e8m0              E8M0
mxfp6_e3m2    e3m2     32     e3m2:block32:absmax:e8m0              E8M0
mxfp8_e4m3    e4m3     32     e4m3:block32:absmax:e8m0              E8M0
mxfp8_e5m2    e5m2     32     e5m2:block32:absmax:e8m0              E8M0
mxint8        int8/64  32     int8:block32:absmax:e8m0              E8M0
mxint4        int4/4   32     int4:block32:absmax:e8m0              E8M0
nvfp4         e2m1     16     e2m1:block16:absmax:e4m3+f32          E4M3, and one float32 for the whole tensor
nvfp4:single  e2m1     16     e2m1:block16:absmax:e4m3              E4M3 alone: blocks of small weights collapse to zero
nvint4        int4     16     int4:block16:absmax:e4m3+f32          E4M3, and one float32; nvint4:single without that
============  =======  =====  ====================================  =============================================

Elements round half to even and saturate at the largest finite level. The MX formats have four rules for the scale,
written ``mxfp4`` (floor), ``mxfp4:ceil``, ``mxfp4:even``, ``mxfp4:rceil``; see ``formats.PowerOfTwo``. Each takes a
block of another size: ``mxfp4:block16``, ``mxfp4:block16:ceil``, ``nvfp4:block32:single``.

A name gives the weights of its scaled elements to the bit, and the same bits a weight; its scales are bytes.
"""

import re
from dataclasses import dataclass, replace
from typing import cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt8
from jaxtyping import Float as Floats

from quantsim import formats
from quantsim._types import PRNGKey, Scale, Shape, TensorScale, Weights
from quantsim.calibration import Absmax
from quantsim.formats import Float, Format, PowerOfTwo, Rule
from quantsim.granularity import Block, from_blocks, to_blocks
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray
from quantsim.quantizer.scaled import Quantizer
from quantsim.quantizer.stored_scales import carry_of, exponent_of_power, power
from quantsim.rounding import decode, encode
from quantsim.theory.scheme import Scheme

_E4M3 = formats.FORMATS["e4m3"]
assert isinstance(_E4M3, Float)
_E8M0_NAN = 255


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

    NVFP4: ``tensor = max |w| / (6 * 448)``, ``scale = e4m3(top / (6 * tensor))`` of a block with ``top = max |w|``, and
    elements are ``w / (scale * tensor)``, with the scale as it is stored: weights are divided by the very number that
    a dequantizer multiplies with. Every operation is rounded once, in this order, which is that of NVIDIA's ModelOpt
    (``NVFP4QTensor``); torchao's ``nvfp4_quantize`` has ``top / 6 / tensor``, and Transformer Engine multiplies by
    reciprocals: either can differ by one unit in the last place before rounding to e4m3 or e2m1. A block whose scale
    rounds to 0 dequantizes to 0, as in Transformer Engine; ModelOpt lifts it to 2^-9, torchao to 2^-6. The tensor scale
    is at least 2^-126, so that it is no subnormal. No finite tensor dequantizes to an infinity.

    Source: OCP Microscaling Formats (MX) Specification 1.0, 2023; Rouhani et al., arXiv:2310.10537; NVIDIA,
    "Pretraining Large Language Models with NVFP4", arXiv:2509.25149; Chen et al., arXiv:2510.25602 (mxint4, nvint4).

    Attributes:
        name: the spec without options.
        scaled: the scaled elements that it is.

    >>> from quantsim.quantizer import parse
    >>> q = parse("mxfp4:rceil")
    >>> q, q.scaled, q.bits_per_weight((4096, 4096))
    (Microscaling('mxfp4:rceil'), Quantizer('e2m1:block32:absmax:e8m0:rceil'), 4.25)
    >>> qw = q.quantize([[1.0, -0.4, 13.0]])
    >>> qw.codes.tolist(), qw.scale.tolist(), qw.dequantize().tolist()
    ([[0, 8, 5]], [[129]], [[0.0, -0.0, 12.0]])
    """

    name: str
    scaled: Quantizer

    @property
    def element(self) -> Format:
        """Format of one weight."""
        return self.scaled.format

    @property
    def size(self) -> int:
        """Weights in a block."""
        assert isinstance(self.scaled.granularity, Block)
        return self.scaled.granularity.size

    def scheme(self, shape: Shape | None = None) -> Scheme:
        """What ``theory.weight_mse`` must know of it."""
        return self.scaled.scheme(shape)

    def _encode(self, w: Weights, key: PRNGKey | None) -> QuantizedArray:
        return self._named(self.scaled._encode(w, key), w)

    def _encode_rows(self, rows: Weights, tensor: TensorScale | None) -> QuantizedArray:
        return self._named(self.scaled._encode_rows(rows, tensor), rows)

    def _named(self, qw: QuantizedArray, w: Weights) -> QuantizedArray:
        assert qw.scale is not None
        codes = qw.codes if self.scaled.two_level else jnp.where(self._spread(jnp.isnan(qw.scale), w), 0, qw.codes)
        return replace(qw, codes=codes, scale=self._bytes(qw.scale), quantizer=self)

    def _spread(self, of_blocks: Bool[Array, "..."], w: Weights) -> Bool[Array, "..."]:
        blocks = to_blocks(w, Block(self.size))
        return from_blocks(jnp.broadcast_to(of_blocks.reshape(-1, 1), blocks.shape), Block(self.size), w.shape)

    def _decode(self, qw: QuantizedArray) -> Weights:
        assert qw.scale is not None
        return self.scaled._decode(replace(qw, scale=self._values(qw.scale), quantizer=self.scaled))

    def _bytes(self, scale: Scale) -> UInt8[Array, "..."]:
        stored = self.scaled.scale_format
        if isinstance(stored, Float):
            return encode(scale, stored).astype(jnp.uint8)
        code = exponent_of_power(scale) + 127 + carry_of(stored, self.element).implied
        return jnp.where(jnp.isnan(scale), _E8M0_NAN, code).astype(jnp.uint8)

    def _values(self, codes: UInt8[Array, "..."]) -> Scale:
        stored = self.scaled.scale_format
        if isinstance(stored, Float):
            return decode(codes, stored)
        values = power(codes.astype(jnp.int32) - 127 - carry_of(stored, self.element).implied)
        return jnp.where(codes == _E8M0_NAN, jnp.nan, values)

    def _approximate(self, w: Weights, key: PRNGKey | None) -> Weights:
        return self.scaled._approximate(w, key)

    def _has_tensor_scale(self) -> bool:
        return self.scaled.two_level

    def _tensor_scale(self, rows: Weights) -> Floats[Array, ""]:
        return self.scaled._tensor_scale(rows)

    def _approximate_rows(self, rows: Weights, tensor: TensorScale | None) -> Weights:
        return self.scaled._approximate_rows(rows, tensor)

    def _outside(self, w: Weights) -> Bool[Array, "..."]:
        return self.scaled._outside(w)

    def _span(self, shape: Shape) -> int | None:
        return self.scaled._span(shape)

    def _nbytes(self, shape: Shape) -> int:
        return self.scaled._nbytes(shape)

    def __str__(self) -> str:
        """The spec: the name, and what differs from its default."""
        options = [f"block{self.size}"] if self.size != NAMED[self.name].size else []
        stored = self.scaled.scale_format
        if isinstance(stored, PowerOfTwo):
            options += [stored.rule] if stored.rule != "floor" else []
        elif not self.scaled.two_level:
            options.append("single")
        return ":".join([self.name, *options])


def _named(name: str, element: str, size: int) -> Microscaling:
    """A format with the default scale of its kind."""
    stored = PowerOfTwo() if name.startswith("mx") else _E4M3
    assert isinstance(stored, PowerOfTwo | Float)
    scaled = Quantizer(formats.parse(element), Block(size), Absmax(), stored, two_level=name.startswith("nv"))
    return Microscaling(name, scaled)


#: Every format by its name, with its default block and scale.
NAMED = {
    q.name: q
    for q in (
        _named("mxfp4", "e2m1", 32),
        _named("mxfp6_e2m3", "e2m3", 32),
        _named("mxfp6_e3m2", "e3m2", 32),
        _named("mxfp8_e4m3", "e4m3", 32),
        _named("mxfp8_e5m2", "e5m2", 32),
        _named("mxint8", "int8", 32),
        _named("mxint4", "int4", 32),
        _named("nvfp4", "e2m1", 16),
        _named("nvint4", "int4", 16),
    )
}


def options(name: str) -> tuple[str, ...]:
    """What may follow a name, beside a block; nothing if it is none.

    >>> options("nvfp4"), options("q4_0")
    (('single',), ())
    """
    if name not in NAMED:
        return ()
    return ("single",) if NAMED[name].scaled.two_level else formats.RULES


def parse(text: str) -> Microscaling | None:
    """Format of a name with its options, or None if it is none; the default rule may be spelled.

    >>> parse("mxfp4:floor"), parse("mxfp4:block16:ceil"), parse("mxfp4:single")
    (Microscaling('mxfp4'), Microscaling('mxfp4:block16:ceil'), None)

    Raises:
        ValueError: for a block without weights.
    """
    name, *tokens = text.split(":")
    found = NAMED.get(name)
    if found and tokens and (m := re.fullmatch(r"block(\d+)", tokens[0])):
        found = replace(found, scaled=replace(found.scaled, granularity=Block(int(m[1]))))
        tokens = tokens[1:]
    if not found or not tokens:
        return found
    if len(tokens) > 1 or tokens[0] not in options(name):
        return None
    changed = {"two_level": False} if tokens[0] == "single" else {"scale_format": PowerOfTwo(cast("Rule", tokens[0]))}
    return replace(found, scaled=replace(found.scaled, **changed))


def _spelled(name: str) -> list[Microscaling]:
    """A name with each of its options."""
    return [q for option in ("", *options(name)) if (q := parse(f"{name}:{option}".removesuffix(":")))]


#: Every element with every rule for its scale, and NVFP4 and its kin with and without the tensor scale.
MICROSCALING = tuple(dict.fromkeys(q for name in NAMED for q in _spelled(name)))

#: Other spellings: the default rule in full.
ALIASES = {f"{name}:floor": q for name, q in NAMED.items() if not q.scaled.two_level}
