"""A quantizer: format x granularity x calibration x scale format x rounding, and the array it makes."""

from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from quantsim import formats, ieee
from quantsim._types import ArrayLike, Blocks, Codes, PerBlock, PRNGKey, Scale, Shape, Weights, ZeroPoint
from quantsim.calibration import Absmax, Calibration, MinMax, calibrate, minmax
from quantsim.formats import Codebook, Format, Integer
from quantsim.granularity import Granularity, block_counts, from_blocks, scale_shape, to_blocks
from quantsim.rounding import ROUNDINGS, Rounding, decode, encode, round_integer, snap
from quantsim.spec import parse_fields, spell

_F32 = formats.parse("f32")


@dataclass(frozen=True)
class Quantizer:
    """Static description of how an array is quantized; ``parse`` makes one from a spec string, ``str`` gives it back.

    For a block w with scale s and zero point z:  ``code = clip(round(w / s) + z)``,  ``w_hat = (code - z) * s``,
    computed with the scale as it is stored. A quantizer without granularity is a plain cast: no scale.
    Source: Jacob et al., arXiv:1712.05877 (affine quantization).

    Raises:
        ValueError: for combinations that do not exist, such as a codebook with a zero point.

    >>> q = parse("int8:channel")
    >>> q
    Quantizer('int8:channel')
    >>> q.roundtrip(jnp.array([[1.0, 0.3], [0.01, 0.02]])).round(4).tolist()
    [[1.0, 0.29919999837875366], [0.00989999994635582, 0.019999999552965164]]
    """

    format: Format
    granularity: Granularity | None = None
    calibration: Calibration = Absmax()
    scale_format: formats.Float = field(default=_F32)  # pyright: ignore[reportAssignmentType]
    rounding: Rounding = "even"

    def __post_init__(self) -> None:
        """Reject combinations that do not exist."""
        bounds = self.format.bounds if isinstance(self.format, Integer) else None
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"unknown rounding {self.rounding!r}; known are {', '.join(ROUNDINGS)}")
        scaled = (self.calibration, self.scale_format) != (Absmax(), _F32) or not isinstance(self.format, formats.Float)
        if self.granularity is None and scaled:
            raise ValueError(f"{self} needs a granularity, for example {self.format.name}:block32")
        if self.granularity is not None and getattr(self.format, "exponent_bits", 0) == 8:
            # its largest value is that of float32: the scale of any weight below 4 would underflow
            raise ValueError(f"{self.format.name} has the range of float32 and takes no scale: say it alone")
        if isinstance(self.calibration, MinMax) and bounds != "narrow":
            raise ValueError(f"minmax needs an integer format with its default bounds, not {self.format.name}")
        if isinstance(self.format, Codebook) and self.rounding != "even":
            raise ValueError(f"codebook {self.format.name} rounds to the nearest level only, not {self.rounding!r}")
        if bounds == "signed" and not isinstance(self.calibration, Absmax):
            raise ValueError("signed bounds take their scale from the extreme weight: only absmax goes with them")

    def quantize(self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise") -> "QuantizedArray":
        """Codes and scales of ``w``, computed in float32.

        Args:
            w: weights of any shape; a matrix is (out, in). float64, float16, bfloat16 and integers become float32.
            key: for stochastic rounding.
            nonfinite: "raise", or "propagate": a block that holds a NaN or an infinity dequantizes to NaN.

        Raises:
            TypeError: if ``w`` is not numeric.
            ValueError: for a NaN or infinity, named with its index, unless propagated.

        >>> parse("int8:tensor").quantize([[1.27, -0.5]]).codes.tolist()
        [[127, -50]]
        """
        return _quantize(self, as_weights(w, nonfinite), key)

    def roundtrip(self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise") -> Weights:
        """``quantize(w).dequantize()`` to the bit, without forming codes, with a straight-through gradient.

        The gradient is 1 where the weight lies within the range and 0 where it clips (Bengio et al., arXiv:1308.3432).

        >>> jax.grad(lambda w: parse("int4:tensor:p50").roundtrip(w).sum())(jnp.array([1.0, 2.0, 9.0])).tolist()
        [1.0, 1.0, 0.0]
        """
        return _roundtrip(as_weights(w, nonfinite), self, key)

    def clipped(self, w: ArrayLike) -> Bool[Array, "..."]:
        """Which weights lie more than half a step outside the range of their block.

        >>> parse("int4:tensor:p50").clipped([1.0, 2.0, 9.0]).tolist()
        [False, False, True]
        """
        return _clipped(self, as_weights(w, "raise"))

    def bits_per_weight(self, shape: Shape) -> float:
        """Stored bits over weights: codes, scales and zero points, each field padded to whole bytes.

        >>> parse("int4:block32:f16").bits_per_weight((64, 64))
        4.5
        """
        return 8 * self._nbytes(tuple(shape)) / max(prod(shape), 1)

    def _nbytes(self, shape: Shape) -> int:
        codes = -(-self.format.bits * prod(shape) // 8)
        if self.granularity is None:
            return codes
        scales = prod(scale_shape(self.granularity, shape))
        zero_points = -(-self.format.bits * scales // 8) if isinstance(self.calibration, MinMax) else 0
        return codes + -(-self.scale_format.bits * scales // 8) + zero_points

    def __str__(self) -> str:
        """The canonical spec string: defaults are left out."""
        return spell(self.format, self.granularity, self.calibration, self.scale_format, self.rounding)

    def __repr__(self) -> str:
        """A call with the spec string."""
        return f"Quantizer('{self}')"


def parse(text: str) -> Quantizer:
    """Quantizer of a spec string.

    Raises:
        ValueError: if it is no spec; the message names the token, what was probably meant, and what is known.

    >>> parse("int4:block32:mse").bits_per_weight((4096, 4096))
    5.0
    >>> parse("int9:blok32")
    Traceback (most recent call last):
    ...
    ValueError: unknown token 'blok32' in spec 'int9:blok32'; did you mean 'int8:block32'? ...
    """
    return Quantizer(**parse_fields(text))


@partial(jax.tree_util.register_dataclass, data_fields=["codes", "scale", "zero_point"], meta_fields=["quantizer"])
@dataclass(frozen=True)
class QuantizedArray:
    """What is stored: codes, scales and zero points; a pytree.

    ``dequantize() = (codes - zero_point) * scale``, with ``codes`` in the shape of the weights and ``scale`` in
    ``granularity.scale_shape``; both broadcast over a block. ``nbytes`` is what a file would hold.

    >>> qw = parse("int4:block32:minmax").quantize(jnp.linspace(-1.0, 1.0, 64))
    >>> qw.codes.shape, qw.scale.shape, qw.nbytes
    ((64,), (2,), 41)
    """

    codes: Codes | Any  # Any: a tree transformation may put shapes or specs in the place of arrays
    scale: Scale | Any | None
    zero_point: ZeroPoint | Any | None
    quantizer: Quantizer

    def dequantize(self) -> Weights:
        """Float32 weights in the original shape."""
        return _dequantize(self)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points, each field padded to whole bytes."""
        return self.quantizer._nbytes(self.codes.shape)


def as_weights(w: ArrayLike, nonfinite: str = "raise") -> Weights:
    """``w`` as a float32 array, checked where its values are known (not under a transformation).

    Raises:
        TypeError: if it is not numeric.
        ValueError: for a NaN or infinity, unless ``nonfinite="propagate"``.
    """
    if nonfinite not in ("raise", "propagate"):
        raise ValueError(f"nonfinite is 'raise' or 'propagate', not {nonfinite!r}")
    if not isinstance(w, jax.Array):
        w = np.asarray(w)
    if not (jnp.issubdtype(w.dtype, jnp.floating) or jnp.issubdtype(w.dtype, jnp.integer)):
        raise TypeError(f"weights must be real numbers, not {w.dtype}")
    with np.errstate(over="ignore"):
        w32 = jnp.asarray(w.astype(np.float32))
    if nonfinite == "raise" and not _all_finite(w32):
        w, w32 = (lax.stop_gradient(v) if isinstance(v, jax.Array) else v for v in (w, w32))
        bad = np.argwhere(~np.isfinite(np.asarray(w32)))
        at = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"{len(bad)} of {w32.size} weights are not finite in float32, the first is {w[at]} at index {at}; "
            'mend the input, or pass nonfinite="propagate"'
        )
    return w32


def _all_finite(w: Weights) -> bool:
    try:
        return bool(jnp.isfinite(w).all())
    except jax.errors.TracerBoolConversionError:
        return True


def _calibrated(q: Quantizer, blocks: Blocks, shape: Shape) -> tuple[PerBlock, PerBlock | None]:
    """Scale as stored, and zero point. A non-finite weight makes the scale of its block NaN."""
    assert q.granularity is not None
    if isinstance(q.calibration, MinMax):
        assert isinstance(q.format, Integer)
        scale, zero = minmax(blocks, q.format, q.scale_format)
    else:
        scale, zero = calibrate(blocks, q.format, q.calibration, block_counts(q.granularity, shape)), None
    top = ieee.absmax(blocks)
    return snap(scale, q.scale_format) + (top - top), zero


def _units(blocks: Blocks, scale: PerBlock) -> Blocks:
    """Weights over scale; 0 in a block whose stored scale is 0."""
    return jnp.where(scale == 0, 0.0, ieee.divide(blocks, jnp.where(scale == 0, 1.0, scale)))


def _offset_range(fmt: Format) -> tuple[float, float]:
    return 0.0, 2.0**fmt.bits - 1


def _snap_blocks(q: Quantizer, units: Blocks, zero: PerBlock | None, key: PRNGKey | None) -> Blocks:
    """Levels of weights in units of their scale; with a zero point, ``clip(round(u) + z, 0, 2^bits - 1) - z``."""
    if zero is None:
        return snap(units, q.format, q.rounding, key)
    return jnp.clip(round_integer(units, q.rounding, key) + zero, *_offset_range(q.format)) - zero


@partial(jax.jit, static_argnums=0)
def _quantize(q: Quantizer, w: Weights, key: PRNGKey | None) -> QuantizedArray:
    if q.granularity is None:
        return QuantizedArray(encode(w, q.format, q.rounding, key), None, None, q)
    blocks = to_blocks(w, q.granularity)
    scale, zero = _calibrated(q, blocks, w.shape)
    units = _units(blocks, scale)
    shape = scale_shape(q.granularity, w.shape)
    if zero is None:
        codes = encode(units, q.format, q.rounding, key)
    else:
        shifted = _snap_blocks(q, units, zero, key) + zero
        codes = jnp.where(jnp.isnan(shifted), 0, shifted).astype(jnp.uint8)
        zero = jnp.where(jnp.isnan(zero), 0, zero).astype(jnp.int32).reshape(shape)
    return QuantizedArray(from_blocks(codes, q.granularity, w.shape), scale.reshape(shape), zero, q)


@jax.jit
def _dequantize(qw: QuantizedArray) -> Weights:
    q = qw.quantizer
    if q.granularity is None:
        return decode(qw.codes, q.format)
    assert qw.scale is not None
    codes = to_blocks(qw.codes, q.granularity)
    if qw.zero_point is None:
        values = decode(codes, q.format)
    else:
        values = codes.astype(jnp.float32) - qw.zero_point.reshape(-1, 1)
    return from_blocks(values * qw.scale.reshape(-1, 1), q.granularity, qw.codes.shape)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)
def _roundtrip(w: Weights, q: Quantizer, key: PRNGKey | None) -> Weights:
    if q.granularity is None:
        return snap(w, q.format, q.rounding, key)
    blocks = to_blocks(w, q.granularity)
    scale, zero = _calibrated(q, blocks, w.shape)
    values = _snap_blocks(q, _units(blocks, scale), zero, key)
    return from_blocks(values * scale, q.granularity, w.shape)


@_roundtrip.defjvp
def _roundtrip_jvp(q: Quantizer, primals: tuple, tangents: tuple) -> tuple[Weights, Weights]:
    w, key = primals
    return _roundtrip(w, q, key), jnp.where(_clipped(q, w), 0.0, tangents[0])


@partial(jax.jit, static_argnums=0)
def _clipped(q: Quantizer, w: Weights) -> Bool[Array, "..."]:
    levels = formats.ends(q.format)
    if q.granularity is None:
        return _outside(w, levels)
    blocks = to_blocks(w, q.granularity)
    scale, zero = _calibrated(q, blocks, w.shape)
    if zero is not None:
        top = _offset_range(q.format)[1]
        outside = _outside(_units(blocks, scale) + zero, np.array([0.0, 1.0, top - 1, top]))
    else:
        outside = _outside(_units(blocks, scale), levels)
    return from_blocks(outside, q.granularity, w.shape)


def _outside(x: Float[Array, "..."], levels: np.ndarray) -> Bool[Array, "..."]:
    """Beyond the last level by more than half of the last gap."""
    low, high = levels[0] - (levels[1] - levels[0]) / 2, levels[-1] + (levels[-1] - levels[-2]) / 2
    limit = float(np.finfo(np.float32).max)
    return (x < max(low, -limit)) | (x > min(high, limit))
