"""What of a quantizer is static and what is a number: one program serves all that differ in numbers.

``split_quantizer`` takes the numbers out and leaves a structure, which is hashable; ``rebuild_quantizer`` puts numbers,
traced or not, back in. Two quantizers of one structure run through one compiled program.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim import formats
from quantsim.calibration import RMS, Clip
from quantsim.formats import Grid, Integer, Traced
from quantsim.populations.structure import Structure
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.scaled import Quantizer


def split_quantizer(q: AbstractQuantizer) -> tuple[Structure, tuple[float, ...]]:
    """Structure and numbers of a quantizer: bits, exponents and range of its elements and scales, and clip ratio.

    Codebooks, formats with the exponent of float32 and block formats are static as a whole, and so is ``rms``, whose
    reach is a constant of the format.

    >>> from quantsim.quantizer import parse
    >>> split_quantizer(parse("int4:block32"))[1], split_quantizer(parse("int4:block32:clip0.5"))[1]
    ((-7.0, 7.0, 7.0), (-7.0, 7.0, 7.0, 0.5))
    >>> split_quantizer(parse("e4m3:block32"))[0] == split_quantizer(parse("e5m2:block32"))[0]
    True
    """
    if not isinstance(q, Quantizer) or not _has_grid(q.format) or isinstance(q.calibration, RMS):
        return Structure(q), ()
    integer = isinstance(q.format, Integer)
    numbers = [*(_facts(q.format)[2:] if integer else _facts(q.format)), formats.reach(q.format)]
    scale = q.scale_format
    if _has_grid(scale):
        numbers += _facts(scale)
    if isinstance(q.calibration, Clip):
        numbers.append(q.calibration.ratio)
    parts = {
        "granularity": q.granularity,
        "calibration": Clip if isinstance(q.calibration, Clip) else q.calibration,
        "scale_format": ... if _has_grid(scale) else scale,
        "rounding": q.rounding,
        "bounds": formats.bounds(q.format),
    }
    return Structure(Quantizer, tuple(parts.items())), tuple(float(v) for v in numbers)


def _has_grid(fmt: Any) -> bool:
    return isinstance(fmt, Integer) or getattr(fmt, "exponent_bits", 8) < 8


def _facts(fmt: Any) -> tuple[float | int, ...]:
    return tuple(formats.grid(fmt))


def rebuild_quantizer(structure: Structure, numbers: Float[Array, " k"]) -> AbstractQuantizer:
    """The quantizer of a structure and a vector of numbers, which may be traced."""
    if not isinstance(structure.kind, type):
        return structure.kind
    parts, given = dict(structure.parts), iter(numbers)
    take = partial(next, given)

    def grid() -> Grid:
        return Grid(take().astype(jnp.int32), take().astype(jnp.int32), take(), take())

    bounds = parts.pop("bounds")
    # of an integer the rounding kernel reads the range only
    elements = Grid(0, 0, take(), take()) if bounds else grid()
    parts["format"] = Traced(elements, take(), bounds)
    if parts["scale_format"] is ...:
        parts["scale_format"] = Traced(grid(), np.nan)
    if parts["calibration"] is Clip:
        parts["calibration"] = Clip(take())
    return structure.kind(**parts)
