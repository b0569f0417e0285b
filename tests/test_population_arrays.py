"""Many arrays at once, one a key: the bits of one at a time, by one program for all populations of a structure."""

import jax
import numpy as np
import pytest

from quantsim.populations import (
    Empirical,
    GeneralizedNormal,
    Laplace,
    Mixture,
    Normal,
    StudentT,
    Uniform,
    key,
    outlier_marks,
    samples,
)
from quantsim.populations.samplers import CHUNK
from tests.test_population_x64 import EVERYTHING, SHAPE
from tests.test_traces import counting

MIXED = Mixture((0.5, 0.5), (Normal(0.3), Laplace()))
KEYS = jax.random.split(key(3), 5)


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_array_has_the_bits_of_its_own_key(name):
    """Two arrays of each of two programs that hold all families: those that test_population_x64.py compiles."""
    pop, keys = EVERYTHING[name], [KEYS[0], KEYS[1]]
    drawn, marks = (np.asarray(each(pop, KEYS[:2], SHAPE)) for each in (samples, outlier_marks))
    assert drawn.shape == marks.shape == (2, *SHAPE)
    for j, k in enumerate(keys):
        np.testing.assert_array_equal(drawn[j], pop.sample(k, SHAPE))
        np.testing.assert_array_equal(marks[j], pop.is_outlier(k, SHAPE))


@pytest.mark.parametrize(
    ("n", "shape"),
    [(5, (2, CHUNK // 3)), (5, (CHUNK // 2 - 1,)), (3, (CHUNK + 1,)), (2, (3, CHUNK))],
    ids=["one at a time", "two at a time and one in vain", "a chunk and a weight", "three chunks"],
)
def test_arrays_of_any_size(n, shape):
    """What is drawn together depends on how many weights fill a chunk; what is drawn does not."""
    drawn = np.asarray(samples(Normal(), KEYS[:n], shape))
    for j, k in enumerate(KEYS[:n]):
        np.testing.assert_array_equal(drawn[j], jax.random.normal(k, (np.prod(shape),)).reshape(shape))


def test_no_keys_and_empty_arrays():
    assert samples(Normal(), KEYS[:0], (2, 3)).shape == (0, 2, 3)
    assert samples(Normal(), KEYS, (0, 3)).shape == (5, 0, 3)
    assert outlier_marks(Normal(), KEYS, (2, 3)).shape == (5, 2, 3)


def test_a_population_without_outliers_has_no_marks():
    assert not np.asarray(outlier_marks(MIXED, KEYS, (2, 3))).any()


def contaminated(bulk, rate, magnitude):
    return bulk.with_outliers(rate=rate, magnitude=magnitude)


#: Pairs of populations that differ in numbers only.
SAME = {
    "std": (Normal(), Normal(0.02)),
    "scales of other families": (Laplace(3.0), Laplace(0.1)),
    "df": (StudentT(5.0), StudentT(2.1, 0.3)),
    "beta": (GeneralizedNormal(1.5), GeneralizedNormal(0.7, 3.0)),
    "weights of a mixture": (
        Mixture((0.9, 0.1), (Normal(), Normal(3.0))),
        Mixture((0.5, 0.5), (Normal(9.0), Normal())),
    ),
    "values": (Empirical([1.0, 2.0]), Empirical([5.0, 3.0])),
    "rate and magnitude": (contaminated(Uniform(), 0.1, 3.0), contaminated(Uniform(2.0), 0.3, 50.0)),
    "a value beside a magnitude": (
        contaminated(Uniform(), 0.1, 3.0),
        Uniform().with_outliers(rate=0.2, value=9.0),
    ),
}


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME.keys())
def test_populations_that_differ_in_numbers_share_a_program(first, second):
    first.sample(KEYS[0], (3, 5)).block_until_ready()
    with counting() as warm:
        second.sample(KEYS[0], (3, 5)).block_until_ready()
    assert warm == {"traces": 0, "compiles": 0}


def test_so_do_their_samples_of_many_keys():
    first, second = SAME["rate and magnitude"]
    samples(first, KEYS, (3, 5)).block_until_ready()
    with counting() as warm:
        samples(second, KEYS, (3, 5)).block_until_ready()
    assert warm == {"traces": 0, "compiles": 0}


def test_marks_share_a_program_whatever_the_bulk():
    first, second = (contaminated(bulk, rate, 9.0) for bulk, rate in ((Normal(), 0.1), (MIXED, 0.3)))
    jax.block_until_ready((first.is_outlier(KEYS[0], (3, 5)), outlier_marks(first, KEYS, (3, 5))))
    with counting() as warm:
        jax.block_until_ready((second.is_outlier(KEYS[0], (3, 5)), outlier_marks(second, KEYS, (3, 5))))
    assert warm == {"traces": 0, "compiles": 0}
