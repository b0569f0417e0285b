"""Sizes and parameters of the diffusion UNet: what arrays there are, their first values, and their matrices.

Names are those of the diffusers library, without ".weight". The kernels of a convolution are (out, in, 3, 3), or
(out, in, 1, 1) of a pointwise one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from quantsim._types import PRNGKey, Shape

#: Arrays by their names in a checkpoint, without ".weight".
Params: TypeAlias = dict[str, Array]

#: Layers that write into the residual stream, or out of the network: they begin at zero.
_ZERO_AT_FIRST = ("conv2", "to_out", "conv_out")


@dataclass(frozen=True)
class Config:
    """Sizes of a UNet.

    Attributes:
        size: pixels along a side of an image.
        image: channels of an image.
        channels: of each level, from the full resolution down; each level has half the resolution of the one before.
        attention: levels that attend, counted from 0; the middle always does.
        time: width of the embedding of the time.
        groups: of GroupNorm.
        heads: of attention; they share the channels.
        epsilon: of GroupNorm.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    size: int = 8
    image: int = 1
    channels: tuple[int, ...] = (32, 32, 64)
    attention: tuple[int, ...] = (1,)
    time: int = 64
    groups: int = 8
    heads: int = 4
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        sizes |= {f"channels of level {level}": number for level, number in enumerate(self.channels)}
        if wrong := [f"{name} {value}" for name, value in sizes.items() if value < 1]:
            raise ValueError(f"the sizes of a UNet are at least 1, got {', '.join(wrong)}")
        if not self.channels:
            raise ValueError("a UNet has at least one level: channels=(32,)")
        if self.size % 2 ** (self.levels - 1):
            raise ValueError(f"images of {self.size} pixels a side cannot be halved {self.levels - 1} times")
        if wrong := [number for number in self.channels if number % self.groups or number % self.heads]:
            raise ValueError(f"{wrong[0]} channels do not make {self.groups} groups and {self.heads} heads evenly")
        if self.channels[0] % 2:
            raise ValueError(f"sines and cosines of the time fill an even width, not {self.channels[0]} channels")
        if wrong := [level for level in self.attention if level not in range(self.levels)]:
            raise ValueError(f"there is no level {wrong[0]} to attend: levels are 0 to {self.levels - 1}")

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.channels)


def shapes(config: Config) -> dict[str, Shape]:
    """Name and shape of every array, in the order of a checkpoint.

    >>> found = shapes(Config())
    >>> found["up_blocks.0.resnets.0.conv1"], found["up_blocks.0.resnets.0.conv1.bias"]
    ((32, 128, 3, 3), (32,))
    >>> sum(map(math.prod, found.values()))
    369761
    """
    first, last = config.channels[0], config.channels[-1]
    found = _layer("conv_in", (first, config.image, 3, 3))
    found |= _layer("time_embedding.linear_1", (config.time, first))
    found |= _layer("time_embedding.linear_2", (config.time, config.time))
    found |= _down_shapes(config)
    found |= _resnet("mid_block.resnets.0", last, last, config.time) | _attention("mid_block.attentions.0", last)
    found |= _up_shapes(config)
    return found | _norm("conv_norm_out", first) | _layer("conv_out", (config.image, first, 3, 3))


def _down_shapes(config: Config) -> dict[str, Shape]:
    found, before = {}, config.channels[0]
    for level, number in enumerate(config.channels):
        at = f"down_blocks.{level}."
        found |= _resnet(at + "resnets.0", before, number, config.time)
        if level in config.attention:
            found |= _attention(at + "attentions.0", number)
        if level < config.levels - 1:
            found |= _layer(at + "downsamplers.0.conv", (number, number, 3, 3))
        before = number
    return found


def _up_shapes(config: Config) -> dict[str, Shape]:
    """Each block narrows to the channels of the level that it goes up to."""
    found, before = {}, config.channels[-1]
    for block, level in enumerate(reversed(range(config.levels))):
        at, number = f"up_blocks.{block}.", config.channels[max(level - 1, 0)]
        found |= _resnet(at + "resnets.0", before + config.channels[level], number, config.time)
        if level in config.attention:
            found |= _attention(at + "attentions.0", number)
        if level:
            found |= _layer(at + "upsamplers.0.proj", (number, number, 1, 1))
            found |= _layer(at + "upsamplers.0.conv", (number, number, 3, 3))
        before = number
    return found


def _layer(name: str, shape: Shape) -> dict[str, Shape]:
    return {name: shape, f"{name}.bias": shape[:1]}


def _norm(name: str, channels: int) -> dict[str, Shape]:
    return _layer(name, (channels,))


def _resnet(at: str, inputs: int, outputs: int, time: int) -> dict[str, Shape]:
    found = _norm(f"{at}.norm1", inputs) | _layer(f"{at}.conv1", (outputs, inputs, 3, 3))
    found |= _layer(f"{at}.time_emb_proj", (outputs, time))
    found |= _norm(f"{at}.norm2", outputs) | _layer(f"{at}.conv2", (outputs, outputs, 3, 3))
    return found | ({} if inputs == outputs else _layer(f"{at}.conv_shortcut", (outputs, inputs, 1, 1)))


def _attention(at: str, channels: int) -> dict[str, Shape]:
    found = _norm(f"{at}.group_norm", channels)
    for name in ("to_q", "to_k", "to_v", "to_out"):
        found |= _layer(f"{at}.{name}", (channels, channels))
    return found


# --- parameters -----------------------------------------------------------------------------------------------------


def init(key: PRNGKey, config: Config) -> Params:
    """Normal weights of deviation 1 / sqrt(fan-in), zeros where a residual branch or the network ends, unit gains.

    Source: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (2020), whose branches begin near zero.
    """
    wanted = shapes(config)
    drawn = {name: shape for name, shape in wanted.items() if len(shape) > 1 and not name.endswith(_ZERO_AT_FIRST)}
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(drawn)))
    # one program for all: a draw of another length has the same elements
    draws = jax.vmap(partial(jax.random.normal, shape=(max(map(math.prod, drawn.values())),)))(keys)
    params = {}
    for name, shape in wanted.items():
        gain = name.split(".")[-1] in ("norm1", "norm2", "group_norm", "conv_norm_out")
        params[name] = jnp.ones(shape, draws.dtype) if gain else jnp.zeros(shape, draws.dtype)
    for (name, shape), numbers in zip(drawn.items(), draws, strict=True):
        params[name] = numbers[: math.prod(shape)].reshape(shape) / math.sqrt(math.prod(shape[1:]))
    return params


def check(params: Mapping[str, Array], config: Config) -> None:
    """That these are the parameters of such a UNet, with kernels as they are or as matrices.

    Raises:
        ValueError: for missing or unknown names, other shapes, and a NaN or infinity.
    """
    wanted = shapes(config)
    if missing := [name for name in wanted if name not in params]:
        raise ValueError(f"parameters lack {_some(missing)}: a UNet of {config.levels} levels has them")
    if unknown := [name for name in params if name not in wanted]:
        raise ValueError(f"parameters hold {_some(unknown)}, which this UNet of {config.levels} levels has not")
    for name, shape in wanted.items():
        if params[name].shape not in (shape, (shape[0], math.prod(shape[1:]))):
            raise ValueError(f"{name} has shape {params[name].shape}, the config asks for {shape}")
        if not np.isfinite(np.asarray(params[name], np.float64)).all():
            raise ValueError(f"{name} holds a NaN or an infinity: train or read it again")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def matrices(params: Mapping[str, Array]) -> Params:
    """The parameters with every weight as a matrix: kernels (out, in, kh, kw) become (out, in kh kw); vectors stay.

    >>> matrices({"conv_in": jnp.ones((4, 2, 3, 3)), "conv_in.bias": jnp.ones(4)})["conv_in"].shape
    (4, 18)
    """
    return {name: w if w.ndim < 3 else w.reshape(w.shape[0], -1) for name, w in params.items()}
