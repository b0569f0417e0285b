"""What do LayerNorm and RMSNorm do to outliers, and to errors of the weights before them?

Method. Activations with an outlier channel, with tokens of unequal size, or with a single massive one go through both
norms, without learned gains or, once, with some. The outputs of a spoiled matrix are normalized too: rounded or
truncated to int8, all too large by a gain, or all shifted by the same amount; or only the outlier channel is off.
Expected. A norm divides a token by one number: nothing changes within a token, so that an outlier channel pushes all
others down by 1 / sqrt(1 + M^2 / n) and stays as far from them as before. Tokens of unequal size become alike, and no
value exceeds sqrt(n). Of errors a norm removes what all channels share: a gain, LayerNorm also a shift; a rounding
error it keeps, of truncation the half that is no gain: sqrt(0.52). An error in the outlier channel alone comes out in
all others, as it moves the number that divides them.
Refuted if a norm halves the range of an outlier channel, or the error of rounded weights: panels b and c.

Settles A17, A18 and A19 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.special import ndtri

from quantsim._types import Activations, Matrix, PRNGKey
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, share, share_of_cases
from quantsim.lab.plotting import Axes
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, mean, root_ratio
from quantsim.outputs.norms import layer_norm, rms_norm
from quantsim.outputs.products import product
from quantsim.quantizer import parse
from quantsim.rows import Rows
from quantsim.sweep import array_keys

PerRepeat = Float[Array, " repeats"]

NORMS: dict[str, Callable[[Activations], Activations]] = {"LayerNorm": layer_norm, "RMSNorm": rms_norm}
WITH_GAINS = "LayerNorm, gains"
ROUNDED, TRUNCATED, GAIN, SHIFT = "rounded", "truncated", "gain", "shift"
INT8, TO_ZERO = parse("int8:channel"), parse("int8:channel:absmax:truncate")
SIZE = 0.01  # relative rms of the errors that are no roundings
OUTLIER, MASSIVE = 30.0, 1000.0  # standard deviations: of an outlier channel; of a single activation, as LLaMA has them
OCTAVES = 2.0  # standard deviation of log2 of the sizes of unequal tokens
SHIFTED, TINY = 3.0, 1e-3  # mean of shifted activations; size of tiny ones, whose variance is below the norm's epsilon
ALIKE = 0.01  # by what a mean may be off 0 and a variance off 1
HALF = 0.5  # of a range or an error: what counts as limiting it


@dataclass(frozen=True)
class Config:
    """Sizes of the activations, and of the outlier channel.

    Attributes:
        channels: n, of each token and of each matrix.
        tokens: in a batch.
        repeats: batches and matrices, the units of the standard errors.
        magnitudes: of the outlier channel, in standard deviations of the others.
    """

    channels: int = 1024
    tokens: int = 64
    repeats: int = 8
    magnitudes: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    seed: int = 0

    @classmethod
    def small(cls) -> "Config":
        """Fewer and smaller batches."""
        return cls(channels=128, tokens=16, repeats=3, magnitudes=(1.0, 30.0, 1000.0))


def measure(config: Config) -> Iterator[Cell]:
    """One cell a question: mean and variance, ranges, an outlier channel, errors of a matrix."""
    yield "moments", partial(moments, config)
    yield "ranges", partial(ranges, config)
    yield "outlier channel", partial(by_magnitude, config)
    yield "errors of weights", partial(by_error, config)


def batches(config: Config, name: str) -> Float[Array, "repeats tokens channels"]:
    """Standard normal activations."""
    keys = array_keys(config.seed, name, config.repeats)
    return jax.vmap(lambda key: jax.random.normal(key, (config.tokens, config.channels)))(keys)


def with_outlier(x: Activations, magnitude: Float[Array, ""] | float) -> Activations:
    """The first channel is the magnitude in all tokens."""
    return x.at[..., 0].set(magnitude)


def moments(config: Config) -> list[dict]:
    """How far mean and variance of a token are off 0 and 1, at worst, for each norm and kind of activations."""
    x = batches(config, "moments").reshape(-1, config.channels)
    gains = jnp.exp2(jnp.asarray(spread_evenly(config.channels), jnp.float32))  # an octave, one way or the other
    norms = NORMS | {WITH_GAINS: lambda v: layer_norm(v) * gains[None, :]}
    kinds = {"shifted": x + SHIFTED, "outlier channel": with_outlier(x, OUTLIER), "tiny": TINY * x}
    rows = []
    for norm, function in norms.items():
        for kind, activations in kinds.items():
            y = np.asarray(jax.jit(function)(activations), np.float64)
            off = {"worst_mean": np.max(abs(y.mean(axis=1))), "worst_variance": np.max(abs(y.var(axis=1) - 1))}
            rows.append({"kind": "moments", "norm": norm, "activations": kind} | off)
    return rows


def spread_evenly(count: int) -> NDArray[np.float64]:
    """So many quantiles of a standard normal, in random order."""
    quantiles: NDArray[np.float64] = ndtri((np.arange(count) + 0.5) / count)
    return np.random.default_rng(0).permutation(quantiles)


def ranges(config: Config) -> list[dict]:
    """Largest over median magnitude of a batch, before and after each norm."""
    x = batches(config, "ranges")
    sizes = jnp.asarray(2.0 ** (OCTAVES * spread_evenly(config.tokens)), jnp.float32)
    kinds = {
        "outlier channel": with_outlier(x, OUTLIER),
        "unequal tokens": x * sizes[None, :, None],
        "one massive": x.at[:, 0, 0].set(MASSIVE),
    }
    rows = []
    for kind, activations in kinds.items():
        before = dynamic_range(activations)
        for norm, function in NORMS.items():
            after = dynamic_range(jax.vmap(function)(activations))
            row = {"kind": "range", "activations": kind, "norm": norm}
            rows.append(row | columns(before=mean(before), after=mean(after), left=mean(after / before)))
    return rows


def dynamic_range(x: Float[Array, "repeats tokens channels"]) -> NDArray[np.float64]:
    """Largest over median magnitude of each batch."""
    sizes = np.abs(np.asarray(x, np.float64)).reshape(len(x), -1)
    return sizes.max(axis=1) / np.median(sizes, axis=1)


class Others(NamedTuple):
    """Sums over all channels but the outlier: their number, squares behind a norm, and squared errors there."""

    channels: PerRepeat
    squares: PerRepeat
    squared_errors: PerRepeat


def by_magnitude(config: Config) -> list[dict]:
    """What the others are behind a norm, and what an error of the outlier channel alone does to them."""
    x, n = batches(config, "outlier channel"), config.channels
    rows = []
    for norm, function in NORMS.items():
        for magnitude in config.magnitudes:
            found = others(function, x, jnp.float32(magnitude))
            share_of_power = magnitude**2 / (magnitude**2 + n - 1)
            row = {"kind": "outlier", "norm": norm, "magnitude": magnitude}
            row |= columns(size=root_ratio(found.squares, found.channels))
            row |= columns(passed_on=root_ratio(found.squared_errors, found.squares).times(1 / SIZE))
            predicted_size = float(np.sqrt(n / (magnitude**2 + n - 1)))
            rows.append(row | {"predicted_size": predicted_size, "predicted_passed_on": share_of_power})
    return rows


@partial(jax.jit, static_argnums=0)
def others(norm: Callable, x: Float[Array, "repeats tokens channels"], magnitude: Float[Array, ""]) -> Others:
    """Sums of each batch where the outlier channel is the magnitude, and where it is too large by SIZE."""

    def one(batch: Activations) -> Others:
        true, off = (norm(with_outlier(batch, m))[:, 1:] for m in (magnitude, (1 + SIZE) * magnitude))
        return Others(jnp.float32(true.size), jnp.sum(true**2), jnp.sum((off - true) ** 2))

    return jax.lax.map(one, x)


class ErrorSums(NamedTuple):
    """Sums of squares of outputs and errors, before and behind a norm."""

    outputs: PerRepeat
    errors: PerRepeat
    normalized: PerRepeat
    normalized_errors: PerRepeat


def by_error(config: Config) -> list[dict]:
    """What is left of the relative error of outputs behind each norm, by what is wrong with the weights."""
    x, keys = batches(config, "inputs"), array_keys(config.seed, "weights", config.repeats)
    rows = []
    for norm, function in NORMS.items():
        for error, found in error_sums(function, x, keys).items():
            before = root_ratio(found.errors, found.outputs)
            after = root_ratio(found.normalized_errors, found.normalized)
            left = mean(
                rms_of_each(found.normalized_errors, found.normalized) / rms_of_each(found.errors, found.outputs)
            )
            row = {"kind": "error", "norm": norm, "error": error} | columns(before=before, after=after, left=left)
            rows.append(row | {"predicted_left": predicted_left(norm, error)})
    return rows


def rms_of_each(errors: PerRepeat, signals: PerRepeat) -> NDArray[np.float64]:
    """Relative rms error of each repeat."""
    return np.sqrt(np.asarray(errors, np.float64) / np.asarray(signals, np.float64))


def predicted_left(norm: str, error: str) -> float:
    """Share of an rms error that a norm leaves.

    Truncation takes u of |w|, uniform in a step s: of E[u^2] = s^2 / 3 the gain along w is (E[u] E|w|)^2 / E[w^2] =
    s^2 / 4 · 2 / pi, and a norm removes it.
    """
    kept: Mapping[str, float] = {
        ROUNDED: 1.0,
        TRUNCATED: float(np.sqrt(1 - 3 / (2 * np.pi))),
        GAIN: 0.0,
        SHIFT: 0.0 if norm == "LayerNorm" else 1.0,
    }
    return kept[error]


@partial(jax.jit, static_argnums=0)
def error_sums(norm: Callable, x: Float[Array, "repeats tokens channels"], keys: PRNGKey) -> dict[str, ErrorSums]:
    """Sums for each kind of error, one matrix for each batch."""

    def one(pair: tuple[Activations, PRNGKey]) -> dict[str, ErrorSums]:
        batch, key = pair
        n = batch.shape[1]
        w = jax.random.normal(key, (n, n)) / jnp.sqrt(n)
        y = product(batch, w)
        return {name: sums_of(norm, y, product(batch, w_hat)) for name, w_hat in spoiled(w, key).items()}

    return jax.lax.map(one, (x, keys))


def spoiled(w: Matrix, key: PRNGKey) -> dict[str, Matrix]:
    """A matrix with each kind of error. A shift has one error for all outputs of an input."""
    shared = jax.random.normal(jax.random.fold_in(key, 1), (1, w.shape[1])) / jnp.sqrt(w.shape[1])
    return {
        ROUNDED: INT8.roundtrip(w),
        TRUNCATED: TO_ZERO.roundtrip(w),
        GAIN: (1 + SIZE) * w,
        SHIFT: w + SIZE * jnp.broadcast_to(shared, w.shape),
    }


def sums_of(norm: Callable, y: Activations, y_hat: Activations) -> ErrorSums:
    """Sums of squares before and behind the norm."""
    z, z_hat = norm(y), norm(y_hat)
    return ErrorSums(*(jnp.sum(a**2) for a in (y, y_hat - y, z, z_hat - z)))


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = plotting.styles(list(NORMS))
STYLES_OF_OTHERS = plotting.styles({"size": "size", "passed_on": "error / outlier's error"})
KINDS = {"outlier channel": "outlier\nchannel", "unequal tokens": "unequal\ntokens", "one massive": "one\nmassive"}
ERRORS = {ROUNDED: "rounded", TRUNCATED: "truncated", GAIN: "all too\nlarge", SHIFT: "all\nshifted"}


def draw(rows: Rows) -> plotting.Figure:
    """Other channels beside an outlier, ranges before and after, errors before and after."""
    figure, axes = plotting.figure(1, 3, height=2.6, width_ratios=(1.2, 1, 1))
    beside_an_outlier(axes[0, 0], rows.where(kind="outlier", norm="RMSNorm"))
    what_is_left(axes[0, 1], rows.where(kind="range"), "activations", KINDS)
    axes[0, 1].set_xlabel("range, behind / before")
    axes[0, 1].legend(loc="center right")
    plotting.note(axes[0, 1], 0.0, -0.3, "A18: limited")
    what_is_left(axes[0, 2], rows.where(kind="error"), "error", ERRORS)
    axes[0, 2].set_xlabel("error, behind / before")
    plotting.note(axes[0, 2], 0.0, -0.3, "A19: reduced")
    plotting.letter(axes.ravel())
    return figure


def beside_an_outlier(ax: Axes, rows: Rows) -> None:
    """Size of the other channels behind the norm, and the error that they take from the outlier."""
    for column, style in STYLES_OF_OTHERS.items():
        plotting.measured(ax, rows, "magnitude", column, series=style)
    ax.set(xscale="log", yscale="log", ylim=(5e-4, 3), xlabel="outlier channel (std of the others)")
    ax.set_ylabel("the other channels behind a norm")
    plotting.note(ax, 3, 1.5, "their size")
    plotting.note(ax, 14, 0.03, "their error,\nif only the\noutlier errs")


def what_is_left(ax: Axes, rows: Rows, column: str, names: Mapping[str, str]) -> None:
    """Behind over before a norm, one line for each name, LayerNorm above RMSNorm."""
    for offset, (norm, style) in zip((-0.13, 0.13), STYLES.items(), strict=True):
        found = Rows(rows.where(**{column: name, "norm": norm})[0] for name in names)
        plotting.dots(ax, found, "left", np.arange(len(names)) + offset, series=style)
    ax.axvspan(-0.05, HALF, color="0.93", lw=0)
    ax.set(yticks=range(len(names)), yticklabels=names.values(), ylim=(len(names) - 0.5, -0.6), xlim=(-0.05, 1.1))


# --- the verdicts ---------------------------------------------------------------------------------------------------


def standardized(rows: Rows) -> float:
    """Share of norms × activations with every token's mean within 0.01 of 0 and its variance within 0.01 of 1."""
    found = rows.where(kind="moments")
    return share((found.column("worst_mean") <= ALIKE) & (found.column("worst_variance") <= ALIKE))


def halved(rows: Rows, kind: str) -> float:
    """Share of the rows of a kind of which a norm leaves at most half."""
    return share(rows.where(kind=kind).column("left") <= HALF)


# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "A17",
        statement="LayerNorm makes mean 0, variance 1",
        definition="share of (LayerNorm, RMSNorm, LayerNorm with gains) × (shifted, with an outlier channel, tiny "
        "activations) in which every token has |mean| ≤ 0.01 and |variance - 1| ≤ 0.01",
        number=standardized,
        rule=share_of_cases("mean and variance of every token are within 0.01"),
        reading="a bare LayerNorm does unless activations are tiny; its learned gains undo the variance, and RMSNorm, "
        "which language models have instead, leaves the mean",
    ),
    Claim(
        "A18",
        statement="LayerNorm strongly limits activation dynamic range",
        definition="share of (outlier channel, unequal tokens, one massive activation) × (LayerNorm, RMSNorm) in which "
        "largest / median |activation| of a batch falls to half or less",
        number=partial(halved, kind="range"),
        rule=share_of_cases("the range falls to half or less"),
        reading="it limits the range between tokens, and what exceeds the root of their length, but leaves an outlier "
        "channel as far from the others as it was",
    ),
    Claim(
        "A19",
        statement="LayerNorm reduces the propagation of weight error",
        definition="share of (rounded, truncated, all too large, all shifted) × (LayerNorm, RMSNorm) in which the "
        "relative rms error of outputs falls to half or less",
        number=partial(halved, kind="error"),
        rule=share_of_cases("the relative error falls to half or less"),
        reading="it takes away what all channels share, a gain or a shift; rounding errors pass unchanged",
    ),
)
