"""q2_k, q4_k and q5_k: a scale and a minimum for each sub-block, integers in units of a float16 for 256 weights."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from quantsim._types import Blocks, PerBlock
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.blocks import mean_square
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_planes, stored_f16, unpack_planes
from quantsim.quantizer.blockformats.refine import scales_search
from quantsim.quantizer.blockformats.search import Grid, Weigh, scale_and_min_search
from quantsim.quantizer.blockformats.superblocks import SUPER, Supers, error_weights, spread, sub_blocks, totals
from quantsim.rounding import round_integer


@dataclass(frozen=True)
class Q2K(Coding):
    """Sub-blocks of 16, two-bit codes, four-bit scales and minimums."""

    tries = True

    def search(self, blocks: Supers, importance: Importance | None) -> Stored:
        """Absolute errors weighed by abs(w), or squared ones by importance."""
        sub, grid = sub_blocks(blocks, 16), Grid(3, -0.5, 0.1, 15, absolute=True)
        if importance is None:
            return _searched(blocks, sub, jnp.abs, grid, 15)
        return _weighed(blocks, sub, error_weights(blocks, importance, 1.0), 3, 15)

    def values(self, stored: Stored) -> Supers:
        """``code d scale - d_min min``."""
        return _values(stored, 16)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 84"]:
        """Scales and minimums, codes, their units."""
        d, scales, d_min, mins = stored.scales
        fields = [scales | (mins << 4), pack_planes(stored.codes, 32, 2), f16_bytes(d), f16_bytes(d_min)]
        return jnp.concatenate(fields, -1)

    def from_bytes(self, data: UInt8[Array, "blocks 84"]) -> Stored:
        """And back."""
        scales = (bytes_f16(data[:, 80:82]), data[:, :16] & 15, bytes_f16(data[:, 82:84]), data[:, :16] >> 4)
        return Stored(unpack_planes(data[:, 16:80], 32, 2), scales)


@dataclass(frozen=True)
class Q45K(Coding):
    """Sub-blocks of 32, codes of four or five ``bits``, six-bit scales and minimums."""

    tries = True

    bits: int
    grid: Grid

    def search(self, blocks: Supers, importance: Importance | None) -> Stored:
        """Squared errors weighed by rms + abs(w), or by importance."""
        sub = sub_blocks(blocks, 32)
        if importance is None:
            return _searched(blocks, sub, jnp.sqrt(mean_square(sub)) + jnp.abs(sub), self.grid, 63)
        return _weighed(blocks, sub, error_weights(blocks, importance, 2.0), self.grid.top, 63)

    def values(self, stored: Stored) -> Supers:
        """``code d scale - d_min min``."""
        return _values(stored, 32)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks nbytes"]:
        """Units, scales and minimums, fifth bits of the codes, low four bits.

        Of the six-bit numbers four scales lie whole in bytes 0 … 3 and four minimums in 4 … 7, the low halves of the
        others in 8 … 11, and their high two bits above the whole ones.
        """
        d, s, d_min, m = stored.scales
        six = [s[:, :4] | (s[:, 4:] >> 4 << 6), m[:, :4] | (m[:, 4:] >> 4 << 6), (s[:, 4:] & 15) | (m[:, 4:] << 4)]
        fifth = [pack_planes(stored.codes >> 4, 32, 1)] if self.bits == 5 else []
        return jnp.concatenate([f16_bytes(d), f16_bytes(d_min), *six, *fifth, pack_planes(stored.codes, 32, 4)], -1)

    def from_bytes(self, data: UInt8[Array, "blocks nbytes"]) -> Stored:
        """And back."""
        a, b, c = data[:, 4:8], data[:, 8:12], data[:, 12:16]
        scales = jnp.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], -1)
        mins = jnp.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], -1)
        codes = unpack_planes(data[:, -128:], 32, 4)
        if self.bits == 5:
            codes = codes | (unpack_planes(data[:, 16:48], 32, 1) << 4)
        return Stored(codes, (bytes_f16(data[:, :2]), scales, bytes_f16(data[:, 2:4]), mins))


def _searched(blocks: Supers, sub: Blocks, weights: Weigh, grid: Grid, most: int) -> Stored:
    """Scales and minimums of the sub-blocks, rounded to integers 0 … most, and codes for what they became."""
    scale, low, codes = scale_and_min_search(sub, weights, grid)
    count = SUPER // sub.shape[-1]
    d, scales = _levels(scale.reshape(-1, count), most)
    d_min, mins = _levels(-low.reshape(-1, count), most)
    return _stored(blocks, codes, grid.top, (d, scales, d_min, mins))


def _weighed(blocks: Supers, sub: Blocks, weights: Supers, top: int, most: int) -> Stored:
    """The same with importances: a finer grid, and the integers are searched too."""
    of_sub = sub_blocks(weights, sub.shape[-1])
    count = SUPER // sub.shape[-1]
    scale, low, codes = scale_and_min_search(sub, of_sub, Grid(top, -0.9, 0.05, 36))
    total = totals(of_sub, count)
    d, scales = scales_search(scale.reshape(-1, count), total, most)
    d_min, mins = scales_search(-low.reshape(-1, count), total, most)
    return _stored(blocks, codes, top, (stored_f16(d), scales, stored_f16(d_min), mins))


def _levels(found: Float[Array, "blocks subs"], most: int) -> tuple[PerBlock, Float[Array, "blocks subs"]]:
    """Float16 unit and integers 0 … most of nonnegative scales, their largest being the last level."""
    largest = jnp.maximum(found.max(axis=-1, keepdims=True), 0.0)
    inverse = jnp.where(largest > 0, ieee.divide(most + (largest - largest), jnp.where(largest > 0, largest, 1.0)), 0.0)
    return stored_f16(ieee.divide(largest, float(most))), jnp.minimum(round_integer(inverse * found), most)


def _stored(blocks: Supers, codes: Blocks, top: int, levels: tuple[Float[Array, "..."], ...]) -> Stored:
    """Codes 0 … top for the scales as stored; those of the search where a stored scale is 0."""
    d, scales, d_min, mins = levels
    size = codes.shape[-1]
    step, base = spread(d * scales, size), spread(d_min * mins, size)
    units = ieee.divide(blocks + base, jnp.where(step == 0, 1.0, step))  # d_min * m is exact: fusing it is no harm
    again = jnp.clip(round_integer(units), 0, top)
    codes = jnp.where(step == 0, codes.reshape(blocks.shape), again)
    return Stored(codes.astype(jnp.uint8), (d, scales.astype(jnp.uint8), d_min, mins.astype(jnp.uint8)))


def _values(stored: Stored, size: int) -> Supers:
    d, scales, d_min, mins = stored.scales
    step = spread(d * scales.astype(jnp.float32), size)
    base = spread(d_min * mins.astype(jnp.float32), size)
    return step * stored.codes.astype(jnp.float32) - base  # the product is exact, so fusing it is no harm
