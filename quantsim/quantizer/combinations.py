"""Which parts make a quantizer: their kinds, and the combinations that exist."""

from typing import Any, get_args

from quantsim import formats
from quantsim.calibration import Absmax, Calibration, FourOverSix, MinMax, Search
from quantsim.formats import Carry, Codebook, Format, Integer, PowerOfTwo, Traced
from quantsim.granularity import Granularity, Tensor
from quantsim.rounding import ROUNDINGS

_FIELDS = {
    "format": (get_args(Format), "quantsim.formats.parse('int4')"),
    "granularity": ((*get_args(Granularity), type(None)), "quantsim.granularity.Block(32)"),
    "calibration": (get_args(Calibration), "quantsim.calibration.Absmax()"),
    "scale_format": ((formats.Float, PowerOfTwo), "quantsim.formats.parse('f16')"),
}


def require_kinds(q: Any) -> None:
    """Refuse parts of the wrong kind.

    Raises:
        TypeError: with what is wanted in their place.
        ValueError: for an unknown rounding.
    """
    for name, (kinds, example) in _FIELDS.items():
        part = getattr(q, name)
        if not isinstance(part, (*kinds, Traced, Carry)):
            raise TypeError(
                f"the {name.replace('_', ' ')} of a quantizer is an object such as {example}, not {part!r}; "
                "quantsim.parse('int4:block32') makes a quantizer of a spec"
            )
    if q.rounding not in ROUNDINGS:
        raise ValueError(f"unknown rounding {q.rounding!r}; known are {', '.join(ROUNDINGS)}")


def require_combination(q: Any) -> None:
    """Refuse combinations that do not exist.

    Raises:
        ValueError: with what does exist.
    """
    if isinstance(q.format, Traced) or isinstance(q.scale_format, Traced | Carry):  # has been looked at
        return
    if q.granularity is None:
        _require_cast(q)
    elif getattr(q.format, "exponent_bits", 0) == 8:
        # its largest value is that of float32: the scale of any weight below 4 would underflow
        raise ValueError(f"{q.format.name} has the range of float32 and takes no scale: say it alone")
    if isinstance(q.calibration, MinMax):
        _require_signed_integer(q.format)
    if isinstance(q.format, Codebook) and q.rounding != "even":
        raise ValueError(f"codebook {q.format.name} rounds to the nearest level only, not {q.rounding!r}")
    if formats.bounds(q.format) == "signed" and not isinstance(q.calibration, Absmax):
        raise ValueError("signed bounds take their scale from the extreme weight: only absmax goes with them")
    if q.granularity is not None:
        _require_scale(q)
        _require_choice(q)


def _require_scale(q: Any) -> None:
    """What scales of few kinds can be: powers of two, unsigned floats, two levels."""
    scale, bounds = q.scale_format, formats.bounds(q.format)
    name = scale.name
    signed = isinstance(scale, formats.Float) and scale.signed
    if bounds == "signed" and (q.two_level or not signed):
        what = "in units of a scale of the tensor" if signed else f"stored as {name}"
        raise ValueError(f"signed bounds have a scale with a sign, which has no place {what}; say narrow bounds")
    if isinstance(scale, PowerOfTwo):
        if bounds in ("half", "full"):
            raise ValueError(
                f"{name} puts the largest weight on a whole level: bounds {bounds!r} have none, say narrow"
            )
        formats.carry(scale, q.format)
    if isinstance(q.calibration, MinMax) and (q.two_level or isinstance(scale, PowerOfTwo)):
        raise ValueError(f"minmax takes a scale stored as a float, in one level, not {name}{'+f32' * q.two_level}")
    if not q.two_level:
        return
    if scale.exponent_bits == 8:
        raise ValueError(
            f"{name} has the range of float32, so that a scale of the tensor adds nothing: "
            f"say {name} alone, or a format of less range such as ue4m3+f32"
        )
    if isinstance(q.granularity, Tensor):
        raise ValueError("one scale for the tensor needs no second one: +f32 goes with blocks and channels")


def _require_choice(q: Any) -> None:
    """What a scale can be chosen among."""
    rule, name = q.calibration, q.scale_format.name
    if isinstance(rule, FourOverSix):
        if q.format.name != "e2m1":
            raise ValueError(
                f"fouroversix chooses between the levels 6 and 4 of e2m1, not of {q.format.name}: say search"
            )
        if isinstance(q.scale_format, PowerOfTwo):
            raise ValueError("fouroversix needs scales that are 3 / 2 apart, and powers of two are not: say search1")
    if isinstance(rule, Search) and name in ("f32", "tf32"):
        raise ValueError(
            f"search tries the neighbouring codes of a stored scale, and those of {name} are all alike: "
            "say mse, or a scale format of fewer digits such as ue4m3"
        )


def _require_cast(q: Any) -> None:
    """Without a granularity there is no scale."""
    scaled = (q.calibration, q.scale_format, q.two_level) != (Absmax(), formats.FORMATS["f32"], False)
    if scaled or not isinstance(q.format, formats.Float):
        raise ValueError(f"{q} needs a granularity, for example {q.format.name}:block32")


def _require_signed_integer(fmt: Format) -> None:
    """What minmax can shift by a zero point."""
    if not isinstance(fmt, Integer) or fmt.bounds != "narrow":
        raise ValueError(f"minmax needs an integer format with its default bounds, not {fmt.name}")
    if not fmt.signed:
        raise ValueError(
            f"minmax finds a zero point by itself: say int{fmt.bits}, whose codes are then 0 … {2**fmt.bits - 1}, "
            f"not {fmt.name}"
        )
