"""Random numbers as pure functions of (key, index): element i is the same for any chunk, device or process.

Counter-based threefry2x32 (Salmon et al., SC 2011), its 20 rounds written out so that XLA keeps them in registers;
`jax.random` has them in a loop on CPU, and each round goes through memory. Bits, uniform, normal and Laplace draws
equal ``jax.random``'s of one dimension to the bit (of more dimensions, XLA may round the logarithm of a Laplace draw
otherwise). Like those, ``normal`` and ``laplace`` come from 23-bit uniforms and so never exceed 5.42 standard
deviations and 11.77 (ln 2^24 / sqrt 2); the tails of 10^8 draws reach further.
"""

from math import factorial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, UInt32

from quantsim._types import Number, PRNGKey
from quantsim.numerics import ieee
from quantsim.numerics.fusion import apart
from quantsim.numerics.ieee import on_cpu
from quantsim.populations import inverse_erf

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_ROUNDS = 12
_ROOT2 = np.float32(np.sqrt(2))
_SINE = tuple((-1) ** k * (2 * np.pi) ** (2 * k + 1) / factorial(2 * k + 1) for k in range(6, -1, -1))


class Index(NamedTuple):
    """A 64-bit element index as two 32-bit words; JAX has no 64-bit integers by default."""

    high: UInt32[Array, "..."]
    low: UInt32[Array, "..."]


def indices(start: int | Index, count: int, step: int = 1) -> Index:
    """Indices ``start, start + step, …``, ``count`` of them, over a span below 2^32.

    >>> [w.tolist() for w in indices(2**32 - 1, 2)]
    [[0, 1], [4294967295, 0]]
    """
    first = start if isinstance(start, Index) else Index(jnp.uint32(start >> 32), jnp.uint32(start & 0xFFFFFFFF))
    low = first.low + jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(step)
    return Index(first.high + (low < first.low).astype(jnp.uint32), low)


def words(key: PRNGKey, i: Index) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """The two output words of threefry2x32 for counter ``i``.

    Raises:
        ValueError: if the key is of another implementation.
    """
    if jax.random.key_impl(key) != "threefry2x32":
        raise ValueError(f"draws need a threefry2x32 key, not {jax.random.key_impl(key)}: use populations.key(seed)")
    k0, k1 = jax.random.key_data(key)
    ks = (k0, k1, k0 ^ k1 ^ jnp.uint32(0x1BD11BDA))
    x, y = i.high + ks[0], i.low + ks[1]
    for group in range(5):
        for r in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << r) | (y >> (32 - r))) ^ x
        x, y = x + ks[(group + 1) % 3], y + ks[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def bits(key: PRNGKey, i: Index) -> UInt32[Array, "..."]:
    """32 random bits for each index, as ``jax.random.bits`` draws them."""
    x, y = words(key, i)
    return x ^ y


def _unit(b: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Uniform on [0, 1), the 23 top bits as mantissa."""
    one_to_two = lax.bitcast_convert_type((b >> 9) | jnp.uint32(0x3F800000), jnp.float32)
    return one_to_two - 1.0


def uniform(key: PRNGKey, i: Index) -> Float[Array, "..."]:
    """Uniform on [0, 1), as ``jax.random.uniform`` draws it."""
    return _unit(bits(key, i))


def chance(key: PRNGKey, i: Index, p: Number) -> Bool[Array, "..."]:
    """True with probability ``p``, from all 32 bits: the 23 of ``uniform`` would turn 10^-6 into 1.07 10^-6."""
    p = jnp.asarray(p, jnp.float32)
    return (bits(key, i).astype(jnp.float32) * np.float32(2.0**-32) < p) | (p >= 1)


def _symmetric(key: PRNGKey, i: Index, low: np.float32) -> Float[Array, "..."]:
    return jnp.maximum(_unit(bits(key, i)) * 2.0 + low, low)


def signed_uniform(key: PRNGKey, i: Index) -> Float[Array, "..."]:
    """Uniform on [-1, 1), as ``jax.random.uniform(minval=-1)`` draws it."""
    return _symmetric(key, i, np.float32(-1.0))


def normal(key: PRNGKey, i: Index) -> Float[Array, "..."]:
    """Standard normal, ``sqrt(2) erfinv(u)``, as ``jax.random.normal`` draws it.

    On CPU in three stages, each a chain of dependent operations that is short enough for the next weights to overlap.
    """
    u = apart(lambda: _symmetric(key, i, np.nextafter(np.float32(-1), np.float32(0))), i.low)
    if not on_cpu():
        return _ROOT2 * lax.erf_inv(u)
    return _ROOT2 * inverse_erf.erf_inv(u, apart(lambda: inverse_erf.minus_log_1m(u * u), i.low))


def laplace(key: PRNGKey, i: Index) -> Float[Array, "..."]:
    """Laplace of scale 1 (variance 2), as ``jax.random.laplace`` draws it."""
    u = apart(lambda: _symmetric(key, i, np.float32(-1.0) + np.finfo(np.float32).epsneg), i.low)
    if not on_cpu():
        return jnp.sign(u) * jnp.log1p(-jnp.abs(u))
    return -jnp.sign(u) * inverse_erf.minus_log_1m(jnp.abs(u))


def student_t(key: PRNGKey, i: Index, df: Number, power: Number | None = None) -> Float[Array, "..."]:
    """Student's t by Bailey's polar formula, ``sqrt(df (u^(-2/df) - 1)) cos(2 pi v)``, exact for any df.

    ``power`` is -2 / df, for callers that know it better than a float32 ``df`` tells. The two words of one threefry
    call give ``u`` (32 bits, so the tails of 10^9 draws are there) and ``v``.
    ``jax.random.t`` goes through a gamma sampler that is 60 times slower; the two agree in distribution, not in bits.
    Source: Bailey, Math. Comp. 62 (1994) 779-781.
    """
    x, y = words(key, i)
    u = (x.astype(jnp.float32) + 0.5) * np.float32(2.0**-32)
    radius = jnp.sqrt(df * jnp.expm1(jnp.log(u) * (-2.0 / df if power is None else power)))
    return radius * _cos_of_turn(_unit(y))


def _cos_of_turn(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """``cos(2 pi v)`` for v in [0, 1), by the series of the sine within a quarter turn, good to 7e-10.

    XLA on CPU calls a scalar function for each cosine, which takes longer than all else in a draw.
    """
    q = jnp.abs(v - 0.5) - 0.25  # exact, and cos(2 pi v) = sin(2 pi q)
    return inverse_erf.polynomial(_SINE, q * q) * q


def generalized_normal(key: PRNGKey, i: Index, beta: Number, spread: Number | None = None) -> Float[Array, "..."]:
    """Generalized normal of scale 1, pdf proportional to exp(-|x|^beta): ``u g^(1/beta)``.

    ``u`` is uniform on [-1, 1) and ``g`` of a gamma distribution with shape 1 + 1/beta, by the rejection method of
    Marsaglia and Tsang (ACM Trans. Math. Softw. 26, 2000): attempt j of element i is a function of (key, j, i) alone,
    and at least 95 of 100 succeed. ``spread`` is ``gamma_spread(beta)``, for callers that have it rounded already.
    """
    power = 1 / jnp.asarray(beta, jnp.float32)
    d = power + np.float32(2 / 3)
    spread = 1 / jnp.sqrt(9 * d) if spread is None else spread

    def attempt(state: tuple) -> tuple:
        j, g, done = state
        k = jax.random.fold_in(key, j)
        x, u = normal(jax.random.fold_in(k, 0), i), uniform(jax.random.fold_in(k, 1), i)
        v = jnp.maximum(1 + x * spread, 1e-10) ** 3
        accepted = jnp.log(u) < 0.5 * x * x + d * (1 - v + jnp.log(v))
        return j + 1, jnp.where(done, g, d * v), done | accepted

    start = (jnp.uint32(1), jnp.zeros(i.low.shape, jnp.float32), jnp.zeros(i.low.shape, bool))
    g = lax.while_loop(lambda state: ~state[2].all(), attempt, start)[1]
    # the compiler replaces powers that it knows, such as a square root, and rounds them otherwise
    return signed_uniform(jax.random.fold_in(key, 0), i) * g ** ieee.unfused(power, g)


def gamma_spread(beta: Number) -> np.float32:
    """``1 / sqrt(9 (1/beta + 2/3))``, each operation rounded once; XLA makes it a reciprocal root of its own."""
    d = np.float32(1) / np.float32(beta) + np.float32(2 / 3)
    return np.float32(1) / np.sqrt(np.float32(9) * d)


def permuted(key: PRNGKey, j: Int32[Array, " n"], size: int) -> Int32[Array, " n"]:
    """Image of each ``j`` under a keyed permutation of ``range(size)``.

    A Feistel network on the next even number of bits, walked along its cycle until it lands below ``size`` (Black and
    Rogaway, CT-RSA 2002); distinct ``j`` have distinct images and nothing of length ``size`` is formed. Twelve rounds,
    because the pairs drawn from a few units are far from equally likely after the four that large sizes need.
    """
    half = max(-(-(size - 1).bit_length() // 2), 1)
    mask = jnp.uint32((1 << half) - 1)

    def step(v: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
        def mix(r: Int32[Array, ""], sides: tuple) -> tuple:
            left, right = sides
            return right, (left ^ bits(key, Index(jnp.full_like(right, r), right))) & mask

        left, right = lax.fori_loop(0, _ROUNDS, mix, (v >> half, v & mask))
        return (left << half) | right

    def walk(state: tuple) -> tuple:
        v, arrived = state
        v = jnp.where(arrived, v, step(v))
        return v, v < jnp.uint32(size)

    start = j.astype(jnp.uint32), jnp.zeros(j.shape, bool)
    return lax.while_loop(lambda state: ~state[1].all(), walk, start)[0].astype(jnp.int32)
