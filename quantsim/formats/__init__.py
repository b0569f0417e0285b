"""Element formats as rows of facts; levels, range and code width are derived.

A format says which values one code can mean, before any scale. There are three kinds: evenly spaced integers, small
floats ``ExMy`` and codebooks. Adding a format adds a row to ``table``; nothing else needs to know its name.
"""

from quantsim.formats.facts import ends, grid, largest, last_code, levels, reach
from quantsim.formats.kinds import (
    SPECIALS,
    Bounds,
    Codebook,
    Elements,
    Float,
    Format,
    Grid,
    Integer,
    ScaleElements,
    Specials,
    Traced,
    bounds,
)
from quantsim.formats.table import FORMATS, parse

__all__ = [
    "FORMATS",
    "SPECIALS",
    "Bounds",
    "Codebook",
    "Elements",
    "Float",
    "Format",
    "Grid",
    "Integer",
    "ScaleElements",
    "Specials",
    "Traced",
    "bounds",
    "ends",
    "grid",
    "largest",
    "last_code",
    "levels",
    "parse",
    "reach",
]
