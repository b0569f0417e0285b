"""Errors of outputs: what weight errors do to y = x Wᵀ, beside what errors that are white would do."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from quantsim._types import Activations, ArrayLike, Matrix, PRNGKey
from quantsim.measure.ratios import ratio, root_ratio
from quantsim.measure.tallies import error
from quantsim.numerics import ieee
from quantsim.numerics.meshes import placed_like
from quantsim.outputs.products import product
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.inputs import as_weights
from quantsim.quantizer.parsing import parse


@dataclass(frozen=True)
class OutputError:
    """Error dy = x eᵀ of the outputs y = x Wᵀ, over all rows of x and all outputs.

    Attributes:
        rel_rms: ||dy|| / ||y||.
        rel_rms_se: its standard error over the outputs; NaN for fewer than two.
        rms: root mean dy^2, in output units.
        rms_se: its standard error over the outputs.
        to_bound: sum |dy| over the sum of |x| |e|ᵀ, which it would be if no two errors cancelled.
        to_bound_se: its standard error over the outputs.
        predicted_rel_rms: ||x|| ||e|| / (sqrt(fan-in) ||y||), what white errors of this size give.
        fan_in: inputs summed over.
    """

    rel_rms: float
    rel_rms_se: float
    rms: float
    rms_se: float
    to_bound: float
    to_bound_se: float
    predicted_rel_rms: float
    fan_in: int


def output_error(w: ArrayLike, q: AbstractQuantizer | str, x: ArrayLike, *, key: PRNGKey | None = None) -> OutputError:
    """Error of x Wᵀ when W is quantized, with the prediction for errors that are white.

    Args:
        w: weights (out, in), of any scale.
        q: quantizer of the weights, or its spec.
        x: activations (batch, in), of any scale.
        key: for stochastic rounding.

    Raises:
        TypeError: if ``w`` or ``x`` is not numeric, or ``q`` no quantizer; inside ``jit`` and other transformations,
            where ``output_sums`` gives what ``summarize`` takes outside.
        ValueError: if the shapes do not fit, and for a NaN or infinity.

    >>> import quantsim as qs
    >>> w = qs.populations.Normal().sample(qs.populations.key(0), (64, 1024))
    >>> x = qs.populations.Normal().sample(qs.populations.key(1), (64, 1024))
    >>> e = output_error(w, "int8:channel", x)
    >>> abs(e.rel_rms / e.predicted_rel_rms - 1) < 0.05, e.to_bound < 0.1
    (True, True)
    """
    quantizer = parse(q)
    w32, x32 = as_weights(w), as_weights(x, what="activations")
    if w32.ndim != 2 or x32.ndim != 2 or w32.shape[1] != x32.shape[1]:
        raise ValueError(f"weights (out, in) and activations (batch, in) do not fit: {w32.shape} and {x32.shape}")
    if not (hasattr(w32, "sharding") and hasattr(x32, "sharding")):  # what is traced lies nowhere
        raise TypeError(
            "errors of outputs are summarized on the host, not inside jit, vmap or grad: return output_sums(w, w_hat, "
            "x) of quantsim.outputs.output_errors from there, and summarize them outside"
        )
    sums = _sums_of_any_scale(w32, quantizer.roundtrip(w, key=key), x32)
    return summarize(_in_one_unit(*sums), x32.shape[1])


# --- sums -----------------------------------------------------------------------------------------------------------


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


class _Exponents(NamedTuple):
    """Weights, errors and activations are summed in units of these powers of two."""

    w: Int32[Array, ""]
    e: Int32[Array, ""]
    x: Int32[Array, ""]


@jax.jit
def _sums_of_any_scale(w: Matrix, w_hat: Matrix, x: Activations) -> tuple[OutputSums, _Exponents]:
    """``output_sums`` with all magnitudes below 2, so that no square leaves float32; as powers of two change no bit."""

    def scaled(w: Matrix, w_hat: Matrix, x: Activations) -> tuple[OutputSums, _Exponents]:
        factors = w, error(w, w_hat), x
        exponents = _Exponents(*map(_exponent, factors))
        return _sums(*(a * ieee.power_of_two(-k) for a, k in zip(factors, exponents, strict=True))), exponents

    return placed_like(w, scaled, w, w_hat, x)


def _exponent(a: Float[Array, "rows columns"]) -> Int32[Array, ""]:
    """Of the largest magnitude, within the exponents whose power of two has a normal reciprocal."""
    largest = ieee.from_bits(jnp.max(ieee.bits_of(a) & 0x7FFFFFFF, initial=0))
    return jnp.clip(ieee.exponent_of(largest), -126, 126)


def _in_one_unit(sums: OutputSums, exponents: _Exponents) -> OutputSums:
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


def summarize(sums: OutputSums, fan_in: int) -> OutputError:
    """Ratios and standard errors of ``output_sums``, the outputs being the independent units."""
    squared_errors, squared_outputs, errors, bounds, white, rows = (np.asarray(v, np.float64) for v in sums)
    relative, absolute = root_ratio(squared_errors, squared_outputs), root_ratio(squared_errors, rows)
    to_bound = ratio(errors, bounds)
    with np.errstate(divide="ignore", invalid="ignore"):
        predicted = np.sqrt(white.sum() / squared_outputs.sum())
    return OutputError(
        rel_rms=relative.value,
        rel_rms_se=relative.se,
        rms=absolute.value,
        rms_se=absolute.se,
        to_bound=to_bound.value,
        to_bound_se=to_bound.se,
        predicted_rel_rms=float(predicted),
        fan_in=fan_in,
    )
