"""GGUF's ternary formats, made for BitNet b1.58: codes -1, 0, 1 and one float16 absmax for 256 weights.

tq2_0 takes 2 bits a code; tq1_0 packs five codes into a byte as the fraction ``(digits in base 3) / 3^5`` of 256.
Source: llama.cpp, ggml-quants.c, ``quantize_row_tq1_0_ref``, ``quantize_row_tq2_0_ref``.
"""

import abc
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from quantsim import formats
from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.blocks import reciprocal
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_planes, stored_f16, unpack_planes
from quantsim.rounding import round_integer
from quantsim.theory.scheme import AbsmaxScale, Scheme

#: Runs of bytes in tq1_0: bytes, codes in each byte; code n of byte m is weight ``start + m + n * bytes``.
_RUNS = ((32, 5), (16, 5), (4, 4))


class _Ternary(Coding, abc.ABC):
    """Codes 0, 1, 2 for the largest magnitude times -1, 0, 1."""

    def search(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Scale of the largest magnitude."""
        assert importance is None
        d = ieee.absmax(blocks)
        codes = round_integer(blocks * reciprocal(d), "away") + 1
        return Stored(codes.astype(jnp.uint8), (stored_f16(d),))

    def values(self, stored: Stored) -> Blocks:
        """``(code - 1) d``."""
        return (stored.codes.astype(jnp.float32) - 1) * stored.scales[0]


@dataclass(frozen=True)
class TQ1(_Ternary):
    """Five codes in a byte."""

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 54"]:
        """Codes, scale."""
        out, start = [], 0
        for run, digits in _RUNS:
            trits = stored.codes[:, start : start + run * digits].reshape(-1, digits, run).astype(jnp.int32)
            places = 3 ** (4 - np.arange(digits, dtype=np.int32))
            number = (trits * places[None, :, None]).sum(axis=1, dtype=jnp.int32)
            out.append(((number * 256 + 242) // 243).astype(jnp.uint8))
            start += run * digits
        return jnp.concatenate([*out, f16_bytes(stored.scales[0])], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 54"]) -> Stored:
        """And back: digit n is the whole part of the fraction times 3^(n + 1), modulo 3."""
        out, start = [], 0
        for run, digits in _RUNS:
            number = data[:, start : start + run].astype(jnp.int32)
            trits = [((number * 3**n & 255) * 3) >> 8 for n in range(digits)]
            out.append(jnp.stack(trits, axis=1).reshape(len(data), -1))
            start += run
        return Stored(jnp.concatenate(out, -1).astype(jnp.uint8), (bytes_f16(data[:, 52:54]),))


@dataclass(frozen=True)
class TQ2(_Ternary):
    """Two bits a code."""

    def to_bytes(self, stored: Stored) -> UInt8[Array, "blocks 66"]:
        """Codes, scale."""
        return jnp.concatenate([pack_planes(stored.codes, 32, 2), f16_bytes(stored.scales[0])], -1)

    def from_bytes(self, data: UInt8[Array, "blocks 66"]) -> Stored:
        """And back."""
        return Stored(unpack_planes(data[:, :64], 32, 2), (bytes_f16(data[:, 64:66]),))


_F16 = formats.FORMATS["f16"]
assert isinstance(_F16, formats.Float)
_FACTS = Scheme(formats.FORMATS["int2"], AbsmaxScale(1.0, _F16, codes_exact=True), ((256, 1.0),))
TERNARY = (
    BlockFormat("tq1_0", 256, 54, TQ1(), ends=(0, 1, 1, 2), facts=_FACTS),
    BlockFormat("tq2_0", 256, 66, TQ2(), ends=(0, 1, 1, 2), facts=_FACTS),
)
