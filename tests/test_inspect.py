"""``inspect`` and ``quantsim inspect``: every number against float64 NumPy on the files that people have."""

import csv
import io
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import save_file

import quantsim as qs
from quantsim import inspection
from quantsim.checkpoints import CheckpointError
from quantsim.cli.commands import main
from quantsim.inspection import Importance, Selection, inspecting
from quantsim.inspection.emitting import CannotEmitError
from quantsim.inspection.kept import KeptRows
from quantsim.rows import Rows
from tests import inspected_files as files

SPECS = ("q8_0", "q4_0", "int8:channel", "nvfp4")
FEW = ("--include", "blk.0.*", "output*")  # tensors of the model: enough for what does not depend on how many
FEW_SELECTED = Selection(include=FEW[1:])
SUMS = 4096 * 2.0**-24  # relative error of a float32 sum of a tile


@pytest.fixture(scope="module")
def found():
    return qs.inspect(files.PATH, SPECS, budget=6.0)


def check_errors(errors, weights):
    """Rows of errors against float64 NumPy on these weights."""
    assert errors
    for row in errors:
        w = weights[row["tensor"].removesuffix(".weight")]
        e = np.asarray(qs.parse(row["used"]).roundtrip(w), np.float64) - w
        rel_rms = np.sqrt((e * e).sum() / np.square(w, dtype=np.float64).sum())
        assert_allclose(row["rel_rms"], rel_rms, rtol=SUMS)
        assert_allclose(row["sqnr_db"], -20 * np.log10(rel_rms), rtol=SUMS)
        assert_allclose(row["damage"], rel_rms**2, rtol=2 * SUMS)
        assert_allclose(row["mean_abs"], np.abs(e).mean(), rtol=SUMS)
        assert row["max_abs"] == np.abs(e).max()
        assert row["bits_per_weight"] == qs.parse(row["used"]).bits_per_weight(w.shape)


def test_every_number_equals_numpys(found):
    tensors = files.tensors()
    assert [row["tensor"] for row in found.tensors] == sorted(tensors)
    for row in found.tensors:
        a = tensors[row["tensor"]].astype(np.float64)
        rms = np.sqrt(np.mean(a * a))
        assert row["shape"] == list(a.shape)
        assert_allclose(row["sigma"], rms, rtol=SUMS)
        assert_allclose(row["crest"], np.abs(a).max() / rms, rtol=SUMS)
        assert_allclose(row["kurtosis"], np.mean(a**4) / rms**4, rtol=3 * SUMS)
        assert row["beyond_3"] == np.mean(np.abs(a) > 3 * row["sigma"])
        assert a[tuple(row["extreme_at"])] == row["extreme"]
        assert sum(row["magnitude_counts"]) == np.count_nonzero(a)
        assert row["stored_bits"] == 16
    check_errors(found.errors, tensors)
    matrices = [name for name, w in tensors.items() if w.ndim == 2]
    assert len(found.errors) == len(matrices) * len(SPECS)


def test_the_whole_model_in_each_format(found):
    tensors = files.tensors()
    weights = sum(w.size for w in tensors.values())
    for choice in found.uniform:
        q, rows = qs.parse(choice.spec), found.errors.where(spec=choice.spec)
        bits = sum((q.bits_per_weight(w.shape) if w.ndim == 2 else 16) * w.size for w in tensors.values())
        assert_allclose(choice.bits_per_weight, bits / weights)
        assert_allclose(choice.damage, rows.column("damage").sum())
    assert [u.bits_per_weight for u in found.uniform] == sorted(u.bits_per_weight for u in found.uniform)


def test_the_mixture_keeps_the_budget_and_is_no_worse_than_one_format(found):
    advice = found.advice
    assert advice.bits_per_weight <= 6.0
    chosen = [found.errors.where(tensor=n, used=f) for n, f in advice.allocation.formats.items() if f != "as stored"]
    assert_allclose(sum(rows[0]["damage"] for rows in chosen), advice.allocation.damage)
    assert advice.allocation.damage <= min(u.damage for u in found.uniform if u.bits_per_weight <= 6.0)
    assert advice.gain >= 1
    bits, damage = np.array([(p.bits, p.damage) for p in found.frontier]).T
    assert advice.allocation.damage >= np.interp(advice.bits_per_weight, bits, damage) * (1 - 1e-9)


def test_what_is_kept_takes_half_of_the_damage(found):
    reference = found.errors.where(spec=found.reference).by("tensor", "damage")
    best = {name: min(rows.column("damage")) for (name,), rows in found.errors.groups("tensor").items()}
    gone = sum(reference[k.tensor] - best[k.tensor] for k in found.keep)
    assert gone >= sum(reference.values()) / 2
    without_last = gone - reference[found.keep[-1].tensor] + best[found.keep[-1].tensor]
    assert without_last < sum(reference.values()) / 2


def test_a_gguf_file_is_dequantized_and_says_so(tmp_path):
    path = files.as_gguf(tmp_path / "made.gguf")
    stored = {t.name.removesuffix(".weight"): t for t in gguf.GGUFReader(path).tensors}
    dequantized = {name: gguf.quants.dequantize(t.data, t.tensor_type) for name, t in stored.items()}
    found = qs.inspect(path, ("q8_0", "int8:channel"), select=FEW_SELECTED)
    assert found.quantized
    assert {row["type"] for row in found.tensors} == {"Q4_0", "F32"}
    check_errors(found.errors, dequantized)


def test_shards_are_one_model(tmp_path):
    one, sharded = (
        qs.inspect(path, ("q8_0", "q4_0"), budget=6.0, select=FEW_SELECTED)
        for path in (files.PATH, files.as_shards(tmp_path / "model"))
    )
    assert sorted(sharded.tensors, key=str) == sorted(one.tensors, key=str)
    assert sorted(sharded.errors, key=str) == sorted(one.errors, key=str)
    assert sharded.advice.allocation.damage == pytest.approx(one.advice.allocation.damage)


def test_fp8_is_multiplied_by_its_scale(tmp_path):
    found = qs.inspect(files.as_fp8(tmp_path / "fp8.safetensors"), ("int8:channel",), select=FEW_SELECTED)
    tensors = files.tensors()
    for row in found.tensors:
        if row["type"] == "F8_E4M3":
            assert_allclose(row["max_abs"], np.abs(tensors[row["tensor"].removesuffix(".weight")]).max(), rtol=2**-4)
            assert row["scaled_by"]


def test_an_array(tmp_path):
    w = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    np.save(tmp_path / "w.npy", w)
    check_errors(qs.inspect(tmp_path / "w.npy", ("q8_0", "int8:channel")).errors, {"w": w})


def test_matrices_that_are_stored_inputs_first(tmp_path):
    w = np.random.default_rng(0).standard_t(4, (64, 96)).astype(np.float32)
    names = {"wpe.weight": np.ones((4, 64), np.float32), "h.0.attn.c_proj.weight": w, "h.0.mlp.c_fc.weight": w}
    save_file(names, tmp_path / "model.safetensors")
    found = qs.inspect(tmp_path / "model.safetensors", ("int4:channel",), select=Selection(include=("*c_fc*",)))
    check_errors(found.errors, {"h.0.mlp.c_fc": np.ascontiguousarray(w.T)})
    assert w[tuple(found.tensors[0]["extreme_at"])] == found.tensors[0]["extreme"]


def test_llama_cpps_fallbacks_stand_in(found):
    del found
    rows = qs.inspect(files.PATH, ("q4_k",), select=Selection(include=("blk.0.attn_q",))).errors
    assert [(row["spec"], row["used"]) for row in rows] == [("q4_k", "q5_0")]


def test_an_imatrix_weighs(tmp_path):
    columns = np.exp(np.random.default_rng(0).normal(size=32)).astype(np.float32)
    save_file({"blk.0.attn_q": columns}, tmp_path / "imatrix.safetensors")
    select = Selection(include=("blk.0.attn_q",))
    found = qs.inspect(
        files.PATH, ("int8:channel",), select=select, importance=Importance(tmp_path / "imatrix.safetensors")
    )
    w = files.tensors()["blk.0.attn_q"].astype(np.float64)
    e = np.asarray(qs.parse("int8:channel").roundtrip(w.astype(np.float32)), np.float64) - w
    assert_allclose(found.errors[0]["damage"], (e * e * columns).sum() / (w * w * columns).sum(), rtol=4 * SUMS)


def test_llama_cpps_imatrix(tmp_path):
    sums = np.arange(1, 33, dtype=np.float32)
    writer = gguf.GGUFWriter(str(tmp_path / "imatrix.gguf"), "imatrix")
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", sums[None])
    writer.add_tensor("blk.0.attn_q.weight.counts", np.array([[4.0]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (name,), (columns,) = zip(*inspection.importances.read_imatrix(tmp_path / "imatrix.gguf").items(), strict=True)
    assert name == "blk.0.attn_q"
    assert columns.tolist() == (sums / 4).tolist()


def test_squared_gradients_give_nats(tmp_path):
    w = files.tensors()["blk.0.attn_q"].astype(np.float64)
    squares = np.random.default_rng(0).exponential(size=w.shape).astype(np.float32)
    save_file({"blk.0.attn_q": squares}, tmp_path / "gradients.safetensors")
    select = Selection(include=("blk.0.attn_q",))
    importance = Importance(gradients=tmp_path / "gradients.safetensors")
    found = qs.inspect(files.PATH, ("q4_0",), select=select, importance=importance)
    e = np.asarray(qs.parse("q4_0").roundtrip(w.astype(np.float32)), np.float64) - w
    assert found.unit == "nats"
    assert_allclose(found.errors[0]["damage"], (squares * e * e).sum() / 2, rtol=4 * SUMS)


def test_tensors_that_cannot_be_read_are_named(tmp_path):
    good = np.ones((4, 64), np.float32)
    bad = good.copy()
    bad[1, 3] = np.nan
    save_file({"bad": bad, "good": good, "ids": np.arange(4)}, tmp_path / "w.safetensors")
    found = qs.inspect(tmp_path / "w.safetensors", ("q8_0",))
    assert [row["tensor"] for row in found.tensors] == ["good"]
    reasons = found.refused.by("tensor", "reason")
    assert "(1, 3)" in reasons["bad"] or "67" in reasons["bad"]
    assert "integers" in reasons["ids"]


def test_nothing_to_inspect(tmp_path):
    with pytest.raises(CheckpointError, match="no tensor of that name"):
        qs.inspect(files.PATH, SPECS, select=Selection(include=("nothing*",)))
    save_file({"ids": np.arange(4)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no tensor can be measured"):
        qs.inspect(tmp_path / "w.safetensors", SPECS)
    with pytest.raises(ValueError, match="add smaller formats"):
        qs.inspect(files.PATH, ("q8_0",), budget=2.0, select=FEW_SELECTED)


def test_what_is_finished_is_kept_until_the_inspection_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTSIM_CACHE", str(tmp_path))
    seen, rows_of = [], inspecting.rows_of

    def stopping(checkpoint, entry, role, request, tick):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(entry.name)
        return rows_of(checkpoint, entry, role, request, tick)

    monkeypatch.setattr(inspecting, "rows_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        qs.inspect(files.PATH, ("int8:channel",), select=FEW_SELECTED)
    assert len(list((tmp_path / "inspected").glob("*.jsonl"))) == 1
    monkeypatch.setattr(inspecting, "rows_of", rows_of)
    first, again = list(seen), []

    def counting(checkpoint, entry, role, request, tick):
        again.append(entry.name)
        return rows_of(checkpoint, entry, role, request, tick)

    monkeypatch.setattr(inspecting, "rows_of", counting)
    resumed = qs.inspect(files.PATH, ("int8:channel",), select=FEW_SELECTED)
    assert not set(first) & set(again)
    assert not list((tmp_path / "inspected").glob("*.jsonl"))
    whole = qs.inspect(files.PATH, ("int8:channel",), select=FEW_SELECTED)
    assert json.dumps(resumed.rows(), default=str) == json.dumps(whole.rows(), default=str)


def test_rows_that_were_cut_short_are_measured_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('["a", [{"kind": "tensor"}]]\n["b", [{"ki')
    kept = KeptRows(path)
    assert kept.get("a") == [{"kind": "tensor"}]
    assert kept.get("b") is None


# --- the command ----------------------------------------------------------------------------------------------------


def ran(capsys, *args) -> str:
    main(["inspect", *map(str, args)])
    return capsys.readouterr().out


def test_the_tables(capsys):
    text = ran(capsys, files.PATH, *FEW, "--formats", "q8_0", "q4_0", "--budget", "6", "--top", "3")
    assert "11 tensors" in text
    assert "largest outliers: 3 of 8 matrices" in text
    assert "under 6 bits per weight" in text
    assert max(map(len, text.splitlines()[2:8])) <= 120


def test_json_and_csv_hold_the_rows(capsys):
    found = qs.inspect(files.PATH, ("q8_0", "q4_0"), budget=6.0, select=FEW_SELECTED)
    rows = Rows(json.loads(ran(capsys, files.PATH, *FEW, "--formats", "q8_0", "q4_0", "--budget", "6", "--json")))
    assert len(rows) == len(found.rows())
    assert rows.where(kind="error")[0]["rel_rms"] == found.errors[0]["rel_rms"]
    lines = list(csv.DictReader(io.StringIO(ran(capsys, files.PATH, *FEW, "--formats", "q8_0", "q4_0", "--csv"))))
    assert [float(line["rel_rms"]) for line in lines] == found.errors.column("rel_rms").tolist()


def test_the_mixture_for_other_programs(tmp_path, found):
    ggufs = qs.inspect(files.PATH, ("q8_0", "q4_0"), budget=6.0, select=FEW_SELECTED)
    formats = ggufs.advice.allocation.formats
    lines = inspection.emitted(ggufs, Path("types.txt")).splitlines()
    assert f"blk\\.0\\.attn_q\\.weight={formats['blk.0.attn_q']}" in lines
    chosen = {name: spec for name, spec in formats.items() if spec != "as stored"}
    assert json.loads(inspection.emitted(ggufs, Path("types.json"))) == chosen
    held = {}
    exec(inspection.emitted(ggufs, Path("types.py")), held)
    assert held["FORMATS"] == chosen
    with pytest.raises(CannotEmitError, match="ends in"):
        inspection.emitted(ggufs, Path("types.yaml"))
    if set(found.advice.allocation.formats.values()) & {"nvfp4", "int8:channel"}:
        with pytest.raises(CannotEmitError, match="no GGUF file holds"):
            inspection.emitted(found, tmp_path / "types.txt")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--json", "--csv"], 2, "leave one of them out"),
        (["--emit", "types.txt"], 2, "--budget"),
        (["--formats", "q9_9"], 2, "q9_9"),
        (["--budget", "1", *FEW], 2, "smallest formats"),
        (["--include", "nothing"], 3, "no tensor of that name"),
        (["--imatrix", str(files.PATH)], 3, "importance below 0"),
    ],
)
def test_what_is_wrong_is_said(capsys, args, code, message):
    with pytest.raises(SystemExit) as stopped:
        main(
            ["inspect", str(files.PATH), "--formats", "q8_0", *args]
            if "--formats" not in args
            else ["inspect", str(files.PATH), *args]
        )
    assert stopped.value.code == code
    assert message in capsys.readouterr().err


def test_the_figure(tmp_path, capsys):
    ran(capsys, files.PATH, *FEW, "--formats", "q8_0", "--budget", "9", "--figures", tmp_path)
    first = {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    assert set(first) == {"inspection.pdf", "inspection.svg", "inspection.png", "inspection.jsonl"}
    ran(capsys, files.PATH, *FEW, "--formats", "q8_0", "--budget", "9", "--figures", tmp_path)
    assert first == {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())}


def test_markup_in_names_reaches_neither_terminal_nor_figure(tmp_path, capsys):
    w = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    name = "blk.0.\x1b[31m$\\frac{a}$<b>.attn_q"
    save_file({name: w}, tmp_path / "w.safetensors")
    text = ran(capsys, tmp_path / "w.safetensors", "--formats", "q8_0", "--figures", tmp_path / "out")
    assert "\x1b" not in text
    assert (tmp_path / "out" / "inspection.png").exists()


def test_a_tensor_that_a_format_does_not_take_may_stay_as_it_is(tmp_path):
    rng = np.random.default_rng(0)
    save_file(
        {"a": rng.normal(size=(64, 64)).astype(np.float32), "b": rng.normal(size=(32, 36)).astype(np.float32)},
        tmp_path / "w.safetensors",
    )
    found = qs.inspect(tmp_path / "w.safetensors", ["q8_0", "mxfp4"], budget=20.0)
    assert found.advice.best_uniform.spec == "q8_0"
    assert found.advice.allocation.damage <= found.advice.best_uniform.damage


@pytest.mark.parametrize("budget", [float("nan"), 0.0, -1.0, float("inf")])
def test_a_budget_is_a_positive_number(tmp_path, budget):
    np.save(tmp_path / "w.npy", np.ones((32, 32), np.float32))
    with pytest.raises(ValueError, match="positive number of bits"):
        qs.inspect(tmp_path / "w.npy", ["q8_0"], budget=budget)


def test_stochastic_rounding_is_refused_at_once(tmp_path):
    np.save(tmp_path / "w.npy", np.ones((32, 32), np.float32))
    with pytest.raises(ValueError, match="draw to draw"):
        qs.inspect(tmp_path / "w.npy", ["q8_0", "int8:channel:stochastic"])


def test_a_file_on_the_grid_of_a_format_is_not_said_to_gain_without_bound(tmp_path, capsys):
    made = files.as_gguf(tmp_path / "made.gguf", "Q4_0")
    main(["inspect", str(made), "--formats", "q4_0", "q8_0", "--budget", "5.5", "--include", "blk.0.*"])
    said = capsys.readouterr().out
    assert "damage 0; q4_0 alone loses nothing either" in said
    assert "inf times" not in said
