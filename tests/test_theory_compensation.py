"""The output error after compensation, against conditional variances one by one, least squares and simulated tokens."""

import numpy as np
import pytest

from quantsim import theory


def second_moment(size, seed=0):
    a = np.random.default_rng(seed).standard_normal((size, 2 * size))
    return a @ a.T / (2 * size)


def test_it_is_the_sum_of_conditional_variances():
    """Each by its own solve: S_jj - S_jF S_FF⁻¹ S_Fj, in two orders."""
    s = second_moment(12)
    for order in (np.arange(12), np.random.default_rng(1).permutation(12)):
        total = 0.0
        for k, j in enumerate(order):
            free = order[k + 1 :]
            taken = s[j, free] @ np.linalg.solve(s[np.ix_(free, free)], s[free, j]) if free.size else 0.0
            total += s[j, j] - taken
        assert theory.compensated_output_mse(s, 0.25, order=order) == pytest.approx(0.25 * total, rel=1e-12)


def test_with_damping_it_counts_what_the_damped_fit_does():
    """Column by column by ridge regression in float64, its error on the true S."""
    s, damping = second_moment(10, 2), 0.3
    used = s + damping * np.diag(s).mean() * np.eye(10)
    total = 0.0
    for j in range(10):
        error = np.zeros(10)
        error[j], free = 1.0, np.arange(j + 1, 10)
        error[free] = -np.linalg.solve(used[np.ix_(free, free)], used[free, j])
        total += error @ s @ error
    assert theory.compensated_output_mse(s, 1.0, damping=damping) == pytest.approx(total, rel=1e-12)


def test_white_inputs_leave_nothing_to_compensate():
    assert theory.compensated_output_mse(np.eye(9) * 2, 0.5) == pytest.approx(9.0, rel=1e-14)


def test_no_order_beats_the_natural_one_of_an_autoregressive_process():
    s = 0.8 ** abs(np.arange(32)[:, None] - np.arange(32))
    natural = theory.compensated_output_mse(s, 1.0)
    assert natural == pytest.approx(31 * (1 - 0.8**2) + 1, rel=1e-12)
    rng = np.random.default_rng(0)
    assert all(theory.compensated_output_mse(s, 1.0, order=rng.permutation(32)) > natural for _ in range(20))


@pytest.mark.parametrize("tokens", [24, 64])
def test_factors_of_fitting_on_tokens_are_those_of_simulated_regressions(tokens):
    """Last columns first: k later ones of 12 normal inputs, 1000 fits; means within 4 standard errors."""
    rng, size, fits = np.random.default_rng(3), 12, 1000
    shown, fresh = np.zeros(fits), np.zeros(fits)
    for i in range(fits):
        x = rng.standard_normal((tokens, size))
        for j in range(size):
            later = x[:, j + 1 :]
            b = np.linalg.lstsq(later, x[:, j], rcond=None)[0] if later.shape[1] else np.zeros(0)
            shown[i] += np.mean((x[:, j] - later @ b) ** 2) / size
            fresh[i] += (1 + b @ b) / size
    for found, expected in zip((shown, fresh), theory.fitted_on_tokens(size, tokens), strict=True):
        assert abs(found.mean() - expected) < 4 * found.std() / fits**0.5


def test_what_it_does_not_take():
    with pytest.raises(ValueError, match=r"\(in, in\) matrix"):
        theory.compensated_output_mse(np.ones((2, 3)), 1.0)
    with pytest.raises(ValueError, match="singular"):
        theory.compensated_output_mse(np.zeros((3, 3)), 1.0)
    with pytest.raises(ValueError, match="more tokens than inputs"):
        theory.fitted_on_tokens(8, 8)
