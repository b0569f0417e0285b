"""Where does SmoothQuant help, and how much of the outliers of the inputs should it move into the weights?

Method. One percent of the input channels are 1, 10 or 100 times larger than the others. SmoothQuant moves a power alpha
of that into the weights, alpha from 0 to 1, calibrated on tokens of its own; outputs of fresh tokens are judged, with
weights and inputs in 8 bits (W8A8, scales by channel and by token), with weights alone in 8 bits (W8A16) or in 4 bits
by blocks of 32 (W4A16). Theory adds up the errors of weights and inputs of unequal size under one step.
Expected. W8A8: the problem is the same when weights and inputs change places, so that alpha = 1/2 is best, and the more
so the larger the outliers. Weights alone: unquantized inputs have no outlier problem, and each one that is moved into
the weights becomes theirs; a little of it, until the largest weight of a scale is touched, makes the weights finer that
count, which is AWQ's idea, but alpha = 1/2 goes too far.
Instead alpha = 1/2 helps weights alone where outliers are ×100: they carry 99 % of the outputs then, so that all that
counts is how fine their own weights are; in blocks of 32 that goes further, as few blocks hold an outlier.
Refuted if the best alpha of W8A8 lies outside 0.4 to 0.6, or if alpha = 1/2 helps weights alone: panels a to c.

Settles B46, B67, B67a and B67b of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from quantsim import theory
from quantsim._types import Activations, Matrix
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_most, share, share_of_cases
from quantsim.lab.plotting import Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import Estimate, columns, decibels, root_ratio
from quantsim.mitigations import Layer, Mitigated, awq, smoothquant
from quantsim.outputs.products import product
from quantsim.populations import Normal, parse_activations
from quantsim.populations.activation_steps import OutlierChannels
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import population_key

ADVISED = 0.5  # alpha of the paper, and of code that gives none
ONE_PERCENT = 0.01  # of the output: what B46 says is left of the outliers' effect
IDENTITY = 1e-12  # relative, of float64 sums of 512 terms: what counts as equal
BLOCK = 32


class Setting(NamedTuple):
    """Quantizers of weights and activations, bits of the integers, how many weights share a scale (0: a row)."""

    weights: str
    activations: str | None
    bits: int
    block: int


SETTINGS = {
    "W8A8": Setting("int8:channel", "int8:channel", 8, 0),
    "W8A16": Setting("int8:channel", None, 8, 0),
    "W4A16": Setting("int4:block32:absmax:f16", None, 4, BLOCK),
}


@dataclass(frozen=True)
class Config:
    """The axes: how far outliers move, how large they are; sizes of the layer."""

    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    magnitudes: tuple[float, ...] = (1.0, 10.0, 100.0)
    rate: float = 0.01  # of the input channels
    side: int = 512
    tokens: int = 512  # to calibrate on, and as many to judge by
    repeats: int = 4
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller layers."""
        return cls(alphas=(0.0, 0.5, 1.0), side=128, tokens=128, repeats=2)


def measure(config: Config) -> Iterator[Cell]:
    """A cell for each setting and magnitude, and the identity in float64."""
    for setting in SETTINGS:
        for magnitude in config.magnitudes:
            yield f"{setting}, {magnitude:g}", partial(every_alpha, config, setting, magnitude)
    yield "identity", partial(identity, config)


class Drawn(NamedTuple):
    """A layer with the inputs that it is calibrated on, and fresh ones."""

    layer: Layer
    fresh: Activations


def outlier_channels(config: Config, magnitude: float) -> OutlierChannels:
    """Which channels are larger, and by what."""
    return OutlierChannels(magnitude=magnitude, rate=config.rate)


def drawn(config: Config, magnitude: float) -> list[Drawn]:
    """Normal weights, and inputs with outlier channels; the same random numbers for all magnitudes."""
    inputs = parse_activations(f"normal+{outlier_channels(config, magnitude)}")
    shape, found = (config.tokens, config.side), []
    for repeat in range(config.repeats):
        key = population_key(config.seed, f"layer {repeat}")
        w, of_x = Normal().sample(key, (config.side, config.side)), jax.random.fold_in(key, 1)
        x, fresh = (inputs.sample(of_x, shape, start=start) for start in (0, config.tokens))
        found.append(Drawn(Layer(w, x), fresh))
    return found


def every_alpha(config: Config, setting: str, magnitude: float) -> list[dict[str, Any]]:
    """SmoothQuant at every alpha, AWQ, and rounding alone, on the same layers."""
    of, layers = SETTINGS[setting], drawn(config, magnitude)
    plain = Squares.of(layers, of, lambda layer: Mitigated(parse(of.weights).roundtrip(layer.weights), jnp.float32(0)))
    searched = [awq(layer, of.weights) for layer, _ in layers]
    found = [("rounding alone", np.nan, plain), ("AWQ", mean_ratio(searched), Squares.after(layers, of, searched))]
    for alpha in config.alphas:
        found.append(("SmoothQuant", alpha, Squares.of(layers, of, partial(smoothed, q=of.weights, alpha=alpha))))
    rows = []
    for remedy, alpha, squares in found:
        row = {"kind": "error", "setting": setting, "magnitude": magnitude, "remedy": remedy, "alpha": alpha}
        row |= columns(
            error=root_ratio(squares.errors, squares.outputs), gain_db=decibels(plain.errors, squares.errors)
        )
        smooth = remedy == "SmoothQuant"
        rows.append(row | {"predicted_error": predicted_error(config, of, magnitude, alpha) if smooth else None})
    return rows


def smoothed(layer: Layer, q: str, alpha: float) -> Mitigated:
    """A layer after SmoothQuant."""
    return smoothquant(layer, q, alpha=alpha)


def mean_ratio(searched: list[Mitigated]) -> float:
    """The exponent that AWQ chose, mean over layers; 0 where it did nothing."""
    return float(np.mean([np.nan_to_num(float(m.found["ratio"])) for m in searched]))


class Squares(NamedTuple):
    """Sums of squares of the errors of outputs and of the outputs, one for each layer."""

    errors: NDArray[np.float64]
    outputs: NDArray[np.float64]

    @classmethod
    def of(cls, layers: list[Drawn], setting: Setting, remedy: Any) -> "Squares":
        """What a remedy, a function of a layer, leaves on fresh tokens."""
        return cls.after(layers, setting, [remedy(one.layer) for one in layers])

    @classmethod
    def after(cls, layers: list[Drawn], setting: Setting, mitigated: list[Mitigated]) -> "Squares":
        """Of layers that are mitigated already."""
        pairs = [
            squared_errors(one.layer.weights, one.fresh, m.outputs(one.fresh, setting.activations))
            for one, m in zip(layers, mitigated, strict=True)
        ]
        return cls(*np.array(pairs, np.float64).T)


@jax.jit
def squared_errors(w: Matrix, x: Activations, y_hat: Float[Array, "batch out"]) -> tuple[Array, Array]:
    """Sums of (ŷ - y)² and of y², y = x wᵀ."""
    y = product(x, w)
    return jnp.sum((y_hat - y) ** 2), jnp.sum(y * y)


def predicted_error(config: Config, of: Setting, magnitude: float, alpha: float) -> float:
    """Output error over output, rms: inputs of size m^(1 - alpha) meet errors of weights of size m^alpha, and reversed.

    The maxima that SmoothQuant divides by are taken as proportional to the sizes m of the channels.
    """
    m = np.ones(config.side)
    m[outlier_channels(config, magnitude).channels(config.side)] = magnitude
    of_x, of_w = m ** (1 - alpha), m**alpha
    block = of.block or config.side
    weights = np.concatenate([theory.unequal_int_mse(sizes, of.bits) for sizes in of_w.reshape(-1, block)])
    inputs = theory.unequal_int_mse(of_x, of.bits) if of.activations else np.zeros(config.side)
    power = (of_x**2 * weights + inputs * (of_w**2 + weights)).sum()
    return float(np.sqrt(power / (m**2).sum()))


def identity(config: Config) -> list[dict[str, Any]]:
    """The largest relative deviation of (x / s)(s w)ᵀ from x wᵀ in float64, over all alphas and magnitudes."""
    rows = []
    for magnitude in config.magnitudes:
        (layer, _), *_ = drawn(config, magnitude)
        x, w = (np.asarray(a, np.float64) for a in (layer.inputs, layer.weights))
        for alpha in config.alphas:
            s = np.asarray(smoothquant(layer, "f32", alpha=alpha).divided_by, np.float64)
            off = np.linalg.norm((x / s) @ (w * s).T - x @ w.T) / np.linalg.norm(x @ w.T)
            rows.append({"kind": "identity", "magnitude": magnitude, "alpha": alpha, "deviation": float(off)})
    return rows


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    1.0: Style(plotting.BLUE, "o", "none"),
    10.0: Style(plotting.ORANGE, "s", "×10"),
    100.0: Style(plotting.VERMILION, "^", "×100"),
}
CLAIMED = {"W8A8": "B67a", "W8A16": "B67b", "W4A16": "B67b"}


def draw(rows: Rows) -> plotting.Figure:
    """Error against alpha, a panel for each setting, a colour for each size of the outliers."""
    figure, axes = plotting.figure(1, 3, height=2.9, sharey=True)
    errors = rows.where(kind="error")
    for ax, setting in zip(axes[0], SETTINGS, strict=True):
        against_alpha(ax, errors.where(setting=setting))
        ax.set_xlabel(f"α ({setting})")
        ax.axvline(ADVISED, color="0.85", lw=5, zorder=0)
    axes[0, 0].set_ylabel("output error / output, rms")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=6, columnspacing=1.2)
    plotting.letter(axes[0])
    return figure


def against_alpha(ax: plotting.Axes, rows: Rows) -> None:
    """Measured and predicted errors of SmoothQuant; those of rounding alone, and of AWQ at the exponent it chose."""
    for magnitude, style in STYLES.items():
        found = rows.where(magnitude=magnitude)
        label = f"SmoothQuant, outliers {style.label}"
        plotting.measured(ax, found.where(remedy="SmoothQuant"), "alpha", "error", series=style, label=label)
        alone = found.where(remedy="rounding alone").one("error")
        ax.axhline(alone, color=style.color, lw=0.8, ls=":", label="rounding alone" if magnitude == 100 else "")
        plotting.points(
            ax,
            found.where(remedy="AWQ"),
            "alpha",
            "error",
            series=Style(style.color, "*"),
            ms=7,
            mec="k",
            mew=0.5,
            label="AWQ" if magnitude == 100 else "_",
        )
    ax.set(yscale="log")
    setting = rows[0]["setting"]
    advised = rows.where(remedy="SmoothQuant", magnitude=100.0, alpha=ADVISED).one("error")
    plotting.mark_claim(ax, ADVISED, advised, CLAIMED[setting], offset=(5, -9))


# --- the verdicts ---------------------------------------------------------------------------------------------------

OUTLIERS = (10.0, 100.0)
DB_OF_HALF = 20 * np.log10(2)


def largest_deviation(rows: Rows) -> float:
    """The largest relative deviation of the identity."""
    return float(rows.where(kind="identity").column("deviation").max())


def advised_halves(rows: Rows, settings: tuple[str, ...]) -> float:
    """Share of settings × sizes of outliers in which alpha = 1/2 at least halves the output error of rounding alone."""
    found = rows.where(kind="error", remedy="SmoothQuant", alpha=ADVISED)
    return share(
        found.where(setting=setting, magnitude=magnitude).one("gain_db") >= DB_OF_HALF
        for setting in settings
        for magnitude in OUTLIERS
    )


def below_one_percent(rows: Rows) -> float:
    """Share of settings × sizes × (SmoothQuant at 1/2, AWQ) in which outliers add less than 1 % of the output."""
    errors = rows.where(kind="error")

    def added(setting: str, magnitude: float, remedy: str) -> Estimate:
        alpha = {"alpha": ADVISED} if remedy == "SmoothQuant" else {}
        one = errors.where(setting=setting, magnitude=magnitude, remedy=remedy, **alpha)
        without = errors.where(setting=setting, magnitude=1.0, remedy="rounding alone").one("error")
        return Estimate(one.one("error") - without, one.one("error_se"))

    return share(
        not added(setting, magnitude, remedy).clearly_above(ONE_PERCENT)
        for setting in SETTINGS
        for magnitude in OUTLIERS
        for remedy in ("SmoothQuant", "AWQ")
    )


CLAIMS = (
    Claim(
        "B46",
        statement="SmoothQuant, AWQ keep outlier effect < 1 %",
        definition="share of (W8A8, W8A16, W4A16) × (×10, ×100) × (SmoothQuant at 1/2, AWQ) in which the output error "
        "over the output exceeds that of a layer without outliers by less than 0.01",
        number=below_one_percent,
        rule=share_of_cases("outliers add less than 1 % of the output"),
        reading="both keep it below 1 % of the output, where rounding alone adds 2 to 3 % to W8A8; what a trained "
        "model makes of it is another question",
    ),
    Claim(
        "B67",
        statement="Y=(X diag(s)⁻¹)(diag(s)W)",
        definition="largest relative deviation of (x / s)(s w)ᵀ from x wᵀ in float64, over all α and outliers",
        number=largest_deviation,
        rule=at_most(IDENTITY),
        reading="an identity: without quantization nothing changes, whatever s",
    ),
    Claim(
        "B67a",
        statement="as a cure (W8A8)",
        definition="share of outliers ×10 and ×100 in which SmoothQuant at α = 1/2 at least halves the output error "
        "of W8A8",
        number=partial(advised_halves, settings=("W8A8",)),
        rule=share_of_cases("the error at least halves"),
        reading="with inputs in 8 bits it is a cure, and theory has its best α at 1/2",
    ),
    Claim(
        "B67b",
        statement="for weight-only int8",
        definition="share of outliers ×10 and ×100 in which SmoothQuant at α = 1/2 at least halves the output error "
        "of W8A16",
        number=partial(advised_halves, settings=("W8A16",)),
        rule=share_of_cases("the error at least halves"),
        reading="inputs that are not quantized have no outlier problem: at ×10 the error grows, and at ×100, where "
        "the outliers carry the outputs, it falls by less than half",
    ),
)
