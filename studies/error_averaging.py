"""Do int8's weight errors average out in the outputs, and relative to what?

Normal weights, int8 per channel, through real products with a fan-in of 16 to 65,536. The inputs are zero-mean,
mean-shifted, rectified, or matched to the weights of each output (coherent: all terms of the signal have one sign).
White errors add up like sqrt(fan-in), and so does the signal unless it is coherent. So expected: the absolute error
grows, the relative error stays that of the weights, only its ratio to the no-cancellation bound falls; coherent signals
gain 1/sqrt(fan-in), but not if weights are truncated instead of rounded. Refuted if the relative error of zero-mean
inputs falls.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from quantsim import theory
from quantsim._types import Activations, Matrix
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, share_of_cases
from quantsim.lab.study import Cell
from quantsim.measure.statistics import error, error_stats
from quantsim.outputs.products import output_sums, product, summarize
from quantsim.populations import Normal
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

SPECS = {"even": "int8:channel", "truncate": "int8:channel:absmax:truncate"}
INPUTS = ("zero-mean", "mean-shifted", "rectified", "coherent")
AT = 4096  # the fan-in at which the statements are judged: that of a language model of 7 billion weights


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
        yield f"fan-in {fan_in}", partial(_products, config, fan_in)
    yield "redundancy", partial(_redundancy, config)


def _inputs(name: str, config: Config, w: Matrix) -> Activations:
    if name == "coherent":
        return w
    x = Normal().sample(population_key(config.seed, f"x {w.shape[1]}"), (config.batch, w.shape[1]))
    return {"zero-mean": x, "mean-shifted": x + 1.0, "rectified": jax.nn.relu(x)}[name]


@jax.jit
def _matched_sums(w: Matrix, w_hat: Matrix) -> jax.Array:
    """``output_sums`` where each output has one input, its own weights: the diagonal of the products only."""
    e = error(w, w_hat)
    diagonal = jax.vmap(lambda a, b: product(a[None], b[None])[0, 0])
    dy, y, bound = diagonal(w, e), diagonal(w, w), diagonal(jnp.abs(w), jnp.abs(e))
    white = jnp.sum(w * w, axis=-1) * jnp.sum(e * e, axis=-1) / w.shape[-1]
    return jnp.stack([dy * dy, y * y, jnp.abs(dy), bound, white, jnp.ones_like(y)])


def _products(config: Config, fan_in: int) -> list[dict]:
    w = Normal().sample(population_key(config.seed, f"w {fan_in}"), (config.outputs, fan_in))
    rows = []
    for rounding, spec in SPECS.items():
        w_hat = parse(spec).roundtrip(w)
        weights = error_stats(w, w_hat)
        about = {"fan_in": fan_in, "rounding": rounding, "weight_max_abs": weights.max_abs}
        about |= {f"weight_{m}": getattr(weights, m) for m in ("rel_rms", "rel_rms_se", "mse", "bias", "gain")}
        # share of the squared error that the weight itself explains: bias and gain
        about["systematic"] = (weights.bias**2 + (weights.gain - 1) ** 2) / weights.mse
        about["systematic_se"] = 2 * abs(weights.gain - 1) * weights.gain_se / weights.mse
        for name in INPUTS:
            x = _inputs(name, config, w)
            sums = _matched_sums(w, w_hat) if name == "coherent" else output_sums(w, w_hat, x)
            found = asdict(summarize(sums, fan_in)) | {"input_rms": float(jnp.sqrt(jnp.mean(x * x)))}
            rows.append({"kind": "product", "inputs": name} | about | found)
    return rows


def _redundancy(config: Config) -> list[dict]:
    """One map W as the mean of k quantized copies: equal ones, or W plus deviations that add up to zero."""
    fan_in = 1024
    w = Normal().sample(population_key(config.seed, "redundant"), (config.outputs, fan_in))
    x = Normal().sample(population_key(config.seed, "redundant x"), (config.batch, fan_in))
    q, rows = parse(SPECS["even"]), []
    for k in config.copies:
        deviation = Normal().sample(population_key(config.seed, f"deviation {k}"), (k, *w.shape))
        deviation = deviation - deviation.mean(axis=0, keepdims=True)
        for name, copies in (("equal", jnp.broadcast_to(w, deviation.shape)), ("independent", w[None] + deviation)):
            w_hat = jnp.mean(jax.lax.map(q.roundtrip, copies), axis=0)
            found = asdict(summarize(output_sums(w, w_hat, x), fan_in))
            rows.append({"kind": "redundancy", "copies": k, "copies_are": name} | found)
    return rows


def draw(rows: Rows) -> plotting.Figure:
    """Absolute error, error relative to the output, error relative to the bound, redundancy."""
    fig, axes = plotting.figure(2, 2, height=4.8)
    zero = rows.where(kind="product", rounding="even", inputs="zero-mean")
    n = zero.column("fan_in")
    weights = np.sqrt([theory.weight_rel_mse(Normal(), parse(SPECS["even"]), (1, int(m))) for m in n])
    truncated = np.array([_truncated(int(m)) for m in n])
    _panel(axes[0, 0], rows, "rms", "output error, rms (output units)")
    for input_rms in (1.0, 2**0.5, 0.5**0.5):  # alone, shifted, rectified
        rms = [theory.output_rms(a, input_rms, int(m)) for a, m in zip(weights, n, strict=True)]
        plotting.prediction(axes[0, 0], n, rms)
    plotting.prediction(axes[0, 0], n, truncated * n)
    axes[0, 0].plot(n, zero.column("weight_max_abs"), color="0.4", lw=0.9, ls=":")
    axes[0, 0].annotate("largest error of a weight (A15)", (3e2, 6e-3), fontsize=6.5)
    axes[0, 0].set_ylim(bottom=4e-3)
    _panel(axes[0, 1], rows, "rel_rms", "output error / output, rms")
    plotting.prediction(axes[0, 1], n, weights)
    plotting.prediction(axes[0, 1], n, truncated)
    plotting.prediction(axes[0, 1], n, weights / np.sqrt(n), label="predicted")
    axes[0, 1].fill_between(n, weights / 100, weights / 10, color="0.9", lw=0)
    axes[0, 1].annotate("B19 says: here", (20, 1.2e-4), fontsize=6.5)
    _panel(axes[1, 0], rows, "to_bound", "output error / bound without cancellation")
    plotting.prediction(axes[1, 0], n, [theory.cancellation(int(m)) for m in n])
    plotting.prediction(axes[1, 0], n, [theory.cancellation(int(m), np.pi**-0.5) for m in n])  # rectified
    _copies(axes[1, 1], rows.where(kind="redundancy"))
    fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncol=6, columnspacing=1.2)
    plotting.letter(axes.ravel())
    return fig


def _truncated(n: int) -> float:
    """Relative error of a coherent output: all weights but the largest lose half a step."""
    step = theory.rms_crest(Normal(), n) / 127
    return step / 2 * float((2 / np.pi) ** 0.5 - theory.expected_absmax(Normal(), n) / n)


def _panel(ax: plotting.Axes, rows: Rows, column: str, label: str) -> None:
    cases = [(at, name, "even", name) for at, name in enumerate(INPUTS)]
    for at, name, rounding, shown in [*cases, (7, "coherent", "truncate", "coherent, truncated")]:
        c = rows.where(kind="product", rounding=rounding, inputs=name)
        plotting.curve(ax, c.column("fan_in"), c.column(column), se=c.column(f"{column}_se"), series=at, label=shown)
    ax.set(xscale="log", yscale="log", xlabel="fan-in n", ylabel=label)


def _copies(ax: plotting.Axes, rows: Rows) -> None:
    for at, name in enumerate(("equal", "independent")):
        c, shown = rows.where(copies_are=name), f"{name} copies"
        plotting.curve(ax, c.column("copies"), c.column("rel_rms"), se=c.column("rel_rms_se"), series=at, label=shown)
    k, one = rows.where(copies_are="equal").column("copies"), rows.where(copies_are="equal", copies=1).one("rel_rms")
    # k - 1 of k deviations are free: a copy has variance 2 - 1/k, and its scale and error grow with it
    plotting.prediction(ax, k, one * np.sqrt((2 - 1 / k) / k), label="√((2 − 1/k) / k)")
    ax.set(xscale="log", yscale="log", xlabel="redundant copies k of the map", ylabel="output error / output, rms")
    ax.legend()


def _at(column: str, inputs: str = "zero-mean", rounding: str = "even") -> Callable[[Rows], float]:
    return lambda rows: rows.where(kind="product", fan_in=AT, inputs=inputs, rounding=rounding).one(column)


def _systematic(rows: Rows) -> tuple[float, float]:
    return _at("systematic")(rows), _at("systematic_se")(rows)


def _redundancy_helps(rows: Rows) -> float:
    kinds = [rows.where(kind="redundancy", copies_are=name) for name in ("equal", "independent")]
    return float(np.mean([c[-1]["rel_rms"] < 0.5 * c[0]["rel_rms"] for c in kinds]))


def _cancels_and_is_below(rows: Rows) -> float:
    return float(np.mean([_at("to_bound")(rows) < 0.1, _at("rms")(rows) < 0.1 * _at("weight_max_abs")(rows)]))


def _orders_below(rows: Rows) -> float:
    ratios = [_at("rel_rms", name)(rows) / _at("weight_rel_rms", name)(rows) for name in INPUTS]
    return float(np.mean([0.01 <= r <= 0.1 for r in ratios]))


CLAIMS = (
    Claim("A13", "share of mse that bias and gain explain, int8:channel, normal weights", _systematic, at_least(0.5),
          "small, but not systematic: rounding errors are independent of the weight; truncation would be systematic"),
    Claim("A14", "share of two kinds of redundancy that more than halve the relative output error", _redundancy_helps,
          share_of_cases("the largest number of copies has less than half the error of one"),
          "copies with independent errors average, equal copies do not: width alone gives nothing"),
    Claim("A15", "share of two parts true at a fan-in of 4096: mean |dy| < bound / 10; rms dy < max |e| / 10",
          _cancels_and_is_below, share_of_cases("the part holds for zero-mean inputs of unit variance"),
          "errors do cancel against their bound, but the output error is far larger than any weight's"),
    Claim("B19", "share of four kinds of inputs with (‖dy‖/‖y‖) / (‖e‖/‖w‖) between 1/100 and 1/10 at a fan-in of 4096",
          _orders_below, share_of_cases("the ratio lies one to two orders below 1"),
          "only where every term of the output has the same sign; otherwise the ratio is 1"),
)  # fmt: skip
