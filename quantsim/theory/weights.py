"""The error of weights under any quantizer whose scale is a law of its block, from the population alone."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from quantsim._types import Shape
from quantsim.formats import Float, Integer, grid, largest
from quantsim.populations import Population
from quantsim.theory.absmax import absmax_mean, mean_of_both
from quantsim.theory.four_over_six import four_over_six_mse
from quantsim.theory.known import scheme_with_theory
from quantsim.theory.levels import SMOOTH, rounding_of
from quantsim.theory.magnitudes import Sides
from quantsim.theory.minmax import minmax_mean
from quantsim.theory.order import log_edges, magnitudes_of, panel_nodes, percentile_mean
from quantsim.theory.pieces import Cost, absolute, squared, value_at
from quantsim.theory.quadrature import fewer
from quantsim.theory.rms import rms_mse
from quantsim.theory.scheme import (
    F64,
    AbsmaxScale,
    FourOverSixScale,
    HasScheme,
    MinMaxScale,
    NoTheoryError,
    PercentileScale,
    RmsScale,
    ScaleLaw,
    Scheme,
    TwoLevelScale,
)

_F32_BITS = 23
_FEW_SCALES = 256  # that are followed one by one
_MANY_LEVELS, _FEW_TOPS = 32, 8  # thresholds from which a prediction would take seconds with all nodes of the largest


def weight_mse(pop: Population, q: HasScheme, shape: Shape | None = None) -> float:
    """Mean squared error of an infinite population under a quantizer, ``E[e^2]``, in squared units of the weights.

    For every scale that is a law of its block: plain casts, absmax with any bounds and stored scale, minmax,
    percentiles, rms, MX, NVFP4, fouroversix and GGUF's q4_0, q4_1, q5_0, q5_1, q8_0, tq1_0, tq2_0, mxfp4 and nvfp4.
    Blocks are conditioned on their true extremes, not on their expectation. What is left of quadrature, where weights
    have a fourth moment: 1e-6 for casts and scales from the largest weight, 4e-4 and mostly 1e-5 for minmax (q4_1 and
    q5_1 too), percentiles and rms; 1e-4 and mostly 1e-6 for fouroversix, 2e-2 where all weights are point masses; with
    outliers of one size that are no block's largest, 2e-3 for 11 and more bits (or several sizes whose thresholds are
    as many), and 4e-3 for NVFP4 where the tensor's largest weight is hardly larger than they are. Without a fourth
    moment formats of 32 and more levels under a scale of the tensor are 1e-4 off. Taken as uniform within a step are
    the rounding of f16 and bf16 scales, the places of minimum and maximum for 6 and more bits, and the weights of
    floats with 8 and more mantissa bits.

    The predictions of the study ``prediction`` take 29 ms each on average on one core, the slowest 0.7 s (minmax of
    one-sided outliers). With a scale of the tensor fouroversix takes 0.1 s, in blocks of fewer than 8 weights seconds.

    Args:
        pop: population of independent weights.
        q: quantizer, for example ``quantsim.parse("int4:block32")``.
        shape: shape of the array, needed where it says how many weights share a scale.

    Raises:
        NoTheoryError: for scales that are searched block by block (the K-quants, iq4, mse, search), for the rms of few
            weights that are not normal, for fouroversix where weights have many values, for weights that are not
            independent (outliers by count, row, column or block); ``has_weight_theory`` tells first.
        ShapeNeededError: where ``shape`` is needed and missing.
        ValueError: where ``shape`` has no weights, or an axis that the quantizer needs does not exist.

    >>> import quantsim as qs
    >>> uniform = qs.populations.Uniform()
    >>> step2 = 3 * 32 / 34 / 127**2  # E[max^2] of 32 uniform weights is n / (n + 2) of the edge squared
    >>> round(weight_mse(uniform, qs.parse("int8:block32")) / (step2 / 12 * 31 / 32), 9)
    1.0
    """
    return _mean(pop, q, shape, squared)


def weight_rel_mse(pop: Population, q: HasScheme, shape: Shape | None = None) -> float:
    """Mean squared error of an infinite population over its second moment, ``E[e^2] / E[w^2]``: the reciprocal SQNR.

    NaN for a population of zeros. Arguments and errors are those of ``weight_mse``.

    >>> import quantsim as qs
    >>> float(round(-10 * np.log10(weight_rel_mse(qs.populations.Normal(), qs.parse("q8_0"))), 3))  # dB
    45.433
    """
    mse, power = weight_mse(pop, q, shape), pop.moment(2)
    return float(mse / power) if power else float("nan")


def weight_mean_abs(pop: Population, q: HasScheme, shape: Shape | None = None) -> float:
    """Mean magnitude of the error of an infinite population under a quantizer, ``E|e|``, in units of the weights.

    For casts and scales that follow from the largest weight, with rounding to nearest. Arguments and errors are those
    of ``weight_mse``.

    bitsandbytes publishes, in its tests, means over 200 draws of |e| for normal weights: nf4 in blocks of 64 .072798,
    with a standard deviation below 6e-4.

    >>> import quantsim as qs
    >>> round(weight_mean_abs(qs.populations.Normal(), qs.parse("nf4:block64")), 4)
    0.0728
    """
    return _mean(pop, q, shape, absolute)


def _mean(pop: Population, q: HasScheme, shape: Shape | None, cost: Cost) -> float:
    scheme = scheme_with_theory(pop, q, shape)
    if isinstance(scheme.format, Float) and scheme.format.mantissa_bits >= _F32_BITS and scheme.scale is None:
        return 0.0  # weights are float32 already
    nearest = scheme.rounding in ("even", "away") and not isinstance(
        scheme.scale, MinMaxScale | RmsScale | FourOverSixScale
    )
    if cost is not squared and not nearest:
        raise NoTheoryError(
            f"the mean |error| is known for rounding to nearest with absmax scales and casts, not for {q}"
        )
    sizes = scheme.sizes if scheme.scale is not None else ((1, 1.0),)
    return float(sum(share * _of_blocks(pop, n, scheme, cost) for n, share in sizes))


@lru_cache(512)
def _of_blocks(pop: Population, n: int, scheme: Scheme, cost: Cost) -> float:
    law = _law(pop, n, scheme)
    if isinstance(law, MinMaxScale):
        assert isinstance(scheme.format, Integer)
        return minmax_mean(pop, n, scheme.format.bits, law)
    sides, own = _sides(pop, scheme)
    cost = own if cost is squared else cost
    if law is None:
        return mean_of_both(pop, sides, cost) + _of_fine_atoms(pop, scheme, sides, cost)
    if isinstance(law, PercentileScale):
        return percentile_mean(pop, n, sides, law, cost)
    if isinstance(law, RmsScale):
        return rms_mse(pop, n, sides, law)
    if isinstance(law, FourOverSixScale):
        return four_over_six_mse(pop, n, law, *_tops(pop, n, law.total))
    if not isinstance(law, TwoLevelScale):
        return absmax_mean(pop, n, sides.flipped() if law.signed else sides, law, cost)
    if law.total <= n:
        return absmax_mean(pop, n, sides, _InTensor(law, np.zeros(1)), cost)
    tops, share = _largest_of(pop, law.total - n)
    if sides.positive.thresholds.size >= _MANY_LEVELS and tops.size > _FEW_TOPS:
        logs, share = fewer(np.log(tops), share, _FEW_TOPS)  # the error is smooth in the logarithm of the scale
        tops = np.exp(logs)
    return absmax_mean(pop, n, sides, _InTensor(law, tops), cost, share)


def _tops(pop: Population, n: int, total: int | None) -> tuple[F64, F64]:
    """Largest magnitudes of what else there is in a tensor, and their probabilities; inf where it does not matter."""
    if total is None or total <= n:
        return np.array([np.inf if total is None else 0.0]), np.ones(1)
    return _largest_of(pop, total - n)


def _largest_of(pop: Population, n: int) -> tuple[F64, F64]:
    """Nodes of the largest magnitude of n weights, and their probabilities; each point mass is one."""
    y, weight = panel_nodes(log_edges(pop, n), 6)
    u = np.exp(y)
    tops, node = np.unique(magnitudes_of(pop, u), return_inverse=True)
    return tops, np.bincount(node, weight * n * np.exp(y + (n - 1) * np.log1p(-u))).astype(np.float64)


def _of_fine_atoms(pop: Population, scheme: Scheme, sides: Sides, cost: Cost) -> float:
    """What the noise of floats too fine to follow misses: the error of a point mass is no average."""
    fmt, (at, mass) = scheme.format, pop._atoms()
    if not at.size or not isinstance(fmt, Float) or fmt.mantissa_bits < SMOOTH:
        return 0.0
    x = np.minimum(np.abs(at).astype(np.float32).astype(np.float64), largest(fmt))
    step = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(x, 1e-300))), grid(fmt).min_exponent) - fmt.mantissa_bits)
    above = x / step - np.floor(x / step)
    nearest = np.minimum(above, 1 - above)
    share = {"truncate": above**2, "stochastic": above * (1 - above)}.get(scheme.rounding, nearest**2)
    meant = share if cost is not absolute else nearest
    counted = [value_at(cost(sides.positive), v) for v in x]
    return float((mass * (meant * step ** (1 + (cost is not absolute)) - counted)).sum())


def _law(pop: Population, n: int, scheme: Scheme) -> ScaleLaw | None:
    """The law, with what the elements and the blocks say of it."""
    law, element = scheme.scale, scheme.format
    if not isinstance(law, AbsmaxScale | FourOverSixScale):
        return law
    if isinstance(law, AbsmaxScale):
        law = replace(law, truncating=scheme.rounding == "truncate")
    if law.stored is None:
        return law
    low, high = magnitudes_of(pop, -np.expm1(np.log([1e-9, 1 - 1e-9]) / n))
    alike = (high - low) * 2.0**law.stored.mantissa_bits < _FEW_SCALES * low
    if isinstance(law, FourOverSixScale):
        return replace(law, alike=bool(alike) and law.total is None)
    digits = element.mantissa_bits if isinstance(element, Float) else element.bits - 2
    return replace(law, fine=digits >= law.stored.mantissa_bits, alike=bool(alike))


def _sides(pop: Population, scheme: Scheme) -> tuple[Sides, Cost]:
    """Levels that matter: of a scaled float those below its largest, of a cast those where the population is."""
    if scheme.scale is not None:
        top = largest(scheme.format)
        return rounding_of(scheme.format, scheme.rounding, top * 2.0**-24, top)
    finest = min(part.std_dev() for part in pop._parts())
    return rounding_of(scheme.format, scheme.rounding, finest * 2.0**-24, pop._reach())


@dataclass(frozen=True)
class _InTensor:
    """The laws of a block scale in tensors whose other blocks have the largest magnitudes ``tops``."""

    law: TwoLevelScale
    tops: F64
    signed: bool = False
    positive_first: bool = False

    def take(self, rows: np.ndarray) -> "_InTensor":
        """The laws of these tensors, by index or mask."""
        return replace(self, tops=self.tops[rows])

    def breaks(self, low: float, high: float) -> F64:
        """Magnitudes t at which the block's scale jumps, (tops, breaks); beyond its top it is exact."""
        largest_top = self.tops.max(initial=0.0)
        if high <= low or largest_top <= low:
            return np.zeros((self.tops.size, 0))
        end = self.law.reach * largest(self.law.stored)  # of a top, in its unit
        inner = AbsmaxScale(self.law.reach, self.law.stored).breaks(low / largest_top * end, end)
        return np.outer(self.tops, np.append(inner[inner < end], end) / end)

    def scales(self, t: F64) -> tuple[F64, F64, F64]:
        """Scale of codes and of weights, (tops, t, 1) each, and the weight of the one case."""
        unit = np.maximum(t, self.tops[:, None]) / self.law.reach / largest(self.law.stored)
        _, stored, weights = AbsmaxScale(self.law.reach, self.law.stored).scales(t / unit)
        scale = stored * unit[..., None]
        return scale, scale, weights
