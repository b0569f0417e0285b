"""Absmax scales: the largest of n weights, and the error of integers that its step predicts."""

from quantsim.populations import Population, expected_absmax_power


def expected_absmax(pop: Population, n: int) -> float:
    """E[max |w_i|] of n independent weights, in their unit.

    Raises:
        ValueError: if n < 1.

    >>> from quantsim.populations import Uniform, Normal
    >>> round(expected_absmax(Uniform(3**-0.5), 99), 9)  # n / (n + 1)
    0.99
    >>> round(expected_absmax(Normal(), 1), 9)  # sqrt(2 / pi)
    0.797884561
    """
    if n < 1:
        raise ValueError(f"a block has at least one weight, got n = {n}")
    return expected_absmax_power(pop, n, 1)


def absmax_int_mse(pop: Population, n: int, bits: int) -> float:
    """Mean squared error of symmetric absmax integers in blocks of n, uniform-noise model.

    ``E[step^2] / 12 * (n - 1) / n`` with ``step = absmax / (2^(bits-1) - 1)``: the extreme itself has no error, and the
    others' errors are uniform within their step (Bennett, 1948), which needs a step well below the standard deviation.

    >>> from quantsim.populations import Uniform
    >>> round(absmax_int_mse(Uniform(3**-0.5), 10**6, 8) * 12 * 127**2, 4)
    1.0
    """
    if n < 1:
        raise ValueError(f"a block has at least one weight, got n = {n}")
    step2 = expected_absmax_power(pop, n, 2) / (2.0 ** (bits - 1) - 1) ** 2
    return step2 / 12 * (n - 1) / n
