"""The words of the report: one table, ``strings.toml``, with every string in every language."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import TypeAlias

LANGUAGES = ("en", "zh")
#: Section and name of a string, and the string.
Words: TypeAlias = dict[str, dict[str, str]]


@cache
def table() -> dict[str, dict[str, dict[str, str]]]:
    """Section, name and language of every string."""
    return tomllib.loads(files("quantsim.lab.report").joinpath("strings.toml").read_text(encoding="utf-8"))


def words(language: str) -> Words:
    """All strings of a language.

    >>> words("zh")["report"]["title"]
    'quantsim:量化误差实验报告'
    """
    return {section: {name: texts[language] for name, texts in strings.items()} for section, strings in table().items()}
