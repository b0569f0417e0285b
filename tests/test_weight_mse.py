"""theory.weight_mse against float64 NumPy on blocks of one to three weights and on populations of few values."""

from itertools import product

import numpy as np
import pytest

import quantsim as qs
from quantsim import formats
from quantsim.calibration import normal_reach
from quantsim.populations import Empirical, Laplace, Normal, Uniform
from quantsim.theory import weight_mse, weight_rel_mse, weights
from quantsim.theory.magnitudes import Panels
from quantsim.theory.scheme import AbsmaxScale, MinMaxScale, Scheme, TwoLevelScale
from tests import oracle_weights as oracle
from tests.oracle_weights import BF16, E2M1, E4M3, E5M0, F16, integers, stored_in

POPULATIONS = {"normal": Normal(), "laplace": Laplace(), "uniform": Uniform()}
NF4, FP4 = (formats.levels(formats.FORMATS[name]) for name in ("nf4", "fp4"))
F16_FORMAT, E4M3_FORMAT = formats.FORMATS["f16"], formats.FORMATS["e4m3"]


class Of:
    """A quantizer that is nothing but its scheme: blocks of two and three of formats whose blocks are longer."""

    def __init__(self, element, law, n):
        self.facts = Scheme(element, law, ((n, 1.0),))

    def scheme(self, shape):
        return self.facts


def narrow(bits):
    return integers(bits, lowest=False)


def unit(name):
    """Rms to scale."""
    fmt = formats.parse(name)
    return normal_reach(fmt) / formats.reach(fmt)


#: Scales without a unit: spec with {n} weights in a block, and its definition.
FREE = {
    "int2:block{n}": oracle.absmax(narrow(2), 1),
    "int3:block{n}": oracle.absmax(narrow(3), 3),
    "e2m1:block{n}": oracle.absmax(E2M1, 6),
    "nf4:block{n}": oracle.absmax(NF4, 1),
    "fp4:block{n}": oracle.absmax(FP4, 1),
    "int3:block{n}:absmax:half": oracle.absmax(integers(3), 3.5),
    "int3:block{n}:absmax:full": oracle.absmax(integers(3), 4),
    "int3:block{n}:absmax:signed": oracle.absmax(integers(3), 4, signed=True),
    "int2:block{n}:absmax:signed": oracle.absmax(integers(2), 2, signed=True),
    "int2:block{n}:absmax:truncate": oracle.absmax(narrow(2), 1, rounding=oracle.toward_zero),
    "int2:block{n}:minmax": oracle.minmax(2),
    "int3:block{n}:minmax": oracle.minmax(3),
    "int4:block{n}:minmax": oracle.minmax(4),
    "int2:block{n}:p50": oracle.percentile(narrow(2), 1, 50),
    "int4:block{n}:p90": oracle.percentile(narrow(4), 7, 90),
    "nf4:block{n}:p30": oracle.percentile(NF4, 1, 30),
    "int3:block{n}:p100": oracle.percentile(narrow(3), 3, 100),
}


@pytest.mark.parametrize("spec", FREE)
def test_pairs_over_their_angle(spec):
    tolerance = 1e-9 if ":absmax" not in spec and spec.count(":") == 1 else 1e-6
    tolerance = 3e-6 if ":p" in spec else tolerance
    for name, pop in POPULATIONS.items():
        expected = oracle.over_angles(FREE[spec], name)
        assert weight_rel_mse(pop, qs.parse(spec.format(n=2))) == pytest.approx(expected, rel=tolerance), name


@pytest.mark.parametrize("name", ["int2", "int4", "e2m1"])
def test_pairs_of_normal_weights_under_their_rms(name):
    levels = E2M1 if name == "e2m1" else narrow(int(name[3]))
    expected = oracle.over_angles(oracle.rms(levels, unit(name)), "normal")
    assert weight_rel_mse(Normal(), qs.parse(f"{name}:block2:rms")) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "rel"),
    [
        pytest.param("normal", 3e-5, marks=pytest.mark.slow),
        pytest.param("laplace", 1e-6, marks=pytest.mark.slow),
        ("uniform", 5e-4),
    ],
)
def test_zero_points_of_many_bits_take_their_phase_as_uniform(name, rel):
    expected = oracle.over_angles(oracle.minmax(6), name)
    assert weight_rel_mse(POPULATIONS[name], qs.parse("int6:block2:minmax")) == pytest.approx(expected, rel=rel)


#: Stored scales: quantizer, levels, what they are divided by, format of the scale, whether codes come before storing.
STORED = {
    "int3 in e4m3": (qs.parse("int3:block2:absmax:e4m3"), narrow(3), 3, E4M3, {}),
    "int2 in e5m0": (qs.parse("int2:block2:absmax:e5m0"), narrow(2), 1, E5M0, {}),
    "e2m1 in e4m3": (qs.parse("e2m1:block2:absmax:e4m3"), E2M1, 6, E4M3, {}),
    "int3, extreme": (qs.parse("int3:block2:absmax:e4m3:signed"), integers(3), 4, E4M3, {"signed": True}),
    "as q4_0": (
        Of(formats.Integer("int3", 3, "signed"), AbsmaxScale(4.0, E4M3_FORMAT, True, True), 2),
        *(integers(3), 4, E4M3, {"signed": True, "codes_exact": True}),
    ),
    "as q8_0": (
        *(Of(formats.Integer("int4", 4), AbsmaxScale(7.0, E4M3_FORMAT, codes_exact=True), 2), narrow(4), 7, E4M3),
        {"codes_exact": True},
    ),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("case", STORED.values(), ids=STORED.keys())
def test_pairs_under_stored_scales(case, name):
    q, levels, reach, facts, settings = case
    store = stored_in(facts)
    codes = (lambda t: t / reach) if settings.get("codes_exact") else None
    quantize = oracle.absmax(levels, reach, store=store, **settings)
    expected = oracle.over_magnitudes(quantize, name, levels, lambda t: store(t / reach), codes)
    assert weight_rel_mse(POPULATIONS[name], q) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rule", ["floor", "ceil", "even", "rceil"])
def test_pairs_under_powers_of_two(rule):
    scale = oracle.microscale(rule, 2, 1, 6)

    def quantize(w):
        s = scale(np.abs(w).max(axis=-1, keepdims=True))
        codes = oracle.nearest(w / s, E2M1)
        return E2M1[codes] * s, codes

    q = qs.parse("mxfp4" if rule == "floor" else f"mxfp4:{rule}")
    for name, pop in POPULATIONS.items():
        expected = oracle.over_magnitudes(quantize, name, E2M1, scale)
        assert weight_rel_mse(pop, q, (4, 2)) == pytest.approx(expected, rel=1e-7), name


# --- populations of few values --------------------------------------------------------------------------------------

VALUES = {
    "three": [-2.0, 0.55, 1.0],
    "zero": [-1.7, -0.3, 0.0, 0.41, 1.13],
    "equal magnitudes": [-1.0, 1.0, 0.27],
    "positive": [0.31, 1.0, 1.9, 2.23],
    "six": [-1.0, -0.617, -0.233, 0.151, 0.533, 1.307],
}
DISCRETE = FREE | {
    "int4:block{n}:absmax:f16:signed": oracle.absmax(integers(4), 8, store=stored_in(F16), signed=True),
    "int2:block{n}:absmax:bf16": oracle.absmax(narrow(2), 1, store=stored_in(BF16)),
    "e2m1:block{n}:absmax:e4m3": oracle.absmax(E2M1, 6, store=stored_in(E4M3)),
    "int4:block{n}:minmax:f16": oracle.minmax(4, store=stored_in(F16)),
    "int6:block{n}:minmax": oracle.minmax(6),
    "int4:block{n}:p50:e4m3": oracle.percentile(narrow(4), 7, 50, store=stored_in(E4M3)),
}


def few(values):
    return np.asarray(values, np.float32)


@pytest.mark.parametrize("spec", DISCRETE)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_blocks_of_few_values(spec, n):
    for name, values in VALUES.items():
        expected = oracle.over_all_blocks(DISCRETE[spec], few(values), n)
        found = weight_rel_mse(Empirical(values), qs.parse(spec.format(n=n)))
        assert found == pytest.approx(expected, rel=1e-5 if ":p" in spec else 1e-6, abs=1e-12), name


@pytest.mark.parametrize("stored", [None, F16_FORMAT])
def test_all_blocks_of_a_minimum_and_a_scale(stored):
    q = Of(formats.Integer("int3", 3), MinMaxScale(stored, zero_point=False), 3)
    quantize = oracle.affine(3, store=stored_in(F16) if stored else oracle.exactly)
    for name, v in VALUES.items():
        values = few(v).astype(np.float16)  # so that blocks of equal weights are exact
        expected = oracle.over_all_blocks(quantize, values, 3)
        assert weight_rel_mse(Empirical(values), q) == pytest.approx(expected, rel=1e-6, abs=1e-12), name


@pytest.mark.parametrize("total", [2, 4])
def test_all_tensors_of_few_values(total):
    """Two weights in a block; where they are the tensor, their scale is exact."""
    q = Of(formats.FORMATS["e2m1"], TwoLevelScale(6.0, E4M3_FORMAT, total), 2)
    for name in ("three", "equal magnitudes", "positive"):
        quantize = oracle.two_level(E2M1, 6, 2, stored_in(E4M3), 448)
        expected = oracle.over_all_blocks(quantize, few(VALUES[name]), total)
        assert weight_rel_mse(Empirical(VALUES[name]), q) == pytest.approx(expected, rel=2e-5, abs=1e-12), name
    whole = Of(formats.FORMATS["e2m1"], TwoLevelScale(6.0, E4M3_FORMAT, 2), 2)
    for pop in POPULATIONS.values():
        assert weight_rel_mse(pop, whole) == pytest.approx(weight_rel_mse(pop, qs.parse("e2m1:block2")), rel=1e-9)


@pytest.mark.parametrize("sign", ["random", "positive", "negative"])
@pytest.mark.parametrize("bounds", ["", ":absmax:signed"])
def test_outliers_of_one_size(bounds, sign):
    """Pairs by hand: both uniform; both outliers; one of each, whose scale is that of the outlier."""
    size, rate, q = 7.3, 0.2, qs.parse("int3:block2" + bounds)
    quantize = FREE["int3:block{n}" + bounds]
    outliers = {"random": (1, -1), "positive": (1,), "negative": (-1,)}[sign]
    x = np.linspace(-1, 1, 200_001)[:-1] * 3**0.5 + 3**0.5 / 200_000  # one half of a step off the ends

    def mean(pairs):
        return np.mean([np.mean((quantize(w)[0] - w) ** 2) for w in pairs])

    mixed = mean([np.stack([np.full(x.size, s * size), x], axis=-1) for s in outliers])
    both = mean([size * np.array([pair], float) for pair in product(outliers, repeat=2)])
    none = oracle.over_angles(quantize, "uniform")
    expected = (1 - rate) ** 2 * none + 2 * rate * (1 - rate) * mixed + rate**2 * both
    pop = Uniform().with_outliers(rate=rate, value=size, sign=sign)
    assert weight_mse(pop, q) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("e4m3:channel", "t3+outliers(rate=0.02,magnitude=5)"),
        ("int8:tensor", "laplace+outliers(rate=0.02,magnitude=5)"),
        ("int8:channel:clip0.8", "t5+outliers(rate=0.01,magnitude=5)"),
        ("nf4:block64", "t5+outliers(rate=0.001,magnitude=6)"),
    ],
)
def test_outliers_below_the_largest_of_a_block_are_followed_over_its_thresholds(spec, name, monkeypatch):
    """Panels that are cut in 16 give the same: outliers of one size change their error together, in teeth of a saw."""
    pop, q, shape = qs.populations.parse(name), qs.parse(spec), (32, 1024)
    found, rule = weight_mse(pop, q, shape), Panels.rule

    def cut(panels):
        width = (panels.high - panels.low)[:, None] / 16
        low = (panels.low[:, None] + width * np.arange(16)).ravel()
        finer = panels.take(np.arange(panels.low.size).repeat(16))
        t, weight = rule(finer._replace(low=low, high=low + width.repeat(16)))
        return t.reshape(panels.low.size, -1), weight.reshape(panels.low.size, -1)

    monkeypatch.setattr(Panels, "rule", cut)
    weights._of_blocks.cache_clear()
    assert weight_mse(pop, q, shape) == pytest.approx(found, rel=1e-9)
    weights._of_blocks.cache_clear()
