"""IQ3_XXS, IQ3_S, IQ2_XXS, IQ2_XS and IQ2_S: points of a lattice for the magnitudes, signs beside them.

A float16 scale d for 256 weights and a 4-bit scale s for each sub-block; the step of a sub-block is ``d (s + 1/2) u``,
with a unit u of the format, and a weight is plus or minus a level of the grid times it. Where signs take seven bits for
eight weights, their number is even: if it is not, the weight that matters least changes its sign.

Source: llama.cpp, ggml-quants.c, ``quantize_row_iq3_xxs_impl``, ``quantize_row_iq3_s_impl``,
``quantize_row_iq2_xxs_impl``, ``quantize_row_iq2_xs_impl``, ``quantize_row_iq2_s_impl``.
"""

import abc
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, UInt8

from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.blockformats.lattices import scales
from quantsim.quantizer.blockformats.lattices.points import places, points
from quantsim.quantizer.blockformats.lattices.scales import Trials
from quantsim.quantizer.blockformats.packing import stored_f16
from quantsim.quantizer.blockformats.search import Lane
from quantsim.quantizer.blockformats.superblocks import Supers, error_weights, spread
from quantsim.quantizer.blockformats.unpacking.grids import grid
from quantsim.rounding import round_integer

_EIGHT = np.arange(8, dtype=np.int32)[None, None]
_FOURS = np.arange(0, 28, 7, dtype=np.uint32)[None, None]  # where seven signs of four times eight weights begin


@dataclass(frozen=True)
class Signed(Coding, abc.ABC):
    """Codes are ``2 level + sign``. Without importances errors are weighed by w^2.

    Attributes:
        trials: the search for the scale of a sub-block.
        size: weights of a sub-block.
        even: whether the number of negative signs of eight weights is even.
        power: mean squares of a super-block in the weight of an error.
        tiny: a sub-block whose largest value is below it is stored as zeros.
        fudge: what the float16 scale is multiplied by.
        unit: of the step.
    """

    trials: Trials
    size: int
    even: bool
    power: float
    tiny: float
    fudge: float
    unit: float

    def search(self, blocks: Supers, importance: Importance | None) -> Stored:
        """The best of some scales for each sub-block, quantized in units of the largest."""
        weights = self.weights(blocks, importance).reshape(-1, self.size)
        sub = blocks.reshape(-1, self.size)
        magnitudes, negative = even_signs(sub, weights) if self.even else (jnp.abs(sub), sub < 0)
        largest = magnitudes.max(axis=-1)
        empty = largest < self.tiny
        parts = scales.parts(magnitudes, weights, self.trials.lattice)
        scale, word, zeros = self.scales(parts, jnp.where(empty, 1.0, largest))
        empty = empty | zeros
        negative = negative ^ (scale < 0)[:, None]
        codes = 2 * scales.codes(word, self.trials.lattice, len(sub)) + negative.astype(jnp.int32)
        codes = jnp.where(empty[:, None], 0, codes)
        scale = jnp.where(empty, 0.0, jnp.abs(scale))
        d, levels = small_scales(scale.reshape(len(blocks), -1), 31, 15)
        codes = self.placed(codes.reshape(blocks.shape).astype(jnp.uint8), empty.reshape(len(blocks), -1))
        return Stored(codes, (stored_f16(d * np.float32(self.fudge)), levels))

    def weights(self, blocks: Supers, importance: Importance | None) -> Blocks:
        """Weights of the errors."""
        if importance is None:
            return ieee.square(blocks)
        return error_weights(blocks, importance, self.power)

    def scales(
        self, parts: scales.Parts, largest: Lane
    ) -> tuple[Lane, Int32[Array, " groups"], Bool[Array, " blocks"]]:
        """Scale of each sub-block, the points of its groups, and whether it is stored as zeros after all."""
        scale = ieee.divide(largest, float(2 * self.trials.lattice.levels - 1))
        return *scales.scale_search(parts, largest, scale, self.trials), jnp.zeros(largest.shape, bool)

    def placed(
        self, codes: UInt8[Array, "blocks 256"], empty: Bool[Array, "blocks subs"]
    ) -> UInt8[Array, "blocks 256"]:
        """Codes of the sub-blocks where the reference puts them."""
        return codes

    def values(self, stored: Stored) -> Supers:
        """``± level step``."""
        d, levels = stored.scales
        step = (d * (levels.astype(jnp.float32) + 0.5)) * self.unit
        table = np.unique(grid(self.trials.lattice.name))
        level = jnp.asarray(table)[(stored.codes >> 1).astype(jnp.int32)]
        return spread(step, self.size) * jnp.where((stored.codes & 1) == 1, -level, level)

    # --- the pieces of the bytes ------------------------------------------------------------------------------------

    def places(self, codes: UInt8[Array, "blocks 256"]) -> Int32[Array, "blocks groups"]:
        """Place in the grid of each group."""
        lattice = self.trials.lattice
        groups = (codes >> 1).astype(jnp.int32).reshape(len(codes), -1, lattice.length)
        digits = lattice.levels ** np.arange(lattice.length, dtype=np.int32)[None, None]
        return jnp.asarray(places(lattice))[(groups * digits).sum(axis=-1, dtype=jnp.int32)]

    def codes(
        self, place: Int32[Array, "blocks groups"], signs: Int32[Array, "blocks bytes"]
    ) -> UInt8[Array, "blocks 256"]:
        """Codes of places and of bytes of signs."""
        level = jnp.asarray(points(self.trials.lattice.name))[place].reshape(len(place), -1)
        negative = (signs[:, :, None] >> _EIGHT) & 1
        return 2 * level + negative.reshape(level.shape).astype(jnp.uint8)


def signs_of(codes: UInt8[Array, "blocks 256"]) -> Int32[Array, "blocks 32"]:
    """A byte of signs for each eight weights, the first in the lowest bit."""
    bits = (codes & 1).astype(jnp.int32).reshape(len(codes), -1, 8)
    return (bits << _EIGHT).sum(axis=-1, dtype=jnp.int32)


def word_bytes(signs: Int32[Array, "blocks 32"], levels: UInt8[Array, "blocks 8"]) -> UInt8[Array, "blocks 8 4"]:
    """For each 32 weights four times seven signs, and four bits of their scale, in four bytes."""
    seven = (signs & 127).astype(jnp.uint32).reshape(len(signs), -1, 4)
    word = (seven << _FOURS).sum(axis=-1, dtype=jnp.uint32)
    return lax.bitcast_convert_type(word | (levels.astype(jnp.uint32) << 28), jnp.uint8)


def word_fields(data: UInt8[Array, "blocks 8 4"]) -> tuple[Int32[Array, "blocks 32"], UInt8[Array, "blocks 8"]]:
    """And back: bytes of signs, and scales."""
    word = lax.bitcast_convert_type(data, jnp.uint32)
    seven = ((word[:, :, None] >> _FOURS) & np.uint32(127)).reshape(len(data), -1)
    return even(seven.astype(jnp.int32)), (word >> 28).astype(jnp.uint8)


def even(seven: Int32[Array, "..."]) -> Int32[Array, "..."]:
    """Seven signs, and an eighth that makes the number of ones even."""
    return seven | ((lax.population_count(seven) & 1) << 7)


def even_signs(sub: Blocks, weights: Blocks) -> tuple[Blocks, Bool[Array, "blocks size"]]:
    """Magnitudes and signs; among eight weights with an odd number of signs the least has the wrong one.

    Least is where weight times square is; of equally small ones the first. Its magnitude is negative.
    """
    eights = sub.reshape(len(sub), -1, 8)
    negative = eights < 0
    cost = (weights.reshape(eights.shape) * eights) * eights
    least = jnp.argmin(cost, axis=-1)[..., None].astype(jnp.int32) == _EIGHT
    wrong = least & (negative.sum(axis=-1, keepdims=True) % 2 == 1)
    magnitudes = jnp.where(wrong, -jnp.abs(eights), jnp.abs(eights))
    return magnitudes.reshape(sub.shape), (negative ^ wrong).reshape(sub.shape)


def small_scales(
    scale: Float[Array, "blocks subs"], largest: int, top: int
) -> tuple[Float[Array, "blocks 1"], UInt8[Array, "blocks subs"]]:
    """Unit and integers s = 0 … top of nonnegative scales ``(2 s + 1) unit``, the largest of which is ``largest``."""
    most = scale.max(axis=-1, keepdims=True)
    d = ieee.divide(most, float(largest))
    inverse = ieee.divide(1 + (most - most), jnp.where(d == 0, 1.0, d))
    levels = jnp.clip(round_integer(0.5 * (ieee.unfused(inverse * scale, scale) - 1)), 0, top)
    return d, jnp.where(most == 0, 0, levels).astype(jnp.uint8)
