"""How errors of the predicted noise go through a DDIM sampler, if images were normal with the digits' covariance.

The best predictor of normal data is linear and acts on each principal direction of the data alone, so that errors in a
direction follow ``x ← a x + c e`` with the factors of ``theory.ddim_steps`` at that direction's standard deviation.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from quantsim import theory
from quantsim.models import digits
from quantsim.models.sampling_plans import cosine_schedule

from ._unet import TIMES, Drawn

F64 = NDArray[np.float64]


@cache
def principal() -> tuple[F64, F64]:
    """Standard deviations of the training digits along their principal directions, and these as columns."""
    flat = np.asarray(digits.training().images, np.float64).reshape(-1, digits.SIZE**2)
    variances, directions = np.linalg.eigh(np.cov(flat, rowvar=False))
    return np.sqrt(np.maximum(variances, 0.0)), directions


def along_directions(errors: Drawn) -> F64:
    """Rms over images of errors (times, images, size, size, 1) along each principal direction, (times, directions)."""
    flat = errors.reshape(*errors.shape[:2], -1)
    return np.sqrt(np.mean((flat @ principal()[1]) ** 2, axis=1))


def at_steps(by_time: F64, steps: int) -> F64:
    """Errors at the times of a sampler's steps, between those at ``TIMES``: (steps, directions)."""
    schedule = cosine_schedule(steps)[:-1]
    t = 2 / np.pi * np.arccos(np.sqrt(schedule))
    return np.stack([np.interp(t, TIMES, column) for column in by_time.T], axis=1)


def predicted(by_time: F64, steps: int, *, persistent: bool, at: NDArray[np.bool_] | None = None) -> F64:
    """Rms error of a pixel before the first step and after each, (steps + 1,).

    Args:
        by_time: rms errors of the predicted noise at ``TIMES`` along each principal direction, (times, directions).
        steps: of the sampler.
        persistent: whether a sample's errors are the same at all steps and add up, or independent.
        at: steps that err, (steps,); all by default.
    """
    injected, total = at_steps(by_time, steps), np.zeros((steps + 1, by_time.shape[1]))
    injected = injected if at is None else injected * at[:, None]
    for direction, std in enumerate(principal()[0]):
        factors, parts = theory.ddim_steps(cosine_schedule(steps), float(std))
        made = parts * injected[:, direction]
        for step in range(steps):
            before, new = factors[step] * total[step, direction], made[step]
            total[step + 1, direction] = before + new if persistent else np.hypot(before, new)
    return np.sqrt(np.mean(total**2, axis=1))
