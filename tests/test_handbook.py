"""The handbook: nothing is left out of it, its pages are those that are committed, its links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

import quantsim as qs
from quantsim import formats, mitigations, theory
from quantsim.cli import main
from quantsim.lab import claims, handbook, study
from quantsim.lab.handbook import index, laws
from quantsim.quantizer.blockformats import SPECS
from quantsim.quantizer.blockformats.unpacking import LAYOUTS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TEXTS = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])


def names(heading):
    return {topic.name for topic in handbook.topics()[heading]}


def test_the_committed_pages_are_those_that_are_made():
    made = handbook.pages()
    assert {"formats.md", "metrics.md", "conventions.md", "theory.md", "studies.md"} <= made.keys()
    for name, text in made.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"run `quantsim explain --pages docs`: {name} differs"


def test_nothing_is_left_out():
    assert names("formats") == set(formats.FORMATS)
    kept = {spec.removesuffix(":gguf").upper() for spec in names("block formats")}
    assert {str(q).split(":")[0] for q in SPECS.values()} == {name.split(":")[0] for name in names("block formats")}
    assert names("GGUF types that are only read") == {name.lower() for name in LAYOUTS if name not in kept}
    measured = set(qs.error_stats([1.0, 2.0], [1.0, 2.5]).result()) - {"count"}
    assert {name for name in measured if not name.endswith("_se")} <= names("metrics")
    assert names("mitigations") == set(mitigations.FUNCTIONS)
    functions = {name for name in theory.__all__ if not isinstance(getattr(theory, name), type)}
    assert names("theory") == functions
    assert names("studies") == set(study.names())
    assert names("claims") == {s.id for s in claims.statements()}


def test_a_spec_of_every_population_names_what_it_is_explained_as():
    for name in set(laws.WEIGHTS) - {"mixture", "empirical", "outliers", "gennorm"}:
        assert isinstance(qs.populations.parse(name), laws.WEIGHTS[name])
    assert isinstance(qs.populations.parse("gennorm(beta=1.5)"), laws.WEIGHTS["gennorm"])


@pytest.mark.parametrize("heading", ["formats", "block formats", "GGUF types that are only read", "metrics"])
def test_formula_and_source_are_said(heading):
    for topic in handbook.topics()[heading]:
        assert topic.what, topic.name
        assert topic.fact("formula"), topic.name
        assert topic.fact("source"), topic.name


def test_every_study_says_what_it_finds():
    for topic in handbook.topics()["studies"]:
        assert topic.fact("finds"), topic.name


def test_facts_are_those_of_the_bytes():
    for name, (size, nbytes) in {"q4_k": (256, 144), "q8_0": (32, 34), "iq2_xxs": (256, 66)}.items():
        (topic,) = handbook.explained(name)
        assert topic.fact("bits a weight") == f"{8 * nbytes / size:g}"
        assert topic.fact("block") == f"{size} weights, {nbytes} bytes"
    (e4m3,) = handbook.explained("E4M3")
    assert e4m3.fact("largest") == "448"  # OCP OFP8 1.0, table 1
    assert e4m3.fact("levels") == "253, the smallest above zero 0.001953"  # 256 codes, two NaN, one zero; 2^-9


def test_verdicts_are_those_of_the_ledger():
    for entry in json.loads((ROOT / "paper_figures" / "claims.json").read_text(encoding="utf-8")):
        (topic,) = [t for t in handbook.explained(entry["id"]) if t.kind == "claim"]
        assert (topic.fact("verdict"), topic.fact("settled by")) == (entry["verdict"], entry["study"])


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ("smoothquant", ["mitigation", "study"]),
        ("outliers", ["population", "study"]),
        ("a33", ["claim"]),
        ("e3m3", ["float"]),
        ("int4:block32:mse", ["quantizer"]),
        ("mxfp4:ceil", ["quantizer"]),
        ("t5+outliers(rate=0.01,magnitude=100)", ["population"]),
    ],
)
def test_a_name_or_a_spec_is_explained(asked, kinds):
    assert [topic.kind for topic in handbook.explained(asked)] == kinds


def test_other_names_in_use_lead_somewhere():
    for alias in index.ALIASES:
        assert handbook.explained(alias), alias
    assert [topic.name for topic in handbook.explained("FP8")] == ["e4m3"]
    assert [topic.kind for topic in handbook.explained("crest factor")] == ["term"]


def test_the_command_prints_what_the_handbook_says(capsys):
    main(["explain", "q4_k"])
    said = capsys.readouterr().out
    assert said.startswith("q4_k (block format): ")
    assert "llama.cpp, ggml-quants.c" in said
    main(["explain"])
    listed = capsys.readouterr().out
    assert {"q4_k", "sqnr_db", "lloyd_max", "error_averaging", "A33"} <= set(listed.replace(",", " ").split())
    main(["explain", "sqnr_db", "--json"])
    assert dict(json.loads(capsys.readouterr().out)[0]["facts"])["unit"] == "dB"


def test_what_is_unknown_is_guessed(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["explain", "nf44"])
    assert ending.value.code == 2
    assert "did you mean nf4" in capsys.readouterr().err


def test_pages_are_written_where_it_is_said(tmp_path, capsys):
    main(["explain", "--pages", str(tmp_path / "new")])
    assert (tmp_path / "new" / "metrics.md").read_text(encoding="utf-8") == handbook.pages()["metrics.md"]


def anchors(text):
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", TEXTS, ids=[str(p.relative_to(ROOT)) for p in TEXTS])
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name} links to {link}"
            if anchor and target.suffix == ".md":
                assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path.name} links to {link}"
