"""One matrix: the same laws over every quantizer. A new member registers itself in CASES or the tests fail.

Laws are functions of a quantizer alone; test_mutations.py runs them against mutated copies of the package.
"""

from functools import lru_cache, partial
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import quantsim as qs
from quantsim import calibration, formats, granularity, rounding
from quantsim.measure import tallies
from quantsim.quantizer.structure import parted, rebuild_quantizer, split_quantizer
from tests import oracles

CASES = [
    # plain casts
    *("f32", "tf32", "bf16", "f16", "e5m2", "e4m3", "e3m4", "e3m2", "e2m3", "e2m1", "e5m0", "e4m3fnuz", "e5m2fnuz"),
    *("e1m2", "e2m0", "e3m0"),
    *("bf16:stochastic", "e4m3:away", "bf16:truncate"),
    # integers: every width, every granularity, ragged blocks, other axes
    *("int8:tensor", "int8:channel", "int8:block32", "int2:tensor", "int3:channel", "int4:block32", "int5:block16"),
    *("int6:channel@1", "int7:block4@0", "int8:block32@0-"),
    *(f"int{bits}:block32" for bits in range(9, 17)),
    *(f"uint{bits}:channel" for bits in range(2, 17)),
    # calibrations and bounds
    *(
        "int8:channel:minmax",
        "int12:channel:minmax",
        "int4:block32:minmax:f16",
        "int8:tensor:p99",
        "int4:block32:p90",
        "int4:block32:mse",
    ),
    *("int4:block32:clip0.8", "e4m3:channel:clip0.5:f16"),
    *("int3:block32:rms:bf16", "int8:tensor:absmax:half", "int4:block32:absmax:full", "int4:block32:absmax:f16:signed"),
    # scale formats
    *(
        "int8:block32:absmax:bf16",
        "int4:block32:absmax:tf32",
        "int4:channel:absmax:e4m3fnuz",
        "e2m1:block16:absmax:e4m3",
        "int4:block32:absmax:ue4m3",
        "e1m2:block16:absmax:ue5m3",
    ),
    # powers of two, by each rule; a scale of the tensor
    *("int4:block32:absmax:e8m0", "e2m1:block16:absmax:e8m0:ceil", "e1m2:channel:clip0.8:e8m0:even"),
    *("nf4:block32:absmax:e8m0:rceil", "int8:block32:absmax:e8m0:stochastic"),
    *("e2m1:block16:absmax:e4m3+f32", "int4:block32:absmax:ue4m3+f32", "nf4:block32:p99:ue5m3+f32"),
    # scales chosen among stored ones
    *("e2m1:block16:fouroversix:e4m3+f32", "e2m1:block16:search:e4m3", "int4:block32:search2:e8m0"),
    # scaled floats and codebooks
    *("e4m3:tensor", "e5m2:channel", "f16:channel", "e3m4:block32", "e2m1:block32:mse", "nf4:block32", "af4:tensor"),
    "fp4:channel",
    # roundings
    *("int8:block32:absmax:away", "int8:channel:absmax:truncate", "int4:block32:absmax:stochastic"),
]
#: One member of each structure, for what is compiled for each member anew.
STRUCTURES = list({split_quantizer(qs.parse(text))[0]: text for text in reversed(CASES)}.values())[::-1]
SHAPE, BATCH = (6, 80), 4  # 80 = 2 blocks of 32 and a tail of 16
KEYS = jax.random.split(jax.random.key(7), BATCH)


@lru_cache
def _batch() -> np.ndarray:
    """Four matrices of normal weights, one row of them zero and some weights large."""
    w = np.random.default_rng(1).standard_normal((BATCH, *SHAPE)).astype(np.float32)
    w[:, 2], w[:, 4, ::9] = 0, w[:, 4, ::9] * 8
    return w


def test_every_member_is_registered():
    members = [qs.parse(text) for text in CASES]
    assert {q.format.name for q in members} >= set(formats.FORMATS)
    assert {type(q.format) for q in members} == set(get_args(formats.Format))
    assert {q.format.bounds for q in members if isinstance(q.format, formats.Integer)} == set(get_args(formats.Bounds))
    assert {q.format.specials for q in members if isinstance(q.format, formats.Float)} == set(
        get_args(formats.Specials)
    )
    assert {type(q.granularity) for q in members} == {type(None), *get_args(granularity.Granularity)}
    assert {type(q.calibration) for q in members} == set(get_args(calibration.Calibration))
    assert {q.rounding for q in members} == set(rounding.ROUNDINGS)
    assert {"f32", "f16", "bf16", "e4m3"} <= {q.scale_format.name for q in members}
    assert [str(q) for q in members] == CASES


# --- laws -----------------------------------------------------------------------------------------------------------


def _key(q, key=KEYS[0]):
    return key if q.rounding == "stochastic" else None


def _spread(q, values) -> np.ndarray:
    """Scales or zero points, one for each weight, float64."""
    kind = {"Tensor": "tensor", "Channel": "channel", "Block": "block"}[type(q.granularity).__name__]
    shape = (int(np.prod(SHAPE)),) if getattr(q.granularity, "onward", False) else SHAPE  # from axis 0 on
    ids = oracles.block_ids(shape, kind, getattr(q.granularity, "size", 1), getattr(q.granularity, "axis", 0))
    return np.float64(values).ravel()[ids].reshape(SHAPE)


class Found(NamedTuple):
    """All that a quantizer gives for one matrix."""

    codes: np.ndarray
    scale: np.ndarray | None  # what levels are multiplied with
    zero_point: np.ndarray | None
    w_hat: np.ndarray
    roundtrip: np.ndarray
    gradient: np.ndarray
    clipped: np.ndarray


@partial(jax.jit, static_argnums=0)
def _program(structure, numbers, w, key, c) -> Found:
    """Everything in one program: quantizers of one structure share it. ``c`` is what the gradient is of."""
    q = rebuild_quantizer(structure, numbers)
    qw = q._encode(w, key)
    roundtrip, gradient = jax.vjp(lambda x: q.roundtrip(x, key=key), w)
    return Found(qw.codes, _step(qw), qw.zero_point, q._decode(qw), roundtrip, *gradient(c), q._outside(w))


def _step(qw):
    return qw.scale if qw.tensor_scale is None else qw.scale * qw.tensor_scale


def _found(q, w, c=None, key=KEYS[0]) -> Found:
    c = np.ones(SHAPE, np.float32) if c is None else c
    return Found(*jax.device_get(_program(*parted(q), np.float32(w), _key(q, key), c)))


def law_shape_and_type(q, w):
    found = _found(q, w)
    for out in (found.w_hat, found.roundtrip):
        assert (out.shape, out.dtype) == (w.shape, np.float32)
    assert found.codes.shape == w.shape
    assert (found.scale is None) == (q.granularity is None)
    oracles.same_bits(found.w_hat, found.roundtrip)


def law_within_half_a_step(q, w):
    """The nearest level, or in directed roundings one of the two around it: |e| is at most the distance to that."""
    found = _found(q, w)
    got, scale = np.float64(found.w_hat), np.ones(SHAPE) if found.scale is None else _spread(q, found.scale)
    if q.format.bits > 16:
        gap = 2.0 ** (np.frexp(np.where(w == 0, 1, w))[1] - 1 - q.format.mantissa_bits)
        assert (np.abs(got - w) <= gap / 2).all()
        return
    levels = formats.levels(q.format)
    zero = 0.0
    if found.zero_point is not None:
        zero, levels = _spread(q, found.zero_point), np.arange(2.0**q.format.bits)
    units = np.where(scale == 0, 0, np.float64(w) / np.where(scale == 0, 1, scale)) + zero
    at = np.clip(np.searchsorted(levels, units), 1, len(levels) - 1)
    around = np.stack([np.abs(units - levels[at - 1]), np.abs(units - levels[at])])
    nearest = q.rounding in ("even", "away")
    allowed = (around.min(axis=0) if nearest else around.max(axis=0)) * np.abs(scale)
    allowed = np.where(scale == 0, np.abs(w), allowed)
    slack = 2.0**-22 * (np.abs(w) + np.abs(got) + np.abs(zero * scale))
    assert (np.abs(got - w) <= allowed + slack).all()
    ends = np.sort([(levels[0] - zero) * scale, (levels[-1] - zero) * scale], axis=0)
    assert ((ends[0] - slack <= got) & (got <= ends[1] + slack)).all()  # and nothing leaves the range


def law_idempotent(q, w):
    """Levels stay levels. The scale of an integer may move by an ulp: 127 s / 127 is not always s."""
    once = _found(q, w)
    twice = _found(q, once.w_hat)
    np.testing.assert_array_equal(twice.codes, once.codes)
    if once.zero_point is not None:
        np.testing.assert_array_equal(twice.zero_point, once.zero_point)
    assert oracles.ulps(twice.w_hat, once.w_hat) <= (2 if q.granularity else 0)


def law_odd(q, w):
    np.testing.assert_array_equal(_found(q, -w).roundtrip, -_found(q, w).roundtrip)


def law_power_of_two(q, w):
    """Scaling by 2^k scales the result by 2^k to the bit, in the range of the scale format."""
    once = _found(q, w)
    for k in (-40, 30) if q.scale_format.exponent_bits == 8 or q.two_level else (-1, 3):
        scaled = _found(q, np.ldexp(w, k))
        oracles.same_bits(scaled.w_hat, np.ldexp(once.w_hat, k))
        if once.scale is not None:
            np.testing.assert_array_equal(scaled.codes, once.codes)
            least = q.scale_format.name.startswith("e8m0") & (once.scale < 2.0**-120)  # of zeros: it has no less
            oracles.same_bits(scaled.scale, np.where(least, once.scale, np.ldexp(once.scale, k)))


def law_bits_are_bytes(q, w):
    found = _found(q, w)
    stored = oracles.packed_bytes(found.codes, q.format.bits)
    if found.scale is not None:
        stored += -(-found.scale.size * q.scale_format.bits // 8) + 4 * q.two_level
    if found.zero_point is not None:
        stored += oracles.packed_bytes(found.zero_point, q.format.bits)
    assert qs.QuantizedArray(found.codes, found.scale, found.zero_point, q).nbytes == stored
    assert q.bits_per_weight(w.shape) == 8 * stored / w.size


def law_gradient(q, w):
    """Straight through where the weight is in range, nothing where it clips."""
    c = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    found = _found(q, w, c)
    np.testing.assert_array_equal(found.gradient, np.where(found.clipped, 0, c))


def _symmetric(q) -> bool:
    """Odd by construction: levels and ties mirrored. Ties of codebooks go down, but no tie is drawn with fp4."""
    if isinstance(q.format, formats.Integer):
        mirrored = q.format.signed and q.format.bounds == "narrow"
        return mirrored and type(q.calibration) is not calibration.MinMax and q.rounding != "stochastic"
    return (
        isinstance(q.format, formats.Float | formats.Codebook)
        and q.format.name not in ("nf4", "af4")
        and q.rounding != "stochastic"
    )


def _projects(q) -> bool:
    """Idempotent: a cast, or a scale that the quantized block reproduces because its extremes are levels.

    absmax with bounds on which the extreme is a level, and minmax; percentile, mse and rms find another scale. A cast
    that truncates and one that is stochastic keep levels, but units of a scale are no exact levels for them.
    """
    if not getattr(q.format, "signed", True):  # the weight that a scale is made of may be one that clips
        return False
    if q.rounding not in ("even", "away") or q.scale_format.name not in ("f32", "tf32", "bf16", "f16"):
        return q.granularity is None and q.rounding == "truncate"
    bounds = getattr(q.format, "bounds", "narrow")
    return type(q.calibration) in (calibration.Absmax, calibration.MinMax) and bounds in ("narrow", "signed")


def _follows_powers_of_two(q) -> bool:
    """A cast to fewer exponent bits than float32 has its own smallest and largest value."""
    return q.granularity is not None or q.format.exponent_bits == 8


LAWS = {
    law_shape_and_type: lambda q: True,
    law_within_half_a_step: lambda q: True,
    law_idempotent: _projects,
    law_odd: _symmetric,
    law_power_of_two: _follows_powers_of_two,
    law_bits_are_bytes: lambda q: True,
    law_gradient: lambda q: True,
}


@pytest.mark.parametrize("text", CASES)
def test_laws(text):
    q = qs.parse(text)
    for law, claimed in LAWS.items():
        if claimed(q):
            law(q, _batch()[0])


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_no_law_is_idle(law):
    assert sum(LAWS[law](qs.parse(text)) for text in CASES) >= 10


# --- one bit pattern under every transformation ---------------------------------------------------------------------


@lru_cache
def _one(text: str):
    """Everything that a quantizer gives for one matrix: codes, scale, zero point, weights, statistics."""
    q = qs.parse(text)

    def one(w, key):
        key = key if q.rounding == "stochastic" else None
        qw = q.quantize(w, key=key)
        w_hat, again = qw.dequantize(), q.roundtrip(w, key=key)
        found = {"codes": qw.codes, "scale": _step(qw), "zero": qw.zero_point, "w_hat": w_hat, "roundtrip": again}
        return found | {"error": tallies.error(w, w_hat), "error of roundtrip": tallies.error(w, again)}

    return one


def _each(one, w, keys) -> dict:
    results = [one(w[i], keys[i]) for i in range(len(w))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


@lru_cache
def _expected(text: str) -> dict:
    """What every way must give for the four matrices; errors are those of NumPy."""
    q = qs.parse(text)
    each = [_found(q, w, key=key) for w, key in zip(_batch(), KEYS, strict=True)]
    found = Found(*(None if part[0] is None else np.stack(part) for part in zip(*each, strict=True)))
    names = {"codes": found.codes, "scale": found.scale, "zero": found.zero_point}
    error = found.w_hat - _batch()
    names |= {"w_hat": found.w_hat, "roundtrip": found.roundtrip, "error": error, "error of roundtrip": error}
    return {name: value for name, value in names.items() if value is not None}


def _interpreted(one, w, keys) -> dict:
    """The first matrix only: one operation after the other is slow."""
    with jax.disable_jit():
        found = one(jnp.asarray(_batch()[0]), KEYS[0])
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], found)


def _scanned(one, w, keys) -> dict:
    return lax.scan(lambda carry, pair: (carry, one(*pair)), 0, (w, keys))[1]


def _sharded(devices: int, inside, one, w, keys) -> dict:
    automatic, spec = (jax.sharding.AxisType.Auto,), PartitionSpec("data")
    mesh = jax.make_mesh((devices,), ("data",), automatic, devices=jax.devices()[:devices])
    return jax.jit(jax.shard_map(inside(one), mesh=mesh, in_specs=(spec, spec), out_specs=spec))(w, keys)


WAYS = {
    "disable_jit": _interpreted,
    "jit": lambda one, w, keys: _each(jax.jit(one), w, keys),
    "vmap": lambda one, w, keys: jax.vmap(one)(w, keys),
    "jit(vmap)": lambda one, w, keys: jax.jit(jax.vmap(one))(w, keys),
    "jit(scan)": lambda one, w, keys: jax.jit(partial(_scanned, one))(w, keys),
    "shard_map on 1": partial(_sharded, 1, jax.vmap),
    "shard_map on 2": partial(_sharded, 2, jax.vmap),
    "shard_map on 4": partial(_sharded, 4, jax.vmap),
    "shard_map(scan) on 2": partial(_sharded, 2, lambda one: partial(_scanned, one)),
}
#: Transformations of each kind, those that hold no other. More devices, or a loop on them, are one program with another
#: number of matrices, and what is compiled under ``jit`` alone is what ``vmap`` and ``scan`` transform.
EACH_KIND = ["vmap", "jit(scan)", "shard_map on 4", "shard_map(scan) on 2"]
#: All ways for one quantizer, which takes every step that others take but a search, a sort and scales of few bits.
ALL_WAYS = [
    *(("int8:channel:minmax", way) for way in WAYS if way != "disable_jit"),
    *((text, way) for text in ("int4:block32:p90", "e2m1:block16:absmax:e4m3") for way in EACH_KIND),
]
#: In blocks of the same shape, whose operations are compiled once, one by one.
WITHOUT_COMPILER = ["int4:block32:minmax:f16", "int4:block32:mse", "e4m3", "bf16:stochastic", "nf4:block32"]


def _check_way(text: str, way: str) -> None:
    got = WAYS[way](_one(text), jnp.asarray(_batch()), KEYS)
    for name, value in _expected(text).items():
        leaf, expected = np.asarray(got[name]), value[: len(got[name])].astype(got[name].dtype)
        bits = (part.view(np.uint8) for part in (leaf, expected))
        np.testing.assert_array_equal(*bits, err_msg=f"{name} of {text} under {way}")
    width = 8 * got["codes"].dtype.itemsize
    assert width < max(2 * qs.parse(text).format.bits, 16)  # the narrowest type there is


@pytest.mark.parametrize("text", [text for text in STRUCTURES[::3] if (text, "shard_map(scan) on 2") not in ALL_WAYS])
def test_one_bit_pattern_compiled_looped_and_sharded(text):
    _check_way(text, "shard_map(scan) on 2")


@pytest.mark.parametrize("text", STRUCTURES[1::7])
def test_laws_hold_for_what_the_public_functions_give(text):
    """Laws look at one program that gives everything; these are several."""
    q, w = qs.parse(text), _batch()[0]
    qw, found = q.quantize(w, key=_key(q)), _found(q, w)
    gradient = jax.grad(lambda x: q.roundtrip(x, key=_key(q)).sum())(w)
    given = Found(
        *(qw.codes, _step(qw), qw.zero_point, qw.dequantize(), q.roundtrip(w, key=_key(q))), gradient, q.clipped(w)
    )
    jax.tree.map(np.testing.assert_array_equal, given, found)


@pytest.mark.parametrize("text", WITHOUT_COMPILER)
def test_one_bit_pattern_without_a_compiler(text):
    _check_way(text, "disable_jit")


@pytest.mark.parametrize(("text", "way"), ALL_WAYS)
def test_one_bit_pattern_every_way(text, way):
    _check_way(text, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", CASES)
def test_one_bit_pattern_every_way_for_every_quantizer(text, way):
    _check_way(text, way)
