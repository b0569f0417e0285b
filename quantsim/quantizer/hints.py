"""What was probably meant by a spec that is none: the nearest spec that exists, and the names that resemble it."""

import re
from collections.abc import Callable, Container, Iterable
from difflib import get_close_matches

from quantsim.formats import FORMATS
from quantsim.quantizer.spec import NUMBERED, WORDS, UnknownPartError, parse_fields, parse_token

#: Names that other libraries have for formats of this one, beside those that contain an ``ExMy``.
_ELSEWHERE = {
    "float32": "f32",
    "fp32": "f32",
    "float16": "f16",
    "fp16": "f16",
    "bfloat16": "bf16",
    "fp8": "e4m3",
    "float8": "e4m3",
    "mxfp8": "mxfp8_e4m3",
    "mxfp6": "mxfp6_e3m2",
}
#: What others call parts of a spec, or what they write in its place.
_OTHER_TOKENS = {"4over6": "fouroversix", "4/6": "fouroversix", "e4m3fn": "e4m3", "ue4m3fn": "ue4m3"}
_NEAR = 0.6  # how alike two words are, from 0 to 1, for one to be meant by the other
_RESEMBLING, _RESEMBLANCES = 0.4, 6
SEE_ALL = "help(quantsim.parse) lists all"


def explain(text: str, unknown: UnknownPartError, block_specs: Iterable[str], exists: Callable[[str], bool]) -> str:
    """The message for a spec with an unknown part: what is wrong, what was meant, what resembles it.

    Args:
        text: the spec, in lower case.
        unknown: what its parser met.
        block_specs: specs of the block formats, which ``unknown`` does not know.
        exists: whether a text is a spec.
    """
    known = tuple(block_specs)
    meant = next((spec for spec in _candidates(text, known) if exists(spec)), None)
    reason = f" ({unknown.reason})" if unknown.reason else ""
    hint = f"; did you mean {meant!r}?" if meant else "."
    names = {spec.partition(":")[0] for spec in known}
    words = (*FORMATS, *sorted(names)) if unknown.part == "format" else (*WORDS, *(f"{w}N" for w in NUMBERED))
    like = get_close_matches(unknown.text, words, _RESEMBLANCES, _RESEMBLING)
    resembling = f"{unknown.part.capitalize()}s like it: {', '.join(like)}; " if like else ""
    return f"unknown {unknown.part} {unknown.text!r} in spec {text!r}{reason}{hint} {resembling}{SEE_ALL}"


def explain_option(text: str, block_specs: Iterable[str], sized: Container[str]) -> str | None:
    """The message for a block format with an option that it does not take; None if ``text`` names no block format.

    Args:
        text: the spec, in lower case.
        block_specs: specs of the block formats.
        sized: names of those that take a size of their blocks.
    """
    name = text.partition(":")[0]
    variants = [spec for spec in block_specs if spec.partition(":")[0] == name]
    if not variants:
        return None
    options = ", ".join(spec.partition(":")[2] for spec in variants if ":" in spec) or "no options"
    if name in sized:
        options = f"a block such as block16, and {options}"
    nearest = get_close_matches(text, variants, 1, 0.0)[0]
    return f"spec {text!r}: {name} takes {options}; did you mean {nearest!r}?"


def explain_rotation(text: str) -> str:
    """The message for a spec with parentheses that spells no rotation.

    Args:
        text: the spec, in lower case.
    """
    name, _, rest = text.partition("(")
    size = re.search(r"\d+", name)
    meant = "regular" if "regular" in name else "sylvester"
    return (
        f"unknown rotation {name!r} in spec {text!r}; did you mean '{meant}{size[0] if size else 64}"
        f"({rest.rstrip(')') or 'int4:block32'})'? A rotation is sylvester or regular, a size, :signs for random "
        "signs, and the spec that it goes around in parentheses"
    )


def _candidates(text: str, block_specs: tuple[str, ...]) -> list[str]:
    """Specs that may have been meant, the nearest first; some of them may be none."""
    name, *tokens = text.split(":")
    names = _formats_near(name, block_specs)
    after = [near for token in tokens if (near := _token_near(token))]
    return [":".join((near, *tail)) for tail in (after, [], ["block32"]) for near in names]


def _formats_near(name: str, block_specs: tuple[str, ...]) -> list[str]:
    if _is_format(name):
        return [name]
    found = [_ELSEWHERE[name]] if name in _ELSEWHERE else []
    if inside := re.search(r"e\d+m\d+(fnuz)?", name):
        found += [word for word in (inside[0], inside[0][:4]) if _is_format(word)]
    return found + get_close_matches(name, (*FORMATS, *block_specs), 3, _NEAR)


def _token_near(token: str) -> str | None:
    """The token that was meant, with its number kept where it takes one."""
    if _is_token(token):
        return token
    if found := (_ELSEWHERE | _OTHER_TOKENS).get(token):
        return found
    if near := get_close_matches(token, WORDS, 1, _NEAR):
        return near[0]
    letters, number = re.fullmatch(r"(.*?)([\d.]*)", token, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    near = get_close_matches(letters, ("block", "channel", "tensor"), 1, _NEAR)
    return (near[0] + (number or "32") * (near[0] == "block")) if near else None


def _is_format(name: str) -> bool:
    try:
        parse_fields(name)
    except ValueError:
        return False
    return True


def _is_token(token: str) -> bool:
    try:
        parse_token(token)
    except ValueError:
        return False
    return True
