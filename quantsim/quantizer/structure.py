"""What of a quantizer is static and what is a number: one program serves all that differ in numbers.

``split_quantizer`` takes the numbers out and leaves a structure, which is hashable; ``rebuild_quantizer`` puts numbers,
traced or not, back in. Two quantizers of one structure run through one compiled program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Float as Floats

from quantsim._types import Number
from quantsim.formats import SPECIALS, Bounds, Float, Grid, Integer, Traced, bounds, grid, reach
from quantsim.populations.structure import Structure

#: The numbers of a quantizer, in the order of its structure.
Numbers: TypeAlias = Floats[Array | np.ndarray, " k"]
#: Takes the next of the numbers that a structure was parted from.
Take: TypeAlias = Callable[[], Any]


def split_quantizer(q: Any) -> tuple[Structure, tuple[Number, ...]]:
    """Structure and numbers of a quantizer: bits, exponents and range of its elements and scales, and clip ratio.

    Codebooks, formats with the exponent of float32 and block formats are static as a whole, and so is ``rms``, whose
    reach is a constant of the format.

    >>> from quantsim.quantizer import parse
    >>> split_quantizer(parse("int4:block32"))[1], split_quantizer(parse("int4:block32:clip0.5"))[1]
    ((-7.0, 7.0, 7.0), (-7.0, 7.0, 7.0, 0.5))
    >>> split_quantizer(parse("e4m3:block32"))[0] == split_quantizer(parse("e5m2:block32"))[0]
    True
    """
    return q._split()


def rebuild_quantizer(structure: Structure, numbers: Numbers) -> Any:
    """The quantizer of a structure and a vector of numbers, which may be traced."""
    if not isinstance(structure.kind, type):
        return structure.kind
    given = iter(jnp.asarray(numbers))
    return structure.kind._rebuilt(dict(structure.parts), lambda: next(given))


def parted(q: Any) -> tuple[Structure, Numbers]:
    """Structure of a quantizer, and its numbers as the float32 vector that a program takes, traced if one is."""
    structure, numbers = split_quantizer(q)
    if any(isinstance(v, jax.Array) for v in numbers):
        return structure, jnp.stack([jnp.asarray(v, jnp.float32) for v in numbers])
    return structure, np.array(numbers, np.float32)


# --- element formats ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What of a format stays static when its facts are numbers: the convention of an integer, None of a float."""

    bounds: Bounds | None


def has_numbers(fmt: Any) -> bool:
    """Whether one arithmetic kernel rounds it: an integer, or a float of fewer than eight exponent bits with a -0."""
    if isinstance(fmt, Float):
        return fmt.exponent_bits < 8 and fmt.specials != "fnuz"
    return isinstance(fmt, Integer | Traced)


def numbers_of(fmt: Any) -> tuple[Number, ...]:
    """The facts of an integer or small float that programs take as numbers, in the order in which ``traced`` does."""
    facts = grid(fmt)
    if bounds(fmt) is not None:  # of an integer the rounding kernel reads the range only
        return (facts.low, facts.high, reach(fmt))
    if isinstance(fmt, Traced):
        return tuple(jnp.float32(v) for v in (*facts, fmt.reach, fmt.exponent_bits, fmt.specials))
    return (*map(float, facts), reach(fmt), float(fmt.exponent_bits), float(SPECIALS.index(fmt.specials)))


def traced(kind: Kind, take: Take) -> Traced:
    """The format of a kind whose facts are the next numbers."""
    if kind.bounds is not None:
        return Traced(Grid(0, 0, take(), take()), take(), kind.bounds)
    facts = Grid(_whole(take()), _whole(take()), take(), take())
    return Traced(facts, take(), None, _whole(take()), _whole(take()))


def _whole(number: Any) -> Any:
    return number.astype(jnp.int32)
