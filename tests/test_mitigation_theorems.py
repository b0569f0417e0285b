"""What each mitigation must do: identities to float64 rounding, exact limits, and losses that cannot be larger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.mitigations import Layer, parse
from quantsim.mitigations.rotations import random_orthogonal
from quantsim.numerics.hadamard import regular, sylvester
from tests.test_mitigations import FAN_IN, KEY, LAYER, OUT, exact_outputs
from tests.test_products import HALF_ULP, wide

HALF_ULP_OF_64 = 2.0**-53
Q = "int4:block32"


def output_loss(weights, layer=LAYER):
    return np.square(wide(layer.inputs) @ (wide(weights) - wide(layer.weights)).T).sum()


# --- SmoothQuant ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_smoothquant_keeps_the_product_to_float64_rounding(alpha):
    """(x / s)(w s)ᵀ in float64, with the scales that are given: three roundings a product, and a sum of n."""
    s = wide(parse(f"smoothquant(alpha={alpha})").apply(LAYER, Q).divided_by)
    x, w = wide(LAYER.inputs), wide(LAYER.weights)
    off = np.abs((x / s) @ (w * s).T - x @ w.T)
    assert (off <= (2 * FAN_IN + 3) * HALF_ULP_OF_64 * (np.abs(x) @ np.abs(w).T)).all()
    top_x, top_w = np.abs(x).max(0), np.abs(w).max(0)
    np.testing.assert_allclose(s, top_x**alpha / top_w ** (1 - alpha), rtol=32 * HALF_ULP)  # float32 powers


def test_smoothquant_at_one_half_gives_both_sides_the_same_maxima():
    m = parse("smoothquant").apply(LAYER, "f32")
    x, w = (np.abs(wide(a)).max(0) for a in (m.transformed(jnp.asarray(LAYER.inputs)), m.weights))
    np.testing.assert_allclose(x, w, rtol=32 * HALF_ULP)
    np.testing.assert_allclose(
        x, np.sqrt(np.abs(wide(LAYER.inputs)).max(0) * np.abs(wide(LAYER.weights)).max(0)), rtol=1e-5
    )


def test_smoothquant_leaves_dead_channels_alone():
    w, x = LAYER.weights.copy(), LAYER.inputs.copy()
    w[:, 3], x[:, 9] = 0, 0
    s = np.asarray(parse("smoothquant").apply(Layer(w, x), Q).divided_by)
    assert s[3] == s[9] == 1
    assert np.isfinite(s).all()
    assert (s > 0).all()


# --- rotations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4, 8, 64, 256])
@pytest.mark.parametrize("matrix", [sylvester, regular])
def test_hadamard_matrices_are_orthogonal_and_flat(matrix, size):
    if matrix is regular and round(np.sqrt(size)) ** 2 != size:
        with pytest.raises(ValueError, match="power of 4"):
            matrix(size)
        return
    h = matrix(size)
    np.testing.assert_allclose(h @ h.T, np.eye(size), atol=4 * HALF_ULP_OF_64 * size)
    assert (np.abs(h) == 1 / np.sqrt(size)).all()
    if matrix is regular:
        np.testing.assert_allclose(h.sum(0), 1, atol=size * HALF_ULP_OF_64)
        np.testing.assert_allclose(h.sum(1), 1, atol=size * HALF_ULP_OF_64)


def test_random_rotations_are_orthogonal_to_float32():
    """Householder QR: ||QᵀQ - I|| is a small multiple of n half ulps; and no two keys give the same."""
    r, other = (wide(random_orthogonal(32, jax.random.key(seed))) for seed in (0, 1))
    np.testing.assert_allclose(r @ r.T, np.eye(32), atol=32 * HALF_ULP)
    assert np.abs(r - other).max() > 0.1


@pytest.mark.parametrize("kind", ["sylvester", "regular"])
@pytest.mark.parametrize("block", [4, 16, 64])
def test_hadamard_of_a_spike_spreads_it_exactly(kind, block):
    spike = np.zeros((1, FAN_IN), np.float32)
    spike[0, 21] = 48.3
    m = parse(f"rotation(kind={kind},block={block})").apply(Layer(spike, spike), "f32")
    place = 21 // block
    inside = np.asarray(m.weights).reshape(-1, block)
    assert (np.abs(inside[place]) == np.float32(48.3) / np.float32(np.sqrt(block))).all()
    assert (np.delete(inside, place, 0) == 0).all()


def test_sylvester_amplifies_constant_rows_and_regular_keeps_them():
    ones = np.full((1, FAN_IN), 0.25, np.float32)
    of_sylvester, of_regular = (
        np.asarray(parse(f"rotation(kind={kind})").apply(Layer(ones, ones), "f32").weights)[0]
        for kind in ("sylvester", "regular")
    )
    assert of_sylvester.tolist() == [0.25 * np.sqrt(FAN_IN)] + [0.0] * (FAN_IN - 1)
    assert of_regular.tolist() == [0.25] * FAN_IN


@pytest.mark.parametrize("options", ["kind=sylvester", "kind=regular,block=16", "kind=sylvester,signs=random"])
def test_rotations_keep_the_product_to_float64_rounding(options):
    turn = parse(f"rotation({options})").apply(LAYER, Q, key=KEY).rotation
    h, signs = wide(turn.matrix), wide(turn.signs)  # entries of magnitude 2^-k: exact in float32
    x, w = ((wide(a) * signs).reshape(-1, FAN_IN // len(h), len(h)) @ h for a in (LAYER.inputs, LAYER.weights))
    got = x.reshape(-1, FAN_IN) @ w.reshape(-1, FAN_IN).T
    norms = [np.linalg.norm(wide(a), axis=1) for a in (LAYER.inputs, LAYER.weights)]
    assert (np.abs(got - exact_outputs(LAYER)) <= 4 * FAN_IN * HALF_ULP_OF_64 * np.outer(*norms)).all()


@pytest.mark.parametrize(
    ("fan_in", "options", "message"),
    [
        (12, "", "power of 2 that divides the 12 inputs, not 12; the largest is 4"),
        (12, "block=8", "not 8; the largest is 4"),
        (8, "kind=regular", "power of 4 that divides the 8 inputs, not 8; the largest is 4"),
        (12, "kind=random,block=5", "a number that divides the 12 inputs, not 5"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(fan_in, options, message):
    layer = Layer(np.ones((2, fan_in), np.float32), np.ones((2, fan_in), np.float32))
    with pytest.raises(ValueError, match=message):
        parse(f"rotation({options})").apply(layer, Q, key=KEY)


def test_sizes_that_are_no_power_of_two_rotate_in_blocks():
    rng = np.random.default_rng(3)
    layer = Layer(*(rng.standard_normal((4, 12)).astype(np.float32) for _ in range(2)))
    for options in ("block=4", "kind=random"):
        y = parse(f"rotation({options})").apply(layer, "f32", key=KEY).outputs(layer.inputs)
        np.testing.assert_allclose(y, exact_outputs(layer), atol=1e-5)


# --- outliers apart -------------------------------------------------------------------------------------------------


def test_llm_int8_has_its_two_limits():
    all_apart, none = (parse(f"llm_int8(threshold={t})").apply(LAYER, "int8:channel") for t in (0, "inf"))
    np.testing.assert_array_equal(all_apart.weights, LAYER.weights.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(none.weights, qs.parse("int8:channel").roundtrip(LAYER.weights))
    assert np.asarray(all_apart.apart).all()
    assert not np.asarray(none.apart).any()
    x = LAYER.inputs.astype(np.float16)
    y = all_apart.outputs(LAYER.inputs, "int8:channel")
    exact = wide(x) @ wide(all_apart.weights).T
    assert (np.abs(wide(y) - exact) <= FAN_IN * HALF_ULP * (np.abs(wide(x)) @ np.abs(wide(all_apart.weights)).T)).all()
    assert float(none.extra_bits) == 0


def test_llm_int8_decomposes_by_its_definition():
    """Inputs at the threshold or above are apart; both parts by NumPy, activations in 8 bits by token."""
    threshold = float(np.sort(np.abs(LAYER.inputs).max(0))[-5])
    for words in ("float16", "dequantized"):
        m = parse(f"llm_int8(threshold={threshold},weights={words})").apply(LAYER, "int8:channel")
        apart = np.abs(LAYER.inputs).max(0) >= np.float32(threshold)
        assert apart.sum() == 5
        np.testing.assert_array_equal(m.apart, apart)
        x, w = wide(LAYER.inputs), wide(LAYER.weights)
        whole = absmax_int8(w) if words == "dequantized" else absmax_int8(np.where(apart, 0, w))
        used = np.where(apart, w.astype(np.float16), whole) if words == "float16" else whole
        np.testing.assert_allclose(m.weights, used, rtol=4 * HALF_ULP)
        expected = np.where(apart, x.astype(np.float16), absmax_int8(np.where(apart, 0, x))) @ used.T
        np.testing.assert_allclose(
            m.outputs(LAYER.inputs, "int8:channel"), expected, atol=1e-4 * np.abs(expected).max()
        )


def absmax_int8(a):
    scale = (np.abs(a).max(1, keepdims=True) / 127).astype(np.float32).astype(np.float64)
    return np.round(a / scale) * scale


def test_split_outliers_are_float16_and_the_rest_is_quantized_without_them():
    w = LAYER.weights
    for spec, mask in (
        ("split_outliers(std=2.0)", np.abs(w) > 2 * w.std()),
        ("split_outliers(by=share,share=0.125)", np.abs(w) >= np.sort(np.abs(w), axis=None)[-w.size // 8]),
    ):
        m = parse(spec).apply(LAYER, Q)
        rest = np.asarray(qs.parse(Q).roundtrip(np.where(mask, np.float32(0), w)))
        np.testing.assert_array_equal(m.weights, np.where(mask, w.astype(np.float16), rest))
    np.testing.assert_array_equal(
        parse("split_outliers(by=share,share=1.0)").apply(LAYER, Q).weights, w.astype(np.float16)
    )
    np.testing.assert_array_equal(
        parse("split_outliers(by=share,share=0.0)").apply(LAYER, Q).weights, qs.parse(Q).roundtrip(w)
    )


def test_two_clusters_that_are_levels_of_their_own_are_exact():
    """Magnitudes of 1 and of 1000 in each block: with one scale the small ones vanish, with two none is off."""
    rng = np.random.default_rng(0)
    w = rng.choice([-1, 1], (OUT, FAN_IN)).astype(np.float32)
    w[:, ::8] *= 1000
    m = parse("cluster_outliers").apply(Layer(w, LAYER.inputs), Q)
    np.testing.assert_allclose(m.weights, w, rtol=2 * HALF_ULP)
    assert np.abs(np.asarray(qs.parse(Q).roundtrip(w)) - w).max() == 1


# --- searches and training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", ["int8:channel", Q, "int3:tensor", "nf4:block64", "q4_0"])
def test_clipping_is_never_worse_by_its_own_criterion(q):
    """Losses are sums in float32: equal within their rounding."""
    plain = qs.parse(q).roundtrip(LAYER.weights)
    room = 1 + 2 * FAN_IN * HALF_ULP
    by_weights, by_outputs = (parse(f"clip(by={by})").apply(LAYER, q).weights for by in ("weights", "outputs"))
    w = wide(LAYER.weights)
    assert np.square(wide(by_weights) - w).sum() <= room * np.square(wide(plain) - w).sum()
    assert output_loss(by_outputs) <= 1.001 * output_loss(plain)


def test_clipping_finds_the_best_part_by_brute_force():
    m = parse("clip(steps=16)").apply(LAYER, "int4:channel")
    w = LAYER.weights
    top = np.abs(w).max(1, keepdims=True)
    parts = 1 - 0.75 * np.arange(16) / 16
    losses = [np.square(absmax_int4(np.clip(w, -top * p, top * p)) - w).sum(1) for p in parts]
    np.testing.assert_allclose(m.found["part"], parts[np.argmin(losses, axis=0)], rtol=1e-6)


def absmax_int4(a):
    scale = wide(np.abs(a).max(-1, keepdims=True)) / 7
    return np.round(a / scale) * scale


@pytest.mark.parametrize(("q", "size"), [("int4:channel", FAN_IN), ("int4:block16", 16)])
def test_clipping_by_outputs_finds_the_part_of_each_row_by_brute_force(q, size):
    """One part for all blocks of a row, the one of least output error of the row, or one that ties within float32."""
    m = parse("clip(by=outputs,steps=12)").apply(LAYER, q)
    blocks = wide(LAYER.weights).reshape(OUT, -1, size)
    top, parts = np.abs(blocks).max(-1, keepdims=True), 1 - 0.75 * np.arange(12) / 12
    tried = [absmax_int4(np.clip(blocks, -top * p, top * p)).reshape(OUT, FAN_IN) for p in parts]
    losses = np.array([np.square(wide(LAYER.inputs) @ (t - wide(LAYER.weights)).T).sum(0) for t in tried])
    of = np.array([np.abs(parts - part).argmin() for part in np.asarray(m.found["part"])])
    np.testing.assert_allclose(m.found["part"], parts[of], rtol=1e-6)
    rows = np.arange(OUT)
    assert (losses[of, rows] <= losses.min(0) * (1 + 4 * FAN_IN * HALF_ULP)).all()
    assert losses[of, rows].sum() < losses[0].sum()
    assert len(set(of)) > 3  # rows differ
    np.testing.assert_allclose(m.weights, np.array(tried)[of, rows], rtol=1e-5, atol=1e-6)


def test_percentile_clips_at_the_percentile_of_each_row():
    m = parse("clip(by=percentile,p=90)").apply(LAYER, "f32")
    reach = np.percentile(np.abs(wide(LAYER.weights)), 90, axis=1, keepdims=True)
    np.testing.assert_allclose(m.weights, np.clip(LAYER.weights, -reach, reach), rtol=8 * HALF_ULP)


def test_straight_through_training_lowers_the_output_error_and_never_raises_it():
    plain = output_loss(qs.parse(Q).roundtrip(LAYER.weights))
    short, long = (output_loss(parse(f"straight_through(steps={n})").apply(LAYER, Q).weights) for n in (1, 50))
    assert long <= 1.001 * short
    assert short <= 1.001 * plain
    assert long < 0.9 * plain


def test_straight_through_training_follows_its_definition():
    """Two steps by NumPy, in float64, with the gradient of Q taken as 1: absmax never clips."""
    x, w = wide(LAYER.inputs), wide(LAYER.weights)
    unit = np.sqrt((x**2).mean(0))
    top = np.linalg.eigvalsh((x / unit).T @ (x / unit) / len(x))[-1]
    v = w - 0.5 / top / unit**2 * ((absmax_int4(w) - w) @ x.T @ x / len(x))
    losses = [np.square((absmax_int4(a) - w) @ x.T).sum() / (2 * len(x)) for a in (w, v)]
    m = parse("straight_through(steps=1)").apply(LAYER, "int4:channel")
    assert m.found["loss"] == pytest.approx(min(losses), rel=1e-3)


# --- low rank, bias, stochastic -------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["weights", "residual"])
def test_the_branch_is_the_best_of_its_rank(of):
    """Eckart and Young: what is left has the norm of the other singular values; factors are float16."""
    m = parse(f"low_rank(rank=3,of={of})").apply(LAYER, Q)
    plain = wide(qs.parse(Q).roundtrip(LAYER.weights))
    target = wide(LAYER.weights) - (plain if of == "residual" else 0)
    left = np.linalg.norm(target - wide(m.branch.up) @ wide(m.branch.down))
    least = np.linalg.norm(np.linalg.svd(target)[1][3:])
    assert least <= left <= least + 2.0**-10 * 3 * np.linalg.norm(target)
    if of == "residual":
        np.testing.assert_array_equal(m.weights, np.float32(plain))


def test_a_rank_that_the_matrix_does_not_have_is_refused():
    with pytest.raises(ValueError, match="rank of at most 16, not 17"):
        parse("low_rank(rank=17)").apply(LAYER, Q)


def test_bias_correction_leaves_no_mean_error_on_the_calibration_inputs():
    m = parse("bias_correction").apply(LAYER, "int3:channel")
    x, w = wide(LAYER.inputs), wide(LAYER.weights)
    before = x.mean(0) @ (wide(m.weights) - w).T
    after = before + wide(m.bias)
    assert np.abs(after).max() <= 1e-5 * np.abs(before).max()
    exact = np.square(x @ (wide(m.weights) - w).T).sum() - len(x) * np.square(before).sum()
    assert np.square(wide(m.outputs(LAYER.inputs)) - x @ w.T).sum() == pytest.approx(exact, rel=1e-4)


def test_stochastic_rounding_has_no_mean_error():
    """256 draws of 1024 weights: each mean within 5.5 standard errors of its weight, of variance p (1 - p) step^2.

    A hundredth of a step more, as the rare draws of a small p are not normal.
    """
    m = parse("stochastic_rounding")
    draws = jax.vmap(lambda key: m.apply(LAYER, "int4:channel", key=key).weights)(jax.random.split(KEY, 256))
    w = wide(LAYER.weights)
    step = np.abs(w).max(1, keepdims=True) / 7
    fraction = w / step - np.floor(w / step)
    se = step * np.sqrt(fraction * (1 - fraction) / 256)
    assert (np.abs(wide(draws).mean(0) - w) <= 5.5 * se + 1e-2 * step).all()
    assert (np.abs(wide(draws) - w) <= step * (1 + 1e-5)).all()
