"""Unpacking on CPU: one compiled program for each type, whatever the shape, a chunk of blocks at a time.

The weights of a chunk fit the cache that cores share, and its memory is used again; what is left of the time is the
one copy into the result. The result is memory of NumPy, which asks for large pages: touching fresh memory in pages of
4 KiB, as XLA does, takes three times as long as all else. While one chunk is copied the next one is computed.
"""

from collections.abc import Iterator
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from quantsim.quantizer.blockformats.unpacking.layout import Layout

#: Weights of a chunk.
CHUNK = 2**21
_ALIGNMENT = 64  # bytes: what XLA asks of memory that it takes over without a copy
#: At its highest level LLVM unrolls loops over 32 weights before it looks for vectors in them, and finds none.
_OPTIONS = {"xla_backend_optimization_level": 2}


def unpacked(layout: Layout, data: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Weights of bytes (..., whole blocks), of which there is one."""
    blocks = data.reshape(-1, layout.nbytes)
    whole = CHUNK // layout.size
    found = _of_less(layout, blocks) if len(blocks) <= whole else _of_more(layout, blocks)
    return found.reshape(layout.shape(data.shape))


def _of_less(layout: Layout, blocks: UInt8[np.ndarray, "blocks nbytes"]) -> Float32[np.ndarray, "blocks size"]:
    """The weights of at most a chunk, where the program left them; of few ones a copy, to let go of the chunk."""
    whole, total = CHUNK // layout.size, len(blocks)
    if total < whole:
        blocks = np.concatenate([blocks, np.zeros((whole - total, layout.nbytes), np.uint8)])
    found = np.asarray(_program(layout)(blocks))[:total]
    return found if 2 * total > whole else _filled(found)


def _of_more(layout: Layout, blocks: UInt8[np.ndarray, "blocks nbytes"]) -> Float32[np.ndarray, "blocks size"]:
    """The weights of more than a chunk; the last chunk overlaps the one before it."""
    out = _empty((len(blocks), layout.size))
    for first, found in _ahead(layout, blocks):
        np.copyto(out[first : first + len(found)], found)
    return out


def _ahead(layout: Layout, blocks: UInt8[np.ndarray, "blocks nbytes"]) -> Iterator[tuple[int, np.ndarray]]:
    """The first block and the weights of every chunk; the next one is under way while one is used."""
    whole, program, before = CHUNK // layout.size, _program(layout), None
    for start in range(0, len(blocks), whole):
        first = min(start, len(blocks) - whole)
        after = first, program(blocks[first : first + whole])
        if before is not None:
            yield before[0], np.asarray(before[1])
        before = after
    if before is not None:
        yield before[0], np.asarray(before[1])


@cache
def _program(layout: Layout) -> jax.stages.Compiled:
    """Compiled ahead of time: called with arrays of NumPy it is no part of a program that is being traced."""
    chunk = jax.ShapeDtypeStruct((CHUNK // layout.size, layout.nbytes), jnp.uint8)
    return jax.jit(layout.values, compiler_options=_OPTIONS).lower(chunk).compile()


def _filled(found: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    out = _empty(found.shape)
    np.copyto(out, found)
    return out


def _empty(shape: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
    """Memory that JAX takes over as it is."""
    nbytes = 4 * int(np.prod(shape))
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + nbytes].view(np.float32).reshape(shape)
