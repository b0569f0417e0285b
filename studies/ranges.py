"""Does choosing the range of the codes help: by a zero point, a percentile, or a search for the least error?

Method. Six populations, two of them with outliers, are quantized to int8 with one scale for the tensor, by each rule
for its range; white inputs give the output the relative error of the weights, so that is what counts. Then the
magnitude that the last code falls on, the reach, is swept.
Expected. The error has a minimum between too narrow (clipped) and too wide (coarse); the search finds it, a fixed
percentile does not, and a zero point gains only where one side reaches further than the other.
Refuted if the percentile never loses.

Settles A22, A23 and A24 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import hypot, prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from quantsim import theory
from quantsim._types import Weights
from quantsim.formats import FORMATS
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure import ErrorStats, error
from quantsim.measure.ratios import Estimate, columns, root_ratio
from quantsim.populations import Laplace, Normal, StudentT, Uniform
from quantsim.quantizer import parse
from quantsim.rounding import snap
from quantsim.rows import Rows
from quantsim.sweep import measure as measure_quantizers
from quantsim.sweep import population_key, predicted_sqnr_db

from ._axes import logarithmic

SYMMETRIC, ZERO_POINT = "symmetric", "zero point"
RULES = {
    SYMMETRIC: parse("int8:tensor"),
    ZERO_POINT: parse("int8:tensor:minmax"),
    "clip at 99.9 %": parse("int8:tensor:p99.9"),
    "clip, least error": parse("int8:tensor:mse"),
}
OTHERS = tuple(RULES)[1:]
POPULATIONS = {
    "uniform": Uniform(),
    "normal": Normal(),
    "Laplace": Laplace(),
    "t, 3 d.f.": StudentT(3.0),
    "± outliers": Normal().with_outliers(rate=2e-3, magnitude=30.0, values="spread"),
    "+ outliers": Normal().with_outliers(rate=2e-3, magnitude=30.0, values="spread", sign="positive"),
}
SWEPT = ("uniform", "normal", "Laplace")
HELPS = 0.9  # a rule helps if it takes a tenth off the error


@dataclass(frozen=True)
class Config:
    """What is drawn of each population, and the reaches, in standard deviations of the weights."""

    shape: tuple[int, int] = (256, 256)
    arrays: int = 64
    reaches: tuple[float, ...] = logarithmic(0.5, 200.0, 25)
    seed: int = 42

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller arrays."""
        return cls(shape=(64, 64), arrays=4)


def measure(config: Config) -> Iterator[Cell]:
    """Each population under every rule, then the reach."""
    for name in POPULATIONS:
        yield name, partial(by_rule, config, name)
    yield "reach", lambda: [row for name in SWEPT for row in by_reach(config, name)]


def by_rule(config: Config, name: str, rules: tuple[str, ...] = tuple(RULES)) -> list[dict]:
    """Error of a population under each rule, and over that of the first, the symmetric scale, on the same weights."""
    population = POPULATIONS[name]
    quantizers = [RULES[rule] for rule in rules]
    stats = measure_quantizers(population, quantizers, shape=config.shape, arrays=config.arrays, seed=config.seed)
    predicted = [predicted_rms(name, rule, config.shape) for rule in rules]
    return [
        {
            "kind": "rule",
            "population": name,
            "rule": rule,
            "weights": prod(config.shape),
            "bits_per_weight": quantizer.bits_per_weight(config.shape),
            "predicted_to_symmetric": rms / predicted[0],  # NaN for the search
        }
        | columns(to_symmetric=quotient(of_rule, stats[0]))
        | of_rule.result()
        for rule, quantizer, of_rule, rms in zip(rules, quantizers, stats, predicted, strict=True)
    ]


def predicted_rms(name: str, rule: str, shape: tuple[int, int]) -> float:
    """rms e / rms w of theory, 10^(-SQNR / 20), or NaN where there is none."""
    sqnr_db = predicted_sqnr_db(POPULATIONS[name], RULES[rule], shape)
    return float("nan") if sqnr_db is None else float(10 ** (-sqnr_db / 20))


def quotient(a: ErrorStats, b: ErrorStats) -> Estimate:
    """Relative rms error of ``a`` over that of ``b``; the standard error is that of independent ones, so too wide."""
    ratio = a.rel_rms / b.rel_rms
    return Estimate(ratio, ratio * hypot(a.rel_rms_se / a.rel_rms, b.rel_rms_se / b.rel_rms))


def by_reach(config: Config, name: str) -> list[dict]:
    """Relative rms error against the magnitude that the last code falls on."""
    shape = (4 * config.shape[0], config.shape[1])
    w = POPULATIONS[name].sample(population_key(config.seed, f"range {name}"), shape)
    rows = []
    for reach in config.reaches:
        errors, signal = (np.asarray(sums, np.float64) for sums in squares(w, jnp.float32(reach)))
        row = {"kind": "reach", "population": name, "reach": reach}
        rows.append(row | columns(rms=root_ratio(errors, signal)))
    return rows


@jax.jit
def squares(w: Weights, reach: Array) -> tuple[Array, Array]:
    """Sums of e² and w² over each row, where code 127 stands for ``reach``."""
    e = error(w, snap(w * (127 / reach), FORMATS["int8"]) * (reach / 127))
    return jnp.sum(e * e, axis=-1), jnp.sum(w * w, axis=-1)


RULE_STYLES = plotting.styles(OTHERS)
SWEPT_STYLES = plotting.styles(SWEPT)


def draw(rows: Rows) -> plotting.Figure:
    """What rules for the range gain; error against the reach."""
    fig, axes = plotting.mosaic("ab", height=2.9)
    gains(axes["a"], rows.where(kind="rule"))
    against_reach(axes["b"], rows.where(kind="reach"))
    plotting.letter(axes.values())
    return fig


def gains(ax: plotting.Axes, rows: Rows) -> None:
    """A line for each population, with the error of every rule over that of the symmetric scale."""
    names = list(POPULATIONS)
    for at, (rule, style) in enumerate(RULE_STYLES.items()):
        found = rows.where(rule=rule)
        places = [names.index(r["population"]) + 0.2 * (at - 1) for r in found]
        plotting.dots(ax, found, "to_symmetric", places, series=style)
    ax.axvline(1.0, color="0.25", lw=0.8)
    ax.axvspan(0, HELPS, color="0.92", lw=0)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(0, 3.5), ylim=(5.6, -0.6), xlabel="error / error of the symmetric scale (A22, A23)")
    ax.legend(loc="upper right")


def against_reach(ax: plotting.Axes, rows: Rows) -> None:
    """Error against the reach, measured and predicted."""
    for name, style in SWEPT_STYLES.items():
        found = rows.where(population=name)
        plotting.points(ax, found, "reach", "rms", series=style)
        fine = np.geomspace(found[0]["reach"], found[-1]["reach"], 150)
        predicted = [theory.int_mse(POPULATIONS[name], reach, bits=8) ** 0.5 for reach in fine]  # their variance is 1
        plotting.prediction(ax, fine, predicted, series=style)
    plotting.note(ax, 0.45, 0.0055, "too\nnarrow:\nclipped")
    plotting.note(ax, 60, 0.03, "too wide:\ncoarse")
    ax.set(xscale="log", yscale="log", xlabel="largest code (std of the weights)", ylabel="rms error / rms (A24)")
    ax.legend(loc="lower right")


def helps(rows: Rows, *, rules: tuple[str, ...], populations: tuple[str, ...] = tuple(POPULATIONS)) -> float:
    """Share of the populations and rules in which the rule takes a tenth off the error of the symmetric scale."""
    return share(
        rows.where(kind="rule", population=population, rule=rule).one("to_symmetric") <= HELPS
        for population in populations
        for rule in rules
    )


def least_inside(rows: Rows) -> float:
    """Share of the populations whose error at both ends of the sweep is at least twice its minimum."""
    errors = [rows.where(kind="reach", population=name).column("rms") for name in SWEPT]
    return share(min(e[0], e[-1]) >= 2 * e.min() for e in errors)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A22",
        statement="asymmetric quantization uses all 256 codes and raises resolution",
        definition="share of six populations in which a zero point takes a tenth off the rms error of a symmetric "
        "scale",
        number=partial(helps, rules=(ZERO_POINT,)),
        rule=share_of_cases("it does"),
        reading="only where one side reaches further: heavy tails, outliers of one sign",
    ),
    Claim(
        "A23",
        statement="calibration (min/max or percentiles) picks better scale",
        definition="share of 18 cases (six populations; min/max, 99.9th percentile, least squared error) in which "
        "calibration takes a tenth off the rms error of a symmetric scale",
        number=partial(helps, rules=OTHERS),
        rule=share_of_cases("it does"),
        reading="most gain little, and a fixed percentile loses wherever there are tails",
    ),
    Claim(
        "A24",
        statement="range too wide → coarse; too narrow → truncation",
        definition="share of three populations whose error has its minimum inside, both ends at least twice as large",
        number=least_inside,
        rule=share_of_cases("it has"),
        reading="the least error lies between clipping and coarse steps",
    ),
)
