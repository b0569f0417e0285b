"""What does int8 really do to the documents' 16×32 matrix, and how far is that from bf16?

Method. The appendix' own code is run (``np.random.seed(42)``, uniform, float32), once as it is and once after rounding
to bf16, and its statistics stand beside the printed ones. Errors against magnitude come from a large population of the
same distribution.
Expected. |e| <= scale / 2 and mean |e| = scale / 4, whatever the magnitude of a weight.
Refuted if any error exceeds half a step.

Settles B02, B03, B09, B10, B11, B12, B13, B14, B15, B16, B17, B18, B21, B22 and B80 of the ledger, which numbers the
statements of two documents (``quantsim claims``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from quantsim._types import Matrix
from quantsim.lab import plotting
from quantsim.lab.claims import Claim, at_least, at_most, share, share_of_cases, stated, value_of
from quantsim.lab.matrix import LEGEND, document_matrix, report
from quantsim.lab.study import Cell
from quantsim.measure import error, error_stats
from quantsim.measure.classes import class_stats
from quantsim.populations import Uniform, key
from quantsim.quantizer import parse
from quantsim.rows import Rows

INT8, BF16 = parse("int8:tensor"), parse("bf16")
QUANTIZERS = {"bf16": "bf16", "int8:tensor": "int8", "q8_0": "q8_0"}  # and their names in the legend
# what the document prints of its matrix
STATED_SCALE, STATED_MAX, STATED_MEAN = 0.00983, 0.012, 0.0043
HALF_STEP = STATED_SCALE / 2  # no error can be larger, by the document's own scale
SMALL = 0.5  # the document's small weights lie below


@dataclass(frozen=True)
class Config:
    """The document's seed, and the population behind the error curves."""

    seed: int = 42
    shape: tuple[int, int] = (4096, 4096)
    classes: int = 40

    @classmethod
    def small(cls) -> "Config":
        """A smaller population."""
        return cls(shape=(256, 1024))


def measure(config: Config) -> Iterator[Cell]:
    """The matrix as it is and from bf16; errors by magnitude."""
    yield "matrix", lambda: [of_matrix(config.seed, first) for first in ("float32", "bf16")]
    yield "classes", partial(by_magnitude, config)


def of_matrix(seed: int, first: str) -> dict:
    """Everything that the document prints of its matrix, computed."""
    w = jnp.asarray(document_matrix(seed))
    w = BF16.roundtrip(w) if first == "bf16" else w
    codes, e = INT8.quantize(w).codes, error(w, INT8.roundtrip(w))
    in_bf16, size = BF16.roundtrip(w), np.abs(np.asarray(e))
    return (
        {"kind": "matrix", "first": first, "w": w, "codes": codes, "e": e}
        | report(w, INT8)
        | small_over_large(np.abs(np.asarray(w)), size)
        | {
            "absmax": float(jnp.max(jnp.abs(w))),
            "share_above_0.01": (size > 0.01).mean(),
            "share_from_0.005": (size >= 0.005).mean(),
            "codes_differing": int((codes_by_hand(np.asarray(w)) != np.asarray(codes)).sum()),
            "clipped": int(jnp.sum(INT8.clipped(w))),
            "bf16_over_int8": error_stats(w, in_bf16).rel_rms / error_stats(w, INT8.roundtrip(w)).rel_rms,
            "share_bf16": float(jnp.mean(in_bf16 == w)),
        }
    )


def codes_by_hand(w: np.ndarray) -> np.ndarray:
    """The document's formula in NumPy: scale = max |W| / 127, Q = round(clamp(W / scale))."""
    scale = np.float32(np.abs(w).max() / np.float32(127.0))
    return np.round(np.clip(w / scale, -127, 127))


def small_over_large(magnitude: np.ndarray, e: np.ndarray) -> dict[str, float]:
    """Mean error of the weights below 0.5 over that of the others: |e|, and |e| / |w|."""
    small = magnitude < SMALL
    relative = e / magnitude
    return {
        "small_over_large_abs": e[small].mean() / e[~small].mean(),
        "small_over_large_rel": relative[small].mean() / relative[~small].mean(),
    }


def by_magnitude(config: Config) -> list[dict]:
    """Mean |e| and mean |e| / |w| in classes of |w|, of weights like the document's."""
    w: Matrix = Uniform(3**-0.5).sample(key(config.seed), config.shape)
    edges = (0.0, *np.geomspace(1e-4, 1.0, config.classes).tolist())
    rows = []
    for spec in QUANTIZERS:
        found = class_stats(w, parse(spec).roundtrip(w), edges)
        of_classes = zip(pairwise(edges), found.count, found.mean_abs, found.mean_relative, strict=True)
        for (low, high), count, mean_abs, mean_relative in of_classes:
            row = {"kind": "class", "spec": spec, "low": low, "high": high, "count": count}
            rows.append(row | {"mean_abs": mean_abs, "mean_relative": mean_relative})
    return rows


STYLES = plotting.styles(QUANTIZERS)


def draw(rows: Rows) -> plotting.Figure:
    """The matrix before, after, and its error; the errors' histogram; errors against magnitude."""
    fig, axes = plotting.mosaic("abc;def", height=3.9, height_ratios=(1, 1.6))
    matrix = rows.where(kind="matrix", first="float32")[0]
    w, codes, e, scale = np.array(matrix["w"]), np.array(matrix["codes"]), np.array(matrix["e"]), matrix["scale"]
    plotting.image(axes["a"], w, "weights", cmap="RdBu", vmin=-1, vmax=1)
    plotting.image(axes["b"], codes * scale, "weights after: codes × scale", cmap="RdBu", vmin=-1, vmax=1)
    plotting.image(axes["c"], e / scale, "error / step (±½)", cmap="PuOr", vmin=-0.5, vmax=0.5)
    histogram(axes["d"], np.abs(e), scale)
    against_magnitude(axes["e"], rows.where(kind="class"), "mean_abs", "mean |error| (weight units)")
    against_magnitude(axes["f"], rows.where(kind="class"), "mean_relative", "mean |error| / |weight|")
    axes["e"].legend(loc="lower right", handlelength=1.0, borderpad=0.1)
    plotting.letter(axes[k] for k in sorted(axes))
    return fig


def histogram(ax: plotting.Axes, e: np.ndarray, scale: float) -> None:
    """How many weights err by how much, and where the printed mean and maximum would be."""
    thousandths = np.arange(0, 4.01, 0.25).tolist()
    ax.hist(e.ravel() * 1e3, bins=thousandths, color=plotting.BLUE)
    ax.axvspan(scale / 2 * 1e3, 12.7, color=plotting.VERMILION, alpha=0.15, lw=0)
    ax.axvline(STATED_MEAN * 1e3, color="0.1", lw=0.8, ls=":")
    ax.axvline(STATED_MAX * 1e3, color="0.1", lw=0.8, ls=":")
    upright = {"transform": ax.get_xaxis_transform(), "rotation": 90, "fontsize": 6}
    plotting.note(ax, STATED_MEAN * 1e3 + 0.5, 0.08, "B11: stated mean", ha="left", **upright)
    plotting.note(ax, STATED_MAX * 1e3 - 0.2, 0.08, "B10: stated maximum", ha="right", **upright)
    beyond = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "top"}
    plotting.note(ax, 8.3, 0.97, "impossible:\nbeyond half a step", **beyond)
    ax.set(xlabel="|error| (10⁻³ weight units)", ylabel="weights, of 512", xlim=(0, 12.7))


def against_magnitude(ax: plotting.Axes, rows: Rows, column: str, label: str) -> None:
    """An error of each quantizer against the magnitude of the weights, where a class holds enough of them."""
    for spec, style in STYLES.items():
        found = Rows(r for r in rows.where(spec=spec) if r["count"] > 50 and r["low"] > 0)
        middle = np.sqrt(found.column("low") * found.column("high"))
        line = "--" if spec == "q8_0" else "-"  # int8 lies below it
        plotting.curve(ax, middle, found.column(column), series=style, ms=1.8, linestyle=line)
    ax.set(xscale="log", yscale="log", xlabel="|weight|", ylabel=label)


def of(rows: Rows, column: str) -> float:
    """A number of the matrix as the code makes it."""
    return rows.where(kind="matrix", first="float32").one(column)


def over_absmax(rows: Rows, column: str) -> float:
    """A number of the matrix over its largest magnitude."""
    return of(rows, column) / of(rows, "absmax")


def scale_by_formula(rows: Rows) -> float:
    """Scale × 127 / max |w|."""
    return 127 * over_absmax(rows, "scale")


def in_other_class(rows: Rows) -> float:
    """Total variation between the measured and the printed shares of the error classes, Σ |p − q| / 2."""
    (matrix,) = rows.where(kind="matrix", first="float32")
    return sum(abs(b["share"] - b["stated"]) for b in matrix["bins"]) / 2


def small_err_more(rows: Rows) -> float:
    """Share of two meanings of an error by which weights below 0.5 err over 5 % more than the others."""
    return share(of(rows, column) > 1.05 for column in ("small_over_large_abs", "small_over_large_rel"))


def printed_by_the_code(rows: Rows) -> float:
    """Share of the printed scale, maximum and mean that the code gives, up to the last printed digit."""
    return share(
        [
            abs(of(rows, "scale") - STATED_SCALE) <= 5e-6,
            abs(of(rows, "max_abs") - STATED_MAX) <= 5e-4,
            abs(of(rows, "mean_abs") - STATED_MEAN) <= 5e-5,
        ]
    )


def possible_share(above: float) -> float:
    """Bound on a share of errors above a number that half of the printed scale puts on it: none, if it is larger."""
    return 0.0 if above >= HALF_STEP else np.inf


of_matrix_column = partial(value_of, kind="matrix", first="float32")
# A share of cases decides so: the statement holds if it is 1, is refuted if it is 0, and conditional between.
CLAIMS = (
    Claim(
        "B02",
        statement="scale = max|W|/127",
        definition="scale × 127 / max |w|",
        number=scale_by_formula,
        rule=stated(1, 2**-23),
    ),
    Claim(
        "B03",
        statement="Q = round(clamp(W/s)), W′=Q·s, e=|W−W′|",
        definition="codes of 512 that differ from the formula in NumPy",
        number=of_matrix_column("codes_differing"),
        rule=stated(0, 0),
    ),
    Claim(
        "B09",
        statement="bins ≤.003 35 %, ≤.006 48 %, ≤.009 15 %, >.009 2 %",
        definition="total variation between measured and stated class shares",
        number=in_other_class,
        rule=stated(0, 0.01, limit=-1.0 if LEGEND[1][0] > HALF_STEP else np.inf),
        reading="17 % are stated to lie above 0.006, but half the stated scale is 0.0049",
    ),
    Claim(
        "B10",
        statement="max error .012",
        definition="max |e|",
        number=of_matrix_column("max_abs"),
        rule=stated(STATED_MAX, 0.0005, limit=HALF_STEP),
        reading="half a step: {value:.5f}",
    ),
    Claim(
        "B11",
        statement="mean error .0043",
        definition="mean |e|",
        number=of_matrix_column("mean_abs"),
        rule=stated(STATED_MEAN, 0.00005),
        reading="a quarter step: {value:.5f}",
    ),
    Claim(
        "B12",
        statement="1.17 % of weights > .01",
        definition="share of weights with |e| > 0.01",
        number=of_matrix_column("share_above_0.01"),
        rule=stated(0.0117, 0.00005, limit=possible_share(above=0.01)),
        reading="no error exceeds half a step",
    ),
    Claim(
        "B13",
        statement="62.3 % < .005",
        definition="share of weights with |e| ≥ 0.005 (stated: 1 − 0.623)",
        number=of_matrix_column("share_from_0.005"),
        rule=stated(0.377, 0.0005, limit=possible_share(above=0.005)),
        reading="all errors are below 0.005",
    ),
    Claim(
        "B14",
        statement="scale .00983",
        definition="scale",
        number=of_matrix_column("scale"),
        rule=stated(STATED_SCALE, 0.000005, limit=1 / 127),
        reading="weights within ±1 give at most 1/127 = 0.00787",
    ),
    Claim(
        "B15",
        statement='mean error ≈ .43 % "of dynamic range"',
        definition="mean |e| / max |w|",
        number=partial(over_absmax, column="mean_abs"),
        rule=stated(STATED_MEAN, 0.00005),
        reading="a quarter of 1/127",
    ),
    Claim(
        "B16",
        statement='extreme 1.2 % near "quantization boundary"',
        definition="max |e| / max |w|",
        number=partial(over_absmax, column="max_abs"),
        rule=stated(STATED_MAX, 0.0005, limit=HALF_STEP),
        reading="1/254 of the largest weight, and anywhere between two codes",
    ),
    Claim(
        "B17",
        statement="small weights (|w|<.5) have more error",
        definition="share of two definitions (mean |e|, mean |e|/|w|) by which |w| < 0.5 has over 5 % more error",
        number=small_err_more,
        rule=share_of_cases("it has"),
        reading="only relative to the weight; the absolute error is even",
    ),
    Claim(
        "B18",
        statement="large weights suffer from clamp beyond ±127",
        definition="weights of 512 beyond the last code",
        number=of_matrix_column("clipped"),
        rule=at_least(1),
        reading="with scale = max |w| / 127 nothing is ever clipped",
    ),
    Claim(
        "B21",
        statement='appendix code quantizes BF16 weights ("实际使用torch.bfloat16")',
        definition="share of the code's weights that are bf16 numbers",
        number=of_matrix_column("share_bf16"),
        rule=share_of_cases("the weight is unchanged by rounding to bf16"),
        reading="the code makes a float32 array",
    ),
    Claim(
        "B22",
        statement="the printed statistics come from this code",
        definition="share of the printed scale, maximum and mean that the code gives",
        number=printed_by_the_code,
        rule=share_of_cases("the number agrees to its last digit"),
        reading="the code never gave these numbers",
    ),
    Claim(
        "B80",
        statement="how far apart are bf16 and int8+scale for the same weights?",
        definition="rms error of bf16 / rms error of int8, both against float32",
        number=of_matrix_column("bf16_over_int8"),
        rule=at_most(0.1),
        reading="bf16 is no error-free reference: its own error is {value:.2f} of int8's on these weights",
    ),
)
