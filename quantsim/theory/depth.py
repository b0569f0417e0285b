"""Errors after many layers: a plain stack, a residual one, a normalized one, in closed form.

Model: every layer multiplies by a wide random matrix, independent of the others, that turns all directions alike; in a
residual stack it is a branch beside the identity. Each matrix is off by a relative error rho: independent errors are
white and independent from layer to layer, a common gain makes every layer's output too large by the same factor
1 + rho, the extreme of correlated errors. Nonlinearities are left out; what a norm does to the error's component along
the signal is kept for a gain and is 1 / width of the error for white errors, neglected.
"""

from collections.abc import Callable
from math import log1p, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike

F64: TypeAlias = NDArray[np.float64]


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


def sensitivity(f: Callable[[F64], NDArray[Any]]) -> float:
    """How much larger a small white error is, relative to f(z), than relative to a standard normal z it is added to.

    ``sqrt(E[f'(z)^2] / E[f(z)^2])``, by quadrature. 1 of the identity and of ReLU; no function with a mean of zero is
    below 1 (Poincaré's inequality).

    Args:
        f: elementwise, with bounded slope; of float64 numbers.

    >>> round(sensitivity(lambda z: 3 * z), 6), round(sensitivity(lambda z: np.maximum(z, 0)), 6)
    (1.0, 1.0)
    """
    z = np.linspace(-12, 12, 240_001)
    values, between = np.asarray(f(z), np.float64), (z[1:] + z[:-1]) / 2
    slope_power = np.sum((np.diff(values) / np.diff(z)) ** 2 * np.exp(-(between**2) / 2))
    return float(np.sqrt(slope_power / np.sum(values**2 * np.exp(-(z**2) / 2))))


def followed_errors(injected: ArrayLike, *, sensitivity: float = 1.0, branch: float | None = None) -> F64:
    """Relative rms error after each layer of a stack with a nonlinearity, to first order in what each layer injects.

    Without branches ``r_l^2 = s^2 r_{l-1}^2 + rho_l^2``, with s the sensitivity of the nonlinearity between two
    matrices, and its power made up for: with a norm behind every layer, or where it keeps lengths. In a pre-norm
    residual stack the error is ``q_l^2 = q_{l-1}^2 (1 + s^2 branch^2 / P_{l-1}) + rho_l^2 branch^2`` beside a signal of
    the power ``P_l = 1 + l branch^2``.

    Args:
        injected: rho_1 … rho_L, relative rms error of each layer's matrix; zeros follow one error through a stack.
        sensitivity: s, of the nonlinearity.
        branch: rms of a branch's output over that of the input of a residual stack; None if there are no branches.

    Raises:
        ValueError: if there is no layer.

    >>> followed_errors([0.1, 0.0, 0.0]).tolist(), followed_errors([0.1, 0.0, 0.0], sensitivity=2.0).tolist()
    ([0.1, 0.1, 0.1], [0.1, 0.2, 0.4])
    >>> followed_errors([1.0, 0.0, 0.0], branch=1.0).round(9).tolist()  # sqrt(1/2), and there it stays
    [0.707106781, 0.707106781, 0.707106781]
    """
    rho = np.asarray(injected, np.float64)
    if rho.ndim != 1 or not rho.size:
        raise ValueError(f"the errors of at least one layer are wanted, got shape {rho.shape}")
    size, signal, error, found = 1.0 if branch is None else branch**2, 1.0, 0.0, []
    for of_layer in rho:
        passed = sensitivity**2 * size * error / signal
        error = passed + of_layer**2 * size + (0.0 if branch is None else error)
        signal = size + (0.0 if branch is None else signal)
        found.append(error / signal)
    return np.sqrt(found)
