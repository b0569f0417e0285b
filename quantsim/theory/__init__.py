"""Closed forms and quadrature: what an error must be, in float64, without simulating it."""

from quantsim.theory.blocks import block_mean
from quantsim.theory.levels import extreme_mse, int_mse, levels_mean, levels_mse
from quantsim.theory.propagation import cancellation, output_rms
from quantsim.theory.rate_distortion import entropy, lloyd_max, shannon_lower_bound
from quantsim.theory.scales import absmax_int_mse, absmax_quantile, expected_absmax, rms_crest, unequal_absmax_power

__all__ = [
    "absmax_int_mse",
    "absmax_quantile",
    "block_mean",
    "cancellation",
    "entropy",
    "expected_absmax",
    "extreme_mse",
    "int_mse",
    "levels_mean",
    "levels_mse",
    "lloyd_max",
    "output_rms",
    "rms_crest",
    "shannon_lower_bound",
    "unequal_absmax_power",
]
