"""What may be given to a sweep, one value or several, and the words with which anything else is refused."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

from quantsim import populations as pops
from quantsim._types import Shape
from quantsim.populations import Population
from quantsim.quantizer import parse
from quantsim.quantizer.face import AbstractQuantizer


def populations(given: Any) -> tuple[Population, ...]:
    """Populations of populations or specs, or of a single one.

    Raises:
        TypeError: for anything else.
        ValueError: for a spec that is none.

    >>> populations("t5"), populations(["normal"])
    ((StudentT(df=5.0, std=1.0),), (Normal(std=1.0),))
    """
    return tuple(_population(p) for p in _several(given, "a population or its spec", (str, Population)))


def _population(given: Any) -> Population:
    if isinstance(given, Population):
        return given
    if not isinstance(given, str):
        raise TypeError(f"a population or its spec is wanted, for example 'normal', not {given!r}")
    return pops.parse(given)


def quantizers(given: Any) -> tuple[AbstractQuantizer, ...]:
    """Quantizers of quantizers or specs, or of a single one.

    Raises:
        TypeError: for anything else.
        ValueError: for a spec that is none.

    >>> quantizers("q4_0")
    (BlockFormat('q4_0'),)
    """
    return tuple(parse(q) for q in _several(given, "a quantizer or its spec", (str, AbstractQuantizer)))


def seeds(given: Any) -> tuple[int, ...]:
    """Whole numbers, or a single one, of Python or NumPy.

    Raises:
        TypeError: for what is no number and no numbers.
        ValueError: for a number that is not whole.

    >>> import numpy as np
    >>> seeds(np.int64(3)), seeds(range(2)), seeds(np.arange(2))
    ((3,), (0, 1), (0, 1))
    """
    several = (given,) if getattr(given, "ndim", None) == 0 else _several(given, "a seed", (numbers.Number, str))
    return tuple(whole(seed, "a seed") for seed in several)


def shapes(given: Any) -> tuple[Shape, ...]:
    """Shapes of arrays.

    Raises:
        TypeError: for what is no list of shapes.
        ValueError: for a size that is not whole.

    >>> shapes([(4, 8), [16]])
    ((4, 8), (16,))
    """
    return tuple(shape(one) for one in _several(given, "a shape"))


def shape(given: Any) -> Shape:
    """Shape of an array: its sizes."""
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise TypeError(f"a shape of a sweep is several sizes, for example (256, 1024), not {given!r}")
    return tuple(whole(size, "a size") for size in given)


def whole(value: Any, what: str) -> int:
    """A whole number, of Python, NumPy or JAX, also as a float such as 1e9.

    Raises:
        ValueError: for anything else.

    >>> whole(1e3, "the number of weights")
    1000
    """
    plain = value.item() if getattr(value, "ndim", None) == 0 else value
    number = isinstance(plain, int | float) and not isinstance(plain, bool)
    if not number or not math.isfinite(plain) or plain != int(plain):
        raise ValueError(f"{what} of a sweep is a whole number, not {value!r}")
    return int(plain)


def truth(value: Any, what: str) -> bool:
    """True or false, of Python or NumPy.

    Raises:
        ValueError: for anything else.
    """
    plain = value.item() if getattr(value, "ndim", None) == 0 else value
    if not isinstance(plain, bool):
        raise ValueError(f"{what} of a sweep is true or false, not {value!r}")
    return plain


def _several(given: Any, what: str, single: tuple[type, ...] = ()) -> Iterable[Any]:
    """The values of a list or another iterable; one value of a type that may stand alone."""
    if isinstance(given, single):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise TypeError(f"a sweep wants {what}, or several, not {given!r}")
    return given
