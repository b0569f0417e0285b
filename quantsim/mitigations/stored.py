"""What is stored beside the codes of a matrix: values of 16 bits, and which places are meant."""

from math import ceil, log2

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quantsim import formats
from quantsim._types import Shape
from quantsim.calibration import MinMax
from quantsim.granularity import scale_shape
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.scaled import Quantizer
from quantsim.rounding import snap

BITS_OF_A_HALF, BITS_OF_A_SINGLE = 16, 32

_F16 = formats.parse("f16")


def half(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Values as float16 holds them, those beyond 65504 saturated, in float32.

    >>> half(jnp.array([0.1, 1e6])).tolist()
    [0.0999755859375, 65504.0]
    """
    return snap(x, _F16)


def index_bits(chosen: Bool[Array, "..."]) -> Float[Array, ""]:
    """Bits that say which of n places are chosen: ceil(log2 n) for each, or one for every place if that is less.

    >>> index_bits(jnp.arange(1024) < 3).item(), index_bits(jnp.arange(1024) < 200).item()
    (30.0, 1024.0)
    """
    n = chosen.size
    one = max(ceil(log2(n)), 1)
    return jnp.minimum(jnp.sum(chosen, dtype=jnp.float32) * one, jnp.float32(n))


def second_scale_bits(q: AbstractQuantizer, shape: Shape) -> float:
    """Bits of a second set of scales and zero points for a matrix of this shape; of a cast there are none.

    Where their width is not known to a program, scales are charged 32 bits. The fields of a block format are bytes of
    one record, so that a second set is a second record: all of it is charged.
    """
    if not isinstance(q, Quantizer):
        return q.bits_per_weight(shape) * shape[0] * shape[1]
    if q.granularity is None:
        return 0.0
    scales = 1
    for n in scale_shape(q.granularity, shape):
        scales *= n
    zero_point = 16 if isinstance(q.calibration, MinMax) else 0
    bits = scales * (getattr(q.scale_format, "bits", BITS_OF_A_SINGLE) + zero_point)
    return float(bits + BITS_OF_A_SINGLE * q.two_level)
