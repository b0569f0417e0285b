"""Outputs: what weight errors do to y = x Wᵀ, and true integer products.

Products that serve as a reference run in float32 with the highest precision (GPUs would default to TF32).
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32, Integer

from quantsim._types import Activations, ArrayLike, Matrix
from quantsim.granularity import Block, to_blocks
from quantsim.measure.ratios import ratio, root_ratio
from quantsim.measure.statistics import error
from quantsim.quantizer import Quantizer
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray, as_weights

#: Longest sum of products of two int8 codes (magnitudes up to 128) that an int32 holds.
MAX_FAN_IN = (2**31 - 1) // 128**2


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


def product(x: Activations, w: Matrix) -> Float[Array, "batch out"]:
    """X Wᵀ in float32, highest precision on every device."""
    contract = (((1,), (1,)), ((), ()))  # not w.T, which XLA on CPU would copy
    return lax.dot_general(x, w, contract, precision=lax.Precision.HIGHEST)


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

    squared_errors: Float[Array, " out"]
    squared_outputs: Float[Array, " out"]
    errors: Float[Array, " out"]
    bounds: Float[Array, " out"]
    white: Float[Array, " out"]
    rows: Float[Array, " out"]


@jax.jit
def output_sums(w: Matrix, w_hat: Matrix, x: Activations) -> OutputSums:
    """What is summed for each output.

    The error of the product is computed as a product of the error: no difference of two large numbers.
    """
    e = error(w, w_hat)
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


def output_error(w: ArrayLike, q: AbstractQuantizer, x: ArrayLike) -> OutputError:
    """Error of x Wᵀ when W is quantized, with the prediction for errors that are white.

    Args:
        w: weights (out, in).
        q: quantizer of the weights.
        x: activations (batch, in).

    Raises:
        ValueError: if the shapes do not fit.

    >>> import quantsim as qs
    >>> w = qs.populations.Normal().sample(qs.populations.key(0), (64, 1024))
    >>> x = qs.populations.Normal().sample(qs.populations.key(1), (64, 1024))
    >>> e = output_error(w, qs.parse("int8:channel"), x)
    >>> abs(e.rel_rms / e.predicted_rel_rms - 1) < 0.05, e.to_bound < 0.1
    (True, True)
    """
    w32, x32 = as_weights(w), as_weights(x)
    if w32.ndim != 2 or x32.ndim != 2 or w32.shape[1] != x32.shape[1]:
        raise ValueError(f"weights (out, in) and activations (batch, in) do not fit: {w32.shape} and {x32.shape}")
    return summarize(output_sums(w32, q.roundtrip(w32), x32), x32.shape[1])


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


@jax.jit
def integer_product(x: Integer[Array, "batch in"], w: Integer[Array, "out in"]) -> Int32[Array, "batch out"]:
    """Exact integer product x wᵀ of int8 codes, accumulated in int32.

    Raises:
        ValueError: for other codes, or if the fan-in is so long that an int32 could overflow.

    >>> integer_product(jnp.full((1, 1000), 127, jnp.int8), jnp.full((1, 1000), -127, jnp.int8)).tolist()
    [[-16129000]]
    """
    if {x.dtype, w.dtype} != {jnp.dtype(jnp.int8)}:
        raise ValueError(f"an exact product takes int8 codes, got {x.dtype} and {w.dtype}")
    if x.shape[-1] > MAX_FAN_IN:
        raise ValueError(f"an int32 holds at most {MAX_FAN_IN} products of int8 codes, got a fan-in of {x.shape[-1]}")
    contract = (((1,), (1,)), ((), ()))
    return lax.dot_general(x, w, contract, preferred_element_type=jnp.int32)


def quantized_product(x: QuantizedArray, w: QuantizedArray) -> Float[Array, "batch out"]:
    """X Wᵀ of two symmetric int8 arrays: integer products, the scales applied after.

    Scales per tensor or per row are applied once; with blocks, which must be equal in both, once for each block.

    Raises:
        ValueError: for zero points, formats other than integers, or granularities that do not fit.

    >>> import quantsim as qs
    >>> q = qs.parse("int8:channel")
    >>> y = quantized_product(q.quantize(jnp.array([[1.0, 2.0]])), q.quantize(jnp.array([[3.0, 4.0]])))
    >>> round(y.item(), 4) == round((64 * 95 + 127 * 127) * (2 / 127) * (4 / 127), 4)
    True
    """
    qx, qw = x.quantizer, w.quantizer
    integers = {x.codes.dtype, w.codes.dtype} == {jnp.dtype(jnp.int8)} and x.zero_point is None and w.zero_point is None
    if not (integers and isinstance(qx, Quantizer) and isinstance(qw, Quantizer)):
        raise ValueError(f"integer products need symmetric integer quantizers, got {qx} and {qw}")
    if x.codes.ndim != 2 or w.codes.ndim != 2 or x.codes.shape[1] != w.codes.shape[1]:
        raise ValueError(f"activations (batch, in) and weights (out, in) do not fit: {x.codes.shape}, {w.codes.shape}")
    if not any(isinstance(q.granularity, Block) for q in (qx, qw)):
        return integer_product(x.codes, w.codes) * _row_scale(x, qx)[:, None] * _row_scale(w, qw)[None]
    if qx.granularity != qw.granularity:
        raise ValueError(f"blocks of activations and weights must be the same, got {qx} and {qw}")
    if getattr(qw.granularity, "axis", -1) not in (-1, 1):
        raise ValueError(f"blocks of {qw} do not run along the axis that is summed over, the last")
    assert isinstance(qw.granularity, Block)
    return _block_product(x, w, qw.granularity.size)


def _row_scale(a: QuantizedArray, q: Quantizer) -> Float[Array, " rows"]:
    assert a.scale is not None
    if getattr(q.granularity, "axis", 0) not in (0, -2):
        raise ValueError(f"{q} scales the axis that is summed over: its scales cannot be applied afterwards")
    return jnp.broadcast_to(a.scale, a.codes.shape[:1])


@partial(jax.jit, static_argnums=2)
def _block_product(x: QuantizedArray, w: QuantizedArray, size: int) -> Float[Array, "batch out"]:
    assert x.scale is not None
    assert w.scale is not None
    blocks = [to_blocks(a.codes, Block(size)).reshape(a.codes.shape[0], -1, size).swapaxes(0, 1) for a in (x, w)]

    def add(total: Float[Array, "batch out"], block: tuple) -> tuple[Float[Array, "batch out"], None]:
        cx, cw, sx, sw = block
        return total + integer_product(cx, cw) * sx[:, None] * sw[None], None

    start = jnp.zeros((x.codes.shape[0], w.codes.shape[0]), jnp.float32)
    return lax.scan(add, start, (*blocks, x.scale.T, w.scale.T))[0]
