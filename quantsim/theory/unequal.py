"""Weights of unequal size under one step: which of them sets it, and what the others lose."""

from functools import lru_cache

import numpy as np

from quantsim._types import ArrayLike
from quantsim.populations import Normal
from quantsim.populations.parameters import F64
from quantsim.theory.noise import quantization_noise
from quantsim.theory.scales import unequal_absmax_power

_REACH = 12.0  # standard deviations beyond which a normal number counts for nothing
_OCTAVES = 24  # below that, down to which sizes are told apart


def extreme_shares(sizes: ArrayLike, power: int = 0) -> F64:
    """Probability of each of independent normal weights of these sizes to be the largest in magnitude.

    ``p_j = integral of t^power f_j(t) prod_{i != j} F_i(t) dt``, with F_i and f_i of |w_i|, over the sum of all. With a
    power blocks count by that power of their largest: what an extreme has is what a step of that size is spared.

    >>> extreme_shares([1.0, 1.0, 1e-9]).round(9).tolist()
    [0.5, 0.5, 0.0]
    >>> round(float(extreme_shares([1.0, 2.0])[1]), 9), round(float(2 / np.pi * np.arctan(2.0)), 9)
    (0.704832765, 0.704832765)
    """
    s = np.asarray(sizes, np.float64)
    kinds, kind, counts = np.unique(s, return_inverse=True, return_counts=True)
    return np.take(_shares(tuple(map(float, kinds)), tuple(map(int, counts)), power), kind)


@lru_cache
def _shares(kinds: tuple[float, ...], counts: tuple[int, ...], power: int) -> F64:
    """Of one weight of each kind of size, where so many have it."""
    from scipy.special import ndtr

    s, k = np.array(kinds)[:, None, None], np.array(counts)
    edges = np.concatenate([[0.0], _REACH * kinds[-1] * 2.0 ** -np.arange(_OCTAVES, -0.125, -0.125)])
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (1 + nodes)
    with np.errstate(divide="ignore"):
        logs = np.log1p(-2 * ndtr(-t / s))
        density = np.sqrt(2 / np.pi) / s * np.exp(-((t / s) ** 2) / 2)
        others = np.exp(np.einsum("k,kij->ij", k, logs) - logs)
    found = (half * weights * t**power * density * others).sum(axis=(1, 2))
    return found / (k @ found)


def unequal_int_mse(sizes: ArrayLike, bits: int) -> F64:
    """Mean squared error of each of normal weights of these sizes that share one step, absmax / (2^(bits-1) - 1).

    The noise of rounding at the step of the root mean square of the absmax, exact for weights much smaller than it,
    too, which become zero; none in the extreme itself, which is a weight with its share of the squared step.

    Args:
        sizes: standard deviation of each weight of a block, (n,).
        bits: of the integers.

    >>> from quantsim.theory import absmax_int_mse
    >>> round(float(unequal_int_mse(np.ones(64), 8)[0] / absmax_int_mse(Normal(), 64, 8)), 9)
    1.0
    >>> unequal_int_mse([1.0, 1000.0], 4).round(3).tolist()  # the small one becomes zero, the large one is exact
    [1.0, 0.0]
    """
    s = np.asarray(sizes, np.float64)
    step = np.sqrt(unequal_absmax_power(Normal(), s, 2)) / (2.0 ** (bits - 1) - 1)
    kinds, kind = np.unique(s, return_inverse=True)
    noise = np.array([quantization_noise(Normal(float(v)), float(step)).mse for v in kinds])
    return noise[kind] * (1 - extreme_shares(s, 2))
