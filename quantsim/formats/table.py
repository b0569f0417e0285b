"""Every named format as a row of facts, and the names of floats that need no row.

Sources: OCP 8-bit Floating Point Specification 1.0 (e4m3, e5m2) and OCP Microscaling Formats 1.0 (e3m2, e2m3, e2m1);
Noune et al., arXiv:2206.02915 (e4m3fnuz, e5m2fnuz: the float8 of AMD's and Graphcore's matrix units);
Dettmers et al., QLoRA, arXiv:2305.14314 (nf4); Yoshida, arXiv:2306.06965 (af4 for blocks of 64); bitsandbytes (fp4).
"""

import re

from quantsim.formats.kinds import Codebook, Float, Format, Integer

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
AF4 = (
    -1.0,
    -0.69441008,
    -0.51243739,
    -0.3736951,
    -0.25607552,
    -0.14982478,
    -0.04934812,
    0.0,
    0.04273164,
    0.12934483,
    0.21961274,
    0.31675666,
    0.42563882,
    0.55496234,
    0.72424863,
    1.0,
)
_BNB_FP4 = (0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
FP4 = tuple(sorted({sign * v / 12 for v in _BNB_FP4 for sign in (1, -1)}))

#: Every named format. ``f32`` is the absence of quantization.
FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        *(Integer(f"int{bits}", bits) for bits in range(2, 17)),
        *(Integer(f"uint{bits}", bits, signed=False) for bits in range(2, 17)),
        Float("f32", 8, 23, "ieee"),
        Float("tf32", 8, 10, "ieee"),
        Float("bf16", 8, 7, "ieee"),
        Float("f16", 5, 10, "ieee"),
        Float("e5m2", 5, 2, "ieee"),
        Float("e5m2fnuz", 5, 2, "fnuz"),
        Float("e4m3", 4, 3, "fn"),
        Float("e4m3fnuz", 4, 3, "fnuz"),
        Float("e3m4", 3, 4, "ieee"),
        Float("e3m2", 3, 2),
        Float("e2m3", 2, 3),
        Float("e2m1", 2, 1),
        Codebook("nf4", NF4),
        Codebook("af4", AF4),
        Codebook("fp4", FP4),
    )
}


def parse(name: str) -> Format:
    """Format of a name in the table, or of any ``ExMy`` with 2 to 8 exponent and 0 to 22 mantissa bits.

    An ``ExMy`` that is no row of the table has no infinities and no NaN: the top exponent is one of numbers. So e5m10
    reaches 131008 where f16, which has both, ends at 65504. With 8 exponent bits it has those of float32.

    Raises:
        KeyError: if the name is neither; for an ``ExMy`` its argument says why.

    >>> parse("e3m3")
    Float(name='e3m3', exponent_bits=3, mantissa_bits=3, specials='finite')
    """
    if name in FORMATS:
        return FORMATS[name]
    if m := re.fullmatch(r"e(\d{1,3})m(\d{1,3})", name):
        exponent_bits, mantissa_bits = int(m[1]), int(m[2])
        if reason := _impossible(exponent_bits, mantissa_bits):
            raise KeyError(f"{name}: {reason}")
        if name == f"e{exponent_bits}m{mantissa_bits}":
            return Float(name, exponent_bits, mantissa_bits, "ieee" if exponent_bits == 8 else "finite")
    raise KeyError(name)


def _impossible(exponent_bits: int, mantissa_bits: int) -> str | None:
    """Why there is no such float."""
    if exponent_bits == 1 and mantissa_bits < 15:
        return f"with one exponent bit levels are evenly spaced, say int{mantissa_bits + 2}"
    if not 2 <= exponent_bits <= 8:
        return "an ExMy has 2 to 8 exponent bits, as everything is computed in float32"
    if mantissa_bits > 22:
        return "an ExMy has 0 to 22 mantissa bits, as everything is computed in float32"
    if (exponent_bits, mantissa_bits) == (8, 0):
        return "it has no code for NaN beside infinity; as a scale it comes with mxfp4 and its kin"
    return None
