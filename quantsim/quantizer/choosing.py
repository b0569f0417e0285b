"""Scales that are chosen among a few stored ones by the squared error that each leaves in its block.

The error of a candidate is summed in units of the power of two below the largest weight of the block, so that no square
under- or overflows, in one fixed order. Weights are multiplied by the reciprocal of a step instead of divided: that can
turn a tie, of two levels as near, which does not change an error by more than its last digits.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from quantsim import formats
from quantsim._types import Blocks, PerBlock, TensorScale
from quantsim.calibration import FourOverSix, Search
from quantsim.formats import Carry, Elements, ScaleElements
from quantsim.numerics import ieee
from quantsim.quantizer.stored_scales import carry_of, exponent_of_power, has_powers, power_codes, stored
from quantsim.quantizer.stored_scales import power as power_of
from quantsim.rounding import decode, encode, round_integer, snap

#: Stored scales of one candidate, by its number.
Candidates = Callable[[Any], PerBlock]
#: A block in each column, and a number of each.
Columns: TypeAlias = Float[Array, "size blocks"]
Row: TypeAlias = Float[Array, "1 blocks"]

_CHUNK = 2**17  # weights at a time on CPU, few enough for the caches


def largest_scale(rule: Any, scale_format: ScaleElements) -> Any:
    """The stored scale that the largest block of a tensor has, where the tensor has a scale.

    The largest number of the format; for ``fouroversix`` the largest power of two that can be stored one and a half
    times as large as well.
    """
    largest = formats.grid(scale_format).high  # pyright: ignore[reportArgumentType]
    if not isinstance(rule, FourOverSix):
        return largest
    return ieee.power_of_two(ieee.exponent_of(ieee.divide(jnp.asarray(largest, jnp.float32), 1.5)))


def chosen(
    blocks: Blocks,
    reach: PerBlock,
    q: Any,
    tensor: TensorScale | None,
    importance: Blocks | None,
) -> PerBlock:
    """Stored scales with the least squared error among the candidates of the rule of a quantizer.

    Args:
        blocks: finite weights.
        reach: of each block, what absmax puts on the last level.
        q: a quantizer whose rule is ``FourOverSix`` or ``Search``.
        tensor: scale of the tensor, or None.
        importance: what a squared error of each weight counts, or None.
    """
    given = (blocks, reach) if importance is None else (blocks, reach, importance)
    rows, size = blocks.shape
    chunk = max(1, _CHUNK // size) if ieee.on_cpu() else rows
    if rows <= chunk:
        return _chosen(q, tensor, *given)
    filled = [jnp.pad(a, ((0, -rows % chunk), (0, 0))).reshape(-1, chunk, a.shape[1]) for a in given]
    return lax.map(lambda parts: _chosen(q, tensor, *parts), tuple(filled)).reshape(-1, 1)[:rows]


def _chosen(
    q: Any, tensor: TensorScale | None, blocks: Blocks, reach: PerBlock, importance: Blocks | None = None
) -> PerBlock:
    if isinstance(q.calibration, FourOverSix):
        candidate, count = _four_or_six(reach, q, tensor), 2
    else:
        assert isinstance(q.calibration, Search)
        first = stored(reach, q.format, q.scale_format, tensor=tensor)
        candidate, count = _neighbours(first, reach, q), 2 * q.calibration.neighbours + 1
    unit = jnp.clip(ieee.exponent_of(ieee.absmax(blocks)), -126, 126)
    x = (blocks * ieee.power_of_two(-unit)).T  # a weight of every block in a row, so that a sum over blocks adds rows
    counts = None if importance is None else importance.T
    power = _sum(_weighed(x, counts))

    def attempt(k: Int32[Array, ""] | int, best: tuple[PerBlock, PerBlock]) -> tuple[PerBlock, PerBlock]:
        scale = candidate(k)
        loss = _loss(x, power, _in(unit, scale, q.scale_format, tensor).T, q.format, counts).T
        better = loss < best[0]
        return jnp.where(better, loss, best[0]), jnp.where(better, scale, best[1])

    start = (jnp.full_like(reach, jnp.inf), candidate(0))
    return lax.fori_loop(0, count, attempt, start)[1]


def _four_or_six(reach: PerBlock, q: Any, tensor: TensorScale | None) -> Candidates:
    six, four = (stored(reach, q.format, q.scale_format, tensor=tensor, last=last) for last in (6.0, 4.0))
    return lambda k: jnp.where(k == 0, six, four)


def _neighbours(first: PerBlock, reach: PerBlock, q: Any) -> Candidates:
    """The scale of absmax, and those of its neighbouring codes: 0, -1, 1, -2, 2 …."""
    if has_powers(q.scale_format):
        return _neighbouring_powers(reach, carry_of(q.scale_format, q.format))
    code = encode(first, q.scale_format).astype(jnp.int32)
    largest = jnp.asarray(formats.grid(q.scale_format).high, jnp.float32)
    most, least = encode(largest, q.scale_format).astype(jnp.int32), jnp.minimum(code, 1)

    def candidate(k: Any) -> PerBlock:
        return decode(jnp.clip(code + _offset(k), least, most), q.scale_format)

    return candidate


def _neighbouring_powers(reach: PerBlock, carry: Carry) -> Candidates:
    code = power_codes(reach, carry)

    def candidate(k: Any) -> PerBlock:
        return power_of(jnp.clip(code + _offset(k), 0, 254 - carry.last) - 127 - carry.implied)

    return candidate


def _offset(k: Any) -> Any:
    """The k-th of 0, -1, 1, -2, 2 ….

    >>> [int(_offset(k)) for k in range(5)]
    [0, -1, 1, -2, 2]
    """
    return jnp.where(k % 2 == 1, -((k + 1) // 2), k // 2)


def _in(unit: Int32[Array, "blocks 1"], scale: PerBlock, scale_format: Any, tensor: TensorScale | None) -> PerBlock:
    """Steps in units of 2^unit."""
    if has_powers(scale_format):
        return ieee.power_of_two(jnp.clip(exponent_of_power(scale) - unit, -126, 126))
    step = scale if tensor is None else scale * tensor.reshape(1, 1)
    return step * ieee.power_of_two(-unit)


def _loss(x: Columns, power: Row, step: Row, fmt: Elements, importance: Columns | None) -> Row:
    """Sum of squared errors of each block; with a step of 0 it is ``power``, the sum of the squares of its weights."""
    safe = jnp.where(step > 0, step, 1.0)
    units = x * ieee.divide(1.0 + (safe - safe), safe)
    squares = _weighed(_level(units, fmt) - units, importance)
    return jnp.where(step > 0, _sum(squares) * ieee.square(safe), power)


def _weighed(error: Columns, importance: Columns | None) -> Columns:
    squares = ieee.square(error)
    return squares if importance is None else ieee.unfused(squares * importance, squares)


def _level(units: Columns, fmt: Elements) -> Columns:
    """``snap`` of finite units, without its care for zeros, infinities and NaN."""
    if formats.bounds(fmt) is not None:
        return ieee.clip(round_integer(units), *formats.grid(fmt)[2:])  # pyright: ignore[reportArgumentType]
    if isinstance(fmt, formats.Codebook):
        return snap(units, fmt)
    return _on_grid(units, formats.grid(fmt))


def _on_grid(x: Float[Array, "..."], grid: formats.Grid) -> Float[Array, "..."]:
    """``round_to_grid`` but for the sign of zeros, which no error has, in half of the operations.

    The sum with one and a half times a power of two is rounded, half to even, to multiples of the quantum of ``x``.

    >>> [float(_on_grid(jnp.float32(x), formats.grid(formats.parse("e2m1")))) for x in (0.25, -0.3, 2.5, 5.1, 9.0)]
    [0.0, -0.5, 2.0, 6.0, 6.0]
    """
    x = ieee.clip(x, grid.low, grid.high)
    power = jnp.maximum(ieee.bits_of(x) & 0x7F800000, (grid.min_exponent + 127) << 23)
    large = ieee.from_bits(power + (((23 - grid.mantissa_bits) << 23) + 0x400000))
    return (x + large) - large


def _sum(x: Columns) -> Row:
    """Sum of each block by halving: always the same additions in the same order."""
    while (n := len(x)) > 1:
        half = (n + 1) // 2
        x = x[:half] + jnp.pad(x[half:], ((0, 2 * half - n), (0, 0)))
    return x
