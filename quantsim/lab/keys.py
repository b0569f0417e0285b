"""Identities: of the rows of a study, of its figure, and of the code that makes each.

The key of rows covers the config and the code that ``measure`` and ``Config`` reach; the key of a figure covers the
rows and the code that ``draw`` reaches. Neither changes with comments and docstrings, nor with code that is not
reached: ``quantsim.lab.reach`` says how that is found.
"""

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quantsim.lab import study
from quantsim.lab.given import OnWeights
from quantsim.lab.reach import House
from quantsim.rows import plain

#: What a study is asked for.
_ASKED = ("Config", "measure", "measure_weights", "draw", "CLAIMS", "summary")
#: Libraries that a figure's bytes depend on.
_DRAWN_WITH = ("matplotlib", "numpy", "scipy", "jax")


@lru_cache(8)
def house(package: Path, studies: Path) -> House:
    """The modules of the package and the studies, as they are when first asked for."""
    return House({"quantsim": package, "quantsim.studies": studies}, asked=_ASKED)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measuring_code(name: str, *, on_weights: bool = False) -> dict[str, str]:
    """Digest of what a study's measurement reaches, by module: ``rounding``, ``studies.outliers``, ….

    Args:
        name: study.
        on_weights: of its measurement of given weights.
    """
    asked = ("measure_weights" if on_weights else "measure", "Config")
    reached = house(study.PACKAGE, study.folder()).reached(f"quantsim.studies.{name}", asked)
    return {module.removeprefix("quantsim."): _digest(text) for module, text in sorted(reached.items())}


def of_rows(name: str, config: Any) -> str:
    """Identity of a study's rows: its config, the content of given weights, and the code that measures them."""
    settings, on_weights = plain(asdict(config)), isinstance(config, OnWeights)
    if on_weights:
        del settings["given"]["path"]  # a file that was moved holds what it held
    return _digest(json.dumps([settings, measuring_code(name, on_weights=on_weights)], sort_keys=True))


def of_figure(name: str, rows: str) -> str:
    """Identity of a study's figure: the hash of its rows, the code that draws and saves it, and the libraries below."""
    modules = house(study.PACKAGE, study.folder())
    drawing = modules.reached(f"quantsim.studies.{name}", ("draw",))
    saving = modules.reached("quantsim.lab.plotting", ("save",))
    return _digest(json.dumps([rows, drawing, saving, {p: version(p) for p in _DRAWN_WITH}], sort_keys=True))


def of_file(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_text(path: Path) -> str:
    """Hash of a text file, the same where a checkout has turned its line ends."""
    return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()
