"""Errors of weights: tallies on the device, statistics with standard errors, streams that form no second array.

``statistics`` holds the definitions of all metrics; ``frechet`` compares two sets of features.
"""

from quantsim.measure.classes import ClassStats, class_stats, merge_classes
from quantsim.measure.statistics import ErrorStats, error_stats, fold, init, merge
from quantsim.measure.streaming import weight_error
from quantsim.measure.tallies import Tally, error, tally

__all__ = [
    "ClassStats",
    "ErrorStats",
    "Tally",
    "class_stats",
    "error",
    "error_stats",
    "fold",
    "init",
    "merge",
    "merge_classes",
    "tally",
    "weight_error",
]
