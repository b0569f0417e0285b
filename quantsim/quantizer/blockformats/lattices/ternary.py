"""IQ1_S and IQ1_M: points of a lattice of -1, 0 and 1, shifted by 1/8 up or down.

The weights of a sub-block are sorted; the two bounds between the three codes and the shifts that take most from the
weighed error are found by trying all of them, the groups are snapped to points, and the scale is fitted again.
IQ1_S: sub-blocks of 32 weights that share a shift. IQ1_M: of 16, each half with its own, and a last fit of the float16
scale to all 256 weights.

Source: llama.cpp, ggml-quants.c, ``quantize_row_iq1_s_impl``, ``quantize_row_iq1_m_impl``; the latter as it was before
its sums were made of prefixes, which moves last bits.
"""

import abc
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32, UInt8

from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.blockformats.lattices.nearest import Costs, codes_of, number_of, snapped
from quantsim.quantizer.blockformats.lattices.points import Lattice, places, points
from quantsim.quantizer.blockformats.lattices.signed import small_scales
from quantsim.quantizer.blockformats.lattices.two_bits import equal_weights
from quantsim.quantizer.blockformats.packing import (
    bytes_f16,
    f16_bytes,
    pack_planes,
    stored_f16,
    unpack_planes,
)
from quantsim.quantizer.blockformats.search import Lane, in_order
from quantsim.quantizer.blockformats.superblocks import Supers, error_weights, spread

LATTICE = Lattice("iq1", 3)
DELTA = 0.125
_THREES = np.arange(0, 12, 3, dtype=np.int32)[None, None]  # where four numbers of three bits begin


class Split(NamedTuple):
    """The best split so far: what it takes from the error, its scale, and which it is, -1 where there is none."""

    gain: Lane
    scale: Lane
    number: Int32[Array, " blocks"]


class Sorted(NamedTuple):
    """Values, weights and places of the weights of each sub-block, the smallest first."""

    x: Float[Array, "size blocks"]
    w: Float[Array, "size blocks"]
    place: Int32[Array, "size blocks"]


class Found(NamedTuple):
    """Codes of sub-blocks, the scale, and which eighths of the weights are shifted down."""

    codes: Int32[Array, "blocks size"]
    scale: Lane
    down: Bool[Array, "blocks eighths"]


@dataclass(frozen=True)
class Shifted(Coding, abc.ABC):
    """Codes 0, 1, 2 for -1, 0, 1.

    Attributes:
        size: weights of a sub-block.
        shifts: of a sub-block.
        tiny: a sub-block whose largest magnitude is below it is stored as zeros.
    """

    size: int
    shifts: int
    tiny: float

    @abc.abstractmethod
    def weights(self, blocks: Supers, importance: Importance | None) -> Blocks:
        """Weights of the errors."""

    @abc.abstractmethod
    def try_split(self, s: Sorted, bounds: tuple[Int[Array, ""], Int[Array, ""]]) -> list[tuple[Lane, Lane]]:
        """Weighed sums of level times value and of level squared, for each choice of shifts."""

    @abc.abstractmethod
    def unit(self, stored: Stored, blocks: Supers, weights: Blocks) -> Float[Array, "blocks 1"]:
        """The float16 scale, before it is rounded."""

    def search(self, blocks: Supers, importance: Importance | None) -> Stored:
        """The best of all splits of each sub-block, on the lattice; scales in units of the largest."""
        weights = self.weights(blocks, importance)
        sub, w = blocks.reshape(-1, self.size), weights.reshape(-1, self.size)
        place = lax.broadcasted_iota(jnp.int32, sub.shape, 1)
        ordered = Sorted(*(v.T for v in lax.sort((sub, w, place), num_keys=1, is_stable=True)))
        split = self._best_split(ordered)
        some = (split.number >= 0) & (jnp.abs(sub).max(axis=-1) >= self.tiny)
        codes, scale, down = _on_lattice(sub, w, self._of_split(split, ordered))
        codes = jnp.where(some[:, None], codes, 0).astype(jnp.uint8).reshape(blocks.shape)
        down = (down[:, :: down.shape[1] // self.shifts] & some[:, None]).reshape(len(blocks), -1).astype(jnp.uint8)
        d, levels = small_scales(jnp.where(some, scale, 0.0).reshape(len(blocks), -1), 15, 7)
        unit = self.unit(Stored(codes, (d, levels, down)), blocks, weights)
        return Stored(codes, (stored_f16(jnp.where(d == 0, 0.0, unit)), levels, down))

    def _best_split(self, s: Sorted) -> Split:
        bounds = [(i, k) for i in range(self.size + 1) for k in range(i, self.size + 1)]
        first, second = (jnp.asarray(of_all, jnp.int32) for of_all in zip(*bounds, strict=True))
        zero = s.x[0] - s.x[0]

        def attempt(t: Int[Array, ""] | int, best: Split) -> Split:
            sums = self.try_split(s, (first[t], second[t]))
            for choice, (product, square) in enumerate(sums):
                scale = lax.div(product, jnp.where(square > 0, square, 1.0))
                wins = (square > 0) & (product * product > best.gain * square)
                number = jnp.full_like(best.number, len(sums) * t + choice)
                better = Split(scale * product, scale, number)
                best = jax.tree.map(lambda a, b, wins=wins: jnp.where(wins, a, b), better, best)
            return best

        lowest = jnp.finfo(jnp.float32).min
        start = Split(zero + lowest, zero, zero.astype(jnp.int32) - 1)
        return lax.fori_loop(0, len(bounds), attempt, start)

    def _of_split(self, split: Split, s: Sorted) -> Found:
        """Codes in their places; where the scale is negative, it, the codes and the shifts change sign."""
        choices = 2**self.shifts
        bounds = [(i, k) for i in range(self.size + 1) for k in range(i, self.size + 1)]
        which, choice = jnp.maximum(split.number, 0) // choices, jnp.maximum(split.number, 0) % choices
        first, second = (jnp.asarray(of_all, jnp.int32)[which][:, None] for of_all in zip(*bounds, strict=True))
        rank = lax.sort((s.place.T, lax.broadcasted_iota(jnp.int32, s.place.T.shape, 1)), num_keys=1)[1]
        codes = (rank >= first).astype(jnp.int32) + (rank >= second).astype(jnp.int32)
        bits = np.arange(self.shifts - 1, -1, -1, dtype=np.int32)
        down = jnp.repeat((choice[:, None] >> bits[None]) & 1 == 1, self.size // 8 // self.shifts, axis=1)
        negative = split.scale < 0
        codes = jnp.where(negative[:, None], 2 - codes, codes)
        return Found(codes, jnp.abs(split.scale), down ^ negative[:, None])

    def values(self, stored: Stored) -> Supers:
        """``(code - 1 ± 1/8) d (2 s + 1)``."""
        d, levels, down = stored.scales
        shift = spread(_shift(down == 1), 256 // down.shape[1])
        step = spread(d * (2 * levels.astype(jnp.float32) + 1), self.size)
        return (stored.codes.astype(jnp.float32) - 1 + shift) * step

    # --- the pieces of the bytes ------------------------------------------------------------------------------------

    def places(self, stored: Stored) -> Int32[Array, "blocks 32"]:
        """Place in the grid of each group."""
        groups = stored.codes.astype(jnp.int32).reshape(len(stored.codes), -1, 8)
        return jnp.asarray(places(LATTICE))[
            (groups * 3 ** np.arange(8, dtype=np.int32)[None, None]).sum(axis=-1, dtype=jnp.int32)
        ]

    def codes(self, place: Int32[Array, "blocks 32"]) -> UInt8[Array, "blocks 256"]:
        """Codes of places."""
        return jnp.asarray(points(LATTICE.name))[place].reshape(len(place), -1)


@dataclass(frozen=True)
class IQ1S(Shifted):
    """Sub-blocks of 32 weights with a shift."""

    def weights(self, blocks: Supers, importance: Importance | None) -> Blocks:
        """As llama.cpp's own tests have it, all inputs are equally important if nothing is said."""
        return equal_weights(blocks, importance, 2.0)

    def try_split(self, s: Sorted, bounds: tuple[Int[Array, ""], Int[Array, ""]]) -> list[tuple[Lane, Lane]]:
        """From sums of the sorted weights up to the bounds."""
        zero = s.x[0] - s.x[0]
        parts = []
        for before in (_sums_before(s.w * s.x + zero[None]), _sums_before(s.w)):
            a, b = (lax.dynamic_index_in_dim(before, i, keepdims=False) for i in bounds)
            parts.append((a, b - a, before[-1] - b))
        found = []
        for shift in (DELTA, -DELTA):
            levels = [c + shift for c in (-1.0, 0.0, 1.0)]
            product = in_order([p * q + zero for p, q in zip(parts[0], levels, strict=True)])
            # the first product keeps its rounding: XLA would multiply by the square of the level
            square = in_order([(p * q + zero) * q + zero for p, q in zip(parts[1], levels, strict=True)])
            found.append((product, square))
        return found

    def unit(self, stored: Stored, blocks: Supers, weights: Blocks) -> Float[Array, "blocks 1"]:
        """An eighth more than the largest scale says."""
        return stored.scales[0] * np.float32(1.125)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 50"]:
        """Scale, low eight bits of the places, words of their high bits, a small scale and a shift."""
        d, levels, down = stored.scales
        place = self.places(stored)
        high = (place >> 8).reshape(len(d), -1, 4) << _THREES
        word = high.sum(axis=-1, dtype=jnp.int32) | (levels.astype(jnp.int32) << 12) | (down.astype(jnp.int32) << 15)
        words = lax.bitcast_convert_type(word.astype(jnp.uint16), jnp.uint8).reshape(len(d), -1)
        return jnp.concatenate([f16_bytes(d), (place & 255).astype(jnp.uint8), words], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 50"]) -> Stored:
        """And back."""
        word = lax.bitcast_convert_type(data[:, 34:].reshape(len(data), -1, 2), jnp.uint16).astype(jnp.int32)
        high = ((word[:, :, None] >> _THREES) & 7).reshape(len(data), -1)
        levels, down = ((word >> 12) & 7).astype(jnp.uint8), (word >> 15).astype(jnp.uint8)
        codes = self.codes(data[:, 2:34].astype(jnp.int32) | (high << 8))
        return Stored(codes, (bytes_f16(data[:, :2]), levels, down))


@dataclass(frozen=True)
class IQ1M(Shifted):
    """Sub-blocks of 16 weights with two shifts."""

    def weights(self, blocks: Supers, importance: Importance | None) -> Blocks:
        """w^2 without importances."""
        return ieee.square(blocks) if importance is None else error_weights(blocks, importance, 2.0)

    def try_split(self, s: Sorted, bounds: tuple[Int[Array, ""], Int[Array, ""]]) -> list[tuple[Lane, Lane]]:
        """Sums over all weights, the smallest first, with the level of the shift of their half."""
        zero = s.x[0] - s.x[0]
        found = [(zero, zero)] * 4
        for j in range(self.size):
            level = jnp.where(j >= bounds[0], 1.0, 0.0) + jnp.where(j >= bounds[1], 1.0, 0.0) - 1
            x, w, late = s.x[j], s.w[j], s.place[j] >= self.size // 2
            up, down = ((w * (level + shift), level + shift) for shift in (DELTA, -DELTA))
            terms = [(wq * x + zero, wq * q + zero) for wq, q in (up, down)]
            mixed = [
                tuple(jnp.where(late, a, b) for a, b in zip(*pair, strict=True))
                for pair in ((terms[1], terms[0]), (terms[0], terms[1]))
            ]
            of_choices = (terms[0], *mixed, terms[1])
            found = [(p + a, q + b) for (p, q), (a, b) in zip(found, of_choices, strict=True)]
        return found

    def unit(self, stored: Stored, blocks: Supers, weights: Blocks) -> Float[Array, "blocks 1"]:
        """Fitted to all weights with the codes and small scales as stored, and a little more."""
        d, levels, down = stored.scales
        relative = self.values(Stored(stored.codes, (jnp.ones_like(d), levels, down)))
        zero = blocks - blocks
        terms = ((weights * relative) * blocks + zero, (weights * relative) * relative + zero)
        product, square = (lax.scan(_added, jnp.zeros_like(t[:, 0]), t.T)[0][:, None] for t in terms)
        fitted = jnp.where(square > 0, lax.div(product, jnp.where(square > 0, square, 1.0)), d)
        return fitted * np.float32(1.1125)

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 56"]:
        """Low eight bits of places, their high bits with shifts, words of four small scales and bits of the scale."""
        d, levels, down = stored.scales
        place = self.places(stored)
        high = pack_planes((place >> 8) | (down.astype(jnp.int32) << 3), 1, 4)
        small = levels.astype(jnp.int32).reshape(len(d), -1, 4) << _THREES
        half = lax.bitcast_convert_type(d.astype(jnp.float16), jnp.uint16).astype(jnp.int32)
        digits = (half >> np.arange(0, 16, 4, dtype=np.int32)[None]) & 15
        word = small.sum(axis=-1, dtype=jnp.int32) | (digits << 12)
        words = lax.bitcast_convert_type(word.astype(jnp.uint16), jnp.uint8).reshape(len(d), -1)
        return jnp.concatenate([(place & 255).astype(jnp.uint8), high, words], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 56"]) -> Stored:
        """And back."""
        word = lax.bitcast_convert_type(data[:, 48:].reshape(len(data), -1, 2), jnp.uint16).astype(jnp.int32)
        half = ((word >> 12) << np.arange(0, 16, 4, dtype=np.int32)[None]).sum(axis=-1, keepdims=True, dtype=jnp.int32)
        d = lax.bitcast_convert_type(half.astype(jnp.uint16), jnp.float16).astype(jnp.float32)
        levels = ((word[:, :, None] >> _THREES) & 7).reshape(len(data), -1)
        high = unpack_planes(data[:, 32:48], 1, 4).astype(jnp.int32)
        codes = self.codes(data[:, :32].astype(jnp.int32) | ((high & 7) << 8))
        return Stored(codes, (d, levels.astype(jnp.uint8), (high >> 3).astype(jnp.uint8)))


def _shift(down: Bool[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(down, jnp.float32(-DELTA), jnp.float32(DELTA))


def _added(total: Lane, term: Lane) -> tuple[Lane, None]:
    return total + term, None


def _sums_before(rows: Float[Array, "size blocks"]) -> Float[Array, "more blocks"]:
    """Sum of the first 0, 1, … rows, added in order."""
    sums = [jnp.zeros_like(rows[0])]
    for row in rows:
        sums.append(sums[-1] + row)
    return jnp.stack(sums)


def _on_lattice(sub: Blocks, weights: Blocks, split: Found) -> Found:
    """Codes moved to points, and the scale fitted again where some were."""
    blocks, size = sub.shape
    groups = size // 8
    x, w, codes = (v.reshape(blocks, groups, 8).transpose(2, 1, 0).reshape(8, -1) for v in (sub, weights, split.codes))
    shift = _shift(split.down.T.reshape(-1))
    number = number_of(list(codes.astype(jnp.float32)), 3)
    found = snapped(number, LATTICE, Costs(x, w, jnp.tile(split.scale, groups), shift - 1, 1.0))
    zero, q = shift - shift, [c.astype(jnp.float32) - 1 + shift for c in codes_of(found.word, LATTICE)]
    terms = [((u * a) * v + zero, (u * a) * a + zero) for u, v, a in zip(w, x, q, strict=True)]
    lanes = [tuple(t.reshape(groups, blocks)[k] for t in terms[i]) for k in range(groups) for i in range(8)]
    product, square = (in_order(of_one) for of_one in zip(*lanes, strict=True))
    moved = ~found.was_point.reshape(groups, blocks).all(axis=0)
    fitted = moved & (product > 0) & (square > 0)
    scale = jnp.where(fitted, lax.div(product, jnp.where(square > 0, square, 1.0)), split.scale)
    words = jnp.stack(codes_of(found.word, LATTICE)).reshape(8, groups, blocks)
    return Found(words.transpose(2, 1, 0).reshape(blocks, size), scale, split.down)
