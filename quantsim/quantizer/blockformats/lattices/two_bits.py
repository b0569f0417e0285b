"""IQ2_XXS, IQ2_XS and IQ2_S: eight codes of three levels."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int32, UInt8

from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.blocks import mean_square
from quantsim.quantizer.blockformats.coding import Importance, Stored
from quantsim.quantizer.blockformats.lattices.scales import Parts, scale_search
from quantsim.quantizer.blockformats.lattices.signed import Signed, even, signs_of, word_bytes, word_fields
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_planes, unpack_planes
from quantsim.quantizer.blockformats.refine import scales_search
from quantsim.quantizer.blockformats.search import Lane
from quantsim.quantizer.blockformats.superblocks import Supers, error_weights


@dataclass(frozen=True)
class IQ2XXS(Signed):
    """256 points, signs of seven bits; the trials start from a scale of plain integers 0 … 4."""

    def weights(self, blocks: Supers, importance: Importance | None) -> Blocks:
        """As llama.cpp's own tests have it, all inputs are equally important if nothing is said."""
        return equal_weights(blocks, importance, self.power)

    def scales(self, parts: Parts, largest: Lane) -> tuple[Lane, Int32[Array, " groups"], Bool[Array, " blocks"]]:
        """The trials are divided by three times the scale of integers; zeros where that is not positive."""
        in_row = (parts.x.shape[0] * parts.x.shape[1], -1)
        values, weights = (v.transpose(1, 0, 2).reshape(in_row).T for v in (parts.x, parts.w))
        first = scales_search(values, weights, self.trials.lattice.levels + 1, as_bytes=True)[0][:, 0]
        nothing = first * 3 <= 0
        scale, word = scale_search(parts, jnp.where(nothing, 1.0, first * 3), first, self.trials)
        return jnp.where(nothing, 0.0, scale), word, nothing

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 66"]:
        """Scale; for each 32 weights four places, then four signs and a small scale."""
        d, levels = stored.scales
        place = self.places(stored.codes).astype(jnp.uint8).reshape(len(d), -1, 4)
        words = jnp.concatenate([place, word_bytes(signs_of(stored.codes), levels)], -1)
        return jnp.concatenate([f16_bytes(d), words.reshape(len(d), -1)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 66"]) -> Stored:
        """And back."""
        words = data[:, 2:].reshape(len(data), -1, 8)
        signs, levels = word_fields(words[..., 4:])
        place = words[..., :4].reshape(len(data), -1).astype(jnp.int32)
        return Stored(self.codes(place, signs), (bytes_f16(data[:, :2]), levels))


@dataclass(frozen=True)
class IQ2XS(Signed):
    """512 points, signs of seven bits, scales of 16 weights."""

    def weights(self, blocks: Supers, importance: Importance | None) -> Blocks:
        """As llama.cpp's own tests have it, all inputs are equally important if nothing is said."""
        return equal_weights(blocks, importance, self.power)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 74"]:
        """Scale, places with signs, small scales."""
        d, levels = stored.scales
        both = (self.places(stored.codes) | ((signs_of(stored.codes) & 127) << 9)).astype(jnp.uint16)
        pairs = lax.bitcast_convert_type(both, jnp.uint8).reshape(len(d), -1)
        return jnp.concatenate([f16_bytes(d), pairs, pack_planes(levels, 1, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 74"]) -> Stored:
        """And back."""
        both = lax.bitcast_convert_type(data[:, 2:66].reshape(len(data), -1, 2), jnp.uint16).astype(jnp.int32)
        codes = self.codes(both & 511, even(both >> 9))
        return Stored(codes, (bytes_f16(data[:, :2]), unpack_planes(data[:, 66:], 1, 4)))


@dataclass(frozen=True)
class IQ2S(Signed):
    """1024 points, signs of eight bits, scales of 16 weights."""

    def weights(self, blocks: Supers, importance: Importance | None) -> Blocks:
        """Without importances half the mean square of the super-block and w^2."""
        if importance is None:
            return 0.25 * (2 * mean_square(blocks)) + ieee.square(blocks)
        return error_weights(blocks, importance, self.power)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 82"]:
        """Scale, low eight bits of the places, signs, high two bits, small scales."""
        d, levels = stored.scales
        place = self.places(stored.codes)
        low, high = (place & 255).astype(jnp.uint8), pack_planes(place >> 8, 1, 2)
        signs = signs_of(stored.codes).astype(jnp.uint8)
        return jnp.concatenate([f16_bytes(d), low, signs, high, pack_planes(levels, 1, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 82"]) -> Stored:
        """And back."""
        place = data[:, 2:34].astype(jnp.int32) | (unpack_planes(data[:, 66:74], 1, 2).astype(jnp.int32) << 8)
        codes = self.codes(place, data[:, 34:66].astype(jnp.int32))
        return Stored(codes, (bytes_f16(data[:, :2]), unpack_planes(data[:, 74:], 1, 4)))


def equal_weights(blocks: Supers, importance: Importance | None, power: float) -> Blocks:
    """Weights of the errors; all importances are 1 if there are none."""
    equal = Importance(jnp.ones_like(blocks), mean_square(blocks))
    return error_weights(blocks, equal if importance is None else importance, power)
