"""Allocations under a budget: against every choice there is, and against every uniform one."""

import itertools

import numpy as np
import pytest

from quantsim.inspection.budget import Choice, NoRoomError, allocate, frontier, hull

FORMATS = {"q2": 2.6, "q3": 3.4, "q4": 4.5, "q5": 5.5, "q8": 8.5}


def model(seed, most=6):
    """A few tensors of random sizes whose damage falls with bits, not always along a convex line."""
    rng = np.random.default_rng(seed)
    options = {}
    for t in range(rng.integers(1, most)):
        size, sensitivity = rng.integers(10, 2000), rng.exponential()
        chosen = rng.choice(list(FORMATS), rng.integers(1, len(FORMATS) + 1), replace=False)
        noise = rng.lognormal(sigma=0.5, size=len(chosen))
        options[f"t{t}"] = [
            Choice(f, float(size * FORMATS[f]), float(sensitivity * 4.0 ** -FORMATS[f] * n))
            for f, n in zip(chosen, noise, strict=True)
        ]
    return options


def everything(options):
    for chosen in itertools.product(*options.values()):
        yield sum(c.bits for c in chosen), sum(c.damage for c in chosen)


@pytest.mark.parametrize("seed", range(40))
def test_nothing_within_the_budget_does_less_damage(seed):
    options = model(seed)
    found = list(everything(options))
    smallest, largest = min(found)[0], max(found)[0]
    for part in (0.0, 0.3, 0.7, 1.0):
        budget = smallest + part * (largest - smallest)
        best = min(damage for bits, damage in found if bits <= budget)
        allocation = allocate(options, budget)
        assert allocation.bits <= budget
        assert allocation.damage <= best * (1 + 1e-5)  # the gap at which the integer program stops
        chosen = [next(c for c in options[name] if c.format == f) for name, f in allocation.formats.items()]
        assert np.isclose(sum(c.damage for c in chosen), allocation.damage)
        assert np.isclose(sum(c.bits for c in chosen), allocation.bits)


@pytest.mark.parametrize("seed", range(10))
def test_the_frontier_lies_below_every_choice(seed):
    options = model(seed)
    bits, damage = np.array(frontier(options)).T
    assert (np.diff(bits) > 0).all()
    assert (np.diff(damage) < 0).all()
    slopes = np.diff(damage) / np.diff(bits)
    assert (np.diff(slopes) >= -1e-12).all()
    for b, d in everything(options):
        assert d >= np.interp(b, bits, damage) * (1 - 1e-9)


def test_no_worse_than_any_format_for_all():
    rng = np.random.default_rng(0)
    options = {
        f"t{t}": [Choice(f, n * b, s * 4.0**-b) for f, b in FORMATS.items()]
        for t, (n, s) in enumerate(
            zip(rng.integers(1e3, 1e7, 300).tolist(), rng.exponential(size=300).tolist(), strict=True)
        )
    }
    for number, _ in enumerate(FORMATS):
        uniform = [choices[number] for choices in options.values()]
        found = allocate(options, sum(c.bits for c in uniform))
        assert found.damage <= sum(c.damage for c in uniform)


def test_a_budget_below_the_smallest_formats():
    with pytest.raises(NoRoomError, match="add smaller formats"):
        allocate({"a": [Choice("q4", 40.0, 1.0)]}, 39.0)


def test_equal_bits_and_useless_formats_leave_the_hull():
    choices = [Choice("a", 4.0, 2.0), Choice("b", 4.0, 1.0), Choice("c", 5.0, 1.0), Choice("d", 8.0, 0.5)]
    assert [c.format for c in hull(choices)] == ["b", "d"]
