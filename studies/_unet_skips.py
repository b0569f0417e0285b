"""A UNet whose skips are changed on the way: taken away, averaged, quantized, or quantized with what they join.

What is done at each level is an argument of one compiled program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from quantsim.models import samplers, unet
from quantsim.models.layers import linear
from quantsim.models.samplers import Carried
from quantsim.models.sampling_plans import Plan
from quantsim.models.unet import Config, Hooks, Params
from quantsim.quantizer import parse

from ._unet import TIMES, Drawn, Subject, held_out, noisy_images, plan_of

#: What can become of a skip: nothing, all of it gone, the mean of the images, or what a quantizer makes of it.
UNCHANGED, GONE, AVERAGED = "unchanged", "gone", "averaged"
QUANTIZERS = ("int8:tensor", "int8:block32", "e4m3:tensor", "int4:block32")
ACTIONS = (UNCHANGED, GONE, AVERAGED, *QUANTIZERS)
#: What can become of the features that a skip has joined: a scale for both together, or one for each.
TOGETHER, EACH = "one scale", "a scale each"
FUSIONS = {f"int{bits}, {how}": (f"int{bits}:tensor", how) for bits in (8, 4) for how in (TOGETHER, EACH)}


class Acts(NamedTuple):
    """Numbers of actions at each level, from the full resolution down, or of a fusion; traced, None for nothing."""

    at_levels: Int[Array, " levels"] | None = None
    fusion: Int[Array, ""] | None = None


def acts(config: Config, at: dict[int, str]) -> Acts:
    """Actions by level; a level that is not named is left unchanged.

    >>> acts(Config(), {0: "gone"}).at_levels.tolist()
    [1, 0, 0]
    """
    chosen = [ACTIONS.index(at.get(level, UNCHANGED)) for level in range(config.levels)]
    return Acts(at_levels=jnp.asarray(chosen, jnp.int32))


def fusion(name: str) -> Acts:
    """What becomes of the features that a skip has joined."""
    return Acts(fusion=jnp.int32(list(FUSIONS).index(name)))


@dataclass(frozen=True)
class _Acting:
    """Hooks that do what is asked; ``alike`` images in a row have one time, and are averaged together."""

    config: Config
    acts: Acts
    alike: int

    def skip(self, name: str, x: Array) -> Array:
        """A skip after its action."""
        if self.acts.at_levels is None:
            return x
        level = int(name.rpartition(".")[2])
        choices: list[Callable[[Array], Array]] = [_as_it_is, jnp.zeros_like, self._averaged]
        choices += [partial(_quantized, spec) for spec in QUANTIZERS]
        return lax.switch(self.acts.at_levels[level], choices, x)

    def _averaged(self, x: Array) -> Array:
        grouped = x.reshape(-1, self.alike, *x.shape[1:])
        return jnp.broadcast_to(jnp.mean(grouped, axis=1, keepdims=True), grouped.shape).reshape(x.shape)

    def product(self, name: str, x: Array, w: Any) -> Array:
        """Of a layer that reads a skip with what it joined, after the fusion; of others as it is."""
        w = w[0] if isinstance(w, tuple) else w
        if self.acts.fusion is not None and name in fused(self.config):
            choices = [partial(_joined, *how, self._deep(name)) for how in FUSIONS.values()]
            channels = x.reshape(*x.shape[:-1], -1, 9 if name.endswith("conv1") else 1)
            x = lax.switch(self.acts.fusion, choices, channels).reshape(x.shape)
        return linear(name, x, w)

    def _deep(self, name: str) -> int:
        """Channels before those of the skip."""
        block = int(name.split(".")[1])
        level = self.config.levels - 1 - block
        return unet.shapes(self.config)[name][1] - self.config.channels[level]


def fused(config: Config) -> list[str]:
    """Layers that read a skip joined to other features."""
    ends = ("resnets.0.conv1", "resnets.0.conv_shortcut")
    return [name for name in unet.shapes(config) if name.startswith("up_blocks") and name.endswith(ends)]


def _as_it_is(x: Array) -> Array:
    return x


def _quantized(spec: str, x: Array) -> Array:
    return parse(spec).roundtrip(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def _joined(spec: str, how: str, deep: int, x: Array) -> Array:
    """Features (..., channels, taps), the first channels deep ones."""
    parts = [x] if how == TOGETHER else [x[..., :deep, :], x[..., deep:, :]]
    return jnp.concatenate([_quantized(spec, part) for part in parts], axis=-2)


# --- programs -------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="config")
def _step(params: Any, carried: Carried, asked: Acts, plan: Plan, number: Array, config: Config) -> Carried:
    acting = _Acting(config, asked, len(carried.x))
    predict = unet.predictor(params, config, hooks=Hooks(product=acting.product, skip=acting.skip))
    return samplers.advance(predict, carried, plan=plan, number=number)


@partial(jax.jit, static_argnames=("config", "alike"))
def _noise(params: Any, x: Array, t: Array, asked: Acts, config: Config, alike: int) -> Array:
    acting = _Acting(config, asked, alike)
    return unet.forward(params, x, t, config, hooks=Hooks(product=acting.product, skip=acting.skip))


def _wrapped(params: Params, config: Config, asked: Acts) -> dict[str, Any]:
    """Where features are to be changed after they are joined, convolutions go through the product of patches."""
    return params if asked.fusion is None else params | {name: (params[name],) for name in fused(config)}


def images(of: Subject, steps: int, asked: Acts) -> Drawn:
    """Samples of a network that does what is asked with its skips."""
    params, plan = _wrapped(of.params, of.config, asked), plan_of(steps)
    carried = Carried(of.start, of.start)
    for number in range(steps):
        carried = _step(params, carried, asked, plan, jnp.int32(number), of.config)
    return np.asarray(carried.x, np.float64)


def predicted_noise(of: Subject, number: int, asked: Acts) -> Drawn:
    """Noise that such a network sees in so many noisy held-out digits, (times, digits, size, size, image)."""
    x, t = noisy_images(held_out(number), TIMES)
    found = np.asarray(_noise(_wrapped(of.params, of.config, asked), x, t, asked, of.config, number), np.float64)
    return found.reshape(len(TIMES), number, *found.shape[1:])
