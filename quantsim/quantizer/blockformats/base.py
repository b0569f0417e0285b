"""A block format is a row of facts and a coding of blocks; everything else is derived here, once for all."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt8

from quantsim._types import ArrayLike, Blocks, PRNGKey, Shape, Weights
from quantsim.numerics import ieee
from quantsim.numerics.fusion import apart
from quantsim.numerics.meshes import placed_like
from quantsim.quantizer.blockformats import parts
from quantsim.quantizer.blockformats.blocks import mean_square
from quantsim.quantizer.blockformats.chunks import CHUNK, over_chunks
from quantsim.quantizer.blockformats.coding import Coding, Importance, Stored
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray, as_weights, beyond
from quantsim.quantizer.inputs import as_importance
from quantsim.theory.scheme import Scheme


@dataclass(frozen=True, repr=False)
class BlockFormat(AbstractQuantizer):
    """A format whose blocks are stored as bytes: rows of ``size`` weights become rows of ``nbytes`` bytes.

    ``QuantizedArray.codes`` holds the bytes, in rows as a GGUF file holds them; the last axis of the weights must be a
    multiple of ``size``. Weights are rounded to float32 first, which is all that llama.cpp quantizes from: float64 just
    past a midpoint may so become a tie. Float32 subnormals count as zero; a float16 scale saturates at 65504 instead of
    overflowing.

    Attributes:
        name: the spec.
        size: weights in a block.
        nbytes: bytes of a block.
        coding: how a block becomes codes and scales, and these weights or bytes.
        ends: codes of the lowest and second lowest, the second highest and highest level.
        takes_imatrix: whether the search weighs errors by importance when asked.
        needs_imatrix: whether llama.cpp refuses to quantize without, and so ``pack``. As in its own tests, all inputs
            are equally important to ``quantize`` and ``roundtrip`` if nothing is said.
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
    coding: Coding
    ends: tuple[int, int, int, int]
    takes_imatrix: bool = False
    needs_imatrix: bool = False
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
        w32 = self._checked(w, nonfinite)
        return self._quantized(w32, self._importance(imatrix, w32.shape))

    def roundtrip(
        self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise", imatrix: ArrayLike | None = None
    ) -> Weights:
        """``quantize(w).dequantize()`` to the bit, with a straight-through gradient unless an imatrix is given."""
        w32 = self._checked(w, nonfinite)
        if imatrix is None:
            return super().roundtrip(w32, nonfinite=nonfinite)
        return _roundtrip(self, w32, self._importance(imatrix, w32.shape))

    # --- what may be asked ------------------------------------------------------------------------------------------

    def _checked(self, w: ArrayLike, nonfinite: str | None) -> Weights:
        if nonfinite == "propagate" and not self.has_nan:
            raise ValueError(f"{self} has no code for NaN: mend the input")
        w32 = as_weights(w, nonfinite) if self.has_nan else as_weights(w, nonfinite, remedy="mend the input")
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
        return as_importance(imatrix, shape)

    # --- to bytes and back ------------------------------------------------------------------------------------------

    def pack(self, w: ArrayLike, imatrix: ArrayLike | None = None) -> UInt8[Array, "... bytes"]:
        """``quantize(w).codes``, as ``gguf.pack`` has it: what llama.cpp refuses is refused, and what is not finite."""
        w32 = as_weights(w, remedy="mend the input")
        self._blocks_in_row(w32.shape)
        if self.needs_imatrix and imatrix is None:
            raise ValueError(
                f"{self} needs importances, as in llama.cpp: imatrix= the mean square of each input over some text, "
                "(in,), or ones where all inputs are equally important"
            )
        return self._quantized(w32, self._importance(imatrix, w32.shape)).codes

    def bytes_of(self, blocks: Blocks) -> UInt8[Array, "blocks nbytes"]:
        """The bytes of float32 blocks, of which there is one: a part of the weights that ``pack`` takes."""
        return self._over_blocks(self._bytes_of, blocks, None)

    def _bytes_of(self, blocks: Blocks, importance: Importance | None) -> UInt8[Array, "blocks nbytes"]:
        return self.coding.to_bytes(apart(lambda: self._found(blocks, importance), blocks))

    def _quantized(self, w: Weights, importance: Float[Array, " in"] | None) -> QuantizedArray:
        if importance is not None or not (self.coding.tries and parts.is_shared(w)):
            return _quantize(self, w, importance)
        return QuantizedArray(parts.packed(self, w).reshape(self._packed_shape(w.shape)), None, None, self)

    def _encode(self, w: Weights, key: PRNGKey | None, importance: Float[Array, " in"] | None = None) -> QuantizedArray:
        shape = self._packed_shape(w.shape)
        data = self._over_blocks(self._bytes_of, w, importance) if w.size else jnp.zeros(shape, jnp.uint8)
        return QuantizedArray(data.reshape(shape), None, None, self)

    def _decode(self, qw: QuantizedArray) -> Weights:
        def decode(_: Int32[Array, ""] | int, data: UInt8[Array, "blocks nbytes"]) -> Blocks:
            return self.coding.values(self.coding.from_bytes(data))

        found = over_chunks(decode, qw.codes.reshape(-1, self.nbytes), CHUNK // self.size)
        return found.reshape(self._shape(qw.codes.shape))

    def _approximate(self, w: Weights, key: PRNGKey | None, importance: Float[Array, " in"] | None = None) -> Weights:
        def approximate(blocks: Blocks, importance: Importance | None) -> Blocks:
            return self.coding.values(self._found(blocks, importance))

        return self._over_blocks(approximate, w, importance).reshape(w.shape) if w.size else w

    def _outside(self, w: Weights) -> Bool[Array, "..."]:
        def outside(blocks: Blocks, importance: Importance | None) -> Bool[Array, "blocks size"]:
            codes, scales = self._found(blocks, importance)
            levels = [self.coding.values(Stored(jnp.full_like(codes, code), scales)) for code in self.ends]
            rising = levels[0] <= levels[3]  # falling where the scale is negative
            ends = tuple(jnp.where(rising, a, b) for a, b in zip(levels, levels[::-1], strict=True))
            return beyond(blocks, ends) & (levels[0] != levels[3])

        return self._over_blocks(outside, w, None).reshape(w.shape) if w.size else jnp.zeros(w.shape, bool)

    def _found(self, blocks: Blocks, importance: Importance | None) -> Stored:
        """Search on finite weights; where a weight is not finite, the scales become NaN."""
        top = ieee.absmax(blocks)
        poison = top - top
        finite = apart(lambda: jnp.where(jnp.isnan(poison), 0.0, jnp.clip(blocks, -self.limit, self.limit)), blocks)
        codes, scales = self.coding.search(finite, importance)
        return Stored(codes, tuple(s - poison if jnp.issubdtype(s.dtype, jnp.floating) else s for s in scales))

    def _over_blocks(
        self, f: Callable[[Blocks, Importance | None], Any], w: Weights, importance: Float[Array, " in"] | None
    ) -> Any:
        """``f`` on chunks of the blocks of ``w``, of which there is one, each with the importance of its blocks."""
        in_row = self._blocks_in_row(w.shape)
        blocks = w.reshape(-1, self.size)
        if importance is None:
            return over_chunks(lambda _, chunk: f(chunk, None), blocks, CHUNK // self.size)
        by_column, row_power = importance.reshape(in_row, self.size), mean_square(w.reshape(-1, w.shape[-1]))

        def weighed(first: Int32[Array, ""] | int, chunk: Blocks) -> Any:
            block = first + jnp.arange(len(chunk), dtype=jnp.int32)
            return f(chunk, Importance(by_column[block % in_row], row_power[block // in_row]))

        return over_chunks(weighed, blocks, CHUNK // self.size)

    # --- shapes -----------------------------------------------------------------------------------------------------

    def _span(self, shape: Shape) -> int | None:
        return self.size

    def _nbytes(self, shape: Shape) -> int:
        return prod(shape[:-1]) * self._blocks_in_row(shape) * self.nbytes

    def _packed_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self._blocks_in_row(shape) * self.nbytes)

    def _shape(self, codes: Shape) -> Shape:
        return (*codes[:-1], codes[-1] // self.nbytes * self.size)

    def __str__(self) -> str:
        """The name."""
        return self.name


@partial(jax.jit, static_argnums=0)
def _quantize(q: BlockFormat, w: Weights, importance: Float[Array, " in"] | None) -> QuantizedArray:
    return placed_like(w, q._encode, w, None, importance)


@partial(jax.jit, static_argnums=0)
def _roundtrip(q: BlockFormat, w: Weights, importance: Float[Array, " in"]) -> Weights:
    return placed_like(w, q._approximate, w, None, importance)
