"""Throughput: rivals do the same work, turns are taken, bounds are judged; nothing here asserts a time."""

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim import quantizer, theory
from quantsim.lab import keys, plotting, study
from quantsim.measure import statistics, tallies
from quantsim.populations import Normal
from quantsim.quantizer.structure import split_quantizer
from quantsim.rows import Rows, dumps

throughput = study.module("throughput")
_jobs, _rivals, _served, _timing = throughput._jobs, throughput._rivals, throughput._served, throughput._timing
_bounds, _gptq, _unpacking = throughput._bounds, throughput._gptq, throughput._unpacking
W = np.random.default_rng(3).standard_normal((8, 1024)).astype(np.float32)
HALF_ULP = 2.0**-24


def bound(size):
    """Relative error of a float32 sum of positive terms, and twice more for the roundings of the terms themselves."""
    return (size + 8) * HALF_ULP


# --- rivals do the same ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", _jobs.SPECS)
def test_numpy_quantizes_to_the_same_bits(spec):
    np.testing.assert_array_equal(_rivals.roundtrip(spec)(W), quantizer.parse(spec).roundtrip(W))


def test_there_are_32_quantizers_of_every_kind_and_none_is_there_twice():
    assert len(set(_jobs.SPECS)) == 32
    structures = [split_quantizer(quantizer.parse(s))[0] for s in _jobs.SPECS]
    assert len(set(structures[:8])) == 8  # as the comment on them says


def five(w, w_hat):
    """The five statistics in float64, of errors that are float32 as everywhere."""
    e, w = (w_hat - w).astype(np.float64), w.astype(np.float64)
    return (e**2).mean(), abs(e).max(), abs(e).mean(), e.mean(), (w**2).sum()


def check(found, exact):
    for at, (value, expected) in enumerate(zip(found, exact, strict=True)):
        scale = exact[2] if at == 3 else expected  # a mean that cancels is as good as the mean of magnitudes
        assert abs(float(value) - expected) <= bound(W.size) * scale, at


@pytest.mark.parametrize("spec", ["int8:block32", "q8_0"])
def test_statistics_of_numpy_and_ours_are_those_of_float64(spec):
    w_hat = np.asarray(quantizer.parse(spec).roundtrip(W))
    exact = five(W, w_hat)
    check(_rivals.numpy_statistics(spec, W), exact)
    ours = statistics.fold(statistics.init(), tallies.tally(jnp.asarray(W), jnp.asarray(w_hat)))
    check((ours.mse, ours.max_abs, ours.mean_abs, ours.bias, ours.sums[4]), exact)


class Tensor(np.ndarray):
    """As much of torch as the statistics use, so that they are tested where torch is not installed."""

    def view(self, *shape):
        return self.reshape(shape)

    def abs(self):
        return np.abs(self)

    def amax(self, axis, *, keepdim):
        return self.max(axis=axis, keepdims=keepdim)

    def clamp_min(self, low):
        return np.maximum(self, np.float32(low))


def tensors():
    torch = _rivals.optional("torch")
    return {"stand-in": np.ndarray.view(W, Tensor), **({"torch": torch.from_numpy(W)} if torch else {})}


@pytest.mark.parametrize("name", tensors())
def test_statistics_of_torch_are_ours(name):
    """It multiplies by 127 / max, so that ties may go the other way, by one step and hardly another error."""
    w_hat = np.asarray(quantizer.parse("int8:block32").roundtrip(W))
    found, exact = _rivals.torch_statistics(tensors()[name]), five(W, w_hat)
    ulps = 8 * HALF_ULP * abs(W).max()  # of a weight over its scale, twice that of the error it leaves
    moved = (ulps * exact[2] * 2, ulps, ulps, ulps, 0)
    for at, (value, expected) in enumerate(zip(found, exact, strict=True)):
        scale = exact[2] if at == 3 else expected
        assert abs(float(value) - expected) <= bound(W.size) * scale + moved[at], at


def test_a_block_of_zeros_is_no_error_for_torch():
    zeros = np.ndarray.view(np.zeros((2, 32), np.float32), Tensor)
    assert [float(v) for v in _rivals.torch_statistics(zeros)] == [0.0] * 5


@pytest.mark.parametrize("law", _jobs.LAWS)
def test_numpy_draws_the_same_laws(law):
    """Quartiles of 2^16 draws, within 5 standard statistics."""
    name, out = _jobs.LAWS[law], np.empty(2**16, np.float32)
    _rivals.numpy_drawn(name, np.random.default_rng(1), out)
    pop = _jobs.population(name)
    unit = {"normal": 1.0, "t5": np.sqrt(5 / 3), "laplace": np.sqrt(2.0)}[name]  # of a scale of 1
    quartile = float(pop.quantile(0.75)) * unit
    assert abs(np.mean(out < quartile) - 0.75) < 5 * np.sqrt(0.75 * 0.25 / out.size)


def test_numpy_sweeps_every_quantizer_on_every_array():
    found = _rivals.numpy_sweep(("int8:block32", "bf16"), (4, 64), 3)
    assert len(found) == 6
    assert len({f[4] for f in found}) == 3  # the power of three arrays, the same for both quantizers


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_bytes_are_those_of_the_rival(kind):
    data = np.asarray(_jobs.gguf.pack(W, kind))
    np.testing.assert_array_equal(_rivals.packed(kind, W), data)
    np.testing.assert_array_equal(_rivals.unpacked(kind, data), _jobs.gguf.unpack(data, kind))


def test_what_the_rival_cannot_pack_is_left_out():
    assert [k for k in throughput.Config().types if _rivals.can_pack(k)] == ["q8_0", "q4_0"]


def test_every_type_is_unpacked_and_those_that_the_rival_cannot_are_alone():
    bounds = {b.name for b in throughput.BOUNDS}
    found = {}
    for c in _unpacking.unpacking(4096, throughput.Config().unpacked, 0):
        found.setdefault(c.job.removeprefix("unpack "), []).append(c)
    assert [kind.upper() for kind in found] == list(_jobs.gguf.LAYOUTS)
    assert tuple(kind for kind, contenders in found.items() if len(contenders) == 1) == _unpacking.ALONE
    for kind, contenders in found.items():
        results = [np.asarray(c.run()) for c in contenders]
        np.testing.assert_array_equal(results[0], results[-1])
        assert (f"unpack {kind}: rate / gguf" in bounds) == (len(results) == 2)
        assert (f"unpack {kind}: M weights/s" in bounds) == (kind in _unpacking.COMMON)


# --- timing ---------------------------------------------------------------------------------------------------------


def test_contenders_take_turns_the_first_round_is_dropped_and_parts_add_up():
    turns = []

    def contender(job, name):
        return _timing.by_quantsim(job, 10, lambda: turns.append((job, name)), name)

    contenders = [contender("a", "x"), contender("a", "y"), contender("a", "x"), contender("b", "x")]
    times = _timing.timed(contenders, 3)
    assert turns == [(c.job, c.name) for c in contenders] * 4
    assert [(c.job, c.name) for c in times] == [("a", "x"), ("a", "y"), ("b", "x")]
    assert all(t.shape == (3,) for t in times.values())


def test_ratio_of_medians_and_its_standard_error():
    """Of a median of n values of spread s it is 1.2533 s / sqrt(n); a bootstrap finds that within a third."""
    rng, rounds, spread = np.random.default_rng(0), 401, 0.1
    a, b = (m * np.exp(spread * rng.standard_normal(rounds)) for m in (6.0, 2.0))
    found = _timing.ratio(a, b, 0)
    assert found.value == np.median(a) / np.median(b)
    assert found.se == pytest.approx(found.value * 1.2533 * spread * np.sqrt(2 / rounds), rel=1 / 3)
    slow = np.where(np.arange(rounds) % 2, 1.0, 5.0)  # a machine that slows down slows down both
    assert _timing.ratio(2 * slow, slow, 0) == (2.0, 0.0)


def test_a_row_has_the_median_the_quartiles_and_the_rate():
    c = _timing.by_quantsim("job", 4 * 10**6, lambda: None)
    row = _timing.row(c, np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 0)
    assert (row["seconds_q1"], row["seconds"], row["seconds_q3"], row["rounds"]) == (2.0, 3.0, 4.0, 5)
    assert row["rate"] == pytest.approx(4 / 3)
    assert "cores" in row["device"]
    assert row["threads"] >= 1


# --- the study ------------------------------------------------------------------------------------------------------


def made(kind, **more):
    base = {"kind": kind, "rounds": 3}
    timed = {"weights": 10**6, "seconds": 1.0, "seconds_se": 0.0, "seconds_q1": 0.9, "seconds_q3": 1.1}
    return base | (timed | {"device": "a machine", "threads": 2} if kind == "time" else {}) | more


def table(*ratios, contenders=("quantsim", "torch", "NumPy + gguf", "C")):
    rows = [made("time", job=job, contender=c, rate=1000.0) for job in ("read", "copy") for c in contenders]
    named = {b.name: b for b in throughput.BOUNDS}
    rows += [made("ratio", name=n, ratio=r, ratio_se=0.1) for n, r in zip(named, ratios, strict=False)]
    return throughput.summary(Rows(rows)).splitlines()


def test_every_bound_is_judged():
    """By three standard errors, here 0.3: what noise can move over its bound is neither met nor missed."""
    statistics, drawn, packed = (1.6, 9.5, 100.0, 1.6, 9.8), (2.6, 3.1, 0.9, 0.1, 10.9), (2.4, 2.6)
    first, *lines = table(*statistics, *drawn, *packed, 0.41, 1.5, 1.8, 2.2, 3.0, 9.0, 59.9, 1.5)
    assert "a machine" in first
    assert "4.0 and copies 8.0 GB/s" in first
    unclear = "error"
    expected = [
        "met",
        "missed",
        "met",
        "missed",
        unclear,
        "met",
        unclear,
        "met",
        "missed",
        "met",
        "met",
        "missed",
        "met",
        "missed",
        unclear,
    ]
    expected += ["met", "missed", "met", unclear, "met"]
    assert [line.split()[-1] for line in lines[: len(expected)]] == expected
    unpacking = [b.name for b in throughput.BOUNDS[len(expected) :]]
    others = lines[len(expected) :]
    assert all(name in line and "not measured" in line for name, line in zip(unpacking, others, strict=True))
    assert len(unpacking) == 4 + 23
    assert "1.60 ± 0.10   ≥ 1.2 " in lines[0]
    assert "≤ 1.25" in lines[3]
    assert "0.95 to 1.05" in lines[13]


def test_what_was_not_measured_is_neither():
    _, *lines = table(2.0)
    assert lines[0].endswith("met")
    assert len(lines) == len(throughput.BOUNDS)
    assert all(line.endswith("not measured") for line in lines[1:])


@pytest.mark.parametrize(
    ("contenders", "absent"),
    [(("quantsim", "NumPy", "NumPy + gguf", "C"), "torch not"), (("quantsim", "NumPy"), "torch, gguf and libgguf not")],
)
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(contenders, absent):
    last = table(contenders=contenders)[-1]
    assert absent in last
    assert "pip install 'quantsim-jax[bench]'" in last


def test_rivals_of_layers_are_missed_where_layers_are_measured():
    installed = ["quantsim", "torch", "NumPy + gguf", "C"]
    assert _rivals.missing(installed) is None
    assert _rivals.missing(installed, among_layers=True).startswith("neural-compressor-pt and qwix not installed")
    assert _rivals.missing(installed[:1], among_layers=True).startswith(
        "torch, gguf, libgguf, neural-compressor-pt and qwix not"
    )


def test_without_torch_and_gguf_only_their_rows_are_absent(monkeypatch):
    monkeypatch.setattr(_rivals, "optional", lambda name: None)
    names = {c.name for c in _jobs.given(2**13, 0, compiled=True)}
    assert names == {"quantsim", "NumPy"}
    assert {c.name for c in _jobs.draws(2**18, ("normal",))} == {"quantsim", "NumPy"}
    _timing.finish(jnp.zeros(1))  # nor is torch waited for


def test_optional_modules_are_none_if_they_cannot_be_imported():
    assert _rivals.optional("quantsim_has_no_such_module") is None
    assert _rivals.optional("json") is json


@pytest.fixture(scope="module")
def rows():
    """The small study, smaller: a round of everything that needs no process of its own."""
    config = replace(throughput.Config.small(), given=2**15, drawn=2**18, packed=2**13, layers=(), rounds=1)
    return Rows(json.loads(dumps(r)) for _, cell in throughput.measure(config) for r in cell())


def test_the_small_study_names_device_and_threads_and_draws(rows, tmp_path):
    timed = rows.where(kind="time")
    assert set(timed.values("device")) == {_timing.processor()}
    assert all(r["threads"] >= 1 and r["seconds_q1"] <= r["seconds"] <= r["seconds_q3"] for r in timed)
    jobs = {"full statistics", "generate normal", "generate + measure, 1", "generate + measure, 2", "pack q8_0"}
    jobs |= {"unpack q8_0", "unpack q4_k", "unpack iq2_xxs"}
    assert jobs <= set(timed.values("job"))
    assert {"quantsim", "NumPy", "NumPy + gguf", "sum of parts"} <= set(timed.values("contender"))
    ratios = {"full statistics: rate / NumPy + gguf", "unpack q4_k: M weights/s", "unpack iq2_xxs: rate / gguf"}
    assert ratios <= set(rows.where(kind="ratio").values("name"))
    plotting.save(throughput.draw(rows), tmp_path, "throughput")
    assert (tmp_path / "throughput.png").stat().st_size > 10_000


def test_the_limit_is_the_fastest_read_whoever_does_it(rows):
    reads = rows.where(kind="time", job="read")
    assert throughput.limit(rows) == max(r["weights"] / r["seconds"] / 1e6 for r in reads)


def test_scaling_is_drawn_with_slope_and_peak(rows, tmp_path):
    scaled = [made("time", job="scaling", contender="quantsim", weights=10**k, seconds=10.0 ** (k - 8), rate=100.0,
                   peak_gb=0.4) for k in (7, 8, 9)]  # fmt: skip
    fig = throughput.draw(Rows([*rows, *scaled]))
    texts = [t.get_text() for t in fig.axes[1].texts]
    assert any("10^{9}" in t and "0.40 GB" in t for t in texts)
    plotting.save(fig, tmp_path, "throughput")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="asks Linux for one core")
def test_a_process_of_its_own_sweeps_on_the_cores_and_devices_it_is_given():
    """There the package is imported as users import it, and results are those of one device."""
    with _served.serving(cores=1, devices=2) as ask:
        found = [ask(2**18), ask(2**20)]
    assert all(f["seconds"] > 0 for f in found)
    assert found[0]["peak_gb"] is None or found[0]["peak_gb"] > 0.05  # no interpreter with JAX is smaller
    expected = -10 * np.log10(theory.weight_rel_mse(Normal(), quantizer.parse("int8:block32"), _served.SHAPE))
    assert found[1]["sqnr_db"] == pytest.approx(expected, abs=0.05)


def test_the_peak_is_of_this_process_and_does_not_fall():
    if not Path("/proc/self/status").is_file():
        assert _served.peak_gb() is None
        return
    held = np.ones(3 * 10**7)  # 0.24 GB
    peak = _served.peak_gb()
    assert peak > held.nbytes / 1e9
    del held
    assert _served.peak_gb() > peak - 0.01  # the system counts pages in batches


# --- GPTQ of layers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers():
    """Rows of the cell of layers, its processes replaced by calls, with one rival that is there and takes longer."""

    @contextmanager
    def answering(module):
        assert module == "_gptq"
        yield lambda question: asked.append(question) or answers(*question)

    def answers(name, size):
        return _gptq.taken(name, size) if name == "quantsim" else {"seconds": 100.0, "peak_gb": 3.0, "sqnr_db": 22.0}

    asked, config = [], replace(throughput.Config.small(), layers=(128, 256), layers_of_qwix=128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_served, "answering", answering)
        patch.setattr(_gptq, "present", lambda: ["quantsim", "qwix"])
        cells = dict(throughput.measure(config))
        rows = Rows(json.loads(dumps(r)) for r in cells["GPTQ"]())
    assert asked == 3 * [("quantsim", 128), ("qwix", 128)] + 3 * [("quantsim", 256)]
    return rows


def test_layers_are_timed_with_peak_and_error_by_those_that_are_asked(layers):
    found = [(r["contender"], r["size"], r["weights"], r["rounds"]) for r in layers.where(kind="GPTQ")]
    assert found == [("quantsim", 128, 128**2, 2), ("qwix", 128, 128**2, 2), ("quantsim", 256, 256**2, 2)]
    names = layers.where(kind="ratio").values("name")
    assert {"GPTQ, 256 × 256: seconds", "GPTQ, 256 × 256: peak of memory, GB"} <= set(names)
    w, x = _gptq.layer(256)
    off = x.astype(np.float64) @ (_gptq.by_quantsim(w, x) - w.astype(np.float64)).T
    signal = np.square(x.astype(np.float64) @ w.T.astype(np.float64)).sum()
    expected = 10 * np.log10(signal / np.square(off).sum())
    assert layers[-3]["sqnr_db"] == pytest.approx(expected, abs=1e-4)


def test_bounds_of_layers_are_of_the_sizes_that_are_measured():
    """By their names: what no row bears would be judged as not measured, silently."""
    full, named = throughput.Config(), {b.name for b in throughput.BOUNDS}
    assert {_bounds.seconds_of(_gptq.job(n)) for n in full.layers} & named
    times = {
        _timing.Contender(_gptq.job(size), name, size**2, _gptq.serve, "a machine", 2): np.array([seconds] * 2)
        for size in full.layers
        for name, seconds in ((_timing.OURS, 2.0), (_gptq.NEURAL_COMPRESSOR, 8.0), (_gptq.QWIX, 20.0))
    }
    ratios = {r["name"]: r["ratio"] for r in _bounds.ratio_rows(times, 0)}
    assert ratios == {"GPTQ, 4096 × 4096: rate / torch": 4.0, "GPTQ, 1024 × 1024: rate / qwix": 10.0}


def test_layers_are_drawn_with_time_and_memory(rows, layers, tmp_path):
    fig = throughput.draw(Rows([*rows, *layers]))
    texts = [t.get_text() for t in fig.axes[3].texts]
    assert "100 s, 3 GB" in texts
    assert len(texts) == 2
    assert "GPTQ" in throughput.summary(Rows([*rows, *layers]))
    plotting.save(fig, tmp_path, "throughput")


def test_rivals_that_are_not_installed_are_not_asked(monkeypatch):
    monkeypatch.setattr(_gptq, "find_spec", lambda module: None if module == "accelerate" else object())
    assert _gptq.present() == ["quantsim", "qwix"]


def test_a_process_that_ends_is_said_to_have_ended():
    with _served.answering("_no_such_module") as ask, pytest.raises(RuntimeError, match="_no_such_module ended"):
        ask(1)


def test_helpers_are_no_studies_and_their_code_is_part_of_the_key():
    assert "throughput" in study.names()
    assert not any(name.startswith("_") for name in study.names())
    helpers = {f"studies.{name}" for name in ("_gptq", "_jobs", "_rivals", "_served", "_timing")}
    assert helpers <= keys.measuring_code("throughput").keys()


def test_devices_are_those_of_jax():
    assert _timing.by_quantsim("job", 1, lambda: None).device == _timing.processor()  # tests run on CPU
    assert jax.default_backend() == "cpu"
    assert _rivals.optional("torch") is None or _rivals.torch_device() == "cpu"
