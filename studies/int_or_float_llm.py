"""Does the order of four-bit formats by weight error hold in a real language model, and if not, what predicts it?

Method. The formats of `int_or_float` on every matrix of Gemma 3 270M, the embedding that is also the last product
included, with weights spread within the cells of the file's codes: int4, e2m1, e1m2, e3m0 and nf4 under powers of two,
bf16 and two levels, three of them in rotated blocks, and two scales chosen by error. The KL of the predictions from
those of the unquantized model says what each costs; paired over blocks of tokens. Beside it stand properties of the
weight errors: relative squared error, its part in small, middle and large weights (in units of the rms of a matrix),
the share of weights rounded to zero, and how far weights shrink on average.
Expected. KL goes with the squared error, as noise of that size costs what quantization costs (`language_model`):
Spearman's correlation above 0.9, a slope of 1 in logarithms; pairs in another order lie within noise.
Refuted if the correlation is lower, or a pair of formats clearly stands the other way round. Such pairs exist: scales
chosen by squared error and rotations lower it and do not lower the KL, since they pay with the errors of small weights,
which cost more than their squares say.

Needs the extra ``real``: ``quantsim run --real int_or_float_llm``. Settles nothing of the ledger.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy import optimize, stats

from quantsim.lab import plotting
from quantsim.lab.claims import Claim
from quantsim.lab.study import Cell
from quantsim.measure.ratios import CLEARLY, Estimate, difference
from quantsim.rows import Rows

from . import _real as real
from ._real import SPREAD, Reading, Subject

NEEDS_REAL_MODEL = True

ELEMENTS = ("int4", "e2m1", "e1m2", "e3m0", "nf4")
SCALES = {
    "powers of two, 32": "block32:absmax:e8m0:rceil",
    "bf16, 32": "block32:absmax:bf16",
    "two levels, 16": "block16:absmax:ue4m3+f32",
}
ROTATED = "rotated, two levels, 16"
CHOSEN = "chosen scales, 16"
FORMATS = {
    **{f"{element}:{scale}": name for name, scale in SCALES.items() for element in ELEMENTS},
    **{f"regular64({element}:{SCALES['two levels, 16']})": ROTATED for element in ("int4", "e2m1", "nf4")},
    "e2m1:block16:fouroversix:ue4m3+f32": CHOSEN,
    "int4:block16:search:ue4m3+f32": CHOSEN,
}
#: Bounds of small, middle and large weights, in units of the rms of their matrix.
EDGES = (0.5, 1.5)
PROPERTIES = {
    "rel_mse": "squared error",
    "mse_of_small": "… of small weights",
    "mse_of_middle": "… of middle weights",
    "mse_of_large": "… of large weights",
    "zeros": "rounded to zero",
    "shrinkage": "shrinkage",
}


@dataclass(frozen=True)
class Config:
    """A reference, formats, and how much text."""

    reference: str = SPREAD
    formats: tuple[str, ...] = tuple(FORMATS)
    reading: Reading = Reading(4, 257)

    @classmethod
    def small(cls) -> "Config":
        """Three formats, little text."""
        return cls(formats=tuple(FORMATS)[:3], reading=Reading(2, 33))


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each format."""
    for spec in config.formats:
        yield spec, partial(one_format, config, spec)


def one_format(config: Config, spec: str) -> list[dict[str, Any]]:
    """What a format does to the weights, and to the predictions."""
    of = real.subject(config.reference, config.reading)
    found = real.quantized(of, spec)
    about = {"kind": "format", "spec": spec, "scale": FORMATS[spec], "bits": found.bits_per_weight}
    about |= errors(of, found.params, list(found.quantizers))
    return [about | real.columns_of(real.of_tree(of, found))]


def errors(of: Subject, params: Any, names: list[str]) -> dict[str, float]:
    """Properties of the weight errors of all quantized matrices together, each relative to all squared weights."""
    total = np.zeros(7)
    for name in names:
        w = of.params[name]
        sigma = jnp.sqrt(jnp.mean(w * w))
        total += np.asarray(sums(w, jnp.asarray(params[name]), sigma), np.float64).sum(axis=0)
    power, small, middle, large, along, zeros, count = total.tolist()
    return {
        "rel_mse": (small + middle + large) / power,
        "mse_of_small": small / power,
        "mse_of_middle": middle / power,
        "mse_of_large": large / power,
        "zeros": zeros / count,
        "shrinkage": -along / power,
    }


@jax.jit
def sums(w: Float[Array, "out in"], w_hat: Float[Array, "out in"], sigma: Array) -> Float[Array, "out 7"]:
    """Of each row: w², e² of small, middle and large weights, e w, weights that became 0, and how many there are."""
    e, size = w_hat - w, jnp.abs(w) / sigma
    small, large = size < EDGES[0], size >= EDGES[1]
    columns = (w * w, e * e * small, e * e * ~(small | large), e * e * large, e * w, w_hat == 0, jnp.ones_like(w))
    return jnp.stack([c.astype(jnp.float32).sum(axis=1) for c in columns], axis=1)


# --- what the rows say ----------------------------------------------------------------------------------------------


def correlation(rows: Rows, column: str) -> float:
    """Spearman's, of a property with the KL over all formats."""
    return rank(rows.column(column), rows)


def rank(values: NDArray[np.float64], rows: Rows) -> float:
    """Spearman's correlation of a number of each format with the KL."""
    if len(rows) < 3:
        return float("nan")
    found: Any = stats.spearmanr(values, rows.column("kl"))
    return float(found.statistic)


def slope(rows: Rows) -> float:
    """d log KL / d log squared error, least squares over the formats."""
    return float(np.polyfit(np.log(rows.column("rel_mse")), np.log(rows.column("kl")), 1)[0])


def turned_round(rows: Rows) -> list[tuple[str, str]]:
    """Pairs the first of which has less weight error and clearly more KL, as if their errors were independent."""
    found = []
    for a, b in combinations(sorted(rows, key=lambda r: r["rel_mse"]), 2):
        if difference(*(Estimate(r["kl"], r["kl_se"]) for r in (a, b))).clearly_above(0):
            found.append((a["spec"], b["spec"]))
    return found


def weighed_by_size(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a squared error costs in small, middle and large weights, in nats, and the KL that follows for each format.

    Least squares of the relative deviations over the formats, with costs of at least 0: three numbers are fitted.
    """
    errors = np.stack([rows.column(c) for c in PROPERTIES if c.startswith("mse_of")], axis=1)
    kl = rows.column("kl")
    costs, _ = optimize.nnls(errors / kl[:, None], np.ones(len(kl)))
    return costs, errors @ costs


def summary(rows: Rows) -> str:
    """One sentence: how far weight errors order formats, and what else does."""
    told = ", ".join(f"{correlation(rows, c):.2f} {name}" for c, name in PROPERTIES.items())
    pairs, (costs, fitted) = len(rows) * (len(rows) - 1) // 2, weighed_by_size(rows)
    by_size = " : ".join(f"{cost / max(costs.min(), 1e-9):.2g}" for cost in costs)
    return (
        f"Rank correlation of the KL with: {told}; KL grows as the squared error to the power {slope(rows):.2f}; "
        f"{len(turned_round(rows))} of {pairs} pairs stand clearly ({CLEARLY:g} standard errors) the other way round. "
        f"Errors of small, middle and large weights count as {by_size}: so weighed, {rank(fitted, rows):.2f}."
    )


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(list(dict.fromkeys(FORMATS.values())))


def draw(rows: Rows) -> plotting.Figure:
    """KL against weight error; correlation of each property; what small and large weights lose."""
    figure, axes = plotting.mosaic("aaabb", height=3.4)
    kl_against_error(axes["a"], rows)
    correlations(axes["b"], rows)
    plotting.letter(axes.values())
    return figure


def kl_against_error(ax: plotting.Axes, rows: Rows) -> None:
    """A point for each format, and the line of KL proportional to the squared error."""
    for scale, style in STYLES.items():
        if own := rows.where(scale=scale):
            plotting.points(ax, own, "rel_mse", "kl", series=style, ms=4)
    x = np.sort(rows.column("rel_mse"))
    factor = np.exp(np.mean(np.log(rows.column("kl") / rows.column("rel_mse"))))
    plotting.prediction(ax, x, factor * x, label="in proportion")
    for r in rows:
        short = r["spec"].replace("regular64(", "").partition(":")[0]
        if short != "e1m2":  # int4 in halves: the same point
            plotting.note(ax, r["rel_mse"] * 1.03, r["kl"], short, fontsize=5, va="center")
    ax.set(xscale="log", yscale="log", xlabel="relative squared error of the weights", ylabel="KL (nats a token)")
    ax.legend(fontsize=plotting.NOTE)


def correlations(ax: plotting.Axes, rows: Rows) -> None:
    """Spearman's correlation of each property with the KL."""
    values = [correlation(rows, column) for column in PROPERTIES]
    values.append(rank(weighed_by_size(rows)[1], rows))
    names = [*PROPERTIES.values(), "the three, weighed"]
    plotting.bars(ax, names, values, texts=[f"{v:.2f}" for v in values])
    ax.set(xlabel="rank correlation with the KL", xlim=(min(0.0, *np.nan_to_num(values)) - 0.05, 1.2))


CLAIMS: tuple[Claim, ...] = ()
