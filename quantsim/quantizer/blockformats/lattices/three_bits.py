"""IQ3_XXS and IQ3_S: four codes of eight levels."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt8

from quantsim.quantizer.blockformats.coding import Stored
from quantsim.quantizer.blockformats.lattices.signed import Signed, signs_of, word_bytes, word_fields
from quantsim.quantizer.blockformats.packing import (
    bytes_f16,
    f16_bytes,
    pack_bits,
    pack_planes,
    unpack_bits,
    unpack_planes,
)


@dataclass(frozen=True)
class IQ3XXS(Signed):
    """256 points, signs of seven bits."""

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 98"]:
        """Scale, places, words of four signs and a small scale."""
        d, levels = stored.scales
        words = word_bytes(signs_of(stored.codes), levels).reshape(len(d), -1)
        return jnp.concatenate([f16_bytes(d), self.places(stored.codes).astype(jnp.uint8), words], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 98"]) -> Stored:
        """And back."""
        signs, levels = word_fields(data[:, 66:].reshape(-1, 8, 4))
        return Stored(self.codes(data[:, 2:66].astype(jnp.int32), signs), (bytes_f16(data[:, :2]), levels))


@dataclass(frozen=True)
class IQ3S(Signed):
    """512 points, signs of eight bits."""

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 110"]:
        """Scale, low eight bits of the places, ninth bits, signs, small scales."""
        d, levels = stored.scales
        place = self.places(stored.codes)
        low, ninth = (place & 255).astype(jnp.uint8), pack_bits((place >> 8).astype(jnp.uint8))
        signs = signs_of(stored.codes).astype(jnp.uint8)
        return jnp.concatenate([f16_bytes(d), low, ninth, signs, pack_planes(levels, 1, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 110"]) -> Stored:
        """And back."""
        place = data[:, 2:66].astype(jnp.int32) | (unpack_bits(data[:, 66:74]).astype(jnp.int32) << 8)
        codes = self.codes(place, data[:, 74:106].astype(jnp.int32))
        return Stored(codes, (bytes_f16(data[:, :2]), unpack_planes(data[:, 106:], 1, 4)))

    def placed(self, codes: UInt8[Array, "blocks 256"], empty: Bool[Array, "blocks 8"]) -> UInt8[Array, "blocks 256"]:
        """The reference skips a sub-block of zeros, not its place: what follows moves up, but no ninth bit."""
        order = jnp.argsort(empty, axis=-1, stable=True)[:, :, None]
        place, signs = self.places(codes), signs_of(codes)
        low, signs = (
            jnp.take_along_axis(part.reshape(len(part), 8, -1), order, axis=1) for part in (place & 255, signs)
        )
        return self.codes(low.reshape(len(low), -1) | (place & 256), signs.reshape(len(signs), -1))
