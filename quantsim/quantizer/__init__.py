"""From weights to codes and back: the face of every quantizer, scaled elements, block formats, spec strings.

``face`` is what all have in common, ``scaled`` the ``Quantizer`` of one scale for a tensor, channel or block,
``blockformats`` the formats with a layout in bytes, ``parsing`` reads a spec.
"""

from quantsim.quantizer.face import AbstractQuantizer, QuantizedArray
from quantsim.quantizer.parsing import parse
from quantsim.quantizer.scaled import Quantizer

__all__ = ["AbstractQuantizer", "QuantizedArray", "Quantizer", "parse"]
