"""The words of the report: each in every language, used where it is there, there where it is used."""

import re
from pathlib import Path
from typing import get_args

import pytest

from quantsim.inspection import Inspection
from quantsim.lab import claims, study
from quantsim.lab.report import strings

FOLDER = Path(strings.__file__).parent
USES = "".join(
    path.read_text(encoding="utf-8") for path in sorted(FOLDER.rglob("*")) if path.suffix in (".py", ".j2", ".js")
)
#: What scripts begin names with, whose rest they find in the data of the page.
BEGINNINGS = set(re.findall(r"[\"'`]([a-z]+_)(?:[\"'`]|\$\{)", USES))
BRACES = re.compile(r"{(\w+)}")
NAMES = [(section, name) for section, texts in strings.table().items() for name in texts]
#: Sections whose names are looked up by what the rows hold, and what that can be.
LOOKED_UP = {
    "verdicts": set(get_args(claims.Verdict)),
    "verdict_meanings": set(get_args(claims.Verdict)),
    "documents": {s.document for s in claims.statements()},
    "questions": set(study.names()),
}
UNITS = {"unweighed", "by imatrix", "nats"}
CHINESE = re.compile("[\u3400-\u9fff]")
#: Statements whose English says a number in a word, or a section in short.
OTHER_NUMBERS = {"A02", "A48", "B71"}


@pytest.mark.parametrize(("section", "name"), NAMES)
def test_a_string_is_there_in_every_language_and_fills_in_the_same(section, name):
    texts = strings.table()[section][name]
    assert texts.keys() == set(strings.LANGUAGES)
    assert all(text.strip() for text in texts.values())
    assert sorted(set(BRACES.findall(texts["en"]))) == sorted(set(BRACES.findall(texts["zh"])))
    assert not CHINESE.search(texts["en"])


@pytest.mark.parametrize(("section", "name"), [at for at in NAMES if at[0] not in LOOKED_UP])
def test_a_string_is_used(section, name):
    if any(name.startswith(beginning) for beginning in BEGINNINGS):  # the rest is looked up by what the page holds
        return
    assert re.search(rf"\.{name}\b|[\"'\[]{name}[\"'\]]|\b{section}\.{name}\b", USES) or name.startswith("unit_")


@pytest.mark.parametrize("section", LOOKED_UP)
def test_sections_that_are_looked_up_hold_every_name_and_no_other(section):
    assert strings.table()[section].keys() == LOOKED_UP[section]


def test_every_unit_of_damage_has_its_words():
    assert all(unit in (Inspection.__doc__ or "") for unit in UNITS)
    assert {name for section, name in NAMES if name.startswith("unit_")} == {
        f"unit_{u.replace(' ', '_')}" for u in UNITS
    }


def test_what_templates_and_scripts_use_is_there():
    used = re.findall(r"\bw\.(\w+)\.(\w+)", USES) + re.findall(r"\bwords\[\"(\w+)\"\]\[\"(\w+)\"\]", USES)
    used += [
        ("checkpoint", name)
        for name in re.findall(r"\bc\.(\w+)", (FOLDER / "templates/checkpoint.html.j2").read_text())
    ]
    for script, section in (("ledger.js", "ledger"), ("packed.js", "studies"), ("theme.js", "report")):
        text = (FOLDER / "templates" / script).read_text(encoding="utf-8")
        used += [(section, name) for name in re.findall(r"\bwords\.(\w+)", text)]
    table = strings.table()
    missing = {at for at in used if at[1] not in ("get",) and at[1] not in table.get(at[0], {})}
    assert len(used) > 80
    assert not missing


@pytest.mark.parametrize("name", study.names())
def test_a_question_is_that_of_its_study(name):
    assert strings.words("en")["questions"][name] == study.question(name)
    assert CHINESE.search(strings.words("zh")["questions"][name])


def test_every_statement_is_there_in_chinese():
    chinese = strings.statements("zh")
    assert list(chinese) == sorted(chinese)
    assert chinese.keys() == {s.id for s in claims.statements()}
    assert len(chinese) == 151


@pytest.mark.parametrize("statement", claims.statements(), ids=lambda s: s.id)
def test_a_statement_has_the_same_numbers_in_both_languages(statement):
    english, chinese = (
        sorted(re.findall(r"\d+(?:\.\d+)?", text))
        for text in (statement.statement, strings.statements("zh")[statement.id])
    )
    assert english == chinese or statement.id in OTHER_NUMBERS
