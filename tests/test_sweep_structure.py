"""Structures: every population and quantizer comes back from its numbers, also where they are traced, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.populations import (
    Contaminated,
    Empirical,
    GeneralizedNormal,
    Laplace,
    Mixture,
    Normal,
    Population,
    StudentT,
    Uniform,
    key,
    samplers,
)
from quantsim.populations.arguments import words_of
from quantsim.populations.samplers import with_float32_leaves
from quantsim.populations.structure import Structure, rebuild_population, split_population
from quantsim.quantizer.structure import rebuild_quantizer, split_quantizer
from tests import oracles, test_block_contract, test_contract

# --- quantizers -----------------------------------------------------------------------------------------------------

CASES = test_contract.CASES
#: Not among the contract's, where numbers meet each other.
MORE = [
    *("int4:block32:clip0.5", "int8:channel:clip0.9:f16", "e4m3:block32:clip0.75", "int3:block32:minmax:e5m2"),
    *("int2:block4:minmax", "int5:tensor:absmax:half", "int6:block32:absmax:full:e4m3", "e2m1:tensor:p99:f16"),
    *("int8:block32:mse:f16", "f16:tensor", "e5m2:block16:absmax:stochastic"),
]


@pytest.mark.parametrize("text", [*CASES, *MORE])
def test_a_rebuilt_quantizer_has_the_structure_and_the_numbers(text):
    q = qs.parse(text)
    structure, numbers = split_quantizer(q)
    assert hash(structure) == hash(split_quantizer(qs.parse(text))[0])
    if not numbers:
        assert rebuild_quantizer(structure, np.zeros(0, np.float32)) is q  # and so the same program
        return
    assert all(isinstance(v, float) for v in numbers)
    exact = numbers[: len(numbers) - ("clip" in text)]
    assert tuple(map(float, np.float32(exact))) == exact  # an argument is float32: only a clip ratio is rounded
    again = rebuild_quantizer(structure, np.float32(numbers))
    assert split_quantizer(again)[0] == structure
    np.testing.assert_array_equal(np.float32(split_quantizer(again)[1]), np.float32(numbers))


def _where_numbers_meet(text):
    """Kinds of format, scale format, calibration and rounding; the granularity is static and takes none."""
    parts = dict(split_quantizer(qs.parse(text))[0].parts)
    return tuple(parts[name] for name in ("format", "scale_format", "calibration", "rounding"))


WITH_NUMBERS = [text for text in [*CASES, *MORE] if split_quantizer(qs.parse(text))[1]]
MEETINGS = list({_where_numbers_meet(text): text for text in reversed(WITH_NUMBERS)}.values())[::-1]


@pytest.mark.parametrize("text", MEETINGS)
def test_a_quantizer_of_traced_numbers_gives_the_same_bits(text):
    """One program with both: the quantizer itself, its numbers constants, and the one that is rebuilt of arguments."""
    q, w = qs.parse(text), test_contract._batch()[1]
    structure, numbers = split_quantizer(q)
    random = test_contract.KEYS[1] if "stochastic" in text else None

    @jax.jit
    def both(numbers, w, key):
        return [one._approximate(w, key) for one in (q, rebuild_quantizer(structure, numbers))]

    oracles.same_bits(*both(np.float32(numbers), w, random))


def test_quantizers_of_one_structure():
    """Which numbers are no part of a structure, and what is."""
    same = [
        ("int2:block32", "int8:block32"),
        ("e2m1:block32", "e5m2:block32", "f16:block32"),
        ("e4m3", "f16"),
        ("int4:tensor:clip0.5", "int3:tensor:clip0.7"),
        ("int4:tensor:absmax:f16", "int8:tensor:absmax:e4m3"),
        ("int4:channel:minmax", "int8:channel:minmax"),
    ]
    structures = [{split_quantizer(qs.parse(text))[0] for text in texts} for texts in same]
    assert [len(found) for found in structures] == [1] * len(same)
    assert len(set.union(*structures)) == len(same)
    others = ["int4:block16", "int4:block32:absmax:half", "int4:block32:absmax:away", "int4:block32:mse",
              "int4:block32:absmax:bf16", "int4:block32:clip0.5", "nf4:block32", "int4:block32:rms"]  # fmt: skip
    found = {split_quantizer(qs.parse(text))[0] for text in ("int4:block32", *others)}
    assert len(found) == 1 + len(others)


@pytest.mark.parametrize("text", [*test_block_contract.CASES, "nf4:block32", "bf16", "f32", "int4:block32:rms"])
def test_what_has_no_numbers_is_static_as_a_whole(text):
    q = qs.parse(text)
    assert split_quantizer(q) == (Structure(q), ())
    assert rebuild_quantizer(Structure(q), jnp.zeros(0)) is q


# --- populations ----------------------------------------------------------------------------------------------------

POPULATIONS = [
    *(Normal(), Normal(0.02), Laplace(0.3), Uniform(2.0), StudentT(5.0), StudentT(2.1, 0.3), GeneralizedNormal(1.37)),
    GeneralizedNormal(0.8, 0.3),
    Mixture((0.9, 0.1), (Normal(), Laplace(3.0))),
    Empirical(np.linspace(-1.0, 3.0, 9)),
    Normal().with_outliers(rate=0.01, magnitude=20.0),
    Laplace(0.3).with_outliers(count=3, value=9.0, layout="column", sign="positive"),
    StudentT(5.0).with_outliers(rate=0.1, magnitude=7.0, layout="row", values="spread"),
    Normal().with_outliers(rate=0.05, magnitude=9.0, layout="block", block=16, sign="negative"),
    Normal().with_outliers(rate=0.01, magnitude=5.0).with_outliers(count=2, magnitude=50.0, layout="row"),
    Mixture((0.5, 0.5), (StudentT(3.0), Normal(0.5).with_outliers(rate=0.1, value=4.0))),
    Empirical(np.linspace(-1.0, 3.0, 9)).with_outliers(rate=0.1, value=9.0),
]
SHAPE = (7, 99)


def _kinds(cls):
    return {cls} | {k for sub in cls.__subclasses__() for k in _kinds(sub)}


def test_every_family_is_among_them():
    public = {k for k in _kinds(Population) - {Population} if k.__module__.startswith("quantsim.")}
    assert {type(p) for p in POPULATIONS} == public
    assert Contaminated in public


@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
def test_a_population_comes_back(pop):
    structure, numbers = split_population(pop)
    again = rebuild_population(structure, numbers)
    assert (again, str(again), type(again)) == (pop, str(pop), type(pop))
    assert hash(structure) == hash(split_population(again)[0])
    ours, others = (jax.tree.flatten(one._sampler()) for one in (pop, again))  # all that a draw depends on
    assert ours[1] == others[1]
    for leaf, other in zip(ours[0], others[0], strict=True):
        np.testing.assert_array_equal(leaf, other)


#: Bits that a traced number may cost: see CASES of test_traces.py. A traced df or beta enters an exponent.
EXPONENTS = (StudentT, GeneralizedNormal)


def _has_exponent(pop):
    parts = (*getattr(pop, "components", ()), *([pop.bulk] if isinstance(pop, Contaminated) else []))
    return isinstance(pop, EXPONENTS) or any(_has_exponent(p) for p in parts)


@pytest.mark.parametrize("pop", POPULATIONS, ids=str)
def test_a_population_of_traced_numbers_draws_the_same(pop):
    """What a sampler needs is worked out of traced numbers; the draw itself is one program for a structure.

    Both in one program are in test_traces.py.
    """
    structure, numbers = split_population(pop)
    sampler = jax.jit(lambda numbers: with_float32_leaves(rebuild_population(structure, numbers)._sampler()))
    drawn = samplers.drawn(sampler(np.float32(numbers)), key(2), words_of(0), SHAPE, SHAPE if pop._placed else ())
    expected = pop.sample(key(2), SHAPE)
    if _has_exponent(pop):
        np.testing.assert_allclose(drawn, expected, rtol=3e-6)
    else:
        assert oracles.ulps(drawn, expected) <= 3


def test_populations_of_one_structure():
    parse = qs.populations.parse
    same = [
        ("normal", "normal(std=3)"),
        ("t5", "t3(std=2)"),
        ("gennorm(beta=1.5)", "gennorm(beta=0.8,std=2)"),
        ("normal+outliers(rate=0.1,magnitude=9)", "normal(std=2)+outliers(rate=0.2,magnitude=3)"),
        ("mixture(0.9*normal+0.1*normal(std=3))", "mixture(0.9*normal+0.1*normal(std=5))"),
    ]
    structures = [{split_population(parse(text))[0] for text in texts} for texts in same]
    assert [len(found) for found in structures] == [1] * len(same)
    assert len(set.union(*structures)) == len(same)
    others = ["laplace", "normal+outliers(rate=0.1,value=9)", "normal+outliers(count=2,magnitude=9)",
              "normal+outliers(count=3,magnitude=9)", "normal+outliers(rate=0.1,magnitude=9,layout=row)",
              "mixture(0.8*normal+0.2*normal(std=3))"]  # fmt: skip
    assert len({split_population(parse(text))[0] for text in ("normal", *others)}) == 1 + len(others)
