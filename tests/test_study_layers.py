"""What `layers` and `layer_policies` measure with: parts of a sum over layers, ranks, shares of weights, attention."""

import numpy as np
import pytest

from quantsim.lab import study
from quantsim.models import llama
from quantsim.rows import Rows

layers, policies = study.module("layers"), study.module("layer_policies")
language = layers.language
NAME = "lm-w32-s0"


@pytest.mark.parametrize(
    ("by_layer", "part", "expected"),
    [
        ([1, 1, 1, 1, 1, 1], 1 / 3, 1 / 3),
        ([0, 0, 0, 0, 0, 1], 1 / 5, 1.0),
        ([1, 0, 0, 0, 0, 0], 1 / 3, 0.0),
        ([0, 0, 0, 0, 1, 0], 1 / 5, 0.2),  # a fifth of six layers takes in 0.2 of the fifth layer
        ([0, 0, 0], 1 / 3, 0.0),
    ],
)
def test_part_from(by_layer, part, expected):
    assert layers.part_from(np.array(by_layer, float), part) == pytest.approx(expected)


def test_part_from_of_no_layer_is_no_number():
    assert np.isnan(layers.part_from(np.array([]), 1 / 3))


def test_spread_of_known_numbers():
    values = np.zeros(1000)
    values[0], values[1:5] = 20.0, 1.0
    rms = np.sqrt((400 + 4) / 1000)
    found = layers.spread("w", values)
    assert found["w_max"] == pytest.approx(20 / rms)
    assert found["w_kurtosis"] == pytest.approx((160000 + 4) / 1000 / rms**4)
    assert (found["w_beyond_3"], found["w_beyond_10"]) == (0.001, 0.001)


def test_a_ranking_as_stated_is_found_and_its_reverse_is_not():
    def rows(sign):
        columns = ("w_max", "w_kurtosis", "int8:tensor kl", "int4:channel kl")
        values = {kind: 10.0 - sign * rank for kind, rank in layers.STATED_RANK.items()}
        return Rows(
            {"kind": "matrix", "model": "m", "type": kind} | dict.fromkeys(columns, values[kind])
            for kind in layers.TYPES
        )

    assert layers.ranked_as_stated(rows(1)) == 1.0
    assert layers.ranked_as_stated(rows(-1)) == 0.0


def test_attention_that_is_even_attracts_nothing():
    of = language.subject(NAME, 2)
    blind = of.params | {name: 0 * w for name, w in of.params.items() if name.endswith("attn_q")}
    np.testing.assert_allclose(policies.most_attended(of._replace(params=blind)), 1.0, rtol=1e-5)


def test_attention_maps_are_those_of_the_model():
    of = language.subject(NAME, 2)
    tokens = of.tokens[:1, :12]
    p = np.asarray(policies.attention_maps(of.params, tokens, of.config, 0))[0]
    assert p.sum(axis=-1) == pytest.approx(np.ones(p.shape[:2]), rel=1e-5)
    assert np.triu(p, 1).max() == 0
    # the model's own mixture of values, from these maps
    seen = {}

    def observing(name, x, w):
        seen[name] = (np.asarray(x, np.float64), np.asarray(w, np.float64))
        return llama.linear(name, x, w)

    llama.forward(of.params, tokens, of.config, product=observing)
    x, w = seen["blk.0.attn_v"]
    values = (x[0] @ w.T).reshape(12, of.config.kv_heads, of.config.head).repeat(of.config.group, axis=1)
    mixed = np.einsum("hts,shd->thd", p, values).reshape(12, -1)
    np.testing.assert_allclose(seen["blk.0.attn_output"][0][0], mixed, rtol=0, atol=1e-5)


def test_layers_that_are_kept_are_left_and_all_others_quantized():
    found = language.quantized(language.subject(NAME, 2), policies.keeping(range(4, 6), "int8:tensor"))
    layers_of = {name.split(".")[1] for name in found.quantizers}
    assert layers_of == {"0", "1", "2", "3"}
    assert set(found.quantizers.values()) == {"int8:tensor"}
