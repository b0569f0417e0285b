"""A language model and a UNet judged alike: the same columns, in the same units, for both.

``output_error`` is relative, of one call; ``nats`` are per byte or per pixel of what is generated, ``coarse_nats`` only
until the noise is half a grey level, ``call_nats`` those of one call, three names of one number for a byte, which is
one call; ``increase`` is that of the held-out loss, over the loss. Standard errors are over sequences, or over digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array

from quantsim.measure.ratios import Estimate, columns, mean, root_ratio
from quantsim.rows import Rows

from . import _denoising as denoising
from . import _language as language
from . import _rows
from . import _unet as unets

LANGUAGE, UNET = "language model", "UNet"
GGUF = "q8_0"

SMALLEST = 0.01  # relative noise, at which S is read off
LARGE = 0.1  # at which the loss rises by more than chance moves it
ALL, FIRST = "all", "first"  # parts that noise is put in

Columns: TypeAlias = dict[str, float]


class Unit(NamedTuple):
    """A unit of damage: the power of the weights' error that it grows with, and the noise that networks share in it."""

    label: str
    power: int
    size: float


#: The units that A60 is decided in.
UNITS = {
    "output_error": Unit("output\nerror", 1, SMALLEST),
    "nats": Unit("nats per\nsymbol", 2, SMALLEST),
    "increase": Unit("loss over\nloss", 2, LARGE),
}
#: Other measures of the second: until the noise is half a grey level, and of one call.
OTHERS = {
    "coarse_nats": Unit("nats, noise\nnot fine", 2, SMALLEST),
    "call_nats": Unit("nats of\none call", 2, SMALLEST),
}


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


# --- sensitivity -----------------------------------------------------------------------------------------------------


def noisy(params: dict[str, Array], part: str, size: float, seed: int) -> dict[str, Array]:
    """Noise of one relative size in all matrices, or in those of a part."""
    names = [name for name in matrices(params) if part in (ALL, part_of(name))]
    return unets.noisy(params, dict.fromkeys(names, size), seed)


def sensitivity(noise: Rows, unit: str) -> Estimate:
    """Damage over the power of the noise that it grows with, mean over draws."""
    power = (UNITS | OTHERS)[unit].power
    return mean([r[unit] / r["size"] ** power for r in noise])


def times_as_sensitive(rows: Rows, unit: str) -> Estimate:
    """Sensitivity of the UNet over that of the language model in a unit, of means over trainings.

    Errors over trainings, independent ones: se = ratio sqrt((se_a / a)² + (se_b / b)²).
    """
    size = (UNITS | OTHERS)[unit].size
    found = []
    for network in (UNET, LANGUAGE):
        noise = rows.where(kind="noise", network=network, part=ALL, size=size)
        each = [sensitivity(of_model, unit).value for of_model in noise.groups("model").values()]
        found.append(language.over_trainings(each))
    (a, of_a), (b, of_b) = found
    return Estimate(a / b, float(abs(a / b) * np.hypot(of_a / a, of_b / b)))


def gains(model: str, extent: Extent, part: str, draws: int) -> list[Columns]:
    """At each noise level the error of the predicted noise over that of the weights, and what theory amplifies it by.

    ``sqrt(1 + (α² / σ²) E x₀²)``: an error of the noisy image x, relative to it, in units of its noise.
    """
    of, found = unets.subject(model, 1), []
    for draw in range(draws):
        params = noisy(of.params, part, SMALLEST, extent.seed + draw)
        found.append(denoising.denoised(of, params, extent.digits, extent.levels))
    moved, power = (np.array([getattr(one, name) for one in found]) for name in ("moved", "power"))
    clean = float(np.mean(unets.held_out(extent.digits) ** 2))
    rows = []
    for k, t in enumerate(denoising.times(extent.levels)):
        gain = root_ratio(moved[:, k].sum(axis=0), power[:, k].sum(axis=0)).times(1 / SMALLEST)
        amplified = float(np.sqrt(1 + np.exp(denoising.log_snr(t)) * clean))
        rows.append({"t": t, "amplified": amplified} | columns(gain=gain))
    return rows
