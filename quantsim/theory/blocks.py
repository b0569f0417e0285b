"""Weights together with the extreme of their block: expectations over formats whose scale follows from it."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from quantsim.populations import Population
from quantsim.populations.parameters import F64

_GOLDEN = (1 + 5**0.5) / 2


@lru_cache(8)
def _points(pop: Population, n: int, count: int) -> tuple[F64, F64]:
    """Weights that are not their block's extreme, and the extremes, with either sign: equally likely pairs."""
    i = np.arange(count)
    p, u = (i + 0.5) / count, (i * round(count / _GOLDEN) % count + 0.5) / count
    top = -pop.quantile(-np.expm1(np.log(p) / n) / 2)
    beyond = pop.tail(top) / 2
    x = pop.quantile(beyond + u * (1 - 2 * beyond))
    return x, np.where(i % 2 == 1, top, -top)


def block_mean(pop: Population, n: int, cost: Callable[[F64, F64], F64], *, points: int = 196418) -> float:
    """Mean of ``cost(weight, extreme)`` over blocks of n weights, the extreme being the largest by magnitude, signed.

    One weight of n is the extreme t itself, the others follow the population within [-|t|, |t|]. The mean is taken
    over a Fibonacci lattice in the probabilities of t and of the weight, by default to about 3e-4 of the squared error
    of int8, whose cells are narrow, and better for coarser formats.

    Args:
        pop: symmetric population with a quantile function.
        n: weights in a block; 1 for a cast without scale, where weight and extreme are the same.
        cost: of arrays of weights and extremes, for example the squared error of a format.
        points: of the lattice, a Fibonacci number.

    Raises:
        ValueError: if n < 1.

    >>> from quantsim.populations import Uniform
    >>> round(block_mean(Uniform(3**-0.5), 3, lambda x, t: abs(t)), 6)  # n / (n + 1)
    0.75
    >>> round(block_mean(Uniform(3**-0.5), 3, lambda x, t: x * x), 5)
    0.33333
    """
    if n < 1:
        raise ValueError(f"a block has at least one weight, got n = {n}")
    x, top = _points(pop, n, points)
    others = np.mean(cost(x, top)) if n > 1 else 0.0
    return float((np.mean(cost(top, top)) + (n - 1) * others) / n)
