"""Closed forms and quadrature: what an error must be, in float64, without simulating it."""

from quantsim.granularity import ShapeNeededError
from quantsim.theory.blocks import block_mean
from quantsim.theory.clipping import (
    aciq_clip,
    aciq_mse,
    best_reach,
    optimal_clip,
    percentile_mse,
    percentile_reach,
)
from quantsim.theory.codebooks import cube_root_absmax, cube_root_rms, cube_root_signed_max
from quantsim.theory.companding import bennett, panter_dite
from quantsim.theory.compensation import compensated_output_mse, fitted_on_tokens
from quantsim.theory.depth import (
    followed_errors,
    normalized_stack_error,
    residual_stack_error,
    sensitivity,
    stack_error,
)
from quantsim.theory.entropy_coded import EntropyCoded, ecsq, ecsq_cells, uniform_threshold
from quantsim.theory.iteration import ddim_error, ddim_steps, geometric_error, iterated_error
from quantsim.theory.known import has_weight_theory
from quantsim.theory.levels import extreme_mse, int_mse, levels_mean, levels_mse
from quantsim.theory.noise import QuantizationNoise, quantization_noise
from quantsim.theory.outliers import outlier_bulk_mse, outlier_crossover, outlier_mse
from quantsim.theory.propagation import (
    aligned_relative_error,
    biased_output_mse,
    cancellation,
    outlier_column_share,
    output_mse,
    output_rms,
    quantized_output_mse,
    rank_one_output_mse,
    relative_output_error,
    second_moment,
)
from quantsim.theory.quadrature import cells
from quantsim.theory.rate_distortion import entropy, rate_distortion, shannon_lower_bound
from quantsim.theory.scalar import lloyd_max, optimal_step, uniform_levels
from quantsim.theory.scales import (
    absmax_cdf,
    absmax_int_mse,
    absmax_moment,
    absmax_quantile,
    expected_absmax,
    rms_crest,
    unequal_absmax_power,
)
from quantsim.theory.scheme import NoTheoryError
from quantsim.theory.softmax import softmax_flips, softmax_kl, softmax_mse, softmax_tv
from quantsim.theory.unequal import extreme_shares, unequal_int_mse
from quantsim.theory.weights import weight_mean_abs, weight_mse, weight_rel_mse

__all__ = [
    "EntropyCoded",
    "NoTheoryError",
    "QuantizationNoise",
    "ShapeNeededError",
    "absmax_cdf",
    "absmax_int_mse",
    "absmax_moment",
    "absmax_quantile",
    "aciq_clip",
    "aciq_mse",
    "aligned_relative_error",
    "bennett",
    "best_reach",
    "biased_output_mse",
    "block_mean",
    "cancellation",
    "cells",
    "compensated_output_mse",
    "cube_root_absmax",
    "cube_root_rms",
    "cube_root_signed_max",
    "ddim_error",
    "ddim_steps",
    "ecsq",
    "ecsq_cells",
    "entropy",
    "expected_absmax",
    "extreme_mse",
    "extreme_shares",
    "fitted_on_tokens",
    "followed_errors",
    "geometric_error",
    "has_weight_theory",
    "int_mse",
    "iterated_error",
    "levels_mean",
    "levels_mse",
    "lloyd_max",
    "normalized_stack_error",
    "optimal_clip",
    "optimal_step",
    "outlier_bulk_mse",
    "outlier_column_share",
    "outlier_crossover",
    "outlier_mse",
    "output_mse",
    "output_rms",
    "panter_dite",
    "percentile_mse",
    "percentile_reach",
    "quantization_noise",
    "quantized_output_mse",
    "rank_one_output_mse",
    "rate_distortion",
    "relative_output_error",
    "residual_stack_error",
    "rms_crest",
    "second_moment",
    "sensitivity",
    "shannon_lower_bound",
    "softmax_flips",
    "softmax_kl",
    "softmax_mse",
    "softmax_tv",
    "stack_error",
    "unequal_absmax_power",
    "unequal_int_mse",
    "uniform_levels",
    "uniform_threshold",
    "weight_mean_abs",
    "weight_mse",
    "weight_rel_mse",
]
