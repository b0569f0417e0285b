"""One source file as statements: what each binds, what it mentions, and its code without comments and docstrings."""

import ast
import io
import re
import symtable
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TypeAlias

#: A name with the attributes behind it: ``theory.weight_mse`` is ("theory", "weight_mse").
Chain: TypeAlias = tuple[str, ...]
#: What an import binds a name to: a module, and the name in it or None for the module itself.
Target: TypeAlias = tuple[str, str | None]

_FILE_NAME = re.compile(r"[\w/-]+(\.[\w-]+)+")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_ANNOTATIONS = ("annotation", "returns")


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a module.

    Attributes:
        binds: names that it defines.
        mentions: global names that its code uses, with their attributes; those of annotations compute nothing.
        strings: constants in it that look like the name of a file or a module.
        decorators: names that it is decorated with: what they are may act on something, as a registry does.
        plain: a definition, an import or an assignment to names. Any other statement may act on what it mentions.
        code: its lines without comments, docstrings and blank lines; nothing for an import.
    """

    binds: frozenset[str] = frozenset()
    mentions: frozenset[Chain] = frozenset()
    strings: frozenset[str] = frozenset()
    decorators: frozenset[Chain] = frozenset()
    plain: bool = True
    code: str = ""


@dataclass(frozen=True)
class Source:
    """A module: its statements, what its imports bind, also those inside functions, and which modules they run."""

    name: str
    statements: tuple[Statement, ...]
    imports: dict[str, set[Target]] = field(default_factory=dict)
    runs: frozenset[Target] = frozenset()

    @cached_property
    def defining(self) -> dict[str, list[int]]:
        """For each name the numbers of the statements that bind it."""
        found: dict[str, list[int]] = {}
        for number, statement in enumerate(self.statements):
            for name in statement.binds:
                found.setdefault(name, []).append(number)
        return found


@lru_cache(1024)
def parsed(name: str, package: str, text: str) -> Source:
    """The module of that name, which lies in that package, from its text.

    >>> parsed("rooms", "", "import math; area = math.pi").statements[1].mentions
    frozenset({('math', 'pi')})

    Raises:
        SyntaxError: for a text that is no Python.
    """
    lines, scopes = text.splitlines(), symtable.symtable(text, name, "exec").get_children()
    statements: list[Statement] = []
    imports: dict[str, set[Target]] = {}
    runs: set[Target] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        inside = list(_walk(node))
        importing = [n for n in inside if isinstance(n, ast.Import | ast.ImportFrom)]
        for bound, target in (pair for n in importing for pair in _bound(n, package)):
            imports.setdefault(bound, set()).add(target)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            runs.update(target for n in importing for target in _run(n, package))
        statements.append(_statement(node, inside, lines, scopes))
    return Source(name, tuple(statements), imports, frozenset(runs))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes under one, in no order; like ``ast.walk``, but for contexts, and in a third of its time."""
    todo = [node]
    while todo:
        node = todo.pop()
        yield node
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                todo += [v for v in value if isinstance(v, ast.AST)]
            elif isinstance(value, ast.AST) and name != "ctx":
                todo.append(value)


# --- imports --------------------------------------------------------------------------------------------------------


def _module_of(node: ast.ImportFrom, package: str) -> str:
    """Full name of the module behind ``from``, also behind dots."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _bound(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Target]]:
    """Names that an import binds, and to what."""
    for alias in node.names:
        first = alias.name.partition(".")[0]
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, (_module_of(node, package), alias.name)
        else:
            yield (alias.asname, (alias.name, None)) if alias.asname else (first, (first, None))


def _run(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[Target]:
    """Modules, or names that may be modules, whose code an import runs."""
    for alias in node.names:
        yield (_module_of(node, package), alias.name) if isinstance(node, ast.ImportFrom) else (alias.name, None)


# --- statements -----------------------------------------------------------------------------------------------------


def _statement(
    node: ast.stmt, inside: Sequence[ast.AST], lines: Sequence[str], scopes: Iterable[symtable.SymbolTable]
) -> Statement:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return Statement(binds=frozenset(alias.asname or alias.name.partition(".")[0] for alias in node.names))
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or node.lineno
    binds, used = _around(node)
    used |= {name for s in scopes if first <= s.get_lineno() <= last for name in _globals(s)}
    used |= {name for n in inside if isinstance(n, ast.Import | ast.ImportFrom) for name, _ in _bound(n, "")}
    decorators = (chain for decorator in getattr(node, "decorator_list", ()) for chain in _chains(decorator))
    return Statement(
        binds=frozenset(binds),
        mentions=frozenset(chain for chain in _chains(node) if chain[0] in used),
        strings=frozenset(_file_names(inside)),
        decorators=frozenset(chain for chain in decorators if chain[0] in used),
        plain=_is_plain(node),
        code=_code(lines[first - 1 : last], {line - first for n in inside for line in _docstring(n)}),
    )


def _is_plain(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return all(isinstance(n, ast.Name | ast.Tuple | ast.List | ast.Starred) for n in node.targets)
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _file_names(inside: Iterable[ast.AST]) -> Iterator[str]:
    for node in inside:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _FILE_NAME.fullmatch(node.value):
            yield node.value


def _around(node: ast.AST) -> tuple[set[str], set[str]]:
    """Names that a statement binds, and names that it uses, in the scope of the module itself."""
    binds: set[str] = set()
    uses: set[str] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name):
            (uses if isinstance(node.ctx, ast.Load) else binds).add(node.id)
        elif isinstance(node, _NAMED) and node.name:
            binds.add(node.name)
        todo += _outside(node)
    return binds, uses


def _outside(node: ast.AST) -> list[ast.AST]:
    """Nodes below one that belong to the same scope as it: of a function, its decorators and defaults."""
    if isinstance(node, _FUNCTIONS):
        defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]
        return [*getattr(node, "decorator_list", ()), *defaults]
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]
    if isinstance(node, _COMPREHENSIONS):
        return [node.generators[0].iter]
    return list(ast.iter_child_nodes(node))


def _globals(scope: symtable.SymbolTable) -> Iterator[str]:
    """Names of the module that a function, a class or a comprehension uses, and all that lie in it."""
    todo = [scope]
    while todo:
        scope = todo.pop()
        yield from (symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global())
        todo += scope.get_children()


def _chains(node: ast.AST) -> Iterator[Chain]:
    """Every name under a node with the attributes behind it, annotations left out."""
    todo = [node]
    while todo:
        node, attributes = todo.pop(), []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield (node.id, *reversed(attributes))
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                todo += [v for v in value if isinstance(v, ast.AST)]
            elif isinstance(value, ast.AST) and name not in _ANNOTATIONS:
                todo.append(value)


# --- code -----------------------------------------------------------------------------------------------------------


def _docstring(node: ast.AST) -> range:
    """Lines of the docstring of a class or a function."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            return range(first.lineno, (first.end_lineno or 0) + 1)
    return range(0)


def _code(lines: Sequence[str], docstrings: set[int]) -> str:
    own = list(lines)
    if any("#" in line for line in own):
        for token in tokenize.generate_tokens(io.StringIO("\n".join(own)).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                own[row - 1] = own[row - 1][:column]
    kept = (text.rstrip() for number, text in enumerate(own) if number not in docstrings)
    return "\n".join(filter(None, kept))
