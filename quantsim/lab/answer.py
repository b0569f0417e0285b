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
from typing import Any, TypeAlias

Entries: TypeAlias = Sequence[Mapping[str, Any]]
LANGUAGES = ("en", "zh")


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

    def said(self, entries: Entries, language: str) -> str:
        """The sentence with its numbers."""
        return self.text[language].format(**{e["id"]: e["value"] for e in entries if e["id"] in self.rests_on})


@dataclass(frozen=True)
class Part:
    """Sentences under a heading, which is given by language."""

    heading: Mapping[str, str]
    sentences: tuple[Sentence, ...]


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("quantsim.lab") / "answer.toml").read_text(encoding="utf-8"))


@cache
def parts() -> tuple[Part, ...]:
    """All that is to be said, in order."""
    return tuple(Part(_texts(part), tuple(map(_sentence, part["sentence"]))) for part in _table()["part"])


def _sentence(found: Mapping[str, Any]) -> Sentence:
    return Sentence(found["rests_on"], _texts(found))


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    return {language: found[language] for language in LANGUAGES}


def title(language: str) -> str:
    """The heading of the page."""
    return _table()["words"]["title"][language]


def count_text(entries: Entries, language: str) -> str:
    """How many statements have which verdict.

    >>> count_text([{"verdict": "holds"}, {"verdict": "refuted"}, {"verdict": "holds"}], "en")
    'Of 3 statements: 2 hold, 1 refuted.'
    """
    words, counts = _table()["words"], Counter(e["verdict"] for e in entries)
    said = (f"{counts[name]} {texts[language]}" for name, texts in _table()["verdicts"].items() if counts[name])
    return words["counted"][language].format(all=len(entries), counts=words["between"][language].join(said))


def standing(entries: Entries) -> list[tuple[Part, list[Sentence]]]:
    """Parts with those of their sentences that stand, if there are any."""
    found = ((part, [s for s in part.sentences if s.stands(entries)]) for part in parts())
    return [(part, sentences) for part, sentences in found if sentences]


def to_markdown(entries: Entries, language: str) -> str:
    """The page in a language; what does not stand is not said."""
    lines, rests_on = [f"## {title(language)}", "", count_text(entries, language)], _table()["words"]["rests_on"]
    for part, sentences in standing(entries):
        lines += ["", f"### {part.heading[language]}", ""]
        lines += [
            f"- {s.said(entries, language)}{rests_on[language].format(ids=', '.join(s.rests_on))}" for s in sentences
        ]
    return "\n".join(lines) + "\n"
