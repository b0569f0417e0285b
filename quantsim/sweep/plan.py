"""What a sweep measures: the grid of populations, shapes, seeds and quantizers, checked before anything is measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, TypedDict

from quantsim._types import Shape
from quantsim.populations import Population
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.sweep import arguments
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
        ValueError: for an empty axis, a point that is there twice, a seed that is no 32-bit number, a shape that a
            quantizer does not take, fewer than one weight.

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
    def of(cls, populations: Any, quantizers: Any, **axes: Any) -> "Plan":
        """A plan of specs or objects, one or several, with the axes of ``Axes``.

        Raises:
            TypeError: for what is no population, quantizer, seed or shape.
            ValueError: for an axis that a sweep does not have, and as ``Plan`` does.
        """
        if unknown := set(axes) - set(Axes.__annotations__):
            raise ValueError(f"a sweep has no {', '.join(sorted(unknown))}; it takes {', '.join(Axes.__annotations__)}")
        return cls(
            arguments.populations(populations),
            arguments.quantizers(quantizers),
            arguments.seeds(axes.get("seeds", cls.seeds)),
            arguments.shapes(axes.get("shapes", cls.shapes)),
            arguments.whole(axes.get("weights", cls.weights), "the number of weights"),
            arguments.truth(axes.get("predict", cls.predict), "predict"),
        )

    def __post_init__(self) -> None:
        """Reject what cannot be measured, before anything is."""
        for name in ("populations", "quantizers", "seeds", "shapes"):
            _check_axis(name, getattr(self, name))
        if wrong := [seed for seed in self.seeds if not 0 <= seed < 2**32]:
            raise ValueError(f"a seed lies between 0 and 2^32 - 1, got {wrong[0]}")
        if self.weights < 1:
            raise ValueError(f"a sweep draws at least one weight a point, got {self.weights}")
        for shape, q in product(self.shapes, self.quantizers):
            check_shape(shape, q)

    def cells(self) -> list[Cell]:
        """The cells in their order: populations, then shapes, then seeds."""
        grid = product(self.populations, self.shapes, self.seeds)
        return [Cell(pop, shape, seed, -(-self.weights // prod(shape))) for pop, shape, seed in grid]

    @property
    def points(self) -> int:
        """Rows of the result."""
        return len(self.cells()) * len(self.quantizers)

    @property
    def drawn(self) -> int:
        """Weights drawn at all cells together."""
        return sum(cell.arrays * prod(cell.shape) for cell in self.cells())

    def plain(self) -> dict[str, Any]:
        """As JSON has it; what a folder of results remembers."""
        return {
            "populations": [str(p) for p in self.populations],
            "quantizers": [str(q) for q in self.quantizers],
            "seeds": list(self.seeds),
            "shapes": [list(s) for s in self.shapes],
            "weights": self.weights,
            "predict": self.predict,
        }


def _check_axis(name: str, values: tuple[Any, ...]) -> None:
    """At least one value, and none twice."""
    names = [str(v) for v in values]
    if not names:
        raise ValueError(f"a sweep needs at least one of {name}")
    if twice := {n for n in names if names.count(n) > 1}:
        raise ValueError(f"{name} of a sweep are there twice: {', '.join(sorted(twice))}")


def check_shape(shape: Shape, q: AbstractQuantizer) -> None:
    """Refuse a shape without weights, or one that the quantizer does not take.

    Raises:
        ValueError: that says why.
    """
    if not shape or min(shape) < 1:
        raise ValueError(f"the shape of an array needs sizes of at least 1, got {shape}")
    q.bits_per_weight(shape)
