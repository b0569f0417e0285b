"""The inputs of linear layers in a language model and in a UNet: how far they stand out, and how their range moves.

Both networks are called on several inputs (sequences; images) at several steps (positions in the text; times of the
noise), so that what differs between inputs and what differs between steps can be told apart.
"""

from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import tree
from quantsim.models import digits, llama, text, trained, unet
from quantsim.models.layers import linear
from quantsim.models.unet import Hooks
from quantsim.quantizer import parse
from quantsim.quantizer.static import static

from . import _denoising as denoising
from . import _language as language
from . import _unet as unets
from ._matrices import spread

#: Inputs of a layer by its name, (steps, inputs, vectors of one call, in).
Sites: TypeAlias = dict[str, Float[np.ndarray, "steps inputs vectors in"]]

_TAPS = 9  # of a 3x3 kernel


# --- who sees what --------------------------------------------------------------------------------------------------


def of_language(name: str, number: int, *, held_out: bool) -> Sites:
    """Inputs of every layer of a language model, in so many sequences at as many positions."""
    params, config, _ = trained.load(name)
    length = config.context
    if held_out:
        found = text.held_out(length)[:, :length]
        tokens = found[np.linspace(0, len(found) - 1, number).round().astype(int)]
    else:
        data = text.training_bytes()
        starts = np.linspace(0, len(data) - length, number).astype(int)
        tokens = data[starts[:, None] + np.arange(length)]
    seen = _language_sites(params, jnp.asarray(tokens.astype(np.int32)), config)
    at = np.linspace(0, length - 1, number).round().astype(int)
    return {
        name: np.asarray(x).reshape(number, length, -1)[:, at].swapaxes(0, 1)[:, :, None] for name, x in seen.items()
    }


@partial(jax.jit, static_argnames="config")
def _language_sites(params: Any, tokens: Array, config: llama.Config) -> dict[str, Array]:
    return tree.site_inputs(lambda p, product: llama.forward(p, tokens, config, product=product), params)


def of_unet(name: str, number: int, *, held_out: bool) -> Sites:
    """Inputs of every layer of a UNet, of so many digits at as many times; those of a convolution once, no patches."""
    of = unets.subject(name, 1)
    clean = digits.held_out().images if held_out else digits.training().images
    x, t = unets.noisy_images(np.asarray(clean[:number], np.float64), denoising.times(number))
    seen = _unet_sites(of.params, x, t, of.config)
    return {name: np.asarray(x).reshape(number, number, -1, x.shape[-1]) for name, x in seen.items()}


@partial(jax.jit, static_argnames="config")
def _unet_sites(params: Any, x: Array, t: Array, config: unet.Config) -> dict[str, Array]:
    seen: dict[str, Array] = {}
    kernels = unets.kernels(config)

    def observing(name: str, x: Array, w: Array) -> Array:
        seen[name] = x[..., _TAPS // 2 :: _TAPS] if name in kernels else x
        return linear(name, x, w)

    unet.forward(params, x, t, config, hooks=Hooks(product=observing, unfolded=True))
    return seen


# --- what is said of them -------------------------------------------------------------------------------------------


def described(x: Float[np.ndarray, "steps inputs vectors in"], calibration: np.ndarray) -> dict[str, float]:
    """How far inputs stand out, how their range moves, and what int8 costs: one static scale, or one for each call."""
    largest = np.abs(x).max(axis=(2, 3))
    about = spread("x", x) | {"over_inputs": range_ratio(largest, 1), "over_steps": range_ratio(largest, 0)}
    calls, calibrated_on = (jnp.asarray(a.reshape(a.shape[0] * a.shape[1], -1)) for a in (x, calibration))
    fixed = static("int8:tensor", calibrated_on).roundtrip(calls)
    dynamic = parse("int8:channel").roundtrip(calls)
    about |= {"static": language.relative_error(calls, fixed), "dynamic": language.relative_error(calls, dynamic)}
    return about | {"clipped": float(np.mean(np.abs(x) > np.abs(calibration).max()))}


def range_ratio(largest: NDArray[Any], axis: int) -> float:
    """Of the largest magnitude at each place along an axis, whatever the other: its maximum over its minimum.

    >>> range_ratio(np.array([[1.0, 2.0], [8.0, 3.0]]), 0), range_ratio(np.array([[1.0, 2.0], [8.0, 3.0]]), 1)
    (4.0, 2.6666666666666665)
    """
    along = largest.max(axis=1 - axis)
    return float(along.max() / along.min())
