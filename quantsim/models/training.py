"""Training of the language model: AdamW, a rate that warms up and falls along a cosine, checkpoints to go on from.

A step is a function of the state and its number: the batch comes of the key of the seed and of the number of the step, so
a training that is resumed takes the steps that an uninterrupted one takes.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8
from safetensors import safe_open
from safetensors.numpy import save_file

from quantsim.models import llama, text
from quantsim.models.llama import Config, Params

#: Called with (steps done, steps in all, mean loss of the last step in nats).
Report = Callable[[int, int, float], None]

STATE = "state.safetensors"
_DRAWS = 1  # stream of the batches beside that of the first weights


@dataclass(frozen=True)
class Recipe:
    """A training, all of it.

    Attributes:
        seed: of the first weights and the batches.
        steps: number of steps.
        batch: sequences of a step, each of the context's length, at places drawn uniformly.
        rate: highest learning rate.
        warmup: steps in which it rises, linearly; it then falls to a hundredth along a cosine.
        decay: of the weights that are matrices, as AdamW decouples it.
    """

    seed: int = 0
    steps: int = 1000
    batch: int = 16
    rate: float = 3e-3
    warmup: int = 50
    decay: float = 0.1
    config: Config = field(default_factory=Config)


class State(NamedTuple):
    """What a step changes."""

    params: Params
    optimizer: Any
    step: Array


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW (beta 0.9 and 0.99) behind gradients clipped to norm 1; only matrices decay.

    Source: Loshchilov and Hutter, arXiv:1711.05101.
    """
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.rate, min(recipe.warmup, recipe.steps // 2), recipe.steps, end_value=recipe.rate / 100
    )
    adamw = optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=recipe.decay, mask=_matrices)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def _matrices(params: Params) -> dict[str, bool]:
    return {name: w.ndim > 1 for name, w in params.items()}


def start(recipe: Recipe) -> State:
    """The state before the first step."""
    params = llama.init(jax.random.key(recipe.seed), recipe.config)
    return State(params, optimizer(recipe).init(params), jnp.int32(0))


@partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def step(state: State, data: UInt8[Array, " bytes"], recipe: Recipe) -> tuple[State, Float[Array, ""]]:
    """The next state, and the loss of its batch before the step, in nats per byte."""
    tokens = _batch(state.step, data, recipe)
    loss, gradient = jax.value_and_grad(_loss)(state.params, tokens, recipe.config)
    updates, of_optimizer = optimizer(recipe).update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, of_optimizer, state.step + 1), loss  # pyright: ignore[reportArgumentType]


def _batch(number: Array, data: Array, recipe: Recipe) -> Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(recipe.seed), 2**31 - _DRAWS), number)
    length = recipe.config.context + 1
    starts = jax.random.randint(key, (recipe.batch,), 0, data.shape[0] - length + 1)
    return data[starts[:, None] + jnp.arange(length)[None]].astype(jnp.int32)


def _loss(params: Params, tokens: Array, config: Config) -> Array:
    return jnp.mean(llama.nll(llama.forward(params, tokens[:, :-1], config), tokens[:, 1:]))


# --- a training from beginning to end -------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    folder: Path | None = None,
    *,
    data: np.ndarray | None = None,
    report: Report | None = None,
    every: int = 50,
) -> Params:
    """Parameters after the last step; with a folder, the training goes on from what is kept there.

    Args:
        recipe: what to train, and how.
        folder: where the state is kept, every so many steps.
        data: bytes to train on; the text of ``text.training_bytes`` by default.
        report: told how far it is, after every step.
        every: steps between two states that are kept.

    Raises:
        ValueError: if the folder holds another training, or the data are shorter than a sequence.
        FloatingPointError: if the loss is no longer finite.
    """
    data = text.training_bytes() if data is None else data
    if len(data) <= recipe.config.context:
        raise ValueError(f"{len(data)} bytes hold no sequence of {recipe.config.context} tokens and the next")
    state = start(recipe) if folder is None else restore(folder, recipe)
    on_device = jnp.asarray(data)
    for number in range(int(state.step), recipe.steps):
        state, loss = step(state, on_device, recipe)
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss of step {number} is {loss}: lower the rate, now {recipe.rate}")
        if report is not None:
            report(number + 1, recipe.steps, float(loss))
        if folder is not None and ((number + 1) % every == 0 or number + 1 == recipe.steps):
            keep(state, folder, recipe)
    return state.params


def keep(state: State, folder: Path, recipe: Recipe) -> None:
    """Write a state as ``state.safetensors``, in one piece or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path, fresh = folder / STATE, folder / f"{STATE}.new"
    save_file(_named(state), fresh, metadata={"recipe": _identity(recipe)})
    os.replace(fresh, path)


def restore(folder: Path, recipe: Recipe) -> State:
    """The state that a folder keeps of this training, or the first one where it keeps none.

    Raises:
        ValueError: if it is of another training, or damaged.
    """
    path, first = folder / STATE, start(recipe)
    if not path.is_file():
        return first
    with safe_open(path, framework="numpy") as file:
        if (file.metadata() or {}).get("recipe") != _identity(recipe):
            raise ValueError(f"{path} is of another training: name another folder, or remove it")
        kept = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    return jax.tree.unflatten(jax.tree.structure(first), [kept[name] for name in _named(first)])


def _named(state: State) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree.flatten_with_path(state)
    return {jax.tree_util.keystr(path): np.ascontiguousarray(leaf) for path, leaf in leaves}


def _identity(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe) | {"text": text.digest()}, sort_keys=True)


# --- what came of it ------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="config")
def _mean_nll(params: Params, tokens: Array, config: Config) -> Array:
    return jnp.mean(llama.nll(llama.forward(params, tokens[:, :-1], config), tokens[:, 1:]), axis=1)


def held_out_loss(
    params: Mapping[str, Array], config: Config, *, sequences: np.ndarray | None = None, batch: int = 16
) -> tuple[float, float]:
    """Mean loss of held-out sequences in nats per byte, and its standard error over the sequences.

    Args:
        params: of the model.
        config: of the model.
        sequences: tokens, (number, length); by default all of ``text.held_out`` in the model's context.
        batch: sequences at a time.
    """
    sequences = text.held_out(config.context) if sequences is None else sequences
    filled = np.concatenate([sequences, np.repeat(sequences[-1:], -len(sequences) % batch, axis=0)])
    pieces = filled.reshape(-1, batch, filled.shape[1])
    losses = np.concatenate([_mean_nll(dict(params), jnp.asarray(piece), config) for piece in pieces])
    losses = losses[: len(sequences)].astype(np.float64)
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(len(losses)))
