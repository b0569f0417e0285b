"""Which code a measurement reaches, found in the sources without running them.

From a few names of a module the search follows every name that their code mentions, through imports, at the top of a
file or in a function, to the statement that defines it. A re-export by a package leads to the module that defines it.
An object comes from a class or a value that some reached code has named, so its methods are reached with it.

Where the search cannot be sure it takes more: the whole of a module that is handed on as an object, or asked for a name
that it does not define; in reached modules a definition that nobody names; and statements that act on what is reached
(``TABLE.update(…)``, or a definition under a decorator that mentions the table) or on other libraries, in the reached
modules and in all that importing these runs. Of the package
in which the search begins, as the studies are, only what is reached itself counts: its files import what draws them.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from quantsim.lab.mentions import Chain, Source, Statement, Target, parsed

#: A statement, by its module and its number in it; the number ``ALL`` stands for the module as a whole.
Place: TypeAlias = tuple[str, int]
ALL = -1


class House:
    """The modules under some folders, each folder being a package of that name.

    Args:
        folders: folder of each package.
        asked: names that modules are asked for, as studies are for ``draw``: no code names them, their use is known.
    """

    def __init__(self, folders: Mapping[str, Path], asked: Iterable[str] = ()) -> None:
        self._paths, self._asked = dict(_modules(folders)), frozenset(asked)
        self._sources: dict[str, Source] = {}
        # of a statement, what it leads to, what it acts on, and how it is written; of a name, whose it is
        self._links: dict[Place, set[Place]] = {}
        self._acted_on: dict[Place, set[Place]] = {}
        self._texts: dict[Place, str] = {}
        self._meanings: dict[tuple[str, Chain], list[Place]] = {}
        # of a module, its definitions that nobody names, and the modules and names that importing it runs
        self._unnamed: dict[str, list[Place]] = {}
        self._runs: dict[str, set[str]] = {}

    def source(self, name: str) -> Source:
        """A module as statements, as it was when this house first read it."""
        if name not in self._sources:
            path = self._paths[name]
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            self._sources[name] = parsed(name, package, path.read_text(encoding="utf-8"))
        return self._sources[name]

    def reached(self, module: str, names: Iterable[str]) -> dict[str, str]:
        """Code that these names of a module reach, by the module that holds it.

        >>> import quantsim
        >>> house = House({"quantsim": Path(quantsim.__file__).parent})
        >>> sorted(house.reached("quantsim.rows", ["dumps"])), sorted(house.reached("quantsim.rounding", ["Rounding"]))
        (['quantsim.rows'], ['quantsim.rounding'])

        Raises:
            KeyError: if there is no such module.
        """
        start = self.source(module)
        places = {(module, n) for name in names for n in start.defining.get(name, ())}
        found: set[Place] = set()
        while places:
            found |= places
            places = {p for place in places for p in self._followed(place)} - found
            if not places:
                places = set(self._swept_along(found, module)) - found
        return self._written(found)

    # --- names --------------------------------------------------------------------------------------------------

    def _followed(self, place: Place) -> set[Place]:
        """Statements that a statement mentions, or that a module as a whole is."""
        if place not in self._links:
            source, statement = self._at(place)
            found = {p for chain in statement.mentions for p in self._resolved(source, chain)}
            found.update((text, ALL) for text in statement.strings & self._paths.keys())
            self._links[place] = found if place[1] != ALL else self._whole(source)
        return self._links[place]

    def _at(self, place: Place) -> tuple[Source, Statement]:
        source = self.source(place[0])
        return source, Statement() if place[1] == ALL else source.statements[place[1]]

    def _resolved(self, source: Source, chain: Chain) -> list[Place]:
        """Statements that define what a chain of names means in a module; none for other libraries and local names."""
        if (source.name, chain) not in self._meanings:
            self._meanings[source.name, chain] = []  # of modules that export each other's names
            name, *rest = chain
            found = [(source.name, n) for n in source.defining.get(name, ()) if source.statements[n].code]
            for target in source.imports.get(name, ()):
                found += self._meant(target, rest)
            self._meanings[source.name, chain] = found
        return self._meanings[source.name, chain]

    def _meant(self, target: Target, rest: list[str]) -> list[Place]:
        """Statements behind an imported name and the attributes that follow it."""
        module, name = target
        if name is not None:
            rest = [name, *rest]
        while rest and module in self._paths:
            source, inner = self.source(module), f"{module}.{rest[0]}"
            if rest[0] in source.defining and (module, rest[0]) not in source.imports.get(rest[0], ()):
                return self._resolved(source, (rest[0], *rest[1:]))
            if inner not in self._paths:
                break
            module, rest = inner, rest[1:]
        return [(module, ALL)] if module in self._paths else []

    def _whole(self, source: Source) -> set[Place]:
        """All statements of a module, and what it imports from its own package, as exports are."""
        own = {(source.name, number) for number in range(len(source.statements))}
        handed_on = [t for targets in source.imports.values() for t in targets if t[0].startswith(f"{source.name}.")]
        return own | {place for target in handed_on if target[1] is not None for place in self._meant(target, [])}

    # --- what nobody names --------------------------------------------------------------------------------------

    def _swept_along(self, found: set[Place], start: str) -> Iterator[Place]:
        reached = {module for module, _ in found}
        for module in reached - {start}:
            yield from self._named_by_nobody(module)
        beside = {module for module in reached if module.rpartition(".")[0] == start.rpartition(".")[0]}
        for module in self._run_by(reached - beside) | beside | {start}:
            for number, statement in enumerate(self.source(module).statements):
                acts = not statement.plain and self._acts((module, number), found)
                if acts or (statement.decorators and self._registers((module, number), found)):
                    yield module, number

    def _named_by_nobody(self, module: str) -> list[Place]:
        if module not in self._unnamed:
            self._unnamed[module] = []
            for number, statement in enumerate(self.source(module).statements):
                names = statement.binds - self._asked
                named = any((module, n) in self._named or n.startswith("__") for n in names)
                if statement.plain and statement.code and names and not named:
                    self._unnamed[module].append((module, number))
        return self._unnamed[module]

    def _acts(self, place: Place, found: set[Place]) -> bool:
        """Whether a statement that is no definition mentions reached code, or nothing of these packages at all."""
        if place not in self._acted_on:
            module, (source, statement) = place[0], self._at(place)
            bound = {(module, n) for name in statement.binds for n in source.defining[name]}
            self._acted_on[place] = (self._followed(place) | bound) - {place}
        meant = self._acted_on[place]
        return not meant or not meant.isdisjoint(found)

    def _registers(self, place: Place, found: set[Place]) -> bool:
        """Whether a decorator of a definition, code of these packages, is reached or mentions reached code."""
        source, statement = self._at(place)
        decorators = {p for chain in statement.decorators for p in self._resolved(source, chain)}
        meant = decorators.union(*(self._followed(decorator) for decorator in decorators))
        return not meant.isdisjoint(found)

    @cached_property
    def _named(self) -> set[tuple[str, str]]:
        """Every (module, name) that some other statement or an import names; a whole module's names are not named."""
        named: set[tuple[str, str]] = set()
        for module in self._paths:
            source = self.source(module)
            places = [p for targets in source.imports.values() for t in targets if t[1] for p in self._meant(t, [])]
            for number in range(len(source.statements)):
                places += self._followed((module, number)) - {(module, number)}
            for place in set(places):
                named |= {(place[0], name) for name in self._at(place)[1].binds}
        return named

    def _run_by(self, modules: Iterable[str]) -> set[str]:
        """These modules and all that importing them runs: packages around them, and what those import at their top."""
        found, todo = set(), set(modules)
        while todo:
            found |= todo
            reached = {name for module in todo for name in self._run_at_the_top_of(module)}
            around = {module.rpartition(".")[0] for module in todo}
            todo = ((reached | around) & self._paths.keys()) - found
        return found

    def _run_at_the_top_of(self, module: str) -> set[str]:
        if module not in self._runs:
            self._runs[module] = {name for target in self.source(module).runs for name in _names_of(target)}
        return self._runs[module]

    # --- as text ------------------------------------------------------------------------------------------------

    def _written(self, found: set[Place]) -> dict[str, str]:
        """Each statement's code, what its names mean, and the bytes of files beside the module that it names."""
        parts: dict[str, list[str]] = {}
        for place in sorted(found):
            if place not in self._texts:
                self._texts[place] = self._text(place)
            parts.setdefault(place[0], []).append(self._texts[place])
        texts = {name: "\n".join(filter(None, lines)) for name, lines in parts.items()}
        return {name: text for name, text in texts.items() if text}

    def _text(self, place: Place) -> str:
        source, statement = self._at(place)
        if not statement.code:
            return ""
        meanings = sorted(filter(None, (self._meaning(source, chain) for chain in statement.mentions)))
        contents = filter(None, (_content(self._paths[place[0]].parent / text) for text in sorted(statement.strings)))
        return "\n".join([statement.code, *meanings, *contents])

    def _meaning(self, source: Source, chain: Chain) -> str:
        """Where an imported name leads, as text; nothing for a name of the module itself."""
        targets = source.imports.get(chain[0])
        if not targets:
            return ""
        outside = [f"{module}.{name}" for module, name in targets if module not in self._paths]
        inside = {f"{p[0]}.{n}" for t in targets for p in self._meant(t, list(chain[1:])) for n in self._at(p)[1].binds}
        return f"{'.'.join(chain)}: {' '.join(sorted([*outside, *inside]))}"


def _modules(folders: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Name and file of every module; a folder inside another that has a name of its own belongs to that name."""
    for package, folder in folders.items():
        others = [other for other in folders.values() if other != folder and other.is_relative_to(folder)]
        for path in sorted(folder.rglob("*.py")):
            if not any(path.is_relative_to(other) for other in others):
                parts = path.relative_to(folder).with_suffix("").parts
                yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def _names_of(target: Target) -> tuple[str, ...]:
    module, name = target
    return (module,) if name is None else (module, f"{module}.{name}")


def _content(path: Path) -> str:
    return path.read_bytes().hex() if path.is_file() and path.suffix != ".py" else ""
