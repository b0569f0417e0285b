"""Blocks and their scales, whichever weights of an array share one: what a quantizer of scaled elements computes.

A quantizer is here the rule by which scales are found, its elements, the format of its scales and its rounding.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quantsim import formats
from quantsim._types import Blocks, PerBlock, PRNGKey, TensorScale
from quantsim.calibration import Counts, FourOverSix, MinMax, Search, calibrate, minmax, reach_of
from quantsim.formats import Format, Integer, Traced
from quantsim.numerics import ieee
from quantsim.numerics.fusion import apart
from quantsim.quantizer.choosing import chosen, largest_scale
from quantsim.quantizer.face import beyond
from quantsim.quantizer.stored_scales import (
    Scales,
    Step,
    exponent_of_power,
    has_powers,
    in_units,
    is_finite,
    stored,
    tensor_scale,
    times,
)
from quantsim.rounding import encode, round_integer, snap

_SHORT = 16  # weights of a block, fewer than a few vectors have


def calibrated(q: Any, blocks: Blocks, counts: Counts) -> tuple[PerBlock, PerBlock | None]:
    """What levels are multiplied with, and zero point. A non-finite weight makes the scale of its block NaN.

    Args:
        q: a quantizer with a granularity; of it only the rule counts here, not which weights share a scale.
        blocks: one row for each scale.
        counts: weights in each block, without a padded tail.
    """
    scales, zero = stored_scales(q, blocks, counts)
    return scales.step(), zero


def stored_scales(
    q: Any,
    blocks: Blocks,
    counts: Counts,
    *,
    tensor: TensorScale | None = None,
    importance: Blocks | None = None,
) -> tuple[Scales, PerBlock | None]:
    """Scales as stored, of blocks and of their tensor, and zero point.

    Args:
        q: a quantizer with a granularity; of it only the rule counts here, not which weights share a scale.
        blocks: one row for each scale.
        counts: weights in each block, without a padded tail.
        tensor: scale of the tensor that the blocks are a part of; without, they are all of it.
        importance: what a squared error of each weight counts, for rules that choose a scale by it.
    """
    rule, top = q.calibration, ieee.absmax(blocks)
    scale_format: Any = q.scale_format
    if isinstance(rule, MinMax):
        assert isinstance(q.format, Integer | Traced)
        scale, zero = minmax(blocks, q.format, scale_format)
        return Scales(snap(scale, scale_format) + (top - top)), zero
    if not (q.two_level or has_powers(q.scale_format) or isinstance(rule, FourOverSix | Search)):
        return Scales(snap(calibrate(blocks, q.format, rule, counts), scale_format) + (top - top)), None
    finite = is_finite(top)
    reach = jnp.where(finite, reach_of(blocks, q.format, rule, counts), 0.0)
    if q.two_level and tensor is None:
        tensor = tensor_scale(reach, q.format, largest_scale(rule, q.scale_format))
    if isinstance(rule, FourOverSix | Search):
        scale = chosen(jnp.where(finite, blocks, 0.0), reach, q, tensor, importance)
    else:
        scale = stored(reach, q.format, q.scale_format, tensor=tensor)
    return Scales(jnp.where(finite, scale, jnp.nan), tensor), None


def scale_of_tensor(q: Any, blocks: Blocks, counts: Counts) -> Float[Array, ""]:
    """The scale of a tensor of these blocks; that of a larger one is the largest of those of its parts."""
    finite = is_finite(ieee.absmax(blocks))
    reach = jnp.where(finite, reach_of(blocks, q.format, q.calibration, counts), 0.0)
    return tensor_scale(reach, q.format, largest_scale(q.calibration, q.scale_format))


def nearest(q: Any, blocks: Blocks, scale: Step, zero: Step | None = None, *, key: PRNGKey | None = None) -> Blocks:
    """Dequantized weights of blocks, with the scales given instead of found."""
    return times(_snap_blocks(q, units_of(q, blocks, scale), zero, key), scale, q.scale_format)


def codes_of(q: Any, blocks: Blocks, scale: Step, zero: Step | None = None, *, key: PRNGKey | None = None) -> Array:
    """Codes of blocks, with the scales given instead of found."""
    units = units_of(q, blocks, scale)
    if zero is None:
        return encode(units, q.format, q.rounding, key)
    return whole_numbers(_snap_blocks(q, units, zero, key) + zero)


def whole_numbers(values: Array) -> Array:
    """Codes or zero points; 0 where a block is not finite."""
    return jnp.where(jnp.isnan(values), 0, values).astype(jnp.int32)


def in_lanes(
    q: Any, blocks: Blocks, step: PerBlock, zero: PerBlock | None
) -> tuple[Float[Array, "rows columns"], Step, Step | None]:
    """Short blocks of a stage as one, of whose weights each has its own step: a loop over so few is no vector code.

    >>> from quantsim.quantizer import parse
    >>> found = in_lanes(parse("int8:block3"), jnp.ones((2, 3)), jnp.array([[4.0], [5.0]]), None)
    >>> [v.tolist() for v in found[:2]]
    [[[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]], [[4.0, 4.0, 4.0, 5.0, 5.0, 5.0]]]
    """
    if blocks.shape[1] > _SHORT:
        return blocks, step, zero

    if has_powers(q.scale_format):
        step = exponent_of_power(step)

    def spread(of_blocks: Array) -> Array:  # stored, as otherwise the loop over weights would look it up
        return apart(lambda: jnp.broadcast_to(of_blocks, blocks.shape).reshape(1, -1), of_blocks)

    return blocks.reshape(1, -1), spread(step), None if zero is None else spread(zero)


def outside(q: Any, blocks: Blocks, scale: PerBlock, zero: PerBlock | None = None) -> Bool[Array, "blocks size"]:
    """Which weights lie more than half a step outside the range that the scales given leave."""
    units, levels = units_of(q, blocks, scale), formats.ends(q.format)
    if zero is not None:
        top = _offset_range(q.format)[1]
        units, levels = units + zero, (0.0, 1.0, top - 1, top)
    return beyond(units, levels)


def units_of(q: Any, blocks: Blocks, step: Step) -> Blocks:
    """Weights in units of the step; 0 in a block whose stored scale is 0."""
    return in_units(blocks, step, q.scale_format, two_level=q.two_level)


def _offset_range(fmt: Format | Traced) -> tuple[float, Any]:
    assert isinstance(fmt, Integer | Traced)
    return 0.0, formats.last_code(fmt)


def _snap_blocks(q: Any, units: Blocks, zero: Step | None, key: PRNGKey | None) -> Blocks:
    """Levels of weights in units of their scale; with a zero point, ``clip(round(u) + z, 0, 2^bits - 1) - z``."""
    if zero is None:
        return snap(units, q.format, q.rounding, key)
    return ieee.clip(round_integer(units, q.rounding, key) + zero, *_offset_range(q.format)) - zero
