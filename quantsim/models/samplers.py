"""Deterministic samplers of diffusion models, for any predictor of the noise: one compiled program for all of them.

A noisy sample is ``x = sqrt(a) x_0 + sqrt(1 - a) noise`` with the signal share a, the literature's alpha-bar. What a
step does with the predicted clean sample is three numbers, computed on the host in float64: a plan holds them for every
step, padded to one length, so that solvers and step counts differ in data and not in code.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

Samples: TypeAlias = Float[Array, "samples *shape"]
#: (x, signal share) -> the noise in x.
Predictor: TypeAlias = Callable[[Any, Any], Any]
Solver: TypeAlias = Literal["ddim", "dpm++2m"]
F64: TypeAlias = NDArray[np.float64]

_LATEST = 0.97  # time of the noisiest sample; its signal is 1/21 of the noise


class Plan(NamedTuple):
    """What a sampler does in a step: ``x ← keep x + data (d + change (d - d'))``, with clean samples d and, before, d'.

    Attributes:
        shares: signal shares before each step, and after the last; 1 in the room behind it.
        keep: of the noisy sample.
        data: of the predicted clean sample.
        change: of its change since the step before; 0 for a method of first order.
        steps: number of steps.
    """

    shares: Float[Array, " room_and_1"]
    keep: Float[Array, " room"]
    data: Float[Array, " room"]
    change: Float[Array, " room"]
    steps: Int[Array, ""]


class Switch(NamedTuple):
    """Another predictor in some steps, as of a network that is kept in high precision in the first and the last.

    Attributes:
        predict: the other one.
        at: whether it takes a step, (room,); traced.
    """

    predict: Predictor
    at: Bool[Array, " room"]


# --- schedules ------------------------------------------------------------------------------------------------------


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


def plan(shares: F64, solver: Solver = "ddim", *, room: int | None = None) -> Plan:
    """The numbers of a solver on a schedule.

    With signal ``α = sqrt(a)`` and noise ``σ = sqrt(1 - a)``, ``keep = σ' / σ`` and ``data = α' - α keep``: the
    deterministic DDIM of Song, Meng and Ermon (2021), eq. 12, and the exact solution for a constant clean sample. The
    solver "dpm++2m" is of second order: ``change = h / (2 h_before)`` with ``h = ln(α' / σ') - ln(α / σ)``, and 0 in
    the first step and in one that ends without noise, where h is infinite.

    Args:
        shares: signal shares, increasing from the noisiest sample in (0, 1]; (steps + 1,).
        solver: "ddim" or "dpm++2m".
        room: steps to pad to, those of the schedule by default.

    Raises:
        ValueError: for an unknown solver, shares that do not increase within (0, 1], or more steps than room.

    >>> found = plan(np.array([0.36, 0.84, 1.0]), room=4)
    >>> found.keep.tolist(), int(found.steps)
    ([0.5, 0.0, 1.0, 1.0], 2)

    Source: Lu et al., "DPM-Solver++" (2022), arXiv:2211.01095, algorithm 2.
    """
    shares = np.asarray(shares, np.float64)
    room = max(shares.size - 1, 0) if room is None else room
    _check_plan(shares, solver, room)
    signal, noise = np.sqrt(shares), np.sqrt(1 - shares)
    keep = noise[1:] / noise[:-1]
    data = signal[1:] - signal[:-1] * keep
    change = np.zeros_like(keep) if solver == "ddim" else _second_order(signal, noise)
    steps = keep.size
    padded = [np.append(a, np.full(room - steps, end)) for a, end in ((keep, 1.0), (data, 0.0), (change, 0.0))]
    shares = np.append(shares, np.ones(room - steps))
    return Plan(*(jnp.asarray(a, jnp.float32) for a in (shares, *padded)), jnp.int32(steps))


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


# --- sampling -------------------------------------------------------------------------------------------------------


def sample(
    predict: Predictor, start: Samples, *, plan: Plan, switch: Switch | None = None, limit: float | None = None
) -> Samples:
    """The last samples of a plan.

    Pure: to be jitted around, with plan, start and parameters as arguments.

    Args:
        predict: (x, signal share) -> noise, of the samples' shape.
        start: the noisiest samples, standard normal where the first signal share is near 0.
        plan: what each step does.
        switch: another predictor in some steps.
        limit: largest magnitude of a predicted clean sample, beyond which it is clipped; no clipping by default.

    Raises:
        ValueError: for a predictor of another shape, a switch of other room, or a limit that is not above 0.

    >>> start, half = jnp.ones((1, 2)), plan(np.array([0.36, 1.0]))
    >>> sample(lambda x, share: 0.0 * x, start, plan=half).round(4).tolist()  # 1 / sqrt(0.36)
    [[1.6667, 1.6667]]
    """
    step = _step_of(predict, start, plan=plan, switch=switch, limit=limit)
    return lax.fori_loop(0, plan.steps, step, (start, jnp.zeros_like(start)))[0]


def trajectory(
    predict: Predictor, start: Samples, *, plan: Plan, switch: Switch | None = None, limit: float | None = None
) -> Float[Array, "room_and_1 samples *shape"]:
    """The samples before each step of ``sample`` and after the last, which fill the room behind it too."""
    step = _step_of(predict, start, plan=plan, switch=switch, limit=limit)

    def kept(number: Array, found: tuple[Any, Any]) -> tuple[Any, Any]:
        states, carried = found
        carried = step(number, carried)
        return states.at[number + 1].set(carried[0]), carried

    states = jnp.zeros((len(plan.shares), *start.shape), start.dtype).at[0].set(start)
    states, (last, _) = lax.fori_loop(0, plan.steps, kept, (states, (start, jnp.zeros_like(start))))
    behind = (jnp.arange(len(states)) > plan.steps).reshape(-1, *(1 for _ in start.shape))
    return jnp.where(behind, last[None], states)


def _step_of(
    predict: Predictor, start: Samples, *, plan: Plan, switch: Switch | None, limit: float | None
) -> Callable[[Any, Any], Any]:
    """One step, (number, (x, clean sample before)) -> the next two."""
    if limit is not None and not limit > 0:
        raise ValueError(f"clean samples are clipped at a limit above 0, got {limit}")
    if switch is not None and switch.at.shape != plan.keep.shape:
        raise ValueError(
            f"a switch says of each of {plan.keep.size} steps who takes it, this one has {switch.at.shape}"
        )
    for each in (predict,) if switch is None else (predict, switch.predict):
        if (shape := jax.eval_shape(each, start, plan.shares[0]).shape) != start.shape:
            raise ValueError(f"the predictor makes noise {shape} of samples {start.shape}: the shapes have to be one")

    def noise_of(x: Samples, share: Array, number: Array) -> Samples:
        if switch is None:
            return predict(x, share)
        return lax.cond(switch.at[number], switch.predict, predict, x, share)

    def step(number: Array, carried: tuple[Any, Any]) -> tuple[Any, Any]:
        x, before = carried
        share = plan.shares[number]
        clean = (x - jnp.sqrt(1 - share) * noise_of(x, share, number)) / jnp.sqrt(share)
        clean = clean if limit is None else jnp.clip(clean, -limit, limit)
        # before the first step there is no clean sample, and its change counts 0
        ahead = clean + plan.change[number] * (clean - before)
        return plan.keep[number] * x + plan.data[number] * ahead, clean

    return step
