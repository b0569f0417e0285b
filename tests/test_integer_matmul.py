"""The study of int8 products: what its programs compute, what its bytes and ratios count; no test looks at a clock."""

import os
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.lab import plotting, study
from quantsim.lab.claims import judge
from quantsim.outputs.products import MAX_FAN_IN
from quantsim.populations import Laplace, Normal, key
from quantsim.rows import Rows, dumps

im = study.module("integer_matmul")
SHAPES = [(1, 5, 3), (7, 300, 33)]  # batch, fan-in, outputs
HALF_ULP, HALF_BF16 = 2.0**-24, 2.0**-9
TINY = im.Config(layers=(("wide", 24, 32),), batches=(1, 4), read=256, rounds=(3, 3), seconds=0.0)


def arrays(batch, fan_in, out):
    return Normal().sample(key(batch), (batch, fan_in)), Laplace().sample(key(fan_in), (out, fan_in))


@cache
def run(name, batch, fan_in, out):
    """A method's output, and its arguments."""
    method, (x, w) = im.METHODS[name], arrays(batch, fan_in, out)
    x, w = im.FORMS[method.activations](x), im.FORMS[method.weights](w)
    return im.compiled(name, [x], [w])([x], [w])[0], x, w


def wide(a):
    return np.asarray(a, np.float64)


# --- what is computed -----------------------------------------------------------------------------------------------


def off_by(form, a):
    """Largest rounding error of every element in a form: half a step of its row, half an ulp of bf16, nothing."""
    if form == "bf16":
        return HALF_BF16 * np.abs(a)
    step = np.abs(a).max(axis=1, keepdims=True) / 127
    return np.broadcast_to(step / 2, a.shape) * (1 + 256 * HALF_ULP) if form == "int8" else np.zeros_like(a)


# rounding of the activations and of the weights, in the order in which they happen
ROUNDED = {
    "f32": ((), ()),
    "bf16": (("bf16",), ("bf16",)),
    "fake": ((), ("int8",)),
    "dequantize": (("bf16",), ("int8", "bf16")),
    "int8": (("bf16", "int8"), ("int8",)),
}


def widest(a, forms):
    """Bound on the error of ``a`` after all roundings, each of values that the ones before have moved."""
    off = np.zeros_like(a)
    for form in forms:
        off = off + off_by(form, np.abs(a) + off)
    return off


@pytest.mark.parametrize(("batch", "fan_in", "out"), SHAPES)
@pytest.mark.parametrize("name", ROUNDED)
def test_every_method_computes_the_product_within_its_roundings(name, batch, fan_in, out):
    x, w = arrays(batch, fan_in, out)
    y, *_ = run(name, batch, fan_in, out)
    assert (y.shape, y.dtype) == ((batch, out), jnp.float32)
    x, w = wide(x), wide(w)
    dx, dw = (widest(a, forms) for a, forms in zip((x, w), ROUNDED[name], strict=True))
    most = (np.abs(x) + dx) @ (np.abs(w) + dw).T
    bound = most - np.abs(x) @ np.abs(w).T + (fan_in + 4) * HALF_ULP * most
    assert (np.abs(wide(y) - x @ w.T) <= bound).all()
    # and the bound is no barn door: a method that rounds less than it says would pass a looser one unseen
    assert bound.max() < {"f32": 1e-4, "bf16": 0.02}.get(name, 0.06) * most.max()


def test_methods_round_what_they_say():
    """More rounding, more error; int8 weights err alike on all their paths, up to the activations' own."""
    x, w = arrays(*SHAPES[-1])
    exact = wide(x) @ wide(w).T
    rms = {name: np.sqrt(((wide(run(name, *SHAPES[-1])[0]) - exact) ** 2).mean()) for name in ROUNDED}
    assert rms["f32"] < 1e-3 * rms["bf16"]
    assert rms["bf16"] < rms["fake"] < rms["dequantize"] < rms["int8"]
    weights = np.sqrt(((wide(im.INT8.roundtrip(w)) - wide(w)) ** 2).sum(1).mean())  # of x with unit variance
    assert rms["fake"] == pytest.approx(weights, rel=0.2)  # of 231 outputs: four standard errors


@pytest.mark.parametrize(("batch", "fan_in", "out"), SHAPES)
def test_codes_multiply_as_int64_does(batch, fan_in, out):
    y, x, w = run("codes", batch, fan_in, out)
    assert (y.dtype, x.dtype, w.dtype) == (jnp.int32, jnp.int8, jnp.int8)
    assert np.array_equal(y, np.asarray(x, np.int64) @ np.asarray(w, np.int64).T)


def test_codes_of_the_widest_layer_cannot_overflow():
    fan_in = max(fan_in for *_, fan_in in im.Config().layers)
    ends = jnp.full((2, fan_in), 127, jnp.int8)
    (y,) = im.compiled("codes", [ends], [-ends])([ends], [-ends])
    assert fan_in <= MAX_FAN_IN
    assert y.tolist() == [[-(127**2) * fan_in] * 2] * 2


@pytest.mark.parametrize(("batch", "fan_in", "out"), SHAPES)
def test_int8_is_the_integer_product_times_its_scales(batch, fan_in, out):
    y, x, w = run("int8", batch, fan_in, out)
    x = im.INT8.quantize(x)
    integers = np.asarray(x.codes, np.int64) @ np.asarray(w.codes, np.int64).T
    exact = integers * wide(x.scale)[:, None] * wide(w.scale)
    assert (np.abs(wide(y) - exact) <= 4 * HALF_ULP * np.abs(exact)).all()  # int32 to float32, and two products


def test_a_program_of_many_matrices_multiplies_each():
    pairs = [arrays(3, 16, out) for out in (8, 8, 8)]
    xs, ws = ([im.FORMS["int8"](a) for a in side] for side in zip(*pairs, strict=True))
    ys = im.compiled("codes", [x.codes for x in xs], [w.codes for w in ws])(
        [x.codes for x in xs], [w.codes for w in ws]
    )
    for y, x, w in zip(ys, xs, ws, strict=True):
        assert np.array_equal(y, np.asarray(x.codes, np.int64) @ np.asarray(w.codes, np.int64).T)


# --- what is counted ------------------------------------------------------------------------------------------------

WEIGHTS = {"f32": "f32", "bf16": "bf16", "fake": "f32", "dequantize": "int8", "int8": "int8", "codes": "codes"}


@pytest.mark.parametrize("name", im.METHODS)
def test_bytes_are_those_of_the_arrays(name):
    batch, fan_in, out = 7, 300, 33
    y, x, w = run(name, batch, fan_in, out)
    expected = {
        "f32": out * fan_in * 4,
        "bf16": out * fan_in * 2,
        "int8": int(qs.parse("int8:channel").bits_per_weight((out, fan_in)) * out * fan_in / 8),
        "codes": out * fan_in,
    }[WEIGHTS[name]]
    size = {"f32": 4, "fake": 4, "codes": 1}.get(name, 2)
    found = im.sizes(x, w, y)
    assert found["weight_bytes"] == expected
    assert found["activation_bytes"] == batch * fan_in * size
    assert found["output_bytes"] == batch * out * 4 == y.nbytes
    assert found["bytes"] == sum(v for name, v in found.items() if name != "bytes")


def test_int8_weights_are_what_the_quantizer_says_it_stores():
    w = arrays(1, 300, 33)[1]
    kept = im.FORMS["int8"](w)
    assert im.sizes(w, kept, w)["weight_bytes"] == kept.nbytes == 33 * 300 + 33 * 4


def times(**more):
    """Four rounds on a machine that slows down tenfold; float32 takes twice as long as bf16."""
    drift = np.array([1.0, 2.0, 5.0, 10.0])
    return {name: factor * drift for name, factor in ({"f32": 2.0, "bf16": 1.0, "read": 0.25} | more).items()}


def test_ratios_are_of_one_round_so_that_drift_cancels():
    found = im.statistics(times(int8=0.5), 0)
    assert {n: (r["of_float"], r["of_float_se"]) for n, r in found.items()} == {
        "f32": (2, 0), "bf16": (1, 0), "int8": (0.5, 0), "read": (0.25, 0)
    }  # fmt: skip
    assert found["int8"]["of_read"] == 2.0
    assert (found["bf16"]["seconds"], found["bf16"]["seconds_q1"], found["bf16"]["seconds_q3"]) == (3.5, 1.75, 6.25)
    assert found["bf16"]["seconds_se"] > 1
    assert all(r["rounds"] == 4 for r in found.values())


def test_the_baseline_is_the_faster_float_product():
    assert im.statistics(times(f32=0.5), 0)["bf16"]["of_float"] == 2.0


def test_the_standard_error_is_that_of_a_median():
    """Of normal times it is sqrt(pi / 2 n) sigma; each bootstrap is off by a fifth or so, the mean of 64 by a tenth."""
    rounds, rng = 100, np.random.default_rng(0)
    noisy = {name: 100 + rng.standard_normal(rounds) for name in ("f32", "bf16", "read", *map(str, range(64)))}
    found = im.statistics(noisy, 0)
    seconds_se, of_float_se = (np.mean([found[str(k)][c] for k in range(64)]) for c in ("seconds_se", "of_float_se"))
    assert seconds_se == pytest.approx(np.sqrt(np.pi / 2 / rounds), rel=0.1)
    assert of_float_se == pytest.approx(np.sqrt(np.pi / rounds) / 100, rel=0.2)  # all share the noise of the baseline


def test_every_method_is_timed_in_every_round_after_a_read():
    done = []
    runs = {name: lambda name=name: done.append(name) for name in ("a", "b", "read")}
    found = im._timed(runs, replace(TINY, rounds=(4, 9)), calls=2)
    assert {name: len(t) for name, t in found.items()} == dict.fromkeys(runs, 4)
    turns = [done[k : k + 3] for k in range(0, len(done), 3)]
    assert all(turn[0] == "read" and turn[1] == turn[2] for turn in turns)
    rounds = [[turn[1] for turn in turns[k : k + 3]] for k in range(0, len(turns), 3)]
    assert all(sorted(names) == sorted(runs) for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1  # not in one order


# --- verdict, rows, figure ------------------------------------------------------------------------------------------


def settled(*cases):
    """Verdict and share of A32 for (method, ratio, standard error)."""
    rows = Rows({"kind": "time", "method": m, "of_float": r, "of_float_se": se} for m, r, se in cases)
    (claim,) = im.CLAIMS
    entry = judge(claim, rows, "integer_matmul")
    return entry["verdict"], entry["value"]


def test_the_verdict_follows_from_the_rows():
    slow, fast = ("dequantize", 1.2, 0.01), ("int8", 0.5, 0.1)
    assert settled(fast) == ("holds", 1.0)
    assert settled(slow) == ("refuted", 0.0)
    assert settled(fast, slow, slow, ("dequantize", 0.9, 0.01)) == ("conditional", 0.5)
    assert settled(("int8", 0.7, 0.1)) == ("refuted", 0.0)  # not by three standard errors
    # what simulates, what is no layer, and what is the baseline are no cases
    others = [(name, 0.1, 0.0) for name in ("f32", "bf16", "fake", "codes", "read")]
    assert settled(*others, slow) == ("refuted", 0.0)


@pytest.fixture(scope="module")
def rows():
    return Rows(row for _, cell in im.measure(TINY) for row in cell())


def test_rows_say_what_was_measured_where(rows):
    timed = rows.where(kind="time")
    assert len(timed) == len(TINY.layers) * len(TINY.batches) * (len(im.METHODS) + 1)
    device = jax.devices()[0]
    for row in timed:
        assert (row["device"], row["platform"]) == (device.device_kind, device.platform)
        assert (row["devices"], row["matrices"], row["rounds"]) == (jax.device_count(), 1, 3)
        assert row["seconds_q1"] <= row["seconds"] <= row["seconds_q3"]
        assert row["gbps"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        read = timed.where(layer=row["layer"], batch=row["batch"], method="read")
        assert row["of_bandwidth"] == pytest.approx(row["bytes"] / read.one("bytes") / row["of_read"])
        if row["method"] != "read":
            products = row["out"] * row["in"] * row["batch"]
            assert row["gops"] == pytest.approx(2e-9 * products / row["seconds"])
            assert row["temporary_bytes"] >= 0
    assert [dumps(row) for row in rows]  # every value has a JSON


def test_rows_hold_the_error_of_the_output(rows):
    at = rows.where(kind="time", layer="wide", batch=4)
    found = {r["method"]: r["rel_rms"] for r in at if "rel_rms" in r}
    assert set(found) == set(ROUNDED)
    assert found["f32"] < 1e-6 < found["bf16"] < 0.004 < found["int8"] < 0.03


def test_stored_bits_are_those_of_the_widest_layer(rows):
    stored = {r["spec"]: r["bits_per_weight"] for r in rows.where(kind="stored")}
    assert stored == {"int8:channel": 8 + 32 / 32, "int8:block32": 8 + 32 / 32, "q8_0": 8 + 16 / 32}


def test_the_figure_names_the_device(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(plotting, "FORMATS", ("svg",))
    fig = im.draw(rows)
    assert [ax.get_title(loc="right")[:15] for ax in fig.axes] == ["24 × 32 on CPU,", "", "", ""]
    assert plotting.save(fig, tmp_path, "figure")[0].stat().st_size > 10_000


def test_a_run_on_a_gpu_says_so(rows):
    gpu = Rows(r | {"platform": "gpu", "device": "NVIDIA H100"} for r in rows)
    assert im.summary(gpu).startswith("On NVIDIA H100, time over that of the faster float product: int8 dequantized")
    assert im.summary(rows).startswith(f"On CPU, {os.cpu_count()} cores, ")
