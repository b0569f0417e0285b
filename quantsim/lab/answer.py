"""The answer to the two documents in a page: sentences that stand on verdicts of the ledger, in English and Chinese.

A sentence is written by hand, ``answer.toml``, and may be said only while every statement that it rests on has the
verdict that was read when it was written; its numbers are filled in from the ledger.
"""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

Entries: TypeAlias = Sequence[Mapping[str, Any]]
Language: TypeAlias = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

_TITLES = {"en": "What remains of the two documents", "zh": "两篇文档还剩下什么"}
_COUNTED = {"en": "Of {all} statements: ", "zh": "{all} 条论断中："}
#: Verdicts in the order in which they are counted, and what they are called.
VERDICTS: dict[str, dict[str, str]] = {
    "holds": {"en": "hold", "zh": "成立"},
    "conditional": {"en": "hold under a condition that is measured", "zh": "在测得的条件下成立"},
    "refuted": {"en": "refuted", "zh": "被否定"},
    "self-contradiction": {"en": "self-contradictory", "zh": "自相矛盾"},
    "unsourced": {"en": "unsourced", "zh": "没有来源"},
    "out of scope": {"en": "out of scope", "zh": "不是数据能判定的"},
    "open": {"en": "open", "zh": "尚未判定"},
}
_MARKS = {"en": {"join": ", ", "end": ".", "ids": " ({})"}, "zh": {"join": "、", "end": "。", "ids": "（{}）"}}


@dataclass(frozen=True)
class Sentence:
    """What can be said while statements have verdicts.

    Attributes:
        rests_on: verdicts by statement.
        text: by language, with the numbers of statements in braces.
    """

    rests_on: Mapping[str, str]
    text: Mapping[str, str]

    def stands(self, entries: Entries) -> bool:
        """Whether every statement that it rests on has its verdict."""
        verdicts = {e["id"]: e["verdict"] for e in entries}
        return all(verdicts.get(name) == verdict for name, verdict in self.rests_on.items())

    def said(self, entries: Entries, language: Language) -> str:
        """The sentence with its numbers, and the statements that it rests on."""
        numbers = {e["id"]: e["value"] for e in entries if e["id"] in self.rests_on}
        return self.text[language].format(**numbers) + _MARKS[language]["ids"].format(", ".join(self.rests_on))


@dataclass(frozen=True)
class Part:
    """Sentences under a heading, which is given by language."""

    heading: Mapping[str, str]
    sentences: tuple[Sentence, ...]


@cache
def parts() -> tuple[Part, ...]:
    """All that is to be said, in order."""
    read = tomllib.loads((files("quantsim.lab") / "answer.toml").read_text(encoding="utf-8"))
    return tuple(
        Part(
            {language: part[language] for language in LANGUAGES},
            tuple(
                Sentence(found["rests_on"], {language: found[language] for language in LANGUAGES})
                for found in part["sentence"]
            ),
        )
        for part in read["part"]
    )


def count_text(entries: Entries, language: Language) -> str:
    """How many statements have which verdict.

    >>> count_text([{"verdict": "holds"}, {"verdict": "refuted"}, {"verdict": "holds"}], "en")
    'Of 3 statements: 2 hold, 1 refuted.'
    """
    counts = Counter(e["verdict"] for e in entries)
    said = (f"{counts[name]} {words[language]}" for name, words in VERDICTS.items() if counts[name])
    marks = _MARKS[language]
    return _COUNTED[language].format(all=len(entries)) + marks["join"].join(said) + marks["end"]


def to_markdown(entries: Entries, language: Language) -> str:
    """The page in a language; what does not stand is not said."""
    lines = [f"## {_TITLES[language]}", "", count_text(entries, language)]
    for part in parts():
        standing = [f"- {s.said(entries, language)}" for s in part.sentences if s.stands(entries)]
        if standing:
            lines += ["", f"### {part.heading[language]}", "", *standing]
    return "\n".join(lines) + "\n"
