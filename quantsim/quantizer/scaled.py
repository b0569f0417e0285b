"""A quantizer of scaled elements: format x granularity x calibration x scale format x rounding."""

from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quantsim import formats
from quantsim._types import ArrayLike, Blocks, Number, PerBlock, PRNGKey, Shape, TensorScale, Weights
from quantsim.calibration import RMS, Absmax, Calibration, Clip, Counts, FourOverSix, MinMax, Search
from quantsim.formats import Carry, Elements, ScaleElements, Traced
from quantsim.granularity import (
    Block,
    Channel,
    Granularity,
    block_counts,
    block_sizes,
    from_blocks,
    scale_shape,
    span,
    to_blocks,
)
from quantsim.numerics.meshes import placed_like
from quantsim.numerics.narrowing import ODD_ENOUGH_FOR
from quantsim.populations.structure import Structure
from quantsim.quantizer.combinations import require_combination, require_kinds
from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray, beyond
from quantsim.quantizer.inputs import as_importance, as_key, as_shape, as_weights
from quantsim.quantizer.laws import law_of
from quantsim.quantizer.scaled_blocks import (
    calibrated,
    codes_of,
    in_lanes,
    nearest,
    outside,
    scale_of_tensor,
    stored_scales,
    whole_numbers,
)
from quantsim.quantizer.short_blocks import warn_of_short_blocks
from quantsim.quantizer.spec import TWO_LEVEL, spell
from quantsim.quantizer.stored_scales import Scales, carry_numbers, has_powers, times
from quantsim.quantizer.structure import Kind, Take, has_numbers, numbers_of, traced
from quantsim.rounding import Rounding, code_dtype, decode, encode, snap
from quantsim.theory.scheme import Scheme

_F32 = formats.parse("f32")
_Row: TypeAlias = Float[Array, " in"] | None


@dataclass(frozen=True, repr=False)
class Quantizer(AbstractQuantizer):
    """Static description of how an array is quantized; ``parse`` makes one from a spec string, ``str`` gives it back.

    For a block w with scale s and zero point z:  ``code = clip(round(w / s) + z)``,  ``w_hat = (code - z) * s``,
    computed with the scale as it is stored. A quantizer without granularity is a plain cast: no scale.

    With ``two_level`` the tensor has a scale t as well, a float32, and s is stored in units of it, as in NVFP4: t puts
    the largest scale of a block on the largest number of the scale format, and levels are multiplied with ``s t``.
    Blocks that are not finite have no part in t. t is at least 2^-126. Scales saturate at the largest number of their
    format; where s rounds to 0, the block dequantizes to 0.
    Source: Jacob et al., arXiv:1712.05877 (affine quantization); NVIDIA, arXiv:2509.25149 (two levels).

    Raises:
        ValueError: for combinations that do not exist, such as a codebook with a zero point.

    >>> from quantsim.quantizer import parse
    >>> q = parse("int8:channel")
    >>> q
    Quantizer('int8:channel')
    >>> q.roundtrip(jnp.array([[1.0, 0.3], [0.01, 0.02]])).round(4).tolist()
    [[1.0, 0.29919999837875366], [0.00989999994635582, 0.019999999552965164]]
    """

    format: Elements
    granularity: Granularity | None = None
    calibration: Calibration = Absmax()
    scale_format: ScaleElements = field(default=_F32)  # pyright: ignore[reportAssignmentType]
    rounding: Rounding = "even"
    two_level: bool = False

    def __post_init__(self) -> None:
        """Reject what is no part of a quantizer, and combinations that do not exist."""
        require_kinds(self)
        require_combination(self)

    @property
    def takes_imatrix(self) -> bool:
        """Whether the scale is chosen by squared errors, which importances can weigh."""
        return isinstance(self.calibration, FourOverSix | Search)

    def quantize(
        self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise", imatrix: ArrayLike | None = None
    ) -> QuantizedArray:
        """Codes and scales of ``w``, as every quantizer gives them, with scales chosen by importance.

        Args:
            w: weights of any shape; a matrix is (out, in).
            key: for stochastic rounding.
            nonfinite: "raise" or "propagate".
            imatrix: for ``search`` and ``fouroversix`` what a squared error of each input counts, (in,), at least 0:
                the diagonal of E[x xᵀ].

        Raises:
            TypeError: if ``w`` is not numeric, or ``key`` no key.
            ValueError: for a NaN or infinity, a missing key, an imatrix that does not fit or is not taken.

        >>> import quantsim as qs
        >>> q, w = qs.parse("int2:block3:search:e3m2"), [[1.0, 0.6, 0.6]]
        >>> [q.quantize(w, imatrix=v).scale.item() for v in ([1.0, 0.0, 0.0], [1.0, 1.0, 1.0])]
        [1.0, 0.75]
        """
        if imatrix is None:
            return super().quantize(w, key=key, nonfinite=nonfinite)
        w32 = self._checked(w, nonfinite)
        return _weighed(self, w32, as_key(key), self._importance(imatrix, w32.shape), False)

    def roundtrip(
        self, w: ArrayLike, *, key: PRNGKey | None = None, nonfinite: str = "raise", imatrix: ArrayLike | None = None
    ) -> Weights:
        """``quantize(w).dequantize()`` to the bit, with a straight-through gradient unless an imatrix is given."""
        if imatrix is None:
            return super().roundtrip(w, key=key, nonfinite=nonfinite)
        w32 = self._checked(w, nonfinite)
        return _weighed(self, w32, as_key(key), self._importance(imatrix, w32.shape), True)

    def _importance(self, imatrix: ArrayLike, shape: Shape) -> Weights:
        if not self.takes_imatrix:
            raise ValueError(f"{self} takes no imatrix: its scales are chosen by no error; search and fouroversix are")
        return as_importance(imatrix, shape)

    def scheme(self, shape: Shape | None = None) -> Scheme:
        """What ``theory.weight_mse`` must know of it."""
        shape = None if shape is None else as_shape(shape)
        if self.granularity is None:
            return Scheme(self.format, rounding=self.rounding)
        if (law := law_of(self, None if shape is None else prod(shape))) is None:
            return super().scheme(shape)
        return Scheme(self.format, law, block_sizes(self.granularity, shape), self.rounding)

    def _encode(
        self, w: Weights, key: PRNGKey | None, importance: _Row = None, tensor: TensorScale | None = None
    ) -> QuantizedArray:
        if self.granularity is None:
            return QuantizedArray(encode(w, self.format, self.rounding, key), None, None, self)
        blocks, scales, zero = self._found(w, importance, tensor)
        return self._stored(w.shape, codes_of(self, blocks, scales.step(), zero, key=key), scales, zero)

    def _stored(self, shape: Shape, codes: Array, scales: Scales, zero: PerBlock | None) -> QuantizedArray:
        assert self.granularity is not None
        of_scales = scale_shape(self.granularity, shape)
        zero_point = None if zero is None else whole_numbers(zero).reshape(of_scales)
        codes = from_blocks(codes, self.granularity, shape)
        return QuantizedArray(codes, scales.blocks.reshape(of_scales), zero_point, self, scales.tensor)

    def _decode(self, qw: QuantizedArray) -> Weights:
        if self.granularity is None:
            return decode(qw.codes, self.format)
        assert qw.scale is not None
        codes = to_blocks(qw.codes, self.granularity)
        if qw.zero_point is None:
            values = decode(codes, self.format)
        else:
            values = codes.astype(jnp.float32) - qw.zero_point.reshape(-1, 1).astype(jnp.float32)
        step = Scales(qw.scale.reshape(-1, 1), qw.tensor_scale).step()
        return from_blocks(times(values, step, self.scale_format), self.granularity, qw.codes.shape)

    def _approximate(
        self, w: Weights, key: PRNGKey | None, importance: _Row = None, tensor: TensorScale | None = None
    ) -> Weights:
        if self.granularity is None:
            return snap(w, self.format, self.rounding, key)
        blocks, scales, zero = self._found(w, importance, tensor)
        return from_blocks(nearest(self, blocks, scales.step(), zero, key=key), self.granularity, w.shape)

    def _found(
        self, w: Weights, importance: _Row, tensor: TensorScale | None
    ) -> tuple[Blocks, Scales, PerBlock | None]:
        """Blocks with their scales and zero points; a scale of the tensor is given, or that of these weights."""
        assert self.granularity is not None
        blocks, counts = self._cut(w)
        if importance is not None:  # what an error of each weight counts
            importance = to_blocks(jnp.broadcast_to(importance, w.shape), self.granularity)
        return blocks, *stored_scales(self, blocks, counts, tensor=tensor, importance=importance)

    def _has_tensor_scale(self) -> bool:
        return self.two_level

    def _tensor_scale(self, rows: Weights) -> Float[Array, ""]:
        return scale_of_tensor(self, *self._of_rows()._cut(_matrix(rows)))

    def _encode_rows(self, rows: Weights, tensor: TensorScale | None) -> QuantizedArray:
        if self.granularity is None:
            return self._encode(rows, None)
        q, rows = self._of_rows(), _matrix(rows)
        blocks, scales, zero = q._found(rows, None, tensor)
        codes = codes_of(q, *in_lanes(q, blocks, scales.step(), zero)).reshape(blocks.shape)
        return q._stored(rows.shape, codes, scales, zero)

    def _approximate_rows(self, rows: Weights, tensor: TensorScale | None) -> Weights:
        if self.granularity is None:
            return self._approximate(rows, None)
        q, matrix = self._of_rows(), _matrix(rows)
        blocks, scales, zero = q._found(matrix, None, tensor)
        found = nearest(q, *in_lanes(q, blocks, scales.step(), zero)).reshape(blocks.shape)
        assert q.granularity is not None
        return from_blocks(found, q.granularity, matrix.shape).reshape(rows.shape)

    def _of_rows(self) -> "Quantizer":
        """The same in a matrix of rows: there blocks lie along them, and a channel is one, whatever the axis was."""
        rows = Block(self.granularity.size) if isinstance(self.granularity, Block) else Channel()
        return replace(self, granularity=rows)

    def _outside(self, w: Weights) -> Bool[Array, "..."]:
        if self.granularity is None:
            return beyond(w, formats.ends(self.format))
        blocks, counts = self._cut(w)
        step, zero = calibrated(self, blocks, counts)
        return from_blocks(outside(self, blocks, step, zero), self.granularity, w.shape)

    def _cut(self, w: Weights) -> tuple[Blocks, Counts]:
        """Blocks, and how many weights each has."""
        assert self.granularity is not None
        return to_blocks(w, self.granularity), block_counts(self.granularity, w.shape)

    def _checked(self, w: ArrayLike, nonfinite: str | None) -> Weights:
        w32 = as_weights(w, nonfinite, odd=_rounds_once(self))
        looked_at = isinstance(self.format, Traced) or isinstance(self.scale_format, Traced | Carry)
        if not looked_at and isinstance(getattr(self.calibration, "ratio", 0.0), float):
            warn_of_short_blocks(self, w32.shape)
        return w32

    def _split(self) -> tuple[Structure, tuple[Number, ...]]:
        fmt, scale_format, rule = self.format, self.scale_format, self.calibration
        if isinstance(rule, RMS):  # its reach is a constant of the format
            return Structure(self), ()
        parts = {"granularity": self.granularity, "calibration": rule, "rounding": self.rounding}
        parts |= {"format": fmt, "scale_format": scale_format, "two_level": self.two_level}
        numbers: tuple[Number, ...] = ()
        if has_numbers(fmt):
            parts["format"], numbers = Kind(formats.bounds(fmt)), numbers_of(fmt)
        if has_powers(scale_format) and has_numbers(fmt):
            parts["scale_format"], numbers = Carry, numbers + carry_numbers(scale_format, fmt)
        elif has_numbers(scale_format):
            parts["scale_format"], numbers = Kind(None), numbers + numbers_of(scale_format)
        if isinstance(rule, Clip):
            parts["calibration"], numbers = Clip, (*numbers, rule.ratio)
        return (Structure(Quantizer, tuple(parts.items())), numbers) if numbers else (Structure(self), ())

    @classmethod
    def _rebuilt(cls, parts: dict[str, Any], take: Take) -> "Quantizer":
        """The quantizer of the parts of a structure, with numbers in the order in which ``_split`` gave them."""
        for name in ("format", "scale_format"):
            if isinstance(parts[name], Kind):
                parts[name] = traced(parts[name], take)
        if parts["scale_format"] is Carry:
            parts["scale_format"] = Carry(*(take().astype(jnp.int32) for _ in Carry._fields))
        if parts["calibration"] is Clip:
            parts["calibration"] = Clip(take())
        return cls(**parts)

    def _code_dtype(self) -> Any:
        if isinstance(self.calibration, MinMax):
            return jnp.dtype(jnp.uint8 if self.format.bits <= 8 else jnp.uint16)
        return code_dtype(self.format)

    def _span(self, shape: Shape) -> int | None:
        if self.rounding == "stochastic":  # draws belong to the whole array
            return None
        return 1 if self.granularity is None else span(self.granularity, shape)

    def _nbytes(self, shape: Shape) -> int:
        codes = -(-self.format.bits * prod(shape) // 8)
        if self.granularity is None:
            return codes
        scales = prod(scale_shape(self.granularity, shape))
        zero_points = -(-self.format.bits * scales // 8) if isinstance(self.calibration, MinMax) else 0
        return codes + -(-self.scale_format.bits * scales // 8) + zero_points + 4 * self.two_level

    def __str__(self) -> str:
        """The canonical spec string: defaults are left out."""
        scale = self.scale_format.name + TWO_LEVEL * self.two_level
        return spell(self.format, self.granularity, self.calibration, scale, self.rounding)


@partial(jax.jit, static_argnums=(0, 4))
def _weighed(q: Quantizer, w: Weights, key: PRNGKey | None, importance: Weights, approximate: bool) -> Any:
    """Codes, or weights, of scales that are chosen by importance."""
    made = placed_like(w, q._approximate if approximate else q._encode, w, key, importance)
    return made if approximate else replace(made, ndim=w.ndim)


def _rounds_once(q: Quantizer) -> bool:
    """Whether wider weights must not be rounded to float32 first: casts of few bits to the nearest level.

    With a scale, the weights of the definition are float32, and so are their quotients by the scale.
    """
    few = getattr(q.format, "mantissa_bits", 0) <= ODD_ENOUGH_FOR
    return q.granularity is None and q.rounding != "stochastic" and few


def _matrix(rows: Weights) -> Weights:
    """Rows, also of one weight each."""
    return rows.reshape(len(rows), -1)
