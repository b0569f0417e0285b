"""Where the error of weights has a theory: a question that can be asked before the error itself is."""

import numpy as np

from quantsim._types import Shape
from quantsim.formats import Integer
from quantsim.populations import Normal, Population
from quantsim.populations.law import NoDistributionError
from quantsim.theory.scheme import FourOverSixScale, HasScheme, MinMaxScale, NoTheoryError, RmsScale, Scheme

#: Bits of minmax integers from which the places of minimum and maximum are taken as uniform within a step.
FINE_BITS = 6
_MOST_ATOMS = 64  # point masses that a choice between two scales is followed over
_ENOUGH_FOR_RMS = 256  # weights for each unit of excess kurtosis, from which two moments tell enough of their rms


def has_weight_theory(pop: Population, q: HasScheme, shape: Shape | None = None) -> bool:
    """Whether ``weight_mse`` can tell the error of a population under a quantizer.

    Args:
        pop: population of weights.
        q: quantizer, for example ``quantsim.parse("int4:block32")``.
        shape: shape of the array, needed where it says how many weights share a scale.

    Raises:
        ShapeNeededError: if ``shape`` is needed and missing.
        ValueError: if ``shape`` has no weights, or an axis that the quantizer needs does not exist.

    >>> import quantsim as qs
    >>> [has_weight_theory(qs.populations.Normal(), qs.parse(spec)) for spec in ("int4:block32", "q4_k")]
    [True, False]
    """
    try:
        scheme_with_theory(pop, q, shape)
    except NoTheoryError:
        return False
    return True


def scheme_with_theory(pop: Population, q: HasScheme, shape: Shape | None) -> Scheme:
    """Facts of the quantizer from which its error on the population follows.

    Raises:
        TypeError: if ``pop`` is no population, or ``q`` no quantizer.
        NoTheoryError: if the error does not follow from them.
        ShapeNeededError: if ``shape`` is needed and missing.
    """
    if not (isinstance(pop, Population) and isinstance(q, HasScheme)):
        raise TypeError(
            f"theory takes a population and a quantizer, not {pop!r} and {q!r}; specs become them by "
            "quantsim.populations.parse and quantsim.parse"
        )
    scheme = q.scheme(shape)
    _require_distribution(pop, shared_scale=scheme.scale is not None)
    if scheme.rotated and not isinstance(pop, Normal):
        raise NoTheoryError(
            f"no theory for {pop} in rotated blocks: only normal weights stay independent; "
            "measure with quantsim.sweep.measure"
        )
    if isinstance(scheme.scale, RmsScale):
        for n, _ in scheme.sizes:
            _require_known_rms(pop, n)
    if isinstance(scheme.scale, MinMaxScale):
        _require_fine_scales(scheme, scheme.scale)
    if isinstance(scheme.scale, FourOverSixScale) and pop._atoms()[0].size > _MOST_ATOMS:
        raise NoTheoryError(
            f"no theory for the choice between two scales where weights have more than {_MOST_ATOMS} values, as {pop} "
            "has; measure with quantsim.sweep.measure"
        )
    return scheme


def _require_distribution(pop: Population, *, shared_scale: bool) -> None:
    """One element must have a distribution; where weights share a scale, blocks are followed weight by weight."""
    try:
        power = pop.moment(2)
    except NoDistributionError as unknown:
        raise NoTheoryError(str(unknown)) from None
    if shared_scale and pop._placed:
        raise NoTheoryError(
            f"the weights of {pop} are not independent: theory knows outliers by rate and element, "
            "for example +outliers(rate=0.01,magnitude=100)"
        )
    if not np.isfinite(power):
        raise NoTheoryError(f"{pop} has no finite variance, so no mean squared error")


def _require_known_rms(pop: Population, n: int) -> None:
    """The mean square of the block is known by its first two moments."""
    least = _ENOUGH_FOR_RMS * (pop.kurtosis() - 1)
    if not isinstance(pop, Normal) and not n >= least:
        raise NoTheoryError(
            f"no theory for rms scales of {n} weights of {pop}: their mean square is not known well enough; "
            f"take blocks of {least:.0f} and more, or measure with quantsim.sweep.measure"
        )


def _require_fine_scales(scheme: Scheme, law: MinMaxScale) -> None:
    """The steps of the scale are no wider than those of the weights."""
    assert isinstance(scheme.format, Integer)
    if not law.zero_point or law.stored is None or scheme.format.bits < FINE_BITS:
        return
    if law.stored.mantissa_bits < FINE_BITS:
        raise NoTheoryError(
            f"no theory for {scheme.format.bits}-bit minmax with {law.stored.name} scales: their steps are wider than "
            "those of the weights; take bf16 or f16, or measure with quantsim.sweep.measure"
        )
