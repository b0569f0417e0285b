"""Are trained weights small, bell-shaped and smooth, and which of it matters to int8?

Method. A network with two hidden layers learns to tell scikit-learn's 8 x 8 digits apart; its three matrices are looked
at as they are drawn and as they are trained: kurtosis, share within one standard deviation, correlation of neighbours.
Each goes through int8 with one scale a tensor, a row and a block of 32, as it is and with its weights in random order.
So do synthetic normal rows whose neighbours correlate as exp(-distance / length).
Expected. Training moves the uniform start towards a bell. Order cannot matter to one scale for the tensor; rows and
blocks of smooth weights are more alike inside than weights in random order, so they have lower crest factors, the rms
over blocks of the largest |w| over the rms of all, and that is all that smoothness does: the SQNR stays on the line
12 * 127^2 / crest^2 of errors that are uniform in a step.
Refuted if permuting moves the error per tensor, or if a layer leaves the line.

Settles A02, A03 and A09 of the ledger, which numbers the statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from quantsim._types import Matrix
from quantsim.granularity import to_blocks
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, Rule, Verdict, share
from quantsim.lab.plotting import BLUE, GREEN, VERMILION, Axes, Style
from quantsim.lab.study import Cell
from quantsim.measure.ratios import columns, decibels, root_ratio
from quantsim.measure.squares import squares
from quantsim.populations import Normal, samples
from quantsim.quantizer import Quantizer
from quantsim.quantizer import parse as quantizer
from quantsim.rows import Rows
from quantsim.sweep import array_keys, predicted_sqnr_db

INT8 = ("int8:tensor", "int8:channel", "int8:block32")
ON_THE_LINE = 12 * 127**2  # SQNR times crest^2 where errors are uniform in a step
HIDDEN, TAUGHT = (256, 128), 1500  # neurons of the hidden layers, images that the network learns from
Stage = Literal["initial", "trained"]


@dataclass(frozen=True)
class Config:
    seed: int = 0
    epochs: int = 60
    permutations: int = 8  # of each trained matrix
    shape: tuple[int, int] = (256, 1024)  # of the synthetic weights
    arrays: int = 8
    lengths: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)

    @classmethod
    def small(cls) -> "Config":
        return cls(epochs=3, permutations=2, shape=(32, 1024), arrays=4, lengths=(1.0, 64.0))


def measure(config: Config) -> Iterator[Cell]:
    for length in config.lengths:
        yield f"smooth {length:g}", partial(smooth, config, length)
    yield "network, initial", partial(network, config, "initial")
    yield "network, trained", partial(network, config, "trained")


# --- synthetic weights ----------------------------------------------------------------------------------------------


def smooth(config: Config, length: float) -> list[dict[str, Any]]:
    """Normal rows with this correlation length along the inputs, under each scale, as they are and permuted."""
    white = samples(Normal(), array_keys(config.seed, "normal", config.arrays), config.shape)
    arrays = [correlated(np.asarray(w, np.float64), length) for w in white]
    rows = []
    for spec, found in with_permuted(arrays, permutations=1).items():
        predicted = predicted_sqnr_db(Normal(), quantizer(spec), config.shape)
        rows.append({"kind": "smooth", "length": length} | found | {"predicted_permuted_db": predicted})
    return rows


def correlated(white: NDArray[np.float64], length: float) -> Matrix:
    """Rows w[k] = rho w[k - 1] + sqrt(1 - rho^2) white[k] with rho = exp(-1 / length): of the same variance."""
    from scipy.signal import lfilter  # here, as it takes a tenth of a second

    rho = np.exp(-1 / length)
    scaled = np.append(white[:, :1], white[:, 1:] * np.sqrt(1 - rho**2), axis=1)
    return jnp.asarray(lfilter([1.0], [1.0, -rho], scaled, axis=1), jnp.float32)


def with_permuted(arrays: Sequence[Matrix], permutations: int) -> dict[str, dict[str, Any]]:
    """For each scale its columns: crest factor, SQNR, SQNR above the line, SQNR of the same weights in random order."""
    permuted = [
        jnp.asarray(np.random.default_rng(number).permutation(np.ravel(w)).reshape(w.shape))
        for number, w in enumerate([*arrays] * permutations)
    ]
    found = {}
    for spec in INT8:
        q = quantizer(spec)
        assert isinstance(q, Quantizer)
        in_order, weights = squares(arrays, q), arrays[0].size
        absmax2 = [mean_absmax2(w, q) for w in arrays]
        found[spec] = {"spec": spec} | columns(
            crest=root_ratio(absmax2, in_order.signal / weights),
            sqnr_db=in_order.sqnr_db,
            above_db=decibels(absmax2, ON_THE_LINE * in_order.error / weights),
            permuted_db=squares(permuted, q).sqnr_db,
        )
    return found


def mean_absmax2(w: Matrix, q: Quantizer) -> float:
    """Mean over the blocks that share a scale of their squared largest magnitude."""
    assert q.granularity
    return float(np.square(np.abs(np.asarray(to_blocks(w, q.granularity), np.float64)).max(axis=1)).mean())


# --- a network ------------------------------------------------------------------------------------------------------


def network(config: Config, stage: Stage) -> list[dict[str, Any]]:
    """Shape and errors of each matrix of a digits classifier."""
    matrices, accuracy = digits_classifier(config.epochs if stage == "trained" else 0)
    rows = []
    for layer, w in enumerate(matrices):
        about = {"stage": stage, "layer": layer, "lag_in": correlation_of_neighbours(w, axis=1)}
        rows.append({"kind": "tensor"} | about | {"accuracy": accuracy} | shape_of(w))
        found = with_permuted([jnp.asarray(w)], config.permutations)
        rows += [{"kind": "layer"} | about | columns_of_scale for columns_of_scale in found.values()]
    return rows


def digits_classifier(epochs: int) -> tuple[list[NDArray[np.float32]], float]:
    """Weight matrices (out, in) after so many epochs, and the share of unseen digits that the network tells apart.

    scikit-learn draws its weights when training begins: after no epoch they are those of a step of size 1e-300.
    """
    from sklearn import datasets, neural_network
    from threadpoolctl import threadpool_limits

    images, labels = datasets.load_digits(return_X_y=True)
    images = images / 16
    classifier = neural_network.MLPClassifier(HIDDEN, random_state=0, learning_rate_init=1e-3 if epochs else 1e-300)
    with threadpool_limits(1):  # or sums depend on the number of cores
        for _ in range(max(epochs, 1)):
            classifier.partial_fit(images[:TAUGHT], labels[:TAUGHT], classes=range(10))
    accuracy = classifier.score(images[TAUGHT:], labels[TAUGHT:])
    return [matrix.T.astype(np.float32) for matrix in classifier.coefs_], accuracy


def shape_of(w: NDArray[np.float32]) -> dict[str, Any]:
    """What the documents say of the distribution of trained weights, as numbers."""
    z = standardized(w)
    return {
        "shape": w.shape,
        "within_10": np.mean(np.abs(w) <= 10),
        "kurtosis": np.mean(z**4),
        "lag_out": correlation_of_neighbours(w, axis=0),
        "beyond_4": np.mean(np.abs(z) > 4),
        "within_std": np.mean(np.abs(z) < 1),
    }


def standardized(w: NDArray[np.float32]) -> NDArray[np.float64]:
    """The weights over their rms; their mean is small."""
    wide = w.astype(np.float64)
    return wide / np.sqrt(np.mean(wide**2))


def correlation_of_neighbours(w: NDArray[np.float32], *, axis: int) -> float:
    z = np.moveaxis(standardized(w), axis, 0)
    return float(np.mean(z[1:] * z[:-1]))


# --- the figure -----------------------------------------------------------------------------------------------------

STYLES = {
    "int8:tensor": Style(BLUE, "o", "per tensor"),
    "int8:channel": Style(VERMILION, "s", "per row"),
    "int8:block32": Style(GREEN, "^", "per 32"),
}
SHAPES = {"uniform": (1.8, 3**-0.5), "normal": (3.0, 0.6827), "Laplace": (6.0, 1 - np.exp(-(2**0.5)))}


def draw(rows: Rows) -> plotting.Figure:
    figure, panels = plotting.mosaic("abc", height=2.7)
    shapes_of_matrices(panels["a"], rows.where(kind="tensor"))
    sqnr_against_crest(panels["b"], rows)
    sqnr_against_length(panels["c"], rows)
    plotting.letter(panels.values())
    return figure


def shapes_of_matrices(ax: Axes, rows: Rows) -> None:
    for name, (kurtosis, within_std) in SHAPES.items():
        ax.plot(kurtosis, within_std, "+", color="0.25", ms=7)
        plotting.note(ax, kurtosis + 0.35, within_std, name, va="center")
    for stage, matrices in rows.groups("stage").items():
        fill = "white" if stage == ("initial",) else "0.1"
        style = Style("0.1", "*", f"digits network, {stage[0]}")
        plotting.points(ax, matrices, "kurtosis", "within_std", series=style, mfc=fill, ms=6)
    ax.fill_between([2.5, 6.5], 3**-0.5, 0.8, color=GREEN, alpha=0.12, lw=0)
    plotting.note(ax, 4.5, 0.6, "A02: bell-shaped", ha="center")
    ax.set(xlim=(1, 8), ylim=(0.5, 0.85), xlabel="kurtosis", ylabel="share of weights within one std")
    ax.legend(loc="upper left")


def sqnr_against_crest(ax: Axes, rows: Rows) -> None:
    crest = np.linspace(1.05, 5.0, 50)
    plotting.prediction(ax, crest, 10 * np.log10(ON_THE_LINE / crest**2), label="10 log₁₀(12·127² / crest²)")
    for spec, style in STYLES.items():
        for stage, fill in (("initial", "white"), ("trained", style.color)):
            layers = rows.where(kind="layer", stage=stage, spec=spec)
            plotting.points(ax, layers, "crest", "sqnr_db", series=Style(style.color, "*"), mfc=fill, ms=6)
        plotting.points(ax, rows.where(kind="smooth", spec=spec), "crest", "sqnr_db", series=style)
    plotting.note(ax, 1.1, 39, "stars: digits network")
    ax.set(xlabel="crest factor", ylabel="int8 SQNR (dB)", ylim=(38, 54))
    ax.legend(loc="upper right")


def sqnr_against_length(ax: Axes, rows: Rows) -> None:
    found = rows.where(kind="smooth")
    for spec, style in STYLES.items():
        plotting.points(ax, found.where(spec=spec), "length", "sqnr_db", series=style, linestyle="-")
        permuted = found.where(spec=spec)
        plotting.points(ax, permuted, "length", "permuted_db", series=Style(style.color, style.marker), mfc="white")
        plotting.prediction(ax, permuted.column("length"), permuted.column("predicted_permuted_db"), series=style)
    smoothest = max(rows.where(kind="layer", stage="trained", spec="int8:block32"), key=lag_of_inputs)
    length = -1 / np.log(lag_of_inputs(smoothest))
    plotting.mark_claim(ax, length, smoothest["sqnr_db"], "A03: trained", offset=(-4, 6))
    plotting.note(ax, 0.4, 52.5, "open: permuted")
    ax.set(
        xscale="log", xlabel="correlation length (weights)", ylabel="int8 SQNR (dB)", xlim=(0.3, 1500), ylim=(38, 54)
    )


def lag_of_inputs(layer: dict[str, Any]) -> float:
    return layer["lag_in"]


# --- the verdicts ---------------------------------------------------------------------------------------------------


def on_one_network(what: str) -> Rule:
    """For a share of the matrices of one small network: enough to refute a statement, too few to let it hold."""

    def decide(value: float, se: float) -> Verdict:
        del se
        return "conditional" if value > 0 else "refuted"

    text = f"conditional (one small network on digits) in some cases or all, refuted in none; a case counts if {what}"
    return Rule(text, decide)


def bell_shaped(rows: Rows) -> float:
    """Share of the trained matrices between normal and Laplace in shape, with few weights far out."""
    return share(
        2.5 <= r["kurtosis"] <= 6.5 and r["within_std"] > 3**-0.5 and r["beyond_4"] <= 0.005
        for r in rows.where(kind="tensor", stage="trained")
    )


def smooth_matrices(rows: Rows) -> float:
    """Share of trained matrices × axes along which neighbours correlate."""
    trained = rows.where(kind="tensor", stage="trained")
    return share(r[lag] >= 0.5 for r in trained for lag in ("lag_in", "lag_out"))


def mostly_within_ten(rows: Rows) -> float:
    """Share of the trained matrices with most of their weights between -10 and 10."""
    return share(r["within_10"] > 0.5 for r in rows.where(kind="tensor", stage="trained"))


CLAIMS = (
    Claim(
        "A02",
        statement="trained weights concentrate near 0, Gaussian/Laplace-like, extremes rare",
        definition="share of trained tensors",
        number=bell_shaped,
        rule=on_one_network("kurtosis 2.5 … 6.5, more than a uniform share within one std, at most 0.5 % beyond four"),
        reading="training moves a uniform start towards a bell, far enough in {value:.0%} of the tensors of one "
        "network",
    ),
    Claim(
        "A03",
        statement='weight values vary "smoothly", no high-frequency jumps',
        definition="share of trained tensors × axes",
        number=smooth_matrices,
        rule=on_one_network("the correlation of neighbours is at least 0.5"),
        reading="one network shows none; permuting smooth weights only changes the crest factors of their rows and "
        "blocks",
    ),
    Claim(
        "A09",
        statement="trained weights mostly in −10…10 or narrower",
        definition="share of trained tensors",
        number=mostly_within_ten,
        rule=on_one_network("more than half of the weights lie within ±10"),
        reading="all weights of one small network do",
    ),
)
