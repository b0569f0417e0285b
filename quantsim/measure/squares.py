"""Signal and error of independent arrays: the sums of squares that SQNRs and paired gains are made of."""

from __future__ import annotations  # jaxtyping cannot take NumPy 2.5's NDArray apart

from collections.abc import Iterable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from quantsim._types import PRNGKey, Weights
from quantsim.measure.ratios import Estimate, decibels
from quantsim.measure.tallies import tally
from quantsim.quantizer.face import AbstractQuantizer

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Squares:
    """Of each of several independent arrays the sum of w^2 and that of e^2, in float64.

    >>> a = Squares(signal=np.array([100.0, 100.0]), error=np.array([1.0, 1.0]))
    >>> a.sqnr_db, a.and_more(a).error.tolist()
    (Estimate(value=20.0, se=0.0), [1.0, 1.0, 1.0, 1.0])
    """

    signal: Float[NDArray[np.float64], " arrays"]
    error: Float[NDArray[np.float64], " arrays"]

    @property
    def sqnr_db(self) -> Estimate:
        """10 log10 of sum w^2 over sum e^2, arrays being the units of its standard error."""
        return decibels(self.signal, self.error)

    def and_more(self, other: "Squares") -> "Squares":
        """Those of both sets of arrays."""
        return Squares(np.append(self.signal, other.signal), np.append(self.error, other.error))


def squares(arrays: Iterable[Weights | F32], q: AbstractQuantizer, keys: Iterable[PRNGKey | None] = ()) -> Squares:
    """Sums of squares of the arrays and of their errors under a quantizer, for weights whose squares float32 holds.

    Args:
        arrays: arrays of one shape, each quantized by itself.
        q: quantizer.
        keys: one for each array, for stochastic rounding.

    >>> import quantsim as qs
    >>> w = qs.populations.Normal().sample(qs.populations.key(0), (4, 64, 1024))
    >>> found = squares(w, qs.parse("int8:block32"))
    >>> found.error.shape, abs(found.sqnr_db.value - 45.44) < 0.1
    ((4,), True)
    """
    given = iter(keys)
    pairs = ((w, q.roundtrip(w, key=next(given, None))) for w in arrays)
    return squares_of_pairs(pairs)


def squares_of_pairs(pairs: Iterable[tuple[Weights | F32, Weights | F32]]) -> Squares:
    """Sums of squares of each array and of its error, from pairs of an array and what it became.

    >>> squares_of_pairs([(np.array([3.0, 4.0], np.float32), np.array([3.0, 5.0], np.float32))])
    Squares(signal=array([25.]), error=array([1.]))
    """
    # flat, so that one program serves all shapes of one size
    tallies = [tally(jnp.asarray(w).reshape(-1), jnp.asarray(w_hat).reshape(-1)) for w, w_hat in pairs]
    return Squares(
        np.array([np.asarray(t.w2, np.float64).sum() for t in tallies]),
        np.array([np.asarray(t.e2, np.float64).sum() for t in tallies]),
    )
