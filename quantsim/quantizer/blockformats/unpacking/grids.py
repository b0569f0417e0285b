"""Weights of GGUF's formats of one, two and three bits, whose codes are places in grids of eight or of four levels.

Where each field lies in a block of 256 weights, first to last:

=======  =====================================================================================================
name     bytes
=======  =====================================================================================================
IQ2_XXS  scale 2, for each 32 weights four places in 4 bytes, then four signs of 7 bits and a scale of 4 bits
IQ2_XS   scale 2, for each 8 weights a place of 9 bits and signs of 7 bits, scales of 4 bits 8
IQ2_S    scale 2, low eight bits of places 32, signs 32, high two bits of places 8, scales of 4 bits 8
IQ3_XXS  scale 2, places 64, for each 32 weights four signs of 7 bits and a scale of 4 bits
IQ3_S    scale 2, low eight bits of places 64, ninth bits 8, signs 32, scales of 4 bits 4
IQ1_S    scale 2, low eight bits of places 32, for each 32 weights four times three bits of places, a scale of
         3 bits and the sign of the shift
IQ1_M    low eight bits of places 32, for each 8 weights three bits of places and the sign of the shift, scales of
         3 bits 8, in whose highest four bits of 16 the float16 scale is spread
=======  =====================================================================================================

A small scale s means ``(s + 1/2) / 4`` in IQ2, ``(s + 1/2) / 2`` in IQ3_XXS and ``2 s + 1`` in the others. Signs of 7
bits have an eighth, which makes their number even. Levels of IQ1 are shifted by 1/8. All products are exact.
Source: ggml, ggml-common.h for the fields and the grids, ggml-quants.c, ``dequantize_row_iq*`` for what they mean.
"""

from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8, UInt32

from quantsim._types import Weights
from quantsim.quantizer.blockformats.unpacking.pieces import (
    apart,
    as_half,
    bits_of,
    half,
    little_endian,
    looked_up,
    negated,
    number,
    planes,
    wide,
)


@cache
def grid(name: str) -> np.ndarray:
    """Levels of a grid, float32 (places, 8 or 4): "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1".

    >>> grid("iq2_xxs").shape, grid("iq3_s")[0].tolist()
    ((256, 8), [1.0, 1.0, 1.0, 1.0])
    """
    with np.load(Path(__file__).parent / "grids.npz") as data:
        return data[name].astype(np.float32)


def iq2_xxs(data: UInt8[Array, "blocks 66"]) -> Weights:
    """Weights of IQ2_XXS."""
    words = little_endian(data[:, 2:], 4).reshape(-1, 8, 2)
    steps = half(data[:, :2]) * (number(words[..., 1] >> 28) + 0.5) * 0.25
    places = (words[..., :1] >> _shifts(8)) & np.uint32(255)
    return _signed("iq2_xxs", places, _even_signs(words[..., 1]), steps)


def iq2_xs(data: UInt8[Array, "blocks 74"]) -> Weights:
    """Weights of IQ2_XS."""
    both = little_endian(data[:, 2:66], 2)
    steps = half(data[:, :2]) * (number(_nibbles(data[:, 66:])) + 0.5) * 0.25
    return _signed("iq2_xs", both & np.uint32(511), _even(both >> 9), steps)


def iq2_s(data: UInt8[Array, "blocks 82"]) -> Weights:
    """Weights of IQ2_S."""
    high = planes(data[:, 66:74], 1, 2).reshape(-1, 32)
    steps = half(data[:, :2]) * (number(_nibbles(data[:, 74:])) + 0.5) * 0.25
    return _signed("iq2_s", wide(data[:, 2:34]) | (high << 8), wide(data[:, 34:66]), steps)


def iq3_xxs(data: UInt8[Array, "blocks 98"]) -> Weights:
    """Weights of IQ3_XXS."""
    words = little_endian(data[:, 66:], 4)
    steps = half(data[:, :2]) * (number(words >> 28) + 0.5) * 0.5
    return _signed("iq3_xxs", wide(data[:, 2:66]), _even_signs(words), steps)


def iq3_s(data: UInt8[Array, "blocks 110"]) -> Weights:
    """Weights of IQ3_S."""
    ninth = bits_of(data[:, 66:74]).reshape(-1, 64)
    steps = half(data[:, :2]) * (2 * number(_nibbles(data[:, 106:])) + 1)
    return _signed("iq3_s", wide(data[:, 2:66]) | (ninth << 8), wide(data[:, 74:106]), steps)


def iq1_s(data: UInt8[Array, "blocks 50"]) -> Weights:
    """Weights of IQ1_S."""
    words = little_endian(data[:, 34:], 2)
    steps = half(data[:, :2]) * (2 * number((words >> 12) & np.uint32(7)) + 1)
    high = ((words[..., None] >> _shifts(3)) & np.uint32(7)).reshape(-1, 32)
    return _shifted(wide(data[:, 2:34]) | (high << 8), words >> 15, steps)


def iq1_m(data: UInt8[Array, "blocks 56"]) -> Weights:
    """Weights of IQ1_M."""
    words = little_endian(data[:, 48:], 2)
    digits = words >> 12
    d = as_half(digits[:, :1] | (digits[:, 1:2] << 4) | (digits[:, 2:3] << 8) | (digits[:, 3:] << 12))
    steps = d * (2 * number(((words[..., None] >> _shifts(3)) & np.uint32(7)).reshape(-1, 16)) + 1)
    high = _nibbles(data[:, 32:48])
    return _shifted(wide(data[:, :32]) | ((high & np.uint32(7)) << 8), high >> 3, steps)


def _signed(
    name: str, places: UInt32[Array, "..."], signs: UInt32[Array, "..."], steps: Float[Array, "blocks scales"]
) -> Float[Array, "blocks scales run 8"]:
    """``± level step``: a place for each row of the grid, a byte of signs for each 8 weights, a step for each run."""
    places, signs, steps = apart(places.reshape(len(steps), -1), _for_each_8(signs, steps), steps[:, :, None, None])
    bits = (signs >> np.arange(8, dtype=np.uint32).reshape(1, 1, 1, 8)) & np.uint32(1)
    return looked_up(grid(name), places).reshape(bits.shape) * negated(steps, bits)


def _shifted(
    places: UInt32[Array, "blocks 32"], shifts: UInt32[Array, "blocks shifts"], steps: Float[Array, "blocks scales"]
) -> Float[Array, "blocks scales run 8"]:
    """``(level ± 1/8) step``."""
    delta = negated(jnp.full(shifts.shape, 0.125, jnp.float32), shifts)
    delta = _for_each_8(jnp.repeat(delta, 32 // shifts.shape[1], axis=1), steps)
    places, delta, steps = apart(places, delta, steps[:, :, None, None])
    return (looked_up(grid("iq1"), places).reshape(*delta.shape[:3], 8) + delta) * steps


def _for_each_8(x: Array, steps: Float[Array, "blocks scales"]) -> Array:
    """32 numbers of a block, in the runs that share a step."""
    return x.reshape(*steps.shape, -1, 1)


def _nibbles(data: UInt8[Array, "blocks bytes"]) -> UInt32[Array, "blocks codes"]:
    """Two numbers of each byte, the lower first."""
    return planes(data, 1, 4).reshape(len(data), -1)


def _even_signs(words: UInt32[Array, "blocks 8"]) -> UInt32[Array, "blocks 8 4"]:
    return _even((words[..., None] >> _shifts(7)) & np.uint32(127))


def _even(seven: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Seven bits, and an eighth that makes the number of ones even."""
    return seven | ((lax.population_count(seven) & np.uint32(1)) << 7)


def _shifts(bits: int) -> np.ndarray:
    """Where four numbers of so many bits begin."""
    return np.arange(0, 4 * bits, bits, dtype=np.uint32)[None, None]
