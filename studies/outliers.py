"""How much does an outlier hurt the other weights of an int8 tensor: by its size, its rarity, the tensor's size?

Method. The document's construction, 16×32 weights uniform on [-1, 1) of which five are ±100 under one scale, is drawn
many times with and without its outliers, quantized, and multiplied with white inputs. Then the magnitude of the
outliers is swept, their rate (in two sizes of the matrix), and the size of a tensor that holds a single one.
Expected. The step is max |w| / 127, so an outlier M times the largest of the bulk leaves it 2 round(127 / M) + 1 codes
and multiplies the output MSE by M² while the bulk has codes, whatever the number of weights.
Refuted if a larger tensor suffers less: panel e.

Settles B26, B31, B35 and B47 of the ledger, which numbers the statements of two documents (``quantsim claims``). The
study ``outlier_example`` judges more of the same construction, and reads the columns that are not drawn here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from quantsim import theory
from quantsim._types import Activations, Matrix, PRNGKey, Shape, Weights
from quantsim.formats import FORMATS, levels
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, between, share, share_of_cases, stated, value_of
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import Estimate, columns, mean, per_unit, ratio, root_ratio
from quantsim.outputs.products import product
from quantsim.populations import Contaminated, Normal, Population, Uniform, samples
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys

from ._axes import logarithmic

PerUnit = Array | np.ndarray  # (matrices, parts): a matrix has the sum over its parts: rows, columns of outputs, or one

INT8 = parse("int8:tensor")  # one scale, max |w| / 127

# The document's construction: 16 × 32 weights uniform on [-1, 1), five of which become ±100.
SHAPE = (16, 32)
BULK = Uniform(std=3**-0.5)
OUTLIERS = 5  # how many
OUTLIER = 100.0  # their magnitude
STATED_STEP = 0.7874  # by the document, 100 / 127
STATED_MORE_MSE = (300.0, 500.0)  # per cent
STATED_BEFORE = 0.0043  # relative error: a mean |e| of 0.0043 over the largest weight, 1
STATED_AFTER = 0.574  # the error 0.287 of the weight 0.5, over that weight
STATED_TYPICAL_ERROR = 0.2  # |e| of the bulk, a quarter of a step; outlier_example judges the share above it

INPUTS = 8  # white activations that each matrix is multiplied with
FEWEST_MATRICES = 4  # whatever their size
# What "relative error" can mean; the formulas stand in `relative_errors_of`.
RELATIVE = ("mean_of_ratios", "ratio_of_means", "rms", "rms_over_all", "mean_over_largest", "largest_over_largest")


@dataclass(frozen=True)
class Config:
    """The axes that are swept, and how much is drawn at each point.

    Attributes:
        magnitudes: of the five outliers, over the largest of the bulk, 1.
        rates: probabilities of a weight to be an outlier of ±100.
        rate_shapes: of the matrices at each rate.
        sizes: shapes of matrices with a single outlier.
        matrices: drawn at a point, at most, ...
        most_weights: ... and no more of them than hold so many weights together, but always four.
    """

    magnitudes: tuple[float, ...] = logarithmic(1.0, 1000.0, 25)
    rates: tuple[float, ...] = logarithmic(1e-5, 0.1, 13)
    rate_shapes: tuple[tuple[int, int], ...] = ((16, 32), (256, 256))
    sizes: tuple[tuple[int, int], ...] = ((16, 32), (512, 512), (2560, 4096))
    matrices: int = 1024
    most_weights: int = 2**22
    seed: int = 42

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller matrices."""
        return cls(matrices=64, rate_shapes=((16, 32),), sizes=((16, 32),), most_weights=2**16)


def measure(config: Config) -> Iterator[Cell]:
    """The construction, then sweeps over magnitude, rate and size."""
    yield "construction", partial(construction, config, "exact")
    yield "magnitude", partial(by_magnitude, config)
    for shape in config.rate_shapes:
        yield f"rate {shape}", partial(by_rate, config, shape)
    for bulk in (BULK, Normal()):
        for shape in config.sizes:
            yield f"size {bulk} {shape}", partial(by_size, config, bulk, shape)


def construction(config: Config, values: Literal["exact", "spread"]) -> list[dict]:
    """Five outliers at ±100 among 16×32 weights, a row for each class of weights.

    ``outlier_example`` also has them "spread", from 50 to 150: those at ±100 fall on the last code and have no error.
    """
    population = BULK.with_outliers(count=OUTLIERS, value=OUTLIER, values=values)
    return [{"kind": "construction", "values": values} | row for row in by_class(config, population)]


def by_magnitude(config: Config) -> list[dict]:
    """The same with outliers of other magnitudes; the largest weight of the bulk is about 1."""
    rows = []
    for magnitude in config.magnitudes:
        population = BULK.with_outliers(count=OUTLIERS, value=magnitude)
        rows += [{"kind": "magnitude", "magnitude": magnitude} | row for row in by_class(config, population)]
    return rows


def by_rate(config: Config, shape: Shape) -> list[dict]:
    """The relative error of the bulk where each weight is ±100 with some probability."""
    rows = []
    for rate in config.rates:
        drawn = draw_matrices(config, BULK.with_outliers(rate=rate, value=OUTLIER), shape)
        rows.append({"kind": "rate", "rate": rate, "weights": prod(shape)} | columns(rms=rms_of_bulk(*drawn)))
    return rows


def by_size(config: Config, bulk: Population, shape: Shape) -> list[dict]:
    """The relative error of the bulk with a single outlier of 100, and without."""
    with_one, without = draw_matrices(config, bulk.with_outliers(count=1, value=OUTLIER), shape)
    about = {"kind": "size", "bulk": str(bulk), "weights": prod(shape)}
    return [about | columns(rms=rms_of_bulk(with_one, without), rms_without=rms_of_bulk(without, without))]


class Drawn(NamedTuple):
    """Matrices with their outliers, and the same without."""

    weights: Weights
    clean: Weights


def draw_matrices(config: Config, population: Contaminated, shape: Shape) -> Drawn:
    """As many as the config says. Of one key, both have the same weights but where an outlier replaces one."""
    keys = keys_of_matrices(config, population, shape)
    return Drawn(samples(population, keys, shape), samples(population.bulk, keys, shape))


def keys_of_matrices(config: Config, population: Contaminated, shape: Shape) -> PRNGKey:
    """A key for each matrix that is drawn, a function of seed, population and shape."""
    matrices = max(FEWEST_MATRICES, min(config.matrices, config.most_weights // prod(shape)))
    return array_keys(config.seed, f"{population} {shape}", matrices)


def rms_of_bulk(weights: Weights, clean: Weights) -> Estimate:
    """Relative rms error of the weights that no outlier replaced: sqrt(Σ e² / Σ w²), matrices being the units.

    The device sums over rows; ``root_ratio`` adds the rows of a matrix in float64.
    """
    squared_errors, squared_weights = bulk_squares(weights, clean)
    return root_ratio(squared_errors, squared_weights)


@jax.jit
def bulk_squares(weights: Weights, clean: Weights) -> tuple[Array, Array]:
    """Sums of e² and of w² over each row of each matrix, of the weights that no outlier replaced."""

    def one(pair: tuple[Matrix, Matrix]) -> tuple[Array, Array]:
        w, w_clean = pair
        e, in_bulk = error(w, INT8.roundtrip(w)), w == w_clean
        return jnp.sum(e * e, axis=-1, where=in_bulk), jnp.sum(w * w, axis=-1, where=in_bulk)

    return jax.lax.map(one, (weights, clean))


class Sums(NamedTuple):
    """What is known of each matrix and of a class of its weights, with one int8 scale a matrix."""

    # sums over the class, of each row
    members: PerUnit  # how many
    errors: PerUnit  # |e|
    squared_errors: PerUnit
    magnitudes: PerUnit  # |w|
    squared_weights: PerUnit
    relative_errors: PerUnit  # |e| / |w|, 0 where w is 0
    above: PerUnit  # how many |e| > STATED_TYPICAL_ERROR
    exact: PerUnit  # how many without error
    clipped: PerUnit  # how many lie beyond the last code: none, as outlier_example shows
    # sums over all weights, of each row
    all_squared_errors: PerUnit
    all_squared_weights: PerUnit
    # sums over the outputs y = x wᵀ, of each column
    squared_output_errors: PerUnit
    squared_outputs: PerUnit
    squared_unscaled_errors: PerUnit  # of products with the codes, the scale forgotten; for outlier_example
    # no sums, of each matrix
    largest_error: PerUnit  # of the class
    largest_weight: PerUnit  # of all
    step: PerUnit
    codes: PerUnit  # from the smallest that the class uses to the largest, both counted


@jax.jit
def sums_of_class(matrices: Weights, is_member: Bool[Array, "matrices out in"], inputs: Array) -> Sums:
    """``Sums`` of each matrix and the class of those of its weights that are members."""

    def one(w: Matrix, member: Array, x: Activations) -> Sums:
        q = INT8.quantize(w)
        e, largest = error(w, q.dequantize()), jnp.max(jnp.abs(w))
        relative = jnp.where(w == 0, 0.0, jnp.abs(e) / jnp.where(w == 0, 1.0, jnp.abs(w)))
        y, dy, unscaled = product(x, w), product(x, e), product(x, q.codes.astype(jnp.float32))
        of_class, of_outputs = partial(jnp.sum, axis=-1, where=member), partial(jnp.sum, axis=0)
        last_code = jnp.max(jnp.where(member, jnp.abs(q.codes), 0)).astype(jnp.float32)
        return Sums(
            members=of_class(jnp.ones_like(w)),
            errors=of_class(jnp.abs(e)),
            squared_errors=of_class(e * e),
            magnitudes=of_class(jnp.abs(w)),
            squared_weights=of_class(w * w),
            relative_errors=of_class(relative),
            above=of_class(jnp.abs(e) > STATED_TYPICAL_ERROR),
            exact=of_class(relative <= 2.0**-22),  # two roundings to float32, of the scale and of the product with it
            clipped=of_class(INT8.clipped(w)),
            all_squared_errors=jnp.sum(e * e, axis=-1),
            all_squared_weights=jnp.sum(w * w, axis=-1),
            squared_output_errors=of_outputs(dy * dy),
            squared_outputs=of_outputs(y * y),
            squared_unscaled_errors=of_outputs((unscaled - y) ** 2),
            largest_error=jnp.max(jnp.abs(e) * member)[None],
            largest_weight=largest[None],
            step=largest[None] / 127,
            codes=2 * last_code[None] + 1,
        )

    return jax.vmap(one)(matrices, is_member, inputs)


def by_class(config: Config, population: Contaminated) -> list[dict]:
    """A row for the bulk, for the outliers, and for the same matrices without outliers."""
    keys = keys_of_matrices(config, population, SHAPE)
    drawn = draw_matrices(config, population, SHAPE)
    keys_of_inputs = jax.vmap(partial(jax.random.fold_in, data=1))(keys)  # another stream than that of the weights
    inputs = samples(Normal(), keys_of_inputs, (INPUTS, SHAPE[1]))
    in_bulk = drawn.weights == drawn.clean
    bulk = sums_of_class(drawn.weights, in_bulk, inputs)
    outliers = sums_of_class(drawn.weights, ~in_bulk, inputs)
    clean = sums_of_class(drawn.clean, jnp.ones_like(in_bulk), inputs)
    times_more = ratio(bulk.squared_output_errors, clean.squared_output_errors)
    return [
        # of the outputs of whole matrices, with outliers over without, minus 1, in per cent
        {"of": "bulk"} | columns_of_class(bulk) | columns(more_mse=times_more.plus(-1).times(100)),
        {"of": "outliers"} | columns_of_class(outliers),
        {"of": "clean"} | columns_of_class(clean),
    ]


def columns_of_class(s: Sums) -> dict[str, float]:
    """Columns of a class of weights: relative errors, the absolute one, shares and codes; step and outputs of them all.

    A ratio is the sum over all matrices over the sum over all matrices; its standard error comes from how they differ,
    a column ``_se`` of each.
    """
    return relative_errors_of(s) | columns(
        mean_abs=ratio(s.errors, s.members),
        share_above=ratio(s.above, s.members),
        share_exact=ratio(s.exact, s.members),
        share_clipped=ratio(s.clipped, s.members),
        step=mean(s.step),
        codes=mean(s.codes),
        output_error=root_ratio(s.squared_output_errors, s.squared_outputs),
        unscaled_output_error=root_ratio(s.squared_unscaled_errors, s.squared_outputs),
    )


def relative_errors_of(s: Sums) -> dict[str, float]:
    """The six meanings in ``RELATIVE``; ``per_unit`` adds the parts of each matrix."""
    return columns(
        mean_of_ratios=ratio(s.relative_errors, s.members),  # mean (|e| / |w|)
        ratio_of_means=ratio(s.errors, s.magnitudes),  # mean |e| / mean |w|
        rms=root_ratio(s.squared_errors, s.squared_weights),  # rms e / rms w
        rms_over_all=root_ratio(s.all_squared_errors, s.all_squared_weights),  # the same over all weights
        mean_over_largest=ratio(
            s.errors, per_unit(s.members) * per_unit(s.largest_weight)
        ),  # mean |e| / max |w| of all
        largest_over_largest=ratio(s.largest_error, s.largest_weight),  # max |e| / max |w| of all
    )


DRAWN_MEANINGS = {  # of a relative error
    "mean_of_ratios": "mean |e| / |w|",
    "rms": "rms e / rms w",
    "rms_over_all": "rms, over all",
}
STYLES = plotting.styles(DRAWN_MEANINGS)
BULK_STYLES = plotting.styles({str(BULK): "uniform", str(Normal()): "normal"})
FINE = np.geomspace(1, 1000, 200)  # magnitudes of predicted curves


def draw(rows: Rows) -> plotting.Figure:
    """Codes, relative errors and output error against the magnitude of the outliers; error against rate and size."""
    fig, axes = plotting.mosaic("aabbcc;.ddee.", height=4.2)
    bulk = rows.where(kind="magnitude", of="bulk")
    codes_left(axes["a"], bulk)
    against_magnitude(axes["b"], bulk)
    output_mse(axes["c"], bulk)
    for name in "abc":
        axes[name].set(xscale="log", yscale="log", xlabel="outliers / largest of the bulk, M")
    against_rate(axes["d"], rows.where(kind="rate"))
    against_size(axes["e"], rows.where(kind="size"))
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def codes_left(ax: plotting.Axes, rows: Rows) -> None:
    """Codes between the outermost two that the bulk uses."""
    plotting.points(ax, rows, "magnitude", "codes")
    plotting.prediction(ax, FINE, 2 * np.floor(127 / FINE + 0.5) + 1, label="2 round(127 / M) + 1")
    plotting.mark_claim(ax, OUTLIER, 127.5, "B26: half", offset=(-14, 5))
    ax.set(ylabel="codes left for the bulk", ylim=(0.2, 400))
    ax.legend(loc="lower left")


def against_magnitude(ax: plotting.Axes, rows: Rows) -> None:
    """Three meanings of the bulk's relative error."""
    codes = levels(FORMATS["int8"])
    rms = np.array([relative_rms(BULK, m) for m in FINE])
    ratios = [theory.levels_mean(BULK, codes * m / 127, lambda w, w_hat: abs(w - w_hat) / abs(w)) for m in FINE]
    # five outliers add 5 M² to the sum of squares, to which each of the others adds 1/3
    over_all = rms / np.sqrt(1 + OUTLIERS * FINE**2 / ((prod(SHAPE) - OUTLIERS) / 3))
    for name, predicted in {"mean_of_ratios": ratios, "rms": rms, "rms_over_all": over_all}.items():
        plotting.points(ax, rows, "magnitude", name, series=STYLES[name])
        plotting.prediction(ax, FINE, predicted, series=STYLES[name])
    plotting.mark_claim(ax, 1.0, STATED_BEFORE, "B31", offset=(4, -9))
    plotting.mark_claim(ax, OUTLIER, STATED_AFTER, "B31", offset=(-20, 3))
    ax.set(ylabel="relative error of the bulk", ylim=(3e-4, 1.5))
    ax.legend(loc="lower right")


def output_mse(ax: plotting.Axes, rows: Rows) -> None:
    """How much larger the outliers make the squared error of the outputs, in per cent."""
    plotting.points(ax, rows, "magnitude", "more_mse")
    growth = np.array([theory.int_mse(BULK, m, bits=8) for m in FINE]) / theory.absmax_int_mse(
        BULK, prod(SHAPE), bits=8
    )
    plotting.prediction(ax, FINE, 100 * (growth * (1 - OUTLIERS / prod(SHAPE)) - 1))  # the outliers have no error
    ax.axhspan(*STATED_MORE_MSE, color=plotting.VERMILION, alpha=0.3, lw=0)
    plotting.mark_claim(ax, OUTLIER, float(np.mean(STATED_MORE_MSE)), "B35: stated", offset=(-16, -9))
    ax.set(ylim=(10, 3e7), ylabel="output MSE, increase (%)")


def against_rate(ax: plotting.Axes, rows: Rows) -> None:
    """The bulk's error against the probability of an outlier: what counts is whether the matrix holds any."""
    for at, n in enumerate(rows.values("weights")):
        found = rows.where(weights=n)
        plotting.points(ax, found, "rate", "rms", series=at, label=f"{n:,} weights")
        holds_one = 1 - (1 - found.column("rate")) ** n
        with_one, without = relative_rms(BULK, OUTLIER), relative_rms(BULK, None, weights=n)
        predicted = np.sqrt(holds_one * with_one**2 + (1 - holds_one) * without**2)
        plotting.prediction(ax, found.column("rate"), predicted, series=at)
    ax.set(xscale="log", yscale="log", xlabel="share of weights at ±100", ylabel="rms error / rms, bulk")
    ax.legend(loc="lower right")


def against_size(ax: plotting.Axes, rows: Rows) -> None:
    """The bulk's error against the number of weights, with one outlier of 100 and without."""
    for bulk in (BULK, Normal()):
        found, style = rows.where(bulk=str(bulk)), BULK_STYLES[str(bulk)]
        n = found.column("weights")
        plotting.points(ax, found, "weights", "rms", series=style)
        plotting.points(ax, found, "weights", "rms_without", series=replace(style, label=None))
        plotting.prediction(ax, n, [relative_rms(bulk, OUTLIER)] * len(n), series=style)
        plotting.prediction(ax, n, [relative_rms(bulk, None, weights=int(k)) for k in n], series=style)
    plotting.note(ax, 2e3, 0.45, "B47: one outlier of 100")
    plotting.note(ax, 2e3, 0.0135, "none")
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 1), xlabel="weights in the tensor", ylabel="rms error / rms, bulk")
    ax.legend(loc="center right")


def relative_rms(bulk: Population, outlier: float | None, weights: int = 1) -> float:
    """Predicted rms e / rms w of the bulk, sqrt(E[e²] / E[w²]); an outlier or the largest of all sets the scale."""
    mse = theory.int_mse(bulk, outlier, bits=8) if outlier else theory.absmax_int_mse(bulk, weights, bits=8)
    return float((mse / bulk.moment(2)) ** 0.5)


def with_over_without(rows: Rows, column: str) -> float:
    """How many times larger a column of the bulk is with outliers at ±100 than without."""
    found = rows.where(kind="construction")
    return found.where(of="bulk").one(column) / found.where(of="clean").one(column)


def share_of_codes_in_bulk(rows: Rows) -> Estimate:
    """Share of the 255 codes that lie within the bulk, outliers at ±100."""
    return value_of("codes", kind="construction", of="bulk")(rows).times(1 / 255)


def grows_as_stated(rows: Rows) -> float:
    """Share of the six meanings of a relative error by which that of the bulk grows 133 times, within 10 %."""
    stated_growth = STATED_AFTER / STATED_BEFORE
    return share(abs(with_over_without(rows, name) / stated_growth - 1) < 0.1 for name in RELATIVE)


def errs_tenfold(rows: Rows) -> float:
    """Share of the tensors in which one outlier makes the error of the others at least ten times as large."""
    return share(r["rms"] >= 10 * r["rms_without"] for r in rows.where(kind="size"))


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "B26",
        statement="outlier takes 50 % of the range, bulk 50 %, real resolution .3937",
        definition="share of the 255 codes that lie within the bulk",
        number=share_of_codes_in_bulk,
        # holds within 0.005 of a half; a self-contradiction, as the document's own step leaves but the codes up to ±1
        rule=stated(0.5, within=0.005, limit=(2 * round(1 / STATED_STEP) + 1) / 255),
        reading="three codes of 255, by its own step of 0.7874 too, and a step is the resolution, not half of one",
    ),
    Claim(
        "B31",
        statement="relative error .43 % → 57.4 %, 133×",
        definition="share of six definitions of the bulk's relative error by which it grows 133 times (within 10 %)",
        number=grows_as_stated,
        rule=share_of_cases("it does"),
        reading="two meanings were compared: 0.43 % is a mean error of 0.0043 over the largest weight, 1, and 57.4 % "
        "the error of the single weight 0.5 over itself, 0.287 / 0.5",
    ),
    Claim(
        "B35",
        statement="layer-output MSE +300–500 %",
        definition="increase of the output MSE by five weights at ±100, white inputs, in per cent",
        number=value_of("more_mse", kind="construction", of="bulk"),
        rule=between(*STATED_MORE_MSE),
        reading="+{value:,.0f} %, about M² − 1 for outliers M times the largest of the bulk: 2 to 2.45 times give 300 "
        "to 500 %",
    ),
    Claim(
        "B47",
        statement="one outlier is enough because scale = max",
        definition="share of tensors (512 to 10⁷ weights, two bulks) in which one outlier makes the bulk err tenfold",
        number=errs_tenfold,
        rule=share_of_cases("it does"),
        reading="one outlier of 100 among ten million weights is enough",
    ),
)
