"""What a sweep measures: the grid of populations, shapes, seeds and quantizers; from Python or from a TOML file."""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, TypedDict

from quantsim import populations as pops
from quantsim._types import Shape
from quantsim.populations import Population
from quantsim.quantizer import parse
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.sweep.chunks import Cell


class Axes(TypedDict, total=False):
    """The axes of a grid beside populations and quantizers, and how much is drawn at each point.

    Attributes:
        seeds: seeds, or one; 0 by default.
        shapes: shapes of an array, what a scale per tensor or channel sees; (256, 1024) by default.
        weights: weights of a point, rounded up to whole arrays; 10^7 by default.
        predict: whether rows carry what theory says, which costs up to a second a point.
    """

    seeds: int | Iterable[int]
    shapes: Iterable[Shape]
    weights: int | float
    predict: bool


@dataclass(frozen=True)
class Plan:
    """A grid, checked: populations x shapes x seeds are cells, and every quantizer measures each cell.

    Raises:
        ValueError: for an empty axis, a point that is there twice, a shape that a quantizer does not take, fewer than
            one weight.

    >>> plan = Plan.of(["normal", "t5"], ["int8:block32", "q4_0"], shapes=[(64, 256)], weights=10**6)
    >>> len(plan.cells()), plan.cells()[0].arrays, plan.points
    (2, 62, 4)
    """

    populations: tuple[Population, ...]
    quantizers: tuple[AbstractQuantizer, ...]
    seeds: tuple[int, ...] = (0,)
    shapes: tuple[Shape, ...] = ((256, 1024),)
    weights: int = 10**7
    predict: bool = True

    @classmethod
    def of(
        cls,
        populations: Iterable[Population | str] | Population | str,
        quantizers: Iterable[AbstractQuantizer | str] | AbstractQuantizer | str,
        **axes: Any,
    ) -> "Plan":
        """A plan of specs or objects, with the axes of ``Axes``."""
        if unknown := set(axes) - set(Axes.__annotations__):
            raise ValueError(f"a sweep has no {', '.join(sorted(unknown))}; it takes {', '.join(Axes.__annotations__)}")
        seeds, shapes = axes.pop("seeds", (0,)), axes.pop("shapes", ((256, 1024),))
        if not isinstance(axes.get("predict", True), bool):
            raise ValueError(f"predict of a sweep is true or false, not {axes['predict']!r}")
        return cls(
            tuple(pops.parse(p) if isinstance(p, str) else p for p in _several(populations)),
            tuple(parse(q) if isinstance(q, str) else q for q in _several(quantizers)),
            tuple(_whole(s, "a seed") for s in ([seeds] if isinstance(seeds, int) else seeds)),
            tuple(tuple(_whole(n, "a size") for n in shape) for shape in shapes),
            _whole(axes.pop("weights", 10**7), "the number of weights"),
            **axes,
        )

    def __post_init__(self) -> None:
        """Reject what cannot be measured, before anything is."""
        for name in ("populations", "quantizers", "seeds", "shapes"):
            values = [str(v) for v in getattr(self, name)]
            if not values:
                raise ValueError(f"a sweep needs at least one of {name}")
            if twice := {v for v in values if values.count(v) > 1}:
                raise ValueError(f"{name} of a sweep are there twice: {', '.join(sorted(twice))}")
        if wrong := [s for s in self.seeds if not 0 <= s < 2**32]:
            raise ValueError(f"a seed lies between 0 and 2^32 - 1, got {wrong[0]}")
        if self.weights < 1:
            raise ValueError(f"a sweep draws at least one weight a point, got {self.weights}")
        for shape, q in product(self.shapes, self.quantizers):
            if not shape or min(shape) < 1:
                raise ValueError(f"the shape of an array needs sizes of at least 1, got {shape}")
            q.bits_per_weight(shape)

    def cells(self) -> list[Cell]:
        """The cells in their order: populations, then shapes, then seeds."""
        grid = product(self.populations, self.shapes, self.seeds)
        return [Cell(p, shape, seed, -(-self.weights // prod(shape))) for p, shape, seed in grid]

    @property
    def points(self) -> int:
        """Rows of the result."""
        return len(self.cells()) * len(self.quantizers)

    @property
    def drawn(self) -> int:
        """Weights drawn at all cells together."""
        return sum(c.arrays * prod(c.shape) for c in self.cells())

    def plain(self) -> dict[str, Any]:
        """As JSON has it; what a folder of results remembers."""
        specs = {"populations": [str(p) for p in self.populations], "quantizers": [str(q) for q in self.quantizers]}
        return specs | {
            "seeds": list(self.seeds),
            "shapes": [list(s) for s in self.shapes],
            "weights": self.weights,
            "predict": self.predict,
        }


def _several(value: Any) -> Iterable[Any]:
    return [value] if isinstance(value, str | Population | AbstractQuantizer) else value


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{what} of a sweep is a whole number, not {value!r}")
    return int(value)


class ConfigError(ValueError):
    """A file that describes no sweep."""


def load(path: Path) -> Plan:
    """Plan of a TOML file; see the README for an example.

    ``populations`` and ``quantizers`` are lists of specs, in which {name} stands for each value of the list ``name``
    of the table ``axes``; ``seeds``, ``shapes``, ``weights`` and ``predict`` are as in ``Axes``.

    Raises:
        ConfigError: if it cannot be read as that; says where and what is known.
    """
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as failure:
        why = getattr(failure, "strerror", None) or failure
        raise ConfigError(f"cannot read {path} as the configuration of a sweep: {why}") from failure
    known = ("populations", "quantizers", *Axes.__annotations__, "axes")
    if unknown := [k for k in text if k not in known]:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    axes = text.pop("axes", {})
    try:
        specs = [text.pop(k, []) for k in ("populations", "quantizers")]
        for name in axes:
            if not any(f"{{{name}}}" in spec for several in specs for spec in several):
                raise ValueError(f"no population or quantizer mentions the axis {{{name}}}")
        return Plan.of(*(_expanded(several, axes) for several in specs), **text)
    except (TypeError, ValueError) as failure:
        raise ConfigError(f"{path}: {failure}") from failure


def _expanded(specs: Sequence[str], axes: dict[str, Sequence[Any]]) -> list[str]:
    """Every spec with every combination of the values of the axes that it mentions."""
    found: list[str] = []
    for spec in specs:
        names = [name for name in axes if f"{{{name}}}" in spec]
        for values in product(*(axes[name] for name in names)):
            text = spec
            for name, value in zip(names, values, strict=True):
                text = text.replace(f"{{{name}}}", str(value))
            found.append(text)
    return list(dict.fromkeys(found))
