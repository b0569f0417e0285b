"""Images step by step from the host: the samples of a loop on the device, with other parameters where they are due."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.models import samplers, unet, unet_sampling
from quantsim.models.sampling_plans import cosine_schedule, plan
from quantsim.models.unet_sampling import Other
from tests.test_unet import CONFIG, IMAGES, as_arrays

PLAN = plan(cosine_schedule(4), "dpm++2m", room=5)
START = jnp.asarray(IMAGES, jnp.float32)
walk = partial(unet_sampling.walk, plan=PLAN, config=CONFIG)
#: Float32 in another order, a few hundred roundings in each of 4 steps, the first of 21 times the noise.
CLOSE = 21 * 4 * 200 * 2**-24


@pytest.fixture(scope="module")
def states():
    return list(walk(as_arrays(), START))


def test_steps_from_the_host_are_those_of_the_device(states):
    @jax.jit
    def looped(params):
        return samplers.trajectory(unet.predictor(params, CONFIG), START, plan=PLAN)

    expected = np.asarray(looped(as_arrays()))[:5]
    np.testing.assert_allclose(np.stack(states), expected, rtol=0, atol=CLOSE * np.abs(expected).max())
    last = unet_sampling.sample(as_arrays(), START, plan=PLAN, config=CONFIG)
    np.testing.assert_array_equal(last, states[-1])


def test_other_parameters_take_their_steps_alone(states):
    halved = {name: 0.5 * w for name, w in as_arrays().items()}
    found = list(walk(as_arrays(), START, other=Other(halved, np.array([False, False, True, False]))))
    for state, expected in zip(found[:3], states[:3], strict=True):
        np.testing.assert_array_equal(state, expected)
    # its step is that of a sampler that has them all the time, from the same state; so is the next
    every = list(walk(as_arrays(), START, other=Other(halved, np.ones(5, bool))))
    assert np.abs(found[3] - states[3]).max() > 1e-3 * np.abs(states[3]).max()
    np.testing.assert_array_equal(every[-1], list(walk(halved, START))[-1])


def test_one_program_serves_all_plans_and_parameters(states):
    before = unet_sampling.step._cache_size()
    halved = {name: 0.5 * w for name, w in as_arrays().items()}
    for shares, solver in ((cosine_schedule(2), "ddim"), (cosine_schedule(5), "dpm++2m")):
        unet_sampling.sample(halved, START, plan=plan(shares, solver, room=5), config=CONFIG)
    assert unet_sampling.step._cache_size() == before


def test_a_mask_of_other_steps_is_refused():
    with pytest.raises(ValueError, match=r"other\.at says of 4 steps who takes them, this one of 3"):
        next(walk(as_arrays(), START, other=Other(as_arrays(), np.ones(3, bool))))
