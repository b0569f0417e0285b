"""Rows: what is written comes back, numbers that JSON lacks are null, a failing write leaves the old file."""

import json
import math
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsim.rows import Rows, dumps, load, plain, replace_text, save
from tests.fake_disk import at_call

SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
# every separator at which str.splitlines would cut, and what a line of JSON must escape
TEXT = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from('\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\\"|'))
VALUES = SCALARS | TEXT | st.lists(SCALARS, max_size=3)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=4))
def test_rows_come_back(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("rows") / "r.jsonl"
    save(path, written)
    assert load(path) == written
    assert path.read_bytes().count(b"\n") == len(written)


def test_a_float_comes_back_to_the_bit(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**64, 2000, dtype=np.uint64).view(np.float64)
    values = np.append(values[np.isfinite(values)], [5e-324, 1.7976931348623157e308])
    save(tmp_path / "r.jsonl", [{"v": v} for v in values])
    assert (load(tmp_path / "r.jsonl").column("v").view(np.uint64) == values.view(np.uint64)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("as_type", [float, np.float32, np.float64, ml_dtypes.bfloat16, jnp.float32])
def test_numbers_that_json_lacks_are_null(tmp_path, bad, as_type):
    row = {"v": as_type(bad), "in a list": [1.0, as_type(bad)], "deep": {"er": (as_type(bad),)}}
    save(tmp_path / "r.jsonl", [row])
    assert load(tmp_path / "r.jsonl") == [{"v": None, "in a list": [1.0, None], "deep": {"er": [None]}}]
    assert math.isnan(load(tmp_path / "r.jsonl").column("v")[0])


ARRAYS = [np.float32, np.float16, np.int8, np.uint16, np.bool_, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", ARRAYS, ids=lambda t: np.dtype(t).name)
def test_arrays_become_plain_lists(dtype):
    row = {"numpy": np.ones((2, 1), dtype), "jax": jnp.ones(2, dtype), "scalar": np.ones((), dtype)[()]}
    assert json.loads(dumps(row)) == {"numpy": [[1], [1]], "jax": [1, 1], "scalar": 1}


def test_plain_leaves_what_is_plain():
    assert plain({"a": (1, "x", None, True, 0.5)}) == {"a": [1, "x", None, True, 0.5]}


def test_rows_are_filtered_and_read_by_column():
    r = Rows([{"k": 1, "v": 2.0}, {"k": 1, "v": None}, {"k": 2}])
    assert r.where(k=1) == r[:2]
    assert isinstance(r.where(k=1).where(v=2.0), Rows)
    np.testing.assert_array_equal(r.column("v"), [2.0, np.nan, np.nan])
    assert r.values("k") == [1, 2]
    assert r.values("v") == [2.0, None]
    assert r.where(k=3) == []
    assert r.where(v=2.0).one("k") == 1


@pytest.mark.parametrize("equal", [{"k": 1}, {"k": 5}])
def test_one_needs_exactly_one_row(equal):
    with pytest.raises(LookupError, match=r"rows where one is needed for 'v'"):
        Rows([{"k": 1, "v": 1}, {"k": 1, "v": 2}]).where(**equal).one("v")


# --- atomic ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "r.jsonl"
    save(path, [{"old": 1}])
    return path


def test_a_row_that_cannot_be_written_leaves_the_old_file(old):
    def measured():
        yield {"new": 1}
        yield {"new": object()}

    with pytest.raises(TypeError):
        save(old, measured())
    assert load(old) == [{"old": 1}]


def test_a_measurement_that_fails_leaves_the_old_file(old):
    def measured():
        yield {"new": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(old, measured())
    assert load(old) == [{"old": 1}]


@pytest.mark.parametrize("number", range(1, 7))
def test_a_full_disk_leaves_the_old_file_or_the_new_one(old, number):
    """Whichever call fails: opened, half written, synced, replaced; the new one is there when its folder is synced."""

    def happen(what):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), at_call(number, happen) as calls:
        save(old, [{"new": 1}])
    assert len(calls) == number
    assert load(old) == [{"old": 1} if number <= 4 else {"new": 1}]
    assert list(old.parent.iterdir()) == [old]


def test_the_new_file_appears_whole(old, monkeypatch):
    """At the moment of the replacement the new file is complete beside the old one."""
    replace = Path.replace

    def check(self, target):
        assert load(self) == [{"new": 1}, {"new": 2}]
        assert load(target) == [{"old": 1}]
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", check)
    save(old, [{"new": 1}, {"new": 2}])
    assert load(old) == [{"new": 1}, {"new": 2}]
    assert [p.name for p in old.parent.iterdir()] == ["r.jsonl"]


def test_replace_text_keeps_what_utf_8_holds(tmp_path):
    replace_text(tmp_path / "t.md", "σ ≤ ½ × 16 — 量化\n")
    assert (tmp_path / "t.md").read_text(encoding="utf-8") == "σ ≤ ½ × 16 — 量化\n"


def test_rows_are_taken_apart_by_value_and_laid_out_on_a_grid():
    rows = Rows({"x": x, "y": y, "z": 10 * y + x} for y in (2, 1) for x in (3, 5) if (x, y) != (5, 1))
    assert rows.where(y=2).by("x", "z") == {3: 23, 5: 25}
    assert [(at, [r["z"] for r in group]) for at, group in rows.groups("y").items()] == [((2,), [23, 25]), ((1,), [13])]
    assert list(rows.groups("y", "x")) == [(2, 3), (2, 5), (1, 3)]
    assert isinstance(rows.groups("x")[3,], Rows)
    grid = rows.grid(x="x", y="y", value="z")
    assert (grid.xs, grid.ys) == ([3, 5], [2, 1])
    np.testing.assert_array_equal(grid.values, [[23, 25], [13, np.nan]])
    assert np.isnan(Rows([{"x": 1, "y": 1, "z": None}]).grid(x="x", y="y", value="z").values).tolist() == [[True]]
    texts = Rows([{"x": 1, "y": 1, "z": "a"}, {"x": 2, "y": 2, "z": "b"}]).grid(x="x", y="y", value="z")
    assert texts.values.tolist() == [["a", ""], ["", "b"]]
