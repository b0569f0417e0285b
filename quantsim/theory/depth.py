"""Errors after many layers: a plain stack, a residual one, a normalized one, in closed form.

Model: every layer multiplies by a wide random matrix, independent of the others, that turns all directions alike; in a
residual stack it is a branch beside the identity. Each matrix is off by a relative error rho: independent errors are
white and independent from layer to layer, a common gain makes every layer's output too large by the same factor
1 + rho, the extreme of correlated errors. Nonlinearities are left out; what a norm does to the error's component along
the signal is kept for a gain and is 1 / width of the error for white errors, neglected.
"""

from math import log1p, sqrt

import numpy as np


def _check(rho: float, layers: int) -> None:
    if layers < 1 or not 0 <= rho < np.inf:
        raise ValueError(f"a stack has at least one layer and an finite error of at least 0, got {layers} and {rho}")


def _expm1(x: float) -> float:
    """exp(x) - 1, infinite where it is too large for a number."""
    with np.errstate(over="ignore"):
        return float(np.expm1(x))


def stack_error(rho: float, layers: int, *, gain: bool = False) -> float:
    """Relative rms error after a plain stack of linear layers.

    Independent errors multiply the expected power by 1 + rho^2 a layer, ``sqrt((1 + rho^2)^L - 1)``: rho sqrt(L) while
    that is small, exact in the mean of the square also where it is not. A common gain adds amplitudes,
    ``(1 + rho)^L - 1``: rho L.

    Args:
        rho: relative rms error of each layer.
        layers: L.
        gain: whether the error of every layer is the same gain, instead of independent.

    Raises:
        ValueError: for no layers or a negative error.

    >>> round(stack_error(0.1, 2), 9), round(stack_error(0.1, 2, gain=True), 9)  # sqrt(1.01^2 - 1), 1.1^2 - 1
    (0.141774469, 0.21)
    """
    _check(rho, layers)
    return _expm1(layers * log1p(rho)) if gain else sqrt(_expm1(layers * log1p(rho**2)))


def normalized_stack_error(rho: float, layers: int, *, gain: bool = False) -> float:
    """Relative rms error after a stack of linear layers with a norm behind each, ``sqrt(2 - 2 (1 + rho^2)^(-L / 2))``.

    The norm keeps the length, so that errors only turn the signal: each layer divides the cosine between the two by
    sqrt(1 + rho^2). For small errors as the plain stack; at many layers the outputs become unrelated, sqrt(2) apart. A
    common gain is undone by the norms.

    Args:
        rho: relative rms error of each layer.
        layers: L.
        gain: whether the error of every layer is the same gain, instead of independent.

    Raises:
        ValueError: for no layers or a negative error.

    >>> round(normalized_stack_error(0.75, 1) ** 2, 9)  # 2 - 2 * 4 / 5
    0.4
    >>> round(normalized_stack_error(0.75, 1000) ** 2, 9), normalized_stack_error(0.75, 1000, gain=True)
    (2.0, 0.0)
    """
    _check(rho, layers)
    return 0.0 if gain else sqrt(-2 * _expm1(-layers / 2 * log1p(rho**2)))


def residual_stack_error(rho: float, layers: int, *, branch: float = 1.0, gain: bool = False) -> float:
    """Relative rms error after a pre-norm residual stack ``h + branch * W norm(h)``, to first order in rho.

    The power of the signal grows by branch^2 a layer, from 1; so the error of a layer weighs less the later it comes.
    In units of the signal's power P_l = 1 + l branch^2 the error power r^2 obeys ``r_l^2 = r_{l-1}^2 + rho^2 branch^2 /
    P_l``: what goes through a branch grows as the signal does. Hence ``r_L^2 = rho^2 (psi(c + L + 1) - psi(c + 1))``
    with c = 1 / branch^2 and the digamma function psi: rho^2 log(1 + L branch^2), a logarithm instead of L. A common
    gain of the branches scales their sum, and is an error of direction only beside the input: it stays near rho.

    Args:
        rho: relative rms error of each branch's matrix.
        layers: L, the number of branches.
        branch: rms of a branch's output over that of the input of the stack.
        gain: whether the error of every branch is the same gain, instead of independent.

    Raises:
        ValueError: for no layers, a negative error or a branch without output.

    >>> round(residual_stack_error(0.01, 3) ** 2, 9)  # 0.0001 (1/2 + 1/3 + 1/4)
    0.000108333
    """
    from scipy.special import digamma

    _check(rho, layers)
    if not branch > 0:
        raise ValueError(f"the branches of a residual stack have an output, got branch = {branch}")
    c = branch**-2
    if not gain:
        return rho * sqrt(digamma(c + layers + 1) - digamma(c + 1))
    before = np.arange(layers)  # the sum of so many branches, off by rho, turns the input of the next one
    turned = c * before / ((c + before) ** 2 * (c + before + 1))
    return rho * sqrt(layers / (c + layers) + turned.sum())
