"""The studies: where they lie, what they ask, and what one of them gives to the runner."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

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
        raise LookupError(f"no study {name!r}; there are {', '.join(names())}")
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


def config_of(name: str, small: bool) -> Any:
    """The study's full or small config."""
    config = module(name).Config
    return config.small() if small else config()


def summary(name: str, rows: Rows) -> str | None:
    """What a study says of its rows in a sentence, if it has a ``summary``."""
    say = getattr(module(name), "summary", None)
    return say(rows) if say else None
