"""Remedies against quantization error, each one function of a layer and a quantizer, with the bits that it costs.

``layer`` holds what goes in and what comes out, ``registry`` the table and its specs; each mitigation is a file.
"""

from quantsim.mitigations.awq import awq
from quantsim.mitigations.gptq import gptq
from quantsim.mitigations.layer import Branch, Layer, Mitigated, Rotation
from quantsim.mitigations.registry import FUNCTIONS, Mitigation, parse
from quantsim.mitigations.smoothing import smoothquant

__all__ = ["FUNCTIONS", "Branch", "Layer", "Mitigated", "Mitigation", "Rotation", "awq", "gptq", "parse", "smoothquant"]
