"""GGUF bytes: ``pack`` and ``unpack`` rows of weights as llama.cpp stores them.

Types are named as in GGUF files, in any case: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0, Q2_K Q3_K Q4_K Q5_K Q6_K, IQ4_NL IQ4_XS,
IQ1_S IQ1_M, IQ2_XXS IQ2_XS IQ2_S, IQ3_XXS IQ3_S, TQ1_0 TQ2_0, MXFP4 NVFP4. IQ1_S, IQ2_XXS and IQ2_XS are packed with
importances only, as in llama.cpp. Unpacked, not packed: Q1_0 Q8_1 Q8_K.
A float16 scale saturates at 65504, where the reference stores infinity. Where a float16
scale is 0 the codes mean nothing (a block decodes to zeros, or to its minimum); of weights below about 1e-7 such codes
may differ, because XLA flushes the subnormal products that the reference's searches compare.
Where 32 weights are all zero, IQ3_S is what the reference makes of it: their block's other weights move up by 32.
"""

from difflib import get_close_matches

import jax
import numpy as np
from jaxtyping import Array, UInt8

from quantsim._types import ArrayLike, Weights
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.floats import FLOATS
from quantsim.quantizer.blockformats.kquants import KQUANTS
from quantsim.quantizer.blockformats.lattices import LATTICES
from quantsim.quantizer.blockformats.legacy import LEGACY
from quantsim.quantizer.blockformats.nonlinear import NONLINEAR
from quantsim.quantizer.blockformats.ternary import TERNARY
from quantsim.quantizer.blockformats.unpacking import LAYOUTS, unpacked

#: Every type that can be packed, by its name in GGUF files; ``LAYOUTS`` has those that can be unpacked.
TYPES: dict[str, BlockFormat] = {
    q.name.removesuffix(":gguf").upper(): q for q in (*LEGACY, *KQUANTS, *NONLINEAR, *LATTICES, *TERNARY, *FLOATS)
}


def _known(name: str) -> str:
    """The name of a type as GGUF files spell it."""
    if not isinstance(name, str):
        raise TypeError(f"a GGUF type is a name such as 'Q4_K', not {type(name).__name__} {name!r}")
    if (upper := name.upper()) not in LAYOUTS:
        near = get_close_matches(upper, LAYOUTS, 1, 0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown GGUF type {name!r}; {hint}Known: {', '.join(LAYOUTS)}")
    return upper


def _packable(name: str) -> BlockFormat:
    if (known := _known(name)) not in TYPES:
        raise ValueError(f"{known} can only be unpacked; types that can be packed: {', '.join(TYPES)}")
    return TYPES[known]


def layout(type_name: str) -> tuple[int, int]:
    """Weights of a block, and its bytes.

    Args:
        type_name: GGUF type of blocks, for example "Q4_K", in any case.

    Raises:
        TypeError: if the type is no string.
        ValueError: for an unknown type.

    >>> layout("Q4_K"), layout("iq2_xxs")
    ((256, 144), (256, 66))
    """
    found = LAYOUTS[_known(type_name)]
    return found.size, found.nbytes


def pack(w: ArrayLike, type_name: str, *, imatrix: ArrayLike | None = None) -> UInt8[Array, "... bytes"]:
    """Bytes of the rows of ``w``, equal to those of llama.cpp.

    Args:
        w: weights (..., in); ``in`` is a multiple of the block, 32, 64 (NVFP4) or 256.
        type_name: GGUF type, for example "Q4_K", in any case.
        imatrix: importance of each input, (in,), for the types that weigh errors by it; IQ1_S, IQ2_XXS and IQ2_XS need
            one.

    Returns:
        uint8 (..., in / block * bytes of a block).

    Raises:
        TypeError: if ``w`` is not numeric, or the type is no string.
        ValueError: for an unknown type or one that can only be unpacked, rows that are not whole blocks, a NaN or
            infinity, an imatrix that does not fit or is missing.

    >>> import quantsim as qs
    >>> w = qs.populations.Normal().sample(qs.populations.key(0), (4, 256))
    >>> pack(w, "Q8_0").shape, pack(w, "Q4_K").shape
    ((4, 272), (4, 144))
    """
    return _packable(type_name).pack(w, imatrix)


def unpack(data: ArrayLike | bytes | bytearray | memoryview, type_name: str) -> Weights:
    """Float32 weights of GGUF bytes, (..., bytes) to (..., in), at the speed of memory.

    NaN and infinite scales give what IEEE arithmetic gives. Bytes of NumPy are read where they lie, mapped files too;
    on CPU one compiled program of a type serves all shapes.

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
    found, raw = LAYOUTS[_known(type_name)], _raw(data)
    if raw.ndim == 0 or raw.shape[-1] % found.nbytes:
        have = f"the last axis of shape {raw.shape}" if raw.ndim else "a single byte"
        raise ValueError(f"rows of {type_name} are whole blocks of {found.nbytes} bytes: {have} is no multiple of it")
    return unpacked(found, raw)


def _raw(data: ArrayLike | bytes | bytearray | memoryview) -> jax.Array | np.ndarray:
    """``data`` as an array of uint8."""
    if isinstance(data, bytes | bytearray):
        return np.frombuffer(data, np.uint8)
    raw = data if isinstance(data, jax.Array) else np.asarray(data)
    if raw.dtype != np.uint8:
        raise TypeError(f"GGUF data are bytes (uint8), not {raw.dtype}")
    return raw
