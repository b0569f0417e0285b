"""Training of the UNet: it learns, it can be stopped anywhere, and the losses of what is shipped are as stated."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from quantsim.models import (
    checkpoint_files,
    digit_classifier,
    digits,
    resuming,
    trained_digits,
    unet,
    unet_steps,
    unet_training,
)
from quantsim.models.unet import Config
from quantsim.models.unet_steps import Recipe

TINY = Config(channels=(8,), attention=(), time=8, groups=2, heads=1)
RECIPE = Recipe(steps=40, batch=16, rate=1e-2, warmup=5, config=TINY)
#: One image, so that the noise is known from what is noisy.
DATA = np.broadcast_to(np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1), (8, 8, 8, 1)).copy()


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def straight():
    """Parameters and losses of a training that nothing interrupts."""
    losses = []
    params = unet_training.train(RECIPE, data=DATA, report=lambda done, total, loss: losses.append(loss))
    return params, np.array(losses)


def test_the_loss_falls_from_that_of_no_prediction(straight):
    _, losses = straight
    assert len(losses) == 40
    # first weights predict 0, so the loss is the mean of 1024 squared normals
    assert losses[0] == pytest.approx(1.0, abs=4 * np.sqrt(2 / 1024))
    assert losses[-5:].mean() < 0.7 * losses[0]


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(straight, tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "_EVERY", 7)

    def stop(done, total, loss):
        if done == 16:
            raise StoppedError

    with pytest.raises(StoppedError):
        unet_training.train(RECIPE, tmp_path, data=DATA, report=stop)
    seen = []
    params = unet_training.train(RECIPE, tmp_path, data=DATA, report=lambda done, total, loss: seen.append(done))
    assert seen == list(range(15, 41)), "14 steps were kept"
    for name, expected in straight[0].items():
        np.testing.assert_array_equal(params[name], expected, err_msg=name)
    with pytest.raises(ValueError, match=r"state\.safetensors is of another training"):
        unet_training.train(replace(RECIPE, seed=1), tmp_path, data=DATA)
    with pytest.raises(ValueError, match=r"state\.safetensors is of another training"):
        unet_training.train(RECIPE, tmp_path, data=DATA[1:])


def test_times_fill_the_strata_and_losses_are_those_of_the_noise(monkeypatch):
    """What the network is asked, caught in place of its answer: noisy images of one time in each stratum."""
    asked = []

    def nothing(params, x, t, config):
        asked.append((x, t))
        return 0.0 * x

    monkeypatch.setattr(unet, "forward", nothing)
    images = jnp.ones((64, 8, 8, 1))
    found = unet_steps.losses({}, images, jax.random.key(5), TINY)
    ((x, t),) = asked
    assert (np.floor(np.asarray(t) * 64) == np.arange(64)).all()
    signal, noise = np.cos(np.pi / 2 * np.asarray(t, np.float64)), np.sin(np.pi / 2 * np.asarray(t, np.float64))
    # at late times x minus its signal is the noise; its mean square is the loss of predicting nothing
    late = slice(16, None)
    drawn = (np.asarray(x, np.float64) - signal[:, None, None, None]) / noise[:, None, None, None]
    np.testing.assert_allclose(found[late], (drawn[late] ** 2).mean(axis=(1, 2, 3)), rtol=1e-4)


def test_what_cannot_be_trained_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="at least one step of one image, got 0 of 128"):
        Recipe(steps=0)
    with pytest.raises(ValueError, match="the rate rises in fewer steps than there are: 100 of 50; take more"):
        Recipe(steps=50)
    with pytest.raises(ValueError, match="a seed lies between"):
        Recipe(seed=-1)
    with pytest.raises(ValueError, match=r"are not what this UNet takes: give them as \(batch, 8, 8, 1\)"):
        unet_training.train(RECIPE, data=np.ones((8, 4, 4, 1), np.float32))
    monkeypatch.setattr(unet_steps, "step", lambda state, *_: (state, jnp.float32(jnp.nan)))
    with pytest.raises(FloatingPointError, match=r"the loss of step 0 is nan: lower the rate, now 0\.01"):
        unet_training.train(RECIPE, data=DATA)


def test_a_trained_unet_is_written_with_what_it_reached(straight, tmp_path, monkeypatch):
    some = digits.Digits(*(part[:20] for part in digits.held_out()))
    monkeypatch.setattr(digits, "held_out", lambda: some)
    model = unet_training.save(straight[0], RECIPE, tmp_path / "new" / "m.safetensors")
    assert model.config == TINY
    for name, w in straight[0].items():
        assert (np.abs(model.params[name] - w) <= 2**-8 * np.abs(w)).all()
    about = model.metadata
    assert (about["loss"], about["loss_se"]) == pytest.approx(unet_training.held_out_loss(model.params, TINY))
    assert (about["loss_before"], about["seed"]) == (unet_training.held_out_loss(straight[0], TINY)[0], 0)
    losses = unet_training.image_losses(model.params, TINY, some.images)
    assert about["loss_se"] == pytest.approx(losses.std(ddof=1) / np.sqrt(20))


# --- the UNets that are shipped -------------------------------------------------------------------------------------


def test_three_seeds_are_shipped_and_known_by_their_digests():
    assert trained_digits.names() == tuple(trained_digits.name_of(seed) for seed in range(3))
    files = {path.stem for path in trained_digits.FOLDER.glob("*.halves")}
    assert files == {*trained_digits.names(), digit_classifier.NAME}
    assert sum(path.stat().st_size for path in trained_digits.FOLDER.iterdir()) < 3e6
    with pytest.raises(ValueError, match=r"no trained model 'unet-s7': there are .*unet-s0"):
        trained_digits.load("unet-s7")


def test_models_reach_the_losses_that_their_files_state(tmp_path):
    """On two of sixteen rounds of noise: within four standard errors over the images."""
    for name in trained_digits.names():
        params, config, about = trained_digits.load(name)
        recipe = unet_training.recipe_of(about["seed"])
        assert (recipe.config, recipe.steps, recipe.batch, recipe.rate) == (
            config,
            about["steps"],
            about["batch"],
            about["rate"],
        )
        losses = unet_training.image_losses(params, config, digits.held_out().images, rounds=2)
        error = losses.std(ddof=1) / np.sqrt(len(losses))
        assert losses.mean() == pytest.approx(about["loss"], abs=4 * error)
        assert abs(about["loss"] - about["loss_before"]) < about["loss_se"]
        assert about["digits"] == digits.digest()
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(trained_digits.shipped(name))
        with safe_open(path, framework="numpy") as file:
            assert {file.get_tensor(n).dtype for n in file.keys()} == {np.dtype(ml_dtypes.bfloat16)}  # noqa: SIM118
            assert json.loads(file.metadata()["config"])["channels"] == list(config.channels)


def test_seeds_are_different_and_a_new_one_lies_as_students_t_says(monkeypatch):
    assert len(set(unet_training.shipped_losses().tolist())) == 3
    monkeypatch.setattr(unet_training, "shipped_losses", lambda: np.array([1.0, 2.0, 3.0]))
    # 31.599: the 0.9995 quantile of 2 degrees of freedom, from tables
    assert unet_training.tolerance() == pytest.approx(31.599 * np.sqrt(4 / 3), rel=1e-4)


def test_files_of_others_are_no_unets(tmp_path, monkeypatch):
    path = tmp_path / "unet-s0.safetensors"
    checkpoint_files.write(path, {"a": np.ones(3, np.float32)}, {})
    with pytest.raises(ValueError, match="no metadata of a trained UNet"):
        trained_digits.read(path)
    path.rename(tmp_path / "unet-s0.halves")
    monkeypatch.setattr(trained_digits, "FOLDER", tmp_path)
    for name in ("unet-s0", "unet-s1"):
        with pytest.raises(ValueError, match="missing, or not the file that was shipped"):
            trained_digits.load(name)
