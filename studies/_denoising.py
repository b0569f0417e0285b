"""How well a UNet denoises held-out digits, quantized or not: its loss, and what it loses in nats per pixel.

A diffusion model generates by a stochastic process with one drift for each predicted noise. Two such processes differ,
by Girsanov's theorem, by the Kullback-Leibler divergence

    KL = 1/2 ∫ E ||ε̂' - ε̂||² dλ   nats an image,

λ = log(a / (1 - a)) the logarithmic signal-to-noise ratio; the images themselves by no more. So it is to an image what
the KL of each token, summed, is to a text, and KL over pixels stands beside KL over tokens. The same integral of
||ε̂ - ε||² is what the likelihood of an image is bounded with.

Source: Kingma et al., "Variational diffusion models" (2021), arXiv:2107.00630, eq. 18 (the integral, as a bound of the
likelihood); Song et al., "Maximum likelihood training of score-based diffusion models" (2021), arXiv:2101.09258,
theorem 1 (as a divergence); Ho, Jain and Abbeel (2020), arXiv:2006.11239, eq. 8 (each step as a Gaussian).
"""

from functools import cache
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from quantsim.measure.ratios import Estimate, mean
from quantsim.models.sampling_plans import share_of
from quantsim.models.unet import Params

from . import _unet as unets
from ._unet import Subject

LATEST = 0.97  # time of the noisiest sample, as the samplers have it
NEAREST = 1 / 64  # noise over signal of the last one: an eighth of a grey level of the digits, which rounding removes
HALF_A_LEVEL = (
    1 / 16
)  # the same of a noise that rounding just begins to remove, and nearly that of the last of 20 steps

F64: TypeAlias = NDArray[np.float64]
PerDigit: TypeAlias = NDArray[np.float64]


class Denoised(NamedTuple):
    """Mean squares over the pixels of each held-out digit at each time, (times, digits).

    Attributes:
        moved: ``|ε̂' - ε̂|²``, between two networks.
        before: ``|ε̂ - ε|²``, the loss of the first.
        after: ``|ε̂' - ε|²``, that of the second.
        power: ``|ε̂|²``.
    """

    moved: F64
    before: F64
    after: F64
    power: F64


def span() -> float:
    """Nats of log signal-to-noise ratio between the latest time and the last: 14.4."""
    return _ends()[1] - _ends()[0]


def _ends() -> tuple[float, float]:
    return float(log_snr(LATEST)), float(-2 * np.log(NEAREST))


def log_snr(t: Any) -> Any:
    """λ = log(a / (1 - a)) of the cosine schedule, ``-2 log tan(pi t / 2)``.

    >>> round(float(log_snr(0.5)), 9)
    0.0
    """
    return -2 * np.log(np.tan(np.pi / 2 * np.asarray(t, np.float64)))


@cache
def times(number: int) -> tuple[float, ...]:
    """Times in the middle of equal cells of λ, from the noisiest to the cleanest, rounded to six digits.

    >>> [round(t, 3) for t in times(3)]
    [0.901, 0.333, 0.033]
    """
    first, last = _ends()
    edges = np.linspace(first, last, number + 1)
    found = 2 / np.pi * np.arctan(np.exp(-(edges[1:] + edges[:-1]) / 4))
    return tuple(float(f"{t:.6g}") for t in found)


def denoised(of: Subject, params: Params, digits: int, cells: int) -> Denoised:
    """What other parameters than the trained ones predict of so many held-out digits, at times even in λ."""
    clean, at = unets.held_out(digits), times(cells)
    x, _ = unets.noisy_images(clean, at)
    noise = _noise_in(np.asarray(x, np.float64).reshape(cells, *clean.shape), clean, at)
    first = unets.reference_noise(of.name, digits, at)
    second = unets.predicted_noise(of, params, digits, times=at)
    errors = (second - first, first - noise, second - noise, first)
    return Denoised(*((e * e).mean(axis=(2, 3, 4)) for e in errors))


def _noise_in(noisy: F64, clean: F64, at: tuple[float, ...]) -> F64:
    """(x - sqrt(a) clean) / sqrt(1 - a)."""
    share = np.asarray(share_of(jnp.asarray(at, jnp.float32)), np.float64).reshape(-1, 1, 1, 1, 1)
    return (noisy - np.sqrt(share) * clean[None]) / np.sqrt(1 - share)


# --- what is made of the squares ------------------------------------------------------------------------------------


def nats(squares: F64, *, until: float = NEAREST) -> PerDigit:
    """``1/2 ∫ squares dλ`` of each digit, in nats per pixel: KL of what moved, or the bound of the likelihood.

    Args:
        squares: at the levels of ``times``, (times, digits).
        until: noise over signal at which the integral ends.

    >>> bool(np.isclose(nats(np.full((4, 2), 2.0))[0], span()))
    True
    """
    cell = span() / len(squares)
    inside = np.clip((-2 * np.log(until) - _ends()[0]) / cell - np.arange(len(squares)), 0, 1)
    return cell / 2 * (inside @ squares)


def over_times(squares: F64) -> PerDigit:
    """Mean over times that are even in t, as in training: dt / dλ = sin(pi t) / (2 pi).

    >>> over_times(np.ones((4, 2))).round(12).tolist()
    [1.0, 1.0]
    """
    weights = np.sin(np.pi * np.array(times(len(squares))))
    return weights @ squares / weights.sum()


def nats_of_a_call(found: Denoised) -> PerDigit:
    """``|ε̂' - ε̂|² / (2 v)`` over times even in t, nats per pixel of one call.

    The divergence of N(ε̂', v) from N(ε̂, v), v the mean squared error of the trained network at each time: how far its
    belief about the noise moves, if that is a Gaussian of the width of its errors.
    """
    variance = found.before.mean(axis=1, keepdims=True)
    return over_times(found.moved / (2 * variance))


def relative_increase(found: Denoised) -> Estimate:
    """Increase of the loss over the loss; standard error over the digits."""
    before, after = over_times(found.before), over_times(found.after)
    return mean(after - before).times(1 / float(before.mean()))
