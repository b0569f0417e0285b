"""Two checkpoints: what was lost, and whether the formats of the second allow it."""

import json

import gguf
import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import save_file

import quantsim as qs
from quantsim import inspection
from quantsim.checkpoints import CheckpointError
from quantsim.cli.commands import main
from quantsim.inspection.comparing import ALLOWED, EXACT, PLACES, SEARCHED, UNKNOWN, WORSE
from tests import checkpoint_files
from tests import inspected_files as files

TENSOR = "blk.3.ffn_up"


def verdicts(found):
    return found.rows.by("tensor", "verdict")


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "IQ4_NL"])
def test_an_honest_file_is_as_its_format_allows(tmp_path, kind):
    found = inspection.compare(files.PATH, files.as_gguf(tmp_path / "made.gguf", kind))
    tensors = files.tensors()
    assert set(verdicts(found)) == set(tensors)
    assert found.is_as_allowed
    for row in found.rows:
        w = tensors[row["tensor"]].astype(np.float64)
        if w.ndim == 1:
            assert row["verdict"] == EXACT
            continue
        e = (
            gguf.quants.dequantize(
                np.asarray(qs.gguf.pack(w.astype(np.float32), kind)), gguf.GGMLQuantizationType[kind]
            )
            - w
        )
        assert row["verdict"] == ALLOWED
        assert row["ratio"] == pytest.approx(1, abs=1e-12)
        assert_allclose(row["rel_rms"], np.sqrt((e * e).sum() / (w * w).sum()), rtol=1e-12)
        assert row["max_abs"] == pytest.approx(np.abs(e).max(), rel=1e-12)
        assert row["max_at"] == list(np.unravel_index(np.abs(e).argmax(), w.shape))


def test_a_tensor_packed_from_other_weights(tmp_path):
    other = np.asarray(qs.gguf.pack(files.tensors()[TENSOR] * 1.1, "Q4_0"))
    found = inspection.compare(files.PATH, files.as_gguf(tmp_path / "made.gguf", changed={TENSOR: other}))
    assert {name for name, verdict in verdicts(found).items() if verdict in (WORSE, PLACES)} == {TENSOR}
    assert verdicts(found)[TENSOR] == WORSE


def test_one_block_with_a_wrong_scale_is_found(tmp_path):
    packed = np.array(qs.gguf.pack(files.tensors()[TENSOR], "Q8_0"))
    packed[7, :2] = np.array([0.0], np.float16).view(np.uint8)
    found = inspection.compare(files.PATH, files.as_gguf(tmp_path / "made.gguf", "Q8_0", {TENSOR: packed}))
    (row,) = found.rows.where(tensor=TENSOR)
    assert row["verdict"] == PLACES
    assert (row["worse_blocks"], row["worse_at"]) == (1, [7, 0])
    assert not found.is_as_allowed


@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL"])
def test_an_imatrix_is_no_fault(tmp_path, kind):
    rng = np.random.default_rng(0)
    packed = {}
    for name, w in files.tensors().items():
        if w.ndim == 2:
            imatrix = np.exp(2 * rng.normal(size=w.shape[1])).astype(np.float32)
            packed[name] = np.asarray(qs.gguf.pack(w, kind, imatrix=imatrix))
    found = inspection.compare(files.PATH, files.as_gguf(tmp_path / "made.gguf", kind, packed))
    assert found.is_as_allowed
    assert 1.001 < found.rows.where(tensor=TENSOR).one("ratio") < SEARCHED


def test_the_same_model_under_two_naming_schemes(tmp_path):
    rng = np.random.default_rng(0)
    names = {
        "model.layers.0.self_attn.q_proj.weight": ("blk.0.attn_q.weight", (64, 64)),
        "model.layers.0.self_attn.v_proj.weight": ("blk.0.attn_v.weight", (32, 64)),
        "model.layers.0.mlp.down_proj.weight": ("blk.0.ffn_down.weight", (64, 96)),
        "model.embed_tokens.weight": ("token_embd.weight", (100, 64)),
    }
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, (_, shape) in names.items()}
    save_file(arrays | {"model.extra": np.ones(3, np.float32)}, tmp_path / "hf.safetensors")
    writer = gguf.GGUFWriter(str(tmp_path / "made.gguf"), "llama")
    writer.add_head_count(4)
    for name, (short, _) in names.items():
        w = arrays[name]
        if short == "blk.0.attn_q.weight":  # as the converter turns the rows of LLaMA's heads
            w = w.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)
        writer.add_tensor(short, np.asarray(qs.gguf.pack(w, "Q8_0")), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = inspection.compare(tmp_path / "hf.safetensors", tmp_path / "made.gguf")
    assert set(verdicts(found).values()) == {ALLOWED}
    assert found.rows.by("tensor", "other") == {name: short for name, (short, _) in names.items()}
    assert found.rows.where(role="attn_q").one("note") == "rows of heads turned"
    assert found.only_original == ["model.extra"]


def test_a_format_that_quantsim_does_not_make_has_no_verdict(tmp_path):
    found = inspection.compare(files.PATH, files.as_fp8(tmp_path / "fp8.safetensors"))
    assert verdicts(found)[TENSOR] == UNKNOWN
    assert found.rows.where(tensor=TENSOR).one("sqnr_db") > 30


def test_files_with_nothing_in_common(tmp_path):
    save_file({"other": np.ones((2, 2), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="in common"):
        inspection.compare(files.PATH, tmp_path / "w.safetensors")


def test_other_shapes_are_not_compared(tmp_path):
    save_file({TENSOR: np.ones((2, 2), np.float32), "output": files.tensors()["output"]}, tmp_path / "w.safetensors")
    found = inspection.compare(files.PATH, tmp_path / "w.safetensors")
    assert [row["tensor"] for row in found.left_out] == [TENSOR]
    assert "(2, 2)" in found.left_out[0]["reason"]


def test_the_command(tmp_path, capsys):
    made = files.as_gguf(tmp_path / "made.gguf")
    main(["compare", str(files.PATH), str(made), "--top", "2"])
    text = capsys.readouterr().out
    assert "No tensor is worse than its format allows" in text
    other = np.asarray(qs.gguf.pack(files.tensors()[TENSOR] * 1.1, "Q4_0"))
    wrong = files.as_gguf(tmp_path / "wrong.gguf", changed={TENSOR: other})
    for options in (["--json"], ["--top", "1"]):
        with pytest.raises(SystemExit) as ended:
            main(["compare", str(files.PATH), str(wrong), *options])
        assert ended.value.code == 1
        said = capsys.readouterr()
        assert f"{wrong} is worse than its formats allow" in said.err
        if options == ["--json"]:
            assert not json.loads(said.out)["as_allowed"]
    text = said.out
    assert TENSOR in text.splitlines()[1]
    assert "made wrongly" in text


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K"])
def test_lost_blocks_are_found_in_formats_of_few_bits(tmp_path, kind):
    w = (np.random.default_rng(1).standard_t(4, (64, 1024)) * 0.02).astype(np.float32)
    lost = w.copy()
    lost[5, 256:512] = 0
    save_file({"w": w}, tmp_path / "w.safetensors")
    for name, packed_of, verdict in (("honest", w, ALLOWED), ("lost", lost, PLACES)):
        writer = gguf.GGUFWriter(str(tmp_path / f"{name}.gguf"), "llama")
        packed = np.asarray(qs.gguf.pack(packed_of, kind))
        writer.add_tensor("w", packed, raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        (row,) = inspection.compare(tmp_path / "w.safetensors", tmp_path / f"{name}.gguf").rows
        assert row["verdict"] == verdict
    assert row["worse_blocks"] == 1
    assert row["worse_at"] == [5, 256]


def test_arrays_are_matched_whatever_their_files_are_called(tmp_path):
    w = np.ones((4, 8), np.float32)
    np.save(tmp_path / "a.npy", w)
    np.save(tmp_path / "b.npy", w)
    assert inspection.compare(tmp_path / "a.npy", tmp_path / "b.npy").rows.values("verdict") == [EXACT]


@pytest.mark.parametrize("scaled", [False, True])
def test_fp8_is_judged_where_nobody_chose_its_scales(tmp_path, scaled):
    w = np.random.default_rng(2).normal(size=(8, 64)).astype(np.float32)
    held = {"w.weight": ("F8_E4M3", w.shape, w.astype(ml_dtypes.float8_e4m3fn).tobytes())}
    if scaled:
        held["w.weight_scale"] = checkpoint_files.f32(1.0)
    (tmp_path / "made.safetensors").write_bytes(checkpoint_files.safetensors(held))
    save_file({"w.weight": w}, tmp_path / "w.safetensors")
    (row,) = inspection.compare(tmp_path / "w.safetensors", tmp_path / "made.safetensors").rows
    assert row["verdict"] == (UNKNOWN if scaled else ALLOWED)
