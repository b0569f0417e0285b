"""The inverse error function and the logarithm in it as XLA computes them on CPU, to the bit, in fewer instructions.

``lax.log1p`` costs there more than half of a normal draw: it is compiled into vectors of 8 numbers, whatever the
processor has, and looks for infinities, NaN and arguments that do not occur here. The same operations written out go
into the longest vectors that the compiler may use. Each function takes what ``draws`` makes of 23 bits; the tests
compare all 2^23 of them with XLA's.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim.numerics import ieee

_ERF_INV = (
    (
        2.81022636e-08,
        3.43273939e-07,
        -3.5233877e-06,
        -4.39150654e-06,
        0.00021858087,
        -0.00125372503,
        -0.00417768164,
        0.246640727,
        1.50140941,
    ),
    (
        -0.000200214257,
        0.000100950558,
        0.00134934322,
        -0.00367342844,
        0.00573950773,
        -0.0076224613,
        0.00943887047,
        1.00167406,
        2.83297682,
    ),
)
# Cephes, logf.c: three polynomials in t for every third power of it, and ln 2 in two parts, the first with 9 digits.
_LOG = (
    (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1),
    (-1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1),
    (2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROOT_HALF = np.float32(np.sqrt(0.5)).view(np.int32)
# Cephes, log1p.c: a quotient of polynomials in x = -y, for |x| < sqrt(2) - 1.
_NUMERATOR = (
    4.5270000862445199635215e-5,
    4.9854102823193375972212e-1,
    6.5787325942061044846969,
    2.9911919328553073277375e1,
    6.0949667980987787057556e1,
    5.7112963590585538103336e1,
    2.0039553499201281259648e1,
)
_DENOMINATOR = (
    1.0,
    1.5062909083469192043167e1,
    8.3047565967967209469434e1,
    2.2176239823732856465394e2,
    3.0909872225312059774938e2,
    2.1642788614495947685003e2,
    6.0118660497603843919306e1,
)
_SMALL = np.float32(np.sqrt(2) - 1)


def polynomial(coefficients: tuple[float, ...], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Value at ``x``; the coefficient of the largest power comes first.

    >>> polynomial((1.0, 0.0, -1.0), jnp.float32(3.0)).item()
    8.0
    """
    value = jnp.full_like(x, np.float32(coefficients[0]))
    for c in coefficients[1:]:
        value = np.float32(c) + value * x
    return value


@jax.jit
def erf_inv(u: Float[Array, "..."], w: Float[Array, "..."]) -> Float[Array, "..."]:
    """``erfinv(u)`` for |u| < 1 and ``w = -log(1 - u^2)``, to the bit what XLA makes of ``lax.erf_inv``.

    Source: Giles, GPU Computing Gems Jade Edition (2011), ch. 10: a polynomial for w < 5 and one for the tail. XLA
    selects each coefficient; here both polynomials are evaluated, which vectorizes better.
    """
    near, tail = (polynomial(c, t) for c, t in zip(_ERF_INV, (w - 2.5, jnp.sqrt(w) - 3), strict=True))
    return jnp.where(w < 5, near, tail) * u


@jax.jit
def minus_log_1m(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """``-log(1 - y)`` for 0 <= y <= 1 - 2^-24, to the bit what XLA makes of ``-lax.log1p(-y)``.

    Source: Moshier, Cephes Mathematical Library 2.2 (1992), log1p for y < sqrt(2) - 1 and logf for the others.
    """
    return jnp.where(y < _SMALL, _of_small(y), _of_large(y))


def _of_small(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """``y + y^2 / 2 + y^3 p(-y) / q(-y)``."""
    square = y * y
    cubic = y * square * (polynomial(_NUMERATOR, -y) / polynomial(_DENOMINATOR, -y))
    # It is positive. The absolute value keeps its rounding: a product alone would be fused into the sum.
    return y + (square * 0.5 + jnp.abs(cubic))


def _of_large(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """``-log(1 - y)``, where 1 - y = 2^k (1 + t) and 1 + t lies within [sqrt(1/2), sqrt(2))."""
    bits = ieee.bits_of(1 - y)
    k = (bits - _ROOT_HALF) >> 23
    t = ieee.from_bits(bits - (k << 23)) - 1
    k, square = k.astype(jnp.float32), t * t
    cube = square * t
    first, second, third = (polynomial(c, t) for c in _LOG)
    cubic = (second + first * cube) * cube + third
    return k * -_LN2_HIGH - ((t - square * 0.5) + (cubic * cube + k * _LN2_LOW))
