"""Synthetic weight populations: families, mixtures, samples of real weights, each with outliers where wanted."""

from quantsim.populations.activations import ActivationPopulation, parse_activations, second_moment
from quantsim.populations.arguments import key
from quantsim.populations.arrays import outlier_marks, samples
from quantsim.populations.empirical import Empirical
from quantsim.populations.extremes import expected_absmax_power
from quantsim.populations.families import Laplace, Normal, Uniform
from quantsim.populations.generalized import GeneralizedNormal
from quantsim.populations.mixture import Mixture
from quantsim.populations.outliers import Outliers
from quantsim.populations.population import Contaminated, Population
from quantsim.populations.spec import parse
from quantsim.populations.student import StudentT

__all__ = [
    "ActivationPopulation",
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
    "outlier_marks",
    "parse",
    "parse_activations",
    "samples",
    "second_moment",
]
