"""A language model and a UNet judged alike: the same columns, in the same units, for both.

``output_error`` is relative, of one call; ``nats`` are per byte or per pixel of what is generated, ``coarse_nats`` only
until the noise is half a grey level, ``call_nats`` those of one call, three names of one number for a byte, which is
one call; ``increase`` is that of the held-out loss, over the loss. Standard errors are over sequences, or over digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array

from quantsim.measure.ratios import columns, mean, root_ratio

from . import _denoising as denoising
from . import _language as language
from . import _rows
from . import _unet as unets

LANGUAGE, UNET = "language model", "UNet"
GGUF = "q8_0"

Columns: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Extent:
    """How much text, how many digits at how many noise levels, and how many images are generated."""

    sequences: int
    digits: int
    levels: int
    samples: int
    seed: int


def params_of(network: str, model: str) -> dict[str, Array]:
    """The parameters of a model, its kernels as matrices."""
    return language.subject(model, 1).params if network == LANGUAGE else unets.subject(model, 1).params


def matrices(params: dict[str, Array]) -> dict[str, Array]:
    """The weights of both."""
    return {name: w for name, w in params.items() if w.ndim == 2}


def part_of(name: str) -> str:
    """Where in its network a matrix is: first, last, time, or a layer.

    >>> [part_of(name) for name in ("conv_in", "output", "time_embedding.linear_1", "blk.0.attn_q")]
    ['first', 'last', 'time', 'layers']
    """
    ends = {"token_embd": "first", "conv_in": "first", "output": "last", "conv_out": "last", "time_embedding": "time"}
    return ends.get(name.split(".")[0], "layers")


def quantized(network: str, model: str, spec: str) -> tuple[dict[str, Array], float]:
    """All matrices of a model in a format, and its bits per weight."""
    params = params_of(network, model)
    if spec == GGUF and network == UNET:  # what its blocks do not fill is f16
        found = unets.quantized(unets.subject(model, 1), spec)
        return found.params, found.bits_per_weight
    weights = matrices(params)
    return params | _rows.roundtrip(spec, weights), _rows.bits(spec, weights)


def judge_of(network: str, model: str, extent: Extent) -> Callable[[Any], Columns]:
    """What tells how far other parameters are from those of a model."""
    if network == LANGUAGE:
        return partial(of_language, language.subject(model, extent.sequences))
    return partial(of_unet, unets.subject(model, extent.samples, extent.seed), extent)


def of_language(of: language.Subject, params: Any) -> Columns:
    """Errors of the logits, KL in nats per byte, and the loss."""
    logits = language.predictions(params, of.tokens, of.config)
    found, loss = language.moved(of, logits), language.loss(of)
    exact = centred(of.logits)
    error = centred(logits) - exact
    output_error = root_ratio((error**2).sum(axis=(1, 2)), (exact**2).sum(axis=(1, 2)))
    increase = mean(found.nll).times(1 / loss.value)
    kl = mean(found.kl)
    nats = columns(nats=kl, coarse_nats=kl, call_nats=kl)
    return nats | columns(output_error=output_error, increase=increase, loss=loss)


def centred(logits: Any) -> np.ndarray:
    """Logits less their mean over the vocabulary, which no softmax sees.

    >>> centred([[1.0, 2.0, 6.0]]).tolist()
    [[-2.0, -1.0, 3.0]]
    """
    z = np.asarray(logits, np.float64)
    return z - z.mean(axis=-1, keepdims=True)


def of_unet(of: unets.Subject, extent: Extent, params: Any) -> Columns:
    """Errors of the predicted noise, nats per pixel of what is generated and of one call, and the loss."""
    found = denoising.denoised(of, params, extent.digits, extent.levels)
    moved, power, before = (denoising.over_times(a) for a in (found.moved, found.power, found.before))
    return columns(
        output_error=root_ratio(moved, power),
        nats=mean(denoising.nats(found.moved)),
        coarse_nats=mean(denoising.nats(found.moved, until=denoising.HALF_A_LEVEL)),
        call_nats=mean(denoising.nats_of_a_call(found)),
        increase=denoising.relative_increase(found),
        loss=mean(before),
        bound=mean(denoising.nats(found.before)),
    )


def images(network: str, model: str, extent: Extent, params: Any) -> Columns:
    """How far the images of a UNet move in 20 steps; a language model has none."""
    if network == LANGUAGE:
        return {}
    of = unets.subject(model, extent.samples, extent.seed)
    exact = unets.unquantized(model, extent.samples, seed=extent.seed)
    return unets.moved(exact, unets.images(of, params)).columns()
