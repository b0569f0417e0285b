"""What the study of widths reckons with: noise in products, shuffled weights, its rules; what small models share."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.lab import study
from quantsim.models import trained
from quantsim.quantizer import parse
from quantsim.rows import Rows

width = study.module("width")
language = sys.modules["quantsim.studies._language"]


def power_of_noise(w, x):
    return width.power_of_noise(jnp.asarray(w), jnp.asarray(x))


def test_the_power_of_noise_is_that_of_white_errors_in_products():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(1, 64))
    x, w = rng.normal(size=(200, 64)) + common, rng.normal(size=(40, 64)) + common  # inputs and weights share a part
    ratios = []
    for _ in range(400):
        e = rng.normal(size=w.shape)
        ratios.append(np.sum((x @ e.T) ** 2) / np.sum((x @ w.T) ** 2) * np.sum(w**2) / np.sum(e**2))
    found, se = np.mean(ratios), np.std(ratios, ddof=1) / np.sqrt(len(ratios))
    assert found < 0.2, "here the weights know of the inputs"
    assert power_of_noise(w, x) == pytest.approx(found, abs=4 * se)


def test_the_power_of_noise_between_its_extremes():
    rng = np.random.default_rng(1)
    v = rng.normal(size=(1, 48))
    assert power_of_noise(rng.normal(size=(5, 1)) * v, v) == pytest.approx(1 / 48), "all weights along the input"
    unknowing = [power_of_noise(rng.normal(size=(64, 48)), rng.normal(size=(256, 48))) for _ in range(20)]
    assert np.mean(unknowing) == pytest.approx(1, abs=4 * np.std(unknowing) / np.sqrt(19))


def test_shuffled_weights_are_the_same_numbers():
    params = {"token_embd": jnp.arange(6.0).reshape(3, 2), "blk.0.attn_q": jnp.arange(64.0).reshape(8, 8)}
    found = width.shuffled(params | {"blk.0.attn_norm": jnp.ones(8)}, 0)
    assert np.array_equal(np.sort(found["blk.0.attn_q"], axis=None), np.arange(64))
    assert not np.array_equal(found["blk.0.attn_q"], params["blk.0.attn_q"])
    assert found["token_embd"] is params["token_embd"]
    assert np.array_equal(found["blk.0.attn_norm"], np.ones(8))


def test_outliers_of_a_matrix_with_one():
    w = np.ones((20, 20), np.float32)
    w[3, 4] = 40.0
    found = width.outliers({"w": jnp.asarray(w)})
    rms = np.sqrt((399 + 1600) / 400)
    assert found["crest"] == pytest.approx(40 / rms)
    assert (found["beyond"], found["beyond_6"]) == (1 / 400, 1 / 400)


# --- the rules ------------------------------------------------------------------------------------------------------


def model(weights, **more):
    return {"kind": "model", "training": 0, "weights": weights} | more


def test_a_power_law_gives_its_factor_of_a_tenfold():
    law = Rows(model(n, beyond=0.001 * n**0.78) for n in (100, 400, 1600, 6400))
    found = width.density_of_tenfold(law)
    assert found.value == pytest.approx(10**0.78)
    assert found.se == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("crests", "kls", "share"), [((3, 4, 5), (1, 2, 3), 1.0), ((3, 4, 5), (3, 2, 1), 0.75)])
def test_links_are_counted_for_each_pair_of_widths(crests, kls, share):
    rows = [model(n, beyond=n / 1e3, crest=c) for n, c in zip((1, 2, 3), crests, strict=True)]
    errors = [
        {"kind": "format", "spec": "int8:tensor", "training": 0, "rel_rms": c, "kl": k}
        for c, k in zip(crests, kls, strict=True)
    ]
    assert width.links_that_hold(Rows(rows + errors)) == share


def test_a_wider_model_must_clearly_lose_less():
    def rows(*kls):
        about = {"kind": "format", "training": 0, "spec": "q8_0", "kl_se": 0.1}
        return Rows(about | {"weights": n, "kl": kl} for n, kl in enumerate(kls))

    assert width.robust_by_width(rows(3.0, 2.0, 1.0)) == 1
    assert width.robust_by_width(rows(3.0, 2.9, 1.0)) == 0.5  # 0.1 is within 3 · 0.1 · √2
    assert width.robust_by_width(rows(1.0, 2.0, 3.0)) == 0


# --- what small models share ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["int8:channel", "int4:block32"])
def test_normal_errors_are_those_of_normal_weights(spec):
    draws = jax.random.normal(jax.random.key(0), (8, 64, 64))
    errors = [language.relative_error(w, parse(spec).roundtrip(w)) for w in draws]
    se = np.std(errors, ddof=1) / np.sqrt(len(errors))
    assert language.normal_error(spec, draws[0]) == pytest.approx(np.mean(errors), abs=5 * se)


def test_small_noise_costs_its_square():
    of = language.subject(trained.name_of(32, 0), 2)
    kls = [language.layers_noise(of, size, [0]).value for size in (0.002, 0.004)]
    assert kls[1] / kls[0] == pytest.approx(4, rel=0.02)  # the next term is of relative size r²S, or r · a sum of signs


def test_noise_like_errors_has_their_size_in_every_row():
    of = language.subject("lm-w32-s0", 2)
    name = "blk.0.ffn_up"
    sizes = jnp.linspace(0.0, 1.0, of.params[name].shape[0])[:, None]
    changed = of.params | {name: of.params[name] + sizes}
    rows = [language.noise_like(of.params, changed, seed)[name] - of.params[name] for seed in range(40)]
    found = np.sqrt(np.mean(np.square(np.asarray(rows, np.float64)), axis=(0, 2)))
    # 40 × 32 normal squares a row: 5 standard errors of the root are 10 %
    np.testing.assert_allclose(found, np.asarray(sizes)[:, 0], rtol=0.1, atol=1e-6)
