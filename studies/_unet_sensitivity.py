"""How much of an error in each matrix of a UNet arrives in the predicted noise, and in the images of 20 steps.

Read off normal noise in one matrix alone, whatever the format. Errors of several matrices are predicted as independent:
their squares add up.
"""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np

from . import _unet as unet
from ._unet import rms

ALONE = 0.03  # relative noise in one matrix
SAMPLES, DIGITS = 16, 16
#: Draws of noise. The first and the last convolution have few weights, and so few ways to be wrong, which differ.
DRAWS, DRAWS_OF_FEW = 1, 8
FEW_WEIGHTS = 300


class Sensitivity(NamedTuple):
    """What relative noise r in the weights of one matrix makes, over r.

    Attributes:
        noise: relative error of the predicted noise in one call, over all times.
        at_times: the same at each of ``unet.TIMES``.
        distance: median distance of samples.
    """

    noise: float
    at_times: tuple[float, ...]
    distance: float


class Expected(NamedTuple):
    """What errors of weights are predicted to make: of the predicted noise, at each time, and of samples."""

    noise: float
    at_times: tuple[float, ...]
    distance: float


def sensitivities(
    model: str, names: Iterable[str], *, seed: int = 0, draws_of_few: int = DRAWS_OF_FEW
) -> dict[str, Sensitivity]:
    """Of each of these matrices, root mean square over draws of noise."""
    return {name: sensitivity(model, name, seed, draws_of_few) for name in names}


@cache
def sensitivity(model: str, name: str, seed: int, draws_of_few: int) -> Sensitivity:
    """Of one matrix."""
    few = unet.subject(model, SAMPLES).params[name].size < FEW_WEIGHTS
    drawn = [_one(model, name, seed + draw) for draw in range(draws_of_few if few else DRAWS)]
    by_time = zip(*(one.at_times for one in drawn), strict=True)
    return Sensitivity(rms(one.noise for one in drawn), tuple(map(rms, by_time)), rms(one.distance for one in drawn))


def _one(model: str, name: str, seed: int) -> Sensitivity:
    of = unet.subject(model, SAMPLES)
    params = unet.noisy(of.params, {name: ALONE}, seed)
    error = unet.noise_error(of, params, DIGITS)
    distance = np.median(unet.moved(unet.unquantized(model, SAMPLES), unet.images(of, params)).distance)
    at_times = tuple(found.value / ALONE for found in error.at_times())
    return Sensitivity(error.relative().value / ALONE, at_times, float(distance) / ALONE)


def expected(by_matrix: dict[str, Sensitivity], relative: dict[str, float]) -> Expected:
    """What relative errors r of matrices make: the root of sum S² r².

    >>> one = Sensitivity(2.0, (1.0, 3.0), 0.5)
    >>> expected({"conv_in": one, "conv_out": one}, {"conv_in": 0.03, "conv_out": 0.04})
    Expected(noise=0.1, at_times=(0.05, 0.15), distance=0.025)
    """
    r = np.array(list(relative.values()))

    def added(values: list[float]) -> float:
        return float(np.linalg.norm(np.array(values) * r))

    chosen = [by_matrix[name] for name in relative]
    by_time = zip(*(one.at_times for one in chosen), strict=True)
    at_times = tuple(added(list(values)) for values in by_time)
    return Expected(added([one.noise for one in chosen]), at_times, added([one.distance for one in chosen]))
