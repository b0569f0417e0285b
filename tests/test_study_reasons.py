"""Reasons taken away: norms that correct nothing, errors along the input, errors of uniform weights."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.lab import study
from quantsim.measure import error_stats
from quantsim.populations import Uniform
from quantsim.quantizer import parse
from quantsim.rows import Rows

reasons = study.module("reasons")
language = sys.modules["quantsim.studies._language"]

WIDTH = 32


@pytest.fixture(scope="module")
def subject():
    return language.subject("lm-w32-s0", 2)


def embeddings_times(subject, factor):
    return subject.params | {"token_embd": factor * subject.params["token_embd"]}


def test_norms_that_meet_what_they_met_change_nothing(subject):
    found = reasons.without_norms(subject, subject.params)
    np.testing.assert_allclose(found.kl, 0.0, atol=1e-10)


def test_an_error_along_the_input_is_all_that_a_norm_takes_away(subject):
    """The residual stream scaled as a whole: with live norms logits stay, with the ones that were met they scale."""
    names = [name for name in language.layers(subject.params) if name.endswith(("attn_output", "ffn_down"))]
    scaled = embeddings_times(subject, 1.01) | {name: 1.01 * subject.params[name] for name in names}
    live = language.damage(subject, scaled).kl
    met = reasons.without_norms(subject, scaled).kl
    assert live.mean() < 1e-8  # epsilon is all that a norm sees of it
    assert met.mean() > 100 * live.mean()


def test_the_share_along_the_input_is_one_for_a_scaled_stream_and_small_for_noise(subject, monkeypatch):
    names = [name for name in language.layers(subject.params) if name.endswith(("attn_output", "ffn_down"))]
    scaled = embeddings_times(subject, 1.01) | {name: 1.01 * subject.params[name] for name in names}
    monkeypatch.setattr(reasons, "in_format", lambda of, spec: scaled)
    assert reasons.along_the_input(subject).value == pytest.approx(1.0, abs=1e-3)
    unrelated = jax.random.normal(jax.random.key(0), subject.params["token_embd"].shape)
    noisy = subject.params | {"token_embd": subject.params["token_embd"] + 1e-3 * unrelated}
    monkeypatch.setattr(reasons, "in_format", lambda of, spec: noisy)
    assert reasons.along_the_input(subject).value < 8 / WIDTH


def test_errors_of_uniform_weights_are_those_of_drawn_ones(subject):
    name = "blk.0.ffn_up"
    shape = subject.params[name].shape
    found = [
        error_stats(w, parse(reasons.INT8).roundtrip(w)).rel_rms
        for w in (Uniform().sample(jax.random.key(k), (16 * shape[0], shape[1])) for k in range(4))
    ]
    se = np.std(found, ddof=1) / 2
    assert abs(np.mean(found) - reasons.uniform_errors(subject.params)[name]) < 4 * se + 1e-5


def test_a_reason_counts_if_its_lack_clearly_doubles_the_damage():
    def row(factor, se):
        return {"reason": "LayerNorm", "factor": factor, "factor_se": se}

    assert [reasons.doubles(row(*case)) for case in ((2.5, 0.1), (2.5, 0.2), (1.9, 0.0), (0.3, 0.1))] == [
        True,
        False,
        False,
        False,
    ]
    along = {"reason": reasons.ALONG, "along": 0.1}
    assert reasons.core_reasons(Rows([row(3.0, 0.1), row(1.0, 0.1), along])) == 0.5


def test_reasons_are_taken_from_the_same_function():
    of = language.subject("lm-w32-s0", 2)
    far = reasons.with_outlier(of)
    moved = language.damage(of, far.params).kl
    assert float(jnp.max(jnp.abs(jnp.asarray(moved)))) < 1e-10
    assert max(float(jnp.max(jnp.abs(far.params[n] - of.params[n]))) for n in language.layers(of.params)) > 1
