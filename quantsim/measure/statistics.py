"""Error statistics: streaming, mergeable, with standard errors. Knows nothing of quantization.

One place for the definitions, with e = w_hat - w in float32, computed without a fused multiply-add:

========  ================================  =================================================
metric    definition                        unit
========  ================================  =================================================
mse       mean e^2                          weight squared
rel_rms   sqrt(sum e^2 / sum w^2)           1
sqnr_db   -20 log10 rel_rms                 dB
max_abs   max |e|                           weight
mean_abs  mean |e|                          weight
bias      mean e                            weight
gain      sum w_hat w / sum w^2             1; below 1 the quantizer shrinks
zeroed    share of nonzero weights set to 0  1
clipped   share of weights out of range     1; needs the mask of ``Quantizer.clipped``
========  ================================  =================================================

Fixed tiles of 4096 weights are summed in float32 on the device and folded in float64 on the host, so the result has one
bit pattern for any number of devices. The spread of the tiles (or of whole arrays) around the ratio gives its standard
error by the delta method; from a single unit no standard error exists (NaN).
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim._types import ArrayLike, Weights
from quantsim.measure.tallies import Tally, error, on_host, tally
from quantsim.numerics.tiles import TILE, tiled

_COUNT, _E, _ABS, _E2, _W2, _EW = range(6)
# metric: numerator, denominator and transform of their ratio
_RATIOS = {
    "mse": (_E2, _COUNT, "identity"),
    "rel_rms": (_E2, _W2, "root"),
    "sqnr_db": (_E2, _W2, "db"),
    "mean_abs": (_ABS, _COUNT, "identity"),
    "bias": (_E, _COUNT, "identity"),
    "gain": (_EW, _W2, "plus_one"),
}


@dataclass(frozen=True, eq=False)
class ErrorStats:
    """Sums over everything seen, in float64 on the host; the metrics are properties, each with its ``_se`` sibling.

    >>> s = error_stats(jnp.array([1.0, -2.0]), jnp.array([1.5, -2.0]))
    >>> s.mse, s.max_abs, s.bias, round(s.rel_rms, 6)
    (0.125, 0.5, 0.25, 0.223607)
    """

    sums: NDArray[np.float64]
    cross: NDArray[np.float64]
    units: int
    max_abs: float
    max_signal: float
    nonzero: int
    zeroed_count: int
    clipped_count: int

    def _ratio(self, name: str) -> tuple[float, float]:
        """A metric and its standard error."""
        i, j, transform = _RATIOS[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            r = self.sums[i] / self.sums[j]
            spread = self.cross[i, i] - 2 * r * self.cross[i, j] + r * r * self.cross[j, j]
            se = np.sqrt(max(spread, 0.0) * self.units / (self.units - 1)) / self.sums[j] if self.units > 1 else np.nan
            if transform == "root":
                return float(np.sqrt(r)), float(se / (2 * np.sqrt(r)))
            if transform == "db":
                return float(-10 * np.log10(r)), float(10 / np.log(10) * se / r)
            return float(r + (transform == "plus_one")), float(se)

    def __getattr__(self, name: str) -> float:
        """Metrics of the table above, and ``<metric>_se``."""
        base = name.removesuffix("_se")
        if base not in _RATIOS:
            raise AttributeError(f"no statistic {name!r}; known are {', '.join(_RATIOS)}, each with _se")
        return self._ratio(base)[base != name]

    @property
    def count(self) -> int:
        """Number of weights seen."""
        return int(self.sums[_COUNT])

    @property
    def zeroed(self) -> float:
        """Share of the nonzero weights that became 0."""
        return self.zeroed_count / self.nonzero if self.nonzero else 0.0

    @property
    def clipped(self) -> float:
        """Share of the weights that were out of range, as far as masks were given."""
        return self.clipped_count / self.count if self.count else 0.0

    @property
    def crest(self) -> float:
        """Largest magnitude over root mean square of all weights seen."""
        return self.max_signal / float(np.sqrt(self.sums[_W2] / self.sums[_COUNT]))

    def result(self) -> dict[str, float | int]:
        """Every metric and standard error as one row."""
        row: dict[str, float | int] = {"count": self.count}
        for name in _RATIOS:
            row[name], row[f"{name}_se"] = self._ratio(name)
        return row | {"max_abs": self.max_abs, "zeroed": self.zeroed, "clipped": self.clipped}


def init() -> ErrorStats:
    """Statistics of nothing, the neutral element of ``merge``."""
    return ErrorStats(np.zeros(6), np.zeros((6, 6)), 0, 0.0, 0.0, 0, 0, 0)


def fold(stats: ErrorStats, t: Tally, unit: Literal["tile", "array"] = "tile") -> ErrorStats:
    """``stats`` with a tally, or a batch of tallies, added.

    ``unit`` says what varies independently for the standard error: tiles, or whole arrays where their weights share a
    scale and the number is meant for the population rather than for this array.
    """
    t = on_host(t)
    sums = np.asarray(t.sums, np.float64)
    units = (sums.sum(axis=-2) if unit == "array" else sums).reshape(-1, 6)
    largest, signal = (float(np.max(np.asarray(m), initial=0.0)) for m in (t.max_abs, t.max_signal))
    counts = tuple(int(np.sum(np.asarray(c, np.int64))) for c in (t.nonzero, t.zeroed, t.clipped))
    return merge(stats, ErrorStats(units.sum(axis=0), units.T @ units, len(units), largest, signal, *counts))


def update(stats: ErrorStats, w: ArrayLike, w_hat: ArrayLike, unit: Literal["tile", "array"] = "tile") -> ErrorStats:
    """``stats`` with one more array of weights."""
    return fold(stats, tally(*_pair(w, w_hat)), unit)


def merge(a: ErrorStats, b: ErrorStats) -> ErrorStats:
    """Statistics of both; the order does not matter beyond float64 rounding.

    >>> w = jnp.linspace(-1.0, 1.0, 10000)
    >>> parts = merge(error_stats(w[:8192], w[:8192] * 1.01), error_stats(w[8192:], w[8192:] * 1.01))
    >>> parts.count, parts.mse == error_stats(w, w * 1.01).mse
    (10000, True)
    """
    return ErrorStats(
        a.sums + b.sums,
        a.cross + b.cross,
        a.units + b.units,
        float(np.maximum(a.max_abs, b.max_abs)),  # keeps a NaN
        float(np.maximum(a.max_signal, b.max_signal)),
        a.nonzero + b.nonzero,
        a.zeroed_count + b.zeroed_count,
        a.clipped_count + b.clipped_count,
    )


def error_stats(w: ArrayLike, w_hat: ArrayLike) -> ErrorStats:
    """Statistics of ``e = w_hat - w``.

    Raises:
        ValueError: if the shapes differ.

    >>> error_stats(jnp.ones(3), jnp.ones(3)).sqnr_db
    inf
    """
    return update(init(), w, w_hat)


def _pair(w: ArrayLike, w_hat: ArrayLike) -> tuple[Weights, Weights]:
    a, b = jnp.asarray(w, jnp.float32), jnp.asarray(w_hat, jnp.float32)
    if a.shape != b.shape:
        raise ValueError(f"weights of shape {a.shape} cannot be compared with weights of shape {b.shape}")
    return a, b


@dataclass(frozen=True)
class ClassStats:
    """Errors by magnitude class: class k holds ``edges[k] <= |w| < edges[k+1]``; arrays of one entry a class.

    ``mean_relative`` is the mean of |e| / |w| over the nonzero weights of the class.
    """

    edges: tuple[float, ...]
    sums: NDArray[np.float64]
    max_abs: NDArray[np.float64]

    @property
    def count(self) -> NDArray[np.int64]:
        """Weights in each class."""
        return self.sums[:, 0].astype(np.int64)

    @property
    def mean_abs(self) -> NDArray[np.float64]:
        """Mean |e| of each class."""
        return self.sums[:, 1] / np.maximum(self.sums[:, 0], 1)

    @property
    def rel_rms(self) -> NDArray[np.float64]:
        """sqrt(sum e^2 / sum w^2) of each class."""
        return np.sqrt(self.sums[:, 2] / np.where(self.sums[:, 3] == 0, np.inf, self.sums[:, 3]))

    @property
    def mean_relative(self) -> NDArray[np.float64]:
        """Mean |e| / |w| of each class."""
        return self.sums[:, 4] / np.maximum(self.sums[:, 5], 1)


@jax.jit
def _class_sums(w: Weights, w_hat: Weights, edges: Float[Array, " edges"]) -> tuple:
    def tile(pair: tuple) -> tuple:
        a, b = pair
        e, magnitude = jnp.abs(error(a, b)), jnp.abs(a)
        inside = (magnitude[None] >= edges[:-1, None]) & (magnitude[None] < edges[1:, None])
        ratio = jnp.where(a == 0, 0.0, e / jnp.where(a == 0, 1.0, magnitude))
        values = jnp.stack([jnp.ones_like(a), e, e * e, a * a, ratio, (a != 0) * 1.0])
        return jnp.sum(inside[:, None] * values[None], axis=-1), jnp.max(inside * e[None], axis=-1)

    return lax.map(tile, (tiled(w), tiled(w_hat)))


def class_stats(w: ArrayLike, w_hat: ArrayLike, edges: tuple[float, ...]) -> ClassStats:
    """Errors of the weights by magnitude class.

    >>> c = class_stats(jnp.array([0.1, 0.2, 5.0]), jnp.array([0.0, 0.0, 5.0]), (0.0, 1.0, 10.0))
    >>> c.count.tolist(), c.mean_relative.tolist()
    ([2, 1], [1.0, 0.0])
    """
    a, b = _pair(w, w_hat)
    sums, largest = _class_sums(a, b, jnp.asarray(edges, jnp.float32))
    total = np.asarray(sums, np.float64).sum(axis=0)
    if edges[0] <= 0.0:  # the zeros that fill the last tile
        total[0, 0] -= -a.size % TILE
    return ClassStats(tuple(edges), total, np.asarray(largest, np.float64).max(axis=0, initial=0.0))


def merge_classes(a: ClassStats, b: ClassStats) -> ClassStats:
    """Statistics of both; the edges must be the same."""
    if a.edges != b.edges:
        raise ValueError("only statistics with the same class edges can be merged")
    return ClassStats(a.edges, a.sums + b.sums, np.maximum(a.max_abs, b.max_abs))
