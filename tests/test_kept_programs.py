"""Compiled programs that are kept from one call of a command to the next: the same bits, and nobody is bothered."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from quantsim.cli import programs
from tests.fake_study import command

OWN = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "QUANTSIM_CACHE")
COMMAND = ("matrix", "--json")


@pytest.fixture
def expected(capsys):
    """What the command prints in this process, which has other programs and another number of devices."""
    return command(capsys)(*COMMAND)


def call(cache):
    """The command in a process of its own: exit code, stdout, stderr."""
    env = {k: v for k, v in os.environ.items() if k not in OWN} | {"QUANTSIM_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-m", "quantsim", *COMMAND], env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def kept_in(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_second_call_loads_what_the_first_compiled_and_prints_the_same(tmp_path, expected):
    first = call(tmp_path)
    before = kept_in(tmp_path)
    assert before
    assert first == call(tmp_path) == expected
    assert kept_in(tmp_path) == before, "nothing was compiled anew"


def test_a_folder_that_cannot_be_written_is_passed_over_in_silence(tmp_path, expected):
    (tmp_path / "cache").write_text("not a folder")
    assert call(tmp_path / "cache") == expected


FOLDERS = {
    ("QUANTSIM_CACHE", "0"): None,
    ("QUANTSIM_CACHE", "off"): None,
    ("QUANTSIM_CACHE", "/fast/disk"): Path("/fast/disk"),
    ("XDG_CACHE_HOME", "/home/me/cache"): Path("/home/me/cache/quantsim/programs"),
}


@pytest.mark.parametrize("variable", FOLDERS, ids="=".join)
def test_a_variable_says_where(variable):
    assert programs.folder(dict([variable])) == FOLDERS[variable]


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_every_system_has_a_folder_below_the_users_own(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    found = programs.folder({"LOCALAPPDATA": "/home/me/AppData/Local"})
    assert found.is_relative_to("/home/me")
    assert found.parts[-2:] == ("quantsim", "programs")


def test_what_was_used_least_recently_goes_first(tmp_path):
    (tmp_path / "machine").mkdir()
    for age, name in enumerate(("new", "used", "old", "older")):
        path = tmp_path / "machine" / name
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - 10 * age, 1e9 - 10 * age))
    os.utime(tmp_path / "machine" / "used", (1e9 + 50, 1e9 - 1000))
    programs.trim(tmp_path, 250)
    assert sorted(kept_in(tmp_path)) == ["new", "used"]
    programs.trim(tmp_path / "is not there", 0)


def test_a_session_that_has_a_folder_keeps_it(monkeypatch, tmp_path):
    """As this one of tests has."""
    before = jax.config.jax_compilation_cache_dir
    assert before
    monkeypatch.setenv("QUANTSIM_CACHE", str(tmp_path))
    programs.keep()
    assert jax.config.jax_compilation_cache_dir == before
    assert not list(tmp_path.iterdir())
