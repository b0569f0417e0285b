"""Deterministic samplers of diffusion models, for any predictor of the noise: one program for all solvers and lengths.

What a step does stands in a plan, see ``sampling_plans``. ``sample`` and ``trajectory`` loop on the device. XLA on a
CPU runs a convolution inside a loop many times slower than outside, so networks with convolutions are better stepped
from the host: ``walk`` calls a compiled ``advance`` once a step.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from quantsim.models.sampling_plans import Plan

Samples: TypeAlias = Float[Array, "samples *shape"]
#: (x, signal share) -> the noise in x.
Predictor: TypeAlias = Callable[[Any, Any], Any]


class Carried(NamedTuple):
    """What a step hands to the next.

    Attributes:
        x: the samples.
        clean: clean samples that the last step predicted; anything before the first step, where they count 0.
    """

    x: Samples
    clean: Samples


class Switch(NamedTuple):
    """Another predictor in some steps, as of a network that is kept in high precision in the first and the last.

    Attributes:
        predict: the other one.
        at: whether it takes a step, (room,); traced.
    """

    predict: Predictor
    at: Bool[Array, " room"]


def advance(predict: Predictor, carried: Carried, *, plan: Plan, number: Int[Array, ""] | int) -> Carried:
    """One step of a plan, counted from 0. Pure: to be jitted around, with plan, number and parameters as arguments.

    Args:
        predict: (x, signal share) -> noise, of the samples' shape.
        carried: what the step before handed on; ``Carried(start, start)`` for the first.
        plan: what each step does.
        number: of the step.

    Raises:
        ValueError: for a predictor of another shape.

    >>> from quantsim.models.sampling_plans import plan
    >>> half = plan([0.25, 1.0])
    >>> advance(lambda x, share: 0.0 * x, Carried(jnp.ones((1, 2)), jnp.ones((1, 2))), plan=half, number=0).x.tolist()
    [[2.0, 2.0]]
    """
    x, share = carried.x, plan.shares[number]
    noise = predict(x, share)
    if noise.shape != x.shape:
        raise ValueError(f"the predictor makes noise {noise.shape} of samples {x.shape}: the shapes have to be one")
    clean = (x - plan.noise[number] * noise) / plan.signal[number]
    clean = jnp.clip(clean, -plan.limit, plan.limit)
    ahead = clean + plan.change[number] * (clean - carried.clean)
    return Carried(plan.keep[number] * x + plan.data[number] * ahead, clean)


def walk(step: Callable[[Carried, int], Carried], start: Samples, *, plan: Plan) -> Iterator[Samples]:
    """The samples before the first step of a plan and after each, one call of ``step`` (carried, number) at a time."""
    carried = Carried(start, start)
    yield start
    for number in range(int(plan.steps)):
        carried = step(carried, number)
        yield carried.x


def sample(predict: Predictor, start: Samples, *, plan: Plan, switch: Switch | None = None) -> Samples:
    """The last samples of a plan. Pure: to be jitted around, with plan, start and parameters as arguments.

    Args:
        predict: (x, signal share) -> noise, of the samples' shape.
        start: the noisiest samples, standard normal where the first signal share is near 0.
        plan: what each step does.
        switch: another predictor in some steps.

    Raises:
        ValueError: for a predictor of another shape, or a switch of other room.

    >>> from quantsim.models.sampling_plans import plan
    >>> sample(lambda x, share: 0.0 * x, jnp.ones((1, 2)), plan=plan([0.25, 1.0])).tolist()
    [[2.0, 2.0]]
    """

    def step(number: Array, carried: Carried) -> Carried:
        return advance(_switched(predict, switch, plan, number), carried, plan=plan, number=number)

    return lax.fori_loop(0, plan.steps, step, Carried(start, start)).x


def trajectory(
    predict: Predictor, start: Samples, *, plan: Plan, switch: Switch | None = None
) -> Float[Array, "room_and_1 samples *shape"]:
    """The samples before each step of ``sample`` and after the last, which fill the room behind it too."""

    def step(number: Array, found: tuple[Any, Carried]) -> tuple[Any, Carried]:
        carried = advance(_switched(predict, switch, plan, number), found[1], plan=plan, number=number)
        return found[0].at[number + 1].set(carried.x), carried

    states = jnp.zeros((len(plan.shares), *start.shape), start.dtype).at[0].set(start)
    states, last = lax.fori_loop(0, plan.steps, step, (states, Carried(start, start)))
    behind = jnp.arange(len(states)) > plan.steps
    behind = jnp.broadcast_to(behind.reshape(-1, *(1 for _ in start.shape)), states.shape)
    return jnp.where(behind, jnp.broadcast_to(last.x[None], states.shape), states)


def _switched(predict: Predictor, switch: Switch | None, plan: Plan, number: Array) -> Predictor:
    if switch is None:
        return predict
    if switch.at.shape != plan.keep.shape:
        raise ValueError(f"a switch says of {plan.keep.size} steps who takes them, this one of {switch.at.shape}")
    return lambda x, share: lax.cond(switch.at[number], switch.predict, predict, x, share)
