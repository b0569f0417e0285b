"""Packing of large arrays on CPU: one compiled program for each format, whatever the shape, by all cores.

XLA shares single loops among the cores, and a search is many short ones. Here each thread runs the whole program on a
part of the blocks; a block's bytes depend on nothing else, so they are those of one call.
"""

from collections.abc import Callable
from functools import cache
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from quantsim._types import Blocks, Weights
from quantsim.numerics.memory import empty
from quantsim.numerics.meshes import is_on_one_cpu
from quantsim.numerics.threads import ONE_CORE_A_CALL, by_threads, cores

#: Weights of a call: milliseconds, few enough for an even share of two calls and more.
PART = 2**18


@runtime_checkable
class Packing(Protocol):
    """What is asked of a block format; equal ones share a program."""

    @property
    def size(self) -> int:
        """Weights of a block."""
        ...

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        ...

    def bytes_of(self, blocks: Blocks) -> UInt8[Array, "blocks nbytes"]:
        """The bytes of each block."""
        ...


def is_shared(w: Weights) -> bool:
    """Whether an array is packed in parts: a large one, in the memory of this process."""
    return w.size >= 2 * PART and is_on_one_cpu(w) and jax.sharding.get_abstract_mesh().empty


def packed(q: Packing, w: Weights) -> UInt8[Array, "blocks nbytes"]:
    """``q.bytes_of`` the blocks of ``w``, placed as ``w`` is."""
    blocks, size = np.asarray(w).reshape(-1, q.size), PART // q.size
    out = empty(-(-len(blocks) * q.nbytes // 4)).view(np.uint8)[: len(blocks) * q.nbytes].reshape(-1, q.nbytes)
    program = _program(q)

    def part(start: int) -> None:
        first = min(start, len(blocks) - size)  # the last part overlaps the one before it
        out[start : start + size] = np.asarray(program(blocks[first : first + size]))[start - first :]

    by_threads(part, range(0, len(blocks), size), threads=cores())
    return jax.device_put(out, w.sharding if w.committed else None, may_alias=True)


@cache
def _program(q: Packing) -> Callable[[np.ndarray], jax.Array]:
    """Compiled ahead of time: called with arrays of NumPy it is no part of a program that is being traced."""
    blocks = jax.ShapeDtypeStruct((PART // q.size, q.size), jnp.float32)
    return jax.jit(q.bytes_of, compiler_options=ONE_CORE_A_CALL).lower(blocks).compile()
