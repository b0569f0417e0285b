"""Topics of studies and of the statements that they settle."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from quantsim.lab import claims, study
from quantsim.lab.handbook.topic import Topic, plain, words

#: The ledger as it was published: inside an installed package, beside it in a checkout.
_LEDGERS = (study.PACKAGE / "claims.json", study.PACKAGE.parent / "paper_figures" / "claims.json")


@cache
def ledger() -> tuple[dict[str, Any], ...]:
    """Every statement with the verdict that was published; without one, if no ledger lies here."""
    for path in filter(Path.is_file, _LEDGERS):
        return tuple(json.loads(path.read_text(encoding="utf-8")))
    return tuple(vars(s) | {"verdict": "open"} for s in claims.statements())


def studies() -> Iterator[Topic]:
    """Every study: its question, what it finds, what it settles, its method."""
    yield from (one_study(name) for name in study.names())


def one_study(name: str) -> Topic:
    """A study by its name.

    >>> one_study("outliers").what
    "How much does an outlier hurt the other weights of an int8 tensor: by its size, its rarity, the tensor's size?"
    """
    facts = [("finds", words("findings.toml").get(name, ""))]
    if settled := [e["id"] for e in ledger() if e.get("study") == name]:
        facts.append(("settles", " ".join(settled)))
    real = "--real " if study.needs_real_model(name) else ""
    facts.append(("run", f"quantsim run {real}{name}"))
    return Topic(name, "study", study.question(name), tuple(facts), method(name))


def method(name: str) -> str:
    """What a study says of its method: the paragraphs of its docstring behind the question."""
    _, *paragraphs = re.split(r"\n\n|\n(?=(?:Method|Expected|Refuted)\b)", (study.module(name).__doc__ or "").strip())
    return "\n\n".join(plain(p) for p in paragraphs)


def statements() -> Iterator[Topic]:
    """Every statement of the ledger, by its id."""
    yield from (_statement(entry) for entry in ledger())


def _statement(entry: dict[str, Any]) -> Topic:
    labels = {"definition": "number is", "rule": "rule", "reading": "reading", "study": "settled by"}
    facts = [("verdict", entry["verdict"])]
    if number := claims.number_text(entry):
        facts.append(("number", number))
    facts += [(label, entry[column]) for column, label in labels.items() if entry.get(column)]
    return Topic(entry["id"], "claim", entry["statement"], tuple(facts))
