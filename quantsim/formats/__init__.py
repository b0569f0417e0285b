"""Element formats as rows of facts; levels, range and code width are derived.

A format says which values one code can mean, before any scale. There are three kinds: evenly spaced integers, small
floats ``ExMy`` and codebooks. Adding a format adds a row to ``table``; nothing else needs to know its name.
"""

from quantsim.formats.facts import carry, ends, grid, largest, last_code, levels, reach
from quantsim.formats.kinds import (
    RULES,
    SPECIALS,
    Bounds,
    Carry,
    Codebook,
    Elements,
    Float,
    Format,
    Grid,
    Integer,
    PowerOfTwo,
    Rule,
    ScaleElements,
    Specials,
    Traced,
    bounds,
)
from quantsim.formats.table import FORMATS, parse, parse_scale

__all__ = [
    "FORMATS",
    "RULES",
    "SPECIALS",
    "Bounds",
    "Carry",
    "Codebook",
    "Elements",
    "Float",
    "Format",
    "Grid",
    "Integer",
    "PowerOfTwo",
    "Rule",
    "ScaleElements",
    "Specials",
    "Traced",
    "bounds",
    "carry",
    "ends",
    "grid",
    "largest",
    "last_code",
    "levels",
    "parse",
    "parse_scale",
    "reach",
]
