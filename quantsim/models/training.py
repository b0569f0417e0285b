"""Training of the language model from beginning to end: it goes on where it stopped, and says what it reached."""

from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim.models import likelihood, llama, resuming, steps, text, trained
from quantsim.models.llama import Config, Params, Tokens
from quantsim.models.resuming import Report
from quantsim.models.steps import Recipe

_HEAD = 32  # width of a head, a block of the formats that people use


def recipe_of(width: int, seed: int = 0) -> Recipe:
    """The training of a model that is shipped: only width and seed differ between them.

    Raises:
        ValueError: for a width that is no multiple of 32.

    >>> recipe_of(64).config.hidden, recipe_of(96).config.kv_heads
    (192, 1)
    """
    if width < _HEAD or width % _HEAD:
        raise ValueError(f"the width of a model is a multiple of {_HEAD}, the width of its heads, got {width}")
    heads = width // _HEAD
    kv_heads = max(n for n in range(1, max(2, heads // 2 + 1)) if heads % n == 0)
    return Recipe(seed=seed, config=Config(width=width, heads=heads, kv_heads=kv_heads, hidden=3 * width))


def train(
    recipe: Recipe, folder: Path | None = None, *, data: np.ndarray | None = None, report: Report | None = None
) -> Params:
    """Parameters after the last step; with a folder, the training goes on from what is kept there.

    Args:
        recipe: what to train, and how.
        folder: where the state is kept, every 50 steps and after the last.
        data: bytes to train on, uint8; the text of ``text.training_bytes`` by default.
        report: told how far it is, after every step.

    Raises:
        ValueError: if the folder keeps another training, or the data are shorter than a sequence.
        FloatingPointError: if the loss is no longer finite.
    """
    data = text.training_bytes() if data is None else data
    if len(data) <= recipe.config.context:
        raise ValueError(f"{len(data)} bytes hold no sequence of {recipe.config.context} tokens and the next one")
    identity = asdict(recipe) | {"text": sha256(data.tobytes()).hexdigest()}
    first, on_device = steps.start(recipe), jnp.asarray(data)
    state = resuming.run(
        first if folder is None else resuming.restore(folder, first, identity),
        lambda state: steps.step(state, on_device, recipe),
        recipe=recipe,
        keep=None if folder is None else lambda state: resuming.keep(folder, state, identity),
        report=report,
    )
    return state.params


# --- what came of it ------------------------------------------------------------------------------------------------


def save(params: Params, recipe: Recipe, path: Path) -> trained.Model:
    """Write a trained model as a checkpoint of bfloat16, with its held-out loss before and after, and read it back."""
    loss = held_out_loss(params, recipe.config)
    after = held_out_loss(trained.rounded(params), recipe.config)
    about = {name: getattr(recipe, name) for name in ("seed", "steps", "batch", "rate")}
    about |= {"loss": after[0], "loss_se": after[1], "loss_before": loss[0], "loss_before_se": loss[1]}
    trained.write(params, recipe.config, path, about | {"text": text.digest()})
    return trained.read(path)


@partial(jax.jit, static_argnames="config")
def _mean_losses(params: Params, tokens: Tokens, config: Config) -> Float[Array, " batch"]:
    return jnp.mean(likelihood.nll(llama.forward(params, tokens[:, :-1], config), tokens[:, 1:]), axis=1)


def sequence_losses(params: Params, config: Config, sequences: np.ndarray, *, batch: int = 16) -> np.ndarray:
    """Mean loss of each sequence (number, length), in nats per byte, so many sequences at a time."""
    filled = np.concatenate([sequences, np.repeat(sequences[-1:], -len(sequences) % batch, axis=0)])
    pieces = filled.reshape(-1, batch, filled.shape[1])
    losses = np.concatenate([_mean_losses(params, jnp.asarray(piece), config) for piece in pieces])
    return losses[: len(sequences)].astype(np.float64)


def held_out_loss(params: Params, config: Config) -> tuple[float, float]:
    """Mean loss of the held-out sequences in the model's context, and its standard error over them, nats per byte."""
    losses = sequence_losses(params, config, text.held_out(config.context))
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(len(losses)))


# --- against the models that are shipped ----------------------------------------------------------------------------


def tolerance(width: int) -> float:
    """How far a loss may lie from the mean of the shipped seeds of its width, in nats per byte.

    ``t s sqrt(1 + 1/n)``: 99.9 % of new seeds lie within it. The standard deviation s over the seeds is pooled over the
    widths, whose degrees of freedom Student's t has; n is the number of seeds of this width.
    """
    from scipy.stats import t

    groups = [losses for losses in map(shipped_losses, _widths()) if len(losses) > 1]
    freedom = sum(len(losses) - 1 for losses in groups)
    s = np.sqrt(sum(((losses - losses.mean()) ** 2).sum() for losses in groups) / freedom)
    return float(t.ppf(0.9995, freedom) * s * np.sqrt(1 + 1 / len(shipped_losses(width))))


def shipped_losses(width: int) -> np.ndarray:
    """Held-out losses of the shipped seeds of a width, measured anew where this Python carries another text."""
    models = [model for model in map(trained.load, trained.names()) if model.config.width == width]
    now = text.digest()
    return np.array(
        [m.metadata["loss"] if m.metadata["text"] == now else held_out_loss(m.params, m.config)[0] for m in models]
    )


def _widths() -> list[int]:
    return sorted({trained.load(name).config.width for name in trained.names()})
