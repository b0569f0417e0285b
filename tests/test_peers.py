"""Mitigations against qwix 0.1.8 on one problem, under its conventions; where it departs from them, and why.
Packing against the quantizers of ggml in C, which libgguf 0.2.2 binds.

Its conventions: symmetric int4 has codes -8 … 7 and scales absmax / 7.5, our bounds "half"; the scale of a block is
found from weights without the updates pending in the lazy block, our scales "block"; weights are (out, in), and its
Hessian is XXᵀ of inputs (in, tokens), which is ours times the number of tokens. XLA makes its division by 7.5 a product
with the reciprocal, so that scales may be off by an ulp.

Nothing here is skipped: without these packages the tests fail. `make test-peers` installs them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.lab import study
from quantsim.mitigations import Layer, awq, gptq

pytestmark = pytest.mark.peers
OUT, FAN_IN, TOKENS = 64, 256, 512
SPECS = {32: "int4:block32:absmax:half", 128: "int4:block128:absmax:half", FAN_IN: "int4:channel:absmax:half"}
ULP = 2.0**-23


@pytest.fixture(scope="module")
def peer():
    from qwix._src.core import qarray
    from qwix.contrib import awq_core, gptq_core

    class Peer:
        gptq, awq, arrays = gptq_core, awq_core, qarray

        @staticmethod
        def how(size):
            tiles = {} if size == FAN_IN else {1: size}
            return qarray.HowToQuantize(qtype=jnp.int4, channelwise_axes=[0], tiled_axes=tiles)

    return Peer


@pytest.fixture(scope="module")
def problem():
    """Normal weights, and inputs whose Hessian has eigenvalues from 1 to 1/1000."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((FAN_IN, FAN_IN)))[0]
    x = rng.standard_normal((TOKENS, FAN_IN)) * np.sqrt(np.geomspace(1, 1 / 1000, FAN_IN)) @ basis
    return np.float32(rng.standard_normal((OUT, FAN_IN))), np.float32(x)


def their_gptq(peer, w, x, size):
    """Weights as they are dequantized, and the scale of each."""
    h = peer.gptq.compute_hessian(jnp.asarray(x.T))
    with jax.numpy_rank_promotion("allow"):  # our session is stricter than their code
        found, _ = peer.gptq.quantize_weight(jnp.asarray(w), h, peer.how(size))
    return np.asarray(peer.arrays.dequantize(found)), np.repeat(np.asarray(found.scale), size, axis=1)


def output_error(w_hat, w, x):
    return float(np.linalg.norm((np.float64(w_hat) - w) @ np.float64(x).T))


def before_rounding(w, w_hat, x):
    """Each column just before it is rounded, by Schur complements in float64, given what was rounded before."""
    h = np.float64(x).T @ np.float64(x)
    h += 0.01 * np.diag(h).mean() * np.eye(FAN_IN)
    before = np.float64(w)
    for j in range(1, FAN_IN):
        rest = -np.linalg.solve(h[j:, j:], h[j:, :j] @ (np.float64(w_hat) - w)[:, :j].T)
        before[:, j] += rest[0]
    return before


@pytest.mark.parametrize("size", SPECS)
def test_rounding_to_nearest_has_their_codes(peer, problem, size):
    """But for a negative weight that is its block's largest: at -7.5 steps an ulp of the scale makes it -7 or -8."""
    w, _ = problem
    found = peer.arrays.quantize(jnp.asarray(w), peer.how(size))
    theirs, scale = np.asarray(peer.arrays.dequantize(found)), np.repeat(np.asarray(found.scale), size, axis=1)
    sure = w / scale > -7.5 * (1 - 4 * ULP)
    assert (~sure).sum() <= OUT * FAN_IN // size
    np.testing.assert_allclose(np.asarray(qs.parse(SPECS[size]).roundtrip(w))[sure], theirs[sure], rtol=2 * ULP)


@pytest.mark.parametrize("size", SPECS)
def test_gptq_has_their_codes(peer, problem, size):
    """All codes of a row, unless a tie in it is in doubt: its later columns then answer to another error.

    Their factor is of an inverse in float32, ours of H in float64: 1e-5 of a step, so that of 16384 weights a few
    tenths are in doubt, and a row or two may differ; in doubt, too, is a largest weight of a block at -7.5 steps.
    """
    w, x = problem
    theirs, scale = their_gptq(peer, w, x, size)
    ours = np.asarray(gptq(Layer(w, x), SPECS[size], scales="block", lazy=128).weights)
    same = (np.abs(ours - theirs) < scale / 4).all(axis=1)
    assert same.sum() >= OUT - 2
    np.testing.assert_allclose(ours[same], theirs[same], atol=1e-4 * scale.max())
    assert output_error(ours, w, x) == pytest.approx(output_error(theirs, w, x), rel=5e-3)


def test_their_gptq_is_what_schur_complements_give(peer, problem):
    """No code of theirs is further than half a step from what float64 says stood there, but for saturation."""
    w, x = problem
    theirs, scale = their_gptq(peer, w, x, FAN_IN)
    inside = np.clip(before_rounding(w, theirs, x), -8 * scale, 7 * scale)
    assert (np.abs(theirs - inside) <= scale * (0.5 + 1e-3)).all()
    assert (np.abs(theirs - w) > scale * 0.6).mean() > 0.1  # compensation did something


@pytest.mark.parametrize("scales", ["group", "static"])
def test_other_conventions_of_scales_are_not_theirs(peer, problem, scales):
    w, x = problem
    theirs, scale = their_gptq(peer, w, x, 32)
    ours = np.asarray(gptq(Layer(w, x), SPECS[32], scales=scales).weights)
    assert (np.abs(ours - theirs) > scale / 4).mean() > 0.1
    assert output_error(ours, w, x) == pytest.approx(output_error(theirs, w, x), rel=0.03)  # and it matters little


def test_a_dead_column_is_written_as_zeros_by_them_alone(peer, problem):
    """As the released code of GPTQ does: outputs on these inputs do not tell. Ours rounds the column to nearest."""
    w, x = problem
    x = x.copy()
    x[:, 5] = 0
    theirs, _ = their_gptq(peer, w, x, FAN_IN)
    ours = np.asarray(gptq(Layer(w, x), SPECS[FAN_IN], scales="block").weights)
    assert (theirs[:, 5] == 0).all()
    np.testing.assert_array_equal(ours[:, 5], np.asarray(qs.parse(SPECS[FAN_IN]).roundtrip(w))[:, 5])


def test_what_throughput_times_does_the_same_work(peer):
    """Outputs on the inputs that it was calibrated on err by the same decibels, to the codes that are in doubt."""
    of_layers = study.module("throughput")._gptq
    w, x = of_layers.layer(FAN_IN)
    with jax.numpy_rank_promotion("allow"):
        theirs = of_layers.by_qwix(w, x)
    assert output_error(of_layers.by_quantsim(w, x), w, x) == pytest.approx(output_error(theirs, w, x), rel=5e-3)


@pytest.mark.parametrize("size", SPECS)
def test_awq_is_not_worse_than_theirs(peer, problem, size):
    """Theirs tries 20 ratios from 0 to 1, the last included, and takes the one of least sum_j (mean |x_j| e_ij)².

    That is not the output error where inputs are correlated; ours tries ratios below 1, and takes the output error.
    """
    w, x = problem
    found, s = peer.awq.quantize_weight(jnp.asarray(w), peer.awq.compute_act_scale(jnp.asarray(x)), peer.how(size))
    theirs = output_error(np.asarray(peer.arrays.dequantize(found)) / np.asarray(s), w, x)
    ours = awq(Layer(w, x), SPECS[size])
    nothing = output_error(qs.parse(SPECS[size]).roundtrip(w), w, x)
    mine = output_error(np.asarray(ours.weights) / np.asarray(ours.divided_by), w, x)
    # float32 sums are compared; their grid is another one, of which a step is worth less than a part in 200 here
    assert mine <= nothing * (1 + 1e-5)
    assert mine <= theirs * 1.005
    assert size != FAN_IN or theirs > nothing * 1.005  # a row is one block: theirs ends worse than doing nothing


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"])
def test_the_bytes_of_timed_weights_are_those_of_c(kind):
    """The weights that the study ``throughput`` packs, by the call that it times."""
    import libgguf

    w = np.random.default_rng(0).standard_normal((2**21 // 1024, 1024), dtype=np.float32)
    expected = libgguf.quantize_rows(w, libgguf.GGMLQuantizationType[kind.upper()])
    np.testing.assert_array_equal(qs.gguf.pack(jnp.asarray(w), kind), expected)
