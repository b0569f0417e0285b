"""JSON of unknown origin: bounded, without a key twice."""

import json
from typing import Any

#: What opens or parts values; each can become an object of Python.
MOST_PARTS = 2**22


def loads(raw: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: for what is no JSON in UTF-8, a key that stands twice, NaN, nesting or parts without bound.

    >>> loads(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: 'a' stands there twice
    """
    if sum(raw.count(mark) for mark in (b"{", b"[", b",")) > MOST_PARTS:
        raise ValueError(f"JSON of more than {MOST_PARTS} values")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("JSON nested without bound") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{twice[:80]!r} stands there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
