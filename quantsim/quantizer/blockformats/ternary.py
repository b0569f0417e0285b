"""GGUF's ternary formats, made for BitNet b1.58: codes -1, 0, 1 and one float16 absmax for 256 weights.

tq2_0 takes 2 bits a code; tq1_0 packs five codes into a byte as the fraction ``(digits in base 3) / 3^5`` of 256.
Source: llama.cpp, ggml-quants.c, ``quantize_row_tq1_0_ref``, ``quantize_row_tq2_0_ref``.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from quantsim import formats
from quantsim._types import Blocks
from quantsim.numerics import ieee
from quantsim.quantizer.blockformats.base import BlockFormat, Importance, Stored, reciprocal
from quantsim.quantizer.blockformats.packing import bytes_f16, f16_bytes, pack_planes, stored_f16, unpack_planes
from quantsim.rounding import round_integer
from quantsim.theory.scheme import AbsmaxScale, Scheme

#: Runs of bytes in tq1_0: bytes, codes in each byte; code n of byte m is weight ``start + m + n * bytes``.
_RUNS = ((32, 5), (16, 5), (4, 4))


def _search(blocks: Blocks, importance: Importance | None) -> Stored:
    assert importance is None
    d = ieee.absmax(blocks)
    return Stored((round_integer(blocks * reciprocal(d), "away") + 1).astype(jnp.uint8), (stored_f16(d),))


def _values(stored: Stored) -> Blocks:
    return (stored.codes.astype(jnp.float32) - 1) * stored.scales[0]


def _tq1_bytes(stored: Stored) -> UInt8[Array, "blocks 54"]:
    out, start = [], 0
    for run, digits in _RUNS:
        trits = stored.codes[:, start : start + run * digits].reshape(-1, digits, run).astype(jnp.int32)
        number = (trits * 3 ** (4 - np.arange(digits, dtype=np.int32))[None, :, None]).sum(axis=1)
        out.append(((number * 256 + 242) // 243).astype(jnp.uint8))
        start += run * digits
    return jnp.concatenate([*out, f16_bytes(stored.scales[0])], -1)


def _tq1_stored(data: UInt8[Array, "blocks 54"]) -> Stored:
    out, start = [], 0
    for run, digits in _RUNS:
        number = data[:, start : start + run].astype(jnp.int32)
        trits = [((number * 3**n & 255) * 3) >> 8 for n in range(digits)]
        out.append(jnp.stack(trits, axis=1).reshape(len(data), -1))
        start += run
    return Stored(jnp.concatenate(out, -1).astype(jnp.uint8), (bytes_f16(data[:, 52:54]),))


def _tq2_bytes(stored: Stored) -> UInt8[Array, "blocks 66"]:
    return jnp.concatenate([pack_planes(stored.codes, 32, 2), f16_bytes(stored.scales[0])], -1)


def _tq2_stored(data: UInt8[Array, "blocks 66"]) -> Stored:
    return Stored(unpack_planes(data[:, :64], 32, 2), (bytes_f16(data[:, 64:66]),))


_F16 = formats.FORMATS["f16"]
assert isinstance(_F16, formats.Float)
_FACTS = Scheme(formats.FORMATS["int2"], AbsmaxScale(1.0, _F16, codes_exact=True), ((256, 1.0),))
TERNARY = (
    BlockFormat("tq1_0", 256, 54, (0, 1, 1, 2), _search, _values, _tq1_bytes, _tq1_stored, facts=_FACTS),
    BlockFormat("tq2_0", 256, 66, (0, 1, 1, 2), _search, _values, _tq2_bytes, _tq2_stored, facts=_FACTS),
)
