"""AWQ: never worse than doing nothing, the least of its own candidates in float64, and an identity without rounding."""

import jax
import numpy as np
import pytest

import quantsim as qs
from quantsim.mitigations import Layer, awq

OUT, FAN_IN, TOKENS = 16, 64, 128


def problem(seed=0, magnitude=30.0):
    """Normal weights; a few input channels carry activations that are larger by ``magnitude``."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((TOKENS, FAN_IN))
    x[:, [3, 17, 40]] *= magnitude
    return np.float32(rng.standard_normal((OUT, FAN_IN))), np.float32(x)


def output_error(w, x, found):
    off = np.float64(found.weights) / np.float64(found.divided_by) - np.float64(w)
    return float(((np.float64(x) @ off.T) ** 2).sum())


@pytest.mark.parametrize("options", [{}, {"weight_term": "mean"}, {"clips": 8}], ids=str)
@pytest.mark.parametrize("spec", ["int4:block32", "int3:channel", "int4:block24:mse"])
def test_it_never_ends_worse_than_doing_nothing(spec, options):
    """To the roundings of float32 in sums of squares: 1e-5 is 84 of its units."""
    for seed, magnitude in ((0, 1.0), (1, 30.0), (2, 0.0)):
        w, x = problem(seed, magnitude)
        nothing = ((np.float64(x) @ (np.float64(qs.parse(spec).roundtrip(w)) - w).T) ** 2).sum()
        found = awq(Layer(w, x), spec, **options)
        assert output_error(w, x, found) <= nothing * (1 + 1e-5)
        assert (np.asarray(found.divided_by) > 0).all()
        if magnitude == 30:
            assert output_error(w, x, found) < 0.8 * nothing


def test_candidates_are_those_of_the_paper():
    """All scales again in float64, and the error of each with the quantizer as it is."""
    w, x = problem()
    found, q = awq(Layer(w, x), "int4:block32"), qs.parse("int4:block32")
    of_x = np.abs(np.float64(x)).mean(0)
    losses = []
    for ratio in np.arange(20) / 20:
        s = of_x**ratio
        s = np.float32(s / np.sqrt(s.max() * s.min()))
        losses.append(((np.float64(x) @ (np.float64(q.roundtrip(w * s)) / s - w).T) ** 2).sum())
    got = np.asarray(found.found["losses"])
    # a scale that is off by an ulp moves some weight over a tie: a few of 1024 squares
    np.testing.assert_allclose(got[1:], losses, rtol=0.02)
    assert got[0] == pytest.approx(losses[0], rel=1e-5)  # ratio 0 is doing nothing
    assert float(found.found["ratio"]) == pytest.approx(np.argmin(losses) / 20)


def test_nothing_is_charged_where_nothing_is_done():
    w = np.round(problem()[0].clip(-2, 2) * 3)  # -6 … 6
    w[:, 0] = 7
    found = awq(Layer(w, problem()[1]), "int4:channel")
    assert float(found.extra_bits) == 0
    assert np.isnan(found.found["ratio"])
    np.testing.assert_array_equal(found.weights, w)
    assert float(awq(Layer(*problem()), "int4:block32").extra_bits) == 16 * FAN_IN


def test_dead_inputs_and_zero_inputs():
    w, x = problem()
    x[:, 5] = 0
    found = awq(Layer(w, x), "int4:block32", weight_term="mean")
    assert float(found.divided_by[5]) == 1
    nothing = awq(Layer(w, x * 0), "int4:block32")
    assert (np.asarray(nothing.divided_by) == 1).all()
    np.testing.assert_array_equal(nothing.weights, qs.parse("int4:block32").roundtrip(w))


def test_one_program_for_all_ratios():
    def size(ratios):
        return str(jax.make_jaxpr(lambda layer: awq(layer, "int4:block32", ratios=ratios))(Layer(*problem()))).count(
            "\n"
        )

    assert abs(size(20) - size(200)) < 3


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("int4:channel", {"ratios": 0}, "lies within"),
        ("int4:channel", {"clips": -1}, "clips of awq lies within"),
        ("int4:channel", {"weight_term": "max"}, "one of none, mean, not 'max'"),
        ("int4:tensor", {"clips": 4}, "each channel or block"),
        ("q4_0", {"clips": 4}, "each channel or block"),
    ],
)
def test_what_it_does_not_take(spec, options, message):
    with pytest.raises(ValueError, match=message):
        awq(Layer(*problem()), spec, **options)


def test_scales_with_the_term_of_the_weights_are_those_of_numpy():
    """s_j = (mean |x_j|)^r / u_j^(1 - r) over the geometric mean of its extremes, at the ratio that was chosen."""
    rng = np.random.default_rng(8)
    w, x = rng.standard_normal((24, 64)).astype(np.float32), rng.standard_normal((96, 64)).astype(np.float32)
    x[:, ::9] *= 20
    found = awq(Layer(w, x), "int4:block32", weight_term="mean")
    ratio = float(found.found["ratio"])
    assert 0 < ratio < 1
    blocks = np.abs(w.astype(np.float64)).reshape(24, 2, 32)
    u = (blocks / blocks.max(axis=-1, keepdims=True)).reshape(24, 64).mean(axis=0)
    s = np.abs(x.astype(np.float64)).mean(axis=0) ** ratio / u ** (1 - ratio)
    # powers of float32 logarithms: some tens of ulps
    np.testing.assert_allclose(found.divided_by, s / np.sqrt(s.max() * s.min()), rtol=1e-5)


def searched_by_numpy(x, w, size, clips):
    """Dequantized int4 of each block clipped at each part, and the error of its own outputs, in float64."""
    blocks, top = w.reshape(len(w), -1, size), np.abs(w.reshape(len(w), -1, size)).max(-1, keepdims=True)
    trials, losses = [], []
    for part in np.linspace(1, 0.5, clips, dtype=np.float32):
        clipped = np.clip(blocks, -part * top, part * top)
        scale = np.abs(clipped).max(-1, keepdims=True) / np.float32(7)
        trials.append(np.rint(clipped / scale) * scale)
        e = np.float64(trials[-1]) - blocks
        seen = [np.float64(x[:, b * size : (b + 1) * size]) @ e[:, b].T for b in range(e.shape[1])]
        losses.append(np.square(seen).sum(1).T)
    return np.array(trials), np.array(losses)


@pytest.mark.parametrize(("spec", "size"), [("int4:channel", FAN_IN), ("int4:block16", 16)])
def test_clips_are_those_of_a_search_by_numpy(spec, size):
    """Every row (or block) keeps the part that errs least in its own outputs, or one that ties within float32."""
    rng, clips = np.random.default_rng(3), 6
    w, x = problem(3)
    w[::2, 5::16] *= 2 + rng.random((OUT // 2, FAN_IN // 16), np.float32)  # clipping pays in some rows, not in all
    found = awq(Layer(w, x), spec, clips=clips)
    s = np.asarray(found.divided_by)
    assert bool(found.found["clipped"])
    trials, losses = searched_by_numpy(x / s, w * s, size, clips)
    kept = np.asarray(found.weights).reshape(trials.shape[1:])
    step = np.abs(trials[0]).max(-1) / 7
    off = np.abs(trials - kept).max(-1) / step  # of every part from what was kept, in steps
    assert (off.min(0) < 1e-5).all()
    # sums of 128 x 16 products in float32, 1e-5 of what they sum to, decide between parts
    assert (losses[off.argmin(0), *np.indices(step.shape)] <= losses.min(0) * (1 + 1e-5)).all()
    assert 0 < (off.argmin(0) > 0).mean() < 1


def test_clips_are_left_where_no_outputs_gain():
    found = awq(Layer(*problem()), "int4:channel", clips=1)  # the only part is 1: all as it was
    assert not found.found["clipped"]
    np.testing.assert_array_equal(found.weights, awq(Layer(*problem()), "int4:channel").weights)
