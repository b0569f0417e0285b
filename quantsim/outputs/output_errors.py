"""Errors of outputs: what weight errors do to y = x Wᵀ, beside what errors that are white would do."""

from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias, overload

import jax
import numpy as np

from quantsim._types import Activations, ArrayLike, Matrix, PRNGKey
from quantsim.measure.ratios import ratio, root_ratio
from quantsim.outputs.products import NoIntegerProductError, product, quantized_product
from quantsim.outputs.sums import OutputSums, in_one_unit, sums_of_any_scale, sums_of_both
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
            "x) of quantsim.outputs.sums from there, and summarize them outside"
        )
    rows = x32 if x32.ndim == 2 else x32.reshape(-1, x32.shape[-1])
    if activations is None:
        sums = sums_of_any_scale(w32, quantizer.roundtrip(w, key=key), rows)
        return summarize(in_one_unit(*sums), rows.shape[1])
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
    simulated = summarize(in_one_unit(sums, exponents), x.shape[1])
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
