"""How weight errors add up in an output y = sum_i x_i w_i: second moments of inputs and errors, and what follows.

Inputs and errors are independent of each other; what is correlated among the inputs, or among the errors, is in their
second moments S = E[x xᵀ] and C = E[e eᵀ]. White means uncorrelated, of one size and mean zero.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike

F64: TypeAlias = NDArray[np.float64]


def output_rms(error_rms: float, input_rms: float, fan_in: int) -> float:
    """Root mean square output error, ``sqrt(fan_in) * error_rms * input_rms``: it grows, errors do not cancel to zero.

    Exact if either the inputs or the errors are white.

    >>> output_rms(0.01, 2.0, 2500)
    1.0
    """
    return float(np.sqrt(fan_in) * error_rms * input_rms)


def cancellation(fan_in: int, input_shape: float = np.sqrt(2 / np.pi), error_shape: float = np.sqrt(3) / 2) -> float:
    """Mean |output error| over its bound without cancellation, ``sqrt(2 / pi) / (sqrt(fan_in) * a_x * a_e)``.

    Args:
        fan_in: inputs summed over; many, so that the sum is normal.
        input_shape: a_x = E|x| / rms(x), sqrt(2/pi) for normal inputs.
        error_shape: a_e = E|e| / rms(e), sqrt(3)/2 for errors uniform within a step.

    >>> round(cancellation(10_000), 6)  # 2 / sqrt(3 n)
    0.011547
    """
    return float(np.sqrt(2 / np.pi) / (np.sqrt(fan_in) * input_shape * error_shape))


def _check_second_moment(n: int, rms: float, mean: float) -> None:
    if n < 1:
        raise ValueError(f"an output sums over at least one input, got {n}")
    if not abs(mean) <= rms < np.inf:
        raise ValueError(f"the root mean square is at least the magnitude of the mean, got rms {rms} and mean {mean}")


def second_moment(n: int, rms: float, mean: float = 0.0) -> F64:
    """E[v vᵀ] of n uncorrelated values of one size and mean: ``(rms^2 - mean^2) I + mean^2 1 1ᵀ``.

    Args:
        n: number of values; inputs, or weight errors.
        rms: root of their second moment, mean included.
        mean: of the inputs, for example E[relu]; of the errors, their bias.

    Raises:
        ValueError: for n < 1, or |mean| > rms.

    >>> second_moment(2, 2.0, 1.0).tolist()
    [[4.0, 1.0], [1.0, 4.0]]
    """
    _check_second_moment(n, rms, mean)
    return np.full((n, n), float(mean) ** 2) + (float(rms) ** 2 - float(mean) ** 2) * np.eye(n)


def output_mse(input_second_moment: ArrayLike, error_second_moment: ArrayLike) -> float:
    """Mean squared output error, ``E[(x·e)^2] = tr(S C) = sum_ij S_ij C_ij``.

    With S = E[x xᵀ] this is exact for any inputs that are independent of the errors. Errors proportional to the weights
    w have C = (gain - 1)^2 w wᵀ; known errors e have C = e eᵀ. With w wᵀ in place of C it is the power of the output.

    Args:
        input_second_moment: E[x xᵀ], (in, in).
        error_second_moment: E[e eᵀ], (in, in), mean over the outputs.

    Raises:
        ValueError: if the two are not square matrices of one size.

    >>> output_mse(second_moment(2500, 2.0), second_moment(2500, 0.01)) ** 0.5  # white: output_rms
    1.0
    >>> round(output_mse(second_moment(10, 1.0, 1.0), second_moment(10, 0.1, 0.1)), 9)  # bias on a mean: (10 * 0.1)^2
    1.0
    """
    s, c = np.asarray(input_second_moment, np.float64), np.asarray(error_second_moment, np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1] or s.shape != c.shape:
        raise ValueError(f"the second moments are (in, in) matrices of one size, got {s.shape} and {c.shape}")
    return float((s * c).sum())


def biased_output_mse(
    fan_in: int, *, input_rms: float, error_rms: float, input_mean: float = 0.0, error_mean: float = 0.0
) -> float:
    """``output_mse`` of uncorrelated inputs and errors with means: ``n x² e² + n (n - 1) (x̄ ē)²``.

    The first term is the white one, with the whole second moments. A bias of the errors that meets a mean of the inputs
    adds a coherent one, which grows with the square of the fan-in and so wins in the end, however small the bias.

    Args:
        fan_in: n.
        input_rms: root of E[x^2], mean included.
        error_rms: root of E[e^2], bias included.
        input_mean: E[x].
        error_mean: E[e].

    Raises:
        ValueError: for n < 1, or a mean beyond its rms.

    >>> (
    ...     biased_output_mse(10, input_rms=1.0, error_rms=0.5),
    ...     biased_output_mse(10, input_rms=2.0, error_rms=0.5, input_mean=2.0, error_mean=0.5),
    ... )
    (2.5, 100.0)
    """
    for rms, mean in ((input_rms, input_mean), (error_rms, error_mean)):
        _check_second_moment(fan_in, rms, mean)
    return float(fan_in * (input_rms * error_rms) ** 2 + fan_in * (fan_in - 1) * (input_mean * error_mean) ** 2)


def relative_output_error(
    input_second_moment: ArrayLike, error_second_moment: ArrayLike, weight_second_moment: ArrayLike
) -> float:
    """Rms output error over rms output, ``sqrt(tr(S C) / tr(S W))`` with W = E[w wᵀ].

    For white inputs it is the relative weight error ``sqrt(tr C / tr W)``, whatever the errors and the fan-in.

    >>> w, c = second_moment(400, 1.0), second_moment(400, 0.02)
    >>> round(relative_output_error(second_moment(400, 3.0), c, w), 9)
    0.02
    >>> ones = np.ones((400, 400))  # signal and inputs all alike, errors white: 0.02 / sqrt(400)
    >>> round(relative_output_error(ones, c, ones), 9)
    0.001

    Raises:
        ValueError: if the matrices do not fit, or if the output has no power.
    """
    power = output_mse(input_second_moment, weight_second_moment)
    if not power > 0:
        raise ValueError("the output has no power, so no relative error: no input meets a weight")
    return float(np.sqrt(output_mse(input_second_moment, error_second_moment) / power))


def quantized_output_mse(
    input_second_moment: ArrayLike,
    weight_second_moment: ArrayLike,
    *,
    weight_errors: ArrayLike,
    activation_errors: ArrayLike,
) -> float:
    """Mean squared error of outputs of quantized weights and activations, ``tr(S C) + tr(D (W + C))``.

    The error is ``dy = x·e + d·(w + e)``, with S = E[x xᵀ], W = E[w wᵀ], C = E[e eᵀ] and D = E[d dᵀ]. There is no cross
    term where errors are uncorrelated with what they are errors of, as those of fine steps are; those of coarse levels,
    clipping and truncation are not. White ones give ``a² + b² + a² b²`` of the output's power, a and b being the
    relative errors of weights and activations.

    Args:
        input_second_moment: S, (in, in).
        weight_second_moment: W, (in, in), mean over the outputs.
        weight_errors: C, (in, in), mean over the outputs.
        activation_errors: D, (in, in), mean over the tokens.

    Raises:
        ValueError: if they are not square matrices of one size.

    >>> s, w = second_moment(100, 1.0), second_moment(100, 0.1)
    >>> c, d = second_moment(100, 0.01), second_moment(100, 0.1)  # a tenth of weights and of inputs
    >>> round(quantized_output_mse(s, w, weight_errors=c, activation_errors=d), 9)  # (0.01 + 0.01 + 0.0001) of 1
    0.0201
    """
    used = np.asarray(weight_second_moment, np.float64) + np.asarray(weight_errors, np.float64)
    return output_mse(input_second_moment, weight_errors) + output_mse(activation_errors, used)


def aligned_relative_error(weight_error: float, fan_in: int, *, share: float = 1.0, gain: float = 1.0) -> float:
    """Relative output error when a share of the inputs' power lies along the weights.

    ``sqrt((gain - 1)^2 + weight_error^2 / (share fan_in))``: the signal adds up coherently, white errors do not. They
    count as in the weights at share = 1 / fan_in, which white inputs have, and less by sqrt(fan_in) for x parallel to
    w. A gain of the weights, as truncation has it, adds up like the signal and is never averaged away.

    Args:
        weight_error: ||e|| / ||w|| of the white part of the errors.
        fan_in: number of inputs.
        share: squared cosine between inputs and weights, E[(x·w)^2] / (E||x||^2 ||w||^2).
        gain: g of the quantized weights g w + e.

    Raises:
        ValueError: for a fan-in below 1 or a share outside (0, 1].

    >>> aligned_relative_error(0.02, 400), round(aligned_relative_error(0.02, 400, share=1 / 400), 9)
    (0.001, 0.02)
    >>> round(aligned_relative_error(0.02, 10**9, gain=0.99), 6)
    0.01
    """
    if fan_in < 1 or not 0 < share <= 1:
        raise ValueError(f"a share of power lies in (0, 1] and a fan-in is at least 1, got {share} and {fan_in}")
    return float(np.hypot(gain - 1, weight_error / np.sqrt(share * fan_in)))


def rank_one_output_mse(direction: ArrayLike, error_second_moment: ArrayLike, rms: float = 1.0) -> float:
    """Mean squared output error of inputs x = a u that all lie along one u: ``E[a^2] uᵀ C u``.

    For known errors e that is ``E[a^2] (u·e)^2``: zero for errors orthogonal to the only direction that is ever used.

    Args:
        direction: u, (in,).
        error_second_moment: C, (in, in), or known errors e, (in,).
        rms: root of E[a^2].

    Raises:
        ValueError: if the shapes do not fit.

    >>> rank_one_output_mse([1.0, 1.0], [0.5, -0.5]), rank_one_output_mse([1.0, 1.0], [0.5, 0.5], 2.0)
    (0.0, 4.0)
    """
    u, c = np.asarray(direction, np.float64), np.asarray(error_second_moment, np.float64)
    if u.ndim != 1 or c.shape not in ((u.size,), (u.size, u.size)):
        raise ValueError(f"a direction (in,) and errors (in,) or (in, in) do not fit: {u.shape} and {c.shape}")
    return float(rms**2 * ((u @ c) ** 2 if c.ndim == 1 else u @ c @ u))


def outlier_column_share(fan_in: int, magnitude: float, error_ratio: float = 1.0) -> float:
    """Share of the output error that one outlier input carries, ``M² r² / (M² r² + fan_in - 1)``; errors white.

    Half of it at M = sqrt(fan_in - 1): one input of magnitude 64 among 4097 weighs as much as all others. It is also
    the share that is saved by keeping the weights of that input (one column of W) in full precision.

    Args:
        fan_in: number of inputs, the outlier included.
        magnitude: M, rms of the outlier over that of the others.
        error_ratio: r, rms of its weights' errors over that of the others.

    Raises:
        ValueError: for a fan-in below 1 or negative sizes.

    >>> outlier_column_share(4097, 64.0)
    0.5
    """
    if fan_in < 1 or magnitude < 0 or error_ratio < 0:
        raise ValueError(
            f"a fan-in is at least 1 and sizes are not negative, got {fan_in}, {magnitude} and {error_ratio}"
        )
    carried = (magnitude * error_ratio) ** 2
    return float(carried / (carried + fan_in - 1)) if carried > 0 else 0.0
