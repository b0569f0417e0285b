"""Spec strings: what a person types, the legend, the cache key and the row key are one spelling.

``FORMAT[:GRANULARITY[:CALIBRATION][:SCALE FORMAT][:BOUNDS][:ROUNDING]]``, for example ``int4:block32:mse``,
``int4:block32:absmax:f16``, ``int8:channel@1:p99.9``, ``bf16``. After the format, tokens may come in any order.
"""

import re
from dataclasses import replace
from difflib import get_close_matches
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
_WORDS = ("tensor", "channel", "block", "p", "clip", *_CALIBRATIONS, *_SCALE_FORMATS, *_BOUNDS, *ROUNDINGS)


def parse_fields(text: str, others: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fields of the quantizer that ``text`` spells.

    Raises:
        ValueError: for an unknown or repeated token; says which, and what was probably meant.

    >>> parse_fields("int8:channel")
    {'format': Integer(name='int8', bits=8, bounds='narrow'), 'granularity': Channel(axis=0)}
    """
    name, *tokens = text.strip().split(":")
    if any(spec.partition(":")[0] == name for spec in others):
        raise _unknown("format", name, text, others)
    fields: dict[str, Any] = {}
    for token in tokens:
        if (found := _token(token)) is None:
            raise _unknown("token", token, text, others)
        slot, value = found
        if slot in fields:
            raise ValueError(f"spec {text!r} gives its {slot.replace('_', ' ')} twice: the second is {token!r}")
        fields[slot] = value
    try:
        fmt: Format = formats.parse(name)
    except KeyError:
        raise _unknown("format", name, text, others) from None
    if bounds := fields.pop("bounds", None):
        if not isinstance(fmt, Integer):
            raise ValueError(f"spec {text!r}: bounds {bounds!r} go with integer formats, not with {name}")
        fmt = replace(fmt, bounds=bounds)
    return {"format": fmt, **fields}


def _token(token: str) -> tuple[str, Any] | None:
    if token in _CALIBRATIONS:
        return "calibration", _CALIBRATIONS[token]
    if token in _SCALE_FORMATS or (re.fullmatch(r"e\d+m\d+", token) and _is_format(token)):
        return "scale_format", formats.parse(token)
    if token in _BOUNDS:
        return "bounds", token
    if token in ROUNDINGS:
        return "rounding", token
    if token == "tensor":
        return "granularity", Tensor()
    if m := re.fullmatch(r"channel(?:@(-?\d+))?", token):
        return "granularity", Channel(int(m[1] or 0))
    if m := re.fullmatch(r"block(\d+)(?:@(-?\d+))?", token):
        return "granularity", Block(int(m[1]), int(m[2] or -1))
    if m := re.fullmatch(r"clip(\d*\.?\d+)", token):
        return "calibration", Clip(float(m[1]))
    if m := re.fullmatch(r"p(\d+(?:\.\d+)?)", token):
        return "calibration", Percentile(float(m[1]))
    return None


def _nearest(token: str, words: tuple[str, ...]) -> str | None:
    """The known word nearest to the letters of ``token``, with its number kept where the word takes one."""
    if token in words:
        return token
    letters, number = re.fullmatch(r"(.*?)([\d.]*)", token, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if near := get_close_matches(token, words, 1, 0.6):
        return near[0] + (number or "32") * (near[0] == "block")
    near = get_close_matches(letters, ("block", "channel", "tensor"), 1, 0.6)
    return (near[0] + (number or "32") * (near[0] == "block")) if near else None


def _known(token: str) -> bool:
    try:
        return _token(token) is not None
    except ValueError:
        return False


def _unknown(what: str, token: str, text: str, others: tuple[str, ...]) -> ValueError:
    """What is wrong, what was probably meant, and what is known; ``others``: specs of the block formats."""
    name, *tokens = text.strip().split(":")
    options = [spec.partition(":")[2] for spec in others if spec.partition(":")[0] == name]
    if options and what == "format":  # a block format with a token that it does not take
        takes = ", ".join(o for o in options if o) or "no options"
        near = get_close_matches(text.strip(), [s for s in others if s.partition(":")[0] == name], 1, 0)
        return ValueError(f"spec {text!r}: {name} takes {takes}; did you mean {near[0]!r}?")
    words = tuple(formats.FORMATS) + (() if tokens else others)
    meant = [name if _is_format(name) else _nearest(name, words)]
    meant += [t if t and t != token and _known(t) else _nearest(t, _WORDS) for t in tokens]
    known = (
        ", ".join((*formats.FORMATS, "any ExMy", *others))
        if what == "format"
        else ", ".join(_WORDS).replace("block, p, clip,", "blockN, pN, clipR,")
    )
    hint = f"; did you mean {':'.join(map(str, meant))!r}?" if all(meant) else "."
    return ValueError(f"unknown {what} {token!r} in spec {text!r}{hint} Known: {known}")


def _is_format(name: str) -> bool:
    try:
        return bool(formats.parse(name))
    except KeyError:
        return False


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
    return f"block{g.size}" + f"@{g.axis}" * (g.axis != -1)


def _spell_calibration(rule: Calibration) -> str:
    if isinstance(rule, Clip):
        return "clip" + np.format_float_positional(float(rule.ratio), trim="-")
    if isinstance(rule, Percentile):
        return "p" + np.format_float_positional(rule.p, trim="-")
    return next(name for name, known in _CALIBRATIONS.items() if known == rule)
