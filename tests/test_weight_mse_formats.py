"""theory.weight_mse over the scale formats: a sample of their combinations, chosen by hash, against measurements."""

import hashlib
import itertools

import jax
import numpy as np
import pytest
from scipy import stats

import quantsim as qs
from quantsim.sweep import measure
from quantsim.theory import weight_mse

ELEMENTS = ("int4", "int8", "int3", "e2m1", "e1m2", "e3m0", "nf4", "e4m3")
POWERS = ("e8m0:floor", "e8m0:even", "e8m0:ceil", "e8m0:rceil")
SCALES = (*POWERS, "ue4m3", "ue5m3", "ue4m3+f32", "ue5m3+f32", "e4m3+f32", "bf16", "f16")
COMBINATIONS = [
    f"{element}:block{size}:{rule}:{scale}"
    for element, size, rule, scale in itertools.product(ELEMENTS, (8, 16, 32, 128), ("absmax", "clip0.9"), SCALES)
    if (element, scale) != ("nf4", "e8m0:even")  # a codebook has no digits
]
FOUR_OVER_SIX = [f"e2m1:block16:fouroversix:{scale}" for scale in ("f32", "ue4m3", "e4m3+f32")]
#: At .002 scales of ue4m3 collapse; t3 has no fourth moment, so that its standard errors are too small now and then.
POPULATIONS = (
    *(f"{name}(std={std})" for std in ("1", "0.02", "0.002") for name in ("normal", "laplace", "t5", "t3", "uniform")),
    "normal(std=0.02)+outliers(rate=0.001,magnitude=10)",
)
SHAPE, ARRAYS = (256, 1024), 40  # 10^7 weights


def chosen(name, count):
    """Combinations for a population, always the same."""
    return sorted(COMBINATIONS, key=lambda spec: hashlib.sha256(f"|{name}|{spec}".encode()).hexdigest())[:count]


@pytest.mark.slow
def test_scale_formats_on_every_population():
    """Residuals within k = 4.5 standard errors; of those that share weights one for each population has its spread."""
    found, one_each = {}, []
    for i, name in enumerate(POPULATIONS):
        pop, group = qs.populations.parse(name), [*map(qs.parse, chosen(name, 13)), qs.parse(FOUR_OVER_SIX[i % 3])]
        measured = measure(pop, group, shape=SHAPE, arrays=ARRAYS)
        z = [(m.mse - weight_mse(pop, q, SHAPE)) / m.mse_se for m, q in zip(measured, group, strict=True)]
        found |= {(name, str(q)): v for q, v in zip(group, z, strict=True)}
        one_each.append(z[i % len(z)])
        jax.clear_caches()
    worst = max(found, key=lambda at: abs(found[at]))
    print(f"{len(found)} points, largest {found[worst]:.2f} at {worst}, std {np.std(list(found.values())):.2f}")
    assert len(found) > 200
    assert abs(found[worst]) < 4.5, worst
    assert stats.kstest(one_each, stats.t(ARRAYS - 1).cdf).pvalue > 1e-3
