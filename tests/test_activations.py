"""Activations: slices of one whole, moments of the closed forms, fixed sets, specs that read back."""

import numpy as np
import pytest
from scipy.integrate import quad

import quantsim as qs
from quantsim.populations import parse_activations, second_moment
from quantsim.populations.law import NoDistributionError

CHANNELS, TOKENS = 6, 40_000
SPECS = [
    "normal",
    "t8(std=2)",
    "normal+outliers(rate=0.01,magnitude=10)",
    "ar(rho=0.9)",
    "lowrank(rank=3,noise=0.2,seed=5)",
    "swiglu(std=2)",
    "normal(std=2)+channels(magnitude=30,count=2)",
    "ar(rho=-0.5,std=2)+relu",
    "normal+shift(mean=0.5)+relu+massive(rate=0.1,value=20,count=2)",
    "normal+constant(rate=0.2)+shift(mean=-1)",
    "ar(rho=0.5)+channels(magnitude=5,rate=0.2,seed=4)+relu",
]


def drawn(spec, shape=(TOKENS, CHANNELS), seed=3, start=0):
    return np.asarray(parse_activations(spec).sample(qs.populations.key(seed), shape, start=start))


@pytest.mark.parametrize("spec", SPECS)
def test_draws_have_the_moments_that_are_stated_and_chunks_are_slices(spec):
    """27 numbers of each of 11 populations: 5 standard errors of 40,000 tokens leave a chance of 2e-4 in all."""
    pop = parse_activations(spec)
    assert parse_activations(str(pop)) == pop
    x = drawn(spec)
    wide = x.astype(np.float64)
    products = wide[:, :, None] * wide[:, None, :]
    # where a product hardly varies, the draws' 23-bit uniforms and float32 leave an error of 1e-6
    off = np.abs(products.mean(0) - pop.second_moment(CHANNELS))
    assert (off <= 5 * products.std(0) / np.sqrt(TOKENS) + 1e-6).all()
    off = np.abs(wide.mean(0) - pop.mean(CHANNELS))
    assert (off <= 5 * wide.std(0) / np.sqrt(TOKENS) + 1e-6).all()
    np.testing.assert_allclose(second_moment(x), wide.T @ wide / TOKENS, rtol=1e-12, atol=1e-12)
    for first, last in ((3, 10), (TOKENS - 7, TOKENS)):
        np.testing.assert_array_equal(drawn(spec, (last - first, CHANNELS), start=first), x[first:last])


def test_outlier_channels_are_the_same_for_every_key_and_are_a_factor():
    spec = "normal+channels(magnitude=32,count=3,seed=7)"
    for seed in (0, 1):
        x, plain = drawn(spec, (16, 64), seed), drawn("normal", (16, 64), seed)
        hit = parse_activations(spec).steps[0].channels(64)
        rest = np.setdiff1d(np.arange(64), hit)
        assert len(set(hit)) == 3
        np.testing.assert_array_equal(x[:, hit], 32 * plain[:, hit])
        np.testing.assert_array_equal(x[:, rest], plain[:, rest])


def test_massive_activations_and_constant_rows_are_those_of_some_tokens():
    x = drawn("normal+massive(rate=0.25,value=500,count=2)", (4000, 8))
    hit = (x == 500).any(1)
    assert ((x == 500).sum(1)[hit] == 2).all()
    assert len(np.unique(np.argwhere(x == 500)[:, 1])) == 2
    assert abs(hit.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)
    x = drawn("normal+constant(rate=0.25)", (4000, 8))
    same = (x == x[:, :1]).all(1)
    assert abs(same.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize("std", [0.1, 1.0, 8.0])
def test_the_power_of_a_gate_is_that_of_an_adaptive_quadrature(std):
    def power(z):
        a = std * z
        return (a / (1 + np.exp(-a))) ** 2 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    exact = quad(power, -15, 0, epsabs=0, epsrel=1e-11)[0] + quad(power, 0, 15, epsabs=0, epsrel=1e-11)[0]
    assert parse_activations(f"swiglu(std={std})").second_moment(1).item() == pytest.approx(std**2 * exact, rel=1e-10)


BAD = {
    "normal+channels(magnitude=3)": "one of the two",
    "normal+channels(magnitude=3,count=1,rate=0.1)": "one of the two",
    "normal+channels(magnitude=3,rate=1.5)": "between 0 and 1",
    "normal+massive(rate=-0.1,value=2)": "between 0 and 1",
    "normal+massive(rate=0.1,value=2,count=0)": "at least 1",
    "ar(rho=1.5)": "between -1 and 1",
    "ar(std=1)": "takes rho, std",
    "lowrank(rank=0)": "at least 1",
    "relu": "start with a law",
    "normal+relu+outliers(rate=0.1,magnitude=3)": "is no step",
    "gauss": "unknown population",
    "normal+outliers(rate=0.01,magnitude=3,layout=column)": "channels",
}


@pytest.mark.parametrize(("spec", "message"), BAD.items())
def test_bad_specs_say_what_is_wrong(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_activations(spec)


def test_what_has_no_moments_or_too_few_channels_says_so():
    with pytest.raises(NoDistributionError, match="relu"):
        parse_activations("swiglu+relu").second_moment(4)
    with pytest.raises(ValueError, match="9 channels are singled out of 8"):
        drawn("normal+channels(magnitude=3,count=9)", (2, 8))
    with pytest.raises(ValueError, match=r"\(tokens, channels\)"):
        parse_activations("normal").sample(qs.populations.key(0), (2, 3, 4))
    with pytest.raises(ValueError, match="at least one token"):
        second_moment(np.zeros((0, 4)))
    assert parse_activations("swiglu").sample(qs.populations.key(0), (0, 4)).shape == (0, 4)
