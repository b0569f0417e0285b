"""Which parts make a quantizer: their kinds, and the combinations that exist."""

from typing import Any, get_args

from quantsim import formats
from quantsim.calibration import Absmax, Calibration, MinMax
from quantsim.formats import Codebook, Format, Integer, Traced
from quantsim.granularity import Granularity
from quantsim.rounding import ROUNDINGS

_FIELDS = {
    "format": (get_args(Format), "quantsim.formats.parse('int4')"),
    "granularity": ((*get_args(Granularity), type(None)), "quantsim.granularity.Block(32)"),
    "calibration": (get_args(Calibration), "quantsim.calibration.Absmax()"),
    "scale_format": ((formats.Float,), "quantsim.formats.parse('f16')"),
}


def require_kinds(q: Any) -> None:
    """Refuse parts of the wrong kind.

    Raises:
        TypeError: with what is wanted in their place.
        ValueError: for an unknown rounding.
    """
    for name, (kinds, example) in _FIELDS.items():
        part = getattr(q, name)
        if not isinstance(part, (*kinds, Traced)):
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
    if isinstance(q.format, Traced):  # of a quantizer that has been looked at
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


def _require_cast(q: Any) -> None:
    """Without a granularity there is no scale."""
    scaled = (q.calibration, q.scale_format) != (Absmax(), formats.FORMATS["f32"])
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
