"""Errors of outputs: sums within their rounding bound, ratios of float64, any scale, calibrated standard errors."""

from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantsim as qs
from quantsim.outputs.output_errors import output_error, summarize
from quantsim.outputs.sums import OutputSums, output_sums
from tests.test_products import HALF_ULP, SHAPES, arrays, product_bound, wide

BATCH, FAN_IN, OUT = 16, 256, 32


def in_steps(w, step=0.25):
    """Weights rounded to multiples of a step."""
    return np.round(w / np.float32(step)) * np.float32(step)


# --- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "fan_in", "out"), SHAPES)
def test_output_sums_are_those_of_float64(batch, fan_in, out):
    x, w = arrays(batch, fan_in, out)
    w_hat = in_steps(w)
    found = OutputSums(*map(wide, output_sums(*map(jnp.asarray, (w, w_hat, x)))))
    e, x, w = wide(w_hat - w), wide(x), wide(w)
    y, y_off, dy_off = x @ w.T, product_bound(x, w), product_bound(x, e)
    dy, bound = x @ e.T, np.abs(x) @ np.abs(e).T
    tail = (batch + fan_in + 4) * HALF_ULP  # squares, quotient, and a sum over rows and inputs
    close(found.squared_errors, (dy**2).sum(0), (dy_off * (2 * np.abs(dy) + dy_off)).sum(0), tail)
    close(found.squared_outputs, (y**2).sum(0), (y_off * (2 * np.abs(y) + y_off)).sum(0), tail)
    close(found.errors, np.abs(dy).sum(0), dy_off.sum(0), tail)
    close(found.bounds, bound.sum(0), dy_off.sum(0), tail)
    close(found.white, (x**2).sum() * (e**2).sum(1) / fan_in, 0, 3 * batch * tail)
    assert (found.rows == batch).all()


def close(got, exact, off, relative):
    assert (np.abs(got - exact) <= (1 + relative) * off + relative * exact).all()


# --- ratios ---------------------------------------------------------------------------------------------------------


def assert_ratios(got, w, w_hat, x):
    """Every ratio in float64; each sum is good to fan-in times half an ulp of its bound without cancellation."""
    e, x, w = wide(w_hat - w), wide(x), wide(w)
    dy, y, norm = x @ e.T, x @ w.T, np.linalg.norm
    slack = FAN_IN * HALF_ULP / got.to_bound * 4
    assert got.rel_rms == pytest.approx(norm(dy) / norm(y), rel=slack)
    assert got.rms == pytest.approx(np.sqrt((dy**2).mean()), rel=slack)
    assert got.to_bound == pytest.approx(np.abs(dy).sum() / (np.abs(x) @ np.abs(e).T).sum(), rel=slack)
    assert got.predicted_rel_rms == pytest.approx(norm(x) * norm(e) / (np.sqrt(FAN_IN) * norm(y)), rel=slack)
    assert got.fan_in == FAN_IN


ARRAYS = arrays(BATCH, FAN_IN, OUT)


@pytest.mark.parametrize("of_x", [1, 1e-20, 1e18])
@pytest.mark.parametrize("of_w", [1, 1e-18, 1e18, 1e30])
def test_output_error_is_the_ratio_of_the_sums_at_any_scale(of_w, of_x):
    x, w = (v * np.float32(scale) for v, scale in zip(ARRAYS, (of_x, of_w), strict=True))
    q = qs.parse("int8:channel")
    got, plain = output_error(w, q, x), output_error(ARRAYS[1], q, ARRAYS[0])
    assert_ratios(got, w, np.asarray(q.roundtrip(w)), x)
    for name in ("rel_rms", "rel_rms_se", "to_bound", "to_bound_se", "predicted_rel_rms"):
        assert getattr(got, name) == pytest.approx(getattr(plain, name), rel=1e-3), name


def test_one_huge_weight_that_is_exact_does_not_hide_the_errors_of_the_others():
    """In a block of its own, signed bounds keep 2^90; squares of the errors beside it are 2^-200 of its own."""
    x, w = (v.copy() for v in ARRAYS)
    w[3, :32], w[3, 7] = 0, 2.0**90
    x[:, 7] = 0
    q = qs.parse("int8:block32:absmax:signed")
    w_hat = np.asarray(q.roundtrip(w))
    assert w_hat[3, 7] == w[3, 7]
    got = output_error(w, q, x)
    e = wide(w_hat - w)
    assert got.rms == pytest.approx(np.sqrt(((wide(x) @ e.T) ** 2).mean()), rel=1e-4)
    assert got.rms > 0


def test_summarize_takes_what_output_sums_gives():
    x, w = ARRAYS
    w_hat = qs.parse("int8:channel").roundtrip(w)
    sums = jax.jit(output_sums)(*map(jnp.asarray, (w, w_hat, x)))
    assert asdict(summarize(sums, FAN_IN)) == asdict(output_error(w, "int8:channel", x))


def test_prediction_and_standard_errors_are_calibrated():
    """256 matrices: the mean of the ratio agrees within 4 standard errors, and the deviations have the size stated.

    A variance of 256 normal deviates has a standard deviation of sqrt(2 / 255); 4 of these are allowed, and a tenth for
    standard errors that are themselves estimated from 96 outputs.
    """
    n, out = 256, 96
    rng = np.random.default_rng(10**6)
    x, w = (rng.standard_normal((rows, FAN_IN), np.float32) for rows in (BATCH * 2, n * out))
    sums = output_sums(*map(jnp.asarray, (w, qs.parse("int8:channel").roundtrip(w), x)))  # of all matrices, row by row
    found = [
        summarize(OutputSums(*(v[k : k + out] for v in map(np.asarray, sums))), FAN_IN) for k in range(0, len(w), out)
    ]
    for name in ("rel_rms", "rms", "to_bound"):
        values, ses = (np.array([getattr(f, n) for f in found]) for n in (name, f"{name}_se"))
        z = (values - values.mean()) / ses
        assert abs(z.var(ddof=1) - 1) < 4 * np.sqrt(2 / (n - 1)) + 0.1, name
    off = np.array([f.rel_rms - f.predicted_rel_rms for f in found])
    assert abs(off.mean()) < 4 * off.std(ddof=1) / np.sqrt(n)


def test_prediction_fails_where_the_errors_are_not_white():
    """A code too low everywhere and inputs of one sign: the errors add up, sqrt(fan-in) above the prediction."""
    e = output_error(np.abs(ARRAYS[0]), "int8:channel:absmax:truncate", np.ones((OUT, FAN_IN)))
    # errors uniform on (-1, 0] of a step: mean 1/2, rms 1/sqrt(3), so dy is sqrt(3/4 n) times the white one
    assert e.to_bound == pytest.approx(1.0, abs=1e-6)
    assert e.rel_rms / e.predicted_rel_rms == pytest.approx(np.sqrt(0.75 * FAN_IN), rel=0.05)


def test_one_output_has_no_standard_error():
    one = summarize(OutputSums(*(np.array([v]) for v in (4.0, 100.0, 2.0, 8.0, 3.0, 16.0))), FAN_IN)
    assert (one.rel_rms, one.rms, one.to_bound) == (0.2, 0.5, 0.25)
    assert np.isnan([one.rel_rms_se, one.rms_se, one.to_bound_se]).all()


def test_zero_weights_have_no_ratio_but_an_error_of_zero():
    e = output_error(np.zeros((OUT, FAN_IN)), "int8:channel", ARRAYS[0])
    assert e.rms == 0
    assert np.isnan([e.rel_rms, e.predicted_rel_rms, e.to_bound]).all()


# --- what may be given ----------------------------------------------------------------------------------------------


def test_stochastic_rounding_takes_a_key():
    """Nearest rounding errs with a variance of 1/12 of a step, stochastic rounding with 1/6."""
    x, w = ARRAYS
    found = [output_error(w, "int8:channel:stochastic", x, key=qs.populations.key(k)) for k in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    nearest = output_error(w, "int8:channel", x)
    assert found[0].rel_rms / nearest.rel_rms == pytest.approx(np.sqrt(2), rel=0.1)
    with pytest.raises(ValueError, match="needs a key"):
        output_error(w, "int8:channel:stochastic", x)


def test_lists_other_types_and_specs_are_welcome():
    x, w = [[1.0, 2.0], [0.5, -1.0]], [[3.0, 4.0], [1.0, 1.5]]
    expected = output_error(np.float32(w), qs.parse("int8:channel"), np.float32(x))
    given = [(w, x), (tuple(map(tuple, w)), tuple(map(tuple, x)))]
    given += [(np.asarray(w, dtype), np.asarray(x, dtype)) for dtype in (np.float64, np.float16, jnp.bfloat16)]
    for w, x in given:
        assert output_error(w, "int8:channel", x) == expected


@pytest.mark.parametrize(
    ("w", "x"), [((4, 8), (2, 9)), ((8,), (2, 8)), ((4, 8), (9,)), ((1, 4, 8), (2, 8)), ((), ())], ids=str
)
def test_output_error_rejects_shapes_that_do_not_fit(w, x):
    with pytest.raises(ValueError, match="do not fit"):
        output_error(np.ones(w), qs.parse("int8:tensor"), np.ones(x))


@pytest.mark.parametrize(("at_fault", "place"), [("weights", 0), ("activations", 1)])
def test_messages_name_what_is_at_fault_and_no_parameter_that_is_not_there(at_fault, place):
    given = [np.ones((2, 256), np.float32), np.ones((3, 256), np.float32)]
    given[place][1, 3] = np.nan
    for text in ("q8_0", "int8:channel", "bf16"):
        with pytest.raises(ValueError, match=rf"{at_fault} are not finite.* at index \(1, 3\)") as refused:
            output_error(given[0], text, given[1])
        assert "nonfinite" not in str(refused.value)
    given[place] = [["a"]]
    with pytest.raises(TypeError, match=f"{at_fault} must be real numbers"):
        output_error(given[0], "bf16", given[1])


def test_inside_jit_the_way_out_is_named():
    x, w = ARRAYS
    with pytest.raises(TypeError, match=r"output_sums\(w, w_hat, x\)"):
        jax.jit(lambda w: output_error(w, "int8:channel", x).rms)(w)


@pytest.mark.parametrize("spec", [("d", None), (None, "d")], ids=["rows", "inputs"])
def test_explicit_axes_give_the_same(spec):
    sharding = jax.NamedSharding(jax.make_mesh((4,), ("d",)), jax.P(*spec))
    x, w = (jax.device_put(v, sharding) for v in ARRAYS)
    found, plain = (
        asdict(output_error(w, "int8:channel", x)),
        asdict(output_error(ARRAYS[1], "int8:channel", ARRAYS[0])),
    )
    assert found == pytest.approx(plain, rel=1e-5)
