"""What the programs that unpack are made of: small numbers, bit planes, scales.

They keep to operations of 32 bits and to runs of whole lanes, so that XLA makes each program one or two loops of vector
code and writes every weight once. Scales, which are few, are kept out of the loop over the weights (``apart``): there
they would be computed anew for each.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8, UInt32

#: The bits of 2^23 as float32: a whole number below 2^23 in the place of its mantissa makes the two's sum.
_BITS_OF_2_23, _2_23 = np.uint32(0x4B000000), 2.0**23


def number(codes: UInt32[Array, "..."], zero: int = 0) -> Float[Array, "..."]:
    """``codes - zero`` as float32, of codes below 2^23: exact, and vector code where a conversion would not be.

    >>> number(jnp.array([0, 15], jnp.uint32), zero=8).tolist()
    [-8.0, 7.0]
    """
    return lax.bitcast_convert_type(codes | _BITS_OF_2_23, jnp.float32) - np.float32(_2_23 + zero)


def wide(data: UInt8[Array, "..."]) -> UInt32[Array, "..."]:
    """Bytes as 32-bit numbers."""
    return data.astype(jnp.uint32)


def signed(data: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Bytes of whole numbers from -128 to 127, as float32."""
    return lax.bitcast_convert_type(data, jnp.int8).astype(jnp.float32)


def little_endian(data: UInt8[Array, "blocks bytes"], size: int) -> UInt32[Array, "blocks numbers"]:
    """Numbers of ``size`` bytes, the lowest first, at most four.

    >>> little_endian(jnp.array([[1, 2, 3, 4]], jnp.uint8), 2).tolist()
    [[513, 1027]]
    """
    parts = wide(data).reshape(len(data), -1, size)
    found = parts[..., 0]
    for i in range(1, size):
        found = found | (parts[..., i] << (8 * i))
    return found


def half(data: UInt8[Array, "blocks 2"]) -> Float[Array, "blocks 1"]:
    """Float32 values of float16 bytes, subnormal ones too."""
    return as_half(little_endian(data, 2))


def as_half(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Float32 values of the bits of float16 numbers."""
    return lax.bitcast_convert_type(bits.astype(jnp.uint16), jnp.float16).astype(jnp.float32)


def planes(data: UInt8[Array, "blocks bytes"], run: int, bits: int) -> UInt32[Array, "blocks groups planes run"]:
    """Codes of ``bits`` bits, ``8 / bits`` planes of ``run`` weights in each group of ``run`` bytes, the lowest first.

    >>> planes(jnp.array([[49, 66]], jnp.uint8), 2, 4).tolist()
    [[[[1, 2], [3, 4]]]]
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint32)[None, None, :, None]
    return (wide(data).reshape(len(data), -1, 1, run) >> shifts) & np.uint32(2**bits - 1)


def bits_of(data: UInt8[Array, "blocks bytes"]) -> UInt32[Array, "blocks bytes 8"]:
    """The eight bits of each byte, the lowest first."""
    return (wide(data)[:, :, None] >> np.arange(8, dtype=np.uint32)[None, None]) & np.uint32(1)


def negated(x: Float[Array, "..."], where: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """``-x`` where the bit is 1."""
    return lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint32) ^ (where << 31), jnp.float32)


def looked_up(table: np.ndarray, places: UInt32[Array, "..."]) -> Any:
    """Rows of a table; places are known to lie in it."""
    return jnp.asarray(table).at[places.astype(jnp.int32)].get(mode="promise_in_bounds")


def apart(*arrays: Any) -> Any:
    """The same arrays, computed before what uses them, and once."""
    first, *others = lax.optimization_barrier(arrays)
    return (first, *others) if others else first
