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
bit pattern for any number of devices. Weights may have any scale: where squares would leave the range of float32, the
device sums in units of powers of two. The spread of the tiles (or of whole arrays) around the ratio gives its standard
error by the delta method; from a single unit no standard error exists (NaN).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike, Weights
from quantsim.measure import tallies, threaded
from quantsim.measure.tallies import SUMS, Exponents, Tally
from quantsim.numerics.threads import cores
from quantsim.numerics.tiles import with_whole_tiles
from quantsim.quantizer.inputs import as_weights

Unit = Literal["tile", "array"]


class _Metric(NamedTuple):
    """A function of the ratio of two sums; ``transform`` turns the ratio and its standard error into the metric's."""

    numerator: str
    denominator: str
    transform: Callable[[np.float64, np.float64], tuple[np.float64, np.float64]]


def _ratio(r: np.float64, se: np.float64) -> tuple[np.float64, np.float64]:
    return r, se


def _root(r: np.float64, se: np.float64) -> tuple[np.float64, np.float64]:
    return np.sqrt(r), se / (2 * np.sqrt(r))


def _decibels(r: np.float64, se: np.float64) -> tuple[np.float64, np.float64]:
    return -10 * np.log10(r), 10 / np.log(10) * se / r


def _one_plus(r: np.float64, se: np.float64) -> tuple[np.float64, np.float64]:
    return r + 1, se


_METRICS = {
    "mse": _Metric("e2", "count", _ratio),
    "rel_rms": _Metric("e2", "w2", _root),
    "sqnr_db": _Metric("e2", "w2", _decibels),
    "mean_abs": _Metric("abs_e", "count", _ratio),
    "bias": _Metric("e", "count", _ratio),
    "gain": _Metric("ew", "w2", _one_plus),  # sum w_hat w = sum w^2 + sum e w
}


@dataclass(frozen=True, eq=False, repr=False)
class ErrorStats:
    """Sums over everything seen, in float64 on the host; the metrics are properties, each with its ``_se`` sibling.

    Attributes:
        sums: of 1, e, |e|, e^2, w^2 and e w, in the order of ``tallies.SUMS``.
        cross: sums over units of the product of two such sums of a unit, (6, 6): what standard errors are made of.
        units: how many tiles or arrays there are, whichever vary independently.
        max_abs: largest |e|.
        max_signal: largest |w|.
        nonzero: how many weights are not 0.
        zeroed_count: how many of these became 0.
        clipped_count: how many weights lie out of range, as far as masks were given.

    >>> s = error_stats(np.array([1.0, -2.0]), np.array([1.5, -2.0]))
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

    def _estimate(self, name: str) -> tuple[float, float]:
        """A metric and its standard error; that of r = sum a / sum b is sqrt(n / (n - 1) sum (a - r b)^2) / sum b."""
        metric = _METRICS[name]
        a, b = SUMS.index(metric.numerator), SUMS.index(metric.denominator)
        with np.errstate(divide="ignore", invalid="ignore"):
            r = self.sums[a] / self.sums[b]
            spread = self.cross[a, a] - 2 * r * self.cross[a, b] + r * r * self.cross[b, b]
            several = self.units / (self.units - 1) if self.units > 1 else np.nan
            value, se = metric.transform(r, np.sqrt(max(spread, 0.0) * several) / self.sums[b])
        return float(value), float(se)

    def __getattr__(self, name: str) -> float:
        """Metrics of the table above, and ``<metric>_se``."""
        metric = name.removesuffix("_se")
        if metric not in _METRICS:
            raise AttributeError(f"no statistic {name!r}; known are {', '.join(_METRICS)}, each with _se")
        value, se = self._estimate(metric)
        return value if name == metric else se

    @property
    def count(self) -> int:
        """Number of weights seen."""
        return int(self.sums[SUMS.index("count")])

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
        """Largest magnitude over root mean square of all weights seen; NaN if they are all 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_square = self.sums[SUMS.index("w2")] / self.sums[SUMS.index("count")]
            return float(self.max_signal / np.sqrt(mean_square))

    def result(self) -> dict[str, float | int]:
        """Every metric and standard error as one row."""
        row: dict[str, float | int] = {"count": self.count}
        for name in _METRICS:
            row[name], row[f"{name}_se"] = self._estimate(name)
        return row | {"max_abs": self.max_abs, "zeroed": self.zeroed, "clipped": self.clipped}

    def __str__(self) -> str:
        """The metrics with their standard errors, one a line.

        >>> print(error_stats(np.ones(4096 * 2), np.linspace(1, 1.5, 4096 * 2)))
        8192 weights
        mse       0.083 ± 0.063
        rel_rms   0.29 ± 0.11
        sqnr_db   10.8 ± 3.3
        mean_abs  0.25 ± 0.13
        bias      0.25 ± 0.13
        gain      1.25 ± 0.13
        max_abs   0.5
        zeroed    0
        """
        lines = [f"{name:9} {_shown(*self._estimate(name))}" for name in _METRICS]
        lines += [f"{name:9} {getattr(self, name):.6g}" for name in ("max_abs", "zeroed")]
        return "\n".join([f"{self.count} weights", *lines])

    def __repr__(self) -> str:
        """The most telling of them."""
        return f"ErrorStats({self.count} weights, SQNR {_shown(*self._estimate('sqnr_db'))} dB)"


def _shown(value: float, se: float) -> str:
    """A number to two digits of its standard error, if it has one."""
    if not (np.isfinite(value) and np.isfinite(se) and se > 0):
        return f"{value:.6g}"
    last = int(np.floor(np.log10(se))) - 1  # the decimal place of the second digit
    digits = max(int(np.floor(np.log10(abs(value)))) - last + 1, 1) if value else 1
    return f"{value:.{digits}g} ± {se:.2g}"


def init() -> ErrorStats:
    """Statistics of nothing, the neutral element of ``merge``."""
    n = len(SUMS)
    return ErrorStats(np.zeros(n), np.zeros((n, n)), 0, 0.0, 0.0, 0, 0, 0)


def fold(stats: ErrorStats, t: Tally, unit: Unit = "tile") -> ErrorStats:
    """``stats`` with a tally, or a batch of tallies, added.

    ``unit`` says what varies independently for the standard error: tiles, or whole arrays where their weights share a
    scale and the number is meant for the population rather than for this array.

    Raises:
        TypeError: inside ``jit`` and other transformations; return the tally from there and fold it outside.
    """
    t = tallies.on_host(t)
    of_tiles = np.asarray(t.sums)
    units = (of_tiles.sum(axis=-2) if unit == "array" else of_tiles).reshape(-1, len(SUMS))
    largest, signal = (float(np.max(np.asarray(m), initial=0.0)) for m in (t.max_abs, t.max_signal))
    counts = [int(np.sum(np.asarray(c, np.int64))) for c in (t.nonzero, t.zeroed, t.clipped)]
    return merge(stats, ErrorStats(units.sum(axis=0), units.T @ units, len(units), largest, signal, *counts))


def update(stats: ErrorStats, w: ArrayLike, w_hat: ArrayLike, unit: Unit = "tile") -> ErrorStats:
    """``stats`` with one more array of weights."""
    a, b = pair(w, w_hat)
    if not a.size:  # nothing to compile a program for
        return stats

    def measured(in_units: Exponents | None) -> Tally:
        found = threaded.of_given(a, b, in_units, threads=cores())
        return tallies.tally(a, b, unit=in_units) if found is None else found

    return fold(stats, of_any_scale(measured), unit)


def merge(a: ErrorStats, b: ErrorStats) -> ErrorStats:
    """Statistics of both; the order does not matter beyond float64 rounding.

    >>> w = np.linspace(-1.0, 1.0, 10000)
    >>> parts = merge(error_stats(w[:8192], w[:8192] * 1.01), error_stats(w[8192:], w[8192:] * 1.01))
    >>> parts.count, parts.mse == error_stats(w, w * 1.01).mse
    (10000, True)
    """
    return ErrorStats(
        sums=a.sums + b.sums,
        cross=a.cross + b.cross,
        units=a.units + b.units,
        max_abs=float(np.maximum(a.max_abs, b.max_abs)),  # keeps a NaN
        max_signal=float(np.maximum(a.max_signal, b.max_signal)),
        nonzero=a.nonzero + b.nonzero,
        zeroed_count=a.zeroed_count + b.zeroed_count,
        clipped_count=a.clipped_count + b.clipped_count,
    )


def error_stats(w: ArrayLike, w_hat: ArrayLike) -> ErrorStats:
    """Statistics of ``e = w_hat - w``.

    Args:
        w: weights of any shape, numbers of any real type; they become float32.
        w_hat: what they became, of the same shape.

    Raises:
        TypeError: if they are not numeric, or inside ``jit`` and other transformations: there ``measure.tally`` gives
            what ``measure.fold`` makes statistics of, outside.
        ValueError: if the shapes differ.

    >>> error_stats(np.ones(3), np.ones(3)).sqnr_db
    inf
    """
    return update(init(), w, w_hat)


def pair(w: ArrayLike, w_hat: ArrayLike) -> tuple[Weights, Weights]:
    """Both as float32 arrays of whole tiles on each device; what is not finite stays.

    Raises:
        TypeError: if they are not numeric, or not known, inside ``jit`` and other transformations.
        ValueError: if the shapes differ.
    """
    a, b = as_weights(w, "propagate"), as_weights(w_hat, "propagate", "approximated weights")
    if a.shape != b.shape:
        raise ValueError(f"weights of shape {a.shape} cannot be compared with weights of shape {b.shape}")
    tallies.require_known(a, b)
    return with_whole_tiles(a), with_whole_tiles(b)


def of_any_scale(measure: Callable[[Exponents | None], Tally]) -> Tally:
    """The tally that ``measure`` gives, on the host; measured again in other units where squares leave float32."""
    t = tallies.on_host(measure(None))
    unit = tallies.unit_for(float(t.max_signal), float(t.max_abs))
    return t if unit is None else tallies.on_host(measure(unit))
