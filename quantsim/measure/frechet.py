"""The Fréchet distance of two sets of features, as of images that a model draws and images of the data."""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

F64: TypeAlias = NDArray[np.float64]
Features: TypeAlias = Float[np.ndarray, "samples features"]


class Frechet(NamedTuple):
    """A Fréchet distance from samples.

    Attributes:
        distance: of the two samples; never below 0, so on average above that of the distributions.
        se: standard error by the jackknife over the samples of both sides.
        bias: how far it lies above the distance of the distributions on average, by the same jackknife.
    """

    distance: float
    se: float
    bias: float


class Increase(NamedTuple):
    """How much larger one Fréchet distance is than another.

    Attributes:
        value: the difference; the bias of both is nearly the same.
        se: standard error by the jackknife over pairs, and over the samples that both are compared with.
    """

    value: float
    se: float


def frechet_distance(a: Features, b: Float[np.ndarray, "others width"]) -> Frechet:
    """``|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``, the squared distance of two normals of these moments.

    Its bias falls as one over the number of samples: compare distances of equal sample sizes, or take ``bias`` off.
    Where the distributions are one, the distance has no linear part: ``se`` is then about 1.7 times its spread.

    Args:
        a: features, (samples, features).
        b: features of other samples, any number of them.

    Raises:
        ValueError: for features of other widths, or not more than two samples more than features.

    >>> rng = np.random.default_rng(0)
    >>> found = frechet_distance(rng.normal(size=(4000, 2)), rng.normal(1.0, 2.0, size=(4000, 2)))
    >>> abs(
    ...     found.distance - found.bias - 4.0
    ... ) < 4 * found.se  # 1 for the mean of each feature, (2 - 1)² for its deviation
    True

    Source: Dowson and Landau (1982); Heusel et al., arXiv:1706.08500, for images; Efron and Stein (1981).
    """
    a, b = _checked(a, b)
    distance = _distance(a, b)
    variance = bias = 0.0
    for one, other in ((a, b), (b, a)):
        left_out = _distances(*_without_one(one), other)
        n = len(one)
        variance += (n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())
        bias += (n - 1) * float(left_out.mean() - distance)
    return Frechet(distance, float(np.sqrt(variance)), bias)


def frechet_increase(
    before: Features, after: Float[np.ndarray, "after features"], reference: Float[np.ndarray, "others features"]
) -> Increase:
    """``d(after, reference) - d(before, reference)`` of samples in pairs, whose common chances cancel.

    Args:
        before: features, (samples, features).
        after: the same, sample by sample.
        reference: features of what both should be like.

    Raises:
        ValueError: for samples that are no pairs, and as ``frechet_distance``.

    >>> x = np.random.default_rng(0).normal(size=(400, 2))
    >>> frechet_increase(x, x, x[:100] + 1.0)
    Increase(value=0.0, se=0.0)

    Source: as of ``frechet_distance``.
    """
    (a, other), (b, _) = _checked(before, reference), _checked(after, reference)
    if a.shape != b.shape:
        raise ValueError(f"samples before and after are pairs, got {a.shape} and {b.shape}")
    value = _distance(b, other) - _distance(a, other)
    by_pair = _distances(*_without_one(b), other) - _distances(*_without_one(a), other)
    by_other = _distances(*_without_one(other), b) - _distances(*_without_one(other), a)
    variance = sum((len(d) - 1) * float(np.var(d)) for d in (by_pair, by_other))
    return Increase(value, float(np.sqrt(variance)))


def _checked(a: Features, b: Float[np.ndarray, "others width"]) -> tuple[F64, F64]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features are (samples, features) of one width, got {a.shape} and {b.shape}")
    if min(len(a), len(b)) < a.shape[1] + 3:
        raise ValueError(f"{min(len(a), len(b))} samples say too little of {a.shape[1]} features: take more samples")
    return a, b


def _distance(a: F64, b: F64) -> float:
    return float(_distances(a.mean(axis=0)[None], _covariance(a)[None], b)[0])


def _covariance(x: F64) -> F64:
    return np.atleast_2d(np.cov(x, rowvar=False))


def _without_one(x: F64) -> tuple[F64, F64]:
    """Means and covariances of all samples but one, for each one."""
    n, off = len(x), x - x.mean(axis=0)
    means = x.mean(axis=0) - off / (n - 1)
    outer = off[:, :, None] * off[:, None, :]
    return means, ((n - 1) * _covariance(x)[None] - n / (n - 1) * outer) / (n - 2)


def _distances(means: F64, covariances: F64, other: F64) -> F64:
    """Of each pair of moments to those of the other samples."""
    fixed = _covariance(other)
    values, vectors = np.linalg.eigh(fixed)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # (C_a C_b)^(1/2) has the eigenvalues of the symmetric root C_a root, to the half
    mixed = np.linalg.eigvalsh(root @ covariances @ root)
    traces = np.trace(covariances, axis1=1, axis2=2) + np.trace(fixed)
    squares = ((means - other.mean(axis=0)) ** 2).sum(axis=1)
    return squares + traces - 2 * np.sqrt(np.maximum(mixed, 0)).sum(axis=1)
