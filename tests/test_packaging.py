"""What is installed and what is cited: the list and the size of the wheel, the sdist, versions that agree."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import quantsim as qs

ROOT = Path(__file__).parent.parent
MOST_BYTES = 10_000_000

#: What commands read beside code.
READ = (
    "quantsim/claims.json",
    "quantsim/lab/claims.tsv",
    "quantsim/lab/handbook/findings.toml",
    "quantsim/lab/handbook/formats.toml",
    "quantsim/lab/handbook/heads/theory.md",
    "quantsim/lab/report/playground/25_matrix.js",
    "quantsim/lab/report/playground/playground.css",
    "quantsim/lab/report/strings.toml",
    "quantsim/lab/report/templates/report.html.j2",
    "quantsim/lab/style.mplstyle",
    "quantsim/models/trained/lm-w128-s0.halves",
    "quantsim/models/trained_digits/unet-s0.halves",
    "quantsim/py.typed",
    "quantsim/quantizer/blockformats/unpacking/grids.npz",
    "quantsim/studies/outliers.py",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An sdist, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(built[1]) as archive:
        yield archive


def files(folder):
    """Every file below a folder but caches of Python, as the checkout has it."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_wheel_holds_the_package_its_studies_and_the_ledger_and_nothing_else(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    studies = {f"quantsim/{name}" for name in files("studies")}
    assert held == files("quantsim") | studies | {"quantsim/claims.json"}
    assert set(READ) <= held
    assert wheel.read("quantsim/claims.json") == (ROOT / "paper_figures" / "claims.json").read_bytes()


def test_the_wheel_is_small(built):
    assert built[1].stat().st_size < MOST_BYTES


def test_the_sdist_holds_what_tests_and_readers_need(built):
    with tarfile.open(built[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("README.md", "README.zh.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "requirements.lock")
    assert set(wanted) <= held
    for folder in ("docs", "examples", "studies", "tests", "findings"):
        assert files(folder) <= held


def test_the_wheel_says_what_it_is(wheel):
    (path,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    metadata = wheel.read(path).decode()
    assert re.search(r"^Name: quantsim-jax$", metadata, re.MULTILINE)
    assert re.search(rf"^Version: {re.escape(qs.__version__)}$", metadata, re.MULTILINE)
    assert re.search(r"^License-Expression: Apache-2.0$", metadata, re.MULTILINE)


def test_the_citation_says_the_same():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    # what version 1.2.0 of the schema requires
    assert {"cff-version", "message", "title", "authors"} <= said.keys()
    assert said["cff-version"] == "1.2.0"
    assert said["version"] == qs.__version__
    assert said["authors"] == [{"name": "The quantsim authors"}]
    assert said["license"] == "Apache-2.0"
    assert said["abstract"]
    assert said["type"] == "software"
    assert not {"doi", "url", "repository-code", "identifiers"} & said.keys()


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first
    assert first[1] == qs.__version__
