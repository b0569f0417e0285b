"""Unpacking on CPU: one compiled program for each type, whatever the shape, a chunk of blocks at a time.

A chunk, which fits the caches, is computed in memory that is kept and donated to the program again and again, and
copied from there into the result (``memory``). While one chunk is copied the next one is computed.
"""

from collections import defaultdict, deque
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from quantsim.quantizer.blockformats.unpacking.layout import Layout
from quantsim.quantizer.blockformats.unpacking.memory import empty

#: Weights of a chunk.
CHUNK = 2**20
_AHEAD = 2  # chunks under way at a time
#: At its highest level LLVM unrolls loops over 16 or 32 weights before it looks for vectors in them, and finds none.
_OPTIONS = {"xla_backend_optimization_level": 1}
#: Memory of chunks that no call uses at the moment.
_spare: defaultdict[Layout, list[jax.Array]] = defaultdict(list)


def unpacked(layout: Layout, data: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Weights of bytes (..., whole blocks), of which there is one, in memory that JAX takes over as it is."""
    blocks, program, size = data.reshape(-1, layout.nbytes), _program(layout), CHUNK // layout.size
    out = empty(len(blocks) * layout.size)
    under_way: deque[tuple[int, jax.Array]] = deque()
    for chunk, first in enumerate(range(0, len(blocks), size)):
        if len(under_way) == _AHEAD:
            _spare[layout].append(_copied(out, *under_way.popleft()))
        under_way.append((chunk, program(_memory(layout), _whole(blocks[first : first + size], size))))
    while under_way:
        _spare[layout].append(_copied(out, *under_way.popleft()))
    return out.reshape(layout.shape(data.shape))


def _copied(out: Float32[np.ndarray, " weights"], chunk: int, found: jax.Array) -> jax.Array:
    """``found``, its weights copied to where they belong; nothing else refers to its memory any more."""
    part = out[chunk * CHUNK : (chunk + 1) * CHUNK]
    stored: Any = found.block_until_ready()
    np.copyto(part, np.from_dlpack(stored).reshape(-1)[: part.size])
    return found


def _whole(blocks: UInt8[np.ndarray, "blocks nbytes"], size: int) -> UInt8[np.ndarray, "size nbytes"]:
    """A chunk of blocks, filled up with zeros."""
    if len(blocks) == size:
        return blocks
    return np.concatenate([blocks, np.zeros((size - len(blocks), blocks.shape[1]), np.uint8)])


@cache
def _program(layout: Layout) -> Any:
    """Compiled ahead of time: called with arrays of NumPy it is no part of a program that is being traced."""

    def in_place(memory: jax.Array, blocks: jax.Array) -> jax.Array:
        del memory  # the result takes its place
        return layout.values(blocks)

    program = jax.jit(in_place, donate_argnums=0, keep_unused=True, compiler_options=_OPTIONS)
    return program.lower(jax.ShapeDtypeStruct(_shape(layout), jnp.float32), _of_bytes(layout)).compile()


def _memory(layout: Layout) -> jax.Array:
    """Memory of a chunk that no other call uses."""
    try:
        return _spare[layout].pop()
    except IndexError:
        with jax.ensure_compile_time_eval():  # an array, though a caller may be traced
            return jnp.zeros(_shape(layout), jnp.float32)


@cache
def _shape(layout: Layout) -> tuple[int, ...]:
    return jax.eval_shape(layout.values, _of_bytes(layout)).shape


def _of_bytes(layout: Layout) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((CHUNK // layout.size, layout.nbytes), jnp.uint8)
