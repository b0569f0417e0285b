"""Depth, iteration and softmax: predictions against brute force in NumPy, quadrature and special cases."""

import itertools
import math
from functools import lru_cache

import numpy as np
import pytest
from scipy import integrate, special

from quantsim import theory
from quantsim.theory.depth import normalized_stack_error, residual_stack_error, stack_error
from quantsim.theory.iteration import ddim_error, ddim_steps, geometric_error, iterated_error
from quantsim.theory.softmax import softmax_kl, softmax_tv


def agrees(sample, expected, k=4):
    """Whether the mean of independent draws is within k standard errors of what is expected."""
    sample = np.asarray(sample)
    return abs(sample.mean() - expected) <= k * sample.std(ddof=1) / math.sqrt(sample.size)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


WIDTH, DEPTH, RHO, TRIALS = 64, 6, 0.1, 40


@lru_cache
def rotations():
    """Random orthogonal matrices, one for each layer of each trial."""
    q, r = np.linalg.qr(np.random.default_rng(8).normal(size=(TRIALS, DEPTH, WIDTH, WIDTH)))
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]  # else reflections, correlated with I


def unit(v):
    return v / np.linalg.norm(v)


def square_errors(rng, update, *, rho=0.0, gain=1.0):
    """Relative squared error after DEPTH layers, from real matrices with white errors: one number a trial."""
    found = []
    for matrices in rotations():
        h = h_hat = unit(rng.normal(size=WIDTH))
        for w in matrices:
            e = rng.normal(size=w.shape) * (rho / math.sqrt(WIDTH)) if rho else 0.0
            h, h_hat = update(w, h), update(gain * w + e, h_hat)
        found.append(np.sum((h_hat - h) ** 2) / np.sum(h * h))
    return found


def test_errors_of_a_plain_stack(rng):
    assert agrees(square_errors(rng, lambda w, h: w @ h, rho=RHO), stack_error(RHO, DEPTH) ** 2)


def test_errors_of_a_normalized_stack(rng):
    # large errors, where the norm matters: without it 1.25^6 - 1 = 2.8 instead of 0.98
    found = square_errors(rng, lambda w, h: unit(w @ h), rho=0.5)
    assert agrees(found, normalized_stack_error(0.5, DEPTH) ** 2)
    assert stack_error(0.5, DEPTH) ** 2 > 2.5


@pytest.mark.parametrize("branch", [1.0, 0.5])
def test_errors_of_a_residual_stack(rng, branch):
    # to first order: rho^2 = 10^-4; the model holds to 2 / width, half a standard error
    found = square_errors(rng, lambda w, h: h + branch * w @ unit(h), rho=0.01)
    assert agrees(found, residual_stack_error(0.01, DEPTH, branch=branch) ** 2)


@pytest.mark.parametrize("branch", [1.0, 0.5])
def test_a_gain_in_a_residual_stack(rng, branch):
    found = square_errors(rng, lambda w, h: h + branch * w @ unit(h), gain=1.001)
    expected = residual_stack_error(0.001, DEPTH, branch=branch, gain=True) ** 2
    assert agrees(found, expected)
    assert expected < residual_stack_error(0.001, DEPTH, branch=branch) ** 2


def test_depth_in_special_cases():
    # a common gain of 1 + rho a layer is off by (1 + rho)^L - 1 in a plain stack, and by nothing behind a norm
    assert stack_error(0.03, 7, gain=True) == pytest.approx(1.03**7 - 1, rel=1e-13)
    assert normalized_stack_error(0.03, 7, gain=True) == 0.0
    assert stack_error(1e-9, 100) == pytest.approx(1e-8, rel=1e-12)
    assert normalized_stack_error(1e-9, 100) == pytest.approx(1e-8, rel=1e-12)
    assert normalized_stack_error(3.0, 10**6) == pytest.approx(math.sqrt(2), rel=1e-12)
    # the digamma difference against the sum of its recursion, and the logarithm that it tends to
    for branch in (0.1, 1.0, 5.0):
        steps = branch**2 / (1 + np.arange(1, 101) * branch**2)
        assert residual_stack_error(0.02, 100, branch=branch) == pytest.approx(0.02 * math.sqrt(steps.sum()), rel=1e-9)
    assert residual_stack_error(1.0, 10**6, branch=0.01) == pytest.approx(math.sqrt(math.log(101)), rel=1e-3)
    # one branch with a gain: only its own output is off
    assert residual_stack_error(0.02, 1, branch=2.0, gain=True) == pytest.approx(0.02 * math.sqrt(4 / 5), rel=1e-12)
    assert stack_error(10.0, 10**6) == math.inf


@pytest.mark.parametrize("factor", [-1.1, -1.0, -0.5, 0.0, 0.9, 1 - 1e-12, 1.0, 1 + 1e-9, 1.2])
@pytest.mark.parametrize("persistent", [True, False])
def test_geometric_sums(factor, persistent):
    expected = iterated_error(np.full(60, factor), persistent=persistent)
    assert geometric_error(factor, 60, persistent=persistent) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert geometric_error(factor, 1, persistent=persistent) == 1.0
    powers = np.float64(factor) ** np.arange(60)
    direct = abs(powers.sum()) if persistent else math.sqrt((powers**2).sum())
    assert expected == pytest.approx(direct, rel=1e-12, abs=1e-12)


def test_iterations_by_brute_force(rng):
    a, c, count = np.array([0.5, 1.3, -0.8, 0.9]), np.array([1.0, 0.2, 2.0, -0.5]), 50_000
    for persistent in (False, True):
        once, x = rng.normal(size=count), np.zeros(count)
        for factor, size in zip(a, c, strict=True):
            x = factor * x + size * (once if persistent else rng.normal(size=count))
        assert agrees(x**2, iterated_error(a, c, persistent=persistent) ** 2)
    assert geometric_error(2.0, 5000) == math.inf


SCHEDULE = np.cos(np.linspace(1.5, 0.0, 21)) ** 2  # 20 updates


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0, 4.0])
def test_ddim_on_normal_data_by_brute_force(rng, s):
    # the update as published, with the exact conditional mean of the noise as its prediction
    count = 20_000
    for persistent in (False, True):
        x = clean = rng.normal(size=count) * math.sqrt(SCHEDULE[0] * s**2 + 1 - SCHEDULE[0])
        once = rng.normal(size=count)
        for old, new in itertools.pairwise(SCHEDULE):
            e = once if persistent else rng.normal(size=count)
            noises = (math.sqrt(1 - old) * v / (old * s**2 + 1 - old) for v in (x, clean))
            steps = []
            for v, noise in zip((x, clean), (next(noises) + 0.01 * e, next(noises)), strict=True):
                data = (v - math.sqrt(1 - old) * noise) / math.sqrt(old)
                steps.append(math.sqrt(new) * data + math.sqrt(1 - new) * noise)
            x, clean = steps
        assert agrees((x - clean) ** 2 / 1e-4, ddim_error(SCHEDULE, s, persistent=persistent) ** 2)


def test_ddim_in_special_cases():
    # unit data: rotations by angles whose cosines are sqrt(alpha-bar), 1.5 / 20 each; c = -sin(step) / cos(old angle)
    a, c = ddim_steps(SCHEDULE, 1.0)
    np.testing.assert_allclose(a, np.cos(0.075), rtol=1e-12)
    np.testing.assert_allclose(c, -np.sin(0.075) / np.cos(np.linspace(1.5, 0.0, 21)[:-1]), rtol=1e-9)
    # many updates follow the exact flow: the noisy standard deviation is carried into that of the data
    fine = np.cos(np.linspace(1.5, 0.0, 20_001)) ** 2
    for s in (0.5, 3.0):
        noisy = math.sqrt(fine[0] * s**2 + 1 - fine[0])
        assert np.prod(ddim_steps(fine, s)[0]) * noisy == pytest.approx(s, rel=1e-3)
    # data in one point: only the last update counts
    assert ddim_error(SCHEDULE, 0.0) == pytest.approx(math.sqrt(1 / SCHEDULE[-2] - 1), rel=1e-12)
    assert ddim_error(SCHEDULE, 0.0, persistent=True) == ddim_error(SCHEDULE, 0.0)


def test_total_variation_of_two_classes_by_quadrature():
    # TV = |sigma(l + d) - sigma(l)| with d normal of variance 2 v; the ratio tends to 1, its distance as v
    for gap in (0.0, 1.0, 3.0):
        ratios = []
        for rms in (0.2, 0.1, 0.05, 0.005):
            spread = math.sqrt(2) * rms

            def integrand(t, gap=gap, spread=spread):
                change = special.expit(gap + spread * t) - special.expit(gap)
                return abs(change) * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

            exact = sum(integrate.quad(integrand, *ends, epsrel=1e-12)[0] for ends in ((-12, 0), (0, 12)))
            ratios.append(softmax_tv([gap, 0.0], rms) / exact - 1)
        off = np.abs(ratios)
        assert off[0] < 0.05
        assert off[0] / off[1] == pytest.approx(4, rel=0.1)
        assert off[1] / off[2] == pytest.approx(4, rel=0.05)
        assert off[3] < 1e-4


def test_divergence_of_three_classes_by_quadrature():
    # Gauss-Hermite over the noise of three logits; both directions of the divergence; distance of the ratio as v
    logits = np.array([1.0, -0.5, 0.2])
    t, w = np.polynomial.hermite_e.hermegauss(16)
    d = np.stack(np.meshgrid(t, t, t), axis=-1).reshape(-1, 3)
    weight = np.prod(np.stack(np.meshgrid(w, w, w), axis=-1).reshape(-1, 3), axis=1) / math.sqrt(2 * math.pi) ** 3
    log_p = special.log_softmax(logits)
    off = []
    for rms in (0.2, 0.1, 0.05, 0.005):
        log_q = special.log_softmax(logits + rms * d, axis=1)
        exact = weight @ (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        reverse = weight @ (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
        off.append([abs(softmax_kl(logits, rms) / v - 1) for v in (exact, reverse)])
    off = np.array(off)
    assert np.all(off[0] < 0.05)
    np.testing.assert_allclose(off[:2] / off[1:3], 4, rtol=0.1)
    assert np.all(off[3] < 1e-4)


def test_softmax_under_noise_by_brute_force(rng):
    logits, rms = rng.normal(0, 2, (3, 50)), 0.01
    p = special.softmax(logits, axis=1)
    noisy = special.softmax(logits + rms * rng.normal(size=(4000, 3, 50)), axis=-1)
    tv, kl = np.abs(noisy - p).sum(axis=-1) / 2, (p * np.log(p / noisy)).sum(axis=-1)
    for row in range(3):
        assert agrees(tv[:, row], softmax_tv(logits, rms)[row])
        assert agrees(kl[:, row], softmax_kl(logits, rms)[row])


def test_softmax_in_special_cases():
    # n equal logits: v / 2 (1 - 1/n) and sqrt((1 - 1/n) v / (2 pi)); one class is certain
    n = 8
    assert softmax_kl(np.zeros(n), 0.1) == pytest.approx(0.005 * (1 - 1 / n), rel=1e-12)
    assert softmax_tv(np.zeros(n), 0.1) == pytest.approx(math.sqrt((1 - 1 / n) * 0.01 / (2 * math.pi)), rel=1e-12)
    assert softmax_kl([3.0], 0.1) == softmax_tv([3.0], 0.1) == 0.0
    for f in (softmax_kl, softmax_tv):
        assert f([1000.0, 999.0], 0.1) == pytest.approx(f([1.0, 0.0], 0.1), rel=1e-12)


@pytest.mark.parametrize("branch", [None, 0.5, 1.0])
def test_followed_errors_are_the_closed_forms_without_a_nonlinearity(branch):
    rho, layers = 1e-3, 30
    found = theory.followed_errors(np.full(layers, rho), branch=branch)
    for layer in (1, 7, layers):
        closed = stack_error(rho, layer) if branch is None else residual_stack_error(rho, layer, branch=branch)
        assert found[layer - 1] == pytest.approx(closed, rel=1e-4)  # to first order: rho^2 layers / 4 = 10^-5
    with pytest.raises(ValueError, match="at least one layer"):
        theory.followed_errors([])


def test_an_error_behind_tanh_is_followed(rng):
    def update(w, h):
        return math.sqrt(WIDTH) * unit(w @ np.tanh(h))

    found = []
    for matrices in rotations():
        h = math.sqrt(WIDTH) * unit(rng.normal(size=WIDTH))
        off = h + 0.01 * rng.normal(size=WIDTH)
        for w in matrices:
            h, off = update(w, h), update(w, off)
        found.append(np.sum((off - h) ** 2) / np.sum(h * h))
    # the first of the six steps comes with the error, the norm takes its share along the signal, 1 / 64, each time
    expected = 0.01 * theory.sensitivity(np.tanh) ** DEPTH
    assert math.sqrt(np.mean(found)) == pytest.approx(expected, rel=0.06)
    assert expected > 0.014


def test_sensitivity_by_quadrature():
    def power(f):
        return integrate.quad(lambda z: f(z) ** 2 * math.exp(-z * z / 2), -12, 12, epsrel=1e-11, limit=400)[0]

    expected = math.sqrt(power(lambda z: 1 / math.cosh(z) ** 2) / power(math.tanh))
    assert theory.sensitivity(np.tanh) == pytest.approx(expected, rel=1e-6)
    assert theory.sensitivity(lambda z: z**2) == pytest.approx(math.sqrt(4 / 3), rel=1e-6)  # 4 E[z^2] / E[z^4]
    assert theory.sensitivity(lambda z: z**3) == pytest.approx(math.sqrt(27 / 15), rel=1e-6)  # 9 E[z^4] / E[z^6]


BAD = {
    "no layers": (lambda: stack_error(0.1, 0), "at least one layer"),
    "a negative error": (lambda: normalized_stack_error(-0.1, 3), "finite error"),
    "a branch without output": (lambda: residual_stack_error(0.1, 3, branch=0.0), "have an output"),
    "no steps": (lambda: geometric_error(0.5, 0), "at least one step"),
    "no factors": (lambda: iterated_error([]), "do not fit"),
    "errors of another length": (lambda: iterated_error([1.0, 2.0], [1.0]), "do not fit"),
    "a falling schedule": (lambda: ddim_steps([1.0, 0.5], 1.0), "reverse a schedule"),
    "alpha-bar of zero": (lambda: ddim_error([0.0, 0.5], 1.0), r"in \(0, 1\]"),
    "alpha-bar beyond one": (lambda: ddim_error([0.5, 1.5], 1.0), r"in \(0, 1\]"),
    "negative data": (lambda: ddim_error([0.5, 1.0], -1.0), "not negative"),
    "no classes": (lambda: softmax_kl([], 0.1), "at least one class"),
    "negative noise": (lambda: softmax_tv([0.0, 1.0], -0.1), "not negative"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
