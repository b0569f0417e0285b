"""Types of tensors as files name them: bits of a number, and how bytes become float32.

Sources: safetensors 0.8 (its ``Dtype``: F4 and F6 are shapes of numbers over packed bytes) and ggml (docs/gguf.md).
Of F4 the first of two numbers is in the low four bits, as PyTorch's ``float4_e2m1fn_x2`` has it. How F6 is packed, no
one says, so that it is known by its size only.
"""

from dataclasses import dataclass
from functools import lru_cache

import ml_dtypes
import numpy as np

from quantsim.quantizer.blockformats import gguf

#: Types of real numbers that NumPy, with ml_dtypes, can read as they lie.
FLOATS = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
INTEGERS = {f"{sign}{bits}": np.dtype(f"<{sign.lower()}{bits // 8}") for sign in "IU" for bits in (8, 16, 32, 64)}
#: Types that are known by their size only.
OTHERS = {"BOOL": np.dtype("?"), "C64": np.dtype("<c8")}
#: Numbers and bytes of a block of the packed types of safetensors.
PACKED = {"F4": (2, 1), "F6_E2M3": (4, 3), "F6_E3M2": (4, 3)}


@dataclass(frozen=True)
class Storage:
    """How numbers lie in a file.

    Attributes:
        block: numbers that are stored together, and can only be read together.
        nbytes: bytes of a block.
        dtype: as what the bytes are read: uint8, if they are codes of blocks.
        by_columns: whether the first axis runs fastest (Fortran's order).
    """

    block: int
    nbytes: int
    dtype: np.dtype
    by_columns: bool = False


def block_of(kind: str) -> tuple[int, int] | None:
    """Weights and bytes of a block of a GGUF type, None of one that cannot be unpacked.

    >>> block_of("Q4_K"), block_of("F32")
    ((256, 144), None)
    """
    return gguf.layout(kind) if kind in gguf.LAYOUTS else None


def is_readable(kind: str) -> bool:
    """Whether numbers of a type can be made float32.

    >>> is_readable("F8_E4M3"), is_readable("Q4_K"), is_readable("F6_E2M3")
    (True, True, False)
    """
    return kind in FLOATS or kind == "F4" or block_of(kind) is not None


@lru_cache
def storage(kind: str) -> Storage | None:
    """How a type of safetensors or ``.npy`` is stored, None if there is no such type.

    >>> storage("F4")
    Storage(block=2, nbytes=1, dtype=dtype('uint8'), by_columns=False)
    """
    if kind in PACKED:
        return Storage(*PACKED[kind], np.dtype(np.uint8))
    dtype = (FLOATS | INTEGERS | OTHERS).get(kind)
    return None if dtype is None else Storage(1, dtype.itemsize, dtype)


@lru_cache
def gguf_storage(kind: str) -> Storage | None:
    """How a type of GGUF is stored, None if its blocks are not known."""
    block = block_of(kind)
    return storage(kind) if block is None else Storage(*block, np.dtype(np.uint8))


def decode(kind: str, raw: np.ndarray, out: np.ndarray) -> None:
    """Bytes of whole blocks as float32; what float32 does not hold becomes an infinity.

    Args:
        kind: a readable type.
        raw: uint8, or the bytes as the type of numbers that they are.
        out: float32 (weights,), where they go.
    """
    if (block := block_of(kind)) is not None:
        out[...] = np.asarray(gguf.unpack(raw.reshape(-1, block[1]), kind)).reshape(-1)
    elif kind == "F4":
        np.take(_fp4_of_byte(), raw, out=out.view(np.uint64), mode="clip")
    elif kind.startswith("F8_"):
        _look_up(raw, out)
    elif raw.dtype == FLOATS["F16"]:
        _widen(raw, out)
    else:
        with np.errstate(over="ignore"):
            np.copyto(out, raw, casting="unsafe")


def _look_up(raw: np.ndarray, out: np.ndarray) -> None:
    """Numbers of eight bits, two at a time; five times as fast as ml_dtypes converts them."""
    even = len(raw) - len(raw) % 2
    np.take(_pairs(raw.dtype), raw[:even].view(np.uint16), out=out[:even].view(np.uint64), mode="clip")
    out[even:] = raw[even:]


@lru_cache
def _pairs(dtype: np.dtype) -> np.ndarray:
    """What two bytes mean in a type of eight bits: two float32, as one number of 64 bits."""
    two = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)
    return two.view(np.uint64)


@lru_cache
def _fp4_of_byte() -> np.ndarray:
    """What a byte of F4 means: two float32, the low four bits first, as one number of 64 bits."""
    byte = np.arange(256, dtype=np.uint8)
    two = np.stack([byte & 15, byte >> 4], axis=1).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return two.view(np.uint64)[:, 0]


def _widen(raw: np.ndarray, out: np.ndarray) -> None:
    """Float16 as float32, three times as fast as NumPy converts it.

    The 15 bits below the sign, moved to where float32 has its exponent, are the number times 2^-112, subnormal ones
    included; only those above 65504, which are none, do not come out right, and are left to NumPy.
    """
    bits = out.view(np.int32)
    np.left_shift(raw.view(np.int16), 13, out=bits, dtype=np.int32)
    bits &= np.int32(-0x70002000)  # all but the copies of the sign
    out *= np.float32(2.0**112)
    if out.max(initial=0) > 65504 or out.min(initial=0) < -65504:
        np.copyto(out, raw)
