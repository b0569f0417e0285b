"""A diffusion UNet over small images: pure functions of a flat dictionary of arrays, named as diffusers names them.

Residual blocks ``shortcut(x) + F(x)`` with the time added in their middle; self-attention at low resolutions; a skip
from each level of the way down, concatenated to the channels of the same level of the way up. An upsampler is a
pointwise convolution, the nearest pixel, and a 3x3 convolution, with nothing nonlinear between. Images are (batch,
height, width, channels); a weight matrix is (out, in), ``y = x wᵀ``.

Source: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (2020), appendix B.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from quantsim.models.layers import Product, linear
from quantsim.models.sampling_plans import time_of
from quantsim.models.unet_config import Config, Params, check, init, matrices, shapes

__all__ = ["Config", "Hooks", "Params", "check", "forward", "init", "matrices", "patches", "predictor", "shapes"]

Images: TypeAlias = Float[Array, "batch height width channels"]
#: Activations: pixels of some resolution, and channels.
Maps: TypeAlias = Float[Array, "batch _ _ _"]
Embedded: TypeAlias = Float[Array, "batch time"]
#: (name of the block that made it, activations (batch, height, width, channels)) -> what is concatenated instead.
Skip: TypeAlias = Callable[[str, Array], Array]

_PERIODS = 10_000.0  # longest wavelength of the embedding, in thousandths of the time
_FEW_PIXELS = 4  # up to so many, XLA's convolution on a CPU takes ten times as long as the product of patches


def unchanged(name: str, array: Array) -> Array:
    """The skip as it is."""
    del name
    return array


@dataclass(frozen=True)
class Hooks:
    """What a forward pass asks others for.

    Attributes:
        product: of every linear layer, called with its name, its inputs (..., in) and its entry of the parameters. A
            pointwise convolution is a linear layer. A 3x3 convolution is one on ``patches`` (..., in 9) if its entry is
            no plain array; a plain array, kernel or matrix, is convolved directly.
        skip: called with the name of a block, "down_blocks.0", and the activations that it hands over, before they are
            concatenated.
        unfolded: whether convolutions of plain arrays go through ``product`` too, so that it sees their inputs.
    """

    product: Product = linear
    skip: Skip = unchanged
    unfolded: bool = False


PLAIN = Hooks()


def forward(
    params: dict[str, Any], x: Images, t: Float[Array, "*batch"], config: Config, *, hooks: Hooks = PLAIN
) -> Images:
    """The noise predicted for noisy images, in the type of the parameters.

    Args:
        params: arrays of ``shapes(config)``, or of ``matrices`` of them, some in the hands of ``hooks.product``.
        x: noisy images, (batch, size, size, image).
        t: time in [0, 1], 0 of clean images, of each image or of all of them: (batch,) or ().
        config: sizes.
        hooks: what happens in linear layers and on skips.

    Raises:
        ValueError: for images of another shape.

    >>> config = Config(channels=(8, 16))
    >>> params = jax.eval_shape(lambda key: init(key, config), jax.random.key(0))
    >>> jax.eval_shape(lambda p, x, t: forward(p, x, t, config), params, jnp.ones((2, 8, 8, 1)), jnp.ones(2)).shape
    (2, 8, 8, 1)
    """
    if x.shape[1:] != (config.size, config.size, config.image):
        wanted = f"(batch, {config.size}, {config.size}, {config.image})"
        raise ValueError(f"images {x.shape} are not what this UNet takes: give them as {wanted}")
    if missing := [name for name in shapes(config) if name not in params]:
        raise ValueError(f"parameters lack {missing[0]} and perhaps others: check(params, config) says which")
    net = _Pass(params, config, hooks)
    time = net.embedded(jnp.broadcast_to(t, x.shape[:1]).astype(x.dtype))
    h, skips = net.down(net.conv("conv_in", x), time)
    h = net.up(net.middle(h, time), skips, time)
    return net.conv("conv_out", jax.nn.silu(net.norm("conv_norm_out", h)))


def predictor(
    params: dict[str, Any], config: Config, *, hooks: Hooks = PLAIN
) -> Callable[[Images, Float[Array, ""]], Images]:
    """The network as samplers ask for it, (x, signal share) -> noise; the time is that of the cosine schedule."""
    return lambda x, share: forward(params, x, time_of(share).astype(x.dtype), config, hooks=hooks)


def patches(x: Maps, *, stride: int = 1) -> Maps:
    """What each output of a 3x3 convolution reads, zeros beyond the edge, in the order of a kernel (in, 3, 3).

    >>> found = patches(jnp.arange(4.0).reshape(1, 2, 2, 1))
    >>> found[0, 0, 0].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 3.0]
    """
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.stack(shifted, axis=-1).reshape(batch, height // stride, width // stride, channels * 9)


@dataclass(frozen=True)
class _Pass:
    """One forward pass."""

    params: dict[str, Any]
    config: Config
    hooks: Hooks

    # --- layers -----------------------------------------------------------------------------------------------------

    def linear(self, name: str, x: Array) -> Array:
        """Of a matrix or a pointwise kernel."""
        w = self.params[name]
        if isinstance(w, Array) and w.ndim == 4:
            w = w.reshape(w.shape[0], -1)
        return self._biased(name, self.hooks.product(name, x, w))

    def conv(self, name: str, x: Maps, stride: int = 1) -> Maps:
        """Of a 3x3 kernel, directly or as the product of patches."""
        w = self.params[name]
        if not isinstance(w, Array) or self.hooks.unfolded:
            w = w.reshape(w.shape[0], -1) if isinstance(w, Array) else w
            return self._biased(name, self.hooks.product(name, patches(x, stride=stride), w))
        return self._biased(name, _convolved(x, w, stride))

    def _biased(self, name: str, y: Array) -> Array:
        return y + jnp.broadcast_to(self.params[f"{name}.bias"], y.shape)

    def norm(self, name: str, x: Maps) -> Maps:
        """GroupNorm: mean 0 and variance 1 over the pixels and channels of a group, then a gain and a bias."""
        grouped = x.reshape(*x.shape[:3], self.config.groups, -1)
        centred = grouped - jnp.mean(grouped, axis=(1, 2, 4), keepdims=True)
        scale = lax.rsqrt(jnp.mean(centred * centred, axis=(1, 2, 4), keepdims=True) + self.config.epsilon)
        gain = jnp.broadcast_to(self.params[name], x.shape)
        return self._biased(name, (centred * scale).reshape(x.shape) * gain)

    def resnet(self, at: str, x: Maps, time: Embedded) -> Maps:
        """``shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))``."""
        h = self.conv(f"{at}.conv1", jax.nn.silu(self.norm(f"{at}.norm1", x)))
        moved = self.linear(f"{at}.time_emb_proj", jax.nn.silu(time))
        h = h + jnp.broadcast_to(moved[:, None, None], h.shape)
        h = self.conv(f"{at}.conv2", jax.nn.silu(self.norm(f"{at}.norm2", h)))
        shortcut = f"{at}.conv_shortcut"
        return h + (self.linear(shortcut, x) if shortcut in self.params else x)

    def attention(self, at: str, x: Maps) -> Maps:
        """``x + out(softmax(q kᵀ / sqrt(head)) v)`` over the pixels of the normed x."""
        h = self.norm(f"{at}.group_norm", x)
        q, k, v = (self._heads(self.linear(f"{at}.{name}", h)) for name in ("to_q", "to_k", "to_v"))
        scores = jnp.einsum("bthd,bshd->bhts", q, k, precision=lax.Precision.HIGHEST)
        p = jax.nn.softmax(scores / np.sqrt(q.shape[-1]).astype(x.dtype), axis=-1)
        mixed = jnp.einsum("bhts,bshd->bthd", p, v, precision=lax.Precision.HIGHEST)
        return x + self.linear(f"{at}.to_out", mixed.reshape(x.shape))

    def _heads(self, x: Maps) -> Array:
        batch, height, width, channels = x.shape
        return x.reshape(batch, height * width, self.config.heads, channels // self.config.heads)

    # --- the network ------------------------------------------------------------------------------------------------

    def embedded(self, t: Float[Array, " batch"]) -> Embedded:
        """Cosines and sines of the time, through two layers."""
        half = self.config.channels[0] // 2
        rates = jnp.asarray(1000 * _PERIODS ** (-np.arange(half) / half), t.dtype)
        angles = t[:, None] * rates[None]
        h = self.linear("time_embedding.linear_1", jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1))
        return self.linear("time_embedding.linear_2", jax.nn.silu(h))

    def down(self, h: Maps, time: Embedded) -> tuple[Maps, list[Maps]]:
        """The lowest resolution, and the skip of every level."""
        skips = []
        for level in range(self.config.levels):
            at = f"down_blocks.{level}"
            h = self._block(at, h, time, attends=level in self.config.attention)
            skips.append(self.hooks.skip(at, h))
            if level < self.config.levels - 1:
                h = self.conv(f"{at}.downsamplers.0.conv", h, stride=2)
        return h, skips

    def middle(self, h: Maps, time: Embedded) -> Maps:
        """The block at the lowest resolution."""
        return self._block("mid_block", h, time, attends=True)

    def up(self, h: Maps, skips: list[Maps], time: Embedded) -> Maps:
        """The full resolution again."""
        for block, level in enumerate(reversed(range(self.config.levels))):
            at = f"up_blocks.{block}"
            h = jnp.concatenate([h, skips[level]], axis=-1)
            h = self._block(at, h, time, attends=level in self.config.attention)
            if level:
                h = self.linear(f"{at}.upsamplers.0.proj", h)
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
                h = self.conv(f"{at}.upsamplers.0.conv", h)
        return h

    def _block(self, at: str, h: Maps, time: Embedded, *, attends: bool) -> Maps:
        h = self.resnet(f"{at}.resnets.0", h, time)
        return self.attention(f"{at}.attentions.0", h) if attends else h


def _convolved(x: Maps, w: Array, stride: int) -> Maps:
    if x.shape[1] * x.shape[2] <= _FEW_PIXELS * stride**2:
        return linear("", patches(x, stride=stride), w.reshape(w.shape[0], -1))
    kernels = w.reshape(w.shape[0], -1, 3, 3)
    order = ("NHWC", "OIHW", "NHWC")
    return lax.conv_general_dilated(
        x, kernels, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=order, precision=lax.Precision.HIGHEST
    )
