"""The runner: measured once, loaded while nothing changed, resumed where it was cut, drawn to the same bytes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantsim.lab import keys, provenance, runner, study
from quantsim.rows import load
from tests.fake_study import FAKE, files, registry, undraw, watch


@pytest.fixture
def register(tmp_path, monkeypatch):
    yield from registry(tmp_path, monkeypatch)


@pytest.fixture
def fake(register, monkeypatch):
    """The fake study is there; the list of the cells that it computes."""
    register(fake=FAKE)
    return watch(monkeypatch)


@pytest.fixture
def undrawn(monkeypatch):
    undraw(monkeypatch)


FIGURES = ("fake.pdf", "fake.svg", "fake.png")
ROWS = [{"cell": i, "x": 2 * i, "sign": "# σ", "none": None, "b": 2} for i in range(3)]


def drawn(out):
    return {name: files(out)[name] for name in FIGURES}


# --- produce or load ------------------------------------------------------------------------------------------------


def test_rows_are_measured_then_loaded_then_measured_anew(fake, tmp_path):
    ticks, out = [], tmp_path / "new" / "out"
    first = runner.run("fake", out, tick=lambda *t: ticks.append(t))
    assert (first.state, first.drawn, first.rows, fake) == ("measured", True, ROWS, [0, 1, 2])
    assert ticks == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert set(files(out)) == {"fake.jsonl", "fake.json", *FIGURES}
    before = drawn(out)
    for name in FIGURES:
        (out / name).unlink()
    second = runner.run("fake", out)
    assert (second.state, second.drawn, second.rows, len(fake)) == ("loaded", True, ROWS, 3)
    assert drawn(out) == before
    third = runner.run("fake", out, fresh=True)
    assert (third.state, third.drawn, third.rows, len(fake)) == ("measured", True, ROWS, 6)
    assert drawn(out) == before


def test_provenance_says_where_the_numbers_come_from(fake, undrawn, tmp_path):
    runner.run("fake", tmp_path)
    found = json.loads((tmp_path / "fake.json").read_text())
    assert found["study"] == "fake"
    assert found["question"] == "Is twice a number double?"
    assert found["config"] == {"cells": 3}
    assert found["key"] == keys.of_rows("fake", study.module("fake").Config())
    assert found["code"] == keys.measuring_code("fake")
    assert {"jax", "numpy", "python", "quantsim"} <= set(found["versions"])
    assert found["device"].startswith("4 x cpu")
    assert found["seconds"] >= 0
    assert found["matmul_precision"]


def test_another_config_is_measured(fake, undrawn, tmp_path):
    runner.run("fake", tmp_path, small=True)
    assert provenance.state(tmp_path, "fake") == provenance.State("stale", "the rows were measured with another config")
    assert runner.run("fake", tmp_path).state == "measured"
    assert load(tmp_path / "fake.jsonl") == ROWS


def test_an_unknown_study_names_those_there_are(register):
    register(fake=FAKE, other=FAKE)
    assert study.names() == ["fake", "other"]
    with pytest.raises(LookupError, match=r"no study 'fak'; did you mean fake\? there are fake, other"):
        study.module("fak")


def test_a_folder_that_is_a_file_cannot_be_written_to(fake, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out"):
        runner.run("fake", tmp_path / "out")


# --- interrupted ----------------------------------------------------------------------------------------------------


def stop_at(monkeypatch, cell):
    module = study.module("fake")
    row = module._row

    def interrupted(i):
        if i == cell:
            raise KeyboardInterrupt
        return row(i)

    monkeypatch.setattr(module, "_row", interrupted)


def interrupt(folder, monkeypatch, cell, **how):
    """A run that is interrupted at a cell."""
    with monkeypatch.context() as patch:
        stop_at(patch, cell)
        with pytest.raises(KeyboardInterrupt):
            runner.run("fake", folder, **how)


@pytest.mark.parametrize("cell", [0, 2])
def test_an_interrupted_run_goes_on_where_it_stopped(fake, undrawn, tmp_path, monkeypatch, cell):
    interrupt(tmp_path, monkeypatch, cell)
    assert set(files(tmp_path)) == {"fake.partial.jsonl"}
    assert fake == list(range(cell))
    again = runner.run("fake", tmp_path)
    assert (again.state, again.rows) == ("resumed" if cell else "measured", ROWS)
    assert fake == [0, 1, 2]
    assert load(tmp_path / "fake.jsonl") == ROWS
    assert "fake.partial.jsonl" not in files(tmp_path)


def test_an_interrupted_run_leaves_what_was_there(fake, undrawn, tmp_path, monkeypatch):
    runner.run("fake", tmp_path)
    before = files(tmp_path)
    interrupt(tmp_path, monkeypatch, 1, fresh=True)
    assert {n: b for n, b in files(tmp_path).items() if n != "fake.partial.jsonl"} == before


def test_a_partial_file_cut_anywhere_is_survived(fake, tmp_path, monkeypatch):
    """At every byte, also in the middle of a character: what is used is finished, the last line may be lost."""
    interrupt(tmp_path, monkeypatch, 2)
    partial, identity = tmp_path / "fake.partial.jsonl", keys.of_rows("fake", study.module("fake").Config())
    whole = partial.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        partial.write_bytes(whole[:length])
        found = list(runner.finished(partial, identity))
        assert found == [(f"cell {i}", ROWS[i : i + 1]) for i in range(max(sum(end <= length for end in ends) - 1, 0))]


def test_a_run_goes_on_from_a_torn_line(fake, undrawn, tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, 2)
    whole = (tmp_path / "fake.partial.jsonl").read_bytes()
    (tmp_path / "fake.partial.jsonl").write_bytes(whole[: whole.rindex("σ".encode()) + 1])
    again = runner.run("fake", tmp_path)
    assert (again.state, again.rows, fake) == ("resumed", ROWS, [0, 1, 1, 2])


def test_cells_of_another_key_are_not_used(fake, undrawn, tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, 2)
    spoil(tmp_path / "fake.partial.jsonl", '"key": "', '"key": "0')
    again = runner.run("fake", tmp_path)
    assert (again.state, again.rows, fake) == ("measured", ROWS, [0, 1, 0, 1, 2])


def test_two_cells_of_one_name_are_an_error(register, tmp_path):
    register(fake=FAKE.replace('f"cell {i}"', '"cell"'))
    with pytest.raises(ValueError, match="study fake gives two of its cells one name"):
        runner.run("fake", tmp_path)


@pytest.mark.parametrize("name", study.names())
@pytest.mark.parametrize("small", [True, False])
def test_the_cells_of_a_study_have_names_of_their_own(name, small):
    cells = [cell for cell, _ in study.module(name).measure(study.config_of(name, small))]
    assert len(set(cells)) == len(cells) > 0


# --- current, missing, stale, edited --------------------------------------------------------------------------------


def spoil(path, old, new):
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")


def reorder(path):
    first, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*rest, first]), encoding="utf-8")


def cut(path):
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")


SPOILED = {
    "no rows": (lambda out: (out / "fake.jsonl").unlink(), "missing"),
    "no provenance": (lambda out: (out / "fake.json").unlink(), "missing"),
    "torn provenance": (lambda out: (out / "fake.json").write_text('{"key": "'), "missing"),
    "provenance of another kind": (lambda out: (out / "fake.json").write_text("[]"), "missing"),
    "another key": (lambda out: spoil(out / "fake.json", '"key": "', '"key": "0'), "stale"),
    "a number": (lambda out: spoil(out / "fake.jsonl", '"x": 4', '"x": 4.0001'), "edited"),
    "a row less": (lambda out: cut(out / "fake.jsonl"), "edited"),
    "another order": (lambda out: reorder(out / "fake.jsonl"), "edited"),
    "no hash of the rows": (lambda out: spoil(out / "fake.json", '"rows"', '"others"'), "edited"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_spoiled_results_are_told_and_measured_anew(fake, undrawn, tmp_path, how):
    change, word = SPOILED[how]
    assert provenance.state(tmp_path, "fake").word == "missing"
    runner.run("fake", tmp_path)
    assert provenance.state(tmp_path, "fake") == provenance.State("current")
    change(tmp_path)
    found = provenance.state(tmp_path, "fake")
    assert (found.word, bool(found.why)) == (word, True)
    assert (runner.run("fake", tmp_path).state, provenance.state(tmp_path, "fake").word) == ("measured", "current")


def test_rows_whose_line_ends_a_checkout_has_turned_are_current(fake, undrawn, tmp_path):
    runner.run("fake", tmp_path)
    rows = tmp_path / "fake.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"\n", b"\r\n"))
    assert provenance.state(tmp_path, "fake").word == "current"


def test_rows_of_a_changed_study_are_stale(register, undrawn, tmp_path):
    register(fake=FAKE, other=FAKE.replace("A01", "A02"))
    for name in study.names():
        runner.run(name, tmp_path)
    register(fake=FAKE.replace("2.0", "3.0"), other=FAKE.replace('label="theory"', "alpha=0.5"))
    found = provenance.state(tmp_path, "fake")
    assert found == provenance.State("stale", "the rows were measured by other code: studies.fake changed since")
    assert provenance.state(tmp_path, "other").word == "current"
    assert runner.run("other", tmp_path).state == "loaded"


def test_settled_are_the_studies_with_rows(register, undrawn, tmp_path):
    register(fake=FAKE, other=FAKE.replace("A01", "A02"))
    runner.run("other", tmp_path)
    assert [(name, rows) for name, _, rows in runner.settled(tmp_path)] == [("other", ROWS)]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_run_drops_programs_where_much_is_held(fake, undrawn, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(runner.memory, "drop_programs_beyond", asked.append)
    runner.run("fake", tmp_path)
    assert asked == [runner.MOST_BYTES]


# --- figures --------------------------------------------------------------------------------------------------------


def test_a_figure_is_drawn_where_it_is_not_current_and_only_there(register, tmp_path, monkeypatch):
    """Not for another claim, nor twice; but for other drawing code, and where a file of it is gone or was changed."""
    calls, out = undraw(monkeypatch), tmp_path / "out"

    def runs(source=None):
        if source:
            register(fake=source)
        before = len(calls)
        outcome = runner.run("fake", out)
        assert outcome.drawn == (len(calls) > before)
        return outcome.state, outcome.drawn

    assert runs(FAKE) == ("measured", True)
    assert runs() == ("loaded", False)
    assert runs(FAKE.replace("at_most(100.0)", "at_most(1.0)")) == ("loaded", False)
    assert runs(FAKE.replace('label="theory"', 'label="closed form"')) == ("loaded", True)
    assert runs() == ("loaded", False)
    (out / "fake.svg").unlink()
    assert runs() == ("loaded", True)
    (out / "fake.png").write_bytes(b"painted over")
    assert runs() == ("loaded", True)
    assert runs(FAKE.replace("2.0", "3.0")) == ("measured", True)
    assert runner.run("fake", out, fresh=True).drawn


DRAW = """
import sys
from pathlib import Path
from quantsim.lab import runner, study
study.folder = lambda: Path(sys.argv[1])
found = runner.run("fake", Path(sys.argv[2]))
assert (found.state, found.drawn) == ("loaded", True)
"""


def test_figures_are_the_same_bytes_in_another_process(register, tmp_path):
    folder, out = register(fake=FAKE), tmp_path / "out"
    runner.run("fake", out)
    before = drawn(out)
    for name in FIGURES:
        (out / name).unlink()
    env = os.environ | {"PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-c", DRAW, folder, out], check=True, env=env, cwd=Path.cwd())
    assert drawn(out) == before


# --- configs are the same everywhere --------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", study.names())
def test_no_config_depends_on_the_last_digits_of_a_computation(name, small):
    """NumPy's powers end in other digits on other processors, and a key holds all digits."""
    config = repr(study.config_of(name, small))
    numbers = [float(number) for number in re.findall(r"\d+\.\d+(?:e-?\d+)?", config)]
    assert [number for number in numbers if number != float(f"{number:.6g}")] == []


def test_a_run_hands_back_memory_after_each_cell_and_drops_programs_only_where_much_is_left(
    fake, monkeypatch, tmp_path
):
    limits = []
    monkeypatch.setattr(runner.memory, "give_back_beyond", lambda most: limits.append(most) or len(limits) == 2)
    monkeypatch.setattr(runner.memory, "drop_programs_beyond", lambda most: limits.append(-most))
    runner.run("fake", tmp_path)
    back, within = runner.MOST_BYTES, runner.MOST_WITHIN_STUDY
    assert limits == [back, back, -within, back, -back]
