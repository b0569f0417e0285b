"""From a spec string to the quantizer that it names."""

from quantsim.quantizer import blockformats
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.quantizer.scaled import Quantizer
from quantsim.quantizer.spec import parse_fields


def parse(spec: str | AbstractQuantizer) -> AbstractQuantizer:
    """Quantizer of a spec string: a ``Quantizer``, or one of the block formats. A quantizer is given back as it is.

    So a function that takes a quantizer welcomes a spec as well: ``q = parse(q)``.

    Raises:
        TypeError: if it is neither a string nor a quantizer.
        ValueError: if it is no spec; the message names the token, what was probably meant, and what is known.

    >>> parse("int4:block32:mse").bits_per_weight((4096, 4096))
    5.0
    >>> parse(parse("q4_k"))
    BlockFormat('q4_k')
    >>> parse("int9:blok32")
    Traceback (most recent call last):
    ...
    ValueError: unknown token 'blok32' in spec 'int9:blok32'; did you mean 'int8:block32'? ...
    """
    if isinstance(spec, AbstractQuantizer):
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"a quantizer or its spec is wanted, for example 'int8:block32', not {spec!r}")
    return blockformats.parse(spec) or Quantizer(**parse_fields(spec, tuple(blockformats.SPECS)))
