"""What of a population or quantizer is static and what is a number: one program serves all that differ in numbers.

``split`` takes the numbers out of a spec and leaves its structure, which is hashable; ``rebuild`` puts numbers, traced
or not, back in. Two specs of one structure run through one compiled program.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim import formats
from quantsim.calibration import RMS, Clip
from quantsim.formats import Grid, Integer, Traced
from quantsim.populations import Population
from quantsim.populations.mixture import Mixture
from quantsim.populations.outliers import Contaminated, Outliers
from quantsim.quantized import AbstractQuantizer
from quantsim.quantizer import Quantizer

#: Parameters of populations that programs take as numbers.
_NUMBERS = ("std", "df", "beta", "rate", "magnitude", "value")
_NESTED = (Mixture, Contaminated, Outliers)


@dataclass(frozen=True)
class Structure:
    """A spec without its numbers: the class, and for each field a static value, a structure or ``...`` for a number."""

    kind: Any
    parts: tuple[tuple[str, Any], ...] = ()


def split_population(pop: Population) -> tuple[Structure, tuple[float, ...]]:
    """Structure and numbers of a population.

    >>> from quantsim.populations import parse
    >>> a, b = (split_population(parse(f"t5+outliers(rate=0.01,magnitude={m})")) for m in (10, 100))
    >>> a[0] == b[0], a[1], b[1]
    (True, (5.0, 1.0, 0.01, 10.0), (5.0, 1.0, 0.01, 100.0))
    """
    numbers: list[float] = []
    return _taken(pop, numbers), tuple(numbers)


def _taken(spec: Any, numbers: list[float]) -> Structure:
    def part(name: str, value: Any) -> Any:
        if name in _NUMBERS and value is not None:
            numbers.append(float(value))
            return ...
        if isinstance(value, Population | Outliers):
            return _taken(value, numbers)
        if isinstance(value, tuple) and value and isinstance(value[0], Population):
            return tuple(_taken(v, numbers) for v in value)
        return value

    if not isinstance(spec, _NESTED) and not hasattr(spec, "std"):
        return Structure(spec)  # drawn from values: static as a whole
    return Structure(type(spec), tuple((name, part(name, v)) for name, v in vars(spec).items()))


def rebuild_population(structure: Structure, numbers: Iterable[Any]) -> Population:
    """The population of a structure and numbers, in the order of ``split_population``.

    >>> from quantsim.populations import parse
    >>> print(rebuild_population(*split_population(parse("laplace(std=2)+outliers(rate=0.5,value=9)"))))
    laplace(std=2)+outliers(rate=0.5,value=9)
    """
    return _given(structure, iter(numbers))


def _given(structure: Structure, numbers: Iterator[Any]) -> Any:
    def part(value: Any) -> Any:
        if value is ...:
            return next(numbers)
        if isinstance(value, Structure):
            return _given(value, numbers)
        if isinstance(value, tuple) and value and isinstance(value[0], Structure):
            return tuple(_given(v, numbers) for v in value)
        return value

    if not isinstance(structure.kind, type):
        return structure.kind
    return structure.kind(**{name: part(value) for name, value in structure.parts})


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
