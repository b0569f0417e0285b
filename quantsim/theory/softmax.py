"""What white noise on logits does to the probabilities of a softmax, to first order in the noise variance."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike

F64: TypeAlias = NDArray[np.float64] | np.float64

_FAR, _NODE = 8.0, 0.25  # standard deviations to which normal noise is followed, and between two nodes


def _checked(logits: ArrayLike, noise_rms: float) -> NDArray[np.float64]:
    z = np.asarray(logits, np.float64)
    if z.ndim < 1 or not z.shape[-1]:
        raise ValueError(f"logits (..., classes) have at least one class, got shape {z.shape}")
    if not 0 <= noise_rms < np.inf:
        raise ValueError(f"the rms of the noise is finite and not negative, got {noise_rms}")
    return z


def _probabilities(logits: ArrayLike, noise_rms: float) -> NDArray[np.float64]:
    z = _checked(logits, noise_rms)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_kl(logits: ArrayLike, noise_rms: float) -> F64:
    """Expected Kullback-Leibler divergence of softmax(logits + noise) from softmax(logits), in nats.

    ``v / 2 sum p (1 - p)`` with the variance v of the noise, for softmax probabilities p. The divergence is
    ``log E_p exp(d) - E_p d``, half the variance under p of the noise d. Neglected is a relative error of order v
    (cumulants of third order average out for symmetric noise). To this order either direction is the same.

    Args:
        logits: (..., classes).
        noise_rms: sqrt(v), of noise that is independent from logit to logit.

    Raises:
        ValueError: for no classes or a negative rms.

    >>> round(float(softmax_kl([0.0, 0.0], 0.1)), 9)  # 0.01 / 2 * 2 * 1/4
    0.0025
    """
    p = _probabilities(logits, noise_rms)
    return noise_rms**2 / 2 * (p * (1 - p)).sum(axis=-1)


def softmax_tv(logits: ArrayLike, noise_rms: float) -> F64:
    """Expected total variation between softmax(logits + noise) and softmax(logits), ``sum E|p̂ - p| / 2``, normal noise.

    To first order ``p̂_i - p_i = p_i (d_i - sum_j p_j d_j)``, normal with variance ``v p_i² ((1 - p_i)² + sum_{j≠i}
    p_j²) = v p_i² (1 - 2 p_i + sum p²)``; its mean magnitude is sqrt(2 / pi) of the root. Neglected is a relative error
    of order v = noise_rms².

    Args:
        logits: (..., classes).
        noise_rms: standard deviation of normal noise that is independent from logit to logit.

    Raises:
        ValueError: for no classes or a negative rms.

    >>> round(float(softmax_tv([0.0, 0.0], 0.1)), 9)  # sqrt(2 / pi) * 0.1 * sqrt(1 / 2) / 2
    0.028209479
    """
    p = _probabilities(logits, noise_rms)
    square = (p * p).sum(axis=-1, keepdims=True)
    spread = np.sqrt((1 - p) ** 2 + np.maximum(square - p * p, 0.0))
    return noise_rms / np.sqrt(2 * np.pi) * (p * spread).sum(axis=-1)


def softmax_mse(logits: ArrayLike, noise_rms: float) -> F64:
    """Expected squared change of the probabilities of a softmax, ``sum E(p̂ - p)² = v sum p² (1 - 2 p + sum p²)``.

    To first order, as ``softmax_tv``. Averages ``sum p_i v_i`` of independent values v of mean zero err by the root of
    it over that of ``sum p²``, relative to themselves: white values take part as their weights do.

    Args:
        logits: (..., classes).
        noise_rms: sqrt(v), of noise that is independent from logit to logit.

    Raises:
        ValueError: for no classes or a negative rms.

    >>> round(float(softmax_mse([0.0, 0.0], 0.1)), 9)  # 0.01 * 2 * 1/4 * 1/2
    0.0025
    """
    p = _probabilities(logits, noise_rms)
    square = (p * p).sum(axis=-1, keepdims=True)
    return noise_rms**2 * (p * p * ((1 - p) ** 2 + np.maximum(square - p * p, 0.0))).sum(axis=-1)


def softmax_flips(logits: ArrayLike, noise_rms: float) -> F64:
    """Probability that normal noise makes another logit the largest, exact at any size of the noise.

    ``1 - int phi(x) prod_i Phi(x + gap_i / noise_rms) dx`` over all logits but the largest, ``gap_i`` below it: given
    its own noise, that of the others is independent. Trapezoids, whose error falls exponentially with their number.

    Args:
        logits: (..., classes).
        noise_rms: standard deviation of normal noise that is independent from logit to logit.

    Raises:
        ValueError: for no classes or a negative rms.

    >>> round(float(softmax_flips([0.0, 0.2], 0.1)), 9)  # Phi(-0.2 / (0.1 sqrt(2)))
    0.078649604
    """
    from scipy.special import ndtr

    z = _checked(logits, noise_rms)
    if noise_rms == 0:
        return np.zeros(z.shape[:-1])
    gaps = np.sort(z.max(axis=-1, keepdims=True) - z, axis=-1)[..., 1:] / noise_rms
    near = gaps[..., : int((gaps < 2 * _FAR).sum(axis=-1).max(initial=0))]  # Phi of the others is 1
    stays = np.zeros(z.shape[:-1])
    for x in np.arange(-_FAR, _FAR + _NODE, _NODE):
        stays = stays + _NODE * np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * ndtr(x + near).prod(axis=-1)
    return np.maximum(1 - stays, 0.0)
