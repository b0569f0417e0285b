"""Populations of several kinds of weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from quantsim._types import ArrayLike
from quantsim.populations.parameters import F64, Vector, check_number, spell
from quantsim.populations.population import Population
from quantsim.populations.samplers import Mixed, Sampler


@dataclass(frozen=True)
class Mixture(Population):
    """Each weight comes from component j with probability weights[j]; its own scale is the components'.

    Raises:
        TypeError: if a component is no population, or a probability no number.
        ValueError: if the probabilities do not add up to 1, or their number differs from the components'; in ``sample``
            for outliers by count, row, column or block, which depend on the shape of the array.

    >>> from quantsim.populations import Normal
    >>> Mixture((0.9, 0.1), (Normal(), Normal(3.0))).moment(2)
    1.8
    """

    weights: tuple[float | int, ...]
    components: tuple[Population, ...]

    def __post_init__(self) -> None:
        """Reject what is no mixture."""
        if len(self.weights) != len(self.components) or not self.components:
            raise ValueError(f"{len(self.weights)} probabilities for {len(self.components)} components")
        for weight in self.weights:
            check_number("the probability of a component", weight)
        for component in self.components:
            if not isinstance(component, Population):
                raise TypeError(f"the components of a mixture are populations, got {component!r}")
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-9:
            raise ValueError(f"the probabilities of a mixture are at least 0 and add up to 1, got {self.weights}")

    def _sampler(self) -> Sampler:
        """Component j draws from stream j + 1 of the key; those that come before any bits are never drawn."""
        for component in self.components:
            if component._placed:
                raise ValueError(f"{component} depends on the shape of the array and cannot be part of a mixture")
        ends = np.round(np.minimum(np.cumsum(self.weights, dtype=np.float64), 1.0) * 2.0**32)
        last = len(self.components) - 1
        kept = [j for j in range(last) if ends[j] > 0] + [last]
        components = tuple(self.components[j]._sampler() for j in kept)
        return Mixed(tuple(j + 1 for j in kept), components, (ends[kept[:-1]] - 1).astype(np.uint32))

    def _support(self) -> tuple[float, float]:
        drawn = [c._support() for w, c in zip(self.weights, self.components, strict=True) if w > 0]
        low, high = zip(*drawn, strict=True)
        return min(low), max(high)

    @property
    def _placed(self) -> bool:
        return any(component._placed for component in self.components)

    def _mean_of(self, parts: Any) -> Any:
        return sum(w * part for w, part in zip(self.weights, parts, strict=True))

    def _breaks(self) -> Vector:
        return np.concatenate([c._breaks() for c in self.components])

    def pdf(self, x: ArrayLike) -> F64:
        return self._mean_of(c.pdf(x) for c in self.components)

    def cdf(self, x: ArrayLike) -> F64:
        return self._mean_of(c.cdf(x) for c in self.components)

    def tail(self, x: ArrayLike) -> F64:
        return self._mean_of(c.tail(x) for c in self.components)

    def upper_moment(self, x: ArrayLike, k: int) -> F64:
        return self._mean_of(c.upper_moment(x, k) for c in self.components)

    def _mirrored(self) -> Population:
        components = tuple(c._mirrored() for c in self.components)
        same = all(a is b for a, b in zip(components, self.components, strict=True))
        return self if same else Mixture(self.weights, components)

    def _parts(self) -> tuple[Population, ...]:
        return tuple(part for c in self.components for part in c._parts())

    def _atoms(self) -> tuple[Vector, Vector]:
        atoms = [
            (at, w * mass) for w, c in zip(self.weights, self.components, strict=True) for at, mass in [c._atoms()]
        ]
        at, mass = zip(*atoms, strict=True)
        return np.concatenate(at), np.concatenate(mass)

    def _points(self) -> tuple[Vector, Vector]:
        points = [c._points() for c in self.components]
        masses = [w * mass for w, (_, mass) in zip(self.weights, points, strict=True)]
        return np.concatenate([at for at, _ in points]), np.concatenate(masses)

    def _upper_moment_beside_points(self, x: ArrayLike, k: int) -> F64:
        return self._mean_of(c._upper_moment_beside_points(x, k) for c in self.components)

    def moment(self, k: int) -> Any:
        return self._mean_of(c.moment(k) for c in self.components)

    def __str__(self) -> str:
        """Spec of the population."""
        parts = "+".join(f"{spell(w)}*{c}" for w, c in zip(self.weights, self.components, strict=True))
        return f"mixture({parts})"
