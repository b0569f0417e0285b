"""What every quantizer does and what it makes: the face of all of them, and the array of codes.

``Quantizer`` (one scale for a tensor, channel or block), the GGUF formats and the microscaling formats are the members.
Its ``programs`` are compiled for a structure; the numbers of a quantizer are arguments.
"""

import abc
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from quantsim._types import ArrayLike, Codes, Number, PRNGKey, Scale, Shape, TensorScale, Weights, ZeroPoint
from quantsim.populations.structure import Structure
from quantsim.quantizer import programs
from quantsim.quantizer.inputs import as_key, as_shape, as_weights, known_true
from quantsim.quantizer.shared import shared_quantize, shared_roundtrip
from quantsim.quantizer.structure import parted
from quantsim.theory.scheme import NoTheoryError, Scheme

__all__ = ["AbstractQuantizer", "QuantizedArray", "as_weights", "beyond", "known_true"]


class AbstractQuantizer(abc.ABC):
    """The face of every quantizer: frozen, hashable, static under ``jit``; ``str`` gives its spec.

    A member says how arrays of float32 weights become codes (``_encode``), how codes become weights (``_decode``),
    what both do together (``_approximate``, the same bits without forming codes), which weights clip (``_outside``) and
    how many bytes are stored (``_nbytes``).
    """

    def quantize(self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise") -> "QuantizedArray":
        """Codes and scales of ``w``, computed in float32.

        Args:
            w: weights of any shape; a matrix is (out, in). float64, float16, bfloat16 and integers become float32; in a
                cast, which has no scale, they are rounded once, to the format.
            key: for stochastic rounding.
            nonfinite: "raise", or "propagate": a block that holds a NaN or an infinity dequantizes to NaN.

        Raises:
            TypeError: if ``w`` is not numeric, or ``key`` no key.
            ValueError: for a NaN or infinity, named with its index, unless propagated; for a missing key.

        >>> import quantsim as qs
        >>> qs.parse("int8:tensor").quantize([[1.27, -0.5]]).codes.tolist()
        [[127, -50]]
        """
        w32 = self._checked(w, nonfinite)
        found = shared_quantize(self, w32) if key is None else None
        if found is None:
            found = programs.quantized(*parted(self), w32, as_key(key), self._code_dtype())
        return replace(found, quantizer=self, ndim=w32.ndim)

    def roundtrip(self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise") -> Weights:
        """``quantize(w).dequantize()`` to the bit, without forming codes, with a straight-through gradient.

        The gradient is 1 where the weight lies within the range and 0 where it clips (Bengio et al., arXiv:1308.3432).
        Numbers of the quantizer, such as a traced clip ratio, have none.

        >>> import quantsim as qs
        >>> jax.grad(lambda w: qs.parse("int4:tensor:p50").roundtrip(w).sum())(jnp.array([1.0, 2.0, 9.0])).tolist()
        [1.0, 1.0, 0.0]
        """
        w32, key = self._checked(w, nonfinite), as_key(key)
        found = shared_roundtrip(self, w32) if key is None else None
        return programs.roundtrip(*parted(self), w32, key) if found is None else found

    def clipped(self, w: ArrayLike) -> Bool[Array, "..."]:
        """Which weights lie more than half a step outside the range of their block.

        >>> import quantsim as qs
        >>> qs.parse("int4:tensor:p50").clipped([1.0, 2.0, 9.0]).tolist()
        [False, False, True]
        """
        return programs.clipped(*parted(self), self._checked(w, None))

    def bits_per_weight(self, shape: Shape) -> float:
        """Stored bits over weights: codes, scales and zero points, each field padded to whole bytes.

        Raises:
            TypeError: if ``shape`` is no sequence of whole numbers.
            ValueError: if one of them is negative.

        >>> import quantsim as qs
        >>> qs.parse("int4:block32:f16").bits_per_weight((64, 64))
        4.5
        """
        known = as_shape(shape)
        return 8 * self._nbytes(known) / max(prod(known), 1)

    def _checked(self, w: ArrayLike, nonfinite: str | None) -> Weights:
        """``w`` as float32 weights that this quantizer takes; ``nonfinite``: see ``as_weights``."""
        return as_weights(w, nonfinite)

    def scheme(self, shape: Shape | None = None) -> Scheme:
        """What ``theory.weight_mse`` must know: levels, how many weights share a scale, the law of the scale.

        Raises:
            NoTheoryError: if the scale is no law of its block.
            ShapeNeededError: if the shape is needed to know how many weights share a scale.

        >>> import quantsim as qs
        >>> scheme = qs.parse("int8:block32").scheme()
        >>> scheme.scale.reach, scheme.sizes
        (127.0, ((32, 1.0),))
        """
        del shape
        raise NoTheoryError(
            f"no theory for {self}: its scales are searched block by block, and only a measurement tells their error; "
            "see quantsim.sweep.measure"
        )

    @abc.abstractmethod
    def _encode(self, w: Weights, key: PRNGKey | None) -> "QuantizedArray": ...

    @abc.abstractmethod
    def _decode(self, qw: "QuantizedArray") -> Weights: ...

    @abc.abstractmethod
    def _approximate(self, w: Weights, key: PRNGKey | None) -> Weights: ...

    @abc.abstractmethod
    def _outside(self, w: Weights) -> Bool[Array, "..."]: ...

    # --- parts of an array: rows of `_span` weights ---------------------------------------------------------------

    def _span(self, shape: Shape) -> int | None:
        """Consecutive weights of the flattened array that share scales with no others; None if unknown.

        They are quantized apart from all others, but for a scale of the tensor.
        """
        del shape
        return None

    def _has_tensor_scale(self) -> bool:
        """Whether scales are stored in units of one that belongs to the whole array."""
        return False

    def _tensor_scale(self, rows: Weights) -> Float[Array, ""]:
        """The scale of the tensor, of rows of it: the largest of all parts is that of the whole."""
        raise NotImplementedError(f"{self} has no scale of the tensor")

    def _encode_rows(self, rows: Weights, tensor: TensorScale | None) -> "QuantizedArray":
        """``_encode`` of rows of an array with that scale of the tensor."""
        del tensor
        return self._encode(rows, None)

    def _approximate_rows(self, rows: Weights, tensor: TensorScale | None) -> Weights:
        """``_approximate`` of rows of an array with that scale of the tensor."""
        del tensor
        return self._approximate(rows, None)

    # --- what programs and files must know -------------------------------------------------------------------------

    def _split(self) -> tuple[Structure, tuple[Number, ...]]:
        """What a program must know to be compiled, and the numbers that it takes."""
        return Structure(self), ()

    def _code_dtype(self) -> Any:
        """Type of the codes, where a program of the structure does not know it."""
        return None

    @abc.abstractmethod
    def _nbytes(self, shape: Shape) -> int: ...

    def _shape(self, codes: Shape) -> Shape:
        """Shape of the weights that have codes of shape ``codes``."""
        return codes

    @abc.abstractmethod
    def __str__(self) -> str:
        """The canonical spec string: defaults are left out."""

    def __repr__(self) -> str:
        """The class with the spec string."""
        return f"{type(self).__name__}('{self}')"


_DATA = ["codes", "scale", "zero_point", "tensor_scale"]


@partial(jax.tree_util.register_dataclass, data_fields=_DATA, meta_fields=["quantizer", "ndim"])
@dataclass(frozen=True)
class QuantizedArray:
    """What is stored: codes, scales and zero points; a pytree.

    ``dequantize() = (codes - zero_point) * scale * tensor_scale``, with ``codes`` in the shape of the weights and
    ``scale`` in ``granularity.scale_shape``; both broadcast over a block. The GGUF formats hold ``codes`` only: the
    bytes of each row as a file holds them. ``nbytes`` is what a file would hold. ``ndim`` is the number of axes of the
    array that was quantized: axes in front of them, as ``vmap`` or ``scan`` makes them, count a batch of arrays.

    >>> import quantsim as qs
    >>> qw = qs.parse("int4:block32:minmax").quantize(jnp.linspace(-1.0, 1.0, 64))
    >>> qw.codes.shape, qw.scale.shape, qw.nbytes
    ((64,), (2,), 41)
    >>> batch = jax.vmap(qs.parse("int8:channel").quantize)(jnp.ones((3, 4, 8)))
    >>> batch.shape, batch.scale.shape, batch.nbytes, batch.dequantize().shape
    ((3, 4, 8), (3, 4), 144, (3, 4, 8))
    """

    # Any: a tree transformation may put shapes or specs in the place of arrays, a program the structure of a quantizer
    codes: Codes | Any
    scale: Scale | Any | None
    zero_point: ZeroPoint | Any | None
    quantizer: AbstractQuantizer | Any
    tensor_scale: Float[Array, ""] | Any | None = None
    ndim: int | None = None

    def dequantize(self) -> Weights:
        """Float32 weights in the original shape.

        Raises:
            ValueError: if the parts are no batch of quantized arrays, with the same axes in front of each.
        """
        batch = self._batch()
        if batch:
            self._require_batch(batch)
        structure, numbers = parted(self.quantizer)
        return programs.dequantized(replace(self, quantizer=structure), numbers, len(batch))

    @property
    def shape(self) -> Shape:
        """Shape of the weights, with the axes of a batch in front."""
        return self.quantizer._shape(self.codes.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points of each array, each field padded to whole bytes."""
        batch = self._batch()
        return prod(batch) * self.quantizer._nbytes(self.shape[len(batch) :])

    def _batch(self) -> Shape:
        """The axes in front of those of one array."""
        have = len(self.codes.shape)
        want = have if self.ndim is None else self.ndim
        if have < want:
            raise ValueError(f"codes of shape {self.codes.shape} are a part of an array of {want} axes")
        return self.codes.shape[: have - want]

    def _require_batch(self, batch: Shape) -> None:
        """Every part has the axes of the batch in front of those that it has for one array."""
        weights = jax.ShapeDtypeStruct(self.shape[len(batch) :], jnp.float32)
        one = jax.eval_shape(lambda w: self.quantizer._encode(w, jax.random.key(0)), weights)
        for name in _DATA:
            part, of_one = getattr(self, name), getattr(one, name)
            if part is not None and part.shape != batch + of_one.shape:
                raise ValueError(
                    f"{name} of shape {part.shape}: no batch of {batch} arrays {weights.shape} of {self.quantizer}; "
                    "under vmap the batch stands in front (out_axes=0), or the array is dequantized under vmap, too"
                )


def beyond(x: Float[Array, "..."], ends: tuple[Float[Array, "..."] | float, ...] | np.ndarray) -> Bool[Array, "..."]:
    """Which ``x`` lie beyond the last level by more than half of the last gap; ``ends``: the last two on either side.

    >>> beyond(jnp.array([-1.6, -1.4, 2.4]), (-1.0, 0.0, 1.0, 2.0)).tolist()
    [True, False, False]
    """
    limit = float(np.finfo(np.float32).max)
    if isinstance(ends, np.ndarray):
        first, second, before, last = ends.tolist()
        return (x < max(first - (second - first) / 2, -limit)) | (x > min(last + (last - before) / 2, limit))
    first, second, before, last = ends
    low, high = first - (second - first) / 2, last + (last - before) / 2
    return (x < jnp.maximum(low, -limit)) | (x > jnp.minimum(high, limit))
