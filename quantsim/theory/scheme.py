"""What theory must know of a quantizer: levels, how many weights share a scale, and the law of the scale.

Every quantizer says so itself, by a method ``scheme``; nothing here knows how it computes.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from quantsim._types import Shape
from quantsim.formats import Float, Format, grid

F64: TypeAlias = NDArray[np.float64]


class NoTheoryError(ValueError):
    """The error of this quantizer on this population follows from no theory here; only a measurement tells it."""


_FINE = 7  # mantissa bits from which the rounding of a scale is spread evenly within its step
_TWO = np.array([-0.5, 0.5]) / 3**0.5  # places within a step: exact for their square
_DENSE = (np.arange(12) + 0.5) / 12 - 0.5  # where the rounding of the scale moves weights by a step of theirs


def _is_float32(t: F64) -> NDArray[np.bool_]:
    """Whether numbers are float32 numbers other than 0."""
    near = np.abs(t) < np.finfo(np.float32).max
    return near & (np.abs(np.where(near, t, 0.0).astype(np.float32) - t) <= 1e-15 * np.abs(t)) & (t != 0)


@dataclass(frozen=True)
class AbsmaxScale:
    """Scale t / reach of a block with largest magnitude t, stored in a float format.

    Attributes:
        reach: units of the scale that t falls on.
        stored: format of the scale; None keeps it exact.
        signed: the scale has the sign of the extreme weight.
        codes_exact: codes come from t / reach itself, weights from the stored scale, as in GGUF.
        truncating: codes are truncated quotients in float32, and the extreme may fall a step short.
        fine: steps of the elements are not larger than those of the scale.
        positive_first: of equal magnitudes a positive one is the extreme; else the first, in effect a random one.
        alike: blocks are so alike that their stored scales take few values, which are followed one by one.
        gguf_e4m3: stored as GGUF's e4m3, at most 7/512 below 2^-6, and 448 from 256 on.
    """

    reach: float
    stored: Float | None = None
    signed: bool = False
    codes_exact: bool = False
    truncating: bool = False
    fine: bool = False
    positive_first: bool = False
    alike: bool = False
    gguf_e4m3: bool = False

    def take(self, rows: np.ndarray) -> "AbsmaxScale":
        """The laws of some rows of magnitudes: all have this one."""
        del rows
        return self

    def breaks(self, low: float, high: float) -> F64:
        """Magnitudes t at which the stored scale jumps, or where its steps are fine, at which they double."""
        if self.stored is None:
            return np.zeros(0)
        g = grid(self.stored)
        coarse = g.mantissa_bits < _FINE or self.alike
        steps = np.arange(2 ** (g.mantissa_bits if coarse else _FINE)) + 0.5
        below = steps * 2.0 ** (g.min_exponent - g.mantissa_bits)
        first, last = np.floor(np.log2(np.array([low, high]) / self.reach))
        octaves = 2.0 ** np.arange(max(first, g.min_exponent), last + 1)
        within = np.append(0.0, steps * 2.0**-g.mantissa_bits if coarse else [])
        return np.concatenate([below, np.outer(octaves, 1 + within).ravel(), [g.high]]) * self.reach

    def scales(self, t: F64, known: NDArray[np.bool_] | None = None) -> tuple[F64, F64, F64]:
        """Scale of the codes and of the weights, and the probabilities of their k cases, for magnitudes of any shape.

        Shapes are (*t, k); that of the codes (*t, 1) where all cases have the same, that of the probabilities (k,).

        Of ``known`` magnitudes, by default those that are float32 numbers, the rounding of the scale is no matter of
        chance: they are point masses, no nodes of a quadrature.
        """
        exact, known = np.asarray(t)[..., None] / self.reach, _is_float32(t) if known is None else known
        if self.stored is None:
            return self._short(exact) if self.truncating else (exact, exact, np.ones(1))
        g = grid(self.stored)
        exact = np.maximum(exact, 1e-300)
        quantum = 2.0 ** (np.maximum(np.floor(np.log2(exact)), g.min_exponent) - g.mantissa_bits)
        rounded = np.rint(exact / quantum) * quantum
        fine, places = exact / quantum >= 2.0**_FINE, _DENSE if self.fine else _TWO
        fine &= ~known[..., None] & (not self.alike)
        spread = exact + quantum * places if np.any(fine) else rounded
        stored = np.minimum(np.where(fine, spread, rounded), g.high)
        if self.gguf_e4m3:
            stored = np.where(exact < 2.0**g.min_exponent, np.minimum(stored, 7 / 512), stored)
            stored = np.where(stored >= 256, g.high, stored)
        weights = np.full(stored.shape[-1], 1 / stored.shape[-1])
        return exact if self.codes_exact else stored, stored, weights

    def _short(self, exact: F64) -> tuple[F64, F64, F64]:
        """Where t / reach rounds up so far that t over it rounds below reach, which is truncated to the level before.

        For float32 weights t the quotient ends on multiples of 1 / odd part of reach, in units of its last place.
        """
        significand = 2.0 ** (np.log2(exact) % 1)
        odd = int(self.reach) // (int(self.reach) & -int(self.reach))
        up = np.arange(1, (odd - 1) // 2 + 1) / odd
        missed = 2.0 ** (np.ceil(np.log2(self.reach)) - 2) / self.reach
        share = np.sum(up > missed * significand, axis=-1, keepdims=True) / odd
        known = _is_float32(exact * self.reach)
        t = np.where(known, exact * self.reach, 1.0).astype(np.float32)
        share = np.where(known, t / (t / np.float32(self.reach)) < np.float32(self.reach), share)
        scale = exact * (1 + np.array([0.0, 2.0**-23]))
        return scale, scale, np.concatenate([1 - share, share], axis=-1)


@dataclass(frozen=True)
class PowerOfTwoScale:
    """Scale 2^(floor(log2(t / edge)) + shift), as in the MX formats."""

    edge: float
    shift: int
    signed: bool = False
    positive_first: bool = False

    def take(self, rows: np.ndarray) -> "PowerOfTwoScale":
        """The laws of some rows of magnitudes: all have this one."""
        del rows
        return self

    def breaks(self, low: float, high: float) -> F64:
        """Magnitudes t at which the scale doubles."""
        first, last = np.floor(np.log2(np.array([low, high]) / self.edge))
        return self.edge * 2.0 ** np.arange(first, last + 1)

    def scales(self, t: F64) -> tuple[F64, F64, F64]:
        """Scale of the codes and of the weights, (*t, 1) each, and the weight of the one case."""
        scale = 2.0 ** (np.floor(np.log2(np.asarray(t)[..., None] / self.edge)) + self.shift)
        return scale, scale, np.ones(1)


@dataclass(frozen=True)
class TwoLevelScale:
    """Block scale t / reach stored in units of a tensor scale, which puts the largest of all ``total`` weights on top.

    ``tensor = T / (reach * largest(stored))`` with the largest magnitude T of the tensor, as in NVFP4.
    """

    reach: float
    stored: Float
    total: int


@dataclass(frozen=True)
class FourOverSixScale:
    """Scale t / 6 or t / 4 of a block with largest magnitude t, whichever leaves the smaller squared error as stored.

    Attributes:
        stored: format of the scale; None keeps it exact.
        total: weights of a tensor whose own scale is ``T / (6 top)`` with its largest magnitude T; None without one.
        top: stored scale that puts T on 6.
        alike: blocks are so alike that their stored scales take few values, which are followed one by one.
    """

    stored: Float | None = None
    total: int | None = None
    top: float = 1.0
    alike: bool = False


@dataclass(frozen=True)
class MinMaxScale:
    """Scale (max - min) / (2^bits - 1) over both extremes of a block.

    Attributes:
        stored: format of the scale, None keeps it exact.
        zero_point: the range holds zero, which is a level; else the minimum is one, and is stored like the scale.
    """

    stored: Float | None = None
    zero_point: bool = True


@dataclass(frozen=True)
class PercentileScale:
    """Scale (p-th percentile of the magnitudes, linearly interpolated) / reach."""

    p: float
    reach: float
    stored: Float | None = None


@dataclass(frozen=True)
class RmsScale:
    """Scale (root mean square of the block) * ratio / reach."""

    ratio: float
    reach: float
    stored: Float | None = None


ScaleLaw: TypeAlias = (
    AbsmaxScale | PowerOfTwoScale | TwoLevelScale | FourOverSixScale | MinMaxScale | PercentileScale | RmsScale
)


@dataclass(frozen=True)
class Scheme:
    """Facts from which an error follows.

    Attributes:
        format: element format, its levels in units of the scale.
        scale: law of the scale; None for a plain cast.
        sizes: numbers of weights that share a scale, with the share of all weights in blocks of that size.
        rounding: "even", "away", "truncate" or "stochastic".
        rotated: weights are rotated in blocks before, which leaves only independent normal weights what they are.
    """

    format: Format
    scale: ScaleLaw | None = None
    sizes: tuple[tuple[int, float], ...] = ()
    rounding: str = "even"
    rotated: bool = False


@runtime_checkable
class HasScheme(Protocol):
    """Any quantizer."""

    def scheme(self, shape: Shape | None) -> Scheme:
        """Facts of the quantizer for an array of ``shape``."""
        ...
