"""The words of the report: one table, ``strings.toml``, with every string in every language."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

LANGUAGES = ("en", "zh")
#: Section and name of a string, and the string.
Words: TypeAlias = dict[str, dict[str, str]]


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(files("quantsim.lab.report").joinpath(name).read_text(encoding="utf-8"))


@cache
def table() -> dict[str, dict[str, dict[str, str]]]:
    """Section, name and language of every string."""
    return _read("strings.toml")


def words(language: str) -> Words:
    """All strings of a language.

    >>> words("zh")["report"]["title"]
    'quantsim：量化误差实验报告'
    """
    return {section: {name: texts[language] for name, texts in strings.items()} for section, strings in table().items()}


@cache
def statements(language: str) -> dict[str, str]:
    """The statements of the ledger in a language that it is not written in; none for English.

    >>> statements("zh")["B14"], statements("en")
    ('缩放因子 .00983（§4）', {})
    """
    return _read("strings_claims.toml").get(language, {})
