"""Scales as they are stored: GGUF's own e4m3, scales too small for a range, blocks that share one float16 number."""

import numpy as np
import pytest

import quantsim as qs
from quantsim import theory
from quantsim.populations import Laplace, Normal, Uniform, key
from quantsim.theory import minmax

CODES = np.arange(-127, 128)


def deviation(pop, spec):
    """Measured less predicted error of 2^20 weights in blocks of 32, in standard errors over the blocks."""
    w = np.asarray(pop.sample(key(5), (2**14, 64)), np.float64)
    e2 = ((np.asarray(qs.parse(spec).roundtrip(w), np.float64) - w) ** 2).reshape(2**14, 64).mean(axis=1)
    expected = theory.weight_mse(pop, qs.parse(spec))
    return (e2.mean() - expected) / (e2.std(ddof=1) / e2.size**0.5)


@pytest.mark.parametrize("std", [0.038, 1.0, 700.0])
def test_gguf_e4m3_ends_early_on_both_sides(std):
    # k = 4.5; plain e4m3 scales are 1.8 % off at .038, where they may not be 2^-6, and 26 % at 700, where 256 is 448
    assert abs(deviation(Normal(std), "nvfp4:gguf")) < 4.5


@pytest.mark.parametrize("spec", ["int8:block32:minmax:bf16", "int8:block32:minmax:f16", "int8:block32:minmax"])
@pytest.mark.parametrize("pop", [Uniform(), Normal()], ids=str)
def test_a_minmax_scale_stored_too_small_clips_the_maximum(pop, spec):
    # k = 4.5; without the clipped end bf16 is 2 % off
    assert abs(deviation(pop, spec)) < 4.5


def test_blocks_that_are_alike_share_one_float16_scale():
    # the absmax of 2^20 uniform weights lies within 2e-5 of the edge, far inside one float16 step of the scale
    scale = float(np.float16(3**0.5 / 127))
    found = theory.weight_rel_mse(Uniform(), qs.parse("int8:tensor:absmax:f16"), (1024, 1024))
    assert found == pytest.approx(theory.levels_mse(Uniform(), scale * CODES), rel=2e-5)
    exact = theory.weight_rel_mse(Uniform(), qs.parse("int8:tensor"), (1024, 1024))
    assert abs(found / exact - 1) > 1e-4  # not what a scale spread over its step gives


@pytest.mark.parametrize("step", [0.01, 0.1, 1.0, 4.0])
@pytest.mark.parametrize("pop", [Laplace(), Normal()], ids=str)
def test_multiples_of_a_step_err_as_noise_theory_says(pop, step):
    # cut at 8 std, where the slope of Laplace leaves step^2 |f|(8) / 15 = 8e-7 step^2
    expected = theory.quantization_noise(pop, step).mse * 12 / step**2
    assert minmax._near_zero(pop, step) == pytest.approx(expected, rel=1e-6)
