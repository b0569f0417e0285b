"""Products x Wᵀ of activations and weights: in float32 as a reference, and of integer codes, exactly.

Products that serve as a reference run in float32 with the highest precision (GPUs would default to TF32).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Integer

from quantsim._types import Activations, Matrix
from quantsim.granularity import Block, to_blocks
from quantsim.numerics.meshes import placed_like
from quantsim.quantizer import Quantizer
from quantsim.quantizer.face import QuantizedArray

#: Longest sum of products of two int8 codes (magnitudes up to 128) that an int32 holds.
MAX_FAN_IN = (2**31 - 1) // 128**2

# The last axes are summed over: not w.T, which XLA on CPU would copy.
_LAST_AXES = (((1,), (1,)), ((), ()))


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
        raise ValueError(f"an int32 holds at most {MAX_FAN_IN} products of int8 codes, got a fan-in of {x.shape[-1]}")

    def dot(x: Integer[Array, "batch in"], w: Integer[Array, "out in"]) -> Int32[Array, "batch out"]:
        return lax.dot_general(x, w, _LAST_AXES, preferred_element_type=jnp.int32)

    return _placed(dot, x, w)


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
        raise ValueError(f"integer products take symmetric integers of at most 8 bits, got {qx} and {qw}")
    if x.codes.ndim != 2 or w.codes.ndim != 2 or x.codes.shape[1] != w.codes.shape[1]:
        raise ValueError(f"activations (batch, in) and weights (out, in) do not fit: {x.codes.shape}, {w.codes.shape}")
    if not any(isinstance(q.granularity, Block) for q in (qx, qw)):
        return _placed(_row_product, x, w)
    if qx.granularity != qw.granularity:
        raise ValueError(f"blocks of activations and weights must be the same, got {qx} and {qw}")
    if getattr(qw.granularity, "axis", -1) not in (-1, 1):
        raise ValueError(f"blocks of {qw} do not run along the axis that is summed over, the last")
    return _placed(_block_product, x, w)


@jax.jit
def _row_product(x: QuantizedArray, w: QuantizedArray) -> Float[Array, "batch out"]:
    exact = integer_product(x.codes, w.codes).astype(jnp.float32)
    return exact * _row_scale(x)[:, None] * _row_scale(w)[None]


def _row_scale(a: QuantizedArray) -> Float[Array, " rows"]:
    assert a.scale is not None
    granularity = a.quantizer.granularity  # pyright: ignore[reportAttributeAccessIssue]
    if getattr(granularity, "axis", 0) not in (0, -2):
        raise ValueError(f"{a.quantizer} scales the axis that is summed over: its scales cannot be applied afterwards")
    return jnp.broadcast_to(a.scale, a.codes.shape[:1])


@jax.jit
def _block_product(x: QuantizedArray, w: QuantizedArray) -> Float[Array, "batch out"]:
    size = w.quantizer.granularity.size  # pyright: ignore[reportAttributeAccessIssue]
    blocks = [_codes_by_block(a, size) for a in (x, w)]
    assert x.scale is not None
    assert w.scale is not None

    def add(total: Float[Array, "batch out"], block: tuple) -> tuple[Float[Array, "batch out"], None]:
        x_codes, w_codes, x_scale, w_scale = block
        exact = integer_product(x_codes, w_codes).astype(jnp.float32)
        return total + exact * x_scale[:, None] * w_scale[None], None

    start = jnp.zeros((x.codes.shape[0], w.codes.shape[0]), jnp.float32)
    return lax.scan(add, start, (*blocks, x.scale.T, w.scale.T))[0]


def _codes_by_block(a: QuantizedArray, size: int) -> Integer[Array, "blocks rows size"]:
    return to_blocks(a.codes, Block(size)).reshape(a.codes.shape[0], -1, size).swapaxes(0, 1)
