"""One contract over every mitigation and a few quantizers. A new one registers itself in CASES or the tests fail.

What is stored is counted anew from the facts of each mitigation, in ``STORED``. The theorems of each are in
test_mitigation_theorems.py.
"""

from math import ceil, log2

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.mitigations import FUNCTIONS, Layer, Mitigation, parse
from quantsim.mitigations.registry import ON_HOST, defaults
from tests.test_gptq import equations
from tests.test_products import HALF_ULP, wide

TOKENS, FAN_IN, OUT, BATCH = 24, 64, 16, 2
QUANTIZERS = ["int8:channel", "int4:block32", "nf4:block64", "q4_0"]
KEY = jax.random.key(5)

#: Specs of each mitigation. The first is crossed with all quantizers, the others with one.
CASES = {
    "smoothquant": ["smoothquant", "smoothquant(alpha=0.0)", "smoothquant(alpha=1.0)"],
    "rotation": [
        "rotation",
        "rotation(kind=regular,block=16)",
        "rotation(kind=random,block=32)",
        "rotation(signs=random)",
    ],
    "llm_int8": ["llm_int8", "llm_int8(threshold=3.5,weights=dequantized)", "llm_int8(threshold=inf)"],
    "split_outliers": ["split_outliers", "split_outliers(by=share,share=0.05)"],
    "cluster_outliers": ["cluster_outliers"],
    "clip": ["clip", "clip(by=outputs,steps=8)", "clip(by=percentile,p=99.0)"],
    "low_rank": ["low_rank(rank=1)", "low_rank(rank=1,of=residual)"],
    "bias_correction": ["bias_correction"],
    "stochastic_rounding": ["stochastic_rounding"],
    "straight_through": ["straight_through(steps=20)"],
    "gptq": ["gptq", "gptq(ordering=activation)", "gptq(ordering=activation,scales=static,damping=0.1)"],
    "awq": ["awq(ratios=5)", "awq(ratios=5,weight_term=mean)"],
}
SPECS = [spec for specs in CASES.values() for spec in specs]
#: Where outputs change though nothing is quantized, and why.
CHANGES_OUTPUTS = {
    "llm_int8": "weights of outlier columns are float16",
    "llm_int8(threshold=3.5,weights=dequantized)": None,
    "llm_int8(threshold=inf)": None,
    "split_outliers": "outliers are float16",
    "split_outliers(by=share,share=0.05)": "outliers are float16",
    "clip(by=percentile,p=99.0)": "weights beyond the percentile are cut off whatever comes after",
}
#: Mitigations that no program has for a quantizer, and what they say.
REFUSED = {
    ("stochastic_rounding", "nf4:block64"): "rounds to the nearest level only",
    ("stochastic_rounding", "q4_0"): "not the block format q4_0",
    ("gptq", "q4_0"): "takes scaled elements",
}


def layer_of(seed=0, tokens=TOKENS, out=OUT):
    """A layer with an outlier in the weights and one in the inputs, and inputs that are not centred."""
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((out, FAN_IN)), rng.standard_normal((tokens, FAN_IN)) + 0.5
    w[0, 5], x[:, 7] = 20, x[:, 7] * 30
    return Layer(w.astype(np.float32), x.astype(np.float32))


LAYER = layer_of()


def quantizers_of(spec):
    return QUANTIZERS if spec in {specs[0] for specs in CASES.values()} else QUANTIZERS[1:2]


PAIRS = [(spec, q) for spec in SPECS for q in quantizers_of(spec) if (spec, q) not in REFUSED]


def exact_outputs(layer):
    return wide(layer.inputs) @ wide(layer.weights).T


def leaves_equal(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_mitigation_has_its_place_in_the_contract():
    assert CASES.keys() == FUNCTIONS.keys() == STORED.keys()
    for name, specs in CASES.items():
        assert {parse(spec).name for spec in specs} == {name}
    assert CHANGES_OUTPUTS.keys() <= set(SPECS)
    assert {spec for spec, _ in REFUSED} <= set(SPECS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_option_can_be_written_in_a_spec_and_read_back(name):
    given = tuple((k, v) for k, v in defaults(name).items() if k != "key")
    for options in ((), given, given[:1]):
        m = Mitigation(name, options)
        assert parse(str(m)) == m == parse(m)
        assert hash(m) == hash(parse(str(m)))


@pytest.mark.parametrize("spec", SPECS)
def test_specs_are_read_back(spec):
    assert str(parse(spec)) == spec
    assert parse(str(parse(spec))) == parse(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smothquant", "did you mean 'smoothquant'"),
        ("smoothquant(beta=1)", "has no option 'beta'; it has alpha"),
        ("smoothquant(alpha=high)", "is like 0.5, not 'high'"),
        ("smoothquant(alpha=1.5)", r"lies within \[0, 1\], got 1.5"),
        ("smoothquant(alpha=-0.1)", r"lies within \[0, 1\], got -0.1"),
        ("smoothquant(alpha=nan)", "got nan"),
        ("rotation(kind=fourier)", "one of sylvester, regular, random, not 'fourier'"),
        ("rotation(key=1)", "has no option 'key'"),
        ("llm_int8(threshold=-1)", "got -1"),
        ("split_outliers(by=share,share=3)", r"within \[0, 1\], got 3"),
        ("low_rank(rank=0)", "got 0"),
        ("low_rank(rank=1.5)", "is like 16"),
        ("clip(p=101)", r"within \[0, 100\]"),
        ("", "unknown mitigation"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


def test_options_in_python_are_refused_as_in_specs():
    with pytest.raises(ValueError, match="alpha of smoothquant lies within"):
        FUNCTIONS["smoothquant"](LAYER, "int8:channel", alpha=2.0)


# --- the layer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("w", "x"), [((4, 8), (2, 9)), ((8,), (2, 8)), ((4, 8), (8,)), ((4, 8), (0, 8)), ((0, 8), (2, 8))]
)
def test_layers_that_do_not_fit_are_refused(w, x):
    with pytest.raises(ValueError, match="do not fit"):
        parse("smoothquant").apply(Layer(np.ones(w), np.ones(x)), "int8:channel")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_layers_that_are_not_finite_are_refused(name):
    for part in ("weights", "inputs"):
        arrays = {"weights": np.ones((4, 8), np.float32), "inputs": np.ones((2, 8), np.float32)}
        arrays[part][1, 3] = np.inf
        with pytest.raises(ValueError, match=rf"{part} are not finite.* at index \(1, 3\)"):
            parse(name).apply(Layer(**arrays), "int8:channel", key=KEY)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if "key" in defaults(n)])
def test_random_ones_say_that_they_need_a_key(name):
    spec = {"rotation": "rotation(kind=random)"}.get(name, name)
    with pytest.raises(ValueError, match="needs a key"):
        parse(spec).apply(LAYER, "int8:channel")


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "q"), PAIRS)
def test_shapes_types_and_storage(spec, q):
    m = parse(spec).apply(LAYER, q, key=KEY)
    assert m.weights.shape == (OUT, FAN_IN)
    assert {leaf.dtype for leaf in jax.tree.leaves(m)} <= {jnp.dtype(t) for t in (jnp.float32, bool, jnp.int32)}
    y = m.outputs(LAYER.inputs)
    assert y.shape == (TOKENS, OUT)
    assert np.isfinite(y).all()
    name, options = parse(spec).name, defaults(parse(spec).name) | dict(parse(spec).options)
    extra = STORED[name](m, q, **options)
    assert float(m.extra_bits) == extra
    assert m.bits_per_weight(q) == pytest.approx(qs.parse(q).bits_per_weight((OUT, FAN_IN)) + extra / (OUT * FAN_IN))


@pytest.mark.parametrize("spec", SPECS)
def test_without_quantization_outputs_are_those_of_the_layer(spec):
    """Within 4 n half ulps of ||x|| ||w||: product, its coordinates on both sides, and the branch."""
    m = parse(spec).apply(LAYER, "f32", key=KEY)
    x, w = wide(LAYER.inputs), wide(LAYER.weights)
    size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1)
    off = np.abs(wide(m.outputs(LAYER.inputs)) - x @ w.T)
    unchanged = (off <= 4 * FAN_IN * HALF_ULP * size).all()
    assert unchanged == (CHANGES_OUTPUTS.get(spec) is None)
    if "float16" in (CHANGES_OUTPUTS.get(spec) or ""):
        assert (off <= 2.0**-11 * np.abs(x) @ np.abs(w).T + 4 * FAN_IN * HALF_ULP * size).all()


@pytest.mark.parametrize(("spec", "q"), REFUSED)
def test_what_no_program_has_is_said(spec, q):
    with pytest.raises(ValueError, match=REFUSED[spec, q]):
        parse(spec).apply(LAYER, q, key=KEY)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if parse(spec).name in ON_HOST])
def test_what_computes_on_the_host_says_so_under_jit(spec):
    with pytest.raises(TypeError, match="on the host"):
        jax.jit(lambda layer: parse(spec).apply(layer, "int4:block32"))(LAYER)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if parse(spec).name not in ON_HOST])
def test_jit_and_vmap_over_layers_give_what_one_layer_gives(spec):
    """To the bit under jit. Under vmap products and factorizations may sum in another order: weights may fall on the
    other side of a tie, so outputs are held to a tenth of their error."""
    m = parse(spec)

    def applied(layer, key):
        return m.apply(layer, "int4:block32", key=key)

    one = applied(LAYER, KEY)
    leaves_equal(one, jax.jit(applied)(LAYER, KEY))
    layers = [LAYER, layer_of(1)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *layers)
    batch = jax.jit(jax.vmap(applied))(stacked, jnp.stack([KEY] * BATCH))
    for i, layer in enumerate(layers):
        of_batch = jax.tree.map(lambda a, i=i: a[i], batch)
        alone, y = applied(layer, KEY), exact_outputs(layer)
        x = layer.inputs
        error = np.linalg.norm(wide(alone.outputs(x)) - y)
        assert np.linalg.norm(wide(of_batch.outputs(x)) - wide(alone.outputs(x))) <= 0.1 * error
        assert float(of_batch.extra_bits) == float(alone.extra_bits)


@pytest.mark.parametrize("spec", ["awq(ratios=5,clips=4)", *(s for s in SPECS if parse(s).name not in ON_HOST)])
def test_programs_do_not_grow_with_the_layer(spec):
    """As many equations, those of loops and calls included, for 64 outputs, inputs and tokens as for 256 of each.

    What computes on the host has a compiled part, whose size test_gptq.py holds.
    """

    def size(n):
        of_shape = jax.ShapeDtypeStruct((n, n), jnp.float32)
        program = jax.make_jaxpr(lambda layer, key: parse(spec).apply(layer, "int4:block32", key=key))
        return equations(program(Layer(of_shape, of_shape), KEY).jaxpr)

    assert 50 < size(64) == size(256)


@pytest.mark.parametrize("spec", SPECS)
def test_zeros_stay_zeros_and_nothing_is_nan(spec):
    zero = np.zeros_like
    of_weights = parse(spec).apply(Layer(zero(LAYER.weights), LAYER.inputs), "int4:block32", key=KEY)
    assert (np.asarray(of_weights.outputs(LAYER.inputs)) == 0).all()
    of_inputs = parse(spec).apply(Layer(LAYER.weights, zero(LAYER.inputs)), "int4:block32", key=KEY)
    assert np.isfinite(of_inputs.outputs(LAYER.inputs)).all()
    for m in (of_weights, of_inputs):
        m.found.pop("ratio", None)  # of AWQ: NaN says that doing nothing was best
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(m))


@pytest.mark.parametrize("specs", CASES.values(), ids=CASES.keys())
def test_one_token_and_one_output(specs):
    small = layer_of(2, tokens=1, out=1)
    for spec in specs:
        m = parse(spec).apply(small, "int4:block32", key=KEY)
        assert m.outputs(small.inputs, "int8:channel").shape == (1, 1)
        assert np.isfinite(m.outputs(small.inputs)).all()


@pytest.mark.parametrize("spec", ["smoothquant", "rotation", "llm_int8", "low_rank(rank=1)", "bias_correction"])
def test_static_quantizers_of_activations_take_part(spec):
    """Calibrated on the very inputs, a static scale is the dynamic one of the tensor; on smaller ones it saturates."""
    m = parse(spec).apply(LAYER, "int8:channel")
    frozen = qs.static("int8:tensor", m.quantized_part(jnp.asarray(LAYER.inputs)))
    dynamic = m.outputs(LAYER.inputs, "int8:tensor")
    np.testing.assert_array_equal(m.outputs(LAYER.inputs, frozen), dynamic)
    small = qs.static("int8:tensor", m.quantized_part(jnp.asarray(LAYER.inputs)) / 64)
    off = np.linalg.norm(wide(m.outputs(LAYER.inputs, small)) - exact_outputs(LAYER))
    assert off > 4 * np.linalg.norm(wide(dynamic) - exact_outputs(LAYER))
    per_channel = qs.static("int8:tensor", m.quantized_part(jnp.asarray(LAYER.inputs)), per_channel=True)
    assert m.outputs(LAYER.inputs, per_channel).shape == (TOKENS, OUT)


# --- what is stored, counted from what comes out --------------------------------------------------------------------


def places(count, n):
    """Indices of so many of n places, or a bitmap if that is less."""
    return min(count * ceil(log2(n)), n)


def stored_scales(m, q, **_):
    return 16 * m.divided_by.size


def stored_rotation(m, q, *, kind, signs, block, **_):
    return (FAN_IN if signs == "random" else 0) + (16 * (block or FAN_IN) ** 2 if kind == "random" else 0)


def stored_columns(m, q, *, threshold, weights, **_):
    count = int((np.abs(LAYER.inputs).max(0) >= threshold).sum())
    assert count == int(np.asarray(m.apart).sum()) == m.found["columns"]
    return places(count, FAN_IN) + (16 * OUT * count if weights == "float16" else 0)


def stored_outliers(m, q, *, by, std, share, **_):
    w = wide(LAYER.weights)
    count = (np.abs(w) > std * w.std()).sum() if by == "std" else round(share * w.size)
    assert m.found["outliers"] == count > 0
    return 16 * count + places(count, w.size)


def stored_clusters(m, q, **_):
    assert m.found["outliers"] == 1  # the weight of 20 among normal ones
    scales = {"int8:channel": 32 * OUT, "int4:block32": 32 * OUT * 2, "nf4:block64": 32 * OUT, "q4_0": 144 * OUT * 2}
    return places(1, OUT * FAN_IN) + scales[q]


def stored_branch(m, q, *, rank, **_):
    return 16 * rank * (FAN_IN + OUT)


def stored_bias(m, q, **_):
    return 32 * OUT


def nothing(m, q, **_):
    return 0


def stored_smoothing(m, q, **_):
    return 16 * FAN_IN if (np.asarray(m.divided_by) != 1).any() else 0


def stored_order(m, q, *, ordering, scales, **_):
    blocks = {"int4:block32": 2}.get(q, 1)
    shuffled = ordering == "activation" and scales != "static" and not m.found["nearest"]
    return FAN_IN * ceil(log2(blocks)) if shuffled else 0


STORED = {
    "smoothquant": stored_scales,
    "rotation": stored_rotation,
    "llm_int8": stored_columns,
    "split_outliers": stored_outliers,
    "cluster_outliers": stored_clusters,
    "clip": nothing,
    "low_rank": stored_branch,
    "bias_correction": stored_bias,
    "stochastic_rounding": nothing,
    "straight_through": nothing,
    "gptq": stored_order,
    "awq": stored_smoothing,
}
