"""A block format is a row of facts and four functions of blocks; everything else is derived here, once for all.

Work goes chunk by chunk, so that temporaries are bounded by a chunk and not by the tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped, UInt8

from quantsim._types import ArrayLike, Blocks, PerBlock, PRNGKey, Shape, Weights
from quantsim.numerics import ieee
from quantsim.numerics.fusion import apart
from quantsim.numerics.ieee import on_cpu
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray, as_weights, beyond, known_true
from quantsim.theory.scheme import Scheme

#: Weights that are worked on at a time on CPU: few enough for the caches, enough to keep every core busy.
CHUNK = 2**17
_LARGE = 2**26  # and elsewhere: enough for every multiprocessor


class Stored(NamedTuple):
    """What a block stores: one code for each weight and the scales, as they are stored, in the family's own order."""

    codes: Int[Array, "blocks size"]
    scales: tuple[Shaped[Array, "blocks ..."], ...]


class Importance(NamedTuple):
    """Importance of the weights of each block (an imatrix), and the mean square of the row that the block lies in."""

    weights: Blocks
    row_power: Float[Array, "blocks 1"]


@dataclass(frozen=True, repr=False)
class BlockFormat(AbstractQuantizer):
    """A format whose blocks are stored as bytes: rows of ``size`` weights become rows of ``nbytes`` bytes.

    ``QuantizedArray.codes`` holds the bytes, in rows as a GGUF file holds them; the last axis of the weights must be a
    multiple of ``size``. Float32 subnormals count as zero; a float16 scale saturates at 65504 instead of overflowing.

    Attributes:
        name: the spec.
        size: weights in a block.
        nbytes: bytes of a block.
        ends: codes of the lowest and second lowest, the second highest and highest level.
        search: blocks and their importance, if any, to codes and scales.
        values: codes and scales to weights.
        to_bytes: codes and scales to the bytes of each block.
        from_bytes: and back.
        takes_imatrix: whether the search weighs errors by importance when asked.
        has_nan: whether a scale can say NaN.
        limit: weights of larger magnitude count as this: far beyond what a scale can hold, but no sum overflows.
        facts: what theory must know, where the scale is a law of its block.

    >>> import quantsim as qs
    >>> q = qs.parse("q8_0")
    >>> q.size, q.nbytes, q.bits_per_weight((4096, 4096))
    (32, 34, 8.5)
    >>> q.quantize(jnp.ones((2, 64))).codes.shape
    (2, 68)
    """

    name: str
    size: int
    nbytes: int
    ends: tuple[int, int, int, int]
    search: Callable[[Blocks, Importance | None], Stored]
    values: Callable[[Stored], Blocks]
    to_bytes: Callable[[Stored], UInt8[Array, "blocks nbytes"]]
    from_bytes: Callable[[UInt8[Array, "blocks nbytes"]], Stored]
    takes_imatrix: bool = False
    has_nan: bool = True
    limit: float = 2.0**30
    facts: Scheme | None = None

    def scheme(self, shape: Shape | None = None) -> Scheme:
        """What ``theory.weight_mse`` must know of it."""
        return self.facts or super().scheme(shape)

    def quantize(
        self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise", imatrix: ArrayLike | None = None
    ) -> QuantizedArray:
        """Bytes of ``w``, computed in float32.

        Args:
            w: weights of any shape whose last axis is a multiple of ``size``.
            key: not used: no search is random.
            nonfinite: "raise", or "propagate": a block that holds a NaN or an infinity dequantizes to NaN.
            imatrix: importance of each input, (in,), at least 0: errors are weighed by it, as llama.cpp's imatrix does.

        Raises:
            TypeError: if ``w`` is not numeric.
            ValueError: for a NaN or infinity, for rows that are not whole blocks, for an imatrix that does not fit.
        """
        return _quantize(self, self._checked(w, nonfinite), self._importance(imatrix, np.shape(w)))

    def roundtrip(
        self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise", imatrix: ArrayLike | None = None
    ) -> Weights:
        """``quantize(w).dequantize()`` to the bit, with a straight-through gradient unless an imatrix is given."""
        w32 = self._checked(w, nonfinite)
        if imatrix is None:
            return super().roundtrip(w32, nonfinite=nonfinite)
        return _roundtrip(self, w32, self._importance(imatrix, w32.shape))

    def _checked(self, w: ArrayLike, nonfinite: str) -> Weights:
        if nonfinite == "propagate" and not self.has_nan:
            raise ValueError(f"{self} has no code for NaN: mend the input")
        w32 = as_weights(w, nonfinite)
        self._blocks_in_row(w32.shape)
        return w32

    def _blocks_in_row(self, shape: Shape) -> int:
        if not shape or shape[-1] % self.size:
            have = f"the last axis of shape {shape}" if shape else "a single number"
            raise ValueError(f"{self} stores rows of whole blocks of {self.size} weights: {have} is no multiple of it")
        return shape[-1] // self.size

    def _importance(self, imatrix: ArrayLike | None, shape: Shape) -> Float[Array, " in"] | None:
        if imatrix is None:
            return None
        if not self.takes_imatrix:
            raise ValueError(f"{self} takes no imatrix: its codes follow from the weights alone")
        importance = as_weights(imatrix, what="importances")
        if importance.shape != shape[-1:]:
            raise ValueError(f"an imatrix holds one importance for each input, {shape[-1:]}, not {importance.shape}")
        if known_true((importance < 0).any()):
            raise ValueError(f"an importance is at least 0, and the smallest here is {importance.min()}")
        return importance

    def _encode(self, w: Weights, key: PRNGKey | None) -> QuantizedArray:
        return QuantizedArray(self._bytes(w, None), None, None, self)

    def _bytes(self, w: Weights, importance: Float[Array, " in"] | None) -> UInt8[Array, "..."]:
        data = self._over_blocks(lambda b, i: self.to_bytes(apart(lambda: self._found(b, i), b)), w, importance)
        return data.reshape(*w.shape[:-1], self._blocks_in_row(w.shape) * self.nbytes)

    def _decode(self, qw: QuantizedArray) -> Weights:
        data = qw.codes.reshape(-1, self.nbytes)
        found = over_chunks(lambda _, d: self.values(self.from_bytes(d)), data, CHUNK // self.size)
        return found.reshape(self._shape(qw.codes.shape))

    def _approximate(self, w: Weights, key: PRNGKey | None, importance: Float[Array, " in"] | None = None) -> Weights:
        return self._over_blocks(lambda b, i: self.values(self._found(b, i)), w, importance).reshape(w.shape)

    def _outside(self, w: Weights) -> Bool[Array, "..."]:
        def outside(blocks: Blocks, importance: Importance | None) -> Bool[Array, "blocks size"]:
            codes, scales = self._found(blocks, importance)
            levels = [self.values(Stored(jnp.full_like(codes, code), scales)) for code in self.ends]
            up = levels[0] <= levels[3]
            ends = tuple(jnp.where(up, a, b) for a, b in zip(levels, levels[::-1], strict=True))
            return beyond(blocks, ends) & (levels[0] != levels[3])

        return self._over_blocks(outside, w, None).reshape(w.shape)

    def _found(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Search on finite weights; where a weight is not finite, the scales become NaN."""
        top = ieee.absmax(blocks)
        poison = top - top
        finite = jnp.where(jnp.isnan(poison), 0.0, jnp.clip(blocks, -self.limit, self.limit))
        codes, scales = self.search(finite, importance)
        return Stored(codes, tuple(s - poison if jnp.issubdtype(s.dtype, jnp.floating) else s for s in scales))

    def _over_blocks(
        self, f: Callable[[Blocks, Importance | None], Any], w: Weights, importance: Float[Array, " in"] | None
    ) -> Any:
        """``f`` on chunks of the blocks of ``w``, each with the importance of its blocks."""
        in_row = self._blocks_in_row(w.shape)
        blocks = w.reshape(-1, self.size)
        if importance is None or not w.size:
            return over_chunks(lambda _, b: f(b, None), blocks, CHUNK // self.size)
        by_column, power = importance.reshape(in_row, self.size), row_power(w.reshape(-1, w.shape[-1]))

        def weighed(first: Int32[Array, ""] | int, b: Blocks) -> Any:
            at = first + jnp.arange(len(b))
            return f(b, Importance(by_column[at % in_row], power[at // in_row][:, None]))

        return over_chunks(weighed, blocks, CHUNK // self.size)

    def _span(self, shape: Shape) -> int | None:
        return self.size

    def _nbytes(self, shape: Shape) -> int:
        return prod(shape[:-1]) * self._blocks_in_row(shape) * self.nbytes

    def _shape(self, codes: Shape) -> Shape:
        return (*codes[:-1], codes[-1] // self.nbytes * self.size)

    def __str__(self) -> str:
        """The name."""
        return self.name


@partial(jax.jit, static_argnums=0)
def _quantize(q: BlockFormat, w: Weights, importance: Float[Array, " in"] | None) -> QuantizedArray:
    return QuantizedArray(q._bytes(w, importance), None, None, q)


@partial(jax.jit, static_argnums=0)
def _roundtrip(q: BlockFormat, w: Weights, importance: Float[Array, " in"]) -> Weights:
    return q._approximate(w, None, importance)


def over_chunks(f: Callable[..., Any], rows: Shaped[Array, "rows n"], chunk: int) -> Any:
    """``f(first, rows)`` on at most ``chunk`` rows at a time; the last chunk overlaps the one before it.

    >>> over_chunks(lambda first, r: r + first, jnp.zeros((5, 1)), 2).ravel().tolist()
    [0.0, 0.0, 2.0, 3.0, 3.0]
    """
    total, chunk = len(rows), chunk if on_cpu() else chunk * (_LARGE // CHUNK)
    if not total:
        return jax.tree.map(lambda out: out[:0], f(0, jnp.zeros((1, *rows.shape[1:]), rows.dtype)))
    if total <= chunk:
        return f(0, rows)

    def step(i: Int32[Array, ""] | int, out: Any) -> Any:
        first = jnp.minimum(i * chunk, total - chunk)
        part = f(first, lax.dynamic_slice_in_dim(rows, first, chunk))
        return jax.tree.map(lambda o, p: lax.dynamic_update_slice_in_dim(o, p, first, 0), out, part)

    shapes = jax.eval_shape(f, 0, jax.ShapeDtypeStruct((chunk, *rows.shape[1:]), rows.dtype))
    out = jax.tree.map(lambda s: jnp.full((total, *s.shape[1:]), rows.reshape(-1)[0], s.dtype), shapes)  # overwritten
    return lax.fori_loop(0, -(-total // chunk), step, out)


def row_power(w: Float[Array, "rows in"]) -> Float[Array, " rows"]:
    """Mean square of each row; the squares are added one after the other, in float32."""

    def add(total: Float[Array, " rows"], x: Float[Array, " rows"]) -> tuple[Float[Array, " rows"], None]:
        return total + ieee.square(x), None

    return ieee.divide(lax.scan(add, jnp.zeros_like(w[:, 0]), w.T)[0], float(w.shape[-1]))


def reciprocal(d: PerBlock) -> PerBlock:
    """``1 / d`` rounded once, 0 where d is 0."""
    return jnp.where(d == 0, 0.0, ieee.divide(1.0 + (d - d), jnp.where(d == 0, 1.0, d)))


def extreme(blocks: Blocks) -> PerBlock:
    """The weight of largest magnitude with its sign; of equally large ones the first."""
    top = ieee.absmax(blocks)
    # place and sign of a weight in one integer, so that one reduction finds the first and its sign
    place = 2 * lax.broadcasted_iota(jnp.int32, blocks.shape, 1) + (blocks < 0)
    first = jnp.min(jnp.where(jnp.abs(blocks) == top, place, 2**30), axis=-1, keepdims=True)
    return jnp.where(first % 2 == 1, -top, top)


def ends(blocks: Blocks) -> tuple[PerBlock, PerBlock]:
    """Smallest and largest weight; integers reduce several times as fast as floats on CPU."""
    order = ieee.ordered(blocks)
    low, high = order.min(axis=-1, keepdims=True), order.max(axis=-1, keepdims=True)
    return ieee.disordered(low), ieee.disordered(high)
