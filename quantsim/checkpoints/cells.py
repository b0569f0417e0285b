"""Weights spread within the cells of their codes: a reference that flatters no format.

Dequantized weights lie on the grid of the format that stored them, so that this format, and those whose grids are
alike, find them again with less error than weights that no one quantized would have. A cell is what rounds to one code:
half a step either side of its level. A draw from each weight's own cell has the same codes and no grid.
"""

import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from quantsim._types import Blocks, PRNGKey
from quantsim.checkpoints.gguf_file import StoredTensor
from quantsim.numerics import ieee
from quantsim.populations import draws
from quantsim.quantizer.blockformats import gguf
from quantsim.quantizer.blockformats.chunks import CHUNK, over_chunks
from quantsim.quantizer.blockformats.superblocks import spread as over_sub_blocks

#: Weights that share an integer scale, of the K-quants.
SUB_BLOCKS = {"Q2_K": 16, "Q3_K": 16, "Q4_K": 32, "Q5_K": 32, "Q6_K": 16}
#: Types with one step a block.
PLAIN = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def steps(tensor: StoredTensor) -> np.ndarray:
    """Distance of neighbouring levels around each weight, float32 (out, in): ``d`` or, of a K-quant, ``|d scale|``.

    Raises:
        ValueError: for a type whose levels are not equally far apart, or that has no codes.
    """
    _check(tensor)
    return np.asarray(_steps(tensor.type, tensor.data))


def spread(tensor: StoredTensor, key: PRNGKey) -> np.ndarray:
    """Weights plus a uniform draw over the cell of each: ``w + step u``, u in (-1/2, 1/2), symmetric about 0.

    Draws are a function of the key, the name of the tensor and the index of the weight. Rounded again with the scales
    of the file, weights have the codes of the file, but for those within a rounding of float32 of a cell's edge. The
    cells of the first and the last code, too, are taken half a step wide either side, though clipping sends all beyond
    to them. A block with step 0 keeps its weights. What is not quantized is returned as it is.

    Args:
        tensor: as ``stored_tensors`` yields it.
        key: of ``populations.key(seed)``.

    Raises:
        ValueError: for a block format whose levels are not equally far apart.
    """
    if not tensor.is_quantized:
        return tensor.data
    _check(tensor)
    own = jax.random.fold_in(key, np.uint32(zlib.crc32(tensor.name.encode())))
    return np.asarray(_spread(tensor.type, tensor.data, own))


def _check(tensor: StoredTensor) -> None:
    if tensor.type not in (*PLAIN, *SUB_BLOCKS):
        known = ", ".join((*PLAIN, *SUB_BLOCKS))
        raise ValueError(f"{tensor.name!r} is {tensor.type}, whose codes have no step; weights are spread of {known}")
    if tensor.data.size // gguf.TYPES[tensor.type].nbytes * gguf.TYPES[tensor.type].size >= 2**32:
        raise ValueError(f"{tensor.name!r} has 2^32 weights or more: spread it row by row")


def _block_steps(kind: str, data: UInt8[Array, "blocks nbytes"]) -> Blocks:
    """Steps of the weights of blocks."""
    q = gguf.TYPES[kind]
    scales = q.coding.from_bytes(data).scales
    if kind in SUB_BLOCKS:
        return jnp.abs(over_sub_blocks(scales[0] * scales[1].astype(jnp.float32), SUB_BLOCKS[kind]))
    return jnp.broadcast_to(jnp.abs(scales[0]), (len(data), q.size))


@partial(jax.jit, static_argnums=0)
def _steps(kind: str, data: UInt8[Array, "... bytes"]) -> Float[Array, "..."]:
    q = gguf.TYPES[kind]
    found = over_chunks(lambda _, part: _block_steps(kind, part), data.reshape(-1, q.nbytes), CHUNK // q.size)
    return found.reshape(*data.shape[:-1], -1)


@partial(jax.jit, static_argnums=0)
def _spread(kind: str, data: UInt8[Array, "... bytes"], key: PRNGKey) -> Float[Array, "..."]:
    q = gguf.TYPES[kind]

    def drawn(first: Int32[Array, ""] | int, part: UInt8[Array, "blocks nbytes"]) -> Blocks:
        at = jnp.uint32(first) * np.uint32(q.size) + jnp.arange(len(part) * q.size, dtype=jnp.uint32)
        middle = np.float32(0.5 - 2.0**-24)  # of the 2^23 numbers that are drawn
        u = draws.uniform(key, draws.Index(jnp.zeros_like(at), at)) - middle
        u, step = u.reshape(-1, q.size), _block_steps(kind, part)
        return q.coding.values(q.coding.from_bytes(part)) + ieee.unfused(step * u, u)

    found = over_chunks(drawn, data.reshape(-1, q.nbytes), CHUNK // q.size)
    return found.reshape(*data.shape[:-1], -1)
