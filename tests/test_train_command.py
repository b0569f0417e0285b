"""quantsim train: what it says, what it compares, how it ends and goes on."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.models import digits, steps, text, trained, trained_digits, training, unet_training
from tests.fake_study import command
from tests.test_training import DATA, RECIPE  # whose programs are compiled anyway
from tests.test_unet_training import RECIPE as UNET


@pytest.fixture
def quantsim(capsys):
    return command(capsys)


@pytest.fixture(scope="module")
def some():
    """Few sequences in the place of all that are held out."""
    with pytest.MonkeyPatch.context() as patch:
        found = text.held_out(RECIPE.config.context)[:40]
        patch.setattr(text, "held_out", lambda context: found)
        yield


@pytest.fixture
def tiny(monkeypatch, some):
    """A model that trains in no time in the place of the real one; what it is held against is set here."""
    monkeypatch.setattr(training, "recipe_of", lambda width, seed=0: replace(RECIPE, seed=seed))
    monkeypatch.setattr(text, "training_bytes", lambda: DATA)

    def shipped(losses, tolerance):
        monkeypatch.setattr(training, "shipped_losses", lambda width: np.array(losses))
        monkeypatch.setattr(training, "tolerance", lambda width: tolerance)

    return shipped


@pytest.fixture(scope="module")
def reached(tmp_path_factory, some):
    """The loss that sixty steps reach."""
    path = tmp_path_factory.mktemp("reached") / "m.safetensors"
    return training.save(training.train(RECIPE, data=DATA), RECIPE, path).metadata["loss"]


def test_the_loss_is_held_against_the_shipped_ones(quantsim, tiny, reached, tmp_path):
    tiny([reached - 0.01, reached - 0.03], 0.05)
    code, shown, _ = quantsim("train", "lm", "--out", str(tmp_path))
    assert code == 0
    assert "lm-w128-s0: 60 steps, held-out loss" in shown
    assert f"shipped: {reached - 0.01:.4f}, {reached - 0.03:.4f}; +0.0200 of their mean, tolerance 0.0500" in shown
    assert trained.read(tmp_path / "lm-w128-s0.safetensors").metadata["loss"] == pytest.approx(reached, abs=1e-6)
    tiny([reached - 0.01, reached - 0.03], 0.015)
    code, _, message = quantsim("train", "lm", "--out", str(tmp_path))
    assert code == 1
    assert "is not that of the shipped models: it is +0.0200 off" in message


def test_nothing_is_compared_that_was_trained_otherwise_or_is_not_shipped(quantsim, tiny, tmp_path, monkeypatch):
    tiny([], 0.0)
    monkeypatch.setattr(steps, "step", lambda state, *_: (state._replace(step=state.step + 1), jnp.float32(1.0)))
    code, _, message = quantsim("train", "lm", "--steps", "2", "--out", str(tmp_path))
    assert code == 0
    assert "no comparison: the shipped models took 60 steps, this one 2" in message
    code, _, message = quantsim("train", "lm", "--width", "160", "--out", str(tmp_path))
    assert code == 0
    assert "no comparison: no model of width 160 is shipped" in message


def test_an_interrupted_training_goes_on(quantsim, tiny, reached, tmp_path, monkeypatch):
    tiny([reached], 0.001)
    numbers, real = [], steps.step

    def interrupted(state, data, recipe):
        numbers.append(int(state.step))
        if len(numbers) == 58:
            raise KeyboardInterrupt
        return real(state, data, recipe)

    monkeypatch.setattr(steps, "step", interrupted)
    code, _, message = quantsim("train", "lm", "--out", str(tmp_path))
    assert code == 130
    assert "the same command goes on from there" in message
    code, _, _ = quantsim("train", "lm", "--out", str(tmp_path))
    assert code == 0
    assert numbers == [*range(58), *range(50, 60)]


def test_a_unet_is_held_against_the_shipped_ones(quantsim, tmp_path, monkeypatch):
    some = digits.Digits(*(part[:20] for part in digits.held_out()))
    monkeypatch.setattr(digits, "held_out", lambda: some)
    monkeypatch.setattr(unet_training, "recipe_of", lambda seed=0: replace(UNET, seed=seed))
    code, _, message = quantsim("train", "unet", "--steps", "6", "--out", str(tmp_path / "few"))
    assert (code, "the shipped models took 40 steps, this one 6" in message) == (0, True)
    monkeypatch.setattr(unet_training, "tolerance", lambda: 0.1)
    for shipped, ending in ((0.0, 1), (None, 0)):
        reached = shipped is None and trained_digits.read(tmp_path / "unet-s0.safetensors").metadata["loss"]
        monkeypatch.setattr(unet_training, "shipped_losses", lambda loss=reached or 0.0: np.array([loss]))
        code, shown, message = quantsim("train", "unet", "--out", str(tmp_path))
        assert (code, "unet-s0: 40 steps, held-out loss" in shown) == (ending, True)
        assert ("is not that of the shipped models" in message) == (ending == 1)


def test_what_cannot_be_trained_or_written_ends_with_a_reason(quantsim, tmp_path):
    code, _, message = quantsim("train", "lm", "--width", "100", "--out", str(tmp_path))
    assert (code, "multiple of 32" in message) == (2, True)
    code, _, message = quantsim("train", "lm", "--seed", "-1", "--out", str(tmp_path))
    assert (code, "a seed lies between" in message) == (2, True)
    code, _, message = quantsim("train", "gan", "--out", str(tmp_path))
    assert (code, "lm" in message, "unet" in message) == (2, True, True)
    code, _, message = quantsim("train", "unet", "--width", "64", "--out", str(tmp_path))
    assert (code, "the UNet has one width: leave --width out" in message) == (2, True)


def test_a_folder_that_cannot_be_written_ends_with_4(quantsim, tiny, tmp_path, monkeypatch):
    tiny([], 0.0)
    monkeypatch.setattr(steps, "step", lambda state, *_: (state, jnp.float32(1.0)))
    (tmp_path / "file").write_text("")
    code, _, message = quantsim("train", "lm", "--out", str(tmp_path / "file"))
    assert code == 4
    assert "choose another folder with --out" in message
