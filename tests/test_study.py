"""The runner: measured once, loaded while nothing changed, resumed where it was cut, drawn to the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantsim.lab import study
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

# --- produce or load ------------------------------------------------------------------------------------------------


def test_rows_are_measured_then_loaded_then_measured_anew(fake, tmp_path):
    ticks, out = [], tmp_path / "new" / "out"
    first = study.run("fake", out, tick=lambda *t: ticks.append(t))
    assert (first.state, first.rows, fake) == ("measured", ROWS, [0, 1, 2])
    assert ticks == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert set(files(out)) == {"fake.jsonl", "fake.json", *FIGURES}
    drawn = {name: files(out)[name] for name in FIGURES}
    for name in FIGURES:
        (out / name).unlink()
    second = study.run("fake", out)
    assert (second.state, second.rows, len(fake)) == ("loaded", ROWS, 3)
    assert {name: files(out)[name] for name in FIGURES} == drawn
    third = study.run("fake", out, fresh=True)
    assert (third.state, third.rows, len(fake)) == ("measured", ROWS, 6)


def test_provenance_says_where_the_numbers_come_from(fake, undrawn, tmp_path):
    study.run("fake", tmp_path)
    found = json.loads((tmp_path / "fake.json").read_text())
    assert found["study"] == "fake"
    assert found["question"] == "Is twice a number double?"
    assert found["config"] == {"cells": 3}
    assert found["key"] == study.key("fake", study.module("fake").Config()) == study.stored_key(tmp_path, "fake")
    assert {"jax", "numpy", "python", "quantsim"} <= set(found["versions"])
    assert found["device"].startswith("4 x cpu")
    assert found["seconds"] >= 0
    assert found["matmul_precision"]


def test_another_config_is_measured(fake, undrawn, tmp_path):
    study.run("fake", tmp_path, small=True)
    assert study.run("fake", tmp_path).state == "measured"
    assert load(tmp_path / "fake.jsonl") == ROWS


def test_an_unknown_study_names_those_there_are(register):
    register(fake=FAKE, other=FAKE)
    assert study.names() == ["fake", "other"]
    with pytest.raises(LookupError, match="no study 'fak'; there are fake, other"):
        study.module("fak")


def test_a_folder_that_is_a_file_cannot_be_written_to(fake, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out"):
        study.run("fake", tmp_path / "out")


# --- the key --------------------------------------------------------------------------------------------------------

SAME = {
    "module docstring": ('"""Is twice a number double?\n\nThe method.\n"""', '"""Is it?"""'),
    "docstring of the config": ('"""What is measured."""', '"""All that.\n\n    And more."""'),
    "docstring of measure": ('    """So many rows."""\n', ""),
    "comment": ("    # one row\n", "    # one row of many\n    # two lines\n"),
    "comment behind code": ("# of the axis", "# of both axes"),
    "blank lines": ("\n\ndef measure", "\n\n\n\ndef measure"),
    "draw": ('label="theory"', 'label="closed form"'),
    "constant of draw": ('LABEL = "x"', 'LABEL = "y"'),
    "helper of draw": ("return LABEL", "return LABEL.upper()"),
    "decorator of a helper of draw": ("@cache\ndef _label", "def _label"),
    "claims": ("at_most(100.0)", "at_most(1.0)"),
}
OTHER = {
    "config": ("cells: int = 3", "cells: int = 4"),
    "method of the config": ("cls(cells=1)", "cls(cells=2)"),
    "measure": ("range(config.cells)", "range(1, config.cells)"),
    "helper": ('"cell": i,', '"cell": i + 1,'),
    "decorator of a helper": ("@cache\ndef _row", "def _row"),
    "string that looks like a comment": ('"# σ"', '"# τ"'),
    "constant of a helper": ("FACTOR: float = 2.0", "FACTOR: float = 3.0"),
    "constant of a helper, changed later": ('TABLE = {"a": 1}', 'TABLE = {"a": 1}\nFACTOR *= 2'),
    "statement that changes a constant": ("TABLE.update(b=2)", "TABLE.update(b=3)"),
    "import of a helper": ("from math import ceil as whole", "from math import floor as whole"),
}


def key_of(register, source):
    register(fake=source)
    return study.key("fake", study.config_of("fake", small=False))


@pytest.mark.parametrize("change", [*SAME, *OTHER])
def test_the_key_is_that_of_what_measures(register, change):
    old, new = {**SAME, **OTHER}[change]
    assert FAKE.count(old) == 1
    same = key_of(register, FAKE) == key_of(register, FAKE.replace(old, new))
    assert same == (change in SAME)


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("errors.py", "x = 2\n", True),
        ("errors.py", '"""Doc."""\n\nx = 1  # one\n', False),
        ("new.py", "y = 1\n", True),
        ("theory/__init__.py", "z = 1\n", True),
        ("cli.py", "x = 2\n", False),
        ("studies/other.py", "x = 2\n", False),
    ],
)
@pytest.mark.usefixtures("fake")
def test_the_key_is_that_of_the_package(tmp_path, monkeypatch, request, file, text, changes):
    package = tmp_path / "package"
    monkeypatch.setattr(study, "_PACKAGE", package)
    request.addfinalizer(study._package_code.cache_clear)
    keys = set()
    for part, content in (("errors.py", "x = 1\n"), (file, text)):
        (package / part).parent.mkdir(parents=True, exist_ok=True)
        (package / part).write_text(content)
        study._package_code.cache_clear()
        keys.add(study.key("fake", study.module("fake").Config()))
    assert len(keys) == 1 + changes


# --- interrupted ----------------------------------------------------------------------------------------------------


def stop_at(monkeypatch, cell):
    module = study.module("fake")
    row = module._row

    def interrupted(i):
        if i == cell:
            raise KeyboardInterrupt
        return row(i)

    monkeypatch.setattr(module, "_row", interrupted)


@pytest.mark.parametrize("cell", [0, 2])
def test_an_interrupted_run_goes_on_where_it_stopped(fake, undrawn, tmp_path, monkeypatch, cell):
    with monkeypatch.context() as patch:
        stop_at(patch, cell)
        with pytest.raises(KeyboardInterrupt):
            study.run("fake", tmp_path)
    assert set(files(tmp_path)) == {"fake.partial.jsonl"}
    assert fake == list(range(cell))
    again = study.run("fake", tmp_path)
    assert (again.state, again.rows) == ("resumed" if cell else "measured", ROWS)
    assert fake == [0, 1, 2]
    assert load(tmp_path / "fake.jsonl") == ROWS
    assert "fake.partial.jsonl" not in files(tmp_path)


def test_an_interrupted_run_leaves_what_was_there(fake, tmp_path, monkeypatch):
    study.run("fake", tmp_path)
    before = files(tmp_path)
    stop_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        study.run("fake", tmp_path, fresh=True)
    assert {n: b for n, b in files(tmp_path).items() if n != "fake.partial.jsonl"} == before


def test_a_partial_file_cut_anywhere_is_survived(fake, tmp_path, monkeypatch):
    """At every byte, also in the middle of a character: what is used is finished, the last line may be lost."""
    partial = tmp_path / "fake.partial.jsonl"
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        study._measure("fake", study.module("fake").Config(), "key", tmp_path, None)
    whole = partial.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        partial.write_bytes(whole[:length])
        found = list(study._finished(partial, "key"))
        assert found == [(f"cell {i}", ROWS[i : i + 1]) for i in range(max(sum(end <= length for end in ends) - 1, 0))]


def test_a_run_goes_on_from_a_torn_line(fake, undrawn, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            study.run("fake", tmp_path)
    whole = (tmp_path / "fake.partial.jsonl").read_bytes()
    (tmp_path / "fake.partial.jsonl").write_bytes(whole[: whole.rindex("σ".encode()) + 1])
    again = study.run("fake", tmp_path)
    assert (again.state, again.rows, fake) == ("resumed", ROWS, [0, 1, 1, 2])


def test_cells_of_another_key_are_not_used(fake, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            study._measure("fake", study.module("fake").Config(), "old key", tmp_path, None)
    state, rows = study._measure("fake", study.module("fake").Config(), "new key", tmp_path, None)
    assert (state, rows, fake) == ("measured", ROWS, [0, 1, 0, 1, 2])


def test_two_cells_of_one_name_are_an_error(register, tmp_path):
    register(fake=FAKE.replace('f"cell {i}"', '"cell"'))
    with pytest.raises(ValueError, match="study fake gives two of its cells one name"):
        study.run("fake", tmp_path)


@pytest.mark.parametrize("name", study.names())
@pytest.mark.parametrize("small", [True, False])
def test_the_cells_of_a_study_have_names_of_their_own(name, small):
    cells = [cell for cell, _ in study.module(name).measure(study.config_of(name, small))]
    assert len(set(cells)) == len(cells) > 0


# --- stale ----------------------------------------------------------------------------------------------------------


def spoil(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


SPOILED = {
    "no rows": lambda out: (out / "fake.jsonl").unlink(),
    "no provenance": lambda out: (out / "fake.json").unlink(),
    "another key": lambda out: spoil(out / "fake.json", '"key": "', '"key": "0'),
    "torn provenance": lambda out: (out / "fake.json").write_text('{"key": "'),
}


@pytest.mark.parametrize("how", SPOILED)
def test_spoiled_results_are_stale_and_measured_anew(fake, undrawn, tmp_path, how):
    assert study.stale(tmp_path) == ["fake"]
    study.run("fake", tmp_path)
    assert study.stale(tmp_path) == []
    SPOILED[how](tmp_path)
    assert study.stale(tmp_path) == ["fake"]
    assert (study.run("fake", tmp_path).state, study.stale(tmp_path)) == ("measured", [])


def test_rows_of_a_changed_study_are_stale(register, undrawn, tmp_path):
    register(fake=FAKE, other=FAKE.replace("A01", "A02"))
    for name in study.names():
        study.run(name, tmp_path)
    register(fake=FAKE.replace("cells: int = 3", "cells: int = 4"), other=FAKE.replace('label="theory"', "alpha=0.5"))
    assert study.stale(tmp_path) == ["fake"]
    assert study.run("other", tmp_path).state == "loaded"


def test_settled_are_the_studies_with_rows(register, undrawn, tmp_path):
    register(fake=FAKE, other=FAKE.replace("A01", "A02"))
    study.run("other", tmp_path)
    assert [(name, rows) for name, _, rows in study.settled(tmp_path)] == [("other", ROWS)]


# --- figures --------------------------------------------------------------------------------------------------------

DRAW = """
import sys
from pathlib import Path
from quantsim import study
study.folder = lambda: Path(sys.argv[1])
assert study.run("fake", Path(sys.argv[2])).state == "loaded"
"""


def test_figures_are_the_same_bytes_in_another_process(register, tmp_path):
    folder = register(fake=FAKE)
    study.run("fake", tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FIGURES}
    for name in FIGURES:
        (tmp_path / "out" / name).unlink()
    env = os.environ | {"PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-c", DRAW, folder, tmp_path / "out"], check=True, env=env, cwd=Path.cwd())
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FIGURES} == before
