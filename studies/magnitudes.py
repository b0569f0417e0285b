"""Which weights bear the error of quantization, the many around zero or the few extremes?

Method. Weights are sorted into classes by their magnitude, and |e| is averaged in each: normal weights in 24 classes
under five quantizers; five populations in two, the largest 0.1 % and the others, under int8 with scales from the
largest weight and one from the 99.9th percentile. And the gaps between the values that occur around zero and far out.
Expected. The steps of int8 are all the same, so its mean |e| is a quarter of a step at every magnitude above one, and
the extreme weight, which sets the scale, has no error at all: the largest weights err less than the others, unless the
scale clips them. Steps that are finer around zero are what floats and codebooks have: their errors grow with |w|.
Refuted if int8 errs more on large weights that it does not clip, or if its gaps are not all the same.

Settles A05 and A06 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from quantsim import theory
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, share, share_of_cases, value_of
from quantsim.lab.plotting import BLUE, GREEN, ORANGE, PURPLE, VERMILION, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.classes import class_stats
from quantsim.measure.ratios import columns, mean
from quantsim.populations import Normal, parse, samples
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.sweep import array_keys

BY_MAGNITUDE = ("int8:tensor", "int8:block32", "e4m3:tensor", "nf4:tensor", "bf16")
WITH_GAPS = ("int8:tensor", "e4m3:tensor", "nf4:tensor")  # one scale: all its values can be seen side by side
OF_EXTREMES = ("int8:tensor", "int8:channel", "int8:block32", "int8:tensor:p99.9")
EXTREME = 0.001  # share of the weights that count as extremes


@dataclass(frozen=True)
class Config:
    seed: int = 0
    populations: tuple[str, ...] = ("uniform", "normal", "laplace", "t5", "t3")
    shape: tuple[int, int] = (1024, 1024)
    arrays: int = 8
    rows: int = 256  # of each array of normal weights that is sorted by magnitude

    @classmethod
    def small(cls) -> "Config":
        return cls(populations=("normal", "t5"), shape=(32, 1024), arrays=4, rows=32)


def measure(config: Config) -> Iterator[Cell]:
    for spec in BY_MAGNITUDE:
        yield spec, partial(by_magnitude, config, spec)
    for spec in WITH_GAPS:
        yield f"{spec} gaps", partial(gaps, config, spec)
    for name in config.populations:
        yield f"{name} extremes", partial(extremes, config, name)


@lru_cache(1)
def arrays(config: Config, name: str) -> Float[Array, "arrays rows columns"]:
    return samples(parse(name), array_keys(config.seed, name, config.arrays), config.shape)


def by_magnitude(config: Config, spec: str) -> list[dict[str, Any]]:
    """Mean |e| of normal weights in classes of magnitude; of int8 at most a quarter of a step is expected."""
    edges, q = np.geomspace(0.01, 4.6, 25), quantizer(spec)
    normal = arrays(config, "normal")[:, : config.rows]
    found = np.array([class_stats(w, q.roundtrip(w), tuple(edges)).mean_abs for w in normal])
    step = theory.expected_absmax(Normal(), normal[0].size) / 127
    rows = []
    for middle, errors in zip(np.sqrt(edges[1:] * edges[:-1]), found.T, strict=True):
        row = {"kind": "magnitude", "spec": spec, "magnitude": middle, **columns(mean_abs=mean(errors))}
        row["predicted_mean_abs"] = step / 4 if spec == "int8:tensor" and middle > step else None
        rows.append(row)
    return rows


def gaps(config: Config, spec: str) -> list[dict[str, Any]]:
    """The smallest gap between neighbouring values beyond half of their reach, over the gap around zero."""
    w = arrays(config, "normal")[0, : config.rows]
    values = np.unique(np.asarray(quantizer(spec).roundtrip(w), np.float64))
    gap, middle = np.diff(values), np.abs(values[1:] + values[:-1]) / 2
    far, near = gap[middle > middle.max() / 2].min(), gap[middle.argmin()]
    return [{"kind": "gap", "spec": spec, "ratio": far / near}]


def extremes(config: Config, name: str) -> list[dict[str, Any]]:
    """Mean |e|, and mean |e| / |w|, of the largest 0.1 % of the weights over that of the others."""
    edges = (0.0, float(parse(name).quantile(1 - EXTREME / 2)), np.inf)
    rows = []
    for spec in OF_EXTREMES:
        classes = [class_stats(w, quantizer(spec).roundtrip(w), edges) for w in arrays(config, name)]
        absolute = mean([c.mean_abs[1] / c.mean_abs[0] for c in classes])
        relative = mean([c.mean_relative[1] / c.mean_relative[0] for c in classes])
        row = {"kind": "extremes", "population": name, "spec": spec}
        rows.append(row | columns(extreme_abs=absolute, extreme_rel=relative))
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    "int8:tensor": Style(BLUE, "o", "int8:tensor"),
    "int8:block32": Style(VERMILION, "s", "int8:block32"),
    "e4m3:tensor": Style(GREEN, "^", "e4m3:tensor"),
    "nf4:tensor": Style(PURPLE, "D", "nf4:tensor"),
    "bf16": Style(ORANGE, "v", "bf16"),
    "int8:channel": Style(PURPLE, "D", "int8:channel"),
    "int8:tensor:p99.9": Style(GREEN, "^", "int8:tensor:p99.9"),
}


def draw(rows: Rows) -> plotting.Figure:
    figure, panels = plotting.mosaic("ab")
    error_of_each_magnitude(panels["a"], rows.where(kind="magnitude"))
    error_of_the_extremes(panels["b"], rows.where(kind="extremes"))
    plotting.letter(panels.values())
    return figure


def error_of_each_magnitude(ax: Axes, rows: Rows) -> None:
    for spec in BY_MAGNITUDE:
        plotting.measured(ax, rows.where(spec=spec), "magnitude", "mean_abs", series=STYLES[spec], linestyle="-", ms=2)
    plotting.note(ax, 0.1, 2e-5, "A05: int8 as coarse\naround zero as far out")
    ax.set(xscale="log", yscale="log", xlabel="|weight| / std", ylabel="mean |error| / std", ylim=(1e-5, 200))
    ax.legend(ncol=2, loc="upper left", borderpad=0, labelspacing=0.2, columnspacing=0.8)


def error_of_the_extremes(ax: Axes, rows: Rows) -> None:
    names = rows.values("population")
    for k, spec in enumerate(OF_EXTREMES):
        placed = Rows(r | {"at": names.index(r["population"]) + 0.12 * (k - 1.5)} for r in rows.where(spec=spec))
        plotting.points(ax, placed, "at", "extreme_abs", series=STYLES[spec])
    ax.axhline(1, color="0.1", lw=0.8)
    plotting.note(ax, -0.4, 1.3, "A06: more than the others")
    ax.set(yscale="log", xticks=range(len(names)), xticklabels=names, ylim=(2e-3, 3e3))
    ax.set_ylabel("mean |error|, largest 0.1 % / others")
    ax.legend(ncol=2, loc="upper left", borderpad=0, labelspacing=0.2, columnspacing=0.8)


# --- the verdicts ---------------------------------------------------------------------------------------------------


def extremes_that_err_more(rows: Rows) -> float:
    """Share of populations × scales × (mean |e|, mean |e| / |w|) in which extremes have 5 % more than the others."""
    found = rows.where(kind="extremes")
    return share(r[error] > 1.05 for r in found for error in ("extreme_abs", "extreme_rel"))


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A05",
        statement="the step there can be smaller → higher precision there",
        definition="smallest gap between neighbouring int8 values in the tail / around zero",
        number=value_of("ratio", kind="gap", spec="int8:tensor"),
        rule=at_least(1.05),
        reading="the steps of int8 are all the same; those of e4m3 and nf4 are finer around zero",
    ),
    Claim(
        "A06",
        statement="sparse extremes may have *larger* quantization error",
        definition="share of populations × scales × (mean |e|, mean |e| / |w|)",
        number=extremes_that_err_more,
        rule=share_of_cases("the largest 0.1 % of the weights have over 5 % more than the others"),
        reading="never where the extremes set the scale, only where the scale clips them (p99.9)",
    ),
)
