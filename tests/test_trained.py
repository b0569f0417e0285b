"""The models that are shipped: their files, and the losses that they claim."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from quantsim.models import checkpoint_files, llama, text, trained, training
from quantsim.models.trained import FOLDER

MAIN = 128
WIDTHS = sorted({trained.load(name).config.width for name in trained.names()})


def test_every_width_has_three_seeds():
    assert MAIN in WIDTHS
    assert len(WIDTHS) >= 3
    assert trained.names() == tuple(trained.name_of(width, seed) for width in WIDTHS for seed in range(3))
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 16e6


@pytest.mark.parametrize("width", WIDTHS)
def test_a_model_reaches_the_loss_that_its_file_states(width):
    """On every eighth sequence: within four standard errors of the difference of a part and the whole."""
    for name in trained.names():
        params, config, about = trained.load(name)
        if config.width == width:
            sequences = text.held_out(config.context)
            losses = training.sequence_losses(params, config, sequences[::8], batch=len(sequences[::8]))
            error = losses.std(ddof=1) / np.sqrt(len(losses)) * np.sqrt(1 - len(losses) / len(sequences))
            assert losses.mean() == pytest.approx(about["loss"], abs=4 * error)
            assert error < 0.1
            # rounding to bfloat16 is small against what a sequence says
            assert abs(about["loss"] - about["loss_before"]) < about["loss_se"]


def test_files_hold_bfloat16_of_the_names_of_a_checkpoint(tmp_path):
    for name in trained.names():
        params, config, about = trained.load(name)
        assert list(params) == list(llama.shapes(config))
        assert config.hidden == 3 * config.width
        assert trained.name_of(config.width, about["seed"]) == name
        recipe = training.recipe_of(config.width, about["seed"])
        assert recipe.config == config
        assert {n: about[n] for n in ("steps", "batch", "rate")} == {
            n: getattr(recipe, n) for n in ("steps", "batch", "rate")
        }
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(trained.shipped(name))
        with safe_open(path, framework="numpy") as file:
            assert {file.get_tensor(n).dtype for n in file.keys()} == {np.dtype(ml_dtypes.bfloat16)}  # noqa: SIM118
            assert json.loads(file.metadata()["config"])["width"] == config.width


def test_seeds_are_different_models_and_wider_ones_are_better():
    losses = {width: training.shipped_losses(width) for width in WIDTHS}
    assert all(len(set(found.tolist())) == 3 for found in losses.values())
    means = [losses[width].mean() for width in WIDTHS]
    assert means == sorted(means, reverse=True)
    for width in WIDTHS:
        assert np.ptp(losses[width]) < training.tolerance(width) < 0.2


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(ValueError, match=r"no trained model 'lm-w7-s0': there are .*lm-w128-s0"):
        trained.load("lm-w7-s0")


def test_every_file_that_is_shipped_is_known_by_its_digest():
    files = {path.stem for path in trained.FOLDER.glob("*.halves")}
    assert files == set(trained.names())


def test_what_is_shipped_by_halves_is_read_as_the_file_that_it_was(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(trained.shipped("lm-w32-s0"))
    ours, theirs = trained.load("lm-w32-s0"), trained.read(path)
    assert (ours.config, ours.metadata) == (theirs.config, theirs.metadata)
    assert all((ours.params[name] == theirs.params[name]).all() for name in theirs.params)


@pytest.mark.parametrize("size", [0, 1, 2, 9, 10])
def test_halves_are_put_together_again(size):
    data = bytes(range(size))
    assert checkpoint_files.whole(checkpoint_files.halves(data)) == data


def test_a_file_that_is_not_the_shipped_one_is_refused(monkeypatch, tmp_path):
    (tmp_path / "lm-w32-s0.halves").write_bytes(b"other weights")
    monkeypatch.setattr(trained, "FOLDER", tmp_path)
    for name in ("lm-w32-s0", "lm-w32-s1"):
        with pytest.raises(ValueError, match="missing, or not the file that was shipped"):
            trained.load(name)
