"""What every quantizer does and what it makes: the face of all of them, and the array of codes.

``Quantizer`` (one scale for a tensor, channel or block), the GGUF formats and the microscaling formats are the members.
"""

import abc
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from quantsim._types import ArrayLike, Codes, PRNGKey, Scale, Shape, Weights, ZeroPoint
from quantsim.numerics.meshes import placed_like
from quantsim.theory.scheme import NoTheoryError, Scheme


class AbstractQuantizer(abc.ABC):
    """The face of every quantizer: frozen, hashable, static under ``jit``; ``str`` gives its spec.

    A member says how arrays of float32 weights become codes (``_encode``), how codes become weights (``_decode``),
    what both do together (``_approximate``, the same bits without forming codes), which weights clip (``_outside``) and
    how many bytes are stored (``_nbytes``).
    """

    def quantize(self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise") -> "QuantizedArray":
        """Codes and scales of ``w``, computed in float32.

        Args:
            w: weights of any shape; a matrix is (out, in). float64, float16, bfloat16 and integers become float32.
            key: for stochastic rounding.
            nonfinite: "raise", or "propagate": a block that holds a NaN or an infinity dequantizes to NaN.

        Raises:
            TypeError: if ``w`` is not numeric.
            ValueError: for a NaN or infinity, named with its index, unless propagated.

        >>> import quantsim as qs
        >>> qs.parse("int8:tensor").quantize([[1.27, -0.5]]).codes.tolist()
        [[127, -50]]
        """
        return _quantize(self, self._checked(w, nonfinite), key)

    def roundtrip(self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise") -> Weights:
        """``quantize(w).dequantize()`` to the bit, without forming codes, with a straight-through gradient.

        The gradient is 1 where the weight lies within the range and 0 where it clips (Bengio et al., arXiv:1308.3432).

        >>> import quantsim as qs
        >>> jax.grad(lambda w: qs.parse("int4:tensor:p50").roundtrip(w).sum())(jnp.array([1.0, 2.0, 9.0])).tolist()
        [1.0, 1.0, 0.0]
        """
        return _roundtrip(self._checked(w, nonfinite), self, key)

    def clipped(self, w: ArrayLike) -> Bool[Array, "..."]:
        """Which weights lie more than half a step outside the range of their block.

        >>> import quantsim as qs
        >>> qs.parse("int4:tensor:p50").clipped([1.0, 2.0, 9.0]).tolist()
        [False, False, True]
        """
        return _clipped(self, self._checked(w, "raise"))

    def bits_per_weight(self, shape: Shape) -> float:
        """Stored bits over weights: codes, scales and zero points, each field padded to whole bytes.

        >>> import quantsim as qs
        >>> qs.parse("int4:block32:f16").bits_per_weight((64, 64))
        4.5
        """
        return 8 * self._nbytes(tuple(shape)) / max(prod(shape), 1)

    def _checked(self, w: ArrayLike, nonfinite: str) -> Weights:
        """``w`` as float32 weights that this quantizer takes."""
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

    def _span(self, shape: Shape) -> int | None:
        """Consecutive weights of the flattened array that are quantized apart from all others; None if unknown."""
        del shape
        return None

    @abc.abstractmethod
    def _nbytes(self, shape: Shape) -> int: ...

    def _nbytes_of(self, qw: "QuantizedArray") -> int:
        """Bytes of an array of codes."""
        return self._nbytes(qw.shape)

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


@partial(jax.tree_util.register_dataclass, data_fields=_DATA, meta_fields=["quantizer"])
@dataclass(frozen=True)
class QuantizedArray:
    """What is stored: codes, scales and zero points; a pytree.

    ``dequantize() = (codes - zero_point) * scale * tensor_scale``, with ``codes`` in the shape of the weights and
    ``scale`` in ``granularity.scale_shape``; both broadcast over a block. The GGUF formats hold ``codes`` only: the
    bytes of each row as a file holds them. ``nbytes`` is what a file would hold.

    >>> import quantsim as qs
    >>> qw = qs.parse("int4:block32:minmax").quantize(jnp.linspace(-1.0, 1.0, 64))
    >>> qw.codes.shape, qw.scale.shape, qw.nbytes
    ((64,), (2,), 41)
    """

    codes: Codes | Any  # Any: a tree transformation may put shapes or specs in the place of arrays
    scale: Scale | Any | None
    zero_point: ZeroPoint | Any | None
    quantizer: AbstractQuantizer
    tensor_scale: Float[Array, ""] | Any | None = None

    def dequantize(self) -> Weights:
        """Float32 weights in the original shape."""
        return _dequantize(self)

    @property
    def shape(self) -> Shape:
        """Shape of the weights."""
        return self.quantizer._shape(self.codes.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points, each field padded to whole bytes."""
        return self.quantizer._nbytes_of(self)


def as_weights(
    w: ArrayLike,
    nonfinite: str = "raise",
    what: str = "weights",
    *,
    remedy: str = 'mend the input, or pass nonfinite="propagate"',
) -> Weights:
    """``w`` as a float32 array, checked where its values are known (not under a transformation).

    ``remedy`` is what the caller of the public function can do about a NaN or infinity.

    Raises:
        TypeError: if it is not numeric.
        ValueError: for a NaN or infinity, unless ``nonfinite="propagate"``.
    """
    if nonfinite not in ("raise", "propagate"):
        raise ValueError(f"nonfinite is 'raise' or 'propagate', not {nonfinite!r}")
    if not isinstance(w, jax.Array):
        w = np.asarray(w)
    if not (jnp.issubdtype(w.dtype, jnp.floating) or jnp.issubdtype(w.dtype, jnp.integer)):
        raise TypeError(f"{what} must be real numbers, not {w.dtype}")
    with np.errstate(over="ignore"):
        w32 = w.astype(np.float32)
    if nonfinite == "raise" and _surely_not_finite(w32):
        w, w32 = (lax.stop_gradient(v) if isinstance(v, jax.Array) else v for v in (w, w32))
        bad = np.argwhere(~np.isfinite(np.asarray(w32)))
        at = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"{len(bad)} of {w32.size} {what} are not finite in float32, the first is {w[at]} at index {at}; {remedy}"
        )
    return jnp.asarray(w32)


def _surely_not_finite(w32: Weights | np.ndarray | np.generic) -> bool:
    """Whether a weight is known to be NaN or infinite; arrays of NumPy are asked without compiling anything."""
    if isinstance(w32, jax.Array):
        return known_true(~jnp.isfinite(w32).all())
    with np.errstate(all="ignore"):
        if np.isfinite(w32.sum()):  # much faster than to ask each
            return False
    return not np.isfinite(w32).all()


def known_true(fact: Bool[Array, ""]) -> bool:
    """Whether ``fact`` is true and its value is known, not traced by a transformation."""
    try:
        return bool(fact)
    except jax.errors.TracerBoolConversionError:
        return False


@partial(jax.jit, static_argnums=0)
def _quantize(q: AbstractQuantizer, w: Weights, key: PRNGKey | None) -> QuantizedArray:
    return placed_like(w, q._encode, w, key)


@jax.jit
def _dequantize(qw: QuantizedArray) -> Weights:
    return placed_like(qw.codes, qw.quantizer._decode, qw)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)
def _roundtrip(w: Weights, q: AbstractQuantizer, key: PRNGKey | None) -> Weights:
    return placed_like(w, q._approximate, w, key)


@_roundtrip.defjvp
def _roundtrip_jvp(q: AbstractQuantizer, primals: tuple, tangents: tuple) -> tuple[Weights, Weights]:
    w, key = primals
    return _roundtrip(w, q, key), jnp.where(_clipped(q, w), 0.0, tangents[0])


@partial(jax.jit, static_argnums=0)
def _clipped(q: AbstractQuantizer, w: Weights) -> Bool[Array, "..."]:
    return placed_like(w, q._outside, w)


def beyond(x: Float[Array, "..."], ends: tuple[Float[Array, "..."] | float, ...] | np.ndarray) -> Bool[Array, "..."]:
    """Which ``x`` lie beyond the last level by more than half of the last gap; ``ends``: the last two on either side.

    >>> beyond(jnp.array([-1.6, -1.4, 2.4]), (-1.0, 0.0, 1.0, 2.0)).tolist()
    [True, False, False]
    """
    limit, xp = float(np.finfo(np.float32).max), np if isinstance(ends, np.ndarray) else jnp
    low = xp.maximum(ends[0] - (ends[1] - ends[0]) / 2, -limit)
    high = xp.minimum(ends[3] + (ends[3] - ends[2]) / 2, limit)
    return (x < low) | (x > high)
