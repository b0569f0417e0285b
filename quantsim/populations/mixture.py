"""Populations of several kinds of weights."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import ArrayLike, PRNGKey
from quantsim.populations import draws
from quantsim.populations.base import F64, Population, Vector
from quantsim.populations.draws import Index
from quantsim.populations.families import spell


@dataclass(frozen=True)
class Mixture(Population):
    """Each weight comes from component j with probability weights[j]; its own scale is the components'.

    Raises:
        ValueError: if the probabilities do not add up to 1, or their number differs from the components'.

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
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-9:
            raise ValueError(f"the probabilities of a mixture are at least 0 and add up to 1, got {self.weights}")

    def _elements(self, key: PRNGKey, i: Index) -> Float[Array, " n"]:
        b = draws.bits(jax.random.fold_in(key, 0), i)
        out = self.components[-1]._elements(jax.random.fold_in(key, len(self.components)), i)
        ends = np.round(np.minimum(np.cumsum(self.weights, dtype=np.float64), 1.0) * 2.0**32)
        for j in reversed(range(len(self.components) - 1)):
            here = self.components[j]._elements(jax.random.fold_in(key, j + 1), i)
            out = jnp.where(b <= np.uint32(ends[j] - 1), here, out) if ends[j] else out
        return out

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

    def moment(self, k: int) -> Any:
        return self._mean_of(c.moment(k) for c in self.components)

    def __str__(self) -> str:
        """Spec of the population."""
        parts = "+".join(f"{spell(w)}*{c}" for w, c in zip(self.weights, self.components, strict=True))
        return f"mixture({parts})"
