"""The ledger: rules at their boundaries, every statement once, no verdict that a hand could have typed."""

import ast
import inspect
import json
import re
import textwrap
import warnings
from dataclasses import fields, is_dataclass
from typing import get_args

import numpy as np
import pytest

from quantsim.lab import claims, study
from quantsim.lab.claims import (
    Claim,
    Rule,
    at_least,
    at_most,
    between,
    judge,
    ledger,
    no_statement,
    share,
    share_of_cases,
    stated,
    value_of,
    within_factor,
)
from quantsim.rows import Rows

VERDICTS = set(get_args(claims.Verdict))
ROWS = Rows([{"x": 2.0}])

# --- rules ----------------------------------------------------------------------------------------------------------

# rule, value, standard error, verdict; every number is a power of two apart from another, so a boundary is exact
CASES = [
    (stated(1.0, 0.25), 1.25, 0.0, "holds"),
    (stated(1.0, 0.25), 0.75, 0.0, "holds"),
    (stated(1.0, 0.25), np.nextafter(1.25, 2), 0.0, "refuted"),
    (stated(1.0, 0.25), np.nextafter(0.75, 0), 0.0, "refuted"),
    (stated(1.0, 0.25), 1.625, 0.125, "holds"),
    (stated(1.0, 0.25), 1.75, 0.125, "refuted"),
    (stated(1.0, 0.0), 1.0, 0.0, "holds"),
    (stated(1.0, 0.0), 1.0 + 2**-52, 0.0, "refuted"),
    (stated(1.0, 0.25, limit=1.0), 1.0, 0.0, "holds"),
    (stated(1.0, 0.25, limit=1.0), 2.0, 0.0, "refuted"),
    (stated(1.0, 0.25, limit=0.5), 1.0, 0.0, "self-contradiction"),
    (stated(1.0, 0.25, limit=0.5), 9.0, 9.0, "self-contradiction"),
    (at_most(2.0), 2.0, 0.0, "holds"),
    (at_most(2.0), np.nextafter(2, 3), 0.0, "refuted"),
    (at_most(2.0), 2.75, 0.25, "holds"),
    (at_most(2.0), 3.0, 0.25, "refuted"),
    (at_most(2.0), -np.inf, 0.0, "holds"),
    (at_least(2.0), 2.0, 0.0, "holds"),
    (at_least(2.0), np.nextafter(2, 1), 0.0, "refuted"),
    (at_least(2.0), 1.25, 0.25, "holds"),
    (at_least(2.0), 1.0, 0.25, "refuted"),
    (at_least(2.0), np.inf, 0.0, "holds"),
    (between(1.0, 2.0), 1.0, 0.0, "holds"),
    (between(1.0, 2.0), 2.0, 0.0, "holds"),
    (between(1.0, 2.0), np.nextafter(1, 0), 0.0, "refuted"),
    (between(1.0, 2.0), np.nextafter(2, 3), 0.0, "refuted"),
    (between(1.0, 2.0), 2.75, 0.25, "holds"),
    (between(1.0, 2.0), 0.0, 0.25, "refuted"),
    (share_of_cases("it is"), 1.0, 0.0, "holds"),
    (share_of_cases("it is"), 0.0, 0.0, "refuted"),
    (share_of_cases("it is"), np.nextafter(1, 0), 0.0, "conditional"),
    (share_of_cases("it is"), np.nextafter(0, 1), 0.0, "conditional"),
    (no_statement("advice"), np.nan, 0.0, "out of scope"),
]


@pytest.mark.parametrize(("rule", "value", "se", "verdict"), CASES, ids=lambda v: getattr(v, "text", None))
def test_a_rule_decides_at_its_boundary(rule, value, se, verdict):
    assert rule.decide(float(value), se) == verdict
    assert verdict in VERDICTS


def test_a_rule_says_what_it_does():
    assert stated(0.5, 0.1).text == "holds if within 0.1 of the stated 0.5"
    assert "at most 0.25" in stated(0.5, 0.1, limit=0.25).text
    assert at_most(3).text == "holds if at most 3"
    assert at_least(3).text == "holds if at least 3"
    assert between(1, 2).text == "holds between 1 and 2"
    assert share_of_cases("it rains").text.endswith("if it rains")
    assert no_statement("advice").text == "out of scope: advice"


# --- numbers --------------------------------------------------------------------------------------------------------


def test_a_value_is_that_of_the_only_row_with_its_standard_error():
    rows = Rows([{"spec": "a", "x": 2.0, "x_se": 0.5, "y": 3}, {"spec": "b", "x": 7.0, "x_se": 0.25}])
    assert value_of("x", spec="a")(rows) == (2.0, 0.5)
    assert value_of("y", spec="a")(rows) == (3, 0.0)
    for where in ({}, {"spec": "c"}):
        with pytest.raises(LookupError):
            value_of("x", **where)(rows)


def test_a_share_counts_cases_and_knows_when_there_are_none():
    assert share(case > 1 for case in (0, 1, 2, 3)) == 0.5
    assert share([np.True_, True, 1]) == 1.0
    assert np.isnan(share([]))


def test_within_a_factor_is_at_most_the_factor():
    errors = {"a": 4.0, "b": 2.0, "c": 1.0}
    assert within_factor(errors, ["b"], factor=2.0)
    assert not within_factor(errors, ["b"], factor=np.nextafter(2.0, 0))
    assert within_factor(errors, ["a", "b"], factor=2.0), "the least of the named ones counts"
    assert not within_factor(errors, ["a"], factor=2.0)
    assert within_factor(errors, ["c"], factor=0.25, of="a")
    assert not within_factor(errors, ["c"], factor=0.25, of="b")


# --- the ledger -----------------------------------------------------------------------------------------------------


def test_every_statement_is_there_once():
    expected = {f"A{n:02}" for n in range(1, 69)} | {f"B{n:02}" for n in range(1, 81)} | {"B35a", "B67a", "B67b"}
    ids = [s.id for s in claims.statements()]
    assert len(ids) == len(set(ids)) == 151
    assert set(ids) == expected
    assert all(s.statement and s.how and s.document for s in claims.statements())
    assert len({s.document for s in claims.statements() if s.id[0] == "A"}) == 1
    assert len({s.document for s in claims.statements()}) == 2


def claim(name="A01", number=lambda rows: rows.one("x"), rule=None, **kw):
    return Claim(name, "a number", number, rule or at_most(3), **kw)


def test_a_claim_is_judged_from_its_rows():
    entry = judge(claim(number=lambda rows: (rows.one("x"), 0.5), reading="it is {value:.1f}"), ROWS, "s")
    expected = {"verdict": "holds", "value": 2.0, "se": 0.5, "definition": "a number", "study": "s"}
    assert entry == expected | {"rule": "holds if at most 3", "reading": "it is 2.0"}
    assert judge(claim(), Rows([{"x": 4.0}]), "s")["verdict"] == "refuted"


def test_an_unknown_statement_is_an_error():
    with pytest.raises(KeyError, match="B81 in study s is no statement"):
        judge(claim("B81"), ROWS, "s")


@pytest.mark.parametrize("found", [np.nan, (np.nan, 0.1), (1.0, np.nan)], ids=str)
def test_no_number_is_no_verdict(found):
    """NaN compares false with everything: without this it would refute whatever was asked."""
    for rule in (at_most(3), share_of_cases("x"), stated(1, 1)):
        with pytest.raises(ValueError, match="A01 in study s has no number to decide on"):
            judge(claim(number=lambda _: found, rule=rule), ROWS, "s")


def test_a_claim_quotes_its_statement_or_nothing():
    words = claims.statements()[0].statement
    assert (
        judge(claim(statement=words), ROWS, "s")
        == judge(claim(), ROWS, "s")
        == judge(claim(statement=words[3:9]), ROWS, "s")
    )
    with pytest.raises(ValueError, match="A01 in study s misquotes the ledger"):
        judge(claim(statement=words + "!"), ROWS, "s")


def test_two_studies_cannot_settle_one_statement():
    with pytest.raises(ValueError, match="A01 is settled by one and again by two"):
        ledger([("one", [claim()], ROWS), ("two", [claim()], ROWS)])


def test_the_ledger_lists_all_in_order_and_the_others_as_open():
    entries = ledger([("s", [claim("B14"), claim("A02")], ROWS)])
    assert [e["id"] for e in entries] == [s.id for s in claims.statements()]
    assert {e["id"] for e in entries if e["verdict"] != "open"} == {"A02", "B14"}
    assert claims.settled_count(entries) == 2
    assert all("value" not in e for e in entries if e["verdict"] == "open")


def test_the_ledger_is_json():
    infinite = claim("B23", lambda _: np.nan, no_statement("advice"))
    text = claims.to_json(ledger([("s", [claim(), infinite], ROWS)]))
    entries = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert claims.to_json(entries) == text
    assert next(e for e in entries if e["id"] == "B23")["value"] is None


def cells(line):
    return [c.replace("\\|", "|").strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_keeps_its_columns():
    bar = claim(number=lambda rows: (rows.one("x"), 0.25), reading="|e| | |w|")
    entries = ledger([("s", [bar], ROWS)])
    head, _, *lines = claims.to_markdown(entries).split("## Every statement\n\n")[1].splitlines()
    assert {len(cells(line)) for line in (head, *lines)} == {8}
    assert cells(lines[0])[2:] == ["**holds**", "2 ± 0.25", "a number", bar.rule.text, "|e| | |w|", "s"]
    assert [cells(line)[:2] for line in lines] == [[s.id, s.statement.strip()] for s in claims.statements()]
    assert "1 of 151 statements settled" in claims.to_markdown(entries)


# --- the studies ----------------------------------------------------------------------------------------------------

STUDIES = study.names()


def typed_verdicts(source):
    """Where a study holds a verdict outside of a rule, or a rule that never looks at its number."""
    tree = ast.parse(source)
    rules = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Rule"]
    named = {a.id for r in rules for a in r.args if isinstance(a, ast.Name)}
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in named]
    functions += [a for r in rules for a in ast.walk(r) if isinstance(a, ast.Lambda)]
    allowed = {id(n) for f in functions for n in ast.walk(f)}
    found = [n.lineno for n in ast.walk(tree) if _is_verdict(n) and id(n) not in allowed]
    return found + [f.lineno for f in functions if not _branches_on_value(f)]


def _is_verdict(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in VERDICTS


def _branches_on_value(function):
    value = function.args.args[0].arg
    tests = [n.test for n in ast.walk(function) if isinstance(n, ast.If | ast.IfExp)]
    return any(isinstance(n, ast.Name) and n.id == value for t in tests for n in ast.walk(t))


def constant_rule(rule):
    """Whether a rule says the same of every number, without the reason that allows it to."""
    if rule.text.startswith("out of scope: ") or "contradicts itself, as its own numbers allow" in rule.text:
        return False
    values = [*np.linspace(-2, 2, 401), *np.geomspace(1e-9, 1e9, 400), *-np.geomspace(1e-9, 1e9, 400), 0.0, 1.0]
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", rule.text)]
    return len({rule.decide(float(v), 0.0) for v in (*values, *numbers)}) < 2


def number_without_rows(claim):
    """Whether a claim finds a number where nothing was measured."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found = claim.number(Rows())
    except Exception:
        return False
    return not np.isnan(found if not isinstance(found, tuple) else found[0])


HAND_TYPED = {
    "in the claim": 'CLAIMS = (Claim("A01", "x", f, "holds"),)',
    "a rule that never looks": 'R = Rule("always", lambda value, se: "holds")',
    "a rule that looks at something else": 'R = Rule("always", lambda value, se: "holds" if se >= 0 else "open")',
    "a function that never looks": 'def f(value, se):\n    return "refuted"\nR = Rule("never", f)',
    "in the rows": 'def measure(config):\n    return [{"verdict": "conditional"}]',
    "in a table": 'TABLE = {"A01": "self-contradiction"}',
}


@pytest.mark.parametrize("source", HAND_TYPED.values(), ids=HAND_TYPED)
def test_a_typed_verdict_is_found(source):
    assert typed_verdicts(source)


def test_a_rule_of_a_study_is_no_typed_verdict():
    fine = """
        def decide(value, se):
            if value > 1: return "holds"
            return "refuted"
        RULES = Rule("x", decide), Rule("y", lambda v, se: "holds" if abs(v) < 1 else "conditional")
        text = "it holds"
    """
    assert typed_verdicts(textwrap.dedent(fine)) == []


def test_a_rule_with_one_verdict_and_a_number_without_rows_are_found():
    assert constant_rule(Rule("x", lambda _v, _se: "holds"))
    assert constant_rule(Rule("x", lambda v, _se: "holds" if v < 1e300 else "refuted"))
    assert not any(constant_rule(c[0]) for c in CASES)
    assert number_without_rows(claim(number=lambda _: 1.0))
    assert number_without_rows(claim(number=lambda rows: (len(rows), 0.0)))
    assert not number_without_rows(claim())


@pytest.mark.parametrize("name", STUDIES)
def test_no_verdict_of_a_study_is_typed(name):
    module = study.module(name)
    assert typed_verdicts(inspect.getsource(module)) == []
    for c in module.CLAIMS:
        assert not constant_rule(c.rule), f"{c.id}: {c.rule.text!r} says the same of every number"
        out_of_scope = c.rule.decide(np.nan, 0.0) == "out of scope"
        assert out_of_scope or not number_without_rows(c), f"{c.id} finds a number where nothing was measured"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_holds_its_five_things(name):
    module = study.module(name)
    assert study.question(name).endswith("?")
    assert is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert isinstance(module.Config.small(), module.Config)
    assert module.Config.small() != module.Config()
    assert all(f.name in vars(module.Config()) for f in fields(module.Config))
    assert callable(module.measure)
    assert callable(module.draw)
    assert isinstance(module.CLAIMS, tuple)
    assert module.CLAIMS or callable(module.summary)  # it settles a statement, or says what it found


@pytest.mark.parametrize("name", STUDIES)
def test_the_claims_of_a_study_are_statements(name):
    known = {s.id: s.statement for s in claims.statements()}
    for c in study.module(name).CLAIMS:
        assert c.id in known
        assert c.definition
        assert c.reading.format(value=0.5) is not None
        assert c.statement in known[c.id], f"{c.id} misquotes the ledger"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_first_what_it_settles(name):
    module = study.module(name)
    assert sorted(set(re.findall(r"\b[AB]\d\d\w?\b", module.__doc__))) == sorted(c.id for c in module.CLAIMS)


def test_no_statement_is_settled_twice():
    settled = [(c.id, name) for name in STUDIES for c in study.module(name).CLAIMS]
    assert sorted({i for i, _ in settled}) == sorted(i for i, _ in settled)
    assert settled
