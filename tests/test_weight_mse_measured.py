"""theory.weight_mse against weights that went through the quantizers: each law quickly, every quantizer slowly."""

from functools import lru_cache

import jax
import numpy as np
import pytest
from scipy import stats

import quantsim as qs
from quantsim.measure import statistics
from quantsim.populations import key
from quantsim.quantizer import blockformats
from quantsim.sweep import measure
from quantsim.theory import has_weight_theory, weight_mean_abs, weight_mse
from tests import test_contract

POPULATIONS = (
    *("normal", "laplace", "uniform", "t12", "gennorm(beta=0.7)", "mixture(0.9*normal+0.1*normal(std=3))"),
    *("normal+outliers(rate=0.01,magnitude=20)", "normal+outliers(rate=0.01,magnitude=20,values=spread)"),
)
SHAPE = (256, 4096)  # 2^20 weights
#: One quantizer for each law.
LAWS = (
    *("bf16", "e2m1", "int4:block32", "int4:block32:absmax:f16:signed", "mxfp4", "nvfp4", "q4_1", "q8_0"),
    *("int4:block32:minmax", "int4:block32:p90"),
)
SLOW = ("nvfp4", "q4_1", "int4:block32:minmax", "int4:block32:p90")


@lru_cache
def weights(name):
    return np.asarray(qs.populations.parse(name).sample(key(23), SHAPE))


def compare(errors_of_weights, expected, count=4.5):
    """Mean over rows of 4096 weights, within standard errors over the rows."""
    each = errors_of_weights.mean(axis=1)
    assert abs(each.mean() - expected) < count * each.std(ddof=1) / np.sqrt(each.size)


@pytest.mark.parametrize("spec", LAWS)
def test_each_law_on_every_population(spec):
    """80 comparisons, each of which fails once in 150,000 by chance; every third population where theory is slow."""
    q, first = qs.parse(spec), LAWS.index(spec) % 3
    for name in POPULATIONS[first::3] if spec in SLOW else POPULATIONS:
        pop, w = qs.populations.parse(name), weights(name)
        error = np.asarray(q.roundtrip(w), np.float64) - w
        compare(error**2, weight_mse(pop, q, SHAPE))
        if spec in ("e2m1", "int4:block32", "mxfp4", "q8_0"):
            compare(np.abs(error), weight_mean_abs(pop, q, SHAPE))


@pytest.mark.parametrize(
    "spec",
    ["int3:block32:rms:bf16", "bf16:stochastic", "int4:block32:absmax:stochastic", "int4:block32:absmax:truncate"],
)
def test_other_laws_on_normal_weights(spec):
    q, w = qs.parse(spec), weights("normal")
    error = np.asarray(q.roundtrip(w, key=key(3) if q.rounding == "stochastic" else None), np.float64) - w
    compare(error**2, weight_mse(qs.populations.Normal(), q, SHAPE))


@pytest.mark.parametrize("std", [1e-6, 2.0**-15])
@pytest.mark.parametrize("spec", ["q8_0", "q4_0", "q4_1"])
def test_scales_that_are_subnormal_or_zero(spec, std):
    w = weights("normal") * np.float32(std)
    error = np.asarray(qs.parse(spec).roundtrip(w), np.float64) - w
    compare(error**2, weight_mse(qs.populations.Normal(std), qs.parse(spec)))


# --- every quantizer ------------------------------------------------------------------------------------------------

ARRAYS, SEEDS = 16, 24  # 384 arrays of 2^18 weights, 10^8
SWEPT = (256, 1024)


def _theory(pop, specs):
    """Quantizers that have one, with what it says."""
    quantizers = map(qs.parse, specs)
    return [(q, weight_mse(pop, q, SWEPT)) for q in quantizers if has_weight_theory(pop, q, SWEPT)]


def _residuals(pop, group, first):
    """Of each quantizer over all arrays, and for each seed of one quantizer that the seed chooses."""
    totals, chosen = [statistics.init() for _ in group], []
    for seed in range(first, first + SEEDS):
        measured = measure(pop, [q for q, _ in group], shape=SWEPT, arrays=ARRAYS, seed=seed)
        totals = [statistics.merge(a, b) for a, b in zip(totals, measured, strict=True)]
        one = seed % len(group)
        chosen.append(_z(measured[one], group[one][1]))
    return [_z(s, mse) for s, (_, mse) in zip(totals, group, strict=True)], chosen


def _z(measured, expected):
    if measured.mse_se == 0:
        return 0.0 if measured.mse == expected else np.inf
    return (measured.mse - expected) / measured.mse_se


@pytest.mark.slow
def test_every_quantizer_on_every_population():
    """Largest residual of 10^8 weights each, and the distribution of residuals that share no weights.

    Quantizers on the same arrays err together, so the distribution takes one of them for each seed.
    """
    largest, independent, names = [], [], []
    for name in POPULATIONS:
        pop = qs.populations.parse(name)
        known = _theory(pop, [*test_contract.CASES[1:], *blockformats.SPECS])
        for first in range(0, len(known), 12):
            group = known[first : first + 12]
            z, chosen = _residuals(pop, group, first * SEEDS)
            largest += z
            names += [(name, str(q)) for q, _ in group]
            independent += chosen
        jax.clear_caches()
    worst = int(np.argmax(np.abs(largest)))
    bound = stats.norm.isf(1e-3 / 2 / len(largest))
    ks = stats.kstest(independent, stats.t(ARRAYS - 1).cdf)
    print(f"{len(largest)} points, largest {largest[worst]:.2f} at {names[worst]}, bound {bound:.2f}; {ks.pvalue:.3f}")
    assert len(largest) > 500
    assert abs(largest[worst]) < bound, names[worst]
    assert ks.pvalue > 1e-3
