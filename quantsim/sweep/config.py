"""A sweep as a TOML file: lists of specs, with names in braces for axes; ``docs/sweeps.md`` has an example."""

import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from quantsim.sweep.plan import Axes, Plan

KNOWN = ("populations", "quantizers", *Axes.__annotations__, "axes")


class ConfigError(ValueError):
    """A file that describes no sweep."""


def load(path: Path) -> Plan:
    """Plan of a TOML file.

    ``populations`` and ``quantizers`` are lists of specs, in which {name} stands for each value of the list ``name``
    of the table ``axes``; ``seeds``, ``shapes``, ``weights`` and ``predict`` are as in ``Axes``.

    Raises:
        ConfigError: if it cannot be read as that; says where and what is known.
    """
    found = _read(path)
    if unknown := [key for key in found if key not in KNOWN]:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(KNOWN)}")
    try:
        return _plan(**found)
    except (TypeError, ValueError) as failure:
        raise ConfigError(f"{path}: {failure}") from failure


def folder_of(path: Path) -> Path:
    """Where the results of a file go if nothing else is said: a folder of its name, in the working directory.

    >>> str(folder_of(Path("grids/outliers.toml"))), str(folder_of(Path("outliers")))
    ('outliers', 'outliers-results')
    """
    return Path(path.stem if path.suffix else f"{path.name}-results")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as failure:
        why = getattr(failure, "strerror", None) or failure
        raise ConfigError(f"cannot read {path} as the configuration of a sweep: {why}") from failure


def _plan(populations: Any = (), quantizers: Any = (), axes: Any = None, **others: Any) -> Plan:
    """Plan of what a file says."""
    lists = _checked_axes({} if axes is None else axes)
    specs = _checked_specs("populations", populations), _checked_specs("quantizers", quantizers)
    for name in lists:
        if not any(_names(name, spec) for several in specs for spec in several):
            raise ValueError(f"no population or quantizer mentions the axis {{{name}}}")
    return Plan.of(*(_expanded(several, lists) for several in specs), **others)


def _checked_axes(axes: Any) -> dict[str, list[Any]]:
    if not isinstance(axes, dict):
        raise TypeError(f"axes is a table of lists, not {axes!r}")
    for name, values in axes.items():
        if not isinstance(values, list):
            raise TypeError(f"the axis {name} is a list of values, not {values!r}")
    return axes


def _checked_specs(key: str, given: Any) -> Sequence[str]:
    specs = [given] if isinstance(given, str) else given
    if not isinstance(specs, list | tuple) or not all(isinstance(spec, str) for spec in specs):
        raise TypeError(f"{key} is a list of specs, not {given!r}")
    return specs


def _names(name: str, spec: str) -> bool:
    return f"{{{name}}}" in spec


def _expanded(specs: Sequence[str], axes: dict[str, list[Any]]) -> list[str]:
    """Every spec with every combination of the values of the axes that it mentions.

    >>> _expanded(["int{bits}:tensor", "bf16"], {"bits": [4, 8]})
    ['int4:tensor', 'int8:tensor', 'bf16']
    """
    found: list[str] = []
    for spec in specs:
        names = [name for name in axes if _names(name, spec)]
        for values in product(*(axes[name] for name in names)):
            text = spec
            for name, value in zip(names, values, strict=True):
                text = text.replace(f"{{{name}}}", str(value))
            found.append(text)
    return list(dict.fromkeys(found))
