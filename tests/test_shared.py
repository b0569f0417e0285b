"""Round trips and draws of large arrays by threads: the bits of one call, wherever they are asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.numerics import threads
from quantsim.numerics.fusion import STAGE
from quantsim.populations import key, shared_draws
from quantsim.populations.arguments import words_of
from quantsim.populations.samplers import drawn, with_float32_leaves
from quantsim.populations.shared_draws import shared_draw
from quantsim.quantizer import programs, shared
from quantsim.quantizer.structure import parted
from tests.oracles import same_bits

ROWS, RAGGED, SHORT = (1024, 544), (2, 275_008), (1500, 352)  # stages; a rest; rows that are no tiles
KINDS = [
    ("int8:block32", ROWS),
    ("int8:block32", RAGGED),
    ("int4:block64:minmax", SHORT),
    ("int8:channel", ROWS),
    ("int8:channel", SHORT),
    ("bf16", RAGGED),
    ("nf4:block64", ROWS),
    ("mxfp4", RAGGED),
    ("nvfp4", RAGGED),
    ("int4:block16:absmax:ue4m3+f32", ROWS),
    ("e2m1:block8:absmax:e8m0:even", RAGGED),
    ("int7:block12:minmax", (1300, 480)),
    ("nf4:block8:absmax:ue5m3+f32", SHORT),
    ("e2m1:block16:search1:ue4m3+f32", ROWS),
]
OF_BYTES = [("q8_0", SHORT), ("q4_k", (1200, 512))]  # whose quantize is another


@pytest.fixture(autouse=True)
def small_arrays_are_shared(monkeypatch):
    """Arrays of a few stages, and perhaps more threads than cores."""
    monkeypatch.setattr(threads, "_FEWEST", STAGE)
    monkeypatch.setattr(shared_draws, "_PART", STAGE + 7)
    for module in (shared_draws, shared):
        monkeypatch.setattr(module, "cores", lambda: 3)


def weights(shape):
    w = np.random.default_rng(len(shape)).standard_t(3, shape).astype(np.float32)
    w.reshape(-1)[: w.size // 16] = 0
    return jnp.asarray(w)


# --- round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "shape"), KINDS + OF_BYTES)
def test_a_round_trip_by_threads_has_the_bits_of_one_call(spec, shape):
    q, w = qs.parse(spec), weights(shape)
    expected = programs.roundtrip(*parted(q), w, None)
    found = shared.shared_roundtrip(q, w)
    assert found is not None
    same_bits(np.asarray(found), np.asarray(expected))
    assert (found.shape, found.dtype, found.devices()) == (w.shape, jnp.float32, w.devices())
    same_bits(np.asarray(q.roundtrip(w)), np.asarray(expected))


def same_parts(found, expected):
    """Of two quantized arrays."""
    for name in ("codes", "scale", "zero_point", "tensor_scale"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if b is not None:
            assert (a.shape, a.dtype) == (b.shape, b.dtype), name
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)


def quantized_by_one_call(q, w):
    return programs.quantized(*parted(q), w, None, q._code_dtype())


@pytest.mark.parametrize(("spec", "shape"), KINDS)
def test_codes_and_scales_by_threads_are_those_of_one_call(spec, shape):
    q, w = qs.parse(spec), weights(shape)
    found = shared.shared_quantize(q, w)
    assert found is not None
    same_parts(found, quantized_by_one_call(q, w))
    whole = q.quantize(w)
    same_parts(whole, quantized_by_one_call(q, w))
    assert (whole.quantizer, whole.ndim, whole.nbytes) == (q, w.ndim, q._nbytes(shape))
    same_bits(np.asarray(whole.dequantize()), np.asarray(q.roundtrip(w)))


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize(
    "spec", ["nvfp4", "int4:block8:absmax:ue4m3+f32", "e2m1:block16:search1:ue4m3", "int8:block16"]
)
def test_blocks_that_are_not_finite_are_those_of_one_call(spec, place):
    """They have no part in the scale of the tensor, also where a stage has nothing else."""
    q, w = qs.parse(spec), np.array(weights(RAGGED))
    flat = w.reshape(-1)
    flat[0], flat[STAGE + 5], flat[-1] = np.inf, np.nan, -np.inf
    flat[STAGE * 3 : STAGE * 4] = np.nan
    w = jnp.asarray(w)
    same_parts(q.quantize(w, nonfinite="propagate"), quantized_by_one_call(q, w))
    expected = programs.roundtrip(*parted(q), w, None)
    same_bits(np.asarray(shared.shared_roundtrip(q, w)), np.asarray(expected))
    assert np.isnan(np.asarray(expected)).sum() >= STAGE


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-36, 3e37])
@pytest.mark.parametrize("spec", ["nvfp4", "nf4:block16:absmax:ue4m3+f32", "mxint4"])
def test_zeros_and_weights_at_the_ends_of_float32_are_those_of_one_call(spec, scale):
    q, w = qs.parse(spec), jnp.clip(weights(RAGGED), -9, 9) * np.float32(scale)
    same_parts(q.quantize(w), quantized_by_one_call(q, w))
    same_bits(np.asarray(q.roundtrip(w)), np.asarray(programs.roundtrip(*parted(q), w, None)))


@pytest.mark.parametrize("at", [0, 3 * STAGE, -1])
def test_the_scale_of_a_tensor_is_found_in_any_part(at):
    """In the first stage, in another, in the rest."""
    q, w = qs.parse("int4:block16:absmax:ue4m3+f32"), np.array(weights(RAGGED))
    w.reshape(-1)[at] = 1000.0
    found = q.quantize(jnp.asarray(w)).tensor_scale
    assert float(found) == np.float32(1000.0) / np.float32(7 * 448)
    same_bits(np.asarray(found), np.asarray(quantized_by_one_call(q, jnp.asarray(w)).tensor_scale))


def test_quantizers_that_differ_in_numbers_share_the_programs_of_threads():
    w, specs = weights((1200, 544)), ("e2m1:block16:absmax:ue4m3+f32", "e3m0:block16:absmax:ue5m3+f32")
    compiled = []

    def listen(event, duration_secs, **_):
        compiled.extend([event] if event == "/jax/core/compile/backend_compile_duration" else [])

    qs.parse(specs[0]).quantize(w)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        qs.parse(specs[1]).quantize(w)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


@pytest.mark.parametrize("spec", ["int8:tensor", "int4:block8@0", "int8:block32:stochastic"])
def test_what_has_no_stages_is_one_call(spec):
    assert shared.shared_roundtrip(qs.parse(spec), weights(ROWS)) is None
    assert shared.shared_quantize(qs.parse(spec), weights(ROWS)) is None


def test_known_weights_are_shared_also_where_others_are_traced():
    q, w = qs.parse("int8:block32"), weights(ROWS)
    total = float(q.roundtrip(w)[0].sum())
    assert jax.jit(lambda x: q.roundtrip(w)[0].sum() * x)(1.0) == pytest.approx(total, rel=1e-6)
    assert jax.grad(lambda s: (q.roundtrip(w)[0] * s).sum())(1.0) == pytest.approx(total, rel=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda w: q.roundtrip(w).sum())(w), np.ones(ROWS))
    clip = qs.parse("int8:block32:clip0.5")
    same_bits(np.asarray(jax.jit(clip.roundtrip)(w)), np.asarray(clip.roundtrip(w)))


def test_results_stay_what_they_are_when_others_are_made():
    """Memory is used again only when nobody holds it."""
    q, (a, b) = qs.parse("int4:block32"), (weights(ROWS), 2 * weights(ROWS))
    kept = q.roundtrip(a)
    before = np.array(kept)
    for _ in range(4):
        q.roundtrip(b)
    same_bits(np.asarray(kept), before)


# --- draws ----------------------------------------------------------------------------------------------------------

POPULATIONS = [
    "normal",
    "laplace",
    "t5",
    "gennorm(beta=1.5)",
    "normal+outliers(rate=0.01,magnitude=20)",
    "normal+outliers(count=50,magnitude=20)",
    "laplace+outliers(rate=0.01,magnitude=20,layout=column)",
]


@pytest.mark.parametrize("text", POPULATIONS)
def test_a_sample_by_threads_has_the_bits_of_one_program(text):
    pop, shape = qs.populations.parse(text), ROWS
    found = pop.sample(key(3), shape)
    sampler, whole = with_float32_leaves(pop._sampler()), shape if pop._placed else ()
    assert shared_draw(sampler, key(3), 0, shape, whole) is not None
    same_bits(np.asarray(found), np.asarray(drawn(sampler, key(3), words_of(0), shape, whole)))


def test_a_sample_that_starts_elsewhere_continues_the_first():
    pop = qs.populations.Normal()
    whole, start = np.asarray(pop.sample(key(0), (8 * STAGE,))), 3 * STAGE + 5
    same_bits(np.asarray(pop.sample(key(0), (5 * STAGE - 5,), start=start)), whole[start:])
    far = pop.sample(key(0), (4 * STAGE,), start=2**32 - 2 * STAGE)  # across the end of the lower word
    same_bits(np.asarray(far)[2 * STAGE :], np.asarray(pop.sample(key(0), (2 * STAGE,), start=2**32)))


def test_samples_of_traced_keys_are_one_program():
    pop, known = qs.populations.Normal(), key(1)
    same_bits(np.asarray(jax.jit(lambda k: pop.sample(k, ROWS))(known)), np.asarray(pop.sample(known, ROWS)))
    same_bits(np.asarray(jax.jit(lambda x: pop.sample(known, ROWS) * x)(1.0)), np.asarray(pop.sample(known, ROWS)))
    keys = jax.random.split(key(1), 2)
    stacked = jax.vmap(lambda k: pop.sample(k, ROWS))(keys)
    same_bits(np.asarray(stacked[1]), np.asarray(pop.sample(keys[1], ROWS)))
