"""Unpacking on CPU: one compiled program for each type, whatever the shape, a chunk of blocks at a time.

A chunk, which fits the caches, is computed in memory that is kept and donated to the program again and again, and
copied from there into the result (``memory``). While one chunk is copied the next one is computed.
"""

from collections import defaultdict
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float32, UInt8

from quantsim.numerics.memory import empty
from quantsim.quantizer.blockformats.unpacking.layout import Layout

#: Weights of a chunk, and of the parts that a program goes through, as many as are needed.
CHUNK, _PART = 2**20, 2**17
_SPARE = 4  # chunks whose memory is kept: two of each of two threads
#: At its highest level LLVM unrolls loops over 16 or 32 weights before it looks for vectors in them, and finds none.
_OPTIONS = {"xla_backend_optimization_level": 1}
#: Memory of chunks that no call uses at the moment.
_spare: defaultdict[Layout, list[jax.Array]] = defaultdict(list)


def unpacked(layout: Layout, data: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Weights of bytes (..., whole blocks), of which there is one, in memory that JAX takes over as it is."""
    blocks = data.reshape(-1, layout.nbytes)
    before = _begun(layout, blocks, 0)
    out = empty(len(blocks) * layout.size)  # after a call of JAX, which lets go of what results have left behind
    for chunk in range(1, -(-out.size // CHUNK)):
        after = _begun(layout, blocks, chunk)
        _keep(layout, _copied(out, *before))
        before = after
    _keep(layout, _copied(out, *before))
    return out.reshape(layout.shape(data.shape))


def _begun(layout: Layout, blocks: UInt8[np.ndarray, "blocks nbytes"], chunk: int) -> tuple[int, jax.Array]:
    """A chunk, and its weights, which are under way."""
    size = CHUNK // layout.size
    here = blocks[chunk * size : (chunk + 1) * size]
    parts = np.int32(-(-len(here) * layout.size // _PART))
    return chunk, _program(layout)(_memory(layout), _whole(here, size), parts)


def _copied(out: Float32[np.ndarray, " weights"], chunk: int, found: jax.Array) -> jax.Array:
    """``found``, its weights copied to where they belong; nothing else refers to its memory any more."""
    part = out[chunk * CHUNK : (chunk + 1) * CHUNK]
    stored: Any = found.block_until_ready()
    np.copyto(part, np.from_dlpack(stored).reshape(-1)[: part.size])
    return found


def _whole(blocks: UInt8[np.ndarray, "blocks nbytes"], size: int) -> UInt8[np.ndarray, "size nbytes"]:
    """A chunk of blocks, the last of which may be anything."""
    if len(blocks) == size:
        return blocks
    nbytes = blocks.shape[1]
    found = empty(-(-size * nbytes // 4)).view(np.uint8)[: size * nbytes].reshape(size, nbytes)
    found[: len(blocks)] = blocks
    return found


@cache
def _program(layout: Layout) -> Any:
    """Compiled ahead of time: called with arrays of NumPy it is no part of a program that is being traced."""
    program = jax.jit(partial(_in_place, layout), donate_argnums=0, compiler_options=_OPTIONS)
    parts = jax.ShapeDtypeStruct((), jnp.int32)
    return program.lower(jax.ShapeDtypeStruct(_shape(layout), jnp.float32), _of_bytes(layout), parts).compile()


def _in_place(layout: Layout, memory: jax.Array, blocks: jax.Array, parts: jax.Array) -> jax.Array:
    """The weights of the first parts of a chunk in the place of ``memory``."""
    size = _PART // layout.size

    def step(part: jax.Array, memory: jax.Array) -> jax.Array:
        weights = layout.values(lax.dynamic_slice_in_dim(blocks, part * size, size))
        return lax.dynamic_update_slice_in_dim(memory, weights, part * size, 0)

    return lax.fori_loop(0, parts, step, memory)


def _memory(layout: Layout) -> jax.Array:
    """Memory of a chunk that no other call uses."""
    try:
        return _spare[layout].pop()
    except IndexError:
        with jax.ensure_compile_time_eval():  # an array, though a caller may be traced
            return jnp.zeros(_shape(layout), jnp.float32)


def _keep(layout: Layout, memory: jax.Array) -> None:
    if len(_spare[layout]) < _SPARE:
        _spare[layout].append(memory)


@cache
def _shape(layout: Layout) -> tuple[int, ...]:
    return jax.eval_shape(layout.values, _of_bytes(layout)).shape


def _of_bytes(layout: Layout) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((CHUNK // layout.size, layout.nbytes), jnp.uint8)
