"""Blocks in units of their scale to codes and back, exact to the bit.

``snap`` gives the nearest level, ``encode`` its code, ``decode`` the level of a code; ``snap`` is ``decode`` after
``encode`` to the bit. One arithmetic kernel, ``round_to_grid``, rounds every integer and every small float; formats
with the eight exponent bits of float32 are rounded in their bit pattern, because float32 subnormals are flushed in
arithmetic.
"""

from typing import Any, Literal, TypeAlias, TypeGuard, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from quantsim._types import Codes, PRNGKey
from quantsim.formats import SPECIALS, Codebook, Format, Grid, Integer, Specials, Traced, bounds, grid
from quantsim.formats import Float as FloatFormat
from quantsim.numerics import ieee

#: "even": to nearest, ties to even; "away": ties away from zero; "truncate": toward zero; "stochastic": up with the
#: probability of the fraction, unbiased, needs a key.
Rounding: TypeAlias = Literal["even", "away", "truncate", "stochastic"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)

_CHAIN = 32  # codebooks up to this many levels are searched by a chain of selects, four times as fast as a gather


def round_integer(
    x: Float[Array, "..."], rounding: Rounding = "even", key: PRNGKey | None = None
) -> Float[Array, "..."]:
    """``x`` rounded to an integer.

    Raises:
        ValueError: for an unknown rounding, or a stochastic one without a key.

    >>> [round_integer(jnp.array([0.5, 1.5, -2.5]), r).tolist() for r in ("even", "away", "truncate")]
    [[0.0, 2.0, -2.0], [1.0, 2.0, -3.0], [0.0, 1.0, -2.0]]
    """
    if rounding == "even":
        return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)
    if rounding == "away":
        return lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO)
    if rounding == "truncate":
        return jnp.trunc(x)
    if rounding != "stochastic":
        raise ValueError(f"unknown rounding {rounding!r}; known are {', '.join(ROUNDINGS)}")
    if key is None:
        raise ValueError("stochastic rounding needs a key: pass key=jax.random.key(seed)")
    below = jnp.floor(x)
    return below + (jax.random.uniform(key, x.shape, x.dtype) < x - below).astype(x.dtype)


def round_to_grid(
    x: Float[Array, "..."], g: Grid, rounding: Rounding = "even", key: PRNGKey | None = None
) -> Float[Array, "..."]:
    """``x`` rounded to the grid and clipped to its range; the fields of ``g`` may be traced.

    ``quantum = 2^(max(floor(log2 |x|), min_exponent) - mantissa_bits)``, ``round(x / quantum) * quantum``; both factors
    are exact. Magnitudes below 2^-126 count as zero, infinities saturate, NaN stays NaN.

    >>> from quantsim.formats import parse
    >>> round_to_grid(jnp.array([0.3, 2.6, 99.0]), grid(parse("e2m1"))).tolist()
    [0.5, 3.0, 6.0]
    """
    x = ieee.clip(x, g.low, g.high)  # first: the powers of two of an infinity are no normal numbers
    exponent = jnp.maximum(ieee.exponent_of(x), g.min_exponent) - g.mantissa_bits
    scaled = x * ieee.power_of_two(-exponent)
    return round_integer(scaled, rounding, key) * ieee.power_of_two(exponent)


def _round_bits(
    x: Float[Array, "..."], fmt: FloatFormat, rounding: Rounding, key: PRNGKey | None
) -> Float[Array, "..."]:
    """Round float32 to fewer mantissa bits in the bit pattern; saturates."""
    drop = 23 - fmt.mantissa_bits
    if drop == 0:
        return x
    magnitude, sign = ieee.bits_of(x) & 0x7FFFFFFF, ieee.bits_of(x) & ~0x7FFFFFFF
    if rounding == "stochastic":
        if key is None:
            raise ValueError("stochastic rounding needs a key: pass key=jax.random.key(seed)")
        up = (jax.random.bits(key, x.shape, jnp.uint32) >> (32 - drop)).astype(jnp.int32)
    else:
        half = 1 << (drop - 1)
        up = {"even": half - 1 + ((magnitude >> drop) & 1), "away": half, "truncate": 0}[rounding]
    kept = jnp.minimum(((magnitude + up) >> drop) << drop, (0x7F7FFFFF >> drop) << drop)
    return jnp.where(jnp.isfinite(x), ieee.from_bits(kept | sign), x)


def _thresholds(book: Codebook) -> np.ndarray:
    """For each pair of levels the largest float32 that is not nearer to the upper one; ties go down."""
    v = np.asarray(book.values, np.float32).astype(np.float64)
    middle = (v[1:] + v[:-1]) / 2
    t = middle.astype(np.float32)
    return np.where(t > middle, np.nextafter(t, np.float32(-np.inf)), t)


def _search(x: Float[Array, "..."], book: Codebook) -> Codes:
    if len(book.values) <= _CHAIN:
        code = jnp.zeros(x.shape, jnp.int32)
        for k, threshold in enumerate(_thresholds(book), 1):
            code = jnp.where(x > threshold, k, code)
        return jnp.where(jnp.isnan(x), len(book.values) - 1, code)
    return jnp.searchsorted(jnp.asarray(_thresholds(book)), x, side="left").astype(jnp.int32)


def _snap_codebook(x: Float[Array, "..."], book: Codebook) -> Float[Array, "..."]:
    if len(book.values) > _CHAIN:
        return jnp.where(jnp.isnan(x), x, jnp.asarray(book.values, jnp.float32)[_search(x, book)])
    out = jnp.full_like(x, book.values[0])
    for threshold, level in zip(_thresholds(book), book.values[1:], strict=True):
        out = jnp.where(x > threshold, jnp.float32(level), out)
    return jnp.where(jnp.isnan(x), x, out)


def snap(
    x: Float[Array, "..."], fmt: Format | Traced, rounding: Rounding = "even", key: PRNGKey | None = None
) -> Float[Array, "..."]:
    """Level of ``fmt`` that ``x`` rounds to, saturating; NaN stays NaN.

    >>> from quantsim.formats import parse
    >>> snap(jnp.array([0.5, 2.5, 300.0]), parse("int8")).tolist()
    [0.0, 2.0, 127.0]
    """
    if isinstance(fmt, Codebook):
        return _snap_codebook(x, fmt)
    if bounds(fmt) is not None:
        rounded = ieee.clip(round_integer(x, rounding, key), *grid(fmt)[2:])  # pyright: ignore[reportArgumentType]
        return jnp.where(rounded == 0, 0.0, rounded)  # an integer code has no -0
    assert isinstance(fmt, FloatFormat | Traced)
    if _has_range_of_float32(fmt):
        return _round_bits(x, fmt, rounding, key)
    return _with_specials(x, fmt, round_to_grid(x, grid(fmt), rounding, key))


def _has_range_of_float32(fmt: FloatFormat | Traced) -> TypeGuard[FloatFormat]:
    return isinstance(fmt, FloatFormat) and fmt.exponent_bits == 8


def _is(fmt: FloatFormat | Traced, kind: Specials) -> Any:
    """Whether the specials of a float are of a kind; traced where they are. A traced float is never "fnuz"."""
    if isinstance(fmt, Traced):
        return kind != "fnuz" and fmt.specials == SPECIALS.index(kind)
    return fmt.specials == kind


def _with_specials(x: Float[Array, "..."], fmt: FloatFormat | Traced, rounded: Float[Array, "..."]) -> Any:
    """``rounded``, with infinities as the format has them: kept, NaN where it has only NaN, else saturated."""
    if _is(fmt, "finite") is True:
        return rounded
    if _is(fmt, "fnuz"):
        rounded = jnp.where(rounded == 0, 0.0, rounded)  # -0 would be the code of NaN
    infinite = jnp.isinf(x)
    rounded = jnp.where(infinite & (_is(fmt, "fn") | _is(fmt, "fnuz")), jnp.nan, rounded)
    return jnp.where(infinite & _is(fmt, "ieee"), x, rounded)


# --- codes ----------------------------------------------------------------------------------------------------------


def code_dtype(fmt: Format) -> jnp.dtype:
    """Narrowest JAX type that holds a code: signed for integers with a sign, bit patterns and indices unsigned."""
    if isinstance(fmt, Integer) and fmt.signed:
        return jnp.dtype(jnp.int8 if fmt.bits <= 8 else jnp.int16)
    return jnp.dtype(jnp.uint8 if fmt.bits <= 8 else jnp.uint16 if fmt.bits <= 16 else jnp.uint32)


def encode(
    x: Float[Array, "..."], fmt: Format | Traced, rounding: Rounding = "even", key: PRNGKey | None = None
) -> Codes:
    """Codes of ``snap(x)``: integers themselves, bit patterns of floats, indices into codebooks. NaN of integers is 0.

    Of a traced format they are int32, as its width is a number.

    >>> from quantsim.formats import parse
    >>> encode(jnp.array([1.0, -448.0]), parse("e4m3")).tolist()
    [56, 254]
    """
    if isinstance(fmt, Codebook):
        return _search(x, fmt).astype(code_dtype(fmt))
    dtype = jnp.dtype(jnp.int32) if isinstance(fmt, Traced) else code_dtype(fmt)
    v = snap(x, fmt, rounding, key)
    if bounds(fmt) is not None:
        return jnp.where(jnp.isnan(v), 0, v).astype(dtype)
    assert isinstance(fmt, FloatFormat | Traced)
    return (_pattern32(v, fmt) if _has_range_of_float32(fmt) else _pattern(v, fmt)).astype(dtype)


def _pattern32(v: Float[Array, "..."], fmt: FloatFormat) -> Codes:
    bits = ieee.bits_of(v)
    quiet = jnp.where(jnp.isnan(v), bits | 0x00400000, bits)  # a NaN keeps a bit that is not cut off
    return lax.shift_right_logical(quiet, jnp.int32(23 - fmt.mantissa_bits))


def _pattern(v: Float[Array, "..."], fmt: FloatFormat | Traced) -> Codes:
    m, min_exponent, field_bits = _layout(fmt)
    bits = ieee.bits_of(v)
    positive = bits & 0x7FFFFFFF
    normal = (positive >> (23 - m)) - ((min_exponent + 126) << m)
    small = (ieee.from_bits(positive) * ieee.power_of_two(m - min_exponent)).astype(jnp.int32)
    magnitude = jnp.where(positive < (min_exponent + 127) << 23, small, normal)
    magnitude = jnp.where(jnp.isinf(v), ((1 << field_bits) - 1) << m, magnitude)
    sign = 1 << (field_bits + m)
    code = jnp.where(jnp.isnan(v), sign - 1, magnitude) | jnp.where(bits < 0, sign, 0)
    return jnp.where(jnp.isnan(v), sign, code) if _is(fmt, "fnuz") else code


def _layout(fmt: FloatFormat | Traced) -> tuple[Array, Array, Array]:
    """Mantissa bits, exponent of the smallest normal number, exponent bits."""
    facts = grid(fmt)
    m, smallest, field_bits = (jnp.asarray(v, jnp.int32) for v in (*facts[:2], fmt.exponent_bits))
    return m, smallest, field_bits


def decode(codes: Codes, fmt: Format | Traced) -> Float[Array, "..."]:
    """Float32 levels of codes.

    >>> from quantsim.formats import parse
    >>> decode(jnp.array([56, 254], jnp.uint8), parse("e4m3")).tolist()
    [1.0, -448.0]
    """
    if isinstance(fmt, Codebook):
        return jnp.asarray(fmt.values, jnp.float32)[codes.astype(jnp.int32)]
    if bounds(fmt) is not None:
        return codes.astype(jnp.float32)
    assert isinstance(fmt, FloatFormat | Traced)
    if _has_range_of_float32(fmt):
        return ieee.from_bits(codes.astype(jnp.int32) << (23 - fmt.mantissa_bits))
    return _value(codes.astype(jnp.int32), fmt)


def _value(code: Codes, fmt: FloatFormat | Traced) -> Float[Array, "..."]:
    m, min_exponent, field_bits = _layout(fmt)
    last_field, last_mantissa, sign = (1 << field_bits) - 1, (1 << m) - 1, 1 << (field_bits + m)
    field, mantissa = (code >> m) & last_field, code & last_mantissa
    fraction = jnp.where(field == 0, mantissa, mantissa + (1 << m)).astype(jnp.float32)
    magnitude = fraction * ieee.power_of_two(jnp.maximum(field, 1) - 1 + min_exponent - m)
    top, last = field == last_field, mantissa == last_mantissa
    magnitude = jnp.where(top & (mantissa == 0) & _is(fmt, "ieee"), jnp.inf, magnitude)
    is_nan = top & (((mantissa > 0) & _is(fmt, "ieee")) | (last & _is(fmt, "fn")))
    magnitude = jnp.where(is_nan, jnp.nan, magnitude)
    if _is(fmt, "fnuz"):
        magnitude = jnp.where(code == sign, jnp.nan, magnitude)
    return jnp.where((code & sign) != 0, -magnitude, magnitude)
