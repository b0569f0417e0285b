"""The command line: what each command prints, and that progress stays on stderr."""

import csv
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantsim.cli import terminal
from quantsim.lab import study
from quantsim.rows import Rows, load
from tests.fake_study import FAKE, command, files, registry, undraw


@pytest.fixture
def quantsim(capsys):
    return command(capsys)


@pytest.fixture
def studies(tmp_path, monkeypatch):
    """One fake study, in the place of the real ones."""
    for register in registry(tmp_path, monkeypatch):
        yield register(fake=FAKE)


@pytest.fixture
def undrawn(monkeypatch):
    undraw(monkeypatch)


# --- studies --------------------------------------------------------------------------------------------------------


def test_run_measures_then_loads(quantsim, studies, undrawn, tmp_path):
    out = tmp_path / "out"
    code, shown, progress = quantsim("run", "--out", out)
    assert code == 0
    assert shown.startswith("fake: measured, 3 rows, figure drawn, ")
    assert shown.rstrip().endswith(f"-> {out / 'fake'}.pdf .svg .png")
    assert shown.count("\n") == 1, "progress belongs on stderr"
    assert "3/3" in progress
    written = {f"fake.{kind}" for kind in ("jsonl", "json", "pdf", "svg", "png")}
    assert set(files(out)) == written | {"claims.json", "claims.md"}
    before = files(out)
    assert quantsim("run", "fake", "--out", out)[1].startswith("fake: loaded (key matches), 3 rows, figure current, ")
    assert files(out) == before
    assert quantsim("run", "fake", "--out", out, "--fresh")[1].startswith("fake: measured, 3 rows, ")


def test_run_prints_what_a_study_says_of_its_rows(quantsim, undrawn, tmp_path, monkeypatch):
    for register in registry(tmp_path, monkeypatch):
        register(fake=FAKE + '\n\ndef summary(rows):\n    return f"{len(rows)} rows say it."\n')
        for how in ("measured", "loaded"):
            shown = quantsim("run", "--out", tmp_path / "out")[1].splitlines()
            assert shown[0].startswith(f"fake: {how}")
            assert shown[1:] == ["3 rows say it."]


REAL = FAKE + "\n\nNEEDS_REAL_MODEL = True\n"


@pytest.fixture
def with_a_real_one(tmp_path, monkeypatch):
    """A fake study beside one that says it measures the real model."""
    for register in registry(tmp_path, monkeypatch):
        yield register(fake=FAKE.replace('"A01"', '"A02"'), of_the_real=REAL)


def test_the_real_model_is_measured_on_request_only(quantsim, with_a_real_one, undrawn, tmp_path):
    out = tmp_path / "out"
    code, shown, progress = quantsim("run", "--out", out)
    assert (code, "of_the_real.jsonl" in files(out)) == (0, False)
    assert shown.startswith("fake: measured")
    assert "of_the_real: pip install 'quantsim-jax[real]', then quantsim run --real" in " ".join(progress.split())
    assert "of_the_real: measured, 3 rows" in quantsim("run", "--real", "--out", out)[1]
    before = files(out)
    assert "of_the_real: loaded" in quantsim("run", "--out", out)[1]
    assert "of_the_real" not in quantsim("run", "--fresh", "--out", out)[1]
    assert "of_the_real" not in quantsim("run", "--small", "--out", out)[1]
    assert {n: b for n, b in files(out).items() if "real" in n} == {n: b for n, b in before.items() if "real" in n}
    assert quantsim("claims", "--check", "--out", out)[0] == 0


def test_the_ledger_does_not_wait_for_a_real_model_that_settles_nothing(quantsim, tmp_path, monkeypatch, undrawn):
    out, without = tmp_path / "out", REAL[: REAL.index("CLAIMS = ")] + "CLAIMS = ()\n\nNEEDS_REAL_MODEL = True\n"
    for register in registry(tmp_path, monkeypatch):
        register(fake=FAKE, of_the_real=without)
        quantsim("run", "--out", out)
        code, _, said = quantsim("claims", "--check", "--out", out)
        assert code == 0
        assert "of_the_real has no rows yet" in " ".join(said.split())


def test_the_real_model_asked_for_by_name_says_what_it_needs(quantsim, with_a_real_one, tmp_path):
    code, _, said = quantsim("run", "of_the_real", "--out", tmp_path / "out")
    assert code == 2
    assert "quantsim run --real of_the_real" in " ".join(said.split())


def test_formats_says_who_wins_where_and_what_equal_importances_add():
    wins = [("a", 4.5, "normal"), ("b", 4.5, "t3"), ("c", 8.5, "normal"), ("c", 8.5, "t3")]
    rows = Rows({"kind": "winner", "specs": s, "budget": b, "population": p} for s, b, p in wins)
    said = study.summary("formats", rows)
    assert said == "Most SQNR for the bits per weight: a on normal and b on t3 within 4.5; c within 8.5."
    gains = [{"kind": "importances", "spec": "a", "gain_db": 1.7}, {"kind": "importances", "spec": "b"}]
    assert study.summary("formats", Rows([*rows, *gains])) == f"{said} Equal importances add a 1.7 dB."


def test_small_goes_elsewhere_and_leaves_the_full_results(quantsim, studies, undrawn, tmp_path):
    quantsim("run", "--out", tmp_path / "out")
    before = files(tmp_path / "out")
    code, shown, _ = quantsim("run", "--small", "--fresh", "--out", tmp_path / "out")
    assert (code, shown[:22]) == (0, "fake: measured, 1 rows")
    assert files(tmp_path / "out") == before
    assert set(files(tmp_path / "out" / "small")) == set(before)
    assert len(load(tmp_path / "out" / "small" / "fake.jsonl")) == 1


def test_list_says_what_is_current(quantsim, studies, undrawn, tmp_path):
    states = []
    changes = (
        (lambda: None),
        (lambda: quantsim("run", "--out", tmp_path)),
        (lambda: rewrite(tmp_path / "fake.jsonl", '"x": 4', '"x": 5')),
        (lambda: forge(tmp_path / "fake.json")),
    )
    for change in changes:
        change()
        code, shown, _ = quantsim("list", "--json", "--out", tmp_path)
        (entry,) = json.loads(shown)
        assert (code, entry["name"], entry["question"]) == (0, "fake", "Is twice a number double?")
        assert entry["modules"] == ["studies.fake"], "it measures with the standard library alone"
        assert (entry["why"] == "") == (entry["state"] == "current")
        states.append(entry["state"])
    assert states == ["missing", "current", "edited", "stale"]
    header, line = quantsim("list", "--out", tmp_path)[1].splitlines()
    assert header.split() == ["study", "rows", "question"]
    assert line.split(maxsplit=2) == ["fake", "stale", "Is twice a number double?"]


def test_the_real_studies_are_listed(quantsim, tmp_path):
    code, shown, _ = quantsim("list", "--json", "--out", tmp_path)
    assert code == 0
    assert "int8_matrix" in {entry["name"] for entry in json.loads(shown)}


def forge(path, name="key"):
    """Another value in a JSON file, the rest as it was."""
    value = json.loads(path.read_text())
    value[name] = "forged"
    path.write_text(json.dumps(value))


def test_claims_are_listed(quantsim, studies, undrawn, tmp_path):
    quantsim("run", "--out", tmp_path)
    code, shown, _ = quantsim("claims", "--json", "--out", tmp_path)
    entries = {e["id"]: e for e in json.loads(shown)}
    assert (code, len(entries)) == (0, 151)
    assert (entries["A01"]["verdict"], entries["A01"]["value"], entries["A02"]["verdict"]) == ("holds", 4.0, "open")
    assert json.loads((tmp_path / "claims.json").read_text()) == list(entries.values())
    lines = quantsim("claims", "--out", tmp_path)[1].splitlines()
    assert lines[1].split()[:4] == ["A01", "holds", "4", "fake"]
    assert lines[-1].startswith("1 of 151 statements settled")


FORGED = {
    "nothing": lambda out: None,
    "a number that no verdict needs": lambda out: rewrite(out / "fake.jsonl", '"x": 2', '"x": 3'),
    "all that is recorded of a row but the key": lambda out: forge(out / "fake.json", "rows"),
    "a number of the rows": lambda out: rewrite(out / "fake.jsonl", '"x": 4', '"x": 5'),
    "a row": lambda out: (out / "fake.jsonl").write_text((out / "fake.jsonl").read_text().split("\n")[0] + "\n"),
    "the rows": lambda out: (out / "fake.jsonl").unlink(),
    "the key": lambda out: forge(out / "fake.json"),
    "a verdict": lambda out: rewrite(out / "claims.json", '"holds"', '"refuted"'),
    "a verdict in the table": lambda out: rewrite(out / "claims.md", "**holds**", "**refuted**"),
    "the ledger": lambda out: (out / "claims.json").unlink(),
}


def rewrite(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_claims_check_finds_what_was_forged(quantsim, studies, undrawn, tmp_path):
    for what, change in FORGED.items():
        quantsim("run", "--out", tmp_path, "--fresh")
        change(tmp_path)
        code, shown, message = quantsim("claims", "--current", "--out", tmp_path)
        assert code == (what != "nothing"), what
        if what == "the key":
            assert "stale" in message
        else:
            assert quantsim("claims", "--check", "--out", tmp_path) == (code, shown, message)
        if code:
            assert (shown, message[:10]) == ("", "quantsim: "), what
            assert "run `quantsim run" in message, what
            assert ("verdict" in what or "ledger" in what) or "rows of fake are " in message, what
        else:
            assert message == "ledger checked: 1 verdicts recomputed, 0 differ\n"


def test_rows_of_other_code_are_told_of_and_fail_where_they_must_be_current(quantsim, studies, undrawn, tmp_path):
    quantsim("run", "--out", tmp_path)
    forge(tmp_path / "fake.json")
    code, _, message = quantsim("claims", "--check", "--out", tmp_path)
    assert code == 0
    assert "measured by other code than this" in " ".join(message.split())
    assert "fake" in message
    assert quantsim("claims", "--current", "--out", tmp_path)[0] == 1
    rewrite(tmp_path / "fake.jsonl", '"x": 2', '"x": 3')  # beside other code, a forged row
    assert quantsim("claims", "--check", "--out", tmp_path)[0] == 1


# --- the matrix -----------------------------------------------------------------------------------------------------


def snippet(seed=42):
    """The documents' own code: scale, weights after, error."""
    np.random.seed(seed)  # noqa: NPY002
    w = np.random.uniform(-1, 1, (16, 32)).astype(np.float32)  # noqa: NPY002
    scale = np.abs(w).max() / np.float32(127)
    codes = np.clip(np.round(w / scale), -127, 127)
    return w, scale, codes, codes * scale - w


def norm(a):
    return np.linalg.norm(a.astype(np.float64))


@pytest.mark.parametrize("seed", [42, 7])
def test_matrix_json_is_what_the_documents_code_gives(quantsim, seed):
    code, shown, message = quantsim("matrix", "--json", "--seed", seed)
    found, (w, scale, _, e) = json.loads(shown), snippet(seed)
    assert (code, message, found["spec"], found["shape"]) == (0, "", "int8:tensor", [16, 32])
    assert found["scale"] == float(scale)
    assert found["max_abs"] == float(np.abs(e).max())
    sums = 512 * 2.0**-24  # float32 sums of 512 terms
    assert found["mean_abs"] == pytest.approx(np.abs(e, dtype=np.float64).mean(), rel=sums)
    assert found["rel_rms"] == pytest.approx(norm(e) / norm(w), rel=sums)
    assert found["bits_per_weight"] == 8 + 32 / 512
    edges = np.array([0.0, 0.003, 0.006, 0.009, np.inf])
    shares = np.bincount(np.digitize(np.abs(e).ravel().astype(float), edges[1:-1], right=True), minlength=4) / 512
    assert [b["share"] for b in found["bins"]] == shares.tolist()
    assert [b["stated"] for b in found["bins"]] == [0.35, 0.48, 0.15, 0.02]
    assert [b["above"] for b in found["bins"]] == edges[:-1].tolist()
    assert [b["up_to"] for b in found["bins"]] == [0.003, 0.006, 0.009, None]


def test_matrix_fits_a_terminal_of_80_columns_without_colour(quantsim):
    code, shown, message = quantsim("matrix")
    lines, (*_, e) = shown.splitlines(), snippet()
    assert (code, message) == (0, "")
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown
    level = np.minimum(np.abs(e) / np.abs(e).max() * 5, 4).astype(int)
    error_map = ["".join(terminal.SHADES[i] for i in row) for row in level]
    at = lines.index(error_map[0])
    assert lines[at : at + 16] == error_map
    assert len(lines) < 70


@pytest.mark.parametrize("spec", ["int8:tensor", "int4:block32", "nf4:block8", "bf16", "int4:channel:minmax"])
def test_matrix_takes_any_format(quantsim, spec):
    code, shown, _ = quantsim("matrix", "--format", spec)
    assert (code, spec in shown) == (0, True)
    assert max(map(len, shown.splitlines())) <= 80


def test_matrix_csv_reproduces_the_matrix(quantsim):
    code, shown, _ = quantsim("matrix", "--csv")
    rows, (w, scale, codes, e) = list(csv.DictReader(shown.splitlines())), snippet()
    assert (code, len(rows)) == (0, 512)
    assert [r["index"] for r in rows] == [f"{i} {j}" for i in range(16) for j in range(32)]
    columns = {"weight": w, "code": codes, "after": codes * scale, "error": e}
    for name, expected in columns.items():
        np.testing.assert_array_equal(np.array([r[name] for r in rows], np.float32), expected.ravel(), name)


def test_matrix_reads_npy(quantsim, tmp_path):
    np.save(tmp_path / "layer.npy", snippet()[0])
    found = json.loads(quantsim("matrix", tmp_path / "layer.npy", "--json")[1])
    expected = json.loads(quantsim("matrix", "--json")[1])
    assert found == expected | {"tensor": "layer"}


def test_matrix_reads_safetensors_tensor_by_tensor(quantsim, tmp_path):
    w = snippet()[0]
    save_file({"b": w, "a": w.astype(ml_dtypes.bfloat16), "c": w[0]}, tmp_path / "w.safetensors")
    lines = [json.loads(line) for line in quantsim("matrix", tmp_path / "w.safetensors", "--json")[1].splitlines()]
    assert [(f["tensor"], f["shape"]) for f in lines] == [("a", [16, 32]), ("b", [16, 32]), ("c", [32])]
    assert lines[1]["scale"] == float(snippet()[1])
    assert lines[0]["scale"] == float(np.abs(w.astype(ml_dtypes.bfloat16).astype("f4")).max() / np.float32(127))
    (one,) = quantsim("matrix", tmp_path / "w.safetensors", "--json", "--tensor", "b")[1].splitlines()
    assert json.loads(one) == lines[1]


def test_a_large_tensor_shows_its_corner(quantsim, tmp_path):
    np.save(tmp_path / "w.npy", np.linspace(-1, 1, 2 * 40 * 50).reshape(2, 40, 50))
    code, shown, _ = quantsim("matrix", tmp_path / "w.npy", "--format", "int8:channel")
    assert code == 0
    assert shown.startswith("w: 2×40×50, its first 16×32 shown, int8:channel")
