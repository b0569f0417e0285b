"""Stale rows that are confirmed by a part of them: which numbers may move, what is refused, what is written down."""

import json
from pathlib import Path

import pytest

from quantsim.lab import confirming, keys, other_code, provenance, runner, study
from quantsim.lab.confirming import OtherRowsError, confirm
from quantsim.rows import dumps, plain

NAME = "weight_range"  # of cells that take a moment


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A folder with rows of the small config, which stands for the full one, measured by other code."""
    config_of = study.config_of
    monkeypatch.setattr(study, "config_of", lambda name, small, given=None: config_of(name, True, given))
    runner.run(NAME, tmp_path)
    about = provenance.stored(tmp_path, NAME)
    provenance.write(tmp_path, NAME, about | {"key": "of other code", "code": {"rounding": "other"}})
    assert provenance.state(tmp_path, NAME).word == "stale"
    return tmp_path


def test_rows_that_a_cell_gives_again_are_current_and_say_so(measured):
    before = (measured / f"{NAME}.jsonl").read_bytes()
    found = confirm(NAME, measured, seconds=0.0)
    assert (len(found.cells), found.of) == (1, len(study.cells(NAME, study.config_of(NAME, small=False))))
    assert provenance.state(measured, NAME).word == "current"
    about = provenance.stored(measured, NAME)
    assert about["confirmed"]["cells"] == list(found.cells)
    assert about["measured_by"]["key"] == "of other code"
    assert about["key"] == keys.of_rows(NAME, study.config_of(NAME, small=False))
    assert (measured / f"{NAME}.jsonl").read_bytes() == before


def test_who_measured_the_rows_is_kept_over_several_confirmations(measured):
    for key in ("of other code", "of yet other code"):
        about = provenance.stored(measured, NAME)
        provenance.write(measured, NAME, about | {"key": key})
        confirm(NAME, measured, seconds=0.0)
    assert provenance.stored(measured, NAME)["measured_by"]["key"] == "of other code"


def test_enough_seconds_measure_all(measured):
    found = confirm(NAME, measured, seconds=600.0)
    assert len(found.cells) == found.of


@pytest.mark.parametrize(("factor", "holds"), [(1 + 1e-6, True), (1 + 1e-2, False)])
def test_the_last_digits_of_float32_may_move_and_no_more(measured, factor, holds):
    path = measured / f"{NAME}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    moved = [{k: v * factor if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    assert moved != rows
    path.write_text("".join(json.dumps(row) + "\n" for row in moved), encoding="utf-8")
    about = provenance.stored(measured, NAME)
    provenance.write(measured, NAME, about | {"rows": keys.of_text(path)})
    if holds:
        confirm(NAME, measured, seconds=600.0)
        return
    with pytest.raises(OtherRowsError, match=f"quantsim run {NAME}"):
        confirm(NAME, measured, seconds=600.0)
    assert provenance.state(measured, NAME).word == "stale"


def test_rows_that_are_edited_current_or_of_another_config_are_refused(measured):
    path, about = measured / f"{NAME}.jsonl", provenance.stored(measured, NAME)
    provenance.write(measured, NAME, about | {"config": {"other": 1}})
    with pytest.raises(ValueError, match="another config"):
        confirm(NAME, measured, seconds=0.0)
    provenance.write(measured, NAME, about)
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="edited"):
        confirm(NAME, measured, seconds=0.0)
    path.write_text(text, encoding="utf-8")
    confirm(NAME, measured, seconds=0.0)
    with pytest.raises(ValueError, match="are current"):
        confirm(NAME, measured, seconds=0.0)


@pytest.fixture
def other_checkout(monkeypatch):
    """Another checkout that is this code, but for a factor on what it measures."""

    def make(factor=1.0, key="of other code"):
        def rows_by(checkout, name, cells):
            computed = dict(study.cells(name, study.config_of(name, small=False)))
            rows = {c: [json.loads(dumps(plain(r))) for r in computed[c]()] for c in cells}
            moved = {
                c: [{k: v * factor if isinstance(v, float) else v for k, v in r.items()} for r in of]
                for c, of in rows.items()
            }
            return other_code.OtherCode(key, moved)

        monkeypatch.setattr(other_code, "rows_by", rows_by)

    return make


def test_against_other_code_the_stored_numbers_do_not_count(measured, other_checkout):
    """Rows of another processor, a hundredth off: what counts is what both codes give here."""
    path = measured / f"{NAME}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    moved = [{k: v * 1.01 if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in moved), encoding="utf-8")
    provenance.write(measured, NAME, provenance.stored(measured, NAME) | {"rows": keys.of_text(path)})
    other_checkout(factor=1 + 1e-8)
    with pytest.raises(OtherRowsError, match="than the code in there"):
        confirm(NAME, measured, seconds=0.0, against=Path("there"))
    other_checkout(key="of a third code")
    with pytest.raises(ValueError, match="did not measure the rows"):
        confirm(NAME, measured, seconds=0.0, against=Path("there"))
    assert provenance.state(measured, NAME).word == "stale"
    other_checkout(factor=1 + 1e-13)
    confirm(NAME, measured, seconds=0.0, against=Path("there"))
    assert provenance.state(measured, NAME).word == "current"
    assert "on one machine" in provenance.stored(measured, NAME)["confirmed"]["by"]


def test_another_checkout_measures_in_a_process_of_its_own(tmp_path):
    checkout = study.PACKAGE.parent
    (cell, compute), *_ = study.cells(NAME, study.config_of(NAME, small=False))
    found = other_code.rows_by(checkout, NAME, [cell])
    assert found.key == keys.of_rows(NAME, study.config_of(NAME, small=False))
    assert found.cells == {cell: [json.loads(dumps(plain(r))) for r in compute()]}
    with pytest.raises(ValueError, match="git worktree add"):
        other_code.rows_by(tmp_path, NAME, [cell])
    with pytest.raises(ValueError, match="does not measure nothing: LookupError"):
        other_code.rows_by(checkout, "nothing", [cell])


def test_times_are_not_confirmed(measured, monkeypatch):
    monkeypatch.setattr(study, "measures_time", lambda name: name == NAME)
    with pytest.raises(ValueError, match="times"):
        confirm(NAME, measured, seconds=0.0)


def test_a_number_beside_what_is_none_differs():
    assert not confirming._alike({"a": 1.0}, {"a": None})
    assert confirming._alike({"a": [float("nan"), "x"]}, {"a": [float("nan"), "x"]})
    assert not confirming._alike({"a": 1.0}, {"a": 1.0, "b": 2})
