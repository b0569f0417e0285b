"""The page before the ledger: what it says stands on verdicts, in both languages alike."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from quantsim.lab import answer, claims

LEDGER = json.loads((Path(__file__).parents[1] / "paper_figures" / "claims.json").read_text(encoding="utf-8"))
SENTENCES = [s for part in answer.parts() for s in part.sentences]


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda s: "-".join(s.rests_on))
def test_every_sentence_stands_on_the_ledger(sentence):
    assert sentence.stands(LEDGER)


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda s: "-".join(s.rests_on))
def test_numbers_are_the_ledgers_and_the_same_in_both_languages(sentence):
    fields = [sorted(re.findall(r"\{(\w+):([^}]+)\}", sentence.text[language])) for language in answer.LANGUAGES]
    assert fields[0] == fields[1]
    values = {e["id"]: e["value"] for e in LEDGER}
    for name, form in fields[0]:
        for language in answer.LANGUAGES:
            assert format(values[name], form) in sentence.said(LEDGER, language)


def test_a_sentence_whose_verdict_changed_is_not_said():
    (first, *_), changed = SENTENCES, [dict(e) for e in LEDGER]
    next(e for e in changed if e["id"] == next(iter(first.rests_on)))["verdict"] = "refuted"
    for language in answer.LANGUAGES:
        said = first.said(LEDGER, language)
        assert said in answer.to_markdown(LEDGER, language)
        assert said not in answer.to_markdown(changed, language)


def test_an_empty_ledger_says_only_that_it_is():
    assert answer.to_markdown([{"id": "A01", "verdict": "open"}], "en").splitlines()[2:] == ["Of 1 statements: 1 open."]


def test_counts_are_those_of_the_verdicts():
    for language in answer.LANGUAGES:
        found = [int(n) for n in re.findall(r"\d+", answer.count_text(LEDGER, language))]
        assert found[0] == len(LEDGER) == sum(found[1:])


def test_it_fits_a_page():
    """Eighty lines of a hundred characters, headings and all."""
    for language in answer.LANGUAGES:
        lines = answer.to_markdown(LEDGER, language).splitlines()
        assert sum(-(-len(line) // 100) or 1 for line in lines) <= 80


def test_verdicts_are_those_that_rules_give():
    ruled = {e["verdict"] for e in LEDGER}
    assert ruled <= set(get_args(claims.Verdict))
    assert {verdict for s in SENTENCES for verdict in s.rests_on.values()} <= set(get_args(claims.Verdict))


def test_times_carry_their_device():
    timed = {e["id"]: e["device"] for e in LEDGER if "device" in e}
    assert set(timed) == {"A32"}
    assert "cores" in timed["A32"]
    assert f"timed on {timed['A32']} |" in claims.to_markdown(LEDGER)
