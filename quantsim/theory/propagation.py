"""How weight errors add up in an output y = sum_i x_i w_i, when they are white: independent of each other and of x."""

import numpy as np


def output_rms(error_rms: float, input_rms: float, fan_in: int) -> float:
    """Root mean square output error, ``sqrt(fan_in) * error_rms * input_rms``: it grows, errors do not cancel to zero.

    >>> output_rms(0.01, 2.0, 2500)
    1.0
    """
    return float(np.sqrt(fan_in) * error_rms * input_rms)


def cancellation(fan_in: int, input_shape: float = np.sqrt(2 / np.pi), error_shape: float = np.sqrt(3) / 2) -> float:
    """Mean |output error| over its bound without cancellation, ``sqrt(2 / pi) / (sqrt(fan_in) * a_x * a_e)``.

    Args:
        fan_in: inputs summed over; many, so that the sum is normal.
        input_shape: a_x = E|x| / rms(x), sqrt(2/pi) for normal inputs.
        error_shape: a_e = E|e| / rms(e), sqrt(3)/2 for errors uniform within a step.

    >>> round(cancellation(10_000), 6)  # 2 / sqrt(3 n)
    0.011547
    """
    return float(np.sqrt(2 / np.pi) / (np.sqrt(fan_in) * input_shape * error_shape))
