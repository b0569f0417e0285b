"""Which remedy against outliers lowers the output error of int8 weights most, and at what cost in bits?

Method. Of normal weights 0.01 to 5 % are outliers of 3 to 300 standard deviations (spread from half to three halves of
that). Each remedy quantizes the same matrices; their products with white inputs tell the error of the outputs,
relative to the outputs. A remedy is charged for all that it stores: a weight that it keeps in bf16 costs 16 bits and an
index beside its code.
Expected. Clipping destroys what the outliers carry, a zero point gains nothing, blocks and outliers kept apart win.
Refuted if one scale for all errs at most twice as much as the best remedy where the magnitude of the outliers is above
3 standard deviations: panel a shows the factor left of 0.1 %, where one scale is what is advised, panel b all errors at
100 standard deviations.

Settles B38, B42, B43, B44, B45 and B76 of the ledger, which numbers the statements of two documents (``quantsim
claims``). "The document" is the one on outliers; it advises a remedy for each of three ranges of their share.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil, inf, log2, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from quantsim import theory
from quantsim._types import Matrix, Number, Shape, Weights
from quantsim.formats import FORMATS, levels
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases, within_factor
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import columns, ratio, root_ratio
from quantsim.outputs.products import product
from quantsim.populations import Contaminated, Normal, outlier_marks, samples
from quantsim.quantizer import parse
from quantsim.quantizer.face import AbstractQuantizer
from quantsim.rows import Rows
from quantsim.sweep import population_key

PerMatrix = Shaped[Array, " repeats"]

BF16 = parse("bf16")
INPUTS = 64  # activations that each matrix is multiplied with
WITHIN_ONE_BIT = 2.0  # times the least error: one bit more halves an error
A_TENTH_OFF = 0.9  # times the error: what counts as help
SIGMAS = 3.0  # standard deviations of all weights beyond which the document calls a weight an outlier
FOUND, FALSE_ALARMS = 0.95, 0.01  # shares of the outliers and of the others beyond SIGMAS with which a detector is good
SHOWN = 100.0  # standard deviations of the outliers in panel b


class Remedied(NamedTuple):
    """Matrices after a remedy, and which of their weights it kept in bf16."""

    weights: Weights
    kept: Bool[Array, "repeats out in"]


@dataclass(frozen=True)
class Remedy:
    """A quantizer, and beyond how many standard deviations weights are kept apart, in bf16 with an index each."""

    name: str
    quantizer: AbstractQuantizer
    keep_beyond: float = inf

    def apply(self, matrices: Weights) -> Remedied:
        """A stack of matrices after the remedy."""
        return remedied(self.quantizer, jnp.float32(self.keep_beyond), matrices)

    def bits_per_weight(self, shape: Shape, share_kept: float) -> float:
        """Codes and scales of all weights + share kept × (16 + ⌈log2 N⌉), N the number of weights.

        A kept weight has a code as well, that of 0; its index says where among the N it belongs.
        """
        return self.quantizer.bits_per_weight(shape) + share_kept * (16 + ceil(log2(prod(shape))))


@partial(jax.jit, static_argnums=0)
def remedied(quantizer: AbstractQuantizer, keep_beyond: Number, matrices: Weights) -> Remedied:
    """Each matrix W = W_normal + W_outlier: weights beyond so many standard deviations in bf16, the rest quantized."""

    def one(w: Matrix) -> Remedied:
        kept = jnp.abs(w - jnp.mean(w)) > keep_beyond * jnp.std(w)
        return Remedied(jnp.where(kept, BF16.roundtrip(w), quantizer.roundtrip(jnp.where(kept, 0.0, w))), kept)

    return jax.lax.map(one, matrices)


# Unless a spec says otherwise a scale is max |w| / 127, in float32, of the matrix, of a row, or of 32 weights of a row.
ONE_SCALE = Remedy("one scale", parse("int8:tensor"))
ZERO_POINT = Remedy("zero point", parse("int8:tensor:minmax"))  # codes from the smallest weight to the largest
CLIP_PERCENTILE = Remedy("clip at 99.9 %", parse("int8:tensor:p99.9"))  # the percentile of |w| in the place of max |w|
CLIP_MSE = Remedy("clip, least error", parse("int8:tensor:mse"))  # the scale with the least sum of e², by search
ROWS = Remedy("scale a row", parse("int8:channel"))
BLOCKS = Remedy("scale a block", parse("int8:block32:absmax:f16"))
APART = Remedy("outliers apart", parse("int8:tensor"), keep_beyond=SIGMAS)
ROWS_APART = Remedy("apart, scale a row", parse("int8:channel"), keep_beyond=SIGMAS)
REMEDIES = (ONE_SCALE, ZERO_POINT, CLIP_PERCENTILE, CLIP_MSE, ROWS, BLOCKS, APART, ROWS_APART)


@dataclass(frozen=True)
class Advice:
    """The remedy that the document advises where outliers are a share of [low, high) of the weights (1 is all)."""

    claim_id: str
    low: float
    high: float
    remedy: Remedy


BELOW_A_THOUSANDTH = Advice("B43", 0.0, 1e-3, ONE_SCALE)
BELOW_A_HUNDREDTH = Advice("B44", 1e-3, 1e-2, ZERO_POINT)
ABOVE_A_HUNDREDTH = Advice("B45", 1e-2, 1.0, ROWS_APART)
ADVICE = (BELOW_A_THOUSANDTH, BELOW_A_HUNDREDTH, ABOVE_A_HUNDREDTH)


@dataclass(frozen=True)
class Config:
    """The axes of the map, and what is drawn at each of its points.

    Attributes:
        rates: shares of the weights that are outliers, three or four in each range that the document has an advice for.
        magnitudes: of the outliers, in standard deviations of the bulk.
        shape: of a matrix, (out, in).
        repeats: matrices at each point.
    """

    rates: tuple[float, ...] = (1e-4, 3e-4, 7e-4, 2e-3, 4e-3, 8e-3, 1.5e-2, 2.2e-2, 3e-2, 5e-2)
    magnitudes: tuple[float, ...] = (3.0, 6.0, 10.0, 30.0, 100.0, 300.0)
    shape: tuple[int, int] = (64, 1024)
    repeats: int = 8
    seed: int = 42

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller matrices."""
        return cls(repeats=2, shape=(32, 256))


def measure(config: Config) -> Iterator[Cell]:
    """What is measured, and saved, at a time: all points of the map with one magnitude."""
    for magnitude in config.magnitudes:
        yield f"magnitude {magnitude:g}", partial(at_magnitude, config, magnitude)


def at_magnitude(config: Config, magnitude: float) -> list[dict]:
    """Every remedy at every rate of outliers, on the same matrices and inputs."""
    rows = []
    for rate in config.rates:
        name = f"{rate:g} {magnitude:g}"
        problems = draw_problems(config.seed, name, normal_with_outliers(rate, magnitude), config.shape, config.repeats)
        for remedy in REMEDIES:
            after = remedy.apply(problems.weights)
            bits = remedy.bits_per_weight(config.shape, share_kept=float(np.mean(after.kept)))
            about = {"remedy": remedy.name, "rate": rate, "magnitude": magnitude, "shape": config.shape}
            rows.append(about | {"bits_per_weight": bits} | errors(sums(problems, after)))
    return rows


def normal_with_outliers(rate: float, magnitude: float) -> Contaminated:
    """Normal weights of std 1; at this rate each becomes ±u instead, u uniform from half to 3/2 of the magnitude."""
    return Normal().with_outliers(rate=rate, magnitude=magnitude, values="spread")


class Problems(NamedTuple):
    """Matrices, which of their weights are outliers, and white inputs for each; all are stacks."""

    weights: Weights
    is_outlier: Bool[Array, "repeats out in"]
    inputs: Float[Array, "repeats batch in"]


def draw_problems(seed: int, name: str, population: Contaminated, shape: Shape, repeats: int) -> Problems:
    """Repeats of one problem, a function of seed and name. The same keys give the weights and mark their outliers."""
    keys = jax.random.split(population_key(seed, name), repeats)
    keys_of_inputs = jax.vmap(partial(jax.random.fold_in, data=1))(keys)  # another stream than that of the weights
    inputs = samples(Normal(), keys_of_inputs, (INPUTS, shape[1]))
    return Problems(samples(population, keys, shape), outlier_marks(population, keys, shape), inputs)


class Sums(NamedTuple):
    """Sums over each matrix. Its bulk are the weights that are no outliers."""

    squared_output_errors: PerMatrix
    squared_outputs: PerMatrix
    squared_bulk_errors: PerMatrix
    squared_bulk: PerMatrix
    relative_bulk_errors: PerMatrix  # |e| / |w|, 0 where w is 0
    bulk: PerMatrix  # how many weights
    squared_outlier_errors: PerMatrix
    squared_outliers: PerMatrix
    outliers: PerMatrix  # how many weights
    outliers_kept: PerMatrix
    bulk_kept: PerMatrix


@jax.jit
def sums(problems: Problems, after: Remedied) -> Sums:
    """What is summed over each matrix; errors of outputs are x eᵀ in float32, no difference of two products."""

    def one(problem: Problems, after: Remedied) -> Sums:
        w, is_outlier, x = problem
        e = error(w, after.weights)
        relative = jnp.abs(e) / jnp.where(w == 0, 1.0, jnp.abs(w))
        of_bulk, of_outliers = partial(jnp.sum, where=~is_outlier), partial(jnp.sum, where=is_outlier)
        return Sums(
            squared_output_errors=jnp.sum(product(x, e) ** 2),
            squared_outputs=jnp.sum(product(x, w) ** 2),
            squared_bulk_errors=of_bulk(e * e),
            squared_bulk=of_bulk(w * w),
            relative_bulk_errors=of_bulk(relative),
            bulk=jnp.sum(~is_outlier),
            squared_outlier_errors=of_outliers(e * e),
            squared_outliers=of_outliers(w * w),
            outliers=jnp.sum(is_outlier),
            outliers_kept=of_outliers(after.kept),
            bulk_kept=of_bulk(after.kept),
        )

    return jax.lax.map(lambda pair: one(*pair), (problems, after))


def errors(found: Sums) -> dict[str, float]:
    """Columns of a row: relative errors, and shares of the weights that are kept apart; each with its ``_se``.

    A ratio is the sum over all matrices over the sum over all matrices; its standard error comes from how they differ.
    Here outputs and shares are judged; the errors of bulk and outliers tell a reader of the rows where they come from.
    """
    return columns(
        output_error=root_ratio(found.squared_output_errors, found.squared_outputs),
        bulk_error=root_ratio(found.squared_bulk_errors, found.squared_bulk),
        bulk_mean_of_ratios=ratio(found.relative_bulk_errors, found.bulk),
        outlier_error=root_ratio(found.squared_outlier_errors, found.squared_outliers),
        share_of_outliers_kept=ratio(found.outliers_kept, found.outliers),
        share_of_bulk_kept=ratio(found.bulk_kept, found.bulk),
    )


ERRORS_SHOWN = (1e-3, 1.5)  # limits of the axes in panels b and c
# There are six colours; the two that keep outliers apart are black and grey.
STYLES = plotting.styles(remedy.name for remedy in REMEDIES) | {
    APART.name: Style(plotting.BLACK, "X", APART.name),
    ROWS_APART.name: Style("0.55", "*", ROWS_APART.name),
}


def draw(rows: Rows) -> plotting.Figure:
    """The advised remedy against the best one at every point of the map; errors and bits of all at one magnitude."""
    fig, axes = plotting.mosaic("aab;aac", height=5.2)
    advised_against_best(axes["a"], rows)
    errors_against_rate(axes["b"], rows.where(magnitude=SHOWN))
    errors_against_bits(axes["c"], rows.where(magnitude=SHOWN))
    fig.legend(*axes["b"].get_legend_handles_labels(), loc="outside upper center", ncol=4)
    plotting.letter(axes[letter] for letter in "abc")
    return fig


def advised_against_best(ax: plotting.Axes, rows: Rows) -> None:
    """How many times more than the best remedy the advised one errs."""
    cells = Rows()
    for (rate, magnitude), cell in rows.groups("rate", "magnitude").items():
        found = cell.by("remedy", "output_error")
        best = min(found, key=lambda name: found[name])
        times = found[advice_for(rate).remedy.name] / found[best]
        text = f"×{times:.2g}" + ("ᵇ" if best == BLOCKS.name else "")  # elsewhere the best keeps outliers apart
        cells.append({"rate": rate, "magnitude": magnitude, "log_times": np.log10(times), "text": text})
    grid = cells.grid(x="rate", y="magnitude", value="log_times")
    texts = cells.grid(x="rate", y="magnitude", value="text")
    plotting.heat_map(ax, grid, texts=texts, white_above=np.log10(20), vmin=0, vmax=2)
    ax.set_xticklabels([f"{100 * rate:g}" for rate in grid.xs])
    for advice in ADVICE:
        columns_advised = [column for column, rate in enumerate(grid.xs) if advice_for(rate) is advice]
        label = f"{advice.claim_id}: {advice.remedy.name}"
        plotting.note(ax, np.mean(columns_advised), len(grid.ys) - 0.4, label, ha="center")
        ax.axvline(max(columns_advised) + 0.5, color="w", lw=2)
    ax.set_xlabel("outliers (% of the weights)\n×: error, advised / best (ᵇ best is a scale a block)")
    ax.set_ylabel("magnitude (std of the bulk)")


def advice_for(rate: float) -> Advice:
    """The advice for such a share of outliers."""
    return next(advice for advice in ADVICE if advice.low <= rate < advice.high)


def errors_against_rate(ax: plotting.Axes, rows: Rows) -> None:
    """Measured output errors of every remedy, and for most of them what theory predicts."""
    shape, rates = rows[0]["shape"], np.geomspace(min(rows.column("rate")), max(rows.column("rate")), 40)
    for remedy in REMEDIES:
        plotting.points(ax, rows.where(remedy=remedy.name), "rate", "output_error", series=STYLES[remedy.name])
        predicted = [predicted_error(remedy, float(rate), shape) for rate in rates]
        plotting.prediction(ax, rates, predicted, series=STYLES[remedy.name])
    ax.set(xscale="log", yscale="log", ylim=ERRORS_SHOWN)
    ax.set(xlabel=f"share of outliers of {SHOWN:g} std", ylabel="output error / output, rms")
    plotting.mark_claim(ax, HIDDEN_ABOVE, 0.0035, "B42: 3σ misses", offset=(-64, 6))


def errors_against_bits(ax: plotting.Axes, rows: Rows) -> None:
    """What the errors of panel b cost; each point is one share of outliers."""
    for remedy in REMEDIES:
        found = rows.where(remedy=remedy.name)
        plotting.points(ax, found, "bits_per_weight", "output_error", series=STYLES[remedy.name])
    ax.set(yscale="log", ylim=ERRORS_SHOWN, xlabel="stored bits a weight", ylabel="output error / output, rms")


def predicted_error(remedy: Remedy, rate: float, shape: Shape) -> float:
    """Relative rms error of the outputs where outliers have ``SHOWN`` std, NaN where no formula is at hand.

    Inputs are white, so it is that of the weights: the root of E[e²] / E[w²]. ``int_mse`` counts what is rounded and
    what is clipped at a given end of the codes, ``absmax_int_mse`` takes the mean over the largest of so many weights.
    """
    population, matrix_size = normal_with_outliers(rate, SHOWN), prod(shape)
    if remedy is APART:
        mse = predicted_mse_apart(rate, matrix_size)
    elif remedy is ONE_SCALE:  # the largest of so many weights hardly varies: its mean will do
        mse = theory.int_mse(population, theory.expected_absmax(population, matrix_size), bits=8)
    elif remedy is CLIP_PERCENTILE:  # of |w|; of w it is the quantile of 99.95 %
        mse = theory.int_mse(population, float(population.quantile(0.9995)), bits=8)
    elif remedy is ROWS:
        mse = theory.absmax_int_mse(population, shape[1], bits=8)
    elif remedy is BLOCKS:  # as if their scales were float32: f16 moves a scale by 2^-12 of itself at most
        mse = theory.absmax_int_mse(population, 32, bits=8)
    else:
        mse = np.nan
    return float((mse / population.moment(2)) ** 0.5)


def predicted_mse_apart(rate: float, matrix_size: int) -> float:
    """E[e²] = step² / 12 + (share kept) E[e² of bf16], where weights beyond 3σ of all weights, outliers included, stay.

    The step is a 127th of the largest weight that is left: of the bulk's below 3σ, or, once outliers raise 3σ so far
    that the smallest of them stay below it, of 3σ. Neglected: that the few kept weights have no step, that bf16 rounds
    the kept outliers, the larger ones, a little worse than all, and that a few of the bulk are kept, too.
    """
    limit = SIGMAS * float(normal_with_outliers(rate, SHOWN).std_dev())
    largest_left = limit if limit > 0.5 * SHOWN else min(limit, theory.expected_absmax(Normal(), matrix_size))
    share_kept = rate * (1.5 - max(0.5, limit / SHOWN))  # outliers are uniform from half to three halves of SHOWN
    only_outliers, bf16 = normal_with_outliers(1.0, SHOWN), levels(FORMATS["bf16"])
    near_outliers = bf16[(abs(bf16) > 0.3 * SHOWN) & (abs(bf16) < 3 * SHOWN)]  # for speed: they reach from 0.5 to 1.5
    return (largest_left / 127) ** 2 / 12 + share_kept * theory.levels_mse(only_outliers, near_outliers)


def hidden_above(magnitude: float) -> float:
    """Share r of outliers from which on 3σ exceeds the smallest of them, half of the magnitude M.

    σ² = 1 − r + r M² (1 + 1/12), the last bracket from the spread; 9 σ² = M² / 4 gives r, 2.6 % at large M.
    """
    return (magnitude**2 / (4 * SIGMAS**2) - 1) / (magnitude**2 * 13 / 12 - 1)


HIDDEN_ABOVE = hidden_above(SHOWN)


def output_errors(rows: Rows, low: float = 0.0, high: float = 1.0) -> Iterator[dict[str, float]]:
    """For each point of the map whose share of outliers lies in [low, high) the output error of every remedy."""
    for (rate, _), point in rows.groups("rate", "magnitude").items():
        if low <= rate < high:
            yield point.by("remedy", "output_error")


def clipping_helps(rows: Rows) -> float:
    """Share of the points at which clipping at the 99.9th percentile takes a tenth off the error of one scale."""
    return share(
        within_factor(by_remedy, [CLIP_PERCENTILE.name], factor=A_TENTH_OFF, of=ONE_SCALE.name)
        for by_remedy in output_errors(rows)
    )


def calibration_halves(rows: Rows) -> float:
    """Share of the points at which some calibration of one scale has at most half of the plain one's error."""
    calibrated = [ZERO_POINT.name, CLIP_PERCENTILE.name, CLIP_MSE.name]
    return share(
        within_factor(by_remedy, calibrated, factor=0.5, of=ONE_SCALE.name) for by_remedy in output_errors(rows)
    )


def advised_is_good(rows: Rows, advice: Advice) -> float:
    """Share of the points that the advice is for at which its remedy errs at most twice as much as the best."""
    return share(
        within_factor(by_remedy, [advice.remedy.name], factor=WITHIN_ONE_BIT)
        for by_remedy in output_errors(rows, advice.low, advice.high)
    )


def three_sigma_detects(rows: Rows) -> float:
    """Share of the points at which at least 95 % of the outliers and at most 1 % of the others lie beyond 3σ."""
    apart = rows.where(remedy=APART.name)
    outliers, bulk = apart.column("share_of_outliers_kept"), apart.column("share_of_bulk_kept")
    return share((outliers >= FOUND) & (bulk <= FALSE_ALARMS))


# Each number is a share of points of the map: a statement holds if it is 1, is refuted if it is 0, conditional between.
CLAIMS = (
    Claim(
        "B38",
        statement="clip at the 99.9 percentile",
        definition="share of map points at which clipping at the 99.9th percentile takes a tenth off the output error",
        number=clipping_helps,
        rule=share_of_cases("it does"),
        reading="as a remedy it fails: it cuts off what the outliers carry, or, if more than 0.1 % of the weights are "
        "outliers, the percentile lies among them and nothing is cut",
    ),
    Claim(
        "B42",
        statement="`detect_outliers`, 3σ",
        definition="share of map points at which 3σ finds 95 % of the outliers and at most 1 % of the others",
        number=three_sigma_detects,
        rule=share_of_cases("it does"),
        reading="as a detector of outliers 3σ misses small ones, and many large ones, which raise σ themselves",
    ),
    Claim(
        "B43",
        statement="<.1 % outliers → symmetric + global scale",
        definition="share of map points below 0.1 % outliers at which a symmetric scale is within one bit of the best",
        number=partial(advised_is_good, advice=BELOW_A_THOUSANDTH),
        rule=share_of_cases("it is"),
        reading="only where the magnitude of the outliers is 3 std, hardly beyond the bulk",
    ),
    Claim(
        "B44",
        statement=".1–1 % → asymmetric",
        definition="share of map points from 0.1 to 1 % at which an asymmetric scale is within one bit of the best",
        number=partial(advised_is_good, advice=BELOW_A_HUNDREDTH),
        rule=share_of_cases("it is"),
        reading="with outliers of both signs a zero point gains nothing",
    ),
    Claim(
        "B45",
        statement=">1 % → per-channel + mixed precision",
        definition="share of map points above 1 % at which mixed precision with row scales is within one bit "
        "of the best",
        number=partial(advised_is_good, advice=ABOVE_A_HUNDREDTH),
        rule=share_of_cases("it is"),
        reading="though at shares above 2.6 % large outliers hide below 3σ: this remedy then errs three times as much "
        "as at a share just below",
    ),
    Claim(
        "B76",
        statement="weight outliers can be fixed by calibration",
        definition="share of map points at which min/max, percentile or MSE calibration halves the output error",
        number=calibration_halves,
        rule=share_of_cases("it does"),
        reading="one scale has to serve outliers and bulk, whichever is chosen",
    ),
)
