"""Populations in a session where 64-bit types are on, promotion is strict, and no type checker comes first.

One process answers for all tests: it must draw the bits that this process draws, and refuse in words what is wrong.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from quantsim import populations
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

FAMILIES = (Normal(0.3), Laplace(), Uniform(2.0), StudentT(5.0), GeneralizedNormal(1.5), Empirical([-1.0, 0.25, 4.0]))
#: Two programs hold all families and all that outliers can be.
EVERYTHING = {
    "by rate": Mixture((0.15,) * 5 + (0.25,), FAMILIES)
    .with_outliers(rate=0.1, magnitude=9.0, values="spread")
    .with_outliers(rate=0.1, value=50.0, layout="block", block=5)
    .with_outliers(rate=0.1, value=70.0, layout="row", sign="negative"),
    "by count": Normal()
    .with_outliers(count=7, magnitude=9.0, values="spread")
    .with_outliers(count=2, value=50.0, layout="column", sign="positive"),
}
SHAPE = (9, 33)


def digest(array):
    array = np.asarray(array)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def drawn(pop):
    keys = jax.random.split(key(5), 2)
    return [digest(samples(pop, keys, SHAPE)), digest(outlier_marks(pop, keys, SHAPE))]


def of_the_host():
    """Distribution functions of all families, which are float64 in any session."""
    x, p = np.linspace(-3, 3, 7), np.linspace(0, 1, 7)
    return [
        digest(values)
        for pop in (*FAMILIES, EVERYTHING["by rate"].bulk.bulk)
        for values in (pop.pdf(x), pop.cdf(x), pop.tail(abs(x)), pop.quantile(p), pop.upper_moment(x, 2))
    ]


NAMES = {**vars(populations), "jax": jax, "np": np}
K = "key(0)"
#: What is wrong, the error and what its message says.
REFUSED = {
    f"Normal().sample({K}, (-1,))": (ValueError, "sizes of a shape are at least 0, got (-1,)"),
    f"Normal().sample({K}, (2, 2.5))": (TypeError, "a tuple of whole numbers"),
    f"Normal().sample({K}, 5)": (TypeError, "a tuple of whole numbers"),
    f"Normal().sample({K}, '5')": (TypeError, "a tuple of whole numbers"),
    f"Normal().sample({K}, (3,), of=(-3,))": (ValueError, "at least 0"),
    f"Normal().sample({K}, (3,), start=-1)": (ValueError, "start of a chunk lies between 0"),
    f"Normal().sample({K}, (3,), start=0.5)": (TypeError, "start of a chunk is a whole number, got 0.5"),
    "Normal().sample(0, (3,))": (TypeError, "a typed key, for example populations.key(0), got 0"),
    "Normal().sample(jax.random.PRNGKey(0), (3,))": (TypeError, "a typed key"),
    f"samples(Normal(), {K}, (3,))": (ValueError, "one axis of keys, got shape ()"),
    f"samples(Normal(), jax.random.split({K}, 2), (-3,))": (ValueError, "at least 0"),
    f"outlier_marks(Normal(), [{K}], (3,))": (TypeError, "a typed key"),
    f"Normal().with_outliers(count=1, value=9.0).is_outlier({K}, (3.0,))": (TypeError, "a tuple of whole numbers"),
    "Normal('1')": (TypeError, "the standard deviation is a number, got '1'"),
    "Normal(None)": (TypeError, "the standard deviation is a number, got None"),
    "Laplace(np.ones(3))": (TypeError, "the standard deviation is one number, got an array of shape (3,)"),
    "Uniform(1j)": (TypeError, "the standard deviation is a number, got 1j"),
    "StudentT('5')": (TypeError, "the number of degrees of freedom is a number"),
    "GeneralizedNormal([2.0])": (TypeError, "the exponent of a generalized normal is a number"),
    "Normal(0)": (ValueError, "positive and finite, got 0"),
    "Normal(float('nan'))": (ValueError, "positive and finite, got nan"),
    "Mixture((1.0,), ('normal',))": (TypeError, "the components of a mixture are populations, got 'normal'"),
    "Mixture(('1',), (Normal(),))": (TypeError, "the probability of a component is a number, got '1'"),
    "Outliers(rate='0.1', value=9.0)": (TypeError, "outlier rate is a number, got '0.1'"),
    "Outliers(rate=0.1, value=[9.0])": (TypeError, "outlier value is a number, got [9.0]"),
    "Outliers(count=2.5, value=9.0)": (ValueError, "the count of outliers is a whole number, got 2.5"),
    "Outliers(rate=0.1, value=9.0, block=2.5)": (TypeError, "the length of an outlier block is a whole number"),
    "Outliers(rate=0.1, value=9.0, layout='diagonal')": (ValueError, "layout is one of element, row, column, block"),
    "Contaminated('normal', Outliers(rate=0.1, value=9.0))": (TypeError, "a bulk and outliers, got 'normal'"),
    "Empirical('abc')": (TypeError, "made of numbers"),
    "Empirical([1j])": (TypeError, "made of numbers"),
    "Empirical([])": (ValueError, "at least one value"),
    "Empirical([1.0, float('inf')])": (ValueError, "all of them finite"),
    "parse(5)": (TypeError, "the spec of a population is text, got 5"),
    "key(2**32)": (ValueError, "between 0 and 2^32 - 1, got 4294967296"),
    "key(-1)": (ValueError, "between 0 and 2^32 - 1, got -1"),
    "key(1.0)": (TypeError, "a seed is a whole number, got 1.0"),
    "key('1')": (TypeError, "a seed is a whole number, got '1'"),
    "key(np.float64(3))": (TypeError, "a seed is a whole number"),
    "key(np.int64(2**32))": (ValueError, "between 0 and 2^32 - 1"),
}


#: Other ways to ask for the same twelve weights.
WELCOME = [
    "Normal(np.float32(1)).sample(key(np.uint8(1)), (np.int64(3), np.int32(4)))",
    "Normal(1).sample(key(1), [3, 4], start=np.int64(0))",
    "samples(Normal(np.array(1.0)), key(1)[None], [3, 4])[0]",
]


def refusals():
    """What each wrong call raises; run where no type checker is installed."""
    found = {}
    for call in REFUSED:
        try:
            eval(call, NAMES)
        except (TypeError, ValueError) as error:
            found[call] = [type(error).__name__, str(error)]
    return found


def welcome():
    """What each unusual call gives."""
    return {call: digest(eval(call, NAMES)) for call in WELCOME}


@pytest.fixture(scope="module")
def elsewhere():
    """The answers of a process with 64-bit types, strict promotion and no type checker."""
    program = (
        "import json; from tests import test_population_x64 as t; "
        "print(json.dumps({'drawn': {n: t.drawn(p) for n, p in t.EVERYTHING.items()}, "
        "'host': t.of_the_host(), 'refused': t.refusals(), 'welcome': t.welcome()}))"
    )
    settings = {
        "JAX_ENABLE_X64": "1",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", EVERYTHING)
def test_draws_are_the_same_bits(elsewhere, name):
    assert elsewhere["drawn"][name] == drawn(EVERYTHING[name])
    assert elsewhere["drawn"][name][0].startswith("float32")


def test_distribution_functions_are_the_same_bits(elsewhere):
    assert elsewhere["host"] == of_the_host()


@pytest.mark.parametrize("call", REFUSED)
def test_what_is_given_wrongly_is_refused_in_words(elsewhere, call):
    kind, message = REFUSED[call]
    assert call in elsewhere["refused"], "accepted"
    assert elsewhere["refused"][call][0] == kind.__name__
    assert message in elsewhere["refused"][call][1]


@pytest.mark.parametrize("seed", [0, 7, 2**31 + 7, 2**32 - 1])
def test_seeds_are_whole_numbers_of_any_type(seed):
    for same in (np.int64(seed), np.uint32(seed), np.uint64(seed)):
        assert jax.random.key_data(key(same)).tolist() == [0, seed]


@pytest.mark.parametrize("call", WELCOME)
def test_whole_numbers_of_numpy_and_lists_are_welcome(elsewhere, call):
    assert elsewhere["welcome"][call] == digest(Normal().sample(key(1), (3, 4)))
