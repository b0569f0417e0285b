"""Where to clip: the scale with the least error for any levels, ACIQ's model of it, percentiles."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike
from quantsim.populations import Laplace, Population
from quantsim.theory.levels import levels_mse

F64: TypeAlias = NDArray[np.float64]

_PER_OCTAVE, _CANDIDATES, _FINE, _FEW, _CHUNK = 32, 4, 33, 1 << 13, 1 << 18
_TAIL = 1e-9  # weights beyond this probability do not widen the scan


def best_reach(pop: Population, levels: ArrayLike) -> float:
    """Factor s for which rounding to the nearest of ``s * levels`` has the least mean squared error.

    With the levels of a format over its ``formats.reach`` it is the best reach, what absmax is for an absmax scale.
    With v the nearest level, ``s = E[x v(x)] / E[v(x)^2]`` at every minimum; coarse and floating formats have several,
    so a scan of 32 factors an octave finds the basin and a root of the derivative its bottom. Where factors are as
    good to 1e-9, as an octave apart for floats that reach far beyond the weights, it is the smallest of them. On a
    sample of real weights minima are too many to see them all; it is one of the best.

    Args:
        pop: population of finite variance.
        levels: at least two, in any unit; up to about 10 bits of them in under 0.2 s.

    Raises:
        ValueError: for fewer than two levels, or levels that are not finite.

    >>> from quantsim.populations import Normal, Uniform
    >>> round(best_reach(Uniform(3**-0.5), [-1, 0, 1]), 9)  # three steps of 2/3 cover [-1, 1]
    0.666666667
    >>> round(best_reach(Normal(), [-1, 1]), 9)  # E|x| = sqrt(2 / pi), Max 1960, N = 2
    0.797884561
    """
    v = np.unique(np.asarray(levels, np.float64))
    if len(v) < 2 or not np.all(np.isfinite(v)):
        raise ValueError(f"a scale needs at least two different finite levels, got {np.asarray(levels).tolist()}")
    return _best(pop, tuple(v.tolist()))


def optimal_clip(pop: Population, bits: int) -> float:
    """Reach of symmetric integers, levels ``k reach / (2^(bits-1) - 1)``, with the least mean squared error.

    What lies beyond saturates. The exact optimum, from cell integrals: no noise model. In the unit of the weights.

    Args:
        pop: population of finite variance.
        bits: 2 or more.

    Raises:
        ValueError: for fewer than 2 bits.

    >>> from quantsim.populations import Normal, Uniform
    >>> round(optimal_clip(Uniform(3**-0.5), 8), 9) == round(254 / 255, 9)  # 255 steps cover [-1, 1]
    True
    >>> round(optimal_clip(Normal(), 2), 3)  # ternary: Max 1960, table I, N = 3
    1.224
    """
    if bits < 2 or bits != int(bits):
        raise ValueError(f"symmetric integers have a whole number of bits, at least 2, got {bits}")
    top = 2 ** (int(bits) - 1) - 1
    return best_reach(pop, np.arange(-top, top + 1) / top)


def aciq_mse(pop: Population, clip: float | int, bits: float | int) -> float:
    """Mean squared error in ACIQ's model: ``E[max(|x| - clip, 0)^2] + clip^2 / (3 * 4^bits)``.

    What lies beyond the clip falls on it; what lies within has uniform noise of 2^bits steps of ``2 clip / 2^bits``.
    Source: Banner, Nahshan and Soudry, Post training 4-bit quantization, NeurIPS 2019, arXiv:1810.05723, section 2.

    Args:
        pop: population of mean 0.
        clip: in the unit of the weights.
        bits: need not be whole.

    >>> from quantsim.populations import Laplace
    >>> round(aciq_mse(Laplace(2**0.5), 3.0, 2), 9)  # b = 1: 2 exp(-3) + 9 / 48
    0.287074137
    """
    _check(clip > 0, f"a clip is positive, got {clip}")
    return float(_outside(pop, clip, 2) + clip**2 / (3 * 4.0**bits))


def aciq_clip(pop: Population, bits: float | int) -> float:
    """Clip with the least ``aciq_mse``: the root of ``clip = 3 * 4^bits * E[max(|x| - clip, 0)]``.

    For Laplace weights of scale b in closed form, ``b W(3 * 4^bits)`` with the principal branch of Lambert's W. The
    model puts the clip half a step beyond the last level and holds for many bits; ``optimal_clip`` is the exact one.
    Source: as of ``aciq_mse``.

    Args:
        pop: population of finite variance and mean 0.
        bits: need not be whole.

    >>> from quantsim.populations import Laplace, Normal
    >>> [round(aciq_clip(Laplace(2**0.5), bits), 4) for bits in (2, 3, 4)]  # published: 2.83, 3.89, 5.03
    [2.8307, 3.8972, 5.0286]
    >>> round(aciq_clip(Normal(), 4), 4)  # published: 2.55
    2.5591
    """
    from scipy.special import lambertw

    if isinstance(pop, Laplace):
        return float(pop.std / 2**0.5 * lambertw(3 * 4.0**bits).real)
    noise = 3 * 4.0**bits
    high = noise**0.5 * pop.std_dev()  # there the model's noise alone is the variance
    return _root(lambda clip: clip - noise * _outside(pop, clip, 1), 0.0, high)


def percentile_reach(pop: Population, p: float | int) -> float:
    """Percentile p of |x| in an infinite population, in the unit of the weights.

    Raises:
        ValueError: unless 0 < p < 100; the largest of infinitely many weights is not a number.

    >>> from quantsim.populations import Normal, Uniform
    >>> round(percentile_reach(Uniform(3**-0.5), 99.9), 9), round(percentile_reach(Normal(), 95), 3)
    (0.999, 1.96)
    """
    _check(0 < p < 100, f"a percentile of an infinite population lies between 0 and 100, got {p}")
    share = 1 - p / 100
    high = pop.moment(2) ** 0.5 / share**0.5  # Chebyshev
    return _root(lambda x: float(pop.tail(x)) - share, 0.0, high)


def percentile_mse(pop: Population, levels: ArrayLike, p: float | int) -> float:
    """Mean squared error of levels scaled so that 1 falls on the p-th percentile of |x|; what is larger saturates.

    Args:
        pop: symmetric population.
        levels: in units of the percentile, for example the levels of a format over its ``reach``.
        p: between 0 and 100.

    >>> from quantsim.populations import Uniform
    >>> ternary = percentile_mse(Uniform(3**-0.5), [-1, 0, 1], 75.0)
    >>> round(ternary, 9) == round((2 * 0.375**3 + 0.25**3) / 3, 9)  # cells [0, 3/8], [3/8, 3/4], [3/4, 1]
    True
    """
    return levels_mse(pop, percentile_reach(pop, p) * np.asarray(levels, np.float64))


def _check(good: bool, message: str) -> None:
    if not good:
        raise ValueError(message)


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    root: Any = brentq(f, low, high, xtol=1e-15 * high, rtol=np.float64(1e-14))
    return float(root)


@lru_cache(8)
def _mirrored(pop: Population) -> Population:
    return pop._mirrored()


def _beyond(pop: Population, x: F64, k: int) -> F64:
    """E[max(X - x, 0)^k] where x has the sign bit of +, E[max(x - X, 0)^k] where it has that of -."""
    above, other = pop.upper_moment(np.abs(x), k), _mirrored(pop)
    return np.asarray(above if other is pop else np.where(np.signbit(x), other.upper_moment(np.abs(x), k), above))


def _outside(pop: Population, x: float, k: int) -> float:
    """E[max(|X| - x, 0)^k]."""
    return float(_beyond(pop, np.array([x, -x]), k).sum())


class _Loss:
    """Mean squared error of scaled levels as a function of the scale, from upper moments at the thresholds.

    With the level v0 next to zero, thresholds t_i and gaps g_i between levels it is
    ``E[(X - s v0)^2] - 2 s sum_i g_i E[max(X - s t_i, 0)]``, below zero mirrored: each threshold that a weight passes
    saves ``2 g_i (x - t_i)``.
    """

    def __init__(self, pop: Population, levels: F64) -> None:
        first = int(np.argmin(np.abs(levels)))
        at = np.abs(levels[1:] + levels[:-1]) / 2 * np.where(np.arange(len(levels) - 1) < first, -1.0, 1.0)
        gaps = np.diff(levels)
        if _mirrored(pop) is pop:
            at, same = np.unique(np.abs(at), return_inverse=True)
            gaps = np.bincount(same, gaps)
        self.pop, self.nearest, self.at, self.gaps = pop, float(levels[first]), at, gaps
        self.first, self.second = float(pop.moment(1)), float(pop.moment(2))

    def __call__(self, scales: F64) -> F64:
        """Mean squared error at each scale."""
        rows = max(1, _CHUNK // len(self.at))
        parts = [scales[k : k + rows, None] * self.at for k in range(0, len(scales), rows)]
        saved = np.concatenate([_beyond(self.pop, x, 1) @ self.gaps for x in parts])
        moved = scales * self.nearest
        return self.second - 2 * moved * self.first + moved**2 - 2 * scales * saved

    def slope(self, scale: float) -> float:
        """Half its derivative, s E[v^2] - E[x v]."""
        x = scale * self.at
        saved = (_beyond(self.pop, x, 1) - np.abs(x) * _beyond(self.pop, x, 0)) @ self.gaps
        return float(scale * self.nearest**2 - self.nearest * self.first - saved)


@lru_cache(256)
def _best(pop: Population, levels: tuple[float, ...]) -> float:
    v = np.array(levels)
    loss, scan = _Loss(pop, v), _scan(pop, v)
    found = loss(scan)
    inner = found[1:-1]
    valleys = 1 + np.flatnonzero((inner <= found[:-2]) & (inner <= found[2:]))
    depths = (found / found.min()).round(9)  # the order of valleys as deep as each other is not that of rounding errors
    tried = sorted(valleys, key=lambda k: depths[k])[:_CANDIDATES] or [int(np.argmin(found))]
    fine = np.array([np.geomspace(scan[max(k - 1, 0)], scan[min(k + 1, len(scan) - 1)], _FINE) for k in sorted(tried)])
    finer = loss(fine.ravel()).reshape(fine.shape)
    deep = np.flatnonzero(finer.min(axis=1) <= finer.min() * 1.001)
    bottoms = np.array([_bottom(loss, fine[k], finer[k]) for k in deep])
    depths = loss(bottoms)
    return float(bottoms[np.argmax(depths <= depths.min() * (1 + 1e-9))])


def _scan(pop: Population, v: F64) -> F64:
    """Scales from where most weights saturate to where most round to the level next to zero."""
    mean_abs = _outside(pop, 0.0, 1)
    _check(mean_abs > 0, "all weights are zero, and every scale is as good as any other")
    low, high = mean_abs / np.abs(v).max() / 4, percentile_reach(pop, 100 * (1 - _TAIL)) / np.abs(v[v != 0]).min()
    atoms = np.abs(pop._atoms()[0])
    few = len(atoms) * len(v) <= _FEW
    each = _PER_OCTAVE if few else 8 * _PER_OCTAVE
    scan = low * 2.0 ** (np.arange(-1, max(np.log2(high / low), 2.0) * each + 2) / each)
    # narrow valleys lie where a point mass meets a level
    meets = np.outer(atoms, 1 / np.abs(v[v != 0])).ravel() if few else scan
    return np.unique(np.append(scan, meets[(meets > scan[0]) & (meets < scan[-1])]))


def _bottom(loss: _Loss, scan: F64, found: F64) -> float:
    """Scale of the least loss: ever finer scans until the slope changes its sign once, then its root."""
    for _ in range(6):
        k = int(np.argmin(found))
        low, high = scan[max(k - 1, 0)], scan[min(k + 1, len(scan) - 1)]
        if 0 < k < len(scan) - 1 and loss.slope(low) < 0 < loss.slope(high):
            return _root(loss.slope, low, high)
        scan = np.geomspace(low, high, _FINE)
        found = loss(scan)
    return float(scan[np.argmin(found)])
