"""The laws of test_contract.py for every format that stores blocks. A new member registers in CASES or the tests fail.

Which laws are no theorems for which formats, and why, is said at LAWS. Weights have the shape of those in test_gguf.py,
so that both share what is compiled; what needs another program is slow for the searches, which take seconds to compile.
Jit, vmap, scan and shard_map are tried all in one program, and each alone among the slow tests.
"""

from functools import lru_cache, partial, reduce

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import quantsim as qs
from quantsim import formats
from quantsim.quantizer import blockformats
from quantsim.quantizer.blockformats import chunks
from tests import oracle_gguf, oracle_mx, oracles

SHAPE = (102, 512)
RULES = ("", ":ceil", ":even", ":rceil")
ELEMENTS = {"mxfp4": 4, "mxfp6_e2m3": 6, "mxfp6_e3m2": 6, "mxfp8_e4m3": 8, "mxfp8_e5m2": 8, "mxint8": 8, "mxint4": 4}
#: Spec: stored bits of a weight, as llama.cpp and the MX specification give them.
CASES = {
    **{f"{name}{rule}": bits + 8 / 32 for name, bits in ELEMENTS.items() for rule in RULES},
    **{"nvfp4": 4 + 8 / 16 + 32 / (102 * 512), "nvfp4:single": 4.5},
    **{"nvint4": 4 + 8 / 16 + 32 / (102 * 512), "nvint4:single": 4.5},
    **{"q4_0": 4.5, "q5_0": 5.5, "q4_1": 5.0, "q5_1": 6.0, "q8_0": 8.5},
    **{"q2_k": 2.625, "q3_k": 3.4375, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625},
    **{"iq1_s": 1.5625, "iq1_m": 1.75, "iq2_xxs": 2.0625, "iq2_xs": 2.3125, "iq2_s": 2.5625},
    **{"iq3_xxs": 3.0625, "iq3_s": 3.4375},
    **{"iq4_nl": 4.5, "iq4_xs": 4.25, "tq1_0": 1.6875, "tq2_0": 2.0625, "mxfp4:gguf": 4.25, "nvfp4:gguf": 4.5},
}
#: Not among the quick tests: other rules for these elements. test_microscaling.py has all codes of all of them.
REPEATED = {f"{name}{rule}" for name in ELEMENTS for rule in RULES} - {
    *("mxfp4", "mxfp4:even", "mxfp6_e2m3:ceil", "mxfp6_e3m2:rceil", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8:ceil", "mxint4")
}
LATTICES = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"}
SEARCHED = {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", *LATTICES}  # take seconds to compile


def some(slow):
    return pytest.mark.parametrize(
        "text", [pytest.param(text, marks=pytest.mark.slow) if text in slow else text for text in CASES]
    )


@lru_cache
def _batch() -> list[np.ndarray]:
    """Weights whose scales and minimums are normal float16; outliers, heavy tails, a row and some blocks of zeros."""
    rng = np.random.default_rng(11)
    w = rng.standard_normal(SHAPE)
    w[2], w[4:8, ::9], w[40:60] = 0, w[4:8, ::9] * 8, rng.laplace(size=(20, 512))
    w[rng.random(SHAPE) < 0.02] = 0
    w.reshape(-1, 32)[100:120] = 0
    return [w.astype(np.float32)]


def test_every_member_is_registered():
    assert CASES.keys() == blockformats.SPECS.keys()
    for text in CASES:
        q = qs.parse(text)
        assert str(q) == text
        assert repr(q) == f"{type(q).__name__}('{text}')"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mxfp4:foo", "mxfp4 takes a block such as block16, and ceil, even, rceil, gguf"),
        ("mxint8:even:ceil", "mxint8 takes a block such as block16, and ceil, even, rceil"),
        ("nvfp4:ceil", "nvfp4 takes a block such as block16, and single, gguf"),
        ("nvint4:block16:ceil", "nvint4 takes a block such as block16, and single"),
        ("q4_k:block32", "q4_k takes no options; did you mean 'q4_k'"),
        ("q4_kk", "did you mean 'q4_k'.*q4_k, "),
        ("q8_0:f16", "q8_0 takes no options"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(text, message):
    with pytest.raises(ValueError, match=message):
        qs.parse(text)


# --- laws -----------------------------------------------------------------------------------------------------------


def _levels(q, qw) -> np.ndarray:
    """Every level that each weight could have with the stored scales, in order; falling where a scale is negative."""
    if qw.scale is None:
        return oracle_gguf.levels(np.asarray(qw.codes), str(q).removesuffix(":gguf").upper())
    kind = ml_dtypes.float8_e4m3fn if str(q).startswith("nv") else ml_dtypes.float8_e8m0fnu
    scale = np.asarray(qw.scale).view(kind).astype(np.float32) * np.float32(
        1 if qw.tensor_scale is None else qw.tensor_scale
    )
    element = formats.levels(q.element) / {"mxint8": 64, "mxint4": 4}.get(str(q).partition(":")[0], 1)
    return element[:, None, None] * np.repeat(scale, q.size, axis=-1)


def law_shape_and_type(q, w):
    qw = q.quantize(w)
    out = qw.dequantize()
    assert (out.shape, out.dtype, qw.shape) == (w.shape, jnp.float32, w.shape)


def law_bits_are_bytes(q, w):
    qw = q.quantize(w)
    if qw.scale is None:
        assert qw.codes.dtype == jnp.uint8
        stored = qw.codes.size
    else:
        assert qw.scale.dtype == jnp.uint8
        tensor = 0 if qw.tensor_scale is None else qw.tensor_scale.nbytes
        stored = oracles.packed_bytes(qw.codes, q.element.bits) + qw.scale.size + tensor
    assert qw.nbytes == stored
    assert q.bits_per_weight(w.shape) == 8 * stored / w.size == CASES[str(q)]


def law_nearest_level(q, w):
    """|e| is the distance to the nearest of the levels that the stored scales give: half a step inside their range.

    Where codes are made before a scale is rounded to float16, each of two levels may move by 2^-11 of itself and of the
    minimum in between; otherwise only the float32 operations round.
    """
    qw = q.quantize(w)
    levels, got = _levels(q, qw), np.asarray(qw.dequantize())
    nearest, off = (reduce(np.minimum, (np.abs(level - v) for level in levels)) for v in (w, got))
    reach = np.abs(levels).max(axis=0) + np.ptp(levels, axis=0)
    codes_first = str(q).startswith(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4", "tq"))
    slack = 1.01 * 2.0**-10 * reach if codes_first else 2.0**-21 * (reach + np.abs(w))
    assert (np.abs(got - w) <= nearest + slack).all()
    assert (off <= 2.0**-22 * reach).all()  # and it is one of the levels
    if str(q) not in ("tq1_0", "tq2_0"):  # three levels: more than half of a bell is zero
        assert np.mean((got - w)[w != 0] ** 2) < 0.2 * np.mean(w**2)


def law_zeros(q, w):
    assert not np.any(q.quantize(0 * w).dequantize())
    assert not np.any(q.quantize(w).dequantize()[2])


def law_idempotent(q, w):
    """Levels stay levels. Where there is a float32 scale for the tensor, it may move by an ulp."""
    once = q.quantize(w).dequantize()
    twice = q.quantize(once).dequantize()
    assert oracles.ulps(twice, once) <= (2 if str(q) == "nvfp4" else 0)


def law_odd(q, w):
    np.testing.assert_array_equal(q.quantize(-w).dequantize(), -q.quantize(w).dequantize())


def law_power_of_two(q, w):
    """Scaling by 2^k scales the result by 2^k to the bit as long as all scales stay normal."""
    once = q.quantize(w)
    for k in (-1, 3):
        scaled = q.quantize(np.ldexp(w, k))
        oracles.same_bits(scaled.dequantize(), np.ldexp(np.asarray(once.dequantize()), k))


def law_roundtrip(q, w):
    oracles.same_bits(q.roundtrip(w), q.quantize(w).dequantize())


def law_gradient(q, w):
    """Straight through where the weight is in range, nothing where it clips: half a gap beyond the last level."""
    levels = np.float64(_levels(q, q.quantize(w))[[0, 1, -2, -1]])
    levels = np.where(levels[0] > levels[-1], levels[::-1], levels)
    limits = np.stack([1.5 * levels[0] - 0.5 * levels[1], 1.5 * levels[-1] - 0.5 * levels[-2]])
    outside = ((w < limits[0]) | (w > limits[1])) & (levels[0] != levels[-1])
    sure = (np.abs(w - limits) > 1e-6 * np.abs(levels).max(axis=0)).all(axis=0) | (levels[0] == levels[-1])
    assert sure.mean() > 0.999
    clipped = np.asarray(q.clipped(w))
    np.testing.assert_array_equal(clipped[sure], outside[sure])
    c = np.random.default_rng(12).standard_normal(SHAPE).astype(np.float32)
    grad = jax.grad(lambda x: (q.roundtrip(x) * c).sum())(jnp.asarray(w))
    np.testing.assert_array_equal(grad, np.where(clipped, 0, c))


#: A minimum is not minus a maximum, and the K-quants' is at most 0. q3_k moves codes only where the sum of code times
#: weight is positive, that is where the extreme is negative. All other extremes carry their sign into the scale.
#: Of a lattice a zero has the sign of a positive weight and is no level; IQ1 sorts weights and adds them in that order.
NOT_ODD = {"q4_1", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", *LATTICES}
#: A group of codes is a point of the lattice, which is near to the group and not to each of its weights.
NOT_NEAREST = LATTICES
#: A search tries some scales, rounds the best twice and need not find those again that made the levels, though here it
#: does for q4_k. Everywhere else the extreme of a block is a level, from which the same scale follows.
NOT_IDEMPOTENT = {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", *LATTICES}
LAWS = {
    law_shape_and_type: set(),
    law_bits_are_bytes: set(),
    law_nearest_level: NOT_NEAREST,
    law_zeros: set(),
    law_idempotent: NOT_IDEMPOTENT,
    law_odd: NOT_ODD,
    law_power_of_two: set(),
}


@some(REPEATED | LATTICES - {"iq2_s"})
def test_laws(text):
    for law, exceptions in LAWS.items():
        if text not in exceptions:
            law(qs.parse(text), _batch()[0])


@some(CASES.keys() - {"mxfp4", "mxint8:ceil", "nvfp4", "q4_0", "q4_1", "q8_0", "tq1_0", "mxfp4:gguf", "nvfp4:gguf"})
def test_laws_of_the_round_trip(text):
    law_roundtrip(qs.parse(text), _batch()[0])
    law_gradient(qs.parse(text), _batch()[0])


def test_no_exception_is_idle():
    """Each format that is excepted from a law breaks it here, so that no exception outlives its reason."""
    for law, exceptions in LAWS.items():
        for text in exceptions - {"q4_k"} - (LATTICES - {"iq2_s"}):
            with pytest.raises(AssertionError):
                law(qs.parse(text), _batch()[0])


@pytest.mark.slow
@pytest.mark.parametrize("text", sorted(LATTICES))
def test_no_exception_of_a_lattice_is_idle(text):
    for law, exceptions in LAWS.items():
        if text in exceptions:
            with pytest.raises(AssertionError):
                law(qs.parse(text), _batch()[0])


# --- one bit pattern under every transformation ---------------------------------------------------------------------


def _one(text: str):
    """Everything that a format gives for one matrix; of a search, which takes long to compile, only the codes."""
    q = qs.parse(text)

    def one(w):
        qw = q.quantize(w)
        found = {"codes": qw.codes, "scale": qw.scale, "tensor": qw.tensor_scale}
        return found if text in SEARCHED else found | {"w_hat": qw.dequantize(), "roundtrip": q.roundtrip(w)}

    return one


def _each(one, w) -> dict:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[one(v) for v in w])


def _interpreted(one, w) -> dict:
    with jax.disable_jit():
        return _each(one, w[1:2])


def _scanned(one, w) -> dict:
    return lax.scan(lambda carry, v: (carry, one(v)), 0, w)[1]


def _sharded(devices: int, inside, w) -> dict:
    automatic, spec = (jax.sharding.AxisType.Auto,), PartitionSpec("data")
    mesh = jax.make_mesh((devices,), ("data",), automatic, devices=jax.devices()[:devices])
    return jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=spec, out_specs=spec))(w)


WAYS = {
    "disable_jit": _interpreted,
    "jit": lambda one, w: _each(jax.jit(one), w),
    "vmap": lambda one, w: jax.vmap(one)(w),
    "jit(scan)": lambda one, w: jax.jit(partial(_scanned, one))(w),
    "shard_map on 2": lambda one, w: _sharded(2, jax.vmap(one), w),
    "shard_map(scan) on 2": lambda one, w: _sharded(2, partial(_scanned, one), w),
}
#: All of them at once, which is one program for each format.
AT_ONCE = "jit(shard_map(scan(vmap))) on 2"
QUICK = ["q8_0", "q4_1", "q4_k", "tq1_0", "mxfp4", "nvfp4", "mxfp4:gguf"]


def _at_once(one, w) -> dict:
    """Two devices, on each a loop of two steps, in each two matrices."""
    found = _sharded(2, partial(_scanned, jax.vmap(one)), w.reshape(4, 2, *w.shape[1:]))
    return jax.tree.map(lambda leaf: leaf.reshape(8, *leaf.shape[2:]), found)


WAYS[AT_ONCE] = _at_once


def _expected(text: str, w) -> dict:
    """One matrix after the other; for all but a scale of the tensor, the rows of one large matrix."""
    if text == "nvfp4":
        return _specified(w)
    qw, w_hat = (q := qs.parse(text).quantize(_batch()[0])), q.dequantize()
    rows = {"codes": qw.codes, "scale": qw.scale, "w_hat": w_hat, "roundtrip": w_hat}
    return {name: np.asarray(v)[:16].reshape(8, 2, -1) for name, v in rows.items() if v is not None}


def _specified(w) -> dict:
    """NVFP4 as the recipe has it, in NumPy."""
    found = [oracle_mx.nvfp4(one.reshape(-1, 16), True) for one in np.asarray(w)]
    codes, scale, tensor, w_hat = (np.stack(part) for part in zip(*found, strict=True))
    w_hat = w_hat.reshape(w.shape)
    rows = {"codes": codes.reshape(w.shape), "scale": scale.reshape(*w.shape[:-1], -1)}
    return rows | {"tensor": tensor, "w_hat": w_hat, "roundtrip": w_hat}


def _check_way(text: str, way: str) -> None:
    w = jnp.asarray(_batch()[0][:16]).reshape(8, 2, 512)
    got, expected = WAYS[way](_one(text), w), _expected(text, w)
    for name in got:
        if got[name] is not None:
            right = expected[name][1:2] if way == "disable_jit" else expected[name]
            bits = (np.ascontiguousarray(v).view(np.uint8) for v in (got[name], right))
            np.testing.assert_array_equal(*bits, err_msg=f"{name} of {text} under {way}")


@pytest.mark.parametrize("text", QUICK)
def test_one_bit_pattern(text):
    _check_way(text, AT_ONCE)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", CASES)
def test_one_bit_pattern_every_way_for_every_format(text, way):
    _check_way(text, way)


def test_one_bit_pattern_in_chunks_on_each_of_two_devices():
    q, w = qs.parse("q8_0"), np.resize(_batch()[0], (520, 512))
    assert w.size > 2 * chunks.CHUNK
    found = _sharded(2, lambda v: q.quantize(v).codes, jnp.asarray(w))
    np.testing.assert_array_equal(found, oracle_gguf.quantize(w, "Q8_0"))
