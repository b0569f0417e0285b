"""Errors by magnitude of the weights: what small weights lose, and what large ones do."""

from __future__ import annotations  # jaxtyping cannot take NumPy 2.5's NDArray apart

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim._types import ArrayLike, Weights
from quantsim.measure import tallies
from quantsim.measure.statistics import pair
from quantsim.measure.tallies import Exponents, error
from quantsim.numerics import ieee
from quantsim.numerics.meshes import placed_like
from quantsim.numerics.tiles import TILE, tile_sums, tiled

PerClass = NDArray[np.float64]


@dataclass(frozen=True)
class ClassStats:
    """Errors by magnitude class: class k holds ``edges[k] <= |w| < edges[k+1]``; arrays of one entry a class.

    Attributes:
        edges: of the classes, increasing.
        count: weights in each class.
        abs_e: sum of |e| of each class.
        e2: sum of e^2.
        w2: sum of w^2.
        relative: sum of |e| / |w| over the nonzero weights.
        nonzero: how many weights are not 0.
        max_abs: largest |e|.
    """

    edges: tuple[float, ...]
    count: NDArray[np.int64]
    abs_e: PerClass
    e2: PerClass
    w2: PerClass
    relative: PerClass
    nonzero: NDArray[np.int64]
    max_abs: PerClass

    @property
    def mean_abs(self) -> PerClass:
        """Mean |e| of each class, 0 where there is no weight."""
        return self.abs_e / np.maximum(self.count, 1)

    @property
    def rel_rms(self) -> PerClass:
        """sqrt(sum e^2 / sum w^2) of each class, 0 where there is no signal."""
        return np.sqrt(self.e2 / np.where(self.w2 == 0, np.inf, self.w2))

    @property
    def mean_relative(self) -> PerClass:
        """Mean |e| / |w| over the nonzero weights of each class, 0 where there is none."""
        return self.relative / np.maximum(self.nonzero, 1)


def class_stats(w: ArrayLike, w_hat: ArrayLike, edges: tuple[float, ...]) -> ClassStats:
    """Errors of the weights by magnitude class.

    Args:
        w: weights of any shape.
        w_hat: what they became, of the same shape.
        edges: of the classes, increasing; a weight outside of them all is in no class.

    Raises:
        TypeError: if they are not numeric.
        ValueError: if the shapes differ.

    >>> c = class_stats(jnp.array([0.1, 0.2, 5.0]), jnp.array([0.0, 0.0, 5.0]), (0.0, 1.0, 10.0))
    >>> c.count.tolist(), c.mean_relative.tolist()
    ([2, 1], [1.0, 0.0])
    """
    a, b = pair(w, w_hat)
    limits = jnp.asarray(edges, jnp.float32)
    sums, largest = _class_sums(a, b, limits, None)
    unit = _units(np.asarray(largest).max(axis=0, initial=0.0))
    if unit is not None:
        sums, largest = _class_sums(a, b, limits, unit)
    return _folded(np.asarray(sums), np.asarray(largest), tuple(edges), unit, filled=-a.size % TILE)


def merge_classes(a: ClassStats, b: ClassStats) -> ClassStats:
    """Statistics of both.

    Raises:
        ValueError: if the edges are not the same.
    """
    if a.edges != b.edges:
        raise ValueError("only statistics with the same class edges can be merged")
    sums = {name: getattr(a, name) + getattr(b, name) for name in _SUMS}
    return ClassStats(edges=a.edges, **sums, max_abs=np.maximum(a.max_abs, b.max_abs))


_SUMS = ("count", "abs_e", "e2", "w2", "relative", "nonzero")


@jax.jit
def _class_sums(
    w: Weights, w_hat: Weights, edges: Float[Array, " edges"], unit: Exponents | None
) -> tuple[Float[Array, "tiles classes 6"], Float[Array, "tiles classes 2"]]:
    """Of each tile and class the sums of ``_SUMS``, and the largest |w| and |e|; in units of each class, if given."""

    def over_tiles(w: Weights, w_hat: Weights, edges: Float[Array, " edges"], unit: Exponents | None) -> Any:
        return lax.map(lambda tile: _sums_of_tile(tile[0], tile[1], edges, unit), (tiled(w), tiled(w_hat)))

    return placed_like(w, over_tiles, w, w_hat, edges, unit)


def _sums_of_tile(
    w: Float[Array, " 4096"], w_hat: Float[Array, " 4096"], edges: Float[Array, " edges"], unit: Exponents | None
) -> tuple[Float[Array, "classes 6"], Float[Array, "classes 2"]]:
    e, magnitude, nonzero = jnp.abs(error(w, w_hat)), jnp.abs(w), w != 0
    bits, limits = ieee.bits_of(magnitude), ieee.bits_of(edges)  # in the order of the numbers, subnormals too
    relative = jnp.where(nonzero, e / jnp.where(nonzero, magnitude, 1.0), 0.0)
    inside = (bits[None] >= limits[:-1, None]) & (bits[None] < limits[1:, None])
    largest = [ieee.absmax(jnp.where(inside, v[None], 0.0)) for v in (magnitude, e)]
    if unit is not None:  # then weights and errors have a row for each class
        w, e = (v[None] * ieee.power_of_two(-k)[:, None] for v, k in ((w, unit.w), (e, unit.e)))
    values = (jnp.ones_like(magnitude), e, e * e, w * w, relative, nonzero.astype(jnp.float32))
    of_classes = jnp.stack([jnp.broadcast_to(v, inside.shape) for v in values], axis=1)
    sums = tile_sums(jnp.where(inside[:, None], of_classes, 0.0).reshape(-1, TILE))
    return sums.reshape(-1, len(_SUMS)), jnp.concatenate(largest, axis=-1)


def _units(largest: Float[NDArray, "classes 2"]) -> Exponents | None:
    """Units for each class from its largest |w| and |e|; None where no class needs any."""
    each = [tallies.unit_for(float(of_w), float(of_e)) for of_w, of_e in largest]
    if not any(each):
        return None
    plain = Exponents(np.int32(0), np.int32(0))
    return Exponents(*(np.array([getattr(u or plain, name) for u in each], np.int32) for name in ("w", "e")))


def _folded(
    sums: Float[NDArray, "tiles classes 6"],
    largest: Float[NDArray, "tiles classes 2"],
    edges: tuple[float, ...],
    unit: Exponents | None,
    filled: int,
) -> ClassStats:
    """Statistics from what the device says, without the ``filled`` zeros at the end of the last tile."""
    total: dict[str, PerClass] = dict(zip(_SUMS, np.asarray(sums, np.float64).sum(axis=0).T, strict=True))
    if unit is not None:
        for name, exponent in (("abs_e", unit.e), ("e2", 2 * unit.e), ("w2", 2 * unit.w)):
            total[name] = np.ldexp(total[name], exponent)
    if edges[0] <= 0.0:
        total["count"][0] -= filled
    return ClassStats(
        edges=edges,
        count=total["count"].astype(np.int64),
        abs_e=total["abs_e"],
        e2=total["e2"],
        w2=total["w2"],
        relative=total["relative"],
        nonzero=total["nonzero"].astype(np.int64),
        max_abs=np.asarray(largest, np.float64)[..., 1].max(axis=0, initial=0.0),
    )
