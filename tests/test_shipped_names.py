"""Models that come with quantsim are checkpoints by name."""

import json
from pathlib import Path

import pytest

from quantsim.checkpoints import CheckpointError, open_checkpoint
from quantsim.cli import shipped
from quantsim.cli.commands import main
from quantsim.models import trained, trained_digits


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTSIM_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.mark.parametrize("name", ["lm-w32-s0", "unet-s0"])
def test_a_model_becomes_the_file_that_was_shipped(name, cache):
    path = shipped.file_of(Path(name))
    package = trained if name.startswith("lm") else trained_digits
    assert path.parent == cache
    assert path.read_bytes() == package.shipped(name)
    assert {entry.type for entry in open_checkpoint(path).entries} == {"BF16"}


def test_a_damaged_file_is_written_again(cache):
    path = shipped.file_of(Path("lm-w32-s0"))
    path.write_bytes(b"half")
    assert shipped.file_of(Path("lm-w32-s0")).read_bytes() == trained.shipped("lm-w32-s0")
    assert [p.name for p in cache.iterdir()] == ["lm-w32-s0.safetensors"]


def test_a_path_of_that_name_is_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lm-w32-s0").mkdir()
    assert shipped.file_of(Path("lm-w32-s0")) == Path("lm-w32-s0")


def test_commands_take_names(capsys):
    main(["inspect", "lm-w32-s0", "--formats", "q8_0", "--include", "blk.0.ffn_*", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["tensor"].split(".")[1] for row in rows if "tensor" in row} == {"0"}
    main(["compare", "lm-w32-s0", "lm-w32-s0"])
    assert "No tensor is worse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "meant"), [("lm-w32-s9", "did you mean lm-w32-s"), ("nothing", "those are lm-w32-s0, ")]
)
def test_a_word_that_is_no_name_and_no_file_says_what_was_meant(word, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"{word}: no such file, and no model that comes with quantsim; {meant}"):
        shipped.file_of(Path(word))
