"""Errors of attention: every number against float64 NumPy, sites one by one, defined results at the ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import quantsim as qs
from quantsim.outputs.attention import (
    AttentionQuantizers,
    attention_error,
    attention_sums,
    logits_and_errors,
    summarize_attention,
)

HEADS, QUERIES, KEYS, WIDTH = 3, 16, 48, 32


def drawn(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = (QUERIES, WIDTH), (KEYS, WIDTH), (KEYS, WIDTH)
    q, k, v = (rng.standard_normal((HEADS, *s)).astype(np.float32) for s in shapes)
    return q * np.float32(scale), k, v


def reference(exact, approximated, logits_hat=None):
    """KL, total variation, flips and relative output error in float64, of queries, keys and values."""
    q, k, v = (np.asarray(a, np.float64) for a in exact)
    q_hat, k_hat, v_hat = (np.asarray(a, np.float64) for a in approximated)
    z, z_hat = (a @ b.swapaxes(1, 2) / np.sqrt(WIDTH) for a, b in ((q, k), (q_hat, k_hat)))
    z_hat = z_hat if logits_hat is None else np.asarray(logits_hat, np.float64)
    log_p, log_p_hat = special.log_softmax(z, axis=-1), special.log_softmax(z_hat, axis=-1)
    p, p_hat = np.exp(log_p), np.exp(log_p_hat)
    return {
        "kl": (p * (log_p - log_p_hat)).sum(axis=-1).mean(),
        "tv": np.abs(p_hat - p).sum(axis=-1).mean() / 2,
        "flips": (z.argmax(axis=-1) != z_hat.argmax(axis=-1)).mean(),
        "rel_rms": np.linalg.norm(p_hat @ v_hat - p @ v) / np.linalg.norm(p @ v),
        "logit_rms": np.sqrt(((z_hat - z) ** 2).mean()),
    }


def assert_close(found, expected, rel=2e-4):
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=rel, abs=1e-12), name


SITES = {
    "queries and keys": AttentionQuantizers(queries="int8:channel", keys=f"int8:block{WIDTH}"),
    "coarse": AttentionQuantizers(queries="int2:block32", keys="int3:block32", values="int3:channel"),
    "values": AttentionQuantizers(values=qs.parse("e4m3:channel")),
    "nothing": AttentionQuantizers(),
}


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("quantizers", SITES.values(), ids=SITES)
def test_attention_error_is_that_of_float64(quantizers, scale):
    q, k, v = drawn(scale=scale)
    hats = [
        a if spec is None else np.asarray(qs.parse(spec).roundtrip(a))
        for a, spec in ((q, quantizers.queries), (k, quantizers.keys), (v, quantizers.values))
    ]
    assert_close(attention_error(q, k, v, quantizers), reference((q, k, v), hats))


def test_quantized_logits():
    q, k, v = drawn(scale=3.0)
    spec = f"int8:block{KEYS}"
    z, _ = logits_and_errors(*map(jnp.asarray, (q, q, k, k)))
    expected = reference((q, k, v), (q, k, v), logits_hat=qs.parse(spec).roundtrip(z))
    assert_close(attention_error(q, k, v, AttentionQuantizers(logits=spec)), expected, rel=1e-3)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.9, 1.1, 30.0, 300.0])
def test_errors_of_logits_of_any_size(size):
    """Where float32 probabilities would cancel, 1e-6, as where their ratios would overflow, 300."""
    rng = np.random.default_rng(3)
    z, d = (rng.standard_normal((HEADS, QUERIES, KEYS)).astype(np.float32) for _ in range(2))
    d = d * np.float32(size)
    v = drawn()[2]
    found = summarize_attention(attention_sums(*map(jnp.asarray, (z, d, v, np.zeros_like(v)))))
    z, d = z.astype(np.float64), d.astype(np.float64)
    log_p, log_p_hat = special.log_softmax(z, axis=-1), special.log_softmax(z + d, axis=-1)
    p, change = np.exp(log_p), np.exp(log_p_hat) - np.exp(log_p)
    assert found.tv == pytest.approx(np.abs(change).sum(axis=-1).mean() / 2, rel=1e-4)
    assert found.rel_rms == pytest.approx(np.linalg.norm(change @ v) / np.linalg.norm(p @ v), rel=1e-4)
    if size < 1e-5:  # float64 cancels, too: half the variance of d under p
        mean = (p * d).sum(axis=-1, keepdims=True)
        assert found.kl == pytest.approx((p * (d - mean) ** 2).sum(axis=-1).mean() / 2, rel=0.05)
    else:
        assert found.kl == pytest.approx((p * (log_p - log_p_hat)).sum(axis=-1).mean(), rel=1e-3)


def test_a_common_shift_of_the_logits_changes_nothing():
    rng = np.random.default_rng(4)
    z = rng.standard_normal((HEADS, QUERIES, KEYS)).astype(np.float32)
    v = drawn()[2]
    found = summarize_attention(attention_sums(*map(jnp.asarray, (z, np.full_like(z, 8.0), v, np.zeros_like(v)))))
    assert (found.tv, found.flips) == (pytest.approx(0.0, abs=1e-5), 0.0)
    assert found.logit_rms == 8.0


def test_standard_errors_are_those_over_heads():
    q, k, v = drawn()
    quantizers = SITES["queries and keys"]
    found = attention_error(q, k, v, quantizers)
    each = [attention_error(*(a[h : h + 1] for a in (q, k, v)), quantizers) for h in range(HEADS)]
    tv = np.array([e.tv for e in each])
    assert found.tv == pytest.approx(tv.mean(), rel=1e-6)
    assert found.tv_se == pytest.approx(tv.std(ddof=1) / np.sqrt(HEADS), rel=1e-5)
    assert np.isnan(each[0].tv_se)


def test_the_sums_can_be_jitted_and_do_not_depend_on_other_heads():
    q, k, v = map(jnp.asarray, drawn())
    z, d = logits_and_errors(q, q * 1.01, k, k)
    zeros = jnp.zeros_like(v)
    together = attention_sums(z, d, v, zeros)
    alone = attention_sums(z[1:2], d[1:2], v[1:2], zeros[1:2])
    inside = jax.jit(lambda *a: attention_sums(*a))(z, d, v, zeros)
    for name in together._fields:
        assert getattr(together, name)[1] == getattr(alone, name)[0], name
        np.testing.assert_array_equal(getattr(together, name), getattr(inside, name))


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 4, 8), (2, 6, 9), (2, 6, 8)),
        ((2, 4, 8), (3, 6, 8), (3, 6, 8)),
        ((2, 4, 8), (2, 6, 8), (2, 5, 8)),
        ((4, 8), (6, 8), (6, 8)),
        ((2, 4, 8), (2, 0, 8), (2, 0, 8)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"do not fit|at least one"):
        attention_error(*(np.ones(s, np.float32) for s in shapes), AttentionQuantizers())


def test_a_nan_is_named():
    q, k, v = drawn()
    k[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"keys are not finite.* at index \(1, 2, 3\)"):
        attention_error(q, k, v, AttentionQuantizers())
