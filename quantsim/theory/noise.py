"""Uniform quantization as noise: what an unbounded grid of one step does to a population, exactly.

The error e = Q(x) - x is a periodic function of x (of |x| where the rule treats both signs alike), so its moments are a
Fourier series in the characteristic function of the population. For a normal one the series falls like exp(-k^2), and
its Poisson dual, a sum over thresholds, takes over where the step is large. Any other population is integrated cell by
cell; far out, where the density does not notice a cell, the error is replaced by its mean over a cell.
Sources: Bennett, 1948; Sripad and Snyder, 1977; Widrow and Kollár, Quantization Noise, 2008.
"""

from dataclasses import dataclass
from math import inf, nan, pi, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim.populations import Normal, Population

F64: TypeAlias = NDArray[np.float64]

ROUNDINGS = ("even", "away", "truncate", "stochastic")

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_AROUND_ZERO, _AROUND_BREAK, _FADE = 1024, 64, 8  # cells that are integrated one by one, and over which that fades
_MEANS = {"truncate": (-1 / 2, 1 / 3, 1 / 5), "stochastic": (0.0, 1 / 6, 1 / 15)}  # of e, e^2, e^4 over a cell, x > 0


@dataclass(frozen=True)
class QuantizationNoise:
    """Moments of the error e = Q(x) - x of one grid on one population, in units of the weights.

    Attributes:
        power: E[x^2].
        signal_mean: E[x].
        mean: E[e], the bias.
        mse: E[e^2].
        cross: E[x e]. Zero where the error is noise, negative where rounding shrinks.
        fourth: E[e^4]; a measured mse of n weights has the standard error sqrt((fourth - mse^2) / n).
        gain: E[x Q] / E[x^2] = 1 + cross / power, the factor g of the best fit Q = g x + uncorrelated noise.
        quantized_power: E[Q^2].
    """

    power: float
    signal_mean: float
    mean: float
    mse: float
    cross: float
    fourth: float
    gain: float
    quantized_power: float

    @property
    def correlation(self) -> float:
        """Correlation coefficient of weights and errors; 0 for errors that vanish.

        >>> round(quantization_noise(Normal(), 100.0).correlation, 9)  # all become zero: e = -x
        -1.0
        """
        covariance = self.cross - self.signal_mean * self.mean
        variances = (self.power - self.signal_mean**2) * (self.mse - self.mean**2)
        return covariance / sqrt(variances) if variances > 0 else 0.0

    @property
    def uncorrelated(self) -> float:
        """E[(Q - gain x)^2] = mse - (gain - 1)^2 power: what is left of the error without its gain.

        >>> noise = quantization_noise(Normal(), 1e-3, rounding="truncate")
        >>> round(noise.mse / 1e-6 * 3, 3), round(noise.uncorrelated / 1e-6, 3)  # 1/3, of which a gain takes 1/(2 pi)
        (1.0, 0.174)
        """
        return self.mse - (self.gain - 1) ** 2 * self.power

    @property
    def decoder_gain(self) -> float:
        """E[x Q] / E[Q^2], the factor on the quantized weights that leaves the least error; NaN if all are zero.

        >>> from quantsim.populations import Uniform
        >>> round(quantization_noise(Uniform(3**-0.5), 2.0, midrise=True).decoder_gain, 9)  # sign: best at half a step
        0.5
        """
        return self.gain * self.power / self.quantized_power if self.quantized_power > 0 else nan


def quantization_noise(
    pop: Population, step: float, *, rounding: str = "even", midrise: bool = False
) -> QuantizationNoise:
    """Error of rounding a population to all multiples of ``step``, without saturation, exact at any step.

    For a normal population and rounding to nearest, with phi_k = exp(-2 (pi k std / step)^2),
    ``E[e^2] = step^2 (1/12 + sum_k (-1)^k phi_k / (pi k)^2)`` and ``E[x e] = 2 std^2 sum_k (-1)^k phi_k``; the gain is
    the sum of ``step pdf(t)`` over all thresholds t. Stochastic rounding is unbiased with error variance f (1 - f)
    step^2 at the fraction f, ``step^2 (1/6 - sum_k phi_k / (pi k)^2)`` on the whole. Truncation shrinks: step^2 / 3 and
    E[x e] = -step E|x| / 2 for small steps. Other populations: cell integrals, better than 1e-9 of each moment (E[x e],
    which vanishes faster than any power of a small step where the density is smooth, to 1e-15 of step E|x|).

    Args:
        pop: population, with or without point masses.
        step: distance of the levels, in units of the weights.
        rounding: "even" and "away" (nearest; they differ on ties, which only point masses can hit), "truncate" (towards
            zero) or "stochastic" (up with the probability of the fraction).
        midrise: levels at odd multiples of step / 2, so that zero is a threshold; rounding to nearest, ties outwards.

    Raises:
        ValueError: for a step that is not positive, an unknown rounding, mid-rise with a rule that is not to nearest,
            or a population whose E[x^2] is zero or infinite.

    >>> noise = quantization_noise(Normal(), 1.0)
    >>> round(noise.mse * 12, 8), round(noise.correlation, 9)  # Bennett's step^2 / 12 still holds at a step of 1
    (1.0, -1.9e-08)
    >>> round(quantization_noise(Normal(), 0.01, rounding="stochastic").mse / 0.01**2, 9)
    0.166666667
    >>> round(quantization_noise(Normal(), 4.0, midrise=True).gain, 4)  # 4 pdf(0) + 8 pdf(4)
    1.5968
    """
    power = float(pop.moment(2))
    if not 0 < step < inf:
        raise ValueError(f"the step of a grid is positive and finite, got {step}")
    if rounding not in ROUNDINGS:
        raise ValueError(f"unknown rounding {rounding!r}; known are {', '.join(ROUNDINGS)}")
    if midrise and rounding not in ("even", "away"):
        raise ValueError(f"mid-rise levels are for rounding to nearest, not for rounding={rounding!r}")
    if not 0 < power < inf:
        raise ValueError(f"the error needs a population of finite power that is not all zeros, got {pop}")
    offset = 0.5 if rounding in ("even", "away") and not midrise else 0.0
    if isinstance(pop, Normal) and rounding != "truncate":
        moments = _normal(float(pop.std) / step, offset, rounding == "stochastic")
    else:
        moments = _cell_integrals(pop, step, offset, rounding) + _atom_sums(pop, step, offset, rounding)
    mean, mse, cross, fourth, signal, quantized = moments * np.array([1, step, step, step**3, step, step]) * step
    if signal > power / 2:  # by the other route: the integral of x^2 over heavy tails is less exact than the moment
        signal, quantized = power + cross, power + 2 * cross + mse
    parts = (mean, mse, cross, fourth, signal / power, quantized)
    return QuantizationNoise(power, float(pop.moment(1)), *map(float, parts))


def _normal(ratio: float, offset: float, stochastic: bool) -> F64:
    """Moments for a normal population, std = ``ratio`` steps, in steps: E of e, e^2, x e, e^4, x Q and Q^2."""
    series = _normal_series if ratio > 0.4 else _normal_thresholds  # where the terms of both fall like exp(-pi k^2)
    return series(ratio, offset, stochastic)


def _normal_series(ratio: float, offset: float, stochastic: bool) -> F64:
    """Fourier series in the characteristic function; the mean error has none, being odd."""
    k = np.arange(1, 16)
    square, power = (pi * k) ** 2, ratio**2
    phi = np.exp(-2 * square * power) * np.where(k % 2, -1 if offset else 1, 1)
    if stochastic:
        mse, cross = 1 / 6 - (phi / square).sum(), 0.0
        fourth = 1 / 15 + (phi * (9 / square - 1) / square).sum()
    else:
        mse, cross = 1 / 12 + (phi / square).sum(), 2 * power * phi.sum()
        fourth = 1 / 80 + (phi * (0.5 - 3 / square) / square).sum()
    return np.array([0, mse, cross, fourth, power + cross, power + 2 * cross + mse])


def _normal_thresholds(ratio: float, offset: float, stochastic: bool) -> F64:
    """The same by sums over thresholds t > 0: a polynomial in |x|, whose coefficients jump at each of them."""
    m = np.arange(1, 32, dtype=np.float64) - offset
    u0, u1, u3 = _normal_upper(m / ratio)
    u1, u3, power = u1 * ratio, u3 * ratio**3, ratio**2
    size, cube = ratio * sqrt(2 / pi), 2 * ratio**3 * sqrt(2 / pi)  # E|x| and E|x|^3
    if stochastic:
        mse = size - power + 4 * u1.sum()
        fourth = size - 4 * power + 6 * cube - 9 * power**2 + (4 * u1 + 24 * u3).sum()
        return np.array([0, mse, 0, fourth, power, power + mse])
    rise = 0.0 if offset else 0.5  # level of the first cell
    mse = power - 2 * rise * size + rise**2 - 4 * u1.sum()
    fourth = 3 * power**2 - 4 * rise * cube + 6 * rise**2 * power - 4 * rise**3 * size + rise**4
    signal = ratio * (2 * np.exp(-0.5 * (m / ratio) ** 2).sum() + 2 * rise) / sqrt(2 * pi)
    quantized = rise**2 + 4 * (m * u0).sum()
    return np.array([0, mse, signal - power, fourth - (8 * u3 + 2 * u1).sum(), signal, quantized])


def _normal_upper(z: F64) -> tuple[F64, F64, F64]:
    """E[max(Z - z, 0)^k] of a standard normal Z for k = 0, 1, 3."""
    from scipy.special import erfcx

    density = np.exp(-0.5 * z * z) / sqrt(2 * pi)
    mills = sqrt(pi / 2) * erfcx(z / sqrt(2))
    first = 1 - z * mills
    return density * mills, density * first, density * (2 * first - z * (mills - z * first))


def _errors(t: F64, rounding: str) -> tuple[F64 | float, F64, F64]:
    """E of e, e^2 and e^4, in steps, at the place t in [0, 1] within a cell, for weights x > 0."""
    if rounding == "stochastic":
        r = t * (1 - t)
        return 0.0, r, r - 3 * r * r
    e = -t if rounding == "truncate" else 0.5 - t
    return e, e**2, e**4


def _moments(a: F64, e: F64 | float, square: F64 | float, fourth: F64 | float) -> F64:
    """E of e, e^2, x e, e^4, x Q and Q^2 for weights of magnitude ``a``, in steps."""
    return np.stack(np.broadcast_arrays(e, square, a * e, fourth, a * (a + e), a * a + 2 * a * e + square))


def _cell_integrals(pop: Population, step: float, offset: float, rounding: str) -> F64:
    """Moments over the part of a population that has a density, both signs folded, in steps."""
    edges, kinks = _panels(pop, step, offset)
    low, high = edges[:-1, None], edges[1:, None]
    a = (low + high) / 2 + (high - low) / 2 * _NODES
    cell = np.floor((low + high) / 2 + offset)
    exact = _moments(a, *_errors(np.clip(a + offset - cell, 0.0, 1.0), rounding))
    if rounding != "stochastic":  # without the cancellation of a + e, which is a level: zero, in the first cell
        level = cell + (0.5 if rounding != "truncate" and not offset else 0.0)
        exact[4:] = a * level, level * level + 0 * a
    smooth = _moments(a, *_MEANS.get(rounding, (0.0, 1 / 12, 1 / 80)))
    cost = exact + (smooth - exact) * _distance(a, kinks)
    weight = step * (high - low) / 2 * _WEIGHTS
    above, below = pop.pdf(step * a) * weight, pop.pdf(-step * a) * weight
    mass = float((above + below).sum() + pop._atoms()[1].sum())
    if abs(mass - 1) > 1e-6:
        raise ValueError(f"the density and the point masses of {pop} hold {mass:.6f}, not 1: no cell integrals")
    return np.concatenate([[(cost[0] * (above - below)).sum()], (cost[1:] * (above + below)).sum(axis=(1, 2))])


def _panels(pop: Population, step: float, offset: float) -> tuple[F64, list[tuple[float, int]]]:
    """Ends of panels within which cells and density are smooth, in steps, and where the density is not: (at, cells)."""
    std, breaks = float(pop.std_dev()) / step, np.setdiff1d(pop._breaks(), np.abs(pop._atoms()[0])) / step
    reach = max(pop._reach() / step, breaks.max(initial=0.0))
    kinks = [(0.0, _AROUND_ZERO), *((float(b), _AROUND_BREAK) for b in breaks)]
    parts = [reach * 2.0 ** -np.arange(0.0, 40 + np.log2(reach / std), 0.25), np.linspace(0, 4, 129) * std, breaks]
    for at, cells in kinks:
        around = np.arange(-cells - 6 * _FADE - 2, cells + 6 * _FADE + 3)
        parts.append(np.floor(at) + around - offset)
    edges = np.unique(np.concatenate(parts))
    return edges[(edges >= 0) & (edges <= reach)], kinks


def _distance(a: F64, kinks: list[tuple[float, int]]) -> F64:
    """From 0 near a kink to 1 far from all, smoothly: a sharp change would itself be noticed by the cells."""
    from scipy.special import erfc

    far = np.ones_like(a)
    for at, cells in kinks:
        far *= erfc((cells - np.abs(a - at)) / _FADE) / 2
    return far


def _atom_sums(pop: Population, step: float, offset: float, rounding: str) -> F64:
    """Moments over the point masses of a population, in steps."""
    x, mass = pop._atoms()
    a = np.abs(x) / step
    if rounding == "even" and offset:
        level = np.rint(a)
    else:
        level = np.floor(a + offset) + (0.5 if rounding in ("even", "away") and not offset else 0.0)
    e = level - a
    each = _moments(a, e, e**2, e**4) if rounding != "stochastic" else _moments(a, *_errors(-e, rounding))
    each[0] *= np.sign(x)
    return each @ mass
