"""Spec strings: what a person types, the legend, the cache key and the row key are one spelling.

``FORMAT[:GRANULARITY[:CALIBRATION][:SCALE FORMAT[+f32]][:BOUNDS][:ROUNDING]]``, for example ``int4:block32:mse``,
``int4:block32:absmax:f16``, ``e2m1:block16:absmax:ue4m3+f32``, ``int8:channel@1:p99.9``, ``bf16``. After the format,
tokens may come in any order, but the rule of ``e8m0`` follows it: ``int4:block32:absmax:e8m0:ceil``.
"""

import re
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from quantsim import formats
from quantsim.calibration import MSE, RMS, Absmax, Calibration, Clip, FourOverSix, MinMax, Percentile, Search
from quantsim.formats import Format, Integer, PowerOfTwo
from quantsim.granularity import Block, Channel, Granularity, Tensor
from quantsim.rounding import ROUNDINGS

_CALIBRATIONS: dict[str, Calibration] = {
    "absmax": Absmax(),
    "minmax": MinMax(),
    "mse": MSE(),
    "rms": RMS(),
    "fouroversix": FourOverSix(),
    "search": Search(),
}
_BOUNDS = get_args(formats.Bounds)
_SCALE_FORMATS = tuple(name for name, f in formats.FORMATS.items() if isinstance(f, formats.Float))
_UNSIGNED = ("ue4m3", "ue5m3", "e8m0")

#: Of a scale format in a spec: the tensor has a scale, too.
TWO_LEVEL = "+f32"

#: Tokens after the format, and the letters of those that end in a number.
WORDS = (
    *("tensor", "channel", *_CALIBRATIONS, *_SCALE_FORMATS, *_UNSIGNED, *_BOUNDS, *ROUNDINGS),
    *(f"{name}{TWO_LEVEL}" for name in ("e4m3", "ue4m3", "ue5m3")),
)
NUMBERED = ("block", "clip", "p", "search")


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
    for token in with_rules(tokens):
        slot, value = parse_token(token)
        if slot in fields:
            raise ValueError(f"spec {text!r} gives its {slot.replace('_', ' ')} twice: the second is {token!r}")
        fields[slot] = value
    fmt = _format(name)
    if bounds := fields.pop("bounds", None):
        if not isinstance(fmt, Integer):
            raise ValueError(f"spec {text!r}: bounds {bounds!r} go with integer formats, not with {name}")
        fmt = replace(fmt, bounds=bounds)
    if scale := fields.pop("scale_format", None):
        fields |= {"scale_format": scale[0]} | ({"two_level": True} if scale[1] else {})
    return {"format": fmt, **fields}


def with_rules(tokens: list[str]) -> list[str]:
    """Tokens with each rule of an e8m0 joined to it.

    >>> with_rules(["block32", "e8m0", "even", "away"])
    ['block32', 'e8m0:even', 'away']
    """
    joined: list[str] = []
    for token in tokens:
        if joined and token in formats.RULES and joined[-1].removeprefix("u") == "e8m0":
            joined[-1] += f":{token}"
        else:
            joined.append(token)
    return joined


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
    if m := re.fullmatch(r"search(\d+)", token):
        return "calibration", Search(int(m[1]))
    if token in formats.RULES:
        raise UnknownPartError("token", token, "the rule of a power-of-two scale follows its e8m0")
    return "scale_format", _scale_format(token)


def _scale_format(token: str) -> tuple[formats.Float | PowerOfTwo, bool]:
    """Format of a scale, and whether the tensor has one, too."""
    name, plus, second = token.partition("+")
    if plus and second != TWO_LEVEL[1:]:
        raise UnknownPartError("token", token, "the scale of the tensor is a float32")
    if m := re.fullmatch(r"u?e8m0:(\w+)", name):
        return PowerOfTwo(m[1]), bool(plus)  # pyright: ignore[reportArgumentType]
    if name not in _SCALE_FORMATS and not re.fullmatch(r"u?e\d+m\d+", name):
        raise UnknownPartError("token", token)
    try:
        return formats.parse_scale(name), bool(plus)
    except KeyError as unknown:
        raise UnknownPartError("token", token, str(unknown.args[0]).partition(": ")[2]) from None


def _granularity(token: str) -> Granularity | None:
    if token == "tensor":
        return Tensor()
    if m := re.fullmatch(r"channel(?:@(-?\d+))?", token):
        return Channel(int(m[1] or 0))
    if m := re.fullmatch(r"block(\d+)(?:@(-?\d+)(-?))?", token):
        return Block(int(m[1]), int(m[2] or -1), onward=bool(m[3]))
    return None


def spell(fmt: Format, granularity: Granularity | None, calibration: Calibration, scale: str, rounding: str) -> str:
    """The canonical spec of a quantizer; trailing defaults are left out.

    >>> from quantsim.formats import FORMATS
    >>> spell(FORMATS["int4"], Block(32), Absmax(), "f16", "even")
    'int4:block32:absmax:f16'
    """
    tokens = [fmt.name] + ([] if granularity is None else [_spell_granularity(granularity)])
    bounds = fmt.bounds if isinstance(fmt, Integer) else "narrow"
    tail = [t for t, default in ((scale, "f32"), (bounds, "narrow"), (rounding, "even")) if t != default]
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
    if isinstance(rule, Search) and rule != Search():
        return f"search{rule.neighbours}"
    return next(name for name, known in _CALIBRATIONS.items() if known == rule)
