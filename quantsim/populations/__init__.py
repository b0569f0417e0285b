"""Synthetic weight populations: families, mixtures, samples of real weights, each with outliers where wanted."""

from quantsim.populations.base import Population, expected_absmax_power, key
from quantsim.populations.empirical import Empirical
from quantsim.populations.families import Laplace, Normal, StudentT, Uniform
from quantsim.populations.generalized import GeneralizedNormal
from quantsim.populations.mixture import Mixture
from quantsim.populations.outliers import Contaminated, Outliers
from quantsim.populations.spec import parse

__all__ = [
    "Contaminated",
    "Empirical",
    "GeneralizedNormal",
    "Laplace",
    "Mixture",
    "Normal",
    "Outliers",
    "Population",
    "StudentT",
    "Uniform",
    "expected_absmax_power",
    "key",
    "parse",
]
