"""A tiny study that stands in for the real ones, how it is put there, and commands run in this process."""

import itertools
import sys
from functools import cache

from quantsim import cli
from quantsim.lab import plotting, reach, study

FAKE = '''\
"""Is twice a number double?

The method.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil as whole

from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_most

FACTOR: float = 2.0
TABLE = {"a": 1}
TABLE.update(b=2)
LABEL = "x"  # of the axis


@dataclass(frozen=True)
class Config:
    """What is measured."""

    cells: int = 3

    @classmethod
    def small(cls):
        """One cell."""
        return cls(cells=1)


def measure(config):
    """So many rows."""
    for i in range(config.cells):
        yield f"cell {i}", lambda i=i: [_row(i)]


@cache
def _row(i):
    # one row
    return {"cell": i, "x": whole(FACTOR * i), "sign": "# σ", "none": float("nan"), "b": TABLE["b"]}


def draw(rows):
    fig, axes = plotting.figure(width="single")
    plotting.curve(axes[0, 0], rows.column("cell"), rows.column("x"), se=rows.column("x") / 10, label=_label())
    plotting.prediction(axes[0, 0], [0, 2], [0, 4], label="theory")
    axes[0, 0].legend()
    return fig


@cache
def _label():
    return LABEL


CLAIMS = (Claim("A01", "largest x", lambda rows: rows.column("x").max(), at_most(100.0)),)
'''


_parsed = cache(reach.parsed)


def parse_each_text_once(monkeypatch):
    """Houses of tests hold nearly the same modules, and a parsed text does not change."""
    monkeypatch.setattr(reach, "parsed", _parsed)


def studies_in_memory():
    return [n for n in sys.modules if n.split(".")[:2] == ["quantsim", "studies"]]


def registry(tmp_path, monkeypatch):
    """A function that makes a folder with these sources the studies; as often as wanted, always a new folder."""
    parse_each_text_once(monkeypatch)
    kept, count = {n: sys.modules[n] for n in studies_in_memory()}, itertools.count()

    def register(**sources):
        folder = tmp_path / f"studies{next(count)}"
        folder.mkdir()
        for name, source in {"__init__": '"""Studies."""\n', **sources}.items():
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
        forget()
        monkeypatch.setattr(study, "folder", lambda: folder)
        return folder

    def forget():
        study.module.cache_clear()
        for name in studies_in_memory():
            del sys.modules[name]

    yield register
    forget()
    sys.modules.update(kept)


def watch(monkeypatch):
    """The list of the cells that the fake study computes from now on."""
    module, computed = study.module("fake"), []
    row = module._row
    monkeypatch.setattr(module, "_row", lambda i: computed.append(i) or row(i))
    return computed


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def undraw(monkeypatch):
    """No figures, which take most of the time: files that stand for them. The list of what would have been drawn."""
    calls = []

    def write(fig, folder, stem):
        plotting.plt.close(fig)
        calls.append(stem)
        for kind in plotting.FORMATS:
            (folder / f"{stem}.{kind}").write_text(f"a figure as {kind}")

    monkeypatch.setattr(plotting, "save", write)
    return calls


def command(capsys):
    """A function that runs a command: exit code, stdout, stderr."""

    def run(*args):
        try:
            cli.main([str(a) for a in args])
            code = 0
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run
