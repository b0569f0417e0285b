"""The runner: finds the studies, measures or loads their rows, draws, and writes where the numbers come from."""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import io
import json
import platform
import sys
import time
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from quantsim.lab import claims, plotting
from quantsim.rows import Rows, dumps, load, plain, replace_text, save

#: A cell of a study: its name, and the function that measures its rows.
Cell = tuple[str, Callable[[], list[dict[str, Any]]]]

_PACKAGE = Path(__file__).parent.parent
# what draws, judges or serves does not change a measured number
_BESIDE = {
    "claims.py",
    "plotting.py",
    "study.py",
    "cli.py",
    "comparison.py",
    "terminal.py",
    "doctor.py",
    "checkpoints.py",
    "rows.py",
    "hosts.py",
    "parts.py",
    "plan.py",
}


@cache
def folder() -> Path:
    """Where the studies are: inside an installed package, beside it in a checkout."""
    return _PACKAGE / "studies" if (_PACKAGE / "studies").is_dir() else _PACKAGE.parent / "studies"


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


def _code(source: str, keep: set[str] | None = None) -> str:
    """Source without comments, docstrings and blank lines; of a module only the top-level names in ``keep``."""
    tree, lines = ast.parse(source), source.splitlines()
    drop: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            drop.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    for node in tree.body if keep is not None else []:
        if not _defines(node) & (keep or set()):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            drop.update(range(first, (node.end_lineno or 0) + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(text.rstrip() for n, text in enumerate(lines, 1) if n not in drop and text.strip())


def _defines(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds; of one that is no assignment, all that it mentions and so may change."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    single = isinstance(node, ast.AnnAssign | ast.AugAssign)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if single else [node]
    imported = {(n.asname or n.name).partition(".")[0] for n in ast.walk(node) if isinstance(n, ast.alias)}
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)} | imported


def _measuring(source: str) -> str:
    """The part of a study that can change its rows: ``measure`` and ``Config`` and all that they mention."""
    nodes = [(n, _defines(n)) for n in ast.parse(source).body]
    keep, todo = set(), {"measure", "Config"}
    while todo:
        keep |= todo
        used = {m.id for n, names in nodes if names & todo for m in ast.walk(n) if isinstance(m, ast.Name)}
        todo = {name for _, defined in nodes for name in defined if name in used} - keep
    return _code(source, keep)


@cache
def _package_code() -> str:
    files = sorted(p for p in _PACKAGE.rglob("*.py") if p.name not in _BESIDE and "studies" not in p.parts)
    return "\n".join(f"{p.relative_to(_PACKAGE).as_posix()}\n{_code(p.read_text(encoding='utf-8'))}" for p in files)


def key(name: str, config: Any) -> str:
    """Identity of a study's rows: the config and the code that measures, without comments and docstrings."""
    text = json.dumps(plain(asdict(config)), sort_keys=True) + _measuring(inspect.getsource(module(name)))
    return hashlib.sha256((text + _package_code()).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What a run did: "measured", "resumed" or "loaded", in how many seconds."""

    name: str
    state: str
    seconds: float
    rows: Rows


def config_of(name: str, small: bool) -> Any:
    """The study's full or small config."""
    config = module(name).Config
    return config.small() if small else config()


def run(
    name: str, out: Path, *, small: bool = False, fresh: bool = False, tick: Callable[[int, int], None] | None = None
) -> Outcome:
    """Measure the rows of a study, or load them if config and code are unchanged; then draw.

    Finished cells are kept in ``<name>.partial.jsonl``, so an interrupted run goes on where it stopped.

    Args:
        name: study.
        out: folder for rows, provenance and figures.
        small: the small config, for a smoke test.
        fresh: measure in any case.
        tick: called with (cells done, cells in all).

    Raises:
        OSError: if the folder cannot be written to.
    """
    out.mkdir(parents=True, exist_ok=True)
    config, started = config_of(name, small), time.perf_counter()
    identity, stored = key(name, config), stored_key(out, name)
    if stored == identity and not fresh:
        state, rows = "loaded", load(out / f"{name}.jsonl")
    else:
        state, rows = _measure(name, config, identity, out, tick)
        seconds = round(time.perf_counter() - started, 2)
        save(out / f"{name}.jsonl", rows)
        replace_text(out / f"{name}.json", json.dumps(_provenance(name, config, identity, seconds), indent=1) + "\n")
        (out / f"{name}.partial.jsonl").unlink(missing_ok=True)
    plotting.save(module(name).draw(rows), out, name)
    jax.clear_caches()  # or the programs of all studies of a run add up in memory
    return Outcome(name, state, time.perf_counter() - started, rows)


def summary(name: str, rows: Rows) -> str | None:
    """What a study says of its rows in a sentence, if it has a ``summary``."""
    say = getattr(module(name), "summary", None)
    return say(rows) if say else None


def stored_key(out: Path, name: str) -> str | None:
    """Key of the rows that lie there, if any."""
    path = out / f"{name}.json"
    if not path.is_file() or not (out / f"{name}.jsonl").is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("key")
    except ValueError:
        return None


def _measure(
    name: str, config: Any, identity: str, out: Path, tick: Callable[[int, int], None] | None
) -> tuple[str, Rows]:
    partial = out / f"{name}.partial.jsonl"
    cells: list[Cell] = list(module(name).measure(config))
    if len({cell for cell, _ in cells}) < len(cells):
        raise ValueError(f"study {name} gives two of its cells one name")
    done = dict(_finished(partial, identity))
    state = "resumed" if done else "measured"
    kept = [{"key": identity}, *({"cell": cell, "rows": rows} for cell, rows in done.items())]
    save(partial, kept)
    with partial.open("a", encoding="utf-8") as log:
        for at, (cell, compute) in enumerate(cells):
            if tick:
                tick(at, len(cells))
            if cell not in done:
                done[cell] = [plain(r) for r in compute()]
                log.write(dumps({"cell": cell, "rows": done[cell]}) + "\n")
                log.flush()
    if tick:
        tick(len(cells), len(cells))
    return state, Rows(row for cell, _ in cells for row in done[cell])


def _finished(partial: Path, identity: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Cells that an interrupted run of the same key has finished; a line cut short is not one."""
    if not partial.is_file():
        return
    # a line may be cut in the middle of a character
    for at, line in enumerate(partial.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return
        if at == 0 and entry.get("key") != identity:
            return
        if at:
            yield entry["cell"], entry["rows"]


def _provenance(name: str, config: Any, identity: str, seconds: float) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "study": name,
        "question": question(name),
        "key": identity,
        "config": plain(asdict(config)),
        "versions": {p: version(p) for p in ("jax", "jaxlib", "numpy", "ml_dtypes", "scipy", "matplotlib")}
        | {"quantsim": sys.modules["quantsim"].__version__, "python": platform.python_version()},
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform}), {platform.machine()}",
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None) or "default"),
        "seconds": seconds,
    }


def settled(out: Path, wanted: list[str] | None = None) -> Iterator[tuple[str, tuple[claims.Claim, ...], Rows]]:
    """Study, claims and rows of every study whose rows lie in ``out``."""
    for name in wanted or names():
        if (out / f"{name}.jsonl").is_file():
            yield name, module(name).CLAIMS, load(out / f"{name}.jsonl")


def stale(out: Path) -> list[str]:
    """Studies whose rows are missing, or were measured by other code or with another config."""
    return [n for n in names() if stored_key(out, n) != key(n, config_of(n, small=False))]
