"""q3_k and q6_k: each sub-block of 16 has a signed scale, a small integer in units of a float16 for 256 weights."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from quantsim._types import Blocks, PerBlock
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.blocks import extreme
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_planes, stored_f16, unpack_planes
from quantsim.quantizer.blockformats.refine import refined_scale_search
from quantsim.quantizer.blockformats.search import TINY, scale_search
from quantsim.quantizer.blockformats.superblocks import Supers, error_weights, spread, sub_blocks, totals
from quantsim.rounding import round_integer

SIZE = 16


@dataclass(frozen=True)
class Q3K(Coding):
    """Three-bit codes, the middle one meaning zero, and six-bit scales."""

    tries = True
    half = 4

    def search(self, blocks: Supers, importance: Importance | None) -> Stored:
        """Scales refined code by code, or with importances the best of a few, of the scales too."""
        sub = sub_blocks(blocks, SIZE)
        if importance is None:
            refined = refined_scale_search(sub, self.half)
            d, levels = _levels(refined.scale.reshape(-1, 16), 32)
            found = lax.cond(
                jnp.any(d * levels == 0),
                lambda: _codes_again(blocks, d * levels, self.half, refined.codes()),
                lambda: _codes_again(blocks, d * levels, self.half),
            )
        else:
            weights = sub_blocks(error_weights(blocks, importance, 2.0), SIZE)
            scale, codes = scale_search(sub, weights, self.half)
            d, levels = scale_search(scale.reshape(-1, 16), totals(weights, 16), 32)
            d, levels = stored_f16(d), levels - 32
            found = _codes_again(blocks, d * levels, self.half, codes)
        return Stored(found, (d, levels.astype(jnp.int8)))

    def values(self, stored: Stored) -> Supers:
        """``(code - half) d scale``."""
        return _values(stored, self.half)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 110"]:
        """Third bits of the codes, low two bits, low four and high two bits of the scales, their unit."""
        d, levels = stored.scales
        s = (levels + 32).astype(jnp.uint8)
        low = (s[:, :8] & 15) | (s[:, 8:] << 4)
        high = pack_planes(s >> 4, 4, 2)
        third, two = pack_planes(stored.codes >> 2, 32, 1), pack_planes(stored.codes, 32, 2)
        return jnp.concatenate([third, two, low, high, f16_bytes(d)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 110"]) -> Stored:
        """And back."""
        low = data[:, 96:104]
        s = jnp.concatenate([low & 15, low >> 4], -1) | (unpack_planes(data[:, 104:108], 4, 2) << 4)
        codes = unpack_planes(data[:, 32:96], 32, 2) | (unpack_planes(data[:, :32], 32, 1) << 2)
        return Stored(codes, (bytes_f16(data[:, 108:110]), s.astype(jnp.int8) - 32))


@dataclass(frozen=True)
class Q6K(Coding):
    """Six-bit codes, the middle one meaning zero, and eight-bit scales."""

    tries = True
    half = 32

    def search(self, blocks: Supers, importance: Importance | None) -> Stored:
        """Errors weighed by w^2, or by importance."""
        sub = sub_blocks(blocks, SIZE)
        weights = ieee.square if importance is None else sub_blocks(importance.weights, SIZE)
        scale, codes = scale_search(sub, weights, self.half)
        scale = scale.reshape(-1, 16)
        d, levels = _levels(scale, 128)
        nothing = jnp.abs(scale).max(axis=-1, keepdims=True) < TINY
        found = jnp.where(nothing, 0, _codes_again(blocks, d * levels, self.half, codes))
        return Stored(found, (jnp.where(nothing, 0.0, d), jnp.where(nothing, 0, levels).astype(jnp.int8)))

    def values(self, stored: Stored) -> Supers:
        """``(code - half) d scale``."""
        return _values(stored, self.half)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 210"]:
        """Low four bits of the codes, high two, scales, their unit."""
        d, levels = stored.scales
        four, two = pack_planes(stored.codes, 64, 4), pack_planes(stored.codes >> 4, 32, 2)
        return jnp.concatenate([four, two, lax.bitcast_convert_type(levels, jnp.uint8), f16_bytes(d)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 210"]) -> Stored:
        """And back."""
        codes = unpack_planes(data[:, :128], 64, 4) | (unpack_planes(data[:, 128:192], 32, 2) << 4)
        return Stored(codes, (bytes_f16(data[:, 208:210]), lax.bitcast_convert_type(data[:, 192:208], jnp.int8)))


def _levels(found: Float[Array, "blocks 16"], half: int) -> tuple[PerBlock, Float[Array, "blocks 16"]]:
    """Float16 unit and integers -half … half - 1 of signed scales, the one of largest magnitude being -half."""
    top = extreme(found)
    factor = ieee.divide(-float(half) + (top - top), jnp.where(top == 0, 1.0, top))
    unit = jnp.where(top == 0, 0.0, ieee.divide(1.0 + (top - top), factor))
    levels = jnp.clip(round_integer(factor * found), -half, half - 1)
    return stored_f16(unit), jnp.where(top == 0, -half, levels)


def _codes_again(
    blocks: Supers, step: Float[Array, "supers 16"], half: int, codes: Blocks | None = None
) -> UInt8[Array, "supers 256"]:
    """Codes for the scales as stored; those of the search where a stored scale is 0, if there may be one."""
    step = spread(step, SIZE)
    again = jnp.clip(round_integer(ieee.divide(blocks, jnp.where(step == 0, 1.0, step))), -half, half - 1) + half
    return (again if codes is None else jnp.where(step == 0, codes.reshape(blocks.shape), again)).astype(jnp.uint8)


def _values(stored: Stored, half: int) -> Supers:
    d, levels = stored.scales
    step = spread(d * levels.astype(jnp.float32), SIZE)
    return step * (stored.codes.astype(jnp.float32) - half)
