"""Facts of the formats that the page quantizes with, taken from ``quantsim.formats`` and the quantizers themselves."""

from typing import Any

import numpy as np

from quantsim import formats, quantizer
from quantsim.formats import Codebook, Float, Integer, PowerOfTwo
from quantsim.quantizer.blockformats import SPECS, BlockFormat, legacy, nonlinear
from quantsim.quantizer.blockformats.coding import Coding
from quantsim.quantizer.blockformats.microscaling import MICROSCALING, Microscaling
from quantsim.quantizer.blockformats.search import TINY

#: Who shares a scale, by its name in a spec: everything, a row, or so many weights of a row.
GRANULARITIES = {"tensor": "tensor", "channel": "row", "block32": 32, "block16": 16, "block8": 8, "block4": 4}
#: Formats that a scale may be stored in, the exact one first.
SCALE_FORMATS = ("f32", "f16", "bf16", "e4m3", "ue4m3", "ue5m3")

_INTEGERS = tuple(f"int{bits}" for bits in range(2, 9))
_FLOATS = ("e5m2", "e4m3", "e3m4", "e3m2", "e2m3", "e2m1", "e1m2", "e3m0")
_CODEBOOKS = ("nf4", "af4", "fp4")
_CASTS = ("bf16", "f16", *_FLOATS)
_GGUF = ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl")
_MICROSCALING = (
    *("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8", "mxint4"),
    *("nvfp4", "nvint4"),
)
_UNSIGNED = tuple(f"uint{bits}" for bits in range(2, 9))


def element_facts(fmt: formats.Format) -> dict[str, Any]:
    """What an element can mean, in numbers.

    >>> element_facts(formats.parse("e2m1"))["high"], element_facts(formats.parse("int4"))["reach"]
    (6.0, 7.0)
    """
    facts: dict[str, Any] = {"name": fmt.name, "bits": fmt.bits, "reach": formats.reach(fmt)}
    if isinstance(fmt, Codebook):
        return facts | {"kind": "codebook", "values": shortest(fmt.values)}
    grid = formats.grid(fmt)
    facts |= {"low": float(grid.low), "high": float(grid.high)}
    if isinstance(fmt, Integer):
        return facts | {"kind": "integer"}
    assert isinstance(fmt, Float)
    facts |= {"mantissa_bits": grid.mantissa_bits, "min_exponent": grid.min_exponent}
    facts |= {"exponent_bits": fmt.exponent_bits, "specials": fmt.specials, "signed": fmt.signed}
    return facts | {"kind": "float"}


def shortest(values: Any) -> list[float]:
    """Float32 numbers in the fewest digits that give them back.

    >>> shortest(np.float32([0.1, 1 / 3]))
    [0.1, 0.33333334]
    """
    return [float(str(v)) for v in np.asarray(values, np.float32).ravel()]


def elements() -> dict[str, dict[str, Any]]:
    """Facts of every element that a code or a scale of the formats has, by its name."""
    found = [formats.parse(name) for name in (*_INTEGERS, *_UNSIGNED, *_CASTS, *_CODEBOOKS)]
    return {fmt.name: element_facts(fmt) for fmt in (*found, *map(scale_format, SCALE_FORMATS))}


def scale_format(name: str) -> Float:
    """A float that scales are stored in; it may have no sign.

    >>> scale_format("ue4m3").bits
    7
    """
    fmt = formats.parse_scale(name)
    assert isinstance(fmt, Float)
    return fmt


def format_facts() -> list[dict[str, Any]]:
    """Every format that the matrix can be quantized in, in the order of the list on the page."""
    free = [_scaled("integers", f"{e}:*", e, coding="scaled") for e in reversed(_INTEGERS)]
    free += [_scaled("zero_point", f"{e}:*:minmax", e, coding="minmax") for e in reversed(_INTEGERS)]
    free += [_scaled("floats", f"{e}:*", e, coding="scaled") for e in _FLOATS]
    free += [_scaled("codebooks", f"{e}:*", e, coding="scaled") for e in _CODEBOOKS]
    casts = [_entry("casts", e, e, coding="cast", size=1) for e in _CASTS]
    scaled = [_microscaling(q) for q in MICROSCALING if q.name in _MICROSCALING]
    return [*free, *casts, *scaled, *(_gguf(SPECS[name]) for name in _GGUF)]


def _scaled(group: str, name: str, element: str, *, coding: str) -> dict[str, Any]:
    """A format whose granularity and scale format are free: ``*`` stands for the granularity."""
    entry = _entry(group, name, element, coding=coding, size=None)
    return entry | ({"codes": "u" + element} if coding == "minmax" else {})


def _entry(group: str, name: str, element: str, *, coding: str, size: int | None) -> dict[str, Any]:
    shared = {"name": name, "group": group, "coding": coding, "element": element, "codes": element}
    scaled = element if element in (*_INTEGERS, *_FLOATS, *_CODEBOOKS) else "int8"
    compared = name if size is None else f"{scaled}:*"
    return shared | {"size": size, "scale_format": None, "compared": compared}


def _microscaling(q: Microscaling) -> dict[str, Any]:
    """A microscaling format: the rule of its scale, or whether the tensor has one too."""
    stored = q.scaled.scale_format
    if isinstance(stored, PowerOfTwo):
        group = "mx" if stored.rule == "floor" else "mx_rules"
        return _entry(group, str(q), q.element.name, coding="mx", size=q.size) | {"rule": stored.rule}
    entry = _entry("nvfp4", str(q), q.element.name, coding="nvfp4", size=q.size)
    return entry | {"two_level": q.scaled.two_level, "scale_format": stored.name}


def _gguf(q: quantizer.AbstractQuantizer) -> dict[str, Any]:
    """A format of GGUF files: which coding it has, and the numbers of that coding."""
    assert isinstance(q, BlockFormat)
    coding, codes, numbers = _gguf_coding(q.coding)
    entry = _entry("gguf", q.name, codes.removeprefix("u"), coding=coding, size=q.size)
    return entry | {"codes": codes, "scale_format": "f16", "limit": q.limit} | numbers


def _gguf_coding(coding: Coding) -> tuple[str, str, dict[str, Any]]:
    """Name of the coding on the page, element of its codes, and what else it needs."""
    if isinstance(coding, legacy.Absmax):
        return "absmax", "int8", {}
    if isinstance(coding, legacy.Symmetric | legacy.Affine):
        return ("symmetric" if isinstance(coding, legacy.Symmetric) else "affine"), f"uint{coding.bits}", {}
    assert isinstance(coding, nonlinear.IQ4NL)
    numbers = {"table": nonlinear.TABLE.tolist(), "divisors": nonlinear._DIVISORS.tolist(), "tiny": TINY}
    return "table", "uint4", numbers
