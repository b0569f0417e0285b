"""The ledger: every statement of the two documents, with a verdict that a rule computes from measured rows.

A study states its rules beside its measurement; nothing here or there types a verdict in.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

import numpy as np

from quantsim.lab import answer
from quantsim.measure.ratios import CLEARLY, Estimate
from quantsim.rows import Rows, plain

Verdict: TypeAlias = Literal[
    "holds", "conditional", "refuted", "self-contradiction", "unsourced", "out of scope", "open"
]
Real: TypeAlias = float | int
Number: TypeAlias = Real | Estimate | tuple[Real, Real]


@dataclass(frozen=True)
class Statement:
    """One row of the ledger before it is settled: ``how`` is what could settle it."""

    id: str
    document: str
    statement: str
    how: str


@dataclass(frozen=True)
class Rule:
    """How a number (value, standard error) becomes a verdict; ``text`` says it in words."""

    text: str
    decide: Callable[[float, float], Verdict]


@dataclass(frozen=True)
class Claim:
    """What settles a statement: a number, its definition, and the rule written down before the measurement.

    Attributes:
        id: identifier of the statement, for example "B14".
        definition: what the number is, in words that name the kind of relative error.
        number: number, or number and standard error, from the rows of the study.
        rule: verdict of the number.
        reading: one sentence for the reader, which answers the statement; ``{value}`` stands for the number.
        statement: what is claimed, in the words of the ledger, or of a part of it.
    """

    id: str
    definition: str
    number: Callable[[Rows], Number]
    rule: Rule
    reading: str = ""
    statement: str = ""


def stated(number: Real, within: Real, *, limit: Real = np.inf) -> Rule:
    """Holds if the measured number is the stated one up to its last digit (and three standard errors).

    ``limit`` is a bound that the document's own other numbers put on it: beyond it, it contradicts itself.

    >>> stated(0.012, 0.0005, limit=0.00983 / 2).decide(0.0039, 0.0)
    'self-contradiction'
    >>> stated(0.4, 0.05).decide(0.42, 0.0), stated(0.4, 0.05).decide(0.5, 0.01)
    ('holds', 'refuted')
    """

    def decide(value: float, se: float) -> Verdict:
        if number > limit:
            return "self-contradiction"
        return "holds" if abs(value - number) <= within + CLEARLY * se else "refuted"

    bound = f"; contradicts itself, as its own numbers allow at most {limit:.4g}" if number > limit else ""
    return Rule(f"holds if within {within:g} of the stated {number:g}{bound}", decide)


def at_most(number: Real) -> Rule:
    """Holds if the measured number is not significantly larger."""

    def decide(value: float, se: float) -> Verdict:
        return "holds" if value <= number + CLEARLY * se else "refuted"

    return Rule(f"holds if at most {number:g}", decide)


def at_least(number: Real) -> Rule:
    """Holds if the measured number is not significantly smaller."""

    def decide(value: float, se: float) -> Verdict:
        return "holds" if value >= number - CLEARLY * se else "refuted"

    return Rule(f"holds if at least {number:g}", decide)


def between(low: Real, high: Real) -> Rule:
    """Holds if the measured number lies between, up to three standard errors."""

    def decide(value: float, se: float) -> Verdict:
        return "holds" if low - CLEARLY * se <= value <= high + CLEARLY * se else "refuted"

    return Rule(f"holds between {low:g} and {high:g}", decide)


def share_of_cases(what: str) -> Rule:
    """For a number that is the share of tested cases in which a statement is true.

    >>> [share_of_cases("x").decide(v, 0.0) for v in (0.0, 0.3, 1.0)]
    ['refuted', 'conditional', 'holds']
    """

    def decide(value: float, se: float) -> Verdict:
        del se
        return "holds" if value == 1 else "refuted" if value == 0 else "conditional"

    return Rule(f"holds in all cases, conditional in some, refuted in none; a case counts if {what}", decide)


def no_statement(why: str) -> Rule:
    """For a sentence that states nothing which data could decide; needs the reason."""
    return Rule(f"out of scope: {why}", lambda _value, _se: "out of scope")


def exclude_each_other(what: str) -> Rule:
    """For two statements of which one says always and the other never; the number is the share of cases in between.

    >>> [exclude_each_other("x").decide(v, 0.0) for v in (0.0, 0.3, 1.0)]
    ['conditional', 'self-contradiction', 'conditional']
    """

    def decide(value: float, se: float) -> Verdict:
        del se
        return "self-contradiction" if 0 < value < 1 else "conditional"

    return Rule(f"self-contradiction where neither is true of all cases, else one of the two holds; {what}", decide)


def sourced_above(number: Real, what: str) -> Rule:
    """For a finding that is ascribed to sources which do not hold it: unsourced, unless it is measured here.

    >>> sourced_above(20.0, "x").decide(5.0, 0.1), sourced_above(20.0, "x").decide(40.0, 0.1)
    ('unsourced', 'conditional')
    """

    def decide(value: float, se: float) -> Verdict:
        return "conditional" if value >= number - CLEARLY * se else "unsourced"

    return Rule(f"unsourced unless at least {number:g} here; {what}", decide)


def value_of(column: str, **where: Any) -> Callable[[Rows], Estimate]:
    """A claim's number: a column, with its standard error, of the only row in which other columns have these values.

    >>> value_of("sqnr_db", spec="int8")(Rows([{"spec": "int8", "sqnr_db": 42.0, "sqnr_db_se": 0.1}]))
    Estimate(value=42.0, se=0.1)
    """

    def number(rows: Rows) -> Estimate:
        row = rows.where(**where)
        return Estimate(row.one(column), row[0].get(f"{column}_se", 0.0))

    return number


def share(cases: Iterable[Any]) -> float:
    """Share of the cases that are true, for ``share_of_cases``; NaN where there is none.

    >>> share(error < 0.1 for error in (0.05, 0.5, 0.01, 0.2))
    0.5
    """
    found = [bool(case) for case in cases]
    return sum(found) / len(found) if found else float("nan")


def within_factor(errors: Mapping[Any, float], names: Iterable[Any], *, factor: Real, of: Any = None) -> bool:
    """Whether the least error of these is at most ``factor`` times that of another, or of the best of all.

    Args:
        errors: the error of everything that was tried in one case, for example in one cell of a map, by its name.
        names: whose least error counts.
        factor: 2 for "within one bit of", 0.9 for "takes a tenth off".
        of: the name to compare with; the best of all if none is given.

    >>> errors = {"one scale": 0.04, "row": 0.03, "block": 0.01}
    >>> (
    ...     within_factor(errors, ["one scale", "row"], factor=2),
    ...     within_factor(errors, ["row"], factor=0.9, of="one scale"),
    ... )
    (False, True)
    """
    limit = min(errors.values()) if of is None else errors[of]
    return bool(min(errors[name] for name in names) <= factor * limit)


@cache
def statements() -> tuple[Statement, ...]:
    """Every statement of the two documents.

    >>> len(statements()), statements()[0].id
    (151, 'A01')
    """
    text = (files("quantsim.lab") / "claims.tsv").read_text(encoding="utf-8")
    return tuple(Statement(**row) for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def judge(claim: Claim, rows: Rows, study: str) -> dict[str, Any]:
    """One settled entry of the ledger.

    Raises:
        KeyError: if the claim's identifier is not a statement.
        ValueError: if the claim misquotes its statement, or if there is no number to decide on.
    """
    stated_as = {s.id: s.statement for s in statements()}
    if claim.id not in stated_as:
        raise KeyError(f"{claim.id} in study {study} is no statement of the ledger")
    if claim.statement not in stated_as[claim.id]:
        raise ValueError(f"{claim.id} in study {study} misquotes the ledger: {stated_as[claim.id]!r}")
    found = claim.number(rows)
    value, se = found if isinstance(found, tuple) else (found, 0.0)
    verdict = claim.rule.decide(float(value), float(se))
    if verdict != "out of scope" and np.isnan([value, se]).any():
        raise ValueError(f"{claim.id} in study {study} has no number to decide on: {value} ± {se}")
    entry = {
        "verdict": verdict,
        "value": float(value),
        "se": float(se),
        "definition": claim.definition,
        "rule": claim.rule.text,
        "reading": claim.reading.format(value=float(value)),
        "study": study,
    }
    return entry | ({"device": device} if (device := timed_on(rows)) else {})


def timed_on(rows: Rows) -> str:
    """The devices on which the times among rows were measured; without times, nothing.

    >>> timed_on(Rows([{"kind": "time", "device": "cpu", "cores": 2, "instructions": "avx512_vnni"}, {"kind": "fit"}]))
    'cpu, 2 cores, avx512_vnni'
    """
    found = {}
    for row in rows:
        if row.get("kind") == "time" and row.get("device"):
            cores = f"{row['cores']} cores" if row.get("cores") else ""
            found[", ".join(filter(None, (row["device"], cores, row.get("instructions"))))] = None
    return "; ".join(found)


def ledger(settled: Iterable[tuple[str, Iterable[Claim], Rows]]) -> list[dict[str, Any]]:
    """The whole ledger, in the order of the statements, from (study, claims, rows).

    Raises:
        ValueError: if two studies settle one statement.
    """
    verdicts: dict[str, dict[str, Any]] = {}
    for study, claims, rows in settled:
        for claim in claims:
            if claim.id in verdicts:
                raise ValueError(f"{claim.id} is settled by {verdicts[claim.id]['study']} and again by {study}")
            verdicts[claim.id] = judge(claim, rows, study)
    unsettled = {"verdict": "open"}
    return [plain(vars(s) | verdicts.get(s.id, unsettled)) for s in statements()]


def settled_count(entries: list[dict[str, Any]]) -> int:
    """How many statements have a verdict."""
    return sum(e["verdict"] != "open" for e in entries)


def to_json(entries: list[dict[str, Any]]) -> str:
    """The ledger as it is stored."""
    return json.dumps(entries, ensure_ascii=False, indent=1) + "\n"


def to_markdown(entries: list[dict[str, Any]]) -> str:
    """The answer to the documents in both languages, and the ledger as a table."""
    columns = ("id", "statement", "verdict", "number", "what the number is", "rule", "reading", "study")
    table = [columns, ("---",) * len(columns)]
    for e in entries:
        found = (e.get(name, "") for name in ("definition", "rule", "reading"))
        where = e.get("study", "") + (f", timed on {e['device']}" if "device" in e else "")
        table.append((e["id"], e["statement"], f"**{e['verdict']}**", number_text(e), *found, where))
    lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in table)
    settled = f"{settled_count(entries)} of {len(entries)} statements settled."
    pages = "\n".join(answer.to_markdown(entries, language) for language in answer.LANGUAGES)
    return f"# Ledger\n\n{settled}\n\n{pages}\n## Every statement\n\n{''.join(lines)}"


def number_text(entry: dict[str, Any]) -> str:
    """Value with its standard error, or nothing.

    >>> number_text({"value": 0.123456, "se": 0.01}), number_text({"verdict": "open"})
    ('0.1235 ± 0.01', '')
    """
    if entry.get("value") is None:
        return ""
    return f"{entry['value']:.4g}" + (f" ± {entry['se']:.2g}" if entry.get("se") else "")
