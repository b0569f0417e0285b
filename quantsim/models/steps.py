"""One step of a training: AdamW, a rate that warms up and falls along a cosine, batches drawn by the step's number.

A step is a function of the state alone: a training that is resumed takes the steps of one that was not interrupted.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from quantsim.models import likelihood, llama
from quantsim.models.llama import Config, Params, Tokens

_BATCHES = 2**31 - 1  # stream of the batches; the first weights take the small numbers


@dataclass(frozen=True)
class Recipe:
    """A training, all of it but the text.

    Attributes:
        seed: of the first weights and of the batches.
        steps: number of steps.
        batch: sequences of a step, each of the context's length, at places drawn uniformly.
        rate: highest learning rate.
        warmup: steps in which it rises, linearly; it then falls to a hundredth along a cosine.
        decay: of the matrices, decoupled from the rate's gradient as in AdamW.
        config: sizes of the model.
    """

    seed: int = 0
    steps: int = 1500
    batch: int = 8
    rate: float = 3e-3
    warmup: int = 100
    decay: float = 0.1
    config: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"a training takes at least one step of one sequence, got {self.steps} of {self.batch}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"a seed lies between 0 and 2^32 - 1, got {self.seed}")


class State(NamedTuple):
    """What a step changes: parameters, moments of the optimizer, the number of the next step."""

    params: Params
    optimizer: Any
    step: Int[Array, ""]


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW (beta 0.9 and 0.99) behind gradients clipped to norm 1; only matrices decay.

    Source: Loshchilov and Hutter, arXiv:1711.05101.
    """
    warmup = min(recipe.warmup, recipe.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.rate, warmup, recipe.steps, end_value=recipe.rate / 100)
    adamw = optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=recipe.decay, mask=_matrices)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def _matrices(params: Params) -> dict[str, bool]:
    return {name: w.ndim > 1 for name, w in params.items()}


@partial(jax.jit, static_argnames="recipe")  # one program, not one for each shape
def start(recipe: Recipe) -> State:
    """The state before the first step."""
    params = llama.init(jax.random.key(recipe.seed), recipe.config)
    return State(params, optimizer(recipe).init(params), jnp.int32(0))


@partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def step(state: State, data: UInt8[Array, " bytes"], recipe: Recipe) -> tuple[State, Float[Array, ""]]:
    """The next state, and the loss of its batch before the step, in nats per byte."""
    tokens = batch(state.step, data, recipe)
    loss, gradient = jax.value_and_grad(mean_loss)(state.params, tokens, recipe.config)
    updates, of_optimizer = optimizer(recipe).update(gradient, state.optimizer, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return State(params, of_optimizer, state.step + 1), loss


def batch(number: Int[Array, ""], data: UInt8[Array, " bytes"], recipe: Recipe) -> Tokens:
    """Sequences of a step, (batch, context + 1): the last token of each is only predicted."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(recipe.seed), _BATCHES), number)
    length = recipe.config.context + 1
    starts = jax.random.randint(key, (recipe.batch,), 0, data.shape[0] - length + 1)
    return data[starts[:, None] + jnp.arange(length)[None]].astype(jnp.int32)


def mean_loss(params: Params, tokens: Tokens, config: Config) -> Float[Array, ""]:
    """Mean loss of all tokens but the first of each sequence, in nats."""
    return jnp.mean(likelihood.nll(llama.forward(params, tokens[:, :-1], config), tokens[:, 1:]))
