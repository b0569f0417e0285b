"""Parameters of populations: numbers that are checked, spelled, and traced where a sweep goes over them."""

from math import inf
from numbers import Real
from typing import Any, TypeAlias

import jax
import numpy as np
from numpy.typing import NDArray

from quantsim._types import Number

F64: TypeAlias = NDArray[np.float64] | np.float64  # what NumPy makes of an array, and of a number
Vector: TypeAlias = NDArray[np.float64]


def check_number(name: str, value: Any) -> None:
    """Raise unless ``value`` is one real number, traced or not.

    Raises:
        TypeError: for text, arrays of several numbers, and whatever else is no number.
    """
    if isinstance(value, jax.Array | np.ndarray):
        if value.ndim == 0 and np.issubdtype(value.dtype, np.number):
            return
        raise TypeError(f"{name} is one number, got an array of shape {value.shape} and type {value.dtype}")
    if not isinstance(value, Real):
        raise TypeError(f"{name} is a number, got {value!r}")


def check_std(std: Number) -> None:
    """Raise unless the standard deviation is positive and finite, or traced.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not positive and finite.
    """
    check_number("the standard deviation", std)
    if not isinstance(std, jax.Array) and not 0 < std < inf:
        raise ValueError(f"the standard deviation must be positive and finite, got {std}")


def spell(number: Number) -> str:
    """The fewest digits that ``float`` reads back as the same number.

    >>> spell(100.0), spell(1 / 3)
    ('100', '0.3333333333333333')
    """
    return str(number) if isinstance(number, jax.Array) else repr(float(number)).removesuffix(".0")


def std_suffix(std: Number) -> str:
    """What a spec says of the standard deviation: nothing if it is 1.

    >>> std_suffix(1.0), std_suffix(0.02)
    ('', '(std=0.02)')
    """
    return "" if not isinstance(std, jax.Array) and std == 1.0 else f"(std={spell(std)})"


def is_static(spec: Any) -> bool:
    """Whether every parameter is a number, so that the population can be a key of a cache."""
    try:
        hash(spec)
    except TypeError:  # a traced field, in a sweep over it
        return False
    return True
