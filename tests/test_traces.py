"""How often functions are traced: once for a shape and a spec, never for values; what tracing a parameter changes."""

import contextlib

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.measure import classes, statistics, tallies
from quantsim.populations import Empirical, Laplace, Mixture, Normal, StudentT, Uniform, key

EVENTS = {"/jax/core/compile/jaxpr_trace_duration": "traces", "/jax/core/compile/backend_compile_duration": "compiles"}
COUNTERS = []


@jax.monitoring.register_event_duration_secs_listener
def listen(event, duration, **_):
    for counter in COUNTERS:
        if event in EVENTS:
            counter[EVENTS[event]] += 1


@contextlib.contextmanager
def counting():
    """Traces and compilations of JAX functions while the block runs, as JAX itself reports them."""
    counter = dict.fromkeys(EVENTS.values(), 0)
    COUNTERS.append(counter)
    try:
        yield counter
    finally:
        COUNTERS.remove(counter)


NOTHING = {"traces": 0, "compiles": 0}


def test_the_counter_counts():
    f = jax.jit(lambda x: x + 1)
    with counting() as first:
        f(jnp.ones(3)).block_until_ready()
    assert first["traces"] > 0
    assert first["compiles"] > 0
    x = jnp.ones(3) * 2
    with counting() as again:
        f(x)
    assert again == NOTHING


SHAPE = (6, 71)
COLD, OTHER = (6, 70), (5, 71)  # of one test only, so that nothing has been traced for them


def weights(seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SPECS = ["int8:channel", "int4:block32:mse", "int4:block32:minmax", "nf4:block64", "e4m3:tensor", "bf16"]


@pytest.mark.parametrize("spec", SPECS)
def test_roundtrip_is_traced_once_for_a_shape_and_a_spec(spec):
    first, second = weights(1, COLD), weights(2, COLD)
    with counting() as cold:
        qs.parse(spec).roundtrip(first).block_until_ready()
    with counting() as warm:  # other values, and an equal quantizer made anew
        qs.parse(spec).roundtrip(second).block_until_ready()
    assert cold["traces"] > 0
    assert warm == NOTHING


def test_another_shape_is_traced_anew():
    qs.parse("bf16").roundtrip(weights(1, COLD))
    with counting() as other:
        qs.parse("bf16").roundtrip(weights(1, OTHER)).block_until_ready()
    assert other["traces"] > 0


SHARED = [
    ("int4:block32", "int8:block32", "int2:block32"),
    ("e4m3:channel", "e5m2:channel", "e2m1:channel", "e3m3:channel"),
    ("e4m3", "e2m1"),
    ("int4:tensor:clip0.5", "int7:tensor:clip0.8"),
    ("int8:channel:minmax", "int3:channel:minmax"),
    ("nf4:block8:absmax:f16", "nf4:block8:absmax:e4m3"),
    ("nf4:block8:clip0.5", "nf4:block8:clip0.9"),
    ("uint8:channel", "uint3:channel"),
]


@pytest.mark.parametrize("specs", SHARED, ids=lambda specs: specs[0])
def test_what_differs_in_numbers_shares_its_programs(specs):
    w = weights(1)

    def everything(spec):
        q = qs.parse(spec)
        jax.block_until_ready(jax.vjp(q.roundtrip, w)[1](w))
        return q.quantize(w).dequantize().block_until_ready(), q.roundtrip(w).block_until_ready(), q.clipped(w)

    everything(specs[0])
    for spec in specs[1:]:
        with counting() as warm:
            everything(spec)
        assert warm == NOTHING, spec


@pytest.mark.parametrize("spec", ["int4:block32", "nf4:block64"])
def test_quantize_and_dequantize_are_traced_once(spec):
    first, second = weights(1), weights(2)
    qs.parse(spec).quantize(first).dequantize()
    with counting() as warm:
        qs.parse(spec).quantize(second).dequantize()
    assert warm == NOTHING


def test_error_statistics_are_traced_once_for_a_shape():
    pairs = [(weights(s), weights(s + 9)) for s in (1, 2)]
    statistics.error_stats(*pairs[0])
    classes.class_stats(*pairs[0], (0.0, 1.0, 9.0))
    with counting() as warm:
        statistics.error_stats(*pairs[1])
        classes.class_stats(*pairs[1], (0.0, 2.0, 8.0))
    assert warm == NOTHING


def drawn_twice(first, second):
    """Events of the second of two draws."""
    first().block_until_ready()
    with counting() as warm:
        second().block_until_ready()
    return warm


@pytest.mark.parametrize("pop", [Normal(), StudentT(5.0), Mixture((0.5, 0.5), (Normal(), Laplace()))], ids=str)
def test_another_start_or_key_does_not_retrace_a_sample(pop):
    k, other = key(0), key(1)
    warm = drawn_twice(lambda: pop.sample(k, (33,)), lambda: pop.sample(other, (33,), start=2**40 + 7))
    assert warm == NOTHING


@pytest.mark.parametrize(
    "make",
    [
        lambda: StudentT(5.0, 0.25).with_outliers(count=3, magnitude=9.0, layout="column"),
        lambda: Empirical(np.arange(9.0)),
    ],
)
def test_an_equal_population_does_not_retrace(make):
    k = key(0)
    assert drawn_twice(lambda: make().sample(k, (7, 5)), lambda: make().sample(k, (7, 5))) == NOTHING


SWEEPS = {
    "std": lambda v: Normal(v),
    "df and std of a mixture": lambda v: Mixture((0.5, 0.5), (StudentT(2.0 + v, v), Uniform(v))),
    "rate and magnitude": lambda v: Laplace().with_outliers(rate=0.1 * v, magnitude=10.0 * v),
    "std under outliers": lambda v: Laplace(v).with_outliers(count=3, magnitude=30.0, layout="row"),
}


@pytest.mark.parametrize("family", SWEEPS.values(), ids=SWEEPS.keys())
def test_a_sweep_over_a_traced_parameter_compiles_once(family):
    calls = []

    @jax.jit
    def measure(value, k):
        calls.append(value)
        w = family(value).sample(k, (8, 64))
        return tallies.tally(w, qs.parse("int8:block32").roundtrip(w))

    keys, points = list(jax.random.split(key(0), 3)), [jnp.float32(v) for v in (0.3, 0.5, 0.9)]
    jax.block_until_ready(measure(points[0], keys[0]))
    with counting() as warm:
        results = [measure(v, k) for v, k in zip(points[1:], keys[1:], strict=True)]
    assert warm == NOTHING
    assert len(calls) == 1
    assert np.any(np.asarray(results[0].sums) != np.asarray(results[1].sums))


# What a traced parameter costs in bits. A traced std is float32 before it meets 1/sqrt 2, sqrt 3 or the scale of
# Student's t, a static one is float64 until the product is rounded: one ulp of the factor, at most two of the weight.
# Where the factor is std itself, nothing differs.
CASES = [
    (Normal, 0),
    (Laplace, 2),
    (Uniform, 2),
    (lambda v: StudentT(5.0, v), 3),
    (lambda v: Normal().with_outliers(rate=v / 4, value=v), 0),
    (lambda v: Normal().with_outliers(rate=0.1, magnitude=v), 0),
    (lambda v: Normal(v).with_outliers(rate=0.1, magnitude=9.0, values="spread"), 3),
]


def ulps(a, b):
    return np.max(np.abs(np.asarray(a).view(np.int32) - np.asarray(b).view(np.int32)))


@pytest.mark.parametrize(("family", "allowed"), CASES)
def test_a_traced_parameter_gives_the_static_sample(family, allowed):
    traced = jax.jit(lambda v: family(v).sample(key(8), (7, 99)))
    assert ulps(traced(0.37), family(0.37).sample(key(8), (7, 99))) <= allowed


def test_a_traced_df_gives_the_static_sample():
    # df enters an exponent: constants in float32 instead of float64 cost some ulps
    traced = jax.jit(lambda df: StudentT(df).sample(key(8), (999,)))
    for df in (2.5, 30.5):
        np.testing.assert_allclose(traced(df), StudentT(df).sample(key(8), (999,)), rtol=3e-6)


def test_a_parameter_that_is_an_array_gives_the_static_sample():
    concrete = Normal(jnp.float32(0.02)).with_outliers(rate=jnp.float32(0.1), magnitude=jnp.float32(9.0))
    static = Normal(0.02).with_outliers(rate=0.1, magnitude=9.0)
    assert ulps(concrete.sample(key(1), (99,)), static.sample(key(1), (99,))) <= 2


def test_vmap_over_std_and_keys():
    stds, keys = jnp.array([0.5, 2.0]), jax.random.split(key(0), 2)
    rows = jax.jit(jax.vmap(lambda s, k: Normal(s).sample(k, (3, 4))))(stds, keys)
    for row, s, k in zip(rows, stds, keys, strict=True):
        np.testing.assert_array_equal(row, Normal(float(s)).sample(k, (3, 4)))
