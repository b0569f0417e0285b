"""Spec strings: what a person types, the legend, the cache key and the row key are one spelling.

``FORMAT[:GRANULARITY[:CALIBRATION][:SCALE FORMAT][:BOUNDS][:ROUNDING]]``, for example ``int4:block32:mse``,
``int4:block32:absmax:f16``, ``int8:channel@1:p99.9``, ``bf16``. After the format, tokens may come in any order.
"""

import re
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from quantsim import formats
from quantsim.calibration import MSE, RMS, Absmax, Calibration, Clip, MinMax, Percentile
from quantsim.formats import Format, Integer
from quantsim.granularity import Block, Channel, Granularity, Tensor
from quantsim.rounding import ROUNDINGS

_CALIBRATIONS: dict[str, Calibration] = {"absmax": Absmax(), "minmax": MinMax(), "mse": MSE(), "rms": RMS()}
_BOUNDS = get_args(formats.Bounds)
_SCALE_FORMATS = tuple(name for name, f in formats.FORMATS.items() if isinstance(f, formats.Float))

#: Tokens after the format, and the letters of those that end in a number.
WORDS = ("tensor", "channel", *_CALIBRATIONS, *_SCALE_FORMATS, *_BOUNDS, *ROUNDINGS)
NUMBERED = ("block", "clip", "p")


class UnknownPartError(ValueError):
    """A spec holds a format or token that is none.

    Attributes:
        part: "format" or "token".
        text: what stands there.
        reason: why it is none, where there is more to say.
    """

    def __init__(self, part: str, text: str, reason: str | None = None) -> None:
        super().__init__(f"unknown {part} {text!r}" + (f": {reason}" if reason else ""))
        self.part, self.text, self.reason = part, text, reason


def parse_fields(text: str) -> dict[str, Any]:
    """Fields of the quantizer that ``text`` spells.

    Raises:
        UnknownPartError: for an unknown format or token.
        ValueError: for a repeated token, and for numbers out of range.

    >>> parse_fields("e4m3:channel")["granularity"]
    Channel(axis=0)
    """
    name, *tokens = text.split(":")
    fields: dict[str, Any] = {}
    for token in tokens:
        slot, value = parse_token(token)
        if slot in fields:
            raise ValueError(f"spec {text!r} gives its {slot.replace('_', ' ')} twice: the second is {token!r}")
        fields[slot] = value
    fmt = _format(name)
    if bounds := fields.pop("bounds", None):
        if not isinstance(fmt, Integer):
            raise ValueError(f"spec {text!r}: bounds {bounds!r} go with integer formats, not with {name}")
        fmt = replace(fmt, bounds=bounds)
    return {"format": fmt, **fields}


def _format(name: str) -> Format:
    try:
        return formats.parse(name)
    except KeyError as unknown:
        _, _, reason = str(unknown.args[0]).partition(": ")
        raise UnknownPartError("format", name, reason or None) from None


def parse_token(token: str) -> tuple[str, Any]:
    """The field that a token after the format sets, and its value.

    Raises:
        UnknownPartError: if it is no token.
        ValueError: if its number is out of range.

    >>> parse_token("p99.9"), parse_token("block64@1-")
    (('calibration', Percentile(p=99.9)), ('granularity', Block(size=64, axis=1, onward=True)))
    """
    if token in _CALIBRATIONS:
        return "calibration", _CALIBRATIONS[token]
    if token in _BOUNDS:
        return "bounds", token
    if token in ROUNDINGS:
        return "rounding", token
    if granularity := _granularity(token):
        return "granularity", granularity
    if m := re.fullmatch(r"clip(\d*\.?\d+)", token):
        return "calibration", Clip(float(m[1]))
    if m := re.fullmatch(r"p(\d+(?:\.\d+)?)", token):
        return "calibration", Percentile(float(m[1]))
    if token in _SCALE_FORMATS:
        return "scale_format", formats.parse(token)
    if re.fullmatch(r"e\d+m\d+", token):
        try:
            return "scale_format", formats.parse(token)
        except KeyError as unknown:
            raise UnknownPartError("token", token, str(unknown.args[0]).partition(": ")[2]) from None
    raise UnknownPartError("token", token)


def _granularity(token: str) -> Granularity | None:
    if token == "tensor":
        return Tensor()
    if m := re.fullmatch(r"channel(?:@(-?\d+))?", token):
        return Channel(int(m[1] or 0))
    if m := re.fullmatch(r"block(\d+)(?:@(-?\d+)(-?))?", token):
        return Block(int(m[1]), int(m[2] or -1), onward=bool(m[3]))
    return None


def spell(fmt: Format, granularity: Granularity | None, calibration: Calibration, scale: Format, rounding: str) -> str:
    """The canonical spec of a quantizer; trailing defaults are left out.

    >>> from quantsim.formats import FORMATS
    >>> spell(FORMATS["int4"], Block(32), Absmax(), FORMATS["f16"], "even")
    'int4:block32:absmax:f16'
    """
    tokens = [fmt.name] + ([] if granularity is None else [_spell_granularity(granularity)])
    bounds = fmt.bounds if isinstance(fmt, Integer) else "narrow"
    tail = [t for t, default in ((scale.name, "f32"), (bounds, "narrow"), (rounding, "even")) if t != default]
    if granularity is not None and (tail or not isinstance(calibration, Absmax)):
        tokens.append(_spell_calibration(calibration))
    return ":".join(tokens + tail)


def _spell_granularity(g: Granularity) -> str:
    if isinstance(g, Tensor):
        return "tensor"
    if isinstance(g, Channel):
        return "channel" + f"@{g.axis}" * (g.axis != 0)
    return f"block{g.size}" + f"@{g.axis}" * (g.axis != -1) + "-" * g.onward


def _spell_calibration(rule: Calibration) -> str:
    if isinstance(rule, Clip):
        return "clip" + np.format_float_positional(float(rule.ratio), trim="-")
    if isinstance(rule, Percentile):
        return "p" + np.format_float_positional(rule.p, trim="-")
    return next(name for name, known in _CALIBRATIONS.items() if known == rule)
