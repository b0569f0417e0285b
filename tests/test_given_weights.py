"""Weights that a person gives to studies: where rows go, what they are known by, and what is measured of tensors."""

import hashlib
import json

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantsim.checkpoints import CheckpointError
from quantsim.lab import claims, plotting, provenance, runner, study
from quantsim.lab.given import Given, given
from quantsim.rows import load
from tests.fake_study import FAKE, command, files, registry, undraw

layers, distributions, granularity = (study.module(n) for n in ("layers", "distributions", "granularity"))
weights, matrices = layers.weights, study.importlib.import_module("quantsim.studies._matrices")

TAKES = '''

def measure_weights(config, given):
    """So many rows, of a file of so many bytes."""
    for i in range(config.cells):
        yield f"cell {i}", lambda i=i: [_row(i) | {"bytes": given.nbytes}]
'''


@pytest.fixture
def quantsim(capsys):
    return command(capsys)


@pytest.fixture
def register(tmp_path, monkeypatch):
    yield from registry(tmp_path, monkeypatch)


@pytest.fixture
def studies(register):
    """A fake study that takes weights, and one that does not."""
    return register(fake=FAKE + TAKES, other=FAKE.replace('"A01"', '"A02"'))


@pytest.fixture
def undrawn(monkeypatch):
    undraw(monkeypatch)


def saved(path, **tensors):
    """A file of these float32 tensors, with what Python cannot spell written as ``__`` for a dot."""
    arrays = {name.replace("__", "."): np.asarray(a, np.float32) for name, a in tensors.items()}
    save_file(arrays, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return saved(tmp_path / "model.safetensors", w=np.ones((4, 4)))


# --- the command ----------------------------------------------------------------------------------------------------


def test_rows_on_weights_lie_apart_and_write_no_ledger(quantsim, studies, undrawn, tmp_path, checkpoint):
    out = tmp_path / "out"
    assert quantsim("run", "fake", "--out", out)[0] == 0
    before = files(out)
    code, shown, _ = quantsim("run", "--weights", checkpoint, "--out", out)
    folder = out / "weights" / "model.safetensors"
    assert (code, files(out)) == (0, before)
    assert shown.startswith("fake: measured, 3 rows, ")
    assert shown.count("\n") == 1  # the study that takes none is not run
    assert set(files(folder)) == {f"fake.{kind}" for kind in ("jsonl", "json", "pdf", "svg", "png")}
    assert load(folder / "fake.jsonl")[0]["bytes"] == checkpoint.stat().st_size
    assert "fake: loaded (key matches), 3 rows" in quantsim("run", "--weights", checkpoint, "--out", out)[1]
    small = quantsim("run", "fake", "--small", "--weights", checkpoint, "--out", out)[1]
    assert small.startswith("fake: measured, 1 rows, ")
    assert f" -> {folder / 'small' / 'fake'}." in small


def test_provenance_names_the_file(studies, undrawn, tmp_path, checkpoint):
    runner.run("fake", tmp_path / "out", given=given(checkpoint))
    about = json.loads((tmp_path / "out" / "fake.json").read_text())
    assert about["weights_of"] == str(checkpoint)
    found = about["config"]["given"]
    assert found["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (found["path"], found["nbytes"]) == (str(checkpoint), checkpoint.stat().st_size)
    assert about["config"]["config"] == {"cells": 3}


def test_rows_are_known_by_the_content_of_the_file_wherever_it_lies(studies, undrawn, tmp_path, checkpoint):
    out = tmp_path / "out"

    def state(path):
        return runner.run("fake", out, given=given(path)).state

    moved = checkpoint.rename(tmp_path / "moved.safetensors")
    assert [state(moved), state(moved)] == ["measured", "loaded"]
    elsewhere = saved(tmp_path / "same.safetensors", w=np.ones((4, 4)))
    assert state(elsewhere) == "loaded"
    saved(elsewhere, w=np.full((4, 4), 2.0))  # of the same size
    assert state(elsewhere) == "measured"
    assert provenance.state_of(out, "fake", study.config_of("fake", False, given(moved))).word == "stale"


def test_an_interrupted_run_on_weights_goes_on(studies, undrawn, tmp_path, monkeypatch, checkpoint):
    row, out = study.module("fake")._row, tmp_path / "out"

    def failing(i):
        if i == 2:
            raise KeyboardInterrupt
        return row(i)

    monkeypatch.setattr(study.module("fake"), "_row", failing)
    with pytest.raises(KeyboardInterrupt):
        runner.run("fake", out, given=given(checkpoint))
    monkeypatch.setattr(study.module("fake"), "_row", row)
    assert runner.run("fake", out, given=given(checkpoint)).state == "resumed"


def test_a_study_that_takes_no_weights_says_which_do(quantsim, studies, tmp_path, checkpoint):
    code, _, said = quantsim("run", "other", "--weights", checkpoint, "--out", tmp_path / "out")
    assert (code, said.strip()) == (2, "quantsim: other takes no weights; those that do are fake")
    with pytest.raises(ValueError, match="other takes no weights; those that do are fake"):
        runner.run("other", tmp_path / "out", given=given(checkpoint))
    assert not (tmp_path / "out").exists()


def test_the_ledger_refuses_rows_on_weights(quantsim, studies, undrawn, tmp_path, checkpoint):
    quantsim("run", "--weights", checkpoint, "--out", tmp_path)
    folder = tmp_path / "weights" / "model.safetensors"
    code, _, said = quantsim("claims", "--out", folder)
    assert code == 2
    assert f"are of {checkpoint} and settle nothing" in said
    with pytest.raises(ValueError, match="settle nothing"):
        claims.ledger(runner.settled(folder))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_that_is_none_ends_before_anything_is_written(quantsim, studies, tmp_path, jobs):
    code, _, said = quantsim("run", "--jobs", jobs, "--weights", tmp_path / "none.gguf", "--out", tmp_path / "out")
    assert code == 3
    assert "none.gguf" in said
    assert not (tmp_path / "out").exists()


def test_the_real_studies_that_take_weights():
    sources = {name: (study.folder() / f"{name}.py").read_text(encoding="utf-8") for name in study.names()}
    those = [name for name, source in sources.items() if "def measure_weights(config: Config, given: Given)" in source]
    assert those == ["distributions", "granularity", "layers"]
    assert all(study.takes_weights(name) for name in those)


# --- which tensors --------------------------------------------------------------------------------------------------


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    """Two layers: names of Llama's, an outlier, a matrix of zeros, a NaN, a norm, a table of positions."""
    tensors = {}
    for layer in range(2):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.mlp.down_proj.weight": normal(8, 96, seed=layer),
            f"{at}.self_attn.q_proj.weight": normal(16, 64, seed=10 + layer),
            f"{at}.input_layernorm.weight": normal(8),
        }
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = 50.0
    tensors["model.layers.0.self_attn.k_proj.weight"] = np.zeros((4, 64))
    tensors["model.layers.0.self_attn.v_proj.weight"] = np.where(np.eye(4, 64) > 0, np.nan, 1)
    tensors["model.embed_tokens.weight"] = normal(32, 64, seed=20)
    tensors["model.decoder.embed_positions.weight"] = normal(32, 64, seed=20)
    return saved(tmp_path / "model.safetensors", **tensors), tensors


def test_matrices_in_the_order_in_which_data_flow(model):
    found = [tensor.entry.name for tensor in weights.tensors(given(model[0]))]
    short = [name.removeprefix("model.").removesuffix(".weight") for name in found]
    at = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
    assert short == [
        *(f"layers.0.{name}" for name in at),
        "layers.1.self_attn.q_proj",
        "layers.1.mlp.down_proj",
        "embed_tokens",
    ]


def test_a_sample_is_the_same_tensors_in_the_same_order(model):
    whole = given(model[0])
    few = Given(whole.path, whole.nbytes, whole.sha256, tensors=3)
    every, chosen = weights.tensors(whole), weights.sample(few)
    assert len(chosen) == 3
    assert [t for t in every if t in chosen] == chosen == weights.sample(few)
    assert weights.sample(whole) == [*every]


def test_rows_at_equal_distances_where_a_matrix_is_too_large(tmp_path):
    w = np.repeat(np.arange(100.0), 8).reshape(100, 8)
    path = saved(tmp_path / "w.safetensors", a=w)
    one, most = given(path), given(path)
    (tensor,) = weights.tensors(one)
    assert weights.matrix(one, tensor).shape == (100, 8)
    few = Given(most.path, most.nbytes, most.sha256, weights=8 * 12)
    assert weights.matrix(few, tensor)[:, 0].tolist() == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    one_row = Given(most.path, most.nbytes, most.sha256, weights=3)
    assert weights.matrix(one_row, tensor).shape == (1, 8)


def test_kernels_experts_and_what_is_stored_turned(tmp_path):
    c_attn, kernel, experts = normal(8, 24), normal(6, 4, 3, 3), normal(2, 5, 64)
    turned_up, turned_down = normal(2, 64, 320), normal(2, 160, 64)
    path = saved(
        tmp_path / "mixed.safetensors",
        **{
            "h.0.attn.c_attn.weight": c_attn,
            "wpe.weight": normal(4, 8),
            "down_blocks.0.resnets.0.conv1.weight": kernel,
            "blk.0.ffn_down_exps.weight": experts,
            "layers.0.mlp.experts.gate_up_proj": turned_up,
            "layers.0.mlp.experts.down_proj": turned_down,
        },
    )
    of = given(path)
    found = {t.entry.name: (t, weights.matrix(of, t)) for t in weights.tensors(of)}
    wanted = {
        "h.0.attn.c_attn.weight": c_attn.T,
        "down_blocks.0.resnets.0.conv1.weight": kernel.reshape(6, 36),
        "blk.0.ffn_down_exps.weight": experts.reshape(10, 64),
        "layers.0.mlp.experts.gate_up_proj": turned_up.swapaxes(1, 2).reshape(640, 64),
        "layers.0.mlp.experts.down_proj": turned_down.swapaxes(1, 2).reshape(128, 160),
    }
    assert found.keys() == wanted.keys()
    for name, (tensor, w) in found.items():
        assert tensor.shape == w.shape
        np.testing.assert_array_equal(w, wanted[name])


def test_a_file_without_a_matrix_is_refused(tmp_path):
    path = saved(tmp_path / "norms.safetensors", a=np.ones(4), blk__0__attn_norm__weight=np.ones((4, 4)))
    with pytest.raises(CheckpointError, match="no tensor is a matrix"):
        weights.tensors(given(path))
    integers = tmp_path / "codes.safetensors"
    save_file({"layers.0.q_proj.qweight": np.ones((4, 4), np.int32)}, integers)
    with pytest.raises(CheckpointError, match="is stored as I32, integers are read by name; so do all other matrices"):
        weights.tensors(given(integers))


# --- what is measured -----------------------------------------------------------------------------------------------


def test_spread_part_by_part_is_that_of_the_whole(tmp_path, monkeypatch):
    w = normal(50, 32) * np.linspace(0.5, 3, 50)[:, None]
    w[7, 3] = 40
    path = saved(tmp_path / "w.safetensors", blk__0__ffn_up__weight=w)
    of, wanted = given(path), matrices.spread("w", w.astype(np.float32))
    (tensor,) = weights.tensors(of)
    for at_once in (1, 32 * 7, 2**22):
        monkeypatch.setattr(weights, "_AT_ONCE", at_once)
        assert sum(len(part) for part in weights.parts(of, tensor)) == 50
        assert weights.spread(of, tensor) == pytest.approx(wanted, rel=1e-12)


def measured(module, of):
    """Rows of all cells of tensors; those of theory take most of the time."""
    cells = dict(module.measure_weights(module.Config(), of))
    return [row for name, compute in cells.items() if name != "families" for row in compute()]


def relative_error(w, levels):
    """‖e‖ / ‖w‖ of rows with a scale each, symmetric, in float64."""
    w = w.astype(np.float64)
    scale = np.abs(w).max(axis=1, keepdims=True) / levels
    return np.linalg.norm(np.round(w / scale) * scale - w) / np.linalg.norm(w)


def test_layers_are_measured_matrix_by_matrix_and_bad_ones_say_why(model):
    path, tensors = model
    found = measured(layers, given(path))
    good = {row["tensor"]: row for row in found if row["kind"] == "matrix"}
    bad = {row["tensor"]: row["why"] for row in found if row["kind"] == "left out"}
    assert bad.keys() == {"model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"}
    assert bad["model.layers.0.self_attn.k_proj.weight"] == "holds nothing but zeros"
    assert "model.embed_tokens.weight" not in good  # stands in no layer
    assert len(good) == 4
    for name, row in good.items():
        w = tensors[name]
        assert (row["layer"], row["type"]) == (int(name.split(".")[2]), "ffn_down" if "down" in name else "attn_q")
        assert row["w_max"] == pytest.approx(np.abs(w).max() / np.sqrt(np.mean(w.astype(np.float64) ** 2)), rel=1e-9)
        # the scale and its products are rounded to float32: 2^-23 of a weight, of an error of a tenth
        assert row["rel_rms"] == pytest.approx(relative_error(w, 7), rel=1e-5)


def test_tensors_lie_on_the_line_of_their_crest_factor(tmp_path):
    w = normal(256, 512, seed=3)
    path = saved(tmp_path / "w.safetensors", blk__0__ffn_up__weight=w)
    found = [row for row in measured(distributions, given(path)) if row["kind"] == "tensor"]
    by_spec = {row["spec"]: row for row in found}
    assert by_spec.keys() == {"bf16", "int8:tensor", "int8:channel", "int8:block32"}
    wide = w.astype(np.float64)
    rms = np.sqrt(np.mean(wide**2))
    tops = {"int8:tensor": np.abs(wide).max(), "int8:channel": np.abs(wide).max(axis=1)}
    tops["int8:block32"] = np.abs(wide.reshape(256, 16, 32)).max(axis=2)
    for spec, top in tops.items():
        assert by_spec[spec]["crest"] == pytest.approx(np.sqrt(np.mean(top**2)) / rms, rel=1e-6)
        # errors are uniform in a step, but for one exact weight in n: 10 log10(n / (n - 1)); units are 256 rows
        exact = {"int8:block32": 10 * np.log10(32 / 31)}.get(spec, 0.0)
        assert abs(by_spec[spec]["above_db"] - exact) < 4 * by_spec[spec]["above_db_se"] + 0.01
    assert by_spec["int8:channel"]["sqnr_db"] == pytest.approx(-20 * np.log10(relative_error(w, 127)), abs=1e-3)
    codes = np.abs(np.round(wide / tops["int8:tensor"] * 127)).ravel()
    held = by_spec["int8:tensor"]["codes"]
    assert np.mean(codes <= (held - 1) // 2) >= 0.99 > np.mean(codes <= (held - 3) // 2)


def test_a_tensor_under_every_cut(tmp_path):
    w = normal(64, 128, seed=4)
    path = saved(tmp_path / "w.safetensors", blk__0__ffn_up__weight=w)
    found = measured(granularity, given(path))
    cuts = [row for row in found if row["kind"] == "tensor"]
    sizes = [8, 16, 32, 64, 128, 64 * 128]
    assert [row["per_scale"] for row in cuts] == sizes
    assert [row["extra_bits"] for row in cuts] == pytest.approx([16 / size for size in sizes])
    for row, size in zip(cuts, sizes, strict=True):
        # scales are float16 here: a step that is off by 2^-11 moves each error by at most 127/2048 of a step
        assert row["sqnr_db"] == pytest.approx(-20 * np.log10(relative_error(w.reshape(-1, size), 127)), abs=0.05)
    (fan_in,) = (row for row in found if row["kind"] == "tensor fan_in")
    wanted = 20 * np.log10(relative_error(w.reshape(-1, 32), 127) / relative_error(w, 127))
    assert fan_in["fan_in"] == 128
    assert fan_in["finer_db"] == pytest.approx(wanted, abs=0.05)


def test_families_are_the_predictions_of_the_studies_own_rows(model):
    of = given(model[0])
    own = load(study.PACKAGE.parent / "paper_figures" / "distributions.jsonl").where(kind="sqnr")
    found = dict(distributions.measure_weights(distributions.Config(), of))["families"]()
    assert len(found) == len(own)
    for row in found:
        same = own.where(population=row["population"], spec=row["spec"])
        assert row["predicted_crest"] == pytest.approx(same.one("predicted_crest"), rel=1e-9)
        assert row["predicted_sqnr_db"] == pytest.approx(same.one("predicted_sqnr_db"), rel=1e-9)


# --- the figures ----------------------------------------------------------------------------------------------------


def gguf_of(path, tensors):
    writer = gguf.GGUFWriter(path, "llama")
    for name, w in tensors.items():
        writer.add_tensor(
            name, gguf.quants.quantize(w, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", ["distributions", "granularity", "layers"])
def test_figures_are_drawn_of_any_file(name, tmp_path):
    small = {f"blk.{i}.{kind}.weight": normal(32, 64, seed=i) for i, kind in enumerate(("attn_q", "ffn_down"))}
    paths = [saved(tmp_path / "one.safetensors", **small), gguf_of(tmp_path / "two.gguf", small)]
    folder = tmp_path / "three"
    folder.mkdir()
    shards = {key: f"model-{1 + k % 2:05d}-of-00002.safetensors" for k, key in enumerate(small)}
    for shard in set(shards.values()):
        saved(folder / shard, **{key: w for key, w in small.items() if shards[key] == shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    paths.append(folder)
    rows = [runner.run(name, tmp_path / "out" / path.name, small=True, given=given(path)).rows for path in paths]
    assert rows[0] == rows[2]
    assert len(rows[0]) == len(rows[1])
    for path in paths:
        assert (tmp_path / "out" / path.name / f"{name}.png").stat().st_size > 10_000


def test_a_deep_model_with_many_types_is_drawn(tmp_path):
    kinds = (
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_qkv",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "ssm_in",
        "ssm_x",
        "ssm_out",
    )
    tensors = {f"blk.{i}.{k}.weight": normal(4, 32, seed=i) for i in range(30) for k in kinds if (i + len(k)) % 3}
    of = given(saved(tmp_path / "deep.safetensors", **tensors))
    plotting.save(layers.draw(layers.Rows(measured(layers, of))), tmp_path, "deep")
    assert (tmp_path / "deep.png").stat().st_size > 10_000
