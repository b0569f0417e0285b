"""What do the largest weights, a single weight, and noise of the size of a rounding do to the outputs?

Method. The largest weights of a matrix are set to zero, and as many others by chance; one weight of an output is
changed by 1 or 10 %, where its input is like all others or 10 to 100 times larger; and random networks of one and of
two layers (ReLU between) of 64 to 1024 neurons are quantized by q8_0, or get normal noise of the same power instead.
Expected. White inputs make the change of the outputs the change of the weights: zeroing a set of weights takes the root
of its share of the power, which is larger for the largest than their number. One weight is one of n terms: its change
counts for 1 / sqrt(n), unless its input is as large as sqrt(n). Rounding errors act like noise of their size, and no
width absorbs them.
Refuted if the largest weights matter less than others, or wider networks err less: panels a and c.

Settles A07 and A12 of the ledger, which numbers the statements of two documents (``quantsim claims``), as far as random
weights can; that networks absorb noise is put to trained ones in `language_model`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import Activations, Matrix, PRNGKey
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_most, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import Estimate, columns, root_ratio
from quantsim.outputs.products import product
from quantsim.populations import Normal, Population, parse
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.sweep import population_key

Q8_0 = quantizer("q8_0")
CHOICES = ("largest", "any")
NOISES = ("q8_0", "normal noise")
LAYERS = (1, 2)
A_THOUSANDTH = 1e-3  # of the weights: the extremes of A07
MATTERS = 0.01  # of the rms of the output: a change beyond it matters; int8's rounding of all weights changes 0.7 %


@dataclass(frozen=True)
class Config:
    """Shares of weights that are zeroed, sizes of the input of a single weight, widths of networks."""

    populations: tuple[str, ...] = ("normal", "laplace", "t5")
    shares: tuple[float, ...] = (1e-3, 0.01, 0.03, 0.1, 0.3)
    changes: tuple[float, ...] = (0.01, 0.1)  # of one weight, relative
    inputs: tuple[float, ...] = (1.0, 10.0, 100.0)  # size of its input over that of the others
    fan_ins: tuple[int, ...] = (64, 256, 1024, 4096)
    widths: tuple[int, ...] = (64, 256, 512, 1024)
    side: int = 256
    tokens: int = 256
    repeats: int = 4
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller matrices."""
        return cls(shares=(1e-3, 0.1), fan_ins=(64, 1024), widths=(64, 256), side=128, tokens=128, repeats=2)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each family of weights, each fan-in and each width."""
    for name in config.populations:
        yield f"zeroed, {name}", partial(zeroed, config, name)
    for fan_in in config.fan_ins:
        yield f"one of {fan_in}", partial(one_weight, config, fan_in)
    for width in config.widths:
        yield f"width {width}", partial(noises, config, width)


def keys(config: Config, name: str) -> list[PRNGKey]:
    """One for each repeat, a function of seed and name."""
    return [population_key(config.seed, f"{name} {repeat}") for repeat in range(config.repeats)]


class Squares(NamedTuple):
    """Sums of squares over outputs: of their change, and of the outputs."""

    change: Float[Array, "..."]
    output: Float[Array, "..."]


def relative(found: list[Squares]) -> Estimate:
    """Change of the outputs over the outputs, rms."""
    return root_ratio([s.change for s in found], [s.output for s in found])


@jax.jit
def squares(w: Matrix, w_hat: Matrix, x: Activations) -> Squares:
    """Of x wᵀ when w becomes ``w_hat``."""
    return Squares(jnp.sum(product(x, error(w, w_hat)) ** 2), jnp.sum(product(x, w) ** 2))


@jax.jit
def without(w: Matrix, of: Matrix, count: Array) -> Matrix:
    """Weights with zeros in the places of the ``count`` largest of another matrix."""
    rank = jnp.argsort(jnp.argsort(-of.reshape(-1)))
    return jnp.where(rank.reshape(w.shape) < count, 0.0, w)


def zeroed(config: Config, name: str) -> list[dict[str, Any]]:
    """The largest weights set to zero, and as many others, at every share."""
    population, shape, rows = parse(name), (config.side, config.side), []
    for part in config.shares:
        found: dict[str, list[Squares]] = {choice: [] for choice in CHOICES}
        count = jnp.int32(round(part * config.side**2))
        for key in keys(config, name):
            w, x = population.sample(key, shape), Normal().sample(jax.random.fold_in(key, 1), shape)
            by_chance = jax.random.uniform(jax.random.fold_in(key, 2), shape)
            for choice, of in zip(CHOICES, (jnp.abs(w), by_chance), strict=True):
                found[choice].append(squares(w, without(w, of, count), x))
        for choice, sums in found.items():
            predicted = part if choice == "any" else power_of_largest(population, part)
            about = {
                "kind": "zeroed",
                "population": name,
                "share": part,
                "choice": choice,
                "series": f"{name}, {choice}",
            }
            rows.append(about | columns(change=relative(sums)) | {"predicted_change": predicted**0.5})
    return rows


def power_of_largest(population: Population, part: float) -> float:
    """Share of E[w²] that the largest magnitudes hold, this part of all: E[w²; |w| > t] with P(|w| > t) = part.

    Of a symmetric population, by upper partial moments about t: 2 (M_2 + 2 t M_1 + t² M_0).
    """
    t = float(-population.quantile(part / 2))
    m = [float(population.upper_moment(t, k)) for k in range(3)]
    return 2 * (m[2] + 2 * t * m[1] + t * t * m[0]) / float(population.moment(2))


def one_weight(config: Config, fan_in: int) -> list[dict[str, Any]]:
    """One weight of each output changed by a part of its rms, where its input is larger than the others by a factor."""
    rows, shape = [], (config.side, fan_in)
    for size in config.inputs:
        for change in config.changes:
            found = []
            for key in keys(config, f"one of {fan_in}"):
                w, x = Normal().sample(key, shape), Normal().sample(jax.random.fold_in(key, 1), (config.tokens, fan_in))
                found.append(squares(w, w.at[:, 0].multiply(1 + change), x.at[:, 0].multiply(size)))
            about = {"kind": "one", "fan_in": fan_in, "input": size, "change": change, "series": f"{change:g} {size:g}"}
            predicted = change * size / (fan_in - 1 + size**2) ** 0.5
            rows.append(about | columns(output=relative(found)) | {"predicted_output": predicted})
    return rows


@jax.jit
def network(matrices: tuple[Matrix, ...], x: Activations) -> Activations:
    """Outputs of linear layers with ReLU between them."""
    for w in matrices[:-1]:
        x = jax.nn.relu(product(x, w))
    return product(x, matrices[-1])


@jax.jit
def noisy(w: Matrix, key: PRNGKey) -> Matrix:
    """Weights plus normal noise of the power of their q8_0 error, row by row."""
    power = jnp.mean(error(w, Q8_0.roundtrip(w)) ** 2, axis=1, keepdims=True)
    return w + jnp.sqrt(power) * jax.random.normal(key, w.shape)


@jax.jit
def summed(matrices: tuple[Matrix, ...], changed: tuple[Matrix, ...], x: Activations) -> tuple[Squares, Squares]:
    """Squares of the outputs of a network, and of its weights."""
    y = network(matrices, x)
    of_outputs = Squares(jnp.sum((network(changed, x) - y) ** 2), jnp.sum(y * y))
    of_weights = Squares(
        jnp.stack([jnp.sum(error(w, v) ** 2) for w, v in zip(matrices, changed, strict=True)]).sum(),
        jnp.stack([jnp.sum(w * w) for w in matrices]).sum(),
    )
    return of_outputs, of_weights


def noises(config: Config, width: int) -> list[dict[str, Any]]:
    """Networks of one and of two layers with q8_0 weights, and with noise of the same power."""
    rows = []
    for layers in LAYERS:
        found: dict[str, list[tuple[Squares, Squares]]] = {noise: [] for noise in NOISES}
        for key in keys(config, f"width {width}, {layers}"):
            drawn = [Normal().sample(jax.random.fold_in(key, k), (width, width)) for k in range(layers)]
            matrices, x = tuple(drawn), Normal().sample(jax.random.fold_in(key, 9), (config.tokens, width))
            rounded = tuple(Q8_0.roundtrip(w) for w in matrices)
            drowned = tuple(noisy(w, jax.random.fold_in(key, 20 + k)) for k, w in enumerate(matrices))
            for noise, changed in zip(NOISES, (rounded, drowned), strict=True):
                found[noise].append(summed(matrices, changed, x))
        for noise, sums in found.items():
            of_outputs, of_weights = zip(*sums, strict=True)
            weights = relative(list(of_weights))
            about = {"kind": "noise", "width": width, "layers": layers, "noise": noise, "series": f"{layers} {noise}"}
            row = about | columns(output=relative(list(of_outputs)), weights=weights)
            rows.append(row | {"predicted_output": float(np.sqrt((1 + weights.value**2) ** layers - 1))})
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

ZEROED_STYLES = {
    "normal, largest": Style(plotting.BLUE, "o", "largest, normal"),
    "laplace, largest": Style(plotting.GREEN, "^", "largest, Laplace"),
    "t5, largest": Style(plotting.VERMILION, "s", "largest, t5"),
    "normal, any": Style(plotting.BLACK, "x", "any"),
}
ONE_STYLES = {
    "0.01 1": Style(plotting.SKY, "o", "1 %, input as others"),
    "0.1 1": Style(plotting.BLUE, "s", "10 %, input as others"),
    "0.1 10": Style(plotting.ORANGE, "^", "10 %, input ×10"),
    "0.1 100": Style(plotting.VERMILION, "D", "10 %, input ×100"),
}
NOISE_STYLES = {
    "1 q8_0": Style(plotting.BLUE, "o", "1 layer, q8_0"),
    "1 normal noise": Style(plotting.BLACK, "x", "1 layer, noise"),
    "2 q8_0": Style(plotting.VERMILION, "s", "2 layers, q8_0"),
    "2 normal noise": Style(plotting.BLACK, "+", "2 layers, noise"),
}


def draw(rows: Rows) -> plotting.Figure:
    """Largest weights zeroed; one weight changed; noise against rounding."""
    figure, axes = plotting.figure(1, 3, height=2.8)
    largest_zeroed(axes[0, 0], rows.where(kind="zeroed"))
    one_changed(axes[0, 1], rows.where(kind="one"))
    noise_against_width(axes[0, 2], rows.where(kind="noise"))
    plotting.letter(axes[0])
    return figure


def largest_zeroed(ax: plotting.Axes, rows: Rows) -> None:
    """Change of the outputs against the share of weights that are set to zero."""
    plotting.family(ax, rows, "share", "change", by="series", styles=ZEROED_STYLES)
    one = rows.where(series="normal, largest", share=A_THOUSANDTH).one("change")
    plotting.mark_claim(ax, A_THOUSANDTH, one, "A07", offset=(7, -7))
    ax.set(xscale="log", yscale="log", xlabel="share of weights set to 0", ylabel="change of outputs / outputs, rms")
    ax.legend(loc="lower right")


def one_changed(ax: plotting.Axes, rows: Rows) -> None:
    """Change of an output against the fan-in when one of its weights changes."""
    plotting.family(ax, rows, "fan_in", "output", by="series", styles=ONE_STYLES)
    ax.axhline(MATTERS, color="0.3", lw=0.8, ls=":")
    plotting.note(ax, 260, MATTERS * 1.15, "A12: matters above")
    ax.set(xscale="log", yscale="log", ylim=(1e-4, 3), xlabel="fan-in n", ylabel="change of the output / output, rms")
    ax.legend(loc="upper right")


def noise_against_width(ax: plotting.Axes, rows: Rows) -> None:
    """Error of outputs against the width, of rounding and of noise of the same power."""
    for name, style in NOISE_STYLES.items():
        plotting.measured(ax, rows.where(series=name), "width", "output", series=style, ms=4.5)
    ax.set(xscale="log", ylim=(0, 0.012), xlabel="width of the network", ylabel="output error / output, rms")
    ax.legend(loc="lower right")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def largest_over_any(rows: Rows) -> float:
    """Power of the outputs that the largest thousandth takes, over that of any thousandth; least over the families."""
    found = rows.where(kind="zeroed", share=A_THOUSANDTH)
    return min(
        (of.where(choice="largest").one("change") / of.where(choice="any").one("change")) ** 2
        for of in found.groups("population").values()
    )


def never_matters(rows: Rows) -> float:
    """Share of changes × inputs × fan-ins in which one weight's change moves its output by less than 1 % of its rms."""
    return share(r["output"] < MATTERS for r in rows.where(kind="one"))


CLAIMS = (
    Claim(
        "A07",
        statement="extremes contribute little to the output, error is diluted",
        definition="power of the outputs that is lost with the largest thousandth of the weights set to 0, over that "
        "lost with any thousandth; the least of normal, Laplace and t5 weights, white inputs",
        number=largest_over_any,
        rule=at_most(1.0),
        reading="few as they are, each counts {value:.0f} times as much as another weight",
    ),
    Claim(
        "A12",
        statement="robust: one weight's small change never matters",
        definition="share of (1 %, 10 % changes) × (inputs as others, ×10, ×100) × fan-ins in which the output moves "
        "by less than 1 % of its rms",
        number=never_matters,
        rule=share_of_cases("the output moves by less than 1 %"),
        reading="one of n terms counts for 1 / √n, but where its input is an outlier it can be the whole output",
    ),
)
