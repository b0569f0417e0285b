"""Every named format as a row of facts, and the names of floats that need no row.

Sources: OCP 8-bit Floating Point Specification 1.0 (e4m3, e5m2) and OCP Microscaling Formats 1.0 (e3m2, e2m3, e2m1);
Noune et al., arXiv:2206.02915 (e4m3fnuz, e5m2fnuz: the float8 of AMD's and Graphcore's matrix units);
Dettmers et al., QLoRA, arXiv:2305.14314 (nf4); Yoshida, arXiv:2306.06965 (af4 for blocks of 64); bitsandbytes (fp4).
"""

import re

from quantsim.formats.kinds import Codebook, Float, Format, Integer, PowerOfTwo

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

_FEWEST = 3  # bits of an unsigned float: zero, NaN and some numbers between them

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
    """Format of a name in the table, or of any ``ExMy`` with 1 to 8 exponent and 0 to 22 mantissa bits.

    An ``ExMy`` that is no row of the table has no infinities and no NaN: the top exponent is one of numbers. So e5m10
    reaches 131008 where f16, which has both, ends at 65504. With 8 exponent bits it has those of float32. With one, its
    bias is 0 and its levels are evenly spaced: those of e1m2 are 0, 0.5 … 3.5 with a sign, the codes of int4 halved.

    Raises:
        KeyError: if the name is neither; for an ``ExMy`` its argument says why.

    >>> parse("e3m3")
    Float(name='e3m3', exponent_bits=3, mantissa_bits=3, specials='finite', signed=True)
    """
    if name in FORMATS:
        return FORMATS[name]
    if m := re.fullmatch(r"e(\d{1,3})m(\d{1,3})", name):
        exponent_bits, mantissa_bits = int(m[1]), int(m[2])
        if reason := _impossible(exponent_bits, mantissa_bits):
            raise KeyError(f"{name}: {reason}")
        if name == f"e{exponent_bits}m{mantissa_bits}":
            return Float(name, exponent_bits, mantissa_bits, "ieee" if exponent_bits == 8 else "finite")
    if re.fullmatch(r"ue\d+m\d+", name):
        what = "a power of two, and" if name == "ue8m0" else "it has no sign and is"
        raise KeyError(f"{name}: {what} a format of scales: int4:block32:absmax:{name}")
    raise KeyError(name)


def _impossible(exponent_bits: int, mantissa_bits: int) -> str | None:
    """Why there is no such float."""
    if exponent_bits == 0:
        return f"without an exponent it is an integer, say int{mantissa_bits + 1}"
    if exponent_bits > 8:
        return "an ExMy has 1 to 8 exponent bits, as everything is computed in float32"
    if mantissa_bits > 22:
        return "an ExMy has 0 to 22 mantissa bits, as everything is computed in float32"
    if (exponent_bits, mantissa_bits) == (8, 0):
        return "powers of two are scales, not elements: mxfp4, or any element as in int4:block32:absmax:e8m0"
    return None


def parse_scale(name: str) -> Float | PowerOfTwo:
    """Format of a stored scale: any float, ``e8m0``, or a ``ueXmY``, which has no bit for a sign.

    ``ueXmY`` is eXmY without its sign where that is a row of the table: ue4m3 reaches 448, ue5m2 57344. Any other has
    one NaN, the code of all ones, as a scale must be able to say it: ue5m3 reaches 114688 and goes down to 2^-17. With
    8 exponent bits it has those of float32. ``e5m3`` is the float of 9 bits of ``parse``. ``ue8m0`` is e8m0.

    Raises:
        KeyError: if it is none; its argument says why.

    >>> parse_scale("ue4m3").bits, parse_scale("ue8m0").name, parse_scale("e5m3").bits
    (7, 'e8m0', 9)
    """
    if name.removeprefix("u") == "e8m0":
        return PowerOfTwo()
    found = parse(name.removeprefix("u") if re.fullmatch(r"ue\d+m\d+", name) else name)
    if not isinstance(found, Float):
        raise KeyError(f"{name}: a scale is stored as a float or as e8m0")
    if found.name == name:
        return found
    specials = "fn" if found.specials == "finite" else found.specials
    if found.exponent_bits + found.mantissa_bits < _FEWEST:
        raise KeyError(f"{name}: an unsigned float needs {_FEWEST} bits at least, as one code is NaN")
    return Float(name, found.exponent_bits, found.mantissa_bits, specials, signed=False)
