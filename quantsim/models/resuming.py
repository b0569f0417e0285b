"""Trainings that can be interrupted: they keep their state in a folder, and go on from there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from quantsim.models import checkpoint_files

#: Called with (steps done, steps in all, loss of the last step's batch).
Report = Callable[[int, int, float], None]

_EVERY = 50  # steps between two states that are kept


@runtime_checkable
class Stepped(Protocol):
    """What a step changes; a pytree, of which only the number of the next step is known here."""

    @property
    def step(self) -> Any:
        """Number of the next step."""
        ...


@runtime_checkable
class Recipe(Protocol):
    """What all recipes say."""

    @property
    def steps(self) -> int:
        """Number of steps."""
        ...

    @property
    def rate(self) -> float:
        """Highest learning rate."""
        ...


S = TypeVar("S", bound=Stepped)


def run(
    state: S,
    step: Callable[[S], tuple[S, Array]],
    *,
    recipe: Recipe,
    keep: Callable[[S], None] | None = None,
    report: Report | None = None,
) -> S:
    """The state after the last step of a recipe.

    Args:
        state: where to begin or to go on.
        step: state -> the next one, and the loss of its batch.
        recipe: how many steps it takes.
        keep: given the state every 50 steps and after the last.
        report: told how far it is, after every step.

    Raises:
        FloatingPointError: if the loss is no longer finite.
    """
    for number in range(int(state.step), recipe.steps):
        state, loss = step(state)
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss of step {number} is {loss}: lower the rate, now {recipe.rate}")
        if report is not None:
            report(number + 1, recipe.steps, float(loss))
        if keep is not None and ((number + 1) % _EVERY == 0 or number + 1 == recipe.steps):
            keep(state)
    return state


def keep(folder: Path, state: Any, identity: dict[str, Any]) -> None:
    """Write the state of a training into its folder, with what says which training it is."""
    checkpoint_files.write(_file(folder), _named(state), {"training": identity})


def restore(folder: Path, first: S, identity: dict[str, Any]) -> S:
    """The state that a folder keeps of a training, or the first one where it keeps none.

    Raises:
        ValueError: if it is of another training, or damaged.
    """
    if not _file(folder).is_file():
        return first
    arrays, metadata = checkpoint_files.read(_file(folder))
    if metadata.get("training") != json.loads(json.dumps(identity)):  # a tuple comes back as a list
        raise ValueError(f"{_file(folder)} is of another training: name another folder, or remove it")
    leaves = [jnp.asarray(arrays[name]) for name in _named(first)]
    return jax.tree.unflatten(jax.tree.structure(first), leaves)


def _file(folder: Path) -> Path:
    return folder / "state.safetensors"


def _named(state: Any) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}
