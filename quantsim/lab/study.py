"""The studies: where they lie, what they ask, and what one of them gives to the runner."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from quantsim.lab.given import Given, OnWeights
from quantsim.rows import Rows

#: A cell of a study: its name, and the function that measures its rows.
Cell: TypeAlias = tuple[str, Callable[[], list[dict[str, Any]]]]

#: The package's folder.
PACKAGE = Path(__file__).parent.parent


@cache
def folder() -> Path:
    """Where the studies are: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / "studies"
    return inside if inside.is_dir() else PACKAGE.parent / "studies"


def names() -> list[str]:
    """Names of all studies, alphabetically."""
    return sorted(p.stem for p in folder().glob("[a-z]*.py"))


@cache
def module(name: str) -> ModuleType:
    """The study of that name.

    Raises:
        LookupError: if there is none.
    """
    if name not in names():
        near = get_close_matches(name, names(), 3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        known = ", ".join(names()) if len(names()) <= 8 else f"{len(names())}, which `quantsim list` names"
        raise LookupError(f"no study {name!r}; {hint}there are {known}")
    if "quantsim.studies" not in sys.modules:
        package = importlib.util.spec_from_file_location(
            "quantsim.studies", folder() / "__init__.py", submodule_search_locations=[str(folder())]
        )
        assert package
        assert package.loader
        sys.modules["quantsim.studies"] = importlib.util.module_from_spec(package)
        package.loader.exec_module(sys.modules["quantsim.studies"])
    return importlib.import_module(f"quantsim.studies.{name}")


def question(name: str) -> str:
    """First line of a study's docstring."""
    return (module(name).__doc__ or "").strip().splitlines()[0]


def measures_time(name: str) -> bool:
    """Whether the numbers of a study are times, which nothing should run beside: it says ``MEASURES_TIME = True``."""
    return getattr(module(name), "MEASURES_TIME", False)


def needs_real_model(name: str) -> bool:
    """Whether a study measures the real model, which the extra ``real`` installs: by ``NEEDS_REAL_MODEL``."""
    return getattr(module(name), "NEEDS_REAL_MODEL", False)


def takes_weights(name: str) -> bool:
    """Whether a study also measures weights that a person gives: it has a ``measure_weights(config, given)``."""
    return hasattr(module(name), "measure_weights")


def config_of(name: str, small: bool, given: Given | None = None) -> Any:
    """The study's full or small config, for what it draws itself or for given weights.

    Raises:
        ValueError: for weights given to a study that takes none.
    """
    config = module(name).Config.small() if small else module(name).Config()
    if given is None:
        return config
    if not takes_weights(name):
        those = ", ".join(other for other in names() if takes_weights(other))
        raise ValueError(f"{name} takes no weights; those that do are {those}")
    return OnWeights(config, given)


def cells(name: str, config: Any) -> list[Cell]:
    """What a study measures, cell by cell."""
    if isinstance(config, OnWeights):
        return list(module(name).measure_weights(config.config, config.given))
    return list(module(name).measure(config))


def summary(name: str, rows: Rows) -> str | None:
    """What a study says of its rows in a sentence, if it has a ``summary``."""
    say = getattr(module(name), "summary", None)
    return say(rows) if say else None
