"""Radial spectra of fields, and convolutions of them, in float64: at which frequencies an error lies, and a signal.

Fields are (..., height, width) and periodic. Frequencies are in cycles per pixel, 1/2 at most along an axis.
"""

from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantsim._types import ArrayLike

F64: TypeAlias = NDArray[np.float64]


def frequencies(height: int, width: int) -> F64:
    """Distance of each frequency of a field from zero, (height, width), in the order of ``numpy.fft``.

    >>> frequencies(1, 4).tolist()
    [[0.0, 0.25, 0.5, 0.25]]
    """
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])


def power_spectrum(fields: ArrayLike) -> F64:
    """Power at each frequency, |FFT|² / (height width): its mean over the frequencies is the mean square of the field.

    White noise of variance v has v at every frequency.

    >>> power_spectrum([[1.0, -1.0], [1.0, -1.0]]).tolist()
    [[0.0, 4.0], [0.0, 0.0]]
    """
    a = np.asarray(fields, np.float64)
    if a.ndim < 2 or not a.size:
        raise ValueError(f"fields are (..., height, width) with at least one pixel, got {a.shape}")
    return np.abs(np.fft.fft2(a)) ** 2 / (a.shape[-2] * a.shape[-1])


def ring_means(power: ArrayLike, edges: ArrayLike) -> F64:
    """Mean of (..., height, width) over the frequencies of each ring, low edge <= |f| < high edge; (..., rings).

    Args:
        power: in the order of ``numpy.fft``, as ``power_spectrum`` gives it.
        edges: increasing, in cycles per pixel, one more than rings.

    Raises:
        ValueError: for a ring without a frequency.

    >>> ring_means(power_spectrum([[1.0, -1.0, 1.0, -1.0]]), [0.0, 0.3, 0.6]).tolist()
    [0.0, 4.0]
    """
    a, limits = np.asarray(power, np.float64), np.asarray(edges, np.float64)
    radius = frequencies(*a.shape[-2:])
    rings = [(radius >= low) & (radius < high) for low, high in pairwise(limits)]
    if not rings or not all(ring.any() for ring in rings):
        raise ValueError(f"a ring of {limits.tolist()} cycles per pixel holds no frequency of {a.shape[-2:]} pixels")
    return np.stack([a[..., ring].mean(axis=-1) for ring in rings], axis=-1)


def transfer(kernels: ArrayLike, height: int, width: int) -> NDArray[np.complex128]:
    """What a kernel (..., kh, kw) multiplies each frequency of a field with; the kernel is centred, odd sizes exactly.

    >>> np.abs(transfer([[0.25, 0.5, 0.25]], 1, 4)).round(9).tolist()  # cos²(pi f)
    [[1.0, 0.5, 0.0, 0.5]]
    """
    k = np.asarray(kernels, np.float64)
    if k.ndim < 2 or k.shape[-2] > height or k.shape[-1] > width:
        raise ValueError(f"kernels (..., kh, kw) of shape {k.shape} are larger than a field of {height} x {width}")
    padded = np.zeros((*k.shape[:-2], height, width))
    padded[..., : k.shape[-2], : k.shape[-1]] = k
    centred = np.roll(padded, (-(k.shape[-2] // 2), -(k.shape[-1] // 2)), axis=(-2, -1))
    return np.conj(np.fft.fft2(centred))  # networks correlate: y[p] = sum w[k] x[p + k]


def convolution(x: ArrayLike, w: ArrayLike) -> F64:
    """Convolution of a network with wrapped borders, ``y_o[p] = sum_i sum_k w_oi[k] x_i[p + k]``, (..., out, h, w).

    Args:
        x: fields, (..., in, height, width).
        w: weights, (..., out, in, kh, kw), with the same leading axes.

    >>> convolution([[[1.0, 2.0, 3.0, 4.0]]], [[[[0.0, 0.0, 1.0]]]]).round(9).tolist()  # the neighbour on the right
    [[[2.0, 3.0, 4.0, 1.0]]]
    """
    fields = np.asarray(x, np.float64)
    height, width = fields.shape[-2:]
    spectrum = np.einsum("...oihw,...ihw->...ohw", transfer(w, height, width), np.fft.fft2(fields))
    return np.fft.ifft2(spectrum).real
