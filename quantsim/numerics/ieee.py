"""Single IEEE operations that survive a compiler.

XLA rewrites ``x / s`` with a broadcast ``s`` to ``x * (1 / s)``, ``a * (1 / c)`` to ``a / c`` and ``x / b / c`` to
``x / (b * c)``; LLVM contracts ``q * s - x`` into a fused multiply-add. Each changes last bits between eager and
compiled code. The functions here make an operand depend on the other one, or on itself, through ``x - x``, which is
+0 for every finite ``x`` (and NaN otherwise, where the result is NaN anyway): no pass may fold that, it costs one
subtraction, and the operation keeps its own rounding.
Sums go in one fixed order. So codes, scales and errors have one bit pattern under eager, jit, vmap, scan and shard_map.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

_LONG, _GROUP = 1024, 64  # of a longer row XLA's CPU code takes single numbers, unless it is cut into groups first


def on_cpu() -> bool:
    """Whether programs run on CPU, the only place where XLA divides and takes roots as IEEE 754 says."""
    return jax.default_backend() == "cpu"


def bits_of(x: Float[Array, "..."]) -> Int32[Array, "..."]:
    """Bit pattern of float32 values as int32."""
    return lax.bitcast_convert_type(x, jnp.int32)


def from_bits(b: Int32[Array, "..."]) -> Float[Array, "..."]:
    """Float32 values of int32 bit patterns."""
    return lax.bitcast_convert_type(b, jnp.float32)


def divide(x: Float[Array, "..."], divisor: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """``x / divisor`` rounded once; ``divisor`` may be a scalar, a constant or broadcast. NaN where x is not finite.

    ``x`` is known to the compiler only at run time: of a constant, such as the 1 of a reciprocal, it folds ``x - x``.
    On GPU XLA's quotients are up to two units in the last place off (openxla/xla issue 37181), and are mended here.
    """
    x, divisor = x - (x - x), divisor + (x - x)
    return lax.div(x, divisor) if on_cpu() else mended_quotient(lax.div(x, divisor), x, divisor)


def mended_quotient(q: Float[Array, "..."], x: Float[Array, "..."], d: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x / d`` correctly rounded where it is a normal number, ``q`` elsewhere, without trusting a division.

    In units of their powers of two, so that no remainder underflows: one correction by the exact remainder leaves at
    most one unit in the last place, which the next remainder decides.

    >>> x, d = jnp.float32(3163.328613), jnp.float32(3163.328613)
    >>> float(mended_quotient(jnp.float32(0.99999994), x, d))
    1.0
    """
    exponent = exponent_of(x) - exponent_of(d)
    a, b = (from_bits((bits_of(v) & 0x007FFFFF) | 0x3F800000) for v in (x, d))
    near = a / b
    near = near + _remainder(a, near, b) / b
    left, half = _remainder(a, near, b), power_of_two(exponent_of(near) - 24) * b
    near = from_bits(bits_of(near) + jnp.where(left > half, 1, jnp.where(left < -half, -1, 0)))
    exponent = exponent + exponent_of(near)
    normal = (jnp.abs(exponent_of(x) - 0.5) < 127) & (jnp.abs(exponent_of(d) - 0.5) < 127)
    normal &= (exponent >= -126) & (exponent <= 127)
    magnitude = (bits_of(near) & 0x007FFFFF) | ((exponent + 127) << 23)
    return jnp.where(normal, from_bits(magnitude | ((bits_of(x) ^ bits_of(d)) & ~0x7FFFFFFF)), q)


def _remainder(a: Float[Array, "..."], q: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """``a - q b`` exactly, if q is within a few units in the last place of a / b (Dekker, Numer. Math. 18, 1971)."""

    def split(v: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        big = unfused(v * 4097.0, v)
        high = big - (big - v)
        return high, v - high

    p, (q1, q2), (b1, b2) = unfused(q * b, q), split(q), split(b)
    low = ((unfused(q1 * b1, q) - p) + unfused(q1 * b2, q) + unfused(q2 * b1, q)) + unfused(q2 * b2, q)
    return (a - p) - low


def sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root rounded once, of zeros and of numbers whose square roots are far from the ends of float32."""
    root = jnp.sqrt(x)
    if on_cpu():
        return root
    safe = jnp.where(x > 0, root, 1.0)
    left, step = _remainder(jnp.where(x > 0, x, 1.0), safe, safe), power_of_two(exponent_of(safe) - 23) * safe
    return jnp.where(x > 0, from_bits(bits_of(safe) + (left > step) - (left <= -step)), root)


def unfused(product: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``product`` with its own rounding, so that a following ``+`` or ``-`` is not fused into it.

    ``x`` is any finite array of that shape, known to the compiler only at run time.
    """
    return product + (x - x)


def clip(x: Float[Array, "..."], low: Float[Array, "..."] | float, high: Float[Array, "..."] | float) -> Any:
    """``x`` within [low, high], NaN where it is NaN; ``jnp.clip`` compiles to more instructions for its NaN.

    >>> clip(jnp.array([-9.0, 0.5, jnp.nan]), -1.0, 1.0).tolist()
    [-1.0, 0.5, nan]
    """
    x = jnp.where(x < low, low, x)
    return jnp.where(x > high, high, x)


def square(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x * x`` rounded once, also where it is summed."""
    return unfused(x * x, x)


def absmax(x: Float[Array, "... n"], axis: int = -1) -> Float[Array, "..."]:
    """Largest magnitude along ``axis``, kept as an axis of length 1; NaN if there is one.

    Magnitudes of floats are ordered as their bits are; integers reduce faster on CPU, where XLA also loses some NaN
    when it reduces floats. In two steps, of rows of some lanes and then of the lanes: the first is vector code, and the
    second, the least of the negated, is not merged into it. Of a long row first of each 64, ten times as fast.
    """
    if axis in (-1, x.ndim - 1) and x.shape[axis] > _LONG and x.shape[axis] % _GROUP == 0:
        return absmax(absmax(x.reshape(*x.shape[:-1], -1, _GROUP))[..., 0])
    bits, n = bits_of(x) & 0x7FFFFFFF, x.shape[axis]
    lanes = next((k for k in (64, 8) if n % k == 0 and n > 4 * k), 0) or (8 if n % 8 == 0 and n > 8 else 0)
    if axis not in (-1, x.ndim - 1) or not lanes:
        return from_bits(jnp.max(bits, axis=axis, keepdims=True))
    by_lane = jnp.max(bits.reshape(*x.shape[:-1], n // lanes, lanes), axis=-2)
    return from_bits(-jnp.min(-by_lane, axis=-1, keepdims=True))


def extremes(x: Float[Array, "... n"]) -> tuple[Float[Array, "... 1"], Float[Array, "... 1"]]:
    """Least and largest number along the last axis; of a long row first of each 64, by steps that are not merged.

    >>> [v.tolist() for v in extremes(jnp.arange(-64.0, 2048.0))]
    [[-64.0], [2047.0]]
    """
    if x.shape[-1] <= _LONG or x.shape[-1] % _GROUP:
        return x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    groups = x.reshape(*x.shape[:-1], -1, _GROUP)
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    return -jnp.max(-low, axis=-1, keepdims=True), -jnp.min(-high, axis=-1, keepdims=True)


def ordered_sum(x: Float[Array, "... n"]) -> Float[Array, "... 1"]:
    """Sum over the last axis by halving: always the same additions in the same order."""
    n = x.shape[-1]
    while n > 1:
        half = (n + 1) // 2
        rest = jnp.pad(x[..., half:n], [(0, 0)] * (x.ndim - 1) + [(0, 2 * half - n)])
        x, n = x[..., :half] + rest, half
    return x


def power_of_two(exponent: Int32[Array, "..."]) -> Float[Array, "..."]:
    """``2.0 ** exponent``, exact, for exponents of normal float32 numbers (-126 to 127)."""
    return from_bits((exponent + 127) << 23)


def exponent_of(x: Float[Array, "..."]) -> Int32[Array, "..."]:
    """``floor(log2 |x|)`` of normal float32 numbers, -127 for zero and subnormals."""
    return ((bits_of(x) >> 23) & 0xFF) - 127


def ordered(x: Float[Array, "..."]) -> Int32[Array, "..."]:
    """Integers in the order of the floats: extremes of integers reduce several times as fast on CPU.

    >>> (jnp.diff(ordered(jnp.array([-2.0, -0.5, 0.0, 3.0]))) > 0).tolist()
    [True, True, True]
    """
    bits = bits_of(x)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def disordered(order: Int32[Array, "..."]) -> Float[Array, "..."]:
    """Floats of ``ordered`` integers."""
    return from_bits(order ^ ((order >> 31) & 0x7FFFFFFF))
