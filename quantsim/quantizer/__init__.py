"""From weights to codes and back: the face of every quantizer, scaled elements, block formats, spec strings.

``face`` is what all have in common and ``programs`` what is compiled for them, once for each ``structure``; ``inputs``
and ``combinations`` refuse what they do not take. ``scaled`` is the ``Quantizer`` of one scale for a tensor, channel or
block, ``blockformats`` are the formats with a layout in bytes. ``parsing`` reads a spec, in the grammar of ``spec``;
``hints`` say what was meant.
"""

from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.scaled import Quantizer

__all__ = ["AbstractQuantizer", "QuantizedArray", "Quantizer", "parse"]
