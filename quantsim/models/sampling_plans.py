"""Noise schedules, and plans of samplers: what each step does is numbers, computed on the host in float64.

A noisy sample is ``x = sqrt(a) x_0 + sqrt(1 - a) noise`` with the signal share a, the literature's alpha-bar. A plan
holds three numbers for every step and is padded to one length, so that solvers and step counts differ in data and not
in code: one compiled program serves them all.
"""

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from quantsim._types import ArrayLike

Solver: TypeAlias = Literal["ddim", "dpm++2m"]
F64: TypeAlias = NDArray[np.float64]

_LATEST = 0.97  # time of the noisiest sample; its signal is 1/21 of the noise


def share_of(t: Any) -> Any:
    """The signal share ``cos²(pi t / 2)`` of a time in [0, 1]: the cosine schedule.

    >>> round(float(share_of(np.float64(0.5))), 9)
    0.5

    Source: Nichol and Dhariwal, "Improved denoising diffusion probabilistic models" (2021), eq. 17 with s = 0.
    """
    return (jnp if isinstance(t, Array) else np).cos(np.pi / 2 * t) ** 2


def time_of(share: Array) -> Array:
    """The time that has a signal share, ``2 atan(sqrt((1 - a) / a)) / pi``.

    >>> round(float(time_of(jnp.float32(0.5))), 6)
    0.5
    """
    return 2 / np.pi * jnp.arctan2(jnp.sqrt(1 - share), jnp.sqrt(share))


def cosine_schedule(steps: int, *, latest: float = _LATEST) -> F64:
    """Signal shares of evenly spaced times from the latest to 0, ``steps + 1`` of them.

    Args:
        steps: of the sampler.
        latest: time of the noisiest sample, in (0, 1).

    Raises:
        ValueError: for no steps, or a time out of range.

    >>> cosine_schedule(2, latest=0.9).round(4).tolist()
    [0.0245, 0.5782, 1.0]
    """
    if steps < 1:
        raise ValueError(f"a sampler makes at least one step, got {steps}")
    if not 0 < latest < 1:
        raise ValueError(f"the noisiest sample has a time in (0, 1), got {latest}")
    return share_of(np.linspace(latest, 0.0, steps + 1))


# --- plans ----------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What a sampler does in a step: ``x ← keep x + data (d + change (d - d'))``, with clean samples d and, before, d'.

    Attributes:
        shares: signal shares before each step, and after the last; 1 in the room behind it.
        signal: ``sqrt(a)`` before each step.
        noise: ``sqrt(1 - a)`` before each step.
        keep: of the noisy sample.
        data: of the predicted clean sample.
        change: of its change since the step before; 0 for a method of first order.
        steps: number of steps.
        limit: largest magnitude of a predicted clean sample, beyond which it is clipped; infinite by default.
    """

    shares: Float[Array, " room_and_1"]
    signal: Float[Array, " room"]
    noise: Float[Array, " room"]
    keep: Float[Array, " room"]
    data: Float[Array, " room"]
    change: Float[Array, " room"]
    steps: Int[Array, ""]
    limit: Float[Array, ""]


def plan(shares: ArrayLike, solver: Solver = "ddim", *, room: int | None = None, limit: float = math.inf) -> Plan:
    """The numbers of a solver on a schedule.

    With signal ``α = sqrt(a)`` and noise ``σ = sqrt(1 - a)``, ``keep = σ' / σ`` and ``data = α' - α keep``: the
    deterministic DDIM of Song, Meng and Ermon (2021), eq. 12, and the exact solution for a constant clean sample. The
    solver "dpm++2m" is of second order: ``change = h / (2 h_before)`` with ``h = ln(α' / σ') - ln(α / σ)``, and 0 in
    the first step and in one that ends without noise, where h is infinite.

    Args:
        shares: signal shares, increasing from the noisiest sample in (0, 1]; (steps + 1,).
        solver: "ddim" or "dpm++2m".
        room: steps to pad to, those of the schedule by default.
        limit: magnitude at which predicted clean samples are clipped; none are by default.

    Raises:
        ValueError: for an unknown solver, shares that do not increase within (0, 1], a limit that is
            not above 0, or more steps than room.

    >>> found = plan([0.36, 0.84, 1.0], room=4)
    >>> found.keep.tolist(), int(found.steps)
    ([0.5, 0.0, 1.0, 1.0], 2)

    Source: Lu et al., "DPM-Solver++" (2022), arXiv:2211.01095, algorithm 2.
    """
    a = np.asarray(shares, np.float64)
    room = max(a.size - 1, 0) if room is None else room
    _check_plan(a, solver, room)
    if not limit > 0:
        raise ValueError(f"clean samples are clipped at a limit above 0, got {limit}")
    signal, noise = np.sqrt(a), np.sqrt(1 - a)
    keep = noise[1:] / noise[:-1]
    data = signal[1:] - signal[:-1] * keep
    change = np.zeros_like(keep) if solver == "ddim" else _second_order(signal, noise)
    steps = keep.size

    def padded(numbers: F64, end: float) -> Float[Array, " length"]:
        return jnp.asarray(np.append(numbers, np.full(room - steps, end)), jnp.float32)

    return Plan(
        shares=padded(a, 1.0),
        signal=padded(signal[:-1], 1.0),
        noise=padded(noise[:-1], 0.0),
        keep=padded(keep, 1.0),
        data=padded(data, 0.0),
        change=padded(change, 0.0),
        steps=jnp.int32(steps),
        limit=jnp.float32(limit),
    )


def _second_order(signal: F64, noise: F64) -> F64:
    with np.errstate(divide="ignore"):  # of a schedule that ends without noise
        h = np.diff(np.log(signal) - np.log(noise))
    change = np.append(0.0, h[1:] / (2 * h[:-1]))
    return np.where(np.isfinite(change), change, 0.0)


def _check_plan(shares: F64, solver: str, room: int) -> None:
    if solver not in ("ddim", "dpm++2m"):
        raise ValueError(f'no solver {solver!r}: choose "ddim" or "dpm++2m"')
    if shares.ndim != 1 or shares.size < 2:
        raise ValueError(f"a sampler makes at least one step, from one signal share to another: got {shares.shape}")
    if not (shares[0] > 0 and shares[-1] <= 1 and np.all(np.diff(shares) > 0)):
        raise ValueError("signal shares increase within (0, 1], from the noisiest sample to the last: reverse them?")
    if room < shares.size - 1:
        raise ValueError(f"{shares.size - 1} steps do not fit into the room of {room}")
