"""Policies over a small network: who gets what, what it stores, and that a quantized forward pass is the one meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim import mitigations, tree
from quantsim.quantizer import blockformats
from quantsim.tree import PolicyError, Treatment
from quantsim.tree.quantized import FALLBACKS, fitting

RNG = np.random.default_rng(0)
WIDTH, HIDDEN, TOKENS = 32, 64, 24


def params():
    def matrix(out, into):
        return jnp.asarray(RNG.normal(size=(out, into)) / np.sqrt(into), jnp.float32)

    names = {"attn_q": (WIDTH, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
    found = {f"blk.{layer}.{name}": matrix(*shape) for layer in range(3) for name, shape in names.items()}
    found |= {f"blk.{layer}.ffn_norm": jnp.ones(WIDTH) for layer in range(3)}
    return {"token_embd": matrix(16, WIDTH), **found, "output": matrix(16, WIDTH)}


PARAMS = params()
IDS = jnp.asarray(RNG.integers(0, 16, (2, TOKENS // 2)))


def forward(params, product):
    h = params["token_embd"][IDS]
    for layer in range(3):
        at = f"blk.{layer}."
        h = h + product(at + "attn_q", h * params[at + "ffn_norm"][None, None], params[at + "attn_q"])
        h = h + product(at + "ffn_down", product(at + "ffn_up", h, params[at + "ffn_up"]), params[at + "ffn_down"])
    return product("output", h, params["output"])


@pytest.fixture(scope="module")
def inputs():
    return tree.site_inputs(forward, PARAMS)


def test_first_pattern_decides():
    found = tree.policy({"blk.1.*": "int8:channel", "*.ffn_*": None, "*": "int4:block32"})
    assert str(found.treatment("blk.1.ffn_up")) == "int8:channel"
    assert str(found.treatment("blk.0.ffn_up")) == "as it is"
    assert str(found.treatment("output")) == "int4:block32"


def test_weights_are_those_of_the_quantizer_and_vectors_are_left():
    found = tree.quantize(PARAMS, {"blk.*": "int4:block32", "output": "q8_0"})
    for name, w in PARAMS.items():
        spec = {"output": "q8_0", "token_embd": None}.get(name, "int4:block32")
        same = w if spec is None or w.ndim == 1 else qs.parse(spec).roundtrip(w)
        np.testing.assert_array_equal(found.params[name], same)
    assert set(found.quantizers) == {n for n in PARAMS if n != "token_embd" and not n.endswith("norm")}


def test_bits_are_all_that_is_stored():
    found = tree.quantize(PARAMS, {"blk.*": "int4:block32:absmax:f16", "output": "q8_0"})
    in_layers = 3 * (WIDTH * WIDTH + 2 * WIDTH * HIDDEN)
    table = 16 * WIDTH
    assert found.bits_per_weight == pytest.approx(
        (4.5 * in_layers + 8.5 * table + 16 * table) / (in_layers + 2 * table)
    )
    assert found.bits_of("output", "token_embd") == pytest.approx((8.5 + 16) / 2)


def test_sites_see_what_the_layers_multiply(inputs):
    assert inputs["output"].shape == (TOKENS, WIDTH)
    up = inputs["blk.2.ffn_up"] @ PARAMS["blk.2.ffn_up"].T
    np.testing.assert_allclose(inputs["blk.2.ffn_down"], up, rtol=1e-5, atol=1e-5)
    assert "token_embd" not in inputs


def test_quantized_inputs_are_those_of_the_layer_alone(inputs):
    found = tree.quantize(PARAMS, {"blk.0.attn_q": Treatment("int8:channel", "int8:channel")})
    x = inputs["blk.0.attn_q"]
    y = tree.product("blk.0.attn_q", x.reshape(2, -1, WIDTH), found.params["blk.0.attn_q"])
    q = qs.parse("int8:channel")
    expected = np.asarray(q.roundtrip(x), np.float64) @ np.asarray(q.roundtrip(PARAMS["blk.0.attn_q"]), np.float64).T
    np.testing.assert_allclose(y.reshape(TOKENS, -1), expected, rtol=0, atol=1e-5)


def test_only_activations(inputs):
    found = tree.quantize(PARAMS, {"output": Treatment(activations="int4:channel")})
    y = tree.product("output", inputs["output"], found.params["output"])
    np.testing.assert_allclose(
        y, qs.parse("int4:channel").roundtrip(inputs["output"]) @ PARAMS["output"].T, rtol=0, atol=1e-5
    )
    assert found.bits["output"] == 16


def test_a_static_scale_is_that_of_its_calibration(inputs):
    treatment = Treatment("int8:channel", "int8:tensor", static=True)
    found = tree.quantize(PARAMS, {"output": treatment}, inputs=inputs)
    frozen = found.params["output"].frozen
    assert float(frozen.scale) == pytest.approx(float(jnp.max(jnp.abs(inputs["output"]))) / 127, rel=1e-6)


@pytest.mark.parametrize("remedy", ["smoothquant", "gptq", "llm_int8"])
def test_mitigations_act_as_on_the_layer_alone(remedy, inputs):
    name = "blk.1.ffn_down"
    found = tree.quantize(PARAMS, {name: Treatment("int4:channel", "int8:channel", remedy)}, inputs=inputs)
    alone = mitigations.parse(remedy).apply(mitigations.Layer(PARAMS[name], inputs[name]), "int4:channel")
    y = tree.product(name, inputs[name], found.params[name])
    np.testing.assert_array_equal(y, alone.outputs(inputs[name], "int8:channel"))
    assert found.bits[name] == alone.bits_per_weight("int4:channel")


def test_a_forward_pass_is_compiled_once_for_all_quantizers_of_weights():
    traces = []

    @jax.jit
    def run(params):
        traces.append(1)
        return forward(params, tree.product)

    for spec in ("int8:channel", "int4:block32", "q4_0"):
        run(tree.quantize(PARAMS, spec).params)
    assert len(traces) == 1


def test_f32_changes_nothing(inputs):
    same = forward(tree.quantize(PARAMS, "f32").params, tree.product)
    np.testing.assert_array_equal(same, forward(PARAMS, tree.product))


def test_stochastic_rounding_differs_between_tensors_and_repeats_with_its_key():
    one = {"blk.0.attn_q": PARAMS["blk.0.attn_q"], "blk.1.attn_q": PARAMS["blk.0.attn_q"]}
    key = qs.populations.key(0)
    first, again = (tree.quantize(one, "int4:channel:stochastic", key=key).params for _ in range(2))
    np.testing.assert_array_equal(first["blk.0.attn_q"], again["blk.0.attn_q"])
    assert not np.array_equal(first["blk.0.attn_q"], first["blk.1.attn_q"])


#: ``llama_tensor_get_type`` of llama.cpp: what it stores where rows are not multiples of 256.
IN_LLAMA_CPP = {
    "iq4_nl": ("q2_k", "q3_k", "iq4_xs", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"),
    "q5_0": ("q4_k",),
    "q5_1": ("q5_k",),
    "q8_0": ("q6_k",),
    "q4_0": ("tq1_0", "tq2_0"),
}


@pytest.mark.parametrize(("smaller", "spec"), [(to, spec) for to, specs in IN_LLAMA_CPP.items() for spec in specs])
def test_rows_that_blocks_do_not_fill_fall_back_as_in_llama_cpp(smaller, spec):
    q = qs.parse(spec)
    assert [str(fitting(q, width)) for width in (640, 32, 24, 512)] == [smaller, smaller, "f16", spec]


def test_every_type_of_256_weights_falls_back():
    large = {name for name, q in blockformats.SPECS.items() if getattr(q, "size", 0) == 256}
    assert set(FALLBACKS) == large == {spec for specs in IN_LLAMA_CPP.values() for spec in specs}


def test_documents_strategy():
    found = tree.documents_strategy()
    words = {
        name: str(found.treatment(f"blk.0.{name}")) for name in ("attn_q", "attn_k", "attn_v", "ffn_up", "ffn_gate")
    }
    assert words["attn_q"] == words["attn_k"] == "int8:tensor + split_outliers(by=share,share=0.1)"
    assert words["attn_v"] == words["ffn_up"] == "int8:channel"
    assert words["ffn_gate"] == "int8:tensor"


def test_precision_by_depth():
    found = tree.progressive(6, "int4:block32", "int8:channel", share=0.5)
    specs = [str(found.treatment(f"blk.{layer}.ffn_up")) for layer in range(6)]
    assert specs == ["int4:block32"] * 3 + ["int8:channel"] * 3


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"blk.7.*": "int8:channel"}, r"'blk\.7\.\*' matches no matrix; there are blk"),
        ({"*": "int8:channel", "output": "q8_0"}, "'output'.* taken by patterns before it"),
        ({"*norm": "int8:channel"}, "matches no matrix"),
        ({"output": Treatment("int8:channel", mitigation="gptq")}, r"calibrated on inputs: pass inputs=site_inputs"),
        ({"output": Treatment("int8:channel", "int8:tensor", static=True)}, "calibrated on inputs"),
        ({}, "a policy has a rule"),
    ],
)
def test_a_policy_that_does_not_fit_says_so(rules, words):
    with pytest.raises(PolicyError, match=words):
        tree.quantize(PARAMS, rules)


def test_a_matrix_that_its_quantizer_refuses_is_named():
    with pytest.raises(PolicyError, match=r"odd \(4, 33\) cannot be quantized as q8_0: .* multiple"):
        tree.quantize({"odd": jnp.ones((4, 33))}, "q8_0")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"mitigation": "gptq"}, "needs a quantizer of the weights"),
        ({"static": True}, "needs a quantizer of the activations"),
        ({"weights": "int9:blok32"}, "did you mean"),
        ({"weights": "int8:channel", "mitigation": "gptr"}, "did you mean 'gptq'"),
    ],
)
def test_a_treatment_of_nothing_is_refused(parts, words):
    with pytest.raises(ValueError, match=words):
        Treatment(**parts)


def test_a_share_of_layers_beyond_all_is_refused():
    with pytest.raises(PolicyError, match=r"within \[0, 1\], got 1.5"):
        tree.progressive(4, "int8:channel", "bf16", share=1.5)
