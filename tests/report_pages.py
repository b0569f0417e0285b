"""The report of the committed rows, made by the command in a process of its own, once for all tests of this one.

Studies judge their rows there without the shape checks of the tests, which take no whole number for a float.
"""

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "paper_figures"


@cache
def folder() -> Path:
    """Where the reports lie, until the process ends."""
    made = tempfile.mkdtemp(prefix="quantsim-reports-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def written(path: Path, language: str) -> Path:
    """A report of the committed rows."""
    command = (sys.executable, "-m", "quantsim", "report", "--figures", str(FIGURES), "--lang", language)
    subprocess.run([*command, "--out", str(path)], cwd=ROOT, check=True, capture_output=True)
    return path


@cache
def path(language: str = "en") -> Path:
    """The file of the report in a language."""
    return written(folder() / f"{language}.html", language)


@cache
def report(language: str = "en") -> str:
    """The text of the report in a language."""
    return path(language).read_text(encoding="utf-8")
