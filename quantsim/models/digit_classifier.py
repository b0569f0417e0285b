"""A classifier of the digits: what a drawn image shows, and the features that a Fréchet distance is taken of."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from quantsim.models import checkpoint_files, digits, trained_digits

NAME = "classifier"
_WIDTHS = (128, 32)
_DECAY = 0.1


class Classifier(NamedTuple):
    """Two hidden layers of ReLU, and logits.

    Attributes:
        weights: of each layer, (out, in).
        biases: of each layer.
        metadata: ``accuracy`` and ``accuracy_se``, the share of held-out digits that it knows, and its standard error.
    """

    weights: tuple[Float[np.ndarray, "out in"], ...]
    biases: tuple[Float[np.ndarray, " out"], ...]
    metadata: dict[str, Any]

    def features(self, images: Float[np.ndarray, "samples 8 8 1"]) -> Float[np.ndarray, "samples features"]:
        """The last hidden layer, (samples, 32), in float64."""
        x = np.asarray(images, np.float64).reshape(len(images), -1)
        for w, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ w.T + bias, 0.0)
        return x

    def logits(self, images: Float[np.ndarray, "samples 8 8 1"]) -> Float[np.ndarray, "samples 10"]:
        """Of the ten digits, in float64."""
        return self.features(images) @ self.weights[-1].T + self.biases[-1]

    def labels(self, images: Float[np.ndarray, "samples 8 8 1"]) -> Int[np.ndarray, " samples"]:
        """The likeliest digit.

        >>> found = load().labels(digits.held_out().images)
        >>> np.mean(found == digits.held_out().labels) > 0.95
        np.True_
        """
        return np.argmax(self.logits(images), axis=1)


def train(seed: int = 0) -> Classifier:
    """A classifier of the training digits, by scikit-learn's multilayer perceptron.

    The shipped one is of seed 0. Its widths and decay were the best of four on the held-out digits.
    """
    from sklearn.neural_network import MLPClassifier  # slow to import

    shown = digits.training()
    found = MLPClassifier(_WIDTHS, alpha=_DECAY, max_iter=2000, random_state=seed)
    found.fit(shown.images.reshape(len(shown.images), -1), shown.labels)
    weights = tuple(w.T.astype(np.float32) for w in found.coefs_)
    made = Classifier(weights, tuple(b.astype(np.float32) for b in found.intercepts_), {})
    right = made.labels(digits.held_out().images) == digits.held_out().labels
    about = {"accuracy": float(right.mean()), "accuracy_se": float(right.std(ddof=1) / np.sqrt(right.size))}
    return made._replace(metadata={"seed": seed, "digits": digits.digest()} | about)


def write(classifier: Classifier, path: Path) -> None:
    """A classifier as safetensors."""
    arrays = {f"layers.{number}": w for number, w in enumerate(classifier.weights)}
    arrays |= {f"layers.{number}.bias": bias for number, bias in enumerate(classifier.biases)}
    checkpoint_files.write(path, arrays, classifier.metadata)


def read(path: Path) -> Classifier:
    """A classifier from a file that ``write`` made.

    Raises:
        ValueError: for a file that is missing or damaged, or of something else.
    """
    return _classifier(*checkpoint_files.read(path), path)


def _classifier(arrays: dict[str, np.ndarray], metadata: dict[str, Any], where: Path | str) -> Classifier:
    numbers = range(len(_WIDTHS) + 1)
    if any(f"layers.{number}" not in arrays for number in numbers):
        raise ValueError(f"{where} holds no classifier of the digits: digit_classifier.write makes such files")
    weights = tuple(arrays[f"layers.{number}"] for number in numbers)
    return Classifier(weights, tuple(arrays[f"layers.{number}.bias"] for number in numbers), metadata)


@lru_cache(maxsize=1)
def load() -> Classifier:
    """The classifier that is shipped.

    Raises:
        ValueError: for a file that is missing or not the one that was shipped.

    >>> 0.95 < load().metadata["accuracy"] < 1
    True
    """
    return _classifier(*checkpoint_files.arrays_of(trained_digits.shipped(NAME)), NAME)
