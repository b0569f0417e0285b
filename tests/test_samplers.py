"""Samplers: against slow ones in float64 on an exact score, and against theory on normal data."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim import theory
from quantsim.models import samplers, sampling_plans
from quantsim.models.samplers import Carried, Switch
from quantsim.models.sampling_plans import cosine_schedule, plan, share_of, time_of
from quantsim.outputs.diffusion import GaussianMixture, predicted_noise

D, ROOM = 4, 16
RNG = np.random.default_rng(3)
MEANS, STD = RNG.normal(size=(3, D)), 0.4
MIXTURE = GaussianMixture(jnp.asarray(MEANS, jnp.float32), jnp.float32(STD))
NORMAL = GaussianMixture(jnp.zeros((1, D)), jnp.float32(0.7))
START = RNG.normal(size=(20, D))
X = jnp.asarray(START, jnp.float32)


def exact_noise(x, share):
    """Of the mixture, in float64 NumPy."""
    variance = share * STD**2 + 1 - share
    off = x[:, None] - np.sqrt(share) * MEANS[None]
    logits = -(off**2).sum(axis=2) / (2 * variance)
    r = np.exp(logits - logits.max(axis=1, keepdims=True))
    r /= r.sum(axis=1, keepdims=True)
    return np.sqrt(1 - share) * (r[..., None] * off).sum(axis=1) / variance


def ddim(shares, x):
    """Song, Meng and Ermon, eq. 12 without noise."""
    for old, new in pairwise(shares):
        e = exact_noise(x, old)
        x = np.sqrt(new) * (x - np.sqrt(1 - old) * e) / np.sqrt(old) + np.sqrt(1 - new) * e
    return x


def dpm(shares, x):
    """DPM-Solver++(2M), Lu et al., algorithm 2, in their letters; the step that ends without noise is DDIM's."""
    before, h_before = None, None
    for old, new in pairwise(shares):
        clean = (x - np.sqrt(1 - old) * exact_noise(x, old)) / np.sqrt(old)
        if new == 1:
            return clean
        h = 0.5 * np.log(new / (1 - new)) - 0.5 * np.log(old / (1 - old))
        r = None if before is None else h_before / h
        used = clean if r is None else (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before
        x = np.sqrt((1 - new) / (1 - old)) * x - np.sqrt(new) * (np.exp(-h) - 1) * used
        before, h_before = clean, h
    return x


@jax.jit
def sampled(plan, x):
    return samplers.sample(partial(predicted_noise, MIXTURE), x, plan=plan)


@jax.jit
def followed(plan, x):
    return samplers.trajectory(partial(predicted_noise, MIXTURE), x, plan=plan)


SLOW = {"ddim": ddim, "dpm++2m": dpm}
#: Float32 against float64: some roundings a step, each up to 1/signal = 21 times itself in the clean sample.
SINGLE = 21 * ROOM * 4 * 2**-24


@pytest.mark.parametrize("solver", SLOW)
@pytest.mark.parametrize("steps", [1, 2, 7, ROOM])
def test_samples_are_those_of_a_slow_sampler(solver, steps):
    shares = cosine_schedule(steps)
    expected = SLOW[solver](shares, START)
    found = sampled(plan(shares, solver, room=ROOM), X)
    np.testing.assert_allclose(found, expected, rtol=0, atol=SINGLE * np.abs(expected).max())
    assert sampled._cache_size() == 1  # of all solvers and step counts


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm++2m", 2)])
def test_errors_fall_with_the_order_of_the_solver(solver, order):
    """On a schedule that ends with noise, in float64: from 64 to 128 steps by 2^order, within a quarter of an order."""

    def end(steps):
        return SLOW[solver](share_of(np.linspace(0.9, 0.1, steps + 1)), START)

    exact = dpm(share_of(np.linspace(0.9, 0.1, 4097)), START)
    errors = [np.sqrt(np.mean((end(steps) - exact) ** 2)) for steps in (64, 128)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_a_trajectory_holds_every_state_and_a_walk_takes_the_same_steps():
    shares = cosine_schedule(5)
    of_plan = plan(shares, "dpm++2m", room=ROOM)
    states = followed(of_plan, X)
    assert states.shape == (ROOM + 1, *X.shape)
    np.testing.assert_array_equal(states[0], X)
    last = sampled(of_plan, X)
    for state in states[5:]:
        np.testing.assert_allclose(state, last, rtol=0, atol=SINGLE)
    step = jax.jit(partial(samplers.advance, partial(predicted_noise, MIXTURE)))
    walked = list(samplers.walk(lambda c, n: step(c, plan=of_plan, number=jnp.int32(n)), X, plan=of_plan))
    np.testing.assert_allclose(np.stack(walked), states[:6], rtol=0, atol=SINGLE)


@pytest.mark.parametrize("persistent", [True, False])
def test_errors_on_normal_data_are_those_of_theory(persistent):
    """DDIM is linear there: one number added to the noise of all steps, or of one, ends as theory says."""
    shares, e = cosine_schedule(12), 0.25
    factors, of_noise = theory.ddim_steps(shares, 0.7)
    exact = samplers.sample(partial(predicted_noise, NORMAL), X, plan=plan(shares))

    def off(x, share):
        return predicted_noise(NORMAL, x, share) + e

    def end(at):
        switch = Switch(off, jnp.asarray(at))
        return samplers.sample(partial(predicted_noise, NORMAL), X, plan=plan(shares), switch=switch) - exact

    if persistent:
        expected = e * theory.iterated_error(factors, of_noise, persistent=True)
        np.testing.assert_allclose(np.abs(end(np.ones(12, bool))), expected, atol=SINGLE)
        return
    # fresh errors of 12 steps add in powers: those of each step alone, squared
    jitted = jax.jit(end)
    powers = sum(float(jitted(np.arange(12) == step)[0, 0]) ** 2 for step in range(12))
    assert np.sqrt(powers) == pytest.approx(e * theory.iterated_error(factors, of_noise), rel=SINGLE * 10)


def test_another_predictor_takes_the_steps_of_its_mask():
    of_plan = plan(cosine_schedule(6), room=8)

    @jax.jit
    def states(at):
        zeros = Switch(lambda x, share: 0.0 * x, at)
        return samplers.trajectory(partial(predicted_noise, MIXTURE), X, plan=of_plan, switch=zeros)

    plain, inner = states(jnp.zeros(8, bool)), states(jnp.arange(8) == 3)
    np.testing.assert_array_equal(plain[:4], inner[:4])
    share = cosine_schedule(6)
    expected = np.sqrt(share[4] / share[3]) * np.asarray(inner[3], np.float64)  # no noise is taken off
    np.testing.assert_allclose(inner[4], expected, rtol=0, atol=SINGLE)
    assert np.all(np.abs(inner[4] - plain[4]).max(axis=1) > 1e-3)
    with pytest.raises(ValueError, match=r"a switch says of 8 steps who takes them, this one of \(6,\)"):
        states(jnp.zeros(6, bool))


def test_nothing_is_clipped_unless_it_is_asked_for():
    far = jnp.full((1, D), 30.0)
    noiseless = Carried(far, far)
    for limit, end in ((np.inf, 60.0), (1.5, 1.5)):
        of_plan = plan([0.25, 1.0], limit=limit)
        found = samplers.advance(lambda x, share: 0.0 * x, noiseless, plan=of_plan, number=0).x
        np.testing.assert_array_equal(found, end)


def test_times_and_signal_shares_are_inverse():
    times = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(time_of(jnp.asarray(share_of(times), jnp.float32)), times, atol=2e-6)
    assert cosine_schedule(4)[0] == pytest.approx(np.cos(0.97 * np.pi / 2) ** 2)
    assert np.all(np.diff(cosine_schedule(50)) > 0)


BAD = {
    "no steps": ([0.5], {}, "at least one step"),
    "falls": ([0.9, 0.5, 0.1], {}, "increase within"),
    "stands": ([0.1, 0.1, 1.0], {}, "increase within"),
    "no signal": ([0.0, 1.0], {}, "increase within"),
    "beyond 1": ([0.5, 1.5], {}, "increase within"),
    "no number": ([0.5, np.nan, 1.0], {}, "increase within"),
    "room": ([0.1, 0.5, 1.0], {"room": 1}, "2 steps do not fit into the room of 1"),
    "solver": ([0.1, 1.0], {"solver": "euler"}, "no solver 'euler': choose \"ddim\" or"),
    "limit": ([0.1, 1.0], {"limit": 0.0}, "clipped at a limit above 0, got 0.0"),
}


@pytest.mark.parametrize(("shares", "by", "message"), BAD.values(), ids=BAD.keys())
def test_other_plans_are_refused(shares, by, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        sampling_plans.plan.__wrapped__(shares, **by) if "solver" in by else plan(shares, **by)


def test_other_steps_and_predictors_are_refused():
    with pytest.raises(ValueError, match="at least one step, got 0"):
        cosine_schedule(0)
    with pytest.raises(ValueError, match=r"a time in \(0, 1\), got 1"):
        cosine_schedule(5, latest=1.0)
    with pytest.raises(ValueError, match=r"noise \(20, 3\) of samples \(20, 4\): the shapes have to be one"):
        samplers.sample(lambda x, share: x[:, :3], X, plan=plan([0.1, 1.0]))
