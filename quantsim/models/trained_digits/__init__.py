"""Models of the digits, shipped as checkpoints by halves with what they reached: diffusion UNets of three seeds."""

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from quantsim.models import checkpoint_files, unet
from quantsim.models.trained_digits.digests import SHA256
from quantsim.models.unet import Config, Params

FOLDER = Path(__file__).parent


class Model(NamedTuple):
    """A trained UNet.

    Attributes:
        params: its arrays, float32 holding bfloat16 values.
        config: its sizes.
        metadata: seed, steps, batch and rate of the training; ``loss`` and ``loss_se``, the held-out mean squared error
            of the predicted noise with these bfloat16 weights and its standard error over the images; ``loss_before``
            and its ``_se``, of the float32 weights before they were rounded; ``digits``, the SHA-256 of the images.
    """

    params: Params
    config: Config
    metadata: dict[str, Any]


def name_of(seed: int) -> str:
    """Name of a UNet.

    >>> name_of(0)
    'unet-s0'
    """
    return f"unet-s{seed}"


def names() -> tuple[str, ...]:
    """Every UNet that is shipped, by seed."""
    return tuple(name for name in SHA256 if name.startswith("unet-"))


def shipped(name: str) -> bytes:
    """The safetensors file of a model that is shipped.

    Raises:
        ValueError: for an unknown name, and a file that is missing or not the one that was shipped.
    """
    if name not in SHA256:
        raise ValueError(f"no trained model {name!r}: there are {', '.join(SHA256)}")
    return checkpoint_files.shipped(FOLDER / f"{name}.halves", SHA256[name])


def load(name: str) -> Model:
    """A UNet that is shipped, by its name.

    Raises:
        ValueError: for an unknown name, and a file that is missing or not the one that was shipped.

    >>> params, config, metadata = load("unet-s0")
    >>> config.channels, params["conv_in"].dtype.name, 0 < metadata["loss_se"] < 0.1
    ((32, 32, 64), 'float32', True)
    """
    return _model(*checkpoint_files.arrays_of(shipped(name)), name)


def read(path: Path) -> Model:
    """A UNet from a file that ``write`` made.

    Raises:
        ValueError: for a file that is damaged, or was not written by ``write``.
    """
    return _model(*checkpoint_files.read(path), path)


def _model(arrays: dict[str, np.ndarray], metadata: dict[str, Any], where: Path | str) -> Model:
    if "config" not in metadata:
        raise ValueError(f"{where}: no metadata of a trained UNet; `quantsim train unet` writes files that have them")
    sizes: dict[str, Any] = metadata.pop("config")
    for name in ("channels", "attention"):
        sizes[name] = tuple(sizes[name])
    config = Config(**sizes)
    params = {name: jnp.asarray(a.astype(np.float32)) for name, a in arrays.items()}
    unet.check(params, config)
    return Model({name: params[name] for name in unet.shapes(config)}, config, metadata)


def write(params: Params, config: Config, path: Path, metadata: dict[str, Any]) -> None:
    """A UNet as safetensors, its arrays rounded to bfloat16, each entry of the metadata as JSON."""
    about = {"config": asdict(config), **metadata, "python": platform.python_version()}
    arrays = {name: np.asarray(w).astype(checkpoint_files.BFLOAT16) for name, w in params.items()}
    checkpoint_files.write(path, arrays, about)
