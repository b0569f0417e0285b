"""Populations fitted to tensors, and what they predict."""

import numpy as np
import pytest

from quantsim import theory
from quantsim.inspection.fitting import CANDIDATES, fit, with_std
from quantsim.inspection.pieces import Matrix
from quantsim.inspection.predicting import predict
from quantsim.inspection.signal import signal_of
from quantsim.populations import Laplace, Normal, StudentT, Uniform, key
from quantsim.quantizer import parse

N = 2**18
SCALES_OF_FEW_BITS = (
    *("nvfp4:single", "nvint4:single", "nvfp4:gguf", "mxfp4:gguf", "mxint4", "int4:block32:absmax:e8m0:rceil"),
    *("e2m1:block16:absmax:ue4m3", "e2m1:block16:absmax:ue4m3+f32", "regular64(e2m1:block16:absmax:ue4m3)"),
)
# Kolmogorov: the distance of n draws from their own distribution exceeds 1.95 / sqrt(n) once in a thousand tensors. A
# grid of scales of 16 an octave adds at most half a step, 2.2 %, times max x pdf(x) over x, below 0.5 for all of these.
BY_CHANCE = 1.95 / N**0.5 + 0.022 * 0.5


def fitted(w):
    flat = np.asarray(w, np.float32).reshape(-1)
    return fit(signal_of(lambda first, count: flat[first : first + count], Matrix(64, flat.size // 64)))


@pytest.mark.parametrize("shape", CANDIDATES, ids=str)
def test_draws_of_a_population_look_like_it(shape):
    w = with_std(shape, 0.02).sample(key(3), (N,))
    found = fitted(w)
    assert found.distance < BY_CHANCE
    assert type(found.population) is type(shape)
    assert str(with_std(found.population, 1.0)) == str(shape)


@pytest.mark.parametrize("pop", [Normal(0.02), Laplace(0.02), StudentT(8, 0.02)], ids=str)
def test_outliers_that_no_such_population_has_are_counted(pop):
    w = np.array(pop.sample(key(0), (N,)))
    clean = fitted(w)
    assert clean.stray <= 1  # one tensor in twenty has one
    w[:7] = 5.0
    found = fitted(w)
    assert found.stray >= 7
    assert found.stray <= 7 + clean.stray


def test_the_crest_of_the_population():
    found = fitted(Normal(0.02).sample(key(1), (N,)))
    assert found.crest == pytest.approx(theory.expected_absmax(Normal(), N), rel=0.03)  # a step of the grid of scales


def test_zeros_and_few_weights():
    w = np.array(Uniform(1.0).sample(key(0), (N,)))
    w[: N // 2] = 0
    assert str(with_std(fitted(w).population, 1.0)) == "uniform"
    assert fitted(np.zeros(128)) is None
    assert fitted(np.concatenate([np.ones(60), np.zeros(4)])) is None


@pytest.mark.parametrize("spec", ["q8_0", "mxfp4", "nf4:block64"])
def test_draws_predict_what_theory_does(spec):
    q, pop = parse(spec), StudentT(8, 0.03)
    found = predict(pop, q, Matrix(256, 1024))
    assert found.by == "draws"
    exact = theory.weight_rel_mse(pop, q, (1024, 1024)) ** 0.5
    assert abs(found.rel_rms - exact) < 4 * found.se
    assert found.se < 0.01 * exact


@pytest.mark.parametrize("std", [0.02, 0.0025])
@pytest.mark.parametrize("spec", SCALES_OF_FEW_BITS)
def test_small_weights_are_predicted_as_small(spec, std):
    """Few exponents of a scale, without one of the tensor, leave small weights none; powers of two round by octaves."""
    q, pop = parse(spec), Normal(std)
    found = predict(pop, q, Matrix(256, 1024))
    assert found.by == "draws"
    assert abs(found.rel_rms - theory.weight_rel_mse(pop, q, (512, 1024)) ** 0.5) < 4 * found.se


def test_theory_predicts_where_shapes_matter():
    q = parse("int8:channel")
    found = [predict(Normal(0.02), q, Matrix(64, columns)) for columns in (128, 1024)]
    assert {p.by for p in found} == {"theory"}
    assert found[0].rel_rms < found[1].rel_rms
    assert found[1].rel_rms == theory.weight_rel_mse(Normal(), q, (64, 1024)) ** 0.5


def test_a_constant_is_like_no_population():
    assert fitted(np.full((64, 64), 3.0, np.float32)).distance > 0.5
