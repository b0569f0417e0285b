"""How little error a number of bits allows, whatever the code: Shannon's bound, and for normal weights the limit."""

import numpy as np

from quantsim._types import ArrayLike
from quantsim.populations import Normal, Population
from quantsim.theory.quadrature import F64, panels, shares


def entropy(pop: Population) -> float:
    """Differential entropy in bits, minus the integral of pdf log2 pdf.

    Raises:
        ValueError: if the population has point masses, such as outliers of one exact size.

    >>> from quantsim.populations import Normal, Uniform
    >>> round(entropy(Normal()), 9), round(entropy(Uniform(3**-0.5)), 9)  # log2(2 pi e) / 2, log2(2)
    (2.047095585, 1.0)
    """
    from scipy.special import xlogy

    if mass := float(np.sum(pop._atoms()[1])):
        raise ValueError(f"{pop} has point masses of {mass:.6f} in all, and so no entropy")
    return float(-shares(lambda x: xlogy(pop.pdf(x), pop.pdf(x)), panels(pop)).sum() / np.log(2))


def shannon_lower_bound(pop: Population, bits: ArrayLike) -> np.float64 | F64:
    """Shannon's lower bound on the mean squared error of any code of ``bits`` bits a weight, however long its blocks.

    ``2^(2 (h - bits)) / (2 pi e)`` with the entropy h: for a normal population exactly its rate-distortion function,
    ``variance / 4^bits``; for others a bound that is approached at many bits and lies below the attainable at few.
    Source: Cover and Thomas, Elements of Information Theory, 2nd ed., chapter 10.

    >>> from quantsim.populations import Normal, Laplace
    >>> round(float(shannon_lower_bound(Normal(), 1)), 9), round(float(shannon_lower_bound(Laplace(), 0)), 9)  # e / pi
    (0.25, 0.865255979)
    """
    return 2.0 ** (2 * (entropy(pop) - np.asarray(bits, np.float64))) / (2 * np.pi * np.e)


def rate_distortion(pop: Population, bits: ArrayLike) -> np.float64 | F64:
    """The least mean squared error of codes of ``bits`` bits a weight, however long their blocks: ``std^2 / 4^bits``.

    Known in closed form for normal populations, and only for these: for any other it lies between
    ``shannon_lower_bound`` and the error of a normal population of the same variance.
    Source: Shannon, 1959; Cover and Thomas, Elements of Information Theory, 2nd ed., theorem 10.3.2.

    Args:
        pop: normal population.
        bits: rate in bits a weight, at least 0.

    Raises:
        ValueError: for a negative rate, or a population that is not normal.

    >>> from quantsim.populations import Normal
    >>> rate_distortion(Normal(2.0), [0, 1, 2]).tolist()
    [4.0, 1.0, 0.25]
    """
    rate = np.asarray(bits, np.float64)
    if np.any(rate < 0):
        raise ValueError(f"a rate is at least 0 bits a weight, got {rate.min():g}")
    if not isinstance(pop, Normal):
        raise ValueError(f"the rate-distortion function of {pop} has no closed form: shannon_lower_bound is below it")
    return float(pop.std**2) / 4.0**rate
