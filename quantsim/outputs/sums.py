"""Sums of the errors of outputs y = x Wᵀ, compiled: in float32 units that no square leaves, whatever the scales."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from quantsim._types import Activations, Matrix
from quantsim.measure.tallies import error
from quantsim.numerics import ieee
from quantsim.numerics.meshes import placed_like
from quantsim.outputs.products import product


class OutputSums(NamedTuple):
    """Sums over the rows of x, one for each output, of the errors dy = x eᵀ and of what they are compared with.

    Attributes:
        squared_errors: sum of dy^2.
        squared_outputs: sum of y^2.
        errors: sum of |dy|.
        bounds: sum of |x| |e|ᵀ, what |dy| would be if no two errors cancelled.
        white: sum of x^2 times sum of e^2 over the fan-in, what dy^2 would be of white errors.
        rows: how many rows.
    """

    squared_errors: Float[Array | np.ndarray, " out"]
    squared_outputs: Float[Array | np.ndarray, " out"]
    errors: Float[Array | np.ndarray, " out"]
    bounds: Float[Array | np.ndarray, " out"]
    white: Float[Array | np.ndarray, " out"]
    rows: Float[Array | np.ndarray, " out"]


@jax.jit
def output_sums(w: Matrix, w_hat: Matrix, x: Activations) -> OutputSums:
    """What is summed for each output.

    The error of the product is computed as a product of the error: no difference of two large numbers.
    """
    return placed_like(w, _sums, w, error(w, w_hat), x)


def _sums(w: Matrix, e: Matrix, x: Activations) -> OutputSums:
    dy, y = product(x, e), product(x, w)
    white = jnp.sum(x * x) * jnp.sum(e * e, axis=-1) / x.shape[-1]
    return OutputSums(
        squared_errors=jnp.sum(dy * dy, axis=0),
        squared_outputs=jnp.sum(y * y, axis=0),
        errors=jnp.sum(jnp.abs(dy), axis=0),
        bounds=jnp.sum(product(jnp.abs(x), jnp.abs(e)), axis=0),
        white=white,
        rows=jnp.full_like(white, x.shape[0]),
    )


class Exponents(NamedTuple):
    """Weights, errors and activations are summed in units of these powers of two."""

    w: Int32[Array, ""]
    e: Int32[Array, ""]
    x: Int32[Array, ""]


@jax.jit
def sums_of_any_scale(w: Matrix, w_hat: Matrix, x: Activations) -> tuple[OutputSums, Exponents]:
    """``output_sums`` with all magnitudes below 2, so that no square leaves float32; as powers of two change no bit."""

    def scaled(w: Matrix, w_hat: Matrix, x: Activations) -> tuple[OutputSums, Exponents]:
        factors = w, error(w, w_hat), x
        exponents = Exponents(*map(_exponent, factors))
        return _sums(*(a * ieee.power_of_two(-k) for a, k in zip(factors, exponents, strict=True))), exponents

    return placed_like(w, scaled, w, w_hat, x)


@jax.jit
def sums_of_both(
    w: Matrix, w_hat: Matrix, x: Activations, x_hat: Activations
) -> tuple[OutputSums, Exponents, tuple[Array, Array]]:
    """Sums of the errors of outputs of quantized weights and activations, in units of powers of two.

    ``dy = x eᵀ + d ŵᵀ``, products of errors again. Both terms are brought to the larger of their units before they are
    added. The two white parts, by weights and by activations, are in the same unit.
    """

    def scaled(w: Matrix, w_hat: Matrix, x: Activations, x_hat: Activations) -> tuple:
        factors = w, w_hat, x, error(w, w_hat), error(x, x_hat)
        k = [_exponent(a) for a in factors]
        w, w_hat, x, e, d = (a * ieee.power_of_two(-n) for a, n in zip(factors, k, strict=True))
        of_weights, of_activations = k[2] + k[3], k[1] + k[4]
        unit = jnp.maximum(of_weights, of_activations)
        e, d = (_shifted(a, n - unit) for a, n in ((e, of_weights), (d, of_activations)))
        sums, white = _sums_of_two(w, w_hat, (x, d), e)
        return sums, Exponents(k[0], unit - k[2], k[2]), white

    return placed_like(w, scaled, w, w_hat, x, x_hat)


def _shifted(a: Float[Array, "rows columns"], power: Int32[Array, ""]) -> Float[Array, "rows columns"]:
    """Times 2^power, which is not positive; what is smaller than 2^-126 of the other term does not count."""
    return a * jnp.where(power < -126, 0.0, ieee.power_of_two(jnp.maximum(power, -126)))


def _sums_of_two(w: Matrix, w_hat: Matrix, x_and_d: tuple, e: Matrix) -> tuple[OutputSums, tuple[Array, Array]]:
    x, d = x_and_d
    dy, y = product(x, e) + product(d, w_hat), product(x, w)
    bounds = product(jnp.abs(x), jnp.abs(e)) + product(jnp.abs(d), jnp.abs(w_hat))
    white = tuple(jnp.sum(a * a) * jnp.sum(b * b, axis=-1) / x.shape[-1] for a, b in ((x, e), (d, w_hat)))
    sums = OutputSums(
        squared_errors=jnp.sum(dy * dy, axis=0),
        squared_outputs=jnp.sum(y * y, axis=0),
        errors=jnp.sum(jnp.abs(dy), axis=0),
        bounds=jnp.sum(bounds, axis=0),
        white=white[0] + white[1],
        rows=jnp.full_like(white[0], x.shape[0]),
    )
    return sums, white


def _exponent(a: Float[Array, "rows columns"]) -> Int32[Array, ""]:
    """Of the largest magnitude, within the exponents whose power of two has a normal reciprocal."""
    largest = ieee.from_bits(jnp.max(ieee.bits_of(a) & 0x7FFFFFFF, initial=0))
    return jnp.clip(ieee.exponent_of(largest), -126, 126)


def in_one_unit(sums: OutputSums, exponents: Exponents) -> OutputSums:
    """The sums in float64, in the units of weights and activations."""
    w, e, x = (int(k) for k in exponents)

    def unscaled(sum_of: Float[Array | np.ndarray, " out"], power: int) -> Float[np.ndarray, " out"]:
        return np.ldexp(np.asarray(sum_of, np.float64), power)

    return OutputSums(
        squared_errors=unscaled(sums.squared_errors, 2 * (e + x)),
        squared_outputs=unscaled(sums.squared_outputs, 2 * (w + x)),
        errors=unscaled(sums.errors, e + x),
        bounds=unscaled(sums.bounds, e + x),
        white=unscaled(sums.white, 2 * (e + x)),
        rows=unscaled(sums.rows, 0),
    )
