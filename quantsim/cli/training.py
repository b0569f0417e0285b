"""Commands that train: a model from scratch, held against those that are shipped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quantsim.cli import terminal
from quantsim.cli.endings import CheckFailedError

_OUT = Path("trained")


def train(
    model: tyro.conf.Positional[Literal["lm", "unet"]],
    seed: int = 0,
    width: int | None = None,
    steps: int | None = None,
    out: Path = _OUT,
) -> None:
    """Train a model from scratch and compare its loss with the shipped ones; interrupted, the same command goes on.

    Args:
        model: lm, the language model of bytes, or unet, the diffusion model of handwritten digits.
        seed: of the first weights and the batches.
        width: of lm, a multiple of 32, 128 by default; 32, 64 and 128 are shipped.
        steps: number of steps; with another than the default, nothing is compared.
        out: folder of the checkpoint, and of the state to go on from.
    """
    if model == "unet":
        if width is not None:
            raise ValueError("the UNet has one width: leave --width out")
        _train_unet(seed, steps, out)
    else:
        _train_lm(seed, 128 if width is None else width, steps, out)


def _train_lm(seed: int, width: int, steps: int | None, out: Path) -> None:
    from quantsim.models import trained, training  # with the optimizer, which is slow to import

    usual = training.recipe_of(width, seed)
    recipe = usual if steps is None else replace(usual, steps=steps)
    name = trained.name_of(width, seed)
    with _progress(name, "nats per byte") as report:
        params = training.train(recipe, out / name, report=report)
    path = out / f"{name}.safetensors"
    about = training.save(params, recipe, path).metadata
    _tell(name, about, path, unit="nats per byte")
    if recipe != usual:
        terminal.say(f"no comparison: the shipped models took {usual.steps} steps, this one {recipe.steps}")
        return
    losses = training.shipped_losses(width)
    if not len(losses):
        terminal.say(f"no comparison: no model of width {width} is shipped")
        return
    _compare(about["loss"], losses, training.tolerance(width))


def _train_unet(seed: int, steps: int | None, out: Path) -> None:
    from quantsim.models import trained_digits, unet_training

    usual = unet_training.recipe_of(seed)
    recipe = usual if steps is None else replace(usual, steps=steps)
    name = trained_digits.name_of(seed)
    with _progress(name, "of noise of 1") as report:
        params = unet_training.train(recipe, out / name, report=report)
    path = out / f"{name}.safetensors"
    about = unet_training.save(params, recipe, path).metadata
    _tell(name, about, path, unit="squared error of noise of 1")
    if recipe != usual:
        terminal.say(f"no comparison: the shipped models took {usual.steps} steps, this one {recipe.steps}")
        return
    _compare(about["loss"], unet_training.shipped_losses(), unet_training.tolerance())


def _tell(name: str, about: dict[str, Any], path: Path, *, unit: str) -> None:
    print(f"{name}: {about['steps']} steps, held-out loss {_loss(about, 'loss_before')} {unit}", flush=True)
    print(f"as bfloat16: {_loss(about, 'loss')} -> {path}", flush=True)


def _loss(about: dict[str, Any], name: str) -> str:
    return f"{about[name]:.4f} ± {about[name + '_se']:.4f}"


def _compare(loss: float, shipped: np.ndarray, most: float) -> None:
    off = loss - shipped.mean()
    print(f"shipped: {', '.join(f'{x:.4f}' for x in shipped)}; {off:+.4f} of their mean, tolerance {most:.4f}")
    if abs(off) > most:
        raise CheckFailedError(f"a loss of {loss:.4f} is not that of the shipped models: it is {off:+.4f} off")


@contextmanager
def _progress(name: str, unit: str) -> Iterator[Callable[[int, int, float], None]]:
    """A bar on stderr with the loss, for (steps done, of all, loss)."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, loss="")

        def report(done: int, total: int, loss: float) -> None:
            bar.update(task, completed=done, total=total, loss=f"{loss:.3f} {unit}")

        yield report
