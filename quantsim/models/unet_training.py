"""Training of the diffusion UNet from beginning to end: it goes on where it stopped, and says what it reached."""

from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import PRNGKey
from quantsim.models import digits, resuming, trained, trained_digits, unet_steps
from quantsim.models.resuming import Report
from quantsim.models.unet import Config, Images, Params
from quantsim.models.unet_steps import Recipe

_ROUNDS = 16  # draws of time and noise for each held-out image


def recipe_of(seed: int = 0) -> Recipe:
    """The training of a UNet that is shipped: only the seed differs between them."""
    return Recipe(seed=seed)


def train(
    recipe: Recipe, folder: Path | None = None, *, data: np.ndarray | None = None, report: Report | None = None
) -> Params:
    """Parameters after the last step; with a folder, the training goes on from what is kept there.

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
    first, on_device = unet_steps.start(recipe), jnp.asarray(data)
    state = resuming.run(
        first if folder is None else resuming.restore(folder, first, identity),
        lambda state: unet_steps.step(state, on_device, recipe),
        recipe=recipe,
        keep=None if folder is None else lambda state: resuming.keep(folder, state, identity),
        report=report,
    )
    return state.params


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
