"""Trained language models, shipped as checkpoints of bfloat16 by halves, with what they reached."""

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from quantsim.models import checkpoint_files, llama
from quantsim.models.llama import Config, Params
from quantsim.models.trained.digests import SHA256

FOLDER = Path(__file__).parent


class Model(NamedTuple):
    """A trained model.

    Attributes:
        params: its arrays, float32 holding bfloat16 values.
        config: its sizes.
        metadata: seed, steps, batch and rate of the training; ``loss`` and ``loss_se``, held-out nats per byte of these
            bfloat16 weights and its standard error over the sequences; ``loss_before`` and its ``_se``, of the float32
            weights before they were rounded; ``text``, the SHA-256 of the text; ``python``, the version it comes from.
    """

    params: Params
    config: Config
    metadata: dict[str, Any]


def name_of(width: int, seed: int) -> str:
    """Name of a model.

    >>> name_of(128, 0)
    'lm-w128-s0'
    """
    return f"lm-w{width}-s{seed}"


def names() -> tuple[str, ...]:
    """Every model that is shipped, by width and seed."""
    return tuple(SHA256)


def load(name: str) -> Model:
    """A model that is shipped, by its name.

    Raises:
        ValueError: for an unknown name, and a file that is missing or not the one that was shipped.

    >>> params, config, metadata = load("lm-w128-s0")
    >>> config.width, params["output_norm"].dtype.name, 0 < metadata["loss_se"] < 0.1
    (128, 'float32', True)
    """
    return _model(*checkpoint_files.arrays_of(shipped(name)), name)


def shipped(name: str) -> bytes:
    """The safetensors file of a model, to be written where another program reads it.

    Raises:
        ValueError: for an unknown name, and a file that is missing or not the one that was shipped.
    """
    if name not in SHA256:
        raise ValueError(f"no trained model {name!r}: there are {', '.join(names())}")
    return checkpoint_files.shipped(FOLDER / f"{name}.halves", SHA256[name])


def read(path: Path) -> Model:
    """A model from a file that ``write`` made.

    Raises:
        ValueError: for a file that is damaged, or was not written by ``write``.
    """
    return _model(*checkpoint_files.read(path), path)


def _model(arrays: dict[str, np.ndarray], metadata: dict[str, Any], where: Path | str) -> Model:
    if "config" not in metadata:
        raise ValueError(f"{where}: no metadata of a trained model; `quantsim train lm` writes files that have them")
    config = Config(**metadata.pop("config"))
    params = {name: jnp.asarray(a.astype(np.float32)) for name, a in arrays.items()}
    llama.check(params, config)
    return Model({name: params[name] for name in llama.shapes(config)}, config, metadata)


def write(params: Params, config: Config, path: Path, metadata: dict[str, Any]) -> None:
    """A model as safetensors, its arrays rounded to bfloat16, each entry of the metadata as JSON."""
    about = {"config": asdict(config), **metadata, "python": platform.python_version()}
    arrays = {name: np.asarray(w).astype(checkpoint_files.BFLOAT16) for name, w in params.items()}
    checkpoint_files.write(path, arrays, about)


def rounded(params: Params) -> Params:
    """The parameters that a checkpoint keeps: to the nearest bfloat16, as float32."""
    return {name: w.astype(jnp.bfloat16).astype(jnp.float32) for name, w in params.items()}
