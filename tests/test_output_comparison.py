"""``compare`` with mitigations: outputs against NumPy, on inputs not calibrated on, from command to JSON."""

import json

import numpy as np
import pytest

import quantsim as qs
from quantsim import cli, mitigations
from quantsim.lab import output_comparison
from quantsim.lab.comparison import Source
from quantsim.lab.output_comparison import compare_outputs

SHAPE = (16, 64)
SMALL = Source(shape=SHAPE)
Q = qs.parse("int4:block32")


def test_doing_nothing_errs_as_numpy_says():
    """The same layers and inputs, multiplied in float64; float32 products round the outputs by less than 1e-6."""
    (row,) = compare_outputs([Q], [], SMALL, inputs="normal+channels(count=2,magnitude=20)")
    problems = list(output_comparison._problems(SMALL, qs.populations.parse_activations(row["inputs"])))
    assert len(problems) == output_comparison.LAYERS
    errors = signals = 0.0
    for problem in problems:
        w, x = (np.asarray(a, np.float64) for a in (problem.layer.weights, problem.inputs))
        e = np.asarray(Q.roundtrip(problem.layer.weights), np.float64) - w
        errors, signals = errors + ((x @ e.T) ** 2).sum(), signals + ((x @ w.T) ** 2).sum()
    assert row["output_error"] == pytest.approx((errors / signals) ** 0.5, rel=1e-4)
    assert row["bits_per_weight"] == Q.bits_per_weight(SHAPE)
    assert 0 < row["output_error_se"] < row["output_error"]


def test_layers_are_judged_on_inputs_that_they_were_not_calibrated_on():
    for problem in output_comparison._problems(SMALL, qs.populations.parse_activations("normal")):
        seen = {row.tobytes() for row in np.asarray(problem.layer.inputs)}
        assert not any(row.tobytes() in seen for row in np.asarray(problem.inputs))
        assert len(seen) == 2 * SHAPE[1]


def test_every_mitigation_is_crossed_with_every_quantizer_and_charged():
    remedies = [mitigations.parse(text) for text in ("smoothquant", "rotation(block=32)")]
    rows = list(compare_outputs([Q, qs.parse("q4_0")], remedies, SMALL))
    assert [(r["mitigation"], r["spec"]) for r in rows] == [
        (m, q) for q in ("int4:block32", "q4_0") for m in ("none", "smoothquant", "rotation(block=32)")
    ]
    extra = {(r["mitigation"], r["spec"]): r["bits_per_weight"] for r in rows}
    assert extra["smoothquant", "int4:block32"] - extra["none", "int4:block32"] == 16 / SHAPE[0]  # 16 bits a channel


def test_what_does_not_go_together_is_left_out_with_words_or_raises():
    said = []
    rows = list(
        compare_outputs([qs.parse("q4_0")], [mitigations.parse("gptq")], SMALL, unfit=lambda *a: said.append(a))
    )
    assert [r["mitigation"] for r in rows] == ["none"]
    assert said[0][0] == "gptq × q4_0"
    assert "scaled elements" in said[0][1]
    with pytest.raises(ValueError, match="scaled elements"):
        list(compare_outputs([qs.parse("q4_0")], [mitigations.parse("gptq")], SMALL))


def test_the_command_prints_a_table_and_json(capsys):
    command = [
        "compare",
        "int8:channel",
        "--mitigation",
        "llm_int8",
        "--activations",
        "int8:tensor",
        "--shape",
        "16",
        "64",
    ]
    command += ["--inputs", "normal+channels(count=2,magnitude=20)"]
    cli.main(command)
    header, none, llm_int8 = capsys.readouterr().out.splitlines()
    assert header.split() == ["mitigation", "spec", "bits", "‖dy‖/‖y‖", "±", "se"]
    assert (none.split()[0], llm_int8.split()[0]) == ("none", "llm_int8")
    cli.main([*command, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[1]["output_error"] < rows[0]["output_error"]  # the outlier channels stay out of the scale
    assert {r["activations"] for r in rows} == {"int8:tensor"}


def test_matrices_of_a_file(tmp_path, capsys):
    np.save(tmp_path / "w.npy", np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))
    cli.main(["compare", "int4:block32", "--mitigation", "smoothquant", "--weights", str(tmp_path / "w.npy"), "--json"])
    assert [r["tensor"] for r in json.loads(capsys.readouterr().out)] == ["w", "w"]
    np.save(tmp_path / "v.npy", np.ones(64, np.float32))
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", "int4:block32", "--mitigation", "smoothquant", "--weights", str(tmp_path / "v.npy")])
    assert end.value.code == 3
    assert "holds no matrix" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--mitigation", "smothquant"], ["--inputs", "normal+chanels"], ["--activations", "int9x"]]
)
def test_what_is_misspelled_is_named(wrong, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", "int8:channel", *wrong, "--shape", "4", "64"])
    assert end.value.code == 2
    assert wrong[1].split("+")[-1] in capsys.readouterr().err
