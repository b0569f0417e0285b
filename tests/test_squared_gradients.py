"""Squared gradients: a closed form, and the divergence that they predict of the shipped language model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import quantsim as qs
from quantsim.checkpoints import CheckpointError
from quantsim.cli.commands import main
from quantsim.inspection import gradients
from quantsim.models import checkpoint_files, likelihood, llama, text, trained
from quantsim.models.squared_gradients import squared_gradients

DRAWS = 4000


def test_the_diagonal_of_fishers_information_of_a_softmax():
    """Logits W x of one-hot tokens: F of W[k, t] is p_k (1 - p_k) times how often token t stands there."""
    w = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    tokens = np.array([[0, 1, 2, 1, 0, 2, 2]])

    def forward(params, tokens):
        return params["w"].T[tokens]

    found = squared_gradients(forward, {"w": jnp.asarray(w), "b": jnp.zeros(3)}, tokens, jax.random.key(0), draws=DRAWS)
    assert set(found) == {"w"}
    p = np.exp(w) / np.exp(w).sum(axis=0)
    counts = np.bincount(tokens[0, :-1], minlength=3)
    # a gradient sums the scores of all places of a token; scores of different places are uncorrelated
    expected = p * (1 - p) * counts / 6
    # the square of a sum of scores within (-counts, counts) has a variance below its mean times counts^2
    assert_allclose(found["w"], expected, atol=4 * np.sqrt(expected.max() * counts.max() ** 2 / 6 / DRAWS))


@pytest.fixture(scope="module")
def model():
    return trained.load("lm-w64-s0")


def test_they_predict_the_divergence_of_each_matrix(model, tmp_path):
    params, config, _ = model
    path = tmp_path / "lm-w64-s0.safetensors"
    path.write_bytes(trained.shipped("lm-w64-s0"))
    found = gradients.gradients_of(path, texts=16, length=config.context)
    held_out = jnp.asarray(text.held_out(config.context)[::9])
    forward = jax.jit(lambda p: llama.forward(p, held_out[:, :-1], config))
    reference, targets, q = forward(params), held_out[:, 1:], qs.parse("int4:channel")
    measured, predicted = [], []
    for name, squares in found.items():
        if not name.startswith("blk."):
            continue
        w_hat = q.roundtrip(params[name])
        e = np.asarray(w_hat, np.float64) - np.asarray(params[name])
        predicted.append((squares * e * e).sum() / 2)
        compared = likelihood.compared(reference, forward(params | {name: w_hat}), targets)
        measured.append(float(np.asarray(compared.kl).mean()))
    assert stats.spearmanr(predicted, measured).statistic > 0.75  # what the budget of inspect asks of the real model
    # errors of one matrix are taken as uncorrelated: their sum over 42 matrices is within a factor that a common part
    # of a few per cent of each error's power would make
    assert 0.5 < np.sum(predicted) / np.sum(measured) < 2


def test_the_command_writes_what_inspect_reads(tmp_path, capsys):
    path, out = tmp_path / "lm-w32-s0.safetensors", tmp_path / "gradients.safetensors"
    path.write_bytes(trained.shipped("lm-w32-s0"))
    main(["gradients", str(path), str(out), "--texts", "1", "--length", "17"])
    assert "44 matrices" in capsys.readouterr().err
    arrays, metadata = checkpoint_files.read(out)
    assert metadata["texts"] == 1
    assert arrays["blk.0.attn_q"].shape == (32, 32)
    assert (arrays["blk.0.attn_q"] >= 0).all()


def test_a_model_that_cannot_be_run(tmp_path):
    checkpoint_files.write(tmp_path / "w.safetensors", {"w": np.ones((2, 2), np.float32)}, {})
    with pytest.raises(CheckpointError, match="its own framework"):
        gradients.gradients_of(tmp_path / "w.safetensors")
