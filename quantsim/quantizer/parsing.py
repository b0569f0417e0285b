"""From a spec string to the quantizer that it names."""

from quantsim.quantizer import blockformats
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.hints import explain, explain_option, explain_rotation
from quantsim.quantizer.rotated import Rotated, rotation_in
from quantsim.quantizer.scaled import Quantizer
from quantsim.quantizer.spec import UnknownPartError, parse_fields

_BLOCK_SPECS = (*blockformats.SPECS, *blockformats.microscaling.ALIASES)


def parse(spec: str | AbstractQuantizer) -> AbstractQuantizer:
    """Quantizer of a spec string: a ``Quantizer``, or one of the block formats. A quantizer is given back as it is.

    So a function that takes a quantizer welcomes a spec as well: ``q = parse(q)``. Upper case is as good as lower.

    ``FORMAT[:GRANULARITY[:CALIBRATION][:SCALE FORMAT[+f32]][:BOUNDS][:ROUNDING]]``

    ============  ================================================================================================
    format        int2 … int16, uint2 … uint16 (0 and up), f16 bf16 tf32 f32, e5m2 e4m3 e3m4 e3m2 e2m3 e2m1,
                  e5m2fnuz e4m3fnuz, nf4 af4 fp4; any other ExMy of 1 to 8 exponent and 0 to 22 mantissa bits has no
                  infinity and no NaN: e5m10 reaches 131008, where f16 ends at 65504; e1m2 has 0, 0.5 … 3.5 with a sign
    granularity   tensor; channel (one scale an output row), channel@1 (an axis); block32 (any size, along the last
                  axis), block32@0 (along an axis), block32@1- (along all axes from 1 on, flattened: the inputs of a
                  convolution), block32@0- (along the whole array, flattened)
    calibration   absmax (default), clip0.8 (a part of it), minmax (zero point), p99.9 (a percentile), mse, rms; of
                  stored scales the one with the least squared error: search (the 4 codes on either side of absmax;
                  search1 …), fouroversix (of e2m1: the largest weight on 6 or on 4)
    scale format  f32 (default), f16, bf16, any other float; without a bit for a sign ue4m3 (reaches 448), ue5m3
                  (114688), any ueXmY; e8m0, powers of two, by the rule floor (default) or e8m0:ceil e8m0:even
                  e8m0:rceil. With +f32 (e4m3+f32) the tensor has a scale, too, that puts the largest scale of a block
                  on top. Scales beyond their format saturate, and a block whose scale rounds to 0 becomes 0
    bounds        of signed integers: narrow (default), half, full, signed
    rounding      even (default), away, truncate, stochastic
    ============  ================================================================================================

    A float format alone is a cast. Block formats are names with options: mxfp4 mxfp6_e2m3 mxfp6_e3m2 mxfp8_e4m3
    mxfp8_e5m2 mxint8 mxint4 (:floor :ceil :even :rceil), nvfp4 nvint4 (:single), all of these also with another block
    (mxfp4:block16:ceil), q4_0 q4_1 q5_0 q5_1 q8_0, q2_k q3_k q4_k q5_k q6_k, iq4_nl iq4_xs, iq1_s iq1_m, iq2_xxs
    iq2_xs iq2_s, iq3_xxs iq3_s, tq1_0 tq2_0, mxfp4:gguf nvfp4:gguf. mxfp4 is e2m1:block32:absmax:e8m0 to the bit, and
    nvfp4 e2m1:block16:absmax:e4m3+f32.

    Around any of them ``regular64(int4:block32)``: blocks of 64 inputs are rotated before it and back after it, by the
    regular Hadamard matrix (sizes are powers of 4) or by ``sylvester128(…)`` (powers of 2), with random signs as
    ``sylvester128:signs(…)`` or, of another seed, ``:signs7``.

    Raises:
        TypeError: if it is neither a string nor a quantizer.
        ValueError: if it is no spec; the message names the part, what was probably meant, and what resembles it.

    >>> parse("int4:block32:mse").bits_per_weight((4096, 4096))
    5.0
    >>> parse("Q4_K"), parse(parse("q4_k"))
    (BlockFormat('q4_k'), BlockFormat('q4_k'))
    >>> parse("int9:blok32")
    Traceback (most recent call last):
    ...
    ValueError: unknown token 'blok32' in spec 'int9:blok32'; did you mean 'int9:block32'? ...
    """
    if isinstance(spec, AbstractQuantizer):
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"a quantizer or its spec is wanted, for example 'int8:block32', not {spec!r}")
    text = spec.strip().lower()
    if rotation := rotation_in(text):
        inner, turned = rotation
        return Rotated(parse(inner), **turned)
    if "(" in text:
        raise ValueError(explain_rotation(text))
    if found := blockformats.parse(text):
        return found
    if wrong_option := explain_option(text, _BLOCK_SPECS, blockformats.microscaling.NAMED):
        raise ValueError(wrong_option)
    try:
        return Quantizer(**parse_fields(text))
    except UnknownPartError as unknown:
        raise ValueError(explain(text, unknown, _BLOCK_SPECS, _exists)) from None


def _exists(text: str) -> bool:
    try:
        return bool(blockformats.parse(text) or Quantizer(**parse_fields(text)))
    except ValueError:
        return False
