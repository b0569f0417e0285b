"""Errors over many steps of an iteration x ← a x + e, persistent or fresh, and of a diffusion sampler.

A persistent error is the same at every step, as that of quantized weights is: amplitudes add up. Fresh errors are
independent from step to step with mean zero, as those of stochastically rounded activations are: powers add up.
"""

from math import log, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike

F64: TypeAlias = NDArray[np.float64]


def iterated_error(factors: ArrayLike, injected: ArrayLike = 1.0, *, persistent: bool = False) -> float:
    """Rms error after the last of T steps ``x ← a_t x + c_t e_t``, for errors e_t of rms 1 and no error before.

    The error of step t is multiplied by all later factors, ``g_t = c_t a_{t+1} … a_T``; fresh errors end as
    ``sqrt(sum g_t^2)``, a persistent one as ``|sum g_t|``.

    Args:
        factors: a_1 … a_T, the derivative of each step; (T,).
        injected: c_1 … c_T, what each step makes of its error, or one number for all.
        persistent: whether the error is the same at every step, instead of fresh.

    Raises:
        ValueError: if there is no step, or the shapes do not fit.

    >>> iterated_error([9.0, 2.0, 0.5]), iterated_error([9.0, 2.0, 0.5], persistent=True)  # 1, 1/2 and 1 at the end
    (1.5, 2.5)
    """
    a = np.asarray(factors, np.float64)
    if a.ndim != 1 or not a.size or np.shape(injected) not in ((), a.shape):
        raise ValueError(f"factors (T,) and one error or (T,) errors do not fit: {a.shape} and {np.shape(injected)}")
    later = np.append(np.cumprod(a[:0:-1])[::-1], 1.0)
    g = later * np.asarray(injected, np.float64)
    return float(abs(g.sum()) if persistent else np.sqrt((g * g).sum()))


def geometric_error(factor: float, steps: int, *, persistent: bool = False) -> float:
    """``iterated_error`` of one factor a at every step: the sum of a geometric series.

    Persistent ``|(1 - a^T) / (1 - a)|``, fresh ``sqrt((1 - a^(2T)) / (1 - a^2))``. A contraction forgets: in the end
    1 / (1 - a) and 1 / sqrt(1 - a^2). Neutral, a = 1, they grow as T and sqrt(T); an expansion multiplies them.

    Args:
        factor: a.
        steps: T.
        persistent: whether the error is the same at every step, instead of fresh.

    Raises:
        ValueError: if there is no step.

    >>> geometric_error(0.5, 10_000, persistent=True), round(geometric_error(0.6, 10_000), 9)
    (2.0, 1.25)
    >>> geometric_error(1.0, 100, persistent=True), geometric_error(1.0, 100), geometric_error(2.0, 5, persistent=True)
    (100.0, 10.0, 31.0)
    """
    if steps < 1:
        raise ValueError(f"an iteration has at least one step, got {steps}")
    return abs(_geometric_sum(factor, steps)) if persistent else sqrt(_geometric_sum(factor**2, steps))


def _geometric_sum(a: float, steps: int) -> float:
    """1 + a + … + a^(steps - 1), also close to a = 1."""
    if a == 1:
        return float(steps)
    with np.errstate(over="ignore"):
        power_less_1 = np.expm1(steps * log(a)) if a > 0 else np.float64(a) ** steps - 1
    return float(power_less_1 / (a - 1))


def ddim_steps(alpha_bar: ArrayLike, data_std: float) -> tuple[F64, F64]:
    """Factors a_t and c_t of the deterministic DDIM update ``x ← a x + c e`` on normal data of mean zero.

    A sample ``x = sqrt(ā) x_0 + sqrt(1 - ā) ε`` has variance ``v = ā s² + 1 - ā``, and the best prediction of ε is the
    linear ``sqrt(1 - ā) x / v``. One update from ā to ā' (Song, Meng and Ermon, Denoising diffusion implicit models,
    2021, eq. 12 without noise), with the predicted noise off by e, is then ``a = (sqrt(ā ā') s² + sqrt((1 - ā)(1 -
    ā'))) / v`` and ``c = sqrt(1 - ā') - sqrt(ā' (1 - ā) / ā)``, below zero as each update takes noise away.

    Args:
        alpha_bar: ā from the noisiest sample to the last, T + 1 increasing values in (0, 1]; 1 is data without noise.
        data_std: s.

    Raises:
        ValueError: if the schedule does not increase within (0, 1], or for a negative standard deviation.

    >>> a, c = ddim_steps([0.36, 1.0], 1.0)  # at s = 1 a rotation by the angle whose cosine is sqrt(ā), here 3/5
    >>> a.round(9).tolist(), c.round(9).tolist()  # its cosine, minus its tangent
    ([0.6], [-1.333333333])
    """
    schedule = np.asarray(alpha_bar, np.float64)
    if schedule.ndim != 1 or schedule.size < 2 or not (schedule[0] > 0 and schedule[-1] <= 1):
        raise ValueError(f"a schedule holds at least two values of alpha-bar in (0, 1], got shape {schedule.shape}")
    if not np.all(np.diff(schedule) > 0):
        raise ValueError("alpha-bar increases from the noisiest sample to the last; reverse a schedule that falls")
    if not 0 <= data_std < np.inf:
        raise ValueError(f"the standard deviation of the data is finite and not negative, got {data_std}")
    old, new = schedule[:-1], schedule[1:]
    variance = old * data_std**2 + 1 - old
    a = (np.sqrt(old * new) * data_std**2 + np.sqrt((1 - old) * (1 - new))) / variance
    return a, np.sqrt(1 - new) - np.sqrt(new * (1 - old) / old)


def ddim_error(alpha_bar: ArrayLike, data_std: float, *, persistent: bool = False) -> float:
    """Rms error of the last sample for an error of rms 1 in the predicted noise of every DDIM update.

    ``iterated_error`` of ``ddim_steps``. Where the data have no spread the last update forgets all earlier errors.

    Args:
        alpha_bar: ā from the noisiest sample to the last, T + 1 increasing values in (0, 1].
        data_std: standard deviation of normal data of mean zero.
        persistent: whether the error is the same at every step, instead of fresh.

    >>> round(ddim_error([0.01, 0.2, 0.64, 1.0], 0.0), 9)  # sqrt(1 - 0.64) / sqrt(0.64)
    0.75
    """
    return iterated_error(*ddim_steps(alpha_bar, data_std), persistent=persistent)
