"""Errors of weights: tallies on the device, statistics with standard errors, streams that form no second array.

``statistics`` holds the definitions of all metrics.
"""

from quantsim.measure.statistics import ErrorStats, error_stats, merge
from quantsim.measure.streaming import weight_error

__all__ = ["ErrorStats", "error_stats", "merge", "weight_error"]
