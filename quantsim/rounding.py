"""Blocks in units of their scale to codes and back, exact to the bit.

``snap`` gives the nearest level, ``encode`` its code, ``decode`` the level of a code; ``snap`` is ``decode`` after
``encode`` to the bit. One arithmetic kernel, ``round_to_grid``, rounds every integer and every small float; formats
with the eight exponent bits of float32 are rounded in their bit pattern, because float32 subnormals are flushed in
arithmetic.
"""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from quantsim._types import Codes, PRNGKey
from quantsim.formats import Codebook, Format, Grid, Integer, Traced, bounds, grid
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
    return below + (jax.random.uniform(key, x.shape) < x - below)


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
        up = (jax.random.bits(key, x.shape) >> (32 - drop)).astype(jnp.int32)
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
    if isinstance(fmt, Traced):
        return round_to_grid(x, fmt.grid, rounding, key)
    assert isinstance(fmt, FloatFormat)
    if fmt.exponent_bits == 8:
        return _round_bits(x, fmt, rounding, key)
    return _beyond(x, fmt, round_to_grid(x, grid(fmt), rounding, key))


def _beyond(x: Float[Array, "..."], fmt: FloatFormat, r: Float[Array, "..."]) -> Float[Array, "..."]:
    """Infinities as the format has them: kept, NaN where it has only NaN, saturated where it has neither."""
    if fmt.specials == "finite":
        return r
    return jnp.where(jnp.isinf(x), x if fmt.specials == "ieee" else jnp.nan, r)


def code_dtype(fmt: Format) -> jnp.dtype:
    """Narrowest JAX type that holds a code: signed for integers, bit patterns and indices unsigned."""
    if isinstance(fmt, Integer):
        return jnp.dtype(jnp.int8)
    return jnp.dtype(jnp.uint8 if fmt.bits <= 8 else jnp.uint16 if fmt.bits <= 16 else jnp.uint32)


def encode(x: Float[Array, "..."], fmt: Format, rounding: Rounding = "even", key: PRNGKey | None = None) -> Codes:
    """Codes of ``snap(x)``: integers themselves, bit patterns of floats, indices into codebooks. NaN of integers is 0.

    >>> from quantsim.formats import parse
    >>> encode(jnp.array([1.0, -448.0]), parse("e4m3")).tolist()
    [56, 254]
    """
    if isinstance(fmt, Codebook):
        return _search(x, fmt).astype(code_dtype(fmt))
    v = snap(x, fmt, rounding, key)
    if isinstance(fmt, Integer):
        return jnp.where(jnp.isnan(v), 0, v).astype(jnp.int8)
    return _pattern(v, fmt).astype(code_dtype(fmt))


def _pattern(v: Float[Array, "..."], fmt: FloatFormat) -> Codes:
    m, bits = fmt.mantissa_bits, ieee.bits_of(v)
    if fmt.exponent_bits == 8:
        quiet = jnp.where(jnp.isnan(v), bits | 0x00400000, bits)  # a NaN keeps a bit that is not cut off
        return lax.shift_right_logical(quiet, jnp.int32(23 - m))
    g = grid(fmt)
    exponent = ieee.exponent_of(v)
    normal = ((exponent - int(g.min_exponent) + 1) << m) | ((bits >> (23 - m)) & (2**m - 1))
    small = (jnp.abs(v) * 2.0 ** (m - g.min_exponent)).astype(jnp.int32)
    top = 2 ** (fmt.exponent_bits + m) - 1
    infinite = (2**fmt.exponent_bits - 1) << m
    magnitude = jnp.where(exponent < g.min_exponent, small, normal)
    magnitude = jnp.where(jnp.isinf(v), infinite, jnp.where(jnp.isnan(v), top, magnitude))
    return magnitude | ((bits < 0).astype(jnp.int32) << (fmt.bits - 1))


def decode(codes: Codes, fmt: Format) -> Float[Array, "..."]:
    """Float32 levels of codes.

    >>> from quantsim.formats import parse
    >>> decode(jnp.array([56, 254], jnp.uint8), parse("e4m3")).tolist()
    [1.0, -448.0]
    """
    if isinstance(fmt, Codebook):
        return jnp.asarray(fmt.values, jnp.float32)[codes.astype(jnp.int32)]
    if isinstance(fmt, Integer):
        return codes.astype(jnp.float32)
    c, m = codes.astype(jnp.int32), fmt.mantissa_bits
    if fmt.exponent_bits == 8:
        return ieee.from_bits(c << (23 - m))
    field, mantissa = (c >> m) & (2**fmt.exponent_bits - 1), c & (2**m - 1)
    fraction = jnp.where(field == 0, mantissa, mantissa + 2**m).astype(jnp.float32)
    value = fraction * ieee.power_of_two(jnp.maximum(field, 1) - 1 + int(grid(fmt).min_exponent) - m)
    top = field == 2**fmt.exponent_bits - 1
    if fmt.specials == "ieee":
        value = jnp.where(top, jnp.where(mantissa == 0, jnp.float32(jnp.inf), jnp.nan), value)
    if fmt.specials == "fn":
        value = jnp.where(top & (mantissa == 2**m - 1), jnp.nan, value)
    return jnp.where((c >> (fmt.bits - 1)) & 1 == 1, -value, value)
