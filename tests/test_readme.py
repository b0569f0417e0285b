"""What the README and the pages say can be typed, runs; what they say was found, is what the rows say."""

import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import spearmanr

import quantsim as qs
from quantsim.cli import main
from quantsim.lab import study
from quantsim.rows import load
from quantsim.sweep import config

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "paper_figures"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
FINDINGS = tomllib.loads((ROOT / "quantsim/lab/handbook/findings.toml").read_text(encoding="utf-8"))


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(text, language):
    return [block for name, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if name == language]


def run(text, where):
    (example,) = blocks(text, "python")
    exec(compile(example, where, "exec"), {})


# --- examples -------------------------------------------------------------------------------------------------------


def test_the_example_runs_and_prints_what_it_names(capsys):
    run(README, "README.md")
    bits, sqnr_db, se = (float(number) for number in capsys.readouterr().out.split())
    assert bits == 5.0  # 4 bits and a float32 scale for 32
    assert 10 < sqnr_db < 21  # below the 20.3 dB of normal weights: heavy tails and outliers
    assert 0 < se < 1


def test_the_example_of_the_library_runs_and_prints_what_it_names(capsys):
    run(page("python"), "python.md")
    numbers, outputs, both, smooth, predicted = capsys.readouterr().out.splitlines()
    assert float(numbers.split()[0]) == 5.0  # 4 bits and a float32 scale for 32
    assert outputs.startswith("OutputError(rel_rms=")
    assert both.startswith("QuantizedOutputError(rel_rms=")
    assert smooth == "(256, 1024) 8.0234375"  # a float32 scale a row of 4096, 16 bits an input channel
    assert 2.8e-5 < float(predicted) < 2.9e-5


def test_the_example_of_language_models_runs(capsys):
    run(page("models"), "models.md")
    bits, loss = (float(number) for number in capsys.readouterr().out.split())
    assert 5.0 < bits < 9.0  # int4 and int8 with a float32 scale for 32, q8_0 in embedding and output
    assert 1.0 < loss < 2.0  # nats per byte


def test_the_configuration_of_a_sweep_is_the_grid_that_it_says(tmp_path):
    (text,) = blocks(page("sweeps"), "toml")
    (tmp_path / "sweep.toml").write_text(text, encoding="utf-8")
    grid = config.load(tmp_path / "sweep.toml")
    assert (len(grid.quantizers), len(grid.populations), grid.points, grid.weights) == (8, 125, 1000, 10**7)


def test_the_comparison_prints_what_the_readme_shows(capsys):
    (shown,) = [block for block in blocks(README, "") if block.startswith("spec")]
    specs = [line.split()[0] for line in shown.splitlines()[1:]]
    assert f"quantsim compare {' '.join(specs)} " in README
    main(["compare", *specs])
    printed = capsys.readouterr().out
    for line, said in zip(printed.splitlines()[1:], shown.splitlines()[1:], strict=True):
        (spec, bits, sqnr_db, se), said_row = line.split()[:4], said.split()
        assert [spec, bits] == said_row[:2]
        assert abs(float(sqnr_db) - float(said_row[2])) <= 5 * float(se)


def test_every_spec_of_the_comparison_parses():
    (specs,) = re.findall(r"`quantsim compare ([^`]*)`, normal", page("commands"))
    assert [str(qs.parse(s)) for s in specs.split()] == specs.split()


def test_every_command_of_the_table_exists():
    from quantsim.cli.commands import COMMANDS

    commands = set(re.findall(r"^\| `quantsim (\w+)", page("commands"), re.MULTILINE))
    assert commands == set(COMMANDS)
    assert set(re.findall(r"`?quantsim (\w+)", "\n".join(blocks(README, "sh")))) <= set(COMMANDS)


# --- numbers --------------------------------------------------------------------------------------------------------


def test_the_table_of_the_real_model_says_what_the_rows_say():
    rows = load(FIGURES / "real_llm.jsonl").where(kind="format")
    lines = re.findall(r"^\| `(\S+)`( \([^)]*\))? \| ([\d.]+) \| (.+) \|$", page("models"), re.MULTILINE)
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
    ledger = json.loads((FIGURES / "claims.json").read_text(encoding="utf-8"))
    found = Counter(entry["verdict"] for entry in ledger)
    wanted = ("holds", "conditional", "refuted", "self-contradiction", "unsourced", "out of scope")
    for text, said in ((README, r"All are settled:\s(.*?)\.\n"), (CHINESE, r"全部已有结论：(.*?)。")):
        (sentence,) = re.findall(said, text, re.DOTALL)
        counts = [int(number) for number in re.findall(r"\d+", sentence)]
        assert counts == [found[verdict] for verdict in wanted]
        assert sum(counts) == len(ledger)


@pytest.mark.parametrize("text", [README, CHINESE, page("checkpoints")], ids=["README", "README.zh", "checkpoints"])
def test_the_table_of_damages_says_what_the_rows_say(text):
    rows = load(FIGURES / "real_layers.jsonl")
    table = re.findall(r"^\| [^|]+ \| [^|]+ \| \**([\d.]+)\** \|$", text, re.MULTILINE)
    columns = ("rel_rms", "imatrix_error", "output_error", "predicted_kl")
    found = [spearmanr(rows.column(name), rows.column("kl")).statistic for name in columns]
    assert table == [f"{rank:.2f}" for rank in found]
    assert found[-1] >= 0.75  # what is asked of the damage that a budget minimizes


def test_predicted_damages_add_up_as_is_said():
    rows = load(FIGURES / "real_layers.jsonl")
    ratio = rows.column("predicted_kl").sum() / rows.column("kl").sum()
    for text in (README, page("checkpoints")):
        assert f"the predicted KLs sum to {ratio:.2f} of the measured ones" in text
    assert f"预测的各个 KL 之和是实测之和的 {ratio:.2f} 倍" in CHINESE


def test_the_table_of_printed_numbers_says_what_the_rows_say():
    (table,) = re.findall(r"\| printed \| here \|\n(.*?)\n\n", README, re.DOTALL)
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    rows = load(FIGURES / "int_or_float.jsonl").where(kind="printed")
    said = [[float(number) for number in re.findall(r"[+-]?\d+\.\d+", here)] for _, here in cells]
    crossings = {(r["pair"], r["way"]): r for r in rows if "crest factor" in r["setting"]}
    four_bits = [
        crossings[pair, way]["measured"]
        for pair, ways in (("MXINT4, MXFP4", ("shaped", "natural")), ("NVINT4, NVFP4", ("shaped", "natural")))
        for way in ways
    ]
    assert said[0] == [*(round(v, 2) for v in four_bits), round(32**0.5, 2)]
    assert all(crossings["MXINT8, MXFP8", way]["measured"] is None for way in ("shaped", "natural"))
    sqnrs = {r["setting"].partition(":")[0]: r for r in rows if "SQNR" in r["setting"]}
    for rotated in ("", ", rotated"):
        of_both = [round(sqnrs[f"{name}{rotated}"]["measured"], 2) for name in ("NVINT4", "NVFP4")]
        assert of_both == said[1]
    (order,) = rows.where(pair="absmax:ue4m3")
    assert said[2] == [round(order["measured"], 4), round(order["predicted"], 4)]
    assert all(r["agrees"] for r in rows.where(way="order of blocks"))
    differences = {r["printed"]: r for r in rows if "less INT4" in r["setting"]}
    assert said[4] == [round(differences[printed]["measured"], 2) for printed in (1.82, -0.69, -0.34)]
    assert all(differences[printed]["agrees"] for printed in (1.82, -0.69, -0.34))


def test_the_gain_of_equal_importances_is_that_of_the_rows():
    rows = load(FIGURES / "formats.jsonl")
    equal, without = (
        {r["spec"]: f"{r['sqnr_db']:.1f}" for r in rows.where(kind=kind, population="normal")}
        for kind in ("importances", "sqnr")
    )
    sentence = README.partition("Below four bits")[2].partition("(`formats`)")[0]
    said = re.findall(r"\d+\.\d", sentence)
    assert said == [equal["iq3_s"], equal["q3_k"], without["iq3_s"], without["q3_k"]]


# --- the gallery ----------------------------------------------------------------------------------------------------


def gallery(text):
    """Sentences of the gallery by the study that they name."""
    cells = [cell for line in text.splitlines() if line.startswith("| **") for cell in line.split(" | ")]
    return {re.findall(r"[(（]`(\w+)`[)）]", cell)[0]: cell for cell in cells}


def digits(text):
    """Every number in a text, as a multiset."""
    return Counter(re.findall(r"\d+(?:[.,]\d+)*", text))


def test_the_gallery_has_six_to_nine_figures_of_studies_that_say_the_same():
    found = gallery(README)
    assert 6 <= len(found) + 1 <= 9
    assert found.keys() <= set(study.names())
    for name, sentence in found.items():
        assert f"](paper_figures/{name}.png)" in README
        names = r"`\w+`|q8_0|int8|e2m5|e4m3"
        said = digits(re.sub(names, "", sentence))
        assert said.keys() <= digits(re.sub(names, "", FINDINGS[name])).keys(), name


# --- two languages --------------------------------------------------------------------------------------------------


def without_comments(text):
    """Commands and code without what is said of them."""
    return [re.sub(r" +#.*", "", block) for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)]


def test_both_languages_have_the_same_commands_figures_links_and_numbers():
    english = [block.replace("--lang zh", "--lang en") for block in without_comments(CHINESE)]
    assert without_comments(README) == english
    ours, theirs = (re.findall(r"\]\(([^)]+)\)", text) for text in (README, CHINESE))
    assert [link.replace("README.zh.md", "README.md") for link in ours] == theirs
    assert Counter(re.findall(r"`[^`\n]+`", README)) == Counter(re.findall(r"`[^`\n]+`", CHINESE))
    assert digits(README) == digits(CHINESE)
    assert README.count("\n## ") == CHINESE.count("\n## ")


def test_the_readme_is_read_in_five_minutes():
    assert len(README.splitlines()) <= 150
    assert len([word for line in README.splitlines() if not line.startswith("|") for word in line.split()]) <= 1300
    assert "make test" in README
