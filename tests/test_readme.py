"""What the README says can be typed, runs."""

import json
import re
from collections import Counter
from pathlib import Path

from scipy.stats import spearmanr

import quantsim as qs
from quantsim.rows import load
from quantsim.sweep import config

README_FILE = Path(__file__).parent.parent / "README.md"
README = README_FILE.read_text(encoding="utf-8")


def test_the_example_runs_and_prints_what_it_names(capsys):
    example, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    numbers, outputs, both, smooth, predicted = capsys.readouterr().out.splitlines()
    assert float(numbers.split()[0]) == 5.0  # 4 bits and a float32 scale for 32
    assert outputs.startswith("OutputError(rel_rms=")
    assert both.startswith("QuantizedOutputError(rel_rms=")
    assert smooth == "(256, 1024) 8.0234375"  # a float32 scale a row of 4096, 16 bits an input channel
    assert 2.8e-5 < float(predicted) < 2.9e-5


def test_the_example_of_language_models_runs(capsys):
    _, example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    bits, loss = (float(number) for number in capsys.readouterr().out.split())
    assert 5.0 < bits < 9.0  # int4 and int8 with a float32 scale for 32, q8_0 in embedding and output
    assert 1.0 < loss < 2.0  # nats per byte


def test_the_configuration_of_a_sweep_is_the_grid_that_it_says(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "sweep.toml").write_text(text, encoding="utf-8")
    grid = config.load(tmp_path / "sweep.toml")
    assert (len(grid.quantizers), len(grid.populations), grid.points, grid.weights) == (8, 125, 1000, 10**7)


def test_every_spec_of_the_comparison_parses():
    (specs,) = re.findall(r"`quantsim compare ([^`]*)`, normal", README)
    assert [str(qs.parse(s)) for s in specs.split()] == specs.split()


def test_every_command_of_the_table_exists():
    from quantsim.cli.commands import COMMANDS

    commands = set(re.findall(r"^\| `quantsim (\w+)", README, re.MULTILINE))
    assert commands == set(COMMANDS)


def test_the_table_of_the_real_model_says_what_the_rows_say():
    rows = load(README_FILE.parent / "paper_figures" / "real_llm.jsonl").where(kind="format")
    lines = re.findall(r"^\| `(\S+)`( \([^)]*\))? \| ([\d.]+) \| (.+) \|$", README, re.MULTILINE)
    table = {spec: (fallback, bits, cells) for spec, fallback, bits, cells in lines if spec in rows.values("spec")}
    assert list(table) == [r["spec"] for r in sorted(rows.where(reference="spread"), key=lambda r: r["kl"])]
    for spec, (fallback, bits, cells) in table.items():
        of_file, spread = (rows.where(spec=spec, reference=reference)[0] for reference in ("file", "spread"))
        others = [used for used in of_file["used"].split(", ") if used != spec]
        assert fallback == (f" ({', '.join(others)})" if others else "")
        assert bits == f"{of_file['bits']:.2f}"
        wanted = [f"{r['kl']:.2g} | {r['nll']:+.3f} ± {r['nll_se']:.3f}" for r in (of_file, spread)]
        assert cells == " | ".join(wanted)


def test_the_verdicts_are_counted_as_they_are():
    ledger = json.loads((README_FILE.parent / "paper_figures" / "claims.json").read_text(encoding="utf-8"))
    found = Counter(entry["verdict"] for entry in ledger)
    (said,) = re.findall(r"All are settled:\s(.*?)\.\n", README, re.DOTALL)
    counts = [int(number) for number in re.findall(r"\d+", said)]
    wanted = ("holds", "conditional", "refuted", "self-contradiction", "unsourced", "out of scope")
    assert counts == [found[verdict] for verdict in wanted]
    assert sum(counts) == len(ledger)


def test_the_table_of_damages_says_what_the_rows_say():
    rows = load(README_FILE.parent / "paper_figures" / "real_layers.jsonl")
    table = re.findall(r"^\| [^|]+ \| [^|]+ \| \**([\d.]+)\** \|$", README, re.MULTILINE)
    columns = ("rel_rms", "imatrix_error", "output_error", "predicted_kl")
    found = [spearmanr(rows.column(name), rows.column("kl")).statistic for name in columns]
    assert table == [f"{rank:.2f}" for rank in found]
    assert found[-1] >= 0.75  # what is asked of the damage that a budget minimizes
    ratio = rows.column("predicted_kl").sum() / rows.column("kl").sum()
    assert f"the predicted KLs sum to {ratio:.2f} of the measured ones" in README
