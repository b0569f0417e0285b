"""IQ3_XXS and IQ3_S: four codes of eight levels."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int32, UInt8

from quantsim.quantizer.blockformats.coding import Stored
from quantsim.quantizer.blockformats.lattices.signed import Signed, signs_of
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_bits, pack_planes, unpack_bits, unpack_planes


@dataclass(frozen=True)
class IQ3XXS(Signed):
    """256 points, signs of seven bits."""

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 98"]:
        """Scale, places, words of four signs and a small scale."""
        d, levels = stored.scales
        return jnp.concatenate([f16_bytes(d), self.places(stored).astype(jnp.uint8), words(signs_of(stored), levels)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 98"]) -> Stored:
        """And back."""
        signs, levels = of_words(data[:, 66:])
        return Stored(self.codes(data[:, 2:66].astype(jnp.int32), signs), (bytes_f16(data[:, :2]), levels))


@dataclass(frozen=True)
class IQ3S(Signed):
    """512 points, signs of eight bits."""

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 110"]:
        """Scale, low eight bits of the places, ninth bits, signs, small scales."""
        d, levels = stored.scales
        place = self.places(stored)
        low, ninth = (place & 255).astype(jnp.uint8), pack_bits((place >> 8).astype(jnp.uint8))
        return jnp.concatenate([f16_bytes(d), low, ninth, signs_of(stored).astype(jnp.uint8), pack_planes(levels, 1, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 110"]) -> Stored:
        """And back."""
        place = data[:, 2:66].astype(jnp.int32) | (unpack_bits(data[:, 66:74]).astype(jnp.int32) << 8)
        codes = self.codes(place, data[:, 74:106].astype(jnp.int32))
        return Stored(codes, (bytes_f16(data[:, :2]), unpack_planes(data[:, 106:], 1, 4)))

    def placed(self, codes: Int32[Array, "blocks subs size"], empty: Bool[Array, "blocks subs"]) -> Int32[Array, "..."]:
        """Sub-blocks that follow one of zeros move up: the reference skips it without leaving its place."""
        order = jnp.argsort(empty, axis=-1, stable=True)
        return jnp.take_along_axis(codes, order[:, :, None], axis=1)


def words(signs: Int32[Array, "blocks 32"], levels: UInt8[Array, "blocks 8"]) -> UInt8[Array, "blocks 32"]:
    """For each 32 weights four times seven signs, and four bits of their scale."""
    seven = (signs & 127).astype(jnp.uint32).reshape(len(signs), -1, 4)
    word = (seven << np.arange(0, 28, 7, dtype=np.uint32)).sum(axis=-1, dtype=jnp.uint32)
    return lax.bitcast_convert_type(word | (levels.astype(jnp.uint32) << 28), jnp.uint8).reshape(len(signs), -1)


def of_words(data: UInt8[Array, "blocks 32"]) -> tuple[Int32[Array, "blocks 32"], UInt8[Array, "blocks 8"]]:
    """And back: signs with their eighth, which makes the number of ones even."""
    word = lax.bitcast_convert_type(data.reshape(len(data), -1, 4), jnp.uint32)
    seven = ((word[:, :, None] >> np.arange(0, 28, 7, dtype=np.uint32)) & np.uint32(127)).reshape(len(data), -1)
    signs = seven | ((lax.population_count(seven) & np.uint32(1)) << 7)
    return signs.astype(jnp.int32), (word >> 28).astype(jnp.uint8)
