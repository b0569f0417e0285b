"""Images from the diffusion UNet, step by step from the host: one compiled step for all plans and all weights."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from quantsim.models import samplers
from quantsim.models.samplers import Carried
from quantsim.models.sampling_plans import Plan
from quantsim.models.unet import PLAIN, Config, Hooks, Images, predictor


class Other(NamedTuple):
    """Other parameters in some steps: quantized in all but the first and the last, for example.

    Attributes:
        params: the others.
        at: whether a step uses them, (steps,) or (room,) of the plan.
    """

    params: dict[str, Any]
    at: Bool[np.ndarray, " steps"]


@partial(jax.jit, static_argnames=("config", "hooks"))
def step(
    params: dict[str, Any],
    carried: Carried,
    *,
    plan: Plan,
    number: Int[Array, ""] | int,
    config: Config,
    hooks: Hooks = PLAIN,
) -> Carried:
    """One step of a plan with the network's noise, compiled once for each config, hooks and kind of parameters."""
    return samplers.advance(predictor(params, config, hooks=hooks), carried, plan=plan, number=number)


def walk(
    params: dict[str, Any],
    start: Images,
    *,
    plan: Plan,
    config: Config,
    hooks: Hooks = PLAIN,
    other: Other | None = None,
) -> Iterator[Images]:
    """The images before the first step of a plan and after each.

    Args:
        params: of the network, quantized or not.
        start: standard normal noise, (batch, size, size, image).
        plan: what each step does.
        config: sizes of the network.
        hooks: what happens in its layers and on its skips.
        other: other parameters in some steps.

    Raises:
        ValueError: for images of another shape, and for other parameters in too few steps.
    """
    if other is not None and len(other.at) not in (int(plan.steps), len(plan.keep)):
        raise ValueError(f"other.at says of {int(plan.steps)} steps who takes them, this one of {len(other.at)}")

    def taken(carried: Carried, number: int) -> Carried:
        used = other.params if other is not None and other.at[number] else params
        return step(used, carried, plan=plan, number=jnp.int32(number), config=config, hooks=hooks)

    return samplers.walk(taken, start, plan=plan)


def sample(
    params: dict[str, Any],
    start: Images,
    *,
    plan: Plan,
    config: Config,
    hooks: Hooks = PLAIN,
    other: Other | None = None,
) -> Images:
    """The images after the last step of ``walk``."""
    x = start
    for x in walk(params, start, plan=plan, config=config, hooks=hooks, other=other):  # noqa: B007
        pass
    return x
