"""What of a population is static and what is a number: one program serves all that differ in numbers.

``split_population`` takes the numbers out and leaves a structure, which is hashable; ``rebuild_population`` puts
numbers, traced or not, back in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

from quantsim.populations.population import Population

#: Parameters of populations that programs take as numbers.
_NUMBERS = ("std", "df", "beta", "rate", "magnitude", "value")


@dataclass(frozen=True)
class Structure:
    """A spec without its numbers: the class, and for each field a static value, a structure or ``...`` for a number."""

    kind: Any
    parts: tuple[tuple[str, Any], ...] = ()


def split_population(pop: Population) -> tuple[Structure, tuple[float, ...]]:
    """Structure and numbers of a population.

    >>> from quantsim.populations import parse
    >>> a, b = (split_population(parse(f"t5+outliers(rate=0.01,magnitude={m})")) for m in (10, 100))
    >>> a[0] == b[0], a[1], b[1]
    (True, (5.0, 1.0, 0.01, 10.0), (5.0, 1.0, 0.01, 100.0))
    """
    numbers: list[float] = []
    return _taken(pop, numbers), tuple(numbers)


def _taken(spec: Any, numbers: list[float]) -> Structure:
    def part(name: str, value: Any) -> Any:
        if name in _NUMBERS and value is not None:
            numbers.append(float(value))
            return ...
        if isinstance(value, tuple):
            return tuple(part("", v) for v in value)
        return _taken(value, numbers) if isinstance(value, Population) or is_dataclass(value) else value

    if not is_dataclass(spec):
        return Structure(spec)  # drawn from values: static as a whole
    return Structure(type(spec), tuple((name, part(name, v)) for name, v in vars(spec).items()))


def rebuild_population(structure: Structure, numbers: Iterable[Any]) -> Population:
    """The population of a structure and numbers, in the order of ``split_population``.

    >>> from quantsim.populations import parse
    >>> print(rebuild_population(*split_population(parse("laplace(std=2)+outliers(rate=0.5,value=9)"))))
    laplace(std=2)+outliers(rate=0.5,value=9)
    """
    return _given(structure, iter(numbers))


def _given(structure: Structure, numbers: Iterator[Any]) -> Any:
    def part(value: Any) -> Any:
        if value is ...:
            return next(numbers)
        if isinstance(value, Structure):
            return _given(value, numbers)
        return tuple(map(part, value)) if isinstance(value, tuple) else value

    if not isinstance(structure.kind, type):
        return structure.kind
    return structure.kind(**{name: part(value) for name, value in structure.parts})
