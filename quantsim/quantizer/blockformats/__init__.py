"""Two-level block formats, one file a family; each has the face of a ``Quantizer`` and enters every sweep and study."""

from quantsim.quantizer.blockformats import floats, kquants, lattices, legacy, microscaling, nonlinear, ternary
from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.face import AbstractQuantizer

#: Every block format by its spec.
SPECS: dict[str, AbstractQuantizer] = {
    str(q): q
    for q in (
        *microscaling.MICROSCALING,
        *legacy.LEGACY,
        *kquants.KQUANTS,
        *nonlinear.NONLINEAR,
        *lattices.LATTICES,
        *ternary.TERNARY,
        *floats.FLOATS,
    )
}


def parse(text: str) -> AbstractQuantizer | None:
    """Block format of a spec, or None if its first token names none.

    >>> parse("q8_0"), parse("int8:tensor")
    (BlockFormat('q8_0'), None)
    """
    return SPECS.get(text.strip()) or microscaling.parse(text.strip())


__all__ = ["SPECS", "BlockFormat", "parse"]
