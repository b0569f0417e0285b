"""Weights of unequal size under one step: shares of the extreme and errors against simulated blocks."""

import numpy as np
import pytest

from quantsim import theory

BLOCKS = 20_000


@pytest.mark.parametrize("sizes", [[1.0, 1.0, 3.0, 0.2], [10.0] + [1.0] * 31, [1.0] * 8])
def test_shares_are_those_of_simulated_blocks(sizes):
    """Within 4 standard errors of a share of 20 000 blocks; they add up to 1."""
    w = np.random.default_rng(0).standard_normal((BLOCKS, len(sizes))) * sizes
    found = np.bincount(np.abs(w).argmax(1), minlength=len(sizes)) / BLOCKS
    expected = theory.extreme_shares(sizes)
    assert expected.sum() == pytest.approx(1, abs=1e-12)
    top = np.square(np.abs(w).max(1))
    squared = np.bincount(np.abs(w).argmax(1), top, minlength=len(sizes)) / top.sum()
    assert np.abs(theory.extreme_shares(sizes, 2) - squared).max() < 0.03  # four standard errors, and a little
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / BLOCKS) + 1e-12).all()


@pytest.mark.parametrize(("bits", "sizes"), [(8, [1.0] * 16), (8, [100.0] + [1.0] * 31), (4, [4.0] * 2 + [1.0] * 30)])
def test_errors_are_those_of_simulated_blocks(bits, sizes):
    """The mean over a block, weighted by size: within 2 % for 8 bits and 4 % for 4, where the step of the mean square
    stands for steps that vary from block to block; Monte Carlo is below 1 %."""
    w = np.random.default_rng(1).standard_normal((BLOCKS, len(sizes))) * sizes
    step = np.abs(w).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    errors = ((np.round(w / step) * step - w) ** 2).mean(0)
    expected = theory.unequal_int_mse(sizes, bits)
    weight = 1 / np.square(sizes)
    assert (errors @ weight) == pytest.approx(expected @ weight, rel=0.02 if bits == 8 else 0.04)
