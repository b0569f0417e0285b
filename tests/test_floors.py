"""The house, held by its source: who may import whom, how long a file and a function may be, what nobody may touch."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Floor and place on it. A module imports only from strictly lower places; a folder is one family with one place, inside
# which anything goes but a circle.
FLOORS = {
    "_types": (0, 0),
    "numerics": (0, 1),
    "formats": (1, 0),
    "granularity": (1, 0),
    "populations": (1, 0),
    "rows": (1, 0),
    "theory": (2, 0),
    "rounding": (2, 0),
    "models": (2, 1),
    "calibration": (3, 0),
    "quantizer": (4, 0),
    "measure": (5, 0),
    "checkpoints": (5, 0),
    "outputs": (6, 0),
    "mitigations": (6, 1),
    "tree": (6, 2),
    "sweep": (7, 0),
    "inspection": (7, 1),
    "lab": (8, 0),
    "cli": (9, 0),
    "__main__": (9, 1),
    "quantsim": (10, 0),  # the package itself, __init__.py: it may import everything, nothing may import it
}
NAMELESS = {"utils", "util", "core", "common", "helpers", "misc", "_src"}
PRIVATE_JAX = ("jax.experimental", "jax.core", "jax.interpreters", "jax._src")
MAX_BODY_LINES, MAX_PARAMETERS = 40, 6
MARK = "fmt: " + "skip"


def room(module):
    """The row of the table that a module falls under: its file, or its family's folder."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imports(tree):
    """Every import with its line, function-level ones included, as (module, name or None, level, node)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, 0, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name, node.level, node) for alias in node.names)


def target(module, name, known):
    """The module that an import reaches: ``from quantsim import errors`` reaches quantsim.errors."""
    inner = f"{module}.{name}"
    return inner if inner in known or (module == "quantsim" and name in FLOORS) else module


def own_imports(tree, known):
    for module, name, level, node in imports(tree):
        if level == 0 and module.split(".")[0] == "quantsim":
            yield target(module, name, known), node


def floor_violations(module, tree, known):
    place = FLOORS.get(room(module))
    if place is None:
        return [f"{module} has no floor: add it to the table in tests/test_floors.py"]
    found = [f"{module}:{n.lineno} imports relatively" for _, _, level, n in imports(tree) if level]
    for other, node in own_imports(tree, known):
        inside = room(other) == room(module)
        below = FLOORS.get(room(other), (99, 0)) < place
        if not (inside or below):
            found.append(f"{module}:{node.lineno} on floor {place} imports {other}, which is not below it")
    return found


def dotted(node):
    """``a.b.c`` of an attribute chain, or an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def forbidden_violations(module, tree):
    found = []
    names = [(f"{m}.{n}" if n else m, node.lineno) for m, n, _, node in imports(tree)]
    names += [(dotted(node), node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for name, line in names:
        if any(f"{name}.".startswith(f"{private}.") for private in PRIVATE_JAX):
            found.append(f"{module}:{line} uses {name}")
        if name.split(".")[0] in ("matplotlib", "mpl_toolkits") and module != "quantsim.lab.plotting":
            found.append(f"{module}:{line} imports matplotlib: only quantsim.lab.plotting does")
    found += [f"{module} has no name of its own" for part in module.split(".") if part in NAMELESS]
    return found


def early_violations(module, tree):
    """Imports of scipy at the top of a module: it takes longer to import than all of this package."""
    early = [statement for statement in tree.body if isinstance(statement, ast.Import | ast.ImportFrom)]
    return [
        f"{module}:{statement.lineno} imports scipy before it is needed, not in the function that does"
        for statement in early
        if any(name.split(".")[0] == "scipy" for name, _, _, _ in imports(statement))
    ]


def body_lines(function):
    """Lines of the body without the docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - min(s.lineno for s in body) + 1 if body else 0


def parameters(function):
    """Names without self; ``*args`` and ``**kwargs`` hand on what is not this function's business."""
    names = [p.arg for p in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return [n for n in names if n not in ("self", "cls")]


def size_violations(module, tree):
    found = []
    for f in ast.walk(tree):
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef):
            if body_lines(f) > MAX_BODY_LINES:
                found.append(f"{module}.{f.name} has {body_lines(f)} body lines, more than {MAX_BODY_LINES}")
            if len(parameters(f)) > MAX_PARAMETERS:
                found.append(f"{module}.{f.name} has {len(parameters(f))} parameters, more than {MAX_PARAMETERS}")
    return found


def cycle_violations(trees):
    """Import circles among modules, by depth-first search: of lazy and type-only imports too."""
    edges = {}
    for module, tree in trees.items():
        edges[module] = {other for other, _ in own_imports(tree, trees)} & trees.keys()
    state, found = {}, []

    def visit(module, path):
        state[module] = "open"
        for other in sorted(edges[module]):
            if state.get(other) == "open":
                found.append("import circle: " + " -> ".join([*path[path.index(other) :], other]))
            elif other not in state:
                visit(other, [*path, other])
        state[module] = "done"

    for module in trees:
        if module not in state:
            visit(module, [module])
    return found


def packing_violations(module, source, tree):
    """What a reader has to unpack: layout kept from the formatter, tables of lambdas, strings split at run time."""
    found = [f"{module} keeps the formatter off {source.count(MARK)} statements"] if MARK in source else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict | ast.List | ast.Tuple | ast.Set):
            values = node.values if isinstance(node, ast.Dict) else node.elts
            if sum(isinstance(v, ast.Lambda) for v in values) > 1:
                found.append(f"{module}:{node.lineno} is a table of lambdas")
        literal = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Constant | ast.JoinedStr)
        if literal and node.attr == "split":
            found.append(f"{module}:{node.lineno} splits a literal at run time")
    return found


def violations(sources):
    """Everything that a dictionary of module name to source does against the rules."""
    trees = {module: ast.parse(source) for module, source in sources.items()}
    found = cycle_violations(trees)
    for module, tree in trees.items():
        found += floor_violations(module, tree, trees) + forbidden_violations(module, tree)
        found += early_violations(module, tree)
        found += size_violations(module, tree) + packing_violations(module, sources[module], tree)
    return found


def sources_of(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    modules = [p.relative_to(ROOT).with_suffix("").parts for p in paths]
    names = [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in modules]
    return dict(zip(names, (p.read_text(encoding="utf-8") for p in paths), strict=True))


def test_the_package_keeps_the_rules():
    sources = sources_of("quantsim")
    assert {
        "quantsim",
        "quantsim.numerics.ieee",
        "quantsim.populations.draws",
        "quantsim.quantizer.parsing",
    } <= sources.keys()
    assert not violations(sources), "\n".join(violations(sources))


def test_studies_call_plotting_and_public_jax_and_are_written_out():
    sources = sources_of("studies")
    assert sources
    found = []
    for module, source in sources.items():
        tree = ast.parse(source)
        found += forbidden_violations(module, tree) + size_violations(module, tree)
        found += packing_violations(module, source, tree)
    assert not found, "\n".join(found)


def test_theory_knows_nothing_of_rounding():
    # the floors forbid it already; this says it by name, as predictions must not agree with themselves
    for module, source in sources_of("quantsim/theory").items():
        reached = {room(other) for other, _ in own_imports(ast.parse(source), sources_of("quantsim"))}
        assert reached <= {"_types", "numerics", "formats", "granularity", "populations", "theory"}, module


LONG = "def f():\n" + "    x = 1\n" * 41
DOCUMENTED = 'def f():\n    """One.\n' + "\n    More.\n" * 30 + '    """\n' + "    x = 1\n" * 40
BAD = {
    "an upward import": ({"quantsim.measure.tallies": "from quantsim.sweep import sweep"}, "not below it"),
    "a lazy upward import": (
        {"quantsim.measure.tallies": "def f():\n    from quantsim import sweep"},
        "not below it",
    ),
    "a type-only upward import": (
        {"quantsim.measure.tallies": "if TYPE_CHECKING:\n    from quantsim.sweep import x"},
        "not below it",
    ),
    "a neighbour": ({"quantsim.formats": "import quantsim.granularity"}, "not below it"),
    "theory on rounding": ({"quantsim.theory.bad": "from quantsim.rounding import snap"}, "not below it"),
    "rounding on quantizer": ({"quantsim.rounding": "from quantsim.quantizer import parse"}, "not below it"),
    "the package": ({"quantsim.cli": "import quantsim as qs"}, "imports quantsim, which"),
    "an unknown module": ({"quantsim.novelty": "x = 1"}, "has no floor"),
    "an import of an unknown module": ({"quantsim.cli": "import quantsim.novelty"}, "not below it"),
    "a relative import": ({"quantsim.theory.bad": "from . import levels"}, "imports relatively"),
    "matplotlib": (
        {"quantsim.lab.study": "def f():\n    import matplotlib.pyplot as plt"},
        "only quantsim.lab.plotting",
    ),
    "private jax": ({"quantsim.sweep": "from jax.experimental import pallas"}, "uses jax.experimental"),
    "private jax from jax": ({"quantsim.sweep": "from jax import core"}, "uses jax.core"),
    "a private jax attribute": ({"quantsim.sweep": "import jax\nx = jax.interpreters.ad"}, "uses jax.interpreters.ad"),
    "no name": ({"quantsim.theory.utils": "x = 1"}, "no name of its own"),
    "a long function": ({"quantsim.measure.tallies": LONG}, "f has 41 body lines"),
    "a long method": (
        {"quantsim.measure.tallies": "class C:\n" + "".join(f"    {s}\n" for s in LONG.split("\n"))},
        "41 body",
    ),
    "layout kept from the formatter": ({"quantsim.rows": f"x = (1,  2)  # {MARK}"}, "keeps the formatter off 1"),
    "a table of lambdas": ({"quantsim.rows": 'x = {"a": lambda v: v, "b": lambda v: -v}'}, "table of lambdas"),
    "a table in a string": ({"quantsim.rows": 'x = dict(zip("a b c".split(), (1, 2, 3)))'}, "splits a literal"),
    "scipy before it is needed": ({"quantsim.theory": "from scipy.special import ndtr"}, "imports scipy before"),
    "many parameters": ({"quantsim.measure.tallies": "def f(a, b, c, *, d, e, f, g): pass"}, "7 parameters"),
    "a circle in a family": (
        {"quantsim.theory.a": "from quantsim.theory import b", "quantsim.theory.b": "import quantsim.theory.a"},
        "import circle: quantsim.theory.a -> quantsim.theory.b -> quantsim.theory.a",
    ),
}
GOOD = {
    "a lower floor": {
        "quantsim.quantizer.scaled": "from quantsim.rounding import snap\nfrom quantsim.numerics import ieee",
        "quantsim.numerics.ieee": "",
    },
    "a family": {
        "quantsim.theory": "from quantsim.theory.a import x",
        "quantsim.theory.a": "from quantsim import populations",
    },
    "public jax": {
        "quantsim.sweep": "import jax\nfrom jax import lax\nfrom jax.sharding import Mesh\nx = jax.core_count"
    },
    "a long docstring": {"quantsim.measure.tallies": DOCUMENTED},
    "six parameters and self": {
        "quantsim.measure.tallies": "class C:\n    def f(self, a, b, c, *d, e, f, g=0, **h): pass"
    },
    "matplotlib in its place": {"quantsim.lab.plotting": "import matplotlib"},
    "scipy where it is needed": {"quantsim.theory": "def f():\n    from scipy.special import ndtr\n    return ndtr(0)"},
}


@pytest.mark.parametrize(("sources", "message"), BAD.values(), ids=BAD.keys())
def test_the_check_can_fail(sources, message):
    assert any(message in v for v in violations(sources)), violations(sources)


@pytest.mark.parametrize("sources", GOOD.values(), ids=GOOD.keys())
def test_the_check_can_pass(sources):
    assert not violations(sources)
