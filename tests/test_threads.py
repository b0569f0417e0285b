"""Threads that share the stages of an array: the bits of one call, one program, no thread that outlives its work."""

import subprocess
import sys
import threading
from functools import lru_cache
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import quantsim as qs
from quantsim.measure import shards, statistics, streaming, tallies, threaded
from quantsim.numerics import meshes, threads
from quantsim.numerics.fusion import STAGE
from quantsim.numerics.threads import by_threads
from quantsim.quantizer.stages import stages_of

COMPILED = "/jax/core/compile/backend_compile_duration"  # what JAX tells its listeners when it has made a program


@pytest.fixture(autouse=True)
def small_calls(monkeypatch):
    """Calls of a stage, so that arrays of a few stages are shared, and perhaps more threads than cores."""
    monkeypatch.setattr(threads, "_FEWEST", STAGE)
    for module in (streaming, statistics):
        monkeypatch.setattr(module, "cores", lambda: 3)


@lru_cache(None)
def weights(shape, scale=1.0):
    rng = np.random.default_rng(prod(shape))
    w = rng.standard_normal(shape).astype(np.float32)
    w.reshape(-1)[rng.random(w.size) < 0.02] *= 8
    w.reshape(-1)[w.size // 3 : w.size // 3 + w.size // 16] = 0
    return jnp.asarray(w * np.float32(scale))


def same_tally(found, expected):
    for name, value in vars(tallies.on_host(expected)).items():
        np.testing.assert_array_equal(getattr(tallies.on_host(found), name), value, err_msg=name)


ROWS, RAGGED, SHORT = (1024, 512), (2, 250_016), (1500, 352)  # eight stages; seven and a rest; rows that are no tiles
KINDS = [
    ("int8:block32", ROWS),
    ("int8:block32", RAGGED),
    ("int4:block64:minmax", SHORT),
    ("int8:channel", ROWS),
    ("int8:channel", SHORT),
    ("bf16", RAGGED),
    ("e4m3:block32", RAGGED),
    ("nf4:block64", ROWS),
    ("mxfp4", ROWS),
    ("q8_0", RAGGED),
    ("int4:block32:clip0.8", (3, 200, 512)),
    ("nvfp4", RAGGED),
    ("nvint4:block32", (2, 250_016)),
    ("int4:block8:absmax:ue4m3+f32", ROWS),
    ("nf4:block64:clip0.8:ue5m3+f32", SHORT),
    ("e2m1:block16:fouroversix:e4m3+f32", ROWS),
    ("e1m2:block16:search1:ue4m3+f32", RAGGED),
    ("e3m0:channel:absmax:ue4m3+f32", SHORT),
    ("e2m1:block8:absmax:e8m0:ceil", RAGGED),
]


@pytest.mark.parametrize(("text", "shape"), KINDS)
def test_any_number_of_threads_gives_the_tally_of_the_whole(text, shape):
    """To the bit: sums of each tile, extremes, counts."""
    q, w = qs.parse(text), weights(shape)
    expected = tallies.tally(w, q.roundtrip(w))
    for number in (2, 3, 7):
        same_tally(threaded.of_quantized(q, w, threads=number), expected)
    assert statistics.fold(statistics.init(), expected).result() == qs.weight_error(w, q).result()


@pytest.mark.parametrize("most", [1, 3, 5, 8])
def test_calls_of_any_length_leave_no_stage_out(monkeypatch, most):
    """Also where the last call has fewer than the others, beside the rest."""
    monkeypatch.setattr(threads, "_FEWEST", 1)
    monkeypatch.setattr(threads, "_MOST", most * STAGE)
    q, w = qs.parse("int8:block32"), weights(RAGGED)
    same_tally(threaded.of_quantized(q, w, threads=2), tallies.tally(w, q.roundtrip(w)))


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_other_units_are_shared_too(scale):
    q, w = qs.parse("int4:block32"), weights(RAGGED, scale)
    unit = tallies.unit_for(float(jnp.abs(w).max()), 1.0)
    same_tally(threaded.of_quantized(q, w, unit, threads=3), tallies.tally(w, q.roundtrip(w), unit=unit))
    assert qs.weight_error(w, q).result() == qs.error_stats(w, q.roundtrip(w)).result()


@pytest.mark.parametrize("text", ["int8:tensor", "int8:tensor:stochastic", "int8:block32:stochastic", "int7:block4@0"])
def test_what_has_no_stages_is_taken_whole(text):
    q, w = qs.parse(text), weights(ROWS)
    key = jax.random.key(9) if "stochastic" in text else None
    assert stages_of(q._span(ROWS), ROWS) is None
    assert threaded.of_quantized(q, w, threads=3) is None
    assert qs.weight_error(w, q, key=key).result() == qs.error_stats(w, q.roundtrip(w, key=key)).result()


@pytest.mark.parametrize("shape", [ROWS, RAGGED], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-18])
def test_weights_and_what_they_became_are_shared_as_well(shape, scale):
    w = weights(shape, scale)
    w_hat = qs.parse("int4:block32").roundtrip(w)
    unit = tallies.unit_for(float(jnp.abs(w).max()), float(jnp.abs(w_hat - w).max()))
    expected = tallies.tally(w, w_hat, unit=unit)
    for number in (2, 3, 7):
        same_tally(threaded.of_given(w, w_hat, unit, threads=number), expected)
    assert statistics.fold(statistics.init(), expected).result() == qs.error_stats(w, w_hat).result()


def test_weights_on_other_devices_than_what_they_became_take_one_call():
    w = weights(ROWS)
    assert threaded.of_given(w, jax.device_put(w, jax.devices()[1]), threads=3) is None
    assert threaded.of_given(w, w, threads=1) is None


def test_weights_that_are_not_finite_are_named():
    w = np.array(weights(RAGGED))
    w[1, 250_000] = np.nan
    with pytest.raises(ValueError, match=r"index \(1, 250000\)"):
        qs.weight_error(w, "int8:block32")


# --- when threads share, and what is compiled -----------------------------------------------------------------------


def test_small_arrays_one_thread_and_several_devices_take_one_call(monkeypatch):
    q = qs.parse("int8:block32")
    assert threaded.of_quantized(q, weights((3, STAGE)), threads=8) is None
    assert threaded.of_quantized(q, weights(ROWS), threads=1) is None
    mesh = jax.make_mesh((4,), ("d",), (jax.sharding.AxisType.Auto,))
    for spec in (PartitionSpec("d"), PartitionSpec()):
        assert threaded.of_quantized(q, jax.device_put(weights(ROWS), NamedSharding(mesh, spec)), threads=8) is None
    explicit = jax.make_mesh((1,), ("d",), (jax.sharding.AxisType.Explicit,))
    placed = jax.device_put(weights(ROWS), NamedSharding(explicit, PartitionSpec("d")))
    assert threaded.of_quantized(q, placed, threads=8) is None
    one = jax.make_mesh((1,), ("d",), (jax.sharding.AxisType.Auto,))
    placed = jax.device_put(weights(ROWS), NamedSharding(one, PartitionSpec("d")))
    same_tally(threaded.of_quantized(q, placed, threads=8), streaming.tally(q, weights(ROWS)))
    with jax.disable_jit():
        assert threaded.of_quantized(q, weights(ROWS), threads=8) is None
    monkeypatch.setattr(meshes, "on_cpu", lambda: False)
    assert threaded.of_quantized(q, weights(ROWS), threads=8) is None


SPREAD = ["int8:block32", "int4:channel", "q4_0", "bf16", "int8:tensor", "nvfp4", "int4:block16:absmax:ue4m3+f32"]


@pytest.mark.parametrize("spec", SPREAD)
def test_weights_on_several_devices_have_the_bits_of_one(spec):
    w, mesh = weights(ROWS), jax.make_mesh((4,), ("d",), (jax.sharding.AxisType.Auto,))
    for placement in (PartitionSpec("d"), PartitionSpec(None, "d"), PartitionSpec()):
        found = qs.weight_error(jax.device_put(w, NamedSharding(mesh, placement)), spec)
        assert found.result() == qs.weight_error(w, spec).result()


@pytest.mark.parametrize("spec", ["int8:block48", "int4:block12", "int4:block96:minmax", "int8:block32"])
def test_blocks_that_two_devices_share_keep_their_scale(spec):
    """Parts that are whole tiles and no whole blocks: 2^16 is no multiple of 3."""
    w, mesh = weights((3 * STAGE,)), jax.sharding.Mesh(np.array(jax.devices()[:3]), ("d",))
    placed, q = jax.device_put(w, NamedSharding(mesh, PartitionSpec("d"))), qs.parse(spec)
    assert qs.weight_error(placed, spec).result() == qs.error_stats(w, q.roundtrip(w)).result()


def test_parts_of_several_devices_are_taken_where_they_lie():
    mesh = jax.make_mesh((4,), ("d",), (jax.sharding.AxisType.Auto,))
    w = jax.device_put(weights((8, STAGE)), NamedSharding(mesh, PartitionSpec("d")))
    parts = shards.in_order(w)
    held = [shard.data.unsafe_buffer_pointer() for shard in w.addressable_shards]
    assert [part.unsafe_buffer_pointer() for part in parts] == held
    assert {d for part in parts for d in part.devices()} == {jax.devices()[0]}
    np.testing.assert_array_equal(np.concatenate(parts), w)
    for other in (PartitionSpec(None, "d"), PartitionSpec()):  # columns, copies
        placed = jax.device_put(w, NamedSharding(mesh, other))
        assert shards.in_order(placed)[0] is placed
    small = jax.device_put(weights((8, 4)), NamedSharding(mesh, PartitionSpec("d")))  # no whole tiles
    assert len(shards.in_order(small)) == 1


def test_the_first_call_is_worth_a_thread_from_four_million_weights_on(monkeypatch):
    monkeypatch.undo()
    q = qs.parse("bf16")
    assert threaded.of_quantized(q, jnp.zeros(2**22 - 1), threads=8) is None
    assert threaded.of_quantized(q, jnp.zeros(2**22), threads=8) is not None


def test_known_weights_are_refused_inside_jit_as_small_ones_are():
    for w in (weights((4, 32)), weights(ROWS)):
        with pytest.raises(TypeError, match=r"measure\.tally"):
            jax.jit(lambda x, w=w: x * qs.weight_error(w, "bf16").mse)(1.0)


def test_one_program_serves_all_threads_and_all_quantizers_of_a_kind():
    """For a shape that no other test has; counted by what JAX tells."""
    w, programs = weights((1000, 544)), []

    def listen(event, duration_secs, **_):
        programs.extend([event] if event == COMPILED else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        qs.weight_error(w, "int8:block32")
        assert len(programs) == 1
        for text in ("int8:block32", "int4:block32", "int3:block32"):
            qs.weight_error(w, text)
        assert len(programs) == 1
        qs.weight_error(w, "e4m3:block32")  # another kind
        assert len(programs) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_the_program_holds_no_copy_of_the_weights():
    """Neither the loop over stages nor the branch of the rest: less than three stages in float32."""
    w, q, ends = weights(RAGGED), qs.parse("int8:block32"), (np.int32(0), np.int32(4))
    lowered = threaded._some_of_quantized().lower(*_arguments(q, 4), w, None, ends)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 3 * 4 * STAGE


def _arguments(q, most):
    structure, numbers = threaded.parted(q)
    return structure, most, (numbers, None)


def test_settings_of_the_calling_thread_change_no_bit():
    """They are settings of a thread, which its helpers do not have."""
    q, w = qs.parse("int8:block32"), weights(ROWS)
    with jax.enable_x64(True):
        found = threaded.of_quantized(q, w, threads=3)
    same_tally(found, streaming.tally(q, w))


# --- by threads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("parts", [0, 1, 2, 50])
def test_results_come_in_the_order_of_their_parts(number, parts):
    assert by_threads(str, range(parts), threads=number) == [str(k) for k in range(parts)]


def test_parts_are_worked_on_at_once():
    """Each waits for the other two."""
    meeting = threading.Barrier(3)
    assert len(by_threads(lambda _: meeting.wait(timeout=60), range(3), threads=3)) == 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("by_helper", [False, True])
def test_errors_and_interrupts_come_through_and_end_the_work(error, by_helper):
    caller, meeting, done = threading.current_thread(), threading.Barrier(2), []

    def f(k):
        if k < 2:
            meeting.wait(timeout=60)  # one of the first two parts is a helper's
            if (threading.current_thread() is not caller) == by_helper:
                raise error("no")
            stopped.wait(timeout=0.2)
        done.append(k)

    stopped = threading.Event()
    with pytest.raises(error, match="no"):
        by_threads(f, range(1000), threads=2)
    assert len(done) < 1000
    assert by_threads(abs, [-1, -2], threads=2) == [1, 2]  # helpers are there again


def test_a_helper_that_never_starts_delays_nobody():
    release, entered = threading.Event(), threading.Event()

    def busy():
        entered.set()
        release.wait(timeout=60)

    taken = threads._pool(1).submit(busy)
    try:
        assert entered.wait(timeout=60)
        assert by_threads(abs, range(-3, 0), threads=2) == [3, 2, 1]
    finally:
        release.set()
        taken.result()


SCRIPT = """
import atexit, threading
import numpy as np
import quantsim as qs
from quantsim.measure import streaming
streaming.cores = lambda: 3
w = np.ones((2048, 2048), np.float32)
atexit.register(lambda: print("at exit", qs.weight_error(w, "bf16").count, threading.active_count()))
print(qs.weight_error(w, "bf16").count, threading.active_count() > 1)
"""


def test_no_thread_is_left_at_exit_and_none_is_needed_there():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:2] == [f"{2**22} True", f"at exit {2**22} 1"]


def test_cores_are_those_of_this_process():
    assert 1 <= threads.cores() <= 4096
