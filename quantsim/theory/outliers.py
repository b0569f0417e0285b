"""The outlier law: what one large weight costs all others when it sets their scale."""

from quantsim.populations import Contaminated, Population
from quantsim.theory.levels import int_mse
from quantsim.theory.scales import absmax_int_mse


def outlier_bulk_mse(bulk: Population, magnitude: float | int, bits: int = 8) -> float:
    """Mean squared error of the bulk when an outlier of ``magnitude`` sets the scale of symmetric integers.

    Exact. While the step is below the bulk its root is ``magnitude * std / (2^(bits-1) - 1) / sqrt(12)``; beyond
    ``outlier_crossover`` every bulk weight rounds to 0 and it is the standard deviation itself. The rate of the
    outliers does not matter, only that there is one: see ``outlier_mse``. Bulk weights beyond the outlier saturate.

    Args:
        bulk: population without the outliers.
        magnitude: in standard deviations of the bulk.
        bits: of the integers.

    Raises:
        ValueError: if the magnitude is not positive.

    >>> from quantsim.populations import Normal
    >>> round(outlier_bulk_mse(Normal(), 10.0) * 12 * 12.7**2, 6), round(outlier_bulk_mse(Normal(), 2000.0), 6)
    (1.0, 1.0)
    """
    if not magnitude > 0:
        raise ValueError(f"the magnitude of an outlier is positive, got {magnitude}")
    return int_mse(bulk, magnitude * bulk.std_dev(), bits)


def outlier_crossover(bits: int = 8) -> float:
    """Magnitude, in standard deviations of the bulk, at which uniform noise would equal the bulk: sqrt(12) steps.

    ``sqrt(12) (2^(bits-1) - 1)``, where the asymptotes of ``outlier_bulk_mse`` meet.

    Raises:
        ValueError: for fewer than 2 bits.

    >>> round(outlier_crossover(), 2), round(outlier_crossover(4), 2)
    (439.94, 24.25)
    """
    if bits < 2:
        raise ValueError(f"symmetric integers have at least 2 bits, got {bits}")
    return float(12**0.5 * (2 ** (bits - 1) - 1))


def outlier_mse(pop: Contaminated, n: int, bits: int = 8) -> float:
    """Mean squared error of absmax integers in blocks of n with outliers of one exact size, larger than the bulk.

    ``(1-r)^n`` of the blocks have no outlier and the error of ``absmax_int_mse``; in the others the outliers are exact
    and the share ``1 - r`` of bulk weights errs as in ``outlier_bulk_mse``.

    Raises:
        ValueError: if n < 1, for outliers by count, row, column or block, or of spread sizes.

    >>> from quantsim.populations import Normal
    >>> pop = Normal().with_outliers(rate=0.01, magnitude=100.0)
    >>> round(outlier_mse(pop, 10**6) / outlier_bulk_mse(Normal(), 100.0), 9)
    0.99
    """
    o, bulk = pop.outliers, pop.bulk
    if o.layout != "element" or o.values != "exact" or o.rate is None:
        raise ValueError(f"the outlier law needs single outliers of one exact size by rate, not {o}")
    if n < 1:
        raise ValueError(f"a block has at least one weight, got n = {n}")
    rate, std = float(pop._rate()), bulk.std_dev()
    none = (1 - rate) ** n
    struck = outlier_bulk_mse(bulk, pop._size() / std, bits)
    return float((1 - rate - none) * struck + none * absmax_int_mse(bulk, n, bits))
