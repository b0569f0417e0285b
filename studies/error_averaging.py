"""Do int8's weight errors average out in the outputs, and relative to what?

Method. Normal weights, int8 per channel, go through real products with a fan-in of 16 to 65,536. The inputs are
zero-mean, mean-shifted, rectified, or matched to the weights of each output (coherent: every term of the output has one
sign). Beside it one map is the mean of k quantized copies, equal ones or with deviations that add up to nothing: what
redundancy alone is worth, beside the widths of trained models (`width`).
Expected. White errors add up like sqrt(fan-in), and so does the signal unless it is coherent: the absolute error grows,
the relative error stays that of the weights, and only its ratio to the bound without cancellation falls. Coherent
signals gain 1 / sqrt(fan-in), but not if weights are truncated instead of rounded.
Refuted if the relative error of zero-mean inputs falls with the fan-in: panel b.

Settles A13, A15 and B19 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim import theory
from quantsim._types import Activations, Matrix
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, share, share_of_cases, value_of
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure import ErrorStats, Tally, error, statistics, tally
from quantsim.measure.ratios import Estimate, columns
from quantsim.outputs.output_errors import summarize
from quantsim.outputs.products import product
from quantsim.outputs.sums import OutputSums, output_sums
from quantsim.populations import Normal
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

INT8 = parse("int8:channel")  # one scale, max |w| / 127, for the weights of each output
ROUNDINGS = {"nearest": INT8, "truncate": parse("int8:channel:absmax:truncate")}  # towards zero
INPUTS = ("zero-mean", "mean-shifted", "rectified", "coherent")
JUDGED_AT = 4096  # the fan-in at which the statements are judged: that of a language model of 7 billion weights
REDUNDANT_FAN_IN = 1024  # of the map that is copied; relative errors hardly depend on it, 64 copies of it fit in memory
KINDS_OF_COPIES = ("equal", "independent")  # independent but for their mean, which is the map


@dataclass(frozen=True)
class Config:
    """Fan-ins, sizes of the product, and numbers of redundant copies."""

    fan_ins: tuple[int, ...] = (16, 64, 256, 1024, 4096, 16384, 65536)
    outputs: int = 128
    batch: int = 128
    copies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer outputs, a shorter fan-in."""
        return cls(fan_ins=(16, 256, 4096), outputs=64, batch=32, copies=(1, 4, 16))


def measure(config: Config) -> Iterator[Cell]:
    """One cell a fan-in, one for the redundancy."""
    for fan_in in config.fan_ins:
        yield f"fan-in {fan_in}", partial(by_inputs, config, fan_in)
    yield "redundancy", partial(redundancy, config)


def by_inputs(config: Config, fan_in: int) -> list[dict]:
    """One row for each rounding and kind of inputs, on the same weights."""
    w = Normal().sample(population_key(config.seed, f"w {fan_in}"), (config.outputs, fan_in))
    x = Normal().sample(population_key(config.seed, f"x {fan_in}"), (config.batch, fan_in))
    rows = []
    for rounding, found in products(w, x).items():
        about = {"kind": "product", "fan_in": fan_in, "rounding": rounding}
        about |= weight_columns(statistics.fold(statistics.init(), found.weights))
        for inputs in INPUTS:
            rows.append(about | {"inputs": inputs} | output_columns(found.outputs[inputs], fan_in))
    return rows


def output_columns(sums: OutputSums, fan_in: int) -> dict[str, float]:
    """Of the outputs y and their errors dy, each with its ``_se`` (outputs are the units):

    rms = root mean dy²; rel_rms = ‖dy‖ / ‖y‖; to_bound = Σ |dy| / Σ (|x| |e|ᵀ), what |dy| were if no errors cancelled.
    Beside them, not judged here, the fan-in and predicted_rel_rms, from ``white``: what rel_rms were of white errors.
    """
    return asdict(summarize(sums, fan_in))


class RoundingSums(NamedTuple):
    """What a rounding does to the weights, and to the outputs for each kind of inputs."""

    weights: Tally
    outputs: dict[str, OutputSums]


@jax.jit
def products(w: Matrix, x: Activations) -> dict[str, RoundingSums]:
    """Sums of weight and output errors, by rounding."""
    inputs = {"zero-mean": x, "mean-shifted": x + 1.0, "rectified": jax.nn.relu(x)}
    found = {}
    for rounding, quantizer in ROUNDINGS.items():
        w_hat = quantizer.roundtrip(w)
        outputs = {name: output_sums(w, w_hat, v) for name, v in inputs.items()}
        outputs["coherent"] = matched_sums(w, w_hat)
        found[rounding] = RoundingSums(tally(w, w_hat), outputs)
    return found


def matched_sums(w: Matrix, w_hat: Matrix) -> OutputSums:
    """``output_sums`` where each output has one input, its own weights: the diagonals of products only."""
    e = error(w, w_hat)

    def diagonal(a: Matrix, b: Matrix) -> Float[Array, " out"]:
        """Σ a b over each row, by the arithmetic of the products of the other inputs."""
        return jax.vmap(lambda row, other: product(row[None], other[None])[0, 0])(a, b)

    dy, y = diagonal(w, e), diagonal(w, w)
    return OutputSums(
        squared_errors=dy * dy,
        squared_outputs=y * y,
        errors=jnp.abs(dy),
        bounds=diagonal(jnp.abs(w), jnp.abs(e)),
        white=jnp.sum(w * w, axis=-1) * jnp.sum(e * e, axis=-1) / w.shape[-1],  # ‖x‖² ‖e‖² / n: dy² if e were white
        rows=jnp.ones_like(y),  # inputs of each output
    )


def weight_columns(weights: ErrorStats) -> dict[str, float]:
    """Errors of the weights, and the share of their mse that bias and gain explain.

    Of e = bias + (gain − 1) w + noise, with weights of variance 1, that share is (bias² + (gain − 1)²) / mse. Its
    standard error is 2 |gain − 1| se(gain) / mse, as if bias and mse were exact.
    """
    gain_error = weights.gain - 1
    systematic = Estimate(
        value=(weights.bias**2 + gain_error**2) / weights.mse,
        se=2 * abs(gain_error) * weights.gain_se / weights.mse,
    )
    return {
        "weight_largest_error": weights.max_abs,
        "weight_rel_rms": weights.rel_rms,
        "weight_rel_rms_se": weights.rel_rms_se,
        "weight_mse": weights.mse,
        "weight_bias": weights.bias,
        "weight_gain": weights.gain,
    } | columns(systematic=systematic)


def redundancy(config: Config) -> list[dict]:
    """One map W as the mean of k quantized copies: equal ones, or W plus deviations that add up to zero."""
    w = Normal().sample(population_key(config.seed, "redundant"), (config.outputs, REDUNDANT_FAN_IN))
    x = Normal().sample(population_key(config.seed, "redundant x"), (config.batch, REDUNDANT_FAN_IN))
    most, rows = max(config.copies), []
    for k in config.copies:
        # of all draws the first k are used: drawn so, every k shares one program
        deviations = Normal().sample(population_key(config.seed, f"deviation {k}"), (most, *w.shape))
        for name, sums in copied_sums(w, x, deviations, jnp.int32(k)).items():
            about = {"kind": "redundancy", "copies": k, "copies_are": name}
            rows.append(about | output_columns(sums, REDUNDANT_FAN_IN))
    return rows


@jax.jit
def copied_sums(w: Matrix, x: Activations, deviations: Float[Array, "most out in"], k: Array) -> dict[str, OutputSums]:
    """Sums of the output errors of k equal copies, and of k copies W + d, d being k draws of std 1 less their mean."""
    counted = (jnp.arange(len(deviations)) < k)[:, None, None]
    mean_deviation = jnp.sum(deviations, axis=0, where=counted) / k

    def add(total: Matrix, copy: tuple[Matrix, Array]) -> tuple[Matrix, None]:
        deviation, counts = copy
        return total + jnp.where(counts, INT8.roundtrip(w + (deviation - mean_deviation)), 0.0), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(w), (deviations, counted))
    means = dict(zip(KINDS_OF_COPIES, (INT8.roundtrip(w), total / k), strict=True))
    return {name: output_sums(w, w_hat, x) for name, w_hat in means.items()}


STYLES = plotting.styles(INPUTS) | {"truncated": Style(plotting.BLACK, "X", "coherent, truncated")}
COPY_STYLES = plotting.styles({name: f"{name} copies" for name in KINDS_OF_COPIES})


def draw(rows: Rows) -> plotting.Figure:
    """Absolute error, error relative to the output, error relative to the bound, redundancy."""
    fig, axes = plotting.figure(2, 2, height=4.8)
    product_rows = rows.where(kind="product")
    absolute(axes[0, 0], product_rows)
    relative(axes[0, 1], product_rows)
    relative_to_bound(axes[1, 0], product_rows)
    redundant_copies(axes[1, 1], rows.where(kind="redundancy"))
    fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncol=6, columnspacing=1.2)
    plotting.letter(axes.ravel())
    return fig


def by_fan_in(ax: plotting.Axes, rows: Rows, column: str) -> None:
    """A column against the fan-in: weights rounded to nearest under every kind of inputs, and truncated ones."""
    cases = [(STYLES[inputs], rows.where(rounding="nearest", inputs=inputs)) for inputs in INPUTS]
    cases.append((STYLES["truncated"], rows.where(rounding="truncate", inputs="coherent")))
    for style, found in cases:
        x, y, se = (found.column(name) for name in ("fan_in", column, f"{column}_se"))
        plotting.curve(ax, x, y, se=se, series=style)
    ax.set(xscale="log", yscale="log", xlabel="fan-in n")


def absolute(ax: plotting.Axes, rows: Rows) -> None:
    """Error of the outputs, which grows like sqrt(n), or like n where weights are truncated and inputs coherent."""
    by_fan_in(ax, rows, "rms")
    zero_mean = rows.where(rounding="nearest", inputs="zero-mean")
    n, weights = zero_mean.column("fan_in"), predicted_weight_error(zero_mean)
    # sqrt(n) · rms e · rms x, where rms e is the relative error, as weights have rms 1
    for input_rms in (1.0, 2**0.5, 0.5**0.5):  # zero-mean and coherent; shifted by 1; rectified
        plotting.prediction(ax, n, [theory.output_rms(e, input_rms, int(m)) for e, m in zip(weights, n, strict=True)])
    plotting.prediction(ax, n, predicted_truncated(zero_mean) * n)  # each output is the sum of n squares, about n
    ax.plot(n, zero_mean.column("weight_largest_error"), color="0.4", lw=0.9, ls=":")
    plotting.note(ax, 3e2, 6e-3, "largest error of a weight (A15)")
    ax.set(ylabel="output error, rms (output units)")
    ax.set_ylim(bottom=4e-3)


def relative(ax: plotting.Axes, rows: Rows) -> None:
    """Error relative to the output: that of the weights, or, for coherent signals, that over sqrt(n)."""
    by_fan_in(ax, rows, "rel_rms")
    zero_mean = rows.where(rounding="nearest", inputs="zero-mean")
    n, weights = zero_mean.column("fan_in"), predicted_weight_error(zero_mean)
    plotting.prediction(ax, n, weights)
    plotting.prediction(ax, n, predicted_truncated(zero_mean))
    plotting.prediction(ax, n, weights / np.sqrt(n), label="predicted")
    ax.fill_between(n, weights / 100, weights / 10, color="0.9", lw=0)
    plotting.note(ax, 20, 1.2e-4, "B19 says: here")
    ax.set(ylabel="output error / output, rms")


def relative_to_bound(ax: plotting.Axes, rows: Rows) -> None:
    """Error relative to what it would be if no two errors cancelled.

    Predicted is E|dy| / (n E|x| E|e|) = sqrt(2 / π) / (sqrt(n) a_x a_e), with a = E|v| / rms(v): sqrt(2 / π) of normal
    inputs, half of that over sqrt(1 / 2), 1 / sqrt(π), of rectified ones, and sqrt(3) / 2 of errors uniform in a step.
    Inputs shifted by 1 have 0.82, hardly another line.
    """
    by_fan_in(ax, rows, "to_bound")
    n = rows.where(rounding="nearest", inputs="zero-mean").column("fan_in")
    for input_shape in ((2 / np.pi) ** 0.5, np.pi**-0.5):  # zero-mean and coherent; rectified
        plotting.prediction(ax, n, [theory.cancellation(int(m), input_shape) for m in n])
    ax.set(ylabel="output error / bound without cancellation")


def predicted_weight_error(rows: Rows) -> np.ndarray:
    """rms e / rms w of normal weights, one scale for each row of n."""
    shapes = [(1, int(n)) for n in rows.column("fan_in")]
    return np.sqrt([theory.weight_rel_mse(Normal(), INT8, shape) for shape in shapes])


def predicted_truncated(rows: Rows) -> np.ndarray:
    """Relative error of a coherent output: all weights but the largest lose half a step of their magnitude, on average.

    The output is Σ w², about n, its error Σ |w| step / 2 over all weights but the largest, which has none:
    step / 2 · (E|w| − E max|w| / n), with E|w| = sqrt(2 / π). Rows are averaged by root mean square, so the step is
    sqrt(E[max² w]) / 127, and ``rms_crest`` is that root over rms w.
    """
    errors = []
    for n in rows.column("fan_in").astype(int):
        step = theory.rms_crest(Normal(), n) / 127
        errors.append(step / 2 * float((2 / np.pi) ** 0.5 - theory.expected_absmax(Normal(), n) / n))
    return np.array(errors)


def redundant_copies(ax: plotting.Axes, rows: Rows) -> None:
    """Error relative to the output against the number of copies."""
    for name, style in COPY_STYLES.items():
        found = rows.where(copies_are=name)
        x, y, se = (found.column(column) for column in ("copies", "rel_rms", "rel_rms_se"))
        plotting.curve(ax, x, y, se=se, series=style)
    k, one = rows.where(copies_are="equal").column("copies"), rows.where(copies_are="equal", copies=1).one("rel_rms")
    # k - 1 of k deviations are free: a copy has variance 2 - 1/k, and its scale and error grow with it
    plotting.prediction(ax, k, one * np.sqrt((2 - 1 / k) / k), label="√((2 − 1/k) / k)")
    ax.set(xscale="log", yscale="log", xlabel="redundant copies k of the map", ylabel="output error / output, rms")
    ax.legend()


def judged(column: str, inputs: str = "zero-mean") -> Callable[[Rows], Estimate]:
    """A column at the fan-in of 4096, weights rounded to nearest."""
    return value_of(column, kind="product", fan_in=JUDGED_AT, rounding="nearest", inputs=inputs)


def cancels_and_is_below(rows: Rows) -> float:
    """Share of two parts that are true of zero-mean inputs: mean |dy| < bound / 10; rms dy < largest |e| / 10."""
    to_bound, rms, largest = (judged(column)(rows).value for column in ("to_bound", "rms", "weight_largest_error"))
    return share([to_bound < 0.1, rms < 0.1 * largest])


def orders_below(rows: Rows) -> float:
    """Share of the kinds of inputs whose relative output error is a hundredth to a tenth of that of the weights."""
    ratios = [judged("rel_rms", name)(rows).value / judged("weight_rel_rms", name)(rows).value for name in INPUTS]
    return share(0.01 <= ratio <= 0.1 for ratio in ratios)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between. A13 has
# a limit.
CLAIMS = (
    Claim(
        "A13",
        statement='quantization error is "small, systematic noise"',
        definition="share of mse that bias and gain explain, int8:channel, normal weights",
        number=judged("systematic"),
        rule=at_least(0.5),
        reading="not systematic: a rounding error tells nothing of its weight (truncated weights all shrink)",
    ),
    Claim(
        "A15",
        statement="± errors cancel in the sum, so the output error ≪ the single-weight max error",
        definition="share of two parts true at a fan-in of 4096: mean |dy| < bound / 10; rms dy < max |e| / 10",
        number=cancels_and_is_below,
        rule=share_of_cases("the part holds for zero-mean inputs of unit variance"),
        reading="errors do cancel against their bound, but the output error is far larger than any weight's",
    ),
    Claim(
        "B19",
        statement="model output error is 1–2 orders below weight error",
        definition="share of four kinds of inputs with (‖dy‖/‖y‖) / (‖e‖/‖w‖) between 1/100 and 1/10 at a fan-in of "
        "4096",
        number=orders_below,
        rule=share_of_cases("the ratio lies one to two orders below 1"),
        reading="only where every term of the output has the same sign; otherwise the ratio is 1",
    ),
)
