"""GGUF bytes: ``pack`` and ``unpack`` rows of weights as llama.cpp stores them.

Types are named as in GGUF files, in any case: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0, Q2_K Q3_K Q4_K Q5_K Q6_K, IQ4_NL IQ4_XS,
TQ1_0 TQ2_0, MXFP4 NVFP4. A float16 scale saturates at 65504, where the reference stores infinity. Where a float16
scale is 0 the codes mean nothing (a block decodes to zeros, or to its minimum); of weights below about 1e-7 such codes
may differ, because XLA flushes the subnormal products that the reference's searches compare.
"""

from difflib import get_close_matches

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from quantsim._types import ArrayLike, Weights
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.floats import FLOATS
from quantsim.quantizer.blockformats.kquants import KQUANTS
from quantsim.quantizer.blockformats.legacy import LEGACY
from quantsim.quantizer.blockformats.nonlinear import NONLINEAR
from quantsim.quantizer.blockformats.ternary import TERNARY
from quantsim.quantizer.face import QuantizedArray

#: Every type by its name in GGUF files.
TYPES: dict[str, BlockFormat] = {
    q.name.removesuffix(":gguf").upper(): q for q in (*LEGACY, *KQUANTS, *NONLINEAR, *TERNARY, *FLOATS)
}


def _type(name: str) -> BlockFormat:
    if not isinstance(name, str):
        raise TypeError(f"a GGUF type is a name such as 'Q4_K', not {type(name).__name__} {name!r}")
    if (found := TYPES.get(name.upper())) is None:
        near = get_close_matches(name.upper(), TYPES, 1, 0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown GGUF type {name!r}; {hint}Known: {', '.join(TYPES)}")
    return found


def pack(w: ArrayLike, type_name: str, *, imatrix: ArrayLike | None = None) -> UInt8[Array, "... bytes"]:
    """Bytes of the rows of ``w``, equal to those of llama.cpp.

    Args:
        w: weights (..., in); ``in`` is a multiple of the block, 32, 64 (NVFP4) or 256.
        type_name: GGUF type, for example "Q4_K", in any case.
        imatrix: importance of each input, (in,), for the types that weigh errors by it.

    Returns:
        uint8 (..., in / block * bytes of a block).

    Raises:
        TypeError: if ``w`` is not numeric, or the type is no string.
        ValueError: for an unknown type, rows that are not whole blocks, a NaN or infinity, an imatrix that does not
            fit.

    >>> import quantsim as qs
    >>> w = qs.populations.Normal().sample(qs.populations.key(0), (4, 256))
    >>> pack(w, "Q8_0").shape, pack(w, "Q4_K").shape
    ((4, 272), (4, 144))
    """
    return _type(type_name).pack(w, imatrix)


def unpack(data: ArrayLike | bytes | bytearray | memoryview, type_name: str) -> Weights:
    """Float32 weights of GGUF bytes, (..., bytes) to (..., in).

    Args:
        data: uint8 (..., bytes); or bytes, a bytearray or a memoryview of bytes, which are one row.
        type_name: GGUF type, for example "Q4_K", in any case.

    Raises:
        TypeError: if ``data`` are not bytes, or the type is no string.
        ValueError: for an unknown type, or rows that are not whole blocks.

    >>> import quantsim as qs
    >>> w = qs.populations.Normal().sample(qs.populations.key(0), (4, 256))
    >>> bool((unpack(pack(w, "Q6_K"), "Q6_K") == qs.parse("q6_k").roundtrip(w)).all())
    True
    """
    q, raw = _type(type_name), _raw(data)
    if raw.ndim == 0 or raw.shape[-1] % q.nbytes:
        have = f"the last axis of shape {raw.shape}" if raw.ndim else "a single byte"
        raise ValueError(f"rows of {type_name} are whole blocks of {q.nbytes} bytes: {have} is no multiple of it")
    return QuantizedArray(jnp.asarray(raw), None, None, q).dequantize()


def _raw(data: ArrayLike | bytes | bytearray | memoryview) -> jax.Array | np.ndarray:
    """``data`` as an array of uint8."""
    if isinstance(data, bytes | bytearray):
        return np.frombuffer(data, np.uint8)
    raw = data if isinstance(data, jax.Array) else np.asarray(data)
    if raw.dtype != np.uint8:
        raise TypeError(f"GGUF data are bytes (uint8), not {raw.dtype}")
    return raw
