"""Handwritten digits of 8x8 pixels, which scikit-learn carries, in a fixed split.

Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository (1998); the
1,797 images of its test set.
"""

from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

#: Images that no training sees, of 1,797.
HELD_OUT = 500
SIZE, CLASSES = 8, 10
_SPLIT = 8  # seed of the split
_MOST = 16  # grey levels above 0


class Digits(NamedTuple):
    """Images and what they show.

    Attributes:
        images: in [-1, 1], -1 of the paper; float32.
        labels: 0 to 9.
    """

    images: Float[np.ndarray, "number 8 8 1"]
    labels: Int[np.ndarray, " number"]


@lru_cache(maxsize=1)
def _split() -> tuple[Digits, Digits]:
    from sklearn.datasets import load_digits  # slow to import

    found: Any = load_digits()
    images = (found.images / (_MOST / 2) - 1).astype(np.float32)[..., None]
    order = np.argsort(np.random.default_rng(_SPLIT).random(len(images)), kind="stable")
    held, trained = order[:HELD_OUT], order[HELD_OUT:]
    labels = found.target.astype(np.int32)
    return Digits(images[trained], labels[trained]), Digits(images[held], labels[held])


def training() -> Digits:
    """What is trained on.

    >>> training().images.shape
    (1297, 8, 8, 1)
    """
    return _split()[0]


def held_out() -> Digits:
    """What no training sees; some of its writers also wrote digits that are trained on.

    >>> held_out().images.min(), held_out().images.max(), held_out().labels.shape
    (np.float32(-1.0), np.float32(1.0), (500,))
    """
    return _split()[1]


def digest() -> str:
    """SHA-256 of all images in the order of the split, in hexadecimal."""
    return sha256(b"".join(part.images.tobytes() + part.labels.tobytes() for part in _split())).hexdigest()
