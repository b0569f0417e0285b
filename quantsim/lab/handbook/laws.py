"""Topics of metrics, conventions, populations, remedies and theory: words from tables, the rest from docstrings."""

import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from quantsim import _types, mitigations, populations, theory
from quantsim.lab.handbook.topic import Topic, of_docstring, plain, words
from quantsim.populations import Population
from quantsim.populations.activation_laws import Autoregressive, LowRank, SwiGLU
from quantsim.populations.activation_steps import ConstantRows, Massive, OutlierChannels, ReLU, Shift

#: What a person writes in a spec of weights, and the class that it names.
WEIGHTS: dict[str, Any] = {
    "normal": populations.Normal,
    "laplace": populations.Laplace,
    "uniform": populations.Uniform,
    "t5": populations.StudentT,
    "gennorm": populations.GeneralizedNormal,
    "mixture": populations.Mixture,
    "empirical": populations.Empirical,
    "outliers": populations.Outliers,
}
#: The same of activations: laws and steps that follow them.
ACTIVATIONS: dict[str, Any] = {
    "ar": Autoregressive,
    "lowrank": LowRank,
    "swiglu": SwiGLU,
    "channels": OutlierChannels,
    "massive": Massive,
    "constant": ConstantRows,
    "shift": Shift,
    "relu": ReLU,
}
#: Theory by what it is of, in the order of the page.
THEORY = {
    "Weights under a quantizer": ("weight_mse", "weight_rel_mse", "weight_mean_abs", "has_weight_theory"),
    "Fixed or block-scaled levels": ("levels_mse", "levels_mean", "int_mse", "extreme_mse", "block_mean", "cells"),
    "The best levels and scales": (
        "lloyd_max",
        "optimal_step",
        "uniform_levels",
        "best_reach",
        "optimal_clip",
        "aciq_clip",
        "aciq_mse",
        "percentile_mse",
        "percentile_reach",
        "cube_root_rms",
        "cube_root_absmax",
        "cube_root_signed_max",
    ),
    "Limits": (
        "rate_distortion",
        "shannon_lower_bound",
        "entropy",
        "ecsq",
        "ecsq_cells",
        "uniform_threshold",
        "panter_dite",
        "bennett",
    ),
    "The largest weight of a block": (
        "expected_absmax",
        "absmax_moment",
        "absmax_cdf",
        "absmax_quantile",
        "rms_crest",
        "absmax_int_mse",
        "unequal_absmax_power",
        "unequal_int_mse",
        "extreme_shares",
        "outlier_mse",
        "outlier_bulk_mse",
        "outlier_crossover",
    ),
    "Errors as noise": ("quantization_noise",),
    "Outputs": (
        "second_moment",
        "output_mse",
        "output_rms",
        "relative_output_error",
        "quantized_output_mse",
        "aligned_relative_error",
        "biased_output_mse",
        "rank_one_output_mse",
        "outlier_column_share",
        "cancellation",
        "compensated_output_mse",
        "fitted_on_tokens",
    ),
    "Depth and iteration": (
        "stack_error",
        "residual_stack_error",
        "normalized_stack_error",
        "followed_errors",
        "sensitivity",
        "iterated_error",
        "geometric_error",
        "ddim_steps",
        "ddim_error",
    ),
    "Attention": ("softmax_kl", "softmax_mse", "softmax_tv", "softmax_flips"),
}


def metrics() -> Iterator[Topic]:
    """Every reported number."""
    for name, said in words("metrics.toml").items():
        facts = (("formula", said["formula"]), ("unit", said["unit"]), ("by", said["by"]), ("source", said["source"]))
        yield Topic(name, "metric", said["what"], facts)


def conventions() -> Iterator[Topic]:
    """What holds everywhere."""
    for name, said in words("conventions.toml").items():
        yield Topic(name, "convention", said["what"], (("where", said["where"]), ("source", said["source"])))


def terms() -> Iterator[Topic]:
    """Every term of the glossary, which is the docstring of ``quantsim._types``."""
    _, *entries = re.split(r"\n(?=\w.*\n {4})", inspect.getdoc(_types) or "")
    for entry in entries:
        names, _, text = entry.partition("\n")
        yield from (Topic(name, "term", plain(text)) for name in names.split(", "))


def weights() -> Iterator[Topic]:
    """Every population of weights."""
    yield from (of_docstring(name, "population", thing) for name, thing in WEIGHTS.items())


def activations() -> Iterator[Topic]:
    """Every law and every step of activations."""
    yield from (of_docstring(name, "activations", thing) for name, thing in ACTIVATIONS.items())


def population(spec: str) -> Topic:
    """A whole spec, such as t5+outliers(rate=0.01,magnitude=100), by its moments.

    Raises:
        ValueError: if it does not parse.

    >>> population("uniform").fact("kurtosis")
    '1.8'
    """
    pop = populations.parse(spec)
    facts = [("std", _number(pop, "moment", 2, power=0.5)), ("kurtosis", _number(pop, "kurtosis"))]
    return Topic(
        str(pop), "population", "independent draws; an element is a pure function of key and index", tuple(facts)
    )


def _number(pop: Population, moment: str, *args: int, power: float = 1.0) -> str:
    return f"{float(getattr(pop, moment)(*args)) ** power:.6g}"


def remedies() -> Iterator[Topic]:
    """Every mitigation."""
    yield from (of_docstring(name, "mitigation", f) for name, f in sorted(mitigations.FUNCTIONS.items()))


def predictions() -> Iterator[Topic]:
    """Every function of theory, in the order of the page."""
    yield from (of_docstring(name, "theory", _of(theory, name)) for names in THEORY.values() for name in names)


def _of(room: ModuleType, name: str) -> Any:
    return getattr(room, name)
