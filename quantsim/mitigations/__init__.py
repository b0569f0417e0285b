"""Remedies against quantization error, each one function of a layer and a quantizer, with the bits that it costs.

``layer`` holds what goes in and what comes out, ``registry`` the table and its specs; each mitigation is a file.
"""

from quantsim.mitigations.awq import awq
from quantsim.mitigations.clipping import clip
from quantsim.mitigations.clustering import cluster_outliers
from quantsim.mitigations.columns import llm_int8
from quantsim.mitigations.correction import bias_correction
from quantsim.mitigations.gptq import gptq
from quantsim.mitigations.layer import Branch, Layer, Mitigated, Rotation
from quantsim.mitigations.low_rank import low_rank
from quantsim.mitigations.registry import FUNCTIONS, Mitigation, parse
from quantsim.mitigations.rotations import rotation
from quantsim.mitigations.smoothing import smoothquant
from quantsim.mitigations.splitting import split_outliers
from quantsim.mitigations.stochastic import stochastic_rounding
from quantsim.mitigations.training import straight_through

__all__ = [
    "FUNCTIONS",
    "Branch",
    "Layer",
    "Mitigated",
    "Mitigation",
    "Rotation",
    "awq",
    "bias_correction",
    "clip",
    "cluster_outliers",
    "gptq",
    "llm_int8",
    "low_rank",
    "parse",
    "rotation",
    "smoothquant",
    "split_outliers",
    "stochastic_rounding",
    "straight_through",
]
