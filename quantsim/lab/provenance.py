"""Where rows come from: what is written beside them, and whether they are still those that were measured."""

import json
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax

from quantsim.lab import keys, plotting, study
from quantsim.lab.given import OnWeights
from quantsim.rows import plain, replace_text


@dataclass(frozen=True)
class State:
    """Whether the stored rows of a study can be used.

    Attributes:
        word: "current"; "missing"; "stale", measured by other code or with another config; "edited", not as measured.
        why: what is missing or differs, in words; empty for current rows.
    """

    word: Literal["current", "missing", "stale", "edited"]
    why: str = ""


def stored(out: Path, name: str) -> dict[str, Any]:
    """Provenance that lies in a folder; empty if there is none that can be read."""
    try:
        found = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(out: Path, name: str, found: dict[str, Any]) -> None:
    """Replace the provenance of a study."""
    replace_text(out / f"{name}.json", json.dumps(found, indent=1) + "\n")


def state(out: Path, name: str) -> State:
    """Whether the rows in a folder are those that the code of today measures with the full config."""
    return state_of(out, name, study.config_of(name, small=False))


def state_of(out: Path, name: str, config: Any) -> State:
    """Whether the rows in a folder are those that the code of today measures with this config."""
    rows, about = out / f"{name}.jsonl", stored(out, name)
    if not rows.is_file():
        return State("missing", f"there are no rows in {rows}")
    if "key" not in about:
        return State("missing", f"nothing in {out / name}.json says what measured the rows")
    if about["key"] != keys.of_rows(name, config):
        return State("stale", _difference(name, config, about))
    if not are_as_measured(out, name):
        return State("edited", f"{rows} is not the file that was measured: its hash is not that of {out / name}.json")
    return State("current")


def are_as_measured(out: Path, name: str) -> bool:
    """Whether the rows in a folder are the file that was measured, by whatever code."""
    return stored(out, name).get("rows") == keys.of_text(out / f"{name}.jsonl")


def _difference(name: str, config: Any, about: dict[str, Any]) -> str:
    """What of config and code differs from what is stored."""
    before, now = about.get("code") or {}, keys.measuring_code(name, on_weights=isinstance(config, OnWeights))
    others = sorted(module for module in before.keys() | now.keys() if before.get(module) != now.get(module))
    if about.get("config") != written(config):
        return "the rows were measured with another config"
    if not before or not others:
        return "the rows were measured by other code"
    more = f" and {len(others) - 4} more" if len(others) > 4 else ""
    return f"the rows were measured by other code: {', '.join(others[:4])}{more} changed since"


def weights_of(out: Path, name: str) -> str | None:
    """The file of weights that the rows in a folder were measured on, None of a study's own."""
    return stored(out, name).get("weights_of")


def measured(name: str, config: Any, rows: Path, seconds: float) -> dict[str, Any]:
    """Provenance of rows that were just measured and saved."""
    given = config.given if isinstance(config, OnWeights) else None
    return {
        "study": name,
        "question": study.question(name),
        **({} if given is None else {"weights_of": given.path}),
        "key": keys.of_rows(name, config),
        "rows": keys.of_text(rows),
        "config": written(config),
        "versions": _versions(),
        "device": _device(),
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None) or "default"),
        "seconds": seconds,
        "code": keys.measuring_code(name, on_weights=given is not None),
    }


def confirmed(about: dict[str, Any], name: str, config: Any, cells: list[str], *, by: str) -> dict[str, Any]:
    """Provenance of rows that stay, as the code of today gives the numbers of some cells again.

    Args:
        about: what was written before.
        name: study.
        config: its config.
        cells: that were measured again.
        by: what they were held against.
    """
    of_before = {k: about.get(k) for k in ("key", "code", "versions", "device")}
    measured_by = about.get("measured_by", of_before)
    fresh = {"key": keys.of_rows(name, config), "code": keys.measuring_code(name), "measured_by": measured_by}
    return about | fresh | {"confirmed": {"cells": cells, "by": by, "versions": _versions(), "device": _device()}}


def written(config: Any) -> Any:
    """A config as provenance holds it."""
    return plain(asdict(config))


def _versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "numpy", "ml_dtypes", "scipy", "matplotlib")
    ours = {"quantsim": sys.modules["quantsim"].__version__, "python": platform.python_version()}
    return {p: version(p) for p in packages} | ours


def _device() -> str:
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind} ({device.platform}), {platform.machine()}"


def figure_files(out: Path, name: str) -> list[Path]:
    """The files of a study's figure."""
    return [out / f"{name}.{kind}" for kind in plotting.FORMATS]


def figure_is_current(out: Path, name: str) -> bool:
    """Whether the figure in a folder was drawn from its rows by the code of today, and no file of it was changed."""
    about = stored(out, name)
    found, files = about.get("figure") or {}, figure_files(out, name)
    if found.get("key") != keys.of_figure(name, about.get("rows", "")) or not all(f.is_file() for f in files):
        return False
    return found.get("files") == {f.name: keys.of_file(f) for f in files}


def figure(out: Path, name: str) -> dict[str, Any]:
    """What is written of a figure that was just drawn from the rows that lie there."""
    files = {f.name: keys.of_file(f) for f in figure_files(out, name)}
    return {"key": keys.of_figure(name, stored(out, name).get("rows", "")), "files": files}
