"""theory.weight_mse in closed form, in its limits, as published, and where there is none."""

import math
import re

import numpy as np
import pytest

import quantsim as qs
from quantsim import formats, theory
from quantsim.populations import Empirical, GeneralizedNormal, Laplace, Mixture, Normal, StudentT, Uniform
from quantsim.theory import (
    NoTheoryError,
    ShapeNeededError,
    has_weight_theory,
    weight_mean_abs,
    weight_mse,
    weight_rel_mse,
)
from tests import test_block_contract, test_contract

POPULATIONS = {"normal": Normal(), "laplace": Laplace(), "uniform": Uniform()}

# --- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 32, 1000])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_uniform_integers_in_closed_form(bits, n):
    """E[max^2] is n / (n + 2) of the edge squared, 3; errors of the others and of the extreme in units of the step."""
    power = 3 * n / (n + 2)
    top, cells, others, alone = 2 ** (bits - 1) - 1, 2.0**bits, (n - 1) / n, 1 / n
    cases = {
        "": (top, 1 / 12, 0.0),
        ":absmax:half": (top + 0.5, 1 / 12, 1 / 4),
        # cells of 1/12, half a cell at the bottom, one and a half at the top; +extreme is a step off
        ":absmax:full": (top + 1, ((cells - 2) / 12 + 1 / 12 + 1 / 3) / cells, 1 / 2),
        ":absmax:signed": (top + 1, ((cells - 2) / 12 + 1 / 12 + 1 / 3) / cells, 0.0),
        ":absmax:stochastic": (top, 1 / 6, 0.0),
    }
    for option, (reach, other, extreme) in cases.items():
        expected = power / reach**2 * (others * other + alone * extreme)
        found = weight_rel_mse(Uniform(), qs.parse(f"int{bits}:block{n}{option}"))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-15), option


def test_two_ternary_weights_by_hand():
    # Laplace, b = 1: the smaller x under the larger t costs x^2 where t > 2x and (t - x)^2 where t < 2x:
    # integral of x^2 e^-3x = 2/27, and half of that; together 1/9, twice two pairs over two weights, of E[x^2] = 2
    assert weight_rel_mse(Laplace(), qs.parse("int2:block2")) == pytest.approx(1 / 18, rel=1e-9)
    # normal: over the angle, sin^2 up to arctan 1/2, then (cos - sin)^2 up to 45 degrees
    smaller, larger = math.atan(0.5) / 2 - 1 / 5, math.pi / 4 - math.atan(0.5) - 3 / 10
    expected = 4 / math.pi * (smaller + larger)
    assert weight_rel_mse(Normal(), qs.parse("int2:block2")) == pytest.approx(expected, rel=1e-9)


def test_a_weight_alone_is_exact():
    for pop in (*POPULATIONS.values(), StudentT(3.0), Empirical([-1.0, 0.0, 2.0])):
        for spec in ("int2:block1", "int8:block1:minmax", "nf4:block1:p40", "e2m1:block1", "int4:block1:absmax:signed"):
            assert weight_rel_mse(pop, qs.parse(spec)) == pytest.approx(0, abs=1e-15)


# --- limits ---------------------------------------------------------------------------------------------------------


def test_many_uniform_weights_reach_their_edge():
    for name in ("int4", "nf4", "e2m1"):
        levels = formats.levels(formats.parse(name)) / formats.reach(formats.parse(name)) * 3**0.5
        expected = theory.levels_mse(Uniform(), levels)
        found = [weight_rel_mse(Uniform(), qs.parse(f"{name}:tensor"), (n, 1000)) for n in (10, 10**6)]
        assert abs(found[1] / expected - 1) < 1e-6 < 1e-5 < abs(found[0] / expected - 1)
    # both edges lie half a step beyond the level 7 or -7 of 15 in use, since zero must be one: cells are whole
    found = weight_rel_mse(Uniform(), qs.parse("int4:tensor:minmax"), (10**6, 1000))
    assert found == pytest.approx((2 * 3**0.5 / 15) ** 2 / 12, rel=1e-6)


def test_the_hundredth_percentile_is_the_maximum():
    for name, pop in POPULATIONS.items():
        for n in (2, 32, 1000):
            same = [weight_rel_mse(pop, qs.parse(f"int4:block{n}{option}")) for option in (":p100", "")]
            assert same[0] == pytest.approx(same[1], rel=3e-6), (name, n)


def test_nvfp4_lies_among_e4m3_scales_of_every_phase():
    phases = [
        weight_rel_mse(Normal(2.0 ** (k / 8)), qs.parse("e2m1:block16:absmax:e4m3")) for k in range(8)
    ]  # without subnormal scales, like the blocks of a tensor that is not very large
    assert min(phases) < weight_rel_mse(Normal(), qs.parse("nvfp4"), (4096, 4096)) < max(phases)


@pytest.mark.parametrize(
    "spec", ["int4:block32", "mxfp4", "q4_0", "q8_0", "q4_1", "int4:block32:p90", "int4:block32:minmax:f16", "bf16"]
)
def test_powers_of_two_change_nothing(spec):
    one, other = (weight_rel_mse(Normal(std), qs.parse(spec)) for std in (1.0, 2.0**-4))
    assert one == pytest.approx(other, rel=1e-9)


# --- published, and errors ------------------------------------------------------------------------------------------

PUBLISHED = {  # bitsandbytes, tests: mean |error| of normal weights in blocks of 32, 64, … 4096
    "nf4": [0.067746, 0.072798, 0.076831, 0.080337, 0.083547, 0.086610, 0.089592, 0.092547],
    "fp4": [0.088925, 0.096543, 0.102969, 0.108684, 0.114115, 0.119333, 0.124556, 0.129536],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_mean_errors_that_bitsandbytes_publishes(name):
    for k, published in enumerate(PUBLISHED[name]):  # 200 draws, standard deviation below 6e-4; 4 standard errors
        assert abs(weight_mean_abs(Normal(), qs.parse(f"{name}:block{32 << k}")) - published) < 4 * 6e-4 / 200**0.5


#: Spec, population, shape, and what the message says: what is wrong, where, and what to do.
REFUSED = [
    ("q4_k", "normal", None, "no theory for q4_k.*searched.*quantsim.sweep.measure"),
    ("iq4_xs", "normal", None, "no theory for iq4_xs.*quantsim.sweep.measure"),
    ("int4:block32:mse", "normal", None, "no theory for int4:block32:mse.*quantsim.sweep.measure"),
    (
        "int3:block32:rms",
        "laplace",
        None,
        "rms scales of 32 weights.*blocks of 1280 and more, or measure",
    ),
    ("int8:tensor", "normal", None, "tensor needs the shape of the array: pass shape="),
    ("int8:channel", "normal", None, "channel needs the shape of the array: pass shape="),
    ("nvfp4", "normal", None, "tensor needs the shape of the array: pass shape="),
    ("int4:block32", "normal+outliers(count=3,magnitude=9)", None, "give its outliers a rate instead of a count"),
    ("int8:tensor", "normal", (0, 4), r"shape \(0, 4\) has no weights"),
    (
        "e2m1:block16:fouroversix",
        Empirical(np.linspace(-1, 1, 201)),
        None,
        "choice between two scales where weights have more than 64 values.*quantsim.sweep.measure",
    ),
    ("e2m1:block16:fouroversix:e4m3+f32", "normal", None, "tensor needs the shape of the array: pass shape="),
    ("e2m1:block16:fouroversix:stochastic", "normal", None, "no theory for e2m1:block16:fouroversix:stochastic"),
    *(
        (
            "int4:block32",
            f"normal+outliers({placed},magnitude=9)",
            None,
            "not independent.*by rate and element, for example",
        )
        for placed in ("rate=0.1,layout=row", "rate=0.1,layout=column", "rate=0.1,layout=block")
    ),
]


def is_searched(spec):
    """Whether scales are tried, or are a percentile or an rms that is stored relative to the tensor."""
    tried = any(word in spec for word in (":mse", ":search"))
    relative = spec.endswith("+f32") and any(word in spec for word in (":p9", ":rms"))
    return spec in test_block_contract.SEARCHED or tried or relative


def test_every_quantizer_has_a_theory_but_those_that_search():
    for spec in [*test_contract.CASES, *test_block_contract.CASES]:
        if is_searched(spec):
            with pytest.raises(ValueError, match=f"no theory for {re.escape(spec)}"):
                qs.parse(spec).scheme((256, 1024))
        else:
            assert qs.parse(spec).scheme((256, 1024)).format.bits > 1


@pytest.mark.parametrize(("spec", "pop", "shape", "message"), REFUSED)
def test_what_has_no_theory_is_refused(spec, pop, shape, message):
    pop, q = qs.populations.parse(pop) if isinstance(pop, str) else pop, qs.parse(spec)
    kind = ShapeNeededError if "pass shape=" in message else ValueError if "no weights" in message else NoTheoryError
    for mean in (weight_mse, weight_rel_mse, weight_mean_abs) if "rms" not in spec else (weight_mse, weight_rel_mse):
        with pytest.raises(kind, match=message):
            mean(pop, q, shape)
    if kind is NoTheoryError:
        assert not has_weight_theory(pop, q, shape)
    else:
        with pytest.raises(kind, match=message):
            has_weight_theory(pop, q, shape)


def test_the_question_that_can_be_asked_first_has_the_same_answer():
    """For every quantizer; the normal mean squared errors themselves take too long for those that have one."""
    for spec in [*test_contract.CASES, *test_block_contract.CASES]:
        assert has_weight_theory(Normal(), qs.parse(spec), (256, 1024)) != is_searched(spec), spec


@pytest.mark.parametrize("spec", ["bf16", "int4:block32", "q8_0"])
def test_relative_to_the_second_moment(spec):
    """At a standard deviation of 0.02 the two differ by 2500."""
    pop, q = Laplace(0.02), qs.parse(spec)
    assert weight_mse(pop, q) == pytest.approx(weight_rel_mse(pop, q) * 0.02**2, rel=1e-12)
    assert weight_mse(pop, q) == pytest.approx(weight_mse(Laplace(), q) * 0.02**2, rel=2e-3)  # f16 scales move a bit


@pytest.mark.parametrize(
    "spec", ["int4:block32:minmax", "int3:block32:rms", "bf16:truncate", "e2m1:block16:fouroversix"]
)
def test_mean_errors_of_other_laws_are_refused(spec):
    with pytest.raises(NoTheoryError, match=f"known for rounding to nearest.*not for {spec}"):
        weight_mean_abs(Normal(), qs.parse(spec))


@pytest.mark.parametrize("pop", [Mixture((0.5, 0.5), (Normal(), Laplace())), GeneralizedNormal(0.7), StudentT(2.5)])
def test_casts_need_no_shape(pop):
    """And a float32 is what weights are."""
    assert weight_rel_mse(pop, qs.parse("f32")) == 0
    assert 0 < weight_rel_mse(pop, qs.parse("bf16")) == weight_rel_mse(pop, qs.parse("bf16"), (4, 4)) < 4e-6
