"""Quotients and roots where the device does not round them: mended to NumPy's, whatever it gives within 2 ulp."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantsim.numerics import ieee

TINY = np.float32(2.0**-126)


def pairs(octaves, n=2**18):
    """Numerators and divisors over so many octaves, with quotients that are exact, and that lie close to a tie."""
    rng = np.random.default_rng(octaves)
    x, d = (rng.standard_normal(n) * 2.0 ** rng.uniform(-octaves, octaves, n) for _ in range(2))
    x, d = x.astype(np.float32), d.astype(np.float32)
    x[: n // 8] = (np.round(x[: n // 8] * 64) / 64) * d[: n // 8]
    near = hardest(rng)
    x[n // 8 : n // 8 + len(near)], d[n // 8 : n // 8 + len(near)] = near.T
    return x, d


def hardest(rng, n=2**15):
    """Integers whose quotient x / d = m / 2^25 -+ 1 / (d 2^25) is as close as can be to a tie, m odd of 25 bits."""
    found = []
    for d in (2**23 + 2 * rng.integers(0, 2**22, n) + 1).tolist():
        for sign in (1, -1):
            m = sign * pow(d, -1, 2**25) % 2**25
            x = (m * d - sign) >> 25
            if m >= 2**24 and x < 2**24:
                found.append((x, d))
    return np.array(found, np.float32)


def off(values, seed):
    """Float32 values moved by up to two units in the last place."""
    values = np.asarray(values, np.float32)
    return (values.view(np.int32) + np.random.default_rng(seed).integers(-2, 3, values.shape).astype(np.int32)).view(
        np.float32
    )


@pytest.fixture
def rough(monkeypatch):
    """Eager arrays that divide as XLA does on GPU, up to two units in the last place off."""

    def divide(self, other):
        a, b = np.broadcast_arrays(np.asarray(self), np.asarray(other))
        with np.errstate(all="ignore"):
            return jnp.asarray(off(a / b, a.size))

    monkeypatch.setattr(type(jnp.ones(1)), "__truediv__", divide)
    assert float((jnp.full(99, 3.0) / jnp.full(99, 3.0)).max()) > 1.0


@pytest.mark.usefixtures("rough")
@pytest.mark.parametrize("octaves", [1, 40, 62])
def test_quotients_are_numpys_however_the_device_divides(octaves):
    x, d = pairs(octaves)
    with np.errstate(all="ignore"):
        exact = x / d
    normal = (np.abs(exact) >= 2 * TINY) & np.isfinite(exact) & (np.abs(x) >= TINY) & (np.abs(d) >= TINY)
    assert normal.mean() > 0.9
    got = np.asarray(ieee.mended_quotient(jnp.asarray(off(exact, 1)), jnp.asarray(x), jnp.asarray(d)))
    assert (off(exact, 1) != exact)[normal].mean() > 0.5
    np.testing.assert_array_equal(got[normal], exact[normal])


@pytest.mark.usefixtures("rough")
@pytest.mark.parametrize(
    ("x", "d", "q"),
    [(0.0, 3.0, 0.0), (1.0, 0.0, np.inf), (np.inf, 2.0, np.inf), (np.nan, 2.0, np.nan), (3e38, 1e-3, np.inf)],
)
def test_what_is_no_normal_number_is_left_to_the_device(x, d, q):
    got = ieee.mended_quotient(*(jnp.full(3, v, jnp.float32) for v in (q, x, d)))
    np.testing.assert_array_equal(got, np.full(3, q, np.float32))


def test_roots_are_numpys_however_the_device_takes_them(monkeypatch):
    x = np.abs(np.random.default_rng(3).standard_normal(2**18)).astype(np.float32) * np.float32(8)
    x[:4096] = (np.arange(4096) / 64).astype(np.float32) ** 2
    exact = np.sqrt(x)
    once = np.where(np.arange(x.size) % 3 == 0, 1, np.where(np.arange(x.size) % 3 == 1, -1, 0)).astype(np.int32)
    rough = np.where(x > 0, (exact.view(np.int32) + once).view(np.float32), exact)
    monkeypatch.setattr(ieee, "on_cpu", lambda: False)
    monkeypatch.setattr(ieee.jnp, "sqrt", lambda _: jnp.asarray(rough))
    np.testing.assert_array_equal(ieee.sqrt(jnp.asarray(x)), exact)
