"""Training of the diffusion UNet from beginning to end: it goes on where it stopped, and says what it reached."""

from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import PRNGKey
from quantsim.models import checkpoint_files, digits, trained, trained_digits, unet_steps
from quantsim.models.training import Report
from quantsim.models.unet import Config, Images, Params
from quantsim.models.unet_steps import Recipe, State

_EVERY = 50  # steps between two states that are kept
_ROUNDS = 16  # draws of time and noise for each held-out image


def recipe_of(seed: int = 0) -> Recipe:
    """The training of a UNet that is shipped: only the seed differs between them."""
    return Recipe(seed=seed)


def train(
    recipe: Recipe, folder: Path | None = None, *, data: np.ndarray | None = None, report: Report | None = None
) -> Params:
    """The average of the parameters after the last step; with a folder, the training goes on from what is kept there.

    Args:
        recipe: what to train, and how.
        folder: where the state is kept, every 50 steps and after the last.
        data: images to train on, (number, size, size, image); those of ``digits.training`` by default.
        report: told how far it is, after every step.

    Raises:
        ValueError: if the folder keeps another training, or the images have not the config's shape.
        FloatingPointError: if the loss is no longer finite.
    """
    data = digits.training().images if data is None else data
    identity = asdict(recipe) | {"images": sha256(data.tobytes()).hexdigest()}
    state = unet_steps.start(recipe) if folder is None else restore(folder, recipe, identity)
    on_device = jnp.asarray(data)
    for number in range(int(state.step), recipe.steps):
        state, loss = unet_steps.step(state, on_device, recipe)
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss of step {number} is {loss}: lower the rate, now {recipe.rate}")
        if report is not None:
            report(number + 1, recipe.steps, float(loss))
        if folder is not None and ((number + 1) % _EVERY == 0 or number + 1 == recipe.steps):
            checkpoint_files.write(_file(folder), _named(state), {"training": identity})
    return state.averaged


def restore(folder: Path, recipe: Recipe, identity: dict[str, Any]) -> State:
    """The state that a folder keeps of a training, or the first one where it keeps none.

    Raises:
        ValueError: if it is of another training, or damaged.
    """
    first = unet_steps.start(recipe)
    if not _file(folder).is_file():
        return first
    arrays, metadata = checkpoint_files.read(_file(folder))
    if metadata.get("training") != _plain(identity):
        raise ValueError(f"{_file(folder)} is of another training: name another folder, or remove it")
    leaves = [jnp.asarray(arrays[name]) for name in _named(first)]
    return jax.tree.unflatten(jax.tree.structure(first), leaves)


def _plain(identity: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, with lists for tuples."""
    config = {name: list(size) if isinstance(size, tuple) else size for name, size in identity["config"].items()}
    return identity | {"config": config}


def _file(folder: Path) -> Path:
    return folder / "state.safetensors"


def _named(state: State) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


# --- what came of it ------------------------------------------------------------------------------------------------


def save(params: Params, recipe: Recipe, path: Path) -> trained_digits.Model:
    """Write a trained UNet as a checkpoint of bfloat16, with its held-out loss before and after, and read it back."""
    before, after = held_out_loss(params, recipe.config), held_out_loss(trained.rounded(params), recipe.config)
    about = {name: getattr(recipe, name) for name in ("seed", "steps", "batch", "rate")}
    about |= {"loss": after[0], "loss_se": after[1], "loss_before": before[0], "loss_before_se": before[1]}
    trained_digits.write(params, recipe.config, path, about | {"digits": digits.digest()})
    return trained_digits.read(path)


@partial(jax.jit, static_argnames="config")
def _losses(params: Params, images: Images, key: PRNGKey, config: Config) -> Float[Array, " batch"]:
    return unet_steps.losses(params, images, key, config)


def image_losses(params: Params, config: Config, images: np.ndarray, *, rounds: int = _ROUNDS) -> np.ndarray:
    """Mean squared error of the noise predicted for each image, over draws of time and noise that are always the same.

    Each round draws a time from every stratum, in another order of the images.
    """
    found = np.zeros(len(images))
    for number in range(rounds):
        key = jax.random.fold_in(jax.random.key(0), number)
        order = np.argsort(np.asarray(jax.random.bits(key, (len(images),))), kind="stable")
        found[order] += np.asarray(_losses(params, jnp.asarray(images[order]), key, config), np.float64)
    return found / rounds


def held_out_loss(params: Params, config: Config) -> tuple[float, float]:
    """Mean over the held-out digits of their losses, and its standard error over them."""
    losses = image_losses(params, config, digits.held_out().images)
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(len(losses)))


# --- against the UNets that are shipped -----------------------------------------------------------------------------


def tolerance() -> float:
    """How far a loss may lie from the mean of the shipped seeds: 99.9 % of new seeds lie within it.

    ``t s sqrt(1 + 1/n)`` with the standard deviation s over the n seeds, whose n - 1 degrees of freedom Student's t
    has.
    """
    from scipy.stats import t

    losses = shipped_losses()
    number = len(losses)
    return float(t.ppf(0.9995, number - 1) * losses.std(ddof=1) * np.sqrt(1 + 1 / number))


def shipped_losses() -> np.ndarray:
    """Held-out losses of the shipped seeds; on the same images and noise, they differ by the training alone."""
    return np.array([trained_digits.load(name).metadata["loss"] for name in trained_digits.names()])
