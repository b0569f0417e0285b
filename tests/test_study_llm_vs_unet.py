"""What the study of both networks says of them: in units that are the same, of inputs that are what layers see."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from quantsim.lab import study
from quantsim.models import likelihood
from quantsim.quantizer import parse
from quantsim.rows import Rows

comparison = study.module("llm_vs_unet")
denoising, inputs, rows_of, units = (
    importlib.import_module(f"quantsim.studies.{name}") for name in ("_denoising", "_inputs", "_rows", "_units")
)


# --- units ----------------------------------------------------------------------------------------------------------


def test_nats_are_the_integral_over_the_noise_level():
    """Squares t² have ∫ t² dλ = -∫ t² 2π / sin(πt) dt; the ends are those of the sampler and of the pixels."""
    t = np.array(denoising.times(200))
    found = denoising.nats(np.tile(t[:, None] ** 2, (1, 2)))
    fine = np.linspace(2 / np.pi * np.arctan(1 / 64), 0.97, 200_001)
    wanted = np.trapezoid(fine**2 * 2 * np.pi / np.sin(np.pi * fine), fine) / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-3)  # the midpoint rule errs by the square of a cell of 0.07


def test_nats_end_where_they_are_told_to():
    squares = np.ones((12, 1))
    whole = denoising.nats(squares)[0]
    half = denoising.nats(squares, until=denoising.HALF_A_LEVEL)[0]
    assert whole - half == pytest.approx(np.log(64 / 16))  # half of 2 ln 64 - 2 ln 16
    assert denoising.nats(squares, until=denoising.NEAREST)[0] == pytest.approx(denoising.span() / 2)


def test_nats_of_a_call_are_the_divergence_of_gaussians():
    """Against E log(p / q) over draws from p, for one time: 3 standard errors of a million draws."""
    rng = np.random.default_rng(0)
    moved, variance = 0.3, 0.25
    table = np.full((1, 3), moved**2)
    found = denoising.Denoised(table, np.full((1, 3), variance), table, table)
    draws = rng.normal(0.0, np.sqrt(variance), 1_000_000)
    ratios = norm.logpdf(draws, 0, np.sqrt(variance)) - norm.logpdf(draws, moved, np.sqrt(variance))
    assert abs(denoising.nats_of_a_call(found)[0] - ratios.mean()) < 3 * ratios.std() / 1000


def test_the_true_noise_is_what_was_added():
    clean = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 1))
    at = denoising.times(4)
    x, _ = denoising.unets.noisy_images(clean, at)
    found = denoising._noise_in(np.asarray(x, np.float64).reshape(4, *clean.shape), clean, at)
    added = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(0), 1), x.shape), np.float64)
    np.testing.assert_allclose(found.reshape(x.shape), added, atol=64 * 2**-22)  # ulps of x in units of σ, at most 64


def test_a_network_denoises_as_well_as_itself():
    of = denoising.unets.subject("unet-s0", 1)
    same = denoising.denoised(of, of.params, 3, 2)
    assert same.moved.max() == 0
    assert np.array_equal(same.before, same.after)
    assert denoising.relative_increase(same).value == 0


def test_logits_are_compared_without_what_a_softmax_does_not_see():
    z = np.random.default_rng(0).normal(size=(2, 3, 5))
    np.testing.assert_allclose(units.centred(z + 7.0), units.centred(z), atol=1e-12)
    np.testing.assert_allclose(jax.nn.softmax(jnp.asarray(units.centred(z), jnp.float32)), jax.nn.softmax(z), rtol=1e-5)
    shifted = likelihood.compared(*(jnp.asarray(a, jnp.float32) for a in (z, z + 7.0)), jnp.zeros((2, 3), int))
    assert float(shifted.kl.max()) < 1e-9


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["int4:channel", "int3:block32"])
def test_matrices_of_one_stack_are_quantized_as_one_by_one(spec):
    rng = np.random.default_rng(1)
    matrices = {str(k): jnp.asarray(rng.normal(size=(3, k)), jnp.float32) for k in (9, 40, 96)}
    found = rows_of.roundtrip(spec, matrices)
    for name, w in matrices.items():
        assert np.array_equal(found[name], parse(spec).roundtrip(w)), name


def test_noise_goes_into_its_part_alone():
    params = {name: jnp.ones((4, 4)) for name in ("conv_in", "time_embedding.linear_1", "mid_block.conv1", "conv_out")}
    for part, wanted in (("first", {"conv_in"}), ("layers", {"mid_block.conv1"}), ("all", set(params))):
        noisy = units.noisy(params, part, 0.1, 0)
        assert {name for name in params if not np.array_equal(noisy[name], params[name])} == wanted


# --- inputs ---------------------------------------------------------------------------------------------------------


def test_ranges_of_a_known_array():
    """Steps × inputs × vectors × in; the third step is ten times as large, the second input twice."""
    x = np.ones((3, 2, 4, 5), np.float32)
    x[2] *= 10.0
    x[:, 1] *= 2.0
    found = inputs.described(x, x)
    assert found["over_steps"] == pytest.approx(10.0)
    assert found["over_inputs"] == pytest.approx(2.0)
    assert found["clipped"] == 0
    assert found["dynamic"] == pytest.approx(0.0, abs=1e-6)  # each call is one value, its own absmax
    assert found["static"] > 0
    assert inputs.described(x, x / 4)["clipped"] == pytest.approx(1 / 3)


def test_inputs_of_a_convolution_are_its_maps():
    """The first convolution sees the noisy images; each call is one digit at one time."""
    seen = inputs.of_unet("unet-s0", 2, held_out=True)["conv_in"]
    clean = np.asarray(denoising.unets.held_out(2))
    x, _ = denoising.unets.noisy_images(clean, denoising.times(2))
    np.testing.assert_array_equal(seen, np.asarray(x).reshape(2, 2, 64, 1))


def test_inputs_of_the_language_model_are_sorted_by_position():
    found = inputs.of_language("lm-w128-s0", 2, held_out=True)["blk.0.attn_q"]
    assert found.shape == (2, 2, 1, 128)
    assert not np.array_equal(found[0], found[1])


# --- the verdict ----------------------------------------------------------------------------------------------------


def noise(network, unit, values):
    size = units.UNITS[unit].size
    about = {"kind": "noise", "network": network, "part": "all", "size": size}
    power = units.UNITS[unit].power
    return [about | {"model": str(k), unit: v * size**power} for k, v in enumerate(values)]


def test_the_ratio_is_of_means_with_both_errors():
    rows = Rows(noise(units.UNET, "nats", (11.0, 13.0)) + noise(units.LANGUAGE, "nats", (2.0, 2.0)))
    value, se = units.times_as_sensitive(rows, "nats")
    assert value == pytest.approx(6.0)
    assert se == pytest.approx(0.5)  # 6 × (1 / 12), the language models agree


def test_the_unet_must_clearly_be_three_times_as_sensitive():
    ratios = {"output_error": (2.0, 2.1), "nats": (9.0, 9.1), "increase": (1.0, 6.0)}
    rows = []
    for network in (units.UNET, units.LANGUAGE):
        for k in range(2):
            row = {"kind": "noise", "network": network, "part": "all", "model": str(k)}
            of_unet = network == units.UNET
            damage = {unit: values[k] if of_unet else 1.0 for unit, values in ratios.items()}
            for size in (units.SMALLEST, units.LARGE):
                rows.append(row | {"size": size} | {u: v * size ** units.UNITS[u].power for u, v in damage.items()})
    assert comparison.far_more(Rows(rows)) == pytest.approx(1 / 3), "one is below, one is within three errors of 3"
