"""Errors of outputs: what weight errors do to y = x Wᵀ, beside what errors that are white would do."""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from quantsim._types import Activations, ArrayLike, Matrix, PRNGKey
from quantsim.measure.ratios import ratio, root_ratio
from quantsim.measure.tallies import error
from quantsim.numerics import ieee
from quantsim.numerics.meshes import placed_like
from quantsim.outputs.products import NoIntegerProductError, product, quantized_product
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.inputs import as_weights
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.static import Static


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


@dataclass(frozen=True)
class QuantizedOutputError(OutputError):
    """Error dy of outputs of quantized weights and activations: what ``OutputError`` has, and its parts.

    Attributes:
        predicted_from_weights: the part of the prediction that errors of the weights give. The squares of the parts
            add up to that of the prediction.
        predicted_from_activations: the part that errors of the activations give.
        integer_rel_rms: ||dy|| / ||y|| with outputs from exact integer products, or None where there is none.
        integer_difference: ||y_integer - y_simulated|| / ||y||, what float products of dequantized factors, and the
            scales applied after integer products, round otherwise. NaN where outputs leave float32.
    """

    predicted_from_weights: float
    predicted_from_activations: float
    integer_rel_rms: float | None = None
    integer_difference: float | None = None


Quantized: TypeAlias = AbstractQuantizer | Static | str


@overload
def output_error(
    w: ArrayLike, q: AbstractQuantizer | str, x: ArrayLike, *, activations: None = None, key: PRNGKey | None = None
) -> OutputError: ...


@overload
def output_error(
    w: ArrayLike, q: AbstractQuantizer | str, x: ArrayLike, *, activations: Quantized, key: PRNGKey | None = None
) -> QuantizedOutputError: ...


def output_error(
    w: ArrayLike,
    q: AbstractQuantizer | str,
    x: ArrayLike,
    *,
    activations: Quantized | None = None,
    key: PRNGKey | None = None,
) -> OutputError:
    """Error of x Wᵀ when W is quantized, and x if wanted, with the prediction for errors that are white.

    With quantized activations x + d and weights W + e the error is ``dy = x eᵀ + d (W + e)ᵀ``. The prediction adds up
    their powers, ``(E|x|² E|e|² + E|d|² E|W + e|²) / fan-in``; theory from populations alone is
    ``theory.quantized_output_mse``. Where both have integer codes and scales that stand outside of the sum, integer
    products are measured beside.

    Float products of XLA round otherwise for other numbers of rows, outputs and devices: sums here change in their
    last bits with them. Codes and integer products do not.
    What comes back is an ``OutputError``, with quantized activations a ``QuantizedOutputError``.

    Args:
        w: weights (out, in), of any scale.
        q: quantizer of the weights, or its spec.
        x: activations (..., in), of any scale; all axes but the last are tokens.
        activations: quantizer of the activations as a matrix (tokens, in), or its spec: "int8:tensor", "int8:channel"
            for a scale for each token, "int8:block32", each found from x itself (dynamic); or ``static(…)``, with
            scales from other data.
        key: for stochastic rounding; split into one for weights and one for activations where both are quantized.

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
    >>> e = output_error(w, "int4:channel", x, activations="int8:channel")  # W4A8
    >>> abs(e.rel_rms / e.predicted_rel_rms - 1) < 0.05, e.integer_difference < 1e-6
    (True, True)
    """
    quantizer = parse(q)
    w32, x32 = as_weights(w), as_weights(x, what="activations")
    if w32.ndim != 2 or x32.ndim < 1 or w32.shape[1] != x32.shape[-1]:
        raise ValueError(f"weights (out, in) and activations (batch, in) do not fit: {w32.shape} and {x32.shape}")
    if not (hasattr(w32, "sharding") and hasattr(x32, "sharding")):  # what is traced lies nowhere
        raise TypeError(
            "errors of outputs are summarized on the host, not inside jit, vmap or grad: return output_sums(w, w_hat, "
            "x) of quantsim.outputs.output_errors from there, and summarize them outside"
        )
    rows = x32 if x32.ndim == 2 else x32.reshape(-1, x32.shape[-1])
    if activations is None:
        sums = _sums_of_any_scale(w32, quantizer.roundtrip(w, key=key), rows)
        return summarize(_in_one_unit(*sums), rows.shape[1])
    return _of_both(w, quantizer, rows, activations, key)


def _of_both(
    w: Any, q: AbstractQuantizer, x: Activations, activations: Quantized, key: PRNGKey | None
) -> QuantizedOutputError:
    """Error with quantized activations, of the simulated and, where there is one, of the integer product."""
    of_x = activations if isinstance(activations, Static) else parse(activations)
    of_keys = (None, None) if key is None else jax.random.split(key)
    w32, qw, qx = as_weights(w), q.quantize(w, key=of_keys[0]), of_x.quantize(x, key=of_keys[1])
    w_hat, x_hat = qw.dequantize(), qx.dequantize()
    sums, exponents, parts = sums_of_both(w32, w_hat, x, x_hat)
    simulated = summarize(_in_one_unit(sums, exponents), x.shape[1])
    white = np.asarray(parts, np.float64).sum(axis=1)
    of_weights, of_activations = np.sqrt(white / max(white.sum(), np.finfo(np.float64).tiny))
    predicted = simulated.predicted_rel_rms
    found = QuantizedOutputError(
        **asdict(simulated),
        predicted_from_weights=predicted * float(of_weights),
        predicted_from_activations=predicted * float(of_activations),
    )
    try:
        exact = quantized_product(qx, qw)
    except NoIntegerProductError:  # floats, codebooks, block formats, scales inside the sum
        return found
    integer, difference = _integer_errors(x, w32, exact, product(x_hat, w_hat))
    return replace(found, integer_rel_rms=integer, integer_difference=difference)


def _integer_errors(x: Activations, w: Matrix, exact: Any, simulated: Any) -> tuple[float, float]:
    """Norms of integer less true and less simulated outputs over that of the true ones; NaN beyond float32."""
    true, integer, simulated = (np.asarray(y, np.float64) for y in (product(x, w), exact, simulated))
    norm = np.linalg.norm(true)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.linalg.norm(integer - true) / norm), float(np.linalg.norm(integer - simulated) / norm)


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


@jax.jit
def sums_of_both(
    w: Matrix, w_hat: Matrix, x: Activations, x_hat: Activations
) -> tuple[OutputSums, _Exponents, tuple[Array, Array]]:
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
        return sums, _Exponents(k[0], unit - k[2], k[2]), white

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
