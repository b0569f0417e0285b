"""Reaches of least error, as a quantizer can have them."""

import numpy as np

from quantsim import theory
from quantsim._types import ArrayLike
from quantsim.populations import Population


def best_reach(pop: Population, levels: ArrayLike) -> float:
    """``theory.best_reach`` rounded to float32.

    The error around its minimum is so flat that the last digits of a float64 move with the order in which sums are
    taken, which NumPy takes from where an array lies in memory; and quantizers compute in float32.
    """
    return float(np.float32(theory.best_reach(pop, levels)))
