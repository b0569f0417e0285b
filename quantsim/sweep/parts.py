"""What a sweep has measured so far, in a folder: written whole or not at all, and never mixed with other results.

``sweep.json`` says what the folder holds; ``parts/`` has one file a cell, replaced after every chunk. A file is written
under another name, synced and renamed, so a process that is killed leaves the last whole file behind.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from quantsim import populations as pops
from quantsim._types import PRNGKey, Weights
from quantsim.rows import replace_text
from quantsim.sweep.chunks import Cell
from quantsim.sweep.plan import Plan
from quantsim.sweep.totals import Totals


class MixedResultsError(ValueError):
    """A folder whose parts were measured from another plan, by another version, or from other random numbers."""


#: One of each family.
_DRAWN = ("normal", "laplace", "uniform", "t5", "gennorm(beta=1.5)", "normal+outliers(rate=0.1,magnitude=9)")


def self_test() -> str:
    """Fingerprint of the random numbers on this machine: draws of every family, to the bit."""
    found = hashlib.sha256()
    for drawn in _draws(pops.key(7)):
        found.update(np.asarray(drawn).tobytes())
    return found.hexdigest()[:16]


@jax.jit
def _draws(key: PRNGKey) -> list[Weights]:
    return [pops.parse(spec).sample(key, (8, 512)) for spec in _DRAWN]


def _versions() -> dict[str, str]:
    packages = {"quantsim": sys.modules["quantsim"], "jax": jax, "jaxlib": jaxlib, "numpy": np}
    return {name: package.__version__ for name, package in packages.items()}


class Parts:
    """The parts of one plan in a folder.

    Raises:
        MixedResultsError: if the folder holds something else.
        OSError: if it cannot be written.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        about = {"plan": plan.plain(), "versions": _versions(), "draws": self_test()}
        path = folder / "sweep.json"
        if path.is_file():
            _check(_stored(path), about, folder)
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            replace_text(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")

    def _path(self, cell: Cell) -> Path:
        return self._folder / "parts" / f"{hashlib.sha256(str(cell).encode()).hexdigest()[:16]}.json"

    def load(self, cell: Cell, quantizers: int) -> Totals:
        """What has been measured of a cell.

        Raises:
            MixedResultsError: for a part that is damaged.
        """
        path = self._path(cell)
        if not path.is_file():
            return Totals.of(quantizers)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.pop("cell") != str(cell):
                raise KeyError
            found = Totals.load(stored)
            if found.sums.shape != (quantizers, 6):
                raise ValueError
            return found
        except (ValueError, KeyError, TypeError, AttributeError) as failure:
            raise MixedResultsError(f"part {path} is damaged: delete it, and its cell is measured anew") from failure

    def save(self, cell: Cell, totals: Totals) -> None:
        """Replace what is stored of a cell."""
        replace_text(self._path(cell), json.dumps({"cell": str(cell)} | totals.plain()) + "\n")


def _stored(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as failure:
        raise MixedResultsError(f"{path} is damaged: choose another folder, or delete that one") from failure


def _check(stored: dict[str, Any], about: dict[str, Any], folder: Path) -> None:
    for name, what in (("plan", "another plan"), ("versions", "other versions"), ("draws", "other random numbers")):
        if stored.get(name) != about[name]:
            of, now = _difference(stored.get(name), about[name])
            raise MixedResultsError(
                f"{folder} holds parts of {what}: {of} there, {now} now; choose another folder, or delete that one"
            )


def _difference(a: Any, b: Any) -> tuple[str, str]:
    """The first entry that differs, named."""
    if isinstance(a, dict) and isinstance(b, dict):
        name = next(k for k in {**a, **b} if a.get(k) != b.get(k))
        return f"{name} {a.get(name)}", f"{b.get(name)}"
    return str(a), str(b)
