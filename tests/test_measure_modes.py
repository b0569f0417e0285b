"""What measures gives the same bits under JAX's switches: 64-bit types with strict promotion, and explicit axes."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.measure.classes import class_stats
from quantsim.measure.histogram import histogram
from quantsim.outputs.products import quantized_product

W = np.random.default_rng(3).standard_normal((16, 512)).astype(np.float32)


def statistics_of(w):
    s = qs.error_stats(w, jnp.round(w * 4) / 4)
    return [*s.sums, *s.cross.ravel(), s.max_abs, s.nonzero, s.zeroed_count]


def statistics_of_small_weights(w):
    return statistics_of(w * jnp.float32(2.0**-70))


def classes_of(w):
    c = class_stats(w, jnp.round(w * 4) / 4, (0.0, 0.5, 9.0))
    return [*c.count, *c.abs_e, *c.e2, *c.w2, *c.relative, *c.max_abs]


def errors_of_weights(w):
    return qs.weight_error(w, "int8:block32").sums


def errors_of_outputs(w):
    e = qs.output_error(w, "int8:channel", w)
    return [e.rel_rms, e.rms, e.to_bound, e.predicted_rel_rms]


def integer_products(w):
    q = qs.parse("int8:channel")
    return np.asarray(quantized_product(q.quantize(w), q.quantize(w))).ravel()


def histogram_of(w):
    return np.asarray(histogram(w))


MEASURES = {
    f.__name__: f
    for f in (statistics_of, statistics_of_small_weights, classes_of, errors_of_weights, integer_products, histogram_of)
}


@contextmanager
def wide_and_strict():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield W


@contextmanager
def by_row():
    yield jax.device_put(W, jax.NamedSharding(jax.make_mesh((4,), ("d",)), jax.P("d", None)))


@contextmanager
def by_column_of_the_mesh_that_is_set():
    mesh = jax.make_mesh((4,), ("d",))
    with jax.set_mesh(mesh):
        yield jax.device_put(W, jax.NamedSharding(mesh, jax.P(None, "d")))


MODES = {m.__name__: m for m in (wide_and_strict, by_row, by_column_of_the_mesh_that_is_set)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("measure", MEASURES)
def test_the_same_bits_in_every_mode(measure, mode):
    expected = MEASURES[measure](W)
    with MODES[mode]() as w:
        found = MEASURES[measure](w)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", MODES)
def test_outputs_in_every_mode(mode):
    """Float products of several devices are added in another order."""
    expected = errors_of_outputs(W)
    with MODES[mode]() as w:
        assert errors_of_outputs(w) == pytest.approx(expected, rel=1e-5)
