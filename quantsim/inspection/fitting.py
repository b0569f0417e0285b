"""The population that a tensor's weights look most like, by likelihood, and how far from it they are.

Magnitudes are counted in bins of a quarter octave. For each family and shape the scale of largest likelihood
``sum counts log P(bin)`` is found; the family of largest likelihood is the fit. Zeros, of which pruned and padded rows
are full, belong to no density and are left out. The distance is Kolmogorov's, ``max |F(x) - F_n(x)|`` of magnitudes
over the edges of bins. Shapes and scales come from grids, so that tensors have populations, and predictions, in common.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsim import theory
from quantsim.inspection.signal import Signal
from quantsim.measure.histogram import histogram_edges
from quantsim.populations import GeneralizedNormal, Laplace, Normal, Population, StudentT, Uniform

_FEWEST = 64  # weights that a shape can be told from
_SCALES_AN_OCTAVE = 16
_LEAST_PROBABLE = 1e-300

_T = tuple(StudentT(df) for df in (3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0))
_GENERALIZED = tuple(GeneralizedNormal(beta) for beta in (0.5, 0.75, 1.25, 1.5, 1.75, 2.5, 3.0, 4.0, 8.0))
#: Families and shapes that are tried, with unit standard deviation.
CANDIDATES: tuple[Population, ...] = (Normal(), Laplace(), Uniform(), *_T, *_GENERALIZED)


@dataclass(frozen=True)
class Fit:
    """A population fitted to a tensor.

    Attributes:
        population: of largest likelihood.
        distance: largest difference of the cumulative distributions of magnitudes.
        crest: E[max |w|] / sigma of as many weights of the population; sigma is the tensor's.
        stray: weights beyond the magnitude that one such tensor in twenty has any beyond.
    """

    population: Population
    distance: float
    crest: float
    stray: int


def fit(signal: Signal) -> Fit | None:
    """The population of a tensor; None where fewer than 64 weights are not 0."""
    edges, counts = signal.magnitudes()
    if counts.sum() < _FEWEST:
        return None
    best = max((_scaled(shape, edges, counts, signal.sigma) for shape in CANDIDATES), key=_likelihood_of)[0]
    total = counts.sum()
    within = 1 - best.tail(edges)
    distance = float(np.abs(np.append(0, np.cumsum(counts)) / total - within).max())
    limit = float(best.quantile(1 - 1 / (2 * 20 * total)))
    stray = int(signal.counts[histogram_edges() > min(limit, float(np.finfo(np.float32).max))].sum())
    return Fit(best, distance, theory.expected_absmax(best, int(total)) / signal.sigma, stray)


def _scaled(
    shape: Population, edges: NDArray[np.float64], counts: NDArray[np.int64], sigma: float
) -> tuple[Population, float]:
    """The shape with the scale of largest likelihood, and that likelihood."""
    from scipy import optimize

    def loss(octaves: float) -> float:
        return -_likelihood(with_std(shape, sigma * 2.0**octaves), edges, counts)

    found: Any = optimize.minimize_scalar(loss, bounds=(-3.0, 1.0), method="bounded", options={"xatol": 0.02})
    octaves = round(np.log2(sigma * 2.0**found.x) * _SCALES_AN_OCTAVE) / _SCALES_AN_OCTAVE
    best = with_std(shape, float(2.0**octaves))
    return best, _likelihood(best, edges, counts)


def _likelihood_of(scaled: tuple[Population, float]) -> float:
    return scaled[1]


def _likelihood(pop: Population, edges: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    beyond = np.asarray(pop.tail(edges))
    chance = np.maximum(beyond[:-1] - beyond[1:], _LEAST_PROBABLE)
    return float((counts * np.log(chance)).sum())


def with_std(shape: Population, std: float) -> Population:
    """The population with another standard deviation."""
    return replace(shape, std=std)  # pyright: ignore[reportArgumentType]
