"""The digits and their classifier: a fixed split, and features of what it knows."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from quantsim.measure.frechet import frechet_distance
from quantsim.models import checkpoint_files, digit_classifier, digits


def test_the_split_is_of_all_images_and_of_each_once():
    trained, held = digits.training(), digits.held_out()
    found = np.concatenate([trained.images, held.images]).reshape(-1, 64)
    expected = load_digits()
    back = (found + 1) * 8
    order, wanted = np.lexsort(back.T), np.lexsort(expected.data.T)
    np.testing.assert_array_equal(back[order], expected.data[wanted])
    labels = np.concatenate([trained.labels, held.labels])
    np.testing.assert_array_equal(labels[order], expected.target[wanted])
    assert not {x.tobytes() for x in trained.images} & {x.tobytes() for x in held.images}
    # every digit is held out, within 4 standard errors of its share
    assert np.all(np.abs(np.bincount(held.labels) - 50) < 4 * np.sqrt(500 * 0.1 * 0.9))


def test_the_classifier_knows_the_share_that_its_file_states():
    found, held = digit_classifier.load(), digits.held_out()
    right = found.labels(held.images) == held.labels
    assert right.mean() == found.metadata["accuracy"]
    assert found.metadata["digits"] == digits.digest()
    assert found.features(held.images).shape == (500, 32)


@pytest.mark.slow  # a second alone, minutes where others compute
def test_a_classifier_of_another_seed_knows_as_many():
    found, other = digit_classifier.load(), digit_classifier.train(1)
    error = np.hypot(other.metadata["accuracy_se"], found.metadata["accuracy_se"])
    assert other.metadata["accuracy"] == pytest.approx(found.metadata["accuracy"], abs=4 * error)
    held = digits.held_out().images
    assert (other.features(held) != found.features(held)).any()


def test_logits_are_those_of_a_network_written_out():
    found, (image,) = digit_classifier.load(), digits.held_out().images[:1]
    x = image.astype(np.float64).ravel()
    for number, (w, bias) in enumerate(zip(found.weights, found.biases, strict=True)):
        x = np.array([sum(w[i, j] * x[j] for j in range(len(x))) + bias[i] for i in range(len(w))])
        x = x if number == 2 else np.where(x > 0, x, 0)
    np.testing.assert_allclose(found.logits(image[None])[0], x, rtol=1e-6)


def test_digits_are_nearer_to_each_other_than_to_noise():
    features = digit_classifier.load().features
    a, b = np.split(features(digits.held_out().images), 2)
    noise = features(np.random.default_rng(0).uniform(-1, 1, (250, 8, 8, 1)))
    one, other = frechet_distance(a, b), frechet_distance(noise, b)
    assert other.distance - one.distance > 4 * np.hypot(one.se, other.se)


def test_files_of_others_are_no_classifiers(tmp_path):
    path = tmp_path / "other.safetensors"
    checkpoint_files.write(path, {"a": np.ones(3, np.float32)}, {})
    with pytest.raises(ValueError, match="holds no classifier of the digits"):
        digit_classifier.read(path)
