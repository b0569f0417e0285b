"""Products x Wᵀ of activations and weights: in float32 as a reference, and of integer codes, exactly.

Products that serve as a reference run in float32 with the highest precision (GPUs would default to TF32).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Integer

from quantsim._types import Activations, Matrix
from quantsim.formats import Integer as Integers
from quantsim.granularity import Block, Channel, to_blocks
from quantsim.numerics import ieee
from quantsim.numerics.meshes import placed_like
from quantsim.quantizer import Quantizer
from quantsim.quantizer.face import QuantizedArray

#: Longest sum of products of two int8 codes (magnitudes up to 128) that an int32 holds.
MAX_FAN_IN = (2**31 - 1) // 128**2

#: Of products of codes less zero points (magnitudes up to 255).
MAX_FAN_IN_ASYMMETRIC = (2**31 - 1) // 255**2

# The last axes are summed over: not w.T, which XLA on CPU would copy.
_LAST_AXES = (((1,), (1,)), ((), ()))


class NoIntegerProductError(ValueError):
    """Two quantized arrays have no integer product with the scales applied after."""


def product(x: Activations, w: Matrix) -> Float[Array, "batch out"]:
    """X Wᵀ in float32, highest precision on every device."""

    def dot(x: Activations, w: Matrix) -> Float[Array, "batch out"]:
        return lax.dot_general(x, w, _LAST_AXES, precision=lax.Precision.HIGHEST)

    return _placed(dot, x, w)


def _placed(f: Any, x: Any, w: Any) -> Any:
    """``f(x, w)``, also of arrays on a mesh with explicit axes."""
    first = [a for a in jax.tree.leaves((x, w)) if jax.typeof(a).sharding.mesh.explicit_axes]
    return placed_like(first[0], f, x, w) if first else f(x, w)


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
        raise NoIntegerProductError(
            f"an int32 holds at most {MAX_FAN_IN} products of int8 codes, got a fan-in of {x.shape[-1]}"
        )

    def dot(x: Integer[Array, "batch in"], w: Integer[Array, "out in"]) -> Int32[Array, "batch out"]:
        return lax.dot_general(x, w, _LAST_AXES, preferred_element_type=jnp.int32)

    return _placed(dot, x, w)


def quantized_product(x: QuantizedArray, w: QuantizedArray) -> Float[Array, "batch out"]:
    """X Wᵀ of two arrays of integers of at most 8 bits: integer products in int32, the scales applied after.

    ``y = s_x s_w sum (c_x - z_x) (c_w - z_w)``, the sum exact. Scales and zero points per tensor or per row are applied
    once; with blocks in either, once for each block, the blocks added in order in float32. Each output is a function of
    its own row of codes and its own weights: no number of rows, outputs or devices changes a bit.

    Raises:
        NoIntegerProductError: for formats other than integers, granularities that do not fit, or a fan-in (of a block)
            beyond ``MAX_FAN_IN``, or ``MAX_FAN_IN_ASYMMETRIC`` with zero points.
        ValueError: for shapes that do not fit.

    >>> import quantsim as qs
    >>> q = qs.parse("int8:channel")
    >>> y = quantized_product(q.quantize(jnp.array([[1.0, 2.0]])), q.quantize(jnp.array([[3.0, 4.0]])))
    >>> round(y.item(), 4) == round((64 * 95 + 127 * 127) * (2 / 127) * (4 / 127), 4)
    True
    """
    qx, qw = (_integer_quantizer(a) for a in (x, w))
    x, w = _with_one_scale(x), _with_one_scale(w)
    if x.codes.ndim != 2 or w.codes.ndim != 2 or x.codes.shape[1] != w.codes.shape[1]:
        raise ValueError(f"activations (batch, in) and weights (out, in) do not fit: {x.codes.shape}, {w.codes.shape}")
    blocks = {q.granularity.size for q in (qx, qw) if isinstance(q.granularity, Block)}
    if len(blocks) > 1:
        raise NoIntegerProductError(f"blocks of activations and weights must be the same, got {qx} and {qw}")
    for q in (qx, qw):
        _require_summed_axis(q)
    if not blocks:
        return _placed(_row_product, x, w)
    return _placed(partial(_block_product, blocks.pop()), x, w)


def _with_one_scale(a: QuantizedArray) -> QuantizedArray:
    """The array with that of the tensor in the scales of its blocks."""
    if a.tensor_scale is None:
        return a
    assert a.scale is not None
    return replace(a, scale=a.scale * a.tensor_scale, tensor_scale=None)


def _integer_quantizer(a: QuantizedArray) -> Quantizer:
    """The quantizer of codes of at most 8 bits with scales."""
    q, narrow = a.quantizer, a.codes.dtype in (jnp.int8, jnp.uint8)
    if not (narrow and isinstance(q, Quantizer) and isinstance(q.format, Integers) and q.granularity is not None):
        raise NoIntegerProductError(f"integer products take integers of at most 8 bits with a scale, got {q}")
    return q


def _require_summed_axis(q: Quantizer) -> None:
    """Scales stand outside the sum over the last axis: of rows, of everything, or of blocks along it."""
    axis = getattr(q.granularity, "axis", None)
    if isinstance(q.granularity, Block) and axis not in (-1, 1):
        raise NoIntegerProductError(f"blocks of {q} do not run along the axis that is summed over, the last")
    if isinstance(q.granularity, Channel) and axis not in (0, -2):
        raise NoIntegerProductError(f"{q} scales the axis that is summed over: its scales cannot be applied afterwards")


def _signed(a: QuantizedArray) -> Integer[Array, "rows in"]:
    """Codes as int8: unsigned ones less 128."""
    return a.codes if a.zero_point is None else (a.codes.astype(jnp.int32) - 128).astype(jnp.int8)


def _centred(x: tuple, w: tuple) -> Int32[Array, "batch out"]:
    """``sum (c_x - z_x)(c_w - z_w)`` in int32 of (codes, zero points or None), which the fan-in keeps within int32.

    Expanded to products with sums of codes. A term may wrap around; their sum, modulo 2^32, is the exact one.
    """
    (x_codes, x_zero), (w_codes, w_zero) = x, w
    fan_in = x_codes.shape[-1]
    if (x_zero is not None or w_zero is not None) and fan_in > MAX_FAN_IN_ASYMMETRIC:
        raise NoIntegerProductError(
            f"an int32 holds {MAX_FAN_IN_ASYMMETRIC} products with zero points, got a fan-in of {fan_in}"
        )
    total = integer_product(x_codes, w_codes)
    if x_zero is not None:
        total = total - x_zero[:, None] * jnp.sum(w_codes, axis=1, dtype=jnp.int32)[None]
    if w_zero is not None:
        total = total - w_zero[None] * jnp.sum(x_codes, axis=1, dtype=jnp.int32)[:, None]
    if x_zero is not None and w_zero is not None:
        total = total + fan_in * x_zero[:, None] * w_zero[None]
    return total


@jax.jit
def _row_product(x: QuantizedArray, w: QuantizedArray) -> Float[Array, "batch out"]:
    exact = _centred(*((_signed(a), _row_zero(a)) for a in (x, w))).astype(jnp.float32)
    return exact * _by_row(x.scale, x)[:, None] * _by_row(w.scale, w)[None]


def _row_zero(a: QuantizedArray) -> Int32[Array, " rows"] | None:
    return None if a.zero_point is None else _by_row(a.zero_point, a) - 128


def _by_row(of_scale: Any, a: QuantizedArray) -> Any:
    return jnp.broadcast_to(of_scale, a.codes.shape[:1])


@partial(jax.jit, static_argnums=0)
def _block_product(size: int, x: QuantizedArray, w: QuantizedArray) -> Float[Array, "batch out"]:
    def add(total: Float[Array, "batch out"], block: tuple) -> tuple[Float[Array, "batch out"], None]:
        (x_codes, x_scale, x_zero), (w_codes, w_scale, w_zero) = block
        exact = _centred((x_codes, x_zero), (w_codes, w_zero)).astype(jnp.float32)
        of_block = exact * x_scale[:, None] * w_scale[None]
        return total + ieee.unfused(of_block, total), None  # a fused sum would depend on how many rows share it

    start = jnp.zeros((x.codes.shape[0], w.codes.shape[0]), jnp.float32)
    return lax.scan(add, start, tuple(_parts_by_block(a, size) for a in (x, w)))[0]


def _parts_by_block(a: QuantizedArray, size: int) -> tuple:
    """Codes, scales and zero points, the blocks first. A ragged tail is filled with codes that count as zeros."""
    blocks = -(-a.codes.shape[1] // size)

    def each(values: Any) -> Any:
        rows = values if values.ndim == 2 else _by_row(values, a)[:, None]
        return jnp.broadcast_to(rows, (a.codes.shape[0], blocks)).T

    if a.zero_point is None:
        return _codes_by_block(a.codes, size), each(a.scale), None
    zero = each(a.zero_point) - 128
    codes = _codes_by_block(_signed(a), size)
    filled = jnp.arange(blocks * size).reshape(blocks, 1, size) >= a.codes.shape[1]
    return jnp.where(filled, zero[:, :, None], codes).astype(jnp.int8), each(a.scale), zero


def _codes_by_block(codes: Integer[Array, "rows in"], size: int) -> Integer[Array, "blocks rows size"]:
    return to_blocks(codes, Block(size)).reshape(codes.shape[0], -1, size).swapaxes(0, 1)
