"""Codes and scales to bytes and back, as GGUF lays them out."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num, UInt8

from quantsim.formats import FORMATS
from quantsim.numerics.fusion import apart
from quantsim.rounding import snap

_F16 = FORMATS["f16"]


def stored_f16(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Float16 as float32, saturating: what a scale is after storing."""
    # not by a cast and back, which XLA on GPU leaves out as excess precision
    return snap(jnp.clip(x, -65504.0, 65504.0), _F16)


def f16_bytes(x: Float[Array, "blocks 1"]) -> UInt8[Array, "blocks 2"]:
    """The two bytes of a float16, lower first."""
    return lax.bitcast_convert_type(x[:, 0].astype(jnp.float16), jnp.uint8)


def bytes_f16(data: UInt8[Array, "blocks 2"]) -> Float[Array, "blocks 1"]:
    """Float32 values of float16 bytes."""
    return lax.bitcast_convert_type(data, jnp.float16).astype(jnp.float32)[:, None]


def pack_planes(codes: Num[Array, "blocks size"], run: int, bits: int) -> UInt8[Array, "blocks bytes"]:
    """Codes of ``bits`` bits, ``8 / bits`` runs of ``run`` weights side by side in each group of ``run`` bytes.

    The first run takes the lowest bits. Every GGUF format lays its codes out in such planes.

    >>> pack_planes(jnp.array([[1, 2, 3, 4]], jnp.uint8), 2, 4).tolist()
    [[49, 66]]
    """
    planes = 8 // bits

    def packed() -> UInt8[Array, "blocks bytes"]:
        runs = (codes.astype(jnp.uint8) & (2**bits - 1)).reshape(len(codes), -1, planes, run)
        out = runs[:, :, 0]
        for i in range(1, planes):
            out = out | (runs[:, :, i] << (bits * i))
        return out.reshape(len(codes), -1)

    return apart(packed, codes)  # else the fields of a block are one loop, which asks of each byte whose it is


def unpack_planes(data: UInt8[Array, "blocks bytes"], run: int, bits: int) -> UInt8[Array, "blocks size"]:
    """Codes that ``pack_planes`` packed.

    >>> unpack_planes(jnp.array([[49, 66]], jnp.uint8), 2, 4).tolist()
    [[1, 2, 3, 4]]
    """
    groups = data.reshape(len(data), -1, 1, run)
    shifts = jnp.arange(0, 8, bits, dtype=jnp.uint8)[None, None, :, None]
    return ((groups >> shifts) & (2**bits - 1)).reshape(len(data), -1)


def pack_bits(bits: UInt8[Array, "blocks size"]) -> UInt8[Array, "blocks bytes"]:
    """Eight consecutive one-bit codes to a byte, the first in the lowest bit.

    >>> pack_bits(jnp.array([[1, 0, 0, 0, 0, 0, 0, 1]], jnp.uint8)).tolist()
    [[129]]
    """
    return pack_planes(bits.reshape(len(bits), -1, 8).swapaxes(-1, -2).reshape(len(bits), -1), bits.shape[-1] // 8, 1)


def unpack_bits(data: UInt8[Array, "blocks bytes"]) -> UInt8[Array, "blocks size"]:
    """One-bit codes that ``pack_bits`` packed."""
    return ((data[:, :, None] >> jnp.arange(8, dtype=jnp.uint8)[None, None]) & 1).reshape(len(data), -1)
