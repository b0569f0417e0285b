"""What the studies of the UNet share: readings and their bits, pairs, distances, medians, errors of one call."""

import math
import sys

import numpy as np
import pytest

from quantsim.lab import study
from quantsim.models.unet import shapes
from quantsim.rows import Rows

diffusion = study.module("diffusion")
steps = study.module("diffusion_steps")
unet, trajectory = diffusion.unet, steps.trajectory
RNG = np.random.default_rng(3)


# --- readings -------------------------------------------------------------------------------------------------------


def stored(config, of_kernels):
    """Bits a weight, counted by hand: q8_0 has 34 bytes for 32 weights; rows of conv_in have 9, no whole block."""
    bits = total = 0
    for shape in shapes(config).values():
        if len(shape) > 1:
            size, kernel = math.prod(shape), shape[2:] == (3, 3)
            whole = math.prod(shape[1:]) % 32 == 0
            bits += size * (of_kernels if kernel and of_kernels else 34 * 8 / 32 if whole else 16)
            total += size
    return bits / total


@pytest.mark.parametrize(("reading", "of_kernels"), [("rows", None), ("kept", 16), ("f16", 16)])
def test_a_reading_of_q8_0_has_its_true_bits(reading, of_kernels):
    of = unet.subject("unet-s0", 1)
    found = unet.quantized(of, unet.as_read(of.config, "q8_0", reading))
    assert found.bits_per_weight == pytest.approx(stored(of.config, of_kernels), rel=1e-12)


def test_readings_differ_in_3x3_kernels_alone():
    of = unet.subject("unet-s0", 1)
    rows, kept, cast = (unet.quantized(of, unet.as_read(of.config, "q8_0", r)).params for r in unet.READINGS)
    for name, w in unet.matrices(of.params).items():
        if name in unet.kernels(of.config):
            np.testing.assert_array_equal(kept[name], w)
            np.testing.assert_array_equal(cast[name], np.asarray(w).astype(np.float16))
        else:
            np.testing.assert_array_equal(kept[name], rows[name])
            np.testing.assert_array_equal(cast[name], rows[name])
    assert (rows["conv_out"] != of.params["conv_out"]).any()


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_all_networks_begin_with_the_same_noise_and_other_seeds_with_another():
    first, second = (unet.subject(name, 4).start for name in unet.MODELS[:2])
    np.testing.assert_array_equal(first, second)
    assert (np.asarray(unet.subject("unet-s0", 4, 1).start) != np.asarray(first)).all()


def test_what_moved_is_told_sample_by_sample():
    x = RNG.normal(size=(5, 8, 8, 1))
    factor = np.arange(5.0)[:, None, None, None] / 10
    found = unet.moved(x, x * (1 + factor))
    np.testing.assert_allclose(found.distance, factor.ravel(), rtol=1e-12, atol=1e-15)
    mse = ((factor * x) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found.psnr[1:], 10 * np.log10(4 / mse[1:]))
    assert found.psnr[0] == np.inf
    np.testing.assert_allclose(found.largest, np.abs(factor * x).max(axis=(1, 2, 3)))
    assert found.flips[0] == 0


def test_flips_are_samples_that_show_another_digit():
    shown = unet.digits.held_out()
    x = np.asarray(shown.images[:8], np.float64)
    labels = unet.digit_classifier.load().labels
    other = np.roll(x, 1, axis=0)
    assert unet.moved(x, other).flips.tolist() == (labels(other) != labels(x)).astype(float).tolist()
    assert unet.moved(x, other).flips.sum() > 0


def test_the_error_of_a_median_is_that_of_new_samples():
    """Of 400 samples of 101 normal numbers: the mean of the errors against the spread of the medians."""
    found = [unet.median(RNG.normal(size=101)) for _ in range(400)]
    values, errors = np.array(found).T
    spread = values.std(ddof=1)
    # the spread of 400 is known to 1 / sqrt(800); the normal limit of the ranks is off by less than 1 / sqrt(101)
    assert errors.mean() == pytest.approx(spread, rel=4 / np.sqrt(800) + 0.1)


# --- one call -------------------------------------------------------------------------------------------------------


def test_an_error_of_the_predicted_noise_is_relative_to_it(monkeypatch):
    exact = RNG.normal(size=(2, 3, 8, 8, 1))
    factors = np.array([1.5, 3.0])
    monkeypatch.setattr(unet, "predicted_noise", lambda *_, **__: exact * factors[:, None, None, None, None])
    monkeypatch.setattr(unet, "reference_noise", lambda *_: exact)
    found = unet.noise_error(unet.subject("unet-s0", 1), {}, 3)
    assert [at.value for at in found.at_times()] == pytest.approx([0.5, 2.0])
    power = (exact**2).sum(axis=(1, 2, 3, 4))
    assert found.relative().value == pytest.approx(np.sqrt((power * [0.25, 4.0]).sum() / power.sum()))


def test_noisy_images_have_the_share_of_their_time():
    clean = RNG.normal(size=(2000, 4, 4, 1))
    x, t = unet.noisy_images(clean, (0.2, 0.7))
    assert np.asarray(t).tolist() == pytest.approx([0.2] * 2000 + [0.7] * 2000)
    for time, part in ((0.2, x[:2000]), (0.7, x[2000:])):
        signal = float((np.asarray(part, np.float64) * clean).sum() / (clean**2).sum())
        assert signal == pytest.approx(np.cos(np.pi * time / 2), abs=4 / np.sqrt(clean.size))


def test_noise_in_weights_has_its_size_and_its_place():
    of = unet.subject("unet-s0", 1)
    changed = unet.noisy(of.params, {"conv_out": 0.1}, 0)
    found = unet.relative_errors(of.params, changed)
    assert found.pop("conv_out") == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * 288))
    assert set(found.values()) == {0.0}


# --- the trajectory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [True, False])
def test_errors_along_a_trajectory_end_as_theory_says(persistent):
    white = np.full((len(unet.TIMES), 64), 0.01)
    found = trajectory.predicted(white, 7, persistent=persistent)
    schedule = trajectory.cosine_schedule(7)
    by_direction = [
        0.01 * trajectory.theory.ddim_error(schedule, float(std), persistent=persistent)
        for std in trajectory.principal()[0]
    ]
    assert found[-1] == pytest.approx(np.sqrt(np.mean(np.square(by_direction))), rel=1e-10)
    assert found[0] == 0


def test_steps_that_do_not_err_add_nothing():
    white = np.full((len(unet.TIMES), 64), 0.01)
    first = trajectory.predicted(white, 5, persistent=True, at=np.arange(5) < 2)
    whole = trajectory.predicted(white, 5, persistent=True)
    np.testing.assert_array_equal(first[:3], whole[:3])
    assert first[-1] < whole[-1]
    assert not trajectory.predicted(white, 5, persistent=True, at=np.zeros(5, bool)).any()


def test_principal_directions_keep_the_size_of_an_error():
    error = RNG.normal(size=(2, 6, 8, 8, 1))
    found = trajectory.along_directions(error)
    np.testing.assert_allclose((found**2).mean(axis=1), (error**2).mean(axis=(1, 2, 3, 4)), rtol=1e-10)


def test_a_sampler_calls_the_network_once_a_step():
    assert steps.calls_in_a_step(steps.Config.small(), "unet-s0", "dpm++2m") == 1


def test_steps_that_are_needed_lie_between_those_measured():
    rows = Rows({"steps": n, "psnr": psnr} for n, psnr in ((10, 30.0), (40, 50.0)))
    assert steps.steps_needed(rows) == pytest.approx(20.0)


# --- the verdict on q8_0 --------------------------------------------------------------------------------------------


def a_format(name, **found):
    quiet = {"frechet_added": 0.1, "frechet_added_se": 0.1, "distance": 0.01, "distance_se": 0.001}
    return {"kind": "format", "format": name, "model": "m", "flips": 0.0, "flips_se": 0.0} | quiet | found


@pytest.mark.parametrize(
    ("found", "expected"),
    [({}, 0.0), ({"frechet_added": 0.5}, 1 / 3), ({"distance": 0.04}, 1 / 3), ({"flips": 0.1}, 1 / 3)],
)
def test_q8_0_is_significant_by_distribution_samples_or_flips(found, expected):
    sampler = {"kind": "sampler", "steps": 20, "model": "m", "distance": 0.03, "flips": 0.02}
    assert diffusion.significantly_worse(Rows([sampler, a_format("q8_0", **found)])) == pytest.approx(expected)


def test_sensitivities_of_matrices_add_up_as_squares():
    one = sys.modules["quantsim.studies._unet_sensitivity"].Sensitivity(2.0, (1.0, 3.0), 0.5)
    found = diffusion.expected({"a": one, "b": one}, {"a": 0.03, "b": 0.04})
    assert found.noise == pytest.approx(0.1)
    assert found.at_times == pytest.approx((0.05, 0.15))
    assert found.distance == pytest.approx(0.025)
