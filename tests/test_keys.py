"""Keys: what measures makes rows stale; what draws, judges or is not reached leaves them current."""

import shutil
from pathlib import Path

import pytest

from quantsim.lab import keys, study
from quantsim.lab.reach import House
from tests.fake_study import FAKE, parse_each_text_once


@pytest.fixture(autouse=True)
def _each_text_is_parsed_once(monkeypatch):
    parse_each_text_once(monkeypatch)


# --- a study's own code ---------------------------------------------------------------------------------------------

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
    "annotation's import": ("from functools import cache", "from functools import cache\nfrom typing import Any"),
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
    "another library, changed": ("TABLE.update(b=2)", "TABLE.update(b=2)\nimport sys\nsys.setrecursionlimit(9)"),
}


@pytest.mark.parametrize("change", [*SAME, *OTHER])
def test_the_key_is_that_of_what_measures(tmp_path, change):
    old, new = {**SAME, **OTHER}[change]
    assert FAKE.count(old) == 1
    found = []
    for number, source in enumerate((FAKE, FAKE.replace(old, new))):
        folder = tmp_path / str(number)
        write(folder, {"fake.py": source})
        found.append(House({"studies": folder}).reached("studies.fake", ("measure", "Config")))
    assert (found[0] == found[1]) == (change in SAME)


def test_the_key_is_that_of_the_config():
    small, full = (study.config_of("outliers", small) for small in (True, False))
    assert keys.of_rows("outliers", small) != keys.of_rows("outliers", full)
    assert keys.of_rows("outliers", full) == keys.of_rows("outliers", study.config_of("outliers", small=False))


# --- a package of another kind for each way in which code is reached --------------------------------------------------

STUDY = """
from house import levels, shapes as forms
from house.rounding import snap
from house.plots import curve
from . import _helpers

class Config:
    size = 3

def measure(config):
    return [snap(forms.square(levels.LEVELS[0])), _helpers.twice(config.size)]

def draw(rows):
    return curve(rows)
"""
HOUSE = {
    "house/__init__.py": "from house.rounding import snap\nfrom house import levels\n__all__ = ['snap', 'levels']\n",
    "house/rounding.py": "UNIT = 1\n\ndef snap(x):\n    from house import lazy\n    return lazy.half(x) * UNIT\n\n"
    "def decode(x):\n    return x\n",
    "house/lazy.py": "from house.kinds import Real\nfrom house.units import Half\n\ndef half(x: Real) -> Real:\n"
    "    y: Real = x\n    return Half().of(y)\n",
    "house/kinds.py": "Real = float\n",
    "house/units.py": "from house.bases import Base\n\nclass Half(Base):\n    def of(self, x):\n        return x / 2\n",
    "house/bases.py": "class Base:\n    def of(self, x):\n        raise NotImplementedError\n",
    "house/levels.py": "LEVELS = [1, 2]\nfrom house import filling\n",
    "house/filling.py": "from house import levels\nlevels.LEVELS.append(3)\nROOM = 1\n",
    "house/shapes/__init__.py": "from house.shapes.flat import square\nfrom house.shapes.round import circle\n",
    "house/shapes/flat.py": "def square(x):\n    return x * x\n",
    "house/shapes/round.py": "PI = 3\n\ndef circle(x):\n    return PI * x\n",
    "house/plots.py": "from house.colors import RED\nfrom house.rounding import decode\n\n"
    "def curve(rows):\n    return RED, rows\n",
    "house/colors.py": "RED = 'red'\n",
    "house/handed.py": "def anything(x):\n    return x\n\nTABLE = {'a': anything}\n",
    "house/tables/__init__.py": "from house.tables.entries import triple\n",
    "house/tables/registry.py": "TABLE = {}\n\ndef entry(f):\n    TABLE[f.__name__] = f\n    return f\n\n"
    "def called(name, x):\n    return TABLE[name](x)\n",
    "house/tables/entries.py": "from house.tables.registry import entry\n\n@entry\ndef triple(x):\n    return 3 * x\n",
    "studies/__init__.py": "",
    "studies/new.py": STUDY,
    "studies/other.py": STUDY.replace("[snap(forms.square(levels.LEVELS[0])), _helpers.twice(config.size)]", "[]"),
    "studies/_helpers.py": "from house import handed\nfrom house.tables.registry import called\n\n"
    "def twice(x):\n    return getattr(handed, 'anything')(called('triple', 2 * x))\n",
}


def write(folder, sources):
    for name, text in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def reached(folder, name="new", start=("measure", "Config")):
    return House({"house": folder / "house", "studies": folder / "studies"}).reached(f"studies.{name}", start)


def changed(tmp_path, **changes):
    """Whether the code that the study reaches is another after texts of files were replaced, or files added."""
    write(tmp_path / "a", HOUSE)
    write(tmp_path / "b", HOUSE)
    for name, (old, new) in changes.items():
        path = tmp_path / "b" / name
        text = path.read_text() if path.is_file() else ""
        assert old in text
        write(tmp_path / "b", {name: text.replace(old, new, 1) if old else new + text})
    return reached(tmp_path / "a") != reached(tmp_path / "b")


def test_modules_are_reached_through_imports(tmp_path):
    write(tmp_path, HOUSE)
    own = {"studies.new", "studies._helpers"}
    theirs = {"rounding", "lazy", "units", "bases", "levels", "filling", "shapes.flat", "handed"}
    theirs |= {"tables.registry", "tables.entries"}
    assert set(reached(tmp_path)) == own | {f"house.{name}" for name in theirs}
    assert set(reached(tmp_path, "other")) == {"studies.other"}
    assert set(reached(tmp_path, start=("draw",))) == {"studies.new", "house.plots", "house.colors"}


STALE = {
    "a function by name": {"house/rounding.py": ("* UNIT", "+ UNIT")},
    "a constant of it": {"house/rounding.py": ("UNIT = 1", "UNIT = 2")},
    "by an import inside a function": {"house/lazy.py": ("Half().of(y)", "Half().of(-y)")},
    "a method": {"house/units.py": ("x / 2", "x / 3")},
    "a base class": {"house/bases.py": ("raise NotImplementedError", "return x")},
    "through a package's export": {"house/shapes/flat.py": ("x * x", "x * x * x")},
    "an attribute of a module": {"house/levels.py": ("[1, 2]", "[1, 3]")},
    "filled by another module that is imported": {"house/filling.py": ("append(3)", "append(4)")},
    "a module handed on as an object": {"house/handed.py": ("return x", "return x + 1")},
    "entered into a table by a decorator": {"house/tables/entries.py": ("3 * x", "4 * x")},
    "a sibling of the study": {"studies/_helpers.py": ("2 * x", "3 * x")},
    "an export that leads elsewhere": {
        "house/shapes/__init__.py": ("flat import square", "round import circle as square")
    },
    "a definition that nobody names": {"house/rounding.py": ("", "TOUCHED = 1\n")},
    "another library, changed on import": {"house/rounding.py": ("", "import sys\nsys.setrecursionlimit(9)\n")},
}
CURRENT = {
    "a new package": {"house/mitigations/__init__.py": ("", "")},
    "a new package that imports much": {"house/mitigations/__init__.py": ("", "from house.rounding import snap\n")},
    "a module that is not reached": {"house/shapes/round.py": ("PI = 3", "PI = 4")},
    "a module that only draws": {"house/plots.py": ("RED, rows", "rows, RED")},
    "a definition that is not reached": {"house/rounding.py": ("    return x", "    return -x")},
    "a docstring": {"house/rounding.py": ("def snap(x):\n", 'def snap(x):\n    """To a grid."""\n')},
    "a comment": {"house/rounding.py": ("def snap(x):\n", "def snap(x):  # to a grid\n")},
    "what only annotations name": {"house/kinds.py": ("float", "int")},
    "one more export": {"house/__init__.py": ("import levels", "import levels\nfrom house.colors import RED")},
}


@pytest.mark.parametrize("what", STALE)
def test_a_change_in_what_is_reached_changes_the_key(tmp_path, what):
    assert changed(tmp_path, **STALE[what])


@pytest.mark.parametrize("what", CURRENT)
def test_a_change_in_what_is_not_reached_does_not(tmp_path, what):
    assert not changed(tmp_path, **CURRENT[what])


def test_a_study_that_uses_another_does_not_reach_what_draws_that_one(tmp_path):
    user = "from . import new\n\ndef measure(config):\n    return new.measure(config)\n"
    write(tmp_path, HOUSE | {"studies/user.py": user})
    folders = {"house": tmp_path / "house", "studies": tmp_path / "studies"}
    house = House(folders, asked=("measure", "Config", "draw"))
    own, theirs = (house.reached(f"studies.{name}", ("measure",)) for name in ("user", "new"))
    assert set(own) == set(theirs) | {"studies.user"}
    assert "house.plots" not in own


def test_a_file_that_the_code_names_is_part_of_it(tmp_path):
    write(tmp_path, {"house/table.py": "def read():\n    return open('table.csv').read()\n", "house/table.csv": "1"})
    one = House({"house": tmp_path / "house"}).reached("house.table", ["read"])
    write(tmp_path, {"house/table.csv": "2", "house/other.csv": "3"})
    assert House({"house": tmp_path / "house"}).reached("house.table", ["read"]) != one


def test_a_parameter_is_not_the_module_of_its_name(tmp_path):
    """Nor are a loop's, a comprehension's and a local variable; but an iterable and a default are looked up outside."""
    body = """
from house import levels, rounding, lazy, units

def measure(levels, n=units.Half):
    lazy = [rounding for rounding in levels]
    return lazy
"""
    write(tmp_path, HOUSE | {"studies/new.py": body})
    assert set(reached(tmp_path)) == {"studies.new", "house.units", "house.bases"}
    write(tmp_path, {"studies/new.py": body.replace("(levels, n", "(n").replace("in levels", "in levels.LEVELS")})
    assert {"house.levels", "house.units"} <= set(reached(tmp_path))


# --- the real house -------------------------------------------------------------------------------------------------

TELLING = {f"lab.{name}" for name in ("claims", "plotting", "study", "runner", "keys", "provenance", "comparison")}


@pytest.mark.parametrize("module", ["rounding", "theory.noise", "populations.mixture", "numerics.ieee"])
def test_a_touched_module_makes_stale_exactly_the_studies_that_reach_it(tmp_path, module):
    """Also beside a new and empty package, which no study reaches."""
    package = tmp_path / "quantsim"
    shutil.copytree(study.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "studies"))
    (package / "annex").mkdir()
    (package / "annex" / "__init__.py").touch()
    with (package / f"{module.replace('.', '/')}.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef touched():\n    return 1\n")
    before, after = (keys.house(folder, study.folder()) for folder in (study.PACKAGE, package))
    for name in study.names():
        code, code_after = (h.reached(f"quantsim.studies.{name}", ("measure", "Config")) for h in (before, after))
        assert (code != code_after) == (f"quantsim.{module}" in code), name


def test_no_study_reaches_what_draws_judges_tells_or_serves():
    for name in study.names():
        modules = keys.measuring_code(name)
        assert modules[f"studies.{name}"]
        assert not [m for m in modules if m in TELLING or m.split(".")[0] == "cli"], name
    reach = {name: keys.measuring_code(name) for name in study.names()}
    assert "rounding" in reach["formats"]
    assert "theory.scalar" in reach["optimal_quantizers"]
    assert "theory.scalar" not in reach["outliers"]


def test_the_key_of_a_figure_is_that_of_its_rows_and_of_what_draws(tmp_path, monkeypatch):
    write(tmp_path, {"fake.py": FAKE})
    monkeypatch.setattr(study, "folder", lambda: tmp_path)
    first = keys.of_figure("fake", "rows")
    assert keys.of_figure("fake", "other rows") != first
    house = keys.house(study.PACKAGE, tmp_path)
    drawing = house.reached("quantsim.studies.fake", ("draw",))
    assert {"quantsim.studies.fake", "quantsim.lab.plotting"} <= set(drawing)
    style = Path(study.PACKAGE / "lab" / "style.mplstyle").read_bytes().hex()
    assert style in drawing["quantsim.lab.plotting"]
