"""Absmax scales: the largest of n weights, and the error of integers that its step predicts."""

import numpy as np

from quantsim._types import ArrayLike
from quantsim.populations import Population, expected_absmax_power
from quantsim.populations.parameters import F64


def _require_weights(n: int) -> None:
    if n < 1:
        raise ValueError(f"a block has at least one weight, got n = {n}")


def expected_absmax(pop: Population, n: int) -> float:
    """E[max |w_i|] of n independent weights, in their unit.

    Raises:
        ValueError: if n < 1.

    >>> from quantsim.populations import Uniform, Normal
    >>> round(expected_absmax(Uniform(3**-0.5), 99), 9)  # n / (n + 1)
    0.99
    >>> round(expected_absmax(Normal(), 1), 9)  # sqrt(2 / pi)
    0.797884561
    """
    _require_weights(n)
    return expected_absmax_power(pop, n, 1)


def absmax_int_mse(pop: Population, n: int, bits: int) -> float:
    """Mean squared error of symmetric absmax integers in blocks of n, uniform-noise model.

    ``E[step^2] / 12 * (n - 1) / n`` with ``step = absmax / (2^(bits-1) - 1)``: the extreme itself has no error, and the
    others' errors are uniform within their step (Bennett, 1948), which needs a step well below the standard deviation.

    >>> from quantsim.populations import Uniform
    >>> round(absmax_int_mse(Uniform(3**-0.5), 10**6, 8) * 12 * 127**2, 4)
    1.0
    """
    _require_weights(n)
    step2 = expected_absmax_power(pop, n, 2) / (2.0 ** (bits - 1) - 1) ** 2
    return step2 / 12 * (n - 1) / n


def rms_crest(pop: Population, n: int) -> float:
    """Root mean square over blocks of n weights of absmax / rms: the crest factor that sets the SQNR of integers.

    With it ``SQNR = 12 (2^(bits-1) - 1)^2 / crest^2 * n / (n - 1)`` is the reciprocal of ``absmax_int_mse``, exactly.
    ``Population.crest`` is the mean instead, which is at most as large.

    Raises:
        ValueError: if n < 1.

    >>> from quantsim.populations import Uniform
    >>> round(rms_crest(Uniform(), 10**6), 5)  # sqrt(3)
    1.73205
    """
    _require_weights(n)
    return (expected_absmax_power(pop, n, 2) / pop.moment(2)) ** 0.5


def absmax_moment(pop: Population, n: int, power: int) -> float:
    """E[max |w_i|^power] of n independent weights; infinite where the population has no such moment.

    Raises:
        ValueError: if n < 1, or the power is neither 1 nor even.

    >>> from quantsim.populations import Laplace, StudentT, Uniform
    >>> round(absmax_moment(Uniform(3**-0.5), 2, 2), 9)  # n / (n + 2)
    0.5
    >>> round(absmax_moment(Laplace(2**0.5), 2, 2), 9)  # largest of two exponentials: (1 + 1/2)^2 + 1 + 1/4
    3.5
    >>> absmax_moment(StudentT(3.0), 32, 4)
    inf
    """
    _require_weights(n)
    if power < 1 or (power % 2 and power > 1):
        raise ValueError(f"moments of the absmax are known for power 1 and even powers, got {power}")
    return expected_absmax_power(pop, n, power) if np.isfinite(pop.moment(max(power, 2))) else float("inf")


def absmax_cdf(pop: Population, n: int, x: ArrayLike) -> F64:
    """P(max |w_i| <= x) of n independent weights, ``(1 - tail(x))^n``.

    Raises:
        ValueError: if n < 1.

    >>> from quantsim.populations import Uniform
    >>> round(float(absmax_cdf(Uniform(3**-0.5), 2, 0.5)), 9)
    0.25
    """
    _require_weights(n)
    with np.errstate(divide="ignore"):
        return np.exp(n * np.log1p(-np.minimum(pop.tail(x), 1.0)))


def absmax_quantile(pop: Population, n: int, p: ArrayLike) -> F64:
    """p-quantile of max |w_i| of n independent weights of a symmetric population: ``tail(x) = 1 - p^(1/n)``.

    Raises:
        ValueError: if n < 1.

    >>> from quantsim.populations import Uniform
    >>> round(float(absmax_quantile(Uniform(3**-0.5), 2, 0.25)), 9)
    0.5
    """
    _require_weights(n)
    return -pop.quantile(-np.expm1(np.log(np.asarray(p, np.float64)) / n) / 2)


def unequal_absmax_power(pop: Population, scales: ArrayLike, power: int) -> float:
    """E[max |s_i x_i|^power] of weights of unequal size that share one step: a factor ``s_i`` for each draw ``x_i``.

    ``power`` times the integral of ``x^(power-1) (1 - prod_i (1 - tail(x / s_i)))`` over x > 0: Gauss-Legendre in
    quarter octaves, refined towards the ends of bounded populations.

    >>> from quantsim.populations import Uniform
    >>> round(unequal_absmax_power(Uniform(3**-0.5), [1.0, 1.0, 1e-9], 1), 6)  # as of two weights
    0.666667
    """
    s, repeats = np.unique(np.asarray(scales, np.float64), return_counts=True)
    reach = max(pop._reach(), pop._breaks().max(initial=0.0))
    octaves = np.arange(0.0, 16 + np.log2(reach / pop.std_dev()), 0.25)
    refined = np.outer(np.outer(s, pop._breaks()), 1 - 2.0 ** -np.arange(1.0, 50))
    edges = np.unique(np.concatenate([[0.0], s[-1] * reach * 2.0**-octaves, refined.ravel()]))
    a, b = edges[:-1, None], edges[1:, None]
    nodes, weights = np.polynomial.legendre.leggauss(12)
    x = (a + b) / 2 + (b - a) / 2 * nodes
    with np.errstate(divide="ignore"):
        logs = (k * np.log1p(-np.minimum(pop.tail(x / v), 1.0)) for v, k in zip(s, repeats, strict=True))
        some = -np.expm1(sum(logs))
    return float(power * ((b - a) / 2 * weights * x ** (power - 1) * some).sum())
