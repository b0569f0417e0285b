"""Training: it learns, it can be stopped anywhere, and its text leaks nothing of what is held out."""

import json
from collections import Counter
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.models import checkpoint_files, resuming, steps, text, trained, training
from quantsim.models.llama import Config
from quantsim.models.steps import Recipe
from tests import oracle_llama

TINY = Config(width=16, layers=1, heads=2, kv_heads=1, hidden=32, context=16)
RECIPE = Recipe(steps=60, batch=4, rate=1e-2, warmup=10, config=TINY)
DATA = np.frombuffer(b"the cat sat on the mat; " * 20, np.uint8)


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def straight():
    """Parameters and losses of a training that nothing interrupts."""
    losses = []
    params = training.train(RECIPE, data=DATA, report=lambda done, total, loss: losses.append((done, total, loss)))
    return params, losses


def test_the_loss_falls_from_an_even_guess(straight):
    _, losses = straight
    assert [done for done, _, _ in losses] == list(range(1, 61))
    assert {total for _, total, _ in losses} == {60}
    found = np.array([loss for *_, loss in losses])
    assert found[0] == pytest.approx(np.log(256), abs=0.1)
    assert found[-10:].mean() < 0.5 * found[0]


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(straight, tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "_EVERY", 7)

    def stop(at):
        def report(done, total, loss):
            seen.append(done)
            if done == at:
                raise StoppedError

        return report

    for at in (5, 30, 31):  # before anything is kept, and after
        seen = []
        with pytest.raises(StoppedError):
            training.train(RECIPE, tmp_path, data=DATA, report=stop(at))
    assert seen[0] == 29, "28 steps were kept"
    params = training.train(RECIPE, tmp_path, data=DATA)
    for name, expected in straight[0].items():
        np.testing.assert_array_equal(params[name], expected, err_msg=name)
    again = training.train(RECIPE, tmp_path, data=DATA, report=stop(1))  # takes no step
    assert all((again[name] == params[name]).all() for name in params)


def test_a_loss_that_is_no_number_ends_a_training(monkeypatch):
    monkeypatch.setattr(steps, "step", lambda state, *_: (state, jnp.float32(jnp.nan)))
    with pytest.raises(FloatingPointError, match=r"the loss of step 0 is nan: lower the rate, now 0\.01"):
        training.train(RECIPE, data=DATA)


def test_another_training_is_not_gone_on_with(tmp_path):
    training.train(RECIPE, tmp_path, data=DATA)
    with pytest.raises(ValueError, match=r"state\.safetensors is of another training: name another folder, or remove"):
        training.train(RECIPE, tmp_path, data=DATA[:-1])
    with pytest.raises(ValueError, match="is of another training"):
        training.train(replace(RECIPE, seed=1), tmp_path, data=DATA)
    (tmp_path / "state.safetensors").write_bytes(b"\0" * 50)
    with pytest.raises(ValueError, match="damaged"):
        training.train(RECIPE, tmp_path, data=DATA)


def test_batches_are_pieces_of_the_data_of_another_place_each_step():
    data = jnp.arange(200, dtype=jnp.uint8)
    drawn = [np.asarray(steps.batch(jnp.int32(n), data, RECIPE)) for n in (0, 0, 1)]
    assert drawn[0].shape == (4, 17)
    assert (np.diff(drawn[0]) == 1).all()
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    starts = np.concatenate([np.asarray(steps.batch(jnp.int32(n), data[:20], RECIPE))[:, 0] for n in range(20)])
    assert set(starts.tolist()) == {0, 1, 2, 3}


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="16 bytes hold no sequence of 16 tokens"):
        training.train(RECIPE, data=DATA[:16])
    with pytest.raises(ValueError, match="at least one step of one sequence, got 0 of 8"):
        Recipe(steps=0)
    with pytest.raises(ValueError, match="a seed lies between"):
        Recipe(seed=-1)
    with pytest.raises(ValueError, match="multiple of 32, the width of its heads, got 48"):
        training.recipe_of(48)


def test_the_loss_of_sequences_does_not_depend_on_what_fills_the_last_batch(straight):
    sequences = np.random.default_rng(0).integers(0, 256, (5, 17)).astype(np.int32)
    found = training.sequence_losses(straight[0], TINY, sequences)
    for each, loss in zip(sequences, found, strict=True):
        logits = oracle_llama.logits(straight[0], each[:-1], TINY)
        assert loss == pytest.approx(oracle_llama.nll(logits, each[1:]).mean(), rel=1e-5)


def test_a_trained_model_is_written_with_what_it_reached(straight, tmp_path, monkeypatch):
    some = text.held_out(TINY.context)[:40]
    monkeypatch.setattr(text, "held_out", lambda context: some)
    model = training.save(straight[0], RECIPE, tmp_path / "new" / "m.safetensors")
    assert model.config == TINY
    for name, w in straight[0].items():
        assert (np.abs(model.params[name] - w) <= 2**-8 * np.abs(w)).all()
    about = model.metadata
    assert (about["loss"], about["loss_se"]) == pytest.approx(training.held_out_loss(model.params, TINY))
    assert (about["loss_before"], about["loss_before_se"]) == pytest.approx(training.held_out_loss(straight[0], TINY))
    assert about["seed"] == 0
    assert about["text"] == text.digest()
    assert not list(tmp_path.glob("**/*.tmp"))


def test_files_of_others_are_no_trained_models(tmp_path):
    path = tmp_path / "other.safetensors"
    checkpoint_files.write(path, {"a": np.ones(3, np.float32)}, {})
    with pytest.raises(ValueError, match="no metadata of a trained model"):
        trained.read(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="damaged"):
        trained.read(path)
    with pytest.raises(ValueError, match="missing"):
        trained.read(tmp_path / "none.safetensors")


# --- the text -------------------------------------------------------------------------------------------------------


def test_no_paragraph_that_is_held_out_is_trained_on():
    held = [t for name, t in text.topics().items() if text.is_held_out(name)]
    assert 0.05 < sum(map(len, held)) / sum(map(len, text.topics().values())) < 0.2
    trained_on = text.training_bytes().tobytes()
    of_held = {p for t in held for p in t.split(b"\n\n")}
    assert len(of_held) > 100
    assert not of_held & set(trained_on.split(b"\n\n"))
    # blank lines aside, which tell a few apart
    lines = {line.strip() for t in held for line in t.split(b"\n") if len(line.strip()) > 40}
    leaked = lines & {line.strip() for line in trained_on.split(b"\n")}
    assert sum(map(len, leaked)) < 0.02 * sum(map(len, lines))
    found = Counter(trained_on.split(b"\n\n"))
    assert sum(len(p) * (number - 1) for p, number in found.items()) < 0.02 * len(trained_on), (
        "much is trained on twice"
    )


def test_sequences_predict_every_token_but_the_first_of_a_topic():
    sequences = text.held_out(100)
    assert (sequences.dtype, sequences.shape[1]) == (np.int32, 101)
    at = 0
    for name, topic in text.topics().items():
        if text.is_held_out(name):
            number = (len(topic) - 1) // 100
            mine = sequences[at : at + number]
            assert bytes([mine[0, 0], *mine[:, 1:].ravel()]) == topic[: 100 * number + 1]
            at += number
    assert at == len(sequences)
    with pytest.raises(ValueError, match="no topic that is held out has 1000000 tokens"):
        text.held_out(10**6)
    assert len(json.dumps(text.digest())) == 66
