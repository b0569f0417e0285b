"""What do the remedies make of the document's own examples: five outliers in 16×32 weights, two bad layers of eight?

Method. The document's construction, 16×32 weights uniform on [-1, 1) of which five are ±100, is drawn many times and
given every remedy of the study ``remedies``; products with white inputs tell the error of the outputs. As ±100 falls on
the last code and has no error, the outliers are also spread from 50 to 150. Then a stack of eight normalized layers,
two of them with 1 % of outliers, runs all in int8, or with these two in bf16.
Expected. Weights that share a scale with an outlier lose all but three codes, the others nothing: a scale a row saves
only rows without one. Keeping five weights apart saves all, and keeping two layers apart saves most.
Refuted if keeping apart, of weights or of layers, does not at least halve the output error.

Settles B40, B41 and B69 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim._types import Weights
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, stated, value_of
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import columns, ratio, root_ratio
from quantsim.outputs.products import product
from quantsim.populations import Normal, Uniform, samples
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

from .remedies import (
    APART,
    BF16,
    BLOCKS,
    CLIP_PERCENTILE,
    INPUTS,
    ONE_SCALE,
    REMEDIES,
    ROWS,
    WITHIN_ONE_BIT,
    ZERO_POINT,
    Problems,
    draw_problems,
    errors,
    normal_with_outliers,
    sums,
)

SHAPE = (16, 32)
OUTLIERS, VALUE = 5, 100.0  # of the 512 weights, and their magnitude in units of the weights
BLOCKS_OF_8 = replace(BLOCKS, quantizer=parse("int8:block8:absmax:f16"))  # 32 weights would be a whole row
HERE = tuple(BLOCKS_OF_8 if remedy is BLOCKS else remedy for remedy in REMEDIES)
PICTURED = (ONE_SCALE, ROWS, BLOCKS_OF_8, ZERO_POINT, CLIP_PERCENTILE, APART)
CLAIMED = {ROWS.name: "\nB41", APART.name: "\nB69"}
BAD_LAYERS = (2, 5)
VALUES = plotting.styles({"exact": "outliers at ±100", "spread": "outliers spread from 50 to 150"})


@dataclass(frozen=True)
class Config:
    """How many matrices are drawn; how many stacks, of how many layers, and of which width."""

    matrices: int = 512
    stacks: int = 8
    layers: int = 8
    width: int = 256
    seed: int = 42

    @classmethod
    def small(cls) -> "Config":
        """Fewer matrices, fewer and narrower stacks."""
        return cls(matrices=64, stacks=2, width=64)


def measure(config: Config) -> Iterator[Cell]:
    """The construction with outliers all at ±100 and with spread ones, then the stack of layers."""
    for values in ("exact", "spread"):
        yield values, partial(construction, config, values)
    yield "layers", partial(layers, config)


def construction(config: Config, values: Literal["exact", "spread"]) -> list[dict]:
    """Every remedy on the same matrices, with the errors of the first of them."""
    population = Uniform(3**-0.5).with_outliers(count=OUTLIERS, value=VALUE, values=values)  # on [-1, 1)
    problems = draw_problems(config.seed, values, population, SHAPE, config.matrices)
    plain = sums(problems, ONE_SCALE.apply(problems.weights)).squared_output_errors
    rows = []
    for remedy in HERE:
        after = remedy.apply(problems.weights)
        found = sums(problems, after)
        bits = remedy.bits_per_weight(SHAPE, share_kept=float(np.mean(after.kept)))
        row = {"kind": "construction", "values": values, "remedy": remedy.name, "bits_per_weight": bits}
        row |= {"first_error": error(problems.weights[0], after.weights[0])}
        rows.append(row | errors(found) | columns(gain=root_ratio(plain, found.squared_output_errors)))
    return rows + [by_row(problems, values, has_outlier) for has_outlier in (True, False)]


def by_row(problems: Problems, values: str, has_outlier: bool) -> dict:
    """Mean |e| / |w| of the bulk in those rows that hold an outlier, or that hold none, under a scale a row."""
    is_outlier = np.asarray(problems.is_outlier)
    counted = ~is_outlier & (is_outlier.any(axis=2, keepdims=True) == has_outlier)
    w, w_hat = np.asarray(problems.weights), np.asarray(ROWS.apply(problems.weights).weights)
    ratios = np.sum(abs(w_hat - w) / abs(w), axis=(1, 2), where=counted)
    about = {"kind": "row", "values": values, "outlier_in_row": has_outlier, "share": counted.mean()}
    return about | columns(mean_ratio=ratio(ratios, counted.sum(axis=(1, 2))))


def layers(config: Config) -> list[dict]:
    """A stack of normalized layers, two of them with 1 % of outliers: all in int8, or these two in bf16."""
    keys = [jax.random.split(population_key(config.seed, f"layer {at}"), config.stacks) for at in range(config.layers)]
    shape = (config.width, config.width)
    weights = [
        samples(normal_with_outliers(0.01 if at in BAD_LAYERS else 0.0, VALUE), key, shape)
        for at, key in enumerate(keys)
    ]
    inputs = samples(Normal(), jax.vmap(jax.random.fold_in, (0, None))(keys[0], 1), (INPUTS, config.width))
    int8 = [ONE_SCALE.apply(w).weights for w in weights]
    mixed = [BF16.roundtrip(w) if at in BAD_LAYERS else int8[at] for at, w in enumerate(weights)]
    exact = outputs(weights, inputs)
    of_int8, of_mixed = (np.sum((outputs(w, inputs) - exact) ** 2, axis=(1, 2)) for w in (int8, mixed))
    signal = np.sum(exact**2, axis=(1, 2))
    bits = float(np.mean([16 if at in BAD_LAYERS else 8 for at in range(config.layers)]))
    found = columns(
        gain=root_ratio(of_int8, of_mixed),
        int8_error=root_ratio(of_int8, signal),
        mixed_error=root_ratio(of_mixed, signal),
    )
    return [{"kind": "layers", "bits_per_weight": bits} | found]


def outputs(weights: list[Weights], inputs: Float[Array, "stacks batch width"]) -> np.ndarray:
    """What the last layer gives, in float64."""
    for w in weights:
        inputs = normalized_layer(w, inputs)
    return np.asarray(inputs, np.float64)


@jax.jit
def normalized_layer(w: Weights, x: Float[Array, "stacks batch width"]) -> Float[Array, "stacks batch width"]:
    """X Wᵀ, each row of it divided by its root mean square."""
    y = jax.vmap(product)(x, w)
    return y / jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True))


def draw(rows: Rows) -> plotting.Figure:
    """The errors of one matrix under six remedies; output errors of all; the stack of layers."""
    fig, axes = plotting.mosaic("abcdef;gggghh", height=3.8, height_ratios=(1, 1.3))
    exact = rows.where(kind="construction", values="exact")
    shown = [picture(axes[key], exact.where(remedy=r.name)[0]) for key, r in zip("abcdef", PICTURED, strict=True)]
    fig.colorbar(shown[-1], ax=[axes[key] for key in "abcdef"], fraction=0.03, pad=0.01, label="log₁₀ |error|")
    all_remedies(axes["g"], rows.where(kind="construction"))
    whole_layers(axes["h"], rows.where(kind="layers")[0])
    plotting.letter(axes[key] for key in sorted(axes))
    return fig


def picture(ax: plotting.Axes, row: dict) -> plotting.AxesImage:
    """The errors of one matrix, weight by weight, with the bits of the remedy and its output error."""
    name, bits, percent = row["remedy"], row["bits_per_weight"], 100 * row["output_error"]
    label = f"{name}\n{bits:.1f} bits: {percent:.2g} %{CLAIMED.get(name, '')}"
    return plotting.image(ax, np.log10(np.abs(row["first_error"]) + 1e-5), label, vmin=-4, vmax=0, cmap="OrRd")


def all_remedies(ax: plotting.Axes, rows: Rows) -> None:
    """Output error of every remedy, outliers at ±100 or spread."""
    names = [remedy.name for remedy in HERE]
    for values, style in VALUES.items():
        found = rows.where(values=values)
        plotting.dots(ax, found, "output_error", [names.index(r["remedy"]) for r in found], series=style)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    ax.set(xscale="log", xlabel="output error / output, rms")
    ax.legend(loc="upper left")


def whole_layers(ax: plotting.Axes, row: dict) -> None:
    """Output error of eight layers in int8, and with the two bad ones in bf16."""
    found, se = (row["int8_error"], row["mixed_error"]), np.array([row["int8_error_se"], row["mixed_error_se"]])
    plotting.bars(ax, ["", ""], found, xerr=1.96 * se, texts=["", " B40"])
    for place, text in enumerate(("all in int8", "two in bf16")):
        plotting.note(ax, 0.001, place, text, color="w", va="center")
    ax.set(xlabel="error of eight layers / output, rms")


CLAIMS = (
    Claim(
        "B40",
        statement="keep outlier *layers* in BF16",
        definition="output error of eight layers in int8, two with 1 % of outliers / with these two in bf16",
        number=value_of("gain", kind="layers"),
        rule=at_least(WITHIN_ONE_BIT),
        reading="{value:.2f} times, for two more bits a weight",
    ),
    Claim(
        "B41",
        statement="per-channel brings 57.4 % → 2.1 % in the example",
        definition="mean |e|/|w| of the bulk under one scale a row, outliers at ±100",
        number=value_of("bulk_mean_of_ratios", kind="construction", values="exact", remedy=ROWS.name),
        rule=stated(0.021, 0.0005),
        reading="{value:.1%} on average: 57 % stays in every row that holds an outlier, 1.4 % in the others",
    ),
    Claim(
        "B69",
        statement="W = W_normal + W_outlier",
        definition="output error of one scale / of W_normal + W_outlier, 16×32, outliers spread",
        number=value_of("gain", kind="construction", values="spread", remedy=APART.name),
        rule=at_least(WITHIN_ONE_BIT),
        reading="{value:.0f} times less; what remains is the rounding of the outliers to bf16",
    ),
)
