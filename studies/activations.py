"""Are activations harder to quantize than weights: by their values, or because their scales must be found beforehand?

Method. The same outliers, by input, by element or by row, stand in the weights or in the activations of a layer, and
only the side that has them is quantized to 8 bits: with scales of rows (outputs, tokens), with one scale for all, or as
it is deployed, weights by output and activations with one static scale, from other tokens. Then static scales are
calibrated on 1 to 4096 tokens and judged by fresh ones, and activations of nine kinds, as they meet the matrices of a
transformer, stand beside normal weights.
Expected. A product does not know which factor is called weights: the same structure and the same cut of scales give the
same error. Where activations lose more, it is a static scale for all of them, and tails that products like SwiGLU's
have by construction. Static scales clip if calibrated on few tokens, and with many they are as coarse as one scale.
Refuted if equal structures and cuts differ by more than 1 dB between the sides: panel a.

Settles A26, A27, A28, A29, B56 and B75 of the ledger, which numbers the statements of two documents (``quantsim
claims``), as far as random inputs can; what a trained model does with its own is another question.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from quantsim import theory
from quantsim._types import Activations, Matrix, PRNGKey
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_most, share, share_of_cases, value_of
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure import error
from quantsim.measure.ratios import Estimate, columns, decibels, mean, root_ratio
from quantsim.outputs.products import product
from quantsim.populations import Normal, parse_activations
from quantsim.populations.activation_steps import OutlierChannels
from quantsim.quantizer import parse
from quantsim.quantizer.static import static
from quantsim.rows import Rows
from quantsim.sweep import population_key

ONE, ROW = parse("int8:tensor"), parse("int8:channel")  # a row of weights is an output, one of activations a token
RATE = 0.01  # of the inputs, elements or rows that are outliers
CALIBRATION_TOKENS = 64  # of static scales where their number is not what is asked
JUDGED_AT = 30.0  # times larger, the outliers at which claims are judged
A_DECIBEL = 1.0  # of difference, below which two errors count as equal
SIX_SIGMA = 6.0  # rms beyond which a value counts as an outlier, as in LLM.int8()

#: Where outliers stand, as the spec of a matrix whose rows are outputs or tokens.
STRUCTURES = {
    "inputs": "normal+channels(magnitude={magnitude},rate={rate})",
    "elements": "normal+outliers(rate={rate},magnitude={magnitude},values=spread)",
    "rows": "rows",  # drawn apart: a row of activations is a token, whose place is no property of the layer
}
#: How scales are shared where outliers are in the weights, and where they are in the activations.
CUTS = {"by row": ("row", "row"), "one scale": ("one", "one"), "as deployed": ("row", "static")}
SIDES = ("weights", "activations")

#: Activations as they meet a matrix, by where that is.
SITES = {
    "after a norm": "normal",
    "after a norm, 1 % channels ×10": "normal+channels(magnitude=10,rate=0.01)",
    "after a norm, 1 % channels ×100": "normal+channels(magnitude=100,rate=0.01)",
    "massive in 1 % of tokens": "normal+massive(rate=0.01,value=300)",
    "correlated": "ar(rho=0.9)",
    "mean of 1": "normal+shift(mean=1)",
    "after ReLU": "normal+relu",
    "SwiGLU product (down)": "swiglu",
    "SwiGLU product, std 4": "swiglu(std=4)",
}
DOWN = "SwiGLU product (down)"
#: What is quantized at a site, and with which scales.
JUDGED = ("by token", "static", "in place", "weights", "weights offline", "weights in place")
STATIC_KINDS = {"normal": "after a norm", "swiglu": "SwiGLU product"}


@dataclass(frozen=True)
class Config:
    """Sizes of outliers, numbers of calibration tokens, and sizes of the layer."""

    magnitudes: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
    calibration_tokens: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096)
    side: int = 512  # inputs, outputs, and tokens that are judged
    repeats: int = 4
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller layers."""
        return cls(magnitudes=(1.0, 30.0), calibration_tokens=(1, 64, 256), side=128, repeats=2)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each structure, each kind of static activations and each site."""
    for structure in STRUCTURES:
        yield f"outliers by {structure}", partial(either_side, config, structure)
    for kind in STATIC_KINDS:
        yield f"static, {kind}", partial(static_scales, config, kind)
    for site in SITES:
        yield site, partial(at_site, config, site)


def keys(config: Config, name: str) -> list[PRNGKey]:
    """One for each repeat, a function of seed and name."""
    return [population_key(config.seed, f"{name} {repeat}") for repeat in range(config.repeats)]


class Squares(NamedTuple):
    """Sums of squares over the outputs of one repeat: of their errors, and of the outputs."""

    error: Float[Array, ""]
    output: Float[Array, ""]


@jax.jit
def squares(a: Matrix, a_hat: Matrix, b: Matrix) -> Squares:
    """Of a bᵀ when a becomes ``a_hat``; which of the two holds the weights changes nothing."""
    return Squares(jnp.sum(product(error(a, a_hat), b) ** 2), jnp.sum(product(a, b) ** 2))


def relative(found: list[Squares]) -> Estimate:
    """Output error over output, rms."""
    return root_ratio([s.error for s in found], [s.output for s in found])


def either_side(config: Config, structure: str) -> list[dict[str, Any]]:
    """Outliers of every size, in the weights or in the activations, under every cut; the other factor is normal."""
    rows, shape = [], (config.side, config.side)
    for magnitude in config.magnitudes:
        found: dict[tuple[str, str], list[Squares]] = {(cut, side): [] for cut in CUTS for side in SIDES}
        for key in keys(config, structure):
            other = Normal().sample(jax.random.fold_in(key, 3), shape)
            drawn = [with_outliers(structure, magnitude, jax.random.fold_in(key, k), shape) for k in range(3)]
            of_side, calibration = dict(zip(SIDES, drawn, strict=False)), drawn[2]
            frozen = static(ONE, calibration[:CALIBRATION_TOKENS])
            quantizers = {"row": ROW, "one": ONE, "static": frozen}
            for cut, of_sides in CUTS.items():
                for side, scales in zip(SIDES, of_sides, strict=True):
                    a = of_side[side]
                    found[cut, side].append(squares(a, quantizers[scales].roundtrip(a), other))
        for (cut, side), sums in found.items():
            about = {"kind": "side", "structure": structure, "magnitude": magnitude, "cut": cut, "side": side}
            known = predicted_by_input(config.side, magnitude) if structure == "inputs" and cut == "by row" else None
            rows.append(about | columns(error=relative(sums)) | {"predicted_error": known})
    return rows


def with_outliers(structure: str, magnitude: float, key: PRNGKey, shape: tuple[int, int]) -> Matrix:
    """A matrix with outliers of this magnitude: fixed inputs, elements at random, or rows at random."""
    if structure == "rows":
        return Normal().with_outliers(rate=RATE, magnitude=magnitude, layout="row", values="spread").sample(key, shape)
    return parse_activations(STRUCTURES[structure].format(magnitude=magnitude, rate=RATE)).sample(key, shape)


def predicted_by_input(side: int, magnitude: float) -> float:
    """Output error over output where some inputs are larger and a row has one scale; the other factor is white."""
    sizes = np.ones(side)
    sizes[OutlierChannels(magnitude=magnitude, rate=RATE).channels(side)] = magnitude
    return float(np.sqrt(theory.unequal_int_mse(sizes, 8).sum() / (sizes**2).sum()))


def static_scales(config: Config, kind: str) -> list[dict[str, Any]]:
    """Errors of fresh tokens with static scales from so many others, and with scales of their own."""
    inputs, most = parse_activations(kind), max(config.calibration_tokens)
    found: dict[tuple[str, int], list[Squares]] = {}
    for key in keys(config, f"static {kind}"):
        w = Normal().sample(jax.random.fold_in(key, 1), (config.side, config.side))
        calibration = inputs.sample(key, (most, config.side))
        x = inputs.sample(key, (config.side, config.side), start=most)
        for scales, q in {"token": ROW, "tensor": ONE}.items():
            found.setdefault((scales, 0), []).append(squares(x, q.roundtrip(x), w))
        for count in config.calibration_tokens:
            shown = jnp.where(jnp.arange(most)[:, None] < count, calibration, 0.0)  # zeros change no absmax
            for scales, per_channel in {"static": False, "static, channel": True}.items():
                q = static(ONE, shown, per_channel=per_channel)
                found.setdefault((scales, count), []).append(squares(x, q.roundtrip(x), w))
    return [
        {"kind": "static", "inputs": kind, "scales": scales, "tokens": count or None}
        | columns(error=relative(sums))
        | {"predicted_error": predicted_static(config.side, scales, count) if kind == "normal" else None}
        for (scales, count), sums in found.items()
    ]


def predicted_static(side: int, scales: str, tokens: int) -> float:
    """Error of normal activations: rounding and clipping at the largest of so many others, mean over draws of it."""
    if not tokens:
        shared = side if scales == "token" else side * side
        return float(np.sqrt(theory.absmax_int_mse(Normal(), shared, 8)))
    seen = tokens * (1 if scales == "static, channel" else side)
    middles = (np.arange(32) + 0.5) / 32  # of equal parts of the probability
    reaches = np.atleast_1d(theory.absmax_quantile(Normal(), seen, middles))
    return float(np.sqrt(np.mean([theory.int_mse(Normal(), float(r), bits=8) for r in reaches])))


def at_site(config: Config, site: str) -> list[dict[str, Any]]:
    """Activations of a site against normal weights: their shape, and what either loses in 8 bits."""
    inputs, shape = parse_activations(SITES[site]), (config.side, config.side)
    errors: dict[str, list[Any]] = {name: [] for name in JUDGED}
    shapes = []
    for key in keys(config, site):
        w = Normal().sample(jax.random.fold_in(key, 1), shape)
        calibration = inputs.sample(key, (CALIBRATION_TOKENS, config.side))
        x = inputs.sample(key, shape, start=CALIBRATION_TOKENS)
        for name, q in {"by token": ROW, "static": static(ONE, calibration), "in place": ONE}.items():
            errors[name].append(squares(x, q.roundtrip(x), w).error)
        for name, q in {"weights": ROW, "weights offline": static(ONE, w), "weights in place": ONE}.items():
            errors[name].append(squares(w, q.roundtrip(w), x).error)
        shapes.append(shape_of(x, w))
    losses = {
        "loss_db": decibels(errors["by token"], errors["weights"]),
        "static_loss_db": decibels(errors["static"], errors["weights"]),
        "offline_activations_db": decibels(errors["static"], errors["in place"]),
        "offline_weights_db": decibels(errors["weights offline"], errors["weights in place"]),
    }
    of_values = {name: mean([float(getattr(s, name)) for s in shapes]) for name in Shape._fields}
    return [{"kind": "site", "site": site, "inputs": SITES[site]} | columns(**losses, **of_values)]


class Shape(NamedTuple):
    """What the values of activations look like, beside those of normal weights of as many rows.

    Attributes:
        crest_ratio: mean absmax / rms of a token over that of a row of weights.
        range_ratio: std over mean of the absmax of tokens, over that of rows of weights.
        beyond: share of values beyond six times the rms of all.
        zeros: share of values that are 0.
    """

    crest_ratio: Float[Array, ""]
    range_ratio: Float[Array, ""]
    beyond: Float[Array, ""]
    zeros: Float[Array, ""]


@jax.jit
def shape_of(x: Activations, w: Matrix) -> Shape:
    """The shape of one draw of activations."""

    def crest(a: Matrix) -> Float[Array, ""]:
        return jnp.mean(jnp.max(jnp.abs(a), axis=1) / jnp.sqrt(jnp.mean(a * a, axis=1)))

    def spread(a: Matrix) -> Float[Array, ""]:
        top = jnp.max(jnp.abs(a), axis=1)
        return jnp.std(top) / jnp.mean(top)

    rms = jnp.sqrt(jnp.mean(x * x))
    beyond, zeros = jnp.mean(jnp.abs(x) > SIX_SIGMA * rms), jnp.mean(x == 0)
    return Shape(crest(x) / crest(w), spread(x) / spread(w), beyond, zeros)


# --- the figure -----------------------------------------------------------------------------------------------------

SIDE_STYLES = {
    ("inputs", "by row"): Style(plotting.BLUE, "o", "by input, scales by row"),
    ("elements", "by row"): Style(plotting.GREEN, "^", "by element, scales by row"),
    ("rows", "by row"): Style(plotting.SKY, "D", "by row, scales by row"),
    ("rows", "as deployed"): Style(plotting.VERMILION, "s", "by row, static for activations"),
}
SCALE_STYLES = plotting.styles({"static": "static, one scale", "static, channel": "static, a scale an input"})


def draw(rows: Rows) -> plotting.Figure:
    """Outliers on either side; calibration tokens of static scales; what activations of each site lose."""
    figure, panels = plotting.mosaic("ab;cc", height=5.2, height_ratios=[1, 1])
    on_either_side(panels["a"], rows.where(kind="side"))
    against_tokens(panels["b"], rows.where(kind="static"))
    by_site(panels["c"], rows.where(kind="site"))
    plotting.letter(panels[name] for name in "abc")
    return figure


def on_either_side(ax: plotting.Axes, rows: Rows) -> None:
    """Error against the size of outliers: in the weights (line) and in the activations (hollow)."""
    for (structure, cut), style in SIDE_STYLES.items():
        found = rows.where(structure=structure, cut=cut)
        of_weights, of_activations = (found.where(side=side) for side in SIDES)
        plotting.points(ax, of_activations, "magnitude", "error", series=style, label="_", mfc="none", ms=5)
        x, y, se = (of_weights.column(name) for name in ("magnitude", "error", "error_se"))
        plotting.curve(ax, x, y, se=se, series=style)
        plotting.prediction(ax, x, of_weights.column("predicted_error").astype(float))
    ax.set(xscale="log", yscale="log", ylim=(2e-3, 40))
    ax.set(xlabel="1 % outliers, times larger", ylabel="output error / output, rms")
    ax.legend(title="line: in the weights, hollow: in the activations", title_fontsize=6.5, loc="upper left")


def against_tokens(ax: plotting.Axes, rows: Rows) -> None:
    """Error of fresh tokens against the number that scales were calibrated on; dynamic scales as levels."""
    for inputs, filled in (("normal", True), ("swiglu", False)):
        of = rows.where(inputs=inputs)
        for scales, style in SCALE_STYLES.items():
            label = f"{style.label}, {STATIC_KINDS[inputs]}"
            look = {} if filled else {"mfc": "none"}
            found = of.where(scales=scales)
            plotting.points(ax, found, "tokens", "error", series=style, label=label, ms=4, **look)
            plotting.prediction(ax, found.column("tokens"), found.column("predicted_error").astype(float), series=style)
        level = of.where(scales="token").one("error")
        ax.axhline(
            level, color="0.3", lw=0.9, ls="-" if filled else ":", label=f"a scale a token, {STATIC_KINDS[inputs]}"
        )
    ax.set(xscale="log", yscale="log", ylim=(5e-3, 80))
    ax.set(xlabel="calibration tokens", ylabel="output error / output, rms")
    ax.legend(loc="upper right")


def by_site(ax: plotting.Axes, rows: Rows) -> None:
    """Loss of activations over that of normal weights, in dB, with scales by token and with one static scale."""
    places = range(len(rows))
    plotting.dots(ax, rows, "loss_db", places, series=Style(plotting.BLUE, "o", "a scale a token"))
    plotting.dots(ax, rows, "static_loss_db", places, series=Style(plotting.VERMILION, "s", "one static scale"))
    ax.axvline(0, color="0.3", lw=0.9)
    plotting.note(ax, 3.5, 4.5, "0: activations lose as much as weights", va="center")
    ax.set(yticks=places, yticklabels=[r["site"] for r in rows], ylim=(len(rows) - 0.4, -0.6))
    ax.set_xlabel("error of inputs in 8 bits over that of normal weights in 8 bits (dB)")
    ax.legend(loc="lower right")


# --- the verdicts ---------------------------------------------------------------------------------------------------


def lost_by_offline_weights(rows: Rows) -> float:
    """The most that weights lose, in dB, over all sites, if their scale was found beforehand instead of in place."""
    return float(rows.where(kind="site").column("offline_weights_db").max())


def less_concentrated(rows: Rows) -> float:
    """Share of sites × (crest, spread of the range) in which activations exceed normal weights by a tenth, clearly."""
    found = rows.where(kind="site")
    return share(
        Estimate(r[name], r[f"{name}_se"]).clearly_above(1.1) for r in found for name in ("crest_ratio", "range_ratio")
    )


def have_outliers_vary_or_are_sparse(rows: Rows) -> float:
    """Share of sites × (range varies twice as much as that of weights, 0.01 % beyond 6 rms, a tenth zeros) that "
    "hold."""
    limits = {"range_ratio": 2.0, "beyond": 1e-4, "zeros": 0.1}
    found = rows.where(kind="site")
    return share(r[name] >= limit for r in found for name, limit in limits.items())


def lose_more(rows: Rows) -> float:
    """Share of sites × (a scale a token, one static scale) in which activations lose a decibel more than weights."""
    found = rows.where(kind="site")
    return share(r[name] > A_DECIBEL for r in found for name in ("loss_db", "static_loss_db"))


def more_lethal(rows: Rows) -> float:
    """Share of structures × cuts in which outliers in activations err a decibel more than the same in weights."""
    found = rows.where(kind="side", magnitude=JUDGED_AT)

    def err(structure: str, cut: str, side: str) -> float:
        return found.where(structure=structure, cut=cut, side=side).one("error")

    return share(
        20 * np.log10(err(structure, cut, "activations") / err(structure, cut, "weights")) > A_DECIBEL
        for structure in STRUCTURES
        for cut in CUTS
    )


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A26",
        statement="weights are static, so parameters can be found offline",
        definition="error with a scale found beforehand over that with a scale found in place, in dB, one scale for "
        "all, weights; the largest of nine sites",
        number=lost_by_offline_weights,
        rule=at_most(0.0),
        reading="nothing is lost, as they are the same weights; activations lose by it only where their extremes are "
        "so rare that calibration misses them",
    ),
    Claim(
        "A27",
        statement="weight distributions are more concentrated/stable than activations",
        definition="share of nine sites × (crest factor of a token, spread of the ranges of tokens) in which "
        "activations exceed normal weights by a tenth; random inputs",
        number=less_concentrated,
        rule=share_of_cases("activations exceed weights by a tenth, clearly"),
        reading="by construction only where activations are products or rectified, or have outliers",
    ),
    Claim(
        "A28",
        statement="activations vary with input, have outliers, sparsity",
        definition="share of nine sites × (ranges of tokens vary twice as much as those of rows of weights; 0.01 % of "
        "the values lie beyond 6 rms; a tenth are zeros); random inputs",
        number=have_outliers_vary_or_are_sparse,
        rule=share_of_cases("it is so"),
        reading="each is so at some sites, all three at none: zeros come from ReLU, extremes from products and "
        "channels",
    ),
    Claim(
        "A29",
        statement="activation quantization generally loses more than weight quantization",
        definition="share of nine sites × (a scale a token, one static scale) in which activations in 8 bits err a "
        "decibel more than normal weights in 8 bits by channel",
        number=lose_more,
        rule=share_of_cases("activations err a decibel more"),
        reading="with one static scale everywhere; with a scale a token only where they have outliers or are products",
    ),
    Claim(
        "B56",
        statement="down: almost none, <2×, low",
        definition="crest factor of the SwiGLU product that meets the down matrix over that of normal weights; random "
        "inputs",
        number=value_of("crest_ratio", kind="site", site=DOWN),
        rule=at_most(2.0),
        reading="whatever the weights of down are, its input is a product, with extremes {value:.1f} times as far out",
    ),
    Claim(
        "B75",
        statement="activation outliers are more lethal than weight outliers",
        definition="share of structures (by input, element, row) × cuts (by row, one scale, as deployed) in which "
        "outliers ×30 in activations err a decibel more than the same in weights",
        number=more_lethal,
        rule=share_of_cases("activations err a decibel more"),
        reading="the same outliers under the same scales cost the same on either side; a static scale for all tokens "
        "is what makes those of activations worse",
    ),
)
