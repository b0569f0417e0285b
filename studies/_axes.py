"""Values along which studies sweep."""

import numpy as np


def logarithmic(low: float, high: float, count: int) -> tuple[float, ...]:
    """Values from ``low`` to ``high``, equal factors apart, rounded to six digits.

    The last digits of NumPy's powers depend on the processor's vector unit. Unrounded values would make the rows of one
    machine look as if another config had measured them on the next.
    """
    return tuple(float(f"{value:.6g}") for value in np.geomspace(low, high, count))
