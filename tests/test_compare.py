"""Quantizers side by side: on a population, and on the tensors of a file, of which not all can be measured."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantsim as qs
from quantsim.checkpoints import CheckpointError, TensorError, read, weights
from quantsim.cli import terminal
from quantsim.cli.weights import metrics, with_exact
from quantsim.lab.comparison import Source
from quantsim.lab.comparison import compare as compared
from quantsim.rows import plain
from tests.fake_study import command


@pytest.fixture
def quantsim(capsys):
    return command(capsys)


def uniform(shape=(16, 32), seed=42):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def norm(a):
    return np.linalg.norm(a.astype(np.float64))


# --- a population ---------------------------------------------------------------------------------------------------


def test_compare_on_a_population(quantsim):
    args = ("compare", "bf16", "int8:channel", "int4:block32", "--shape", 64, 512, "--population", "laplace(std=0.02)")
    code, shown, message = quantsim(*args, "--json")
    rows = json.loads(shown)
    assert (code, message) == (0, "")
    assert [r["spec"] for r in rows] == ["bf16", "int8:channel", "int4:block32"]
    for r in rows:
        assert 0 < r["sqnr_db_se"] <= 0.02
        assert (r["population"], r["shape"], r["count"] % (64 * 512)) == ("laplace(std=0.02)", [64, 512], 0)
        assert r["bits_per_weight"] == qs.parse(r["spec"]).bits_per_weight((64, 512))
        assert r["sqnr_db"] == pytest.approx(-20 * np.log10(r["rel_rms"]))
        assert abs(r["sqnr_db"] - r["predicted_sqnr_db"]) < 4 * r["sqnr_db_se"]
        assert r["exact"] is False
    lines = quantsim(*args)[1].splitlines()
    assert lines[0].split() == ["spec", "bits", "SQNR", "dB", "±", "se", "predicted", "‖e‖/‖w‖"]
    assert [line.split()[:3] for line in lines[1:]] == [
        [r["spec"], f"{r['bits_per_weight']:.3f}", f"{r['sqnr_db']:.3f}"] for r in rows
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source(weights=Path("w.npy"), population="t5"), "^population: of drawn weights"),
        (Source(weights=Path("w.npy"), seed=0), "^seed: of drawn weights"),
        (
            Source(weights=Path("w.npy"), population="normal", shape=(1, 2), seed=1),
            "^population, shape, seed: of drawn",
        ),
        (Source(tensor="up"), "tensor: of a file"),
    ],
)
def test_what_would_be_ignored_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        compared([qs.parse("bf16")], source)


# --- a file ---------------------------------------------------------------------------------------------------------


def test_what_is_sure_is_drawn_less_often():
    """A scale for each of these tensors needs some hundreds of them, a scale for a block of 32 a few."""
    specs = ["int8:tensor", "int8:block32", "int4:tensor"]
    rows = list(compared([qs.parse(spec) for spec in specs], Source(shape=(16, 512))))
    counts = {row["spec"]: row["count"] for row in rows}
    assert [row["spec"] for row in rows] == specs
    assert counts["int8:block32"] < counts["int8:tensor"] == counts["int4:tensor"]  # of one program
    for row in rows:
        assert row["sqnr_db_se"] <= 0.02
        assert abs(row["sqnr_db"] - row["predicted_sqnr_db"]) < 5 * row["sqnr_db_se"]


def test_compare_on_a_file(quantsim, tmp_path):
    w = uniform()
    scale = np.abs(w).max() / np.float32(127)
    e = np.round(w / scale) * scale - w
    save_file({"up": w, "down": w * 2}, tmp_path / "w.safetensors")
    code, shown, _ = quantsim("compare", "int8:tensor", "bf16", "--weights", tmp_path / "w.safetensors", "--json")
    rows = json.loads(shown)
    names = [(t, s) for t in ("down", "up") for s in ("int8:tensor", "bf16")]
    assert (code, [(r["tensor"], r["spec"]) for r in rows]) == (0, names)
    assert rows[2]["rel_rms"] == pytest.approx(norm(e) / norm(w), rel=512 * 2.0**-24)
    assert rows[0]["max_abs"] == 2 * rows[2]["max_abs"] == 2 * float(np.abs(e).max())
    table = quantsim("compare", "bf16", "--weights", tmp_path / "w.safetensors", "--tensor", "up")[1].splitlines()
    assert (table[0].split()[:2], table[1].split()[:2], len(table)) == (["tensor", "spec"], ["up", "bf16"], 2)


def write_safetensors(path, tensors):
    """A file of (type, shape, bytes) by name, of types too that NumPy lacks."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def f32(array):
    array = np.asarray(array, "<f4")
    return "F32", list(array.shape), array.tobytes()


#: What stands in checkpoints beside matrices, and a word of the reason why q8_0 cannot measure it.
BESIDE = {
    "bias": (f32(np.ones(48)), "48"),
    "conv": (f32(np.ones((8, 8, 3, 3))), "3"),
    "fp6": (("F6_E2M3", [4, 4], bytes(12)), "stored as F6_E2M3, which cannot be read"),
    "steps": (("I64", [2], bytes(16)), "stored as I64, integers are read by name"),
    "mask": (("BOOL", [3], bytes(3)), "stored as BOOL, which cannot be read"),
    "nothing": (f32(np.ones((0, 32))), "empty, shape"),
    "broken": (f32([[1.0, np.nan] * 16]), "index (0, 1)"),
}


@pytest.fixture
def checkpoint(tmp_path):
    """A matrix, and beside it what cannot be measured in q8_0."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"matrix": f32(uniform((8, 256)))} | {name: t for name, (t, _) in BESIDE.items()})
    return path


def test_what_can_be_measured_is_and_the_rest_is_named_with_the_reason(quantsim, checkpoint):
    expected = qs.weight_error(uniform((8, 256)), qs.parse("q8_0"))
    calls = {"compare": ("q8_0", "--weights", checkpoint), "matrix": (checkpoint, "--format", "q8_0")}
    for name, args in calls.items():
        code, shown, message = quantsim(name, *args, "--json")
        (row,) = np.atleast_1d(json.loads(shown))
        assert (code, row["tensor"], row["exact"]) == (0, "matrix", False)
        assert row["rel_rms"] == pytest.approx(expected.rel_rms, rel=1e-6)
        said = {line.split(": left out ")[1].split(": ")[0]: line for line in message.splitlines()}
        assert set(said) == {repr(name) for name in BESIDE}
        for tensor, (_, reason) in BESIDE.items():
            assert reason in said[repr(tensor)]
            assert said[repr(tensor)].startswith(f"quantsim: {checkpoint}: ")


def test_a_format_that_a_tensor_does_not_fit_leaves_the_others(quantsim, checkpoint):
    args = ("compare", "q8_0", "bf16", "--weights", checkpoint, "--json")
    code, shown, message = quantsim(*args)
    found = {(r["tensor"], r["spec"]) for r in json.loads(shown)}
    assert (code, found) == (0, {(t, "bf16") for t in ("matrix", "bias", "conv")} | {("matrix", "q8_0")})
    assert "left out 'bias': q8_0: " in message


@pytest.mark.parametrize("tensor", [n for n in BESIDE if n != "steps"])
def test_a_tensor_that_was_asked_for_must_be_measurable(quantsim, checkpoint, tensor):
    for args in (("compare", "q8_0", "--weights", checkpoint), ("matrix", checkpoint, "--format", "q8_0")):
        code, shown, message = quantsim(*args, "--tensor", tensor)
        assert (code in (2, 3), shown) == (True, "")
        assert BESIDE[tensor][1] in message


def test_a_file_of_which_nothing_can_be_measured_is_a_bad_file(quantsim, tmp_path):
    path = tmp_path / "biases.safetensors"
    write_safetensors(path, {name: BESIDE[name][0] for name in ("bias", "conv", "fp6")})
    for args in (("compare", "q8_0", "--weights", path), ("matrix", path, "--format", "q8_0")):
        code, shown, message = quantsim(*args)
        assert (code, shown) == (3, "")
        assert message.splitlines()[-1].startswith(f"quantsim: {path}: holds nothing that q8_0 can")


def test_a_reader_raises_or_says_what_it_leaves_out(checkpoint):
    said = {}
    assert [name for name, _ in weights(checkpoint, refused=said.__setitem__)] == ["bias", "conv", "matrix"]
    assert set(said) == {"fp6", "steps", "mask", "nothing", "broken"}
    with pytest.raises(TensorError, match="'broken' cannot be weights") as caught:
        list(weights(checkpoint, "broken"))
    assert (caught.value.tensor, isinstance(caught.value, CheckpointError)) == ("broken", True)
    with pytest.raises(TensorError, match="'nothing' is empty"):
        list(read(checkpoint))


# --- exact, no number, no character -----------------------------------------------------------------------------------

SQNR = {
    "no error": (np.ones((2, 32)), "exact", True),
    "neither signal nor error": (np.zeros((2, 32)), "exact", True),
    "an error": (np.full((2, 32), 1 + 2.0**-12), "", False),
}


@pytest.mark.parametrize("what", SQNR)
def test_an_exact_result_is_called_so_in_tables_and_in_json(quantsim, tmp_path, what):
    w, shown, exact = SQNR[what]
    np.save(tmp_path / "w.npy", w.astype(np.float32))
    row = json.loads(quantsim("compare", "bf16", "--weights", tmp_path / "w.npy", "--json")[1])[0]
    assert (row["exact"], row["sqnr_db"] is None) == (exact, exact)
    assert json.loads(quantsim("matrix", tmp_path / "w.npy", "--format", "bf16", "--json")[1])["exact"] == exact
    line = quantsim("compare", "bf16", "--weights", tmp_path / "w.npy")[1].splitlines()[1].split()
    assert line[3] == (shown or f"{row['sqnr_db']:.3f}")


def test_what_is_no_number_is_called_so():
    row = {"bits_per_weight": 8.0, "sqnr_db": np.nan, "sqnr_db_se": np.nan, "rel_rms": np.nan, "max_abs": 1.0}
    assert metrics(row) == ("8.000", "nan", "", "", "nan")
    assert metrics(row | {"sqnr_db": -np.inf})[1] == "-inf"
    assert metrics(row | {"max_abs": 0.0})[1] == "exact"
    assert plain(with_exact(row))["sqnr_db"] is None
    assert not with_exact(row)["exact"]


NAMES = ("up\x1b[2J", "bell\x07", "c1\x9b31m", "back\u202ewards", "line\nbreak", "tab\tbed", "del\x7f", "nul\x00")


def test_names_from_a_file_reach_the_terminal_as_text(quantsim, tmp_path):
    path = tmp_path / "w.safetensors"
    left_out = {f"{name}6": BESIDE["fp6"][0] for name in NAMES}
    write_safetensors(path, {name: f32(uniform((2, 32))) for name in NAMES} | left_out)
    for args in (("compare", "bf16", "--weights", path), ("matrix", path), ("matrix", path, "--json")):
        code, shown, message = quantsim(*args)
        assert code == 0
        assert all(c.isprintable() or c == "\n" for c in shown + message)
    rows = json.loads(quantsim("compare", "bf16", "--weights", path, "--json")[1])
    assert {r["tensor"] for r in rows} == set(NAMES), "JSON gives the names back"
    code, _, message = quantsim("compare", "bf16", "--weights", path, "--tensor", "no\x1b[2J")
    assert (code, "\x1b" in message) == (3, False)


def test_json_escapes_what_a_terminal_would_obey_and_reads_back():
    value = {"name": "".join(NAMES), "words": "σ ≤ ½ 量化", "far": "\U000e0001"}
    text = terminal.json_text(value)
    assert json.loads(text) == value
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "σ ≤ ½ 量化" in text
