"""One step of the training of a UNet: AdamW on the mean squared error of the predicted noise, at times of all strata.

A step is a function of the state alone: a training that is resumed takes the steps of one that was not interrupted.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from quantsim._types import PRNGKey
from quantsim.models import sampling_plans, unet
from quantsim.models.unet import Config, Images, Params

_BATCHES = 2**31 - 1  # stream of the batches; the first weights take the small numbers


@dataclass(frozen=True)
class Recipe:
    """A training, all of it but the images.

    Attributes:
        seed: of the first weights and of the batches.
        steps: number of steps.
        batch: images of a step, drawn uniformly, each with noise of its own.
        rate: highest learning rate.
        warmup: steps in which it rises, linearly; it then falls to a hundredth along a cosine, after which an average
            of the weights gains next to nothing.
        decay: of the weights, not of vectors, decoupled from the rate's gradient as in AdamW.
        config: sizes of the UNet.
    """

    seed: int = 0
    steps: int = 3000
    batch: int = 128
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.01
    config: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"a training takes at least one step of one image, got {self.steps} of {self.batch}")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"the rate rises in fewer steps than there are: {self.warmup} of {self.steps}; take more")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"a seed lies between 0 and 2^32 - 1, got {self.seed}")


class State(NamedTuple):
    """What a step changes: parameters, moments of the optimizer, the number of the next step."""

    params: Params
    optimizer: Any
    step: Int[Array, ""]


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW (beta 0.9 and 0.99) behind gradients clipped to norm 1; only weights decay."""
    rate = optax.warmup_cosine_decay_schedule(0, recipe.rate, recipe.warmup, recipe.steps, end_value=recipe.rate / 100)
    adamw = optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=recipe.decay, mask=_weights)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def _weights(params: Params) -> dict[str, bool]:
    return {name: w.ndim > 1 for name, w in params.items()}


@partial(jax.jit, static_argnames="recipe")  # one program, not one for each shape
def start(recipe: Recipe) -> State:
    """The state before the first step."""
    params = unet.init(jax.random.key(recipe.seed), recipe.config)
    return State(params, optimizer(recipe).init(params), jnp.int32(0))


@partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def step(state: State, data: Images, recipe: Recipe) -> tuple[State, Float[Array, ""]]:
    """The next state, and the loss of its batch before the step."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(recipe.seed), _BATCHES), state.step)
    of_images, of_noise = jax.random.split(key)
    images = data[jax.random.randint(of_images, (recipe.batch,), 0, len(data))]

    def mean_loss(params: Params) -> Float[Array, ""]:
        return jnp.mean(losses(params, images, of_noise, recipe.config))

    loss, gradient = jax.value_and_grad(mean_loss)(state.params)
    updates, of_optimizer = optimizer(recipe).update(gradient, state.optimizer, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return State(params, of_optimizer, state.step + 1), loss


def losses(params: Params, images: Images, key: PRNGKey, config: Config) -> Float[Array, " batch"]:
    """Squared error of the predicted noise, the mean over the pixels of each image.

    Image i of n has noise of its own, at a time drawn from the stratum [i / n, (i + 1) / n) under the cosine schedule.
    """
    of_time, of_noise = jax.random.split(key)
    number = len(images)
    t = (jnp.arange(number) + jax.random.uniform(of_time, (number,))) / number
    share = sampling_plans.share_of(t)[:, None, None, None]
    noise = jax.random.normal(of_noise, images.shape)
    noisy = jnp.sqrt(share) * images + jnp.sqrt(1 - share) * noise
    return jnp.mean((unet.forward(params, noisy, t, config) - noise) ** 2, axis=(1, 2, 3))
